/*
 * libuv calls back from inside its poll, so nothing marks the moment of waking; but it can count the time that it sleeps.
 * Between two looks, each just before a sleep, what was not slept was a turn's work.
 */
#include "scheduler/turns.h"

#include <stdbool.h>

#include "base/log.h"

const dur_us turns_bounds[TURNS_BOUNDS] = { 50,   100,  250,   500,   1000,  1500,   2000,   3000,
					    4000, 5000, 10000, 25000, 50000, 100000, 250000, 1000000 };

static void
on_turn_over(uv_prepare_t *p)
{
	struct turns *t = p->data;
	uint64_t now = uv_hrtime(), slept = uv_metrics_idle_time(p->loop), worked;
	size_t i = 0;
	bool first = t->looked == 0;

	worked = now - t->looked - (slept - t->slept);
	t->looked = now;
	t->slept = slept;
	if (first) /* before it the daemon was starting */
		return;
	while (i < TURNS_BOUNDS && worked > (uint64_t)turns_bounds[i] * 1000)
		i++;
	t->buckets[i]++;
	t->total_ns += worked;
}

void
turns_open(struct turns *t, uv_loop_t *loop)
{
	if (uv_loop_configure(loop, UV_METRICS_IDLE_TIME) != 0)
		BUG("this libuv cannot count its idle time");
	uv_prepare_init(loop, &t->prepare);
	t->prepare.data = t;
	uv_prepare_start(&t->prepare, on_turn_over);
	uv_unref((uv_handle_t *)&t->prepare);
}

void
turns_close(struct turns *t)
{
	uv_close((uv_handle_t *)&t->prepare, NULL);
}
