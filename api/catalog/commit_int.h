/* A commit under way: commit.c leads it through its steps, commit_build.c does the step that may block. */
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
	bool started;     /* no earlier job has a table in common with it */
	struct catalog *catalog;
	struct request *rq;
	enum kind kind;
	bool view; /* of views, not of tables */
	json_t *body;
	bool overwrite; /* of register */
	bool purge;     /* of drop */
	char *attempt;  /* "run/task/n": the commit is private to its run; NULL: visible at once */
	char *who;
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

/* Where the next metadata file of a table goes, after the one at `old` (NULL: none). The caller frees it. */
char *metadata_location_next(const json_t *md, const char *old);
struct job *job_new(struct request *rq, enum kind kind, json_t *body, size_t nparts);
/* From here on the job answers its request. */
void job_begin(struct job *j);

/* undo.c */
/* The updates that give `now` the state of `before` (same table). NULL with `e` set when a snapshot is not there any more. */
json_t *undo_updates(const json_t *before, const json_t *now, struct err *e);
/* Why the parts that moved keep the run from being undone. The caller frees it. */
char *undo_refusal(const struct job *j);

/* In a worker thread: reads what is needed, checks, applies, writes; `e` of the job tells how it went. */
void job_work(struct work *w);

#endif
