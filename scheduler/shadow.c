/*
 * A flow's shadow (`shadow:` in its YAML): another engine repeats its runs as rehearsals, is compared with them, and figures of
 * both are kept for weeks. A row of `shadows` is the state of it all, written with the run itself, so that whatever dies, the
 * next daemon finds what is left to do:
 *
 *     due       the run was drawn; when it has ended its shadow is made, or the row becomes `skipped`
 *     running   the shadow's run was made, in the same transaction; when it has ended both are compared
 *     equal different failed real_failed uncompared skipped     how it came out
 *
 * The shadow begins when the run has ended, sees tables as they were when that began, and takes no slot that a run could have.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/log.h"
#include "flows/engines.h"
#include "scheduler/sched_int.h"

#define TRIES      3 /* of a comparison */
#define LOOK_AGAIN (5 * US_PER_S)
#define RESULT_MAX 65536  /* bytes of differing rows that are kept */
#define PRUNE_ROWS "1000" /* at most, each time that a shadow ends */

struct shadow_watch {
	bool looking, again; /* a statement is under way; look once more after it */
	char *run, *shadow;  /* being compared; NULL: none */
	json_t *staged;      /* what the shadow staged: paths */
	wall_us as_of;       /* the oldest state of tables that the comparison may need */
	int tries;
	struct alarm *pause, *retry;
	sched_compare_fn compare;
	void *compare_arg;
};

static void shadow_look(void *arg);

/* Does a shadow follow this run? One that somebody wanted on a certain engine, or rehearsed, is no measure. */
static bool
shadow_follows(const struct run *run)
{
	return run->sched->planning && run->shadow_of == NULL && !run->rehearsal && run->engine == NULL &&
	       flow_shadows(run->flow, run->id);
}

/* The engine that the run's own tasks are on, of those that the shadow repeats; the first, where they are on several. */
static const char *
real_engine(const struct run *run)
{
	for (size_t i = 0; i < run->flow->ntasks; i++)
		if (json_object_get(run->flow->shadow_engine, run->tasks[i].def->id))
			return run->tasks[i].engine;
	return "";
}

void
shadow_note(struct run *run)
{
	char at[TIME_TEXT], keep[32];

	run->shadowed = shadow_follows(run);
	if (!run->shadowed)
		return;
	snprintf(keep, sizeof(keep), "%lld", (long long)run->flow->shadow_keep);
	store_write(run->sched->store,
		    "INSERT INTO shadows (run_id, flow, engine, shadow_engine, at, keep_us, state) VALUES ($1, $2, $3, $4, "
		    "$5::timestamptz, $6::bigint, 'due') ON CONFLICT DO NOTHING",
		    6,
		    (const char *[]){ run->id, run->flow->id, real_engine(run), run->flow->shadow,
				      time_format(run->created_at, at), keep });
}

void
shadow_recovered(struct run *run)
{
	run->shadowed = shadow_follows(run);
}

/* ---- what the shadow sees ---- */

void
shadow_set(struct run *run, const char *of, const json_t *original)
{
	const char *made = json_string_value(json_object_get(original, "created_at")),
		   *began = json_string_value(json_object_get(original, "started_at"));

	run->shadow_of = xstrdup(of);
	run->original = json_deep_copy(original);
	run->fs = flow_state_shadow(run->sched, run->flow->id);
	if (made == NULL || began == NULL || time_parse(made, &run->original_at) < 0 || time_parse(began, &run->as_of) < 0)
		run->original_at = run->as_of = run->created_at; /* its row is gone */
}

static json_t *
pin_find(const struct run *run, const char *ns, const char *name)
{
	char *key = xasprintf("%s\x1f%s", ns, name);
	json_t *pin = json_object_get(json_object_get(run->original, "pins"), key);

	free(key);
	return pin;
}

bool
shadow_table_seen(const struct run *run, const char *ns, const char *name, struct table_seen *seen)
{
	const json_t *pin = run->shadow_of ? pin_find(run, ns, name) : NULL;

	if (pin == NULL)
		return false;
	*seen = (struct table_seen){ .location = json_string_value(json_object_get(pin, "location")),
				     .type = json_string_value(json_object_get(pin, "type")) };
	return true;
}

void
shadow_tables_seen(const struct run *run, const char *ns, sched_table_cb cb, void *arg)
{
	struct table_seen seen;
	const char *key;
	size_t n = strlen(ns);
	json_t *pin;

	json_object_foreach (json_object_get(run->original, "pins"), key, pin)
		if (strncmp(key, ns, n) == 0 && key[n] == '\x1f' && shadow_table_seen(run, ns, key + n + 1, &seen))
			cb(arg, key + n + 1, &seen);
}

