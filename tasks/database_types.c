/*
 * Types of another database's columns that the engine would give otherwise than they are: as numbers with fewer digits, as text
 * that nobody asked for, or not at all. Nothing is changed in silence: they are refused, with what to write instead.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/database.h"
#include "tasks/engines/duckdb.h"

/* PostgreSQL's name of a type, and the engine's where that is one value of a column */
static const struct {
	const char *theirs, *ours;
} readable[] = {
	{ "bool", "BOOLEAN" }, { "int2", "SMALLINT" },   { "int4", "INTEGER" },        { "int8", "BIGINT" },
	{ "float4", "FLOAT" }, { "float8", "DOUBLE" },   { "numeric", NULL }, /* as it says */
	{ "text", "VARCHAR" }, { "varchar", "VARCHAR" }, { "bpchar", "VARCHAR" },      { "name", "VARCHAR" },
	{ "char", "VARCHAR" }, { "json", "VARCHAR" },    { "jsonb", "VARCHAR" },       { "bytea", "BLOB" },
	{ "date", "DATE" },    { "time", "TIME" },       { "timestamp", "TIMESTAMP" }, { "timestamptz", "TIMESTAMPTZ" },
	{ "uuid", "UUID" },    { "oid", "UINTEGER" },
};

static int
fail_type(struct context *cx, const struct database *d, const char *key, const char *column, const char *type, const char *why,
	  const char *example)
{
	int rc = task_fail_at(cx, key, "%s: column \"%s\" is of type %s, %s; cast it in `query`, as in SELECT … %s", d->place,
			      column, type, why, example);

	cx->final = true;
	return rc;
}

/*
 * The types that a column is made of, one a row: column, name of the type, the type with its parameters, is it an enum, is it
 * inside of an array or a composite type, and of a domain. A query's columns have no other place where they say so than their
 * values.
 */
static char *
leaves_query(const struct database *d, const char *query, const json_t *columns)
{
	struct buf b = BUF_INIT;
	json_t *column;
	size_t i;

	buf_adds(&b, "WITH RECURSIVE seed AS (SELECT v.col, v.typ FROM (SELECT 1) o LEFT JOIN (SELECT * FROM ");
	if (query)
		buf_addf(&b, "(%s\n)", query);
	else
		database_add_own_table(d, &b);
	buf_adds(&b, " x LIMIT 0) q ON true CROSS JOIN LATERAL (VALUES ");
	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name"));

		buf_adds(&b, i ? ", (" : "(");
		buf_add_sql_string(&b, name);
		buf_adds(&b, ", pg_typeof(q.");
		buf_add_sql_name(&b, name);
		buf_adds(&b, ")::oid)");
	}
	buf_adds(&b,
		 ") v(col, typ)), leaf(col, typ, mod, inside, domain) AS (SELECT col, typ, -1, false, false FROM seed UNION ALL "
		 "SELECT l.col, x.typ, x.mod, l.inside OR t.typtype <> 'd', l.domain OR t.typtype = 'd' FROM leaf l JOIN pg_type "
		 "t "
		 "ON t.oid = l.typ CROSS JOIN LATERAL (SELECT t.typelem, -1 WHERE t.typcategory = 'A' UNION ALL "
		 "SELECT t.typbasetype, t.typtypmod WHERE t.typtype = 'd' UNION ALL SELECT a.atttypid, a.atttypmod FROM "
		 "pg_attribute "
		 "a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) x(typ, mod)) "
		 "SELECT l.col, t.typname::text, format_type(l.typ, l.mod), (t.typtype = 'e')::int, l.inside::int, l.domain::int "
		 "FROM leaf l JOIN pg_type t ON t.oid = l.typ WHERE t.typcategory <> 'A' AND t.typtype NOT IN ('c', 'd')");
	return buf_detach(&b);
}

static const char *
type_of(const json_t *columns, const char *name)
{
	json_t *column;
	size_t i;

	json_array_foreach ((json_t *)(uintptr_t)columns, i, column)
		if (strcmp(json_string_value(json_object_get(column, "name")), name) == 0)
			return json_string_value(json_object_get(column, "type"));
	return "";
}

