/* The daemon about itself: health, numbers, status, the language's schema, the check of a text, tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "api/auth.h"
#include "api/catalog/catalog.h"
#include "api/openapi.h"
#include "base/alloc.h"
#include "base/trouble.h"

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0.0.0"
#endif

/* ---- health ---- */

static void
healthz(struct request *rq)
{
	reply_json(rq, 200, json_pack("{s:s}", "status", "ok"));
}

static void
readyz(struct request *rq)
{
	if (!store_connected(rq->app->store))
		reply_problem(rq, ERR_UNAVAILABLE, "the database cannot be reached now");
	else if (!sched_ready(rq->app->sched))
		reply_problem(rq, ERR_UNAVAILABLE, "the daemon is starting: what was active before is being loaded");
	else
		reply_json(rq, 200, json_pack("{s:s}", "status", "ready"));
}

/* ---- numbers ---- */

enum { COUNT_MAX = 32 };

/* How often each kind of event with each state was seen since the start. */
static struct {
	struct sched_sub *sub;
	struct {
		char kind[8], state[20];
		uint64_t n;
	} rows[COUNT_MAX];
	size_t used;
} counts;

static void
on_count_event(void *arg, const json_t *ev)
{
	const char *kind = json_string_value(json_object_get(ev, "kind")),
		   *state = json_string_value(json_object_get(ev, "state"));
	size_t i;

	(void)arg;
	if (kind == NULL || state == NULL || !json_object_get(ev, "id"))
		return;
	for (i = 0; i < counts.used; i++)
		if (strcmp(counts.rows[i].kind, kind) == 0 && strcmp(counts.rows[i].state, state) == 0)
			break;
	if (i == COUNT_MAX)
		return;
	if (i == counts.used) {
		snprintf(counts.rows[i].kind, sizeof(counts.rows[i].kind), "%s", kind);
		snprintf(counts.rows[i].state, sizeof(counts.rows[i].state), "%s", state);
		counts.used++;
	}
	counts.rows[i].n++;
}

void
api_metrics_open(struct app *app)
{
	counts.sub = sched_subscribe(app->sched, on_count_event, NULL);
}

void
api_metrics_close(struct app *app)
{
	if (counts.sub)
		sched_unsubscribe(app->sched, counts.sub);
	counts.sub = NULL;
}

static void
metric(struct buf *b, const char *name, const char *type, const char *help, json_int_t value)
{
	buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n%s %lld\n", name, help, name, type, name, (long long)value);
}

static void
metric_counts(struct buf *b, const char *kind, const char *name, const char *help)
{
	buf_addf(b, "# HELP %s %s\n# TYPE %s counter\n", name, help, name);
	for (size_t i = 0; i < counts.used; i++)
		if (strcmp(counts.rows[i].kind, kind) == 0)
			buf_addf(b, "%s{state=\"%s\"} %llu\n", name, counts.rows[i].state, (unsigned long long)counts.rows[i].n);
}

/* Buckets hold what they hold and all before it, as Prometheus wants them. */
static void
metric_turns(struct buf *b, const struct turns *t)
{
	static const char name[] = "sluice_loop_turn_seconds";
	unsigned long long sum = 0;

	buf_addf(b, "# HELP %s How long each turn of the daemon's loop took, without its sleep.\n# TYPE %s histogram\n", name,
		 name);
	for (size_t i = 0; i < TURNS_BOUNDS; i++) {
		sum += t->buckets[i];
		buf_addf(b, "%s_bucket{le=\"%g\"} %llu\n", name, (double)turns_bounds[i] / US_PER_S, sum);
	}
	sum += t->buckets[TURNS_BOUNDS];
	buf_addf(b, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name, sum, name, (double)t->total_ns / 1e9, name,
		 sum);
}

static void
flows_count(const struct registry *r, int *good, int *broken)
{
	*good = *broken = 0;
	for (size_t i = 0; i < registry_count(r); i++) {
		const struct registry_entry *en = registry_entry_at(r, i);

		if (en->flow == NULL || (en->diags && en->diags->errors))
			(*broken)++;
		else
			(*good)++;
	}
}

static json_int_t
resident_bytes(void)
{
	struct buf b = BUF_INIT_MAX(4096);
	long pages = 0;

	if (buf_add_file(&b, "/proc/self/statm") == 0)
		sscanf(b.s, "%*s %ld", &pages);
	buf_release(&b);
	return (json_int_t)pages * sysconf(_SC_PAGESIZE);
}

