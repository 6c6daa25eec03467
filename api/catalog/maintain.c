/*
 * What a maintenance attempt must know that no table tells: which tables there are, whose folders hold others' files, what runs
 * under way still need, and who is writing. Asked for many tables before anything is done, and for each one again before it is
 * changed.
 *
 *     POST {"tables": [names or globs], "after": cursor, "limit": n, "soon": microseconds}
 *     -> {"tables": [{namespace, name, location, keep: [metadata files], neighbours: [names], writer?, private?}], "next",
 *         "oldest_reader": microseconds}
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/browse.h"
#include "base/alloc.h"
#include "base/table_policy.h"

#define LIMIT_DEFAULT 1000
#define LIMIT_MAX     10000

struct upkeep {
	struct catalog *catalog;
	struct request *rq;
	char *attempt;
	dur_us soon;
	size_t limit;
};

static void
upkeep_free(struct upkeep *u)
{
	catalog_unref(u->catalog);
	free(u->attempt);
	free(u);
}

/* What the scheduler knows: who writes to it, and whether the attempt's own run has changed it and nobody sees that yet. */
static void
table_add_run(struct upkeep *u, json_t *table, const json_t *writers)
{
	const char *ns = json_string_value(json_object_get(table, "namespace")),
		   *name = json_string_value(json_object_get(table, "name"));
	struct sched *s = u->catalog->app->sched;
	struct table_seen seen;
	char *key = xasprintf("%s.%s", ns, name);

	json_object_set(table, "writer", json_object_get(writers, key));
	if (sched_table_seen(s, u->attempt, ns, name, &seen)) {
		json_object_set_new(table, "private", json_true());
		json_object_set_new(table, "location", seen.location ? json_string(seen.location) : json_null());
	}
	free(key);
}

static void
on_tables(void *arg, const struct rows *r, struct err *e)
{
	struct upkeep *u = arg;
	struct sched *s = u->catalog->app->sched;
	json_t *tables = r ? rows_json(r, 0, 0) : NULL, *writers, *table;
	const char *next = NULL;
	char *cursor = NULL;
	size_t i;

	if (r == NULL) {
		catalog_reply_err(u->rq, e);
		upkeep_free(u);
		return;
	}
	if (json_array_size(tables) > u->limit) {
		json_array_remove(tables, u->limit);
		table = json_array_get(tables, u->limit - 1);
		next = cursor = xasprintf("%s.%s", json_string_value(json_object_get(table, "namespace")),
					  json_string_value(json_object_get(table, "name")));
	}
	writers = sched_writers(s, u->attempt, u->soon);
	json_array_foreach (tables, i, table)
		table_add_run(u, table, writers);
	reply_json(u->rq, 200,
		   json_pack("{s:O,s:s?,s:I}", "tables", tables, "next", next, "oldest_reader",
			     (json_int_t)sched_oldest_reader(s, u->attempt)));
	json_decref(writers);
	json_decref(tables);
	free(cursor);
	upkeep_free(u);
}

/* {"a*", …} as PostgreSQL's text of a list of LIKE patterns, without the catalog's name. The caller frees it. */
static char *
likes_of(const struct catalog *c, const json_t *globs)
{
	json_t *list = json_array(), *glob;
	size_t i;
	char *text;

	json_array_foreach (globs, i, glob) {
		const char *g = json_string_value(glob);
		char *like;

		if (g == NULL)
			continue;
		like = health_like(table_glob(g, c->name));
		json_array_append_new(list, json_string(like));
		free(like);
	}
	text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	return text;
}

