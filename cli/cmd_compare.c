/* compare: a flow on several engines, each in a rehearsal, and whether they wrote the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/term.h"

#define ENGINES_MAX 16

/* One engine's run. */
struct candidate {
	char *engine;
	json_t *run; /* as it ended */
};

struct comparison {
	const struct args *args;
	struct client *client;
	struct candidate all[ENGINES_MAX];
	size_t n;
	bool failed; /* of some run */
};

/* Reads --engines a,b,c. */
static int
engines_read(struct comparison *x)
{
	const char *p = x->args->engine_list;

	while (p && *p) {
		size_t len = strcspn(p, ",");

		if (len == 0 || x->n == ENGINES_MAX)
			break;
		x->all[x->n++].engine = xstrndup(p, len);
		p += len + (p[len] == ',');
	}
	if (x->n < 2 || *p)
		return refuse("for example --engines duckdb,polars", "--engines needs 2 to %d names with commas between them",
			      ENGINES_MAX);
	return EXIT_OK;
}

/* Asks for a rehearsal of the flow on one engine: or, with `check`, whether it would be made. */
static int
ask_for(struct comparison *x, const struct candidate *one, bool check, json_t **made)
{
	json_t *body = trigger_body(x->args);
	struct buf path = BUF_INIT;
	int status, wanted = check ? 204 : 201;

	if (body == NULL)
		return EXIT_REFUSED;
	json_object_set_new(body, "engine", json_string(one->engine));
	json_object_set_new(body, "rehearsal", json_true());
	json_object_set_new(body, "check", json_boolean(check));
	buf_adds(&path, "/api/v1/flows/");
	add_encoded(&path, x->args->operands[0]);
	buf_adds(&path, "/runs");
	status = client_call(x->client, "POST", path.s, body, made);
	buf_release(&path);
	if (status && status != wanted)
		client_refuse(status, *made);
	return status == wanted ? EXIT_OK : EXIT_REFUSED;
}

/* Before the first engine's run, which may be long: would each be taken? */
static int
check_all(struct comparison *x)
{
	int rc = EXIT_OK;

	for (size_t i = 0; i < x->n && rc == EXIT_OK; i++) {
		json_t *said = NULL;

		rc = ask_for(x, &x->all[i], true, &said);
		json_decref(said);
	}
	return rc;
}

/* Rehearses the flow on one engine, to the end. */
static int
rehearse(struct comparison *x, struct candidate *one)
{
	struct follow f = { .client = x->client, .quiet = x->args->quiet || x->args->json };
	json_t *made = NULL;
	int rc = ask_for(x, one, false, &made);

	if (rc == EXIT_OK)
		rc = follow_run(&f, text_of(made, "id"), &one->run);
	x->failed = x->failed || rc == EXIT_FAILED;
	json_decref(made);
	return rc;
}

/* ---- figures ---- */

/* The sum, or the most, of a number over all attempts of a run. */
static long long
over_attempts(const json_t *run, const char *key, bool most)
{
	json_t *task, *attempt;
	long long out = 0, n;
	size_t i, k;

	json_array_foreach (json_object_get(run, "tasks"), i, task)
		json_array_foreach (json_object_get(task, "attempts"), k, attempt) {
			n = json_integer_value(json_object_get(attempt, key));
			out = most ? (n > out ? n : out) : out + n;
		}
	return out;
}

/* Rows or files that its tasks wrote to tables. */
static long long
written(const json_t *run, const char *key)
{
	json_t *task, *table;
	long long out = 0;
	size_t i, k;

	json_array_foreach (json_object_get(run, "tasks"), i, task) {
		const json_t *attempts = json_object_get(task, "attempts"),
			     *last = json_array_get(attempts, json_array_size(attempts) - 1);

		json_array_foreach (json_object_get(last, "tables"), k, table)
			out += json_integer_value(json_object_get(table, key));
	}
	return out;
}

/* "equal", "differs", or how its run ended. */
static const char *
verdict(const struct comparison *x, size_t at, const json_t *result)
{
	const char *state = text_of(x->all[at].run, "state");
	json_t *table;
	size_t i;

	if (strcmp(state, "success") != 0)
		return state;
	if (result == NULL)
		return "";
	json_array_foreach (json_object_get(result, "tables"), i, table)
		if (!json_is_true(json_object_get(json_array_get(json_object_get(table, "runs"), at), "equal")))
			return "differs";
	return at ? "equal" : "reference";
}

