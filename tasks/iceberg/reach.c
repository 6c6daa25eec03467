#include "tasks/iceberg/reach.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/alloc.h"
#include "base/gunzip.h"
#include "storage/storage.h"
#include "tasks/engines/duckdb.h"

#define METADATA_MAX (1u << 30)
#define READ_AT_ONCE 200 /* files in one statement */

struct known {
	char *location;
	UT_hash_handle hh;
};

struct reach {
	struct context *cx;
	reach_found found;
	reach_is is_there;
	const char *entries; /* which of a manifest count */
	void *arg;
	struct known *known;
};

struct reach *
reach_new(struct context *cx, reach_found found, void *arg)
{
	struct reach *r = xcalloc(1, sizeof(*r));

	r->cx = cx;
	r->found = found;
	r->arg = arg;
	r->entries = " WHERE status <> 2";
	return r;
}

void
reach_free(struct reach *r)
{
	struct known *k, *tmp;

	HASH_ITER(hh, r->known, k, tmp)
	{
		HASH_DEL(r->known, k);
		free(k->location);
		free(k);
	}
	free(r);
}

/* False when it was known before. */
static bool
reach_mark(struct reach *r, const char *location)
{
	struct known *k;

	HASH_FIND_STR(r->known, location, k);
	if (k)
		return false;
	k = xcalloc(1, sizeof(*k));
	k->location = xstrdup(location);
	HASH_ADD_KEYPTR(hh, r->known, k->location, strlen(k->location), k);
	r->found(r->arg, location);
	return true;
}

void
reach_lenient(struct reach *r, reach_is is_there)
{
	r->is_there = is_there;
}

static bool
reach_there(const struct reach *r, const char *location)
{
	return r->is_there == NULL || r->is_there(r->arg, location);
}

static void
reach_file(struct reach *r, const json_t *location)
{
	if (json_is_string(location))
		r->found(r->arg, json_string_value(location));
}

typedef void (*reach_value)(struct reach *r, const char *value, json_t *fresh);

/* Calls back for what `field` says in these Avro files, each value once. */
static int
read_field(struct reach *r, const json_t *files, size_t from, size_t n, const char *field, const char *where, reach_value each,
	   json_t *fresh)
{
	struct buf sql = BUF_INIT;
	struct duck_result *rows = NULL;
	const char *path;
	int rc = -1;

	buf_addf(&sql, "SELECT DISTINCT %s FROM read_avro([", field);
	for (size_t i = from; i < from + n; i++) {
		path = task_path(r->cx, "the table's file", json_string_value(json_array_get(files, i)));
		if (path == NULL)
			goto out;
		buf_adds(&sql, i > from ? ", " : "");
		buf_add_sql_string(&sql, path);
	}
	buf_addf(&sql, "])%s", where);
	if ((rows = duck_query(r->cx->db, sql.s, &r->cx->err)) == NULL)
		goto out;
	rc = 0;
	for (size_t i = 0; i < duck_rows(rows) && rc == 0; i++) {
		char *text = duck_text(rows, i, 0);

		if (text)
			each(r, text, fresh);
		else /* what cannot be read may be needed */
			rc = task_fail(r->cx, ERR_UNPROCESSABLE, "it names a file by something that is no UTF-8 text");
		free(text);
	}
out:
	duck_result_free(rows);
	buf_release(&sql);
	return rc;
}

/*
 * The engine reads many files with one statement if they have the same fields, which is the rule, since mostly one writer made
 * them; where they have not, one by one. What is told twice then is found twice.
 */
static int
read_files(struct reach *r, const json_t *files, const char *field, const char *where, reach_value each, json_t *fresh)
{
	size_t total = json_array_size(files), n = READ_AT_ONCE;

	for (size_t from = 0; from < total; from += n) {
		n = n > total - from ? total - from : n;
		if (read_field(r, files, from, n, field, where, each, fresh) == 0)
			continue;
		if (n == 1) {
			err_prefix(&r->cx->err, "%s", json_string_value(json_array_get(files, from)));
			return -1;
		}
		err_release(&r->cx->err);
		n = 1;
		if (read_field(r, files, from, n, field, where, each, fresh) < 0) {
			err_prefix(&r->cx->err, "%s", json_string_value(json_array_get(files, from)));
			return -1;
		}
	}
	return 0;
}

