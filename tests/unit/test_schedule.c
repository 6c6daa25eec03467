/*
 * Schedules: the cron grammar, both DST days in zones that differ in every way, the calendar's corners, catch-up; and two
 * oracles that know nothing of our code: the C library's localtime_r, and a walk over every minute of a year.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "flows/calendar.h"
#include "flows/schedule.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static wall_us
at(const char *text)
{
	wall_us t;

	if (time_parse(text, &t) != 0)
		fail_msg("bad time %s in the test", text);
	return t;
}

static struct schedule_def
schedule(const char *cron, const char *zone)
{
	struct schedule_def s = { .enabled = true, .zone = zone_get(zone) };
	struct err e = ERR_INIT;

	if (!s.zone)
		fail_msg("zone %s is not known", zone);
	if (cron_parse(cron, &s.cron, &e) != 0)
		fail_msg("%s", e.msg);
	return s;
}

/* Expects the times, a list divided by blanks, to be all that the schedule names in [from, until); both ways. */
static void
expect_times(const struct schedule_def *s, const char *what, const char *from, const char *until, const char *times)
{
	struct buf forth = BUF_INIT, back = BUF_INIT, want = BUF_INIT;
	wall_us low = at(from), high = at(until), t;
	char text[TIME_TEXT], *copy = xstrdup(times), *save = NULL;
	wall_us found[64];
	size_t n = 0;

	for (char *p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save))
		buf_addf(&want, "%s\n", time_format(at(p), text));
	for (t = schedule_next(s, low - 1); t && t < high; t = schedule_next(s, t))
		buf_addf(&forth, "%s\n", time_format(t, text));
	if (strcmp(forth.s, want.s) != 0)
		fail_msg("%s: next gives\n%swanted\n%s", what, forth.s, want.s);
	for (t = schedule_prev(s, high - 1); t && t >= low && n < COUNT(found); t = schedule_prev(s, t - 1), n++)
		found[n] = t;
	while (n--)
		buf_addf(&back, "%s\n", time_format(found[n], text));
	if (strcmp(back.s, want.s) != 0)
		fail_msg("%s: prev gives\n%swanted\n%s", what, back.s, want.s);
	free(copy);
	buf_release(&forth);
	buf_release(&back);
	buf_release(&want);
}

