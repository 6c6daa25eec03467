/*
 * The scheduler's own structures, shared by sched.c (what may happen now), attempt.c (one attempt's life), record.c (what is
 * written), recover.c (what was there before) and plan.c (schedules). Nobody else includes this.
 *
 * A turn: callbacks only note what happened (attempt_exited, run_cancel …) and call sched_wake. At the end of the turn
 * sched_turn decides level by level until nothing changes, then writes every changed row: one transaction. Effects (fork,
 * signal, answers, events) run after its commit.
 */
#ifndef SCHEDULER_SCHED_INT_H
#define SCHEDULER_SCHED_INT_H

#include <uthash.h>

#include "base/list.h"
#include "base/mask.h"
#include "scheduler/alarm.h"
#include "scheduler/nursery.h"
#include "scheduler/registry.h"
#include "scheduler/rules.h"
#include "scheduler/run_states.h"
#include "scheduler/sched.h"
#include "scheduler/store/store.h"

/* attempts.state beyond the task's own terminal names */
enum attempt_phase {
	ATTEMPT_RUNNING,    /* current: its token may commit */
	ATTEMPT_STOPPING,   /* given up: fenced, its process is being ended */
	ATTEMPT_PUBLISHING, /* it ended well; what it wrote is being made visible (isolation: task) */
	ATTEMPT_ENDED
};

enum stop_reason { STOP_NONE, STOP_TIMEOUT, STOP_CANCEL };
/* How runs.error begins when the run's own timeout stopped it; else somebody cancelled it. */
#define RUN_TIMEOUT_TEXT "the run took longer than its timeout"

struct attempt {
	struct sched *sched;
	struct task *task; /* NULL for a query outside any run */
	char *key;         /* "run/task/n"; hash key */
	int n;
	enum attempt_phase phase;
	enum stop_reason stop;
	char *token; /* only until it is forked */
	char token_hash[65];
	char *dir;             /* HOME/runs/RUN/TASK/N: log, report */
	char *scratch;         /* HOME/scratch/RUN.TASK.N: while it lives */
	json_t *message;       /* what the nursery is asked for; only until it is told to fork */
	struct list preparing; /* in sched->preparing until its folders are made and the nursery has the message */
	char *unready;         /* why that failed */
	int unready_errno;
	struct mask *mask; /* values never to be stored; NULL: none */
	char *nursery;     /* the instance it was given to */
	pid_t pid;
	wall_us started_at, ended_at;
	const char *cause;     /* a literal */
	int exit_code, signal; /* -1: none */
	dur_us wall, user, system;
	int64_t max_rss;
	json_t *report;    /* folded */
	bool dirty, fresh; /* fresh: not yet in the database */
	bool adopted;      /* the nursery has told about it since this daemon started */
	bool asked;        /* while PUBLISHING: it is under way */
	bool undercut;     /* what it wrote, or read, is taken back: it cannot end well */
	struct alarm *timeout, *grace;
	size_t report_seen; /* bytes of the report that were told as progress */
	sched_adhoc_cb adhoc_cb;
	void *adhoc_arg;
	UT_hash_handle hh, hh_token;
};

struct task {
	struct run *run;
	const struct task_def *def;
	size_t idx;
	enum task_state state;
	char *engine;            /* after overrides */
	int attempts;            /* number of the last one */
	struct attempt *attempt; /* the live one */
	json_t *outputs;
	json_t *reads; /* how far it has read streams, while that is not visible: see streams.c; NULL: none */
	char *error;
	wall_us started_at, ended_at, next_attempt_at;
	struct alarm *retry;
	struct list ready; /* in sched->ready while READY */
	bool dirty;
};

