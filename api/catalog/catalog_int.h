/* What the catalog's files share. All of it runs on the loop, but for what warehouse.c does in a worker thread. */
#ifndef API_CATALOG_CATALOG_INT_H
#define API_CATALOG_CATALOG_INT_H

#include <uthash.h>

#include "api/catalog/catalog.h"
#include "api/http.h"
#include "base/list.h"
#include "scheduler/work.h"
#include "storage/storage.h"

/* Metadata that was read or written: a file that never changes. Counted; json is not changed by anybody. */
struct meta {
	unsigned refs;
	char *location;
	char *text; /* as in the file */
	size_t len;
	json_t *json;
	struct list lru;
	UT_hash_handle hh;
};

/* Where a table stood after our last commit to it: most likely it still does. */
struct pointer {
	char *key, *location;
	UT_hash_handle hh;
};

struct catalog {
	unsigned refs; /* the daemon's, and one for each request under way */
	struct app *app;
	char *name;
	char *warehouse;     /* a URI or a path, without a final slash */
	bool closing;        /* ask the store nothing any more */
	struct meta *cached; /* by location */
	struct list lru;     /* least recently used first */
	size_t bytes;
	bool used;          /* the cache, since the alarm was set */
	struct alarm *idle; /* while there is something in it */
	struct list jobs;   /* commits, see commit.c */
	struct list swaps;
	bool swapping; /* some are under way */
	struct pointer *pointers;
	struct cleanup *cleanup;
	struct gauges *gauges;
};

/* The numbers of tables for /metrics (gauges.c). */
struct gauges *gauges_new(struct catalog *c);
void gauges_free(struct gauges *g);

struct catalog *catalog_ref(struct catalog *c);
void catalog_unref(struct catalog *c);

/* ---- metadata in memory (catalog.c) ---- */

/* The caller's reference, or NULL. */
struct meta *meta_cached(struct catalog *c, const char *location);
/* Takes text and json over; kept by nobody else. */
struct meta *meta_new(const char *location, char *text, size_t len, json_t *json);
/* Takes text and json over; returns a reference for the caller and keeps one, while there is room. */
struct meta *meta_keep(struct catalog *c, const char *location, char *text, size_t len, json_t *json);
struct meta *meta_ref(struct meta *m);
void meta_unref(struct meta *m);

/* ---- where tables stood (catalog.c) ---- */

/* Borrowed; NULL when it is not known. */
const char *pointer_known(struct catalog *c, bool view, const char *ns, const char *name);
/* `location` NULL: forget it. */
void pointer_keep(struct catalog *c, bool view, const char *ns, const char *name, const char *location);

/* ---- names and answers (catalog.c) ---- */

/* A namespace as PostgreSQL has it: levels joined by dots. Both return NULL with ERR_INVALID; the caller frees the result. */
char *namespace_of_param(const char *param, struct err *e);
char *namespace_of_json(const json_t *levels, struct err *e);
json_t *namespace_json(const char *ns);
/* As the column iceberg_type has it. */
const char *kind_name(bool view);
MUSTCHECK int table_name_check(const char *name, struct err *e);

