/* JSON that is cut out of its text as it is: what is JSON, what a path finds, and that nothing changes a digit. */
#include "tasks/json_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct json_text
checked(const char *s)
{
	struct json_text v;
	size_t at;

	if (json_text_check(s, strlen(s), &v, &at) < 0)
		fail_msg("not JSON at byte %zu: %s", at, s);
	return v;
}

static void
test_what_is_json(void **state)
{
	static const char *const good[] = { "0",
					    "-1.5e+3",
					    " [ ] ",
					    "\xef\xbb\xbf{\"a\" : [1, {\"b\": null}], \"c\":true}\r\n",
					    "\"\\u00e9 \\\" \\\\ \xc3\xa9 \xf0\x9f\x98\x80\"",
					    "123456789012345678901234567890" };
	/* text, and the byte where it stops being JSON */
	static const struct {
		const char *s;
		size_t at;
	} bad[] = {
		{ "", 0 },          { "  ", 2 },      { "{\"a\": 1", 7 }, { "[1, 2", 5 },
		{ "\"abc", 4 },     { "tru", 3 },     { "1.", 2 },        { "[1,]", 3 },
		{ "{\"a\" 1}", 5 }, { "{a: 1}", 1 },  { "01", 1 },        { "+1", 0 },
		{ "[1] x", 4 },     { "<html>", 0 },  { "\"\x80\"", 1 },  { "\"\xed\xa0\x80\"", 2 },
		{ "\"a\nb\"", 2 },  { "\"\\x\"", 2 }, { "NaN", 0 },
	};
	struct json_text v;
	size_t at;
	char *deep = malloc(5001);

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		checked(good[i]);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(json_text_check(bad[i].s, strlen(bad[i].s), &v, &at), -1);
		if (at != bad[i].at)
			fail_msg("%s: byte %zu, not %zu", bad[i].s, at, bad[i].at);
	}
	memset(deep, '[', 5000);
	deep[5000] = '\0';
	assert_int_equal(json_text_check(deep, 5000, &v, &at), -1);
	assert_true(at < 5000); /* not taken for one that is only cut off */
	free(deep);
}

static void
test_paths(void **state)
{
	struct json_text v = checked(
				 "{\"data\": {\"items\": [{\"id\": 1}, {\"id\": 22}], \"a.b\": 3, \"\": 5}, \"caf\\u00e9\": 4}"),
			 out;
	const char *at;

	(void)state;
	assert_true(json_text_find(v, "data.items.1.id", &out, NULL));
	assert_memory_equal(out.s, "22", out.len);
	assert_true(json_text_find(v, "/data/items/-1/id", &out, NULL));
	assert_memory_equal(out.s, "22", out.len);
	assert_true(json_text_find(v, "/data/a.b", &out, NULL));
	assert_memory_equal(out.s, "3", out.len);
	assert_true(json_text_find(v, "/data/", &out, NULL));
	assert_memory_equal(out.s, "5", out.len);
	assert_true(json_text_find(v, "caf\xc3\xa9", &out, NULL));
	assert_memory_equal(out.s, "4", out.len);
	assert_true(json_text_find(v, NULL, &out, NULL));
	assert_ptr_equal(out.s, v.s);
	assert_false(json_text_find(v, "data.itmes.0", &out, &at));
	assert_string_equal(at, "itmes.0");
	assert_string_equal(json_text_kind(out), "an object");
	assert_false(json_text_find(v, "data.items.2", &out, &at));
	assert_string_equal(json_text_kind(out), "a list");
	assert_false(json_text_find(v, "data.items.x", &out, NULL));
	assert_false(json_text_find(checked("[]"), "-1", &out, NULL));
	assert_false(json_text_find(checked("7"), "a", &out, NULL));
	v = checked("{\"a/b\": {\"~\": 6}}");
	assert_true(json_text_find(v, "/a~1b/~0", &out, NULL));
	assert_memory_equal(out.s, "6", out.len);
}

static void
test_lines(void **state)
{
	struct json_text v = checked(
				 "[ {\n  \"a\" : 7.30, \"b\" : \"x \\\" y\\\\\" ,\t\"c\": 12345678901234567890123 } , [1 , 2]]"),
			 one;
	struct buf b = BUF_INIT;
	size_t at = 0;
	char *text;

	(void)state;
	while (json_text_next(v, &at, NULL, &one)) {
		json_text_add(&b, one);
		buf_addc(&b, '\n');
	}
	assert_string_equal(b.s, "{\"a\":7.30,\"b\":\"x \\\" y\\\\\",\"c\":12345678901234567890123}\n[1,2]\n");
	buf_release(&b);
	/* A pair stays, halves of one go, in any order; an escaped backslash before a u is no escape of a character. */
	b = (struct buf)BUF_INIT;
	assert_int_equal(json_text_add(&b, checked("\"\\ud83d\\ude00 \\ud83d \\ude00\\ud83d\\ud83d\\ude00 \\\\ud83d\\uD800\"")),
			 4);
	assert_string_equal(b.s, "\"\\ud83d\\ude00 \\ufffd \\ufffd\\ufffd\\ud83d\\ude00 \\\\ud83d\\ufffd\"");
	buf_release(&b);
	text = json_text_scalar(checked("\"a\\u0041\""));
	assert_string_equal(text, "aA");
	free(text);
	text = json_text_scalar(checked("12345678901234567890123"));
	assert_string_equal(text, "12345678901234567890123");
	free(text);
	assert_null(json_text_scalar(checked("null")));
	assert_null(json_text_scalar(checked("{}")));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_json),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
