/* export: rows of a table, of files or of a query, to a file or into another database. */
#include "tasks/export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/database.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/write.h"
#include "tasks/report.h"

static int
add_table(struct context *cx, const json_t *from, struct buf *query)
{
	char *text = NULL;

	if (iceberg_attach(cx) == 0)
		text = inspect_at(cx, json_string_value(json_object_get(from, "table")),
				  json_string_value(json_object_get(from, "at")), NULL);
	if (text)
		buf_adds(query, text);
	free(text);
	return text ? 0 : -1;
}

static int
add_files(struct context *cx, const json_t *from, struct buf *query)
{
	int rc;

	buf_adds(query, "SELECT * FROM read_parquet(");
	rc = task_file_list(cx, json_object_get(from, "path"), query);
	buf_addc(query, ')');
	return rc;
}

static int
add_sql(struct context *cx, const json_t *from, struct buf *query)
{
	const char *sql = json_string_value(json_object_get(from, "sql"));
	size_t n = strlen(sql);

	if (iceberg_attach(cx) < 0 || task_check_sql(cx, "from/sql", "", sql, "") < 0)
		return -1;
	/* A semicolon at the end is what people write, but not what a subquery takes. */
	while (n && strchr("; \t\r\n", sql[n - 1]))
		n--;
	buf_addf(query, "%.*s\n", (int)n, sql);
	return 0;
}

/* In a rehearsal the rows are read, and go nowhere. */
static int
rehearse(struct context *cx, const char *query)
{
	char *sql = xasprintf("SELECT count(*) FROM (%s)", query);
	int64_t rows = duck_count(cx->db, sql, &cx->err);

	free(sql);
	if (rows < 0)
		return -1;
	printf("a rehearsal: %lld rows would be exported\n", (long long)rows);
	report_metric("rows_in", rows);
	return 0;
}

enum export_mode
export_mode(const json_t *to)
{
	static const char *const names[] = { "append", "replace", "overwrite", "upsert" };
	const char *text = json_string_value(json_object_get(to, "mode"));

	for (int i = 0; text && i < 4; i++)
		if (strcmp(names[i], text) == 0)
			return (enum export_mode)i;
	return MODE_APPEND;
}

int
export_check_key(struct context *cx, const json_t *names, const json_t *key)
{
	json_t *name;
	size_t i;

	json_array_foreach ((json_t *)(uintptr_t)key, i, name) {
		const char *near = task_nearest(names, json_string_value(name));

		if (task_has_name(names, json_string_value(name)))
			continue;
		cx->final = true;
		return task_fail_at(cx, "to/key", "the rows have no column \"%s\" for the key%s%s%s", json_string_value(name),
				    near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	}
	return 0;
}

int
export_run(struct context *cx)
{
	const json_t *from = json_object_get(cx->spec, "from"), *to = json_object_get(cx->spec, "to");
	const char *format = json_string_value(json_object_get(to, "format"));
	struct buf query = BUF_INIT;
	int rc;

	if (json_object_get(from, "table"))
		rc = add_table(cx, from, &query);
	else if (json_object_get(from, "path"))
		rc = add_files(cx, from, &query);
	else if (json_is_string(json_object_get(from, "sql")))
		rc = add_sql(cx, from, &query);
	else
		rc = task_fail_at(cx, "from", "`from` needs one of table, path and sql");
	if (rc == 0 && json_is_true(json_object_get(cx->doc, "rehearsal")))
		rc = rehearse(cx, query.s);
	else if (rc == 0 && strcmp(format, "mongodb") == 0)
		rc = export_mongo(cx, to, query.s);
	else if (rc == 0 && strcmp(format, "kafka") == 0)
		rc = export_kafka(cx, to, query.s);
	else if (rc == 0)
		rc = database_format(format) ? export_database(cx, to, query.s) : export_file(cx, to, query.s);
	buf_release(&query);
	return rc < 0 ? -1 : 0;
}
