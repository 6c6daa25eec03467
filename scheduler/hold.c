/*
 * Nothing can be started for the time being: no process, memory, descriptor or disk space is to be had. That is no fault of
 * any task: an attempt that could not be forked for such a cause goes back to `ready` as if it had never been, and the
 * scheduler holds back. It asks the nursery, after a pause, whether it could fork now; each time it can, twice as many attempts
 * may be alive as before, so that where only some fit, only some are tried.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/trouble.h"
#include "scheduler/sched_int.h"

#define PAUSE_FIRST (250 * US_PER_MS)
#define PAUSE_MAX   (2 * US_PER_S)
#define STEP        (250 * US_PER_MS) /* between two raises */
#define QUIET       (3 * US_PER_S)    /* without a failure: it is over */
#define PROBE_WAIT  (5 * US_PER_S)    /* for the nursery's answer, then it is asked again */

static void hold_step(void *arg);

static void
hold_say(struct sched *s, const char *why)
{
	size_t waiting = 0;

	LIST_FOR_EACH (it, &s->ready)
		waiting++;
	trouble_begin(TROUBLE_START, "no attempt can be started: %s; %zu task%s wait%s, tried again every %g s at most", why,
		      waiting, waiting == 1 ? "" : "s", waiting == 1 ? "s" : "", (double)PAUSE_MAX / US_PER_S);
}

static void
hold_pause(struct sched *s)
{
	struct hold *h = &s->hold;

	h->failed = true;
	h->last = clock_mono();
	alarm_set(&h->alarm, s->loop, h->pause, hold_step, s);
	h->pause = h->pause * 2 > PAUSE_MAX ? PAUSE_MAX : h->pause * 2;
}

static void
hold_raise(struct sched *s)
{
	struct hold *h = &s->hold;

	h->failed = false;
	h->cap = h->cap >= s->slots_total ? s->slots_total : h->cap * 2 + 1;
	alarm_set(&h->alarm, s->loop, STEP, hold_step, s);
	sched_wake(s);
}

static void
hold_step(void *arg)
{
	struct sched *s = arg;
	struct hold *h = &s->hold;

	if (h->unacked > 0) { /* their keys come again, and must be forgotten first */
		alarm_set(&h->alarm, s->loop, STEP, hold_step, s);
	} else if (h->failed) {
		nursery_probe(s->nursery);
		sched_wake(s); /* which sends it */
		alarm_set(&h->alarm, s->loop, PROBE_WAIT, hold_step, s);
	} else if (clock_mono() - h->last < QUIET || (h->cap < s->slots_total && !list_empty(&s->ready))) {
		hold_raise(s);
	} else {
		h->active = false;
		trouble_end(TROUBLE_START, "attempts can be started again");
		sched_wake(s);
	}
}

void
hold_probed(struct sched *s, const char *error)
{
	if (!s->hold.active || !s->hold.failed)
		return;
	if (error) {
		hold_say(s, error);
		hold_pause(s);
	} else {
		hold_raise(s);
	}
}

int
hold_slots(const struct sched *s)
{
	if (s->nursery_fit == NURSERY_OTHER_PROTOCOL)
		return 0;
	return s->hold.active && s->hold.cap < s->slots_total ? s->hold.cap : s->slots_total;
}

struct acked {
	struct sched *sched;
	char *key;
};

static void
hold_acked(void *arg)
{
	struct acked *c = arg;

	nursery_ack(c->sched->nursery, c->key);
	c->sched->hold.unacked--;
	free(c->key);
	free(c);
}

void
hold_unbegun(struct attempt *a, const char *why)
{
	struct sched *s = a->sched;
	struct task *t = a->task;
	struct hold *h = &s->hold;
	struct acked *c = xcalloc(1, sizeof(*c));

	json_array_append_new(s->unbegun, json_pack("{s:s,s:s,s:i}", "run_id", t->run->id, "task_id", t->def->id, "n", a->n));
	c->sched = s;
	c->key = xstrdup(a->key);
	store_after_commit(s->store, hold_acked, c);
	h->unacked++;
	t->attempt = NULL;
	if (--t->attempts == 0)
		t->started_at = 0;
	task_transition(t, TASK_EV_UNBEGIN, why);
	/* It may never be tried again. When it is, this is done: not before its key is acknowledged. */
	json_array_append_new(s->leftovers, json_string(a->scratch));
	attempt_free(a);
	if (!h->active) {
		h->active = true;
		h->failed = false;
		h->pause = PAUSE_FIRST;
	}
	h->cap = s->slots_used;
	hold_say(s, why);
	if (!h->failed)
		hold_pause(s);
}

void
hold_release(struct sched *s)
{
	alarm_cancel(&s->hold.alarm);
}
