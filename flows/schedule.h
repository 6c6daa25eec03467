/*
 * Recurring schedules: cron expressions in an IANA zone with a stated policy for both DST days. Pure: `now` is an argument.
 */
#ifndef FLOWS_SCHEDULE_H
#define FLOWS_SCHEDULE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"

struct cron {
	uint64_t second, minute; /* bit n set: n matches */
	uint32_t hour, dom, month, dow;
	bool dom_star, dow_star; /* classic rule: if both are restricted, either may match */
	bool hour_star;          /* the hour field starts with a star: both passes of a repeated hour count */
	bool has_seconds;
};

/* 5 fields, 6 with leading seconds, names (mon, jan), steps, ranges, lists, presets (@daily …). The error names the field. */
MUSTCHECK int cron_parse(const char *text, struct cron *out, struct err *e);

enum dst_gap { GAP_SHIFT, GAP_SKIP };                       /* a local time that does not exist */
enum dst_repeat { REPEAT_FIRST, REPEAT_LAST, REPEAT_BOTH }; /* a local time that exists twice */
enum catchup { CATCHUP_NONE, CATCHUP_LAST, CATCHUP_ALL };

struct schedule_def {
	char *cron_text;
	struct cron cron;
	char *timezone;    /* IANA name, "UTC" by default */
	struct zone *zone; /* borrowed from a process-wide cache */
	enum dst_gap gap;
	enum dst_repeat repeat;
	enum catchup catchup;
	dur_us catchup_window; /* how far back catch-up looks, 24 h by default */
	wall_us start, end;    /* 0: none; start inclusive, end exclusive */
	json_t *params;        /* object or NULL */
	bool enabled;
};

struct zone;
/* NULL when the zone database does not know the name. Cached for the process's life. */
struct zone *zone_get(const char *name);
/* Seconds east of UTC in force at `t`. */
int zone_offset(struct zone *z, wall_us t);

/* The first time strictly after `after` that the schedule names; 0 when there is none (within 30 years). */
wall_us schedule_next(const struct schedule_def *s, wall_us after);
/* The last time at or before `t`; 0 when there is none. For the data interval [previous, scheduled). */
wall_us schedule_prev(const struct schedule_def *s, wall_us t);

/* Where the data interval of a run that is scheduled for `at` begins: the time before it, even when that is before `start`. */
wall_us schedule_interval_start(const struct schedule_def *s, wall_us at);

/* A time this recent is on time, not catch-up: a daemon that restarts within a minute has missed nothing. */
#define SCHEDULE_ON_TIME        US_PER_MIN
#define SCHEDULE_CATCHUP_WINDOW US_PER_DAY /* where catchup_window is 0 */

/*
 * What is due: given the last time that was handled (0: never; then only times after `now` count) and now, calls `cb` for
 * each time to run, oldest first, following catchup; returns through `handled` the time to remember. At most `limit` calls a go;
 * returns how many. With `all`, times left over by the limit come with the next call. With `none`, the newest time if it is on
 * time. `handled` stays what it was while nothing is due, and schedule_next(s, *handled) is when to ask again.
 */
int schedule_due(const struct schedule_def *s, wall_us last_handled, wall_us now, size_t limit, void (*cb)(void *arg, wall_us at),
		 void *arg, wall_us *handled);
void schedule_release(struct schedule_def *s);

#endif
