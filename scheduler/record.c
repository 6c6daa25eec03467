/*
 * What a turn changed, written as a handful of statements whatever its size, all idempotent: rows carry their whole state,
 * events their number. Subscribers hear of an event after its commit.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/trouble.h"
#include "scheduler/sched_int.h"

static json_t *
time_json(wall_us t)
{
	char text[TIME_TEXT];

	return t ? json_string(time_format(t, text)) : json_null();
}

static json_t *
text_json(const char *s)
{
	return s ? json_string(s) : json_null();
}

static json_t *
event_json(const char *kind, const char *flow, const struct run *run, const struct task *t, int attempt, const char *state,
	   json_t *data)
{
	json_t *ev = json_object();

	json_object_set_new(ev, "at", time_json(clock_wall()));
	json_object_set_new(ev, "kind", json_string(kind));
	json_object_set_new(ev, "flow", text_json(flow));
	json_object_set_new(ev, "run", text_json(run ? run->id : NULL));
	json_object_set_new(ev, "task", text_json(t ? t->def->id : NULL));
	json_object_set_new(ev, "attempt", attempt ? json_integer(attempt) : json_null());
	json_object_set_new(ev, "state", text_json(state));
	json_object_set_new(ev, "data", data ? data : json_object());
	return ev;
}

void
record_event(struct sched *s, const char *kind, const struct run *run, const struct task *t, int attempt, const char *state,
	     json_t *data)
{
	const char *flow = run ? run->flow->id : json_string_value(json_object_get(data, "flow"));
	json_t *ev = event_json(kind, flow, run, t, attempt, state, data);

	json_object_set_new(ev, "id", json_integer(++s->last_event));
	json_array_append_new(s->events, ev);
}

json_t *
record_event_new(struct sched *s, const char *kind, const struct run *run, const char *state, json_t *data)
{
	json_t *ev = event_json(kind, run->flow->id, run, NULL, 0, state, data);

	json_object_set_new(ev, "id", json_integer(++s->last_event));
	return ev;
}

void
record_end(const struct attempt *a, json_t *data)
{
	json_object_set_new(data, "cause", text_json(a->cause));
	json_object_set_new(data, "exit_code", a->exit_code >= 0 ? json_integer(a->exit_code) : json_null());
	json_object_set_new(data, "signal", a->signal >= 0 ? json_integer(a->signal) : json_null());
	json_object_set_new(data, "wall_us", json_integer(a->wall));
	json_object_set_new(data, "user_us", json_integer(a->user));
	json_object_set_new(data, "system_us", json_integer(a->system));
	json_object_set_new(data, "max_rss_bytes", json_integer(a->max_rss));
}

void
record_tell(struct sched *s, const json_t *ev)
{
	LIST_FOR_EACH (it, &s->subs) {
		struct sched_sub *sub = LIST_ENTRY(it, struct sched_sub, node);

		sub->cb(sub->arg, ev);
	}
}

void
record_transient(struct sched *s, const struct task *t, json_t *data)
{
	json_t *ev = event_json("task", t->run->flow->id, t->run, t, t->attempts, task_state_name(t->state), data);

	record_tell(s, ev);
	json_decref(ev);
}

void
record_flows_changed(struct sched *s)
{
	json_t *ev = event_json("flow", NULL, NULL, NULL, 0, "changed", NULL);

	record_tell(s, ev);
	json_decref(ev);
}

void
record_troubles(struct sched *s)
{
	json_t *ev;

	if (s->troubles_told == troubles_news())
		return;
	s->troubles_told = troubles_news();
	ev = event_json("daemon", NULL, NULL, NULL, 0, "changed", NULL);
	record_tell(s, ev);
	json_decref(ev);
}

struct delivery {
	struct sched *sched;
	json_t *events;
};

static void
deliver(void *arg)
{
	struct delivery *d = arg;
	json_t *ev;
	size_t i;

	json_array_foreach (d->events, i, ev)
		record_tell(d->sched, ev);
	json_decref(d->events);
	free(d);
}

/* One statement for a list of rows; takes the list over. */
static void
write_rows(struct sched *s, const char *sql, json_t *rows)
{
	char *text;

	if (json_array_size(rows) > 0) {
		text = json_dumps(rows, JSON_COMPACT);
		store_write(s->store, sql, 1, (const char *[]){ text });
		free(text);
	}
	json_decref(rows);
}

