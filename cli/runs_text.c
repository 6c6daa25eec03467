/* Runs as people name and read them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "cli/follow.h"
#include "cli/term.h"

#define LOG_TAIL  1500 /* bytes of a failed task's log */
#define LOG_LINES 8

void
print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	fputc('\n', stdout);
}

/* ---- which run ---- */

static char *
run_newest(struct client *c)
{
	json_t *list = NULL;
	const char *id;
	char *out = NULL;

	if (client_do(c, "GET", "/api/v1/runs?limit=1", NULL, &list) != EXIT_OK)
		return NULL;
	id = json_string_value(json_object_get(json_array_get(json_object_get(list, "items"), 0), "id"));
	if (id)
		out = xstrdup(id);
	else
		refuse("`sluice trigger FLOW` starts one", "there is no run yet");
	json_decref(list);
	return out;
}

/* Adds the runs of one page whose id begins with `text`; returns the next page's cursor, for the caller to free. */
static char *
matches_of_page(struct client *c, const char *text, const char *cursor, json_t *matches, bool *failed)
{
	json_t *list = NULL, *run;
	struct buf path = BUF_INIT;
	char *next = NULL;
	size_t i;

	buf_adds(&path, "/api/v1/runs?limit=500");
	if (cursor) {
		buf_adds(&path, "&cursor=");
		add_encoded(&path, cursor);
	}
	*failed = client_do(c, "GET", path.s, NULL, &list) != EXIT_OK;
	buf_release(&path);
	if (*failed)
		return NULL;
	json_array_foreach (json_object_get(list, "items"), i, run)
		if (strncmp(json_string_value(json_object_get(run, "id")), text, strlen(text)) == 0)
			json_array_append(matches, json_object_get(run, "id"));
	next = xstrdup_null(json_string_value(json_object_get(list, "next")));
	json_decref(list);
	return next;
}

static char *
run_by_prefix(struct client *c, const char *text)
{
	json_t *matches = json_array();
	char *cursor = NULL, *out = NULL;
	bool failed;

	do {
		char *next = matches_of_page(c, text, cursor, matches, &failed);

		free(cursor);
		cursor = next;
	} while (cursor && json_array_size(matches) < 2);
	free(cursor);
	if (failed)
		; /* said already */
	else if (json_array_size(matches) == 1)
		out = xstrdup(json_string_value(json_array_get(matches, 0)));
	else if (json_array_size(matches) == 0)
		refuse("`sluice runs` lists them", "there is no run %s", text);
	else
		refuse("give more of the id", "%s is the beginning of more than one run's id, such as %s and %s", text,
		       json_string_value(json_array_get(matches, 0)), json_string_value(json_array_get(matches, 1)));
	json_decref(matches);
	return out;
}

char *
run_resolve(struct client *c, const char *text)
{
	struct buf path = BUF_INIT;
	json_t *answer = NULL;
	char *out = NULL;
	int status;

	if (strcmp(text, "last") == 0)
		return run_newest(c);
	buf_adds(&path, "/api/v1/runs/");
	add_encoded(&path, text);
	status = *text ? client_call(c, "GET", path.s, NULL, &answer) : 404;
	buf_release(&path);
	if (status == 200)
		out = xstrdup(text);
	else if (status == 404)
		out = run_by_prefix(c, text);
	else if (status)
		client_refuse(status, answer);
	json_decref(answer);
	return out;
}

