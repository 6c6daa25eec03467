/*
 * The floor that native tasks are measured against: each FILE of SQL in a DuckDB process of its own, one process after another.
 * A process opens DuckDB in memory with the settings that an attempt gets, runs its statements and exits. Prints the seconds
 * from the start of the first process to the end of the last.
 *
 *	engine_floor SCRATCH FILE…
 */
#include <duckdb.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static char *
read_text(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	if (f == NULL || getdelim(&text, &size, '\0', f) < 0) {
		fprintf(stderr, "engine_floor: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	fclose(f);
	return text;
}

/* What the child does; the kernel frees the engine's memory. */
static int
run_file(const char *scratch, const char *path)
{
	duckdb_config config;
	duckdb_database db;
	duckdb_connection con;
	duckdb_result res;
	char *why = NULL, *sql = read_text(path);

	duckdb_create_config(&config);
	duckdb_set_config(config, "allow_unsigned_extensions", "true");
	duckdb_set_config(config, "autoinstall_known_extensions", "false");
	duckdb_set_config(config, "temp_directory", scratch);
	if (duckdb_open_ext(NULL, &db, config, &why) == DuckDBError || duckdb_connect(db, &con) == DuckDBError) {
		fprintf(stderr, "engine_floor: DuckDB does not start: %s\n", why ? why : "unknown");
		return 1;
	}
	if (duckdb_query(con, sql, &res) == DuckDBError) {
		fprintf(stderr, "engine_floor: %s: %s\n", path, duckdb_result_error(&res));
		return 1;
	}
	return 0;
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
	double start;

	if (argc == 4 && strcmp(argv[1], "--one") == 0)
		_Exit(run_file(argv[2], argv[3]));
	if (argc < 3) {
		fprintf(stderr, "usage: engine_floor SCRATCH FILE...\n");
		return 2;
	}
	start = seconds();
	for (int i = 2; i < argc; i++) {
		char self[] = "/proc/self/exe", one[] = "--one", *args[] = { argv[0], one, argv[1], argv[i], NULL };
		pid_t pid;
		int status;

		if (posix_spawn(&pid, self, NULL, NULL, args, environ) != 0 || waitpid(pid, &status, 0) != pid || status != 0) {
			fprintf(stderr, "engine_floor: %s failed\n", argv[i]);
			return 1;
		}
	}
	printf("%.6f\n", seconds() - start);
	return 0;
}
