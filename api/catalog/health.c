/* How healthy tables are. A child reads their manifests (tasks/health.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/browse.h"
#include "base/alloc.h"
#include "base/table_policy.h"

#define LIMIT_DEFAULT  1000
#define HEALTH_TIMEOUT (300 * US_PER_S)

struct survey {
	struct app *app;
	size_t limit, largest;
	json_int_t total;
	char *next; /* where the next page begins; NULL: nowhere */
	health_cb cb;
	void *arg;
};

static void
survey_end(struct survey *s, json_t *result, struct err *e)
{
	s->cb(s->arg, result, s->total, s->next, e);
	free(s->next);
	free(s);
}

static void
on_surveyed(void *arg, const json_t *report, struct err *e)
{
	json_t *result = json_object_get(report, "result");
	struct err none = ERR_INIT;

	if (report && result == NULL)
		err_set(e = &none, ERR_INTERNAL, "the tables were looked at without a result");
	survey_end(arg, result, e);
}

static void
on_tables(void *arg, const struct rows *r, struct err *e)
{
	struct survey *s = arg;
	json_t *tables, *spec;
	size_t n = r ? rows_count(r) : 0;

	if (r == NULL) {
		survey_end(s, NULL, e);
		return;
	}
	tables = json_array();
	for (size_t i = 0; i < n && i < s->limit; i++)
		json_array_append_new(tables, json_pack("{s:s,s:s}", "table", rows_get(r, i, 0), "location", rows_get(r, i, 1)));
	s->total = n ? strtoll(rows_get(r, 0, 2), NULL, 10) : 0;
	if (n > s->limit)
		s->next = xstrdup(rows_get(r, s->limit - 1, 0));
	spec = json_pack("{s:o,s:O}", "tables", tables, "housekeeping", json_object_get(s->app->config->json, "housekeeping"));
	if (s->largest)
		json_object_set_new(spec, "largest", json_integer((json_int_t)s->largest));
	sched_adhoc(s->app->sched, "health", spec, HEALTH_TIMEOUT, on_surveyed, s);
	json_decref(spec);
}

char *
health_like(const char *glob)
{
	struct buf b = BUF_INIT;

	for (const char *p = glob; *p; p++) {
		if (*p == '*' || *p == '?') {
			buf_addc(&b, *p == '*' ? '%' : '_');
			continue;
		}
		if (strchr("%_\\", *p))
			buf_addc(&b, '\\');
		buf_addc(&b, *p);
	}
	return buf_detach(&b);
}

void
health_survey(struct app *app, const char *match, const char *cursor, long limit, size_t largest, health_cb cb, void *arg)
{
	struct survey *s = xcalloc(1, sizeof(*s));
	const char *name = app->catalog->name;
	char *like = health_like(match && *match ? table_glob(match, name) : "*"), number[32];

	s->app = app;
	s->limit = (size_t)limit;
	s->largest = largest;
	s->cb = cb;
	s->arg = arg;
	snprintf(number, sizeof(number), "%ld", limit + 1);
	store_query(app->store,
		    "SELECT table_namespace || '.' || table_name, metadata_location, count(*) OVER () FROM iceberg_tables WHERE "
		    "catalog_name = $1 "
		    "AND " SQL_IS_TABLE " AND metadata_location IS NOT NULL AND table_namespace || '.' || table_name LIKE $2"
		    " AND ($3::text IS NULL OR (table_namespace || '.' || table_name) COLLATE \"C\" > $3 COLLATE \"C\")"
		    " ORDER BY (table_namespace || '.' || table_name) COLLATE \"C\" LIMIT $4::bigint",
		    4, (const char *const[]){ name, like, cursor && *cursor ? cursor : NULL, number }, on_tables, s);
	free(like);
}

static void
on_health(void *arg, json_t *result, json_int_t total, const char *next, struct err *e)
{
	struct request *rq = arg;

	if (result == NULL)
		reply_err(rq, e);
	else
		reply_json(rq, 200,
			   json_pack("{s:O,s:s?,s:I}", "items", json_object_get(result, "tables"), "next", next, "total", total));
}

void
tables_health(struct request *rq)
{
	long limit = request_number(rq, "limit", LIMIT_DEFAULT, 1, HEALTH_LIMIT);

	if (limit < 0)
		return;
	if (config_foreign(rq->app->config)) {
		reply_problem(rq, ERR_UNSUPPORTED,
			      "the tables belong to another server's catalog; their health is told of this daemon's "
			      "own tables only");
		return;
	}
	rq->patience = HEALTH_TIMEOUT + 30 * US_PER_S; /* the child's own bound comes first */
	health_survey(rq->app, request_query(rq, "match"), request_query(rq, "cursor"), limit, 0, on_health, rq);
}
