/*
 * A table of another database as the target of an export. All rows come in one transaction of its server. What an append has
 * committed is noted in it, so that an attempt after one that died before it could say so adds nothing twice; the other modes
 * may be done again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "tasks/casts.h"
#include "tasks/database.h"
#include "tasks/engines/duckdb.h"
#include "tasks/export.h"
#include "tasks/report.h"

#define LEDGER "sluice_exports"

struct sink {
	struct context *cx;
	struct database d;
	const json_t *key;
	enum export_mode mode;
	json_t *columns;  /* [{name, type: the engine's, own: the server's}] of the rows */
	json_t *names;    /* of these */
	struct buf query; /* the rows, with the engine's types as `columns` says */
	struct buf list;  /* the columns' names, as the server quotes them */
	int64_t rows, scanned;
};

/* ---- types ---- */

/* What the engine has: what it is cast to where that is another type, and what PostgreSQL and MySQL call it (NULL: it has none)
 */
static const struct {
	const char *type, *as, *postgres, *mysql;
} types[] = {
	{ "BOOLEAN", NULL, "boolean", "boolean" },
	{ "TINYINT", NULL, "smallint", "tinyint" },
	{ "SMALLINT", NULL, "smallint", "smallint" },
	{ "INTEGER", NULL, "integer", "int" },
	{ "BIGINT", NULL, "bigint", "bigint" },
	{ "UTINYINT", NULL, "smallint", "tinyint unsigned" },
	{ "USMALLINT", NULL, "integer", "smallint unsigned" },
	{ "UINTEGER", NULL, "bigint", "int unsigned" },
	{ "UBIGINT", "DECIMAL(20,0)", "numeric(20,0)", "bigint unsigned" },
	{ "HUGEINT", "DECIMAL(38,0)", "numeric(38,0)", "decimal(38,0)" },
	{ "FLOAT", NULL, "real", "float" },
	{ "DOUBLE", NULL, "double precision", "double" },
	{ "VARCHAR", NULL, "text", "longtext" },
	{ "JSON", "VARCHAR", "text", "longtext" },
	{ "BLOB", NULL, "bytea", "longblob" },
	{ "DATE", NULL, "date", "date" },
	{ "TIME", NULL, "time without time zone", "time(6)" },
	{ "TIMESTAMP", NULL, "timestamp without time zone", "datetime(6)" },
	{ "TIMESTAMP_S", "TIMESTAMP", "timestamp without time zone", "datetime(6)" },
	{ "TIMESTAMP_MS", "TIMESTAMP", "timestamp without time zone", "datetime(6)" },
	{ "TIMESTAMP WITH TIME ZONE", NULL, "timestamp with time zone", "datetime(6)" },
	{ "UUID", NULL, "uuid", "char(36)" },
	{ "INTERVAL", NULL, "interval", NULL },
};

/* The server's type, or NULL; `as` is what the engine casts to first, or NULL. The caller frees it. */
static char *
own_type(const struct sink *s, const char *type, const char **as)
{
	size_t n = strlen(type);
	char *inner, *own;

	*as = NULL;
	if (strncmp(type, "DECIMAL(", 8) == 0)
		return xasprintf("%s%s", s->d.kind == DATABASE_MYSQL ? "decimal" : "numeric", type + 7);
	if (strncmp(type, "ENUM(", 5) == 0 && type[n - 1] == ')') {
		own = own_type(s, "VARCHAR", as);
		*as = "VARCHAR";
		return own;
	}
	if (n > 2 && strcmp(type + n - 2, "[]") == 0 && s->d.kind == DATABASE_POSTGRES) {
		inner = xstrndup(type, n - 2);
		own = own_type(s, inner, as);
		free(inner);
		inner = own && *as == NULL && strchr(own, '[') == NULL ? xasprintf("%s[]", own) : NULL;
		free(own);
		*as = NULL;
		return inner;
	}
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		const char *name = s->d.kind == DATABASE_MYSQL ? types[i].mysql : types[i].postgres;

		if (strcmp(types[i].type, type) != 0 || name == NULL || (s->d.kind == DATABASE_SQLITE && types[i].mysql == NULL))
			continue;
		*as = types[i].as;
		if (s->d.kind == DATABASE_SQLITE && strcmp(type, "HUGEINT") == 0)
			*as = "BIGINT"; /* what SQLite calls a number; one that is larger fails */
		return xstrdup(name);
	}
	return NULL;
}

