/* Refs, filters and conditions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "flows/expr.h"

static json_t *scope;

static void
test_resolve(void **state)
{
	static const struct {
		const char *in, *out; /* JSON */
	} cases[] = {
		{ "\"plain\"", "\"plain\"" },
		{ "\"${params.n}\"", "3" },
		{ "\"n=${params.n}\"", "\"n=3\"" },
		{ "\" ${params.n}\"", "\" 3\"" },
		{ "\"${params.list}\"", "[1,\"b\"]" },
		{ "\"l: ${params.list}\"", "\"l: [1,\\\"b\\\"]\"" },
		{ "\"${params.list.1}\"", "\"b\"" },
		{ "\"$${params.n} costs $5\"", "\"${params.n} costs $5\"" },
		{ "\"$$${params.n}\"", "\"$${params.n}\"" },
		{ "\"${ tasks.load-it.outputs.path }\"", "\"/x\"" },
		{ "{\"a\": [\"${params.n}\", true, 2.5], \"b\": null}", "{\"a\":[3,true,2.5],\"b\":null}" },
		{ "\"${params.name | upper}\"", "\"O'NEIL \"" },
		{ "\"${params.name | trim | lower}\"", "\"o'neil\"" },
		{ "\"${params.name | trim | quote}\"", "\"'O''Neil'\"" },
		{ "\"${params.list | quote}\"", "\"1, 'b'\"" },
		{ "\"${params.n | quote(sql)}\"", "\"3\"" },
		{ "\"${run.at | date}\"", "\"2026-11-21\"" },
		{ "\"${run.at | date('%Y/%m/%d %H')}\"", "\"2026/11/21 06\"" },
		{ "\"${run.at | date(%Y%m%d)}\"", "\"20261121\"" },
		{ "\"${params.missing | default(7)}\"", "\"7\"" },
		{ "\"${params.missing | default(7) | int}\"", "7" },
		{ "\"${params.none | default('a, }b')}\"", "\"a, }b\"" },
		{ "\"${params.n | default(7)}\"", "3" },
		{ "\"${params.text | int}\"", "42" },
		{ "\"${params.text | float}\"", "42.0" },
		{ "\"${params.list | json}\"", "\"[1,\\\"b\\\"]\"" },
		{ "\"${params.list | length}\"", "2" },
		{ "\"${params.list | first}\"", "1" },
		{ "\"${params.list | join('-')}\"", "\"1-b\"" },
		{ "\"${params.text | replace(4, 5)}\"", "\"52\"" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *in = json_loads(cases[i].in, JSON_DECODE_ANY, NULL), *out = NULL;
		struct err e = ERR_INIT;
		char *dump;

		assert_non_null(in);
		if (expr_resolve(in, scope, &out, &e) < 0)
			fail_msg("%s: %s", cases[i].in, e.msg);
		dump = json_dumps(out, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);
		assert_string_equal(dump, cases[i].out);
		free(dump);
		json_decref(in);
		json_decref(out);
	}
}

