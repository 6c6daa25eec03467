/*
 * The scheduler: what is triggered, what may start, what ended. All calls are made on the loop's thread; every result that
 * is told to anybody comes through a callback after the commit that made it true.
 */
#ifndef SCHEDULER_SCHED_H
#define SCHEDULER_SCHED_H

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "flows/config.h"
#include "flows/flow.h"

struct sched;
struct store;
struct registry;

/*
 * Opens the scheduler over an open store: loads what was active and connects the nursery, which maps the engine from
 * `libdir`; sched_ready says when triggers can be taken. `url` points at the daemon's base URL, read when an attempt is made.
 * Without `planning` schedules start nothing (a daemon that lives for one run). All borrowed.
 */
struct sched *sched_open(uv_loop_t *loop, struct store *store, const struct config *config, struct registry *registry,
			 const char *home, const char *libdir, const char *const *url, bool planning, struct err *e);
/* True once what was active before is loaded and the nursery has told what it knows. */
bool sched_ready(const struct sched *s);
/* The registry's flows changed: schedules are planned anew. */
void sched_flows_changed(struct sched *s);
/* Starts nothing new; `done` is called when no attempt is alive and everything is written. */
void sched_drain(struct sched *s, void (*done)(void *arg), void *arg);
/* Cancels every run that has live attempts: the second half of a stop. */
void sched_cancel_all(struct sched *s, const char *reason);
/* Frees everything; attempts that still run go on (a new daemon adopts them) unless `stop_nursery`. */
void sched_close(struct sched *s, bool stop_nursery);

struct trigger {
	struct flow *flow;                    /* borrowed; the run keeps its own reference */
	const json_t *params;                 /* as given by the caller, unchecked; NULL: none */
	const json_t *engine;                 /* override: "name" or {task: name}; NULL: none */
	const char *kind;                     /* "api", "schedule", "cli" … */
	const char *idempotency_key;          /* NULL: none */
	wall_us scheduled_for;                /* 0: not scheduled */
	wall_us interval_start, interval_end; /* 0: none */
	bool rehearsal;                       /* what it writes to tables never becomes visible */
	const char *shadow_of;                /* the run that it repeats; NULL: none */
	const json_t *original;               /* of a shadow: see shadow.c */
};

/* `run_id` is NULL on failure. `created` is false when the idempotency key named an earlier run, whose id is given. */
typedef void (*sched_trigger_cb)(void *arg, const char *run_id, bool created, struct err *e);
void sched_trigger(struct sched *s, const struct trigger *t, sched_trigger_cb cb, void *arg);
/* Would it be taken now, but for other runs of the flow? As sched_trigger would refuse it. */
MUSTCHECK int sched_trigger_check(const struct sched *s, const struct trigger *t, struct err *e);

/* `e` is NULL on success. ERR_NOT_FOUND, or ERR_CONFLICT when the run has ended already. */
typedef void (*sched_done_cb)(void *arg, struct err *e);
void sched_cancel(struct sched *s, const char *run_id, const char *reason, sched_done_cb cb, void *arg);
/* Pauses or resumes a flow's schedules. */
void sched_pause(struct sched *s, const char *flow_id, bool paused, sched_done_cb cb, void *arg);
bool sched_paused(const struct sched *s, const char *flow_id);
/* Next planned time of any schedule of the flow after now; 0: none (paused counts as none). */
wall_us sched_next(const struct sched *s, const struct flow *f);

/*
 * Runs a native task outside any run (a `sluice sql` query) in a child of its own; cb gets the folded report (borrowed).
 * `spec` is borrowed. The child's catalog token may read only.
 */
typedef void (*sched_adhoc_cb)(void *arg, const json_t *report, struct err *e);
void sched_adhoc(struct sched *s, const char *type, const json_t *spec, dur_us timeout, sched_adhoc_cb cb, void *arg);

/* Live progress of a running attempt, from its report so far; NULL when none. The caller owns it. */
json_t *sched_progress(struct sched *s, const char *run_id, const char *task_id);
/* {runs: {queued, running}, slots: {used, total}} ; the caller owns it. */
json_t *sched_status(struct sched *s);

/* ---- commits to tables (see docs/architecture.md, "Run transactions") ---- */

