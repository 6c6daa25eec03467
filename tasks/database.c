#include "tasks/database.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/mask.h"
#include "storage/storage.h"
#include "tasks/connection.h"
#include "tasks/engines/duckdb.h"

/* kind, format in YAML and name of the extension, name for people */
/* clang-format off */
#define KINDS(X)                                                                                                                 \
	X(POSTGRES, "postgres", "PostgreSQL")                                                                                    \
	X(SQLITE, "sqlite", "SQLite")                                                                                            \
	X(MYSQL, "mysql", "MySQL")
/* clang-format on */
static const struct {
	const char *format, *people;
} kinds[] = {
#define X(sym, format, people) [DATABASE_##sym] = { format, people },
	KINDS(X)
#undef X
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))

static int
kind_of(const char *format)
{
	for (size_t i = 0; format && i < KIND_COUNT; i++)
		if (strcmp(kinds[i].format, format) == 0)
			return (int)i;
	return -1;
}

bool
database_format(const char *format)
{
	return kind_of(format) >= 0;
}

/* ---- opening ---- */

/* The server's refusals that another attempt meets again; what else goes wrong with a connection may pass. */
static bool
refused_for_good(const char *said)
{
	static const char *const words[] = { "authentication failed", "no password supplied", "Access denied",
					     "does not exist",        "Unknown database",     "no pg_hba.conf entry",
					     "invalid connection",    "Unknown parameter",    "is not a database",
					     "invalid integer value", "invalid sslmode",      "is not permitted to log in" };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strstr(said, words[i]))
			return true;
	return false;
}

/* The engine repeats all it was given before it says what happened. */
static int
fail_open(struct context *cx, const struct database *d, const char *key)
{
	char *said = xstrdup(cx->err.msg), *text = strstr(said, "\": ");
	int rc;

	for (size_t n = strlen(said); n > 0 && strchr("\r\n ", said[n - 1]); n--)
		said[n - 1] = '\0';
	rc = task_fail_at(cx, key, "cannot open %s: %s", d->place, text ? text + 3 : said);
	cx->final = refused_for_good(said);
	free(said);
	return rc;
}

static int
attach(struct context *cx, const struct database *d, const char *what, const char *options, bool write)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_adds(&b, "ATTACH ");
	buf_add_sql_string(&b, what);
	buf_addf(&b, " AS " DATABASE_NAME " (TYPE %s%s%s)", kinds[d->kind].format, options, write ? "" : ", READ_ONLY");
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	return rc;
}

static int
open_sqlite(struct context *cx, const char *key, const char *given, bool write, struct database *d)
{
	char *place = xasprintf("%s/path", key);
	const char *path = strip_scheme(given);
	int rc;

	d->place = xasprintf("SQLite file %s", path);
	if (storage_remote(path) || (!write && access(path, R_OK) < 0)) {
		rc = task_fail_at(cx, place, "%s %s", d->place,
				  storage_remote(path) ? "lies on a store; SQLite reads files on disk only"
						       : "cannot be read: no such file, or it is not for this user");
		cx->final = true;
	} else if (write && task_make_parents(cx, path) < 0) {
		rc = -1;
	} else if ((rc = attach(cx, d, path, "", write)) < 0 ||
		   (rc = duck_execf(cx->db, &cx->err,
				    "SELECT count(*) FROM sqlite_query('" DATABASE_NAME "', 'SELECT 1 FROM sqlite_master')")) <
			   0) {
		rc = fail_open(cx, d, place);
	}
	free(place);
	return rc;
}

/* A word of libpq's connection strings. */
static void
add_word(struct buf *b, const char *name, const char *value)
{
	buf_addf(b, "%s%s='", b->len ? " " : "", name);
	for (; *value; value++)
		buf_addf(b, "%s%c", *value == '\'' || *value == '\\' ? "\\" : "", *value);
	buf_addc(b, '\'');
}

static void
add_secret(struct buf *b, const char *name, const char *value)
{
	buf_adds(b, ", ");
	buf_add_sql_name(b, name);
	buf_addc(b, ' ');
	buf_add_sql_string(b, value);
}

