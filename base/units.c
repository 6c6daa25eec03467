#include "base/units.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

int
duration_parse(const char *text, dur_us *out)
{
	static const struct {
		const char *name;
		dur_us us;
	} units[] = {
		{ "ms", US_PER_MS },  { "s", US_PER_S },   { "m", US_PER_MIN },
		{ "h", US_PER_HOUR }, { "d", US_PER_DAY }, { "w", 7 * US_PER_DAY },
	};
	dur_us total = 0;
	const char *p = text;

	if (strcmp(text, "0") == 0) {
		*out = 0;
		return 0;
	}
	if (*p == '\0')
		return -1;
	while (*p) {
		dur_us n = 0, part;
		size_t unit = 0, len;

		if (*p < '0' || *p > '9')
			return -1;
		for (; *p >= '0' && *p <= '9'; p++) {
			if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
				return -1;
		}
		len = strspn(p, "abcdefghijklmnopqrstuvwxyz");
		while (unit < sizeof(units) / sizeof(units[0]) &&
		       (strlen(units[unit].name) != len || strncmp(p, units[unit].name, len) != 0))
			unit++;
		if (unit == sizeof(units) / sizeof(units[0]) || __builtin_mul_overflow(n, units[unit].us, &part) ||
		    __builtin_add_overflow(total, part, &total))
			return -1;
		p += len;
	}
	*out = total;
	return 0;
}

int
size_parse(const char *text, int64_t *out)
{
	static const char *const units[] = { "B", "KB", "MB", "GB", "TB" };
	int64_t n = 0;
	const char *p = text;

	if (*p < '0' || *p > '9')
		return -1;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
			return -1;
	}
	if (*p == '\0') {
		*out = n;
		return 0;
	}
	for (int i = 0; i < 5; i++) {
		if (strcasecmp(p, units[i]) == 0) {
			if (n > INT64_MAX >> (10 * i))
				return -1;
			*out = n << (10 * i);
			return 0;
		}
	}
	return -1;
}

int
rate_parse(const char *text, int64_t *count, dur_us *per)
{
	char length[32];
	int64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
			return -1;
	}
	if (n == 0 || *p++ != '/' || strlen(p) > sizeof(length) - 2)
		return -1;
	snprintf(length, sizeof(length), "%s%s", *p >= '0' && *p <= '9' ? "" : "1", p);
	if (duration_parse(length, per) < 0 || *per <= 0)
		return -1;
	*count = n;
	return 0;
}
