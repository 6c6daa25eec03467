/* The step of a commit that may block: check requirements, apply updates, write new files. It touches its own job only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/commit_int.h"
#include "api/catalog/metadata.h"
#include "api/catalog/view.h"
#include "base/alloc.h"
#include "base/attempt_name.h"
#include "base/clock.h"
#include "base/log.h"

#define LOCATION_MAX 1000 /* what the column holds */

/* Adds a name as part of a path; returns whether it had to be changed: clients take these for patterns, escapes or ends of a URI.
 */
static bool
add_path_part(struct buf *b, const char *name, bool dots_split)
{
	bool changed = false;

	for (const char *s = name; *s; s++) {
		bool odd = strchr("*?[]{}#%\\:\"<>|", *s) != NULL;

		buf_addc(b, odd ? '_' : dots_split && *s == '.' ? '/' : *s);
		changed |= odd;
	}
	return changed;
}

/* Where a new table lies unless it says so itself: never in a folder that still holds files of another one. */
static char *
default_location(const struct job *j, const struct part *p, const char *uuid)
{
	struct buf b = BUF_INIT;
	bool changed;

	buf_addf(&b, "%s/", j->catalog->warehouse);
	changed = add_path_part(&b, p->ns, true);
	buf_addc(&b, '/');
	changed |= add_path_part(&b, p->name, false);
	if (changed || warehouse_in_use(b.s))
		buf_addf(&b, "-%.8s", uuid);
	return buf_detach(&b);
}

/* METADATA/00007-UUID.metadata.json: one more than the file before. */
char *
metadata_location_next(const json_t *md, const char *old, const char *attempt)
{
	const char *folder = json_string_value(json_object_get(json_object_get(md, "properties"), "write.metadata.path"));
	const char *location = json_string_value(json_object_get(md, "location")), *file = old ? strrchr(old, '/') : NULL;
	char uuid[UUID_TEXT], *end = NULL, *dir, *out;
	long n = file ? strtol(file + 1, &end, 10) : -1;
	size_t len;

	if (file && (end == file + 1 || *end != '-' || n < 0)) /* named by another catalog */
		n = 0;
	dir = folder && *folder
		      ? xstrdup(folder)
		      : xasprintf("%s%smetadata", location, *location && location[strlen(location) - 1] == '/' ? "" : "/");
	for (len = strlen(dir); len > 1 && dir[len - 1] == '/'; len--)
		dir[len - 1] = '\0';
	attempt_uuid(attempt, uuid);
	out = xasprintf("%s/%05ld-%s.metadata.json", dir, n + 1, uuid);
	free(dir);
	return out;
}

/* Tells in each new snapshot which attempt made it. */
static void
sign_snapshots(const struct job *j, json_t *updates)
{
	static const char *const keys[] = { "sluice.run-id", "sluice.task-id", "sluice.attempt" };
	json_t *u, *summary;
	struct fence f;
	size_t i;

	fence_init(&f, job_attempt(j));
	json_array_foreach (updates, i, u) {
		const char *action = json_string_value(json_object_get(u, "action"));

		if (f.part[0] == NULL || action == NULL || strcmp(action, "add-snapshot") != 0)
			continue;
		summary = json_object_get(json_object_get(u, "snapshot"), "summary");
		for (size_t k = 0; k < 3; k++)
			if (summary && json_object_get(summary, keys[k]) == NULL)
				json_object_set_new(summary, keys[k], json_string(f.part[k]));
	}
	fence_release(&f);
}

static int
part_read_base(struct part *p, struct err *e)
{
	if (p->old == NULL || p->base || p->base_text)
		return 0;
	return warehouse_read(p->old, &p->base_text, &p->base_len, &p->base_json, e);
}

static const json_t *
part_base(const struct part *p)
{
	return p->base ? p->base->json : p->base_json;
}

/* The new metadata; NULL with `e` set. */
static json_t *
part_change(struct job *j, struct part *p, struct err *e)
{
	char uuid[UUID_TEXT], *location = NULL;
	const char *wish = json_string_value(json_object_get(j->body, "location"));
	struct metadata_input in = { .now_ms = clock_wall() / US_PER_MS, .uuid = uuid };
	json_t *md;

	attempt_uuid(NULL, uuid);
	if (p->old == NULL) {
		bool create = j->kind == KIND_CREATE || j->kind == KIND_STAGE;

		location = create && wish && *wish ? xstrdup(wish) : default_location(j, p, uuid);
		for (size_t n = strlen(location); n > 1 && location[n - 1] == '/' && location[n - 2] != '/'; n--)
			location[n - 1] = '\0';
		in.location = location;
	}
	if (j->kind == KIND_CREATE || j->kind == KIND_STAGE) {
		md = j->view ? view_create(j->body, &in, e) : metadata_create(j->body, &in, e);
	} else if (j->view) {
		md = view_check(part_base(p), p->requirements, e) < 0 ? NULL : view_apply(part_base(p), p->updates, &in, e);
	} else {
		sign_snapshots(j, p->updates);
		md = metadata_check(part_base(p), p->requirements, e) < 0
			     ? NULL
			     : metadata_apply(part_base(p), p->old, p->updates, &in, e);
	}
	free(location);
	return md;
}

static json_t *
snapshot_id(const json_t *md)
{
	json_t *id = json_object_get(md, "current-snapshot-id");

	return json_is_integer(id) && json_integer_value(id) != -1 ? json_incref(id) : json_null();
}

