#include "tasks/folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "storage/storage.h"
#include "tasks/iceberg/reach.h"

#define REMOVE_AT_ONCE 1000

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

struct folder_file *
folder_file(struct folder *f, const char *location)
{
	char *name = spelled(location);
	struct folder_file *file;

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

enum folder_kind
folder_kind_of(const char *location)
{
	const char *slash = strrchr(location, '/'), *name = slash ? slash + 1 : location;

	if (ends_with(name, ".metadata.json") || strstr(name, ".gz.metadata"))
		return FOLDER_METADATA;
	if (!ends_with(name, ".avro"))
		return FOLDER_DATA;
	return strncmp(name, "snap-", 5) == 0 ? FOLDER_LIST : FOLDER_MANIFEST;
}

static int
on_listed(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct folder *f = arg;
	struct folder_file *file = xcalloc(1, sizeof(*file));

	file->location = xstrdup(location);
	file->name = spelled(location);
	file->size = size;
	file->modified = modified;
	HASH_ADD_KEYPTR(hh, f->files, file->name, strlen(file->name), file);
	return 0;
}

int
folder_list(struct folder *f)
{
	struct storage *s = task_storage(f->cx);

	return s && storage_list(s, f->location, on_listed, f, &f->cx->err) == 0 ? 0 : -1;
}

/* ---- what is needed ---- */

/* Where Hadoop wrote a local file it laid a checksum beside it, which no metadata tells of: x has .x.crc. NULL: there is none. */
static struct folder_file *
checksum_of(struct folder *f, const struct folder_file *of)
{
	const char *slash = strrchr(of->location, '/');
	struct folder_file *file;
	char *name;

	if (slash == NULL || storage_remote(of->location))
		return NULL;
	name = xasprintf("%.*s/.%s.crc", (int)(slash - of->location), of->location, slash + 1);
	file = folder_file(f, name);
	free(name);
	return file;
}

static void
on_needed(void *arg, const char *location)
{
	struct folder_file *file = folder_file(arg, location), *sum = file ? checksum_of(arg, file) : NULL;

	if (file)
		file->needed = true;
	if (sum)
		sum->needed = true;
}

struct reach *
folder_reach(struct folder *f)
{
	return reach_new(f->cx, on_needed, f);
}

bool
folder_has(void *arg, const char *location)
{
	return folder_file(arg, location) != NULL;
}

/* NULL when the file is gone and may be, or (with the error set) cannot be read. The caller's. */
static json_t *
metadata_read(struct folder *f, const char *location, bool may_be_gone)
{
	json_t *md = reach_read(f->cx, location, NULL);

	if (md == NULL && may_be_gone && f->cx->err.code == ERR_NOT_FOUND)
		err_release(&f->cx->err);
	return md;
}

int
folder_need_table(struct folder *f, struct reach *r, const char *location, const json_t *md)
{
	const char *uuid = json_string_value(json_object_get(md, "table-uuid"));

	if (f->tables == NULL)
		f->tables = json_object();
	if (uuid)
		json_object_set_new(f->tables, uuid, json_true());
	return reach_metadata(r, location, md);
}

static int
need_one(struct folder *f, struct reach *r, const char *location, bool may_be_gone)
{
	json_t *md = metadata_read(f, location, may_be_gone);
	int rc = md ? folder_need_table(f, r, location, md) : f->cx->err.code ? -1 : 0;

	json_decref(md);
	return rc;
}

int
folder_need(struct folder *f, struct reach *r, const json_t *metadata, bool may_be_gone)
{
	json_t *location;
	size_t i;

	json_array_foreach (metadata, i, location)
		if (need_one(f, r, json_string_value(location), may_be_gone) < 0)
			return -1;
	return 0;
}

static void
on_expired(void *arg, const char *location)
{
	struct folder_file *file = folder_file(arg, location), *sum;

	if (file == NULL || file->needed)
		return;
	file->kind = folder_kind_of(file->location);
	file->old = true;
	if ((sum = checksum_of(arg, file)) != NULL) {
		sum->kind = file->kind;
		sum->old = true;
	}
}

/* What is needed leads only to what is needed. */
static bool
worth_reading(void *arg, const char *location)
{
	const struct folder_file *file = folder_file(arg, location);

	return file && !file->needed;
}

static int
expire_one(struct folder *f, struct reach *r, const char *location)
{
	json_t *md = metadata_read(f, location, true);
	const char *uuid = json_string_value(json_object_get(md, "table-uuid"));
	int rc = md || f->cx->err.code == 0 ? 0 : -1;

	if (md && uuid && json_object_get(f->tables, uuid))
		rc = reach_metadata(r, location, md);
	json_decref(md);
	return rc;
}

int
folder_expire(struct folder *f, const json_t *metadata)
{
	struct reach *r = reach_new(f->cx, on_expired, f);
	json_t *location;
	size_t i;
	int rc = 0;

	reach_lenient(r, worth_reading);
	json_array_foreach (metadata, i, location)
		if (rc == 0)
			rc = expire_one(f, r, json_string_value(location));
	reach_free(r);
	return rc;
}

/* ---- removal ---- */

/* Says what goes, with one write, and removes it. */
static int
remove_batch(struct folder *f, const char **batch, size_t n, struct buf *said)
{
	if (said->len)
		fputs(said->s, stdout);
	buf_clear(said);
	return n && !f->pretend ? storage_remove_many(task_storage(f->cx), batch, n, &f->cx->err) : 0;
}

/* May it go? It may be needed by what has been committed since, if it is young. */
static bool
may_go(struct folder *f, const struct folder_file *file, enum folder_kind kind)
{
	if (file->kind != kind || file->needed || file->gone)
		return false;
	if (file->old || file->modified < f->until)
		return true;
	f->young = true;
	return false;
}

static int
remove_kind(struct folder *f, enum folder_kind kind)
{
	const char **batch = xcalloc(REMOVE_AT_ONCE, sizeof(*batch));
	struct folder_file *file, *tmp;
	struct buf said = BUF_INIT;
	size_t n = 0;
	int rc = 0;

	HASH_ITER(hh, f->files, file, tmp)
	{
		if (rc < 0 || !may_go(f, file, kind))
			continue;
		buf_addf(&said, "%s %s (%lld bytes)\n", f->pretend ? "would remove" : "removing", file->location,
			 (long long)file->size);
		batch[n++] = file->location;
		file->gone = true;
		f->removed++;
		f->bytes += file->size;
		if (n == REMOVE_AT_ONCE) {
			rc = remove_batch(f, batch, n, &said);
			n = 0;
		}
	}
	if (rc == 0)
		rc = remove_batch(f, batch, n, &said);
	free(batch);
	buf_release(&said);
	return rc < 0 ? -1 : 0;
}

int
folder_remove(struct folder *f)
{
	FAULT("cleanup.remove.before");
	for (enum folder_kind kind = FOLDER_DATA; kind <= FOLDER_METADATA; kind++) {
		if (kind == FOLDER_METADATA)
			FAULT("cleanup.remove.between");
		if (f->young) /* what leads to others stays as long as they do */
			break;
		if (remove_kind(f, kind) < 0)
			return -1;
	}
	return 0;
}

void
folder_release(struct folder *f)
{
	struct folder_file *file, *tmp;

	json_decref(f->tables);
	HASH_ITER(hh, f->files, file, tmp)
	{
		HASH_DEL(f->files, file);
		free(file->location);
		free(file->name);
		free(file);
	}
}
