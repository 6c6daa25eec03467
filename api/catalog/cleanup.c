/*
 * Files that attempts left in tables and no table needs: of runs and attempts that did not succeed, of commits that were made
 * twice because a daemon died, of commits that were put on top of others; and what only expired snapshots needed, where the
 * maintenance that let them go died before it had removed all. The scheduler notes in `sluice.cleanup` where there may
 * be some; after catalog.cleanup_after a child looks there, and removes what carries the attempt's name and nothing leads to.
 * Nothing here is lost by dying: rows go when their files are gone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "base/alloc.h"
#include "base/fault.h"
#include "base/log.h"
#include "scheduler/alarm.h"
#include "scheduler/store/store.h"

#define CLEANUP_ROWS    "200" /* looked at by one child */
#define CLEANUP_TIMEOUT (60 * US_PER_MIN)
#define PAUSE_LEAST     US_PER_S /* when the database or the nursery is away, or the child was killed */
#define PAUSE_MOST      (10 * US_PER_MIN)
#define STRIKES         3
#define AGAIN_AFTER     (60 * US_PER_MIN) /* for a table that cannot be looked at so many times */
#define YOUNG           (15 * US_PER_MIN) /* clocks of stores may be wrong by that */

struct cleanup {
	struct catalog *catalog;
	struct alarm *alarm;
	dur_us after, pause;
	wall_us armed; /* what the alarm is set to */
	bool busy;
	bool left;         /* rows came since it was last asked for them: the answer may be without */
	unsigned strikes;  /* of the same rows */
	char *ids, *table; /* rows that the child looks at */
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
	c->pause = c->pause == 0 ? PAUSE_LEAST : c->pause < PAUSE_MOST ? 2 * c->pause : c->pause;
	cleanup_arm(c, clock_wall() + c->pause);
}

static void
on_left(void *arg)
{
	struct cleanup *c = arg;

	c->left = true;
	cleanup_arm(c, clock_wall() + c->after);
}

static void
on_forgotten(void *arg)
{
	struct cleanup *c = arg;

	c->busy = false;
	cleanup_arm(c, clock_wall());
}

/* The rows are done with, or due again in a while (0: done). */
static void
cleanup_end(struct cleanup *c, dur_us again)
{
	char at[TIME_TEXT];

	FAULT("cleanup.forget.before");
	time_format(clock_wall() - c->after + again, at);
	if (again)
		store_write(c->catalog->app->store,
			    "UPDATE sluice.cleanup SET at = $2::timestamptz WHERE id IN (SELECT x::bigint FROM "
			    "jsonb_array_elements_text($1::jsonb) x)",
			    2, (const char *[]){ c->ids, at });
	else
		store_write(
			c->catalog->app->store,
			"DELETE FROM sluice.cleanup WHERE id IN (SELECT x::bigint FROM jsonb_array_elements_text($1::jsonb) x)",
			1, (const char *[]){ c->ids });
	c->pause = 0;
	c->strikes = 0;
	store_after_commit(c->catalog->app->store, on_forgotten, c);
}

static void
on_cleaned(void *arg, const json_t *report, struct err *e)
{
	struct cleanup *c = arg;
	const json_t *result = json_object_get(report, "result");
	json_int_t files = json_integer_value(json_object_get(result, "files"));

	if (c->catalog->closing)
		return;
	if (files)
		log_info("catalog: table %s: removed %lld files (%lld bytes) that attempts had left", c->table, (long long)files,
			 (long long)json_integer_value(json_object_get(result, "bytes")));
	if (result) {
		cleanup_end(c, json_is_true(json_object_get(result, "again")) ? c->after + US_PER_S : 0);
	} else if ((e && e->code == ERR_UNAVAILABLE) || ++c->strikes < STRIKES) {
		cleanup_pause(c);
	} else {
		log_warn("catalog: table %s: what failed attempts left there cannot be removed now, and is tried again in an "
			 "hour: %s",
			 c->table, e ? e->msg : "the child told nothing");
		cleanup_end(c, AGAIN_AFTER);
	}
}

static void
cleanup_fork(struct cleanup *c, json_t *spec)
{
	dur_us young = c->after < YOUNG ? c->after : YOUNG;

	free(c->ids);
	free(c->table);
	c->ids = json_dumps(json_object_get(spec, "ids"), JSON_COMPACT);
	c->table = xstrdup(json_string_value(json_object_get(spec, "table")));
	json_object_set_new(spec, "until", json_integer(json_integer_value(json_object_get(spec, "asked")) - young));
	sched_adhoc(c->catalog->app->sched, "cleanup", spec, CLEANUP_TIMEOUT, on_cleaned, c);
}

