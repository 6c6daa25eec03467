/*
 * PostgreSQL, asynchronously: libpq in pipeline mode on the daemon's loop.
 *
 * Two connections. The writer carries every state transition: what is queued during one turn of the loop goes out as one
 * transaction (group commit), and after-commit effects run when it is durable. The reader answers single statements for
 * the API and the catalog, each its own transaction. A lost connection is reopened; queued writes are kept and sent again,
 * since each of them is idempotent; reads in flight fail with ERR_UNAVAILABLE.
 */
#ifndef SCHEDULER_STORE_H
#define SCHEDULER_STORE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "base/err.h"

struct store;

/* Rows of an answer; borrowed, valid during the callback only. */
struct rows;
size_t rows_count(const struct rows *r);
/* Text of a field, or NULL when it is SQL NULL. */
const char *rows_get(const struct rows *r, size_t row, size_t col);
/* A field of a json column, parsed; NULL for SQL NULL. The caller owns it. */
json_t *rows_json(const struct rows *r, size_t row, size_t col);
/* Rows that a statement without answer touched. */
size_t rows_affected(const struct rows *r);

/*
 * `r` is NULL when the statement failed; `e` then has code ERR_UNAVAILABLE (no connection), ERR_CONFLICT (unique or
 * serialization failure) or ERR_DB, and the server's text.
 */
typedef void (*store_rows_cb)(void *arg, const struct rows *r, struct err *e);
typedef void (*store_done_cb)(void *arg);

/* Opens both connections and brings the schema up to date; blocking, only while starting. NULL with `e` set on failure. */
struct store *store_open(uv_loop_t *loop, const char *dsn, struct err *e);
/* Closes at once; queued writes must have been flushed. Callbacks still waiting are dropped: those who asked are gone. */
void store_close(struct store *s);
bool store_connected(const struct store *s);
/*
 * `decide` is called at the end of every turn of the loop in which store_kick was called, before what was written is sent:
 * the one place where the scheduler decides, so that all transitions of a turn are one transaction. `chores` is called at the
 * end of every turn, after that: what it does costs no time of a run's, since PostgreSQL works meanwhile.
 */
void store_on_turn(struct store *s, store_done_cb decide, store_done_cb chores, void *arg);
void store_kick(struct store *s);
/* Nothing is queued or in flight on the writer. */
bool store_idle(const struct store *s);

/* One statement on the reader. Params are text (NULL is SQL NULL) and copied. `cb` may be NULL. */
void store_query(struct store *s, const char *sql, size_t nparams, const char *const *params, store_rows_cb cb, void *arg);
/* Joins this turn's transaction. Must be idempotent: it is sent again when the answer to a commit was lost. */
void store_write(struct store *s, const char *sql, size_t nparams, const char *const *params);
/* The same for a statement that answers: `cb` gets its rows, never NULL, when they are durable, after what store_after_commit
 * calls. */
void store_write_rows(struct store *s, const char *sql, size_t nparams, const char *const *params, store_rows_cb cb, void *arg);
/* Runs when everything written so far is durable, in order of registration. At once in the next turn if nothing is pending. */
void store_after_commit(struct store *s, store_done_cb cb, void *arg);

#endif
