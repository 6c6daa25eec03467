/*
 * maintain: keeps tables healthy. All tables are looked at with few statements (tasks/health.c), then those that need it are
 * taken one by one through the steps below. A table that cannot be maintained spoils no other: it is named at the end, and the
 * task has failed then. What was done is reported as artifacts, maintenance.json and maintenance.txt.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/table_policy.h"
#include "tasks/engines/duckdb.h"
#include "tasks/health.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/session.h"
#include "tasks/maintain/maintain.h"
#include "tasks/report.h"

#define PAGE 1000 /* tables that are looked at together */
#define NICE 10

/* The steps in their order; `key` switches one on in the task's spec. */
static const struct {
	const char *key;
	int (*run)(struct care *k, json_t *out);
} steps[] = {
	{ "compact", compact_run },
	{ "rewrite_manifests", manifests_run },
	{ "expire_snapshots", expire_run },
	{ "remove_orphan_files", orphans_run },
};
#define STEPS (sizeof(steps) / sizeof(steps[0]))

struct round {
	struct duty duty;
	bool on[STEPS];
	json_t *items;                             /* of the report */
	json_int_t seen, changed, skipped, failed; /* tables */
	struct buf failures;
};

/* ---- what the task says ---- */

/* -1: it does not say; else whether the step is switched on. */
static int
step_said(const json_t *spec, const char *key)
{
	const json_t *value = json_object_get(spec, key), *enabled = json_object_get(value, "enabled");

	if (value == NULL || json_is_null(value))
		return -1;
	if (json_is_string(value)) /* rewrite_manifests: auto, always, never */
		return strcmp(json_string_value(value), "never") != 0;
	return !json_is_false(enabled);
}

/* If nothing is switched on by name, everything is that is not switched off. */
static void
steps_chosen(struct round *r, const json_t *spec)
{
	bool named = false;

	for (size_t i = 0; i < STEPS; i++)
		named = named || step_said(spec, steps[i].key) == 1;
	for (size_t i = 0; i < STEPS; i++) {
		int said = step_said(spec, steps[i].key);

		r->on[i] = said == 1 || (said < 0 && !named);
	}
}

static json_int_t
limit_of(const json_t *spec, const char *key)
{
	const json_t *value = json_object_get(json_object_get(spec, "compact"), key);

	return json_is_integer(value) ? json_integer_value(value) : -1;
}

static void
round_begin(struct round *r, struct context *cx)
{
	const json_t *patience = json_object_get(cx->spec, "wait_for_writers");

	steps_chosen(r, cx->spec);
	r->duty = (struct duty){ .cx = cx,
				 .dry_run = json_is_true(json_object_get(cx->spec, "dry_run")),
				 .orphans = r->on[STEPS - 1],
				 .bytes_left = limit_of(cx->spec, "max_bytes"),
				 .files_left = limit_of(cx->spec, "max_files"),
				 .patience = json_is_integer(patience) ? json_integer_value(patience) : 5 * US_PER_MIN };
	r->items = json_array();
}

/* ---- one table ---- */

static void
round_fail(struct round *r, json_t *item)
{
	struct err *e = &r->duty.cx->err;
	const char *why = e->msg ? e->msg : "unknown", *table = json_string_value(json_object_get(item, "table"));

	r->failed++;
	json_object_set_new(item, "error", json_string(why));
	fprintf(stderr, "%s: error: %s\n", table, why);
	if (r->failed <= 10)
		buf_addf(&r->failures, "\n  %s: %s", table, why);
	err_release(e);
	r->duty.cx->cause = NULL;
}

static void
care_release(struct care *k)
{
	free(k->ns);
	free(k->name);
	free(k->title);
	free(k->before_expiry);
	json_decref(k->after_expiry);
	json_decref(k->told);
	json_decref(k->md);
	free(k->md_at);
	json_decref(k->policy);
}

/* Takes the table through the steps; false when one of them failed. */
static bool
care_steps(struct round *r, struct care *k, json_t *item)
{
	json_t *list = json_array();
	bool good = true;

	json_object_set_new(item, "steps", list);
	for (size_t i = 0; i < STEPS && good; i++) {
		bool also = steps[i].run == orphans_run && k->before_expiry; /* what goes with what has expired */
		mono_us since = clock_mono();
		json_t *out;

		if (!r->on[i] && !also)
			continue;
		out = json_pack("{s:s}", "step", steps[i].key);
		good = steps[i].run(k, out) == 0;
		if (!good)
			step_state(out, "failed", "%s", k->cx->err.msg ? k->cx->err.msg : "unknown");
		step_number(out, "wall_us", clock_mono() - since);
		if (!r->on[i]) {
			json_decref(out);
			continue;
		}
		json_array_append_new(list, out);
	}
	return good;
}

