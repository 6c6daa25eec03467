/*
 * Time zones, read from the system's TZif files (RFC 8536, versions 1 to 4) into one sorted list of offset changes.
 *
 * A file lists the changes up to some year and ends in a rule like "CET-1CEST,M3.5.0,M10.5.0/3" for the years after it.
 * The rule is written out once, up to LAST_YEAR, so that every later question is a binary search with no special case.
 *
 * Not libical: it makes recurrence rules of the file, and those go wrong after 2037 where a rule is unusual (3.0.16:
 * Australia/Lord_Howe, Africa/Cairo); nor does it answer what a schedule asks: how long does this offset last? Not
 * localtime_r: it knows one zone, from the environment. The tests compare with it.
 */
#include "zone.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "flows/calendar.h"
#include "flows/schedule.h"

#define ZONE_FILE_MAX (1 << 20)
#define LAST_YEAR     2400 /* the rules of the Gregorian calendar repeat after 400 years; nobody schedules beyond */

struct zone_change {
	int64_t at;
	int32_t offset; /* from here on */
};

struct zone {
	struct zone *next;
	char *name;
	int32_t first_offset; /* before the first change */
	size_t count, cap;
	struct zone_change *changes;
};

/* One end of daylight saving time, as the footer writes it. */
struct rule_date {
	enum { RULE_JULIAN, RULE_DAY, RULE_WEEKDAY } kind; /* Jn (no 29 February), n (from 0), Mm.w.d */
	int month, week, day;
	int64_t time; /* seconds after local midnight; may be negative or beyond a day */
};

struct rule {
	int32_t std, dst; /* seconds east */
	bool has_dst;
	struct rule_date start, end;
};

/* Zones live as long as the process: schedules borrow them, and there are few. */
static struct zone *zone_cache;

static void
zone_add(struct zone *z, int64_t at, int32_t offset)
{
	int32_t before = z->count ? z->changes[z->count - 1].offset : z->first_offset;

	if (before == offset) /* only the name or the "is DST" flag changes */
		return;
	if (z->count == z->cap) {
		z->cap = z->cap ? z->cap * 2 : 64;
		z->changes = xrealloc(z->changes, z->cap * sizeof(*z->changes));
	}
	z->changes[z->count++] = (struct zone_change){ at, offset };
}

/* The rule of the footer */

static bool
rule_number(const char **p, int *out)
{
	const char *s = *p;
	int n = 0;

	while (*s >= '0' && *s <= '9' && n < 100000)
		n = n * 10 + (*s++ - '0');
	if (s == *p)
		return false;
	*p = s;
	*out = n;
	return true;
}

static bool
rule_name(const char **p)
{
	const char *s = *p;

	if (*s == '<') {
		s = strchr(s, '>');
		if (!s)
			return false;
		*p = s + 1;
		return true;
	}
	while ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z'))
		s++;
	if (s - *p < 3)
		return false;
	*p = s;
	return true;
}

/* [+-]h[:m[:s]] */
static bool
rule_time(const char **p, int64_t *out)
{
	int sign = 1, n;
	int64_t unit = 3600;

	if (**p == '-' || **p == '+')
		sign = *(*p)++ == '-' ? -1 : 1;
	if (!rule_number(p, &n) || n > 167)
		return false;
	*out = n * unit;
	while (**p == ':' && unit > 1) {
		(*p)++;
		unit /= 60;
		if (!rule_number(p, &n) || n > 59)
			return false;
		*out += n * unit;
	}
	*out *= sign;
	return true;
}

