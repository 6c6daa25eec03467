/*
 * The scheduler's decisions. Everything here is level-triggered: sched_turn asks what may start or end now and is harmless
 * to call twice, so that recovery after a crash is the same code with rows read from PostgreSQL.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/engine_home.h"
#include "base/fs.h"
#include "base/log.h"
#include "flows/engines.h"
#include "flows/expr.h"
#include "scheduler/sched_int.h"

#define DEFAULT_SLOTS 16
#define CHORES        4 /* of each kind, a turn */
#define TRIM_AFTER    (10 * US_PER_S)

void
sched_wake(struct sched *s)
{
	store_kick(s->store);
}

struct flow_state *
flow_state_get(struct sched *s, const char *id)
{
	struct flow_state *fs;

	HASH_FIND_STR(s->flows, id, fs);
	if (fs == NULL) {
		fs = xcalloc(1, sizeof(*fs));
		fs->id = xstrdup(id);
		list_init(&fs->queue);
		HASH_ADD_KEYPTR(hh, s->flows, fs->id, strlen(fs->id), fs);
	}
	return fs;
}

struct flow_state *
flow_state_shadow(struct sched *s, const char *id)
{
	char *own = xasprintf("shadow:%s", id); /* no flow can be called so */
	struct flow_state *fs = flow_state_get(s, own);

	free(own);
	return fs;
}

/* ---- runs ---- */

struct run *
run_new(struct sched *s, struct flow *flow, const char *id)
{
	struct run *run = xcalloc(1, sizeof(*run));

	run->sched = s;
	run->id = xstrdup(id);
	run->flow = flow_ref(flow);
	run->fs = flow_state_get(s, flow->id);
	run->tasks = xcalloc(flow->ntasks, sizeof(*run->tasks));
	run->open_tasks = flow->ntasks;
	list_init(&run->queued);
	list_init(&run->dirty_node);
	list_init(&run->commits);
	for (size_t i = 0; i < flow->ntasks; i++) {
		run->tasks[i].run = run;
		run->tasks[i].def = &flow->tasks[i];
		run->tasks[i].idx = i;
		run->tasks[i].state = TASK_STATE_WAITING;
		list_init(&run->tasks[i].ready);
	}
	HASH_ADD_KEYPTR(hh, s->runs, run->id, strlen(run->id), run);
	return run;
}

void
run_free(struct run *run)
{
	struct sched *s = run->sched;

	for (size_t i = 0; i < run->flow->ntasks; i++) {
		struct task *t = &run->tasks[i];

		if (t->attempt)
			attempt_free(t->attempt);
		alarm_cancel(&t->retry);
		list_remove(&t->ready);
		json_decref(t->outputs);
		json_decref(t->reads);
		free(t->error);
		free(t->engine);
	}
	alarm_cancel(&run->timeout);
	lake_release(run);
	list_remove(&run->queued);
	list_remove(&run->dirty_node);
	HASH_DEL(s->runs, run);
	if (run->idempotency_key)
		HASH_DELETE(hh_key, s->runs_by_key, run);
	flow_unref(run->flow);
	json_decref(run->params);
	json_decref(run->engine);
	json_decref(run->original);
	free(run->shadow_of);
	free(run->tasks);
	free(run->trigger);
	free(run->idempotency_key);
	free(run->error);
	free(run->id);
	free(run);
}

/* Has sched_turn look at the run, and write what changed. */
void
run_mark(struct run *run)
{
	run->check = true;
	if (list_empty(&run->dirty_node))
		list_append(&run->sched->dirty, &run->dirty_node);
	sched_wake(run->sched);
}

static bool
run_active(enum run_state st)
{
	return st == RUN_RUNNING || st == RUN_PUBLISHING;
}

static void
run_enter(struct run *run, enum run_event ev, const char *reason)
{
	int next = run_state_next(run->state, ev);

	if (next < 0)
		BUG("run %s: no transition from %s by event %d", run->id, run_state_name(run->state), (int)ev);
	log_info("%s/%s %s -> %s%s%s", run->flow->id, run->id, run_state_name(run->state), run_state_name((enum run_state)next),
		 reason ? ": " : "", reason ? reason : "");
	if (run_active(run->state))
		run->fs->active--;
	run->state = (enum run_state)next;
	list_remove(&run->queued);
	alarm_cancel(&run->timeout);
	run->asked = false;
	if (run_active(run->state))
		run->fs->active++;
	if (run->state == RUN_RUNNING) {
		if (run->started_at == 0)
			run->started_at = clock_wall();
		run_arm_timeout(run);
	} else if (run_state_terminal(run->state)) {
		run->ended_at = clock_wall();
		if (reason && run->error == NULL)
			run->error = xstrdup(reason);
		if (run->state != RUN_SUCCESS)
			lake_abandon(run);
		shadow_ended(run);
	}
}

void
run_transition(struct run *run, enum run_event ev, const char *reason)
{
	json_t *data = NULL;

	run_enter(run, ev, reason);
	run->dirty = true;
	if (run->error)
		data = json_pack("{s:s}", "error", run->error);
	record_event(run->sched, "run", run, NULL, 0, run_state_name(run->state), data);
	run_mark(run);
}

void
run_published(struct run *run, wall_us ended, json_t *event)
{
	run_enter(run, RUN_EV_SUCCEED, NULL);
	run->ended_at = ended;
	record_tell(run->sched, event);
	json_decref(event);
	run_mark(run); /* there is no more to write, but to be done with it */
}

