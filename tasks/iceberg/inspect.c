#include "tasks/iceberg/inspect.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/table_at.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/rest.h"

/* A table that a statement speaks of. */
struct subject {
	struct context *cx;
	char *ns, *table;
	json_t *loaded;
	const json_t *md, *snapshot; /* of `loaded` */
};

/* ---- metadata as rows ---- */

/*
 * A table of one row with the text as `j`. Not a constant: the engine would make values of it while it plans, one by one, which
 * for ten thousand snapshots takes a second.
 */
static void
add_json(struct buf *b, const json_t *value)
{
	char *text = value ? json_dumps(value, JSON_COMPACT) : xstrdup("[]");

	buf_adds(b, "(SELECT if(range = 0, ");
	buf_add_sql_string(b, text);
	buf_adds(b, ", NULL) AS j FROM range(1))");
	free(text);
}

static int
sql_snapshots(struct subject *s, struct buf *b)
{
	buf_adds(b, "SELECT epoch_ms(s.\"timestamp-ms\")::TIMESTAMPTZ AS committed_at, s.\"snapshot-id\" AS snapshot_id,"
		    " s.\"parent-snapshot-id\" AS parent_id, s.summary['operation'] AS operation,"
		    " s.\"manifest-list\" AS manifest_list, s.summary AS summary FROM (SELECT unnest(from_json(j, "
		    "'[{\"timestamp-ms\": \"BIGINT\", \"snapshot-id\": \"BIGINT\", \"parent-snapshot-id\": \"BIGINT\","
		    " \"manifest-list\": \"VARCHAR\", \"summary\": \"MAP(VARCHAR, VARCHAR)\"}]')) AS s FROM ");
	add_json(b, json_object_get(s->md, "snapshots"));
	buf_addc(b, ')');
	return 0;
}

/* Were `id` and what it was made from ever the way to the current snapshot? Walks from the newest, so each is met once. */
static json_t *
log_with_ancestors(const json_t *md)
{
	json_t *out = json_array(), *kin = json_object(), *by_id = json_object(), *entry, *s, *copy;
	json_int_t id = table_current(md);
	char key[32];
	size_t i;

	json_array_foreach (json_object_get(md, "snapshots"), i, s) {
		snprintf(key, sizeof(key), "%lld", (long long)json_integer_value(json_object_get(s, "snapshot-id")));
		json_object_set(by_id, key, s);
	}
	for (;;) {
		snprintf(key, sizeof(key), "%lld", (long long)id);
		s = json_object_get(by_id, key);
		if (s == NULL || json_object_get(kin, key))
			break;
		json_object_set_new(kin, key, json_true());
		id = json_is_integer(json_object_get(s, "parent-snapshot-id"))
			     ? json_integer_value(json_object_get(s, "parent-snapshot-id"))
			     : -1;
	}
	json_array_foreach (json_object_get(md, "snapshot-log"), i, entry) {
		copy = json_copy(entry);
		snprintf(key, sizeof(key), "%lld", (long long)json_integer_value(json_object_get(entry, "snapshot-id")));
		json_object_set_new(copy, "kin", json_boolean(json_object_get(kin, key) != NULL));
		json_object_set(copy, "parent", json_object_get(json_object_get(by_id, key), "parent-snapshot-id"));
		json_array_append_new(out, copy);
	}
	json_decref(kin);
	json_decref(by_id);
	return out;
}

static int
sql_history(struct subject *s, struct buf *b)
{
	json_t *log = log_with_ancestors(s->md);

	buf_adds(b, "SELECT epoch_ms(h.\"timestamp-ms\")::TIMESTAMPTZ AS made_current_at, h.\"snapshot-id\" AS snapshot_id,"
		    " h.parent AS parent_id, h.kin AS is_current_ancestor FROM (SELECT unnest(from_json(j, '[{\"timestamp-ms\": "
		    "\"BIGINT\", \"snapshot-id\": \"BIGINT\", \"parent\": \"BIGINT\","
		    " \"kin\": \"BOOLEAN\"}]')) AS h FROM ");
	add_json(b, log);
	buf_addc(b, ')');
	json_decref(log);
	return 0;
}

