/* So many requests in a time: in no window of that length are there more, wherever it begins. Pure. */
#ifndef TASKS_RATE_H
#define TASKS_RATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

struct rate {
	int64_t count; /* 0: no limit */
	dur_us per;
	mono_us *last; /* ends of the last requests, a ring; grows up to `count` */
	size_t used, next, room;
};

void rate_init(struct rate *r, int64_t count, dur_us per);
void rate_release(struct rate *r);
/* How long the next request has to wait; 0: it may go. */
dur_us rate_wait(const struct rate *r, mono_us now);
/*
 * Notes a request by its end: the server has met it before that, so that by its clock, too, what follows `per` later is not in
 * the same window.
 */
void rate_note(struct rate *r, mono_us ended);

#endif