/* The password is known to the engine as a secret alone, which it shows nobody. */
static int
open_server(struct context *cx, const struct database *d, const char *key, struct connection *c, bool write)
{
	struct buf secret = BUF_INIT, words = BUF_INIT;
	const char *name;
	json_t *value;
	int rc;

	buf_addf(&secret, "CREATE OR REPLACE TEMPORARY SECRET sluice_database (TYPE %s", kinds[d->kind].format);
	if (c->password)
		add_secret(&secret, "password", c->password);
	json_object_foreach (c->keys, name, value) {
		if (d->kind == DATABASE_POSTGRES)
			add_word(&words, name, json_string_value(value));
		else
			add_secret(&secret, name, json_string_value(value));
	}
	buf_addc(&secret, ')');
	rc = duck_exec(cx->db, secret.s, &cx->err);
	if (rc == 0)
		rc = attach(cx, d, words.s, ", SECRET sluice_database", write);
	if (rc < 0)
		rc = fail_open(cx, d, key);
	explicit_bzero(secret.s, secret.len);
	buf_release(&secret);
	buf_release(&words);
	return rc;
}

/* How long one waits for a server that does not answer, and who we are in its lists. */
static void
add_habits(struct context *cx, const struct database *d, struct connection *c)
{
	static const char *const habits[][2] = { { "connect_timeout", "10" },
						 { "keepalives_idle", "30" },
						 { "keepalives_interval", "10" },
						 { "keepalives_count", "3" } };
	char *who = xasprintf("sluice %s/%s", doc_text(cx, "run_id"), doc_text(cx, "task_id"));

	for (size_t i = 0; d->kind == DATABASE_POSTGRES && i < sizeof(habits) / sizeof(habits[0]); i++)
		if (json_object_get(c->keys, habits[i][0]) == NULL)
			json_object_set_new(c->keys, habits[i][0], json_string(habits[i][1]));
	if (d->kind == DATABASE_POSTGRES && json_object_get(c->keys, "application_name") == NULL)
		json_object_set_new(c->keys, "application_name", json_string(who));
	free(who);
}

/* What must not be seen: the address as it was given, and the password in it however it is written. */
static void
hide(struct context *cx, const char *uri, const struct connection *c)
{
	const char *at = strrchr(uri, '@'), *colon = strstr(uri, "://"), *name;
	json_t *value;

	if (cx->hidden == NULL)
		cx->hidden = mask_new();
	mask_add(cx->hidden, uri);
	if (c->password)
		mask_add(cx->hidden, c->password);
	json_object_foreach (c->keys, name, value)
		if (strstr(name, "password") || strstr(name, "token"))
			mask_add(cx->hidden, json_string_value(value));
	if (at && colon && (colon = strchr(colon + 3, ':')) && colon < at) {
		char *coded = xstrndup(colon + 1, (size_t)(at - colon - 1));

		mask_add(cx->hidden, coded);
		free(coded);
	}
}

static int
open_uri(struct context *cx, const char *key, const char *uri, bool write, struct database *d)
{
	char *place = xasprintf("%s/uri", key);
	struct connection c;
	struct err e = ERR_INIT;
	int rc = connection_parse(uri, kinds[d->kind].format, &c, &e);

	hide(cx, uri, &c);
	d->place = xasprintf("%s at %s%s%s, database %s", kinds[d->kind].people, connection_text(&c, "host", "localhost"),
			     connection_text(&c, "port", NULL) ? ":" : "", connection_text(&c, "port", ""),
			     connection_text(&c, d->kind == DATABASE_MYSQL ? "database" : "dbname", "(not named)"));
	add_habits(cx, d, &c);
	if (rc < 0) {
		task_fail_at(cx, place, "%s.uri %s", key, e.msg);
		cx->final = true;
	} else {
		rc = open_server(cx, d, place, &c, write);
	}
	err_release(&e);
	connection_release(&c);
	free(place);
	return rc;
}

