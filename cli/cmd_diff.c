/* diff: what changed between two states of a table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/tables_text.h"
#include "cli/term.h"

static long long
count_of(const json_t *answer, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(answer, "counts"), key));
}

static void
print_state(const char *label, const json_t *snapshot, long long rows)
{
	char number[32], when[40];

	printf("  %s%-5s%s %s, made %s by %s: %s row%s\n", term_dim(stdout), label, term_off(stdout),
	       text_of(snapshot, "snapshot_id"), term_when(text_of(snapshot, "at"), when), text_of(snapshot, "operation"),
	       term_number(rows, number), rows == 1 ? "" : "s");
}

static void
print_schema_changes(const json_t *changes)
{
	json_t *c;
	size_t i;

	json_array_foreach (changes, i, c) {
		const char *what = text_of(c, "change"), *column = text_of(c, "column");

		printf("  column %s ", column);
		if (strcmp(what, "added") == 0 || strcmp(what, "removed") == 0)
			printf("%s (%s)\n", what, text_of(c, "type"));
		else if (strcmp(what, "renamed") == 0)
			printf("was called %s\n", text_of(c, "before"));
		else if (strcmp(what, "type") == 0)
			printf("is %s, was %s\n", text_of(c, "type"), text_of(c, "before"));
		else
			printf("is %s now\n", what);
	}
}

/* A cell of a changed row: "4 -> 5", or the value where both have it. The caller frees it. */
static char *
cell_of(const json_t *row, const char *column)
{
	const json_t *sides[2] = { json_object_get(row, "before"), json_object_get(row, "after") };
	char *text[2], *out;

	for (int i = 0; i < 2; i++)
		text[i] = value_text(json_object_get(sides[i], column), "NULL");
	if (json_is_null(sides[0]) || json_is_null(sides[1]))
		out = xstrdup(text[json_is_null(sides[0])]);
	else if (json_equal(json_object_get(sides[0], column), json_object_get(sides[1], column)))
		out = xstrdup(text[0]);
	else
		out = xasprintf("%s -> %s", text[0], text[1]);
	free(text[0]);
	free(text[1]);
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			*p = ' ';
	return out;
}

/* "+", "-", "~"; with how often, where a row is there more than once. */
static json_t *
sign_of(const json_t *row)
{
	const char *change = text_of(row, "change");
	char sign = *change == 'a' ? '+' : *change == 'r' ? '-' : '~';
	long long times = json_integer_value(json_object_get(row, "times"));

	return times == 1 ? json_sprintf("%c", sign) : json_sprintf("%c%lld times", sign, times);
}

static void
print_rows(const json_t *columns, const json_t *rows)
{
	size_t n = json_array_size(columns), i, k;
	const char **headers = xcalloc(n + 1, sizeof(*headers));
	char *align = xcalloc(n + 2, 1);
	json_t *lines = json_array(), *row;

	headers[0] = "";
	for (k = 0; k < n; k++)
		headers[k + 1] = json_string_value(json_array_get(columns, k));
	memset(align, 'l', n + 1);
	json_array_foreach (rows, i, row) {
		json_t *line = json_array();

		json_array_append_new(line, sign_of(row));
		for (k = 0; k < n; k++) {
			char *cell = cell_of(row, headers[k + 1]);

			json_array_append_new(line, json_string(cell));
			free(cell);
		}
		json_array_append_new(lines, line);
	}
	if (json_array_size(lines)) {
		putchar('\n');
		term_table(stdout, headers, n + 1, lines, align);
	}
	json_decref(lines);
	free(headers);
	free(align);
}

static void
print_counts(const json_t *answer)
{
	long long added = count_of(answer, "added"), removed = count_of(answer, "removed"), changed = count_of(answer, "changed");
	bool keyed = json_array_size(json_object_get(answer, "key")) > 0;
	char a[32], r[32], c[32], s[32];

	if (added + removed + changed == 0 && count_of(answer, "before") == count_of(answer, "after")) {
		puts("  the rows are the same");
		return;
	}
	printf("  %s added, %s removed, ", term_number(added, a), term_number(removed, r));
	if (keyed)
		printf("%s changed, ", term_number(changed, c));
	printf("%s the same\n", term_number(count_of(answer, "before") - removed - changed, s));
	if (!keyed && added && removed)
		fprintf(stderr, "%sa changed row counts as removed and added; --key COLUMNS pairs them%s\n", term_dim(stderr),
			term_off(stderr));
}

static void
print_diff(const json_t *answer)
{
	const json_t *rows = json_object_get(answer, "rows");

	printf("%s%s%s\n", term_bold(stdout), text_of(answer, "table"), term_off(stdout));
	print_state("from", json_object_get(answer, "from"), count_of(answer, "before"));
	print_state("to", json_object_get(answer, "to"), count_of(answer, "after"));
	print_schema_changes(json_object_get(answer, "schema"));
	print_counts(answer);
	print_rows(json_object_get(answer, "columns"), rows);
	fflush(stdout);
	if (json_is_true(json_object_get(answer, "truncated")))
		fprintf(stderr, "only the first %zu that differ; more with --limit N\n", json_array_size(rows));
}

int
cmd_diff(const struct args *a)
{
	char *own = table_path(a->operands[0], "/diff");
	struct client *c = client_open(a);
	struct buf path = BUF_INIT;
	json_t *answer = NULL;
	int rc;

	buf_adds(&path, own);
	add_query(&path, "from", a->count > 1 ? a->operands[1] : NULL);
	add_query(&path, "to", a->count > 2 ? a->operands[2] : NULL);
	add_query(&path, "key", a->key);
	add_query(&path, "limit", a->limit_text);
	rc = client_do(c, "GET", path.s, NULL, &answer);
	if (rc == EXIT_OK && a->json)
		print_json(answer);
	else if (rc == EXIT_OK)
		print_diff(answer);
	json_decref(answer);
	client_close(c);
	buf_release(&path);
	free(own);
	return rc;
}