static void
errors_name_the_field(void **state)
{
	static const struct {
		const char *cron, *message;
	} cases[] = {
		{ "0 25 * * *", "cron \"0 25 * * *\": hour 25 is outside 0-23" },
		{ "60 * * * *", "cron \"60 * * * *\": minute 60 is outside 0-59" },
		{ "61 0 0 * * *", "cron \"61 0 0 * * *\": second 61 is outside 0-59" },
		{ "0 0 0 * *", "cron \"0 0 0 * *\": day of month 0 is outside 1-31" },
		{ "0 0 32 * *", "cron \"0 0 32 * *\": day of month 32 is outside 1-31" },
		{ "0 0 * 13 *", "cron \"0 0 * 13 *\": month 13 is outside 1-12" },
		{ "0 0 * * 8", "cron \"0 0 * * 8\": day of week 8 is outside 0-7" },
		{ "0 0 * * funday", "cron \"0 0 * * funday\": day of week \"funday\" is not known; use a number or sun to sat" },
		{ "0 0 * janu *", "cron \"0 0 * janu *\": month \"janu\" is not known; use a number or jan to dec" },
		{ "x * * * *", "cron \"x * * * *\": minute \"x\" is not known" },
		{ "0 0 L * *", "cron \"0 0 L * *\": day of month \"L\" is not known" },
		{ "*/0 * * * *", "cron \"*/0 * * * *\": minute step \"0\" is outside 1-59" },
		{ "*/90,1 * * * *", "cron \"*/90,1 * * * *\": minute step \"90\" is outside 1-59" },
		{ "*/ * * * *", "cron \"*/ * * * *\": minute step \"\" is outside 1-59" },
		{ "30-10 * * * *",
		  "cron \"30-10 * * * *\": minute range 30-10 runs backwards; write two ranges with a comma between them" },
		{ "1, * * * *", "cron \"1, * * * *\": minute: a number is expected at its end" },
		{ ",1 * * * *", "cron \",1 * * * *\": minute: a number is expected at \",1\"" },
		{ "1x * * * *", "cron \"1x * * * *\": minute: \"x\" is not understood after \"1\"" },
		{ "-5 * * * *", "cron \"-5 * * * *\": minute: a number is expected at \"-5\"" },
		{ "99999999999 * * * *", "cron \"99999999999 * * * *\": minute 99999999999 is outside 0-59" },
		{ "0 0 * *", "cron \"0 0 * *\": it has 4 fields; a cron expression has 5 (minute, hour, day of month, month, day "
			     "of week), or 6 "
			     "with the second in front" },
		{ "", "cron \"\": it has 0 fields; a cron expression has 5 (minute, hour, day of month, month, day of week), or "
		      "6 with the "
		      "second in front" },
		{ "1 2 3 4 5 6 7",
		  "cron \"1 2 3 4 5 6 7\": it has more than 6 fields; a cron expression has 5 (minute, hour, day of month, "
		  "month, day of week), or 6 with the second in front" },
		{ "@reboot", "cron \"@reboot\": no such preset; there are @hourly, @daily (@midnight), @weekly, @monthly and "
			     "@yearly (@annually)" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct err e = ERR_INIT;
		struct cron c;

		assert_int_equal(cron_parse(cases[i].cron, &c, &e), ERR_INVALID);
		assert_string_equal(e.msg, cases[i].message);
		err_release(&e);
	}
}

static void
expressions_mean_the_same(void **state)
{
	static const char *const same[][2] = {
		{ "@hourly", "0 * * * *" },
		{ "@daily", "0 0 * * *" },
		{ "@midnight", "0 0 * * *" },
		{ "@weekly", "0 0 * * sun" },
		{ "@monthly", "0 0 1 * *" },
		{ "@yearly", "0 0 1 1 *" },
		{ "@annually", "0 0 1 JAN *" },
		{ "  0\t6 *  * * ", "0 6 * * *" },
		{ "0 0 * * 7", "0 0 * * 0" },
		{ "0 0 * * fri-sun", "0 0 * * 0,5,6" },
		{ "0 0 * * 1-7", "0 0 * * 0-6" },
		{ "0 0 * jan-mar,Dec mon", "0 0 * 12,1,2,3 1" },
		{ "*/20 * * * *", "0,20,40 * * * *" },
		{ "5/20 * * * *", "5,25,45 * * * *" },
		{ "10-40/15 * * * *", "10,25,40 * * * *" },
		{ "0 0 1-31/10,5 * *", "0 0 1,5,11,21,31 * *" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(same); i++) {
		struct cron a = schedule(same[i][0], "UTC").cron, b = schedule(same[i][1], "UTC").cron;

		assert_memory_equal(&a, &b, sizeof(a));
	}
	assert_true(schedule("0 0 6 * * *", "UTC").cron.has_seconds);
	assert_false(schedule("0 6 * * *", "UTC").cron.has_seconds);
}

static void
calendar_corners(void **state)
{
	static const struct {
		const char *cron, *from, *until, *times;
	} cases[] = {
		{ "0 0 29 2 *", "2023-01-01", "2033-01-01", "2024-02-29 2028-02-29 2032-02-29" },
		{ "0 0 29 2 *", "2096-01-01", "2105-01-01", "2096-02-29 2104-02-29" }, /* 2100 has none */
		{ "0 0 31 2 *", "2023-01-01", "2063-01-01", "" },
		{ "0 0 31 * *", "2027-01-01", "2028-01-01",
		  "2027-01-31 2027-03-31 2027-05-31 2027-07-31 2027-08-31 2027-10-31 2027-12-31" },
		{ "0 0 30 * *", "2028-01-15", "2028-05-01", "2028-01-30 2028-03-30 2028-04-30" },
		{ "59 23 28-31 2 *", "2028-01-01", "2029-12-31",
		  "2028-02-28T23:59:00Z 2028-02-29T23:59:00Z 2029-02-28T23:59:00Z" },
		/* either of two restricted day fields; but a star with a step restricts by "and" */
		{ "0 0 13 * fri", "2026-11-01", "2026-12-01", "2026-11-06 2026-11-13 2026-11-20 2026-11-27" },
		{ "0 0 */2 * mon", "2026-11-01", "2026-12-01", "2026-11-09 2026-11-23" },
		{ "0 0 * * 1", "2026-11-01", "2026-11-20", "2026-11-02 2026-11-09 2026-11-16" },
		{ "30 59 23 31 12 *", "2026-01-01", "2028-01-01", "2026-12-31T23:59:30Z 2027-12-31T23:59:30Z" },
		{ "15,45 * * * * *", "2026-02-28T23:59:00Z", "2026-03-01T00:00:20Z",
		  "2026-02-28T23:59:15Z 2026-02-28T23:59:45Z 2026-03-01T00:00:15Z" },
		{ "@weekly", "2026-12-20", "2027-01-10", "2026-12-20 2026-12-27 2027-01-03" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct schedule_def s = schedule(cases[i].cron, "UTC");

		expect_times(&s, cases[i].cron, cases[i].from, cases[i].until, cases[i].times);
	}
	struct schedule_def impossible = schedule("0 0 31 2 *", "America/New_York");

	assert_int_equal(schedule_next(&impossible, at("2026-01-01")), 0);
	assert_int_equal(schedule_prev(&impossible, at("2026-01-01")), 0);
}

static void
next_is_strictly_after_and_prev_is_not(void **state)
{
	struct schedule_def s = schedule("0 6 * * *", "UTC");

	(void)state;
	assert_int_equal(schedule_next(&s, at("2026-11-21T06:00:00Z")), at("2026-11-22T06:00:00Z"));
	assert_int_equal(schedule_next(&s, at("2026-11-21T06:00:00Z") - 1), at("2026-11-21T06:00:00Z"));
	assert_int_equal(schedule_next(&s, at("2026-11-21T06:00:00.000001Z")), at("2026-11-22T06:00:00Z"));
	assert_int_equal(schedule_prev(&s, at("2026-11-21T06:00:00Z")), at("2026-11-21T06:00:00Z"));
	assert_int_equal(schedule_prev(&s, at("2026-11-21T06:00:00Z") - 1), at("2026-11-20T06:00:00Z"));
	assert_int_equal(schedule_prev(&s, at("2026-11-21T06:00:00.999999Z")), at("2026-11-21T06:00:00Z"));
}

static void
start_and_end_bound_the_times(void **state)
{
	struct schedule_def s = schedule("0 6 * * *", "UTC");

	(void)state;
	s.start = at("2026-11-03T06:00:00Z");
	s.end = at("2026-11-05T06:00:00Z");
	expect_times(&s, "start and end", "2026-10-01", "2026-12-01", "2026-11-03T06:00:00Z 2026-11-04T06:00:00Z");
	s.start++;
	s.end++;
	expect_times(&s, "a microsecond later", "2026-10-01", "2026-12-01", "2026-11-04T06:00:00Z 2026-11-05T06:00:00Z");
	assert_int_equal(schedule_next(&s, at("2026-11-05T06:00:00Z")), 0);
	assert_int_equal(schedule_prev(&s, at("2026-11-04T05:00:00Z")), 0);
	assert_int_equal(schedule_interval_start(&s, at("2026-11-04T06:00:00Z")), at("2026-11-03T06:00:00Z"));
}

struct dst_case {
	const char *zone, *cron;
	enum dst_gap gap;
	enum dst_repeat repeat;
	const char *from, *until, *times;
};

/* The days: Madrid 29 March and 25 October 2026, New York 8 March and 1 November 2026, Lord Howe (half an hour) 5 April and
 * 4 October 2026, Santiago (at midnight) 5 April and 6 September 2026, Dublin (its rule has a negative summer time) as Madrid,
 * Casablanca (an hour back for Ramadan) 15 February and 22 March 2026; and Madrid in 2055, far behind every table. */
static const struct dst_case dst_cases[] = {
	{ "Europe/Madrid", "30 2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-03-28", "2026-03-31",
	  "2026-03-28T01:30:00Z 2026-03-29T01:00:00Z 2026-03-30T00:30:00Z" },
	{ "Europe/Madrid", "30 2 * * *", GAP_SKIP, REPEAT_FIRST, "2026-03-28", "2026-03-31",
	  "2026-03-28T01:30:00Z 2026-03-30T00:30:00Z" },
	{ "Europe/Madrid", "0,10,30 2,3 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-03-29", "2026-03-30",
	  "2026-03-29T01:00:00Z 2026-03-29T01:10:00Z 2026-03-29T01:30:00Z" },
	{ "Europe/Madrid", "30 2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-10-24", "2026-10-27",
	  "2026-10-24T00:30:00Z 2026-10-25T00:30:00Z 2026-10-26T01:30:00Z" },
	{ "Europe/Madrid", "30 2 * * *", GAP_SHIFT, REPEAT_LAST, "2026-10-24", "2026-10-27",
	  "2026-10-24T00:30:00Z 2026-10-25T01:30:00Z 2026-10-26T01:30:00Z" },
	{ "Europe/Madrid", "30 2 * * *", GAP_SHIFT, REPEAT_BOTH, "2026-10-24", "2026-10-27",
	  "2026-10-24T00:30:00Z 2026-10-25T00:30:00Z 2026-10-25T01:30:00Z 2026-10-26T01:30:00Z" },
	{ "Europe/Madrid", "0 3 * * *", GAP_SHIFT, REPEAT_LAST, "2026-10-24", "2026-10-26",
	  "2026-10-24T01:00:00Z 2026-10-25T02:00:00Z" },
	{ "Europe/Madrid", "30 * * * *", GAP_SHIFT, REPEAT_FIRST, "2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z",
	  "2026-03-29T00:30:00Z 2026-03-29T01:30:00Z 2026-03-29T02:30:00Z" },
	{ "Europe/Madrid", "30 * * * *", GAP_SHIFT, REPEAT_LAST, "2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z",
	  "2026-10-24T23:30:00Z 2026-10-25T00:30:00Z 2026-10-25T01:30:00Z 2026-10-25T02:30:00Z" },
	{ "Europe/Madrid", "0 */2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-03-28T23:00:00Z", "2026-03-29T05:00:00Z",
	  "2026-03-28T23:00:00Z 2026-03-29T01:00:00Z 2026-03-29T02:00:00Z 2026-03-29T04:00:00Z" },
	{ "Europe/Madrid", "0 */2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-10-24T22:00:00Z", "2026-10-25T04:00:00Z",
	  "2026-10-24T22:00:00Z 2026-10-25T00:00:00Z 2026-10-25T01:00:00Z 2026-10-25T03:00:00Z" },
	{ "Europe/Madrid", "30 2 * * *", GAP_SHIFT, REPEAT_FIRST, "2055-03-27", "2055-03-30",
	  "2055-03-27T01:30:00Z 2055-03-28T01:00:00Z 2055-03-29T00:30:00Z" },
	{ "Europe/Madrid", "30 2 * * *", GAP_SHIFT, REPEAT_LAST, "2055-10-30", "2055-11-01",
	  "2055-10-30T00:30:00Z 2055-10-31T01:30:00Z" },

	{ "America/New_York", "30 2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-03-07T12:00:00Z", "2026-03-10",
	  "2026-03-08T07:00:00Z 2026-03-09T06:30:00Z" },
	{ "America/New_York", "30 1 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-11-01", "2026-11-03",
	  "2026-11-01T05:30:00Z 2026-11-02T06:30:00Z" },
	{ "America/New_York", "30 1 * * *", GAP_SHIFT, REPEAT_BOTH, "2026-11-01", "2026-11-02",
	  "2026-11-01T05:30:00Z 2026-11-01T06:30:00Z" },
	/* 2 o'clock is the first time after the repeated hour, and exists once */
	{ "America/New_York", "0 2 * * *", GAP_SHIFT, REPEAT_BOTH, "2026-11-01", "2026-11-02", "2026-11-01T07:00:00Z" },

	{ "Australia/Lord_Howe", "15 2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-10-02", "2026-10-05",
	  "2026-10-02T15:45:00Z 2026-10-03T15:30:00Z 2026-10-04T15:15:00Z" },
	{ "Australia/Lord_Howe", "45 1 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-04-03T12:00:00Z", "2026-04-05T16:00:00Z",
	  "2026-04-03T14:45:00Z 2026-04-04T14:45:00Z 2026-04-05T15:15:00Z" },
	{ "Australia/Lord_Howe", "45 1 * * *", GAP_SHIFT, REPEAT_BOTH, "2026-04-04T12:00:00Z", "2026-04-05T12:00:00Z",
	  "2026-04-04T14:45:00Z 2026-04-04T15:15:00Z" },
	{ "Australia/Lord_Howe", "*/10 * * * *", GAP_SHIFT, REPEAT_FIRST, "2026-04-04T14:30:00Z", "2026-04-04T15:40:00Z",
	  "2026-04-04T14:30:00Z 2026-04-04T14:40:00Z 2026-04-04T14:50:00Z 2026-04-04T15:00:00Z 2026-04-04T15:10:00Z "
	  "2026-04-04T15:20:00Z 2026-04-04T15:30:00Z" },

	/* midnight itself is in the gap, and the repeated hour belongs to the day before */
	{ "America/Santiago", "0 0 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-09-05", "2026-09-08",
	  "2026-09-05T04:00:00Z 2026-09-06T04:00:00Z 2026-09-07T03:00:00Z" },
	{ "America/Santiago", "0 0 * * *", GAP_SKIP, REPEAT_FIRST, "2026-09-05", "2026-09-08",
	  "2026-09-05T04:00:00Z 2026-09-07T03:00:00Z" },
	{ "America/Santiago", "0 */6 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-09-06", "2026-09-06T12:00:00Z",
	  "2026-09-06T04:00:00Z 2026-09-06T09:00:00Z" },
	{ "America/Santiago", "30 23 * * sat", GAP_SHIFT, REPEAT_FIRST, "2026-04-04", "2026-04-06", "2026-04-05T02:30:00Z" },
	{ "America/Santiago", "30 23 * * sat", GAP_SHIFT, REPEAT_LAST, "2026-04-04", "2026-04-06", "2026-04-05T03:30:00Z" },
	{ "America/Santiago", "30 23 * * sat", GAP_SHIFT, REPEAT_BOTH, "2026-04-04", "2026-04-06",
	  "2026-04-05T02:30:00Z 2026-04-05T03:30:00Z" },

	{ "Europe/Dublin", "30 1 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-03-28", "2026-03-31",
	  "2026-03-28T01:30:00Z 2026-03-29T01:00:00Z 2026-03-30T00:30:00Z" },
	{ "Europe/Dublin", "30 1 * * *", GAP_SHIFT, REPEAT_BOTH, "2026-10-25", "2026-10-26",
	  "2026-10-25T00:30:00Z 2026-10-25T01:30:00Z" },

	{ "Africa/Casablanca", "30 2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-02-14", "2026-02-17",
	  "2026-02-14T01:30:00Z 2026-02-15T01:30:00Z 2026-02-16T02:30:00Z" },
	{ "Africa/Casablanca", "30 2 * * *", GAP_SHIFT, REPEAT_LAST, "2026-02-15", "2026-02-16", "2026-02-15T02:30:00Z" },
	{ "Africa/Casablanca", "30 2 * * *", GAP_SHIFT, REPEAT_FIRST, "2026-03-21", "2026-03-24",
	  "2026-03-21T02:30:00Z 2026-03-22T02:00:00Z 2026-03-23T01:30:00Z" },

	/* a whole day that never was */
	{ "Pacific/Apia", "0 6 * * *", GAP_SHIFT, REPEAT_FIRST, "2011-12-29", "2012-01-01",
	  "2011-12-29T16:00:00Z 2011-12-30T10:00:00Z 2011-12-30T16:00:00Z 2011-12-31T16:00:00Z" },
};

static void
dst_days(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(dst_cases); i++) {
		const struct dst_case *c = &dst_cases[i];
		struct schedule_def s = schedule(c->cron, c->zone);
		char *what = xasprintf("%s in %s from %s (case %zu)", c->cron, c->zone, c->from, i);

		s.gap = c->gap;
		s.repeat = c->repeat;
		expect_times(&s, what, c->from, c->until, c->times);
		free(what);
	}
}

static void
minutely_is_every_five_real_minutes(void **state)
{
	static const char *const zones[] = { "Europe/Madrid",    "America/New_York",  "Australia/Lord_Howe",
					     "America/Santiago", "Africa/Casablanca", "Europe/Dublin" };

	(void)state;
	for (size_t i = 0; i < COUNT(zones); i++) {
		for (enum dst_repeat repeat = REPEAT_FIRST; repeat <= REPEAT_BOTH; repeat++) {
			struct schedule_def s = schedule("*/5 * * * *", zones[i]);

			s.repeat = repeat;
			for (wall_us t = at("2027-01-01"), end = at("2028-01-01"), next; t < end; t = next) {
				next = schedule_next(&s, t);
				if (next - t != 5 * US_PER_MIN)
					fail_msg("%s: %lld s after %lld", zones[i], (long long)(next - t) / US_PER_S,
						 (long long)t);
			}
		}
	}
}

static uint64_t random_state = 20261121;

static uint32_t
random_below(uint32_t n)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(random_state >> 33) % n;
}

static void
use_c_library_zone(const char *zone)
{
	setenv("TZ", zone, 1);
	tzset();
}

/* Every zone the system lists, at instants from 1970 to 2150, against the C library. */
static void
offsets_agree_with_the_c_library(void **state)
{
	FILE *f = fopen("/usr/share/zoneinfo/tzdata.zi", "r");
	char line[256], name[128];
	size_t zones = 0;

	(void)state;
	if (!f)
		skip();
	while (fgets(line, sizeof(line), f)) {
		struct zone *z;

		if (sscanf(line, "Z %127s", name) != 1)
			continue;
		z = zone_get(name);
		if (!z)
			fail_msg("zone %s is not known", name);
		use_c_library_zone(name);
		for (int i = 0; i < 60; i++) {
			time_t t = (time_t)(random_below(180 * 366) * DAY_SECONDS + random_below(86400));
			struct tm tm;

			localtime_r(&t, &tm);
			if (zone_offset(z, t * US_PER_S) != tm.tm_gmtoff)
				fail_msg("%s at %lld: %d, the C library says %ld", name, (long long)t,
					 zone_offset(z, t * US_PER_S), tm.tm_gmtoff);
		}
		zones++;
	}
	fclose(f);
	assert_true(zones > 200);
}

/* A file with no changes of its own, only a footer. */
static void
write_zone(const char *path, const char *footer)
{
	static const unsigned char block[] =
		"TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"              /* header; no UT and standard flags, leap seconds */
		"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\4" /* or changes; 1 type, 4 letters */
		"\0\0\0\0\0\0XXX";
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	for (int i = 0; i < 2; i++)
		assert_int_equal(fwrite(block, 1, sizeof(block), f), sizeof(block));
	fprintf(f, "\n%s\n", footer);
	fclose(f);
}

/* The forms of a rule that no zone uses today, against the C library, which takes them as they are. */
static void
every_form_of_rule(void **state)
{
	static const char *const rules[] = { "AAA3BBB,J60/2,J300/2:30:30", "AAA-3BBB-4:30,59/0,299/-1",
					     "<+11>-11<+12>,M10.5.0/26,M2.1.6/-25", "EST5" };
	char folder[] = "/tmp/sluice-test-zones-XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(folder));
	setenv("TZDIR", folder, 1);
	for (size_t i = 0; i < COUNT(rules); i++) {
		char *name = xasprintf("Rule%zu", i), *path = xasprintf("%s/%s", folder, name);
		struct zone *z;

		write_zone(path, rules[i]);
		z = zone_get(name);
		assert_non_null(z);
		use_c_library_zone(rules[i]);
		for (time_t t = 365 * DAY_SECONDS; t < 150 * 365 * DAY_SECONDS; t += 17 * 1799) {
			struct tm tm;

			localtime_r(&t, &tm);
			if (zone_offset(z, t * US_PER_S) != tm.tm_gmtoff)
				fail_msg("%s at %lld: %d, the C library says %ld", rules[i], (long long)t,
					 zone_offset(z, t * US_PER_S), tm.tm_gmtoff);
		}
		unlink(path);
		free(name);
		free(path);
	}
	rmdir(folder);
	unsetenv("TZDIR");
}

static void
zone_names_are_checked(void **state)
{
	static const char *const bad[] = {
		"",        "Europe/Atlantis", "../../etc/passwd",    "/etc/localtime", "Europe",
		"Europe/", "zone.tab",        "right/Europe/Madrid", "Europe//Madrid", "Mars/Olympus Mons"
	};

	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++)
		if (zone_get(bad[i]))
			fail_msg("zone \"%s\" should not be known", bad[i]);
	assert_ptr_equal(zone_get("Europe/Madrid"), zone_get("Europe/Madrid"));
	assert_int_equal(zone_offset(zone_get("UTC"), at("2026-06-01")), 0);
	assert_int_equal(zone_offset(zone_get("Europe/Madrid"), at("2026-03-29T01:00:00Z") - 1), 3600);
	assert_int_equal(zone_offset(zone_get("Europe/Madrid"), at("2026-03-29T01:00:00Z")), 7200);
	assert_int_equal(zone_offset(zone_get("Asia/Kathmandu"), at("2026-06-01")), 20700);
}

