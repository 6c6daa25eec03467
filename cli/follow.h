/* What the commands about runs share: naming a run, following it live, and its pictures. */
#ifndef CLI_FOLLOW_H
#define CLI_FOLLOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "cli/client.h"

struct follow {
	struct client *client;
	bool quiet;              /* no progress, no last line */
	bool (*lost)(void *arg); /* the daemon is gone: is there one again? NULL: wait for it */
	void *arg;
};

/*
 * Follows a run to its end, on stderr. The first Ctrl-C cancels the run, the second one leaves. Returns the exit status;
 * `*run` (may be NULL) gets the run as it was last seen, for the caller to release.
 */
int follow_run(const struct follow *f, const char *id, json_t **run);

/* Leaves at the second Ctrl-C wherever it is; how often it was pressed. */
int interrupts(void);
void interrupts_catch(void);

/* The full id of RUN (an id, the beginning of one, or `last`); NULL after a message. The caller frees it. */
char *run_resolve(struct client *c, const char *text);

/* The body of a trigger from -p and --engine: {params, engine}; NULL after a message. */
json_t *trigger_body(const struct args *a);

/* How long from `from` to `to` (now, when there is none yet); -1 when it has not begun. */
long long elapsed_us(const json_t *from, const json_t *to);
/* In a few words what a task did or does: rows, checks, progress, or its error. */
void task_words(struct buf *out, const json_t *task);
/* Why it failed: for each failed task "place: task ID: message", with the end of its log where that says more. */
void print_failures(FILE *f, struct client *c, const json_t *run);
/* The tables that a run wrote: what it did, from which snapshot to which, who sees it; nothing when it wrote none. */
int print_written(FILE *f, struct client *c, const char *run);
/* "undone 5 min ago by token x"; both may be "". The caller frees it. */
char *undone_words(const char *at, const char *by);
/* One JSON value on stdout, for programs. */
void print_json(const json_t *value);

#endif