static int
sql_refs(struct subject *s, struct buf *b)
{
	const json_t *refs = json_object_get(s->md, "refs");
	json_t *none = json_object();

	buf_adds(b, "SELECT r.key AS name, r.value.type AS type, r.value.\"snapshot-id\" AS snapshot_id,"
		    " r.value.\"max-ref-age-ms\" AS max_reference_age_in_ms,"
		    " r.value.\"min-snapshots-to-keep\" AS min_snapshots_to_keep,"
		    " r.value.\"max-snapshot-age-ms\" AS max_snapshot_age_in_ms FROM (SELECT unnest(map_entries(from_json(j,"
		    " '\"MAP(VARCHAR, STRUCT(\\\"type\\\" VARCHAR, \\\"snapshot-id\\\" BIGINT, \\\"max-ref-age-ms\\\" BIGINT,"
		    " \\\"min-snapshots-to-keep\\\" INTEGER, \\\"max-snapshot-age-ms\\\" BIGINT))\"'))) AS r FROM ");
	add_json(b, refs ? refs : none);
	buf_addc(b, ')');
	json_decref(none);
	return 0;
}

/* ---- manifests as rows ---- */

static int
need_manifest_list(struct subject *s, const char **list)
{
	*list = json_string_value(json_object_get(s->snapshot, "manifest-list"));
	if (*list)
		return 0;
	return task_fail(s->cx, ERR_UNSUPPORTED,
			 "table %s.%s: snapshot %lld has no manifest list (Iceberg version 1, written without one)", s->ns,
			 s->table, (long long)json_integer_value(json_object_get(s->snapshot, "snapshot-id")));
}

/* Avro's fields differ between versions and writers; what one does not have is NULL. */
static int
sql_manifests(struct subject *s, struct buf *b)
{
	const char *list;

	if (s->snapshot == NULL) {
		buf_adds(b, "SELECT * FROM (SELECT ''::VARCHAR AS \"content\", ''::VARCHAR AS path, 0::BIGINT AS length,"
			    " 0 AS partition_spec_id, 0::BIGINT AS sequence_number, 0::BIGINT AS added_snapshot_id,"
			    " 0 AS added_files_count, 0 AS existing_files_count, 0 AS deleted_files_count,"
			    " 0::BIGINT AS added_rows_count, 0::BIGINT AS existing_rows_count, 0::BIGINT AS deleted_rows_count) "
			    "WHERE false");
		return 0;
	}
	if (need_manifest_list(s, &list) < 0)
		return -1;
	buf_adds(b, "SELECT if((m->>'content')::INTEGER = 1, 'deletes', 'data') AS \"content\", m->>'manifest_path' AS path,"
		    " (m->>'manifest_length')::BIGINT AS length, (m->>'partition_spec_id')::INTEGER AS partition_spec_id,"
		    " coalesce((m->>'sequence_number')::BIGINT, 0) AS sequence_number,"
		    " (m->>'added_snapshot_id')::BIGINT AS added_snapshot_id,"
		    " coalesce(m->>'added_files_count', m->>'added_data_files_count')::INTEGER AS added_files_count,"
		    " coalesce(m->>'existing_files_count', m->>'existing_data_files_count')::INTEGER AS existing_files_count,"
		    " coalesce(m->>'deleted_files_count', m->>'deleted_data_files_count')::INTEGER AS deleted_files_count,"
		    " (m->>'added_rows_count')::BIGINT AS added_rows_count,"
		    " (m->>'existing_rows_count')::BIGINT AS existing_rows_count,"
		    " (m->>'deleted_rows_count')::BIGINT AS deleted_rows_count"
		    " FROM (SELECT to_json(f) AS m FROM read_avro(");
	buf_add_sql_string(b, list);
	buf_adds(b, ") AS f)");
	return 0;
}

/*
 * One SELECT for all manifests of one shape: read_avro takes a list of constants that have the same fields. What has a
 * sequence number of 0 comes from Iceberg version 1.
 */
static void
add_entries(struct buf *b, const char *paths, const char *spec)
{
	buf_addf(b, "%sSELECT to_json(data_file) AS f, %s AS spec FROM read_avro([%s]) WHERE status <> 2",
		 b->len ? " UNION ALL " : "", spec, paths);
}

