#include "scheduler/rules.h"

#include "base/log.h"

/* The field's eleven rules, with its meanings: a rule decides as early as it can, and never goes back on it. */
enum verdict
rule_judge(enum trigger_rule rule, const struct upstream *u)
{
	int bad = u->failed + u->upstream_failed, done = u->success + bad + u->skipped;
	bool all = done == u->total;

	if (u->total == 0)
		return VERDICT_GO;
	switch (rule) {
	case RULE_ALL_SUCCESS:
		if (bad)
			return VERDICT_UPSTREAM_FAILED;
		/* With one skipped, another may still fail: the outcome must not hang on who ends first. */
		if (!all)
			return VERDICT_WAIT;
		return u->skipped ? VERDICT_SKIP : VERDICT_GO;
	case RULE_ALL_DONE:
		return all ? VERDICT_GO : VERDICT_WAIT;
	case RULE_ALL_FAILED:
		if (u->success || u->skipped)
			return VERDICT_SKIP;
		return bad == u->total ? VERDICT_GO : VERDICT_WAIT;
	case RULE_ONE_FAILED:
		if (bad)
			return VERDICT_GO;
		return all ? VERDICT_SKIP : VERDICT_WAIT;
	case RULE_ONE_SUCCESS:
		if (u->success)
			return VERDICT_GO;
		if (!all)
			return VERDICT_WAIT;
		return bad ? VERDICT_UPSTREAM_FAILED : VERDICT_SKIP;
	case RULE_ONE_DONE:
		if (u->success || bad)
			return VERDICT_GO;
		return all ? VERDICT_SKIP : VERDICT_WAIT;
	case RULE_NONE_FAILED:
		if (bad)
			return VERDICT_UPSTREAM_FAILED;
		return all ? VERDICT_GO : VERDICT_WAIT;
	case RULE_NONE_FAILED_MIN_ONE_SUCCESS:
		if (bad)
			return VERDICT_UPSTREAM_FAILED;
		if (!all)
			return VERDICT_WAIT;
		return u->success ? VERDICT_GO : VERDICT_SKIP;
	case RULE_NONE_SKIPPED:
		if (u->skipped)
			return VERDICT_SKIP;
		return all ? VERDICT_GO : VERDICT_WAIT;
	case RULE_ALL_SKIPPED:
		if (u->success || bad)
			return VERDICT_SKIP;
		return all ? VERDICT_GO : VERDICT_WAIT;
	case RULE_ALWAYS:
		return VERDICT_GO;
	}
	BUG("trigger rule %d", (int)rule);
}
