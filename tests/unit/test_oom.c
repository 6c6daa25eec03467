/* The kernel's counter of kills, in the three files that may have it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "scheduler/oom.h"

static void
test_parse(void **state)
{
	static const struct {
		const char *text;
		int64_t want;
	} rows[] = {
		{ "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n", 2 }, /* memory.events */
		{ "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7 },                /* memory.oom_control */
		{ "nr_free_pages 1\noom_kill 41\ndrop_pagecache 0\n", 41 },            /* vmstat */
		{ "oom_kill 0", 0 },
		{ "oom_kill ", -1 },
		{ "oom_kill x\n", -1 },
		{ "not_oom_kill 3\n", -1 },
		{ "", -1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (oom_parse(rows[i].text, strlen(rows[i].text)) != rows[i].want)
			fail_msg("row %zu: %lld, not %lld", i, (long long)oom_parse(rows[i].text, strlen(rows[i].text)),
				 (long long)rows[i].want);
}

static void
count_is(struct oom *o, const char *text)
{
	assert_int_equal(pwrite(o->fd, text, strlen(text), 0), (ssize_t)strlen(text));
}

/* One kill explains one death, of a child that lived when it happened. */
static void
test_claims(void **state)
{
	struct oom o = { .fd = memfd_create("events", MFD_CLOEXEC) }; /* the machine's own counts the kills of others, too */
	struct oom_mark a, b, later;

	(void)state;
	assert_true(o.fd >= 0);
	count_is(&o, "oom_kill 41\n");
	a = b = oom_mark(&o);
	assert_false(oom_claims(&o, &a));
	count_is(&o, "oom_kill 42\n");
	assert_true(oom_claims(&o, &a));
	assert_false(oom_claims(&o, &b));
	later = oom_mark(&o);
	assert_false(oom_claims(&o, &later));
	close(o.fd);
}

/* This machine tells it, or nobody is said to be killed so. */
static void
test_open(void **state)
{
	struct oom o;

	(void)state;
	oom_open(&o);
	assert_true(o.fd < 0 || o.count >= -1);
	if (o.fd >= 0)
		close(o.fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_claims),
		cmocka_unit_test(test_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