/* The entries of all manifests of the snapshot, as (f, spec). */
static int
add_all_entries(struct subject *s, struct buf *b)
{
	struct buf sql = BUF_INIT, paths = BUF_INIT;
	struct duck_result *r;
	char *group = NULL, *spec = NULL;

	if (s->snapshot) {
		buf_adds(&sql,
			 "SELECT partition_spec_id::VARCHAR, concat(partition_spec_id, '/', sequence_number = 0), path FROM (");
		if (sql_manifests(s, &sql) < 0) {
			buf_release(&sql);
			return -1;
		}
		buf_adds(&sql, ") ORDER BY 2");
		r = duck_query(s->cx->db, sql.s, &s->cx->err);
		buf_release(&sql);
		if (r == NULL)
			return -1;
		for (size_t i = 0; i < duck_rows(r); i++) {
			char *of = duck_text(r, i, 1), *path = duck_text(r, i, 2);

			if (group && strcmp(group, of) != 0) {
				add_entries(b, paths.s, spec);
				buf_clear(&paths);
			}
			buf_adds(&paths, paths.len ? ", " : "");
			buf_add_sql_string(&paths, path);
			free(path);
			free(group);
			free(spec);
			group = of;
			spec = duck_text(r, i, 0);
		}
		if (paths.len)
			add_entries(b, paths.s, spec);
		duck_result_free(r);
		free(group);
		free(spec);
		buf_release(&paths);
	}
	if (b->len == 0) /* no rows, but columns */
		buf_adds(b, "SELECT NULL::JSON AS f, 0 AS spec WHERE false");
	return 0;
}

static int
sql_files(struct subject *s, struct buf *b)
{
	struct buf entries = BUF_INIT;
	int rc = add_all_entries(s, &entries);

	buf_addf(b,
		 "SELECT CASE coalesce(f->>'content', '0') WHEN '0' THEN 'data' WHEN '1' THEN 'position deletes' ELSE 'equality "
		 "deletes' "
		 "END AS \"content\", f->>'file_path' AS file_path, f->>'file_format' AS file_format, spec AS spec_id,"
		 " if(json_type(f, '$.partition') = 'OBJECT' AND NOT json_exists(f, '$.partition.__duckdb_empty_struct_marker'),"
		 " f->'partition', '{}'::JSON)"
		 " AS \"partition\", (f->>'record_count')::BIGINT AS record_count,"
		 " (f->>'file_size_in_bytes')::BIGINT AS file_size_in_bytes, (f->>'sort_order_id')::INTEGER AS sort_order_id "
		 "FROM (%s)",
		 entries.s);
	buf_release(&entries);
	return rc;
}

static int
sql_partitions(struct subject *s, struct buf *b)
{
	struct buf files = BUF_INIT;
	int rc = sql_files(s, &files);

	buf_addf(b,
		 "SELECT any_value(\"partition\") AS \"partition\", spec_id,"
		 " coalesce(sum(record_count) FILTER (\"content\" = 'data'), 0)::BIGINT AS record_count,"
		 " count(*) FILTER (\"content\" = 'data') AS file_count,"
		 " coalesce(sum(file_size_in_bytes) FILTER (\"content\" = 'data'), 0)::BIGINT AS total_data_file_size_in_bytes,"
		 " coalesce(sum(record_count) FILTER (\"content\" = 'position deletes'), 0)::BIGINT AS "
		 "position_delete_record_count,"
		 " count(*) FILTER (\"content\" <> 'data') AS delete_file_count"
		 " FROM (%s) GROUP BY \"partition\"::VARCHAR, spec_id",
		 files.s);
	buf_release(&files);
	return rc;
}

static int
sql_as_of(struct subject *s, struct buf *b)
{
	buf_adds(b, "SELECT * FROM ");
	buf_add_sql_name(b, json_string_value(json_object_get(json_object_get(s->cx->doc, "catalog"), "name")));
	buf_addc(b, '.');
	buf_add_sql_name(b, s->ns);
	buf_addc(b, '.');
	buf_add_sql_name(b, s->table);
	if (s->snapshot)
		buf_addf(b, " AT (VERSION => %lld)", (long long)json_integer_value(json_object_get(s->snapshot, "snapshot-id")));
	return 0;
}

/* ---- the function and the macros ---- */

static const struct {
	const char *name;
	bool at; /* takes a state */
	int (*sql)(struct subject *s, struct buf *b);
} tables[] = {
	{ "as_of", true, sql_as_of },         { "snapshots", false, sql_snapshots }, { "history", false, sql_history },
	{ "refs", false, sql_refs },          { "files", true, sql_files },          { "partitions", true, sql_partitions },
	{ "manifests", true, sql_manifests },
};

static char *last_subject;

const char *
inspect_subject(void)
{
	return last_subject;
}

