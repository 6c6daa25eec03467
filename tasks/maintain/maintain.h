/* What the files of maintenance share: the task as a whole, and one table of it. */
#ifndef TASKS_MAINTAIN_MAINTAIN_H
#define TASKS_MAINTAIN_MAINTAIN_H

#include "tasks/context.h"

struct writer;

/* The task. */
struct duty {
	struct context *cx;
	bool dry_run, orphans;             /* orphans: they are to be removed */
	json_int_t bytes_left, files_left; /* that compaction may still rewrite; negative: no limit */
	dur_us patience;                   /* with writers */
};

/* A table in care. */
struct care {
	struct duty *duty;
	struct context *cx;
	char *ns, *name, *title; /* title: "ns.name" */
	json_t *told;            /* what the catalog last told of it, see api/catalog/maintain.c; NULL: it is not there */
	wall_us oldest_reader;   /* since then somebody may be reading what was current */
	json_t *md;              /* see care_metadata */
	char *md_at;
	json_t *policy;        /* as base/table_policy.h has it */
	const json_t *health;  /* before anything was done */
	char *before_expiry;   /* the metadata file that leads to what has expired; NULL: nothing has */
	json_t *after_expiry;  /* dry run: the metadata as it would be then */
	json_t *expiry;        /* what that step tells, for the files that go with it; borrowed */
	bool changed, telling; /* telling: see care_tell */
};

#define COMMIT_TRIES 100 /* of one commit, while others commit: then it is left for another time */

/*
 * The steps, in their order. Each tells what it did in `out`: {"state": "done" | "nothing" | "planned" | "skipped", "why",
 * numbers}. 0, or -1 with the error set: the table's maintenance ends there.
 */
int compact_run(struct care *k, json_t *out);
int manifests_run(struct care *k, json_t *out);
int expire_run(struct care *k, json_t *out);
/* Files that nothing leads to: of expired snapshots, whatever their age, which `k->expiry` is told, and orphans. */
int orphans_run(struct care *k, json_t *out);

void step_state(json_t *out, const char *state, const char *why, ...) __attribute__((format(printf, 3, 4)));
void step_number(json_t *out, const char *name, json_int_t value);
/* A key of one of the task's objects: spec.STEP.KEY; NULL when it is not said. Borrowed. */
const json_t *step_option(const struct care *k, const char *step, const char *key);

/* Asks the catalog about the table again; `soon`: how far ahead writers count. 0, or -1 with the error set. */
MUSTCHECK int care_look(struct care *k, dur_us soon);
/*
 * Waits until nobody writes to the table, or will do so within `soon`. 1; 0 when that took too long, or the table is gone, which
 * `out` tells; -1 with the error set.
 */
MUSTCHECK int care_wait(struct care *k, dur_us soon, json_t *out);
/* Tells the daemon, once a table, where the commits of this attempt may leave files. To be called before the first. */
void care_tell(struct care *k, const char *location);
/*
 * Commits what the writer has made, on top of whatever others commit meanwhile. 1; 0 when a writer kept it waiting too long,
 * which `out` tells; -1 with the error set, cause `conflict` when what was read is not there any more.
 */
MUSTCHECK int care_commit(struct care *k, struct writer *wr, json_t *out);
/* The metadata at the place that the catalog last told; borrowed, NULL with the error set. */
const json_t *care_metadata(struct care *k);
/* Opens a writer over the table as it is now. 1; 0 when it is gone or cannot be written to, which `out` tells; -1. */
struct write;
MUSTCHECK int care_open(struct care *k, struct writer *wr, struct write *w, json_t *out);

/* The report as people read it. The caller frees it. */
char *maintain_text(const json_t *report);

#endif