void
shadow_moved(struct sched *s, const char *ns, const char *name, const char *type, const char *before)
{
	struct run *run, *tmp;

	HASH_ITER(hh, s->runs, run, tmp)
	if (run->shadow_of && pin_find(run, ns, name) == NULL) {
		char *key = xasprintf("%s\x1f%s", ns, name);

		json_object_set_new(json_object_get(run->original, "pins"), key,
				    json_pack("{s:s,s:s?}", "type", type, "location", before));
		free(key);
	}
}

bool
shadow_take_over(struct task *t)
{
	const json_t *was = json_object_get(json_object_get(t->run->original, "tasks"), t->def->id),
		     *outputs = json_object_get(was, "outputs");
	const char *state = json_string_value(json_object_get(was, "state")), *of = t->run->shadow_of;
	char *why;

	if (of == NULL || !task_type_is_program(t->def->type))
		return false;
	why = xasprintf("a shadow runs no programs; in run %s it was %s", of, state ? state : "not there");
	if (state && strcmp(state, "success") == 0) {
		json_decref(t->outputs);
		t->outputs = json_is_object(outputs) ? json_deep_copy(outputs) : json_object();
		task_transition(t, TASK_EV_TAKE_OVER, NULL);
	} else if (state && strcmp(state, "skipped") == 0) {
		task_transition(t, TASK_EV_SKIP, why);
	} else if (state && strcmp(state, "upstream_failed") == 0) {
		task_transition(t, TASK_EV_UPSTREAM_FAIL, why);
	} else {
		task_transition(t, TASK_EV_FAIL, why);
	}
	free(why);
	return true;
}

wall_us
shadow_oldest(const struct sched *s)
{
	return s->shadows && s->shadows->run ? s->shadows->as_of : 0;
}

/* ---- the end ---- */

/* What it staged lies in a place of its own, which its run's id names: all that lies in there goes. */
static void
remove_staged(struct sched *s, const char *shadow, const json_t *staged)
{
	json_t *path;
	size_t i;

	json_array_foreach (staged, i, path) {
		const char *text = json_string_value(path), *id = text ? strstr(text, shadow) : NULL;

		if (id && *text == '/')
			json_array_append_new(s->leftovers, json_stringn(text, (size_t)(id - text) + strcspn(id, "/")));
	}
}

static void
on_finished(void *arg)
{
	struct sched *s = arg;

	if (s->cleanup_cb) /* what it wrote to tables may go now */
		s->cleanup_cb(s->cleanup_arg);
	shadow_look(s);
}

/* The figures come from the attempts of the tasks that another engine repeated; `result` may be NULL. */
static void
shadow_finish(struct sched *s, const char *run, const char *shadow, const json_t *staged, const char *state, const char *reason,
	      const json_t *result)
{
	char *text = result ? json_dumps(result, JSON_COMPACT) : NULL;

	log_info("run %s: its shadow %s: %s%s%s", run, shadow ? shadow : "was not made", state, reason ? ": " : "",
		 reason ? reason : "");
	store_write(s->store,
		    "UPDATE shadows SET state = $2, reason = $3, result = $4::jsonb, real = shadow_figures(run_id, shadow_id), "
		    "shadow = shadow_figures(shadow_id, run_id) WHERE run_id = $1 AND state IN ('due', 'running')",
		    4, (const char *[]){ run, state, reason, text });
	store_write(
		s->store,
		"DELETE FROM shadows WHERE run_id IN (SELECT run_id FROM shadows WHERE state NOT IN ('due', 'running') AND at "
		"< now() - keep_us * interval '1 microsecond' LIMIT " PRUNE_ROWS ")",
		0, NULL);
	if (shadow)
		remove_staged(s, shadow, staged);
	free(text);
	store_after_commit(s->store, on_finished, s);
	sched_wake(s);
}

/* Tables whose rows differ, and how; rows only as long as there is room for them. */
static json_t *
result_kept(const json_t *result)
{
	json_t *kept = json_pack("{s:o}", "tables", json_deep_copy(json_object_get(result, "tables"))), *table;
	char *text = json_dumps(kept, JSON_COMPACT);
	size_t i;

	if (text && strlen(text) > RESULT_MAX)
		json_array_foreach (json_object_get(kept, "tables"), i, table)
			json_object_del(json_array_get(json_object_get(table, "runs"), 1), "differing");
	free(text);
	return kept;
}

static void
watch_clear(struct shadow_watch *w)
{
	free(w->run);
	free(w->shadow);
	json_decref(w->staged);
	w->run = w->shadow = NULL;
	w->staged = NULL;
	w->tries = 0;
}