static json_t *
run_row(const struct run *run)
{
	json_t *row = json_object();

	json_object_set_new(row, "id", json_string(run->id));
	json_object_set_new(row, "flow", json_string(run->flow->id));
	json_object_set_new(row, "version", json_string(run->flow->hash));
	json_object_set_new(row, "state", json_string(run_state_name(run->state)));
	json_object_set_new(row, "trigger", json_string(run->trigger));
	json_object_set(row, "params", run->params);
	json_object_set_new(row, "engine", run->engine ? json_incref(run->engine) : json_null());
	json_object_set_new(row, "idempotency_key", text_json(run->idempotency_key));
	json_object_set_new(row, "created_at", time_json(run->created_at));
	json_object_set_new(row, "scheduled_for", time_json(run->scheduled_for));
	json_object_set_new(row, "interval_start", time_json(run->interval_start));
	json_object_set_new(row, "interval_end", time_json(run->interval_end));
	json_object_set_new(row, "started_at", time_json(run->started_at));
	json_object_set_new(row, "ended_at", time_json(run->ended_at));
	json_object_set_new(row, "error", text_json(run->error));
	json_object_set_new(row, "rehearsal", json_boolean(run->rehearsal));
	json_object_set_new(row, "shadow_of", text_json(run->shadow_of));
	return row;
}

static json_t *
task_row(const struct task *t)
{
	json_t *row = json_object(), *deps = json_array();

	for (size_t i = 0; i < t->def->ndeps; i++)
		json_array_append_new(deps, json_string(t->run->flow->tasks[t->def->deps[i]].id));
	json_object_set_new(row, "run_id", json_string(t->run->id));
	json_object_set_new(row, "id", json_string(t->def->id));
	json_object_set_new(row, "idx", json_integer((json_int_t)t->idx));
	json_object_set_new(row, "type", json_string(task_type_name(t->def->type)));
	json_object_set_new(row, "engine", text_json(t->engine));
	json_object_set_new(row, "depends_on", deps);
	json_object_set_new(row, "state", json_string(task_state_name(t->state)));
	json_object_set_new(row, "outputs", t->outputs ? json_incref(t->outputs) : json_null());
	json_object_set_new(row, "error", text_json(t->error));
	json_object_set_new(row, "started_at", time_json(t->started_at));
	json_object_set_new(row, "ended_at", time_json(t->ended_at));
	json_object_set_new(row, "next_attempt_at", time_json(t->state == TASK_STATE_RETRY_WAIT ? t->next_attempt_at : 0));
	return row;
}

/* An ended attempt takes its cause's name from how its task saw it. */
static const char *
attempt_state_name(const struct attempt *a)
{
	if (a->phase == ATTEMPT_RUNNING || a->phase == ATTEMPT_PUBLISHING)
		return "running";
	if (a->phase == ATTEMPT_STOPPING)
		return "stopping";
	if (strcmp(a->cause, "timeout") == 0)
		return "timed_out";
	if (strcmp(a->cause, "cancelled") == 0 || strcmp(a->cause, "lost") == 0)
		return a->cause;
	return a->exit_code == 0 && json_object_get(a->report, "error") == NULL ? "success" : "failed";
}

static json_t *
attempt_row(const struct attempt *a)
{
	json_t *row = json_object();
	bool ended = a->phase == ATTEMPT_ENDED;

	json_object_set_new(row, "run_id", json_string(a->task->run->id));
	json_object_set_new(row, "task_id", json_string(a->task->def->id));
	json_object_set_new(row, "n", json_integer(a->n));
	json_object_set_new(row, "state", json_string(attempt_state_name(a)));
	json_object_set_new(row, "cause", text_json(a->cause));
	json_object_set_new(row, "exit_code", a->exit_code >= 0 ? json_integer(a->exit_code) : json_null());
	json_object_set_new(row, "signal", a->signal >= 0 ? json_integer(a->signal) : json_null());
	json_object_set_new(row, "pid", a->pid ? json_integer(a->pid) : json_null());
	json_object_set_new(row, "nursery", json_string(a->nursery));
	json_object_set_new(row, "token_hash", json_string(a->token_hash));
	json_object_set_new(row, "started_at", time_json(a->started_at));
	json_object_set_new(row, "ended_at", time_json(a->ended_at));
	json_object_set_new(row, "wall_us", ended ? json_integer(a->wall) : json_null());
	json_object_set_new(row, "user_us", ended ? json_integer(a->user) : json_null());
	json_object_set_new(row, "system_us", ended ? json_integer(a->system) : json_null());
	json_object_set_new(row, "max_rss_bytes", ended ? json_integer(a->max_rss) : json_null());
	json_object_set_new(row, "report", ended ? json_incref(a->report) : json_null());
	return row;
}

static void
write_version(struct sched *s, const struct flow *f)
{
	if (json_object_get(s->versions, f->hash))
		return;
	json_object_set_new(s->versions, f->hash, json_true());
	store_write(s->store,
		    "INSERT INTO flow_versions (hash, flow, file, source) VALUES ($1, $2, $3, $4) ON CONFLICT (hash) DO NOTHING",
		    4, (const char *[]){ f->hash, f->id, f->file, f->source });
}

