/* A cron expression against the calendar of one place: local seconds (since 1970-01-01 00:00 there), no zones. */
#ifndef FLOWS_CRON_H
#define FLOWS_CRON_H

#include <stdint.h>

#include "flows/schedule.h"

#define CRON_NONE INT64_MIN

/* The first matching second in [from, until); CRON_NONE when there is none. */
int64_t cron_next_local(const struct cron *c, int64_t from, int64_t until);
/* The last matching second in [from, until); CRON_NONE when there is none. */
int64_t cron_prev_local(const struct cron *c, int64_t from, int64_t until);

#endif