struct run {
	struct sched *sched;
	char *id;
	struct flow *flow;
	struct flow_state *fs;
	enum run_state state;
	char *trigger, *idempotency_key;
	json_t *params, *engine;
	wall_us created_at, scheduled_for, interval_start, interval_end, started_at, ended_at;
	char *error;
	struct task *tasks;    /* as flow->tasks */
	size_t open_tasks;     /* not terminal */
	enum stop_reason stop; /* the whole run was given up */
	struct alarm *timeout;
	struct list commits;      /* of struct commit: what it wrote and nobody else sees yet, oldest first */
	bool asked;               /* while PUBLISHING: it is under way */
	bool rehearsal;           /* none of its commits ever becomes visible */
	bool shadowed;            /* a shadow follows it */
	char *shadow_of;          /* the run that it repeats on another engine; NULL: it is nobody's shadow */
	json_t *original;         /* of a shadow: what it takes from that run; see shadow_set */
	wall_us original_at;      /* when that was made */
	wall_us as_of;            /* when that began: the shadow sees tables as they were then */
	bool dirty, fresh, check; /* check: sched_turn must look at it */
	struct list queued;       /* in fs->queue while QUEUED */
	struct list dirty_node;   /* in sched->dirty while dirty or check */
	UT_hash_handle hh, hh_key;
};

/* What is known of a flow by id, whether or not its file is still there. */
struct flow_state {
	char *id;
	bool paused;
	int active, running_tasks; /* runs RUNNING, attempts alive */
	struct list queue;         /* of runs QUEUED, oldest first */
	UT_hash_handle hh;
};

/* Nothing can be started for the time being: see hold.c. */
struct hold {
	bool active;
	bool failed; /* since the last raise */
	int cap;     /* so many attempts may be alive */
	int unacked; /* unbegun attempts that the nursery still remembers */
	dur_us pause;
	mono_us last; /* failure */
	struct alarm *alarm;
};

struct sched_sub {
	struct list node;
	sched_event_cb cb;
	void *arg;
};

struct sched {
	uv_loop_t *loop;
	struct store *store;
	const struct config *config;
	struct registry *registry;
	struct nursery *nursery;
	char *home;
	json_t *s3;             /* see attempts_s3 */
	const char *const *url; /* the daemon's base URL, known once the port is bound */
	struct run *runs, *runs_by_key;
	struct flow_state *flows;
	struct attempt *attempts, *attempts_by_token;
	struct list ready, dirty, subs, preparing;
	json_t *leftovers; /* paths to remove */
	int slots_total, slots_used;
	int slots_shadow; /* of those used: a run may have as many more */
	int adhoc_used;
	unsigned adhoc_seq;
	char *nursery_id; /* NULL while it is down or not yet listed */
	bool nursery_listed;
	enum nursery_fit nursery_fit;
	int64_t last_event;
	json_t *events;   /* of this turn */
	json_t *versions; /* object: hashes of flow versions known to be in the database */
	bool recovered, draining, planning;
	void (*drained_cb)(void *arg);
	void *drained_arg;
	struct alarm *plan_alarm, *progress_alarm, *recover_alarm, *relist_alarm, *trim_alarm;
	struct hold hold;
	unsigned troubles_told;
	json_t *unbegun;             /* attempts whose rows go, of this turn */
	json_t *commits, *abandoned; /* of this turn: rows of commits to tables, and the ids of those that are taken back */
	int64_t last_commit;
	json_t *offsets; /* see streams.c */
	json_t *cleanup; /* of this turn: rows of where files may have been left */
	wall_us began;   /* this daemon */
	sched_rebase_fn rebase;
	sched_cleanup_fn cleanup_cb;
	void *rebase_arg, *cleanup_arg;
	struct shadow_watch *shadows;
	json_t *handled; /* "flow\tspec" -> wall_us as string: the last planned time that was dealt with */
	int handles;
};

