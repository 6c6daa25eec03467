/* The page's headers: who gets it compressed, and who has it already; and that the files compiled in hang together. */
#include "api/page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void
test_gzip_is_for_those_who_take_it(void **state)
{
	(void)state;
	assert_true(page_takes_gzip("gzip, deflate, br, zstd"));
	assert_true(page_takes_gzip("br;q=1.0, GZIP;q=0.8, *;q=0.1"));
	assert_true(page_takes_gzip("gzip;q=0.001"));
	assert_false(page_takes_gzip(NULL));
	assert_false(page_takes_gzip(""));
	assert_false(page_takes_gzip("br, deflate"));
	assert_false(page_takes_gzip("xgzip, gzipped"));
	assert_false(page_takes_gzip("gzip;q=0"));
	assert_false(page_takes_gzip("gzip; q=0.000, br"));
}

static void
test_tags_match_whole(void **state)
{
	(void)state;
	assert_true(page_tag_matches("\"abc\"", "\"abc\""));
	assert_true(page_tag_matches("\"xyz\", W/\"abc\"", "\"abc\""));
	assert_true(page_tag_matches("*", "\"abc\""));
	assert_false(page_tag_matches(NULL, "\"abc\""));
	assert_false(page_tag_matches("", "\"abc\""));
	assert_false(page_tag_matches("\"abcd\"", "\"abc\""));
	assert_false(page_tag_matches("abc", "\"abc\""));
}

/* What index.html names must be in the program, or the page stays white. */
static void
test_the_files_that_the_page_names_are_there(void **state)
{
	const struct page_asset *index = NULL;
	char html[8192], *s;
	int named = 0;

	(void)state;
	for (size_t i = 0; i < page_assets_count; i++) {
		if (strcmp(page_assets[i].path, "/index.html") == 0)
			index = &page_assets[i];
		assert_true(page_assets[i].len > 0);
	}
	assert_non_null(index);
	assert_true(index->len < sizeof(html));
	assert_false(index->immutable);
	memcpy(html, index->data, index->len);
	html[index->len] = '\0';
	for (s = html; (s = strstr(s, "\"/assets/")) != NULL; named++) {
		size_t n = strcspn(++s, "\"");
		bool found = false;

		for (size_t i = 0; i < page_assets_count; i++)
			found |= strlen(page_assets[i].path) == n && strncmp(page_assets[i].path, s, n) == 0;
		assert_true(found);
	}
	assert_true(named >= 3);
	assert_null(strstr(html, "https://"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gzip_is_for_those_who_take_it),
		cmocka_unit_test(test_tags_match_whole),
		cmocka_unit_test(test_the_files_that_the_page_names_are_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