static void
run_timed_out(void *arg)
{
	struct run *run = arg;
	char *why = xasprintf(RUN_TIMEOUT_TEXT " of %.6g s", (double)run->flow->timeout / US_PER_S);

	run_stop(run, STOP_TIMEOUT, why);
	free(why);
}

void
run_arm_timeout(struct run *run)
{
	if (run->flow->timeout)
		alarm_set(&run->timeout, run->sched->loop, run->started_at + run->flow->timeout - clock_wall(), run_timed_out,
			  run);
}

/* Gives the whole run up: nothing starts any more, what runs is ended; the run ends when the last attempt has. */
void
run_stop(struct run *run, enum stop_reason why, const char *reason)
{
	if (run->stop != STOP_NONE || run_state_terminal(run->state) || run->state == RUN_PUBLISHING)
		return;
	run->stop = why;
	run->dirty = true; /* a daemon that takes over must know that it was given up */
	free(run->error);
	run->error = xstrdup(reason);
	for (size_t i = 0; i < run->flow->ntasks; i++) {
		struct task *t = &run->tasks[i];

		if (t->state == TASK_STATE_RUNNING)
			attempt_stop(t->attempt, STOP_CANCEL);
		else if (!task_state_terminal(t->state))
			task_transition(t, TASK_EV_CANCEL, reason);
	}
	run_mark(run);
}

/* ---- tasks ---- */

static bool
task_bad(enum task_state st)
{
	return st == TASK_STATE_FAILED || st == TASK_STATE_TIMED_OUT || st == TASK_STATE_LOST || st == TASK_STATE_CANCELLED;
}

void
task_transition(struct task *t, enum task_event ev, const char *reason)
{
	struct run *run = t->run;
	struct sched *s = run->sched;
	int next = task_state_next(t->state, ev);
	json_t *data;

	if (next < 0)
		BUG("task %s/%s: no transition from %s by event %d", run->id, t->def->id, task_state_name(t->state), (int)ev);
	/* That nothing can be started is said once, by hold.c. */
	(ev == TASK_EV_UNBEGIN || (s->hold.active && ev == TASK_EV_START) ? log_debug : log_info)(
		"%s/%s/%s %s -> %s%s%s", run->flow->id, run->id, t->def->id, task_state_name(t->state),
		task_state_name((enum task_state)next), reason ? ": " : "", reason ? reason : "");
	if (t->state == TASK_STATE_RUNNING) {
		s->slots_used--;
		s->slots_shadow -= run->shadow_of != NULL;
		run->fs->running_tasks--;
	}
	if (task_state_terminal(t->state)) { /* done again */
		run->open_tasks++;
		t->ended_at = 0;
	}
	t->state = (enum task_state)next;
	list_remove(&t->ready);
	alarm_cancel(&t->retry);
	if (t->state == TASK_STATE_READY) {
		list_append(&s->ready, &t->ready);
		t->next_attempt_at = 0;
	} else if (t->state == TASK_STATE_RUNNING) {
		s->slots_used++;
		s->slots_shadow += run->shadow_of != NULL;
		run->fs->running_tasks++;
		if (t->started_at == 0)
			t->started_at = t->attempt->started_at;
	}
	free(t->error);
	t->error = NULL;
	if (task_state_terminal(t->state)) {
		run->open_tasks--;
		t->ended_at = clock_wall();
		task_kept_leave(t);
	}
	if (reason && t->state != TASK_STATE_SUCCESS && t->state != TASK_STATE_RUNNING)
		t->error = xstrdup(reason);
	t->dirty = true;
	/* Ready is over within the turn unless slots are short: not worth an event. */
	if (t->state != TASK_STATE_READY || ev == TASK_EV_UNBEGIN) {
		data = json_object();
		if (reason)
			json_object_set_new(data, "error", json_string(reason));
		if (t->state == TASK_STATE_SUCCESS && t->outputs)
			json_object_set(data, "outputs", t->outputs);
		if (t->attempt && t->attempt->phase == ATTEMPT_ENDED)
			record_end(t->attempt, data);
		if (t->state == TASK_STATE_RETRY_WAIT && t->next_attempt_at) {
			char when[TIME_TEXT];

			json_object_set_new(data, "next_attempt_at", json_string(time_format(t->next_attempt_at, when)));
		}
		record_event(s, "task", run, t, t->attempts, task_state_name(t->state), data);
	}
	run_mark(run);
}

static void
task_retry_due(void *arg)
{
	struct task *t = arg;

	task_transition(t, TASK_EV_RETRY_DUE, NULL);
}

void
task_retry_later(struct task *t, wall_us at)
{
	t->next_attempt_at = at;
	alarm_set(&t->retry, t->run->sched->loop, at - clock_wall(), task_retry_due, t);
}

dur_us
task_retry_pause(const struct task *t, int next)
{
	const struct retry *r = &t->def->retry;
	double pause = (double)r->interval;
	uint32_t noise;

	if (r->backoff == BACKOFF_EXPONENTIAL)
		for (int i = 2; i < next; i++) {
			pause *= r->factor > 0 ? r->factor : 2;
			if (r->max_interval && pause > (double)r->max_interval)
				break;
		}
	if (r->max_interval && pause > (double)r->max_interval)
		pause = (double)r->max_interval;
	if (r->jitter > 0 && getrandom(&noise, sizeof(noise), 0) == sizeof(noise))
		pause *= 1 + r->jitter * ((double)noise / UINT32_MAX * 2 - 1);
	return (dur_us)pause;
}

