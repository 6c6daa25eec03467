/* Troubles are said once, however often they are met. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/trouble.h"

/* What was logged since `capture`: the log is descriptor 2. */
static FILE *caught;
static int saved;

static void
capture(void)
{
	caught = tmpfile();
	assert_non_null(caught);
	saved = dup(2);
	assert_true(dup2(fileno(caught), 2) == 2);
}

static void
release(char *out, size_t size)
{
	size_t n;

	assert_true(dup2(saved, 2) == 2);
	close(saved);
	rewind(caught);
	n = fread(out, 1, size - 1, caught);
	out[n] = '\0';
	fclose(caught);
}

static size_t
count(const char *text, const char *part)
{
	size_t n = 0;

	for (const char *p = strstr(text, part); p; p = strstr(p + 1, part))
		n++;
	return n;
}

static void
test_said_once(void **state)
{
	const char *name, *message;
	wall_us since, first;
	char log[4096];

	(void)state;
	assert_false(trouble_now(TROUBLE_START, &name, &since, &message));
	capture();
	assert_true(trouble_begin(TROUBLE_START, "no room for %d", 1));
	assert_true(trouble_now(TROUBLE_START, &name, &first, &message));
	for (int i = 2; i < 100; i++)
		assert_false(trouble_begin(TROUBLE_START, "no room for %d", i));
	assert_true(trouble_now(TROUBLE_START, &name, &since, &message));
	trouble_end(TROUBLE_START, "room again");
	trouble_end(TROUBLE_START, "room again");
	release(log, sizeof(log));
	assert_string_equal(name, "start");
	assert_int_equal(since, first);
	assert_int_equal(count(log, "no room for"), 1);
	assert_int_equal(count(log, "room again (after "), 1);
	assert_false(trouble_now(TROUBLE_START, &name, &since, &message));
}

static void
test_one_does_not_hide_another(void **state)
{
	const char *name, *message;
	wall_us since;
	char log[4096];

	(void)state;
	capture();
	assert_true(trouble_begin(TROUBLE_DATABASE, "away"));
	assert_true(trouble_begin(TROUBLE_ACCEPT, "full"));
	trouble_end(TROUBLE_DATABASE, "back");
	assert_true(trouble_now(TROUBLE_ACCEPT, &name, &since, &message));
	assert_string_equal(message, "full");
	assert_true(trouble_begin(TROUBLE_DATABASE, "away again"));
	trouble_end(TROUBLE_DATABASE, "back");
	trouble_end(TROUBLE_ACCEPT, "free");
	release(log, sizeof(log));
	assert_int_equal(count(log, "\n"), 6);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_said_once),
		cmocka_unit_test(test_one_does_not_hide_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