static void
metrics(struct request *rq)
{
	json_t *status = sched_status(rq->app->sched), *runs = json_object_get(status, "runs"),
	       *slots = json_object_get(status, "slots");
	struct buf b = BUF_INIT;
	int good, broken;

	flows_count(rq->app->registry, &good, &broken);
	metric(&b, "sluice_runs_queued", "gauge", "Runs that wait until their flow has room.",
	       json_integer_value(json_object_get(runs, "queued")));
	metric(&b, "sluice_runs_running", "gauge", "Runs in progress.", json_integer_value(json_object_get(runs, "running")));
	metric(&b, "sluice_slots_used", "gauge", "Attempts alive.", json_integer_value(json_object_get(slots, "used")));
	metric(&b, "sluice_slots_total", "gauge", "Attempts that may be alive at once.",
	       json_integer_value(json_object_get(slots, "total")));
	metric(&b, "sluice_flows_good", "gauge", "Flow files that load.", good);
	metric(&b, "sluice_flows_broken", "gauge", "Flow files with errors.", broken);
	metric(&b, "sluice_database_connected", "gauge", "1 while the database is reached.", store_connected(rq->app->store));
	metric_counts(&b, "run", "sluice_run_transitions_total", "Runs that came into a state, since the daemon started.");
	metric_counts(&b, "task", "sluice_task_transitions_total", "Tasks that came into a state, since the daemon started.");
	metric(&b, "sluice_http_requests_total", "counter", "HTTP requests answered.", (json_int_t)http_requests());
	metric_turns(&b, rq->app->turns);
	catalog_metrics(rq->app->catalog, &b);
	metric(&b, "process_resident_memory_bytes", "gauge", "Resident memory of the daemon.", resident_bytes());
	metric(&b, "process_start_time_seconds", "gauge", "When the daemon started.", rq->app->started_at / US_PER_S);
	reply_text(rq, 200, "text/plain; version=0.0.4; charset=utf-8", b.s, b.len);
	buf_release(&b);
	json_decref(status);
}

/* [{what, since, message}]: what keeps the daemon from its work now. */
static json_t *
troubles_json(void)
{
	const char *name, *message;
	json_t *list = json_array(), *text;
	char at[TIME_TEXT];
	wall_us since;

	for (int t = 0; t < TROUBLE_COUNT; t++)
		if (trouble_now((enum trouble)t, &name, &since, &message)) {
			text = json_string(message); /* NULL when the server's words are not UTF-8 */
			json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "what", name, "since", time_format(since, at),
							      "message", text ? text : json_string("see the daemon's log")));
		}
	return list;
}

static void
status_get(struct request *rq)
{
	const struct app *app = rq->app;
	json_t *body = sched_status(app->sched);
	char at[TIME_TEXT];
	int good, broken;

	flows_count(app->registry, &good, &broken);
	json_object_set_new(body, "version", json_string(SLUICE_VERSION));
	json_object_set_new(body, "started_at", json_string(time_format(app->started_at, at)));
	json_object_set_new(body, "home", json_string(app->home));
	json_object_set_new(body, "flows_dir", json_string(app->flows_dir));
	json_object_set_new(body, "url", app->url ? json_string(app->url) : json_null());
	json_object_set_new(body, "pid", json_integer(getpid()));
	json_object_set_new(body, "database",
			    json_pack("{s:b,s:b}", "private", app->private_cluster, "connected", store_connected(app->store)));
	json_object_set_new(body, "flows", json_pack("{s:i,s:i}", "good", good, "broken", broken));
	json_object_set_new(body, "troubles", troubles_json());
	reply_json(rq, 200, body);
}

/* ---- the language ---- */

static void
schema_get(struct request *rq)
{
	reply_json(rq, 200, flow_schema());
}

static void
validate_post(struct request *rq)
{
	json_t *body = request_json(rq), *source;
	struct diags diags = DIAGS_INIT;
	const char *file;
	struct flow *flow;

	if (body == NULL)
		return;
	source = json_object_get(body, "source");
	file = json_string_value(json_object_get(body, "file"));
	if (json_is_string(source)) {
		flow = flow_load(file ? file : "flow.yaml", json_string_value(source), json_string_length(source),
				 rq->app->config, &diags);
		reply_json(rq, 200, json_pack("{s:b,s:o}", "valid", flow != NULL, "problems", diags_json(&diags)));
		flow_unref(flow);
		diags_release(&diags);
	} else {
		reply_problem(rq, ERR_INVALID, "\"source\" must be the flow's YAML text");
	}
	json_decref(body);
}

static void
openapi_get(struct request *rq)
{
	reply_json(rq, 200, openapi_json(SLUICE_VERSION, rq->app->url));
}

const struct route system_routes[] = {
	{ "GET", "/healthz", healthz, ROLE_NONE, 0, "Tells that the daemon is alive." },
	{ "GET", "/readyz", readyz, ROLE_NONE, 0, "Tells whether triggers can be taken." },
	{ "GET", "/metrics", metrics, ROLE_VIEWER, 0, "Numbers in Prometheus' text format." },
	{ "GET", "/api/v1/openapi.json", openapi_get, ROLE_NONE, 0, "This document." },
	{ "GET", "/api/v1/schema", schema_get, ROLE_NONE, 0, "The JSON Schema of the flow language." },
	{ "GET", "/api/v1/status", status_get, ROLE_VIEWER, 0, "Shows the daemon's state." },
	{ "POST", "/api/v1/validate", validate_post, ROLE_VIEWER, 24 * 1024 * 1024, "Checks a flow's text." },
	{ "GET", "/api/v1/tokens", auth_list, ROLE_ADMIN, 0, "Lists the tokens." },
	{ "POST", "/api/v1/tokens", auth_create, ROLE_ADMIN, 4096, "Makes a token and shows it once." },
	{ "DELETE", "/api/v1/tokens/{id}", auth_delete, ROLE_ADMIN, 0, "Deletes a token." },
};
const size_t system_routes_count = sizeof(system_routes) / sizeof(system_routes[0]);
