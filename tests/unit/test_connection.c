/* Addresses of databases, as people write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tasks/connection.h"

/* `want` is JSON of the keys, in their order by name. */
static void
expect(const char *format, const char *uri, const char *password, const char *want)
{
	struct connection c;
	struct err e = ERR_INIT;
	char *have;

	if (connection_parse(uri, format, &c, &e) < 0)
		fail_msg("%s: %s", uri, e.msg);
	have = json_dumps(c.keys, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(have, want);
	assert_string_equal(c.password ? c.password : "(none)", password);
	free(have);
	connection_release(&c);
}

static void
refuse(const char *format, const char *uri, const char *words)
{
	struct connection c;
	struct err e = ERR_INIT;

	assert_int_equal(connection_parse(uri, format, &c, &e), ERR_INVALID);
	if (strstr(e.msg, words) == NULL)
		fail_msg("%s: %s", uri, e.msg);
	assert_null(strstr(e.msg, "hunter2"));
	err_release(&e);
	connection_release(&c);
}

static void
test_addresses(void **state)
{
	(void)state;
	expect("postgres", "postgresql://me:a%2Fb%25%40@db.example:5433/crm", "a/b%@",
	       "{\"dbname\":\"crm\",\"host\":\"db.example\",\"port\":\"5433\",\"user\":\"me\"}");
	expect("postgres", "postgres://me:p@ss@h/crm?sslmode=require", "p@ss",
	       "{\"dbname\":\"crm\",\"host\":\"h\",\"sslmode\":\"require\",\"user\":\"me\"}");
	expect("postgres", "postgresql://[::1]:5432,h2/crm", "(none)",
	       "{\"dbname\":\"crm\",\"host\":\"::1,h2\",\"port\":\"5432,\"}");
	expect("postgres", "postgresql:///crm?host=/run/pg&user=me", "(none)",
	       "{\"dbname\":\"crm\",\"host\":\"/run/pg\",\"user\":\"me\"}");
	expect("postgres", "jdbc:postgresql://h/crm?user=me&password=x%20y&ssl=true&ApplicationName=app", "x y",
	       "{\"application_name\":\"app\",\"dbname\":\"crm\",\"host\":\"h\",\"sslmode\":\"require\",\"user\":\"me\"}");
	expect("postgres", "postgresql+psycopg2://h", "(none)", "{\"host\":\"h\"}");
	expect("postgres", "host=h  dbname = 'my db' password='it\\'s' user=me", "it's",
	       "{\"dbname\":\"my db\",\"host\":\"h\",\"user\":\"me\"}");
	expect("mysql", "mysql://me:pw@h:3307/shop?ssl_mode=REQUIRED", "pw",
	       "{\"database\":\"shop\",\"host\":\"h\",\"port\":\"3307\",\"ssl_mode\":\"REQUIRED\",\"user\":\"me\"}");
	expect("mysql", "mariadb://h/shop", "(none)", "{\"database\":\"shop\",\"host\":\"h\"}");
	expect("mysql", "host=h db=shop passwd=x", "x", "{\"database\":\"shop\",\"host\":\"h\"}");
}

static void
test_refused(void **state)
{
	(void)state;
	refuse("postgres", "mysql://a:hunter2@h/db", "begins with mysql://");
	refuse("mysql", "postgresql://a:hunter2@h/db", "begins with postgresql://");
	refuse("postgres", "post://a:hunter2@h/db", "begins with post://");
	refuse("postgres", "postgresql://a:hunter2/x@h/db", "written %2F");
	refuse("postgres", "hunter2", "neither an address");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
