/* Secrets are hidden however the text is cut into pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mask.h"

/* Feeds `text` in pieces of `piece` bytes. */
static char *
masked(const char *const *secrets, const char *text, size_t piece)
{
	struct mask *m = mask_new();
	struct buf out = BUF_INIT;
	size_t n = strlen(text);

	for (; *secrets; secrets++)
		mask_add(m, *secrets);
	for (size_t i = 0; i < n; i += piece)
		mask_feed(m, text + i, n - i < piece ? n - i : piece, false, &out);
	mask_feed(m, "", 0, true, &out);
	assert_int_equal(mask_pending(m), 0);
	mask_free(m);
	return buf_detach(&out);
}

static void
check(const char *const *secrets, const char *text, const char *want)
{
	for (size_t piece = 1; piece <= strlen(text) + 1; piece++) {
		char *got = masked(secrets, text, piece);

		assert_string_equal(got, want);
		free(got);
	}
}

static void
test_hides(void **state)
{
	const char *const secrets[] = { "hunter2", "s3cr3t-key", "hunter22", "ab", NULL };

	(void)state;
	check(secrets, "nothing here", "nothing here");
	check(secrets, "password hunter2.", "password ***.");
	check(secrets, "hunter2hunter2", "******");
	check(secrets, "hunter22", "***"); /* the longest */
	check(secrets, "hunter2 hunter22 hunter", "*** *** hunter");
	check(secrets, "hunthunter2", "hunt***");
	check(secrets, "xs3cr3t-keyx\n", "x***x\n");
	check(secrets, "ab", "ab"); /* too short to hide */
	check(secrets, "", "");
}

static void
test_overlap(void **state)
{
	const char *const secrets[] = { "aab", "aaaab", NULL };

	(void)state;
	check(secrets, "aaab", "a***");
	check(secrets, "aaaaab", "a***");
	check(secrets, "aaaa", "aaaa");
}

static void
test_lines(void **state)
{
	const char *const secrets[] = { "-----BEGIN\nMIIEpQIBAAKC\n}\n", NULL };

	(void)state;
	check(secrets, "one MIIEpQIBAAKC line }", "one *** line }");
}

/* What cannot be a secret any more is told at once: a log that is followed must not lag. */
static void
test_keeps_little(void **state)
{
	struct mask *m = mask_new();
	struct buf out = BUF_INIT;

	(void)state;
	mask_add(m, "hunter2");
	mask_feed(m, "hello h", 7, false, &out);
	assert_string_equal(out.s, "hello ");
	assert_int_equal(mask_pending(m), 1);
	mask_feed(m, "i\n", 2, false, &out);
	assert_string_equal(out.s, "hello hi\n");
	assert_int_equal(mask_pending(m), 0);
	mask_free(m);
	buf_release(&out);
}

static void
test_utf8(void **state)
{
	static const struct {
		const char *in, *out;
		size_t used;
	} rows[] = {
		{ "abc", "abc", 3 },
		{ "\xc3\xa4", "\xc3\xa4", 2 },
		{ "a\xc3", "a", 1 }, /* the rest may follow */
		{ "a\xf0\x9f\x98", "a", 1 },
		{ "\xff!", "\xef\xbf\xbd!", 2 },
		{ "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd", 2 },
		{ "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 3 },
		{ "\xe2\x82(", "\xef\xbf\xbd\xef\xbf\xbd(", 3 },
	};
	struct buf out = BUF_INIT;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		buf_clear(&out);
		assert_int_equal(utf8_clean(rows[i].in, strlen(rows[i].in), false, &out), rows[i].used);
		assert_string_equal(out.s, rows[i].out);
	}
	buf_clear(&out);
	assert_int_equal(utf8_clean("a\xc3", 2, true, &out), 2);
	assert_string_equal(out.s, "a\xef\xbf\xbd");
	buf_release(&out);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hides),        cmocka_unit_test(test_overlap), cmocka_unit_test(test_lines),
		cmocka_unit_test(test_keeps_little), cmocka_unit_test(test_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
