/*
 * cleanup: removes what attempts left in a folder of a table and nothing leads to. A file goes only if an attempt's name is on it
 * (or one of that attempt's own snapshots, which nobody ever saw, added it while the attempt ran), if it lies in the folder, if
 * no metadata of `keep` leads to it, and if it is not younger than the moment for which `keep` holds. And what only snapshots
 * need that have expired: what the metadata of `expired` leads to.
 *
 *     {"table", "location", "until": microseconds, "keep": [METADATA FILES], "history": [the same, which may be gone],
 *      "expired": [the same], "rows": [{"run", "task", "attempt", "since": microseconds}]}
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/attempt_name.h"
#include "tasks/engines/duckdb.h"
#include "tasks/folder.h"
#include "tasks/iceberg/reach.h"
#include "tasks/report.h"

/* An attempt that may have left something, and how its files are named. */
struct owner {
	const json_t *row;
	char stem[ATTEMPT_STEM], uuid[UUID_TEXT];
};

struct leavings {
	struct folder folder;
	struct owner *owners;
	size_t nowners;
	wall_us since; /* when the attempt in question began; 0: not known */
};

static void
owners_of(struct leavings *l, const json_t *rows)
{
	const json_t *row;
	size_t i;

	l->nowners = json_array_size(rows);
	l->owners = xcalloc(l->nowners ? l->nowners : 1, sizeof(*l->owners));
	json_array_foreach (rows, i, row) {
		const char *run = json_string_value(json_object_get(row, "run")),
			   *task = json_string_value(json_object_get(row, "task"));
		int n = (int)json_integer_value(json_object_get(row, "attempt"));
		char *key = xasprintf("%s/%s/%d", run, task, n);

		l->owners[i].row = row;
		attempt_stem(run, task, n, l->owners[i].stem);
		attempt_uuid(key, l->owners[i].uuid);
		free(key);
	}
}

/* Whose name is on the file; NULL: nobody's who matters here. */
static const json_t *
owner_of(const struct leavings *l, const char *location)
{
	const char *slash = strrchr(location, '/'), *name = slash ? slash + 1 : location;

	for (size_t i = 0; i < l->nowners; i++)
		if (attempt_named(name, l->owners[i].stem, l->owners[i].uuid))
			return l->owners[i].row;
	return NULL;
}

/* Of a snapshot that nobody saw: what was written while the attempt ran is its own; what was there before was only added. */
static void
on_suspect(void *arg, const char *location)
{
	struct leavings *l = arg;
	struct folder_file *file = folder_file(&l->folder, location);

	if (file && file->kind == FOLDER_OTHER && l->since && file->modified >= l->since)
		file->kind = folder_kind_of(file->location);
}

static bool
is_there(void *arg, const char *location)
{
	struct leavings *l = arg;

	return folder_has(&l->folder, location);
}

static int
mark_needed(struct leavings *l)
{
	const json_t *spec = l->folder.cx->spec;
	struct reach *r = folder_reach(&l->folder);
	int rc = folder_need(&l->folder, r, json_object_get(spec, "keep"), false);

	reach_lenient(r, folder_has);
	if (rc == 0)
		rc = folder_need(&l->folder, r, json_object_get(spec, "history"), true);
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
mark_suspects(struct leavings *l)
{
	struct reach *r = reach_new(l->folder.cx, on_suspect, l);
	struct folder_file *file, *tmp;
	json_t *md, *snapshot;
	const json_t *owner;
	size_t i;
	int rc = 0;

	reach_lenient(r, is_there);
	HASH_ITER(hh, l->folder.files, file, tmp)
	{
		if (rc < 0 || file->kind != FOLDER_METADATA || file->needed)
			continue;
		if ((md = reach_read(l->folder.cx, file->location, NULL)) == NULL) { /* half written: it leads nowhere */
			err_release(&l->folder.cx->err);
			continue;
		}
		owner = owner_of(l, file->location);
		l->since = json_integer_value(json_object_get(owner, "since"));
		json_array_foreach (json_object_get(md, "snapshots"), i, snapshot)
			if (rc == 0 && foreign_snapshot_of(owner, snapshot))
				rc = reach_added(r, snapshot);
		json_decref(md);
	}
	reach_free(r);
	return rc;
}

static bool
any_left(struct leavings *l)
{
	bool any = json_array_size(json_object_get(l->folder.cx->spec, "expired")) > 0;

	for (struct folder_file *file = l->folder.files; file; file = file->hh.next)
		if (owner_of(l, file->location)) {
			file->kind = folder_kind_of(file->location);
			any = true;
		}
	return any;
}

static int
leavings_remove(struct leavings *l)
{
	struct folder *f = &l->folder;

	if (folder_list(f) < 0)
		return -1;
	if (f->files == NULL && json_array_size(json_object_get(f->cx->spec, "keep")))
		return task_fail(f->cx, ERR_NOT_FOUND, "%s has no file at all: is a disk not mounted?", f->location);
	if (!any_left(l))
		return 0;
	if (mark_needed(l) < 0 || folder_expire(f, json_object_get(f->cx->spec, "expired")) < 0 || mark_suspects(l) < 0)
		return -1;
	return folder_remove(f);
}

int
cleanup_run(struct context *cx)
{
	struct leavings l = { .folder = { .cx = cx,
					  .location = spec_text(cx, "location"),
					  .until = json_integer_value(json_object_get(cx->spec, "until")) } };
	int rc = -1;

	owners_of(&l, json_object_get(cx->spec, "rows"));
	if (duck_load_iceberg(cx->db, &cx->err) == 0)
		rc = leavings_remove(&l);
	if (rc == 0 || l.folder.removed)
		report("result",
		       json_pack("{s:I,s:I,s:b}", "files", l.folder.removed, "bytes", l.folder.bytes, "again", l.folder.young));
	folder_release(&l.folder);
	free(l.owners);
	return rc;
}
