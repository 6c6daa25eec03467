/* Blocking work in libuv's threads, in two lanes. */
#include "scheduler/work.h"

#include <malloc.h>
#include <stdlib.h>

/* A thread that waits costs some kilobytes; four of them are never lent to remote stores. */
#define THREADS    "20"
#define REMOTE_MAX 16
/* Memory for them. By default each has an arena of its own, and each of those keeps megabytes of what was freed, for good. */
#define ARENAS 4

static struct list line = { &line, &line }; /* remote work that waits for a thread */
static int remote_busy;

void
work_open(void)
{
	setenv("UV_THREADPOOL_SIZE", THREADS, 1);
	mallopt(M_ARENA_MAX, ARENAS);
}

static void
work_run(uv_work_t *uv)
{
	struct work *w = uv->data;

	w->fn(w);
}

static void work_begin(struct work *w);

static void
on_work_done(uv_work_t *uv, int status)
{
	struct work *w = uv->data;

	if (w->remote) {
		remote_busy--;
		if (!list_empty(&line)) {
			struct work *next = LIST_ENTRY(line.next, struct work, waiting);

			list_remove(&next->waiting);
			work_begin(next);
		}
	}
	w->done(w, status);
}

static void
work_begin(struct work *w)
{
	remote_busy += w->remote;
	uv_queue_work(w->uv.loop, &w->uv, work_run, on_work_done);
}

void
work_queue(uv_loop_t *loop, struct work *w, bool remote, work_fn fn, work_done_fn done)
{
	w->uv.loop = loop;
	w->uv.data = w;
	w->remote = remote;
	w->fn = fn;
	w->done = done;
	list_init(&w->waiting);
	if (remote && remote_busy >= REMOTE_MAX)
		list_append(&line, &w->waiting);
	else
		work_begin(w);
}

void
work_close(void)
{
	while (!list_empty(&line)) {
		struct work *w = LIST_ENTRY(line.next, struct work, waiting);

		list_remove(&w->waiting);
		w->done(w, UV_ECANCELED);
	}
}