/* sched.c */
/* What ${…} reads in this run: params run flow tasks env vars config; the caller owns it and adds secrets. */
json_t *sched_scope(const struct run *run);
/* Resolves the task's own `env` and puts it over ${env.…} of the scope; the caller owns `out`. */
MUSTCHECK int sched_scope_env(json_t *scope, const struct task_def *def, json_t **out, struct err *e);
void sched_wake(struct sched *s);
struct flow_state *flow_state_get(struct sched *s, const char *id);
/* That of the flow's shadows, which must count for nothing in the flow's own. */
struct flow_state *flow_state_shadow(struct sched *s, const char *id);
/* Are the engines there that the run's tasks need? */
MUSTCHECK int sched_check_installed(const struct sched *s, const struct trigger *t, struct err *e);
/* A shadow's run, made this turn; what a trigger of a person is refused for, it is not. */
struct run *sched_trigger_shadow(struct sched *s, const struct trigger *t);
void run_mark(struct run *run);
void run_free(struct run *run);
struct run *run_new(struct sched *s, struct flow *flow, const char *id);
void run_transition(struct run *run, enum run_event ev, const char *reason);
/* As run_transition to success, which is in the database already, with `event`, which is delivered. Takes it over. */
void run_published(struct run *run, wall_us ended, json_t *event);
void task_transition(struct task *t, enum task_event ev, const char *reason);
/* An attempt ended: retries or ends its task. `ev` is SUCCEED, FAIL, TIME_OUT, LOSE or CANCEL. */
void task_attempt_ended(struct task *t, enum task_event ev, const char *reason);
/* The pause before attempt `next`: backoff, its ceiling, and jitter so that a herd spreads out. */
dur_us task_retry_pause(const struct task *t, int next);
void done_after_commit(struct sched *s, sched_done_cb cb, void *arg);
void run_stop(struct run *run, enum stop_reason why, const char *reason);
void task_retry_later(struct task *t, wall_us at);
void run_arm_timeout(struct run *run);

/* attempt.c */
extern const struct nursery_events attempt_nursery_events;
/* Makes the attempt of a READY task: resolves its document. NULL with `e` set when that fails. */
struct attempt *attempt_new(struct task *t, struct err *e);
struct attempt *attempt_adopt(struct task *t, int n, bool stopping, const char *nursery, const char *token_hash,
			      wall_us started_at);
/* Makes its folders and hands its message to the nursery, which keeps it until attempt_spawn_after_commit's moment. */
void attempt_prepare(struct attempt *a);
void attempt_spawn_after_commit(struct attempt *a);
/* The settings and keys of the S3 store, for attempts' documents alone; NULL where nothing says that there is one. */
json_t *attempts_s3(const struct sched *s);
/* The task has ended: what its attempts handed on goes. */
void task_kept_leave(const struct task *t);
/* Removes the scratch folders that no attempt owns: those of a daemon that died between a commit and its chores. */
void attempts_sweep(struct sched *s);
/* Ends its process: TERM, and after the grace time KILL. */
void attempt_stop(struct attempt *a, enum stop_reason why);
void attempt_free(struct attempt *a);
/* What it has written or read was taken back: it goes on, and cannot end well. */
void attempt_undercut(struct attempt *a);
/* What it wrote is visible, or (`reason`) could not be made so. */
void attempt_published(struct attempt *a, const char *reason);
/* Every attempt that this nursery does not know is lost, or never began. */
void attempts_reconcile(struct sched *s);

/* lake.c */
/* Is there anything to publish: of the run, or (isolation: task) of one task? */
bool lake_pending(const struct run *run, const struct task *t);
/* Takes back what this attempt has committed: it did not end well. */
void lake_take_back(const struct attempt *a);
/* It may have left files in the tables that it said it would write to. */
void lake_leave(const struct attempt *a);
/* Takes back everything that is not visible: the run ends, and not well. */
void lake_abandon(struct run *run);
/* The end of a rehearsal: what was written stays for a while to be compared, and nobody sees it. */
void lake_rehearsed(struct run *run);
/* Queues what makes the run's commits visible, behind this turn's rows. */
void lake_publish_run(struct run *run);
void lake_publish_attempt(struct attempt *a);
/* This turn's rows of commits. */
void lake_write(struct sched *s);
/* The private commits of a run that was active before. */
void lake_recover(struct run *run, const json_t *rows);
void lake_release(struct run *run);
/* Adds the tables that it has written and nobody else sees yet: {"ns.table": a sentence}. */
void lake_tables(const struct run *run, json_t *out);

