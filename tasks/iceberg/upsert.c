/*
 * Upsert: rows whose key the table has take the place of the table's, the others are added. Copy-on-write (the format's default)
 * writes the files that hold such rows again without them; with the table property write.merge.mode = merge-on-read they stay,
 * and position deletes say which rows of them are gone.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"

#define PATH_ID 2147483546 /* the reserved ids of a position delete file's columns */
#define POS_ID  2147483545

static int
key_check(struct writer *wr)
{
	json_t *key, *field;
	size_t i, k;

	if (json_array_size(wr->w->key) == 0)
		return task_fail_at(wr->cx, "mode", "mode: upsert needs `key`, the columns by which rows are the same");
	json_array_foreach (wr->w->key, i, key) {
		const char *name = json_string_value(key), *near;
		bool found = false;

		json_array_foreach (wr->fields, k, field)
			found = found || (name && strcmp(json_string_value(json_object_get(field, "name")), name) == 0);
		if (found)
			continue;
		near = name ? task_nearest(wr->fields, name) : NULL;
		return task_fail_at(wr->cx, "key", "table %s has no column \"%s\"%s%s%s", wr->w->name, name ? name : "",
				    near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
	}
	return 0;
}

/* `each` for every key column, with %s for its quoted name twice. */
static void
add_keys(const struct writer *wr, const char *between, const char *left, const char *middle, const char *right, struct buf *b)
{
	json_t *key;
	size_t i;

	json_array_foreach (wr->w->key, i, key) {
		buf_adds(b, i ? between : "");
		buf_adds(b, left);
		buf_add_sql_name(b, json_string_value(key));
		buf_adds(b, middle);
		if (*right) {
			buf_adds(b, right);
			buf_add_sql_name(b, json_string_value(key));
		}
	}
}

/* Which of two rows with one key would win? Nobody can tell: that is an error. So is a key without a value. */
static int
key_unique(struct writer *wr)
{
	struct buf b = BUF_INIT, value = BUF_INIT;
	struct duck_result *r;
	json_t *key;
	int rc = 0;
	size_t i;

	buf_adds(&b, "SELECT count(*), (");
	add_keys(wr, " OR ", "", " IS NULL", "", &b);
	buf_adds(&b, "), ");
	add_keys(wr, ", ", "", "", "", &b);
	buf_adds(&b, " FROM sluice_rows GROUP BY ");
	add_keys(wr, ", ", "", "", "", &b);
	buf_adds(&b, " HAVING count(*) > 1 OR (");
	add_keys(wr, " OR ", "", " IS NULL", "", &b);
	buf_adds(&b, ") LIMIT 1");
	r = duck_query(wr->cx->db, b.s, &wr->cx->err);
	buf_release(&b);
	if (r == NULL)
		return -1;
	if (duck_rows(r)) {
		char *null = duck_text(r, 0, 1);

		json_array_foreach (wr->w->key, i, key) {
			char *text = duck_text(r, 0, i + 2);

			buf_addf(&value, "%s%s = %s", i ? ", " : "", json_string_value(key), text ? text : "NULL");
			free(text);
		}
		if (null && strcmp(null, "true") == 0)
			rc = task_fail_at(wr->cx, "key", "table %s: a row has no value in its key (%s)", wr->w->name, value.s);
		else
			rc = task_fail_at(wr->cx, "key", "table %s: %lld rows have the key %s; an upsert takes one row a key",
					  wr->w->name, (long long)duck_int(r, 0, 0), value.s);
		free(null);
		buf_release(&value);
	}
	duck_result_free(r);
	return rc;
}

/*
 * The table, called t, as it is in the snapshot that this write builds on; each row with its file and its number there. A
 * snapshot that is named has the columns of its time. Where these have changed since, the newest state is read: should that
 * be a later snapshot by then, the commit is refused, since it builds on ours.
 */
static char *
table_at(const struct writer *wr)
{
	const json_t *catalog = json_object_get(wr->cx->doc, "catalog"), *snap = current_snapshot(wr->meta);
	struct buf b = BUF_INIT;

	buf_adds(&b, "(SELECT *, filename AS sluice_file, file_row_number AS sluice_row FROM ");
	buf_add_sql_name(&b, json_string_value(json_object_get(catalog, "name")));
	buf_addc(&b, '.');
	buf_add_sql_name(&b, wr->w->ns);
	buf_addc(&b, '.');
	buf_add_sql_name(&b, wr->w->table);
	if (json_equal(json_object_get(snap, "schema-id"), json_object_get(wr->meta, "current-schema-id")))
		buf_addf(&b, " AT (VERSION => %lld)", (long long)json_integer_value(json_object_get(snap, "snapshot-id")));
	buf_adds(&b, ") t");
	return buf_detach(&b);
}

static int
find_hits(struct writer *wr, const char *table)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_addf(&b,
		 "CREATE OR REPLACE TEMP TABLE sluice_hits AS SELECT sluice_file AS file_path, sluice_row AS pos FROM %s WHERE "
		 "EXISTS (SELECT 1 FROM sluice_rows n WHERE ",
		 table);
	add_keys(wr, " AND ", "n.", " = ", "t.", &b);
	buf_adds(&b, ")");
	rc = duck_exec(wr->cx->db, b.s, &wr->cx->err);
	buf_release(&b);
	return rc;
}

