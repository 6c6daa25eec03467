#include "clock.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

wall_us
clock_wall(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (wall_us)ts.tv_sec * US_PER_S + ts.tv_nsec / 1000;
}

mono_us
clock_mono(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (mono_us)ts.tv_sec * US_PER_S + ts.tv_nsec / 1000;
}

const char *
time_format(wall_us t, char out[TIME_TEXT])
{
	int64_t us = t % US_PER_S;
	time_t s = (time_t)(t / US_PER_S);
	struct tm tm;
	size_t n;

	if (us < 0) {
		us += US_PER_S;
		s--;
	}
	gmtime_r(&s, &tm);
	n = strftime(out, TIME_TEXT, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, TIME_TEXT - n, ".%06dZ", (int)us);
	return out;
}

/* Reads exactly `n` digits; scanf would take blanks and signs as well. */
static bool
read_digits(const char **p, int n, int low, int high, int *out)
{
	int v = 0;

	for (int i = 0; i < n; i++, (*p)++) {
		if (**p < '0' || **p > '9')
			return false;
		v = v * 10 + (**p - '0');
	}
	*out = v;
	return v >= low && v <= high;
}

static bool
read_char(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

/* "hh:mm", then if there ":ss", ".fraction" and a zone. */
static bool
read_time_of_day(const char *p, struct tm *tm, int64_t *us, int64_t *offset)
{
	int oh, om;

	if (!read_digits(&p, 2, 0, 24, &tm->tm_hour) || !read_char(&p, ':') || !read_digits(&p, 2, 0, 59, &tm->tm_min))
		return false;
	if (read_char(&p, ':')) {
		if (!read_digits(&p, 2, 0, 60, &tm->tm_sec)) /* 60 is a leap second: the next minute's first */
			return false;
		if (read_char(&p, '.')) {
			if (*p < '0' || *p > '9')
				return false;
			for (int64_t unit = 100000; *p >= '0' && *p <= '9'; p++, unit /= 10)
				*us += (*p - '0') * unit;
		}
	}
	if (tm->tm_hour == 24 && (tm->tm_min || tm->tm_sec || *us))
		return false;
	if (*p == '+' || *p == '-') {
		int sign = *p++ == '-' ? -1 : 1;

		if (!read_digits(&p, 2, 0, 23, &oh) || !read_char(&p, ':') || !read_digits(&p, 2, 0, 59, &om))
			return false;
		*offset = sign * (oh * 3600 + om * 60);
	} else if (*p == 'Z' || *p == 'z') {
		p++;
	}
	return *p == '\0';
}

int
time_parse(const char *text, wall_us *out)
{
	struct tm tm = { 0 }, date;
	int y, mo, d;
	int64_t us = 0, offset = 0;
	const char *p = text;

	if (!read_digits(&p, 4, 0, 9999, &y) || !read_char(&p, '-') || !read_digits(&p, 2, 1, 12, &mo) || !read_char(&p, '-') ||
	    !read_digits(&p, 2, 1, 31, &d))
		return -1;
	tm.tm_year = y - 1900;
	tm.tm_mon = mo - 1;
	tm.tm_mday = d;
	date = tm;
	timegm(&date);
	if (date.tm_mday != d) /* timegm normalises 31 February away */
		return -1;
	if (*p) {
		if (*p != 'T' && *p != ' ' && *p != 't')
			return -1;
		if (!read_time_of_day(p + 1, &tm, &us, &offset))
			return -1;
	}
	*out = ((wall_us)timegm(&tm) - offset) * US_PER_S + us;
	return 0;
}

/* "2h ago": how long ago that was; false when the text is no such thing. */
static bool
read_ago(const char *text, dur_us *out)
{
	static const struct {
		char letter;
		dur_us unit;
	} units[] = {
		{ 's', US_PER_S }, { 'm', US_PER_MIN }, { 'h', US_PER_HOUR }, { 'd', US_PER_DAY }, { 'w', 7 * US_PER_DAY }
	};
	char *end;
	long n = strtol(text, &end, 10);

	if (end == text || n < 0 || n > 1000000)
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (*end == units[i].letter && strcmp(end + 1, " ago") == 0) {
			*out = n * units[i].unit;
			return true;
		}
	return false;
}

int
time_parse_at(const char *text, wall_us now, wall_us *out)
{
	dur_us ago;

	if (!read_ago(text, &ago))
		return time_parse(text, out);
	*out = now - ago;
	return 0;
}
