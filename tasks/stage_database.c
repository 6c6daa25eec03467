/* Another database as the source of a stage task: its table, whose scan takes conditions and columns to the server, or a query.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/casts.h"
#include "tasks/engines/duckdb.h"
#include "tasks/stage_int.h"

int
stage_database(struct stage *st)
{
	const char *table = stage_source_text(st, "table", NULL), *query = stage_source_text(st, "query", NULL);

	if ((table == NULL) == (query == NULL)) {
		st->cx->final = true;
		return task_fail_at(st->cx, "source", "with format: %s the source is one of `table` and `query`", st->format);
	}
	json_array_append_new(st->files, json_string(table ? table : "the query"));
	st->files_in = -1;
	return database_open(st->cx, "source", st->source, false, &st->database);
}

/* What the server says of the query: the engine adds where in its own statement that was. */
static int
fail_query(struct stage *st, const char *query)
{
	struct context *cx = st->cx;
	char *said = xstrdup(cx->err.msg), *text = strstr(said, query);
	const char *line = strstr(said, "\nLINE ");
	int rc, n = 0;

	text = text ? strstr(text, "\": ") : NULL;
	text = text ? text + 3 : said;
	if (line)
		sscanf(line, "\nLINE %d:", &n);
	text += strncmp(text, "ERROR:  ", 8) == 0 ? 8 : 0;
	text[strcspn(text, "\r\n")] = '\0';
	rc = task_fail_at(cx, "source/query", "%s does not take the query: %s", st->database.place, text);
	if (cx->line && n > 1)
		cx->line += n - 1;
	cx->final = true;
	free(said);
	return rc;
}

/* What FROM takes; `query` as the server gets it, NULL: a table. */
static int
source_text(struct stage *st, char *query, struct buf *plain)
{
	struct database *d = &st->database;
	const char *table = stage_source_text(st, "table", NULL);
	int found = 1;

	if (query == NULL)
		found = database_find(st->cx, d, table);
	if (found < 0)
		return -1;
	if (found == 0)
		return database_missing(st->cx, d, "source/table", table);
	for (size_t n = query ? strlen(query) : 0; n > 0 && strchr("; \t\r\n", query[n - 1]); n--)
		query[n - 1] = '\0';
	if (query)
		database_add_query(d, plain, query);
	else
		database_add_table(d, plain);
	return 0;
}

/* Puts around `plain` the casts of what came as text for no reason of its own. */
static void
add_casts(const json_t *columns, const json_t *casts, struct buf *plain)
{
	struct buf b = BUF_INIT;
	json_t *column;
	size_t i;

	if (json_object_size(casts) == 0)
		return;
	buf_adds(&b, "(SELECT ");
	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name"));

		buf_adds(&b, i ? ", " : "");
		casts_add(&b, name, json_string_value(json_object_get(casts, name)));
	}
	buf_addf(&b, " FROM %s)", plain->s);
	buf_release(plain);
	*plain = b;
}

int
stage_read_database(struct stage *st)
{
	struct context *cx = st->cx;
	const char *given = stage_source_text(st, "query", NULL);
	char *query = given ? xstrdup(given) : NULL, *all;
	json_t *columns = NULL, *casts = json_object();
	struct buf plain = BUF_INIT;
	int rc = source_text(st, query, &plain);

	if (rc == 0) {
		all = xasprintf("SELECT * FROM %s", plain.s);
		columns = duck_describe(cx->db, all, &cx->err);
		free(all);
		rc = columns ? 0 : query ? fail_query(st, query) : -1;
	}
	if (rc == 0)
		rc = database_check_types(cx, &st->database, query ? "source/query" : "source/table", query, columns, casts);
	if (rc == 0) {
		add_casts(columns, casts, &plain);
		buf_adds(&st->traced, "SELECT *, ");
		buf_add_sql_string(&st->traced, json_string_value(json_array_get(st->files, 0)));
		buf_addf(&st->traced, " AS sluice_file, NULL::BIGINT AS sluice_row FROM %s", plain.s);
		rc = stage_read_typed(st, plain.s);
	}
	if (rc < 0)
		database_explain(cx, &st->database);
	json_decref(columns);
	json_decref(casts);
	buf_release(&plain);
	free(query);
	return rc < 0 ? -1 : 0;
}

/* Reads the columns one by one until one cannot be read. */
static const char *
bad_column(struct stage *st)
{
	struct err e = ERR_INIT;
	const char *bad = NULL;
	json_t *name;
	size_t i;

	json_array_foreach (st->names, i, name) {
		struct buf b = BUF_INIT;

		buf_adds(&b, "SELECT count(");
		buf_add_sql_name(&b, json_string_value(name));
		buf_addf(&b, ") FROM %s", st->reader.s);
		if (bad == NULL && duck_exec(st->cx->db, b.s, &e) < 0)
			bad = json_string_value(name);
		buf_release(&b);
	}
	err_release(&e);
	return bad;
}

void
stage_explain_database(struct stage *st)
{
	struct context *cx = st->cx;
	static const char *const signs[] = { "Mismatch Type Error", "Conversion Error: invalid", "Expected an array with" };
	char *said;

	database_explain(cx, &st->database);
	if (strstr(cx->err.msg, "was lost in the middle"))
		return;
	if (duck_exec(cx->db, "ROLLBACK; BEGIN", NULL) < 0)
		return;
	for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++) {
		const char *column = strstr(cx->err.msg, signs[i]) ? bad_column(st) : NULL;

		if (column == NULL)
			continue;
		said = xstrdup(cx->err.msg);
		said[strcspn(said, "\n*")] = '\0'; /* then comes advice on settings that a flow does not have */
		task_fail_at(cx, stage_source_text(st, "query", NULL) ? "source/query" : "source/table",
			     "%s: column \"%s\" has a value that does not fit its type: %s; cast it in `query`",
			     st->database.place, column, said);
		cx->final = true;
		free(said);
		return;
	}
}
