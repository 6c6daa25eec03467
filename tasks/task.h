/*
 * What runs inside a forked attempt. A task gets one JSON document, everything resolved, and reports on descriptor 3:
 * see docs/architecture.md, "The attempt's contract".
 */
#ifndef TASKS_TASK_H
#define TASKS_TASK_H

#include <jansson.h>
#include <stdbool.h>

/*
 * In the nursery, before any fork: maps libduckdb and its extensions (dlopen) from `libdir`, so that children start warm.
 * Starts no thread and opens no database. Returns 0, or -1 with a sentence in `why`, which the caller frees.
 */
int task_preload(const char *libdir, char **why);

/*
 * In a child that waits for its task: opens the engine as most tasks need it, step by step, until `fd` can be read. What
 * fails here is told by the task that meets it.
 */
void task_warm(int fd);

/*
 * In the child: runs one native task to its end and returns the exit status (0 success, 1 failure; the reason went to the
 * report and the log). `doc` is borrowed. Descriptor 3 is the report, 1 and 2 the log.
 */
int task_main(const json_t *doc);
/* Ends the process that ran it, with what task_main returned. */
void task_exit(int rc) __attribute__((noreturn));

#endif
