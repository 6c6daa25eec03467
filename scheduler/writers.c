/*
 * Maintenance and those it must not disturb: who writes to which table now or soon, and since when somebody may be reading what
 * was current then.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/expr.h"
#include "scheduler/sched_int.h"

static struct attempt *
maintaining(struct sched *s, const char *attempt)
{
	struct attempt *a = NULL;

	if (attempt)
		HASH_FIND_STR(s->attempts, attempt, a);
	return a && a->phase == ATTEMPT_RUNNING && a->task && a->task->def->type == TASK_MAINTAIN ? a : NULL;
}

bool
sched_maintains(struct sched *s, const char *attempt)
{
	return maintaining(s, attempt) != NULL;
}

/* The table that a task says it writes to, without the catalog's name; NULL: none, or nobody can tell yet. The caller frees it.
 */
static char *
task_into(const struct sched *s, const struct task_def *def, json_t *scope)
{
	const char *catalog = config_get(s->config, "catalog.name"), *name;
	json_t *into = json_object_get(def->spec, "into"), *value = NULL;
	struct err e = ERR_INIT;
	size_t n = catalog ? strlen(catalog) : 0;
	char *out = NULL;

	if (into == NULL)
		return NULL;
	if (expr_resolve(into, scope, &value, &e) < 0)
		err_release(&e);
	name = json_string_value(value);
	if (name && n && strncmp(name, catalog, n) == 0 && name[n] == '.' && strchr(name + n + 1, '.'))
		name += n + 1;
	out = xstrdup_null(name);
	json_decref(value);
	return out;
}

static bool
flow_writes(const struct flow *f)
{
	for (size_t i = 0; i < f->ntasks; i++)
		if (json_object_get(f->tasks[i].spec, "into"))
			return true;
	return false;
}

/* What the run writes, or has still to write. Of the maintenance's own run only what runs beside it. */
static void
writers_of_run(const struct run *run, bool own, json_t *out)
{
	json_t *scope = flow_writes(run->flow) ? sched_scope(run) : NULL;

	for (size_t i = 0; scope && i < run->flow->ntasks; i++) {
		const struct task *t = &run->tasks[i];
		char *table;

		if (task_state_terminal(t->state) || (own && t->attempt == NULL))
			continue;
		if ((table = task_into(run->sched, t->def, scope)) != NULL)
			json_object_set_new(out, table,
					    json_sprintf("task %s of run %s %s it", t->def->id, run->id,
							 t->attempt ? "is writing" : "is about to write"));
		free(table);
	}
	json_decref(scope);
	if (!own)
		lake_tables(run, out);
}

/* What flows write that are due before `until`. */
static void
writers_due(const struct sched *s, wall_us until, json_t *out)
{
	for (size_t i = 0; i < registry_count(s->registry); i++) {
		const struct flow *f = registry_entry_at(s->registry, i)->flow;
		wall_us next = f && f->nschedules && flow_writes(f) ? sched_next(s, f) : 0;
		char text[TIME_TEXT], *table;
		json_t *scope;

		if (next == 0 || next > until)
			continue;
		scope = json_pack("{s:O,s:O?,s:O}", "env", s->config->env, "vars", f->vars, "config", s->config->json);
		for (size_t k = 0; k < f->ntasks; k++) {
			if ((table = task_into(s, &f->tasks[k], scope)) != NULL)
				json_object_set_new(
					out, table,
					json_sprintf("flow %s, due at %s, writes it", f->id, time_format(next, text)));
			free(table);
		}
		json_decref(scope);
	}
}

json_t *
sched_writers(struct sched *s, const char *attempt, dur_us soon)
{
	const struct attempt *a = maintaining(s, attempt);
	json_t *out = json_object();
	struct run *run, *tmp;

	HASH_ITER(hh, s->runs, run, tmp)
	if ((run->state == RUN_RUNNING && run->shadow_of == NULL) || run->state == RUN_PUBLISHING)
		writers_of_run(run, a && a->task->run == run, out);
	if (soon)
		writers_due(s, clock_wall() + soon, out);
	return out;
}

wall_us
sched_oldest_reader(struct sched *s, const char *attempt)
{
	const struct attempt *self = maintaining(s, attempt);
	struct run *run, *next;
	struct attempt *a, *tmp;
	wall_us oldest = clock_wall(), compared = shadow_oldest(s);

	if (compared && compared < oldest)
		oldest = compared;
	HASH_ITER(hh, s->runs, run, next)
	if (run->shadow_of && run->as_of < oldest) /* one that waits, too */
		oldest = run->as_of;
	HASH_ITER(hh, s->runs, run, next)
	if ((run->state == RUN_RUNNING || run->state == RUN_PUBLISHING) && (self == NULL || self->task->run != run) &&
	    run->started_at && run->started_at < oldest)
		oldest = run->started_at;
	HASH_ITER(hh, s->attempts, a, tmp) /* queries, and what runs beside it in its own run */
	if (a != self && a->phase != ATTEMPT_ENDED && a->started_at && a->started_at < oldest)
		oldest = a->started_at;
	return oldest;
}
