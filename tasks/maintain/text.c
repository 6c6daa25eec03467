/* The report for people: what was done to which table, what was skipped and why, and what all that came to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/maintain/maintain.h"

static json_int_t
number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static void
add_bytes(struct buf *b, json_int_t n)
{
	static const char *const units[] = { "B", "KB", "MB", "GB", "TB", "PB" };
	double value = (double)n;
	size_t u = 0;

	while (value >= 1024 && u + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		u++;
	}
	buf_addf(b, u == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[u]);
}

static void
add_compact(const json_t *s, bool would, struct buf *b)
{
	if (number(s, "files") == 0)
		return;
	buf_addf(b, "%s%lld files of ", would ? "would rewrite " : "", (long long)number(s, "files"));
	add_bytes(b, number(s, "bytes"));
	if (would)
		return;
	buf_addf(b, " became %lld of ", (long long)number(s, "new_files"));
	add_bytes(b, number(s, "new_bytes"));
	if (number(s, "delete_files"))
		buf_addf(b, ", %lld delete files applied", (long long)number(s, "delete_files"));
}

static void
add_manifests(const json_t *s, bool would, struct buf *b)
{
	if (number(s, "merged"))
		buf_addf(b, "%s%lld of %lld manifests", would ? "would merge " : "merged ", (long long)number(s, "merged"),
			 (long long)number(s, "manifests"));
}

static void
add_removed(const json_t *s, bool would, const char *what, struct buf *b)
{
	buf_addf(b, "%s%lld %s", would ? "would remove " : "removed ", (long long)number(s, "files"), what);
	if (number(s, "files")) {
		buf_adds(b, " (");
		add_bytes(b, number(s, "bytes"));
		buf_adds(b, ")");
	}
}

static void
add_expiry(const json_t *s, bool would, struct buf *b)
{
	if (number(s, "snapshots") + number(s, "refs") == 0)
		return;
	buf_addf(b, "%s%lld snapshots", would ? "would expire " : "expired ", (long long)number(s, "snapshots"));
	if (number(s, "refs"))
		buf_addf(b, ", %lld branches and tags", (long long)number(s, "refs"));
	buf_adds(b, ", ");
	add_removed(s, would, "files with them", b);
}

static void
add_orphans(const json_t *s, bool would, struct buf *b)
{
	if (number(s, "files"))
		add_removed(s, would, "orphans", b);
}

static const struct {
	const char *step, *title;
	void (*add)(const json_t *s, bool would, struct buf *b);
} steps[] = {
	{ "compact", "compaction", add_compact },
	{ "rewrite_manifests", "manifests", add_manifests },
	{ "expire_snapshots", "snapshots", add_expiry },
	{ "remove_orphan_files", "orphans", add_orphans },
};

static void
add_step(const json_t *s, struct buf *b)
{
	const char *name = json_string_value(json_object_get(s, "step")), *state = json_string_value(json_object_get(s, "state")),
		   *why = json_string_value(json_object_get(s, "why"));
	struct buf text = BUF_INIT;

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		if (strcmp(steps[i].step, name) != 0)
			continue;
		steps[i].add(s, strcmp(state, "planned") == 0, &text);
		if (text.len == 0 && why == NULL)
			break;
		buf_addf(b, "    %-11s %s%s%s%s\n", steps[i].title, text.len ? text.s : "", text.len && why ? "; " : "",
			 why && text.len == 0 ? strcmp(state, "failed") == 0 ? "failed: " : "skipped: " : "", why ? why : "");
	}
	buf_release(&text);
}

static void
add_item(const json_t *item, struct buf *b)
{
	const json_t *before = json_object_get(item, "before"), *after = json_object_get(item, "after"), *step;
	const char *error = json_string_value(json_object_get(item, "error"));
	struct buf lines = BUF_INIT;
	size_t i;

	json_array_foreach (json_object_get(item, "steps"), i, step)
		add_step(step, &lines);
	if (before == NULL)
		buf_addf(&lines, "    failed: %s\n", error);
	if (lines.len) {
		buf_addf(b, "\n%s", json_string_value(json_object_get(item, "table")));
		if (before)
			buf_addf(b, "  health %lld", (long long)number(before, "score"));
		if (after)
			buf_addf(b, " -> %lld", (long long)number(after, "score"));
		buf_addf(b, "\n%s", lines.s);
	}
	buf_release(&lines);
}

static void
add_change(const char *title, const json_t *report, const char *key, bool bytes, struct buf *b)
{
	json_int_t before = number(json_object_get(report, "before"), key), after = number(json_object_get(report, "after"), key);

	buf_addf(b, "  %-14s ", title);
	if (bytes)
		add_bytes(b, before);
	else
		buf_addf(b, "%lld", (long long)before);
	if (after != before) {
		buf_adds(b, " -> ");
		if (bytes)
			add_bytes(b, after);
		else
			buf_addf(b, "%lld", (long long)after);
	}
	buf_addc(b, '\n');
}

char *
maintain_text(const json_t *report)
{
	bool would = json_is_true(json_object_get(report, "dry_run"));
	struct buf b = BUF_INIT;
	json_t *item;
	size_t i;

	buf_addf(&b, "%s of %lld tables in %.1f s: %lld changed, %lld skipped, %lld failed\n",
		 would ? "Dry run of maintenance" : "Maintenance", (long long)number(report, "tables"),
		 (double)number(report, "wall_us") / 1e6, (long long)number(report, "changed"),
		 (long long)number(report, "skipped"), (long long)number(report, "failed"));
	json_array_foreach (json_object_get(report, "items"), i, item)
		add_item(item, &b);
	buf_adds(&b, "\nAll tables\n");
	add_change("rows in files", report, "records", false, &b);
	add_change("size", report, "bytes", true, &b);
	add_change("files", report, "files", false, &b);
	add_change("small files", report, "small_files", false, &b);
	add_change("delete files", report, "delete_files", false, &b);
	add_change("snapshots", report, "snapshots", false, &b);
	add_change("manifests", report, "manifests", false, &b);
	buf_addf(&b, "  %-14s ", would ? "would reclaim" : "reclaimed");
	add_bytes(&b, number(report, "bytes_reclaimed"));
	buf_addf(&b, " in %lld files\n", (long long)number(report, "files_removed"));
	return buf_detach(&b);
}
