#include "tasks/iceberg/values.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CUT 16 /* characters or bytes of a bound, as other writers cut it */

static void
add_little(struct buf *out, uint64_t v, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		buf_addc(out, (char)(v >> (8 * i)));
}

/* ---- dates and times ---- */

static int64_t
days_from_civil(int64_t y, int64_t m, int64_t d)
{
	int64_t era, yoe, doy;

	y -= m <= 2;
	era = (y >= 0 ? y : y - 399) / 400;
	yoe = y - era * 400;
	doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

/* "2024-02-29"; what follows through `rest`. */
static bool
parse_date(const char *s, int64_t *days, const char **rest)
{
	int y, m, d, used = 0;

	if (!isdigit((unsigned char)*s) || sscanf(s, "%d-%2d-%2d%n", &y, &m, &d, &used) != 3 || used == 0)
		return false;
	*days = days_from_civil(y, m, d);
	*rest = s + used;
	return true;
}

/* "10:20:30.123456", microseconds. */
static bool
parse_time(const char *s, int64_t *us, const char **rest)
{
	int h, m, sec, used = 0;
	int64_t fraction = 0, unit = 100000;

	if (sscanf(s, "%2d:%2d:%2d%n", &h, &m, &sec, &used) != 3 || used == 0)
		return false;
	s += used;
	if (*s == '.')
		for (s++; isdigit((unsigned char)*s); s++, unit /= 10)
			fraction += (*s - '0') * unit;
	*us = ((h * 60LL + m) * 60 + sec) * 1000000 + fraction;
	*rest = s;
	return true;
}

/* "+05:30" or "-08": microseconds east of Greenwich. */
static bool
parse_offset(const char *s, int64_t *us, const char **rest)
{
	int h = 0, m = 0, sec = 0, used = 0;
	int sign = *s == '-' ? -1 : 1;

	if ((*s != '+' && *s != '-') || sscanf(s + 1, "%2d%n", &h, &used) != 1)
		return false;
	s += 1 + used;
	if (*s == ':' && sscanf(s, ":%2d%n", &m, &used) == 1)
		s += used;
	if (*s == ':' && sscanf(s, ":%2d%n", &sec, &used) == 1)
		s += used;
	*us = sign * ((h * 60LL + m) * 60 + sec) * 1000000;
	*rest = s;
	return true;
}

static bool
date_bytes(const char *text, struct buf *out)
{
	const char *rest;
	int64_t days;

	if (!parse_date(text, &days, &rest) || *rest)
		return false;
	add_little(out, (uint64_t)days, 4);
	return true;
}

static bool
time_bytes(const char *text, struct buf *out)
{
	const char *rest;
	int64_t us;

	if (!parse_time(text, &us, &rest) || *rest)
		return false;
	add_little(out, (uint64_t)us, 8);
	return true;
}

static bool
timestamp_bytes(const char *text, bool zone, struct buf *out)
{
	int64_t days, us, offset = 0;
	const char *rest;

	if (!parse_date(text, &days, &rest) || *rest != ' ' || !parse_time(rest + 1, &us, &rest) ||
	    (zone && !parse_offset(rest, &offset, &rest)) || *rest)
		return false;
	add_little(out, (uint64_t)(days * 86400000000LL + us - offset), 8);
	return true;
}

/* ---- numbers ---- */

static bool
whole_bytes(const char *text, size_t bytes, struct buf *out)
{
	char *end;
	long long v = strtoll(text, &end, 10);

	if (end == text || *end)
		return false;
	add_little(out, (uint64_t)v, bytes);
	return true;
}

/* A zero has two signs, and other readers tell them apart. */
static double
widen_zero(double v, enum value_use use)
{
	if (v != 0.0)
		return v;
	return use == VALUE_LOWER ? -0.0 : use == VALUE_UPPER ? 0.0 : v;
}

static bool
real_bytes(const char *text, bool wide, enum value_use use, struct buf *out)
{
	char *end;
	double v = strtod(text, &end);
	uint64_t bits = 0;

	if (end == text || *end || isnan(v))
		return false;
	v = widen_zero(v, use);
	if (wide) {
		memcpy(&bits, &v, 8);
	} else {
		float f = strtof(text, NULL);

		if (f == 0.0F)
			f = (float)v;
		memcpy(&bits, &f, 4);
	}
	add_little(out, bits, wide ? 8 : 4);
	return true;
}

/* The unscaled number in two's complement, the highest byte first, as short as it goes. */
static bool
decimal_bytes(const char *text, struct buf *out)
{
	bool negative = *text == '-';
	__int128 v = 0;
	int bytes = 16;

	for (const char *p = text + negative; *p; p++) {
		if (*p == '.')
			continue;
		if (!isdigit((unsigned char)*p))
			return false;
		v = v * 10 + (*p - '0');
	}
	if (negative)
		v = -v;
	while (bytes > 1 && (v >> (8 * (bytes - 1) - 1)) == (v < 0 ? -1 : 0))
		bytes--;
	while (bytes-- > 0)
		buf_addc(out, (char)(v >> (8 * bytes)));
	return true;
}

/* ---- bytes ---- */

static int
hex_digit(char c)
{
	return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* Hexadecimal digits, dashes between them left out. */
static bool
hex_bytes(const char *text, struct buf *out)
{
	for (; *text; text++) {
		int high, low;

		if (*text == '-')
			continue;
		high = hex_digit(text[0]);
		low = high < 0 ? -1 : hex_digit(text[1]);
		if (low < 0)
			return false;
		buf_addc(out, (char)(high << 4 | low));
		text++;
	}
	return true;
}

static bool
binary_bytes(const char *text, enum value_use use, struct buf *out)
{
	struct buf all = BUF_INIT;
	size_t n;
	bool ok = hex_bytes(text, &all);

	n = all.len;
	if (ok && use != VALUE_EXACT && n > CUT) {
		n = CUT;
		if (use == VALUE_UPPER) {
			while (n && (unsigned char)all.s[n - 1] == 0xff)
				n--;
			if (n)
				all.s[n - 1]++;
			else
				ok = false;
		}
	}
	if (ok)
		buf_add(out, all.s, n);
	buf_release(&all);
	return ok;
}

/* ---- text ---- */

static size_t
char_length(const char *s, const char *end)
{
	unsigned char c = (unsigned char)*s;
	size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

	return n > (size_t)(end - s) ? (size_t)(end - s) : n;
}

static uint32_t
char_decode(const char *s, size_t n)
{
	static const unsigned char first[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
	uint32_t c = (unsigned char)s[0] & first[n];

	for (size_t i = 1; i < n; i++)
		c = c << 6 | ((unsigned char)s[i] & 0x3f);
	return c;
}

static void
char_add(struct buf *out, uint32_t c)
{
	if (c < 0x80) {
		buf_addc(out, (char)c);
	} else if (c < 0x800) {
		buf_addc(out, (char)(0xc0 | c >> 6));
		buf_addc(out, (char)(0x80 | (c & 0x3f)));
	} else {
		if (c < 0x10000) {
			buf_addc(out, (char)(0xe0 | c >> 12));
		} else {
			buf_addc(out, (char)(0xf0 | c >> 18));
			buf_addc(out, (char)(0x80 | (c >> 12 & 0x3f)));
		}
		buf_addc(out, (char)(0x80 | (c >> 6 & 0x3f)));
		buf_addc(out, (char)(0x80 | (c & 0x3f)));
	}
}

/* The first characters with the last of them, that can be, raised by one. */
static bool
text_raise(const char *s, const size_t *starts, size_t chars, struct buf *out)
{
	while (chars-- > 0) {
		size_t at = starts[chars];
		uint32_t c = char_decode(s + at, starts[chars + 1] - at) + 1;

		if (c >= 0xd800 && c < 0xe000) /* no characters of their own */
			c = 0xe000;
		if (c > 0x10ffff)
			continue;
		buf_add(out, s, at);
		char_add(out, c);
		return true;
	}
	return false;
}

static bool
text_bytes(const char *s, size_t len, enum value_use use, struct buf *out)
{
	size_t starts[CUT + 1], chars = 0, at = 0;

	while (at < len && chars < CUT) {
		starts[chars++] = at;
		at += char_length(s + at, s + len);
	}
	starts[chars] = at;
	if (use == VALUE_EXACT || at == len) {
		buf_add(out, s, len);
		return true;
	}
	if (use == VALUE_UPPER)
		return text_raise(s, starts, chars, out);
	buf_add(out, s, at);
	return true;
}

static bool
is_one_of(const char *name, const char *a, const char *b)
{
	return strcmp(name, a) == 0 || strcmp(name, b) == 0;
}

bool
value_bytes(const char *type, const char *text, size_t len, enum value_use use, struct buf *out)
{
	if (strcmp(type, "boolean") == 0) {
		buf_addc(out, is_one_of(text, "1", "true") ? 1 : 0);
		return true;
	}
	if (strcmp(type, "int") == 0 || strcmp(type, "long") == 0)
		return whole_bytes(text, type[0] == 'i' ? 4 : 8, out);
	if (is_one_of(type, "float", "double"))
		return real_bytes(text, type[0] == 'd', use, out);
	if (strcmp(type, "date") == 0)
		return date_bytes(text, out);
	if (strcmp(type, "time") == 0)
		return time_bytes(text, out);
	if (is_one_of(type, "timestamp", "timestamptz"))
		return timestamp_bytes(text, type[9] == 't', out);
	if (strncmp(type, "decimal(", 8) == 0)
		return decimal_bytes(text, out);
	if (strcmp(type, "uuid") == 0)
		return hex_bytes(text, out);
	if (strcmp(type, "binary") == 0)
		return binary_bytes(text, use, out);
	if (strcmp(type, "string") == 0)
		return text_bytes(text, len, use, out);
	return false;
}

void
value_sql_blob(const struct buf *bytes, struct buf *out)
{
	buf_addc(out, '\'');
	for (size_t i = 0; i < bytes->len; i++)
		buf_addf(out, "\\x%02X", (unsigned char)bytes->s[i]);
	buf_adds(out, "'::BLOB");
}

/* ---- order ---- */

static int64_t
read_little(const struct buf *b)
{
	uint64_t v = 0;

	for (size_t i = 0; i < b->len && i < 8; i++)
		v |= (uint64_t)(unsigned char)b->s[i] << (8 * i);
	return b->len == 4 ? (int32_t)v : (int64_t)v;
}

static double
read_real(const struct buf *b)
{
	double d;
	float f;

	if (b->len == 4) {
		memcpy(&f, b->s, 4);
		return (double)f;
	}
	memcpy(&d, b->s, 8);
	return d;
}

static __int128
read_decimal(const struct buf *b)
{
	__int128 v = b->len && (b->s[0] & 0x80) ? -1 : 0;

	for (size_t i = 0; i < b->len; i++)
		v = v * 256 + (unsigned char)b->s[i];
	return v;
}

#define COMPARE(x, y) (((x) > (y)) - ((x) < (y)))

int
value_compare(const char *type, const struct buf *a, const struct buf *b)
{
	size_t n = a->len < b->len ? a->len : b->len;
	int c;

	if (is_one_of(type, "float", "double"))
		return COMPARE(read_real(a), read_real(b));
	if (strncmp(type, "decimal(", 8) == 0)
		return COMPARE(read_decimal(a), read_decimal(b));
	if (is_one_of(type, "int", "long") || is_one_of(type, "date", "time") || strncmp(type, "timestamp", 9) == 0)
		return COMPARE(read_little(a), read_little(b));
	c = memcmp(a->s, b->s, n);
	return c ? c : COMPARE(a->len, b->len);
}