/* What a commit does to one table's pointer. */
struct table_change {
	const char *ns, *name, *type; /* "TABLE" or "VIEW" */
	const char *before, *after;   /* metadata files; NULL: there is no such table */
	const json_t *facts;          /* {action, operation, snapshot_before, snapshot_after, rows_added, …}; borrowed */
};

/* What a table is to this attempt ("run/task/n"), where its run, or its task, has written to it: false when it has not. */
struct table_seen {
	const char *location, *type; /* borrowed; location NULL: its run has dropped it */
};
bool sched_table_seen(struct sched *s, const char *attempt, const char *ns, const char *name, struct table_seen *seen);
/* Every table and view of a namespace that is something else to this attempt than to the others. Borrowed. */
typedef void (*sched_table_cb)(void *arg, const char *name, const struct table_seen *seen);
void sched_tables_seen(struct sched *s, const char *attempt, const char *ns, sched_table_cb cb, void *arg);
/*
 * Commits for an attempt: its run sees it, the others when it is published. `cb` gets ERR_FORBIDDEN when the attempt is not
 * current, ERR_CONFLICT when a `before` is not what the run sees.
 */
void sched_tables_commit(struct sched *s, const char *attempt, const struct table_change *changes, size_t n, sched_done_cb cb,
			 void *arg);
/*
 * How tables that moved while a run wrote to them are dealt with: `tables` is [{namespace, name, before, after, have, attempt}]
 * (metadata files: where the run began, where it arrived, what is there now; the attempt that wrote last). The answer is
 * [{namespace, name, before, after}], the run's changes on top of `have`; or an error, when they cannot be had there. Both
 * borrowed.
 */
typedef void (*sched_rebased_cb)(void *arg, const json_t *tables, struct err *e);
typedef void (*sched_rebase_fn)(void *arg, const json_t *tables, sched_rebased_cb cb, void *cb_arg);
void sched_on_moved(struct sched *s, sched_rebase_fn fn, void *arg);
/* `fn` is called after rows came into `cleanup`: tables in which attempts may have left files that nobody will ever read. */
typedef void (*sched_cleanup_fn)(void *arg);
void sched_on_cleanup(struct sched *s, sched_cleanup_fn fn, void *arg);
/*
 * The row of `commits` for a change that is visible at once, by `who`, or by an attempt ("run/task/n") that maintains tables; its
 * number is taken. The caller owns it.
 */
json_t *sched_table_row(struct sched *s, const struct table_change *change, const char *who, const char *attempt);
/* The event of a row of `commits` that was written with told = false. */
void sched_table_told(struct sched *s, const json_t *row);

/*
 * How a run is compared with its shadow, by their ids: the answer goes to sched_compared, {equal, tables} or an error. Both
 * borrowed.
 */
typedef void (*sched_compare_fn)(void *arg, const char *run, const char *shadow);
void sched_on_shadowed(struct sched *s, sched_compare_fn fn, void *arg);
void sched_compared(struct sched *s, const json_t *result, struct err *e);

/* ---- maintenance of tables ---- */

/* Is this attempt current, and one that maintains tables? What it commits changes no row, so it is visible at once. */
bool sched_maintains(struct sched *s, const char *attempt);
/*
 * Who writes to which table, other than this attempt, or will do so before `soon` is over: {"ns.table": a sentence}. The caller
 * owns it. What a task writes to by a name that only its own run knows is found when that run has begun.
 */
json_t *sched_writers(struct sched *s, const char *attempt, dur_us soon);
/* When the oldest of all that runs beside this attempt began: since then somebody may be reading what was current. */
wall_us sched_oldest_reader(struct sched *s, const char *attempt);

/*
 * Events, after their commit: {id, at, kind, run, flow, task, attempt, state, …}. The subscriber is called for each; borrowed.
 */
struct sched_sub;
typedef void (*sched_event_cb)(void *arg, const json_t *event);
struct sched_sub *sched_subscribe(struct sched *s, sched_event_cb cb, void *arg);
void sched_unsubscribe(struct sched *s, struct sched_sub *sub);

/*
 * Who holds this token: "run/task/attempt" of a current attempt, "adhoc/…" of a query (reads only); NULL when it is fenced or
 * unknown. Borrowed. The commit checks again, in its own transaction (see docs/architecture.md, "Fencing").
 */
const char *sched_attempt_of_token(struct sched *s, const char *token);

#endif
