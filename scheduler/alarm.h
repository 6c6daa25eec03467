/* A one-shot timer on the heap that frees itself: set, then fired or cancelled. */
#ifndef SCHEDULER_ALARM_H
#define SCHEDULER_ALARM_H

#include <uv.h>

#include "base/clock.h"

struct alarm;
typedef void (*alarm_cb)(void *arg);

/* Replaces what `*a` holds. A delay below a millisecond fires in the next turn. */
void alarm_set(struct alarm **a, uv_loop_t *loop, dur_us delay, alarm_cb cb, void *arg);
/* Harmless on NULL; sets `*a` to NULL. */
void alarm_cancel(struct alarm **a);

#endif
