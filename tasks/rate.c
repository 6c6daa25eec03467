#include "tasks/rate.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

void
rate_init(struct rate *r, int64_t count, dur_us per)
{
	*r = (struct rate){ .count = count, .per = per };
}

void
rate_release(struct rate *r)
{
	free(r->last);
	*r = (struct rate){ 0 };
}

dur_us
rate_wait(const struct rate *r, mono_us now)
{
	mono_us free_at;

	if (r->count == 0 || (int64_t)r->used < r->count)
		return 0;
	free_at = r->last[r->next] + r->per; /* the oldest of them */
	return free_at > now ? free_at - now : 0;
}

void
rate_note(struct rate *r, mono_us ended)
{
	if (r->count == 0)
		return;
	if ((int64_t)r->used < r->count) {
		if (r->used == r->room) {
			r->room = r->room ? 2 * r->room : 64;
			r->last = xrealloc(r->last, r->room * sizeof(*r->last));
		}
		r->last[r->used++] = ended;
		return;
	}
	r->last[r->next] = ended;
	r->next = (r->next + 1) % r->used;
}
