/*
 * compare: do several runs have written the same to their tables? Each table is read as each run left it, by its metadata file,
 * visible or not; the first run is what the others are measured by. Rows are compared as a multiset: each counts +1 in one run
 * and -1 in the other, and what does not come to zero differs.
 *
 *     {"tables": [{"table": NAME, "sides": [METADATA FILE or null, one a run]}], "limit": rows to show}
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/report.h"

/* One table: as the first run left it, and as another did. */
struct pair {
	struct context *cx;
	const char *table, *sides[2]; /* metadata files */
	json_t *columns[2];           /* [{name, type}] */
};

static void
add_scan(struct buf *b, const char *metadata)
{
	buf_adds(b, "iceberg_scan(");
	buf_add_sql_string(b, strip_scheme(metadata));
	buf_addc(b, ')');
}

static json_t *
side_columns(struct context *cx, const char *metadata)
{
	struct buf b = BUF_INIT;
	json_t *columns;

	buf_adds(&b, "SELECT * FROM ");
	add_scan(&b, metadata);
	columns = duck_describe(cx->db, b.s, &cx->err);
	buf_release(&b);
	return columns;
}

static int64_t
side_rows(struct context *cx, const char *metadata)
{
	struct buf b = BUF_INIT;
	int64_t n;

	buf_adds(&b, "SELECT count(*) FROM ");
	add_scan(&b, metadata);
	n = duck_count(cx->db, b.s, &cx->err);
	buf_release(&b);
	return n;
}

static const char *
text_of(const json_t *column, const char *key)
{
	return json_string_value(json_object_get(column, key));
}

static const json_t *
named(const json_t *columns, const char *name)
{
	json_t *column;
	size_t i;

	json_array_foreach (columns, i, column)
		if (strcmp(text_of(column, "name"), name) == 0)
			return column;
	return NULL;
}

/* Sentences; none when names, types and their order are the same. */
static json_t *
schema_differences(const struct pair *p)
{
	json_t *out = json_array(), *column;
	const json_t *other;
	size_t i;

	json_array_foreach (p->columns[0], i, column) {
		other = named(p->columns[1], text_of(column, "name"));
		if (other == NULL)
			json_array_append_new(out, json_sprintf("there is no column %s", text_of(column, "name")));
		else if (strcmp(text_of(column, "type"), text_of(other, "type")) != 0)
			json_array_append_new(out, json_sprintf("column %s is %s, not %s", text_of(column, "name"),
								text_of(other, "type"), text_of(column, "type")));
	}
	json_array_foreach (p->columns[1], i, column)
		if (named(p->columns[0], text_of(column, "name")) == NULL)
			json_array_append_new(out, json_sprintf("there is a column %s", text_of(column, "name")));
	if (json_array_size(out) == 0 && !json_equal(p->columns[0], p->columns[1]))
		json_array_append_new(out, json_string("the columns are in another order"));
	return out;
}

/* Makes the table `sluice_differs` of the columns that both have and n: how many times more the other has the row. */
static int
rows_compare(const struct pair *p)
{
	struct buf b = BUF_INIT, names = BUF_INIT;
	json_t *column;
	size_t i;
	int rc;

	json_array_foreach (p->columns[0], i, column)
		if (named(p->columns[1], text_of(column, "name"))) {
			buf_add_sql_name(&names, text_of(column, "name"));
			buf_adds(&names, ", ");
		}
	buf_adds(&b, "CREATE OR REPLACE TEMP TABLE sluice_differs AS SELECT * EXCLUDE (sluice_n), sum(sluice_n)::BIGINT AS "
		     "sluice_n FROM (");
	for (i = 0; i < 2; i++) {
		buf_addf(&b, "%sSELECT %s%d AS sluice_n FROM ", i ? " UNION ALL " : "", names.s, i ? 1 : -1);
		add_scan(&b, p->sides[i]);
	}
	buf_adds(&b, ") GROUP BY ALL HAVING sum(sluice_n) <> 0");
	rc = duck_exec(p->cx->db, b.s, &p->cx->err);
	buf_release(&b);
	buf_release(&names);
	return rc;
}

