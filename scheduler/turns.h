/* How long the loop's turns take: from its waking to its next sleep. Whatever waits for the loop waits that long at worst. */
#ifndef SCHEDULER_TURNS_H
#define SCHEDULER_TURNS_H

#include <stdint.h>
#include <uv.h>

#include "base/clock.h"

/* Upper bounds of the histogram's buckets; the last bucket holds what is longer than all of them. */
#define TURNS_BOUNDS 16
extern const dur_us turns_bounds[TURNS_BOUNDS];

struct turns {
	uv_prepare_t prepare;
	uint64_t looked, slept; /* nanoseconds, at the last look: the time, and how much of it the loop had slept */
	uint64_t buckets[TURNS_BOUNDS + 1], total_ns;
};

/* Before the loop's first turn, and before any other prepare handle, since the last one started runs first. `t` must live until
 * the loop has run once more after turns_close. */
void turns_open(struct turns *t, uv_loop_t *loop);
void turns_close(struct turns *t);

#endif
