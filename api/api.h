/* What the api_….c files share: their tables of routes, the run as JSON, and waiting for one to end. */
#ifndef API_API_H
#define API_API_H

#include "api/app.h"
#include "api/http.h"

extern const struct route flows_routes[], runs_routes[], logs_routes[], events_routes[], sql_routes[], system_routes[],
	artifacts_routes[], shadow_routes[];
extern const size_t flows_routes_count, runs_routes_count, logs_routes_count, events_routes_count, sql_routes_count,
	system_routes_count, artifacts_routes_count, shadow_routes_count;

/* An SQL expression: the timestamptz `x` as RFC 3339 text in UTC. */
#define SQL_TIME(x) "to_char(" x " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
/* Of a commit `c`: who took it back, and when. No row unless it is undone. */
#define SQL_UNDO_OF(c)                                                                                                           \
	"SELECT x.at, x.who FROM sluice.commits x WHERE " c ".state = 'undone' AND x.namespace = " c                             \
	".namespace AND x.name = " c ".name AND x.id > " c ".id AND x.action = 'undo' AND x.at >= " c                            \
	".visible_at ORDER BY x.id LIMIT 1"

/* Replies with the run, at its end when the request says ?wait=30s. */
void run_reply(struct request *rq, const char *run_id, int status);
/* The flow that the path names. Borrowed; replies 404 or 422 itself and returns NULL when there is none in force. */
struct flow *flow_in_force(struct request *rq);
/* "30s" of ?wait, at most a minute; 0 without. Replies 400 itself and returns -1 when it is malformed. */
dur_us request_wait(struct request *rq);
/* The whole number of a query, between `min` and `max`; `otherwise` without. Replies 400 itself and returns -1. */
long request_number(struct request *rq, const char *name, long otherwise, long min, long max);

/* Counts what happens, for /metrics. */
void api_metrics_open(struct app *app);
void api_metrics_close(struct app *app);

#endif