/* shadow.c */
void shadow_open(struct sched *s);
void shadow_close(struct sched *s);
/* What was active before is loaded. */
void shadow_start(struct sched *s);
/* A run was made: notes that a shadow follows, where it was drawn. */
void shadow_note(struct run *run);
/* The same of a run that was active before, whose row is there. */
void shadow_recovered(struct run *run);
/*
 * Makes the run a shadow. `original` is {started_at, created_at, trigger, tasks: {ID: {state, outputs}} of programs, pins:
 * {"ns\x1fname": {type, location}} of the tables that are something else by now}.
 */
void shadow_set(struct run *run, const char *of, const json_t *original);
/* A table that has changed since the run began that it repeats. */
bool shadow_table_seen(const struct run *run, const char *ns, const char *name, struct table_seen *seen);
void shadow_tables_seen(const struct run *run, const char *ns, sched_table_cb cb, void *arg);
/* A table has changed for all to see: for the shadows under way it is what it was. `before` NULL: there was none. */
void shadow_moved(struct sched *s, const char *ns, const char *name, const char *type, const char *before);
/* A shadow's program is not run: what it did in the original holds. False: the task is none. */
bool shadow_take_over(struct task *t);
/* A run has ended. */
void shadow_ended(struct run *run);
/* Since when states of tables are needed by a comparison; 0: none is under way. */
wall_us shadow_oldest(const struct sched *s);

/* streams.c */
/* What a stage task of a stream begins from: {name, cluster, offsets}; NULL: it reads none. The caller owns it. */
json_t *streams_doc(const struct task *t, const json_t *spec);
/* An attempt has ended well: takes from its report how far it read. */
void streams_note(struct task *t, const json_t *report);
void streams_forget(struct task *t);
/* Have the run's tasks, or this one alone, read anything that is not visible? */
bool streams_pending(const struct run *run, const struct task *t);
/* That, as rows of `publish`: [{stream, cluster, topic, partition, base, next, task}]. The caller owns it. */
json_t *streams_rows(const struct run *run, const struct task *t);
/* It is visible now. */
void streams_settle(struct run *run, const struct task *t);
/* What the database has. */
void streams_recover(struct sched *s, const json_t *rows);

/* hold.c */
/* The attempt could not be forked for a cause that will pass: its task is ready again. Frees the attempt. */
void hold_unbegun(struct attempt *a, const char *why);
/* The nursery has tried to fork: why it could not, or NULL. */
void hold_probed(struct sched *s, const char *error);
/* How many attempts may be alive now. */
int hold_slots(const struct sched *s);
void hold_release(struct sched *s);

/* report.c */
/* Folds JSON lines into an object: objects merge, lists append, anything else replaces. */
void report_fold(json_t *into, const char *text, size_t len);
/* Drops what is not of its kind; an error that is a bare text becomes {"message": text}. */
void report_tidy(json_t *report);
/* What the attempt has reported so far, tidied, with secrets hidden; the caller owns it. NULL when it cannot be read now. */
json_t *attempt_report(const struct attempt *a);

/* record.c */
void record_event(struct sched *s, const char *kind, const struct run *run, const struct task *t, int attempt, const char *state,
		  json_t *data);
/* An event that is written elsewhere, with its number; the caller owns it. */
json_t *record_event_new(struct sched *s, const char *kind, const struct run *run, const char *state, json_t *data);
/* Tells subscribers of an event that is written. */
void record_tell(struct sched *s, const json_t *event);
/* Adds to an event's data how the attempt ended: cause, exit code or signal, and what it used. */
void record_end(const struct attempt *a, json_t *data);
/* Tells subscribers at once; not stored. */
void record_transient(struct sched *s, const struct task *t, json_t *data);
/* Tells subscribers, and nobody later, that the flow files are not what they were. */
void record_flows_changed(struct sched *s);
/* Tells subscribers that the daemon's troubles are not what they were, if so. */
void record_troubles(struct sched *s);
/* Queues every changed row of this turn and the delivery of its events. */
void record_turn(struct sched *s);

/* plan.c */
void plan_rearm(struct sched *s);

/* recover.c */
void recover_start(struct sched *s);

#endif
