/* Which route answers, what {} gets, and what is said when none does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "api/auth.h"
#include "api/route.h"

static const struct route first[] = {
	{ "GET", "/a", NULL, ROLE_NONE, 0, "a" },
	{ "GET", "/a/{x}", NULL, ROLE_NONE, 0, "ax" },
	{ "POST", "/a/{x}", NULL, ROLE_NONE, 0, "ax post" },
	{ "GET", "/a/{x}/b/{y}", NULL, ROLE_NONE, 0, "axby" },
};
static const struct route second[] = {
	{ "DELETE", "/a/{x}", NULL, ROLE_NONE, 0, "ax delete" },
	{ "GET", "/assets/{path...}", NULL, ROLE_NONE, 0, "assets" },
	{ "GET", "/", NULL, ROLE_NONE, 0, "root" },
};
static const size_t first_count = sizeof(first) / sizeof(first[0]), second_count = sizeof(second) / sizeof(second[0]);
static const struct route_table tables[] = { { first, &first_count }, { second, &second_count } };

static void
check(const char *method, const char *path, enum route_result want, const char *summary, const char *p0, const char *p1,
      const char *allow)
{
	const struct route *r = NULL;
	char *param[ROUTE_PARAMS];
	struct buf b = BUF_INIT;

	assert_int_equal(route_find(tables, 2, method, path, &r, param, &b), want);
	if (summary)
		assert_string_equal(r->summary, summary);
	if (p0)
		assert_string_equal(param[0], p0);
	if (p1)
		assert_string_equal(param[1], p1);
	if (want == ROUTE_FOUND && !p0)
		assert_null(param[0]);
	if (allow)
		assert_string_equal(b.s, allow);
	for (int i = 0; i < ROUTE_PARAMS; i++)
		free(param[i]);
	buf_release(&b);
}

static void
test_match(void **state)
{
	(void)state;
	check("GET", "/", ROUTE_FOUND, "root", NULL, NULL, NULL);
	check("GET", "/a", ROUTE_FOUND, "a", NULL, NULL, NULL);
	check("GET", "/a/1", ROUTE_FOUND, "ax", "1", NULL, NULL);
	check("HEAD", "/a/1", ROUTE_FOUND, "ax", "1", NULL, NULL);
	check("POST", "/a/1", ROUTE_FOUND, "ax post", "1", NULL, NULL);
	check("DELETE", "/a/1", ROUTE_FOUND, "ax delete", "1", NULL, NULL);
	check("GET", "/a/1/b/2", ROUTE_FOUND, "axby", "1", "2", NULL);
	check("GET", "/assets/x/y.js", ROUTE_FOUND, "assets", "x/y.js", NULL, NULL);
}

static void
test_decoding(void **state)
{
	(void)state;
	/* An encoded slash is part of the name, and so is the catalog's unit separator. */
	check("GET", "/a/x%2Fy", ROUTE_FOUND, "ax", "x/y", NULL, NULL);
	check("GET", "/a/x%1fy/b/%C3%A4+", ROUTE_FOUND, "axby", "x\x1fy", "\xc3\xa4+", NULL);
	check("GET", "/a/%", ROUTE_BAD_PATH, NULL, NULL, NULL, NULL);
	check("GET", "/a/%4", ROUTE_BAD_PATH, NULL, NULL, NULL, NULL);
	check("GET", "/a/%zz", ROUTE_BAD_PATH, NULL, NULL, NULL, NULL);
	check("GET", "/a/x%00y", ROUTE_BAD_PATH, NULL, NULL, NULL, NULL);
}

static void
test_nothing(void **state)
{
	(void)state;
	check("GET", "/b", ROUTE_NO_PATH, NULL, NULL, NULL, "");
	check("GET", "/a/", ROUTE_NO_PATH, NULL, NULL, NULL, "");
	check("GET", "/a/1/", ROUTE_NO_PATH, NULL, NULL, NULL, "");
	check("GET", "/a/1/b", ROUTE_NO_PATH, NULL, NULL, NULL, "");
	check("GET", "/assets/", ROUTE_NO_PATH, NULL, NULL, NULL, "");
	check("GET", "", ROUTE_NO_PATH, NULL, NULL, NULL, "");
	check("PUT", "/a/1", ROUTE_NO_METHOD, NULL, NULL, NULL, "GET, HEAD, POST, DELETE");
	check("POST", "/", ROUTE_NO_METHOD, NULL, NULL, NULL, "GET, HEAD");
}

static void
test_plus(void **state)
{
	char *s = percent_decode("a+b%2Bc", 7, true);

	(void)state;
	assert_string_equal(s, "a b+c");
	free(s);
	s = percent_decode("a+b", 3, false);
	assert_string_equal(s, "a+b");
	free(s);
}

/* A page that points its own name at 127.0.0.1 must not get an answer. */
static void
test_host(void **state)
{
	(void)state;
	assert_true(auth_host_ok("127.0.0.1:8080", "127.0.0.1"));
	assert_true(auth_host_ok("127.9.9.9", "127.0.0.1"));
	assert_true(auth_host_ok("localhost:1", "127.0.0.1"));
	assert_true(auth_host_ok("LOCALHOST", "127.0.0.1"));
	assert_true(auth_host_ok("x.localhost:80", "127.0.0.1"));
	assert_true(auth_host_ok("[::1]:8080", "127.0.0.1"));
	assert_true(auth_host_ok("data.example.org:8080", "data.example.org"));
	assert_true(auth_host_ok("10.1.2.3:8080", "10.1.2.3"));
	assert_true(auth_host_ok("10.1.2.3", "0.0.0.0"));
	assert_true(auth_host_ok("[fe80::1]", "::"));
	assert_false(auth_host_ok("10.1.2.3", "127.0.0.1"));
	assert_false(auth_host_ok("evil.example", "127.0.0.1"));
	assert_false(auth_host_ok("evil.example", "0.0.0.0"));
	assert_false(auth_host_ok("127.0.0.1.evil.example", "127.0.0.1"));
	assert_false(auth_host_ok("localhost.evil.example", "127.0.0.1"));
	assert_false(auth_host_ok("[::1]evil.example", "127.0.0.1"));
	assert_false(auth_host_ok("[::1", "127.0.0.1"));
	assert_false(auth_host_ok(":8080", "127.0.0.1"));
	assert_false(auth_host_ok("", "127.0.0.1"));
	assert_false(auth_host_ok(NULL, "127.0.0.1"));
}

static void
test_origin(void **state)
{
	(void)state;
	assert_true(auth_origin_ok("http://127.0.0.1:8080", "127.0.0.1:8080"));
	assert_true(auth_origin_ok("https://data.example.org", "data.example.org"));
	assert_false(auth_origin_ok("http://127.0.0.1:8081", "127.0.0.1:8080"));
	assert_false(auth_origin_ok("http://evil.example", "127.0.0.1:8080"));
	assert_false(auth_origin_ok("http://127.0.0.1:8080.evil.example", "127.0.0.1:8080"));
	assert_false(auth_origin_ok("null", "127.0.0.1:8080"));
	assert_false(auth_origin_ok("http://x", NULL));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_match), cmocka_unit_test(test_decoding), cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_plus),  cmocka_unit_test(test_host),     cmocka_unit_test(test_origin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
