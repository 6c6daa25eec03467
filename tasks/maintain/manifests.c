/*
 * Manifests: many small ones become few, in which the files of a partition lie together, so that a reader who wants one partition
 * opens few of them. No data file is touched.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/entries.h"
#include "tasks/maintain/maintain.h"

#define MANY 10 /* from which on merging them is worth a commit */

/* Those that are too small, of each spec and content that has several. Returns how many, or -1 with the error set. */
static int64_t
choose(struct writer *wr, bool always)
{
	if (duck_execf(wr->cx->db, &wr->cx->err,
		       "CREATE OR REPLACE TEMP TABLE sluice_merge AS SELECT manifest_path AS manifest FROM (SELECT *, count(*) "
		       "OVER w AS n, "
		       "sum(manifest_length) OVER w AS bytes FROM sluice_list WHERE manifest_length < %lld WINDOW w AS "
		       "(PARTITION BY "
		       "partition_spec_id, \"content\")) WHERE n > greatest(%d, %s * ceil(bytes / %lld.0))",
		       (long long)(MANIFEST_SIZE * SMALL_SHARE), always ? 1 : MANY - 1, always ? "1" : "2",
		       (long long)MANIFEST_SIZE) < 0)
		return -1;
	return duck_count(wr->cx->db, "SELECT count(*) FROM sluice_merge", &wr->cx->err);
}

static int
manifests_merge(struct care *k, struct writer *wr, bool always, json_t *out)
{
	int64_t before, merged;
	int rc;

	if (entries_read(wr) < 0 || (before = duck_count(wr->cx->db, "SELECT count(*) FROM sluice_list", &wr->cx->err)) < 0 ||
	    (merged = choose(wr, always)) < 0)
		return -1;
	step_number(out, "manifests", before);
	step_number(out, "merged", merged);
	step_state(out, merged == 0 ? "nothing" : k->duty->dry_run ? "planned" : "done", NULL);
	if (merged == 0 || k->duty->dry_run)
		return 0;
	rc = care_wait(k, US_PER_S, out);
	return rc > 0 ? care_commit(k, wr, out) : rc;
}

int
manifests_run(struct care *k, json_t *out)
{
	const char *when = json_string_value(json_object_get(k->cx->spec, "rewrite_manifests"));
	bool always = when && strcmp(when, "always") == 0;
	struct write w = { .mode = WRITE_MANIFESTS };
	struct writer wr;
	int rc;

	if (!always && !k->changed && k->health && json_integer_value(json_object_get(k->health, "manifests")) < MANY) {
		step_state(out, "nothing", NULL);
		return 0;
	}
	rc = care_open(k, &wr, &w, out);
	if (rc > 0)
		rc = manifests_merge(k, &wr, always, out);
	entries_forget(&wr);
	writer_unmake(&wr, !wr.sent); /* after a commit there is nothing left to remove */
	writer_release(&wr, false);
	return rc < 0 ? -1 : 0;
}
