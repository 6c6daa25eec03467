/*
 * Spares: children of the nursery that have opened the engine already and wait for the document of a native task. There are
 * some only while native tasks are run and a short time after. A spare becomes the attempt's process: it has its own process
 * group, dies with the nursery, and has read nothing of any flow before.
 */
#ifndef SCHEDULER_SPARE_H
#define SCHEDULER_SPARE_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/list.h"

struct spares {
	struct list waiting; /* oldest first */
	size_t count;
	mono_us wanted_at; /* when a native task was last heard of; 0: there has been none for long */
	mono_us failed_at; /* when one could not be made, or died; 0: not lately */
	int null_fd;
	const sigset_t *mask; /* a child's */
};

void spares_init(struct spares *s, int null_fd, const sigset_t *mask);
/* A native task is on its way, or has ended. */
void spares_want(struct spares *s);
/*
 * Makes a spare the attempt's process, which then runs `doc` in `cwd` with these descriptors as its log and report. Returns its
 * process id, or 0 when the task needs a process of its own or no spare is there.
 */
pid_t spares_take(struct spares *s, const json_t *doc, const json_t *env, const char *cwd, int log_fd, int report_fd);
/* Was this process, which has ended, a spare? It is forgotten. */
bool spares_ended(struct spares *s, pid_t pid);
/*
 * At the end of a turn: forks a spare that is missing, ends those that nobody wants any more. Returns the milliseconds until
 * it must be called again, -1: any time will do.
 */
int spares_turn(struct spares *s, bool native_runs);
/* Ends all of them, without waiting. */
void spares_drop(struct spares *s);

#endif
