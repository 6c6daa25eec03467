/* Records as lines: what is read as text is quoted, nothing else changes but blanks, and it does not matter how the record was
 * written. */
#include "tasks/json_record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The line's fields must be `wanted`, as jansson has them, which tells no blanks. */
static void
check(const char *record, const char *first, const char *wanted)
{
	json_t *texts = json_pack("{s:b,s:b}", "n", 1, "s", 1), *line, *expected = json_loads(wanted, 0, NULL);
	struct buf b = BUF_INIT;
	struct json_text v;
	size_t at;

	assert_int_equal(json_text_check(record, strlen(record), &v, &at), 0);
	json_record_add(&b, v, texts, first);
	assert_null(strchr(b.s, '\n'));
	line = json_loads(b.s, JSON_REJECT_DUPLICATES, NULL);
	if (line == NULL || !json_equal(line, expected))
		fail_msg("%s became %s", record, b.s);
	json_decref(texts);
	json_decref(line);
	json_decref(expected);
	buf_release(&b);
}

static void
test_numbers_that_are_read_as_text(void **state)
{
	(void)state;
	check("{\"n\":1.10,\"m\":-2,\"s\":\"x\"}", NULL, "{\"n\":\"1.10\",\"m\":-2,\"s\":\"x\"}");
	check("{ \"n\" : -7 , \"s\" : null, \"m\":true }", NULL, "{\"n\":\"-7\",\"s\":null,\"m\":true}");
	check("{\n\"n\" :\t5,\r\n\"m\": [1, 2]}", NULL, "{\"n\":\"5\",\"m\":[1,2]}");
	check("{\"\\u006e\":5,\"s\":\"a\\nb\"}", NULL, "{\"n\":\"5\",\"s\":\"a\\nb\"}");
	check("{\"m\":{\"n\": 1},\"n\":2,\"k\":\"\xc3\xa9, { and \"}", NULL,
	      "{\"m\":{\"n\":1},\"n\":\"2\",\"k\":\"\xc3\xa9, { and \"}");
	check("{}", NULL, "{}");
}

static void
test_what_comes_first(void **state)
{
	(void)state;
	check("{\"n\":1}", "\"f\":0", "{\"f\":0,\"n\":\"1\"}");
	check("{\"n\":1,\"s\":\"\\t\"}", "\"f\":0", "{\"f\":0,\"n\":\"1\",\"s\":\"\\t\"}");
	check("{ }", "\"f\":0", "{\"f\":0}");
	check("{\n}", "\"f\":0", "{\"f\":0}");
}

/* The parts of a nested value are kept as they are, without the blanks between them. */
static void
test_nested_values_have_no_blanks(void **state)
{
	const char *record = "{\"j\": {\"a\": [1, 2.50]}, \"n\": 3}";
	json_t *texts = json_pack("{s:b}", "n", 1);
	struct buf b = BUF_INIT;
	struct json_text v;
	size_t at;

	(void)state;
	assert_int_equal(json_text_check(record, strlen(record), &v, &at), 0);
	json_record_add(&b, v, texts, NULL);
	assert_string_equal(b.s, "{\"j\": {\"a\":[1,2.50]}, \"n\": \"3\"}");
	json_decref(texts);
	buf_release(&b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers_that_are_read_as_text),
		cmocka_unit_test(test_what_comes_first),
		cmocka_unit_test(test_nested_values_have_no_blanks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
