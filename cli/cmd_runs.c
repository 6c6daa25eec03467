/* Runs of the daemon's flows: trigger, list, show, logs, cancel. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "cli/follow.h"
#include "cli/term.h"
#include "flows/suggest.h"

#define RUNS_DEFAULT 20
#define PAGE_MAX     500

/* ---- trigger ---- */

/* A mistyped name is worth a second question. */
static void
suggest_flow(struct client *c, const char *name)
{
	json_t *list = NULL, *flow;
	const char **names, *near;
	size_t i, n = 0;

	if (client_call(c, "GET", "/api/v1/flows", NULL, &list) == 200) {
		names = xcalloc(json_array_size(json_object_get(list, "items")) + 1, sizeof(*names));
		json_array_foreach (json_object_get(list, "items"), i, flow)
			names[n++] = text_of(flow, "id");
		near = suggest(name, names, n);
		if (near)
			fprintf(stderr, "did you mean %s?\n", near);
		else
			fputs("`sluice flows` lists them; `sluice run FILE` runs a file that is in no flows folder\n", stderr);
		free(names);
	}
	json_decref(list);
}

static int
trigger_post(struct client *c, const struct args *a, json_t **run)
{
	json_t *body = trigger_body(a);
	struct buf path = BUF_INIT;
	int status, rc = EXIT_REFUSED;

	if (body == NULL)
		return EXIT_REFUSED;
	if (a->key) {
		char *header;

		if (a->key[0] == '\0' || strpbrk(a->key, "\r\n")) {
			json_decref(body);
			return refuse(NULL, "--key needs a text of one line");
		}
		header = xasprintf("Idempotency-Key: %s", a->key);
		client_header(c, header);
		free(header);
	}
	buf_adds(&path, "/api/v1/flows/");
	add_encoded(&path, a->operands[0]);
	buf_adds(&path, "/runs");
	status = client_call(c, "POST", path.s, body, run);
	client_header(c, NULL);
	if (status == 200 || status == 201)
		rc = EXIT_OK;
	else if (status)
		client_refuse(status, *run);
	if (status == 404)
		suggest_flow(c, a->operands[0]);
	buf_release(&path);
	return rc;
}

int
cmd_trigger(const struct args *a)
{
	struct client *c = client_open(a);
	struct follow f = { .client = c, .quiet = a->quiet };
	json_t *run = NULL, *ended = NULL;
	int rc = trigger_post(c, a, &run);

	if (rc == EXIT_OK && !a->json) {
		puts(text_of(run, "id"));
		fflush(stdout);
	}
	if (rc == EXIT_OK && a->wait) {
		rc = follow_run(&f, text_of(run, "id"), &ended);
		if (ended && a->json)
			print_json(ended);
	} else if (rc == EXIT_OK && a->json) {
		print_json(run);
	}
	json_decref(run);
	json_decref(ended);
	client_close(c);
	return rc;
}

/* ---- list ---- */

/* Adds one page's items; returns the exit status and the next cursor, for the caller to free. */
static int
runs_page(struct client *c, const struct args *a, long limit, char **cursor, json_t *items)
{
	struct buf path = BUF_INIT;
	json_t *page = NULL;
	int rc;

	buf_addf(&path, "/api/v1/runs?limit=%ld", limit < PAGE_MAX ? limit : PAGE_MAX);
	if (a->count) {
		buf_adds(&path, "&flow=");
		add_encoded(&path, a->operands[0]);
	}
	if (a->state) {
		buf_adds(&path, "&state=");
		add_encoded(&path, a->state);
	}
	if (*cursor) {
		buf_adds(&path, "&cursor=");
		add_encoded(&path, *cursor);
	}
	free(*cursor);
	*cursor = NULL;
	rc = client_do(c, "GET", path.s, NULL, &page);
	if (rc == EXIT_OK) {
		json_array_extend(items, json_object_get(page, "items"));
		*cursor = xstrdup_null(json_string_value(json_object_get(page, "next")));
	}
	json_decref(page);
	buf_release(&path);
	return rc;
}

