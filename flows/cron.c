/* Cron expressions: text to bit sets, and bit sets to the next and the previous match on the local calendar. */
#include "cron.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "flows/calendar.h"

#define CRON_TEXT_MAX 256

struct cron_field {
	const char *name;
	int min, max;
	const char *const *words; /* of min, min + 1, …; NULL-terminated */
};

static const char *const month_words[] = { "jan", "feb", "mar", "apr", "may", "jun", "jul",
					   "aug", "sep", "oct", "nov", "dec", NULL };
static const char *const day_words[] = { "sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL };

enum { F_SECOND, F_MINUTE, F_HOUR, F_DOM, F_MONTH, F_DOW, F_COUNT };
static const struct cron_field cron_fields[F_COUNT] = {
	[F_SECOND] = { "second", 0, 59, NULL },      [F_MINUTE] = { "minute", 0, 59, NULL },
	[F_HOUR] = { "hour", 0, 23, NULL },          [F_DOM] = { "day of month", 1, 31, NULL },
	[F_MONTH] = { "month", 1, 12, month_words }, [F_DOW] = { "day of week", 0, 7, day_words }, /* 0 and 7 are Sunday */
};

static const struct {
	const char *name, *text;
} cron_presets[] = {
	{ "@hourly", "0 * * * *" },  { "@daily", "0 0 * * *" },  { "@midnight", "0 0 * * *" }, { "@weekly", "0 0 * * 0" },
	{ "@monthly", "0 0 1 * *" }, { "@yearly", "0 0 1 1 *" }, { "@annually", "0 0 1 1 *" },
};

static int
cron_value(const char **p, const struct cron_field *f, int *out, struct err *e)
{
	size_t letters = strspn(*p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
	size_t digits = strspn(*p, "0123456789");

	if (letters) {
		for (int i = 0; f->words && f->words[i]; i++) {
			if (letters == 3 && strncasecmp(*p, f->words[i], 3) == 0) {
				*out = f->min + i;
				*p += 3;
				return 0;
			}
		}
		return err_set(e, ERR_INVALID, "%s \"%.*s\" is not known%s%s", f->name, (int)letters, *p,
			       f->words ? "; use a number or " : "",
			       f->words == month_words ? "jan to dec"
			       : f->words              ? "sun to sat"
						       : "");
	}
	if (!digits)
		return err_set(e, ERR_INVALID, "%s: a number%s is expected %s%s%s", f->name, f->words ? " or a name" : "",
			       **p ? "at \"" : "at its end", *p, **p ? "\"" : "");
	*out = digits > 6 ? 999999 : atoi(*p);
	if (*out < f->min || *out > f->max)
		return err_set(e, ERR_INVALID, "%s %.*s is outside %d-%d", f->name, (int)digits, *p, f->min, f->max);
	*p += digits;
	return 0;
}

/* One item of a list: a star, a value or a range, each with an optional step. */
static int
cron_item(const char **p, const struct cron_field *f, uint64_t *bits, struct err *e)
{
	int low = f->min, high = f->max, step = 1, rc;
	bool open = **p == '*'; /* a step then runs up to the field's maximum */
	const char *start = *p;

	if (open) {
		(*p)++;
		high = f->max == 7 ? 6 : f->max;
	} else {
		rc = cron_value(p, f, &low, e);
		if (rc)
			return rc;
		high = low;
		if (**p == '-') {
			(*p)++;
			rc = cron_value(p, f, &high, e);
			if (rc)
				return rc;
			if (f->max == 7 && high == 0 && low > 0) /* fri-sun */
				high = 7;
		} else if (**p == '/') {
			high = f->max == 7 ? 6 : f->max; /* 5/15 is 5-59/15 */
		}
		if (high < low)
			return err_set(e, ERR_INVALID, "%s range %.*s runs backwards; write two ranges with a comma between them",
				       f->name, (int)(*p - start), start);
	}
	if (**p == '/') {
		const char *text = ++*p;
		size_t digits = strspn(text, "0123456789");

		step = digits > 6 ? 999999 : atoi(text);
		if (!digits || step < 1 || step > f->max - f->min)
			return err_set(e, ERR_INVALID, "%s step \"%.*s\" is outside 1-%d", f->name, (int)strcspn(text, ","), text,
				       f->max - f->min);
		*p += digits;
	}
	for (int i = low; i <= high; i += step)
		*bits |= UINT64_C(1) << i;
	return 0;
}

static int
cron_field_parse(const char *text, const struct cron_field *f, uint64_t *bits, struct err *e)
{
	const char *p = text;
	int rc;

	*bits = 0;
	do {
		rc = cron_item(&p, f, bits, e);
		if (rc)
			return rc;
	} while (*p++ == ',');
	if (p[-1])
		return err_set(e, ERR_INVALID, "%s: \"%s\" is not understood after \"%.*s\"", f->name, p - 1, (int)(p - 1 - text),
			       text);
	return 0;
}

static int
cron_fields_parse(char *text, struct cron *out, struct err *e)
{
	char *parts[F_COUNT + 1], *save = NULL;
	uint64_t bits[F_COUNT] = { 1, 0, 0, 0, 0, 0 };
	int n = 0, first, rc;

	for (char *p = strtok_r(text, " \t", &save); p && n <= F_COUNT; p = strtok_r(NULL, " \t", &save))
		parts[n++] = p;
	if (n < 5 || n > F_COUNT)
		return err_set(e, ERR_INVALID,
			       "it has %s%d field%s; a cron expression has 5 (minute, hour, day of month, month, day of week), "
			       "or 6 with the second in front",
			       n > F_COUNT ? "more than " : "", n > F_COUNT ? F_COUNT : n, n == 1 ? "" : "s");
	first = F_COUNT - n;
	for (int i = first; i < F_COUNT; i++) {
		rc = cron_field_parse(parts[i - first], &cron_fields[i], &bits[i], e);
		if (rc)
			return rc;
	}
	out->second = bits[F_SECOND];
	out->minute = bits[F_MINUTE];
	out->hour = (uint32_t)bits[F_HOUR];
	out->dom = (uint32_t)bits[F_DOM];
	out->month = (uint32_t)bits[F_MONTH];
	out->dow = (uint32_t)((bits[F_DOW] & 0x7f) | bits[F_DOW] >> 7);
	out->has_seconds = first == F_SECOND;
	out->hour_star = parts[F_HOUR - first][0] == '*';
	out->dom_star = parts[F_DOM - first][0] == '*';
	out->dow_star = parts[F_DOW - first][0] == '*';
	return 0;
}

int
cron_parse(const char *text, struct cron *out, struct err *e)
{
	char *copy;
	int rc;

	memset(out, 0, sizeof(*out));
	if (strlen(text) > CRON_TEXT_MAX)
		return err_set(e, ERR_INVALID, "cron: the expression is longer than %d characters", CRON_TEXT_MAX);
	copy = xstrdup(text);
	if (text[0] == '@') {
		free(copy);
		copy = NULL;
		for (size_t i = 0; i < sizeof(cron_presets) / sizeof(cron_presets[0]); i++)
			if (strcasecmp(text, cron_presets[i].name) == 0)
				copy = xstrdup(cron_presets[i].text);
		if (!copy)
			return err_set(
				e, ERR_INVALID,
				"cron \"%s\": no such preset; there are @hourly, @daily (@midnight), @weekly, @monthly and "
				"@yearly (@annually)",
				text);
	}
	rc = cron_fields_parse(copy, out, e);
	if (rc)
		err_prefix(e, "cron \"%s\"", text);
	free(copy);
	return rc;
}

/* Matching. Days are tried one by one (a month that cannot match is jumped over); the time of day comes from the bit sets. */

static bool
cron_day_matches(const struct cron *c, int64_t days, int day)
{
	bool dom = c->dom >> day & 1, dow = c->dow >> weekday_of(days) & 1;

	/* The classic rule: when both are restricted either may match; a field that starts with a star restricts by "and". */
	return c->dom_star || c->dow_star ? dom && dow : dom || dow;
}

/* The lowest set bit at or above `from`, or -1. */
static int
bit_up(uint64_t bits, int from)
{
	bits = from < 64 ? bits >> from << from : 0;
	return bits ? __builtin_ctzll(bits) : -1;
}

/* The highest set bit at or below `from`, or -1. */
static int
bit_down(uint64_t bits, int from)
{
	bits = from < 0 ? 0 : bits & (~UINT64_C(0) >> (63 - from));
	return bits ? 63 - __builtin_clzll(bits) : -1;
}

/* The first matching second of the day at or after `sod`, or -1. */
static int
cron_time_up(const struct cron *c, int sod)
{
	int h = sod / 3600, m = sod / 60 % 60, s = bit_up(c->second, sod % 60);
	int hour = bit_up(c->hour, h);

	if (hour == h) {
		int minute = bit_up(c->minute, m);

		if (minute == m && s >= 0)
			return h * 3600 + m * 60 + s;
		if (minute == m)
			minute = bit_up(c->minute, m + 1);
		if (minute >= 0)
			return h * 3600 + minute * 60 + bit_up(c->second, 0);
		hour = bit_up(c->hour, h + 1);
	}
	return hour < 0 ? -1 : hour * 3600 + bit_up(c->minute, 0) * 60 + bit_up(c->second, 0);
}

/* The last matching second of the day at or before `sod`, or -1. */
static int
cron_time_down(const struct cron *c, int sod)
{
	int h = sod / 3600, m = sod / 60 % 60, s = bit_down(c->second, sod % 60);
	int hour = bit_down(c->hour, h);

	if (hour == h) {
		int minute = bit_down(c->minute, m);

		if (minute == m && s >= 0)
			return h * 3600 + m * 60 + s;
		if (minute == m)
			minute = bit_down(c->minute, m - 1);
		if (minute >= 0)
			return h * 3600 + minute * 60 + bit_down(c->second, 59);
		hour = bit_down(c->hour, h - 1);
	}
	return hour < 0 ? -1 : hour * 3600 + bit_down(c->minute, 59) * 60 + bit_down(c->second, 59);
}

int64_t
cron_next_local(const struct cron *c, int64_t from, int64_t until)
{
	int64_t day = floor_div(from, DAY_SECONDS), last = floor_div(until - 1, DAY_SECONDS);
	int sod = (int)(from - day * DAY_SECONDS);

	if (from >= until)
		return CRON_NONE;
	while (day <= last) {
		int year, month, dom, time = -1;

		civil_from_days(day, &year, &month, &dom);
		if (!(c->month >> month & 1)) {
			day += days_in_month(year, month) - dom + 1;
			sod = 0;
			continue;
		}
		if (cron_day_matches(c, day, dom))
			time = cron_time_up(c, sod);
		if (time >= 0)
			return day * DAY_SECONDS + time < until ? day * DAY_SECONDS + time : CRON_NONE;
		day++;
		sod = 0;
	}
	return CRON_NONE;
}

int64_t
cron_prev_local(const struct cron *c, int64_t from, int64_t until)
{
	int64_t first = floor_div(from, DAY_SECONDS), day = floor_div(until - 1, DAY_SECONDS);
	int sod = (int)(until - 1 - day * DAY_SECONDS);

	if (from >= until)
		return CRON_NONE;
	while (day >= first) {
		int year, month, dom, time = -1;

		civil_from_days(day, &year, &month, &dom);
		if (!(c->month >> month & 1)) {
			day -= dom;
			sod = DAY_SECONDS - 1;
			continue;
		}
		if (cron_day_matches(c, day, dom))
			time = cron_time_down(c, sod);
		if (time >= 0)
			return day * DAY_SECONDS + time >= from ? day * DAY_SECONDS + time : CRON_NONE;
		day--;
		sod = DAY_SECONDS - 1;
	}
	return CRON_NONE;
}
