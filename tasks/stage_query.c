/* The statement whose rows a stage task writes: `where`, `select` and `rename` over what is read, then `sql`, then `limit`. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/stage_int.h"

static bool
is_name(const char *s)
{
	if (!(*s == '_' || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z')))
		return false;
	for (; *s; s++)
		if (!(*s == '_' || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9')))
			return false;
	return true;
}

/* The text of each `select` entry: a name, "expr AS name", or name: expr. */
static int
add_select(struct stage *st, struct buf *b)
{
	const json_t *select = json_object_get(st->cx->spec, "select"), *schema = json_object_get(st->cx->spec, "schema");
	const char *name;
	json_t *item;
	size_t i;

	if (json_is_array(select)) {
		json_array_foreach (select, i, item) {
			const char *text = json_string_value(item);
			char *key = xasprintf("select/%zu", i), *from = xasprintf(" FROM %s", st->reader.s);
			int rc = 0;

			if (i)
				buf_adds(b, ", ");
			if (is_name(text)) {
				if (!stage_has_name(st->names, text))
					rc = stage_missing_column(st, key, text);
				buf_add_sql_name(b, text);
			} else {
				rc = task_check_sql(st->cx, key, "SELECT ", text, from);
				buf_adds(b, text);
			}
			free(key);
			free(from);
			if (rc < 0)
				return rc;
		}
		return 0;
	}
	if (json_is_object(select) || json_is_object(schema)) {
		bool first = true;

		json_object_foreach ((json_t *)(uintptr_t)(json_is_object(select) ? select : schema), name, item) {
			if (!first)
				buf_adds(b, ", ");
			first = false;
			if (json_is_object(select)) {
				char *key = xasprintf("select/%s", name), *from = xasprintf(" FROM %s", st->reader.s);
				int rc = task_check_sql(st->cx, key, "SELECT ", json_string_value(item), from);

				free(key);
				free(from);
				if (rc < 0)
					return rc;
				buf_addf(b, "%s AS ", json_string_value(item));
			}
			buf_add_sql_name(b, name);
		}
		return 0;
	}
	buf_adds(b, "*");
	return 0;
}

/* All but `sql` and `limit`. */
static int
add_rows(struct stage *st, struct buf *out)
{
	const char *where = spec_text(st->cx, "where"), *name;
	const json_t *rename = json_object_get(st->cx->spec, "rename");
	struct buf inner = BUF_INIT;
	json_t *to;
	int rc = -1;
	size_t i;

	buf_adds(&inner, "SELECT ");
	if (add_select(st, &inner) < 0)
		goto out;
	buf_addf(&inner, " FROM %s", st->reader.s);
	if (where) {
		char *before = xasprintf("SELECT * FROM %s WHERE ", st->reader.s);

		rc = task_check_sql(st->cx, "where", before, where, "");
		free(before);
		if (rc < 0)
			goto out;
		buf_addf(&inner, " WHERE (%s\n)", where);
	}
	json_array_foreach (st->not_null, i, to) {
		buf_adds(&inner, where || i ? " AND " : " WHERE ");
		/* With `fail` the copy itself stops at the first one: no second reading to look for it in a good source. */
		buf_adds(&inner, st->on_reject == REJECT_FAIL ? "CASE WHEN " : "");
		buf_add_sql_name(&inner, json_string_value(to));
		buf_adds(&inner, st->on_reject == REJECT_FAIL ? " IS NULL THEN error('" STAGE_NULL_FOUND "') ELSE true END"
							      : " IS NOT NULL");
	}
	if (json_object_size(rename)) {
		json_t *columns = duck_describe(st->cx->db, inner.s, &st->cx->err), *names = json_array(), *column;
		bool first = true;

		if (columns == NULL) {
			json_decref(names);
			goto out;
		}
		json_array_foreach (columns, i, column)
			json_array_append(names, json_object_get(column, "name"));
		json_decref(columns);
		json_decref(st->names);
		st->names = names;
		buf_adds(out, "SELECT * RENAME (");
		json_object_foreach ((json_t *)(uintptr_t)rename, name, to) {
			if (!stage_has_name(st->names, name)) {
				rc = stage_missing_column(st, "rename", name);
				goto out;
			}
			buf_adds(out, first ? "" : ", ");
			first = false;
			buf_add_sql_name(out, name);
			buf_adds(out, " AS ");
			buf_add_sql_name(out, json_string_value(to));
		}
		buf_addf(out, ") FROM (%s)", inner.s);
	} else {
		buf_adds(out, inner.s);
	}
	rc = 0;
out:
	buf_release(&inner);
	return rc < 0 ? -1 : 0;
}

/* Puts the task's own statement in the place of `query`, which it knows as the view "this". */
static int
apply_sql(struct stage *st, const char *sql, struct buf *query)
{
	struct context *cx = st->cx;
	size_t n = strlen(sql);

	if (duck_execf(cx->db, &cx->err, "CREATE OR REPLACE TEMP VIEW this AS %s", query->s) < 0 ||
	    task_check_sql(cx, "sql", "", sql, "") < 0)
		return -1;
	/* A semicolon at the end is what people write, but not what a subquery takes. */
	while (n && strchr("; \t\r\n", sql[n - 1]))
		n--;
	buf_clear(query);
	buf_addf(query, "%.*s\n", (int)n, sql);
	return 0;
}

int
stage_query(struct stage *st, struct buf *out)
{
	const char *sql = spec_text(st->cx, "sql");
	const json_t *limit = json_object_get(st->cx->spec, "limit");
	struct buf query = BUF_INIT;
	int rc = add_rows(st, &query);

	if (rc == 0 && sql)
		rc = apply_sql(st, sql, &query);
	if (limit)
		buf_addf(out, "SELECT * FROM (%s) LIMIT %lld", query.s, (long long)json_integer_value(limit));
	else
		buf_adds(out, query.s);
	buf_release(&query);
	return rc;
}