static void
runs_table(const json_t *items)
{
	static const char *const headers[] = { "RUN", "FLOW", "STATE", "TRIGGER", "CREATED", "TOOK" };
	json_t *rows = json_array(), *run;
	size_t i;

	json_array_foreach (items, i, run) {
		long long us = elapsed_us(json_object_get(run, "started_at"), json_object_get(run, "ended_at"));
		char when[40], took[24];

		json_array_append_new(rows,
				      json_pack("[s,s,s,s,s,s]", text_of(run, "id"), text_of(run, "flow"), text_of(run, "state"),
						text_of(run, "trigger"), term_when(text_of(run, "created_at"), when),
						us < 0 ? "" : term_duration(us, took)));
	}
	if (json_array_size(rows))
		term_table(stdout, headers, 6, rows, "lllllr");
	else
		fputs("no runs\n", stderr);
	json_decref(rows);
}

int
cmd_runs(const struct args *a)
{
	json_t *items = json_array();
	struct client *c;
	char *cursor = NULL, *end = NULL;
	long limit = a->limit_text ? strtol(a->limit_text, &end, 10) : RUNS_DEFAULT;
	int rc;

	if ((end && *end) || limit < 1 || limit > 1000000) {
		json_decref(items);
		return refuse(NULL, "--limit %s is not a whole number from 1 to 1000000", a->limit_text);
	}
	c = client_open(a);
	do
		rc = runs_page(c, a, limit - (long)json_array_size(items), &cursor, items);
	while (rc == EXIT_OK && cursor && (long)json_array_size(items) < limit);
	if (rc == EXIT_OK && a->json) {
		json_t *all = json_pack("{s:O,s:s?}", "items", items, "next", cursor);

		print_json(all);
		json_decref(all);
	} else if (rc == EXIT_OK) {
		runs_table(items);
	}
	free(cursor);
	json_decref(items);
	client_close(c);
	return rc;
}

/* ---- show ---- */

static int
run_get(struct client *c, const char *name, json_t **run)
{
	char *id = run_resolve(c, name), *path;
	int rc;

	if (id == NULL)
		return EXIT_REFUSED;
	path = xasprintf("/api/v1/runs/%s", id);
	rc = client_do(c, "GET", path, NULL, run);
	free(path);
	free(id);
	return rc;
}

static void
show_tasks(const json_t *tasks)
{
	static const char *const headers[] = { "TASK", "TYPE", "STATE", "TRIES", "TOOK", "" };
	json_t *rows = json_array(), *task;
	size_t i;

	json_array_foreach (tasks, i, task) {
		long long us = elapsed_us(json_object_get(task, "started_at"), json_object_get(task, "ended_at"));
		struct buf words = BUF_INIT;
		char took[24], tries[16];

		snprintf(tries, sizeof(tries), "%zu", json_array_size(json_object_get(task, "attempts")));
		task_words(&words, task);
		json_array_append_new(rows, json_pack("[s,s,s,s,s,s]", text_of(task, "id"), text_of(task, "type"),
						      text_of(task, "state"), tries, us < 0 ? "" : term_duration(us, took),
						      json_object_get(task, "error") && *text_of(task, "error") ? "" : words.s));
		buf_release(&words);
	}
	term_table(stdout, headers, 6, rows, "lllrrl");
	json_decref(rows);
}

/* The attempts of what was tried more than once: each says how it ended. */
static void
show_attempts(const json_t *tasks)
{
	json_t *task, *attempt;
	size_t i, k;

	json_array_foreach (tasks, i, task) {
		json_t *attempts = json_object_get(task, "attempts");

		if (json_array_size(attempts) < 2)
			continue;
		json_array_foreach (attempts, k, attempt) {
			long long us = elapsed_us(json_object_get(attempt, "started_at"), json_object_get(attempt, "ended_at"));
			json_t *code = json_object_get(attempt, "exit_code"), *sig = json_object_get(attempt, "signal");
			const char *message = text_of(json_object_get(attempt, "error"), "message");
			char took[24], how[40] = "";

			if (json_is_integer(sig))
				snprintf(how, sizeof(how), ", signal %d", (int)json_integer_value(sig));
			else if (json_is_integer(code))
				snprintf(how, sizeof(how), ", exit status %d", (int)json_integer_value(code));
			printf("%s, attempt %d: %s%s%s%s%s%s\n", text_of(task, "id"),
			       (int)json_integer_value(json_object_get(attempt, "n")), text_of(attempt, "state"),
			       us < 0 ? "" : " after ", us < 0 ? "" : term_duration(us, took), how,
			       *message && !strstr(how, message) ? ": " : "", strstr(how, message) ? "" : message);
		}
	}
}

