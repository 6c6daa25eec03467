/*
 * Time is typed and read once a turn. wall_us counts microseconds since 1970 UTC and may jump; mono_us never goes
 * back; dur_us is a length. Pure code takes `now` as an argument and reads no clock.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

typedef int64_t wall_us;
typedef int64_t mono_us;
typedef int64_t dur_us;

#define US_PER_MS   ((dur_us)1000)
#define US_PER_S    ((dur_us)1000000)
#define US_PER_MIN  (60 * US_PER_S)
#define US_PER_HOUR (60 * US_PER_MIN)
#define US_PER_DAY  (24 * US_PER_HOUR)

wall_us clock_wall(void);
mono_us clock_mono(void);

/* Room for time_format's result. */
#define TIME_TEXT 32
/* RFC 3339 in UTC with microseconds, "2026-11-21T06:00:00.000000Z"; returns `out`. */
const char *time_format(wall_us t, char out[TIME_TEXT]);
/* Parses RFC 3339 (date, 'T' or blank, time, optional fraction, 'Z' or offset; a bare date is midnight UTC). 0 or -1. */
int time_parse(const char *text, wall_us *out);
/* The same, or "2h ago" (s, m, h, d, w) before `now`. */
int time_parse_at(const char *text, wall_us now, wall_us *out);

#endif