static bool
any_step(const json_t *item, const char *state)
{
	json_t *step;
	size_t i;

	json_array_foreach (json_object_get(item, "steps"), i, step)
		if (strcmp(json_string_value(json_object_get(step, "state")), state) == 0)
			return true;
	return false;
}

static void
tend(struct round *r, const json_t *told, const json_t *health, wall_us oldest_reader)
{
	struct context *cx = r->duty.cx;
	struct care k = { .duty = &r->duty,
			  .cx = cx,
			  .ns = xstrdup(json_string_value(json_object_get(told, "namespace"))),
			  .name = xstrdup(json_string_value(json_object_get(told, "name"))),
			  .told = json_incref((json_t *)(uintptr_t)told),
			  .health = health,
			  .oldest_reader = oldest_reader };
	json_t *item, *after, *again;

	k.title = xasprintf("%s.%s", k.ns, k.name);
	k.policy = table_policy(json_object_get(cx->doc, "housekeeping"), k.title);
	item = json_pack("{s:s,s:O}", "table", k.title, "before", health);
	if (!care_steps(r, &k, item))
		round_fail(r, item);
	if (k.changed) {
		r->changed++;
		again = json_pack("[{s:s,s:O}]", "table", k.title, "location", json_object_get(k.told, "location"));
		if (care_look(&k, 0) == 0 && k.told)
			json_object_set(json_array_get(again, 0), "location", json_object_get(k.told, "location"));
		err_release(&cx->err);
		after = health_of(cx, again, json_object_get(cx->doc, "housekeeping"));
		json_object_set(item, "after", json_array_get(after, 0));
		json_decref(after);
		json_decref(again);
	}
	r->skipped += any_step(item, "skipped");
	json_array_append_new(r->items, item);
	care_release(&k);
}

/* ---- many ---- */

static bool
needs_care(struct round *r, const json_t *health)
{
	const json_t *below = json_object_get(r->duty.cx->spec, "when_health_below");

	return !json_is_integer(below) || json_integer_value(json_object_get(health, "score")) < json_integer_value(below);
}

static void
page_tend(struct round *r, const json_t *answer)
{
	struct context *cx = r->duty.cx;
	const json_t *tables = json_object_get(answer, "tables"), *told, *health;
	json_t *items = json_array(), *found;
	size_t i;

	json_array_foreach (tables, i, told) {
		json_t *item = json_pack("{s:s++,s:O}", "table", json_string_value(json_object_get(told, "namespace")), ".",
					 json_string_value(json_object_get(told, "name")), "location",
					 json_object_get(told, "location"));

		json_array_append_new(items, item);
	}
	found = health_of(cx, items, json_object_get(cx->doc, "housekeeping"));
	json_array_foreach (found, i, health) {
		const char *error = json_string_value(json_object_get(health, "error"));
		json_t *item = json_array_get(items, i);

		r->seen++;
		report("progress", json_pack("{s:I,s:n,s:O}", "done", (json_int_t)r->seen, "total", "message",
					     json_object_get(item, "table")));
		if (error) {
			json_t *bad = json_pack("{s:O}", "table", json_object_get(item, "table"));

			err_set(&cx->err, ERR_IO, "%s", error);
			round_fail(r, bad);
			json_array_append_new(r->items, bad);
		} else if (needs_care(r, health)) {
			tend(r, json_array_get(tables, i), health, json_integer_value(json_object_get(answer, "oldest_reader")));
		}
	}
	json_decref(items);
	json_decref(found);
}

static int
all_pages(struct round *r)
{
	struct context *cx = r->duty.cx;
	json_t *answer = NULL, *body = json_pack("{s:O,s:i}", "tables", json_object_get(cx->spec, "tables"), "limit", PAGE);
	const json_t *next;
	int status, rc = -1;

	do {
		json_decref(answer);
		answer = NULL;
		status = rest_call(cx, "POST", "maintenance", body, &answer);
		if (status != 200) {
			if (status >= 0)
				rest_fail(cx, "the catalog does not tell what tables there are", status, answer);
			goto out;
		}
		page_tend(r, answer);
		next = json_object_get(answer, "next");
		json_object_set(body, "after", (json_t *)(uintptr_t)next);
	} while (json_is_string(next));
	rc = 0;
out:
	json_decref(answer);
	json_decref(body);
	return rc;
}

/* ---- the report ---- */

/* The sum of a number over all items and their steps of that name; `step` NULL: of the item's part `part`. */
static json_int_t
sum_of(const struct round *r, const char *part, const char *step, const char *key)
{
	json_int_t sum = 0;
	json_t *item, *one;
	size_t i, k;

	json_array_foreach (r->items, i, item) {
		if (step == NULL) {
			const json_t *from = json_object_get(item, part);

			sum += json_integer_value(json_object_get(from ? from : json_object_get(item, "before"), key));
			continue;
		}
		json_array_foreach (json_object_get(item, "steps"), k, one)
			if (strcmp(json_string_value(json_object_get(one, "step")), step) == 0)
				sum += json_integer_value(json_object_get(one, key));
	}
	return sum;
}