int
database_open(struct context *cx, const char *key, const json_t *where, bool write, struct database *d)
{
	const char *format = json_string_value(json_object_get(where, "format")),
		   *uri = json_string_value(json_object_get(where, "uri")),
		   *path = json_string_value(json_object_get(where, "path"));
	/* As it is stored: a TINYINT(1) of 5 is no truth, and a long query is no fault. No row has a place in a table. */
	static const char mysql[] = "SET mysql_tinyint1_as_boolean = false; SET mysql_query_timeout_enabled = false";
	int rc;

	*d = (struct database){ .kind = (enum database_kind)kind_of(format) };
	if ((d->kind == DATABASE_SQLITE ? path : uri) == NULL) {
		cx->final = true;
		return task_fail_at(cx, key, "%s: with format: %s it needs `%s`", key, format,
				    d->kind == DATABASE_SQLITE ? "path" : "uri");
	}
	if (duck_load_scanner(cx->db, format, &cx->err) < 0 ||
	    duck_exec(cx->db, "SET preserve_insertion_order = false", &cx->err) < 0 ||
	    (d->kind == DATABASE_MYSQL && duck_exec(cx->db, mysql, &cx->err) < 0))
		return -1;
	rc = d->kind == DATABASE_SQLITE ? open_sqlite(cx, key, path, write, d) : open_uri(cx, key, uri, write, d);
	if (rc == 0 && !write)
		rc = duck_exec(cx->db, "BEGIN", &cx->err);
	return rc < 0 ? -1 : 0;
}

void
database_release(struct database *d)
{
	free(d->place);
	free(d->schema);
	free(d->table);
}

/* ---- names ---- */

void
database_add_own_name(const struct database *d, struct buf *b, const char *name)
{
	if (d->kind != DATABASE_MYSQL) {
		buf_add_sql_name(b, name);
		return;
	}
	buf_addc(b, '`');
	for (; *name; name++)
		buf_addf(b, "%s%c", *name == '`' ? "`" : "", *name);
	buf_addc(b, '`');
}

void
database_add_own_table(const struct database *d, struct buf *b)
{
	if (d->schema) {
		database_add_own_name(d, b, d->schema);
		buf_addc(b, '.');
	}
	database_add_own_name(d, b, d->table);
}

void
database_add_table(const struct database *d, struct buf *b)
{
	buf_adds(b, DATABASE_NAME ".");
	if (d->schema) {
		buf_add_sql_name(b, d->schema);
		buf_addc(b, '.');
	}
	buf_add_sql_name(b, d->table);
}

void
database_add_query(const struct database *d, struct buf *b, const char *sql)
{
	buf_addf(b, "%s_query('" DATABASE_NAME "', ", kinds[d->kind].format);
	buf_add_sql_string(b, sql);
	buf_addc(b, ')');
}

int
database_execute(struct context *cx, const struct database *d, const char *sql)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_addf(&b, "CALL %s_execute('" DATABASE_NAME "', ", kinds[d->kind].format);
	buf_add_sql_string(&b, sql);
	buf_addc(&b, ')');
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	return rc < 0 ? -1 : 0;
}

/* [[schema or null, table], …] of all there are. */
static json_t *
tables(struct context *cx, const struct database *d)
{
	static const char *const lists[] = {
		[DATABASE_POSTGRES] = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = "
				      "c.relnamespace WHERE "
				      "c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_temp%' AND n.nspname "
				      "NOT LIKE 'pg\\_toast%'",
		[DATABASE_SQLITE] = "SELECT NULL, name FROM sqlite_master WHERE type IN ('table', 'view')",
		[DATABASE_MYSQL] = "SELECT table_schema, table_name FROM information_schema.tables",
	};
	struct buf b = BUF_INIT;
	json_t *rows;

	buf_adds(&b, "SELECT * FROM ");
	database_add_query(d, &b, lists[d->kind]);
	rows = duck_query_json(cx->db, b.s, &cx->err);
	buf_release(&b);
	return rows;
}

