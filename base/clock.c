#include "clock.h"

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

int
time_parse(const char *text, wall_us *out)
{
	struct tm tm = { 0 };
	int used = 0, y, mo, d, h = 0, mi = 0, s = 0;
	int64_t us = 0, offset = 0;

	if (sscanf(text, "%4d-%2d-%2d%n", &y, &mo, &d, &used) != 3 || used != 10)
		return -1;
	text += used;
	if (*text) {
		if (*text != 'T' && *text != ' ' && *text != 't')
			return -1;
		text++;
		used = 0;
		if (sscanf(text, "%2d:%2d%n", &h, &mi, &used) != 2 || used != 5)
			return -1;
		text += used;
		if (*text == ':') {
			used = 0;
			if (sscanf(text, ":%2d%n", &s, &used) != 1 || used != 3)
				return -1;
			text += used;
		}
		if (*text == '.') {
			int64_t unit = 100000;

			for (text++; *text >= '0' && *text <= '9'; text++, unit /= 10)
				us += (*text - '0') * unit;
		}
		if (*text == 'Z' || *text == 'z') {
			text++;
		} else if (*text == '+' || *text == '-') {
			int sign = *text == '-' ? -1 : 1, oh, om = 0;

			used = 0;
			if (sscanf(text + 1, "%2d:%2d%n", &oh, &om, &used) != 2 || used != 5)
				return -1;
			text += 1 + used;
			offset = sign * (oh * 3600 + om * 60);
		}
		if (*text)
			return -1;
	}
	if (mo < 1 || mo > 12 || d < 1 || d > 31 || h < 0 || h > 24 || mi < 0 || mi > 59 || s < 0 || s > 60)
		return -1;
	tm.tm_year = y - 1900;
	tm.tm_mon = mo - 1;
	tm.tm_mday = d;
	tm.tm_hour = h;
	tm.tm_min = mi;
	tm.tm_sec = s;
	*out = ((wall_us)timegm(&tm) - offset) * US_PER_S + us;
	return tm.tm_mday == d || h == 24 ? 0 : -1; /* timegm normalises 31 February away */
}
