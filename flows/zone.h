/* The spans of an IANA zone: stretches of time with one offset. Names are looked up by zone_get in flows/schedule.h. */
#ifndef FLOWS_ZONE_H
#define FLOWS_ZONE_H

#include <stdint.h>

struct zone;

/* Seconds since 1970 UTC. Neighbours always differ in offset. */
struct zone_span {
	int64_t from;   /* first second; INT64_MIN for the oldest span */
	int64_t until;  /* first second that is not in it; INT64_MAX for the newest */
	int32_t offset; /* seconds east of UTC */
};

struct zone_span zone_span_at(const struct zone *z, int64_t second);

#endif