/* What the new snapshots say of themselves, summed up: rows and files, as numbers. */
static void
facts_add(json_t *facts, const json_t *summary)
{
	static const struct {
		const char *fact, *key;
	} sums[] = { { "rows_added", "added-records" },
		     { "rows_removed", "deleted-records" },
		     { "files_added", "added-data-files" },
		     { "files_removed", "deleted-data-files" } };

	for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++) {
		const char *text = json_string_value(json_object_get(summary, sums[i].key));
		json_int_t before = json_integer_value(json_object_get(facts, sums[i].fact));

		json_object_set_new(facts, sums[i].fact, json_integer(before + (text ? strtoll(text, NULL, 10) : 0)));
	}
	json_object_set(facts, "operation", json_object_get(summary, "operation"));
}

/* For the row of `commits`: from what to what, and how much. */
static json_t *
part_facts(const struct part *p, const char *action)
{
	json_t *facts = json_pack("{s:s,s:o,s:o}", "action", action, "snapshot_before", snapshot_id(part_base(p)),
				  "snapshot_after", snapshot_id(p->json)),
	       *u;
	size_t i;

	json_array_foreach (p->updates, i, u)
		if (strcmp(json_string_value(json_object_get(u, "action")), "add-snapshot") == 0)
			facts_add(facts, json_object_get(json_object_get(u, "snapshot"), "summary"));
	return facts;
}

/* The new metadata as text, and as a file; `staged`: nothing is there until the client commits. */
static int
part_write(struct part *p, const char *attempt, bool staged, struct err *e)
{
	p->text = json_dumps(p->json, JSON_COMPACT);
	if (p->text == NULL)
		return err_set(e, ERR_INVALID, "the new metadata cannot be written as JSON");
	p->len = strlen(p->text);
	if (staged)
		return 0;
	p->new = metadata_location_next(p->json, p->old, attempt);
	if (strlen(p->new) > LOCATION_MAX)
		return err_set(e, ERR_INVALID, "the location %s is longer than %d bytes", p->new, LOCATION_MAX);
	if (warehouse_write(p->new, p->text, p->len, e) < 0)
		return e->code;
	p->written = true;
	return 0;
}

static int
part_build(struct job *j, struct part *p, struct err *e)
{
	if (part_read_base(p, e) < 0) {
		if (j->kind != KIND_TRANSACTION) /* where it is added to every error */
			err_prefix(e, "%s %s.%s", j->view ? "view" : "table", p->ns, p->name);
		return e->code;
	}
	if ((p->json = part_change(j, p, e)) == NULL)
		return e->code;
	if (p->old && json_equal(part_base(p), p->json)) { /* nothing changes: the file stays the one it was */
		p->new = xstrdup(p->old);
		return 0;
	}
	if (p->old == NULL && !j->view && warehouse_make_table(json_string_value(json_object_get(p->json, "location")), e) < 0)
		return e->code;
	if (part_write(p, job_attempt(j), j->kind == KIND_STAGE, e) < 0)
		return e->code;
	p->facts = part_facts(p, j->keeper ? "maintain" : p->old ? "commit" : "create");
	return 0;
}

static int
part_register(struct job *j, struct part *p, struct err *e)
{
	const char *location = json_string_value(json_object_get(j->body, "metadata-location"));

	if (location == NULL || strlen(location) > LOCATION_MAX)
		return err_set(e, ERR_INVALID, "\"metadata-location\" must name the table's metadata file");
	p->new = xstrdup(location);
	p->facts = json_pack("{s:s}", "action", "register");
	if (warehouse_read(location, &p->base_text, &p->base_len, &p->base_json, e) < 0)
		return e->code;
	return view_is(p->base_json) == j->view
		       ? 0
		       : err_set(e, ERR_INVALID, "%s is the metadata of a %s", location, j->view ? "table" : "view");
}

/* Takes the table back to where a run found it. */
static int
part_undo(struct part *p, struct err *e)
{
	struct metadata_input in = { .now_ms = clock_wall() / US_PER_MS };
	json_t *before = NULL, *updates = NULL;
	char *text = NULL;
	size_t len;
	int rc = part_read_base(p, e);

	if (rc == 0 && p->back)
		rc = warehouse_read(p->back, &text, &len, &before, e);
	if (rc == 0 && p->back &&
	    (p->old == NULL || !json_equal(json_object_get(before, "table-uuid"), json_object_get(p->base_json, "table-uuid")))) {
		p->new = xstrdup(p->back); /* it is another table, or none, by now: this one is as it was */
		p->text = text;
		p->len = len;
		p->json = json_incref(before);
		text = NULL;
	} else if (rc == 0 && p->back) {
		updates = undo_updates(before, p->base_json, e);
		p->json = updates ? metadata_apply(p->base_json, p->old, updates, &in, e) : NULL;
		rc = p->json ? part_write(p, NULL, false, e) : e->code;
	}
	if (rc == 0)
		p->facts = part_facts(p, "undo");
	json_decref(before);
	json_decref(updates);
	free(text);
	return rc;
}

void
job_work(struct work *w)
{
	struct job *j = w->data;
	int rc = 0;

	for (size_t i = 0; i < j->nparts && rc == 0; i++) {
		struct part *p = &j->parts[i];

		rc = j->kind == KIND_REGISTER ? part_register(j, p, &j->e)
		     : j->kind == KIND_UNDO   ? part_undo(p, &j->e)
					      : part_build(j, p, &j->e);
		if (rc < 0 && (j->kind == KIND_TRANSACTION || j->kind == KIND_UNDO))
			err_prefix(&j->e, "table %s.%s", p->ns, p->name);
	}
}
