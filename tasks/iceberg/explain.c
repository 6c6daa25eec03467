#include "tasks/iceberg/explain.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/write.h"

/* What is looked for, on a connection and with errors of its own. */
struct search {
	struct context cx;
	const char *told; /* the engine's words; NULL: none */
	char *found;      /* what to say instead */
};

/* Can the Avro file be read? Otherwise that is what to say. */
static bool
file_fails(struct search *s, const char *table, const char *what, const char *location)
{
	const char *path = task_path(&s->cx, what, location);
	struct buf b = BUF_INIT;

	buf_adds(&b, "SELECT count(*) FROM read_avro(");
	buf_add_sql_string(&b, path ? path : location);
	buf_adds(&b, ")");
	if (path == NULL || duck_exec(s->cx.db, b.s, &s->cx.err) < 0) {
		/* The Avro library says it once more for every layer. */
		char *more = s->cx.err.msg ? strstr(s->cx.err.msg, "memory buffer") : NULL;

		if (more)
			more[strlen("memory buffer")] = '\0';
		s->found = xasprintf("table %s: the %s %s cannot be read: %s", table, what, location, s->cx.err.msg);
	}
	buf_release(&b);
	return s->found != NULL;
}

static void
manifests_check(struct search *s, const char *table, const char *list)
{
	struct buf b = BUF_INIT;
	json_t *rows, *row;
	size_t i;

	if (file_fails(s, table, "manifest list", list))
		return;
	buf_adds(&b, "SELECT manifest_path FROM read_avro(");
	buf_add_sql_string(&b, task_path(&s->cx, "the manifest list", list));
	buf_adds(&b, ")");
	rows = duck_query_json(s->cx.db, b.s, &s->cx.err);
	buf_release(&b);
	json_array_foreach (rows, i, row)
		if (file_fails(s, table, "manifest", json_string_value(json_array_get(row, 0))))
			break;
	json_decref(rows);
}

/* A data file's error has its path, and the path the table's location. */
static bool
tells_location(const struct search *s, const char *location)
{
	const char *path = location && strncmp(location, "file://", 7) == 0 ? location + 7 : location;

	return s->told && path && strstr(s->told, path);
}

static bool
table_check(struct search *s, const char *ns, const char *table)
{
	char *path = rest_table_path(ns, table), *name = xasprintf("%s.%s", ns, table);
	json_t *loaded = NULL, *md, *snapshot;
	json_int_t current;
	size_t i;

	if (rest_once(&s->cx, "GET", path, NULL, &loaded) == 200) {
		md = json_object_get(loaded, "metadata");
		current = json_integer_value(json_object_get(md, "current-snapshot-id"));
		json_array_foreach (json_object_get(md, "snapshots"), i, snapshot)
			if (json_integer_value(json_object_get(snapshot, "snapshot-id")) == current)
				manifests_check(s, name, json_string_value(json_object_get(snapshot, "manifest-list")));
		if (s->found == NULL && tells_location(s, json_string_value(json_object_get(md, "location"))))
			s->found = xasprintf("%s (a file of table %s)", s->told, name);
	}
	json_decref(loaded);
	err_release(&s->cx.err);
	free(path);
	free(name);
	return s->found != NULL;
}

/* The next part of a name as SQL writes it: my_ns, "my ns", "say ""hi""". The caller frees it. */
static char *
name_part(const char **at)
{
	struct buf b = BUF_INIT;
	const char *s = *at;
	bool quoted = *s == '"';

	for (s += quoted; *s && (quoted || *s != '.'); s++) {
		if (quoted && *s == '"' && *++s != '"')
			break;
		buf_addc(&b, *s);
	}
	*at = *s == '.' ? s + 1 : s;
	return buf_detach(&b);
}

/* The last two parts are namespace and table; what has one only lies in a namespace that was chosen elsewhere. */
static bool
name_check(struct search *s, const char *name)
{
	char *ns = NULL, *table = NULL;
	bool found;

	while (name && *name) {
		free(ns);
		ns = table;
		table = name_part(&name);
	}
	found = ns && table_check(s, ns, table);
	free(ns);
	free(table);
	return found;
}

/* Every table that the task names: in SQL, as its source or target, or to a function about tables. */
static void
tables_check(struct search *s)
{
	static const char *const keys[] = { "table", "into" };
	const char *sql = spec_text(&s->cx, "sql"),
		   *source = json_string_value(json_object_get(json_object_get(s->cx.spec, "source"), "table"));
	json_t *names = sql ? duck_tables_of(s->cx.db, sql) : json_array(), *name;
	size_t i;

	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (spec_text(&s->cx, keys[i]))
			json_array_append_new(names, json_string(spec_text(&s->cx, keys[i])));
	if (source)
		json_array_append_new(names, json_string(source));
	if (inspect_subject())
		json_array_append_new(names, json_string(inspect_subject()));
	json_array_foreach (names, i, name)
		if (name_check(s, json_string_value(name)))
			break;
	json_decref(names);
}

static bool
about_a_file(const char *told)
{
	static const char *const words[] = { "IO Error", "Avro", "memory buffer", "magic", "read_avro" };

	for (size_t i = 0; told && i < sizeof(words) / sizeof(words[0]); i++)
		if (strstr(told, words[i]))
			return true;
	return false;
}

void
explain_error(struct context *cx)
{
	struct search s = { .cx = { .doc = cx->doc, .spec = cx->spec, .storage = cx->storage }, .told = cx->err.msg };

	if (!cx->attached || !about_a_file(cx->err.msg) || (s.cx.db = duck_beside(cx->db, &s.cx.err)) == NULL)
		return;
	tables_check(&s);
	if (s.found) {
		int code = cx->err.code;

		err_set(&cx->err, code, "%s", s.found);
	}
	free(s.found);
}

bool
explain_abort(struct context *cx)
{
	struct search s = { .cx = *cx };

	if (duck_load_iceberg(s.cx.db, &s.cx.err) < 0)
		return false;
	tables_check(&s);
	if (s.found)
		err_set(&cx->err, ERR_UNPROCESSABLE, "%s", s.found);
	free(s.found);
	return cx->err.code != 0;
}
