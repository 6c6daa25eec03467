/* Flows: list, plan, pause, resume. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/term.h"

/* "0 6 * * * Europe/Madrid", and how many more. */
static void
schedule_words(struct buf *out, const json_t *schedules)
{
	const json_t *first = json_array_get(schedules, 0);
	const char *zone = text_of(first, "timezone");

	if (first == NULL)
		return;
	buf_addf(out, "%s%s%s", text_of(first, "cron"), *zone ? " " : "", zone);
	if (json_array_size(schedules) > 1)
		buf_addf(out, " and %zu more", json_array_size(schedules) - 1);
}

static size_t
error_count(const json_t *problems)
{
	json_t *p;
	size_t n = 0, i;

	json_array_foreach (problems, i, p)
		n += strcmp(text_of(p, "severity"), "error") == 0;
	return n;
}

static json_t *
flow_row(const json_t *flow)
{
	const json_t *last = json_array_get(json_object_get(flow, "last_runs"), 0);
	const char *next = text_of(flow, "next"), *is = "live";
	struct buf schedule = BUF_INIT;
	char when_next[40], when_last[40];
	json_t *row;

	if (error_count(json_object_get(flow, "problems")))
		is = json_array_size(json_object_get(flow, "tasks")) ? "old version" : "broken";
	else if (json_is_true(json_object_get(flow, "paused")))
		is = "paused";
	else if (json_is_false(json_object_get(flow, "enabled")))
		is = "disabled";
	schedule_words(&schedule, json_object_get(flow, "schedules"));
	row = json_pack("[s,s,s,s,s,s]", text_of(flow, "id"), is, schedule.s, *next ? term_when(next, when_next) : "",
			text_of(last, "state"), last ? term_when(text_of(last, "created_at"), when_last) : "");
	buf_release(&schedule);
	return row;
}

static void
print_problems(const json_t *problems)
{
	json_t *p;
	size_t i;

	json_array_foreach (problems, i, p) {
		fprintf(stderr, "%s:", text_of(p, "file"));
		if (json_integer_value(json_object_get(p, "line")) > 0)
			fprintf(stderr, "%lld:%lld:", (long long)json_integer_value(json_object_get(p, "line")),
				(long long)json_integer_value(json_object_get(p, "col")));
		fprintf(stderr, " %s: %s\n", text_of(p, "severity"), text_of(p, "message"));
	}
}

int
cmd_flows(const struct args *a)
{
	static const char *const headers[] = { "FLOW", "IS", "SCHEDULE", "NEXT", "STATE", "LAST RUN" };
	struct client *c = client_open(a);
	json_t *list = NULL, *rows = json_array(), *flow;
	int rc = client_do(c, "GET", "/api/v1/flows", NULL, &list);
	size_t i;

	json_array_foreach (json_object_get(list, "items"), i, flow)
		json_array_append_new(rows, flow_row(flow));
	if (rc == EXIT_OK && a->json) {
		print_json(list);
	} else if (rc == EXIT_OK) {
		if (json_array_size(rows))
			term_table(stdout, headers, 6, rows, "llllll");
		else
			fputs("no flows; put YAML files into the flows folder (see `sluice serve --help`)\n", stderr);
		fflush(stdout);
		json_array_foreach (json_object_get(list, "items"), i, flow)
			print_problems(json_object_get(flow, "problems"));
	}
	json_decref(rows);
	json_decref(list);
	client_close(c);
	return rc;
}

/* METHOD /api/v1/flows/FLOW/WHAT?QUERY */
static int
flow_call(struct client *c, const char *method, const char *flow, const char *what, const char *query, json_t **out)
{
	struct buf path = BUF_INIT;
	int rc;

	buf_adds(&path, "/api/v1/flows/");
	add_encoded(&path, flow);
	buf_addf(&path, "/%s%s", what, query);
	rc = client_do(c, method, path.s, NULL, out);
	buf_release(&path);
	return rc;
}

static void
next_table(const json_t *items)
{
	static const char *const headers[] = { "SCHEDULED AT (UTC)", "", "INTERVAL START", "INTERVAL END" };
	json_t *rows = json_array(), *item;
	size_t i;

	json_array_foreach (items, i, item) {
		char when[40], at[24], from[24], to[24];

		snprintf(at, sizeof(at), "%.10s %.8s", text_of(item, "scheduled_at"), text_of(item, "scheduled_at") + 11);
		snprintf(from, sizeof(from), "%.10s %.8s", text_of(item, "interval_start"),
			 *text_of(item, "interval_start") ? text_of(item, "interval_start") + 11 : "");
		snprintf(to, sizeof(to), "%.10s %.8s", text_of(item, "interval_end"),
			 *text_of(item, "interval_end") ? text_of(item, "interval_end") + 11 : "");
		term_when(text_of(item, "scheduled_at"), when);
		json_array_append_new(rows, json_pack("[s,s,s,s]", at, strncmp(when, "in ", 3) == 0 ? when : "", from, to));
	}
	term_table(stdout, headers, 4, rows, "llll");
	json_decref(rows);
}

int
cmd_next(const struct args *a)
{
	struct client *c;
	json_t *answer = NULL;
	char *end = NULL, query[40];
	long count = a->count_text ? strtol(a->count_text, &end, 10) : 10;
	int rc;

	if ((end && *end) || count < 1 || count > 1000)
		return refuse(NULL, "--count %s is not a whole number from 1 to 1000", a->count_text);
	snprintf(query, sizeof(query), "?count=%ld", count);
	c = client_open(a);
	rc = flow_call(c, "GET", a->operands[0], "next", query, &answer);
	if (rc == EXIT_OK && a->json)
		print_json(json_object_get(answer, "items"));
	else if (rc == EXIT_OK && json_array_size(json_object_get(answer, "items")) == 0)
		fprintf(stderr, "%s has no schedule in force: it runs when it is triggered\n", a->operands[0]);
	else if (rc == EXIT_OK)
		next_table(json_object_get(answer, "items"));
	json_decref(answer);
	client_close(c);
	return rc;
}

static int
pause_or_resume(const struct args *a, const char *what, const char *done)
{
	struct client *c = client_open(a);
	json_t *flow = NULL;
	int rc = flow_call(c, "POST", a->operands[0], what, "", &flow);
	char when[40];

	if (rc == EXIT_OK && a->json)
		print_json(flow);
	else if (rc == EXIT_OK && *text_of(flow, "next"))
		printf("%s is %s; next run: %s\n", text_of(flow, "id"), done, term_when(text_of(flow, "next"), when));
	else if (rc == EXIT_OK)
		printf("%s is %s\n", text_of(flow, "id"), done);
	json_decref(flow);
	client_close(c);
	return rc;
}

int
cmd_pause(const struct args *a)
{
	return pause_or_resume(a, "pause", "paused: its schedules start nothing, triggers still do");
}

int
cmd_resume(const struct args *a)
{
	return pause_or_resume(a, "resume", "live");
}