/* A table's folder is where its metadata/ lies; neighbours are the tables and views in it, above it and below it. */
/* clang-format off */
#define FOLDER(m) "regexp_replace(" SQL_SPELLED(m) ", '/metadata/[^/]*$', '')"
#define SQL_UPKEEP \
	"WITH t AS MATERIALIZED (SELECT table_namespace AS ns, table_name AS name, table_namespace || '.' || table_name AS title," \
	"  metadata_location AS m, " FOLDER("metadata_location") " AS folder, " SQL_IS_TABLE " AS is_table, catalog_name = $1 AS ours" \
	"  FROM iceberg_tables WHERE metadata_location IS NOT NULL)," \
	" page AS MATERIALIZED (SELECT * FROM t WHERE ours AND is_table" \
	"  AND title LIKE ANY (ARRAY(SELECT jsonb_array_elements_text($2::jsonb)))" \
	"  AND ($3::text IS NULL OR title COLLATE \"C\" > $3 COLLATE \"C\") ORDER BY title COLLATE \"C\" LIMIT $4::bigint)," \
	" above AS MATERIALIZED (SELECT t.title, t.m, t.ours, t.folder, array_to_string((string_to_array(t.folder, '/'))[1:i], '/') AS up" \
	"  FROM t CROSS JOIN LATERAL generate_series(1, array_length(string_to_array(t.folder, '/'), 1)) i)," \
	" near AS (SELECT p.title, a.title AS other, a.m FROM page p JOIN above a ON a.up = p.folder AND (a.title, a.ours) <> (p.title, true)" \
	"  UNION SELECT p.title, t.title, t.m FROM page p JOIN above a ON a.title = p.title AND a.ours JOIN t ON t.folder = a.up" \
	"   AND (t.title, t.ours) <> (p.title, true))," \
	" around AS (SELECT title, jsonb_agg(other ORDER BY other) AS others, array_agg(m) AS need FROM near GROUP BY title)," \
	" live AS MATERIALIZED (SELECT k.namespace, k.name, k.metadata_after AS m FROM sluice.runs r" \
	"  JOIN sluice.commits k ON k.run_id = r.id WHERE r.state IN ('queued', 'running', 'publishing')" \
	"  AND k.state = 'private' AND k.metadata_after IS NOT NULL)" \
	" SELECT coalesce(jsonb_agg(jsonb_build_object('namespace', p.ns, 'name', p.name, 'location', p.m," \
	"  'neighbours', coalesce(a.others, '[]'), 'keep', (SELECT coalesce(jsonb_agg(l.m), '[]') FROM live l" \
	"   WHERE (l.namespace = p.ns AND l.name = p.name) OR starts_with(" SQL_SPELLED("l.m") ", p.folder || '/'))" \
	"   || coalesce(to_jsonb(a.need), '[]'))" \
	"  ORDER BY p.title COLLATE \"C\"), '[]') FROM page p LEFT JOIN around a USING (title)"
/* clang-format on */

void
maintenance_look(struct request *rq)
{
	const char *after;
	struct upkeep *u;
	json_t *body;
	json_int_t limit;
	char number[32], *likes;

	if (!sched_maintains(rq->app->sched, rq->attempt)) {
		catalog_reply_error(rq, 403, "ForbiddenException", "this is for attempts of tasks of type maintain");
		return;
	}
	if ((body = catalog_body(rq)) == NULL)
		return;
	limit = json_integer_value(json_object_get(body, "limit"));
	u = xcalloc(1, sizeof(*u));
	u->catalog = catalog_ref(rq->app->catalog);
	u->rq = rq;
	u->attempt = xstrdup(rq->attempt);
	u->soon = json_integer_value(json_object_get(body, "soon"));
	u->limit = (size_t)(limit < 1 || limit > LIMIT_MAX ? LIMIT_DEFAULT : limit);
	snprintf(number, sizeof(number), "%zu", u->limit + 1);
	likes = likes_of(u->catalog, json_object_get(body, "tables"));
	after = json_string_value(json_object_get(body, "after"));
	store_query(rq->app->store, SQL_UPKEEP, 4, (const char *const[]){ u->catalog->name, likes, after, number }, on_tables, u);
	free(likes);
	json_decref(body);
}
