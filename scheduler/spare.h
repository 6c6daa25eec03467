/*
 * Spares: children of the nursery that wait for the document of an attempt and have done already what such attempts begin with.
 * There are some only while attempts of their kind run and a short time after. A spare becomes the attempt's process: it has its
 * own process group, dies with the nursery, and has read nothing of any flow before.
 *
 * The native kind are forks of the nursery that have opened the engine. A kind of Python is forked on demand by a fork server, an
 * interpreter that has done the imports (tasks/engines/python/sluice/warm.py); being orphans of it, they are the nursery's
 * children, too. Nothing waits for the server: without a spare that is ready the caller starts a process of its own.
 */
#ifndef SCHEDULER_SPARE_H
#define SCHEDULER_SPARE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/list.h"
#include "scheduler/spawn.h"

/* One kind. */
struct spares {
	struct list node;    /* of who keeps them */
	struct list waiting; /* oldest first */
	size_t count;
	mono_us wanted_at; /* when a task of the kind was last heard of; 0: there has been none for long */
	mono_us failed_at; /* when one could not be made, or died; 0: not lately */
	unsigned failures; /* in a row */
	const struct spawner *by;
	char *python, *engine; /* the interpreter, and whose imports it does; NULL: native */
	pid_t server;          /* 0: none */
	int server_fd;
};

/* `python` NULL: the native kind. Without an `engine` the interpreter does only what every task in Python needs. */
struct spares *spares_new(const struct spawner *by, const char *python, const char *engine);
void spares_free(struct spares *s);
bool spares_are(const struct spares *s, const char *python, const char *engine);
/* A task of the kind is on its way, or has ended. */
void spares_want(struct spares *s);
/*
 * Makes a spare the attempt's process, which then runs `doc` in `cwd` with these descriptors as its log and report. Returns its
 * process id, and in `*given` a descriptor that hangs up when it has read that, or has died; or 0 when the task needs a process
 * of its own or no spare is there. The caller closes `*given`.
 */
pid_t spares_take(struct spares *s, const json_t *doc, const json_t *env, const char *cwd, int log_fd, int report_fd, int *given);
/* When `given` has hung up, or the spare has ended: has it said that it begins? If not, it died before. Tells it once. */
bool spares_read(struct spares *s, int given);
/* Was this process, which has ended, a spare or the server? It is forgotten. */
bool spares_ended(struct spares *s, pid_t pid);
/*
 * At the end of a turn, while so many tasks of the kind run: makes a spare that is missing, ends those that nobody wants any
 * more. Returns the milliseconds until it must be called again, -1: any time will do.
 */
int spares_turn(struct spares *s, size_t running);
/* Ends all of them, and the server, without waiting. */
void spares_drop(struct spares *s);

#endif
