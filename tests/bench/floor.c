/*
 * The bare floor that the scheduler is measured against: COUNT times in a row, start /bin/true, wait for its end, and commit
 * to PostgreSQL once before and once after it, as any orchestrator that never forgets a state must. No graph, no log files,
 * no API. Without a DSN the commits are left out. Prints the seconds it took.
 *
 *	floor COUNT [DSN]
 */
#include <libpq-fe.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static PGconn *db;

static void
check(PGresult *res, ExecStatusType want)
{
	if (PQresultStatus(res) != want) {
		fprintf(stderr, "floor: %s", PQerrorMessage(db));
		exit(1);
	}
	PQclear(res);
}

static void
open_database(const char *dsn)
{
	db = PQconnectdb(dsn);
	if (PQstatus(db) != CONNECTION_OK) {
		fprintf(stderr, "floor: %s", PQerrorMessage(db));
		exit(1);
	}
	/* A table as others: a temporary one would not have to reach the disk. */
	check(PQexec(db, "SET client_min_messages = warning"), PGRES_COMMAND_OK);
	check(PQexec(db, "DROP TABLE IF EXISTS sluice_bench_floor"), PGRES_COMMAND_OK);
	check(PQexec(db,
		     "CREATE TABLE sluice_bench_floor (id int PRIMARY KEY, state text NOT NULL, at timestamptz DEFAULT now())"),
	      PGRES_COMMAND_OK);
	check(PQprepare(db, "begin", "INSERT INTO sluice_bench_floor (id, state) VALUES ($1::text::int, 'running')", 1, NULL),
	      PGRES_COMMAND_OK);
	check(PQprepare(db, "end", "UPDATE sluice_bench_floor SET state = 'success', at = now() WHERE id = $1::text::int", 1,
			NULL),
	      PGRES_COMMAND_OK);
}

static void
commit(const char *statement, int id)
{
	char text[16];
	const char *values[] = { text };

	if (!db)
		return;
	snprintf(text, sizeof(text), "%d", id);
	check(PQexecPrepared(db, statement, 1, values, NULL, NULL, 0), PGRES_COMMAND_OK);
}

static double
seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	char path[] = "/bin/true";
	char *args[] = { path, NULL };
	int count = argc > 1 ? atoi(argv[1]) : 0;
	double start;

	if (count < 1 || argc > 3) {
		fprintf(stderr, "usage: floor COUNT [DSN]\n");
		return 2;
	}
	if (argc == 3)
		open_database(argv[2]);
	start = seconds();
	for (int i = 0; i < count; i++) {
		pid_t pid;
		int status;

		commit("begin", i);
		if (posix_spawn(&pid, path, NULL, NULL, args, environ) != 0 || waitpid(pid, &status, 0) != pid || status != 0) {
			fprintf(stderr, "floor: %s did not run\n", path);
			return 1;
		}
		commit("end", i);
	}
	printf("%.6f\n", seconds() - start);
	if (db) {
		check(PQexec(db, "DROP TABLE sluice_bench_floor"), PGRES_COMMAND_OK);
		PQfinish(db);
	}
	return 0;
}
