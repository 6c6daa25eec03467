/*
 * Schedules: one alarm for the earliest planned time of all flows. A planned time becomes a run with that time's own
 * idempotency key, and when it is committed the note that it was dealt with follows; so a crash repeats and loses none.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "scheduler/sched_int.h"

#define RECHECK US_PER_MIN /* wall clocks jump: never sleep longer than this without looking */
#define BATCH   100        /* planned times a schedule at one go */

struct due {
	struct sched *sched;
	struct flow *flow;
	const struct schedule_def *def;
	const char *key;
	bool any; /* a planned time is due */
};

static char *
plan_key(const struct flow *f, const struct schedule_def *def)
{
	return xasprintf("%s\t%s %s", f->id, def->cron_text, def->timezone);
}

static wall_us
plan_handled(struct sched *s, const char *key)
{
	return json_integer_value(json_object_get(s->handled, key));
}

/* A planned time whose run is being made. */
struct planned {
	struct sched *sched;
	char *key;
	wall_us at, before; /* before: what was handled until then */
};

static void
plan_note(struct sched *s, const char *key, wall_us handled)
{
	char *flow = xstrndup(key, strcspn(key, "\t")), when[TIME_TEXT];

	store_write(s->store,
		    "INSERT INTO schedules (flow, spec, handled_at) VALUES ($1, $2, $3) ON CONFLICT (flow, spec) DO UPDATE SET "
		    "handled_at = greatest(schedules.handled_at, excluded.handled_at)",
		    3, (const char *[]){ flow, strchr(key, '\t') + 1, time_format(handled, when) });
	free(flow);
}

/* The database went away between: the planned time counts as not dealt with. A run that was made after all has its key. */
static void
on_planned(void *arg, const char *run_id, bool created, struct err *e)
{
	struct planned *p = arg;

	(void)created;
	if (run_id == NULL && e->code == ERR_UNAVAILABLE) {
		if (plan_handled(p->sched, p->key) > p->before)
			json_object_set_new(p->sched->handled, p->key, json_integer(p->before));
		plan_rearm(p->sched);
	} else {
		if (run_id == NULL)
			log_warn("trigger: %s", e->msg);
		plan_note(p->sched, p->key, p->at);
	}
	free(p->key);
	free(p);
}

static void
on_due(void *arg, wall_us at)
{
	struct due *d = arg;
	struct planned *p = xcalloc(1, sizeof(*p));
	char when[TIME_TEXT], *key;
	struct trigger t = { .flow = d->flow, .params = d->def->params, .kind = "schedule", .scheduled_for = at };

	/* The interval that this time closes: from the planned time before it. */
	t.interval_start = schedule_interval_start(d->def, at);
	t.interval_end = at;
	key = xasprintf("schedule:%s:%s", d->key, time_format(at, when));
	t.idempotency_key = key;
	log_info("%s: planned for %s", d->flow->id, when);
	p->sched = d->sched;
	p->key = xstrdup(d->key);
	p->at = at;
	p->before = plan_handled(d->sched, d->key);
	d->any = true;
	sched_trigger(d->sched, &t, on_planned, p);
	free(key);
}

/* `noted_later`: by on_planned, when the run is committed. */
static void
plan_handle(struct sched *s, const char *key, wall_us handled, bool noted_later)
{
	json_object_set_new(s->handled, key, json_integer(handled));
	if (!noted_later)
		plan_note(s, key, handled);
}

/* Deals with what is due of one schedule; returns its next time, 0 for none. */
static wall_us
plan_schedule(struct sched *s, struct flow *f, const struct schedule_def *def, wall_us now)
{
	struct due d = { s, f, def, NULL, false };
	char *key = plan_key(f, def);
	wall_us handled = plan_handled(s, key), next = handled;

	d.key = key;
	schedule_due(def, handled, now, BATCH, on_due, &d, &next);
	if (next != handled)
		plan_handle(s, key, next, d.any);
	next = schedule_next(def, next ? next : now); /* what a batch left over is due at once */
	free(key);
	return next;
}

static void
plan_tick(void *arg)
{
	struct sched *s = arg;
	wall_us now = clock_wall(), first = 0;

	if (!sched_ready(s) || s->draining || !store_connected(s->store)) {
		alarm_set(&s->plan_alarm, s->loop, US_PER_S, plan_tick, s);
		return;
	}
	for (size_t i = 0; i < registry_count(s->registry); i++) {
		struct flow *f = registry_entry_at(s->registry, i)->flow;

		if (f == NULL || registry_flow(s->registry, f->id) != f || !f->enabled)
			continue;
		for (size_t k = 0; k < f->nschedules; k++) {
			wall_us next;

			if (!f->schedules[k].enabled)
				continue;
			if (sched_paused(s, f->id)) {
				/* What falls into a pause is not made up for afterwards. */
				char *key = plan_key(f, &f->schedules[k]);
				wall_us last = schedule_prev(&f->schedules[k], now);

				if (last > plan_handled(s, key))
					plan_handle(s, key, last, false);
				free(key);
				continue;
			}
			next = plan_schedule(s, f, &f->schedules[k], now);
			if (next && (first == 0 || next < first))
				first = next;
		}
	}
	/* With nothing planned there is nothing to wake up for: a change of the flows re-arms. */
	if (first)
		alarm_set(&s->plan_alarm, s->loop, first - now > RECHECK ? RECHECK : first > now ? first - now : 0, plan_tick, s);
}

void
plan_rearm(struct sched *s)
{
	if (!s->planning)
		return;
	alarm_set(&s->plan_alarm, s->loop, 0, plan_tick, s);
}

wall_us
sched_next(const struct sched *s, const struct flow *f)
{
	wall_us now = clock_wall(), first = 0;

	if (sched_paused(s, f->id) || !f->enabled)
		return 0;
	for (size_t k = 0; k < f->nschedules; k++) {
		wall_us next = f->schedules[k].enabled ? schedule_next(&f->schedules[k], now) : 0;

		if (next && (first == 0 || next < first))
			first = next;
	}
	return first;
}
