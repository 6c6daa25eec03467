/* Field ids in a Parquet footer: DuckDB's own footers of the same file, without ids and with some, are what it is measured by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tasks/iceberg/parquet_footer.h"

/* clang-format off */
/* COPY (SELECT 1 AS a, 'x' AS "b c", 1.5::DECIMAL(9,2) AS d): version, list of four elements, root. */
#define HEAD "\x15\x02\x19\x4c\x35\x00\x18\x0d" "duckdb_schema" "\x15\x06\x00"
#define A    "\x15\x02\x25\x02\x18\x01" "a" "\x25\x22"
#define B    "\x15\x0c\x25\x02\x18\x03" "b c" "\x25\x00"
#define D    "\x15\x02\x25\x02\x18\x01" "d" "\x25\x0a\x15\x04\x15\x12"
#define TYPE "\x5c\x15\x04\x15\x12\x00\x00" /* a logical type, behind the head of its field */
#define STOP "\x00"
#define REST "\x16\x02\x19\x1c\x19\x3c\x26\x00\x1c\x15\x02\x19\x15\x00\x19\x18\x01\x61\x15\x00\x16\x02\x16\x36\x16\x36\x26\x08\x3c\x18\x04\x01" \
	"\x00\x00\x00\x18\x04\x01\x00\x00\x00\x16\x00\x28\x04\x01\x00\x00\x00\x18\x04\x01\x00\x00\x00\x11\x11\x00\x00\x00\x26\x00\x1c\x15" \
	"\x0c\x19\x15\x00\x19\x18\x03\x62\x20\x63\x15\x00\x16\x02\x16\x38\x16\x38\x26\x3e\x3c\x18\x01\x78\x18\x01\x78\x16\x00\x28\x01\x78" \
	"\x18\x01\x78\x11\x11\x00\x00\x00\x26\x00\x1c\x15\x02\x19\x15\x00\x19\x18\x01\x64\x15\x00\x16\x02\x16\x36\x16\x36\x26\x76\x3c\x18" \
	"\x04\x96\x00\x00\x00\x18\x04\x96\x00\x00\x00\x16\x00\x28\x04\x96\x00\x00\x00\x18\x04\x96\x00\x00\x00\x11\x11\x00\x00\x00\x16\xa4" \
	"\x01\x16\x02\x26\x08\x16\xa4\x01\x00\x28\x0a" "DuckDB 1.5" "\x19\x3c\x1c\x00\x00\x1c\x00\x00\x1c\x00\x00\x00"
static const char plain[] = HEAD A STOP B STOP D "\x2c" TYPE STOP REST;
static const char with_ids[] = HEAD A "\x35\x0e" STOP B "\x35\xd8\x04" STOP D "\x15\x02" "\x1c" TYPE STOP REST; /* 7, 300, 1 */
/* clang-format on */

static const int ids[] = { 7, 300, 1 }, others[] = { 1, 2, 3 };

static void
ids_are_those_that_the_engine_would_write(void **state)
{
	struct buf out = BUF_INIT;

	(void)state;
	assert_true(parquet_footer_with_ids(plain, sizeof(plain) - 1, ids, 3, &out));
	assert_int_equal(out.len, sizeof(with_ids) - 1);
	assert_memory_equal(out.s, with_ids, out.len);
	buf_release(&out);
}

static void
ids_that_are_there_are_replaced(void **state)
{
	struct buf out = BUF_INIT, again = BUF_INIT;

	(void)state;
	assert_true(parquet_footer_with_ids(with_ids, sizeof(with_ids) - 1, others, 3, &out));
	assert_true(parquet_footer_with_ids(out.s, out.len, ids, 3, &again));
	assert_int_equal(again.len, sizeof(with_ids) - 1);
	assert_memory_equal(again.s, with_ids, again.len);
	buf_release(&out);
	buf_release(&again);
}

static void
what_is_no_such_footer_is_left_alone(void **state)
{
	struct buf out = BUF_INIT;

	(void)state;
	assert_false(parquet_footer_with_ids(plain, sizeof(plain) - 1, ids, 2, &out));
	for (size_t len = 0; len < sizeof(plain) - 1; len++) {
		char *part = malloc(len + 1); /* of its own, so that a byte too many is seen */

		memcpy(part, plain, len);
		part = realloc(part, len ? len : 1);
		assert_false(parquet_footer_with_ids(part, len, ids, 3, &out));
		free(part);
	}
	assert_int_equal(out.len, 0);
	/* Any byte may be wrong: an answer comes, whichever. */
	for (size_t at = 0; at < sizeof(plain) - 1; at++)
		for (int bit = 0; bit < 8; bit++) {
			char *bent = malloc(sizeof(plain) - 1);

			memcpy(bent, plain, sizeof(plain) - 1);
			bent[at] = (char)(bent[at] ^ 1 << bit);
			parquet_footer_with_ids(bent, sizeof(plain) - 1, ids, 3, &out);
			free(bent);
		}
	buf_release(&out);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_are_those_that_the_engine_would_write),
		cmocka_unit_test(ids_that_are_there_are_replaced),
		cmocka_unit_test(what_is_no_such_footer_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
