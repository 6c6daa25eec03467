/* A commit under way, and its steps: commit.c leads it through them, commit_build.c does the one that may block. */
#ifndef API_CATALOG_COMMIT_INT_H
#define API_CATALOG_COMMIT_INT_H

#include "api/catalog/catalog_int.h"

enum kind { KIND_COMMIT, KIND_TRANSACTION, KIND_CREATE, KIND_STAGE, KIND_REGISTER, KIND_DROP, KIND_RENAME, KIND_UNDO };

/* What happens to one table. */
struct part {
	char *ns, *name;
	json_t *requirements, *updates; /* borrowed from the job's body */
	char *old;                      /* the pointer that `look` found; NULL: no table */
	struct meta *base;              /* of `old`, if it was in memory */
	char *base_text;                /* read by the worker otherwise, and for `register` */
	size_t base_len;
	json_t *base_json;
	char *new;     /* where it will be; equal to `old` when nothing changes; NULL: gone */
	json_t *facts; /* what a row of `commits` tells of it; NULL: nothing changes */
	bool written;  /* we wrote that file, so it is ours to remove */
	char *text;    /* its content */
	size_t len;
	json_t *json;
	struct meta *made; /* the three in memory, for those who come after; text is NULL then */
	/* of undo */
	char *back, *expect; /* where the run found the table and left it; NULL: there was none */
	bool view;
	bool moved;    /* it is not as the run left it */
	json_t *later; /* commits after the run: [{id, at, run, who}] */
};

struct job {
	struct list node; /* in the catalog's list, from its beginning to its end */
	struct list swap; /* in the catalog's list of those whose swap is due */
	bool alone;       /* its swap failed together with others' */
	bool started;     /* no earlier job keeps it waiting */
	bool built;       /* its swap is due or under way: another commit may be built on top of it */
	struct catalog *catalog;
	struct request *rq;
	enum kind kind;
	bool view; /* of views, not of tables */
	json_t *body;
	bool overwrite; /* of register */
	bool purge;     /* of drop */
	char *attempt;  /* "run/task/n": the commit is private to its run; NULL: visible at once */
	char *who;
	char *keeper;    /* a maintenance attempt, whose commit is visible at once */
	bool with_later; /* of undo: later commits go back as well */
	json_t *undone;  /* of undo: ids of the commits that are taken back */
	json_t *rows;    /* of `commits`, for what is visible at once */
	struct part *parts;
	size_t nparts;
	bool guessed; /* where the tables stand was remembered, not looked up */
	int tries, verified;
	mono_us lost_at; /* when the answer to a swap was lost first; 0: never */
	struct alarm *pause;
	struct work work;
	struct err e; /* of the worker */
};

/*
 * Where the next metadata file of a table goes, after the one at `old` (NULL: none); made by an attempt, or NULL. The caller
 * frees it.
 */
char *metadata_location_next(const json_t *md, const char *old, const char *attempt);

/* ---- start (commit_start.c) ---- */

struct job *job_new(struct request *rq, enum kind kind, json_t *body, size_t nparts);

/* ---- the path (commit.c) ---- */

/* From here on the job answers its request. */
void job_begin(struct job *j);
/* Somebody else was first: looks again, after those before it, unless that was so too often. */
void job_again(struct job *j);
/* Starts those that no earlier job keeps waiting. */
void jobs_start(struct catalog *c);
/* Do they have a table in common, in the same state? */
bool jobs_meet(const struct job *a, const struct job *b);
/* Of texts that may be NULL. */
bool same_text(const char *a, const char *b);
/* The tables as a parameter of a statement. The caller frees it. */
char *job_parts_text(const struct job *j);
/* What happens to a table, in the scheduler's words; it borrows from the part. */
struct table_change part_change_of(const struct job *j, const struct part *p);

/* ---- swap (commit_swap.c) ---- */

/* Moves the pointers, with those of others that are due; then the job ends, or begins again. */
void job_swap(struct job *j);

/* ---- end (commit_end.c) ---- */

/* Each answers the request and frees the job. */
void job_succeed(struct job *j);
/* What it wrote goes. Takes the error over. */
void job_fail(struct job *j, struct err *e);
/* Nobody can tell whether it happened. */
void job_unknown(struct job *j, const char *why);
/* The daemon is stopping, so the database must not be asked again: true when the job is over for it. */
bool job_stopped(struct job *j);
/* After an answer was given elsewhere. */
void job_free(struct job *j);

/* The attempt whose commit it is; NULL: somebody else's. Borrowed. */
const char *job_attempt(const struct job *j);
/* The files that it wrote, which no pointer leads to. */
void job_forget_files(struct job *j);
/* What is known of the table as it stood. */
void part_forget_base(struct part *p);

/* undo.c */
/* The updates that give `now` the state of `before` (same table). NULL with `e` set when a snapshot is not there any more. */
json_t *undo_updates(const json_t *before, const json_t *now, struct err *e);
/* Why the parts that moved keep the run from being undone. The caller frees it. */
char *undo_refusal(const struct job *j);

/* In a worker thread: reads what is needed, checks, applies, writes; `e` of the job tells how it went. */
void job_work(struct work *w);

#endif