/* Did the attempt itself say that another one would fail alike? */
static bool
task_failed_for_good(const struct task *t)
{
	return t->attempt && json_is_true(json_object_get(json_object_get(t->attempt->report, "error"), "final"));
}

void
task_attempt_ended(struct task *t, enum task_event ev, const char *reason)
{
	const struct retry *r = &t->def->retry;
	struct run *run = t->run;

	if (ev == TASK_EV_SUCCEED || ev == TASK_EV_CANCEL || run->stop != STOP_NONE || t->attempts >= r->max_attempts ||
	    (ev == TASK_EV_FAIL && task_failed_for_good(t))) {
		if (run->stop != STOP_NONE && ev != TASK_EV_SUCCEED)
			ev = TASK_EV_CANCEL;
		task_transition(t, ev, reason);
		t->attempt = NULL; /* record.c keeps it until it is written */
		return;
	}
	t->next_attempt_at = clock_wall() + task_retry_pause(t, t->attempts + 1);
	task_transition(t, TASK_EV_RETRY, reason);
	t->attempt = NULL;
	task_retry_later(t, t->next_attempt_at);
}

/* ---- what may happen now ---- */

static struct upstream
task_upstream(const struct task *t)
{
	struct upstream u = { .total = (int)t->def->ndeps };

	for (size_t i = 0; i < t->def->ndeps; i++) {
		const struct task *d = &t->run->tasks[t->def->deps[i]];

		if (d->state == TASK_STATE_SUCCESS || (task_bad(d->state) && d->def->allow_failure))
			u.success++;
		else if (task_bad(d->state))
			u.failed++;
		else if (d->state == TASK_STATE_UPSTREAM_FAILED)
			u.upstream_failed++;
		else if (d->state == TASK_STATE_SKIPPED)
			u.skipped++;
	}
	return u;
}

json_t *
sched_scope(const struct run *run)
{
	struct sched *s = run->sched;
	json_t *tasks = json_object(), *r = json_object(), *env = json_deep_copy(s->config->env);
	char text[TIME_TEXT], *dir = xstrdup(run->flow->file), *slash = strrchr(dir, '/');

	if (slash)
		*slash = '\0';
	for (size_t i = 0; i < run->flow->ntasks; i++) {
		const struct task *t = &run->tasks[i];

		json_object_set_new(tasks, t->def->id,
				    json_pack("{s:s,s:O}", "state", task_state_name(t->state), "outputs",
					      t->outputs ? t->outputs : json_null()));
		if (t->outputs == NULL)
			json_object_set_new(json_object_get(tasks, t->def->id), "outputs", json_object());
		if (t->error)
			json_object_set_new(json_object_get(tasks, t->def->id), "error", json_string(t->error));
	}
	json_object_set_new(r, "id", json_string(run->id));
	json_object_set_new(r, "trigger", json_string(run->trigger));
	json_object_set_new(r, "created_at", json_string(time_format(run->created_at, text)));
	json_object_set_new(r, "started_at", json_string(time_format(run->started_at ? run->started_at : run->created_at, text)));
	/* A run that nobody scheduled has its own start as the logical time, so that flows need not care how they were triggered.
	 */
	json_object_set_new(r, "scheduled_for",
			    json_string(time_format(run->scheduled_for ? run->scheduled_for : run->created_at, text)));
	json_object_set_new(r, "data_interval_start",
			    json_string(time_format(run->interval_start ? run->interval_start : run->created_at, text)));
	json_object_set_new(r, "data_interval_end",
			    json_string(time_format(run->interval_end ? run->interval_end : run->created_at, text)));
	json_object_set_new(r, "error", run->error ? json_string(run->error) : json_string(""));
	if (run->shadow_of) { /* but for its id it is the run that it repeats */
		json_object_set(r, "trigger", json_object_get(run->original, "trigger"));
		json_object_set_new(r, "created_at", json_string(time_format(run->original_at, text)));
		json_object_set_new(r, "started_at", json_string(time_format(run->as_of, text)));
	}
	r = json_pack("{s:O,s:o,s:{s:s,s:s,s:s,s:s},s:o,s:o,s:O,s:O}", "params", run->params, "run", r, "flow", "id",
		      run->flow->id, "namespace", run->flow->namespace_ ? run->flow->namespace_ : "default", "file",
		      run->flow->file, "dir", dir, "tasks", tasks, "env", env, "vars",
		      run->flow->vars ? run->flow->vars : json_null(), "config", s->config->json);
	free(dir);
	return r;
}

int
sched_scope_env(json_t *scope, const struct task_def *def, json_t **out, struct err *e)
{
	int rc = 0;

	*out = NULL;
	if (def->env && (rc = expr_resolve(def->env, scope, out, e)) < 0) {
		err_prefix(e, "env");
		return rc;
	}
	if (!json_is_object(*out)) {
		json_decref(*out);
		*out = json_object();
	}
	json_object_update(json_object_get(scope, "env"), *out);
	return 0;
}

