/* Which snapshots may go: by age and number, by branch and tag, by calendar, and by who may be reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/table_expiry.h"

#define NOW (1000 * US_PER_DAY)

/* A table of `n` snapshots 1 … n in a row, one a day, the last one now. The caller owns it. */
static json_t *
daily(int n)
{
	json_t *md = json_pack("{s:i,s:[],s:[],s:{s:{s:s,s:i}}}", "current-snapshot-id", n, "snapshots", "snapshot-log", "refs",
			       "main", "type", "branch", "snapshot-id", n);

	for (int i = 1; i <= n; i++) {
		json_int_t at = (NOW - (n - i) * US_PER_DAY) / US_PER_MS;
		json_t *s = json_pack("{s:i,s:I}", "snapshot-id", i, "timestamp-ms", at);

		if (i > 1)
			json_object_set_new(s, "parent-snapshot-id", json_integer(i - 1));
		json_array_append_new(json_object_get(md, "snapshots"), s);
		json_array_append_new(json_object_get(md, "snapshot-log"),
				      json_pack("{s:i,s:I}", "snapshot-id", i, "timestamp-ms", at));
	}
	return md;
}

static void
expect(json_t *md, const struct table_expiry *x, const char *gone, const char *refs)
{
	json_t *names = json_array(), *ids = table_expired(md, x, names);
	char *have = json_dumps(ids, JSON_COMPACT), *have_refs = json_dumps(names, JSON_COMPACT);

	assert_string_equal(have, gone);
	assert_string_equal(have_refs, refs);
	free(have);
	free(have_refs);
	json_decref(ids);
	json_decref(names);
}

static void
test_age_and_number(void **state)
{
	json_t *md = daily(6);
	struct table_expiry x = { .now = NOW, .older_than = 2 * US_PER_DAY, .keep_last = 1 };

	(void)state;
	expect(md, &x, "[1,2,3]", "[]");
	x.keep_last = 5;
	expect(md, &x, "[1]", "[]");
	x = (struct table_expiry){ .now = NOW, .older_than = 0, .keep_last = 0 };
	expect(md, &x, "[1,2,3,4,5]", "[]"); /* never what the table is */
	json_decref(md);
}

static void
test_branches_and_tags(void **state)
{
	json_t *md = daily(6), *refs = json_object_get(md, "refs");
	struct table_expiry x = { .now = NOW, .older_than = 0, .keep_last = 1 };

	(void)state;
	json_object_set_new(refs, "v1", json_pack("{s:s,s:i}", "type", "tag", "snapshot-id", 2));
	json_object_set_new(refs, "old",
			    json_pack("{s:s,s:i,s:I}", "type", "tag", "snapshot-id", 3, "max-ref-age-ms",
				      (json_int_t)(US_PER_DAY / US_PER_MS)));
	json_object_set_new(refs, "work",
			    json_pack("{s:s,s:i,s:i}", "type", "branch", "snapshot-id", 5, "min-snapshots-to-keep", 2));
	expect(md, &x, "[1,3]", "[\"old\"]");
	json_object_set_new(json_object_get(refs, "work"), "max-snapshot-age-ms", json_integer(100LL * US_PER_DAY / US_PER_MS));
	expect(md, &x, "[]", "[\"old\"]");
	json_decref(md);
}

static void
test_who_reads(void **state)
{
	json_t *md = daily(6);
	struct table_expiry x = { .now = NOW, .older_than = 0, .keep_last = 1, .read_since = NOW - 2 * US_PER_DAY - US_PER_HOUR };

	(void)state;
	expect(md, &x, "[1,2]", "[]"); /* 3 was current when the reader began */
	/* A rollback: 2 was current again until a moment ago. */
	x.read_since = NOW - US_PER_MIN;
	json_array_append_new(json_object_get(md, "snapshot-log"), json_pack("{s:i,s:I}", "snapshot-id", 2, "timestamp-ms",
									     (json_int_t)((NOW - US_PER_HOUR) / US_PER_MS)));
	json_array_append_new(json_object_get(md, "snapshot-log"), json_pack("{s:i,s:I}", "snapshot-id", 6, "timestamp-ms",
									     (json_int_t)((NOW - US_PER_S) / US_PER_MS)));
	expect(md, &x, "[1,3,4]", "[]"); /* 5 became history by 6, just now */
	json_decref(md);
}

