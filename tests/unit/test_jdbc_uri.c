/* Addresses of JDBC catalogs, as Spark and PyIceberg are configured with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "scheduler/store/jdbc_uri.h"

static void
expect(const char *uri, const char *user, const char *password, const char *want)
{
	struct err e = ERR_INIT;
	char *have = jdbc_uri_dsn(uri, user, password, &e);

	if (have == NULL)
		fail_msg("%s: %s", uri, e.msg);
	assert_string_equal(have, want);
	free(have);
}

static void
refuse(const char *uri, const char *words)
{
	struct err e = ERR_INIT;

	assert_null(jdbc_uri_dsn(uri, NULL, "hunter2", &e));
	assert_int_equal(e.code, ERR_INVALID);
	assert_non_null(strstr(e.msg, words));
	assert_null(strstr(e.msg, "hunter2"));
	err_release(&e);
}

static void
test_dsn(void **state)
{
	(void)state;
	expect("jdbc:postgresql://h:5433/lake", NULL, NULL, "postgresql://h:5433/lake");
	expect("jdbc:postgresql://h/lake", "ana", "a&b c/d%", "postgresql://h/lake?user=ana&password=a%26b%20c%2Fd%25");
	expect("postgresql+psycopg2://u:p%40w@h,i:2/lake?host=%2Ftmp%2Fs&port=1", NULL, NULL,
	       "postgresql://u:p%40w@h,i:2/lake?host=%2Ftmp%2Fs&port=1");
	expect("postgres://h/lake?user=x&ssl=true&connectTimeout=3&", "y", NULL,
	       "postgresql://h/lake?user=x&sslmode=require&connect_timeout=3&user=y");
	expect("jdbc:postgresql://h/lake?ssl=false&currentSchema=ice", NULL, NULL,
	       "postgresql://h/lake?options=-csearch_path%3Dice");
}

static void
test_refused(void **state)
{
	(void)state;
	refuse("jdbc:mysql://h/lake", "mysql");
	refuse("sqlite:///x.db", "sqlite");
	refuse("jdbc:postgresql:lake", "must look like");
	refuse("jdbc:postgresql://h/lake?password=hunter2&preferQueryMode=simple", "\"preferQueryMode\"");
	refuse("", "only PostgreSQL");
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_dsn), cmocka_unit_test(test_refused) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
