/* Which snapshot of a table a word means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/table_at.h"

/* 10 was made, then 20 from it; back to 10; then 30 from 10. 40 is a branch's. 5 has expired. */
static const char text[] =
	"{\"current-snapshot-id\": 30, \"snapshots\": [{\"snapshot-id\": 10}, {\"snapshot-id\": 20, \"parent-snapshot-id\": 10},"
	" {\"snapshot-id\": 30, \"parent-snapshot-id\": 10}, {\"snapshot-id\": 40, \"parent-snapshot-id\": 20}],"
	" \"snapshot-log\": [{\"timestamp-ms\": 1000, \"snapshot-id\": 5}, {\"timestamp-ms\": 2000, \"snapshot-id\": 10},"
	" {\"timestamp-ms\": 3000, \"snapshot-id\": 20}, {\"timestamp-ms\": 4000, \"snapshot-id\": 10},"
	" {\"timestamp-ms\": 5000, \"snapshot-id\": 30}],"
	" \"refs\": {\"main\": {\"snapshot-id\": 30, \"type\": \"branch\"}, \"dev\": {\"snapshot-id\": 40, \"type\": \"branch\"},"
	" \"v1\": {\"snapshot-id\": 10, \"type\": \"tag\"}, \"20\": {\"snapshot-id\": 10, \"type\": \"tag\"},"
	" \"gone\": {\"snapshot-id\": 5, \"type\": \"tag\"}}}";
#define NOW (10000 * US_PER_MS)

static void
means(const json_t *md, const char *at, json_int_t id)
{
	struct err e = ERR_INIT;
	const json_t *s = table_at(md, at, NOW, &e);

	if (s == NULL)
		fail_msg("\"%s\": %s", at, e.msg);
	assert_int_equal(json_integer_value(json_object_get(s, "snapshot-id")), id);
	assert_int_equal(e.code, 0);
}

static void
refused(const json_t *md, const char *at, const char *word)
{
	struct err e = ERR_INIT;

	assert_null(table_at(md, at, NOW, &e));
	assert_int_equal(e.code, ERR_NOT_FOUND);
	if (strstr(e.msg, word) == NULL)
		fail_msg("\"%s\" says: %s", at, e.msg);
	err_release(&e);
}

static void
test_words(void **state)
{
	json_t *md = json_loads(text, 0, NULL);

	(void)state;
	means(md, NULL, 30);
	means(md, "", 30);
	means(md, "main", 30);
	means(md, "dev", 40);
	means(md, "v1", 10);
	means(md, "40", 40);
	means(md, "20", 10); /* a name comes first */
	means(md, "previous", 10);
	refused(md, "gone", "no snapshot 5");
	refused(md, "99", "no snapshot 99");
	refused(md, "99999999999999999999999", "no snapshot");
	refused(md, "v2", "its branches and tags are main, dev, v1");
	json_decref(md);
}

static void
test_times(void **state)
{
	json_t *md = json_loads(text, 0, NULL);

	(void)state;
	means(md, "1970-01-01 00:00:02", 10);
	means(md, "1970-01-01T00:00:02.999Z", 10);
	means(md, "1970-01-01 00:00:03", 20);
	means(md, "1970-01-01 00:00:04.5", 10);
	means(md, "1970-01-01T01:00:05+01:00", 30);
	means(md, "2999-01-01", 30);
	means(md, "0s ago", 30);
	means(md, "6s ago", 10);
	refused(md, "1970-01-01", "history begins at 1970-01-01T00:00:01");
	refused(md, "1970-01-01 00:00:01.5", "snapshot 5, has expired");
	refused(md, "1h ago", "history begins");
	refused(md, "1x ago", "is no branch");
	refused(md, "1970-02-31", "is no branch");
	json_decref(md);
}

static void
test_tables_without_much(void **state)
{
	json_t *md = json_loads("{\"snapshots\": []}", 0, NULL);

	(void)state;
	refused(md, NULL, "no current snapshot");
	refused(md, "previous", "no previous snapshot");
	refused(md, "2999-01-01", "no history");
	json_decref(md);
	/* Replaced: no parent. What was current before it became so for the first time. */
	md = json_loads(
		"{\"current-snapshot-id\": 2, \"snapshots\": [{\"snapshot-id\": 1}, {\"snapshot-id\": 2}], \"snapshot-log\":"
		" [{\"timestamp-ms\": 1, \"snapshot-id\": 1}, {\"timestamp-ms\": 2, \"snapshot-id\": 2}]}",
		0, NULL);
	means(md, "previous", 1);
	json_object_set_new(md, "current-snapshot-id", json_integer(1));
	refused(md, "previous", "no previous snapshot");
	json_decref(md);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_tables_without_much),
	};

	return cmocka_run_group_tests_name("table_at", tests, NULL, NULL);
}