/* The specification's error model; `type` is the name of the exception that clients know. */
void catalog_reply_error(struct request *rq, int status, const char *type, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* The same from an error; releases it. */
void catalog_reply_err(struct request *rq, struct err *e);
void catalog_reply_no_namespace(struct request *rq, const char *ns);
void catalog_reply_no_table(struct request *rq, const char *ns, const char *name);
void catalog_reply_none(struct request *rq, bool view, const char *ns, const char *name);
/* The body, or NULL after an answer was given. */
json_t *catalog_body(struct request *rq);
/* Ad hoc queries may only read. Answers itself when not. */
bool catalog_may_write(struct request *rq);

/* Who writes, as parameters of a statement: run, task, number; all NULL for a person's token. */
struct fence {
	char *text;
	const char *part[3];
};
void fence_init(struct fence *f, const char *attempt);
void fence_release(struct fence *f);
/*
 * Common table expressions: `fence.yes` tells whether the attempt (parameters run, task, n) is still current, and if so its
 * row is locked until this statement is committed, so that nobody can give it up in between.
 */
#define SQL_FENCE(run, task, n)                                                                                                  \
	"alive AS (SELECT 1 FROM sluice.attempts WHERE run_id = " run " AND task_id = " task " AND n = " n                       \
	"::int AND state = 'running' FOR SHARE), fence AS (SELECT " run "::text IS NULL OR EXISTS (SELECT 1 FROM alive) AS yes)"
void catalog_reply_fenced(struct request *rq);

/* Does namespace `ns` exist in catalog `name`? It does when it has a property or a table, itself or below. */
#define SQL_NAMESPACE_EXISTS(name, ns)                                                                                           \
	"(EXISTS (SELECT 1 FROM iceberg_namespace_properties p WHERE p.catalog_name = " name " AND (p.namespace = " ns           \
	" OR starts_with(p.namespace, " ns " || '.'))) OR EXISTS (SELECT 1 FROM iceberg_tables q WHERE q.catalog_name = " name   \
	" AND (q.table_namespace = " ns " OR starts_with(q.table_namespace, " ns " || '.'))))"
#define SQL_KIND(type) "coalesce(iceberg_type, 'TABLE') = " type
/* A location in the spelling that tasks/folder.h has: file:// and doubled slashes are gone, s3a is s3. */
#define SQL_SPELLED(l)                                                                                                           \
	"regexp_replace(regexp_replace(regexp_replace(" l ", '^s3[an]://', 's3://'), '^file:/+', '/'), '([^:])/+', '\\1/', 'g')"
#define SQL_IS_TABLE "(iceberg_type IS NULL OR iceberg_type = 'TABLE')"

/* A request that waits for the store; freed by ask_done. */
struct ask {
	struct catalog *catalog;
	struct request *rq;
	char *ns, *name; /* owned, may be NULL */
	char *to;        /* the namespace that a table goes to, or its location; the same */
	bool view;       /* not a table */
	bool flag;       /* the handler's own */
	long limit;
};
struct ask *ask_new(struct request *rq, char *ns, char *name);
void ask_done(struct ask *a);

/* ---- files: blocking, for worker threads (warehouse.c) ---- */

/* `s3` as storage_new takes it. Before anything else here. */
MUSTCHECK int warehouse_open(const json_t *s3, struct err *e);
struct storage *warehouse_storage(void);
MUSTCHECK int warehouse_read(const char *location, char **text, size_t *len, json_t **json, struct err *e);
/* A file that is not there yet, on disk when this returns. */
MUSTCHECK int warehouse_write(const char *location, const char *text, size_t len, struct err *e);
/* A table's folder with data/ and metadata/, which DuckDB expects to exist. */
MUSTCHECK int warehouse_make_table(const char *location, struct err *e);
/* Is there something in a folder that a new table would share? */
bool warehouse_in_use(const char *location);
/* One file; that it is gone already is no trouble. */
void warehouse_remove(const char *location);
/* Do both name the same place: file:///x and /x, s3://b and s3a://b/? */
bool warehouse_same(const char *a, const char *b);
/* Removes a table's folder, if it lies inside the warehouse. */
void warehouse_purge(const char *warehouse, const char *table_location);

/* compare.c: for sched_on_shadowed; `arg` is the catalog. */
void compare_shadow(void *arg, const char *run, const char *shadow);
/* rebase.c: for sched_on_moved; `arg` is the catalog. */
void catalog_rebase(void *arg, const json_t *tables, sched_rebased_cb cb, void *cb_arg);

/* cleanup.c: from now on, until it is freed. */
struct cleanup *cleanup_new(struct catalog *catalog);
void cleanup_free(struct cleanup *c);

/* ---- what clients need to reach files (access.c) ---- */

/*
 * For a table at `location`: `config` gets properties of the client's file access, `credentials` one object {prefix, config} for
 * each place that needs a secret; both stay empty on local files. `delegation` is what the client asks for (the header
 * X-Iceberg-Access-Delegation), NULL when it brings its own.
 */
void access_grant(const struct catalog *c, const char *location, const char *delegation, json_t *config, json_t *credentials);
/* Must keys be fetched first? The two others block nobody, so they give what is at hand. */
bool access_must_wait(const char *location, const char *delegation);
/* Has it done in a worker thread, and calls `then` when it is over, well or not. */
void access_wait(struct catalog *c, void (*then)(void *arg), void *arg);
/* `,"config":{…}` and, if there are any, `,"storage-credentials":[…]`, as the end of an answer with a table. */
void access_add(struct buf *b, struct request *rq, const char *location);

/* ---- the ways in (namespaces.c, tables.c, commit.c, access.c, reports.c, oauth.c) ---- */

/* The namespace and table (or view) of the path; answers 404 itself and returns NULL when there can be no such thing. */
struct ask *ask_table(struct request *rq);
struct ask *ask_view(struct request *rq);
/* Which part of a list is asked for. */
struct page {
	const char *token; /* what comes after this; "" from the start */
	long limit;        /* how many at once; all without a token, as the specification has it */
	char text[32];
	const char *param; /* one more than that as a parameter of LIMIT, to see whether there is more; NULL: all */
};
/* Answers 400 itself and returns false. */
bool page_init(struct page *p, struct request *rq);
void access_credentials(struct request *rq);
void reports_take(struct request *rq);
void maintenance_look(struct request *rq);
void oauth_tokens(struct request *rq);

void namespaces_list(struct request *rq);
void namespaces_create(struct request *rq);
void namespaces_load(struct request *rq);
void namespaces_drop(struct request *rq);
void namespaces_properties(struct request *rq);
void tables_list(struct request *rq);
void tables_load(struct request *rq);
void tables_drop(struct request *rq);
void tables_rename(struct request *rq);
void views_list(struct request *rq);
void views_load(struct request *rq);
void views_drop(struct request *rq);
void views_rename(struct request *rq);
void views_create(struct request *rq);
void views_register(struct request *rq);
void views_replace(struct request *rq);
void tables_create(struct request *rq);
void tables_register(struct request *rq);
void tables_commit(struct request *rq);
void transactions_commit(struct request *rq);
/* Commits {requirements, updates}, taken over, to one table for a request of /api/v1, which is answered by change.c. */
void tables_change(struct request *rq, const char *ns, const char *name, json_t *change);
/* Did the request come by /api/v1, so that its answer is in that API's words? */
bool change_asked(const struct request *rq);
void change_reply(struct request *rq, const struct meta *m);
void change_reply_error(struct request *rq, int status, const char *message);
/* Answers with a table: {"metadata-location", "metadata"} and with `config` what a client needs to load it. */
void tables_reply(struct request *rq, struct meta *m, bool config);

#endif
