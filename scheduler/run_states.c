#include "scheduler/run_states.h"

#include <string.h>

struct state_row {
	const char *name;
	bool terminal;
};

static const struct state_row run_rows[] = {
#define X(sym, name, terminal, meaning) [RUN_##sym] = { name, terminal },
	RUN_STATES(X)
#undef X
};

static const struct state_row task_rows[] = {
#define X(sym, name, terminal, meaning) [TASK_STATE_##sym] = { name, terminal },
	TASK_STATES(X)
#undef X
};

/* Targets are kept one higher, so that an absent cell is 0. */
static const signed char run_next[RUN_STATE_COUNT][RUN_EV_COUNT] = {
#define X(from, ev, to) [RUN_##from][RUN_EV_##ev] = RUN_##to + 1,
	RUN_TRANSITIONS(X)
#undef X
};

static const signed char task_next[TASK_STATE_COUNT][TASK_EV_COUNT] = {
#define X(from, ev, to) [TASK_STATE_##from][TASK_EV_##ev] = TASK_STATE_##to + 1,
	TASK_TRANSITIONS(X)
#undef X
};

const char *
run_state_name(enum run_state s)
{
	return run_rows[s].name;
}

const char *
task_state_name(enum task_state s)
{
	return task_rows[s].name;
}

static int
state_parse(const struct state_row *rows, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (strcmp(rows[i].name, name) == 0)
			return i;
	return -1;
}

int
run_state_parse(const char *name)
{
	return state_parse(run_rows, RUN_STATE_COUNT, name);
}

int
task_state_parse(const char *name)
{
	return state_parse(task_rows, TASK_STATE_COUNT, name);
}

bool
run_state_terminal(enum run_state s)
{
	return run_rows[s].terminal;
}

bool
task_state_terminal(enum task_state s)
{
	return task_rows[s].terminal;
}

int
run_state_next(enum run_state from, enum run_event ev)
{
	return run_next[from][ev] - 1;
}

int
task_state_next(enum task_state from, enum task_event ev)
{
	return task_next[from][ev] - 1;
}