/* Reads off the query's columns how each is written. */
static int
find_columns(struct sink *s, const char *query)
{
	json_t *columns = duck_describe(s->cx->db, query, &s->cx->err), *column;
	int rc = columns ? 0 : -1;
	size_t i;

	s->columns = json_array();
	s->names = json_array();
	buf_adds(&s->query, "SELECT ");
	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")),
			   *type = json_string_value(json_object_get(column, "type")), *as;
		char *own = own_type(s, type, &as);

		if (own == NULL && rc == 0) {
			rc = task_fail_at(s->cx, "to/table",
					  "%s has no type for column \"%s\", %s; give it another one in from.sql, as in SELECT "
					  "to_json(%s)::VARCHAR AS %s",
					  s->d.place, name, type, name, name);
			s->cx->final = true;
		}
		buf_adds(&s->query, i ? ", " : "");
		casts_add(&s->query, name, as);
		buf_adds(&s->list, i ? ", " : "");
		database_add_own_name(&s->d, &s->list, name);
		json_array_append_new(s->names, json_string(name));
		json_array_append_new(s->columns,
				      json_pack("{s:s,s:s,s:s}", "name", name, "type", as ? as : type, "own", own ? own : ""));
		free(own);
	}
	buf_addf(&s->query, " FROM (%s)", query);
	json_decref(columns);
	return rc;
}

/* ---- statements ---- */

/* Whatever the server refuses is said with its name. */
static int
fail_in(struct sink *s, const char *what)
{
	char *words;

	if (s->cx->err.msg && strstr(s->cx->err.msg, s->d.place) == NULL) {
		words = database_words(s->cx->err.msg);
		task_fail_at(s->cx, "to/table", "%s, table %s: %s: %s", s->d.place, s->d.table, what, words);
		free(words);
	}
	return -1;
}

static int
execute(struct sink *s, const char *what, const char *sql)
{
	int rc = s->d.kind == DATABASE_SQLITE ? duck_exec(s->cx->db, sql, &s->cx->err) : database_execute(s->cx, &s->d, sql);

	return rc < 0 ? fail_in(s, what) : 0;
}

static int
forget_tables(struct sink *s)
{
	if (s->d.kind == DATABASE_SQLITE)
		return 0;
	return duck_exec(s->cx->db, s->d.kind == DATABASE_MYSQL ? "CALL mysql_clear_cache()" : "CALL pg_clear_cache()",
			 &s->cx->err);
}

/* The table `d`, as one says it in a statement of `execute`. */
static void
add_target(const struct sink *s, const struct database *d, struct buf *b)
{
	if (s->d.kind == DATABASE_SQLITE)
		database_add_table(d, b);
	else
		database_add_own_table(d, b);
}

/* CREATE TABLE by `columns` [{name, type, own}]; `key` may be NULL. */
static int
create(struct sink *s, const struct database *d, const json_t *columns, const json_t *key)
{
	struct buf b = BUF_INIT;
	json_t *column, *name;
	size_t i;
	int rc;

	buf_adds(&b, "CREATE TABLE ");
	add_target(s, d, &b);
	json_array_foreach ((json_t *)(uintptr_t)columns, i, column) {
		const char *own = json_string_value(json_object_get(column, s->d.kind == DATABASE_SQLITE ? "type" : "own")),
			   *text = json_string_value(json_object_get(column, "name"));

		buf_adds(&b, i ? ", " : " (");
		database_add_own_name(&s->d, &b, text);
		/* MySQL keeps no long text in a key. */
		buf_addf(&b, " %s", strcmp(own, "longtext") == 0 && task_has_name(key, text) ? "varchar(255)" : own);
	}
	json_array_foreach ((json_t *)(uintptr_t)key, i, name) {
		buf_adds(&b, i ? ", " : ", PRIMARY KEY (");
		database_add_own_name(&s->d, &b, json_string_value(name));
	}
	buf_adds(&b, json_array_size(key) ? "))" : ")");
	if (s->d.kind == DATABASE_MYSQL)
		buf_adds(&b, " ENGINE = InnoDB DEFAULT CHARSET = utf8mb4");
	rc = execute(s, "cannot be made", b.s);
	buf_release(&b);
	return rc == 0 ? forget_tables(s) : rc;
}