static void
test_resolve_errors(void **state)
{
	static const struct {
		const char *in, *message;
	} cases[] = {
		{ "x ${params.nope}",
		  "${params.nope}: params.nope has no value; give one with \"| default(…)\" if it may be absent" },
		{ "${params.none}",
		  "${params.none}: params.none has no value; give one with \"| default(…)\" if it may be absent" },
		{ "${params.n", "\"${\" is not closed by \"}\"; write \"$${\" for the characters themselves" },
		{ "${}", "${}: a ref is ${scope.name}, as in ${params.day}" },
		{ "${params..n}", "${params..n}: a ref is ${scope.name}, as in ${params.day}" },
		{ "${params.n + 1}", "${params.n + 1}: \"+ 1\" is not understood; a ref is ${scope.name | filter}" },
		{ "${params.n | uper}", "${params.n | uper}: unknown filter \"uper\"; did you mean \"upper\"?" },
		{ "${params.n | default}", "${params.n | default}: filter \"default\" needs an argument: default(…)" },
		{ "${params.n | upper(1)}", "${params.n | upper(1)}: filter \"upper\" has too many arguments" },
		{ "${params.name | int}", "${params.name | int}: \"O'Neil \" is not a whole number" },
		{ "${params.name | date}", "${params.name | date}: \"O'Neil \" is not a date or time" },
		{ "${params.n |}", "${params.n |}: a filter's name must follow \"|\"" },
		{ "${params.n | date(x}", "${params.n | date(x}: \")\" is missing behind filter \"date\"" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *in = json_string(cases[i].in), *out = NULL;
		struct err e = ERR_INIT;

		assert_int_equal(expr_resolve(in, scope, &out, &e), ERR_UNPROCESSABLE);
		assert_string_equal(e.msg, cases[i].message);
		assert_null(out);
		err_release(&e);
		json_decref(in);
	}
}

static void
test_when(void **state)
{
	static const struct {
		const char *text;
		bool value;
	} cases[] = {
		{ "true", true },
		{ "not true", false },
		{ "!false", true },
		{ "${params.full}", true },
		{ "${params.n} == 3", true },
		{ "${params.n} != 3", false },
		{ "${params.n} >= 3 and ${params.n} < 4", true },
		{ "${params.text} > 9", true }, /* a text that reads as a number, against a number */
		{ "'abc' < 'abd'", true },
		{ "\"${params.n}\" == '3'", true },
		{ "'n${params.n}' == \"n3\"", true },
		{ "${params.name | trim | lower} == \"o'neil\"", true },
		{ "${params.n} in [1, 2, 3]", true },
		{ "${params.n} not in [1, 2, 3]", false },
		{ "'b' in ${params.list}", true },
		{ "'ei' in ${params.name}", true },
		{ "'n' in ${params}", true },
		{ "false or true and false", false },
		{ "true or true and false", true },
		{ "(true or true) and false", false },
		{ "not false and false", false },
		{ "false and ${params.nope}", false },
		{ "true or ${params.nope} == 1", true },
		{ "${params.none} == null", true },
		{ "${params.nope | default(x)} == 'x'", true },
		{ "${tasks.load-it.state} == 'success' and -1 < 0.5", true },
		{ "true && !(false || false)", true },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err e = ERR_INIT;
		bool value;

		if (expr_when(cases[i].text, scope, &value, &e) < 0)
			fail_msg("%s", e.msg);
		if (value != cases[i].value)
			fail_msg("%s is %d", cases[i].text, value);
		if (expr_when_check(cases[i].text, &e) < 0)
			fail_msg("check: %s", e.msg);
	}
}

static void
test_when_errors(void **state)
{
	static const struct {
		const char *text, *message;
		bool form; /* expr_when_check sees it too */
	} cases[] = {
		{ "", "when: the expression ends too early at character 1 of \"\"", true },
		{ "1 ==", "when: the expression ends too early at character 5 of \"1 ==\"", true },
		{ "1 = 1", "when: \"=\" is not an operator (write \"==\") at character 3 of \"1 = 1\"", true },
		{ "active == 1",
		  "when: not understood (a text needs quotes, a name is ${scope.name}): at character 1 of \"active == 1\"",
		  true },
		{ "'a", "when: a text that begins here is not closed at character 1 of \"'a\"", true },
		{ "(true", "when: \")\" is missing at character 6 of \"(true\"", true },
		{ "1 in [1, 2", "when: \"]\" is missing at character 11 of \"1 in [1, 2\"", true },
		{ "true true", "when: something is left over at character 6 of \"true true\"", true },
		{ "${params.n}",
		  "when: a value that is neither true nor false stands where a condition is needed, at character 1 of "
		  "\"${params.n}\"",
		  false },
		{ "1 < 'a'", "when: the two sides have types that cannot be ordered; at character 3 of \"1 < 'a'\"", false },
		{ "1 in 2", "when: \"in\" needs a list, a map or a text on its right side; at character 3 of \"1 in 2\"", false },
		{ "${params.nope} == 1",
		  "${params.nope}: params.nope has no value; give one with \"| default(…)\" if it may be absent", false },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err e = ERR_INIT;
		bool value;

		assert_int_equal(expr_when(cases[i].text, scope, &value, &e), ERR_UNPROCESSABLE);
		assert_string_equal(e.msg, cases[i].message);
		err_release(&e);
		assert_int_equal(expr_when_check(cases[i].text, &e) < 0, cases[i].form);
		err_release(&e);
	}
}

static int
note_ref(const char *path, size_t offset, void *arg)
{
	json_array_append_new(arg, json_pack("[s, i]", path, (int)offset));
	return 0;
}

static void
test_refs(void **state)
{
	json_t *seen = json_array();
	struct err e = ERR_INIT;
	char *dump;

	(void)state;
	assert_int_equal(expr_refs("a ${params.n | int} $${no} ${tasks.x.outputs.y}", note_ref, seen, &e), 0);
	dump = json_dumps(seen, JSON_COMPACT);
	assert_string_equal(dump, "[[\"params.n\",2],[\"tasks.x.outputs.y\",27]]");
	free(dump);
	json_decref(seen);
	assert_true(expr_refs("${a", note_ref, NULL, &e) < 0);
	err_release(&e);
}

static int
setup(void **state)
{
	(void)state;
	scope = json_loads("{\"params\": {\"n\": 3, \"name\": \"O'Neil \", \"text\": \"42\", \"list\": [1, \"b\"], \"none\": "
			   "null, \"full\": true},"
			   " \"run\": {\"at\": \"2026-11-21T06:00:00.000000Z\"},"
			   " \"tasks\": {\"load-it\": {\"state\": \"success\", \"outputs\": {\"path\": \"/x\"}}}}",
			   0, NULL);
	return scope ? 0 : -1;
}

static int
teardown(void **state)
{
	(void)state;
	json_decref(scope);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resolve),     cmocka_unit_test(test_resolve_errors), cmocka_unit_test(test_when),
		cmocka_unit_test(test_when_errors), cmocka_unit_test(test_refs),
	};

	return cmocka_run_group_tests_name("expr", tests, setup, teardown);
}