static int
subject_load(struct subject *s, const char *name, const char *at)
{
	int status;

	free(last_subject);
	last_subject = xstrdup(name);
	status = task_table_name(s->cx, name, &s->ns, &s->table);
	if (status < 0 || (status = rest_load_table(s->cx, s->ns, s->table, &s->loaded)) < 0)
		return -1;
	if (status == 404)
		return task_fail(s->cx, ERR_NOT_FOUND, "there is no table %s.%s", s->ns, s->table);
	s->md = json_object_get(s->loaded, "metadata");
	if ((at == NULL || *at == '\0') && table_current(s->md) < 0)
		return 0; /* without rows, but it is there */
	s->snapshot = table_at(s->md, at, clock_wall(), &s->cx->err);
	if (s->snapshot == NULL)
		err_prefix(&s->cx->err, "table %s.%s", s->ns, s->table);
	return s->snapshot ? 0 : -1;
}

static void
subject_release(struct subject *s)
{
	free(s->ns);
	free(s->table);
	json_decref(s->loaded);
}

/* The statement behind one of the macros, see inspect_at. */
static char *
inspect_sql(struct context *cx, const char *kind, const char *table, const char *at, json_t **summary)
{
	struct subject s = { .cx = cx };
	struct buf b = BUF_INIT;
	int rc = subject_load(&s, table, at);

	for (size_t i = 0; rc == 0 && i < sizeof(tables) / sizeof(tables[0]); i++)
		if (strcmp(tables[i].name, kind) == 0)
			rc = tables[i].sql(&s, &b);
	if (summary)
		*summary = json_incref(json_object_get(s.snapshot, "summary"));
	subject_release(&s);
	if (rc == 0)
		return buf_detach(&b);
	buf_release(&b);
	return NULL;
}

char *
inspect_at(struct context *cx, const char *table, const char *at, json_t **summary)
{
	return inspect_sql(cx, "as_of", table, at, summary);
}

static struct context *inspected; /* an attempt is one task */
static pthread_mutex_t inspecting = PTHREAD_MUTEX_INITIALIZER;

/*
 * A statement is bound several times, and a task has several statements: all of them get what the first one got, so that they
 * speak of one state, and large metadata is fetched once. Keyed by all three arguments.
 */
static json_t *inspected_before;

static char *
inspect_once(struct context *cx, const char *const *args)
{
	char *key = xasprintf("%s\n%s\n%s", args[0], args[1], args[2] ? args[2] : ""), *sql;
	const char *before = json_string_value(json_object_get(inspected_before, key));

	if (inspected_before == NULL)
		inspected_before = json_object();
	sql = before ? xstrdup(before) : inspect_sql(cx, args[0], args[1], args[2], NULL);
	if (sql && before == NULL)
		json_object_set_new(inspected_before, key, json_string(sql));
	free(key);
	return sql;
}

/*
 * Called while a statement is bound, so what the engine is asked here goes through a connection of its own. Several of its
 * threads may call when somebody calls the function itself over rows.
 */
static char *
on_inspect(const char *const *args, struct err *e)
{
	struct context cx = { 0 };
	char *sql = NULL;

	if (inspected == NULL || args[0] == NULL || args[1] == NULL) {
		err_set(e, ERR_INVALID, "the first argument must be a table's name, such as 'stg.orders'");
		return NULL;
	}
	pthread_mutex_lock(&inspecting);
	cx.doc = inspected->doc;
	cx.spec = inspected->spec;
	cx.db = duck_beside(inspected->db, e);
	if (cx.db) {
		sql = inspect_once(&cx, args);
		duck_close(cx.db);
	}
	pthread_mutex_unlock(&inspecting);
	if (sql == NULL && cx.db)
		err_move(e, &cx.err);
	return sql;
}

int
inspect_define(struct duck *db, struct err *e)
{
	static const struct duck *defined;
	int rc = 0;

	if (db == defined) /* while it was warmed */
		return 0;
	rc = duck_function(db, "sluice_inspect", 3, on_inspect, e);
	for (size_t i = 0; rc == 0 && i < sizeof(tables) / sizeof(tables[0]); i++)
		rc = duck_execf(
			db, e, "CREATE TEMP MACRO %s(\"table\"%s) AS TABLE FROM query(sluice_inspect('%s', \"table\", %s))",
			tables[i].name, tables[i].at ? ", state := NULL" : "", tables[i].name, tables[i].at ? "state" : "NULL");
	if (rc == 0)
		defined = db;
	return rc;
}

void
inspect_begin(struct context *cx)
{
	inspected = cx;
	json_decref(inspected_before); /* another catalog, or another task */
	inspected_before = NULL;
}
