/*
 * validate: what must hold of a table or a query. Each check is one SQL statement that gives what it found; all of them run
 * and are reported, and the task fails when one of severity `error` did not hold.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/write.h"
#include "tasks/report.h"

struct check {
	struct context *cx;
	const char *subject; /* "stg.t" or "the query", for messages */
	size_t index;
	const char *kind;
	const json_t *arg;
	bool passed;
	struct buf message;
	int64_t value;
};

typedef int (*check_fn)(struct check *c);

static void
add_names(struct buf *b, const json_t *names)
{
	json_t *name;
	size_t i;

	if (json_is_string(names)) {
		buf_add_sql_name(b, json_string_value(names));
		return;
	}
	json_array_foreach (names, i, name) {
		if (i)
			buf_adds(b, ", ");
		buf_add_sql_name(b, json_string_value(name) ? json_string_value(name) : "");
	}
}

/* A JSON scalar as a SQL literal. */
static void
add_literal(struct buf *b, const json_t *v)
{
	char *text;

	if (json_is_string(v)) {
		buf_add_sql_string(b, json_string_value(v));
		return;
	}
	text = json_dumps(v, JSON_ENCODE_ANY);
	buf_adds(b, text ? text : "NULL");
	free(text);
}

static int
count_of(struct check *c, const char *sql)
{
	c->value = duck_count(c->cx->db, sql, &c->cx->err);
	return c->cx->err.code ? -1 : 0;
}

static int
check_row_count(struct check *c)
{
	const json_t *min = json_object_get(c->arg, "min"), *max = json_object_get(c->arg, "max"),
		     *eq = json_object_get(c->arg, "equals");

	if (count_of(c, "SELECT count(*) FROM this") < 0)
		return -1;
	if (json_is_integer(c->arg))
		eq = c->arg;
	c->passed = !(min && c->value < json_integer_value(min)) && !(max && c->value > json_integer_value(max)) &&
		    !(eq && c->value != json_integer_value(eq));
	buf_addf(&c->message, "%" PRId64 " rows in %s", c->value, c->subject);
	if (eq)
		buf_addf(&c->message, ", expected %lld", (long long)json_integer_value(eq));
	if (min)
		buf_addf(&c->message, ", at least %lld expected", (long long)json_integer_value(min));
	if (max)
		buf_addf(&c->message, ", at most %lld expected", (long long)json_integer_value(max));
	return 0;
}

static int
check_not_null(struct check *c)
{
	const json_t *names = c->arg;
	size_t n = json_is_array(names) ? json_array_size(names) : 1;
	struct buf b = BUF_INIT;
	int rc;

	c->passed = true;
	for (size_t i = 0; i < n; i++) {
		const char *name = json_string_value(json_is_array(names) ? json_array_get(names, i) : names);
		int64_t before = c->value;

		buf_clear(&b);
		buf_adds(&b, "SELECT count(*) FROM this WHERE ");
		buf_add_sql_name(&b, name ? name : "");
		buf_adds(&b, " IS NULL");
		rc = count_of(c, b.s);
		if (rc < 0)
			goto out;
		if (c->value) {
			buf_addf(&c->message, "%s%" PRId64 " rows of %s have no \"%s\"", c->message.len ? "; " : "", c->value,
				 c->subject, name);
			c->passed = false;
		}
		c->value += before;
	}
	rc = 0;
	if (c->passed)
		buf_addf(&c->message, "no nulls in %s", c->subject);
out:
	buf_release(&b);
	return rc;
}