json_t *
trigger_body(const struct args *a)
{
	json_t *params = json_object(), *engines = json_object(), *body;
	const char *all = NULL;

	for (size_t i = 0; i < a->nparams; i++) {
		const char *eq = strchr(a->params[i], '=');

		if (eq == NULL || eq == a->params[i]) {
			refuse(NULL, "-p %s is not name=value", a->params[i]);
			goto fail;
		}
		json_object_setn_new(params, a->params[i], (size_t)(eq - a->params[i]), json_string(eq + 1));
		if (json_object_getn(params, a->params[i], (size_t)(eq - a->params[i])) == NULL) {
			refuse(NULL, "-p %s is not UTF-8 text", a->params[i]);
			goto fail;
		}
	}
	for (size_t i = 0; i < a->nengines; i++) {
		const char *eq = strchr(a->engines[i], '=');

		if (eq)
			json_object_setn_new(engines, a->engines[i], (size_t)(eq - a->engines[i]), json_string(eq + 1));
		else
			all = a->engines[i];
	}
	body = json_pack("{s:o}", "params", params);
	if (all && json_object_size(engines))
		json_object_set_new(engines, "*", json_string(all));
	if (json_object_size(engines))
		json_object_set(body, "engine", engines);
	else if (all)
		json_object_set_new(body, "engine", json_string(all));
	if (a->rehearse)
		json_object_set_new(body, "rehearsal", json_true());
	json_decref(engines);
	return body;
fail:
	json_decref(params);
	json_decref(engines);
	return NULL;
}

/* ---- what it did ---- */

long long
elapsed_us(const json_t *from, const json_t *to)
{
	wall_us a, b;

	if (!json_is_string(from) || time_parse(json_string_value(from), &a) < 0)
		return -1;
	if (!json_is_string(to) || time_parse(json_string_value(to), &b) < 0)
		b = clock_wall();
	return b > a ? b - a : 0;
}

static void
add_part(struct buf *out, long long n, const char *words)
{
	bool rows = strncmp(words, "rows ", 5) == 0;

	if (out->len)
		buf_adds(out, ", ");
	buf_addf(out, "%lld %s%s", n, rows && n == 1 ? "row " : "", rows && n == 1 ? words + 5 : words);
}

/* Of files that were there to read. */
static void
read_words(struct buf *out, const json_t *metrics)
{
	json_t *read = json_object_get(metrics, "bytes_read"), *all = json_object_get(metrics, "bytes_in");
	char some[32], whole[32];

	if (json_is_integer(read) && json_is_integer(all))
		buf_addf(out, "%s%s of %s read", out->len ? ", " : "", term_bytes(json_integer_value(read), some),
			 term_bytes(json_integer_value(all), whole));
}

static void
metric_words(struct buf *out, const json_t *metrics)
{
	static const struct {
		const char *key, *words;
	} names[] = { { "rows_in", "rows in" }, { "rows_out", "rows out" }, { "rows_rejected", "rejected" } };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		json_t *n = json_object_get(metrics, names[i].key);

		if (json_is_integer(n) && (i < 2 || json_integer_value(n) > 0))
			add_part(out, json_integer_value(n), names[i].words);
	}
	read_words(out, metrics);
}

static void
check_words(struct buf *out, const json_t *checks)
{
	size_t passed = 0, i;
	json_t *check;

	if (json_array_size(checks) == 0)
		return;
	json_array_foreach (checks, i, check)
		passed += json_is_true(json_object_get(check, "passed"));
	buf_addf(out, "%s%zu of %zu checks passed", out->len ? ", " : "", passed, json_array_size(checks));
}

static void
progress_words(struct buf *out, const json_t *progress)
{
	json_t *done = json_object_get(progress, "done"), *total = json_object_get(progress, "total");
	const char *message = json_string_value(json_object_get(progress, "message"));

	if (json_is_number(done) && json_is_number(total))
		buf_addf(out, "%.0f of %.0f", json_number_value(done), json_number_value(total));
	else if (json_is_number(done))
		buf_addf(out, "%.0f", json_number_value(done));
	if (message)
		buf_addf(out, "%s%s", out->len ? " " : "", message);
}