/* That what it wrote was taken back. */
static void
show_undone(const json_t *undone)
{
	char *words;

	if (!json_is_object(undone))
		return;
	words = undone_words(text_of(undone, "at"), text_of(undone, "by"));
	printf("%s%s\n", words, json_is_true(json_object_get(undone, "whole")) ? "" : ", but not all of it: see its tables");
	free(words);
}

static int
show_text(struct client *c, const json_t *run)
{
	const json_t *params = json_object_get(run, "params"), *tasks = json_object_get(run, "tasks");
	const char *state = text_of(run, "state");
	char when[40], took[24];
	long long us = elapsed_us(json_object_get(run, "started_at"), json_object_get(run, "ended_at"));

	printf("run %s%s%s of %s: %s%s%s%s%s\n", term_bold(stdout), text_of(run, "id"), term_off(stdout), text_of(run, "flow"),
	       term_state(stdout, state), state, term_off(stdout),
	       us < 0                                           ? ""
	       : json_is_null(json_object_get(run, "ended_at")) ? ", for "
								: " in ",
	       us < 0 ? "" : term_duration(us, took));
	printf("started by %s, %s", text_of(run, "trigger"), term_when(text_of(run, "created_at"), when));
	if (*text_of(run, "scheduled_for"))
		printf(", scheduled for %s", text_of(run, "scheduled_for"));
	putchar('\n');
	if (json_object_size(params)) {
		char *text = json_dumps(params, JSON_SORT_KEYS);

		printf("params %s\n", text);
		free(text);
	}
	show_undone(json_object_get(run, "undone"));
	if (text_or_null(run, "shadow_of"))
		printf("the shadow of run %s: nothing that it writes to tables becomes visible\n", text_of(run, "shadow_of"));
	else if (json_is_true(json_object_get(run, "rehearsal")))
		puts("a rehearsal: nothing that it writes to tables becomes visible");
	if (*text_of(run, "error"))
		printf("%s\n", text_of(run, "error"));
	putchar('\n');
	show_tasks(tasks);
	show_attempts(tasks);
	print_failures(stdout, c, run);
	return print_written(stdout, c, text_of(run, "id"));
}

int
cmd_show(const struct args *a)
{
	struct client *c = client_open(a);
	json_t *run = NULL;
	int rc = run_get(c, a->operands[0], &run);

	if (rc == EXIT_OK && a->json)
		print_json(run);
	else if (rc == EXIT_OK)
		rc = show_text(c, run);
	json_decref(run);
	client_close(c);
	return rc;
}

int
cmd_undo(const struct args *a)
{
	struct client *c = client_open(a);
	char *id = run_resolve(c, a->operands[0]), *path;
	json_t *answer = NULL, *body, *t;
	int rc = EXIT_REFUSED;
	size_t i;

	if (id) {
		path = xasprintf("/api/v1/runs/%s/undo", id);
		body = json_pack("{s:b}", "with_later", a->with_later);
		rc = client_do(c, "POST", path, body, &answer); /* which takes the body */
		free(path);
	}
	if (rc == EXIT_OK && a->json) {
		print_json(answer);
	} else if (rc == EXIT_OK) {
		printf("run %s is undone:\n", id);
		json_array_foreach (json_object_get(answer, "tables"), i, t)
			printf("  %s %s\n", text_of(t, "table"),
			       strcmp(text_of(t, "outcome"), "dropped") == 0 ? "dropped: the run had made it"
									     : text_of(t, "outcome"));
	}
	free(id);
	json_decref(answer);
	client_close(c);
	return rc;
}

int
cmd_cancel(const struct args *a)
{
	struct client *c = client_open(a);
	char *id = run_resolve(c, a->operands[0]), *path;
	json_t *run = NULL;
	int rc = EXIT_REFUSED;

	if (id) {
		path = xasprintf("/api/v1/runs/%s/cancel", id);
		rc = client_do(c, "POST", path, NULL, &run);
		free(path);
	}
	if (rc == EXIT_OK && a->json)
		print_json(run);
	else if (rc == EXIT_OK)
		printf("run %s of %s: %s\n", text_of(run, "id"), text_of(run, "flow"),
		       strcmp(text_of(run, "state"), "running") == 0 ? "being cancelled" : text_of(run, "state"));
	free(id);
	json_decref(run);
	client_close(c);
	return rc;
}

/* ---- logs ---- */

