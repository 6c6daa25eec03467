/*
 * Are the rows that were written those of the source? Both are read once more before anything is committed: counted, and each
 * column's NULLs counted and its values' hashes added up, which no order of rows changes. Written values are made what they were
 * in the source again, so that a digit that a type of the table has no place for is missed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"
#include "tasks/report.h"

struct parity {
	const struct writer *wr;
	const json_t *columns; /* of the source: [{name, type}] */
	bool full;
	json_t *source, *written; /* rows, then of each column NULLs and (full) hash, then (full) the rows' hash */
	json_t *checks;
	struct buf failures;
};

static const char *
text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static json_t *
field_of(const struct writer *wr, const char *name)
{
	json_t *field, *loose = NULL;
	size_t i;

	json_array_foreach (wr->fields, i, field) {
		if (strcmp(text_of(field, "name"), name) == 0)
			return field;
		if (strcasecmp(text_of(field, "name"), name) == 0)
			loose = field;
	}
	return loose;
}

/* ---- both sides ---- */

/* "SELECT count(*), … FROM (SELECT c AS c0, … FROM `from`)"; NULL with the error set. */
static json_t *
measure(struct parity *p, bool written, const char *from)
{
	struct buf b = BUF_INIT, all = BUF_INIT, inner = BUF_INIT;
	json_t *rows, *row = NULL, *column;
	size_t i;

	buf_adds(&b, "SELECT count(*)::BIGINT");
	json_array_foreach (p->columns, i, column) {
		const char *name = text_of(column, "name");

		buf_addf(&b, ", (count(*) - count(c%zu))::BIGINT", i);
		if (p->full)
			buf_addf(&b, ", coalesce(sum(hash(c%zu)), 0)::VARCHAR", i);
		buf_addf(&all, "%sc%zu", i ? ", " : "", i);
		buf_addf(&inner, "%s%s", i ? ", " : "", written ? "TRY_CAST(" : "");
		buf_add_sql_name(&inner, written ? text_of(field_of(p->wr, name), "name") : name);
		if (written)
			buf_addf(&inner, " AS %s)", text_of(column, "type"));
		buf_addf(&inner, " AS c%zu", i);
	}
	if (p->full)
		buf_addf(&b, ", coalesce(sum(hash(%s)), 0)::VARCHAR", all.s);
	buf_addf(&b, " FROM (SELECT %s FROM %s)", inner.s, from);
	rows = duck_query_json(p->wr->cx->db, b.s, &p->wr->cx->err);
	if (rows)
		row = json_incref(json_array_get(rows, 0));
	json_decref(rows);
	buf_release(&b);
	buf_release(&all);
	buf_release(&inner);
	return row;
}

static json_t *
measure_source(struct parity *p)
{
	char *from = xasprintf("(%s\n)", p->wr->w->query);
	json_t *row = measure(p, false, from);

	free(from);
	return row;
}

static json_t *
measure_written(struct parity *p)
{
	const struct writer *wr = p->wr;
	struct buf from = BUF_INIT;
	struct buf files = BUF_INIT;
	json_t *row;

	if (writer_file_list(wr, NULL, &files))
		buf_addf(&from, "read_parquet(%s, hive_partitioning = false)", files.s);
	else
		buf_addf(&from, "(SELECT * FROM (%s) LIMIT 0)", wr->select);
	row = measure(p, true, from.s);
	buf_release(&files);
	buf_release(&from);
	return row;
}

/* ---- what differs ---- */

static json_t *
result(const char *name, bool passed, const char *message, json_int_t value)
{
	printf("%s parity, %s: %s\n", passed ? "passed" : "FAILED", name, message);
	return json_pack("{s:s,s:s,s:b,s:s,s:s,s:I}", "check", "parity", "name", name, "passed", passed, "severity", "error",
			 "message", message, "value", value);
}

static void
note(struct parity *p, const char *name, bool passed, const char *message, json_int_t value)
{
	json_array_append_new(p->checks, result(name, passed, message, value));
	if (!passed)
		buf_addf(&p->failures, "%s%s: %s", p->failures.len ? "; " : "", name, message);
}

static json_int_t
number(const json_t *row, size_t i)
{
	return json_integer_value(json_array_get(row, i));
}

static void
check_rows(struct parity *p)
{
	int64_t counted = p->wr->w->source_rows;
	json_int_t source = number(p->source, 0), written = number(p->written, 0);
	size_t last = json_array_size(p->source) - 1;
	bool same = !p->full || json_equal(json_array_get(p->source, last), json_array_get(p->written, last));
	struct buf b = BUF_INIT;

	buf_addf(&b, "%" JSON_INTEGER_FORMAT " in the source, %" JSON_INTEGER_FORMAT " written", source, written);
	if (counted >= 0)
		buf_addf(&b, ", %" PRId64 " by the source's own account", counted);
	if (p->full && source == written)
		buf_adds(&b, same ? "; the same ones" : "; their values are not the same");
	note(p, "rows", source == written && same && (counted < 0 || counted == source), b.s, source);
	buf_release(&b);
}

