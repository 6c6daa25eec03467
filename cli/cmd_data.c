/* Queries over the tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/tables_text.h"
#include "cli/term.h"

#define LIMIT_MAX 100000

/* The shortest text that reads back as the same number. The caller frees it. */
static char *
real_text(double d)
{
	char *text = NULL;

	for (int digits = 15; digits <= 17; digits++) {
		free(text);
		text = xasprintf("%.*g", digits, d);
		if (strtod(text, NULL) == d)
			break;
	}
	return text;
}

char *
value_text(const json_t *v, const char *null)
{
	if (v == NULL || json_is_null(v))
		return xstrdup(null);
	if (json_is_string(v))
		return xstrdup(json_string_value(v));
	if (json_is_real(v))
		return real_text(json_real_value(v));
	return json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
}

static bool
is_number(const char *type)
{
	static const char *const names[] = { "TINYINT",  "SMALLINT", "INTEGER",  "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT",
					     "UINTEGER", "UBIGINT",  "UHUGEINT", "FLOAT",  "DOUBLE",  "DECIMAL",  "BIGNUM" };

	for (size_t i = 0; type && i < sizeof(names) / sizeof(names[0]); i++)
		if (strncasecmp(type, names[i], strlen(names[i])) == 0)
			return strstr(type, "[]") == NULL;
	return false;
}

/* Line breaks and other controls would break the table's lines. */
static void
one_line(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 127)
			*s = ' ';
}

static void
sql_table(const json_t *columns, const json_t *rows)
{
	size_t n = json_array_size(columns), i, k;
	const char **headers = xcalloc(n + 1, sizeof(*headers));
	char *right = xcalloc(n + 1, 1);
	json_t *cells = json_array(), *row;

	for (k = 0; k < n; k++) {
		headers[k] = json_string_value(json_object_get(json_array_get(columns, k), "name"));
		right[k] = is_number(json_string_value(json_object_get(json_array_get(columns, k), "type"))) ? 'r' : 'l';
	}
	json_array_foreach (rows, i, row) {
		json_t *line = json_array();

		for (k = 0; k < n; k++) {
			char *text = value_text(json_object_get(row, headers[k]), "NULL");

			one_line(text);
			json_array_append_new(line, json_string(text));
			free(text);
		}
		json_array_append_new(cells, line);
	}
	if (n)
		term_table(stdout, headers, n, cells, right);
	json_decref(cells);
	free(headers);
	free(right);
}

static void
csv_cell(const char *s)
{
	if (strpbrk(s, ",\"\r\n") == NULL) {
		fputs(s, stdout);
		return;
	}
	putchar('"');
	for (; *s; s++) {
		if (*s == '"')
			putchar('"');
		putchar(*s);
	}
	putchar('"');
}

static void
sql_csv(const json_t *columns, const json_t *rows)
{
	json_t *column, *row;
	size_t i, k;

	json_array_foreach (columns, k, column) {
		fputs(k ? "," : "", stdout);
		csv_cell(json_string_value(json_object_get(column, "name")));
	}
	putchar('\n');
	json_array_foreach (rows, i, row) {
		json_array_foreach (columns, k, column) {
			char *text = value_text(json_object_get(row, json_string_value(json_object_get(column, "name"))), "");

			fputs(k ? "," : "", stdout);
			csv_cell(text);
			free(text);
		}
		putchar('\n');
	}
}

void
print_result(const struct args *a, const json_t *answer)
{
	const json_t *columns = json_object_get(answer, "columns"), *rows = json_object_get(answer, "rows");
	size_t n = json_array_size(rows);

	if (a->json)
		print_json(rows);
	else if (a->csv)
		sql_csv(columns, rows);
	else
		sql_table(columns, rows);
	fflush(stdout);
	if (json_is_true(json_object_get(answer, "truncated")))
		fprintf(stderr, "only the first %zu row%s; more with --limit N\n", n, n == 1 ? "" : "s");
	else if (!a->json && !a->csv)
		fprintf(stderr, "%s%zu row%s%s\n", term_dim(stderr), n, n == 1 ? "" : "s", term_off(stderr));
}

int
cmd_sql(const struct args *a)
{
	struct client *c;
	json_t *body, *answer = NULL;
	char *end = NULL;
	long limit = a->limit_text ? strtol(a->limit_text, &end, 10) : 0;
	int rc;

	if (a->json && a->csv)
		return refuse(NULL, "--json and --csv exclude each other");
	if (a->limit_text && (*end || limit < 1 || limit > LIMIT_MAX))
		return refuse(NULL, "--limit %s is not a whole number from 1 to %d", a->limit_text, LIMIT_MAX);
	body = json_pack("{s:s}", "sql", a->operands[0]);
	if (body == NULL)
		return refuse(NULL, "the statement is not UTF-8 text");
	if (limit)
		json_object_set_new(body, "limit", json_integer(limit));
	c = client_open(a);
	rc = client_do(c, "POST", "/api/v1/sql", body, &answer);
	if (rc == EXIT_OK)
		print_result(a, answer);
	json_decref(answer);
	client_close(c);
	return rc;
}