static void
shadow_compare(void *arg)
{
	struct sched *s = arg;

	FAULT("shadow.compare.before");
	s->shadows->compare(s->shadows->compare_arg, s->shadows->run, s->shadows->shadow);
}

void
sched_compared(struct sched *s, const json_t *result, struct err *e)
{
	struct shadow_watch *w = s->shadows;
	bool equal = json_is_true(json_object_get(result, "equal"));
	json_t *kept;

	FAULT("shadow.compare.after");
	if (result) {
		kept = result_kept(result);
		shadow_finish(s, w->run, w->shadow, w->staged, equal ? "equal" : "different", NULL, kept);
		json_decref(kept);
	} else if (e->code == ERR_UNAVAILABLE || ++w->tries < TRIES) {
		alarm_set(&w->retry, s->loop, LOOK_AGAIN, shadow_compare, s);
		return;
	} else {
		shadow_finish(s, w->run, w->shadow, w->staged, "uncompared", e->msg, NULL);
	}
	watch_clear(w);
}

/* ---- what is to be done ---- */

static const char *
text_at(const json_t *row, const char *key)
{
	return json_string_value(json_object_get(row, key));
}

static wall_us
time_at(const json_t *row, const char *key)
{
	wall_us t = 0;

	return text_at(row, key) && time_parse(text_at(row, key), &t) == 0 ? t : 0;
}

static bool
is(const char *text, const char *word)
{
	return text && strcmp(text, word) == 0;
}

/* The program whose end makes that there is nothing to compare; NULL: none. */
static const char *
failed_program(const json_t *original)
{
	const char *id;
	json_t *was;

	json_object_foreach (json_object_get(original, "tasks"), id, was)
		if (!is(text_at(was, "state"), "success") && !is(text_at(was, "state"), "skipped"))
			return id;
	return NULL;
}

/* Why the run has no shadow, or NULL. The caller frees it. */
static char *
skipped_why(const struct sched *s, const json_t *row, const struct trigger *t)
{
	const json_t *original = json_object_get(row, "original");
	const char *program = failed_program(original);
	struct err e = ERR_INIT;
	char *why = NULL;

	if (is(text_at(row, "real_state"), "cancelled"))
		return xstrdup("the run was cancelled");
	if (json_is_true(json_object_get(row, "busy")))
		return xstrdup("the shadow before it still ran");
	if (program)
		return xasprintf("its task %s, which no engine runs, did not end well", program);
	if (t->flow == NULL)
		return xstrdup("its flow does not load with this config any more");
	if (sched_check_installed(s, t, &e) < 0)
		why = xstrdup(e.msg);
	err_release(&e);
	return why;
}

static struct flow *
row_flow(const struct sched *s, const json_t *row)
{
	struct diags diags = DIAGS_INIT;
	const char *source = text_at(row, "source");
	struct flow *flow = source ? flow_load(text_at(row, "file"), source, strlen(source), s->config, &diags) : NULL;

	diags_release(&diags);
	if (flow && flow->shadow == NULL) {
		flow_unref(flow);
		return NULL;
	}
	return flow;
}

/* The run has ended: its shadow is made, or is not. */
static void
shadow_begin(struct sched *s, const json_t *row)
{
	struct flow *flow = row_flow(s, row);
	struct trigger t = { .flow = flow,
			     .params = json_object_get(row, "params"),
			     .engine = flow ? flow->shadow_engine : NULL,
			     .kind = "shadow",
			     .scheduled_for = time_at(row, "scheduled_for"),
			     .interval_start = time_at(row, "interval_start"),
			     .interval_end = time_at(row, "interval_end"),
			     .rehearsal = true,
			     .shadow_of = text_at(row, "run_id"),
			     .original = json_object_get(row, "original") };
	char *why = skipped_why(s, row, &t), *key = xasprintf("shadow:%s", t.shadow_of);
	struct run *run;

	FAULT("shadow.begin.before");
	if (why) {
		shadow_finish(s, t.shadow_of, NULL, NULL, "skipped", why, NULL);
	} else {
		t.idempotency_key = key;
		run = sched_trigger_shadow(s, &t);
		store_write(s->store, "UPDATE shadows SET state = 'running', shadow_id = $2 WHERE run_id = $1 AND state = 'due'",
			    2, (const char *[]){ t.shadow_of, run->id });
		store_after_commit(s->store, shadow_look, s);
		sched_wake(s);
	}
	free(why);
	free(key);
	flow_unref(flow);
}

