/* What an attempt reports, line by line, becomes one object. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "scheduler/sched_int.h"

static void
check(const char *lines, const char *want)
{
	json_t *got = json_object(), *expect = json_loads(want, 0, NULL);
	char *text;

	assert_non_null(expect);
	report_fold(got, lines, strlen(lines));
	text = json_dumps(got, JSON_COMPACT);
	if (!json_equal(got, expect))
		fail_msg("%s\ngave %s\nnot  %s", lines, text, want);
	free(text);
	json_decref(got);
	json_decref(expect);
}

static void
test_folds(void **state)
{
	(void)state;
	check("", "{}");
	check("{\"outputs\": {\"a\": 1}}\n{\"outputs\": {\"b\": [2]}}\n", "{\"outputs\": {\"a\": 1, \"b\": [2]}}");
	check("{\"outputs\": {\"a\": 1}}\n{\"outputs\": {\"a\": 2}}\n", "{\"outputs\": {\"a\": 2}}");
	check("{\"tables\": [{\"table\": \"s.a\"}]}\n{\"tables\": [{\"table\": \"s.b\"}]}\n",
	      "{\"tables\": [{\"table\": \"s.a\"}, {\"table\": \"s.b\"}]}");
	check("{\"n\": 1}\n{\"n\": \"two\"}\n", "{\"n\": \"two\"}");
	check("{\"a\": 1, \"b\": 2}\n{\"a\": 3}\n", "{\"a\": 3, \"b\": 2}");
	/* the last error wins, whole or in part */
	check("{\"error\": {\"message\": \"one\"}}\n{\"error\": {\"message\": \"two\"}}\n",
	      "{\"error\": {\"message\": \"two\"}}");
	/* another kind of value replaces */
	check("{\"a\": {\"x\": 1}}\n{\"a\": [1]}\n", "{\"a\": [1]}");
	check("{\"a\": [1]}\n{\"a\": null}\n", "{\"a\": null}");
	/* ids of snapshots pass 2^53 */
	check("{\"id\": 9223372036854775807}\n", "{\"id\": 9223372036854775807}");
}

/* A report is a file that a foreign program writes: what makes no sense is passed over, the rest counts. */
static void
test_passes_over_what_makes_no_sense(void **state)
{
	(void)state;
	check("\n\n{\"a\": 1}\n\n", "{\"a\": 1}");
	check("hello\n{\"a\": 1}\n{broken\n{\"b\": 2}\n", "{\"a\": 1, \"b\": 2}");
	check("[1, 2]\n42\n\"text\"\nnull\n{\"a\": 1}\n", "{\"a\": 1}");
	check("{\"a\": 1}{\"b\": 2}\n{\"c\": 3}\n", "{\"c\": 3}");
	check("\xff\xfe\n{\"a\": \"\xff\"}\n{\"b\": 2}\n", "{\"b\": 2}");
	check("{\"a\": 1e999}\n{\"b\": 2}\r\n", "{\"b\": 2}");
}

/* The file is read while it is written: its last line may be half there. */
static void
test_half_a_line(void **state)
{
	static const char line[] = "{\"a\": 1}\n{\"outputs\": {\"path\": \"/tmp/x\"}}";
	json_t *a;

	(void)state;
	for (size_t n = sizeof("{\"a\": 1}\n") - 1; n < sizeof(line) - 1; n++) {
		a = json_object();
		report_fold(a, line, n);
		assert_int_equal(json_object_size(a), 1);
		assert_int_equal(json_integer_value(json_object_get(a, "a")), 1);
		json_decref(a);
	}
	check(line, "{\"a\": 1, \"outputs\": {\"path\": \"/tmp/x\"}}"); /* whole, only its newline is missing */
}

/* What was folded must not hang on the line it came from. */
static void
test_goes_on(void **state)
{
	json_t *a = json_object(), *want = json_loads("{\"o\": {\"x\": [1], \"y\": 2}, \"l\": [1, {\"z\": 3}]}", 0, NULL);

	(void)state;
	report_fold(a, "{\"o\": {\"x\": [1]}, \"l\": [1]}\n", strlen("{\"o\": {\"x\": [1]}, \"l\": [1]}\n"));
	report_fold(a, "{\"o\": {\"y\": 2}, \"l\": [{\"z\": 3}]}\n", strlen("{\"o\": {\"y\": 2}, \"l\": [{\"z\": 3}]}\n"));
	assert_true(json_equal(a, want));
	json_decref(a);
	json_decref(want);
}

static void
test_tidy(void **state)
{
	json_t *a = json_loads("{\"outputs\": [1], \"metrics\": \"m\", \"tables\": {\"a\": 1}, \"checks\": null, \"progress\": "
			       "5, \"error\": \"boom\", "
			       "\"own\": 7}",
			       0, NULL),
	       *want = json_loads("{\"error\": {\"message\": \"boom\"}, \"own\": 7}", 0, NULL),
	       *good = json_loads("{\"outputs\": {}, \"metrics\": {}, \"tables\": [], \"checks\": [], \"progress\": {}, "
				  "\"error\": {}, \"result\": {}}",
				  0, NULL),
	       *copy = json_deep_copy(good);

	(void)state;
	report_tidy(a);
	assert_true(json_equal(a, want));
	report_tidy(good);
	assert_true(json_equal(good, copy));
	json_decref(a);
	json_decref(want);
	json_decref(good);
	json_decref(copy);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_folds),       cmocka_unit_test(test_passes_over_what_makes_no_sense),
		cmocka_unit_test(test_half_a_line), cmocka_unit_test(test_goes_on),
		cmocka_unit_test(test_tidy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