static int
check_column(struct parity *p, size_t i)
{
	const json_t *column = json_array_get(p->columns, i);
	const char *name = text_of(column, "name");
	const json_t *field = field_of(p->wr, name), *type = json_object_get(field, "type");
	size_t at = 1 + i * (p->full ? 2 : 1);
	json_int_t before = number(p->source, at), after = number(p->written, at);
	bool same = !p->full || json_equal(json_array_get(p->source, at + 1), json_array_get(p->written, at + 1));
	struct buf b = BUF_INIT;

	buf_addf(&b, "%s%s in the source, ", text_of(column, "type"),
		 task_has_name(p->wr->w->new_required, name) ? " required" : "");
	if (json_is_string(type))
		buf_adds(&b, json_string_value(type));
	else if (iceberg_to_duck(type, &b, &p->wr->cx->err) < 0) {
		buf_release(&b);
		return -1;
	}
	buf_addf(&b, "%s in the table; ", json_is_true(json_object_get(field, "required")) ? " required" : "");
	if (before != after)
		buf_addf(&b, "%" JSON_INTEGER_FORMAT " NULLs there, %" JSON_INTEGER_FORMAT " here", before, after);
	else
		buf_addf(&b, "%" JSON_INTEGER_FORMAT " NULLs in both%s", before,
			 !p->full ? ""
			 : same   ? ", the same values"
				  : ", but other values: the table's type does not keep them, or the source changed meanwhile");
	note(p, name, before == after && same, b.s, before);
	buf_release(&b);
	return 0;
}

/* The table's columns that the source does not have. */
static void
tell_others(struct parity *p)
{
	json_t *field, *column;
	size_t i, k;

	json_array_foreach (p->wr->fields, i, field) {
		bool found = false;

		json_array_foreach (p->columns, k, column)
			found = found || field_of(p->wr, text_of(column, "name")) == field;
		if (!found)
			note(p, text_of(field, "name"), true, "not in the source; NULL in every row", number(p->source, 0));
	}
}

int
parity_check(struct writer *wr)
{
	struct parity p = { .wr = wr, .columns = wr->columns, .full = wr->w->parity == PARITY_FULL, .failures = BUF_INIT };
	int rc = -1;

	p.checks = json_array();
	if ((p.source = measure_source(&p)) == NULL || (p.written = measure_written(&p)) == NULL)
		goto out;
	check_rows(&p);
	rc = 0;
	for (size_t i = 0; i < json_array_size(wr->columns) && rc == 0; i++)
		rc = check_column(&p, i);
	tell_others(&p);
	if (rc == 0 && p.failures.len)
		rc = task_fail(wr->cx, ERR_UNPROCESSABLE,
			       "what was written is not what the source has, so it was not published; %s", p.failures.s);
	report("checks", json_incref(p.checks));
out:
	json_decref(p.source);
	json_decref(p.written);
	json_decref(p.checks);
	buf_release(&p.failures);
	return rc;
}

int
parity_table(struct context *cx, const struct write *w)
{
	char at[24], *query, *sql;
	json_t *summary = NULL;
	int64_t counted, told, added;
	struct buf b = BUF_INIT;
	int rc = -1;

	snprintf(at, sizeof(at), "%" PRId64, w->snapshot_id);
	if (iceberg_attach(cx) < 0 || (query = inspect_at(cx, w->name, at, &summary)) == NULL)
		return -1;
	sql = xasprintf("SELECT count(*) FROM (%s)", query);
	counted = duck_count(cx->db, sql, &cx->err);
	told = text_of(summary, "total-records") ? strtoll(text_of(summary, "total-records"), NULL, 10) : -1;
	added = text_of(summary, "added-records") ? strtoll(text_of(summary, "added-records"), NULL, 10) : 0;
	if (counted >= 0) {
		buf_addf(&b, "snapshot %s has %" PRId64 " rows, %" PRId64 " by its summary; it added %" PRId64, at, counted, told,
			 added);
		rc = counted == told && added == w->rows ? 0 : -1;
		report("checks", json_pack("[o]", result("table", rc == 0, b.s, (json_int_t)counted)));
		if (rc < 0)
			task_fail(cx, ERR_UNPROCESSABLE, "table %s does not have the rows that were written: %s", w->name, b.s);
	}
	buf_release(&b);
	json_decref(summary);
	free(sql);
	free(query);
	return rc;
}