/* Both have ended. */
static void
shadow_judge(struct sched *s, const json_t *row)
{
	struct shadow_watch *w = s->shadows;
	const char *run = text_at(row, "run_id"), *shadow = text_at(row, "shadow_id"), *state = text_at(row, "shadow_state");
	const json_t *staged = json_object_get(row, "staged");

	if (state == NULL || is(state, "cancelled")) {
		shadow_finish(s, run, shadow, staged, "skipped", state ? "the shadow was cancelled" : "the shadow's run is gone",
			      NULL);
	} else if (!is(state, "success")) {
		shadow_finish(s, run, shadow, staged, "failed", text_at(row, "shadow_error"), NULL);
	} else if (!is(text_at(row, "real_state"), "success")) {
		shadow_finish(s, run, shadow, staged, "real_failed", text_at(row, "real_error"), NULL);
	} else {
		w->run = xstrdup(run);
		w->shadow = xstrdup(shadow);
		w->staged = json_deep_copy(staged);
		w->as_of = time_at(row, "real_started");
		shadow_compare(s);
		shadow_look(s); /* meanwhile others may begin */
	}
}

static void
on_looked(void *arg, const struct rows *r, struct err *e)
{
	struct sched *s = arg;
	struct shadow_watch *w = s->shadows;
	json_t *row = r && rows_count(r) > 0 ? rows_json(r, 0, 0) : NULL;

	w->looking = false;
	if (r == NULL) {
		log_debug("shadows: %s", e->msg);
		alarm_set(&w->pause, s->loop, LOOK_AGAIN, shadow_look, s);
	} else if (row && is(text_at(row, "state"), "due")) {
		shadow_begin(s, row);
	} else if (row && w->run == NULL) {
		shadow_judge(s, row);
	} else if (w->again) {
		shadow_look(s);
	}
	json_decref(row);
}

/* clang-format off */
/* The next one that something is to be done for, those first whose shadow is to begin; none of those while one is compared ($1). */
#define SQL_NEXT \
	"SELECT jsonb_build_object('run_id', s.run_id, 'shadow_id', s.shadow_id, 'state', s.state, 'real_state', r.state," \
	" 'real_error', r.error, 'real_started', r.started_at, 'shadow_state', x.state, 'shadow_error', x.error, 'file', v.file," \
	" 'source', v.source, 'params', r.params, 'scheduled_for', coalesce(r.scheduled_for, r.created_at)," \
	" 'interval_start', coalesce(r.interval_start, r.created_at), 'interval_end', coalesce(r.interval_end, r.created_at)," \
	" 'busy', EXISTS (SELECT 1 FROM shadows o WHERE o.flow = s.flow AND o.state = 'running')," \
	" 'original', CASE WHEN s.state = 'due' THEN shadow_original(s.run_id) END," \
	" 'staged', (SELECT jsonb_agg(t.outputs->>'path') FROM tasks t WHERE t.run_id = s.shadow_id AND t.type = 'stage'))" \
	" FROM shadows s JOIN runs r ON r.id = s.run_id JOIN flow_versions v ON v.hash = r.version" \
	" LEFT JOIN runs x ON x.id = s.shadow_id WHERE (s.state = 'due' AND r.state IN ('success', 'failed', 'cancelled'))" \
	" OR (s.state = 'running' AND $1 = 'f' AND coalesce(x.state, 'failed') IN ('success', 'failed', 'cancelled'))" \
	" ORDER BY s.state, s.at LIMIT 1"
/* clang-format on */

static void
shadow_look(void *arg)
{
	struct sched *s = arg;
	struct shadow_watch *w = s->shadows;

	w->again = true;
	if (w->looking || s->draining || !s->planning)
		return;
	w->looking = true;
	w->again = false;
	store_query(s->store, SQL_NEXT, 1, (const char *[]){ w->run ? "t" : "f" }, on_looked, s);
}

void
shadow_ended(struct run *run)
{
	if (run->shadowed || run->shadow_of)
		store_after_commit(run->sched->store, shadow_look, run->sched);
}

void
shadow_start(struct sched *s)
{
	if (s->planning)
		store_after_commit(s->store, shadow_look, s);
}

void
sched_on_shadowed(struct sched *s, sched_compare_fn fn, void *arg)
{
	s->shadows->compare = fn;
	s->shadows->compare_arg = arg;
}

void
shadow_open(struct sched *s)
{
	s->shadows = xcalloc(1, sizeof(*s->shadows));
}

void
shadow_close(struct sched *s)
{
	alarm_cancel(&s->shadows->pause);
	alarm_cancel(&s->shadows->retry);
	watch_clear(s->shadows);
	free(s->shadows);
	s->shadows = NULL;
}