static int
on_text(void *arg, const char *data, size_t len)
{
	(void)arg;
	return fwrite(data, 1, len, stdout) == len ? 0 : -1;
}

/* Server-sent events, as they come in pieces: the texts of `log` go to stdout. */
static int
on_events(void *arg, const char *data, size_t len)
{
	struct buf *b = arg;
	char *end;

	buf_add(b, data, len);
	while ((end = memchr(b->s, '\n', b->len)) != NULL) {
		json_t *event;

		*end = '\0';
		if (strncmp(b->s, "data:", 5) == 0 && (event = json_loads(b->s + 5, 0, NULL)) != NULL) {
			const json_t *text = json_object_get(event, "text");

			fwrite(json_string_value(text) ? json_string_value(text) : "", 1, json_string_length(text), stdout);
			fflush(stdout);
			json_decref(event);
		}
		buf_drop_front(b, (size_t)(end - b->s) + 1);
	}
	return ferror(stdout) ? -1 : 0;
}

static int
logs_of(struct client *c, const struct args *a, const char *run, const char *task)
{
	struct buf path = BUF_INIT, text = BUF_INIT;
	int status;

	buf_addf(&path, "/api/v1/runs/%s/tasks/", run);
	add_encoded(&path, task);
	buf_adds(&path, "/logs?");
	if (a->attempt_text) {
		buf_adds(&path, "&attempt=");
		add_encoded(&path, a->attempt_text);
	}
	if (a->follow)
		status = client_stream(c, path.s, "text/event-stream", on_events, &text);
	else
		status = client_stream(c, path.s, "text/plain", on_text, NULL);
	fflush(stdout);
	buf_release(&path);
	buf_release(&text);
	return status;
}

/* Without a task: each that was tried, in the order of the flow; with -f each until it ends. */
static int
logs_of_all(struct client *c, const struct args *a, const char *id, const json_t *run)
{
	json_t *task;
	size_t i;

	json_array_foreach (json_object_get(run, "tasks"), i, task) {
		if (json_array_size(json_object_get(task, "attempts")) == 0 && !a->follow)
			continue;
		printf("%s==> %s <==%s\n", term_bold(stdout), text_of(task, "id"), term_off(stdout));
		fflush(stdout);
		if (logs_of(c, a, id, text_of(task, "id")) == 0)
			return EXIT_REFUSED;
	}
	return EXIT_OK;
}

/* Does the task exist, and the attempt? Asked first, so that an error is not mistaken for a log. */
static int
logs_check(const struct args *a, const json_t *run, const char *task_id)
{
	struct buf known = BUF_INIT;
	const json_t *found = NULL;
	json_t *task;
	size_t i;
	long n = a->attempt_text ? strtol(a->attempt_text, NULL, 10) : 0;
	int rc = EXIT_OK;

	json_array_foreach (json_object_get(run, "tasks"), i, task) {
		if (strcmp(text_of(task, "id"), task_id) == 0)
			found = task;
		buf_addf(&known, "%s%s", known.len ? ", " : "its tasks are ", text_of(task, "id"));
	}
	if (found == NULL)
		rc = refuse(known.s, "run %s has no task %s", text_of(run, "id"), task_id);
	else if (a->attempt_text && (n < 1 || (size_t)n > json_array_size(json_object_get(found, "attempts"))))
		rc = refuse(NULL, "task %s has %zu attempts in this run, so there is no attempt %s", task_id,
			    json_array_size(json_object_get(found, "attempts")), a->attempt_text);
	else if (json_array_size(json_object_get(found, "attempts")) == 0 && !a->follow)
		rc = refuse(NULL, "task %s was not started (it is %s), so it has no log", task_id, text_of(found, "state"));
	buf_release(&known);
	return rc;
}

int
cmd_logs(const struct args *a)
{
	struct client *c = client_open(a);
	json_t *run = NULL;
	int rc = run_get(c, a->operands[0], &run);

	if (rc == EXIT_OK && a->count == 2)
		rc = logs_check(a, run, a->operands[1]);
	if (rc == EXIT_OK && a->count == 2) {
		int status = logs_of(c, a, text_of(run, "id"), a->operands[1]);

		rc = status >= 200 && status < 300 ? EXIT_OK : EXIT_REFUSED;
	} else if (rc == EXIT_OK) {
		rc = logs_of_all(c, a, text_of(run, "id"), run);
	}
	json_decref(run);
	client_close(c);
	return rc;
}