/* Their rows, but for those that are replaced, are written again together with the new ones. */
static int
copy_on_write(struct writer *wr, const char *table)
{
	const json_t *fields = json_object_get(writer_schema(wr->meta), "fields");
	struct buf b = BUF_INIT;
	json_t *rows, *row;
	char *rest;
	int rc;
	size_t i;

	rows = duck_query_json(wr->cx->db, "SELECT DISTINCT file_path FROM sluice_hits", &wr->cx->err);
	if (rows == NULL)
		return -1;
	json_array_foreach (rows, i, row)
		json_array_append(wr->gone, json_array_get(row, 0));
	json_decref(rows);
	if (json_array_size(wr->gone) == 0)
		return 0;
	rest = xasprintf(
		"SELECT t.* FROM %s WHERE sluice_file IN (SELECT file_path FROM sluice_hits) AND NOT EXISTS (SELECT 1 FROM "
		"sluice_hits h WHERE h.file_path = sluice_file AND h.pos = sluice_row)",
		table);
	buf_adds(&b, "SELECT * FROM sluice_rows UNION ALL ");
	rc = writer_select(wr, fields, rest, &b);
	free(rest);
	free(wr->select);
	wr->select = buf_detach(&b);
	return rc;
}

static bool
merges_on_read(const struct writer *wr)
{
	const char *mode = writer_property(wr, "write.merge.mode");

	return mode && strcmp(mode, "merge-on-read") == 0 && writer_format(wr) == 2;
}

int
upsert_prepare(struct writer *wr)
{
	struct context *cx = wr->cx;
	char *create, *table;
	int rc;

	wr->gone = json_array();
	if (key_check(wr) < 0)
		return -1;
	create = xasprintf("CREATE OR REPLACE TEMP TABLE sluice_rows AS %s", wr->select);
	rc = duck_exec(cx->db, create, &cx->err);
	free(create);
	if (rc < 0 || key_unique(wr) < 0)
		return -1;
	free(wr->select);
	wr->select = xstrdup("SELECT * FROM sluice_rows");
	if (wr->create || current_snapshot(wr->meta) == NULL)
		return 0;
	if (iceberg_attach(cx) < 0)
		return -1;
	table = table_at(wr);
	rc = find_hits(wr, table);
	if (rc == 0 && !merges_on_read(wr))
		rc = copy_on_write(wr, table);
	free(table);
	return rc < 0 ? -1 : 0;
}

/* ---- position deletes ---- */

/*
 * A delete file belongs to the partition of the files whose rows it deletes: sluice_groups gets every file that was hit, with its
 * partition's number; `groups` gets [spec, values] by that number.
 */
