/* What stage_kafka.c and stage_kafka_range.c share: from where to where a stream is read. */
#ifndef TASKS_STAGE_KAFKA_H
#define TASKS_STAGE_KAFKA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tasks/kafka.h"

#define NO_OFFSET (-1)

/* One partition: what comes from `from` on, before `to`. */
struct range {
	const char *topic; /* borrowed from the task's spec */
	int32_t partition;
	int64_t base; /* what the stream has committed; NO_OFFSET: nothing yet */
	int64_t from, to;
	int64_t at; /* read so far */
	bool done;
};

struct ranges {
	struct range *items;
	size_t n;
	char *cluster; /* its id */
};

/*
 * Decides the ranges of all partitions of all topics of `where`, the task's source: from what `offsets` has ({topic: {partition:
 * offset}}, NULL: nothing) to what is there now; the same as an earlier attempt that left its own in the folder `kept` (NULL:
 * none). 0, or -1 with the error set.
 */
int ranges_find(struct kafka_client *k, const json_t *offsets, const char *cluster, const char *kept, struct ranges *out);
/* Notes them for the next attempt. 0, or -1 with the error set. */
int ranges_keep(struct context *cx, const struct ranges *r, const char *kept);
void ranges_release(struct ranges *r);
/* Has the library fetch again at once where it waits because it had enough, for which it has no call. */
void ranges_wake(struct kafka_client *k, const struct ranges *r);
/* Messages between where they are and what is there now; -1 when it cannot be asked, which is no error. */
int64_t ranges_behind(struct kafka_client *k, const struct ranges *r);
/* Offsets between `from` and `to` of all, and those that have been read. */
int64_t ranges_all(const struct ranges *r);
int64_t ranges_read(const struct ranges *r);
/* As the daemon gets them: [{topic, partition, base, next}]. */
json_t *ranges_report(const struct ranges *r);
/* Tells the brokers what the stream had committed before, for those who watch the group's lag. What becomes of it is not waited
 * for. */
void ranges_tell(struct kafka_client *k, const struct ranges *r);
/* Waits a little for that, at the end of the task. */
void ranges_told(struct kafka_client *k);

#endif
