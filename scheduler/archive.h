/*
 * What attempts leave behind, their logs and artifacts, beyond this machine: `server.archive` names the place. What has ended
 * is copied there by worker threads, again and again until it succeeds, and fetched back when it is asked for and not here any
 * more. An empty file HOME/archive/RUN.TASK.N stands for an attempt that is not copied yet: made before the attempt begins, so
 * that no death of the daemon forgets one.
 */
#ifndef SCHEDULER_ARCHIVE_H
#define SCHEDULER_ARCHIVE_H

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "base/err.h"
#include "flows/config.h"

struct archive;
struct registry;
struct sched;
struct store;

/* Goes on with what an earlier daemon left. Without `server.archive` it copies nothing. All borrowed. NULL with `e` set. */
struct archive *archive_open(uv_loop_t *loop, struct store *store, const struct config *config, struct registry *registry,
			     struct sched *sched, const char *home, struct err *e);
/* Calls `done` when everything is copied, or cannot be at the moment, or it takes too long: the next daemon goes on. */
void archive_drain(struct archive *a, void (*done)(void *arg), void *arg);
void archive_close(struct archive *a);

/* The attempt "run/task/n" will have something to copy. 0, or -1 with errno set. */
MUSTCHECK int archive_mark(const char *home, const char *attempt);

/* Is there a place that things can be fetched from? */
bool archive_has_place(const struct archive *a);
/*
 * Fetches a file of an attempt ("log", "artifacts/x") into its folder in HOME/runs. `e` is NULL on success; ERR_NOT_FOUND when
 * there is no such thing in the archive either.
 */
typedef void (*archive_fetched)(void *arg, struct err *e);
void archive_fetch(struct archive *a, const char *attempt, const char *name, archive_fetched cb, void *arg);
/* The attempt's artifacts, here or there: [{name, size}], by name. The caller owns `items`, NULL with an error. */
typedef void (*archive_listed)(void *arg, json_t *items, struct err *e);
void archive_list(struct archive *a, const char *attempt, archive_listed cb, void *arg);

#endif