static int
check_unique(struct check *c)
{
	const json_t *names = c->arg;
	size_t n = json_is_array(names) ? json_array_size(names) : 1;
	struct buf b = BUF_INIT;
	struct duck_result *r;

	buf_adds(&b, "SELECT count(*), min(k)::VARCHAR FROM (SELECT row(");
	add_names(&b, c->arg);
	buf_adds(&b, ") AS k FROM this WHERE ");
	/* A key without a value is no key, as in SQL: not_null is the check for it. */
	for (size_t i = 0; i < n; i++) {
		const char *name = json_string_value(json_is_array(names) ? json_array_get(names, i) : names);

		buf_adds(&b, i ? " AND " : "");
		buf_add_sql_name(&b, name ? name : "");
		buf_adds(&b, " IS NOT NULL");
	}
	buf_adds(&b, " GROUP BY ");
	add_names(&b, c->arg);
	buf_adds(&b, " HAVING count(*) > 1)");
	r = duck_query(c->cx->db, b.s, &c->cx->err);
	buf_release(&b);
	if (r == NULL)
		return -1;
	c->value = duck_int(r, 0, 0);
	c->passed = c->value == 0;
	if (c->passed) {
		buf_addf(&c->message, "every key is unique in %s", c->subject);
	} else {
		char *example = duck_text(r, 0, 1);

		buf_addf(&c->message, "%" PRId64 " duplicated key%s in %s, for example %s", c->value, c->value == 1 ? "" : "s",
			 c->subject, example ? example : "(null)");
		free(example);
	}
	duck_result_free(r);
	return 0;
}

/* Counts rows that match a condition and shows one of the values. */
static int
check_none(struct check *c, const char *column, const char *condition, const char *what)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *example;

	buf_adds(&b, "SELECT count(*), any_value(");
	buf_add_sql_name(&b, column);
	buf_addf(&b, ")::VARCHAR FROM this WHERE %s", condition);
	r = duck_query(c->cx->db, b.s, &c->cx->err);
	buf_release(&b);
	if (r == NULL)
		return -1;
	c->value = duck_int(r, 0, 0);
	c->passed = c->value == 0;
	example = duck_text(r, 0, 1);
	if (c->passed)
		buf_addf(&c->message, "every \"%s\" of %s is %s", column, c->subject, what);
	else
		buf_addf(&c->message, "%" PRId64 " row%s of %s have a \"%s\" that is not %s, for example '%s'", c->value,
			 c->value == 1 ? "" : "s", c->subject, column, what, example ? example : "");
	free(example);
	duck_result_free(r);
	return 0;
}

static const char *
check_column(struct check *c)
{
	const char *column = json_string_value(json_object_get(c->arg, "column"));

	if (column == NULL)
		task_fail(c->cx, ERR_INVALID, "checks[%zu] %s needs a `column`", c->index, c->kind);
	return column;
}

static int
check_accepted_values(struct check *c)
{
	const char *column = check_column(c);
	const json_t *values = json_object_get(c->arg, "values");
	struct buf b = BUF_INIT;
	json_t *v;
	size_t i;
	int rc;

	if (column == NULL)
		return -1;
	buf_add_sql_name(&b, column);
	buf_adds(&b, " IS NOT NULL AND ");
	buf_add_sql_name(&b, column);
	buf_adds(&b, "::VARCHAR NOT IN (");
	json_array_foreach (values, i, v) {
		if (i)
			buf_adds(&b, ", ");
		add_literal(&b, v);
		buf_adds(&b, "::VARCHAR");
	}
	buf_adds(&b, json_array_size(values) ? ")" : "NULL)");
	rc = check_none(c, column, b.s, "one of the accepted values");
	buf_release(&b);
	return rc;
}

static int
check_range(struct check *c)
{
	const char *column = check_column(c);
	const json_t *min = json_object_get(c->arg, "min"), *max = json_object_get(c->arg, "max");
	struct buf b = BUF_INIT, what = BUF_INIT;
	int rc;

	if (column == NULL)
		return -1;
	buf_adds(&what, min && max ? "between " : min ? "at least " : "at most ");
	if (min)
		add_literal(&what, min);
	if (min && max)
		buf_adds(&what, " and ");
	if (max)
		add_literal(&what, max);
	buf_adds(&b, "false");
	if (min) {
		buf_adds(&b, " OR ");
		buf_add_sql_name(&b, column);
		buf_adds(&b, " < ");
		add_literal(&b, min);
	}
	if (max) {
		buf_adds(&b, " OR ");
		buf_add_sql_name(&b, column);
		buf_adds(&b, " > ");
		add_literal(&b, max);
	}
	rc = check_none(c, column, b.s, what.s);
	buf_release(&b);
	buf_release(&what);
	return rc;
}