/* The oracle: every minute of a year in a zone, by the C library, and sets of values instead of bits and text. */

#define YEAR_MINUTES (366 * 1440)
static int64_t minute_local[YEAR_MINUTES]; /* local minutes since 1970 */
static unsigned char local_seen[YEAR_MINUTES + 4 * 1440];

struct random_cron {
	char text[512];
	bool set[5][60];
	bool star[5];
};

static void
random_field(struct random_cron *r, int field, int low, int high)
{
	char *out = r->text + strlen(r->text);
	size_t room = sizeof(r->text) - strlen(r->text);
	int a = low + (int)random_below((uint32_t)(high - low + 1)), b = a + (int)random_below((uint32_t)(high - a + 1));
	int step = 1 + (int)random_below((uint32_t)(high - low));

	memset(r->set[field], 0, sizeof(r->set[field]));
	r->star[field] = false;
	switch (random_below(field < 2 ? 4 : 6)) {
	case 0:
		snprintf(out, room, "%d ", a);
		r->set[field][a] = true;
		break;
	case 1:
		snprintf(out, room, "%d-%d/%d ", a, b, step);
		for (int i = a; i <= b; i += step)
			r->set[field][i] = true;
		break;
	case 2:
		snprintf(out, room, "*/%d ", step);
		r->star[field] = true;
		for (int i = low; i <= high; i += step)
			r->set[field][i] = true;
		break;
	case 3:
		snprintf(out, room, "%d,%d ", b, a);
		r->set[field][a] = r->set[field][b] = true;
		break;
	default:
		snprintf(out, room, "* ");
		r->star[field] = true;
		for (int i = low; i <= high; i++)
			r->set[field][i] = true;
	}
}

