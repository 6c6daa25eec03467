/* Trigger rules: may a task go, given how those it depends on ended? Pure. */
#ifndef SCHEDULER_RULES_H
#define SCHEDULER_RULES_H

#include "flows/flow.h"

struct upstream {
	int total, success, failed, upstream_failed, skipped; /* failed includes timed out, lost and cancelled */
};

enum verdict { VERDICT_WAIT, VERDICT_GO, VERDICT_SKIP, VERDICT_UPSTREAM_FAILED };

enum verdict rule_judge(enum trigger_rule rule, const struct upstream *u);

#endif
