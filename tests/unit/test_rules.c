/* The eleven trigger rules: a table of how upstreams ended, and what holds for every rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "scheduler/rules.h"

#define W VERDICT_WAIT
#define G VERDICT_GO
#define S VERDICT_SKIP
#define U VERDICT_UPSTREAM_FAILED

static const enum trigger_rule rules[] = {
	RULE_ALL_SUCCESS,  RULE_ALL_DONE,    RULE_ALL_FAILED,  RULE_ONE_FAILED,
	RULE_ONE_SUCCESS,  RULE_ONE_DONE,    RULE_NONE_FAILED, RULE_NONE_FAILED_MIN_ONE_SUCCESS,
	RULE_NONE_SKIPPED, RULE_ALL_SKIPPED, RULE_ALWAYS,
};
#define RULES (sizeof(rules) / sizeof(rules[0]))

static const char *const rule_names[] = {
	"all_success",  "all_done",    "all_failed",  "one_failed",
	"one_success",  "one_done",    "none_failed", "none_failed_min_one_success",
	"none_skipped", "all_skipped", "always",
};

static void
test_table(void **state)
{
	/* the upstreams; then a verdict a rule, in the order of `rules` */
	static const struct {
		struct upstream u;
		enum verdict want[RULES];
	} rows[] = {
		/* total ok failed up_failed skipped */
		{ { 0, 0, 0, 0, 0 }, { G, G, G, G, G, G, G, G, G, G, G } },
		{ { 1, 0, 0, 0, 0 }, { W, W, W, W, W, W, W, W, W, W, G } },
		{ { 1, 1, 0, 0, 0 }, { G, G, S, S, G, G, G, G, G, S, G } },
		{ { 1, 0, 1, 0, 0 }, { U, G, G, G, U, G, U, U, G, S, G } },
		{ { 1, 0, 0, 1, 0 }, { U, G, G, G, U, G, U, U, G, S, G } },
		{ { 1, 0, 0, 0, 1 }, { S, G, S, S, S, S, G, S, S, G, G } },
		{ { 2, 1, 0, 0, 0 }, { W, W, S, W, G, G, W, W, W, S, G } },
		{ { 2, 0, 1, 0, 0 }, { U, W, W, G, W, G, U, U, W, S, G } },
		{ { 2, 0, 0, 0, 1 }, { W, W, S, W, W, W, W, W, S, W, G } },
		{ { 2, 1, 1, 0, 0 }, { U, G, S, G, G, G, U, U, G, S, G } },
		{ { 2, 1, 0, 0, 1 }, { S, G, S, S, G, G, G, G, S, S, G } },
		{ { 2, 0, 1, 0, 1 }, { U, G, S, G, U, G, U, U, S, S, G } },
		{ { 2, 0, 1, 1, 0 }, { U, G, G, G, U, G, U, U, G, S, G } },
		{ { 2, 0, 0, 0, 2 }, { S, G, S, S, S, S, G, S, S, G, G } },
		{ { 3, 1, 1, 0, 1 }, { U, G, S, G, G, G, U, U, S, S, G } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t r = 0; r < RULES; r++)
			if (rule_judge(rules[r], &rows[i].u) != rows[i].want[r])
				fail_msg("row %zu, %s: %d, not %d", i, rule_names[r], (int)rule_judge(rules[r], &rows[i].u),
					 (int)rows[i].want[r]);
}

/* Whether a task runs must not hang on which of its upstreams happened to end first. */
static void
stays(enum trigger_rule rule, const char *name, struct upstream u, enum verdict before)
{
	enum verdict now = rule_judge(rule, &u);
	int done = u.success + u.failed + u.upstream_failed + u.skipped;
	struct upstream next;

	if (before != W && now != before)
		fail_msg("%s: verdict %d became %d with %d of %d upstreams: %d ok, %d failed, %d upstream_failed, %d skipped",
			 name, (int)before, (int)now, done, u.total, u.success, u.failed, u.upstream_failed, u.skipped);
	if (done == u.total) {
		if (now == W)
			fail_msg("%s: still waits when all %d upstreams have ended", name, u.total);
		return;
	}
	next = u, next.success++;
	stays(rule, name, next, now);
	next = u, next.failed++;
	stays(rule, name, next, now);
	next = u, next.upstream_failed++;
	stays(rule, name, next, now);
	next = u, next.skipped++;
	stays(rule, name, next, now);
}

static void
test_a_verdict_stays(void **state)
{
	(void)state;
	for (size_t r = 0; r < RULES; r++)
		for (int total = 0; total <= 4; total++)
			stays(rules[r], rule_names[r], (struct upstream){ .total = total }, W);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_table), cmocka_unit_test(test_a_verdict_stays) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