static void
each_data_file(struct reach *r, const char *file, json_t *fresh)
{
	(void)fresh;
	r->found(r->arg, file);
}

/* Those manifests that were not read before. */
static void
each_manifest(struct reach *r, const char *file, json_t *fresh)
{
	if (reach_mark(r, file) && reach_there(r, file))
		json_array_append_new(fresh, json_string(file));
}

/* All that these lists name, and what that leads to. */
static int
read_lists(struct reach *r, const json_t *lists, const char *where)
{
	json_t *fresh = json_array();
	int rc = read_files(r, lists, "manifest_path", where, each_manifest, fresh);

	if (rc == 0)
		rc = read_files(r, fresh, "data_file.file_path", r->entries, each_data_file, NULL);
	json_decref(fresh);
	return rc;
}

static int
read_named(struct reach *r, const json_t *manifests)
{
	json_t *fresh = json_array(), *v;
	size_t i;
	int rc;

	json_array_foreach (manifests, i, v)
		if (json_is_string(v))
			each_manifest(r, json_string_value(v), fresh);
	rc = read_files(r, fresh, "data_file.file_path", r->entries, each_data_file, NULL);
	json_decref(fresh);
	return rc;
}

/* Adds the snapshot's manifest list to `lists`; version 1 may name the manifests instead. */
static int
snapshot_lists(struct reach *r, const json_t *snapshot, json_t *lists)
{
	json_t *list = json_object_get(snapshot, "manifest-list");

	if (!json_is_string(list))
		return read_named(r, json_object_get(snapshot, "manifests"));
	if (reach_mark(r, json_string_value(list)) && reach_there(r, json_string_value(list)))
		json_array_append(lists, list);
	return 0;
}

int
reach_added(struct reach *r, const json_t *snapshot)
{
	char *where = xasprintf(" WHERE added_snapshot_id = %lld",
				(long long)json_integer_value(json_object_get(snapshot, "snapshot-id")));
	json_t *lists = json_array();
	int rc = 0;

	r->entries = " WHERE status = 1";
	if (json_is_string(json_object_get(snapshot, "manifest-list"))) /* else it does not say what is its own */
		rc = snapshot_lists(r, snapshot, lists);
	if (rc == 0)
		rc = read_lists(r, lists, where);
	json_decref(lists);
	free(where);
	return rc;
}

int
reach_metadata(struct reach *r, const char *location, const json_t *md)
{
	static const char *const listed[][2] = { { "metadata-log", "metadata-file" },
						 { "statistics", "statistics-path" },
						 { "partition-statistics", "statistics-path" } };
	json_t *lists = json_array(), *item;
	int rc = 0;
	size_t i;

	r->found(r->arg, location);
	for (size_t k = 0; k < sizeof(listed) / sizeof(listed[0]); k++)
		json_array_foreach (json_object_get(md, listed[k][0]), i, item)
			reach_file(r, json_object_get(item, listed[k][1]));
	json_array_foreach (json_object_get(md, "snapshots"), i, item)
		if (rc == 0)
			rc = snapshot_lists(r, item, lists);
	if (rc == 0)
		rc = read_lists(r, lists, "");
	json_decref(lists);
	return rc;
}

json_t *
reach_read(struct context *cx, const char *location, size_t *bytes)
{
	struct buf b = BUF_INIT_MAX(METADATA_MAX), packed = BUF_INIT;
	struct storage *s = task_storage(cx);
	json_t *md = NULL;
	json_error_t je;

	if (s == NULL || storage_read(s, location, &b, &cx->err) < 0)
		goto out;
	if (bytes)
		*bytes = b.len;
	if (gunzip_is(b.s, b.len)) {
		packed = b;
		b = (struct buf)BUF_INIT_MAX(METADATA_MAX);
		if (gunzip(packed.s, packed.len, &b, &cx->err) < 0)
			goto out;
	}
	if ((md = json_loadb(b.s, b.len, 0, &je)) == NULL)
		task_fail(cx, ERR_IO, "%s is damaged: line %d, column %d: %s", location, je.line, je.column, je.text);
out:
	buf_release(&packed);
	buf_release(&b);
	return md;
}
