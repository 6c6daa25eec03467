/* The base: buffers and their limits, errors on their way up, times as text, lists, digests. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/attempt_name.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "base/sha256.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void
buf_grows_and_stays_a_string(void **state)
{
	struct buf b = BUF_INIT;
	char *s;

	(void)state;
	assert_string_equal(b.s, "");
	for (int i = 0; i < 10000; i++) {
		assert_int_equal(buf_addf(&b, "%d,", i), 0);
		assert_int_equal(b.s[b.len], 0);
	}
	assert_int_equal(b.len, strlen(b.s));
	assert_memory_equal(b.s, "0,1,2,3,", 8);
	assert_string_equal(b.s + b.len - 5, "9999,");
	assert_int_equal(buf_add(&b, "a\0b", 3), 0);
	assert_int_equal(b.s[b.len - 2], 0);
	s = b.s;
	buf_clear(&b);
	assert_int_equal(b.len, 0);
	assert_ptr_equal(b.s, s); /* the allocation is kept */
	assert_string_equal(b.s, "");
	buf_release(&b);
	assert_string_equal(b.s, "");
	assert_int_equal(buf_adds(&b, "again"), 0);
	assert_string_equal(b.s, "again");
	buf_release(&b);
	buf_release(&b);
}

static void
buf_limit_is_exact(void **state)
{
	struct buf b = BUF_INIT_MAX(8);

	(void)state;
	assert_int_equal(buf_adds(&b, "12345"), 0);
	assert_int_equal(buf_adds(&b, "6789"), -1); /* all or nothing */
	assert_true(b.overflow);
	assert_string_equal(b.s, "12345");
	assert_int_equal(buf_addf(&b, "%s", "6789"), -1);
	assert_string_equal(b.s, "12345");
	assert_int_equal(buf_adds(&b, "678"), 0);
	assert_string_equal(b.s, "12345678");
	assert_int_equal(buf_addc(&b, '9'), -1);
	buf_clear(&b);
	assert_false(b.overflow);
	assert_int_equal(buf_adds(&b, "12345678"), 0);
	buf_release(&b);
	assert_int_equal(b.max, 8);
}

static void
buf_front_and_detach(void **state)
{
	struct buf b = BUF_INIT;
	char *s;

	(void)state;
	buf_drop_front(&b, 3);
	buf_adds(&b, "abcdef");
	buf_drop_front(&b, 2);
	assert_string_equal(b.s, "cdef");
	buf_drop_front(&b, 0);
	assert_int_equal(b.len, 4);
	s = buf_detach(&b);
	assert_string_equal(s, "cdef");
	free(s);
	assert_int_equal(b.len, 0);
	s = buf_detach(&b); /* an empty one is a string to free as well */
	assert_string_equal(s, "");
	free(s);
	buf_adds(&b, "abc");
	buf_drop_front(&b, 99);
	assert_string_equal(b.s, "");
	buf_release(&b);
}

static void
buf_quotes(void **state)
{
	struct buf b = BUF_INIT;

	(void)state;
	buf_add_sql_string(&b, "it's '' \\ \"x\"");
	assert_string_equal(b.s, "'it''s '''' \\ \"x\"'");
	buf_clear(&b);
	buf_add_sql_name(&b, "a \"b\" 'c'");
	assert_string_equal(b.s, "\"a \"\"b\"\" 'c'\"");
	buf_clear(&b);
	buf_add_visible(&b, "a\n\x1b[31m\\\xc3\xa9\x7f\0z", 12);
	assert_string_equal(b.s, "a\\x0a\\x1b[31m\\\\\\xc3\\xa9\\x7f\\x00");
	buf_release(&b);
}