void
task_words(struct buf *out, const json_t *task)
{
	json_t *attempts = json_object_get(task, "attempts"), *last = json_array_get(attempts, json_array_size(attempts) - 1);
	const char *error = json_string_value(json_object_get(task, "error")),
		   *state = json_string_value(json_object_get(task, "state"));
	json_t *tables = json_object_get(last, "tables"), *table;
	size_t n = json_array_size(attempts), i;

	if (n > 1)
		buf_addf(out, "attempt %zu", n);
	if (error && state && strcmp(state, "success") != 0) {
		buf_addf(out, "%s%s", out->len ? ": " : "", error);
		return;
	}
	if (state && strcmp(state, "running") == 0) {
		struct buf progress = BUF_INIT;

		progress_words(&progress, json_object_get(task, "progress"));
		buf_addf(out, "%s%s", out->len && progress.len ? ": " : "", progress.s);
		buf_release(&progress);
		return;
	}
	metric_words(out, json_object_get(last, "metrics"));
	check_words(out, json_object_get(last, "checks"));
	json_array_foreach (tables, i, table) {
		const char *name = json_string_value(json_object_get(table, "table"));

		if (name)
			buf_addf(out, "%s-> %s", out->len ? " " : "", name);
	}
}

/* ---- why it failed ---- */

static int
on_log(void *arg, const char *data, size_t len)
{
	struct buf *b = arg;

	buf_add(b, data, len);
	return 0;
}

static bool
is_program(const char *type)
{
	return type && (strcmp(type, "command") == 0 || strcmp(type, "python") == 0);
}

/* The last lines of a task's log: what a program printed before it ended. */
static void
print_log_end(FILE *f, struct client *c, const char *run, const char *task)
{
	struct buf path = BUF_INIT, text = BUF_INIT_MAX(1024 * 1024);
	char *from, *range = xasprintf("Range: bytes=-%d", LOG_TAIL);
	int status, lines = 0;

	buf_addf(&path, "/api/v1/runs/%s/tasks/", run);
	add_encoded(&path, task);
	buf_adds(&path, "/logs");
	client_header(c, range);
	status = client_stream(c, path.s, "text/plain", on_log, &text);
	client_header(c, NULL);
	free(range);
	while (text.len && (text.s[text.len - 1] == '\n' || text.s[text.len - 1] == ' '))
		text.s[--text.len] = '\0';
	if ((status == 200 || status == 206) && text.len) {
		from = text.s + text.len;
		while (from > text.s && (from[-1] != '\n' || ++lines < LOG_LINES))
			from--;
		if (from == text.s && status == 206 && text.len >= LOG_TAIL - 2 && strchr(from, '\n'))
			from = strchr(from, '\n') + 1; /* the first line may be half a line */
		fprintf(f, "%sits log ends:%s\n", term_dim(f), term_off(f));
		for (char *save, *line = strtok_r(from, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
			fprintf(f, "  %s\n", line);
	}
	buf_release(&path);
	buf_release(&text);
}

void
print_failures(FILE *f, struct client *c, const json_t *run)
{
	json_t *task;
	size_t i;

	json_array_foreach (json_object_get(run, "tasks"), i, task) {
		json_t *attempts = json_object_get(task, "attempts"),
		       *last = json_array_get(attempts, json_array_size(attempts) - 1);
		json_t *error = json_object_get(last, "error");
		const char *state = json_string_value(json_object_get(task, "state")),
			   *id = json_string_value(json_object_get(task, "id"));
		const char *file = json_string_value(json_object_get(error, "file")),
			   *message = json_string_value(json_object_get(error, "message"));
		const char *own = json_string_value(json_object_get(task, "error"));
		long long line = json_integer_value(json_object_get(error, "line")),
			  col = json_integer_value(json_object_get(error, "col"));

		if (state == NULL ||
		    (strcmp(state, "failed") != 0 && strcmp(state, "timed_out") != 0 && strcmp(state, "lost") != 0))
			continue;
		if (message == NULL)
			message = own ? own : state;
		if (file && line)
			fprintf(f, "%s:%lld:%lld: ", file, line, col ? col : 1);
		else if (file)
			fprintf(f, "%s: ", file);
		fprintf(f, "%s%s%s: %s\n", term_state(f, "failed"), id, term_off(f), message);
		if (is_program(json_string_value(json_object_get(task, "type"))))
			print_log_end(f, c, json_string_value(json_object_get(run, "id")), id);
	}
}
