/*
 * DuckDB, embedded: libduckdb is mapped by dlopen in the nursery, so that a forked child starts warm. Only duckdb.c knows
 * its header.
 */
#ifndef TASKS_ENGINES_DUCKDB_H
#define TASKS_ENGINES_DUCKDB_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct duck;
struct duck_result;

/* Maps the library and pages its extensions in; see task_preload. */
int duck_preload(const char *libdir, char **why);

/*
 * Opens a database before it is known what for, in steps from 0 on; false when there is nothing left to do. The next duck_open
 * gets it.
 */
bool duck_warm(size_t step);
/* The database that was opened so, or NULL. Borrowed. */
struct duck *duck_warmed(void);

/* A database in memory, with memory_limit and threads from `options`, spilling to `scratch`. */
MUSTCHECK int duck_open(const json_t *options, const char *scratch, struct duck **out, struct err *e);
void duck_close(struct duck *db);
/* Loads avro, httpfs and iceberg; harmless twice. */
MUSTCHECK int duck_load_iceberg(struct duck *db, struct err *e);
/* Loads delta, which costs 30 ms and is mapped nowhere before; harmless twice. */
MUSTCHECK int duck_load_delta(struct duck *db, struct err *e);
/* Loads what reads and writes databases of another kind: postgres, sqlite or mysql; as duck_load_delta. */
MUSTCHECK int duck_load_scanner(struct duck *db, const char *format, struct err *e);

/* A second connection to the same database, for what is asked while a statement of the first is being bound; duck_close ends it.
 */
struct duck *duck_beside(struct duck *db, struct err *e);
/*
 * A function in SQL of `params` texts that gives a text: `fn` gets them (NULL for SQL NULL) and returns what it allocated, or
 * NULL with `e` set. It may be called while a statement is bound, and from any of the engine's threads.
 */
typedef char *(*duck_text_fn)(const char *const *args, struct err *e);
MUSTCHECK int duck_function(struct duck *db, const char *name, size_t params, duck_text_fn fn, struct err *e);

/* Statements without an answer. */
MUSTCHECK int duck_exec(struct duck *db, const char *sql, struct err *e);
MUSTCHECK int duck_execf(struct duck *db, struct err *e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* NULL with `e` set on failure. */
struct duck_result *duck_query(struct duck *db, const char *sql, struct err *e);
/*
 * The same, and how many rows the largest of its scans handed on, after the conditions that a scan itself applies. The statements
 * after it are measured, too.
 */
struct duck_result *duck_query_counted(struct duck *db, const char *sql, int64_t *scanned, struct err *e);
void duck_result_free(struct duck_result *r);
size_t duck_rows(const struct duck_result *r);
size_t duck_cols(const struct duck_result *r);
const char *duck_col_name(const struct duck_result *r, size_t col);
/* SQL's name of the column's type, without its parameters. */
const char *duck_col_type(const struct duck_result *r, size_t col);
/* The cell as text, NULL for SQL NULL; the caller frees it. */
char *duck_text(struct duck_result *r, size_t row, size_t col);
/* The cell as a JSON value by its column's type (numbers, booleans, text); the caller owns it. */
json_t *duck_json(struct duck_result *r, size_t row, size_t col);
int64_t duck_int(struct duck_result *r, size_t row, size_t col);
/* The first cell of an answer as a whole number; -1 with `e` set on failure. */
int64_t duck_count(struct duck *db, const char *sql, struct err *e);

/* All rows as a list of lists: numbers, booleans, text, lists, structs, and maps with text as keys; anything else is null. */
json_t *duck_query_json(struct duck *db, const char *sql, struct err *e);
/* Adds sluice_hash_bytes(BLOB), _number(BIGINT) and _decimal(HUGEINT), the hash behind Iceberg's buckets; harmless twice. */
MUSTCHECK int duck_add_hash(struct duck *db, struct err *e);

/* The tables that a statement names, as it names them: "local"."my ns".t, ns.t, t. Empty when it cannot be parsed. */
json_t *duck_tables_of(struct duck *db, const char *sql);
/*
 * An error in a thread of an extension ends the process. `fn` runs before that, in that thread; it may end the process itself, or
 * call what it replaced, which is returned.
 */
typedef void (*duck_abort_fn)(void);
duck_abort_fn duck_on_abort(duck_abort_fn fn);

/*
 * Parses and binds without running. On failure `line` and `col` (from 1) say where in `sql`, 0 when unknown, and the message
 * is the first sentence without the excerpt.
 */
MUSTCHECK int duck_check(struct duck *db, const char *sql, int *line, int *col, struct err *e);
/* [{name, type}] of a query's columns; NULL with `e` set on failure. The caller owns it. */
json_t *duck_describe(struct duck *db, const char *query, struct err *e);

#endif
