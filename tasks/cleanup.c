/*
 * cleanup: removes what attempts left in a folder of a table and nothing leads to. A file goes only if an attempt's name is on it
 * (or one of that attempt's own snapshots, which nobody ever saw, added it while the attempt ran), if it lies in the folder, if
 * no metadata of `keep` leads to it, and if it is not younger than the moment for which `keep` holds. What leads to others goes
 * after them, metadata last: while that is there, all of this can be done again.
 *
 *     {"table", "location", "until": microseconds, "keep": [METADATA FILES], "history": [the same, which may be gone],
 *      "rows": [{"run", "task", "attempt", "since": microseconds}]}
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

/* What of an attempt a file is; removed in this order. */
enum kind { KIND_OTHER, KIND_DATA, KIND_MANIFEST, KIND_LIST, KIND_METADATA };

struct file {
	char *location, *name; /* name: the location in the one spelling that names are compared in */
	int64_t size;
	wall_us modified;
	enum kind kind;
	bool needed;
	UT_hash_handle hh;
};

/* An attempt that may have left something, and how its files are named. */
struct owner {
	const json_t *row;
	char stem[ATTEMPT_STEM], uuid[UUID_TEXT];
};

struct folder {
	struct context *cx;
	const char *location;
	struct owner *owners;
	size_t nowners;
	struct file *files;
	wall_us until;
	bool young;    /* something stays for the time being */
	wall_us since; /* when the attempt in question began; 0: not known */
	json_int_t removed, bytes;
};

/* Locations that name the same file, in one spelling: file:///x//y and /x/y, s3a://b/x and s3://b/x. The caller frees it. */
static char *
spelled(const char *location)
{
	char *out, *to;

	if (storage_remote(location))
		return xasprintf("s3://%s", strstr(location, "://") + 3);
	if (strncmp(location, "file:/", 6) == 0)
		location += 5;
	out = to = xstrdup(location);
	for (const char *from = location; *from; from++)
		if (*from != '/' || to == out || to[-1] != '/')
			*to++ = *from;
	*to = '\0';
	return out;
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

static bool
ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n >= k && strcmp(s + n - k, end) == 0;
}

static enum kind
kind_of(const char *location)
{
	const char *slash = strrchr(location, '/'), *name = slash ? slash + 1 : location;

	if (ends_with(name, ".metadata.json") || strstr(name, ".gz.metadata"))
		return KIND_METADATA;
	if (!ends_with(name, ".avro"))
		return KIND_DATA;
	return strncmp(name, "snap-", 5) == 0 ? KIND_LIST : KIND_MANIFEST;
}

static void
folder_owners(struct folder *f, const json_t *rows)
{
	const json_t *row;
	size_t i;

	f->nowners = json_array_size(rows);
	f->owners = xcalloc(f->nowners ? f->nowners : 1, sizeof(*f->owners));
	json_array_foreach (rows, i, row) {
		const char *run = json_string_value(json_object_get(row, "run")),
			   *task = json_string_value(json_object_get(row, "task"));
		int n = (int)json_integer_value(json_object_get(row, "attempt"));
		char *key = xasprintf("%s/%s/%d", run, task, n);

		f->owners[i].row = row;
		attempt_stem(run, task, n, f->owners[i].stem);
		attempt_uuid(key, f->owners[i].uuid);
		free(key);
	}
}

/* Whose name is on the file; NULL: nobody's who matters here. */
static const json_t *
folder_owner(const struct folder *f, const char *location)
{
	const char *slash = strrchr(location, '/'), *name = slash ? slash + 1 : location;

	for (size_t i = 0; i < f->nowners; i++)
		if (attempt_named(name, f->owners[i].stem, f->owners[i].uuid))
			return f->owners[i].row;
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
		file->kind = kind_of(file->location);
}

static bool
is_there(void *arg, const char *location)
{
	return folder_file(arg, location) != NULL;
}

/* All that a metadata file leads to; `may_be_gone`: then nothing. */
static int
mark_one(struct folder *f, struct reach *r, const char *location, bool may_be_gone)
{
	json_t *md = reach_read(f->cx, location, NULL);
	int rc;

	if (md == NULL && may_be_gone && f->cx->err.code == ERR_NOT_FOUND) {
		err_release(&f->cx->err);
		return 0;
	}
	if (md == NULL)
		return -1;
	rc = reach_metadata(r, location, md);
	json_decref(md);
	return rc;
}

static int
mark_needed(struct folder *f)
{
	struct reach *r = reach_new(f->cx, on_needed, f);
	json_t *location;
	size_t i;
	int rc = 0;

	json_array_foreach (json_object_get(f->cx->spec, "keep"), i, location)
		if (rc == 0)
			rc = mark_one(f, r, json_string_value(location), false);
	reach_lenient(r, is_there);
	json_array_foreach (json_object_get(f->cx->spec, "history"), i, location)
		if (rc == 0)
			rc = mark_one(f, r, json_string_value(location), true);
	reach_free(r);
	return rc;
}