static bool
rule_date(const char **p, struct rule_date *d)
{
	if (*(*p)++ != ',')
		return false;
	d->time = 2 * 3600;
	if (**p == 'M') {
		d->kind = RULE_WEEKDAY;
		(*p)++;
		if (!rule_number(p, &d->month) || d->month < 1 || d->month > 12 || *(*p)++ != '.')
			return false;
		if (!rule_number(p, &d->week) || d->week < 1 || d->week > 5 || *(*p)++ != '.')
			return false;
		if (!rule_number(p, &d->day) || d->day > 6)
			return false;
	} else {
		d->kind = **p == 'J' ? RULE_JULIAN : RULE_DAY;
		*p += **p == 'J';
		if (!rule_number(p, &d->day) || d->day > 365 || (d->kind == RULE_JULIAN && d->day < 1))
			return false;
	}
	if (**p == '/') {
		(*p)++;
		return rule_time(p, &d->time);
	}
	return true;
}

static bool
rule_parse(const char *p, struct rule *r)
{
	int64_t west;

	memset(r, 0, sizeof(*r));
	if (!rule_name(&p) || !rule_time(&p, &west)) /* POSIX counts west of Greenwich */
		return false;
	r->std = (int32_t)-west;
	if (!*p)
		return true;
	if (!rule_name(&p))
		return false;
	r->dst = r->std + 3600;
	if (*p && *p != ',') {
		if (!rule_time(&p, &west))
			return false;
		r->dst = (int32_t)-west;
	}
	r->has_dst = true;
	return rule_date(&p, &r->start) && rule_date(&p, &r->end) && !*p;
}

/* Local seconds, in the offset that is in force before the change. */
static int64_t
rule_local(const struct rule_date *d, int year)
{
	int64_t day = days_from_civil(year, 1, 1);

	if (d->kind == RULE_WEEKDAY) {
		int64_t first = days_from_civil(year, d->month, 1);
		int skip = (d->day - weekday_of(first) + 7) % 7 + (d->week - 1) * 7;

		while (skip >= days_in_month(year, d->month)) /* week 5 is "the last one" */
			skip -= 7;
		day = first + skip;
	} else if (d->kind == RULE_DAY) {
		day += d->day;
	} else {
		day += d->day - 1 + (d->day > 59 && is_leap_year(year));
	}
	return day * DAY_SECONDS + d->time;
}

static void
zone_extend(struct zone *z, const struct rule *r, int64_t after)
{
	int year, month, day;

	if (!r->has_dst) {
		if (after != INT64_MIN)
			zone_add(z, after, r->std);
		else
			z->first_offset = r->std;
		return;
	}
	if (after == INT64_MIN) {
		z->first_offset = r->std;
		after = days_from_civil(1900, 1, 1) * DAY_SECONDS;
	}
	civil_from_days(floor_div(after, DAY_SECONDS), &year, &month, &day);
	for (year--; year <= LAST_YEAR; year++) {
		struct zone_change start = { rule_local(&r->start, year) - r->std, r->dst };
		struct zone_change end = { rule_local(&r->end, year) - r->dst, r->std };
		bool north = start.at <= end.at;

		if ((north ? start : end).at > after)
			zone_add(z, (north ? start : end).at, (north ? start : end).offset);
		if ((north ? end : start).at > after)
			zone_add(z, (north ? end : start).at, (north ? end : start).offset);
	}
}

/* The file */

static int64_t
big_endian(const unsigned char *p, int bytes)
{
	uint64_t v = p[0] & 0x80 ? ~UINT64_C(0) : 0;

	for (int i = 0; i < bytes; i++)
		v = v << 8 | p[i];
	return (int64_t)v;
}

#define TZIF_HEADER 44
struct tzif {
	size_t isut, isstd, leap, time, type, chars;
};

/* Reads one header and returns the size of the block after it, or 0 when the data cannot be right. */
static size_t
tzif_header(const unsigned char *p, size_t len, int width, struct tzif *h)
{
	size_t *fields[] = { &h->isut, &h->isstd, &h->leap, &h->time, &h->type, &h->chars };
	size_t size;

	if (len < TZIF_HEADER || memcmp(p, "TZif", 4) != 0)
		return 0;
	for (size_t i = 0; i < 6; i++) {
		*fields[i] = (uint32_t)big_endian(p + 20 + 4 * i, 4);
		if (*fields[i] > ZONE_FILE_MAX)
			return 0;
	}
	size = h->time * ((size_t)width + 1) + h->type * 6 + h->chars + h->leap * ((size_t)width + 4) + h->isstd + h->isut;
	return h->type && size <= len - TZIF_HEADER ? size : 0;
}

