/*
 * What was there before: active runs with their tasks and live attempts, pauses, dealt-with planned times, and the last
 * event's number. One pass over the partial index of active rows, never over history.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "scheduler/sched_int.h"

#define RECOVER_AGAIN (500 * US_PER_MS)

static wall_us
time_from(const json_t *row, const char *name)
{
	const char *text = json_string_value(json_object_get(row, name));
	wall_us t = 0;

	if (text == NULL || time_parse(text, &t) < 0)
		return 0;
	return t;
}

static const char *
text_from(const json_t *row, const char *name)
{
	return json_string_value(json_object_get(row, name));
}

static struct task *
task_find(struct run *run, const char *id)
{
	for (size_t i = 0; i < run->flow->ntasks; i++)
		if (strcmp(run->tasks[i].def->id, id) == 0)
			return &run->tasks[i];
	return NULL;
}

static enum stop_reason
stop_of_error(const char *error)
{
	return strncmp(error, RUN_TIMEOUT_TEXT, strlen(RUN_TIMEOUT_TEXT)) == 0 ? STOP_TIMEOUT : STOP_CANCEL;
}

static void
recover_task(struct run *run, const json_t *row)
{
	struct task *t = task_find(run, text_from(row, "id"));
	int state = task_state_parse(text_from(row, "state"));
	json_t *outputs = json_object_get(row, "outputs"), *live = json_object_get(row, "live");

	if (t == NULL || state < 0)
		return;
	t->state = (enum task_state)state;
	t->engine = xstrdup_null(text_from(row, "engine"));
	t->outputs = json_is_object(outputs) ? json_incref(outputs) : NULL;
	/* Of tasks that are transactions of their own it is visible with their success. */
	if (t->state == TASK_STATE_SUCCESS && run->flow->isolation == ISOLATION_RUN)
		streams_note(t, row);
	t->error = xstrdup_null(text_from(row, "error"));
	t->started_at = time_from(row, "started_at");
	t->ended_at = time_from(row, "ended_at");
	t->attempts = (int)json_integer_value(json_object_get(row, "attempts"));
	if (task_state_terminal(t->state)) {
		run->open_tasks--;
	} else if (t->state == TASK_STATE_READY) {
		list_append(&run->sched->ready, &t->ready);
	} else if (t->state == TASK_STATE_RETRY_WAIT) {
		task_retry_later(t, time_from(row, "next_attempt_at"));
	} else if (t->state == TASK_STATE_RUNNING && json_is_object(live)) {
		run->sched->slots_used++;
		run->sched->slots_shadow += run->shadow_of != NULL;
		run->fs->running_tasks++;
		t->attempt = attempt_adopt(t, (int)json_integer_value(json_object_get(live, "n")),
					   strcmp(text_from(live, "state"), "stopping") == 0, text_from(live, "nursery"),
					   text_from(live, "token_hash"), time_from(live, "started_at"));
		if (text_from(live, "cause")) /* while it runs there is no other */
			attempt_undercut(t->attempt);
		if (t->attempt->phase == ATTEMPT_STOPPING) {
			/* Why is in the run's row: a run that was given up says so; else it was the task's own timeout. */
			t->attempt->stop = run->error ? STOP_CANCEL : STOP_TIMEOUT;
			if (run->error)
				run->stop = stop_of_error(run->error);
		}
	}
}

static void
recover_run(struct sched *s, const json_t *row)
{
	struct diags diags = DIAGS_INIT;
	const char *source = text_from(row, "source");
	struct flow *flow = flow_load(text_from(row, "file"), source, strlen(source), s->config, &diags);
	struct run *run;
	json_t *value;
	size_t i;

	if (flow == NULL) {
		/* The text was good when the run was made: the config under it has changed. End it with that reason. */
		struct buf why = BUF_INIT;

		diags_print(&diags, &why);
		log_error("run %s cannot go on: its flow no longer loads with this config:\n%s", text_from(row, "id"), why.s);
		store_write(s->store, "UPDATE runs SET state = 'failed', ended_at = now(), error = $2 WHERE id = $1", 2,
			    (const char *[]){ text_from(row, "id"), why.s });
		store_write(s->store, "UPDATE commits SET state = 'abandoned' WHERE run_id = $1 AND state = 'private'", 1,
			    (const char *[]){ text_from(row, "id") });
		buf_release(&why);
		diags_release(&diags);
		return;
	}
	diags_release(&diags);
	json_object_set_new(s->versions, flow->hash, json_true());
	run = run_new(s, flow, text_from(row, "id"));
	flow_unref(flow);
	run->state = (enum run_state)run_state_parse(text_from(row, "state"));
	run->trigger = xstrdup(text_from(row, "trigger"));
	run->idempotency_key = xstrdup_null(text_from(row, "idempotency_key"));
	run->params = json_incref(json_object_get(row, "params"));
	value = json_object_get(row, "engine");
	run->engine = value && !json_is_null(value) ? json_incref(value) : NULL;
	run->created_at = time_from(row, "created_at");
	run->scheduled_for = time_from(row, "scheduled_for");
	run->interval_start = time_from(row, "interval_start");
	run->interval_end = time_from(row, "interval_end");
	run->started_at = time_from(row, "started_at");
	run->error = xstrdup_null(text_from(row, "error"));
	run->rehearsal = json_is_true(json_object_get(row, "rehearsal"));
	if (text_from(row, "shadow_of"))
		shadow_set(run, text_from(row, "shadow_of"), json_object_get(row, "original"));
	shadow_recovered(run);
	if (run->idempotency_key)
		HASH_ADD_KEYPTR(hh_key, s->runs_by_key, run->idempotency_key, strlen(run->idempotency_key), run);
	json_array_foreach (json_object_get(row, "tasks"), i, value)
		recover_task(run, value);
	lake_recover(run, json_object_get(row, "commits"));
	if (run->state == RUN_QUEUED) {
		list_append(&run->fs->queue, &run->queued);
	} else {
		run->fs->active++;
		run_arm_timeout(run);
	}
	log_info("%s/%s: found %s, going on", run->flow->id, run->id, run_state_name(run->state));
	run_mark(run);
}

