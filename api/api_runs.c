/*
 * Runs: list, show, trigger, cancel, wait for the end. A run's JSON is built by PostgreSQL in one statement, so that it is
 * one consistent picture whatever the scheduler writes meanwhile.
 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/sha256.h"
#include "scheduler/alarm.h"
#include "scheduler/run_states.h"

#define WAIT_MAX     (60 * US_PER_S)
#define READ_AGAIN   (300 * US_PER_MS)
#define LIST_DEFAULT 50
#define LIST_MAX     500

/* SQL is not C to the formatter. */
/* clang-format off */
#define RUN_FIELDS                                                                                                              \
	"'id', r.id, 'flow', r.flow, 'state', r.state, 'trigger', r.trigger, 'params', r.params, 'engine', r.engine,"           \
	" 'created_at', " SQL_TIME("r.created_at") ", 'scheduled_for', " SQL_TIME("r.scheduled_for")                            \
	", 'interval_start', " SQL_TIME("r.interval_start") ", 'interval_end', " SQL_TIME("r.interval_end")                     \
	", 'started_at', " SQL_TIME("r.started_at") ", 'ended_at', " SQL_TIME("r.ended_at") ", 'error', r.error, 'rehearsal', r.rehearsal, 'shadow_of', r.shadow_of"

#define ATTEMPTS                                                                                                                \
	"(SELECT coalesce(json_agg(json_build_object('n', a.n, 'state', a.state, 'cause', a.cause, 'exit_code', a.exit_code,"   \
	" 'signal', a.signal, 'started_at', " SQL_TIME("a.started_at") ", 'ended_at', " SQL_TIME("a.ended_at")                  \
	", 'wall_us', a.wall_us, 'user_us', a.user_us, 'system_us', a.system_us, 'max_rss_bytes', a.max_rss_bytes,"             \
	" 'metrics', coalesce(a.report->'metrics', '{}'), 'tables', coalesce(a.report->'tables', '[]'),"                        \
	" 'checks', coalesce(a.report->'checks', '[]'), 'error', a.report->'error') ORDER BY a.n), '[]')"                       \
	" FROM sluice.attempts a WHERE a.run_id = t.run_id AND a.task_id = t.id)"

#define TASK                                                                                                                    \
	"json_build_object('id', t.id, 'type', t.type, 'engine', t.engine, 'state', t.state, 'depends_on', t.depends_on,"       \
	" 'attempts', " ATTEMPTS ", 'outputs', coalesce(t.outputs, '{}'), 'started_at', " SQL_TIME("t.started_at")              \
	", 'ended_at', " SQL_TIME("t.ended_at") ", 'next_attempt_at', " SQL_TIME("t.next_attempt_at")                           \
	", 'error', t.error, 'progress', NULL)"

#define RUN_SQL                                                                                                                 \
	"SELECT json_build_object(" RUN_FIELDS ", 'undone', sluice.undone(r.id), 'tasks', (SELECT coalesce(json_agg(" TASK " ORDER BY t.idx), '[]')"           \
	" FROM sluice.tasks t WHERE t.run_id = r.id))::text, r.state FROM sluice.runs r WHERE r.id = $1"

#define TASK_SQL "SELECT " TASK "::text, t.state FROM sluice.tasks t WHERE t.run_id = $1 AND t.id = $2"
/* clang-format on */

/* ---- queries of a request ---- */

dur_us
request_wait(struct request *rq)
{
	const char *text = request_query(rq, "wait");
	dur_us wait;

	if (text == NULL || *text == '\0')
		return 0;
	if (duration_parse(text, &wait) < 0 || wait < 0) {
		reply_problem(rq, ERR_INVALID, "wait=%s is not a duration such as 30s", text);
		return -1;
	}
	return wait > WAIT_MAX ? WAIT_MAX : wait;
}

long
request_number(struct request *rq, const char *name, long otherwise, long min, long max)
{
	const char *text = request_query(rq, name);
	char *end;
	long n;

	if (text == NULL || *text == '\0')
		return otherwise;
	n = strtol(text, &end, 10);
	if (*end == '\0' && n >= min && n <= max)
		return n;
	reply_problem(rq, ERR_INVALID, "%s=%s is not a whole number from %ld to %ld", name, text, min, max);
	return -1;
}

/* ---- one run ---- */