static json_t *
totals(const struct round *r, const char *part)
{
	static const char *const keys[] = { "records",      "files",     "bytes",     "small_files",
					    "delete_files", "snapshots", "manifests", "metadata_bytes" };
	json_t *out = json_object();

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		json_object_set_new(out, keys[i], json_integer(sum_of(r, part, NULL, keys[i])));
	return out;
}

static json_t *
round_report(const struct round *r, dur_us wall)
{
	json_int_t files = sum_of(r, NULL, "expire_snapshots", "files") + sum_of(r, NULL, "remove_orphan_files", "files"),
		   bytes = sum_of(r, NULL, "expire_snapshots", "bytes") + sum_of(r, NULL, "remove_orphan_files", "bytes");

	return json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:O}", "dry_run", r->duty.dry_run, "tables",
			 r->seen, "changed", r->changed, "skipped", r->skipped, "failed", r->failed, "wall_us", (json_int_t)wall,
			 "before", totals(r, "before"), "after", totals(r, "after"), "files_rewritten",
			 sum_of(r, NULL, "compact", "files"), "bytes_rewritten", sum_of(r, NULL, "compact", "bytes"),
			 "snapshots_expired", sum_of(r, NULL, "expire_snapshots", "snapshots"), "orphans",
			 sum_of(r, NULL, "remove_orphan_files", "files"), "files_removed", files, "bytes_reclaimed", bytes,
			 "items", r->items);
}

static int
artifact_write(struct context *cx, const char *name, const char *text)
{
	char *path = xasprintf("%s/%s", doc_text(cx, "artifacts"), name);
	FILE *f = fopen(path, "w");
	int rc = 0;

	if (f == NULL || fputs(text, f) < 0)
		rc = task_fail(cx, ERR_IO, "the report %s cannot be written: %s", path, strerror(errno));
	if (f && fclose(f) != 0 && rc == 0)
		rc = task_fail(cx, ERR_IO, "the report %s cannot be written: %s", path, strerror(errno));
	free(path);
	return rc;
}

static int
round_tell(struct round *r, dur_us wall)
{
	static const char *const told[] = { "tables",          "changed",         "skipped",           "failed",
					    "files_rewritten", "bytes_rewritten", "snapshots_expired", "files_removed",
					    "bytes_reclaimed" };
	json_t *all = round_report(r, wall), *outputs = json_object();
	char *json = json_dumps(all, JSON_INDENT(1)), *text = maintain_text(all);
	int rc = artifact_write(r->duty.cx, "maintenance.json", json);

	if (rc == 0)
		rc = artifact_write(r->duty.cx, "maintenance.txt", text);
	fputs(text, stdout);
	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
		json_object_set(outputs, told[i], json_object_get(all, told[i]));
	report("metrics", json_copy(outputs));
	report("outputs", outputs);
	json_decref(all);
	free(json);
	free(text);
	return rc;
}

static int
round_judge(struct round *r)
{
	struct context *cx = r->duty.cx;

	if (r->failed)
		return task_fail(cx, ERR_IO, "%lld of %lld tables could not be maintained:%s%s", (long long)r->failed,
				 (long long)r->seen, r->failures.s, r->failed > 10 ? "\n  …" : "");
	if (r->seen == 0)
		return task_fail_at(cx, "tables", "no table has such a name; `sluice tables` lists those there are");
	return 0;
}

int
maintain_run(struct context *cx)
{
	mono_us since = clock_mono();
	struct round r = { 0 };
	int rc = -1;

	if (session_foreign(cx))
		return task_fail(cx, ERR_UNSUPPORTED,
				 "the tables belong to another server's catalog, which is the one to maintain them");
	/* Who writes goes first, on the processors, too. The attempt is a process group; its engine's threads are there already.
	 */
	if (setpriority(PRIO_PGRP, 0, NICE) < 0)
		fprintf(stderr, "warning: maintenance cannot step behind others: setpriority: %s\n", strerror(errno));
	round_begin(&r, cx);
	/* What is read once need not be remembered. */
	if (duck_load_iceberg(cx->db, &cx->err) == 0 && task_s3_if_any(cx) == 0 &&
	    duck_exec(cx->db, "SET enable_external_file_cache = false", &cx->err) == 0)
		rc = all_pages(&r);
	if (rc == 0)
		rc = round_tell(&r, clock_mono() - since);
	if (rc == 0)
		rc = round_judge(&r);
	json_decref(r.items);
	buf_release(&r.failures);
	return rc;
}