static bool
oracle_matches(const struct random_cron *r, int64_t local)
{
	static int64_t known_day = -1;
	static struct tm tm;
	int64_t day = local / 1440;
	int minute = (int)(local % 1440);

	if (!r->set[0][minute % 60] || !r->set[1][minute / 60])
		return false;
	if (day != known_day) {
		time_t t = (time_t)(day * DAY_SECONDS);

		gmtime_r(&t, &tm);
		known_day = day;
	}
	if (!r->set[3][tm.tm_mon + 1])
		return false;
	if (r->star[2] || r->star[4])
		return r->set[2][tm.tm_mday] && r->set[4][tm.tm_wday];
	return r->set[2][tm.tm_mday] || r->set[4][tm.tm_wday];
}

/* Whether the policy lets minute `i` of the year run. */
static bool
oracle_runs(const struct random_cron *r, const struct schedule_def *s, int i)
{
	int64_t local = minute_local[i], base = minute_local[0] - 2 * 1440;
	bool every_hour = true;

	if (oracle_matches(r, local)) {
		unsigned seen = local_seen[local - base];

		if (seen == 1 || r->star[1] || s->repeat == REPEAT_BOTH)
			return true;
		/* the passes are at most two hours apart: is there an earlier one? */
		for (int back = 1; back <= 120 && back <= i; back++)
			if (minute_local[i - back] == local)
				return s->repeat == REPEAT_LAST;
		return s->repeat == REPEAT_FIRST;
	}
	for (int hour = 0; hour < 24; hour++)
		every_hour = every_hour && r->set[1][hour];
	if (i > 0 && s->gap == GAP_SHIFT && !every_hour)
		for (int64_t lost = minute_local[i - 1] + 1; lost < local; lost++)
			if (oracle_matches(r, lost))
				return true;
	return false;
}

