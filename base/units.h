/* Durations, sizes and rates, as people write them. */
#ifndef BASE_UNITS_H
#define BASE_UNITS_H

#include "base/clock.h"

/* "1h30m" -> microseconds; 0 or -1. */
int duration_parse(const char *text, dur_us *out);
/* "128MB" or a plain number of bytes -> bytes (1024-based); 0 or -1. */
int size_parse(const char *text, int64_t *out);
/* "40/10s" -> 40 in 10 s, "5/s" -> 5 in 1 s; 0 or -1. */
int rate_parse(const char *text, int64_t *count, dur_us *per);

#endif
