/*
 * Reports that clients send of their scans and commits. They are kept in sluice.metrics_reports, the newest ones only: nobody
 * should find the disk full of them.
 */
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "base/alloc.h"
#include "base/log.h"

#define KEEP_COUNT "10000"
#define KEEP_DAYS  "30"

static void
on_stored(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL) {
		catalog_reply_err(a->rq, e);
	} else if (rows_get(r, 0, 0) == NULL) {
		catalog_reply_no_table(a->rq, a->ns, a->name);
	} else {
		if (strcmp(rows_get(r, 0, 1), "0") != 0)
			log_info("catalog: %s old metrics reports were removed: the newest " KEEP_COUNT " of the last " KEEP_DAYS
				 " days are kept",
				 rows_get(r, 0, 1));
		reply_empty(a->rq, 204);
	}
	ask_done(a);
}

/* "scan" or "commit"; NULL after an answer when the report is neither. */
static const char *
report_kind(struct request *rq, const json_t *report)
{
	const char *type = json_string_value(json_object_get(report, "report-type"));

	if (type == NULL)
		catalog_reply_error(rq, 400, "BadRequestException", "\"report-type\" must be scan-report or commit-report");
	else if (!json_is_integer(json_object_get(report, "snapshot-id")) || !json_is_object(json_object_get(report, "metrics")))
		catalog_reply_error(rq, 400, "BadRequestException", "a report needs \"snapshot-id\" and \"metrics\"");
	else if (strcmp(type, "scan-report") == 0)
		return "scan";
	else if (strcmp(type, "commit-report") == 0)
		return "commit";
	else
		catalog_reply_error(rq, 400, "BadRequestException", "the report-type \"%s\" is not known", type);
	return NULL;
}

void
reports_take(struct request *rq)
{
	json_t *body = catalog_body(rq);
	const char *kind = body ? report_kind(rq, body) : NULL;
	struct ask *a;

	json_decref(body);
	if (kind == NULL || (a = ask_table(rq)) == NULL)
		return;
	/* Every hundredth report looks for those that are too old or too many. */
	store_query(rq->app->store,
		    "WITH put AS (INSERT INTO sluice.metrics_reports (catalog, namespace, name, kind, sender, report) SELECT "
		    "$1, $2, $3, $4, $5, $6::json FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND "
		    "table_name = $3 AND " SQL_IS_TABLE " RETURNING id), gone AS ("
		    "DELETE FROM sluice.metrics_reports m USING put WHERE put.id % 100 = 0 AND (m.id <= put.id - " KEEP_COUNT
		    " OR m.at < now() - interval '" KEEP_DAYS " days') RETURNING 1)"
		    "SELECT (SELECT id FROM put), (SELECT count(*) FROM gone)",
		    6, (const char *const[]){ a->catalog->name, a->ns, a->name, kind, rq->attempt, rq->body.s }, on_stored, a);
}