void
record_turn(struct sched *s)
{
	json_t *new_runs = json_array(), *runs = json_array(), *new_tasks = json_array(), *tasks = json_array(),
	       *attempts = json_array();
	struct attempt *a, *tmp;
	struct delivery *d;
	struct list ended, publish;

	list_init(&ended);
	list_init(&publish);
	LIST_FOR_EACH (it, &s->dirty) {
		struct run *run = LIST_ENTRY(it, struct run, dirty_node);

		list_remove(it);
		if (run->fresh)
			write_version(s, run->flow);
		if (run->dirty)
			json_array_append_new(run->fresh ? new_runs : runs, run_row(run));
		for (size_t i = 0; i < run->flow->ntasks; i++)
			if (run->fresh || run->tasks[i].dirty) {
				json_array_append_new(run->fresh ? new_tasks : tasks, task_row(&run->tasks[i]));
				run->tasks[i].dirty = false;
			}
		run->fresh = run->dirty = false;
		if (run_state_terminal(run->state))
			list_append(&ended, &run->dirty_node);
		else if (run->state == RUN_PUBLISHING && !run->asked)
			list_append(&publish, &run->dirty_node);
	}
	HASH_ITER(hh, s->attempts, a, tmp)
	{
		if (a->dirty && a->task)
			json_array_append_new(attempts, attempt_row(a));
		a->dirty = false;
	}
	write_rows(s, "INSERT INTO runs SELECT * FROM jsonb_populate_recordset(NULL::runs, $1::jsonb) ON CONFLICT DO NOTHING",
		   new_runs);
	write_rows(s, "INSERT INTO tasks SELECT * FROM jsonb_populate_recordset(NULL::tasks, $1::jsonb) ON CONFLICT DO NOTHING",
		   new_tasks);
	write_rows(s,
		   "UPDATE runs t SET state = r.state, started_at = r.started_at, ended_at = r.ended_at, error = r.error "
		   "FROM jsonb_populate_recordset(NULL::runs, $1::jsonb) r WHERE t.id = r.id",
		   runs);
	write_rows(s,
		   "UPDATE tasks t SET state = r.state, outputs = r.outputs, error = r.error, started_at = r.started_at, "
		   "ended_at = r.ended_at, next_attempt_at = r.next_attempt_at "
		   "FROM jsonb_populate_recordset(NULL::tasks, $1::jsonb) r WHERE t.run_id = r.run_id AND t.id = r.id",
		   tasks);
	if (json_array_size(s->unbegun) > 0) {
		write_rows(s,
			   "DELETE FROM attempts a USING jsonb_populate_recordset(NULL::attempts, $1::jsonb) r "
			   "WHERE a.run_id = r.run_id AND a.task_id = r.task_id AND a.n = r.n",
			   s->unbegun);
		s->unbegun = json_array();
	}
	write_rows(
		s,
		"INSERT INTO attempts SELECT * FROM jsonb_populate_recordset(NULL::attempts, $1::jsonb) "
		"ON CONFLICT (run_id, task_id, n) DO UPDATE SET state = excluded.state, cause = excluded.cause, "
		"exit_code = excluded.exit_code, signal = excluded.signal, pid = excluded.pid, token_hash = excluded.token_hash, "
		"started_at = excluded.started_at, ended_at = excluded.ended_at, wall_us = excluded.wall_us, user_us = "
		"excluded.user_us, "
		"system_us = excluded.system_us, max_rss_bytes = excluded.max_rss_bytes, report = excluded.report",
		attempts);
	lake_write(s);
	if (json_array_size(s->events) > 0) {
		d = xcalloc(1, sizeof(*d));
		d->sched = s;
		d->events = s->events;
		s->events = json_array();
		write_rows(s,
			   "INSERT INTO events SELECT * FROM jsonb_populate_recordset(NULL::events, $1::jsonb) ON CONFLICT DO "
			   "NOTHING",
			   json_incref(d->events));
		store_after_commit(s->store, deliver, d);
	}
	/* Last, since it looks at what this turn wrote. */
	LIST_FOR_EACH (it, &publish) {
		list_remove(it);
		lake_publish_run(LIST_ENTRY(it, struct run, dirty_node));
	}
	HASH_ITER(hh, s->attempts, a, tmp)
	if (a->phase == ATTEMPT_PUBLISHING && !a->asked)
		lake_publish_attempt(a);
	/* What has ended is written; the database is the only place that remembers it. */
	HASH_ITER(hh, s->attempts, a, tmp)
	if (a->phase == ATTEMPT_ENDED)
		attempt_free(a);
	LIST_FOR_EACH (it, &ended)
		run_free(LIST_ENTRY(it, struct run, dirty_node));
}