static void
buf_reads_files(void **state)
{
	char path[] = "/tmp/sluice-test-base-XXXXXX";
	int fd = mkstemp(path);
	struct buf b = BUF_INIT, small = BUF_INIT_MAX(100000), exact = BUF_INIT_MAX(200000);
	static char data[200000];

	(void)state;
	assert_true(fd >= 0);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7);
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	close(fd);
	buf_adds(&b, "head");
	assert_int_equal(buf_add_file(&b, path), 0);
	assert_int_equal(b.len, 4 + sizeof(data));
	assert_memory_equal(b.s + 4, data, sizeof(data));
	assert_int_equal(b.s[b.len], 0);
	assert_int_equal(buf_add_file(&small, path), -EFBIG);
	assert_true(small.len <= 100000);
	assert_int_equal(buf_add_file(&exact, path), 0);
	assert_int_equal(exact.len, sizeof(data));
	unlink(path);
	assert_int_equal(buf_add_file(&b, path), -ENOENT);
	assert_int_equal(buf_add_file(&b, "/"), -EISDIR);
	assert_int_equal(b.len, 4 + sizeof(data));
	buf_release(&b);
	buf_release(&small);
	buf_release(&exact);
}

static void
errors_gain_context(void **state)
{
	struct err e = ERR_INIT, up = ERR_INIT;

	(void)state;
	err_prefix(&e, "nothing to say"); /* no error, no context */
	assert_int_equal(e.code, 0);
	assert_null(e.msg);
	assert_int_equal(err_set(&e, ERR_NOT_FOUND, "there is no flow \"%s\"", "x"), ERR_NOT_FOUND);
	assert_string_equal(e.msg, "there is no flow \"x\"");
	err_set(&e, ERR_INVALID, "%s, twice", e.msg); /* the old message as an argument */
	assert_string_equal(e.msg, "there is no flow \"x\", twice");
	assert_int_equal(e.code, ERR_INVALID);
	err_prefix(&e, "%s:%d", "flow.yaml", 7);
	assert_string_equal(e.msg, "flow.yaml:7: there is no flow \"x\", twice");
	err_set(&up, ERR_IO, "earlier");
	assert_int_equal(err_move(&up, &e), ERR_INVALID);
	assert_string_equal(up.msg, "flow.yaml:7: there is no flow \"x\", twice");
	assert_int_equal(e.code, 0);
	assert_null(e.msg);
	assert_int_equal(err_move(NULL, &up), ERR_INVALID);
	assert_null(up.msg);
	assert_int_equal(err_set(NULL, ERR_DB, "nobody listens"), ERR_DB);
	err_prefix(NULL, "nor here");
	err_release(&e);
	err_release(&up);
}

static void
every_error_code_is_described(void **state)
{
	static const int codes[] = {
#define X(sym, name, status, title) ERR_##sym,
		ERR_MAP(X)
#undef X
	};

	(void)state;
	for (size_t i = 0; i < COUNT(codes); i++) {
		assert_true(codes[i] < 0);
		assert_true(err_http_status(codes[i]) >= 400 && err_http_status(codes[i]) < 600);
		assert_true(strlen(err_title(codes[i])) > 0);
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(err_name(codes[i]), err_name(codes[j]));
	}
	assert_int_equal(err_http_status(ERR_NOT_FOUND), 404);
	assert_string_equal(err_name(ERR_TOO_LARGE), "too-large");
	assert_int_equal(err_http_status(12345), 500);
	assert_string_equal(err_name(12345), "internal");
}