/* One row of leaves_query. */
static int
check_leaf(struct context *cx, const struct database *d, const char *key, const json_t *leaf, const json_t *columns,
	   json_t *casts)
{
	const char *column = json_string_value(json_array_get(leaf, 0)), *name = json_string_value(json_array_get(leaf, 1)),
		   *full = json_string_value(json_array_get(leaf, 2)), *given = type_of(columns, column), *ours = NULL;
	bool is_enum = json_integer_value(json_array_get(leaf, 3)), inside = json_integer_value(json_array_get(leaf, 4)),
	     domain = json_integer_value(json_array_get(leaf, 5)), text = strcmp(given, "VARCHAR") == 0, known = is_enum;
	char *example = NULL;
	int rc = 0;

	for (size_t i = 0; i < sizeof(readable) / sizeof(readable[0]); i++)
		if (strcmp(readable[i].theirs, name) == 0) {
			known = true;
			ours = readable[i].ours;
		}
	if (!known) {
		example = xasprintf("%s::text AS %s", column, column);
		rc = fail_type(cx, d, key, column, full, "for which Parquet has no counterpart", example);
	} else if (strcmp(name, "numeric") == 0 && (strstr(given, "DOUBLE") || (text && strchr(full, '(') == NULL))) {
		example = xasprintf("%s::numeric(38, 10) AS %s", column, column);
		rc = fail_type(cx, d, key, column, full, "which may have more digits than the 38 of a decimal", example);
	} else if (inside && (text || domain)) {
		example = xasprintf("%s::text AS %s, or array_to_json(%s)::text AS %s", column, column, column, column);
		rc = fail_type(cx, d, key, column, full,
			       domain ? "a domain inside of another type" : "inside of another type that a query gives as text",
			       example);
	} else if (text && ours && strcmp(ours, "BLOB") == 0) {
		example = xasprintf("%s::bytea AS %s", column, column);
		rc = fail_type(cx, d, key, column, full, "by way of a domain", example);
	} else if (text && !inside && !is_enum && (ours == NULL || strcmp(ours, "VARCHAR") != 0)) {
		json_object_set_new(casts, column, json_string(ours ? ours : full)); /* numeric(10,2) is ours, too */
	}
	free(example);
	return rc;
}

static int
check_postgres(struct context *cx, const struct database *d, const char *key, const char *query, const json_t *columns,
	       json_t *casts)
{
	char *sql = leaves_query(d, query, columns);
	struct buf b = BUF_INIT;
	json_t *leaves, *leaf;
	int rc = 0;
	size_t i;

	buf_adds(&b, "SELECT * FROM ");
	database_add_query(d, &b, sql);
	leaves = duck_query_json(cx->db, b.s, &cx->err);
	json_array_foreach (leaves, i, leaf)
		if (rc == 0)
			rc = check_leaf(cx, d, key, leaf, columns, casts);
	if (leaves == NULL)
		rc = -1;
	json_decref(leaves);
	buf_release(&b);
	free(sql);
	return rc;
}

/* The columns of the table at hand, by the server's own words: [[column, type], …]. */
static json_t *
declared(struct context *cx, const struct database *d)
{
	struct buf sql = BUF_INIT, b = BUF_INIT;
	json_t *rows;

	if (d->kind == DATABASE_SQLITE) {
		buf_adds(&sql, "SELECT name, upper(type) FROM pragma_table_info(");
		buf_add_sql_string(&sql, d->table);
	} else {
		buf_adds(&sql,
			 "SELECT column_name, column_type FROM information_schema.columns WHERE (table_schema, table_name) = (");
		buf_add_sql_string(&sql, d->schema);
		buf_adds(&sql, ", ");
		buf_add_sql_string(&sql, d->table);
	}
	buf_addc(&sql, ')');
	buf_adds(&b, "SELECT * FROM ");
	database_add_query(d, &b, sql.s);
	rows = duck_query_json(cx->db, b.s, &cx->err);
	buf_release(&sql);
	buf_release(&b);
	return rows;
}

static bool
is_spatial(const char *type)
{
	static const char *const names[] = { "geometry",   "point",           "linestring",   "polygon",
					     "multipoint", "multilinestring", "multipolygon", "geometrycollection" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(type, names[i]) == 0)
			return true;
	return false;
}

static int
check_declared(struct context *cx, const struct database *d, const char *key, const json_t *columns)
{
	json_t *rows = declared(cx, d), *row;
	int rc = rows ? 0 : -1;
	size_t i;

	json_array_foreach (rows, i, row) {
		const char *column = json_string_value(json_array_get(row, 0)), *type = json_string_value(json_array_get(row, 1)),
			   *given = type_of(columns, column), *why = NULL;
		char *example = xasprintf("CAST(%s AS %s) AS %s", column, d->kind == DATABASE_MYSQL ? "CHAR" : "TEXT", column);

		if (d->kind == DATABASE_SQLITE && *type == '\0')
			why = "so that a value may be anything";
		else if (d->kind == DATABASE_SQLITE && strcmp(type, "TIME") == 0)
			why = "which the engine takes for a point in time";
		else if (d->kind == DATABASE_MYSQL && strncmp(type, "decimal", 7) == 0 && strcmp(given, "DOUBLE") == 0)
			why = "which has more digits than the 38 of a decimal";
		else if (d->kind == DATABASE_MYSQL && is_spatial(type))
			why = "for which Parquet has no counterpart";
		if (rc == 0 && why)
			rc = fail_type(cx, d, key, column, *type ? type : "(none)", why, example);
		free(example);
	}
	json_decref(rows);
	return rc;
}

int
database_check_types(struct context *cx, const struct database *d, const char *key, const char *query, const json_t *columns,
		     json_t *casts)
{
	if (d->kind == DATABASE_POSTGRES)
		return check_postgres(cx, d, key, query, columns, casts);
	return query ? 0 : check_declared(cx, d, key, columns);
}
