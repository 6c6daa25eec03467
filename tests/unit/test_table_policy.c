/* Which tables globs mean, and what the config says of one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/table_policy.h"

/* Is the glob's policy that of the table? */
static bool
matches(const char *glob, const char *table)
{
	json_t *h = json_pack("{s:{s:{s:i}}}", "tables", glob, "keep_last", 5), *policy = table_policy(h, table);
	bool yes = json_integer_value(json_object_get(policy, "keep_last")) == 5;

	json_decref(policy);
	json_decref(h);
	return yes;
}

static void
test_globs(void **state)
{
	(void)state;
	assert_true(matches("*", "stg.orders"));
	assert_true(matches("stg.orders", "stg.orders"));
	assert_false(matches("stg.orders", "stg.orders2"));
	assert_false(matches("stg.orders", "stg.order"));
	assert_true(matches("stg.*", "stg.a.b"));
	assert_false(matches("stg.*", "stg2.a"));
	assert_true(matches("*.orders", "a.b.orders"));
	assert_true(matches("*a*b*c", "xaxbxbxc"));
	assert_false(matches("*a*b*c", "xaxbxbx"));
	assert_true(matches("s?g.t", "stg.t"));
	assert_true(matches("s?g.t", "s\xc3\xa9g.t"));
	assert_false(matches("s?g.t", "sg.t"));
	assert_true(matches("a.[b]", "a.[b]"));
	assert_false(matches("a.[b]", "a.b"));
	assert_false(matches("", "a.b"));
	assert_true(matches("a.b**", "a.b"));
}

/* The catalog's name is taken off where something is left that is a table's name. */
static void
test_catalog_in_front(void **state)
{
	(void)state;
	assert_string_equal(table_glob("local.stg.*", "local"), "stg.*");
	assert_string_equal(table_glob("local.*", "local"), "*");
	assert_string_equal(table_glob("local.orders", "local"), "local.orders");
	assert_string_equal(table_glob("local.local.orders", "local"), "local.orders");
	assert_string_equal(table_glob("l*", "local"), "l*");
	assert_string_equal(table_glob("localx.t", "local"), "localx.t");
	assert_string_equal(table_glob("a.b", ""), "a.b");
}

static void
policy_is(const json_t *housekeeping, const char *table, const char *expected)
{
	json_t *policy = table_policy(housekeeping, table);
	char *text = json_dumps(policy, JSON_COMPACT | JSON_SORT_KEYS);

	assert_string_equal(text, expected);
	free(text);
	json_decref(policy);
}

static void
test_policies(void **state)
{
	json_t *h =
		json_loads("{\"target_file_size\": 128, \"expire_days\": 7, \"keep_last\": 1, \"orphan_days\": 3, \"tables\": {"
			   "\"gold.*\": {\"expire_days\": 30, \"keep\": {\"weekly\": 4}},"
			   "\"bronze.*\": {\"expire_days\": 3},"
			   "\"*.big\": {\"target_file_size\": 512, \"keep\": {\"daily\": 2}},"
			   "\"gold.big\": {\"expire_days\": 60, \"keep\": {\"daily\": 0, \"monthly\": 1}}}}",
			   0, NULL);

	(void)state;
	policy_is(h, "silver.t",
		  "{\"expire_days\":7,\"keep\":{\"daily\":0,\"monthly\":0,\"weekly\":0},\"keep_last\":1,\"orphan_days\":3,"
		  "\"target_file_size\":128}");
	policy_is(h, "bronze.big",
		  "{\"expire_days\":3,\"keep\":{\"daily\":2,\"monthly\":0,\"weekly\":0},\"keep_last\":1,\"orphan_days\":3,"
		  "\"target_file_size\":512}");
	policy_is(h, "gold.big",
		  "{\"expire_days\":60,\"keep\":{\"daily\":0,\"monthly\":1,\"weekly\":4},\"keep_last\":1,\"orphan_days\":3,"
		  "\"target_file_size\":512}");
	json_decref(h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_globs),
		cmocka_unit_test(test_catalog_in_front),
		cmocka_unit_test(test_policies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
