/*
 * Blocking work in worker threads, with a bound on what may wait for a store over the network: when a store hangs, its waiters
 * stand in line behind each other and work on local files goes on. Called on the loop's thread only.
 */
#ifndef SCHEDULER_WORK_H
#define SCHEDULER_WORK_H

#include <stdbool.h>
#include <uv.h>

#include "base/list.h"

struct work;
typedef void (*work_fn)(struct work *w);                  /* in a worker thread */
typedef void (*work_done_fn)(struct work *w, int status); /* on the loop; may free `w` */

/* Embedded in what the work is about; `data` is the owner's, the rest ours. */
struct work {
	void *data;
	uv_work_t uv;
	struct list waiting;
	bool remote;
	work_fn fn;
	work_done_fn done;
};

/* Sets how many threads there are; before anything else uses them. */
void work_open(void);
/* The daemon ends: what waits for a thread is done with UV_ECANCELED, instead of standing in line for a store that hangs. */
void work_close(void);
/* `remote`: it may have to wait for a store over the network. */
void work_queue(uv_loop_t *loop, struct work *w, bool remote, work_fn fn, work_done_fn done);

#endif
