/*
 * Tables as /api/v1/tables gives them: finds pointers, reads the metadata they lead to (from memory where it is), and calls
 * back on the loop. browse.c answers what metadata tells; what needs the table's files is a query in a child.
 */
#ifndef API_CATALOG_BROWSE_H
#define API_CATALOG_BROWSE_H

#include "api/catalog/catalog_int.h"

struct browsed {
	char *ns, *name, *location;
	struct meta *meta; /* NULL: its file cannot be read, and `e` says why */
	char *text;        /* as read by the worker */
	size_t len;
	json_t *json;
	struct err e;
};

struct browse {
	struct work work;
	struct catalog *catalog;
	struct request *rq;
	struct browsed *tables;
	size_t count;
	bool one;  /* table was asked for */
	bool more; /* than the page takes */
	void (*done)(struct browse *b);
};

/*
 * The table that the path names ("stg.t", "local.stg.t"), with its metadata: calls `done`, which answers and need not free
 * anything. Answers itself when there is none (404 with the nearest name) or it cannot be read.
 */
void browse_table(struct request *rq, void (*done)(struct browse *b));
/* For browse_foreign.c: begins, ends (one of these), and answers that there is no such table among `names`. */
struct browse *browse_new(struct request *rq, void (*done)(struct browse *b));
void browse_done(struct browse *b);
void browse_free(struct browse *b);
void browse_none(struct browse *b, const char **names, size_t n);
/*
 * The same where another server keeps the catalog: asked by a child. foreign_change commits `change`, taken over, to the table
 * of `b` and answers as change_reply does.
 */
void foreign_table(struct browse *b);
void foreign_list(struct browse *b, const char *ns, const char *after, long limit);
void foreign_change(struct request *rq, const char *ns, const char *name, json_t *change);
/* "stg.t". The caller frees it. */
char *browse_name(const struct browsed *t);
/* The snapshot that `at` means, see base/table_at.h; NULL after a 404. Borrowed. */
const json_t *browse_at(struct browse *b, const char *at);

/* The ways in of browse_files.c. */
void table_files(struct request *rq);
void table_partitions(struct request *rq);
void table_manifests(struct request *rq);
void table_preview(struct request *rq);
void table_diff(struct request *rq);

/* health.c */
/* "stg.*" as LIKE has it. The caller frees it. */
char *health_like(const char *glob);
void tables_health(struct request *rq);
#define HEALTH_LIMIT 10000 /* tables that one child looks at */
/*
 * Looks at the first `limit` tables behind `cursor` that `match` means (both may be NULL: all); of them all, or with `largest` of
 * the largest alone, see tasks/health.c. The result is NULL with an error; all borrowed. `total` counts what `match` means behind
 * the cursor, and `next` is the cursor for what is beyond the limit.
 */
typedef void (*health_cb)(void *arg, json_t *result, json_int_t total, const char *next, struct err *e);
void health_survey(struct app *app, const char *match, const char *cursor, long limit, size_t largest, health_cb cb, void *arg);

/* The ways in of change.c. */
void table_rollback(struct request *rq);
void table_ref_put(struct request *rq);
void table_ref_delete(struct request *rq);

extern const struct route browse_routes[];
extern const size_t browse_routes_count;

#endif