/* Decides a WAITING task. */
static void
task_advance(struct task *t)
{
	struct upstream u = task_upstream(t);
	struct err e = ERR_INIT;
	json_t *scope, *env = NULL;
	bool go = true;

	switch (rule_judge(t->def->rule, &u)) {
	case VERDICT_WAIT:
		return;
	case VERDICT_SKIP:
		task_transition(t, TASK_EV_SKIP, "its trigger rule cannot be met");
		return;
	case VERDICT_UPSTREAM_FAILED:
		task_transition(t, TASK_EV_UPSTREAM_FAIL, "a task it depends on did not end well");
		return;
	case VERDICT_GO:
		break;
	}
	if (shadow_take_over(t))
		return;
	if (!t->def->enabled) {
		task_transition(t, TASK_EV_SKIP, "the task is not enabled");
		return;
	}
	if (t->def->when) {
		scope = sched_scope(t->run);
		if (sched_scope_env(scope, t->def, &env, &e) < 0 || expr_when(t->def->when, scope, &go, &e) < 0) {
			err_prefix(&e, "when");
			task_transition(t, TASK_EV_FAIL, e.msg);
			err_release(&e);
			json_decref(scope);
			json_decref(env);
			return;
		}
		json_decref(scope);
		json_decref(env);
	}
	task_transition(t, go ? TASK_EV_DEPS_MET : TASK_EV_SKIP, go ? NULL : "its condition is false");
}

static void
run_finish(struct run *run)
{
	const struct task *bad = NULL;
	char *why = NULL;

	for (size_t i = 0; i < run->flow->ntasks; i++) {
		const struct task *t = &run->tasks[i];

		if (task_bad(t->state) && !t->def->allow_failure && bad == NULL)
			bad = t;
	}
	if (run->stop == STOP_CANCEL) {
		run_transition(run, RUN_EV_CANCEL, run->error);
	} else if (run->stop == STOP_TIMEOUT) {
		run_transition(run, RUN_EV_FAIL, run->error);
	} else if (bad) {
		why = xasprintf("task %s: %s", bad->def->id, bad->error ? bad->error : task_state_name(bad->state));
		run_transition(run, RUN_EV_FAIL, why);
	} else {
		if (run->rehearsal)
			lake_rehearsed(run);
		run_transition(run, lake_pending(run, NULL) ? RUN_EV_PUBLISH : RUN_EV_SUCCEED, NULL);
	}
	free(why);
}

static void
run_advance(struct run *run)
{
	run->check = false;
	if (run->state == RUN_QUEUED && run->stop != STOP_NONE && run->open_tasks == 0) {
		run_transition(run, run->stop == STOP_CANCEL ? RUN_EV_CANCEL : RUN_EV_FAIL, run->error);
		return;
	}
	if (run->state != RUN_RUNNING)
		return;
	for (size_t i = 0; i < run->flow->ntasks && !run->sched->draining; i++) {
		struct task *t = &run->tasks[run->flow->topo ? (size_t)run->flow->topo[i] : i];

		if (t->state == TASK_STATE_WAITING)
			task_advance(t);
	}
	if (run->open_tasks == 0)
		run_finish(run);
}

/* Starts queued runs while their flow has room. */
static void
flow_advance(struct flow_state *fs)
{
	while (!list_empty(&fs->queue)) {
		struct run *run = LIST_ENTRY(fs->queue.next, struct run, queued);

		if (run->flow->overlap != OVERLAP_ALLOW && run->flow->max_active_runs && fs->active >= run->flow->max_active_runs)
			return;
		run_transition(run, RUN_EV_START, NULL);
	}
}

static void
task_start(struct task *t)
{
	struct err e = ERR_INIT;
	struct attempt *a = attempt_new(t, &e);

	if (a == NULL) {
		task_transition(t, TASK_EV_FAIL, e.msg);
		err_release(&e);
		return;
	}
	t->attempt = a;
	t->attempts = a->n;
	task_transition(t, TASK_EV_START, NULL);
	attempt_spawn_after_commit(a);
}

/* Starts tasks while there are slots: those of runs, as if there were no shadows, or those of shadows, in what is left. */
static bool
dispatch(struct sched *s, bool shadows)
{
	bool any = false;

	LIST_FOR_EACH (it, &s->ready) {
		struct task *t = LIST_ENTRY(it, struct task, ready);
		struct flow_state *fs = t->run->fs;

		if (s->slots_used - (shadows ? 0 : s->slots_shadow) >= hold_slots(s))
			break;
		if ((t->run->shadow_of != NULL) != shadows)
			continue;
		if (t->run->flow->max_active_tasks && fs->running_tasks >= t->run->flow->max_active_tasks)
			continue;
		task_start(t);
		any = true;
	}
	return any;
}

static bool
sched_dispatch(struct sched *s)
{
	if (s->nursery_id == NULL || !store_connected(s->store))
		return false;
	return dispatch(s, false) || dispatch(s, true);
}

/* After a rush the heap is as large as it ever was, nearly all of it free. */
static void
sched_trim(void *arg)
{
	struct sched *s = arg;

	if (s->runs == NULL)
		malloc_trim(0);
	else
		alarm_set(&s->trim_alarm, s->loop, TRIM_AFTER, sched_trim, s);
}

static void
sched_wake_cb(void *arg)
{
	sched_wake(arg);
}