static int
drop(struct sink *s, const struct database *d)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_adds(&b, "DROP TABLE IF EXISTS ");
	add_target(s, d, &b);
	rc = execute(s, "cannot be replaced", b.s);
	buf_release(&b);
	return rc == 0 ? forget_tables(s) : rc;
}

/* Sends the rows to the table `d`. */
static int
send_rows(struct sink *s, const struct database *d)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	json_t *name;
	size_t i;

	buf_adds(&b, "INSERT INTO ");
	database_add_table(d, &b);
	json_array_foreach (s->names, i, name) {
		buf_adds(&b, i ? ", " : " (");
		buf_add_sql_name(&b, json_string_value(name));
	}
	buf_addf(&b, ") %s", s->query.s);
	r = duck_query_counted(s->cx->db, b.s, &s->scanned, &s->cx->err);
	buf_release(&b);
	if (r == NULL)
		return fail_in(s, "the rows are not taken");
	s->rows = duck_int(r, 0, 0);
	duck_result_free(r);
	FAULT("export.rows.after");
	return 0;
}

/* ---- what was appended ---- */

static struct database
beside(const struct sink *s, const char *table)
{
	return (struct database){ .kind = s->d.kind, .schema = s->d.schema, .table = (char *)(uintptr_t)table };
}

/* Makes the ledger where it is missing; two may do so at once. */
static int
ledger_ready(struct sink *s)
{
	struct database ledger = beside(s, LEDGER), look = { .kind = s->d.kind };
	json_t *columns = json_pack("[{s:s,s:s,s:s},{s:s,s:s,s:s},{s:s,s:s,s:s},{s:s,s:s,s:s},{s:s,s:s,s:s}]", "name", "run_id",
				    "type", "VARCHAR", "own", s->d.kind == DATABASE_MYSQL ? "varchar(100)" : "text", "name",
				    "task_id", "type", "VARCHAR", "own", s->d.kind == DATABASE_MYSQL ? "varchar(100)" : "text",
				    "name", "table_name", "type", "VARCHAR", "own", "text", "name", "rows", "type", "BIGINT",
				    "own", "bigint", "name", "exported_at", "type", "TIMESTAMP", "own",
				    s->d.kind == DATABASE_MYSQL ? "datetime(6)" : "timestamp"),
	       *key = json_pack("[s,s]", "run_id", "task_id");
	char *name = s->d.schema ? xasprintf("%s." LEDGER, s->d.schema) : xstrdup(LEDGER);
	int found = database_find(s->cx, &look, name);

	if (found == 0 && create(s, &ledger, columns, key) < 0) {
		struct err why = s->cx->err;

		s->cx->err = (struct err){ 0 };
		found = database_find(s->cx, &look, name);
		if (found == 0) {
			s->cx->err = why;
			err_prefix(&s->cx->err, "an append needs the table %s, which says what was appended", name);
			found = -1;
		} else {
			err_release(&why);
		}
	}
	free(look.schema);
	free(look.table);
	free(name);
	json_decref(columns);
	json_decref(key);
	return found < 0 ? -1 : 0;
}

static void
add_self(const struct sink *s, struct buf *b)
{
	buf_add_sql_string(b, doc_text(s->cx, "run_id"));
	buf_adds(b, ", ");
	buf_add_sql_string(b, doc_text(s->cx, "task_id"));
}

/* How many rows an attempt before this one has appended; -1 with the error set, -2: none has. */
static int64_t
ledger_rows(struct sink *s)
{
	struct database ledger = beside(s, LEDGER);
	struct buf b = BUF_INIT;
	int64_t n;

	buf_adds(&b, "SELECT coalesce(max(\"rows\"), -2) FROM ");
	database_add_table(&ledger, &b);
	buf_adds(&b, " WHERE (run_id, task_id) = (");
	add_self(s, &b);
	buf_addc(&b, ')');
	n = duck_count(s->cx->db, b.s, &s->cx->err);
	buf_release(&b);
	return n;
}

