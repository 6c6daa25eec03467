/* query: `sluice sql`, one statement over the catalog's tables, its first rows as the result. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/write.h"
#include "tasks/report.h"

#define DEFAULT_LIMIT 10000

static bool
is_nested(const char *type)
{
	size_t n = strlen(type);

	return type[n - 1] == ']' || strcmp(type, "JSON") == 0 || strncmp(type, "STRUCT", 6) == 0 ||
	       strncmp(type, "MAP", 3) == 0 || strncmp(type, "UNION", 5) == 0;
}

/* Of these the engine gives numbers and text by itself; others, such as TIMESTAMP WITH TIME ZONE, it is asked to cast. */
static bool
is_plain(const char *type)
{
	static const char *const names[] = { "BOOLEAN",   "TINYINT",  "SMALLINT",  "INTEGER", "BIGINT", "UTINYINT",
					     "USMALLINT", "UINTEGER", "UBIGINT",   "HUGEINT", "FLOAT",  "DOUBLE",
					     "DATE",      "TIME",     "TIMESTAMP", "VARCHAR" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], type) == 0)
			return true;
	return strncmp(type, "DECIMAL(", 8) == 0;
}

/*
 * A query is not run beyond the rows that are shown, and its nested values are shown as JSON. `columns` gets [{name, type}];
 * it stays NULL for a statement that is no query (SHOW TABLES): that runs as it is.
 */
static char *
query_limited(struct context *cx, const char *sql, json_int_t limit, json_t **columns)
{
	struct buf b = BUF_INIT;
	struct err ignored = { 0 };
	json_t *column;
	bool any = false;
	char *named = xasprintf("SELECT * FROM (%s\n)", sql); /* gives two columns of one name two names */
	size_t i;

	*columns = duck_describe(cx->db, named, &ignored);
	err_release(&ignored);
	free(named);
	if (*columns == NULL)
		return xstrdup(sql);
	buf_adds(&b, "SELECT *");
	json_array_foreach (*columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")),
			   *type = json_string_value(json_object_get(column, "type"));

		if (is_plain(type))
			continue;
		buf_adds(&b, any ? ", " : " REPLACE (");
		buf_adds(&b, is_nested(type) ? "to_json(" : "CAST(");
		any = true;
		buf_add_sql_name(&b, name);
		buf_adds(&b, is_nested(type) ? ") AS " : " AS VARCHAR) AS ");
		buf_add_sql_name(&b, name);
	}
	buf_addf(&b, "%s FROM (%s\n) LIMIT %lld", any ? ")" : "", sql, (long long)limit + 1);
	return buf_detach(&b);
}

static json_t *
query_value(struct duck_result *r, size_t row, size_t col, const json_t *column)
{
	json_t *value = duck_json(r, row, col), *parsed;

	if (column == NULL || !json_is_string(value) || !is_nested(json_string_value(json_object_get(column, "type"))))
		return value;
	parsed = json_loads(json_string_value(value), JSON_DECODE_ANY, NULL);
	if (parsed == NULL)
		return value;
	json_decref(value);
	return parsed;
}

int
query_run(struct context *cx)
{
	const char *sql = spec_text(cx, "sql");
	json_int_t limit = json_integer_value(json_object_get(cx->spec, "limit"));
	json_t *columns = NULL, *described = NULL, *rows, *row;
	struct duck_result *r;
	char *trimmed, *limited;
	size_t n;
	int line = 0, col = 0;

	if (sql == NULL || iceberg_attach(cx) < 0)
		return sql ? -1 : task_fail(cx, ERR_INVALID, "there is no `sql`");
	if (limit <= 0)
		limit = DEFAULT_LIMIT;
	trimmed = xstrdup(sql);
	n = strlen(trimmed);
	while (n && strchr("; \t\r\n", trimmed[n - 1]))
		trimmed[--n] = '\0';
	if (duck_check(cx->db, trimmed, &line, &col, &cx->err) < 0) {
		if (line)
			err_prefix(&cx->err, "%d:%d", line, col);
		free(trimmed);
		return -1;
	}
	limited = query_limited(cx, trimmed, limit, &described);
	r = duck_query(cx->db, limited, &cx->err);
	free(trimmed);
	free(limited);
	if (r == NULL) {
		json_decref(described);
		return -1;
	}
	columns = json_array();
	rows = json_array();
	for (size_t c = 0; c < duck_cols(r); c++)
		json_array_append_new(
			columns, json_pack("{s:s,s:s}", "name", duck_col_name(r, c), "type",
					   described ? json_string_value(json_object_get(json_array_get(described, c), "type"))
						     : duck_col_type(r, c)));
	n = duck_rows(r);
	for (size_t i = 0; i < n && (json_int_t)i < limit; i++) {
		row = json_object();
		for (size_t c = 0; c < duck_cols(r); c++)
			json_object_set_new(row, duck_col_name(r, c), query_value(r, i, c, json_array_get(described, c)));
		json_array_append_new(rows, row);
	}
	report("result", json_pack("{s:o,s:o,s:b}", "columns", columns, "rows", rows, "truncated", (json_int_t)n > limit));
	duck_result_free(r);
	json_decref(described);
	return 0;
}
