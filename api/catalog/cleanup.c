/*
 * Files that attempts left in tables and no table needs: of runs and attempts that did not succeed, of commits that were made
 * twice because a daemon died, of commits that were put on top of others. The scheduler notes in `sluice.cleanup` where there may
 * be some; after catalog.cleanup_after a child looks there, and removes what carries the attempt's name and nothing leads to.
 * Nothing here is lost by dying: rows go when their files are gone.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "base/alloc.h"
#include "base/attempt_name.h"
#include "base/fault.h"
#include "base/log.h"
#include "scheduler/alarm.h"
#include "scheduler/store/store.h"

#define CLEANUP_ROWS    "200" /* looked at by one child */
#define CLEANUP_TIMEOUT (60 * US_PER_MIN)
#define CLEANUP_PAUSE   (10 * US_PER_S)   /* when the database or the nursery is away */
#define CLEANUP_AGAIN   (60 * US_PER_MIN) /* for a table that could not be looked at */

struct cleanup {
	struct catalog *catalog;
	struct alarm *alarm;
	dur_us after;
	wall_us armed; /* what the alarm is set to */
	bool busy;
};

static void cleanup_begin(void *arg);

static void
cleanup_arm(struct cleanup *c, wall_us at)
{
	wall_us now = clock_wall();

	if (c->catalog->closing || c->busy || (c->armed && c->armed <= at))
		return;
	c->armed = at;
	alarm_set(&c->alarm, c->catalog->app->loop, at > now ? at - now : 0, cleanup_begin, c);
}

/* The work in hand ended, and did not say when there is more. */
static void
cleanup_pause(struct cleanup *c)
{
	c->busy = false;
	cleanup_arm(c, clock_wall() + CLEANUP_PAUSE);
}

static void
on_left(void *arg)
{
	struct cleanup *c = arg;

	cleanup_arm(c, clock_wall() + c->after);
}

static void
on_forgotten(void *arg)
{
	struct cleanup *c = arg;

	c->busy = false;
	cleanup_arm(c, clock_wall());
}

/* What is done is forgotten, what failed is looked at again later. */
static void
cleanup_forget(struct cleanup *c, const json_t *result)
{
	static const char *const done = "DELETE FROM sluice.cleanup WHERE id IN (SELECT x::bigint FROM "
					"jsonb_array_elements_text($1::jsonb) x)",
				 *const later =
					 "UPDATE sluice.cleanup SET at = $2::timestamptz WHERE id IN (SELECT x::bigint FROM "
					 "jsonb_array_elements_text($1::jsonb) x)";
	char *text = json_dumps(json_object_get(result, "done"), JSON_COMPACT), at[TIME_TEXT];
	json_t *failed;
	size_t i;

	FAULT("cleanup.forget.before");

	store_write(c->catalog->app->store, done, 1, (const char *[]){ text ? text : "[]" });
	free(text);
	time_format(clock_wall() - c->after + CLEANUP_AGAIN, at);
	json_array_foreach (json_object_get(result, "failed"), i, failed) {
		log_warn("catalog: table %s: what failed attempts left there cannot be removed now, and is tried again in an "
			 "hour: %s",
			 json_string_value(json_object_get(failed, "table")), json_string_value(json_object_get(failed, "why")));
		text = json_dumps(json_object_get(failed, "ids"), JSON_COMPACT);
		store_write(c->catalog->app->store, later, 2, (const char *[]){ text ? text : "[]", at });
		free(text);
	}
	store_after_commit(c->catalog->app->store, on_forgotten, c);
}

static void
on_cleaned(void *arg, const json_t *report, struct err *e)
{
	struct cleanup *c = arg;
	const json_t *result = json_object_get(report, "result"), *table;
	size_t i;

	if (c->catalog->closing)
		return;
	if (result == NULL) {
		if (e == NULL || e->code != ERR_UNAVAILABLE)
			log_warn("catalog: what failed attempts left in tables cannot be removed now: %s",
				 e ? e->msg : "the child told nothing");
		cleanup_pause(c);
		return;
	}
	json_array_foreach (json_object_get(result, "removed"), i, table)
		log_info("catalog: table %s: removed %lld files (%lld bytes) that attempts had left, of %s",
			 json_string_value(json_object_get(table, "table")),
			 (long long)json_integer_value(json_object_get(table, "files")),
			 (long long)json_integer_value(json_object_get(table, "bytes")),
			 json_string_value(json_object_get(table, "attempts")));
	cleanup_forget(c, result);
}