static int
check_schema(struct check *c)
{
	json_t *columns = duck_describe(c->cx->db, "SELECT * FROM this", &c->cx->err), *want, *column;
	const char *name;
	struct buf b = BUF_INIT;
	size_t i;

	if (columns == NULL)
		return -1;
	c->passed = true;
	json_object_foreach ((json_t *)(uintptr_t)c->arg, name, want) {
		const char *have = NULL, *near, *text = json_string_value(want) ? json_string_value(want) : "VARCHAR";
		const char *not_null = strcasestr(text, " not null");
		struct duck_result *r;
		int64_t nulls;
		char *type;

		json_array_foreach (columns, i, column)
			if (strcmp(json_string_value(json_object_get(column, "name")), name) == 0)
				have = json_string_value(json_object_get(column, "type"));
		if (have == NULL) {
			near = task_nearest(columns, name);
			buf_addf(&c->message, "%s%s has no column \"%s\"%s%s%s", c->message.len ? "; " : "", c->subject, name,
				 near ? " (is it \"" : "", near ? near : "", near ? "\"?)" : "");
			c->passed = false;
			continue;
		}
		/* The engine's own spelling of the wanted type: bigint, int8 and LONG are one. */
		buf_clear(&b);
		buf_addf(&b, "SELECT typeof(CAST(NULL AS %.*s))", (int)(not_null ? (size_t)(not_null - text) : strlen(text)),
			 text);
		r = duck_query(c->cx->db, b.s, &c->cx->err);
		if (r == NULL) {
			json_decref(columns);
			buf_release(&b);
			return -1;
		}
		type = duck_text(r, 0, 0);
		duck_result_free(r);
		if (type == NULL || strcmp(type, have) != 0) {
			buf_addf(&c->message, "%scolumn \"%s\" of %s is %s, expected %s", c->message.len ? "; " : "", name,
				 c->subject, have, type ? type : "");
			c->passed = false;
		}
		free(type);
		if (not_null == NULL)
			continue;
		buf_clear(&b);
		buf_adds(&b, "SELECT count(*) FROM this WHERE ");
		buf_add_sql_name(&b, name);
		buf_adds(&b, " IS NULL");
		nulls = duck_count(c->cx->db, b.s, &c->cx->err);
		if (nulls < 0) {
			json_decref(columns);
			buf_release(&b);
			return -1;
		}
		if (nulls) {
			buf_addf(&c->message, "%s%" PRId64 " row%s of %s have no \"%s\"", c->message.len ? "; " : "", nulls,
				 nulls == 1 ? "" : "s", c->subject, name);
			c->passed = false;
		}
	}
	if (c->passed)
		buf_addf(&c->message, "the columns of %s are as expected", c->subject);
	buf_release(&b);
	json_decref(columns);
	return 0;
}

static int
check_sql(struct check *c)
{
	const char *sql = json_string_value(c->arg);
	struct duck_result *r;
	char *key = xasprintf("checks/%zu/sql", c->index), *text;
	int rc = task_check_sql(c->cx, key, "", sql ? sql : "", "");

	free(key);
	if (rc < 0 || (r = duck_query(c->cx->db, sql, &c->cx->err)) == NULL)
		return -1;
	text = duck_rows(r) == 1 && duck_cols(r) == 1 ? duck_text(r, 0, 0) : NULL;
	/* One boolean says so itself; a number or several rows are what is wrong: none may be there. */
	if (duck_rows(r) == 1 && duck_cols(r) == 1 && text && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)) {
		c->passed = strcmp(text, "true") == 0;
		buf_addf(&c->message, "the statement says %s", text);
	} else if (duck_cols(r) == 1 && duck_rows(r) == 1) {
		c->passed = false;
		buf_addf(&c->message, "the statement must give true, it gave %s", text ? text : "NULL");
	} else {
		c->value = (int64_t)duck_rows(r);
		c->passed = c->value == 0;
		buf_addf(&c->message, "the statement gave %" PRId64 " rows, none expected", c->value);
	}
	free(text);
	duck_result_free(r);
	return 0;
}