static int
ledger_note(struct sink *s)
{
	struct database ledger = beside(s, LEDGER);
	struct buf b = BUF_INIT;
	int rc;

	buf_adds(&b, "INSERT INTO ");
	database_add_table(&ledger, &b);
	buf_adds(&b, " SELECT ");
	add_self(s, &b);
	buf_adds(&b, ", ");
	buf_add_sql_string(&b, s->d.table);
	buf_addf(&b, ", %" PRId64 ", now()::TIMESTAMP", s->rows);
	rc = duck_exec(s->cx->db, b.s, &s->cx->err);
	buf_release(&b);
	return rc < 0 ? fail_in(s, "it cannot be noted what was appended") : 0;
}

/* ---- a table that is there ---- */

/* Has it all the columns? */
static int
check_columns(struct sink *s)
{
	struct buf b = BUF_INIT;
	json_t *have, *column, *names = json_array();
	int rc = 0;
	size_t i;

	buf_adds(&b, "SELECT * FROM ");
	database_add_table(&s->d, &b);
	have = duck_describe(s->cx->db, b.s, &s->cx->err);
	buf_release(&b);
	json_array_foreach (have, i, column)
		json_array_append(names, json_object_get(column, "name"));
	json_array_foreach (s->columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")), *near = task_nearest(names, name);

		if (rc < 0 || task_has_name(names, name))
			continue;
		rc = task_fail_at(
			s->cx, "to/table",
			"%s, table %s has no column \"%s\"%s%s%s; add it there, leave it out in from.sql, or use mode: replace",
			s->d.place, s->d.table, name, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
		s->cx->final = true;
	}
	rc = have ? rc : -1;
	json_decref(have);
	json_decref(names);
	return rc;
}

/* The server's types of the table's columns, by name; NULL with the error set. */
static json_t *
table_types(struct sink *s)
{
	struct buf sql = BUF_INIT, b = BUF_INIT;
	json_t *rows, *row, *out = NULL;
	size_t i;

	buf_adds(&sql,
		 "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped "
		 "AND attrelid = ");
	{
		struct buf name = BUF_INIT;

		database_add_own_table(&s->d, &name);
		buf_add_sql_string(&sql, name.s);
		buf_release(&name);
	}
	buf_adds(&sql, "::regclass");
	buf_adds(&b, "SELECT * FROM ");
	database_add_query(&s->d, &b, sql.s);
	rows = duck_query_json(s->cx->db, b.s, &s->cx->err);
	if (rows)
		out = json_object();
	json_array_foreach (rows, i, row)
		json_object_set(out, json_string_value(json_array_get(row, 0)), json_array_get(row, 1));
	json_decref(rows);
	buf_release(&sql);
	buf_release(&b);
	return out;
}

/* ---- upsert ---- */

/* `b` gets the key's names, each with `before` and `after` around it. */
static void
add_key(const struct sink *s, struct buf *b, const char *before, const char *after, const char *between)
{
	json_t *name;
	size_t i;

	json_array_foreach ((json_t *)(uintptr_t)s->key, i, name) {
		buf_addf(b, "%s%s", i ? between : "", before);
		database_add_own_name(&s->d, b, json_string_value(name));
		buf_adds(b, after);
	}
}

static int
fail_keys(struct sink *s, const char *keys, struct duck_result *r)
{
	char *text = duck_text(r, 0, 0);
	int rc;

	if (duck_int(r, 0, 2) > 0)
		rc = task_fail_at(s->cx, "to/key",
				  "mode: upsert: %" PRId64 " rows have no value in their key (%s); leave them out in from.sql",
				  duck_int(r, 0, 2), keys);
	else
		rc = task_fail_at(s->cx, "to/key",
				  "mode: upsert: %" PRId64 " rows have the same key (%s): %s; from.sql must give one row a key",
				  duck_int(r, 0, 1), keys, text);
	free(text);
	return rc;
}

/* Rows with one key twice, or without one, would become one row or several by chance. `from` is what FROM takes of the new rows.
 */
static int
check_keys(struct sink *s, const char *from)
{
	struct buf keys = BUF_INIT, b = BUF_INIT, asked = BUF_INIT;
	struct duck_result *r;
	int rc = -1;

	add_key(s, &keys, "", "", ", ");
	buf_addf(&b, "SELECT concat_ws(', ', %s) AS k, count(*) AS n, sum(CASE WHEN ", keys.s);
	add_key(s, &b, "", " IS NULL", " OR ");
	buf_addf(&b, " THEN 1 ELSE 0 END) AS none FROM %s GROUP BY %s HAVING count(*) > 1 OR sum(CASE WHEN ", from, keys.s);
	add_key(s, &b, "", " IS NULL", " OR ");
	buf_adds(&b, " THEN 1 ELSE 0 END) > 0 LIMIT 1");
	buf_adds(&asked, "SELECT k, n::BIGINT, none::BIGINT FROM ");
	if (s->d.kind == DATABASE_SQLITE)
		buf_addf(&asked, "(%s)", b.s);
	else
		database_add_query(&s->d, &asked, b.s);
	r = duck_query(s->cx->db, asked.s, &s->cx->err);
	if (r)
		rc = duck_rows(r) == 0 ? 0 : fail_keys(s, keys.s, r);
	duck_result_free(r);
	buf_release(&keys);
	buf_release(&b);
	buf_release(&asked);
	return rc;
}

/* "a = x.a, b = x.b" of the columns outside of the key; nothing when there is none. */
static void
add_changes(const struct sink *s, struct buf *b, const char *before, const char *after)
{
	size_t began = b->len, i;
	json_t *name;

	json_array_foreach (s->names, i, name) {
		const char *text = json_string_value(name);

		if (task_has_name(s->key, text))
			continue;
		buf_adds(b, b->len > began ? ", " : "");
		database_add_own_name(&s->d, b, text);
		buf_addf(b, " = %s", before);
		database_add_own_name(&s->d, b, text);
		buf_adds(b, after);
	}
}

/* SQLite's tables are changed by the engine itself, from rows that it has put aside. */
static int
upsert_sqlite(struct sink *s)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_addf(&b, "CREATE OR REPLACE TEMP TABLE sluice_new AS %s", s->query.s);
	rc = duck_exec(s->cx->db, b.s, &s->cx->err);
	s->rows = rc < 0 ? -1 : duck_count(s->cx->db, "SELECT count(*) FROM sluice_new", &s->cx->err);
	if (s->rows >= 0)
		rc = check_keys(s, "sluice_new");
	buf_clear(&b);
	buf_adds(&b, "UPDATE ");
	database_add_table(&s->d, &b);
	buf_adds(&b, " AS t SET ");
	if (rc == 0 && json_array_size(s->names) > json_array_size(s->key)) {
		add_changes(s, &b, "n.", "");
		buf_adds(&b, " FROM sluice_new n WHERE (");
		add_key(s, &b, "t.", "", ", ");
		buf_adds(&b, ") = (");
		add_key(s, &b, "n.", "", ", ");
		buf_addc(&b, ')');
		rc = execute(s, "the rows are not taken", b.s);
	}
	buf_clear(&b);
	buf_adds(&b, "INSERT INTO ");
	database_add_table(&s->d, &b);
	buf_addf(&b, " (%s) SELECT %s FROM sluice_new n WHERE NOT EXISTS (SELECT 1 FROM ", s->list.s, s->list.s);
	database_add_table(&s->d, &b);
	buf_adds(&b, " t WHERE (");
	add_key(s, &b, "t.", "", ", ");
	buf_adds(&b, ") = (");
	add_key(s, &b, "n.", "", ", ");
	buf_adds(&b, "))");
	if (rc == 0)
		rc = execute(s, "the rows are not taken", b.s);
	FAULT("export.rows.after");
	buf_release(&b);
	return rc;
}

