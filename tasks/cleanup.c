/*
 * cleanup: removes what attempts left in tables and nothing leads to. A file goes only if an attempt's name is on it (or one of
 * that attempt's own snapshots, which nobody ever saw, added it while the attempt ran), if it lies in the table's folder, and if
 * no metadata of `keep` leads to it. Metadata files go last: while they are there, all of this can be done again.
 *
 *     {"rows": [{"id", "table", "key", "stem", "uuid", "location", "metadata" or null, "since", "keep": [METADATA FILES]}]}
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/alloc.h"
#include "base/attempt_name.h"
#include "base/fault.h"
#include "storage/storage.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/reach.h"
#include "tasks/report.h"

#define REMOVE_AT_ONCE 1000

enum kind { KIND_OTHER, KIND_DATA, KIND_METADATA };

struct file {
	char *location, *name; /* name: the location in the one spelling that names are compared in */
	int64_t size;
	wall_us modified;
	enum kind kind; /* what of an attempt it is */
	bool needed;
	UT_hash_handle hh;
};

/* One folder, and the rows about it. */
struct folder {
	struct context *cx;
	const char *location;
	json_t *rows; /* of one table and location; borrowed rows */
	struct file *files;
	wall_us since; /* when the attempt in question began; 0: not known */
};

/* "file:///x" and "/x", "s3a://b/x" and "s3://b/x" are the same. The caller frees it. */
static char *
spelled(const char *location)
{
	if (strncmp(location, "file:/", 6) == 0) {
		location += 5;
		while (location[0] == '/' && location[1] == '/')
			location++;
	}
	if (strncmp(location, "s3a://", 6) == 0 || strncmp(location, "s3n://", 6) == 0)
		return xasprintf("s3://%s", location + 6);
	return xstrdup(location);
}

static struct file *
folder_file(struct folder *f, const char *location)
{
	char *name = spelled(location);
	struct file *file;

	HASH_FIND_STR(f->files, name, file);
	free(name);
	return file;
}

static enum kind
kind_of(const char *name)
{
	size_t len = strlen(name);

	return len > 14 && strcmp(name + len - 14, ".metadata.json") == 0 ? KIND_METADATA : KIND_DATA;
}

/* Whose name is on the file; NULL: nobody's who matters here. */
static const json_t *
folder_owner(const struct folder *f, const char *location)
{
	const char *slash = strrchr(location, '/');
	json_t *row;
	size_t i;

	json_array_foreach (f->rows, i, row)
		if (attempt_named(slash ? slash + 1 : location, json_string_value(json_object_get(row, "stem")),
				  json_string_value(json_object_get(row, "uuid"))))
			return row;
	return NULL;
}

static int
on_listed(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct folder *f = arg;
	struct file *file = xcalloc(1, sizeof(*file));

	file->location = xstrdup(location);
	file->name = spelled(location);
	file->size = size;
	file->modified = modified;
	file->kind = folder_owner(f, location) ? kind_of(location) : KIND_OTHER;
	HASH_ADD_KEYPTR(hh, f->files, file->name, strlen(file->name), file);
	return 0;
}

static void
on_needed(void *arg, const char *location)
{
	struct file *file = folder_file(arg, location);

	if (file)
		file->needed = true;
}

/* Of a snapshot that nobody saw: what was written while the attempt ran is its own; what was there before was only added. */
static void
on_suspect(void *arg, const char *location)
{
	struct folder *f = arg;
	struct file *file = folder_file(f, location);

	if (file && file->kind == KIND_OTHER && f->since && file->modified >= f->since)
		file->kind = KIND_DATA;
}

/* The rows' metadata that must stay readable; and the ids of its snapshots into `seen`. */
static int
mark_needed(struct folder *f, json_t *seen)
{
	struct reach *r = reach_new(f->cx, on_needed, f);
	json_t *all = json_object(), *row, *location, *md, *snapshot;
	const char *name;
	char id[32];
	size_t i, k;
	int rc = 0;

	json_array_foreach (f->rows, i, row)
		json_array_foreach (json_object_get(row, "keep"), k, location)
			json_object_set_new(all, json_string_value(location), json_true());
	json_object_foreach (all, name, location) {
		if (rc < 0)
			break;
		if ((md = reach_read(f->cx, name)) == NULL) {
			rc = -1;
			break;
		}
		json_array_foreach (json_object_get(md, "snapshots"), i, snapshot) {
			snprintf(id, sizeof(id), "%lld", (long long)json_integer_value(json_object_get(snapshot, "snapshot-id")));
			json_object_set_new(seen, id, json_true());
		}
		rc = reach_metadata(r, name, md);
		json_decref(md);
	}
	json_decref(all);
	reach_free(r);
	return rc;
}

/* What other programs wrote carries names of their own: it is found by the metadata that the catalog wrote for the attempt. */
static void
mark_suspects(struct folder *f, const json_t *seen)
{
	struct file *file, *tmp;
	json_t *md, *snapshot;
	struct reach *r;
	char id[32];
	size_t i;

	HASH_ITER(hh, f->files, file, tmp)
	{
		if (file->kind != KIND_METADATA || file->needed)
			continue;
		if ((md = reach_read(f->cx, file->location)) == NULL) { /* half written: it leads nowhere */
			err_release(&f->cx->err);
			continue;
		}
		f->since = json_integer_value(json_object_get(folder_owner(f, file->location), "since"));
		r = reach_new(f->cx, on_suspect, f);
		json_array_foreach (json_object_get(md, "snapshots"), i, snapshot) {
			snprintf(id, sizeof(id), "%lld", (long long)json_integer_value(json_object_get(snapshot, "snapshot-id")));
			if (json_object_get(seen, id) || reach_snapshot(r, snapshot) == 0)
				continue;
			/* Removed already by a child that died half-way: what it named goes by its own name, or is an orphan. */
			fprintf(stderr, "%s\n", f->cx->err.msg);
			err_release(&f->cx->err);
		}
		reach_free(r);
		json_decref(md);
	}
}

