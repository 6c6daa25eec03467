/*
 * When a schedule runs: the cron expression on the local calendar of a zone, and the two days a year on which that
 * calendar misbehaves. The policy, decided once here:
 *
 * - An hour field that starts with a star ("*", "*" with a step) means "by the clock on the wall, again and again":
 *   such times run in both passes of a repeated hour, so that "every 5 minutes" stays every 5 real minutes.
 *   Any other hour field names fixed hours, and `repeat` says which pass counts: first, last or both.
 * - A local time in a gap does not exist. With `shift` the times of the gap become one run at the end of the gap (02:30
 *   becomes 03:00), which is never run a second time when the schedule names that time too. With `skip` they are
 *   dropped. A schedule of every hour needs no replacement and gets none.
 *
 * All searching goes span by span: within a span (flows/zone.h) local time is UTC plus a constant.
 */
#include "schedule.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/calendar.h"
#include "flows/cron.h"
#include "flows/zone.h"

#define HORIZON_SECONDS (30 * 366 * DAY_SECONDS)
#define EVERY_HOUR      0xffffffu

/* A span of the zone and the local seconds [low, high) in it that fixed hours may use. */
struct window {
	struct zone_span span;
	int64_t low, high;
	bool gap_runs; /* times lost in the gap before it run at its first second */
};

static int64_t
max64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t
min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* The local second that is `t` at `offset`, with the ends of time kept where they are. */
static int64_t
to_local(int64_t t, int32_t offset)
{
	return t == INT64_MIN || t == INT64_MAX ? t : t + offset;
}

static struct window
schedule_window(const struct schedule_def *s, int64_t t)
{
	struct window w = { .span = zone_span_at(s->zone, t) };

	w.low = to_local(w.span.from, w.span.offset);
	w.high = to_local(w.span.until, w.span.offset);
	if (w.span.from != INT64_MIN) {
		struct zone_span before = zone_span_at(s->zone, w.span.from - 1);

		if (before.offset < w.span.offset)
			w.gap_runs = s->gap == GAP_SHIFT && s->cron.hour != EVERY_HOUR &&
				     cron_next_local(&s->cron, w.span.from + before.offset, w.low) != CRON_NONE;
		else if (s->repeat == REPEAT_FIRST && !s->cron.hour_star)
			w.low = w.span.from + before.offset;
	}
	if (w.span.until != INT64_MAX && s->repeat == REPEAT_LAST && !s->cron.hour_star) {
		struct zone_span after = zone_span_at(s->zone, w.span.until);

		if (after.offset < w.span.offset)
			w.high = w.span.until + after.offset;
	}
	return w;
}

wall_us
schedule_next(const struct schedule_def *s, wall_us after)
{
	int64_t t = floor_div(after, US_PER_S) + 1, horizon, found = CRON_NONE;

	if (s->start && after < s->start)
		t = -floor_div(-s->start, US_PER_S); /* rounded up: the first whole second that is not before the start */
	horizon = t + HORIZON_SECONDS;
	while (found == CRON_NONE && t < horizon) {
		struct window w = schedule_window(s, t);

		if (w.gap_runs && t == w.span.from) {
			found = t;
			break;
		}
		found = cron_next_local(&s->cron, max64(t + w.span.offset, w.low), min64(horizon + w.span.offset, w.high));
		if (found != CRON_NONE)
			found -= w.span.offset;
		t = w.span.until;
	}
	if (found == CRON_NONE || (s->end && found * US_PER_S >= s->end))
		return 0;
	return found * US_PER_S;
}

/* The last second at or before `t` that the expression names, whatever start and end say; CRON_NONE when there is none. */
static int64_t
schedule_last(const struct schedule_def *s, int64_t t)
{
	int64_t horizon = t - HORIZON_SECONDS;

	while (t >= horizon) {
		struct window w = schedule_window(s, t);
		int64_t found =
			cron_prev_local(&s->cron, max64(horizon + w.span.offset, w.low), min64(t + w.span.offset + 1, w.high));

		if (found != CRON_NONE)
			return found - w.span.offset;
		if (w.gap_runs)
			return w.span.from;
		if (w.span.from == INT64_MIN)
			break;
		t = w.span.from - 1;
	}
	return CRON_NONE;
}

wall_us
schedule_prev(const struct schedule_def *s, wall_us t)
{
	int64_t found;

	if (s->end && t >= s->end)
		t = s->end - 1;
	found = schedule_last(s, floor_div(t, US_PER_S));
	if (found == CRON_NONE || (s->start && found * US_PER_S < s->start))
		return 0;
	return found * US_PER_S;
}

wall_us
schedule_interval_start(const struct schedule_def *s, wall_us at)
{
	int64_t found = schedule_last(s, floor_div(at - 1, US_PER_S));

	return found == CRON_NONE ? at : found * US_PER_S;
}

/* Calls back for the times in (after, now], oldest first; `handled` gets the last one. */
static int
schedule_run_all(const struct schedule_def *s, wall_us after, wall_us now, size_t limit, void (*cb)(void *arg, wall_us at),
		 void *arg, wall_us *handled)
{
	int calls = 0;

	for (wall_us at = schedule_next(s, after); at && at <= now && (size_t)calls < limit; at = schedule_next(s, at)) {
		cb(arg, at);
		calls++;
		*handled = at;
	}
	return calls;
}

int
schedule_due(const struct schedule_def *s, wall_us last_handled, wall_us now, size_t limit, void (*cb)(void *arg, wall_us at),
	     void *arg, wall_us *handled)
{
	dur_us window = s->catchup_window > 0 ? s->catchup_window : SCHEDULE_CATCHUP_WINDOW;
	wall_us newest;

	*handled = last_handled ? last_handled : now;
	if (!last_handled || !limit)
		return 0;
	newest = schedule_prev(s, now);
	if (newest <= last_handled) /* also after the clock was set back: nothing runs again */
		return 0;
	if (s->catchup == CATCHUP_NONE)
		window = 0;
	window = max64(window, SCHEDULE_ON_TIME);
	if (s->enabled && s->catchup == CATCHUP_ALL && newest >= now - window)
		return schedule_run_all(s, max64(last_handled, now - window - 1), now, limit, cb, arg, handled);
	*handled = newest;
	if (!s->enabled || newest < now - window)
		return 0;
	cb(arg, newest);
	return 1;
}

void
schedule_release(struct schedule_def *s)
{
	free(s->cron_text);
	free(s->timezone);
	json_decref(s->params);
	memset(s, 0, sizeof(*s));
}