struct run_wait {
	struct request *rq;
	char *id;
	int status;            /* of the reply */
	struct sched_sub *sub; /* NULL: does not wait, or no longer */
	struct alarm *deadline, *retry;
	bool reading, again; /* again: it ended while we read */
};

static void run_read(void *arg);

static void
run_wait_stop(struct run_wait *w)
{
	if (w->sub)
		sched_unsubscribe(w->rq->app->sched, w->sub);
	w->sub = NULL;
	alarm_cancel(&w->deadline);
	alarm_cancel(&w->retry);
}

static void
run_wait_free(void *data)
{
	struct run_wait *w = data;

	run_wait_stop(w);
	free(w->id);
	free(w);
}

static void
on_run_server_stop(struct request *rq)
{
	struct run_wait *w = rq->data;

	run_wait_stop(w);
	if (!w->reading)
		reply_problem(rq, ERR_UNAVAILABLE, "the daemon is stopping");
}

static bool
run_ended(const char *state)
{
	int s = state ? run_state_parse(state) : -1;

	return s >= 0 && run_state_terminal((enum run_state)s);
}

static void
on_run_event(void *arg, const json_t *ev)
{
	struct run_wait *w = arg;
	const char *run = json_string_value(json_object_get(ev, "run")), *kind = json_string_value(json_object_get(ev, "kind"));

	if (run == NULL || strcmp(run, w->id) != 0 || kind == NULL || strcmp(kind, "run") != 0 ||
	    !run_ended(json_string_value(json_object_get(ev, "state"))))
		return;
	if (w->reading)
		w->again = true;
	else
		run_read(w);
}

static void
on_run_deadline(void *arg)
{
	struct run_wait *w = arg;

	run_wait_stop(w);
	if (!w->reading)
		run_read(w);
}

/* The text with the live progress of running tasks put in. */
static void
run_reply_live(struct request *rq, int status, const char *run_id, const char *text)
{
	json_t *run = json_loads(text, 0, NULL), *tasks = json_object_get(run, "tasks"), *t;
	size_t i;

	if (run == NULL)
		BUG("run %s: PostgreSQL made no JSON", run_id);
	json_array_foreach (tasks, i, t) {
		const char *state = json_string_value(json_object_get(t, "state"));
		json_t *progress;

		if (state == NULL || strcmp(state, "running") != 0)
			continue;
		progress = sched_progress(rq->app->sched, run_id, json_string_value(json_object_get(t, "id")));
		if (progress)
			json_object_set_new(t, "progress", progress);
	}
	reply_json(rq, status, run);
}

/* An ended run changes no more, so a page that asks again gets a 304. */
static void
run_reply_ended(struct request *rq, int status, const char *text)
{
	const char *known = request_header(rq, "If-None-Match");
	char hash[SHA256_HEX], etag[40];

	sha256_hex(text, strlen(text), hash);
	snprintf(etag, sizeof(etag), "\"%.32s\"", hash);
	reply_header(rq, "ETag", etag);
	reply_header(rq, "Cache-Control", "no-cache");
	if (status == 200 && known && (strstr(known, etag) || strcmp(known, "*") == 0) && strcmp(rq->method, "POST") != 0)
		reply_empty(rq, 304);
	else
		reply_json_text(rq, status, text);
}

static void
on_run_read(void *arg, const struct rows *r, struct err *e)
{
	struct run_wait *w = arg;
	struct request *rq = w->rq;

	w->reading = false;
	if (r == NULL && w->sub && e->code == ERR_UNAVAILABLE) { /* who waits may as well wait for the database */
		alarm_set(&w->retry, rq->app->loop, READ_AGAIN, run_read, w);
	} else if (r == NULL) {
		run_wait_stop(w);
		reply_err(rq, e);
	} else if (rows_count(r) == 0) {
		run_wait_stop(w);
		reply_problem(rq, ERR_NOT_FOUND, "there is no run %s", w->id);
	} else if (run_ended(rows_get(r, 0, 1))) {
		run_wait_stop(w);
		run_reply_ended(rq, w->status, rows_get(r, 0, 0));
	} else if (w->again) {
		w->again = false;
		run_read(w);
	} else if (w->sub == NULL) {
		run_reply_live(rq, w->status, w->id, rows_get(r, 0, 0));
	}
}