static void
oracle_year(const char *zone, const char *from, int expressions)
{
	wall_us start = at(from), end = start + (wall_us)YEAR_MINUTES * US_PER_MIN;

	use_c_library_zone(zone);
	memset(local_seen, 0, sizeof(local_seen));
	for (int i = 0; i < YEAR_MINUTES; i++) {
		time_t t = (time_t)(start / US_PER_S) + (time_t)i * 60;
		struct tm tm;

		/* no zone changes its offset within a quarter of an hour */
		if (i % 15 == 0) {
			localtime_r(&t, &tm);
			minute_local[i] = (t + tm.tm_gmtoff) / 60;
		} else {
			minute_local[i] = minute_local[i - 1] + 1;
		}
		local_seen[minute_local[i] - minute_local[0] + 2 * 1440]++;
	}
	while (expressions--) {
		struct random_cron r = { .text = "" };
		struct schedule_def s;
		wall_us t, before = 0;

		random_field(&r, 0, 0, 59);
		random_field(&r, 1, 0, 23);
		random_field(&r, 2, 1, 31);
		random_field(&r, 3, 1, 12);
		random_field(&r, 4, 0, 6);
		s = schedule(r.text, zone);
		s.gap = (enum dst_gap)random_below(2);
		s.repeat = (enum dst_repeat)random_below(3);
		t = schedule_next(&s, start);
		for (int i = 1; i < YEAR_MINUTES; i++) {
			wall_us now = start + i * US_PER_MIN;

			if (!oracle_runs(&r, &s, i))
				continue;
			if (t != now)
				fail_msg("%s in %s, gap %d, repeat %d: next says %lld, the oracle %lld", r.text, zone, s.gap,
					 s.repeat, (long long)t / US_PER_S, (long long)now / US_PER_S);
			if (before && schedule_prev(&s, now - 1) != before)
				fail_msg("%s in %s, gap %d, repeat %d: prev of %lld is wrong", r.text, zone, s.gap, s.repeat,
					 (long long)now / US_PER_S);
			before = now;
			t = schedule_next(&s, t);
		}
		if (t && t < end)
			fail_msg("%s in %s: next says %lld, the oracle nothing more", r.text, zone, (long long)t / US_PER_S);
	}
}