/* The first rows that differ: [{"row": {column: value}, "times": n}], n below zero: only the first run has them. */
static json_t *
rows_shown(const struct pair *p, json_int_t limit)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	json_t *out = NULL;

	buf_addf(&b,
		 "SELECT to_json(t)::VARCHAR FROM (SELECT * FROM sluice_differs ORDER BY ALL LIMIT %" JSON_INTEGER_FORMAT ") t",
		 limit);
	r = duck_query(p->cx->db, b.s, &p->cx->err);
	buf_release(&b);
	if (r == NULL)
		return NULL;
	out = json_array();
	for (size_t i = 0; i < duck_rows(r); i++) {
		char *text = duck_text(r, i, 0);
		json_t *row = text ? json_loads(text, 0, NULL) : NULL, *times = json_incref(json_object_get(row, "sluice_n"));

		json_object_del(row, "sluice_n");
		json_array_append_new(out, json_pack("{s:o?,s:o?}", "row", row, "times", times));
		free(text);
	}
	duck_result_free(r);
	return out;
}

/* Fills in what the rows of one run differ in from those of the first. */
static int
pair_compare(struct pair *p, json_int_t limit, json_t *out)
{
	json_t *schema, *rows;
	int64_t missing, extra;

	if ((p->columns[1] = side_columns(p->cx, p->sides[1])) == NULL)
		return -1;
	schema = schema_differences(p);
	json_object_set_new(out, "schema", schema);
	if (rows_compare(p) < 0)
		return -1;
	missing = duck_count(p->cx->db, "SELECT coalesce(sum(-sluice_n), 0)::BIGINT FROM sluice_differs WHERE sluice_n < 0",
			     &p->cx->err);
	extra = duck_count(p->cx->db, "SELECT coalesce(sum(sluice_n), 0)::BIGINT FROM sluice_differs WHERE sluice_n > 0",
			   &p->cx->err);
	if (missing < 0 || extra < 0)
		return -1;
	if ((rows = missing + extra ? rows_shown(p, limit) : json_array()) == NULL)
		return -1;
	json_object_set_new(out, "missing", json_integer(missing));
	json_object_set_new(out, "extra", json_integer(extra));
	json_object_set_new(out, "differing", rows);
	json_object_set_new(out, "equal", json_boolean(missing + extra == 0 && json_array_size(schema) == 0));
	return 0;
}

/* One run's side of a table. */
static int
side_compare(struct pair *p, const char *metadata, json_int_t limit, bool first, json_t *out)
{
	int64_t rows;
	int rc = 0;

	json_object_set_new(out, "written", json_boolean(metadata != NULL));
	if (metadata == NULL || p->sides[0] == NULL) {
		json_object_set_new(out, "equal", json_boolean(metadata == p->sides[0]));
		return 0;
	}
	if ((rows = side_rows(p->cx, metadata)) < 0)
		return -1;
	json_object_set_new(out, "rows", json_integer(rows));
	if (first) {
		json_object_set_new(out, "equal", json_true());
		return 0;
	}
	p->sides[1] = metadata;
	rc = pair_compare(p, limit, out);
	json_decref(p->columns[1]);
	p->columns[1] = NULL;
	return rc;
}

static int
table_compare(struct context *cx, const json_t *table, json_t *sides)
{
	json_int_t limit = json_integer_value(json_object_get(cx->spec, "limit"));
	const json_t *given = json_object_get(table, "sides");
	struct pair p = { .cx = cx,
			  .table = text_of(table, "table"),
			  .sides = { json_string_value(json_array_get(given, 0)), NULL } };
	json_t *metadata;
	int rc = 0;
	size_t i;

	if (p.sides[0] && (p.columns[0] = side_columns(cx, p.sides[0])) == NULL)
		rc = -1;
	json_array_foreach (given, i, metadata) {
		json_t *side = json_object();

		if (rc == 0)
			rc = side_compare(&p, json_string_value(metadata), limit, i == 0, side);
		json_array_append_new(sides, side);
	}
	json_decref(p.columns[0]);
	if (rc < 0)
		err_prefix(&cx->err, "table %s", p.table);
	return rc;
}

int
compare_run(struct context *cx)
{
	json_t *tables = json_array(), *table, *sides, *side;
	bool equal = true;
	size_t i, k;
	int rc = 0;

	if (duck_load_iceberg(cx->db, &cx->err) < 0 || task_s3_if_any(cx) < 0)
		rc = -1;
	json_array_foreach (json_object_get(cx->spec, "tables"), i, table) {
		if (rc < 0)
			break;
		sides = json_array();
		json_array_append_new(tables, json_pack("{s:O,s:o}", "table", json_object_get(table, "table"), "runs", sides));
		rc = table_compare(cx, table, sides);
		json_array_foreach (sides, k, side)
			equal = equal && json_is_true(json_object_get(side, "equal"));
	}
	if (rc == 0)
		report("result", json_pack("{s:b,s:O}", "equal", equal, "tables", tables));
	json_decref(tables);
	return rc < 0 ? -1 : 0;
}
