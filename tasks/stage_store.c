/*
 * A stage's target on an S3 store. One object takes its place in one step. A folder cannot: its new files have names that begin
 * with run, task and attempt, and `outputs.path` is the pattern of these, so that whoever reads it reads the whole and nothing
 * else. For those who read the folder, _SUCCESS lies in it only while it is whole.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "storage/storage.h"
#include "tasks/stage_int.h"

#define MARK "_SUCCESS"

/* What is in the folder before. */
struct looking {
	struct stage *st;
	const char *foreign; /* the first that no stage task wrote; in st->old */
};

static char *
mark_location(const struct stage *st)
{
	return xasprintf("%s/" MARK, st->path);
}

static int
on_there(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct looking *l = arg;
	const char *name = strrchr(location, '/') + 1;
	size_t n = strlen(name), suffix = strlen(l->st->suffix);
	bool mark = strcmp(name, MARK) == 0;

	(void)size;
	(void)modified;
	if (mark)
		l->st->marked = true;
	else
		json_array_append_new(l->st->old, json_string(location));
	if (!mark && l->foreign == NULL && (n < suffix || strcmp(name + n - suffix, l->st->suffix) != 0))
		l->foreign = json_string_value(json_array_get(l->st->old, json_array_size(l->st->old) - 1));
	return 0;
}

int
stage_store_check(struct stage *st)
{
	struct looking l = { .st = st };
	size_t n = strlen(st->path), i;
	json_t *file;

	if (!stage_is_folder(st))
		return 0;
	json_array_foreach (st->files, i, file) {
		const char *path = json_string_value(file);

		if (strncmp(path, st->path, n) == 0 && path[n] == '/')
			return task_fail_at(
				st->cx, stage_target_key(st),
				"the folder %s holds the source %s, which the result would replace; on a store that takes "
				"more than one step, so write to another folder",
				st->path, path);
	}
	st->old = json_array();
	if (task_storage(st->cx) == NULL || storage_list(st->cx->storage, st->path, on_there, &l, &st->cx->err) < 0)
		return -1;
	if (l.foreign)
		return task_fail_at(
			st->cx, stage_target_key(st),
			"the folder %s holds %s, which is not %s; the result would replace it: name a folder of its own",
			st->path, l.foreign, st->writes ? st->suffix : "Parquet");
	return 0;
}

/* ---- sending ---- */

struct sending {
	struct stage *st;
	char *prefix; /* of the new names */
	json_t *made; /* locations */
};

static int
on_written(const char *file, int64_t size, wall_us modified, void *arg)
{
	struct sending *s = arg;
	const char *name = strrchr(file, '/') + 1, *inside = file + strlen(s->st->tmp);
	char *location = xasprintf("%s%.*s%s%s", s->st->path, (int)(name - inside), inside, s->prefix, name);
	int rc = storage_upload(s->st->cx->storage, location, file, &s->st->cx->err);

	(void)size;
	(void)modified;
	json_array_append_new(s->made, json_string(location)); /* failed or not, it may be there */
	free(location);
	FAULT("stage.send.between");
	return rc;
}

static int
remove_all(struct stage *st, const json_t *locations, struct err *e)
{
	size_t n = json_array_size(locations);
	const char **list = xcalloc(n + 1, sizeof(*list));
	int rc;

	for (size_t i = 0; i < n; i++)
		list[i] = json_string_value(json_array_get(locations, i));
	rc = storage_remove_many(st->cx->storage, list, n, e);
	free(list);
	return rc;
}

/* It failed half-way: what was there before is in force again. What cannot be removed lies there without a mark. */
static void
send_back(struct sending *s)
{
	struct err e = ERR_INIT;
	char *mark = mark_location(s->st);

	if (remove_all(s->st, s->made, &e) < 0 ||
	    (s->st->marked && storage_write(s->st->cx->storage, mark, "", 0, STORAGE_REPLACE, &e) < 0))
		err_prefix(&s->st->cx->err, "%s is left half written, without its " MARK " (%s)", s->st->path, e.msg);
	err_release(&e);
	free(mark);
}

static int
send_folder(struct stage *st)
{
	struct sending s = { .st = st, .prefix = stage_store_prefix(st), .made = json_array() };
	struct storage *storage = st->cx->storage;
	char *mark = mark_location(st);
	int rc = st->marked ? storage_remove(storage, mark, &st->cx->err) : 0;

	if (rc == 0) {
		rc = storage_list(storage, st->tmp, on_written, &s, &st->cx->err);
		if (rc < 0)
			send_back(&s);
	}
	if (rc == 0)
		rc = remove_all(st, st->old, &st->cx->err);
	if (rc == 0)
		rc = storage_write(storage, mark, "", 0, STORAGE_REPLACE, &st->cx->err);
	json_decref(s.made);
	free(s.prefix);
	free(mark);
	return rc < 0 ? -1 : 0;
}

int
stage_store_send(struct stage *st)
{
	if (task_storage(st->cx) == NULL)
		return -1;
	if (stage_is_folder(st))
		return send_folder(st);
	return storage_upload(st->cx->storage, st->path, st->tmp, &st->cx->err) < 0 ? -1 : 0;
}

char *
stage_store_prefix(const struct stage *st)
{
	return xasprintf("%s-%s-%lld-", doc_text(st->cx, "run_id"), doc_text(st->cx, "task_id"),
			 (long long)json_integer_value(json_object_get(st->cx->doc, "attempt")));
}