static const char *
file_reader(const char *path)
{
	const char *name = strrchr(path, '/');

	if (strstr(name, ".csv") || strstr(name, ".tsv"))
		return "read_csv";
	return strstr(name, ".json") || strstr(name, ".ndjson") ? "read_json" : "read_parquet";
}

/* The rows of a file or a table, counted, against a statement's number or this table's rows. */
static int
check_same_rows(struct check *c)
{
	struct context *cx = c->cx;
	const char *of = json_string_value(json_object_get(c->arg, "count_of")),
		   *as = json_string_value(json_object_get(c->arg, "as"));
	struct buf b = BUF_INIT;
	int64_t want, have;

	if (of == NULL)
		return task_fail(cx, ERR_INVALID, "checks[%zu] same_rows needs `count_of`: a path or a table", c->index);
	buf_adds(&b, "SELECT count(*) FROM ");
	if (strchr(of, '/')) {
		const char *path = task_path(cx, "count_of", of);

		if (path == NULL) {
			buf_release(&b);
			return -1;
		}
		/* By its reader: a bare path would be looked up in the catalog first. */
		buf_adds(&b, file_reader(path));
		buf_addc(&b, '(');
		buf_add_sql_string(&b, path);
		buf_addc(&b, ')');
	} else {
		char *ns, *table;

		if (task_table_name(cx, of, &ns, &table) < 0) {
			buf_release(&b);
			return -1;
		}
		buf_add_sql_name(&b, ns);
		buf_addc(&b, '.');
		buf_add_sql_name(&b, table);
		free(ns);
		free(table);
	}
	want = duck_count(cx->db, b.s, &cx->err);
	buf_release(&b);
	if (cx->err.code)
		return -1;
	if (as) {
		char *key = xasprintf("checks/%zu/same_rows/as", c->index);
		int rc = task_check_sql(cx, key, "", as, "");

		free(key);
		if (rc < 0)
			return -1;
		b = (struct buf)BUF_INIT;
		buf_addf(&b, "SELECT coalesce((%s\n), 0)::BIGINT", as);
		have = duck_count(cx->db, b.s, &cx->err);
		buf_release(&b);
	} else {
		have = duck_count(cx->db, "SELECT count(*) FROM this", &cx->err);
	}
	if (cx->err.code)
		return -1;
	c->value = have;
	c->passed = want == have;
	buf_addf(&c->message, "%" PRId64 " rows in %s, %" PRId64 " in %s%s", want, of, have, c->subject,
		 c->passed ? "" : ": they differ");
	return 0;
}

static const struct {
	const char *kind;
	check_fn run;
} check_kinds[] = {
	{ "row_count", check_row_count },
	{ "not_null", check_not_null },
	{ "unique", check_unique },
	{ "accepted_values", check_accepted_values },
	{ "range", check_range },
	{ "schema", check_schema },
	{ "sql", check_sql },
	{ "same_rows", check_same_rows },
};