/* From the rows in `staged` to the table, by the server itself; of PostgreSQL with casts to the table's types. */
static int
merge(struct sink *s, const struct database *staged, const json_t *own)
{
	struct buf b = BUF_INIT;
	json_t *name;
	size_t i;
	int rc;

	buf_adds(&b, "INSERT INTO ");
	database_add_own_table(&s->d, &b);
	buf_addf(&b, " (%s) SELECT ", s->list.s);
	json_array_foreach (s->names, i, name) {
		const char *type = json_string_value(json_object_get(own, json_string_value(name)));

		buf_adds(&b, i ? ", " : "");
		database_add_own_name(&s->d, &b, json_string_value(name));
		if (type)
			buf_addf(&b, "::%s", type);
	}
	buf_adds(&b, " FROM ");
	database_add_own_table(staged, &b);
	if (s->mode == MODE_UPSERT && s->d.kind == DATABASE_POSTGRES) {
		buf_adds(&b, " ON CONFLICT (");
		add_key(s, &b, "", "", ", ");
		buf_adds(&b, json_array_size(s->names) > json_array_size(s->key) ? ") DO UPDATE SET " : ") DO NOTHING");
		add_changes(s, &b, "excluded.", "");
	} else if (s->mode == MODE_UPSERT) {
		buf_adds(&b, " ON DUPLICATE KEY UPDATE ");
		if (json_array_size(s->names) > json_array_size(s->key)) {
			add_changes(s, &b, "VALUES(", ")");
		} else { /* nothing to change, which is said so */
			const char *first = json_string_value(json_array_get(s->key, 0));

			database_add_own_name(&s->d, &b, first);
			buf_adds(&b, " = VALUES(");
			database_add_own_name(&s->d, &b, first);
			buf_addc(&b, ')');
		}
	}
	rc = execute(s, "the rows are not taken", b.s);
	if (rc < 0 && strstr(s->cx->err.msg, "no unique or exclusion constraint")) {
		rc = task_fail_at(
			s->cx, "to/key",
			"%s, table %s has no unique index over the key of mode: upsert; make one there, as in CREATE UNIQUE "
			"INDEX ON %s (…)",
			s->d.place, s->d.table, s->d.table);
		s->cx->final = true;
	}
	buf_release(&b);
	return rc;
}