static void
on_rows(void *arg, const struct rows *r, struct err *e)
{
	struct cleanup *c = arg;
	json_t *spec;

	if (c->catalog->closing)
		return;
	if (r == NULL) {
		if (e->code != ERR_UNAVAILABLE || c->pause >= PAUSE_MOST)
			log_warn("catalog: cannot find out what failed attempts left in tables: %s", e->msg);
		cleanup_pause(c);
		return;
	}
	spec = rows_json(r, 0, 1);
	if (json_is_object(spec)) {
		cleanup_fork(c, spec);
	} else {
		c->busy = false;
		c->pause = 0;
		if (rows_get(r, 0, 0))
			cleanup_arm(c, strtoll(rows_get(r, 0, 0), NULL, 10) + c->after);
		else if (c->left)
			cleanup_arm(c, clock_wall() + c->after);
	}
	json_decref(spec);
}

#define MICROSECONDS(t) "(extract(epoch FROM " t ") * 1000000)::bigint"

/* What a shadow wrote is still to be compared; its row of `shadows` wakes us when it has been. */
#define SQL_NOT_NEEDED "NOT EXISTS (SELECT 1 FROM sluice.shadows h WHERE h.shadow_id = c.run_id AND h.state = 'running')"

/*
 * The rows of one folder that are due, with the metadata files whose tables must be able to read all they lead to (`keep`): of
 * the table and whatever else lies in the folder, and of the runs under way; and of the rows' own runs where something of them
 * is visible (`history`), which may have expired since.
 */
/* clang-format off */
#define SQL_DUE \
	"WITH rows AS MATERIALIZED (SELECT *, rtrim(" \
		SQL_SPELLED("coalesce(location, regexp_replace(metadata, '/metadata/[^/]*$', ''))") ", '/') AS folder" \
	"  FROM sluice.cleanup c WHERE at <= $2::timestamptz AND " SQL_NOT_NEEDED " ORDER BY at, id LIMIT " CLEANUP_ROWS ")," \
	" first AS (SELECT namespace, name, folder FROM rows ORDER BY at, id LIMIT 1)," \
	" due AS MATERIALIZED (SELECT r.* FROM rows r JOIN first f USING (namespace, name, folder))," \
	" live AS MATERIALIZED (SELECT k.namespace, k.name, k.metadata_after FROM sluice.runs r" \
	"  JOIN sluice.commits k ON k.run_id = r.id WHERE r.state IN ('queued', 'running', 'publishing')" \
	"  AND k.state = 'private' AND k.metadata_after IS NOT NULL)," \
	" keep AS (SELECT t.metadata_location AS m FROM iceberg_tables t, first f WHERE t.metadata_location IS NOT NULL" \
	"  AND ((t.catalog_name = $1 AND t.table_namespace = f.namespace AND t.table_name = f.name)" \
	"   OR starts_with(" SQL_SPELLED("t.metadata_location") ", f.folder || '/'))" \
	"  UNION SELECT l.metadata_after FROM live l, first f WHERE (l.namespace = f.namespace AND l.name = f.name)" \
	"   OR starts_with(" SQL_SPELLED("l.metadata_after") ", f.folder || '/'))," \
	" history AS (SELECT DISTINCT ON (k.run_id) k.metadata_after AS m FROM due d JOIN sluice.commits k" \
	"  ON k.run_id = d.run_id AND NOT d.expired AND k.namespace = d.namespace AND k.name = d.name WHERE k.metadata_after IS NOT NULL" \
	"  AND k.state NOT IN ('private', 'abandoned', 'rehearsed') ORDER BY k.run_id, k.id DESC)" \
	" SELECT (SELECT " MICROSECONDS("min(at)") " FROM sluice.cleanup c WHERE " SQL_NOT_NEEDED ")," \
	" (SELECT jsonb_build_object('table', f.namespace || '.' || f.name, 'location', f.folder," \
	"  'asked', " MICROSECONDS("clock_timestamp()") ", 'ids', (SELECT jsonb_agg(id) FROM due)," \
	"  'expired', (SELECT coalesce(jsonb_agg(DISTINCT metadata), '[]') FROM due WHERE expired)," \
	"  'keep', (SELECT coalesce(jsonb_agg(m), '[]') FROM keep)," \
	"  'history', (SELECT coalesce(jsonb_agg(m), '[]') FROM history)," \
	"  'rows', (SELECT jsonb_agg(DISTINCT jsonb_build_object('run', d.run_id, 'task', d.task_id, 'attempt', d.attempt," \
	"   'since', (SELECT " MICROSECONDS("a.started_at") " FROM sluice.attempts a WHERE a.run_id = d.run_id" \
	"    AND a.task_id = d.task_id AND a.n = d.attempt))) FROM due d WHERE NOT d.expired)) FROM first f)"
/* clang-format on */

static void
cleanup_begin(void *arg)
{
	struct cleanup *c = arg;
	char until[TIME_TEXT];

	c->armed = 0;
	if (c->catalog->closing)
		return;
	c->busy = true;
	c->left = false;
	store_query(c->catalog->app->store, SQL_DUE, 2,
		    (const char *[]){ c->catalog->name, time_format(clock_wall() - c->after, until) }, on_rows, c);
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
	free(c->ids);
	free(c->table);
	free(c);
}
