#include "scheduler/alarm.h"

#include <stdlib.h>

#include "base/alloc.h"

struct alarm {
	uv_timer_t timer;
	struct alarm **slot; /* where the owner keeps us; emptied before the callback */
	alarm_cb cb;
	void *arg;
};

static void
on_alarm_closed(uv_handle_t *h)
{
	free(h->data);
}

static void
on_alarm(uv_timer_t *t)
{
	struct alarm *a = t->data;

	*a->slot = NULL;
	a->cb(a->arg);
	uv_close((uv_handle_t *)&a->timer, on_alarm_closed);
}

void
alarm_set(struct alarm **slot, uv_loop_t *loop, dur_us delay, alarm_cb cb, void *arg)
{
	struct alarm *a = xcalloc(1, sizeof(*a));

	alarm_cancel(slot);
	a->slot = slot;
	a->cb = cb;
	a->arg = arg;
	uv_timer_init(loop, &a->timer);
	a->timer.data = a;
	/*
	 * An alarm never fires before its time: rounded up to whole milliseconds, and one more, since the loop's own clock is
	 * cut off to them and may lag by almost one.
	 */
	uv_update_time(loop);
	uv_timer_start(&a->timer, on_alarm, delay <= 0 ? 0 : (uint64_t)((delay + US_PER_MS - 1) / US_PER_MS) + 1, 0);
	*slot = a;
}

void
alarm_cancel(struct alarm **slot)
{
	struct alarm *a = *slot;

	if (a == NULL)
		return;
	*slot = NULL;
	uv_timer_stop(&a->timer);
	uv_close((uv_handle_t *)&a->timer, on_alarm_closed);
}
