#include "scheduler/store/start.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/store/migrations.h"

int
start_exec(PGconn *pg, const char *sql, struct err *e)
{
	PGresult *res = PQexec(pg, sql);
	ExecStatusType st = PQresultStatus(res);
	int rc = 0;

	if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK)
		rc = err_set(e, ERR_DB, "%s", PQerrorMessage(pg));
	PQclear(res);
	return rc;
}

int
start_migrate(PGconn *pg, struct err *e)
{
	PGresult *res;
	int have;

	if (start_exec(pg,
		       "SET client_min_messages = warning;"
		       "CREATE SCHEMA IF NOT EXISTS sluice;"
		       "CREATE TABLE IF NOT EXISTS sluice.migrations (step int PRIMARY KEY, applied_at timestamptz NOT NULL "
		       "DEFAULT now())",
		       e) < 0)
		return e->code;
	res = PQexec(pg, "SELECT coalesce(max(step), 0) FROM sluice.migrations");
	have = PQresultStatus(res) == PGRES_TUPLES_OK ? atoi(PQgetvalue(res, 0, 0)) : -1;
	PQclear(res);
	if (have < 0)
		return err_set(e, ERR_DB, "%s", PQerrorMessage(pg));
	if (have > migrations_count)
		return err_set(e, ERR_UNSUPPORTED,
			       "this database was last used by a newer version (schema step %d, this version knows %d); start "
			       "that version or a newer one",
			       have, migrations_count);
	for (int i = have; i < migrations_count; i++) {
		char *sql = xasprintf("BEGIN; %s INSERT INTO sluice.migrations(step) VALUES (%d); COMMIT", migrations[i], i + 1);
		int rc = start_exec(pg, sql, e);

		free(sql);
		if (rc < 0) {
			err_prefix(e, "schema step %d", i + 1);
			return rc;
		}
	}
	return 0;
}

PGconn *
start_connect(const char *dsn, struct err *e)
{
	/* The bound is ours unless the DSN has its own. */
	PGconn *pg = PQconnectdbParams((const char *const[]){ "connect_timeout", "dbname", NULL },
				       (const char *const[]){ "10", dsn, NULL }, 1);

	if (PQstatus(pg) != CONNECTION_OK) {
		char *msg = xstrdup(PQerrorMessage(pg));

		msg[strcspn(msg, "\n")] = '\0';
		err_set(e, ERR_UNAVAILABLE, "the database cannot be reached: %s", msg);
		free(msg);
		PQfinish(pg);
		return NULL;
	}
	if (PQserverVersion(pg) < 130000) {
		err_set(e, ERR_UNSUPPORTED, "PostgreSQL %d is not supported: version 13 or newer is needed",
			PQserverVersion(pg) / 10000);
		PQfinish(pg);
		return NULL;
	}
	return pg;
}