static int
check_run(struct context *cx, const char *subject, size_t index, const json_t *def, struct buf *failures)
{
	struct check c = { .cx = cx, .subject = subject, .index = index, .message = BUF_INIT };
	const char *severity = json_string_value(json_object_get(def, "severity")),
		   *name = json_string_value(json_object_get(def, "name"));
	int rc = -1;

	for (size_t i = 0; i < sizeof(check_kinds) / sizeof(check_kinds[0]); i++) {
		c.arg = json_object_get(def, check_kinds[i].kind);
		if (c.arg == NULL)
			continue;
		c.kind = check_kinds[i].kind;
		rc = check_kinds[i].run(&c);
		break;
	}
	if (c.kind == NULL)
		return task_fail(cx, ERR_INVALID, "checks[%zu] is of no known kind", index);
	if (severity == NULL)
		severity = "error";
	if (rc == 0) {
		json_t *args = json_incref((json_t *)(uintptr_t)c.arg);

		report("checks", json_pack("[{s:s,s:s,s:b,s:s,s:s,s:I,s:o}]", "check", c.kind, "name", name ? name : c.kind,
					   "passed", c.passed, "severity", severity, "message", c.message.s, "value",
					   (json_int_t)c.value, "argument", args));
		printf("%s %s: %s\n",
		       c.passed                        ? "passed"
		       : strcmp(severity, "warn") == 0 ? "warning"
						       : "FAILED",
		       name ? name : c.kind, c.message.s);
		if (!c.passed && strcmp(severity, "warn") != 0)
			buf_addf(failures, "%s%s: %s", failures->len ? "; " : "", name ? name : c.kind, c.message.s);
	} else if (cx->err.code && strstr(cx->err.msg, "checks") == NULL) {
		err_prefix(&cx->err, "check %s of %s", name ? name : c.kind, subject);
	}
	buf_release(&c.message);
	return rc;
}

int
validate_run(struct context *cx)
{
	const char *name = spec_text(cx, "table"), *sql = spec_text(cx, "sql"), *on_fail = spec_text(cx, "on_fail");
	struct buf view = BUF_INIT, failures = BUF_INIT;
	char *ns = NULL, *table = NULL, *subject = NULL;
	json_t *def;
	size_t i;
	int rc = -1;

	/* One transaction: all checks see the same snapshot, and ask the catalog for it once. It ends with the process. */
	if (iceberg_attach(cx) < 0 || duck_exec(cx->db, "BEGIN", &cx->err) < 0)
		goto out;
	buf_adds(&view, "CREATE OR REPLACE TEMP VIEW this AS ");
	if (name && spec_text(cx, "at")) {
		char *query;

		if (task_table_name(cx, name, &ns, &table) < 0 ||
		    (query = inspect_at(cx, name, spec_text(cx, "at"), NULL)) == NULL)
			goto out;
		buf_adds(&view, query);
		free(query);
		subject = xasprintf("%s.%s at %s", ns, table, spec_text(cx, "at"));
	} else if (spec_text(cx, "at")) {
		task_fail_at(cx, "at", "`at` goes with `table`; in `sql` write as_of('namespace.table', '%s')",
			     spec_text(cx, "at"));
		goto out;
	} else if (name) {
		if (task_table_name(cx, name, &ns, &table) < 0)
			goto out;
		buf_adds(&view, "SELECT * FROM ");
		buf_add_sql_name(&view, json_string_value(json_object_get(json_object_get(cx->doc, "catalog"), "name")));
		buf_addc(&view, '.');
		buf_add_sql_name(&view, ns);
		buf_addc(&view, '.');
		buf_add_sql_name(&view, table);
		subject = xasprintf("%s.%s", ns, table);
	} else {
		if (sql == NULL || task_check_sql(cx, "sql", "", sql, "") < 0)
			goto out;
		buf_addf(&view, "%s", sql);
		subject = xstrdup("the query");
	}
	if (duck_exec(cx->db, view.s, &cx->err) < 0)
		goto out;
	json_array_foreach (json_object_get(cx->spec, "checks"), i, def)
		if (check_run(cx, subject, i, def, &failures) < 0)
			goto out;
	report_output("passed", json_boolean(failures.len == 0));
	rc = 0;
	if (failures.len && (on_fail == NULL || strcmp(on_fail, "warn") != 0))
		rc = task_fail(cx, ERR_UNPROCESSABLE, "%s", failures.s);
out:
	free(ns);
	free(table);
	free(subject);
	buf_release(&view);
	buf_release(&failures);
	return rc;
}
