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

/* What `field` says in each row of these Avro files, as a list; NULL with the error set. */
static json_t *
read_field(struct reach *r, const json_t *files, size_t from, size_t n, const char *field, const char *where)
{
	struct buf sql = BUF_INIT;
	struct duck_result *rows = NULL;
	json_t *out = NULL;
	const char *path;

	buf_addf(&sql, "SELECT %s FROM read_avro([", field);
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
	out = json_array();
	for (size_t i = 0; i < duck_rows(rows); i++) {
		char *text = duck_text(rows, i, 0);
		json_t *value = text ? json_string(text) : NULL;

		free(text);
		if (value == NULL) { /* what cannot be read may be needed */
			task_fail(r->cx, ERR_UNPROCESSABLE, "it names a file by something that is no UTF-8 text");
			json_decref(out);
			out = NULL;
			goto out;
		}
		json_array_append_new(out, value);
	}
out:
	duck_result_free(rows);
	buf_release(&sql);
	return out;
}

typedef int (*reach_fields)(struct reach *r, const json_t *values);

/*
 * The engine reads many files with one statement if they have the same fields, which is the rule, since mostly one writer made
 * them; where they have not, one by one.
 */
static int
read_files(struct reach *r, const json_t *files, const char *field, const char *where, reach_fields each)
{
	size_t total = json_array_size(files), n = READ_AT_ONCE;
	json_t *values;
	int rc;

	for (size_t from = 0; from < total;) {
		n = n > total - from ? total - from : n;
		values = read_field(r, files, from, n, field, where);
		if (values == NULL && n > 1) {
			err_release(&r->cx->err);
			n = 1;
			continue;
		}
		if (values == NULL) {
			err_prefix(&r->cx->err, "%s", json_string_value(json_array_get(files, from)));
			return -1;
		}
		rc = each(r, values);
		json_decref(values);
		if (rc < 0)
			return -1;
		from += n;
	}
	return 0;
}

static int
each_data_file(struct reach *r, const json_t *values)
{
	const json_t *v;
	size_t i;

	json_array_foreach (values, i, v)
		reach_file(r, v);
	return 0;
}

/* Those manifests that were not read before. */
static int
each_manifest(struct reach *r, const json_t *values)
{
	json_t *fresh = json_array(), *v;
	size_t i;
	int rc;

	json_array_foreach (values, i, v)
		if (json_is_string(v) && reach_mark(r, json_string_value(v)) && reach_there(r, json_string_value(v)))
			json_array_append(fresh, v);
	rc = read_files(r, fresh, "data_file.file_path", r->entries, each_data_file);
	json_decref(fresh);
	return rc;
}

/* Adds the snapshot's manifest list to `lists`; version 1 may name the manifests instead. */
static int
snapshot_lists(struct reach *r, const json_t *snapshot, json_t *lists)
{
	json_t *list = json_object_get(snapshot, "manifest-list");

	if (!json_is_string(list))
		return each_manifest(r, json_object_get(snapshot, "manifests"));
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
		rc = read_files(r, lists, "manifest_path", where, each_manifest);
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
		rc = read_files(r, lists, "manifest_path", "", each_manifest);
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
