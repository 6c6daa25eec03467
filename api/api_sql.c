/* Queries over the tables. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/alloc.h"

#define QUERY_TIMEOUT (300 * US_PER_S)
#define ROWS_DEFAULT  1000
#define ROWS_MAX      100000

static void
on_query_done(void *arg, const json_t *report, struct err *e)
{
	struct request *rq = arg;
	json_t *result = reply_unless_result(rq, report, e, "the query");

	if (result)
		reply_json(rq, 200, json_incref(result));
}

static void
sql_post(struct request *rq)
{
	json_t *body = request_json(rq), *sql, *limit, *spec;

	if (body == NULL)
		return;
	sql = json_object_get(body, "sql");
	limit = json_object_get(body, "limit");
	if (json_string_length(sql) == 0) {
		reply_problem(rq, ERR_INVALID, "\"sql\" must be a statement, such as SELECT 1");
	} else if (limit && !json_is_null(limit) &&
		   (!json_is_integer(limit) || json_integer_value(limit) < 1 || json_integer_value(limit) > ROWS_MAX)) {
		reply_problem(rq, ERR_INVALID, "\"limit\" must be a whole number from 1 to %d", ROWS_MAX);
	} else {
		spec = json_pack("{s:O,s:I}", "sql", sql, "limit",
				 json_is_integer(limit) ? json_integer_value(limit) : (json_int_t)ROWS_DEFAULT);
		rq->patience = QUERY_TIMEOUT + 30 * US_PER_S; /* the query's own bound comes first */
		sched_adhoc(rq->app->sched, "query", spec, QUERY_TIMEOUT, on_query_done, rq);
		json_decref(spec);
	}
	json_decref(body);
}

const struct route sql_routes[] = {
	{ "POST", "/api/v1/sql", sql_post, ROLE_VIEWER, 1024 * 1024, "Runs a query over the tables." },
};
const size_t sql_routes_count = sizeof(sql_routes) / sizeof(sql_routes[0]);