/* What the child needs to know of names. */
static void
rows_sign(json_t *rows)
{
	char stem[ATTEMPT_STEM], uuid[UUID_TEXT], *key;
	json_t *row;
	size_t i;

	json_array_foreach (rows, i, row) {
		const char *run = json_string_value(json_object_get(row, "run")),
			   *task = json_string_value(json_object_get(row, "task"));
		int n = (int)json_integer_value(json_object_get(row, "attempt"));

		key = xasprintf("%s/%s/%d", run, task, n);
		attempt_uuid(key, uuid);
		json_object_set_new(row, "stem", json_string(attempt_stem(run, task, n, stem)));
		json_object_set_new(row, "uuid", json_string(uuid));
		json_object_set_new(row, "key", json_string(key));
		free(key);
	}
}

static void
on_rows(void *arg, const struct rows *r, struct err *e)
{
	struct cleanup *c = arg;
	json_t *rows, *spec;

	(void)e;
	if (c->catalog->closing)
		return;
	if (r == NULL) {
		cleanup_pause(c);
		return;
	}
	rows = rows_json(r, 0, 1);
	if (json_array_size(rows) > 0) {
		rows_sign(rows);
		spec = json_pack("{s:O}", "rows", rows);
		sched_adhoc(c->catalog->app->sched, "cleanup", spec, CLEANUP_TIMEOUT, on_cleaned, c);
		json_decref(spec);
	} else {
		c->busy = false;
		if (rows_get(r, 0, 0))
			cleanup_arm(c, strtoll(rows_get(r, 0, 0), NULL, 10) + c->after);
	}
	json_decref(rows);
}

/*
 * The rows that are due, each with the metadata files whose tables must be able to read all they lead to: of the table and
 * whatever else lies in its folder, of the runs under way, and of the row's own run, where something of it is visible.
 */
static void
cleanup_begin(void *arg)
{
	struct cleanup *c = arg;
	char until[TIME_TEXT];

	c->armed = 0;
	if (c->catalog->closing)
		return;
	c->busy = true;
	store_query(
		c->catalog->app->store,
		"WITH due AS (SELECT *, coalesce(location, regexp_replace(metadata, '/metadata/[^/]*$', '')) AS folder FROM "
		"sluice.cleanup"
		"  WHERE at <= $2::timestamptz ORDER BY at LIMIT " CLEANUP_ROWS ")"
		" SELECT (SELECT (extract(epoch FROM min(at)) * 1000000)::bigint FROM sluice.cleanup),"
		" (SELECT coalesce(jsonb_agg(jsonb_build_object('id', d.id, 'table', d.namespace || '.' || d.name, 'run', "
		"d.run_id, 'task',"
		" d.task_id, 'attempt', d.attempt, 'location', d.folder, 'metadata', d.metadata,"
		" 'since', (SELECT (extract(epoch FROM a.started_at) * 1000000)::bigint FROM sluice.attempts a"
		"   WHERE a.run_id = d.run_id AND a.task_id = d.task_id AND a.n = d.attempt),"
		" 'keep', (SELECT coalesce(jsonb_agg(DISTINCT m), '[]') FROM ("
		"   SELECT t.metadata_location AS m FROM iceberg_tables t WHERE t.metadata_location IS NOT NULL AND"
		"     ((t.catalog_name = $1 AND t.table_namespace = d.namespace AND t.table_name = d.name)"
		"     OR starts_with(t.metadata_location, d.folder || '/'))"
		"   UNION SELECT k.metadata_after FROM sluice.commits k WHERE k.namespace = d.namespace AND k.name = d.name"
		"     AND k.metadata_after IS NOT NULL AND k.state = 'private'"
		"     AND k.run_id IN (SELECT id FROM sluice.runs WHERE state IN ('queued', 'running', 'publishing'))"
		"   UNION (SELECT k.metadata_after FROM sluice.commits k WHERE k.run_id = d.run_id AND k.namespace = d.namespace"
		"     AND k.name = d.name AND k.metadata_after IS NOT NULL AND k.state NOT IN ('private', 'abandoned')"
		"     ORDER BY k.id DESC LIMIT 1)) AS k)) ORDER BY d.at), '[]') FROM due d)",
		2, (const char *[]){ c->catalog->name, time_format(clock_wall() - c->after, until) }, on_rows, c);
}

struct cleanup *
cleanup_new(struct catalog *catalog)
{
	const json_t *after = json_object_get(json_object_get(catalog->app->config->json, "catalog"), "cleanup_after");
	struct cleanup *c = xcalloc(1, sizeof(*c));

	c->catalog = catalog;
	c->after = json_integer_value(after);
	sched_on_cleanup(catalog->app->sched, on_left, c);
	cleanup_arm(c, clock_wall());
	return c;
}

void
cleanup_free(struct cleanup *c)
{
	alarm_cancel(&c->alarm);
	free(c);
}
