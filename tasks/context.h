/* What every task type works with: the resolved document, the engine, and how to say what went wrong and where. */
#ifndef TASKS_CONTEXT_H
#define TASKS_CONTEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"

struct duck;
struct mask;
struct storage;

struct context {
	const json_t *doc, *spec; /* borrowed */
	struct duck *db;
	struct storage *storage; /* see task_storage */
	bool s3_given;           /* the engine has its keys, good until then (0: for ever) */
	wall_us s3_until;
	struct err err;
	int line, col;       /* where in the flow file, 0: unknown */
	const char *cause;   /* "conflict", "oom", or NULL */
	bool final;          /* another attempt would fail alike */
	struct mask *hidden; /* what no error may show; NULL: nothing */
	bool attached;       /* the catalog's tables can be read in SQL */
};

typedef int (*task_fn)(struct context *cx);

/* One row a task type. */
int stage_run(struct context *cx);
int publish_run(struct context *cx);
int curate_run(struct context *cx);
int validate_run(struct context *cx);
int query_run(struct context *cx);
int diff_run(struct context *cx);
int rebase_run(struct context *cx);
int cleanup_run(struct context *cx);
int health_run(struct context *cx);
int maintain_run(struct context *cx);
int browse_run(struct context *cx);
int export_run(struct context *cx);
int compare_run(struct context *cx);

/* Borrowed; NULL when absent or not a string. */
const char *spec_text(const struct context *cx, const char *name);
const char *doc_text(const struct context *cx, const char *name);
/* Sets the error and returns -1. */
int task_fail(struct context *cx, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As task_fail, with the place of a text of the spec ("sql", "checks/2/sql"). */
int task_fail_at(struct context *cx, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/*
 * Has the engine parse and bind `before` + the task's own text + `after`; an error is placed in the flow file by the text's
 * key. 0 or -1.
 */
int task_check_sql(struct context *cx, const char *key, const char *before, const char *text, const char *after);
/* "local.stg.t" or "stg.t" -> namespace "stg" and table "t" (both owned by the caller); -1 with the error set. */
int task_table_name(struct context *cx, const char *name, char **ns, char **table);
/* Is the name in a list of names, however its letters are written? */
bool task_has_name(const json_t *names, const char *name);
/* The nearest of a list of names, or NULL. */
const char *task_nearest(const json_t *names, const char *wanted);
/* Makes the folder that a file will lie in; an S3 store needs none. */
int task_make_parents(struct context *cx, const char *path);
/* A file:// or file:/ location as a path; anything else as it is. Borrowed from it. */
const char *strip_scheme(const char *location);
/*
 * What the engine reads and writes there: the local path of a "file://" URL or a plain path, or an s3:// location, for which it
 * gets its extension and its keys. NULL with the error set when it is something else. Borrowed.
 */
const char *task_path(struct context *cx, const char *what, const char *path);
/* Where the error is the engine's own about a file on the store: which store that is, and what to do. */
void task_explain_store(struct context *cx);
/* Made at first use, with the document's settings; NULL with the error set. */
struct storage *task_storage(struct context *cx);
/* Size of a file, here or on S3; -1 with the error set. */
int64_t task_file_size(struct context *cx, const char *path);
/* As far as possible: what stays behind is said in the log. */
void task_file_remove(struct context *cx, const char *path);
/* Does the pattern name a file? 1, 0, or -1 with the error set. */
int task_any_file(struct context *cx, const char *pattern);
/* ["a", "b"] as a SQL list of the files that `from`, a pattern or a list, names; a pattern that names none is an error. */
int task_file_list(struct context *cx, const json_t *from, struct buf *out);
/* Gives the engine the extension and the keys for S3, unless it has good ones. */
int task_s3(struct context *cx);
/* The same where the document has a store, for statements that find out themselves where files lie. */
int task_s3_if_any(struct context *cx);

#endif
