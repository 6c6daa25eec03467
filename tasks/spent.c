#include "tasks/spent.h"

#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/report.h"

static const char *const names[] = {
#define X(name, metric) [SPENT_##name] = metric,
	SPENT_PARTS(X)
#undef X
};

/* One process, one attempt, one thread. */
static struct {
	enum spent in;
	mono_us since;
	dur_us parts[sizeof(names) / sizeof(names[0])];
} spent;

static void
spent_turn(enum spent to)
{
	mono_us now = clock_mono();

	spent.parts[spent.in] += now - spent.since;
	spent.since = now;
	spent.in = to;
}

void
spent_start(void)
{
	memset(&spent, 0, sizeof(spent)); /* a spare's own time is nobody's */
	spent.since = clock_mono();
	spent.in = SPENT_OTHER;
}

enum spent
spent_enter(enum spent part)
{
	enum spent before = spent.in;

	if (before == SPENT_OTHER)
		spent_turn(part);
	return before;
}

void
spent_leave(enum spent before)
{
	if (before == SPENT_OTHER)
		spent_turn(before);
}

void
spent_report(void)
{
	json_t *metrics = json_object();
	dur_us all = 0;

	spent_turn(SPENT_OTHER);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		json_object_set_new(metrics, names[i], json_integer(spent.parts[i]));
		all += spent.parts[i];
	}
	json_object_set_new(metrics, "engine_us", json_integer(all));
	report("metrics", metrics);
}
