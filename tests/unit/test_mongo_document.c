/* Documents of MongoDB, byte by byte: kinds of values, what is within what, and what cannot be written. */
#include "tasks/mongo_document.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A document of one field "a". */
static int
write_one(struct buf *b, struct document *d, const struct duck_value *value)
{
	buf_clear(b);
	document_begin(d, b);
	document_value(d, "a", value);
	return document_end(d);
}

static void
expect(const struct buf *b, const char *bytes, size_t len)
{
	assert_int_equal(b->len, len);
	assert_memory_equal(b->s, bytes, len);
}

#define WRITES(bytes, ...)                                                                                                       \
	do {                                                                                                                     \
		assert_int_equal(write_one(&b, &d, &(struct duck_value){ __VA_ARGS__ }), 0);                                     \
		expect(&b, bytes, sizeof(bytes) - 1);                                                                            \
	} while (0)

static void
test_values(void **state)
{
	struct buf b = BUF_INIT;
	struct document d;

	(void)state;
	WRITES("\x08\0\0\0\x0a"
	       "a\0\0",
	       .kind = DUCK_NULL);
	WRITES("\x09\0\0\0\x08"
	       "a\0\1\0",
	       .kind = DUCK_BOOL, .truth = true);
	WRITES("\x0c\0\0\0\x10"
	       "a\0\xfe\xff\xff\xff\0",
	       .kind = DUCK_INT32, .number = -2);
	WRITES("\x10\0\0\0\x12"
	       "a\0\1\0\0\0\1\0\0\0\0",
	       .kind = DUCK_INT64, .number = 0x100000001);
	WRITES("\x10\0\0\0\x01"
	       "a\0\0\0\0\0\0\0\xf8\x3f\0",
	       .kind = DUCK_DOUBLE, .real = 1.5);
	WRITES("\x0f\0\0\0\x02"
	       "a\0\3\0\0\0\xc3\xb1\0\0",
	       .kind = DUCK_TEXT, .bytes = "\xc3\xb1", .len = 2);
	WRITES("\x0f\0\0\0\x05"
	       "a\0\2\0\0\0\0\0\xff\0",
	       .kind = DUCK_BYTES, .bytes = "\0\xff", .len = 2);
	WRITES("\x18\0\0\0\x02"
	       "a\0\x0c\0\0\0"
	       "23:59:59.01\0\0",
	       .kind = DUCK_TIME, .number = 86399010000);
	/* a microsecond before 1970 lies in the millisecond before it */
	WRITES("\x10\0\0\0\x09"
	       "a\0\xff\xff\xff\xff\xff\xff\xff\xff\0",
	       .kind = DUCK_MOMENT, .number = -1);
	buf_release(&b);
}

static void
test_decimals(void **state)
{
	struct buf b = BUF_INIT;
	struct document d;
	__int128 most = 1;

	(void)state;
	WRITES("\x18\0\0\0\x13"
	       "a\0\5\0\0\0\0\0\0\0\0\0\0\0\0\0\x3c\x30\0",
	       .kind = DUCK_DECIMAL, .digits = 5, .scale = 2);
	WRITES("\x18\0\0\0\x13"
	       "a\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\xb0\0",
	       .kind = DUCK_DECIMAL, .digits = -1);
	for (int i = 0; i < 34; i++)
		most *= 10;
	assert_int_equal(write_one(&b, &d, &(struct duck_value){ .kind = DUCK_DECIMAL, .digits = most - 1 }), 0);
	assert_int_equal(write_one(&b, &d, &(struct duck_value){ .kind = DUCK_DECIMAL, .digits = most + 1 }), -1);
	assert_non_null(strstr(d.wrong, "34 digits"));
	/* 10^34 is a 1 with an exponent */
	WRITES("\x18\0\0\0\x13"
	       "a\0\0\0\0\0\x0a\x5b\xc1\x38\x93\x8d\x44\xc6\x4d\x31\x42\x30\0",
	       .kind = DUCK_DECIMAL, .digits = most);
	buf_release(&b);
}

static void
test_levels(void **state)
{
	static const char nested[] = "\x1f\0\0\0\x04"
				     "l\0\x17\0\0\0"
				     "\x10"
				     "0\0\1\0\0\0"
				     "\x03"
				     "1\0\x08\0\0\0\x0a"
				     "x\0\0"
				     "\0\0";
	const struct duck_value one = { .kind = DUCK_INT32, .number = 1 }, none = { .kind = DUCK_NULL };
	struct buf b = BUF_INIT;
	struct document d;

	(void)state;
	document_begin(&d, &b);
	document_open(&d, "l", true);
	document_value(&d, NULL, &one);
	document_open(&d, NULL, false);
	document_value(&d, "x", &none);
	document_close(&d);
	document_close(&d);
	assert_int_equal(document_end(&d), 0);
	expect(&b, nested, sizeof(nested) - 1);
	for (int levels = 100; levels < 103; levels++) {
		buf_clear(&b);
		document_begin(&d, &b);
		for (int i = 0; i < levels; i++)
			document_open(&d, "d", i % 2);
		document_value(&d, "x", &one);
		for (int i = 0; i < levels; i++)
			document_close(&d);
		assert_int_equal(document_end(&d), levels == 100 ? 0 : -1);
	}
	buf_release(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_decimals),
		cmocka_unit_test(test_levels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