static int
remove_kind(struct folder *f, enum kind kind, json_int_t *files, json_int_t *bytes)
{
	const char **batch = xcalloc(REMOVE_AT_ONCE, sizeof(*batch));
	struct file *file, *tmp;
	size_t n = 0;
	int rc = 0;

	HASH_ITER(hh, f->files, file, tmp)
	{
		if (file->kind != kind || file->needed || rc < 0)
			continue;
		printf("removing %s (%lld bytes)\n", file->location, (long long)file->size);
		batch[n++] = file->location;
		*files += 1;
		*bytes += file->size;
		if (n == REMOVE_AT_ONCE) {
			rc = storage_remove_many(task_storage(f->cx), batch, n, &f->cx->err);
			n = 0;
		}
	}
	if (rc == 0 && n)
		rc = storage_remove_many(task_storage(f->cx), batch, n, &f->cx->err);
	free(batch);
	return rc < 0 ? -1 : 0;
}

static bool
folder_any(const struct folder *f)
{
	for (const struct file *file = f->files; file; file = file->hh.next)
		if (file->kind != KIND_OTHER)
			return true;
	return false;
}

static int
folder_clean(struct folder *f, json_int_t *files, json_int_t *bytes)
{
	json_t *seen = json_object();
	int rc = storage_list(task_storage(f->cx), f->location, on_listed, f, &f->cx->err);

	if (rc == 0 && folder_any(f)) {
		rc = mark_needed(f, seen);
		if (rc == 0) {
			mark_suspects(f, seen);
			FAULT("cleanup.remove.before");
			rc = remove_kind(f, KIND_DATA, files, bytes);
		}
		FAULT("cleanup.remove.between");
		if (rc == 0)
			rc = remove_kind(f, KIND_METADATA, files, bytes);
	}
	json_decref(seen);
	return rc < 0 ? -1 : 0;
}

static void
folder_release(struct folder *f)
{
	struct file *file, *tmp;

	HASH_ITER(hh, f->files, file, tmp)
	{
		HASH_DEL(f->files, file);
		free(file->location);
		free(file->name);
		free(file);
	}
}

/* "run/a/1, run/b/2 and 7 more" */
static char *
attempts_text(const json_t *rows)
{
	size_t n = json_array_size(rows), i;
	struct buf b = BUF_INIT;

	for (i = 0; i < n && i < 3; i++)
		buf_addf(&b, "%s%s", i ? ", " : "", json_string_value(json_object_get(json_array_get(rows, i), "key")));
	if (n > i)
		buf_addf(&b, " and %zu more", n - i);
	return buf_detach(&b);
}

static void
clean_one(struct context *cx, const char *location, json_t *rows, json_t *result)
{
	struct folder f = { .cx = cx, .location = location, .rows = rows };
	const char *table = json_string_value(json_object_get(json_array_get(rows, 0), "table"));
	json_int_t files = 0, bytes = 0;
	json_t *ids = json_array(), *row;
	char *who;
	size_t i;

	json_array_foreach (rows, i, row)
		json_array_append(ids, json_object_get(row, "id"));
	if (folder_clean(&f, &files, &bytes) < 0) {
		json_array_append_new(json_object_get(result, "failed"),
				      json_pack("{s:O,s:s,s:s}", "ids", ids, "table", table, "why", cx->err.msg));
		err_release(&cx->err);
	} else {
		json_array_extend(json_object_get(result, "done"), ids);
	}
	if (files) {
		who = attempts_text(rows);
		json_array_append_new(json_object_get(result, "removed"), json_pack("{s:s,s:I,s:I,s:s}", "table", table, "files",
										    files, "bytes", bytes, "attempts", who));
		free(who);
	}
	json_decref(ids);
	folder_release(&f);
}

int
cleanup_run(struct context *cx)
{
	json_t *folders = json_object(), *result = json_pack("{s:[],s:[],s:[]}", "done", "failed", "removed"), *row, *rows;
	const char *location;
	size_t i;

	if (duck_load_iceberg(cx->db, &cx->err) < 0 || task_storage(cx) == NULL) {
		json_decref(folders);
		json_decref(result);
		return -1;
	}
	json_array_foreach (json_object_get(cx->spec, "rows"), i, row) {
		const char *where = json_string_value(json_object_get(row, "location"));
		char *name = where ? spelled(where) : NULL;

		if (name == NULL || *name == '\0') {
			json_array_append(json_object_get(result, "done"), json_object_get(row, "id"));
		} else {
			if (json_object_get(folders, name) == NULL)
				json_object_set_new(folders, name, json_array());
			json_array_append(json_object_get(folders, name), row);
		}
		free(name);
	}
	json_object_foreach (folders, location, rows)
		clean_one(cx, location, rows, result);
	json_decref(folders);
	report("result", result);
	return 0;
}