static void
recover_again(void *arg)
{
	recover_start(arg);
}

static void
on_recovered(void *arg, const struct rows *r, struct err *e)
{
	struct sched *s = arg;
	json_t *all, *row;
	const char *name;
	size_t i;

	if (r == NULL) {
		if (e->code != ERR_UNAVAILABLE) /* else it is said already that the database is away */
			log_error("cannot read what was active: %s; trying again", e->msg);
		alarm_set(&s->recover_alarm, s->loop, RECOVER_AGAIN, recover_again, s);
		return;
	}
	all = rows_json(r, 0, 0);
	s->last_event = json_integer_value(json_object_get(all, "last_event"));
	json_object_foreach (json_object_get(all, "paused"), name, row)
		flow_state_get(s, name)->paused = true;
	json_array_foreach (json_object_get(all, "schedules"), i, row) {
		char *key = xasprintf("%s\t%s", text_from(row, "flow"), text_from(row, "spec"));

		json_object_set_new(s->handled, key, json_integer(time_from(row, "handled_at")));
		free(key);
	}
	streams_recover(s, json_object_get(all, "offsets"));
	json_array_foreach (json_object_get(all, "runs"), i, row)
		recover_run(s, row);
	json_array_foreach (json_object_get(all, "untold"), i, row)
		sched_table_told(s, row);
	json_decref(all);
	s->recovered = true;
	shadow_start(s);
	attempts_sweep(s);
	/* What the nursery told before was told to someone who could not know which attempts are wanted. */
	if (s->nursery_id)
		nursery_list(s->nursery);
	plan_rearm(s);
	sched_wake(s);
}

void
recover_start(struct sched *s)
{
	store_query(
		s->store,
		"SELECT json_build_object("
		" 'last_event', (SELECT coalesce(max(id), 0) FROM events),"
		" 'untold', (SELECT coalesce(jsonb_agg(to_jsonb(c) ORDER BY c.id), '[]') FROM commits c WHERE NOT c.told),"
		" 'paused', (SELECT coalesce(json_object_agg(id, true), '{}') FROM flows WHERE paused),"
		" 'schedules', (SELECT coalesce(json_agg(json_build_object('flow', flow, 'spec', spec, 'handled_at', "
		"handled_at)), '[]')"
		"               FROM schedules),"
		" 'offsets', (SELECT coalesce(json_agg(o), '[]') FROM offsets o),"
		" 'runs', (SELECT coalesce(json_agg(to_jsonb(r) || jsonb_build_object("
		"     'source', v.source, 'file', v.file, 'original', CASE WHEN r.shadow_of IS NOT NULL THEN"
		"     shadow_original(r.shadow_of) END,"
		"     'commits', (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.id) FROM commits c WHERE c.run_id = r.id AND "
		"c.state = 'private'),"
		"     'tasks', (SELECT jsonb_agg(to_jsonb(t) || jsonb_build_object("
		"         'attempts', (SELECT coalesce(max(n), 0) FROM attempts a WHERE a.run_id = t.run_id AND a.task_id = "
		"t.id),"
		"         'streams', (SELECT a.report->'streams' FROM attempts a WHERE a.run_id = t.run_id AND a.task_id = t.id"
		"                  AND a.state = 'success' ORDER BY n DESC LIMIT 1),"
		"         'live', (SELECT to_jsonb(a) FROM attempts a WHERE a.run_id = t.run_id AND a.task_id = t.id"
		"                  AND a.state IN ('running', 'stopping') ORDER BY n DESC LIMIT 1)) ORDER BY t.idx)"
		"       FROM tasks t WHERE t.run_id = r.id)) ORDER BY r.created_at, r.id), '[]')"
		"   FROM runs r JOIN flow_versions v ON v.hash = r.version WHERE r.state IN ('queued', 'running', "
		"'publishing')))",
		0, NULL, on_recovered, s);
}
