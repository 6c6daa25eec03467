/* What requests to an API need that no server is needed for: the rate, addresses, and which page comes next. */
#include "tasks/web.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/units.h"
#include "tasks/rate.h"

/* A client that asks as often as it may, whose requests take any time: no window holds more than allowed. */
static void
test_no_window_holds_more(void **state)
{
	struct rate r;
	mono_us now = 0, sent[500];
	unsigned seed = 7;

	(void)state;
	rate_init(&r, 40, 10 * US_PER_S);
	for (size_t i = 0; i < 500; i++) {
		now += rate_wait(&r, now);
		sent[i] = now;
		seed = seed * 1103515245 + 12345;
		now += (mono_us)(seed % 50000);
		rate_note(&r, now);
		if (i >= 40)
			assert_true(sent[i] - sent[i - 40] >= 10 * US_PER_S);
	}
	rate_release(&r);
	rate_init(&r, 0, 0);
	rate_note(&r, 1);
	assert_int_equal(rate_wait(&r, 1), 0);
	rate_release(&r);
}

static void
test_rates(void **state)
{
	static const char *const bad[] = {
		"", "5", "/s", "0/s", "5/", "5/0s", "5/x", "-1/s", "5/10", "5 / s", "99999999999999999999/s"
	};
	int64_t n;
	dur_us per;

	(void)state;
	assert_int_equal(rate_parse("40/10s", &n, &per), 0);
	assert_int_equal(n, 40);
	assert_int_equal(per, 10 * US_PER_S);
	assert_int_equal(rate_parse("5/s", &n, &per), 0);
	assert_int_equal(per, US_PER_S);
	assert_int_equal(rate_parse("1000/1h30m", &n, &per), 0);
	assert_int_equal(per, 90 * US_PER_MIN);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(rate_parse(bad[i], &n, &per), -1);
}

static void
check_text(char *text, const char *wanted)
{
	assert_string_equal(text, wanted);
	free(text);
}

static void
test_addresses(void **state)
{
	(void)state;
	check_text(web_with_param("http://h/p", "a b", "1&2", true), "http://h/p?a%20b=1%262");
	check_text(web_with_param("http://h/p?page=1&x=2&page=3#top", "page", "4", true), "http://h/p?x=2&page=4");
	check_text(web_with_param("http://h/p?page", "page", "4", true), "http://h/p?page=4");
	check_text(web_with_param("http://h/p?pages=1", "page", "4", true), "http://h/p?pages=1&page=4");
	assert_true(web_has_param("http://h/?b=1&a", "a"));
	assert_false(web_has_param("http://h/?ab=1#?a=1", "a"));
	assert_true(web_same_host("https://API.example.com/a", "https://api.example.com:443/b"));
	assert_false(web_same_host("https://api.example.com/", "http://api.example.com/"));
	assert_false(web_same_host("https://api.example.com/", "https://api.example.com.evil.test/"));
	assert_false(web_same_host("https://api.example.com/", "https://api.example.com@evil.test/"));
	assert_false(web_same_host("http://h:1/", "http://h:2/"));
	check_text(web_resolve("https://h/a/b?x=1", "?from=20"), "https://h/a/b?from=20");
	check_text(web_resolve("https://h/a/b", "/c"), "https://h/c");
	assert_null(web_resolve("https://h/a", "file:///etc/passwd"));
	assert_null(web_resolve("https://h/a", "http://h/a b"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_window_holds_more),
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