/* ---- PostgreSQL ---- */

/* Do the columns have the very types that the rows are sent as? */
static bool
same_types(const struct sink *s, const json_t *own)
{
	json_t *column;
	size_t i;

	json_array_foreach (s->columns, i, column) {
		const char *type = json_string_value(json_object_get(own, json_string_value(json_object_get(column, "name"))));

		if (type == NULL || strcmp(type, json_string_value(json_object_get(column, "own"))) != 0)
			return false;
	}
	return true;
}

/* By way of a table that only this transaction sees, so that it is the server that casts and joins. */
static int
send_by_way(struct sink *s, const json_t *own)
{
	struct database staged = { .kind = DATABASE_POSTGRES,
				   .schema = (char *)(uintptr_t) "pg_temp",
				   .table = (char *)(uintptr_t) "sluice_new" };
	int rc = create(s, &staged, s->columns, NULL);

	if (rc == 0)
		rc = send_rows(s, &staged);
	if (rc == 0 && s->mode == MODE_UPSERT)
		rc = check_keys(s, "pg_temp.sluice_new");
	if (rc == 0)
		rc = merge(s, &staged, own);
	return rc;
}

static int
fill_postgres(struct sink *s)
{
	json_t *own = table_types(s);
	int rc = own ? 0 : -1;

	if (rc == 0)
		rc = s->mode != MODE_UPSERT && same_types(s, own) ? send_rows(s, &s->d) : send_by_way(s, own);
	json_decref(own);
	return rc;
}

/* ---- MySQL, where what makes a table ends a transaction ---- */