/* Did the attempt make this snapshot, by another program than ours, whose files carry no names of ours? */
static bool
foreign_snapshot_of(const json_t *row, const json_t *snapshot)
{
	static const char *const same[][2] = { { "run", "sluice.run-id" }, { "task", "sluice.task-id" } };
	const json_t *summary = json_object_get(snapshot, "summary"), *n = json_object_get(summary, "sluice.attempt");

	for (size_t i = 0; i < 2; i++) {
		const char *have = json_string_value(json_object_get(summary, same[i][1]));

		if (have == NULL || strcmp(have, json_string_value(json_object_get(row, same[i][0]))) != 0)
			return false;
	}
	return json_is_string(n) &&
	       strtoll(json_string_value(n), NULL, 10) == json_integer_value(json_object_get(row, "attempt")) &&
	       json_object_get(summary, "sluice.mode") == NULL;
}

/* What other programs wrote carries names of their own: it is found by the metadata that the catalog wrote for the attempt. */
static int
mark_suspects(struct folder *f)
{
	struct reach *r = reach_new(f->cx, on_suspect, f);
	struct file *file, *tmp;
	json_t *md, *snapshot;
	const json_t *owner;
	size_t i;
	int rc = 0;

	reach_lenient(r, is_there);
	HASH_ITER(hh, f->files, file, tmp)
	{
		if (rc < 0 || file->kind != KIND_METADATA || file->needed)
			continue;
		if ((md = reach_read(f->cx, file->location, NULL)) == NULL) { /* half written: it leads nowhere */
			err_release(&f->cx->err);
			continue;
		}
		owner = folder_owner(f, file->location);
		f->since = json_integer_value(json_object_get(owner, "since"));
		json_array_foreach (json_object_get(md, "snapshots"), i, snapshot)
			if (rc == 0 && foreign_snapshot_of(owner, snapshot))
				rc = reach_added(r, snapshot);
		json_decref(md);
	}
	reach_free(r);
	return rc;
}

static int
remove_batch(struct folder *f, const char **batch, size_t n)
{
	return n ? storage_remove_many(task_storage(f->cx), batch, n, &f->cx->err) : 0;
}

static int
remove_kind(struct folder *f, enum kind kind)
{
	const char **batch = xcalloc(REMOVE_AT_ONCE, sizeof(*batch));
	struct file *file, *tmp;
	size_t n = 0;
	int rc = 0;

	HASH_ITER(hh, f->files, file, tmp)
	{
		if (file->kind != kind || file->needed || rc < 0)
			continue;
		if (file->modified >= f->until) { /* it may be needed by what has been committed since */
			f->young = true;
			continue;
		}
		printf("removing %s (%lld bytes)\n", file->location, (long long)file->size);
		batch[n++] = file->location;
		f->removed++;
		f->bytes += file->size;
		if (n == REMOVE_AT_ONCE) {
			rc = remove_batch(f, batch, n);
			n = 0;
		}
	}
	if (rc == 0)
		rc = remove_batch(f, batch, n);
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
folder_clean(struct folder *f)
{
	if (storage_list(task_storage(f->cx), f->location, on_listed, f, &f->cx->err) < 0)
		return -1;
	if (f->files == NULL && json_array_size(json_object_get(f->cx->spec, "keep")))
		return task_fail(f->cx, ERR_NOT_FOUND, "%s has no file at all: is a disk not mounted?", f->location);
	if (!folder_any(f))
		return 0;
	if (mark_needed(f) < 0 || mark_suspects(f) < 0)
		return -1;
	FAULT("cleanup.remove.before");
	for (enum kind kind = KIND_DATA; kind <= KIND_METADATA; kind++) {
		if (kind == KIND_METADATA)
			FAULT("cleanup.remove.between");
		if (f->young) /* what leads to others stays as long as they do */
			break;
		if (remove_kind(f, kind) < 0)
			return -1;
	}
	return 0;
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
	free(f->owners);
}

int
cleanup_run(struct context *cx)
{
	struct folder f = { .cx = cx,
			    .location = spec_text(cx, "location"),
			    .until = json_integer_value(json_object_get(cx->spec, "until")) };
	int rc = -1;

	folder_owners(&f, json_object_get(cx->spec, "rows"));
	if (duck_load_iceberg(cx->db, &cx->err) == 0 && task_storage(cx))
		rc = folder_clean(&f);
	if (rc == 0 || f.removed)
		report("result", json_pack("{s:I,s:I,s:b}", "files", f.removed, "bytes", f.bytes, "again", f.young));
	folder_release(&f);
	return rc;
}