static void
print_figures(const struct comparison *x, const json_t *result)
{
	static const char *const headers[] = { "ENGINE", "ELAPSED", "CPU", "MEMORY", "ROWS", "FILES", "RESULT", "RUN" };
	json_t *rows = json_array();

	for (size_t i = 0; i < x->n; i++) {
		const json_t *run = x->all[i].run;
		char took[24], cpu[24], memory[32], number[32], files[32];
		long long us = elapsed_us(json_object_get(run, "started_at"), json_object_get(run, "ended_at"));

		if (run == NULL)
			continue;
		json_array_append_new(
			rows,
			json_pack(
				"[s,s,s,s,s,s,s,s]", x->all[i].engine, us < 0 ? "" : term_duration(us, took),
				term_duration(over_attempts(run, "user_us", false) + over_attempts(run, "system_us", false), cpu),
				term_bytes(over_attempts(run, "max_rss_bytes", true), memory),
				term_number(written(run, "rows"), number), term_number(written(run, "files"), files),
				verdict(x, i, result), text_of(run, "id")));
	}
	term_table(stdout, headers, 8, rows, "-rrrrr--");
	json_decref(rows);
}

/* Where one run's table is another: columns, counts, the first rows. */
static void
print_difference(const struct comparison *x, const char *table, size_t at, const json_t *side)
{
	long long missing = json_integer_value(json_object_get(side, "missing")),
		  extra = json_integer_value(json_object_get(side, "extra"));
	json_t *it, *times;
	char number[32];
	size_t i;

	if (json_is_true(json_object_get(side, "equal")))
		return;
	printf("\n%s%s%s on %s\n", term_bold(stdout), table, term_off(stdout), x->all[at].engine);
	if (json_object_get(side, "rows") == NULL) {
		puts(json_is_true(json_object_get(side, "written")) ? "  is not written by the first engine"
								    : "  is not written");
		return;
	}
	json_array_foreach (json_object_get(side, "schema"), i, it)
		printf("  %s\n", json_string_value(it));
	if (missing)
		printf("  %s row%s missing\n", term_number(missing, number), missing == 1 ? " is" : "s are");
	if (extra)
		printf("  %s row%s more than there should be\n", term_number(extra, number), extra == 1 ? " is" : "s are");
	json_array_foreach (json_object_get(side, "differing"), i, it) {
		char *row = json_dumps(json_object_get(it, "row"), JSON_PRESERVE_ORDER);

		times = json_object_get(it, "times");
		printf("  %c %s\n", json_integer_value(times) < 0 ? '-' : '+', row);
		free(row);
	}
}

static int
compare_runs(struct comparison *x, json_t **result)
{
	json_t *runs = json_array(), *body;
	int status;

	for (size_t i = 0; i < x->n; i++)
		json_array_append(runs, json_object_get(x->all[i].run, "id"));
	body = json_pack("{s:o}", "runs", runs);
	status = client_call(x->client, "POST", "/api/v1/compare", body, result);
	if (status == 200)
		return EXIT_OK;
	if (status)
		client_refuse(status, *result);
	return EXIT_REFUSED;
}

static void
print_all(const struct comparison *x, const json_t *result)
{
	json_t *table, *side;
	size_t i, k;

	print_figures(x, result);
	json_array_foreach (json_object_get(result, "tables"), i, table)
		json_array_foreach (json_object_get(table, "runs"), k, side)
			print_difference(x, text_of(table, "table"), k, side);
	if (result && json_array_size(json_object_get(result, "tables")) == 0)
		puts("\nno table was written: there is nothing to compare");
}

int
cmd_compare(const struct args *a)
{
	struct comparison x = { .args = a };
	json_t *result = NULL, *runs;
	int rc = engines_read(&x);

	if (rc == EXIT_OK) {
		x.client = client_open(a);
		rc = check_all(&x);
	}
	for (size_t i = 0; i < x.n && rc != EXIT_REFUSED; i++)
		rc = rehearse(&x, &x.all[i]);
	if (rc != EXIT_REFUSED) {
		rc = x.failed ? EXIT_FAILED : compare_runs(&x, &result);
		if (rc == EXIT_OK && !json_is_true(json_object_get(result, "equal")))
			rc = EXIT_FAILED;
	}
	if (rc != EXIT_REFUSED && a->json) {
		runs = json_array();
		for (size_t i = 0; i < x.n; i++)
			json_array_append_new(runs, json_pack("{s:s,s:O}", "engine", x.all[i].engine, "run", x.all[i].run));
		if (result == NULL)
			result = json_object();
		json_object_set_new(result, "runs", runs);
		print_json(result);
	} else if (rc != EXIT_REFUSED) {
		print_all(&x, result);
	}
	for (size_t i = 0; i < x.n; i++) {
		free(x.all[i].engine);
		json_decref(x.all[i].run);
	}
	json_decref(result);
	if (x.client)
		client_close(x.client);
	return rc;
}
