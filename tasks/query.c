/* query: `sluice sql`, one statement over the catalog's tables, its first rows as the result. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/write.h"
#include "tasks/report.h"

#define DEFAULT_LIMIT 10000

int
query_run(struct context *cx)
{
	const char *sql = spec_text(cx, "sql");
	json_int_t limit = json_integer_value(json_object_get(cx->spec, "limit"));
	json_t *columns = json_array(), *rows = json_array(), *row;
	struct duck_result *r;
	char *trimmed;
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
	r = duck_query(cx->db, trimmed, &cx->err);
	free(trimmed);
	if (r == NULL)
		return -1;
	for (size_t c = 0; c < duck_cols(r); c++)
		json_array_append_new(columns, json_pack("{s:s,s:s}", "name", duck_col_name(r, c), "type", duck_col_type(r, c)));
	n = duck_rows(r);
	for (size_t i = 0; i < n && (json_int_t)i < limit; i++) {
		row = json_object();
		for (size_t c = 0; c < duck_cols(r); c++)
			json_object_set_new(row, duck_col_name(r, c), duck_json(r, i, c));
		json_array_append_new(rows, row);
	}
	report("result", json_pack("{s:o,s:o,s:b}", "columns", columns, "rows", rows, "truncated", (json_int_t)n > limit));
	duck_result_free(r);
	return 0;
}