static void
times_read_and_write(void **state)
{
	static const struct {
		const char *in, *out;
	} good[] = {
		{ "2026-11-21T06:00:00Z", "2026-11-21T06:00:00.000000Z" },
		{ "2026-11-21", "2026-11-21T00:00:00.000000Z" },
		{ "2026-11-21 06:00", "2026-11-21T06:00:00.000000Z" },
		{ "2026-11-21t06:00:00z", "2026-11-21T06:00:00.000000Z" },
		{ "2026-11-21T06:00:00.5Z", "2026-11-21T06:00:00.500000Z" },
		{ "2026-11-21T06:00:00.123456789Z", "2026-11-21T06:00:00.123456Z" },
		{ "2026-11-21T06:00:00+01:00", "2026-11-21T05:00:00.000000Z" },
		{ "2026-11-21T06:00:00.25-09:30", "2026-11-21T15:30:00.250000Z" },
		{ "2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00.000000Z" },
		{ "2028-02-29T12:00:00Z", "2028-02-29T12:00:00.000000Z" },
		{ "2026-12-31T24:00:00Z", "2027-01-01T00:00:00.000000Z" },
		{ "2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z" }, /* a leap second */
		{ "1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z" },
		{ "1900-03-01T00:00:00Z", "1900-03-01T00:00:00.000000Z" },
	};
	static const char *const bad[] = {
		"",
		"now",
		"2026",
		"2026-11",
		"2026-11-21T",
		"2026-11-21T06",
		"2026-11-21T6:00",
		"2026-13-01",
		"2026-00-01",
		"2026-02-29",
		"2026-04-31T10:00:00Z",
		"2026-11-21T25:00:00Z",
		"2026-11-21T06:60:00Z",
		"2026-11-21T06:00:61Z",
		"2026-11-21T06:00:00X",
		"2026-11-21T06:00:00Z ",
		" 2026-11-21",
		"2026-11-21T06:00:00+1",
		"2026-11-21T06:00:00+01",
		"2026-11-21T06:00:00.Z",
		"2026-+1-21",
		"2026- 1-21",
		"2026-11-21T24:30:00Z",
		"2026-02-31T24:00:00Z",
		"2026-11-21T06:00:00+25:00",
		"2026-11-21T06:00:00+01:60",
		"+026-11-21",
		"2026-11-21T-6:00",
		"2026-11-21T06:00.5Z",
	};
	char text[TIME_TEXT];
	wall_us t;

	(void)state;
	for (size_t i = 0; i < COUNT(good); i++) {
		if (time_parse(good[i].in, &t) != 0)
			fail_msg("\"%s\" is refused", good[i].in);
		assert_string_equal(time_format(t, text), good[i].out);
		/* and what was written reads the same */
		wall_us again;
		assert_int_equal(time_parse(text, &again), 0);
		assert_int_equal(again, t);
	}
	for (size_t i = 0; i < COUNT(bad); i++)
		if (time_parse(bad[i], &t) == 0)
			fail_msg("\"%s\" is taken as %s", bad[i], time_format(t, text));
	assert_int_equal(time_parse("2026-11-21T06:00:00.000001Z", &t), 0);
	assert_int_equal(t, INT64_C(1795240800000001));
}

static void
clocks_run(void **state)
{
	mono_us before = clock_mono();
	wall_us now = clock_wall(), y2020;

	(void)state;
	assert_int_equal(time_parse("2020-01-01", &y2020), 0);
	assert_true(now > y2020);
	assert_true(clock_mono() >= before);
}

struct item {
	int value;
	struct list link;
};

static void
lists_keep_order_and_allow_removal(void **state)
{
	struct list head;
	struct item items[5];
	int sum = 0, n = 0;

	(void)state;
	list_init(&head);
	assert_true(list_empty(&head));
	for (int i = 0; i < 5; i++) {
		items[i].value = i;
		list_append(&head, &items[i].link);
	}
	LIST_FOR_EACH (it, &head) {
		struct item *item = LIST_ENTRY(it, struct item, link);

		assert_int_equal(item->value, n++);
		if (item->value % 2 == 0)
			list_remove(it);
	}
	assert_int_equal(n, 5);
	LIST_FOR_EACH (it, &head)
		sum = sum * 10 + LIST_ENTRY(it, struct item, link)->value;
	assert_int_equal(sum, 13);
	list_remove(&items[0].link); /* twice is harmless */
	list_remove(&items[1].link);
	list_remove(&items[3].link);
	assert_true(list_empty(&head));
}