static void
run_read(void *arg)
{
	struct run_wait *w = arg;

	alarm_cancel(&w->retry);
	w->reading = true;
	store_query(w->rq->app->store, RUN_SQL, 1, (const char *[]){ w->id }, on_run_read, w);
}

void
run_reply(struct request *rq, const char *run_id, int status)
{
	dur_us wait = request_wait(rq);
	struct run_wait *w;

	if (wait < 0)
		return;
	w = xcalloc(1, sizeof(*w));
	w->rq = rq;
	w->id = xstrdup(run_id);
	w->status = status;
	rq->data = w;
	rq->data_free = run_wait_free;
	if (wait > 0) {
		w->sub = sched_subscribe(rq->app->sched, on_run_event, w);
		alarm_set(&w->deadline, rq->app->loop, wait, on_run_deadline, w);
		rq->on_stop = on_run_server_stop;
	}
	run_read(w);
}

static void
run_get(struct request *rq)
{
	run_reply(rq, rq->param[0], 200);
}

static void
on_task_read(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	json_t *task, *progress;

	if (r == NULL) {
		reply_err(rq, e);
	} else if (rows_count(r) == 0) {
		reply_problem(rq, ERR_NOT_FOUND, "there is no task %s in a run %s", rq->param[1], rq->param[0]);
	} else if (strcmp(rows_get(r, 0, 1), "running") == 0 &&
		   (progress = sched_progress(rq->app->sched, rq->param[0], rq->param[1])) != NULL) {
		task = rows_json(r, 0, 0);
		json_object_set_new(task, "progress", progress);
		reply_json(rq, 200, task);
	} else {
		reply_json_text(rq, 200, rows_get(r, 0, 0));
	}
}

static void
task_get(struct request *rq)
{
	store_query(rq->app->store, TASK_SQL, 2, (const char *[]){ rq->param[0], rq->param[1] }, on_task_read, rq);
}

/* ---- the list ---- */

static void
on_runs_read(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	struct buf b = BUF_INIT;
	size_t limit = *(size_t *)rq->data, n;

	if (r == NULL) {
		reply_err(rq, e);
		return;
	}
	n = rows_count(r) < limit ? rows_count(r) : limit;
	buf_adds(&b, "{\"items\": [");
	for (size_t i = 0; i < n; i++)
		buf_addf(&b, "%s%s", i ? ", " : "", rows_get(r, i, 0));
	if (rows_count(r) > limit) /* one more was asked for, only to know whether there is one */
		buf_addf(&b, "], \"next\": \"%s\"}", rows_get(r, n - 1, 1));
	else
		buf_adds(&b, "], \"next\": null}");
	reply_json_text(rq, 200, b.s);
	buf_release(&b);
}

/* A cursor is the last item's place: microseconds and id. Only digits and our own ids' letters get through. */
static bool
cursor_parse(const char *text, char **time, const char **id)
{
	size_t digits = strspn(text, "0123456789");

	if (digits == 0 || digits > 18 || text[digits] != '.' || text[digits + 1] == '\0')
		return false;
	*time = xstrndup(text, digits);
	*id = text + digits + 1;
	return true;
}

static void
runs_list(struct request *rq)
{
	const char *flow = request_query(rq, "flow"), *state = request_query(rq, "state"), *cursor = request_query(rq, "cursor"),
		   *id;
	long limit = request_number(rq, "limit", LIST_DEFAULT, 1, LIST_MAX);
	const char *params[4];
	size_t n = 0, *kept;
	struct buf sql = BUF_INIT;
	char *time;

	if (limit < 0)
		return;
	buf_adds(&sql, "SELECT json_build_object(" RUN_FIELDS ")::text,"
		       " (extract(epoch FROM r.created_at) * 1000000)::bigint || '.' || r.id FROM sluice.runs r WHERE true");
	if (flow && *flow) {
		params[n++] = flow;
		buf_addf(&sql, " AND r.flow = $%zu", n);
	}
	if (state && *state) {
		params[n++] = state;
		buf_addf(&sql, " AND r.state = ANY (string_to_array($%zu, ','))", n);
	}
	if (cursor && *cursor) {
		if (!cursor_parse(cursor, &time, &id)) {
			reply_problem(rq, ERR_INVALID, "cursor=%s is not one that this list gave", cursor);
			buf_release(&sql);
			return;
		}
		params[n++] = request_keep(rq, time);
		params[n++] = id;
		buf_addf(&sql,
			 " AND (r.created_at, r.id) < (timestamptz 'epoch' + $%zu::bigint * interval '1 microsecond', $%zu)",
			 n - 1, n);
	}
	buf_addf(&sql, " ORDER BY r.created_at DESC, r.id DESC LIMIT %ld", limit + 1);
	kept = xmalloc(sizeof(*kept));
	*kept = (size_t)limit;
	rq->data = kept;
	rq->data_free = free;
	store_query(rq->app->store, sql.s, n, params, on_runs_read, rq);
	buf_release(&sql);
}