/* The end of a turn: decide until nothing changes, then write it all. */
static void
sched_turn(void *arg)
{
	struct sched *s = arg;
	struct flow_state *fs, *tmp;
	bool again = true, ran;

	if (!s->recovered)
		return;
	while (again) {
		again = false;
		LIST_FOR_EACH (it, &s->dirty) {
			struct run *run = LIST_ENTRY(it, struct run, dirty_node);

			if (run->check) {
				run_advance(run);
				again = true;
			}
		}
		if (s->draining)
			continue;
		HASH_ITER(hh, s->flows, fs, tmp)
		if (!list_empty(&fs->queue))
			flow_advance(fs);
		if (sched_dispatch(s))
			again = true;
		LIST_FOR_EACH (it, &s->dirty)
			again = again || LIST_ENTRY(it, struct run, dirty_node)->check;
	}
	ran = s->runs != NULL;
	record_troubles(s);
	record_turn(s);
	if (ran && s->runs == NULL && s->trim_alarm == NULL)
		alarm_set(&s->trim_alarm, s->loop, TRIM_AFTER, sched_trim, s);
	if (s->nursery_fit != NURSERY_OURS && s->nursery_listed && s->slots_used == 0 && s->adhoc_used == 0) {
		log_info("nothing runs: a nursery of this version takes over");
		s->nursery_fit = NURSERY_OURS;
		free(s->nursery_id);
		s->nursery_id = NULL; /* until the new one is up */
		nursery_retire(s->nursery);
	}
	if (s->draining && s->slots_used == 0 && s->drained_cb) {
		void (*cb)(void *) = s->drained_cb;

		if (!store_idle(s->store)) { /* look again when it is written */
			store_after_commit(s->store, sched_wake_cb, s);
			return;
		}
		s->drained_cb = NULL;
		cb(s->drained_arg);
	}
}

/* While PostgreSQL works on what this turn wrote: what a start needs is made, what an end left is removed, the log is written. */
static void
sched_chores(void *arg)
{
	struct sched *s = arg;

	for (int i = 0; i < CHORES && !list_empty(&s->preparing); i++)
		attempt_prepare(LIST_ENTRY(s->preparing.next, struct attempt, preparing));
	for (size_t n = json_array_size(s->leftovers), i = 0; i < CHORES && n > 0; i++) {
		fs_remove_tree(json_string_value(json_array_get(s->leftovers, --n)));
		json_array_remove(s->leftovers, n);
	}
	if (!list_empty(&s->preparing) || json_array_size(s->leftovers) > 0)
		sched_wake(s); /* the rest next turn: others want the loop, too */
	nursery_flush(s->nursery);
	log_flush();
}

/* ---- what others ask for ---- */

/* "20261121-060000-7f3k2m": sorts by time, fits a path and a URL, can be read aloud. */
static char *
run_id_new(wall_us now)
{
	static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";
	time_t sec = (time_t)(now / US_PER_S);
	unsigned char noise[6];
	char text[32], tail[7];
	struct tm tm;

	gmtime_r(&sec, &tm);
	strftime(text, sizeof(text), "%Y%m%d-%H%M%S", &tm);
	if (getrandom(noise, sizeof(noise), 0) != sizeof(noise))
		BUG("no random numbers");
	for (int i = 0; i < 6; i++)
		tail[i] = alphabet[noise[i] & 31];
	tail[6] = '\0';
	return xasprintf("%s-%s", text, tail);
}

struct trigger_done {
	sched_trigger_cb cb;
	void *arg;
	char *run_id;
	bool created;
};

static void
trigger_committed(void *arg)
{
	struct trigger_done *d = arg;

	if (d->cb)
		d->cb(d->arg, d->run_id, d->created, NULL);
	free(d->run_id);
	free(d);
}

static void
trigger_answer(struct sched *s, const char *run_id, bool created, sched_trigger_cb cb, void *arg)
{
	struct trigger_done *d = xcalloc(1, sizeof(*d));

	d->cb = cb;
	d->arg = arg;
	d->run_id = xstrdup(run_id);
	d->created = created;
	store_after_commit(s->store, trigger_committed, d);
}

static void
trigger_fail(sched_trigger_cb cb, void *arg, struct err *e)
{
	if (cb)
		cb(arg, NULL, false, e);
	else
		log_warn("trigger: %s", e->msg);
	err_release(e);
}

static char *
task_engine(const struct task_def *def, const json_t *override)
{
	const char *name = flow_engine_asked(def, override);

	return def->engine ? xstrdup(name ? name : def->engine) : NULL;
}

/*
 * Are the engines there that the run's tasks need? Two looks at a local folder's names, which the kernel has in memory: the same
 * folder that this loop makes the attempts' folders in.
 */
