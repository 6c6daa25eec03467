/* How healthy tables are. A child reads their manifests (tasks/health.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/browse.h"
#include "base/alloc.h"
#include "base/table_policy.h"

#define LIMIT_DEFAULT  1000
#define LIMIT_MAX      10000
#define HEALTH_TIMEOUT (300 * US_PER_S)

struct healing {
	struct request *rq;
	size_t limit;
	char *next; /* where the next page begins; NULL: nowhere */
};

static void
healing_free(struct healing *h)
{
	free(h->next);
	free(h);
}

static void
on_surveyed(void *arg, const json_t *report, struct err *e)
{
	struct healing *h = arg;
	json_t *tables = json_object_get(json_object_get(report, "result"), "tables");

	if (report == NULL)
		reply_err(h->rq, e);
	else if (tables == NULL)
		reply_problem(h->rq, ERR_INTERNAL, "the tables were looked at without a result");
	else
		reply_json(h->rq, 200, json_pack("{s:O,s:s?}", "items", tables, "next", h->next));
	healing_free(h);
}

static void
on_tables(void *arg, const struct rows *r, struct err *e)
{
	struct healing *h = arg;
	const json_t *policies = json_object_get(h->rq->app->config->json, "housekeeping");
	json_t *tables, *spec;
	size_t n = r ? rows_count(r) : 0;

	if (r == NULL) {
		reply_err(h->rq, e);
		healing_free(h);
		return;
	}
	tables = json_array();
	for (size_t i = 0; i < n && i < h->limit; i++)
		json_array_append_new(tables, json_pack("{s:s,s:s,s:o}", "table", rows_get(r, i, 0), "location",
							rows_get(r, i, 1), "policy", table_policy(policies, rows_get(r, i, 0))));
	if (n > h->limit)
		h->next = xstrdup(rows_get(r, h->limit - 1, 0));
	spec = json_pack("{s:o}", "tables", tables);
	h->rq->patience = HEALTH_TIMEOUT + 30 * US_PER_S; /* the child's own bound comes first */
	sched_adhoc(h->rq->app->sched, "health", spec, HEALTH_TIMEOUT, on_surveyed, h);
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
tables_health(struct request *rq)
{
	const char *match = request_query(rq, "match"), *cursor = request_query(rq, "cursor"), *name = rq->app->catalog->name;
	long limit = request_number(rq, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX);
	size_t n = strlen(name);
	struct healing *h;
	char *like, number[32];

	if (limit < 0)
		return;
	if (config_foreign(rq->app->config)) {
		reply_problem(rq, ERR_UNSUPPORTED,
			      "the tables belong to another server's catalog; their health is told of this daemon's "
			      "own tables only");
		return;
	}
	if (match && strncmp(match, name, n) == 0 && match[n] == '.') /* the catalog's name may be in front */
		match += n + 1;
	h = xcalloc(1, sizeof(*h));
	h->rq = rq;
	h->limit = (size_t)limit;
	snprintf(number, sizeof(number), "%ld", limit + 1);
	like = health_like(match && *match ? match : "*");
	store_query(rq->app->store,
		    "SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables WHERE catalog_name = $1 "
		    "AND " SQL_IS_TABLE " AND metadata_location IS NOT NULL AND table_namespace || '.' || table_name LIKE $2"
		    " AND ($3::text IS NULL OR (table_namespace || '.' || table_name) COLLATE \"C\" > $3 COLLATE \"C\")"
		    " ORDER BY (table_namespace || '.' || table_name) COLLATE \"C\" LIMIT $4::bigint",
		    4, (const char *const[]){ name, like, cursor && *cursor ? cursor : NULL, number }, on_tables, h);
	free(like);
}
