/*
 * Which snapshots of a table may go. Kept are, of each branch, the newest so many and those younger than an age, which branches
 * and the table's properties may set for themselves; what a tag names; the newest of each of so many days, weeks and months; what
 * was current since a moment from which on somebody may be reading; and what belongs to no branch while it is young. As Iceberg's
 * table specification has it ("Snapshot Retention Policy"). Pure: metadata in, ids out.
 */
#ifndef BASE_TABLE_EXPIRY_H
#define BASE_TABLE_EXPIRY_H

#include <jansson.h>

#include "base/clock.h"

struct table_expiry {
	wall_us now;
	dur_us older_than;
	json_int_t keep_last;
	const json_t *keep; /* {daily, weekly, monthly}; borrowed, NULL: none */
	wall_us read_since; /* 0: nobody reads */
};

/* What a policy (base/table_policy.h) says, under what the table's own properties history.expire.* say. */
struct table_expiry table_expiry_of(const json_t *policy, const json_t *md, wall_us now);
/* The ids that may go, oldest first: a new list. The names of branches and tags that are past their age are added to `refs`. */
json_t *table_expired(const json_t *md, const struct table_expiry *x, json_t *refs);

#endif