/* Where a name without a schema is looked for. NULL with the error set; the caller frees it. */
static char *
default_schema(struct context *cx, const struct database *d)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *name = NULL;

	buf_adds(&b, "SELECT * FROM ");
	database_add_query(d, &b,
			   d->kind == DATABASE_POSTGRES ? "SELECT coalesce(current_schema(), 'public')::text AS s"
							: "SELECT database() AS s");
	r = duck_query(cx->db, b.s, &cx->err);
	buf_release(&b);
	if (r && duck_rows(r) == 1)
		name = duck_text(r, 0, 0);
	if (r && name == NULL)
		task_fail(cx, ERR_UNPROCESSABLE,
			  "%s: the address names no database; write it there, or before the table: database.table", d->place);
	duck_result_free(r);
	return name;
}

int
database_find(struct context *cx, struct database *d, const char *name)
{
	const char *dot = d->kind == DATABASE_SQLITE ? NULL : strchr(name, '.');
	json_t *all = tables(cx, d), *row;
	int found = all ? 0 : -1;
	size_t i;

	free(d->schema);
	free(d->table);
	d->schema = dot ? xstrndup(name, (size_t)(dot - name)) : NULL;
	d->table = xstrdup(dot ? dot + 1 : name);
	if (all && dot == NULL && d->kind != DATABASE_SQLITE && (d->schema = default_schema(cx, d)) == NULL)
		found = -1;
	json_array_foreach (all, i, row) {
		const char *schema = json_string_value(json_array_get(row, 0)),
			   *table = json_string_value(json_array_get(row, 1));

		if (found == 0 && table && (d->schema == NULL || (schema && strcmp(schema, d->schema) == 0)) &&
		    (d->kind == DATABASE_SQLITE ? strcasecmp(table, d->table) : strcmp(table, d->table)) == 0)
			found = 1;
	}
	json_decref(all);
	return found;
}

int
database_missing(struct context *cx, struct database *d, const char *key, const char *name)
{
	json_t *all = tables(cx, d), *names = json_array(), *row;
	const char *near;
	size_t i;

	json_array_foreach (all, i, row) {
		const char *schema = json_string_value(json_array_get(row, 0)),
			   *table = json_string_value(json_array_get(row, 1));

		if (schema && strchr(name, '.'))
			json_array_append_new(names, json_sprintf("%s.%s", schema, table));
		else if (schema == NULL || strcmp(schema, d->schema) == 0)
			json_array_append_new(names, json_string(table));
	}
	err_release(&cx->err);
	near = task_nearest(names, name);
	task_fail_at(cx, key, "%s has no table \"%s\"%s%s%s", d->place, name, near ? "; did you mean \"" : "", near ? near : "",
		     near ? "\"?" : "");
	cx->final = true;
	json_decref(names);
	json_decref(all);
	return -1;
}

char *
database_words(const char *said)
{
	const char *text = strstr(said, "ERROR:  "), *wrapped = strstr(said, "Failed to "), *end;
	struct buf b = BUF_INIT;

	text = text ? text + 8 : said;
	for (const char *p = wrapped; text == said && p && (p = strstr(p, "\": ")) != NULL;)
		wrapped = p += 3;
	text = text == said && wrapped ? wrapped : text;
	end = strstr(text, "\nCONTEXT:");
	for (end = end ? end : text + strlen(text); end > text && strchr("\r\n ", end[-1]); end--)
		;
	for (; text < end; text++) {
		if (*text == '\n')
			buf_adds(&b, "; ");
		else
			buf_addc(&b, *text);
	}
	return buf_detach(&b);
}

void
database_explain(struct context *cx, const struct database *d)
{
	static const char *const words[] = { "server closed the connection",
					     "terminating connection",
					     "Lost connection",
					     "gone away",
					     "connection to server",
					     "no connection to the server",
					     "Can't connect",
					     "SSL connection has been",
					     "could not receive data",
					     "Server has gone",
					     "Connection was killed",
					     "Connection refused" };

	if (cx->err.msg == NULL || d->place == NULL)
		return;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strstr(cx->err.msg, words[i]) && strstr(cx->err.msg, d->place) == NULL) {
			err_prefix(&cx->err, "%s was lost in the middle", d->place);
			cx->final = false;
			return;
		}
}