static void
test_clocks(void **state)
{
	json_t *md = daily(6), *list = json_object_get(md, "snapshots");
	struct table_expiry x = { .now = NOW, .older_than = 2 * US_PER_DAY + US_PER_HOUR, .keep_last = 1 };
	json_int_t ms = US_PER_DAY / US_PER_MS;

	(void)state;
	expect(md, &x, "[1,2,3]", "[]");
	/* The clock of 5's writer is a hundred days behind: it came after 4 all the same, and 4 is no older for it. */
	json_object_set_new(json_array_get(list, 4), "timestamp-ms", json_integer((NOW / US_PER_DAY - 100) * ms));
	expect(md, &x, "[1,2,3]", "[]");
	x.older_than = 0;
	x.read_since = NOW - US_PER_DAY - US_PER_HOUR; /* 4 was current then, or 5 */
	json_object_set_new(json_array_get(json_object_get(md, "snapshot-log"), 4), "timestamp-ms",
			    json_integer((NOW / US_PER_DAY - 100) * ms));
	expect(md, &x, "[1,2,3]", "[]");
	/* That of 2's writer is a hundred days ahead, and nothing stays because of it. */
	json_object_set_new(json_array_get(list, 1), "timestamp-ms", json_integer((NOW / US_PER_DAY + 100) * ms));
	x = (struct table_expiry){ .now = NOW, .older_than = US_PER_DAY, .keep_last = 1 };
	json_object_set_new(json_array_get(list, 4), "timestamp-ms", json_integer((NOW / US_PER_DAY - 1) * ms));
	expect(md, &x, "[1,2,3,4]", "[]");
	json_decref(md);
}

static void
test_calendar(void **state)
{
	json_t *md = daily(60), *keep = json_pack("{s:i,s:i,s:i}", "daily", 3, "weekly", 2, "monthly", 2), *ids;
	struct table_expiry x = { .now = NOW, .older_than = 0, .keep_last = 1, .keep = keep };

	(void)state;
	ids = table_expired(md, &x, NULL);
	assert_in_range(json_array_size(ids), 60 - 6, 60 - 4); /* 3 days, one more week, one more month, which may be one */
	json_decref(ids);
	json_decref(md);
	json_decref(keep);
}

static void
test_no_branch(void **state)
{
	json_t *md = daily(3);
	struct table_expiry x = { .now = NOW, .older_than = 5 * US_PER_DAY, .keep_last = 1 };

	(void)state;
	json_array_insert_new(
		json_object_get(md, "snapshots"), 0,
		json_pack("{s:i,s:I}", "snapshot-id", 9, "timestamp-ms", (json_int_t)((NOW - 9 * US_PER_DAY) / US_PER_MS)));
	json_array_insert_new(
		json_object_get(md, "snapshots"), 3,
		json_pack("{s:i,s:I}", "snapshot-id", 8, "timestamp-ms", (json_int_t)((NOW - US_PER_DAY) / US_PER_MS)));
	expect(md, &x, "[9]", "[]");
	json_object_del(md, "refs"); /* version 1 */
	expect(md, &x, "[9]", "[]");
	json_decref(md);
}

static void
test_properties(void **state)
{
	json_t *policy = json_pack("{s:i,s:i}", "expire_days", 3, "keep_last", 2),
	       *md = json_pack("{s:{s:s,s:s}}", "properties", "history.expire.max-snapshot-age-ms", "86400000",
			       "history.expire.min-snapshots-to-keep", "7"),
	       *plain = json_object();
	struct table_expiry x = table_expiry_of(policy, plain, NOW);

	(void)state;
	assert_int_equal(x.older_than, 3 * US_PER_DAY);
	assert_int_equal(x.keep_last, 2);
	x = table_expiry_of(policy, md, NOW);
	assert_int_equal(x.older_than, US_PER_DAY);
	assert_int_equal(x.keep_last, 7);
	json_decref(policy);
	json_decref(md);
	json_decref(plain);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_age_and_number), cmocka_unit_test(test_branches_and_tags), cmocka_unit_test(test_who_reads),
		cmocka_unit_test(test_clocks),         cmocka_unit_test(test_calendar),          cmocka_unit_test(test_no_branch),
		cmocka_unit_test(test_properties),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
