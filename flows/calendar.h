/* The proleptic Gregorian calendar on day numbers (0 is 1970-01-01). Arithmetic only: no zones, no clock. */
#ifndef FLOWS_CALENDAR_H
#define FLOWS_CALENDAR_H

#include <stdbool.h>
#include <stdint.h>

#define DAY_SECONDS ((int64_t)86400)

static inline int64_t
floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

static inline bool
is_leap_year(int year)
{
	return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static inline int
days_in_month(int year, int month)
{
	return month == 2 ? 28 + is_leap_year(year) : 30 + ((month + month / 8) & 1);
}

/* Years are counted from March, so that the leap day comes last: a month's first day is then a linear formula. */
static inline int64_t
days_from_civil(int year, int month, int day)
{
	int64_t y = year - (month <= 2), era = floor_div(y, 400), year_of_era = y - era * 400;
	int64_t day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;

	return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static inline void
civil_from_days(int64_t days, int *year, int *month, int *day)
{
	int64_t era = floor_div(days + 719468, 146097), day_of_era = days + 719468 - era * 146097;
	int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64_t shifted = (5 * day_of_year + 2) / 153; /* 0 is March */

	*month = (int)(shifted < 10 ? shifted + 3 : shifted - 9);
	*day = (int)(day_of_year - (153 * shifted + 2) / 5 + 1);
	*year = (int)(year_of_era + era * 400 + (*month <= 2));
}

/* 0 is Sunday, as in cron. */
static inline int
weekday_of(int64_t days)
{
	return (int)(days + 4 - floor_div(days + 4, 7) * 7);
}

#endif
