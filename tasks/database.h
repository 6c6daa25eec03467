/*
 * Databases of others, attached to the engine: PostgreSQL, MySQL and files of SQLite. One at a time; in SQL it is DATABASE_NAME.
 * What is secret of its address stands in no statement's error, and in none of ours.
 */
#ifndef TASKS_DATABASE_H
#define TASKS_DATABASE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buf.h"
#include "tasks/context.h"

#define DATABASE_NAME "sluice_db"

enum database_kind { DATABASE_POSTGRES, DATABASE_SQLITE, DATABASE_MYSQL };

struct database {
	enum database_kind kind;
	char *place;          /* "PostgreSQL at 127.0.0.1:5432, database crm", for people */
	char *schema, *table; /* of the table at hand; the schema of SQLite is NULL */
};

/* Is it the format of a database? */
bool database_format(const char *format);
/*
 * Attaches what `where`, the spec's object `key`, names by format and uri (sqlite: path). To read, everything after it is one
 * transaction, which sees one state. 0, or -1 with the error set.
 */
int database_open(struct context *cx, const char *key, const json_t *where, bool write, struct database *d);
void database_release(struct database *d);

/*
 * Finds the table that a text means, `schema.table` or `table`, and notes it: 1, 0 when there is none such (and it is noted how
 * it would be called), or -1 with the error set.
 */
int database_find(struct context *cx, struct database *d, const char *name);
/* Sets the error for a table that is not there, with the nearest name; returns -1. */
int database_missing(struct context *cx, struct database *d, const char *key, const char *name);
/* The table's name in our SQL, and in the server's own. */
void database_add_table(const struct database *d, struct buf *b);
void database_add_own_table(const struct database *d, struct buf *b);
/* A name as the server quotes it. */
void database_add_own_name(const struct database *d, struct buf *b, const char *name);
/* A call of the extension's that hands `sql` to the server: its rows, or nothing. */
void database_add_query(const struct database *d, struct buf *b, const char *sql);
int database_execute(struct context *cx, const struct database *d, const char *sql);

/*
 * `columns`, [{name, type}], are those of the table at hand, or of `query` where that is not NULL. Refuses what the engine would
 * give otherwise than it is; notes in `casts` (column -> type) what it gives as text only. 0 or -1 with the error set.
 */
int database_check_types(struct context *cx, const struct database *d, const char *key, const char *query, const json_t *columns,
			 json_t *casts);

/* Of what the engine says of a failed statement, what the server said: without the statement, which may hold many rows. The
 * caller frees it. */
char *database_words(const char *said);
/* After an error: was the server lost? Then it says so; else nothing is changed. */
void database_explain(struct context *cx, const struct database *d);

#endif
