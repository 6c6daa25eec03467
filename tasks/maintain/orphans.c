/*
 * Files in the table's folder that nothing leads to: what only expired snapshots needed, and orphans, which no metadata ever led
 * to. Nothing goes that somebody may still be about to commit: orphans not before an age, and not before everything that runs now
 * has begun.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/names.h"
#include "storage/storage.h"
#include "tasks/folder.h"
#include "tasks/iceberg/reach.h"
#include "tasks/maintain/maintain.h"

#define CLOCKS US_PER_MIN /* two clocks that are no further apart agree */

static bool
any_old(const struct folder *f)
{
	for (const struct folder_file *file = f->files; file; file = file->hh.next)
		if (file->modified < f->until)
			return true;
	return false;
}

static bool
any_spare(const struct folder *f)
{
	for (const struct folder_file *file = f->files; file; file = file->hh.next)
		if (!file->needed)
			return true;
	return false;
}

/* Every file that nobody may be about to need. */
static void
mark_old(struct folder *f)
{
	for (struct folder_file *file = f->files; file; file = file->hh.next)
		if (file->modified < f->until)
			file->kind = folder_kind_of(file->location);
}

/* May orphans be looked for? Else `out` tells why not. */
static bool
may_look(struct care *k, const json_t *md, json_t *out)
{
	const json_t *neighbours = json_object_get(k->told, "neighbours");
	const char *gc = json_string_value(json_object_get(json_object_get(md, "properties"), "gc.enabled"));
	char *names;

	if (gc && strcmp(gc, "false") == 0) {
		step_state(out, "skipped", "the table's property gc.enabled is false");
		return false;
	}
	if (json_array_size(neighbours) == 0)
		return true;
	names = names_joined(neighbours, ", ");
	step_state(out, "skipped", "its folder also holds, or lies in that of, %s: what is an orphan there nobody can tell",
		   names);
	free(names);
	return false;
}

/* Marks what the table, its neighbours and runs under way lead to, but for what `r` has found before. */
static int
mark_needed(struct care *k, struct folder *f, struct reach *r)
{
	const json_t *md = k->after_expiry ? k->after_expiry : care_metadata(k);
	int rc = md ? folder_need_table(f, r, json_string_value(json_object_get(k->told, "location")), md) : -1;

	return rc < 0 ? -1 : folder_need(f, r, json_object_get(k->told, "keep"), false);
}

/* Removes what is marked, and tells how much that is. */
static int
sweep(struct folder *f, json_t *out)
{
	json_int_t files = f->removed, bytes = f->bytes;
	int rc = folder_remove(f);

	step_number(out, "files", f->removed - files);
	step_number(out, "bytes", f->bytes - bytes);
	return rc;
}

/*
 * The table's metadata file says when it was made by the catalog's clock, and its store when by its own. Where that is behind,
 * files look older there than they are, and are given as much more time.
 */
static void
allow_for_clocks(struct care *k, struct folder *f, const json_t *md, json_t *out)
{
	const struct folder_file *file = folder_file(f, json_string_value(json_object_get(k->told, "location")));
	wall_us made = json_integer_value(json_object_get(md, "last-updated-ms")) * US_PER_MS;

	if (file == NULL || file->modified >= made - CLOCKS)
		return;
	f->until -= made - file->modified;
	step_number(out, "clock_behind_s", (made - file->modified) / US_PER_S);
	fprintf(stderr, "warning: table %s: the clock of its store is %lld s behind; orphans are given as much more time\n",
		k->title, (long long)((made - file->modified) / US_PER_S));
}

static int
folder_sweep(struct care *k, struct folder *f, const json_t *md, bool orphans, json_t *out)
{
	json_t *expired = k->before_expiry ? json_pack("[s]", k->before_expiry) : json_array();
	struct reach *r = folder_reach(f);
	int rc = folder_list(f);

	if (rc == 0 && f->files == NULL)
		rc = task_fail(k->cx, ERR_NOT_FOUND, "%s has no file at all: is a disk not mounted?", f->location);
	if (rc < 0)
		goto out;
	allow_for_clocks(k, f, md, out);
	orphans = orphans && any_old(f);
	if (!orphans && k->before_expiry == NULL)
		goto out;
	rc = mark_needed(k, f, r);
	if (rc == 0 && any_spare(f)) { /* the table may have taken it in since the catalog was asked */
		rc = care_look(k, 0);
		if (rc == 0 && k->told)
			rc = mark_needed(k, f, r);
	}
	if (rc < 0 || k->told == NULL)
		goto out;
	if (k->before_expiry) {
		f->pretend = k->duty->dry_run;
		rc = folder_expire(f, expired);
		if (rc == 0)
			rc = sweep(f, k->expiry);
	}
	if (rc == 0 && orphans) {
		f->pretend = k->duty->dry_run || json_is_true(step_option(k, "remove_orphan_files", "dry_run"));
		mark_old(f);
		rc = sweep(f, out);
		if (rc == 0 && json_integer_value(json_object_get(out, "files")))
			step_state(out, f->pretend ? "planned" : "done", NULL);
	}
out:
	reach_free(r);
	json_decref(expired);
	return rc;
}

int
orphans_run(struct care *k, json_t *out)
{
	const json_t *older = step_option(k, "remove_orphan_files", "older_than");
	dur_us age =
		older ? json_integer_value(older) : json_integer_value(json_object_get(k->policy, "orphan_days")) * US_PER_DAY;
	struct folder f = { .cx = k->cx };
	wall_us now = clock_wall();
	bool orphans;
	const json_t *md;
	int rc = 0;

	step_state(out, "nothing", NULL);
	/* What is needed is looked up now, so what is younger than now may be needed by what comes. */
	if (k->changed && care_look(k, 0) < 0)
		return -1;
	if (k->told == NULL || json_is_true(json_object_get(k->told, "private"))) {
		step_state(out, "skipped",
			   k->told ? "its own run has changed the table, which nobody sees before it has ended"
				   : "the table is not there any more");
		return 0;
	}
	if ((md = care_metadata(k)) == NULL)
		return -1;
	f.location = json_string_value(json_object_get(md, "location"));
	f.until = now - age < k->oldest_reader ? now - age : k->oldest_reader;
	orphans = k->duty->orphans && may_look(k, md, out);
	if (orphans || k->before_expiry)
		rc = folder_sweep(k, &f, md, orphans, out);
	folder_release(&f);
	return rc;
}