static void
a_year_minute_by_minute(void **state)
{
	(void)state;
	oracle_year("Europe/Madrid", "2026-01-01", 15);
	oracle_year("America/New_York", "2027-06-01", 15);
	oracle_year("Australia/Lord_Howe", "2028-01-01", 15);
	oracle_year("America/Santiago", "2030-01-01", 15);
	oracle_year("Africa/Casablanca", "2026-01-01", 15);
	oracle_year("Europe/Dublin", "2044-01-01", 15);
	oracle_year("Asia/Kolkata", "2026-01-01", 5);
}

struct calls {
	size_t n;
	wall_us at[64];
};

static void
on_due(void *arg, wall_us t)
{
	struct calls *c = arg;

	assert_true(c->n < COUNT(c->at));
	c->at[c->n++] = t;
}

static void
catch_up(void **state)
{
	struct schedule_def s = schedule("0 * * * *", "UTC");
	wall_us handled, last = at("2026-11-18T10:00:00Z"), now = at("2026-11-21T10:30:00Z");
	struct calls c = { 0 };

	(void)state;
	/* never handled: nothing is late, from now on it counts */
	s.catchup = CATCHUP_ALL;
	assert_int_equal(schedule_due(&s, 0, now, 10, on_due, &c, &handled), 0);
	assert_int_equal(handled, now);

	/* three days down: none */
	s.catchup = CATCHUP_NONE;
	assert_int_equal(schedule_due(&s, last, now, 10, on_due, &c, &handled), 0);
	assert_int_equal(handled, at("2026-11-21T10:00:00Z"));
	/* none, but on time, and the timer came a little late */
	assert_int_equal(schedule_due(&s, last, at("2026-11-21T10:00:02Z"), 10, on_due, &c, &handled), 1);
	assert_int_equal(c.at[0], at("2026-11-21T10:00:00Z"));
	assert_int_equal(handled, c.at[0]);
	assert_int_equal(schedule_due(&s, handled, at("2026-11-21T10:00:30Z"), 10, on_due, &c, &handled), 0);
	assert_int_equal(handled, c.at[0]);
	assert_int_equal(schedule_due(&s, last, at("2026-11-21T10:01:01Z"), 10, on_due, &c, &handled), 0);

	/* last: one run for the newest time, once */
	c.n = 0;
	s.catchup = CATCHUP_LAST;
	assert_int_equal(schedule_due(&s, last, now, 10, on_due, &c, &handled), 1);
	assert_int_equal(c.at[0], at("2026-11-21T10:00:00Z"));
	assert_int_equal(handled, c.at[0]);
	assert_int_equal(schedule_next(&s, handled), at("2026-11-21T11:00:00Z"));
	assert_int_equal(schedule_due(&s, handled, now + US_PER_MIN, 10, on_due, &c, &handled), 0);
	s.catchup_window = 10 * US_PER_MIN;
	assert_int_equal(schedule_due(&s, last, now, 10, on_due, &c, &handled), 0);
	assert_int_equal(handled, at("2026-11-21T10:00:00Z"));
	s.catchup_window = 0;

	/* all: the window's 24 times, ten a go, oldest first, each once */
	c.n = 0;
	s.catchup = CATCHUP_ALL;
	assert_int_equal(schedule_due(&s, last, now, 10, on_due, &c, &handled), 10);
	assert_int_equal(handled, at("2026-11-20T20:00:00Z"));
	assert_true(schedule_next(&s, handled) <= now); /* ask again at once */
	assert_int_equal(schedule_due(&s, handled, now, 10, on_due, &c, &handled), 10);
	assert_int_equal(schedule_due(&s, handled, now, 10, on_due, &c, &handled), 4);
	assert_int_equal(handled, at("2026-11-21T10:00:00Z"));
	assert_int_equal(c.n, 24);
	for (size_t i = 0; i < c.n; i++)
		assert_int_equal(c.at[i], at("2026-11-20T11:00:00Z") + (wall_us)i * US_PER_HOUR);
	assert_int_equal(schedule_due(&s, handled, now, 10, on_due, &c, &handled), 0);
	assert_int_equal(schedule_due(&s, last, now, 0, on_due, &c, &handled), 0);
	assert_int_equal(handled, last);
	s.catchup_window = 2 * US_PER_HOUR;
	c.n = 0;
	assert_int_equal(schedule_due(&s, last, at("2026-11-21T10:00:00Z"), 10, on_due, &c, &handled), 3); /* 8, 9 and 10 */

	/* a clock set back: nothing twice; disabled: nothing, and nothing later either */
	assert_int_equal(schedule_due(&s, now, now - US_PER_DAY, 10, on_due, &c, &handled), 0);
	assert_int_equal(handled, now);
	s.enabled = false;
	assert_int_equal(schedule_due(&s, last, now, 10, on_due, &c, &handled), 0);
	assert_int_equal(handled, at("2026-11-21T10:00:00Z"));
}

