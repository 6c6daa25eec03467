/* Both state machines as graphs: nothing is unreachable, nothing leaves an end, and the database allows the same names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "scheduler/run_states.h"

#define MAX_STATES 16

struct machine {
	const char *table; /* of the database */
	int states, events, first;
	const char *(*name)(int s);
	int (*parse)(const char *name);
	bool (*terminal)(int s);
	int (*next)(int s, int ev);
};

static const char *
run_name(int s)
{
	return run_state_name((enum run_state)s);
}

static bool
run_terminal(int s)
{
	return run_state_terminal((enum run_state)s);
}

static int
run_next(int s, int ev)
{
	return run_state_next((enum run_state)s, (enum run_event)ev);
}

static const char *
task_name(int s)
{
	return task_state_name((enum task_state)s);
}

static bool
task_terminal(int s)
{
	return task_state_terminal((enum task_state)s);
}

static int
task_next(int s, int ev)
{
	return task_state_next((enum task_state)s, (enum task_event)ev);
}

static const struct machine machines[] = {
	{ "runs", RUN_STATE_COUNT, RUN_EV_COUNT, RUN_QUEUED, run_name, run_state_parse, run_terminal, run_next },
	{ "tasks", TASK_STATE_COUNT, TASK_EV_COUNT, TASK_STATE_WAITING, task_name, task_state_parse, task_terminal, task_next },
};
#define COUNT (sizeof(machines) / sizeof(machines[0]))

/* Marks every state that can be reached from `s`, `s` itself too. */
static void
walk(const struct machine *m, int s, bool *seen)
{
	if (seen[s])
		return;
	seen[s] = true;
	for (int ev = 0; ev < m->events; ev++) {
		int to = m->next(s, ev);

		assert_in_range(to + 1, 0, m->states);
		if (to >= 0)
			walk(m, to, seen);
	}
}

static void
test_every_state_is_reachable(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT; i++) {
		bool seen[MAX_STATES] = { false };

		assert_in_range(machines[i].states, 1, MAX_STATES);
		walk(&machines[i], machines[i].first, seen);
		for (int s = 0; s < machines[i].states; s++)
			if (!seen[s])
				fail_msg("%s: %s cannot be reached", machines[i].table, machines[i].name(s));
	}
}

/* The events by which a run that could not be published has tasks done again. */
static bool
undoes(const struct machine *m, int ev)
{
	return m->parse == task_state_parse && (ev == TASK_EV_CONFLICT || ev == TASK_EV_REDO || ev == TASK_EV_RESET);
}

/* An end has no exits but to be done again; whatever is no end leads to one, so that nothing hangs for ever. */
static void
test_ends(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT; i++) {
		const struct machine *m = &machines[i];

		for (int s = 0; s < m->states; s++) {
			bool seen[MAX_STATES] = { false }, end = false;
			int exits = 0;

			for (int ev = 0; ev < m->events; ev++)
				exits += !undoes(m, ev) && m->next(s, ev) >= 0;
			if (m->terminal(s) != (exits == 0))
				fail_msg("%s: %s has %d exits", m->table, m->name(s), exits);
			walk(m, s, seen);
			for (int to = 0; to < m->states; to++)
				end = end || (seen[to] && m->terminal(to));
			assert_true(end);
		}
	}
}

/* Whatever has not ended can be cancelled, at once or by way of `running`; but for a run that is being made visible: it is over.
 */
static void
test_cancel(void **state)
{
	(void)state;
	for (int s = 0; s < RUN_STATE_COUNT; s++)
		assert_int_equal(run_state_next((enum run_state)s, RUN_EV_CANCEL),
				 run_state_terminal((enum run_state)s) || s == RUN_PUBLISHING ? -1 : RUN_CANCELLED);
	for (int s = 0; s < TASK_STATE_COUNT; s++)
		assert_int_equal(task_state_next((enum task_state)s, TASK_EV_CANCEL),
				 task_state_terminal((enum task_state)s) ? -1 : TASK_STATE_CANCELLED);
}

static void
test_names(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT; i++) {
		const struct machine *m = &machines[i];

		for (int s = 0; s < m->states; s++)
			assert_int_equal(m->parse(m->name(s)), s);
		assert_int_equal(m->parse(""), -1);
		assert_int_equal(m->parse("Success"), -1);
		assert_int_equal(m->parse("succes"), -1);
	}
	assert_int_equal(run_state_parse("skipped"), -1);
}

static void
test_rows(void **state)
{
	(void)state;
	assert_int_equal(run_state_next(RUN_QUEUED, RUN_EV_START), RUN_RUNNING);
	assert_int_equal(run_state_next(RUN_QUEUED, RUN_EV_SUCCEED), -1);
	assert_int_equal(run_state_next(RUN_RUNNING, RUN_EV_START), -1);
	assert_int_equal(task_state_next(TASK_STATE_READY, TASK_EV_SUCCEED), -1); /* it never ran */
	assert_int_equal(task_state_next(TASK_STATE_RUNNING, TASK_EV_LOSE), TASK_STATE_LOST);
	assert_int_equal(task_state_next(TASK_STATE_RUNNING, TASK_EV_RETRY), TASK_STATE_RETRY_WAIT);
	assert_int_equal(task_state_next(TASK_STATE_RETRY_WAIT, TASK_EV_RETRY_DUE), TASK_STATE_READY);
	assert_int_equal(task_state_next(TASK_STATE_RETRY_WAIT, TASK_EV_START), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_state_is_reachable),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_rows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