static int
delete_groups(struct writer *wr, json_t **groups)
{
	json_t *files = duck_query_json(wr->cx->db, "SELECT DISTINCT file_path FROM sluice_hits", &wr->cx->err), *where = NULL,
	       *row, *at, *known = json_object();
	struct buf b = BUF_INIT;
	int rc = -1;
	size_t i;

	*groups = json_array();
	if (files == NULL || (where = old_partitions(wr)) == NULL)
		goto out;
	buf_adds(&b, "CREATE OR REPLACE TEMP TABLE sluice_groups AS SELECT * FROM (VALUES ");
	json_array_foreach (files, i, row) {
		const char *path = json_string_value(json_array_get(row, 0));
		char *key;

		at = json_object_get(where, path);
		if (at == NULL) {
			task_fail(wr->cx, ERR_IO, "table %s: no manifest has the data file %s", wr->w->name, path);
			goto out;
		}
		key = json_dumps(at, JSON_COMPACT);
		if (json_object_get(known, key) == NULL) {
			json_object_set_new(known, key, json_integer((json_int_t)json_array_size(*groups)));
			json_array_append(*groups, at);
		}
		buf_adds(&b, i ? ", (" : "(");
		buf_add_sql_string(&b, path);
		buf_addf(&b, ", %lld)", (long long)json_integer_value(json_object_get(known, key)));
		free(key);
	}
	buf_adds(&b, ") g(file_path, part)");
	rc = json_array_size(files) ? duck_exec(wr->cx->db, b.s, &wr->cx->err) : 0;
out:
	json_decref(files);
	json_decref(where);
	json_decref(known);
	buf_release(&b);
	return rc;
}

int
upsert_deletes(struct writer *wr)
{
	struct buf b = BUF_INIT;
	json_t *groups = NULL, *keys = NULL;
	size_t first = wr->nfiles;
	int rc = 0;

	if (wr->create || current_snapshot(wr->meta) == NULL || !merges_on_read(wr))
		return 0;
	rc = delete_groups(wr, &groups);
	if (rc < 0 || json_array_size(groups) == 0)
		goto out;
	keys = json_pack("[s]", "part");
	buf_adds(&b, "COPY (SELECT h.file_path, CAST(h.pos AS BIGINT) AS pos, g.part FROM sluice_hits h JOIN sluice_groups g "
		     "USING (file_path) "
		     "ORDER BY g.part, h.file_path, h.pos) TO ");
	{
		char *dir = xasprintf("%s/data", wr->local);

		buf_add_sql_string(&b, dir);
		free(dir);
	}
	buf_addf(&b,
		 " (FORMAT parquet, COMPRESSION zstd, OVERWRITE_OR_IGNORE, RETURN_STATS, HIVE_FILE_PATTERN false, "
		 "FILENAME_PATTERN "
		 "'%s-deletes-{uuid}', PARTITION_BY (part), FIELD_IDS {file_path: %d, pos: %d})",
		 wr->stem, PATH_ID, POS_ID);
	/* Sorted by file and position, as the format wants them: by one thread. */
	rc = duck_exec(wr->cx->db, "SET threads = 1", &wr->cx->err);
	if (rc == 0)
		rc = writer_copy(wr, b.s, NULL, keys, CONTENT_POSITION_DELETES);
	for (size_t i = first; rc == 0 && i < wr->nfiles; i++) {
		struct data_file *f = &wr->files[i];
		const json_t *group = json_array_get(groups, (size_t)atoll(json_string_value(json_array_get(f->partition, 0))));

		f->spec = element_by_id(wr->meta, "partition-specs", "spec-id", json_integer_value(json_array_get(group, 0)));
		json_decref(f->partition);
		f->partition = json_incref(json_array_get(group, 1));
		f->splits = json_pack("[i]", 4);
		wr->w->bytes += f->bytes;
	}
out:
	json_decref(groups);
	json_decref(keys);
	buf_release(&b);
	return rc < 0 ? -1 : 0;
}
