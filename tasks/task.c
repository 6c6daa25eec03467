/* An attempt's main: finds the type, opens the engine, runs, and reports why it failed. */
#include "tasks/task.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/fs.h"
#include "base/mask.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/engines/reads.h"
#include "tasks/iceberg/explain.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/rest.h"
#include "tasks/report.h"
#include "tasks/spent.h"

static const struct {
	const char *type;
	task_fn run;
} task_types[] = {
	{ "stage", stage_run },     { "publish", publish_run }, { "curate", curate_run },     { "validate", validate_run },
	{ "query", query_run },     { "diff", diff_run },       { "rebase", rebase_run },     { "cleanup", cleanup_run },
	{ "health", health_run },   { "browse", browse_run },   { "maintain", maintain_run }, { "export", export_run },
	{ "compare", compare_run },
};

int
task_preload(const char *libdir, char **why)
{
	return duck_preload(libdir, why);
}

void
task_warm(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct err e = ERR_INIT;

	rest_warm();
	for (size_t step = 0; poll(&p, 1, 0) == 0 && duck_warm(step); step++) {}
	if (poll(&p, 1, 0) == 0 && duck_warmed() && inspect_define(duck_warmed(), &e) < 0)
		err_release(&e);
}

const char *
spec_text(const struct context *cx, const char *name)
{
	return json_string_value(json_object_get(cx->spec, name));
}

const char *
doc_text(const struct context *cx, const char *name)
{
	return json_string_value(json_object_get(cx->doc, name));
}

int
task_fail(struct context *cx, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(&cx->err, code, fmt, ap);
	va_end(ap);
	return -1;
}

/* Line and column of a text of the spec; false when the loader noted none. */
static bool
task_place(const struct context *cx, const char *key, int *line, int *col)
{
	const json_t *at = json_object_get(json_object_get(cx->doc, "pos"), key);

	if (!json_is_array(at))
		return false;
	*line = (int)json_integer_value(json_array_get(at, 0));
	*col = (int)json_integer_value(json_array_get(at, 1));
	return true;
}

int
task_fail_at(struct context *cx, const char *key, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(&cx->err, ERR_UNPROCESSABLE, fmt, ap);
	va_end(ap);
	task_place(cx, key, &cx->line, &cx->col);
	return -1;
}

int
task_check_sql(struct context *cx, const char *key, const char *before, const char *text, const char *after)
{
	char *sql = xasprintf("%s%s%s", before, text, after);
	int line, col, first_line, first_col, rc;

	rc = duck_check(cx->db, sql, &line, &col, &cx->err);
	free(sql);
	if (rc == 0)
		return 0;
	if (task_place(cx, key, &first_line, &first_col)) {
		/* Our own words stand before the text's first line; later lines are indented as the first one is. */
		if (line == 1)
			col -= (int)strlen(before);
		cx->line = first_line + (line > 0 ? line - 1 : 0);
		cx->col = first_col + (col > 0 ? col - 1 : 0);
	}
	return -1;
}

int
task_table_name(struct context *cx, const char *name, char **ns, char **table)
{
	const char *catalog = json_string_value(json_object_get(json_object_get(cx->doc, "catalog"), "name")), *dot;
	size_t n = catalog ? strlen(catalog) : 0;

	if (n && strncmp(name, catalog, n) == 0 && name[n] == '.' && strchr(name + n + 1, '.'))
		name += n + 1;
	dot = strrchr(name, '.');
	if (dot == NULL || dot == name || dot[1] == '\0')
		return task_fail(cx, ERR_INVALID, "\"%s\" is not a table's name: write namespace.table or %s.namespace.table",
				 name, catalog ? catalog : "catalog");
	*ns = xstrndup(name, (size_t)(dot - name));
	*table = xstrdup(dot + 1);
	return 0;
}

/* Levenshtein distance, for names of ordinary length. */
static size_t
distance(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b), row[65];

	if (n > 64 || m > 64)
		return 99;
	for (size_t j = 0; j <= m; j++)
		row[j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);

			if (above + 1 < best)
				best = above + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
			diagonal = above;
		}
	}
	return row[m];
}

bool
task_has_name(const json_t *names, const char *name)
{
	json_t *it;
	size_t i;

	json_array_foreach (names, i, it)
		if (strcasecmp(json_string_value(it), name) == 0)
			return true;
	return false;
}

const char *
task_nearest(const json_t *names, const char *wanted)
{
	const char *best = NULL;
	size_t best_distance = strlen(wanted) / 2 + 1, i;
	json_t *item;

	json_array_foreach ((json_t *)(uintptr_t)names, i, item) {
		const char *name =
			json_is_object(item) ? json_string_value(json_object_get(item, "name")) : json_string_value(item);
		size_t d = name ? distance(name, wanted) : 99;

		if (d < best_distance) {
			best = name;
			best_distance = d;
		}
	}
	return best;
}