static void
catch_up_over_a_repeated_hour(void **state)
{
	struct schedule_def s = schedule("30 2 * * *", "Europe/Madrid");
	struct calls c = { 0 };
	wall_us handled;

	(void)state;
	s.catchup = CATCHUP_ALL;
	s.catchup_window = 30 * US_PER_DAY;
	s.repeat = REPEAT_BOTH;
	assert_int_equal(schedule_due(&s, at("2026-10-24T12:00:00Z"), at("2026-10-26T12:00:00Z"), 10, on_due, &c, &handled), 3);
	assert_int_equal(c.at[0], at("2026-10-25T00:30:00Z"));
	assert_int_equal(c.at[1], at("2026-10-25T01:30:00Z"));
	assert_int_equal(c.at[2], at("2026-10-26T01:30:00Z"));
}

static void
a_year_down_with_a_schedule_of_every_second_is_quick(void **state)
{
	struct schedule_def s = schedule("* * * * * *", "Europe/Madrid");
	struct calls c = { 0 };
	wall_us handled;

	(void)state;
	s.catchup = CATCHUP_LAST;
	assert_int_equal(schedule_due(&s, at("2025-01-01"), at("2026-01-01"), 10, on_due, &c, &handled), 1);
	s.catchup = CATCHUP_ALL;
	s.catchup_window = 365 * US_PER_DAY;
	assert_int_equal(schedule_due(&s, at("2025-01-01"), at("2026-01-01"), 10, on_due, &c, &handled), 10);
	assert_int_equal(handled, at("2025-01-01T00:00:10Z"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_name_the_field),
		cmocka_unit_test(expressions_mean_the_same),
		cmocka_unit_test(calendar_corners),
		cmocka_unit_test(next_is_strictly_after_and_prev_is_not),
		cmocka_unit_test(start_and_end_bound_the_times),
		cmocka_unit_test(dst_days),
		cmocka_unit_test(minutely_is_every_five_real_minutes),
		cmocka_unit_test(offsets_agree_with_the_c_library),
		cmocka_unit_test(every_form_of_rule),
		cmocka_unit_test(zone_names_are_checked),
		cmocka_unit_test(a_year_minute_by_minute),
		cmocka_unit_test(catch_up),
		cmocka_unit_test(catch_up_over_a_repeated_hour),
		cmocka_unit_test(a_year_down_with_a_schedule_of_every_second_is_quick),
	};

	return cmocka_run_group_tests_name("schedule", tests, NULL, NULL);
}