static void
digests_are_the_standard_ones(void **state)
{
	static const struct {
		const char *text, *hex;
	} cases[] = {
		{ "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
		{ "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
		{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
	};
	char hex[SHA256_HEX], *million = xmalloc(1000000);

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		sha256_hex(cases[i].text, strlen(cases[i].text), hex);
		assert_string_equal(hex, cases[i].hex);
	}
	memset(million, 'a', 1000000);
	sha256_hex(million, 1000000, hex);
	assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
	/* lengths around a block's end, where padding goes wrong: all must differ */
	char seen[130][SHA256_HEX];
	for (size_t n = 0; n < COUNT(seen); n++) {
		sha256_hex(million, n, seen[n]);
		for (size_t k = 0; k < n; k++)
			assert_string_not_equal(seen[n], seen[k]);
	}
	free(million);
}

static void
files_tell_their_attempt(void **state)
{
	char stem[ATTEMPT_STEM], other[ATTEMPT_STEM], uuid[UUID_TEXT], again[UUID_TEXT], file[400], *task = xmalloc(301);

	(void)state;
	assert_string_equal(attempt_stem("R", "a b/c", 2, stem), "R-a_b_c-2");
	attempt_uuid("R/a/1", uuid);
	attempt_uuid("R/a/1", again);
	assert_string_not_equal(uuid, again);
	assert_int_equal(uuid[14], '8');
	attempt_stem("R", "a", 1, stem);
	snprintf(file, sizeof(file), "%s-0123abcd-0.parquet", stem);
	assert_true(attempt_named(file, stem, uuid));
	snprintf(file, sizeof(file), "snap-12-%s-0123abcd.avro", stem);
	assert_true(attempt_named(file, stem, uuid));
	snprintf(file, sizeof(file), "00003-%s.metadata.json", again);
	assert_true(attempt_named(file, stem, uuid));
	attempt_uuid("R/a/2", again);
	snprintf(file, sizeof(file), "00003-%s.metadata.json", again);
	assert_false(attempt_named(file, stem, uuid));
	/* task "a-1" of the same run, attempt 2; run "xR"; a tenth attempt; no attempt at all */
	assert_false(attempt_named("R-a-1-2-0123abcd-0.parquet", stem, uuid));
	assert_false(attempt_named("xR-a-1-0123abcd-0.parquet", stem, uuid));
	assert_false(attempt_named("R-a-10-0123abcd-0.parquet", stem, uuid));
	assert_false(attempt_named("R-a-1.parquet", stem, uuid));
	/* long ids */
	memset(task, 'x', 300);
	task[300] = '\0';
	attempt_stem("R", task, 1, stem);
	attempt_stem("R", task, 2, other);
	assert_true(strlen(stem) < ATTEMPT_STEM && strcmp(stem, other) != 0);
	free(task);
}

static void
strings_are_copied(void **state)
{
	char *a = xstrndup("abcdef", 3), *b = xasprintf("%s-%d", a, 7);

	(void)state;
	assert_string_equal(a, "abc");
	assert_string_equal(b, "abc-7");
	assert_null(xstrdup_null(NULL));
	free(a);
	free(b);
	free(xmalloc(0));
	free(xcalloc(0, 0));
}

static void
log_levels_have_names(void **state)
{
	(void)state;
	assert_int_equal(log_level_parse("debug"), LOG_DEBUG);
	assert_int_equal(log_level_parse("error"), LOG_ERROR);
	assert_int_equal(log_level_parse("loud"), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buf_grows_and_stays_a_string),
		cmocka_unit_test(buf_limit_is_exact),
		cmocka_unit_test(buf_front_and_detach),
		cmocka_unit_test(buf_quotes),
		cmocka_unit_test(buf_reads_files),
		cmocka_unit_test(errors_gain_context),
		cmocka_unit_test(every_error_code_is_described),
		cmocka_unit_test(times_read_and_write),
		cmocka_unit_test(clocks_run),
		cmocka_unit_test(lists_keep_order_and_allow_removal),
		cmocka_unit_test(digests_are_the_standard_ones),
		cmocka_unit_test(files_tell_their_attempt),
		cmocka_unit_test(strings_are_copied),
		cmocka_unit_test(log_levels_have_names),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