static void
task_report_error(struct context *cx)
{
	json_t *e;

	task_explain_store(cx);
	if (cx->hidden && cx->err.msg) {
		char *said = cx->err.msg;

		cx->err.msg = mask_text(cx->hidden, said);
		free(said);
	}
	e = json_pack("{s:s}", "message", cx->err.msg ? cx->err.msg : "it failed without a reason");

	if (e == NULL)
		e = json_pack("{s:s}", "message", "it failed; the reason is not valid UTF-8, see the log");
	if (cx->line) {
		json_object_set_new(e, "file", json_string(doc_text(cx, "file")));
		json_object_set_new(e, "line", json_integer(cx->line));
		json_object_set_new(e, "col", json_integer(cx->col));
	}
	if (cx->cause)
		json_object_set_new(e, "cause", json_string(cx->cause));
	if (cx->final)
		json_object_set_new(e, "final", json_true());
	report("error", e);
	if (cx->line)
		fprintf(stderr, "%s:%d:%d: ", doc_text(cx, "file"), cx->line, cx->col);
	fprintf(stderr, "error: %s\n", cx->err.msg ? cx->err.msg : "unknown");
}

/* What the engine read, but for what it had put aside itself. */
static void
task_report_reads(const struct context *cx)
{
	json_t *files = reads_files(), *bytes;
	const char *scratch = doc_text(cx, "scratch"), *kept = doc_text(cx, "kept"), *path;
	json_int_t sum = 0;

	json_object_foreach (files, path, bytes)
		if ((scratch == NULL || strncmp(path, scratch, strlen(scratch)) != 0) &&
		    (kept == NULL || strncmp(path, kept, strlen(kept)) != 0))
			sum += json_integer_value(bytes);
	report_metric("bytes_read", sum);
	json_decref(files);
}

/* ---- when the engine ends the process ---- */

static const struct context *running;
static duck_abort_fn abort_before;

/* The engine's extension reads manifests in threads of its own, where nobody takes an error: without this it were a signal 6. */
static void
on_abort(void)
{
	static atomic_flag once = ATOMIC_FLAG_INIT;
	struct context cx = { .doc = running->doc, .spec = running->spec };

	while (atomic_flag_test_and_set(&once)) /* another thread is at it */
		pause();
	if (duck_open(NULL, doc_text(&cx, "scratch"), &cx.db, &cx.err) == 0 && explain_abort(&cx)) {
		task_report_error(&cx);
		_exit(1);
	}
	abort_before();
}

/* ---- the end of the process ---- */

static pid_t leaving;

static int
memory_keeper(void *arg)
{
	(void)arg;
	close_range(0, ~0U, 0); /* whoever reads the report waits for its end */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == leaving)
		pause();
	_exit(0);
}

void
task_exit(int rc)
{
	static char stack[4096] __attribute__((aligned(16)));

	fflush(NULL);
	/*
	 * Freeing the engine's 60 MB takes the kernel 2 ms, for which everybody would wait who waits for our end. A process that
	 * shares our memory and dies of our death does it after that end was told.
	 */
	leaving = getpid();
	clone(memory_keeper, stack + sizeof(stack), CLONE_VM, NULL);
	_exit(rc);
}

int
task_main(const json_t *doc)
{
	struct context cx = { .doc = doc, .spec = json_object_get(doc, "spec") };
	const char *type = json_string_value(json_object_get(doc, "type"));
	enum spent part;
	int rc = -1;

	spent_start();
	reads_start();
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; type && i < sizeof(task_types) / sizeof(task_types[0]); i++) {
		if (strcmp(task_types[i].type, type) != 0)
			continue;
		part = spent_enter(SPENT_OPEN);
		rc = duck_open(json_object_get(doc, "engine_options"), doc_text(&cx, "scratch"), &cx.db, &cx.err);
		spent_leave(part);
		FAULT("task.begin");
		running = &cx;
		abort_before = duck_on_abort(on_abort);
		if (rc == 0)
			rc = task_types[i].run(&cx);
		if (rc < 0)
			explain_error(&cx);
		spent_report();
		task_report_reads(&cx);
		if (rc == 0 && report_failure()) /* what others rely on would be missing */
			rc = task_fail(&cx, ERR_IO, "what was done cannot be reported: %s", strerror(report_failure()));
		if (cx.cause == NULL && cx.err.msg && strstr(cx.err.msg, "Out of Memory Error"))
			cx.cause = "oom"; /* the engine kept to its memory_limit */
		if (rc < 0)
			task_report_error(&cx);
		FAULT("task.end");
		/* The process ends here: the kernel frees the engine's memory faster than it could itself. */
		return rc < 0 ? 1 : 0;
	}
	task_fail(&cx, ERR_UNSUPPORTED, "there is no native task of type \"%s\"", type ? type : "");
	task_report_error(&cx);
	return 1;
}