/* ---- triggers ---- */

static void
on_triggered(void *arg, const char *run_id, bool created, struct err *e)
{
	struct request *rq = arg;
	char *place;

	if (run_id == NULL) {
		reply_err(rq, e);
		return;
	}
	place = xasprintf("/api/v1/runs/%s", run_id);
	reply_header(rq, "Location", place);
	free(place);
	run_reply(rq, run_id, created ? 201 : 200);
}

/* Every key is one of `known`; replies 400 itself otherwise. */
static bool
keys_known(struct request *rq, json_t *body, const char *known)
{
	const char *key;
	json_t *v;

	json_object_foreach (body, key, v) {
		char *word = xasprintf(" %s ", key);
		bool ok = strstr(known, word) != NULL;

		free(word);
		if (!ok) {
			reply_problem(rq, ERR_INVALID, "the body has an unknown key \"%s\"; known keys are:%.*s", key,
				      (int)strlen(known) - 1, known);
			return false;
		}
	}
	return true;
}

/* Starts the run and replies with it. Takes `body` over. */
static void
run_trigger(struct request *rq, struct flow *flow, json_t *body)
{
	const char *agent = request_header(rq, "User-Agent"), *key = request_header(rq, "Idempotency-Key");
	json_t *params = json_object_get(body, "params"), *engine = json_object_get(body, "engine"),
	       *rehearsal = json_object_get(body, "rehearsal"), *check = json_object_get(body, "check");
	struct err e = ERR_INIT;
	struct trigger t = { .flow = flow, .idempotency_key = key && *key ? key : NULL };

	if (request_wait(rq) < 0) { /* before there is a run */
		json_decref(body);
		return;
	}
	t.params = json_is_null(params) ? NULL : params;
	t.engine = json_is_null(engine) ? NULL : engine;
	t.rehearsal = json_is_true(rehearsal);
	t.kind = agent && strncmp(agent, "sluice", 6) == 0 ? "cli" : request_header(rq, "Cookie") ? "page" : "api";
	if (t.params && !json_is_object(t.params))
		reply_problem(rq, ERR_INVALID, "\"params\" must be an object of names and values");
	else if (t.engine && !json_is_object(t.engine) && !json_is_string(t.engine))
		reply_problem(rq, ERR_INVALID, "\"engine\" must be a name, or an object of task ids and names");
	else if (rehearsal && !json_is_boolean(rehearsal))
		reply_problem(rq, ERR_INVALID, "\"rehearsal\" must be true or false");
	else if (check && !json_is_boolean(check))
		reply_problem(rq, ERR_INVALID, "\"check\" must be true or false");
	else if (key && strlen(key) > 255)
		reply_problem(rq, ERR_INVALID, "the Idempotency-Key has more than 255 characters");
	else if (!json_is_true(check))
		sched_trigger(rq->app->sched, &t, on_triggered, rq);
	else if (sched_trigger_check(rq->app->sched, &t, &e) < 0)
		reply_err(rq, &e);
	else
		reply_empty(rq, 204);
	err_release(&e);
	json_decref(body);
}

static void
flow_trigger(struct request *rq)
{
	struct flow *flow = flow_in_force(rq);
	json_t *body;

	if (flow == NULL)
		return;
	body = request_json(rq);
	if (body == NULL)
		return;
	if (keys_known(rq, body, " params engine rehearsal check "))
		run_trigger(rq, flow, body);
	else
		json_decref(body);
}