static bool
tzif_parse(struct zone *z, const unsigned char *p, size_t len)
{
	int width = 4;
	struct tzif h;
	size_t size = tzif_header(p, len, width, &h);
	const unsigned char *index, *types;
	int64_t last = INT64_MIN;
	struct rule rule;

	if (!size)
		return false;
	if (p[4] >= '2') { /* the same again with 64-bit times, then the footer */
		p += TZIF_HEADER + size;
		len -= TZIF_HEADER + size;
		width = 8;
		size = tzif_header(p, len, width, &h);
		if (!size)
			return false;
	}
	if (h.leap) /* the "right/" zones count leap seconds; our clock does not */
		return false;
	p += TZIF_HEADER;
	len -= TZIF_HEADER;
	index = p + h.time * (size_t)width;
	types = index + h.time;
	z->first_offset = (int32_t)big_endian(types, 4);
	for (size_t i = 0; i < h.time; i++) {
		int64_t at = big_endian(p + i * (size_t)width, width);

		if (index[i] >= h.type || (i && at <= last))
			return false;
		last = at;
		zone_add(z, at, (int32_t)big_endian(types + 6 * index[i], 4));
	}
	/* The buffer ends in a zero byte, so the footer is a C string. */
	if (width == 8 && len > size + 2 && p[size] == '\n') {
		char *footer = xstrndup((const char *)p + size + 1, len - size - 2);

		if (rule_parse(footer, &rule))
			zone_extend(z, &rule, last);
		free(footer);
	}
	return true;
}

/* Letters, digits, '_', '+', '-' in parts divided by '/': no name can leave the folder. */
static bool
zone_name_ok(const char *name)
{
	size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-/");

	return len && !name[len] && len < 64 && name[0] != '/' && name[len - 1] != '/' && !strstr(name, "//");
}

static bool
zone_load(struct zone *z)
{
	struct buf file = BUF_INIT_MAX(ZONE_FILE_MAX);
	const char *folder = getenv("TZDIR");
	char *path;
	bool ok;

	if (strcmp(z->name, "UTC") == 0 || strcmp(z->name, "Etc/UTC") == 0) /* also where no zone files are installed */
		return true;
	path = xasprintf("%s/%s", folder && *folder ? folder : "/usr/share/zoneinfo", z->name);
	ok = buf_add_file(&file, path) == 0 && tzif_parse(z, (const unsigned char *)file.s, file.len);
	free(path);
	buf_release(&file);
	return ok;
}

struct zone *
zone_get(const char *name)
{
	struct zone *z;

	for (z = zone_cache; z; z = z->next)
		if (strcmp(z->name, name) == 0)
			return z;
	if (!zone_name_ok(name))
		return NULL;
	z = xcalloc(1, sizeof(*z));
	z->name = xstrdup(name);
	if (!zone_load(z)) {
		free(z->changes);
		free(z->name);
		free(z);
		return NULL;
	}
	z->next = zone_cache;
	zone_cache = z;
	return z;
}

struct zone_span
zone_span_at(const struct zone *z, int64_t second)
{
	size_t low = 0, high = z->count; /* the number of changes at or before `second` lies between them */

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (z->changes[mid].at <= second)
			low = mid + 1;
		else
			high = mid;
	}
	return (struct zone_span){
		.from = low ? z->changes[low - 1].at : INT64_MIN,
		.until = low < z->count ? z->changes[low].at : INT64_MAX,
		.offset = low ? z->changes[low - 1].offset : z->first_offset,
	};
}

int
zone_offset(struct zone *z, wall_us t)
{
	return zone_span_at(z, floor_div(t, US_PER_S)).offset;
}