int
sched_check_installed(const struct sched *s, const struct trigger *t, struct err *e)
{
	for (size_t i = 0; i < t->flow->ntasks; i++) {
		const struct task_def *def = &t->flow->tasks[i];
		char *engine = task_engine(def, t->engine);
		const char *version = json_string_value(json_object_get(def->engine_options, "version")),
			   *home = engine ? engine_home_of(engine, version) : NULL;
		int line = def->line, col = def->col, rc = 0;
		const json_t *at = json_object_get(def->pos, "engine");

		if (json_is_array(at)) {
			line = (int)json_integer_value(json_array_get(at, 0));
			col = (int)json_integer_value(json_array_get(at, 1));
		}
		/* The flow's own engines were looked at when it was loaded; a trigger may name others. */
		if (engine && task_uses_tables(def) &&
		    (rc = engine_check_catalog(engine, config_get(s->config, "catalog.type"), e)) < 0)
			err_prefix(e, "%s:%d:%d: task \"%s\"", t->flow->file, line, col, def->id);
		else if (engine && def->enabled && engine_is_installed_apart(engine) && !engine_home_ready(s->home, home))
			rc = err_set(
				e, ERR_UNPROCESSABLE,
				"%s:%d:%d: engine \"%s\" of task \"%s\" is not installed; `sluice engines install %s` makes it",
				t->flow->file, line, col, engine, def->id, engine_home_name(home));
		free(engine);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Makes the run in memory; sched_turn and record_turn do the rest. */
static struct run *
trigger_create(struct sched *s, const struct trigger *t, json_t *params)
{
	char *id = run_id_new(clock_wall());
	struct run *run = run_new(s, t->flow, id);

	free(id);
	run->state = RUN_QUEUED;
	run->trigger = xstrdup(t->kind);
	run->idempotency_key = xstrdup_null(t->idempotency_key);
	run->params = params;
	run->engine = t->engine ? json_deep_copy(t->engine) : NULL;
	run->created_at = clock_wall();
	run->scheduled_for = t->scheduled_for;
	run->interval_start = t->interval_start;
	run->interval_end = t->interval_end;
	run->rehearsal = t->rehearsal;
	if (t->shadow_of)
		shadow_set(run, t->shadow_of, t->original);
	run->fresh = run->dirty = true;
	for (size_t i = 0; i < t->flow->ntasks; i++)
		run->tasks[i].engine = task_engine(run->tasks[i].def, run->engine);
	if (run->idempotency_key)
		HASH_ADD_KEYPTR(hh_key, s->runs_by_key, run->idempotency_key, strlen(run->idempotency_key), run);
	list_append(&run->fs->queue, &run->queued);
	record_event(s, "run", run, NULL, 0, run_state_name(run->state), NULL);
	shadow_note(run);
	run_mark(run);
	return run;
}

struct run *
sched_trigger_shadow(struct sched *s, const struct trigger *t)
{
	/* The params are the original's, checked and completed then. */
	return trigger_create(s, t, json_deep_copy(t->params));
}

struct trigger_lookup {
	struct sched *sched;
	struct trigger t;
	char *key, *kind;
	json_t *params, *engine;
	sched_trigger_cb cb;
	void *arg;
};

/* A key names one request: with another flow it is a client's mistake, which must not look like a run of this flow. */
static bool
key_is_others(const struct trigger *t, const char *flow_id, struct err *e)
{
	if (strcmp(t->flow->id, flow_id) == 0)
		return false;
	err_set(e, ERR_CONFLICT,
		"the idempotency key \"%s\" was used for a run of flow \"%s\" already; use another for flow \"%s\"",
		t->idempotency_key, flow_id, t->flow->id);
	return true;
}

/* Is no run to be made of it, as the flow is just now? */
static bool
trigger_skips(struct sched *s, const struct trigger *t, struct err *e)
{
	struct flow_state *fs = flow_state_get(s, t->flow->id);

	if (fs->paused && t->scheduled_for) {
		err_set(e, ERR_CONFLICT, "flow \"%s\" was paused just before its planned time", t->flow->id);
		return true;
	}
	if (t->flow->overlap != OVERLAP_SKIP || t->flow->max_active_runs == 0 ||
	    (fs->active < t->flow->max_active_runs && list_empty(&fs->queue)))
		return false;
	record_event(s, "flow", NULL, NULL, 0, "skipped", json_pack("{s:s,s:s}", "flow", t->flow->id, "trigger", t->kind));
	sched_wake(s);
	err_set(e, ERR_CONFLICT, "flow \"%s\" already has %d active run%s and its concurrency.overlap is skip", t->flow->id,
		fs->active, fs->active == 1 ? "" : "s");
	return true;
}

/* Makes the run, unless the flow has no place for it; the params become the run's. */
static void
trigger_make(struct sched *s, const struct trigger *t, json_t *params, sched_trigger_cb cb, void *arg)
{
	struct err e = ERR_INIT;

	if (trigger_skips(s, t, &e)) {
		json_decref(params);
		trigger_fail(cb, arg, &e);
		return;
	}
	trigger_answer(s, trigger_create(s, t, params)->id, true, cb, arg);
}

static void
on_key_looked_up(void *arg, const struct rows *r, struct err *e)
{
	struct trigger_lookup *l = arg;
	const char *flow_id = NULL;
	struct err mine = ERR_INIT;
	struct run *run;

	HASH_FIND(hh_key, l->sched->runs_by_key, l->key, strlen(l->key), run);
	if (r && (run || rows_count(r) > 0))
		flow_id = run ? run->flow->id : rows_get(r, 0, 1);
	if (r == NULL) {
		trigger_fail(l->cb, l->arg, e);
	} else if (flow_id && key_is_others(&l->t, flow_id, &mine)) {
		trigger_fail(l->cb, l->arg, &mine);
	} else if (rows_count(r) > 0) {
		if (l->cb)
			l->cb(l->arg, rows_get(r, 0, 0), false, NULL);
	} else if (run) { /* made while we looked */
		trigger_answer(l->sched, run->id, false, l->cb, l->arg);
	} else {
		trigger_make(l->sched, &l->t, json_incref(l->params), l->cb, l->arg);
	}
	flow_unref(l->t.flow);
	json_decref(l->params);
	json_decref(l->engine);
	free(l->key);
	free(l->kind);
	free(l);
}

/* What must be written before it is true is refused while it cannot be, and while what was active before is being loaded. */
static int
sched_writable(const struct sched *s, struct err *e)
{
	if (!s->recovered)
		return err_set(e, ERR_UNAVAILABLE, "the daemon is starting; try again in a moment");
	if (!store_connected(s->store))
		return err_set(e, ERR_UNAVAILABLE, "the database cannot be reached now; try again in a moment");
	return 0;
}

/* The params of the run that may be made. The caller owns them. */
static int
trigger_accept(const struct sched *s, const struct trigger *t, json_t **params, struct err *e)
{
	if (s->draining)
		return err_set(e, ERR_UNAVAILABLE, "the daemon is stopping");
	if (sched_writable(s, e) < 0)
		return -1;
	if (!t->flow->enabled)
		return err_set(e, ERR_CONFLICT, "flow \"%s\" is not enabled (enabled: false in %s)", t->flow->id, t->flow->file);
	if (t->rehearsal && config_foreign(s->config))
		return err_set(
			e, ERR_UNPROCESSABLE,
			"a rehearsal is not possible with the catalog \"%s\", which another server keeps: what it writes would "
			"be visible at once",
			config_get(s->config, "catalog.name"));
	if (t->engine && flow_check_engine(t->flow, t->engine, e) < 0)
		return -1;
	if (sched_check_installed(s, t, e) < 0)
		return -1;
	return flow_params(t->flow, t->params, params, e);
}

int
sched_trigger_check(const struct sched *s, const struct trigger *t, struct err *e)
{
	json_t *params = NULL;
	int rc = trigger_accept(s, t, &params, e);

	json_decref(params);
	return rc;
}

void
sched_trigger(struct sched *s, const struct trigger *t, sched_trigger_cb cb, void *arg)
{
	struct err e = ERR_INIT;
	struct trigger_lookup *l;
	json_t *params;
	struct run *run;

	if (trigger_accept(s, t, &params, &e) < 0) {
		trigger_fail(cb, arg, &e);
		return;
	}
	if (t->idempotency_key == NULL) {
		trigger_make(s, t, params, cb, arg);
		return;
	}
	HASH_FIND(hh_key, s->runs_by_key, t->idempotency_key, strlen(t->idempotency_key), run);
	if (run) {
		json_decref(params);
		if (key_is_others(t, run->flow->id, &e))
			trigger_fail(cb, arg, &e);
		else
			trigger_answer(s, run->id, false, cb, arg);
		return;
	}
	l = xcalloc(1, sizeof(*l));
	l->sched = s;
	l->t = *t;
	l->t.flow = flow_ref(t->flow);
	l->t.idempotency_key = l->key = xstrdup(t->idempotency_key);
	l->t.kind = l->kind = xstrdup(t->kind);
	l->t.engine = l->engine = t->engine ? json_deep_copy(t->engine) : NULL;
	l->params = params;
	l->cb = cb;
	l->arg = arg;
	store_query(s->store, "SELECT id, flow FROM runs WHERE idempotency_key = $1", 1, (const char *[]){ l->key },
		    on_key_looked_up, l);
}

struct done_call {
	sched_done_cb cb;
	void *arg;
};

static void
done_committed(void *arg)
{
	struct done_call *d = arg;

	if (d->cb)
		d->cb(d->arg, NULL);
	free(d);
}

void
done_after_commit(struct sched *s, sched_done_cb cb, void *arg)
{
	struct done_call *d = xcalloc(1, sizeof(*d));

	d->cb = cb;
	d->arg = arg;
	store_after_commit(s->store, done_committed, d);
}

static void
on_cancel_looked_up(void *arg, const struct rows *r, struct err *e)
{
	struct done_call *d = arg;
	struct err mine = ERR_INIT;

	if (r == NULL) {
		d->cb(d->arg, e);
	} else {
		if (rows_count(r) == 0)
			err_set(&mine, ERR_NOT_FOUND, "there is no such run");
		else if (run_state_terminal(run_state_parse(rows_get(r, 0, 0))))
			err_set(&mine, ERR_CONFLICT, "the run has ended already: %s", rows_get(r, 0, 0));
		else /* its end is being written just now */
			err_set(&mine, ERR_UNAVAILABLE, "the run is about to end; try again in a moment");
		d->cb(d->arg, &mine);
		err_release(&mine);
	}
	free(d);
}

static bool
sched_refuse_unwritable(struct sched *s, sched_done_cb cb, void *arg)
{
	struct err e = ERR_INIT;
	bool refused = sched_writable(s, &e) < 0;

	if (refused)
		cb(arg, &e);
	err_release(&e);
	return refused;
}

void
sched_cancel(struct sched *s, const char *run_id, const char *reason, sched_done_cb cb, void *arg)
{
	struct run *run;

	if (sched_refuse_unwritable(s, cb, arg))
		return;
	HASH_FIND_STR(s->runs, run_id, run);
	if (run && run->state == RUN_PUBLISHING) {
		struct err e = ERR_INIT;

		err_set(&e, ERR_CONFLICT, "the run is over: what it wrote is being made visible; `sluice undo %s` takes it back",
			run_id);
		cb(arg, &e);
		err_release(&e);
		return;
	}
	if (run == NULL || run_state_terminal(run->state)) {
		struct done_call *d = xcalloc(1, sizeof(*d));

		d->cb = cb;
		d->arg = arg;
		store_query(s->store, "SELECT state FROM runs WHERE id = $1", 1, (const char *[]){ run_id }, on_cancel_looked_up,
			    d);
		return;
	}
	run_stop(run, STOP_CANCEL, reason ? reason : "cancelled");
	done_after_commit(s, cb, arg);
}

void
sched_pause(struct sched *s, const char *flow_id, bool paused, sched_done_cb cb, void *arg)
{
	struct flow_state *fs = flow_state_get(s, flow_id);

	if (sched_refuse_unwritable(s, cb, arg))
		return;
	fs->paused = paused;
	store_write(s->store,
		    "INSERT INTO flows (id, paused) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET paused = excluded.paused", 2,
		    (const char *[]){ flow_id, paused ? "true" : "false" });
	record_event(s, "flow", NULL, NULL, 0, paused ? "paused" : "resumed", json_pack("{s:s}", "flow", flow_id));
	plan_rearm(s);
	done_after_commit(s, cb, arg);
	sched_wake(s);
}

bool
sched_paused(const struct sched *s, const char *flow_id)
{
	struct flow_state *fs;

	HASH_FIND_STR(s->flows, flow_id, fs);
	return fs && fs->paused;
}

json_t *
sched_status(struct sched *s)
{
	int queued = 0, running = 0;
	struct run *run, *tmp;

	HASH_ITER(hh, s->runs, run, tmp)
	{
		queued += run->state == RUN_QUEUED;
		running += run_active(run->state);
	}
	/* What shadows have beyond the total is theirs alone. */
	return json_pack("{s:{s:i,s:i},s:{s:i,s:i}}", "runs", "queued", queued, "running", running, "slots", "used",
			 s->slots_used < s->slots_total ? s->slots_used : s->slots_total, "total", s->slots_total);
}

struct sched_sub *
sched_subscribe(struct sched *s, sched_event_cb cb, void *arg)
{
	struct sched_sub *sub = xcalloc(1, sizeof(*sub));

	sub->cb = cb;
	sub->arg = arg;
	list_append(&s->subs, &sub->node);
	return sub;
}

void
sched_unsubscribe(struct sched *s, struct sched_sub *sub)
{
	(void)s;
	list_remove(&sub->node);
	free(sub);
}

const char *
sched_attempt_of_token(struct sched *s, const char *token)
{
	struct attempt *a;
	char hash[65];

	sha256_hex(token, strlen(token), hash);
	HASH_FIND(hh_token, s->attempts_by_token, hash, strlen(hash), a);
	return a && a->phase == ATTEMPT_RUNNING ? a->key : NULL;
}

/* ---- life ---- */

struct sched *
sched_open(uv_loop_t *loop, struct store *store, const struct config *config, struct registry *registry, const char *home,
	   const char *libdir, const char *const *url, bool planning, struct err *e)
{
	struct sched *s = xcalloc(1, sizeof(*s));
	json_t *slots = json_object_get(json_object_get(config->json, "server"), "max_active_tasks");

	s->loop = loop;
	s->store = store;
	s->config = config;
	s->registry = registry;
	s->home = xstrdup(home);
	s->s3 = attempts_s3(s);
	s->url = url;
	s->planning = planning;
	s->slots_total = json_integer_value(slots) > 0 ? (int)json_integer_value(slots) : DEFAULT_SLOTS;
	list_init(&s->ready);
	list_init(&s->dirty);
	list_init(&s->subs);
	s->events = json_array();
	s->versions = json_object();
	s->unbegun = json_array();
	s->began = clock_wall();
	s->commits = json_array();
	s->cleanup = json_array();
	s->offsets = json_object();
	s->abandoned = json_array();
	s->handled = json_object();
	s->nursery = nursery_open(loop, home, libdir, &attempt_nursery_events, s, e);
	if (s->nursery == NULL) {
		json_decref(s->events);
		json_decref(s->versions);
		json_decref(s->handled);
		json_decref(s->s3);
		free(s->home);
		free(s);
		return NULL;
	}
	list_init(&s->preparing);
	shadow_open(s);
	s->leftovers = json_array();
	store_on_turn(store, sched_turn, sched_chores, s);
	log_hold(true);
	recover_start(s);
	return s;
}

bool
sched_ready(const struct sched *s)
{
	return s->recovered && s->nursery_id != NULL && s->nursery_listed;
}

void
sched_flows_changed(struct sched *s)
{
	plan_rearm(s);
	record_flows_changed(s);
}

void
sched_drain(struct sched *s, void (*done)(void *arg), void *arg)
{
	s->draining = true;
	s->drained_cb = done;
	s->drained_arg = arg;
	alarm_cancel(&s->plan_alarm);
	sched_wake(s);
}

void
sched_cancel_all(struct sched *s, const char *reason)
{
	struct run *run, *tmp;

	HASH_ITER(hh, s->runs, run, tmp)
	for (size_t i = 0; i < run->flow->ntasks; i++)
		if (run->tasks[i].state == TASK_STATE_RUNNING) {
			run_stop(run, STOP_CANCEL, reason);
			break;
		}
}

void
sched_close(struct sched *s, bool stop_nursery)
{
	struct flow_state *fs, *ftmp;
	struct run *run, *rtmp;
	struct attempt *a, *atmp;

	store_on_turn(s->store, NULL, NULL, NULL);
	while (json_array_size(s->leftovers) > 0)
		sched_chores(s);
	log_hold(false);
	nursery_close(s->nursery, stop_nursery);
	HASH_ITER(hh, s->runs, run, rtmp)
	run_free(run);
	HASH_ITER(hh, s->attempts, a, atmp)
	attempt_free(a);
	HASH_ITER(hh, s->flows, fs, ftmp)
	{
		HASH_DEL(s->flows, fs);
		free(fs->id);
		free(fs);
	}
	alarm_cancel(&s->plan_alarm);
	alarm_cancel(&s->progress_alarm);
	alarm_cancel(&s->trim_alarm);
	alarm_cancel(&s->recover_alarm);
	alarm_cancel(&s->relist_alarm);
	hold_release(s);
	shadow_close(s);
	json_decref(s->unbegun);
	json_decref(s->commits);
	json_decref(s->cleanup);
	json_decref(s->offsets);
	json_decref(s->abandoned);
	json_decref(s->events);
	json_decref(s->versions);
	json_decref(s->handled);
	json_decref(s->leftovers);
	json_decref(s->s3);
	free(s->nursery_id);
	free(s->home);
	free(s);
}
