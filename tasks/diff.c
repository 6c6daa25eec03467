/*
 * diff: which rows of a table differ between two of its snapshots. Each row counts +1 after and -1 before; what does not come
 * to zero differs. With a key, one row gone and one come of the same key are one row that changed.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/write.h"
#include "tasks/report.h"

#define CHANGED "before_n = 1 AND after_n = 1 AND lines = 2"

static const char *
name_of(const json_t *column, const char *side)
{
	return json_string_value(json_object_get(column, side));
}

static void
add_table(struct context *cx, struct buf *b, const char *side)
{
	buf_add_sql_name(b, json_string_value(json_object_get(json_object_get(cx->doc, "catalog"), "name")));
	buf_addc(b, '.');
	buf_add_sql_name(b, spec_text(cx, "namespace"));
	buf_addc(b, '.');
	buf_add_sql_name(b, spec_text(cx, "table"));
	buf_addf(b, " AT (VERSION => %s)", spec_text(cx, side));
}

/* The rows of one side, columns as c0, c1, … whatever they were called then; one that was not there is NULL. */
static void
add_side(struct context *cx, struct buf *b, const char *side, int sign)
{
	const json_t *column;
	size_t i;

	buf_adds(b, "SELECT ");
	json_array_foreach (json_object_get(cx->spec, "columns"), i, column) {
		if (name_of(column, side))
			buf_add_sql_name(b, name_of(column, side));
		else
			buf_adds(b, "NULL");
		buf_addf(b, " AS c%zu, ", i);
	}
	buf_addf(b, "%d AS n FROM ", sign);
	add_table(cx, b, side);
}

/* "{'id': c0, …}": a row under its columns' names. */
static void
add_row(struct context *cx, struct buf *b)
{
	const json_t *column;
	size_t i;

	json_array_foreach (json_object_get(cx->spec, "columns"), i, column) {
		buf_adds(b, i ? ", " : "{");
		buf_add_sql_string(b, name_of(column, "name"));
		buf_addf(b, ": c%zu", i);
	}
	buf_addc(b, '}');
}

/* The key's columns ("c0, c2"), or without a key all: then no two lines are of one key. */
static void
add_key(struct context *cx, struct buf *b)
{
	const json_t *key = json_object_get(cx->spec, "key"), *at;
	size_t n = json_array_size(json_object_get(cx->spec, "columns")), i;
	const char *comma = "";

	json_array_foreach (key, i, at) {
		buf_addf(b, "%sc%" JSON_INTEGER_FORMAT, comma, json_integer_value(at));
		comma = ", ";
	}
	for (i = 0; i < n && json_array_size(key) == 0; i++) {
		buf_addf(b, "%sc%zu", comma, i);
		comma = ", ";
	}
}

/* Makes the table `sluice_diff` of (kind, before, after, times) and the key's columns. */
static int
diff_rows(struct context *cx)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_adds(&b, "CREATE TEMP TABLE sluice_lines AS SELECT * EXCLUDE (n), sum(n)::BIGINT AS n FROM (");
	add_side(cx, &b, "after", 1);
	buf_adds(&b, " UNION ALL ");
	add_side(cx, &b, "before", -1);
	buf_adds(&b, ") GROUP BY ALL HAVING sum(n) <> 0");
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_clear(&b);
	buf_adds(&b, "CREATE TEMP TABLE sluice_diff AS WITH paired AS (SELECT *, ");
	add_row(cx, &b);
	buf_adds(&b, " AS r, sum(if(n < 0, -n, 0)) OVER k AS before_n, sum(if(n > 0, n, 0)) OVER k AS after_n,"
		     " count(*) OVER k AS lines FROM sluice_lines WINDOW k AS (PARTITION BY ");
	add_key(cx, &b);
	buf_adds(&b, ")) SELECT 'changed' AS kind, to_json(any_value(r) FILTER (n < 0)) AS before,"
		     " to_json(any_value(r) FILTER (n > 0)) AS after, 1::BIGINT AS times, ");
	add_key(cx, &b);
	buf_adds(&b, " FROM paired WHERE " CHANGED " GROUP BY ");
	add_key(cx, &b);
	buf_adds(&b, " UNION ALL SELECT if(n > 0, 'added', 'removed'), if(n < 0, to_json(r), NULL), if(n > 0, to_json(r), NULL),"
		     " abs(n), ");
	add_key(cx, &b);
	buf_adds(&b, " FROM paired WHERE NOT (" CHANGED ")");
	if (rc == 0)
		rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	return rc < 0 ? -1 : 0;
}

static json_t *
parsed(struct duck_result *r, size_t row, size_t col)
{
	char *text = duck_text(r, row, col);
	json_t *out = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

	free(text);
	return out ? out : json_null();
}

/* The first rows; `truncated` says whether there are more. */
static json_t *
diff_list(struct context *cx, json_int_t limit, bool *truncated)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	json_t *out;

	buf_adds(&b, "SELECT kind, times, before, after FROM sluice_diff ORDER BY ");
	add_key(cx, &b);
	buf_addf(&b, ", kind DESC LIMIT %" JSON_INTEGER_FORMAT, limit + 1);
	r = duck_query(cx->db, b.s, &cx->err);
	buf_release(&b);
	if (r == NULL)
		return NULL;
	*truncated = (json_int_t)duck_rows(r) > limit;
	out = json_array();
	for (size_t i = 0; i < duck_rows(r) && (json_int_t)i < limit; i++)
		json_array_append_new(out, json_pack("{s:o,s:o,s:o,s:o}", "change", duck_json(r, i, 0), "times",
						     duck_json(r, i, 1), "before", parsed(r, i, 2), "after", parsed(r, i, 3)));
	duck_result_free(r);
	return out;
}

static int
count_into(struct context *cx, json_t *counts, const char *name, const char *sql)
{
	int64_t n = duck_count(cx->db, sql, &cx->err);

	json_object_set_new(counts, name, json_integer(n));
	return cx->err.code ? -1 : 0;
}

static int
count_side(struct context *cx, json_t *counts, const char *side)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_adds(&b, "SELECT count(*) FROM ");
	add_table(cx, &b, side);
	rc = count_into(cx, counts, side, b.s);
	buf_release(&b);
	return rc;
}

/* {before, after, added, removed, changed} */
static int
diff_counts(struct context *cx, json_t *counts)
{
	static const char *const kinds[] = { "added", "removed", "changed" };
	int rc = count_side(cx, counts, "before");

	if (rc == 0)
		rc = count_side(cx, counts, "after");
	for (size_t i = 0; rc == 0 && i < 3; i++) {
		char *sql = xasprintf("SELECT coalesce(sum(times), 0)::BIGINT FROM sluice_diff WHERE kind = '%s'", kinds[i]);

		rc = count_into(cx, counts, kinds[i], sql);
		free(sql);
	}
	return rc;
}

int
diff_run(struct context *cx)
{
	json_t *counts, *rows = NULL;
	bool truncated = false;

	if (iceberg_attach(cx) < 0 || diff_rows(cx) < 0)
		return -1;
	counts = json_object();
	if (diff_counts(cx, counts) == 0)
		rows = diff_list(cx, json_integer_value(json_object_get(cx->spec, "limit")), &truncated);
	if (rows)
		report("result", json_pack("{s:O,s:O,s:b}", "counts", counts, "rows", rows, "truncated", truncated));
	json_decref(counts);
	json_decref(rows);
	return rows ? 0 : -1;
}