/* A flow that is not in the flows folder: `sluice run FILE`. */
static void
run_create(struct request *rq)
{
	json_t *body = request_json(rq), *source, *errors;
	struct diags diags = DIAGS_INIT;
	const char *file;
	struct flow *flow;

	if (body == NULL)
		return;
	if (!keys_known(rq, body, " file source params engine rehearsal check ")) {
		json_decref(body);
		return;
	}
	source = json_object_get(body, "source");
	file = json_string_value(json_object_get(body, "file"));
	if (!json_is_string(source)) {
		json_decref(body);
		reply_problem(rq, ERR_INVALID, "\"source\" must be the flow's YAML text");
		return;
	}
	flow = flow_load(file ? file : "flow.yaml", json_string_value(source), json_string_length(source), rq->app->config,
			 &diags);
	if (flow == NULL) {
		errors = diags_json(&diags);
		reply_problem_errors(rq, ERR_UNPROCESSABLE, errors, "the flow has %zu problem%s", diags.errors,
				     diags.errors == 1 ? "" : "s");
		json_decref(body);
	} else {
		run_trigger(rq, flow, body);
		flow_unref(flow);
	}
	diags_release(&diags);
}

/* What is wrong with the keys. Where they stand in a text of ours helps nobody, here and in the errors of the task. */
static json_t *
problems_without_places(const struct diags *diags)
{
	json_t *list = diags_json(diags), *problem;
	size_t i;

	json_array_foreach (list, i, problem) {
		json_object_del(problem, "file");
		json_object_del(problem, "line");
		json_object_del(problem, "col");
	}
	return list;
}

/* The keys of a task of type maintain, run as a flow of that one task. */
static void
maintenance_create(struct request *rq)
{
	json_t *body = request_json(rq), *whole;
	struct diags diags = DIAGS_INIT;
	struct flow *flow;
	char *text;

	if (body == NULL)
		return;
	if (json_object_get(body, "id") || json_object_get(body, "type")) {
		json_decref(body);
		reply_problem(rq, ERR_INVALID, "the body has the keys of a task of type maintain, without \"id\" and \"type\"");
		return;
	}
	json_object_set_new(body, "id", json_string("maintain"));
	json_object_set_new(body, "type", json_string("maintain"));
	whole = json_pack("{s:s,s:[o]}", "id", "maintain", "tasks", body);
	text = json_dumps(whole, JSON_COMPACT); /* which is YAML */
	json_decref(whole);
	flow = flow_load("maintain.yaml", text, strlen(text), rq->app->config, &diags);
	free(text);
	if (flow == NULL) {
		reply_problem_errors(rq, ERR_UNPROCESSABLE, problems_without_places(&diags), "the maintenance has %zu problem%s",
				     diags.errors, diags.errors == 1 ? "" : "s");
	} else {
		json_object_clear(flow->tasks[0].pos);
		run_trigger(rq, flow, json_object());
	}
	flow_unref(flow);
	diags_release(&diags);
}

static void
on_cancelled(void *arg, struct err *e)
{
	struct request *rq = arg;

	if (e)
		reply_err(rq, e);
	else
		run_reply(rq, rq->param[0], 202);
}

static void
run_cancel(struct request *rq)
{
	sched_cancel(rq->app->sched, rq->param[0], "cancelled on request", on_cancelled, rq);
}

const struct route runs_routes[] = {
	{ "POST", "/api/v1/flows/{flow}/runs", flow_trigger, ROLE_RUNNER, 1024 * 1024, "Triggers a run of a flow." },
	{ "POST", "/api/v1/runs", run_create, ROLE_RUNNER, 24 * 1024 * 1024, "Runs a flow that is sent along." },
	{ "POST", "/api/v1/maintenance", maintenance_create, ROLE_RUNNER, 1024 * 1024,
	  "Maintains tables: a run of one task of type maintain, whose keys are sent." },
	{ "GET", "/api/v1/runs", runs_list, ROLE_VIEWER, 0, "Lists runs, newest first." },
	{ "GET", "/api/v1/runs/{run}", run_get, ROLE_VIEWER, 0, "Shows a run with its tasks and attempts." },
	{ "POST", "/api/v1/runs/{run}/cancel", run_cancel, ROLE_RUNNER, 1024, "Cancels a run." },
	{ "GET", "/api/v1/runs/{run}/tasks/{task}", task_get, ROLE_VIEWER, 0, "Shows one task of a run." },
};
const size_t runs_routes_count = sizeof(runs_routes) / sizeof(runs_routes[0]);