/* Without an index over the key its rows would double in silence. */
static int
check_unique(struct sink *s)
{
	struct buf sql = BUF_INIT, b = BUF_INIT;
	json_t *name;
	int64_t n;
	size_t i;

	buf_adds(&sql, "SELECT count(*) AS n FROM (SELECT index_name FROM information_schema.statistics WHERE non_unique = 0 AND "
		       "(table_schema, table_name) = (");
	buf_add_sql_string(&sql, s->d.schema);
	buf_adds(&sql, ", ");
	buf_add_sql_string(&sql, s->d.table);
	buf_adds(&sql, ") GROUP BY index_name HAVING sum(CASE WHEN column_name IN (");
	json_array_foreach ((json_t *)(uintptr_t)s->key, i, name) {
		buf_adds(&sql, i ? ", " : "");
		buf_add_sql_string(&sql, json_string_value(name));
	}
	buf_addf(&sql, ") THEN 1 ELSE 100 END) = %zu) x", json_array_size(s->key));
	buf_adds(&b, "SELECT n::BIGINT FROM ");
	database_add_query(&s->d, &b, sql.s);
	n = duck_count(s->cx->db, b.s, &s->cx->err);
	buf_release(&sql);
	buf_release(&b);
	if (n != 0)
		return n < 0 ? -1 : 0;
	s->cx->final = true;
	return task_fail_at(s->cx, "to/key", "%s, table %s has no unique index over the key of mode: upsert; make one there",
			    s->d.place, s->d.table);
}

static int
begin(struct sink *s)
{
	return duck_exec(s->cx->db, "BEGIN", &s->cx->err);
}

/* The end of all modes: what was done becomes visible, or nothing of it. */
static int
commit(struct sink *s)
{
	FAULT("export.commit.before");
	if (duck_exec(s->cx->db, "COMMIT", &s->cx->err) < 0)
		return fail_in(s, "the rows are not committed");
	FAULT("export.commit.after");
	return 0;
}

/* Of a table that nobody needs any more, whatever happened; what was wrong before is what counts. */
static int
discard(struct sink *s, const struct database *d, int rc)
{
	struct err first = s->cx->err;

	s->cx->err = (struct err){ 0 };
	if (drop(s, d) < 0 && rc == 0)
		return -1;
	if (rc < 0) {
		err_release(&s->cx->err);
		s->cx->err = first;
	}
	return rc;
}

/* A new table is filled first and takes the old one's place with one statement. */
static int
replace_mysql(struct sink *s, const struct database *fresh, bool there)
{
	struct buf b = BUF_INIT;
	char *old = xasprintf("%s_old", fresh->table);
	struct database before = beside(s, old);
	int rc = drop(s, &before);

	if (rc == 0 && (rc = drop(s, fresh)) == 0)
		rc = create(s, fresh, s->columns, s->key);
	if (rc == 0)
		rc = send_rows(s, fresh);
	buf_adds(&b, "RENAME TABLE ");
	if (there) {
		database_add_own_table(&s->d, &b);
		buf_adds(&b, " TO ");
		database_add_own_table(&before, &b);
		buf_adds(&b, ", ");
	}
	database_add_own_table(fresh, &b);
	buf_adds(&b, " TO ");
	database_add_own_table(&s->d, &b);
	FAULT("export.commit.before");
	if (rc == 0)
		rc = execute(s, "cannot be replaced", b.s);
	FAULT("export.commit.after");
	rc = discard(s, rc < 0 ? fresh : &before, rc);
	free(old);
	buf_release(&b);
	return rc;
}

/* The new rows lie in a table of their own until the server has merged them. */
static int
upsert_mysql(struct sink *s, const struct database *fresh)
{
	struct buf b = BUF_INIT;
	int rc = check_unique(s);

	if (rc == 0 && (rc = drop(s, fresh)) == 0)
		rc = create(s, fresh, s->columns, NULL);
	if (rc == 0)
		rc = send_rows(s, fresh);
	database_add_own_table(fresh, &b);
	if (rc == 0)
		rc = check_keys(s, b.s);
	if (rc == 0 && (rc = begin(s)) == 0 && (rc = merge(s, fresh, NULL)) == 0)
		rc = commit(s);
	buf_release(&b);
	return discard(s, fresh, rc);
}

/* ---- the task ---- */

static int
delete_all(struct sink *s)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_adds(&b, "DELETE FROM ");
	add_target(s, &s->d, &b);
	rc = execute(s, "cannot be emptied", b.s);
	buf_release(&b);
	return rc;
}

