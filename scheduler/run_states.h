/*
 * The two state machines, as tables that read like the diagram.
 *
 * A run waits in `queued` until its flow has room, is `running` while any of its tasks may still change, and ends. A task
 * waits for those it depends on, is `ready` when only a slot is missing, runs, and either ends or waits to be tried again.
 * Pure: no clock, no I/O. An absent row is a bug in the caller.
 */
#ifndef SCHEDULER_RUN_STATES_H
#define SCHEDULER_RUN_STATES_H

#include <stdbool.h>

/* symbol, database text, terminal, meaning */
#define RUN_STATES(X)                                                                                                            \
	X(QUEUED, "queued", false, "waits until its flow has room")                                                              \
	X(RUNNING, "running", false, "has tasks that may still change")                                                          \
	X(PUBLISHING, "publishing", false, "every task ended well enough; what it wrote is being made visible")                  \
	X(SUCCESS, "success", true, "every task ended well enough")                                                              \
	X(FAILED, "failed", true, "a task failed, or the run timed out")                                                         \
	X(CANCELLED, "cancelled", true, "somebody asked for it to stop")

#define TASK_STATES(X)                                                                                                           \
	X(WAITING, "waiting", false, "for the tasks it depends on")                                                              \
	X(READY, "ready", false, "for a slot")                                                                                   \
	X(RUNNING, "running", false, "an attempt of it is alive")                                                                \
	X(RETRY_WAIT, "retry_wait", false, "until its next attempt is due")                                                      \
	X(SUCCESS, "success", true, "its last attempt ended well")                                                               \
	X(FAILED, "failed", true, "its last attempt failed")                                                                     \
	X(TIMED_OUT, "timed_out", true, "its last attempt took too long")                                                        \
	X(CANCELLED, "cancelled", true, "stopped because the run was")                                                           \
	X(LOST, "lost", true, "its last attempt vanished with its parent")                                                       \
	X(SKIPPED, "skipped", true, "its condition or rule said so")                                                             \
	X(UPSTREAM_FAILED, "upstream_failed", true, "what it depends on did not end well")

enum run_state {
#define X(sym, name, terminal, meaning) RUN_##sym,
	RUN_STATES(X)
#undef X
		RUN_STATE_COUNT
};

enum task_state {
#define X(sym, name, terminal, meaning) TASK_STATE_##sym,
	TASK_STATES(X)
#undef X
		TASK_STATE_COUNT
};

/* from, event, to */
#define RUN_TRANSITIONS(X)                                                                                                       \
	X(QUEUED, START, RUNNING)                                                                                                \
	X(QUEUED, CANCEL, CANCELLED)                                                                                             \
	X(QUEUED, FAIL, FAILED)                                                                                                  \
	X(RUNNING, SUCCEED, SUCCESS)                                                                                             \
	X(RUNNING, PUBLISH, PUBLISHING)                                                                                          \
	X(RUNNING, FAIL, FAILED)                                                                                                 \
	X(RUNNING, CANCEL, CANCELLED)                                                                                            \
	X(PUBLISHING, SUCCEED, SUCCESS)                                                                                          \
	X(PUBLISHING, REDO, RUNNING)                                                                                             \
	X(PUBLISHING, FAIL, FAILED)

#define TASK_TRANSITIONS(X)                                                                                                      \
	X(WAITING, DEPS_MET, READY)                                                                                              \
	X(WAITING, SKIP, SKIPPED)                                                                                                \
	X(WAITING, UPSTREAM_FAIL, UPSTREAM_FAILED)                                                                               \
	X(WAITING, FAIL, FAILED)                                                                                                 \
	X(WAITING, CANCEL, CANCELLED)                                                                                            \
	X(WAITING, TAKE_OVER, SUCCESS)                                                                                           \
	X(READY, START, RUNNING)                                                                                                 \
	X(READY, FAIL, FAILED)                                                                                                   \
	X(READY, CANCEL, CANCELLED)                                                                                              \
	X(RUNNING, SUCCEED, SUCCESS)                                                                                             \
	X(RUNNING, UNBEGIN, READY)                                                                                               \
	X(RUNNING, RETRY, RETRY_WAIT)                                                                                            \
	X(RUNNING, FAIL, FAILED)                                                                                                 \
	X(RUNNING, TIME_OUT, TIMED_OUT)                                                                                          \
	X(RUNNING, LOSE, LOST)                                                                                                   \
	X(RUNNING, CANCEL, CANCELLED)                                                                                            \
	X(RETRY_WAIT, RETRY_DUE, READY)                                                                                          \
	X(RETRY_WAIT, CANCEL, CANCELLED)                                                                                         \
	X(SUCCESS, CONFLICT, FAILED)                                                                                             \
	X(SUCCESS, REDO, RETRY_WAIT)                                                                                             \
	X(SUCCESS, RESET, WAITING)                                                                                               \
	X(SKIPPED, RESET, WAITING)                                                                                               \
	X(UPSTREAM_FAILED, RESET, WAITING)                                                                                       \
	X(FAILED, RESET, WAITING)                                                                                                \
	X(TIMED_OUT, RESET, WAITING)                                                                                             \
	X(LOST, RESET, WAITING)

enum run_event {
	RUN_EV_START,
	RUN_EV_SUCCEED,
	RUN_EV_PUBLISH, /* every task ended well enough, and tables were written */
	RUN_EV_REDO,    /* a table moved meanwhile: some of it is done again */
	RUN_EV_FAIL,
	RUN_EV_CANCEL,
	RUN_EV_COUNT
};

enum task_event {
	TASK_EV_DEPS_MET,      /* the trigger rule says go */
	TASK_EV_SKIP,          /* `when`, `enabled` or the trigger rule says not */
	TASK_EV_UPSTREAM_FAIL, /* the trigger rule can no longer say go because something failed */
	TASK_EV_START,         /* an attempt is recorded and will be forked */
	TASK_EV_UNBEGIN,       /* it could not be forked, for a cause that will pass: as if it had never been */
	TASK_EV_SUCCEED,
	TASK_EV_RETRY, /* the attempt failed and another is allowed */
	TASK_EV_RETRY_DUE,
	TASK_EV_FAIL,
	TASK_EV_TIME_OUT,
	TASK_EV_LOSE,
	TASK_EV_CANCEL,
	TASK_EV_CONFLICT,  /* a table that it wrote was changed by somebody else before the run could publish it */
	TASK_EV_REDO,      /* the same, and another attempt is allowed */
	TASK_EV_RESET,     /* it depends on one that is done again */
	TASK_EV_TAKE_OVER, /* in a shadow: what this program did in the original run holds here, too */
	TASK_EV_COUNT
};

const char *run_state_name(enum run_state s);
const char *task_state_name(enum task_state s);
/* -1 for an unknown text. */
int run_state_parse(const char *name);
int task_state_parse(const char *name);
bool run_state_terminal(enum run_state s);
bool task_state_terminal(enum task_state s);
/* The state after the event, or -1 when the machine has no such row. */
int run_state_next(enum run_state from, enum run_event ev);
int task_state_next(enum task_state from, enum task_event ev);

#endif