/* One transaction from the first row to the ledger's. */
static int
fill(struct sink *s, bool there)
{
	bool fresh = !there || s->mode == MODE_REPLACE;
	int rc = 0;

	if (s->mode == MODE_REPLACE && there)
		rc = drop(s, &s->d);
	if (rc == 0 && fresh && s->d.kind != DATABASE_MYSQL)
		rc = create(s, &s->d, s->columns, s->key);
	if (rc == 0 && s->mode == MODE_OVERWRITE && !fresh)
		rc = delete_all(s);
	if (rc == 0 && s->mode == MODE_UPSERT && s->d.kind == DATABASE_SQLITE)
		rc = upsert_sqlite(s);
	else if (rc == 0 && s->d.kind == DATABASE_POSTGRES && (!fresh || s->mode == MODE_UPSERT))
		rc = fill_postgres(s);
	else if (rc == 0)
		rc = send_rows(s, &s->d);
	if (rc == 0 && s->mode == MODE_APPEND)
		rc = ledger_note(s);
	return rc == 0 ? commit(s) : rc;
}

static int
write_rows(struct sink *s, bool there)
{
	char *name = xasprintf("sluice_%s_%.25s", doc_text(s->cx, "run_id"), doc_text(s->cx, "task_id"));
	struct database fresh = beside(s, name);
	int64_t before = -2;
	int rc = 0;

	if (there && s->mode != MODE_REPLACE)
		rc = check_columns(s);
	if (rc == 0 && s->mode == MODE_APPEND)
		rc = ledger_ready(s);
	if (rc == 0 && s->d.kind == DATABASE_MYSQL && !there && s->mode != MODE_REPLACE)
		rc = create(s, &s->d, s->columns, s->key);
	if (rc == 0 && s->d.kind == DATABASE_MYSQL && s->mode == MODE_REPLACE) {
		rc = replace_mysql(s, &fresh, there);
	} else if (rc == 0 && s->d.kind == DATABASE_MYSQL && s->mode == MODE_UPSERT) {
		rc = upsert_mysql(s, &fresh);
	} else if (rc == 0) {
		rc = begin(s);
		if (rc == 0 && s->mode == MODE_APPEND && (before = ledger_rows(s)) == -1)
			rc = -1;
		if (rc == 0 && before >= 0) {
			printf("an attempt before this one has appended the rows\n");
			s->rows = before;
		} else if (rc == 0) {
			rc = fill(s, there);
		}
	}
	free(name);
	return rc;
}

static void
report_sink(const struct sink *s)
{
	char *name = s->d.schema ? xasprintf("%s.%s", s->d.schema, s->d.table) : xstrdup(s->d.table);

	report("metrics", json_pack("{s:I,s:I}", "rows_in", (json_int_t)s->scanned, "rows_out", (json_int_t)s->rows));
	report("outputs", json_pack("{s:s,s:I}", "table", name, "rows", (json_int_t)s->rows));
	printf("%" PRId64 " rows to %s, table %s\n", s->rows, s->d.place, name);
	free(name);
}

int
export_database(struct context *cx, const json_t *to, const char *query)
{
	struct sink s = {
		.cx = cx, .key = json_object_get(to, "key"), .mode = export_mode(to), .query = BUF_INIT, .list = BUF_INIT
	};
	const char *table = json_string_value(json_object_get(to, "table"));
	int rc, there = 0;

	if (table == NULL)
		return task_fail_at(cx, "to", "to.table is missing");
	rc = database_open(cx, "to", to, true, &s.d);
	if (rc == 0)
		rc = find_columns(&s, query);
	if (rc == 0)
		rc = export_check_key(cx, s.names, s.key);
	if (rc == 0 && (there = database_find(cx, &s.d, table)) < 0)
		rc = -1;
	if (rc == 0)
		rc = write_rows(&s, there);
	if (rc == 0)
		report_sink(&s);
	else
		database_explain(cx, &s.d);
	json_decref(s.columns);
	json_decref(s.names);
	buf_release(&s.query);
	buf_release(&s.list);
	database_release(&s.d);
	return rc < 0 ? -1 : 0;
}
