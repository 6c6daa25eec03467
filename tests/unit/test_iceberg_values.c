/* Bounds and partitions: the bytes and the SQL that the table specification wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/murmur.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/values.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void
values_have_the_bytes_of_the_specification(void **state)
{
	static const struct {
		const char *type, *text;
		enum value_use use;
		const char *bytes; /* as an SQL literal; NULL: there is no bound */
	} cases[] = {
		{ "boolean", "1", VALUE_EXACT, "'\\x01'::BLOB" },
		{ "int", "-2", VALUE_LOWER, "'\\xFE\\xFF\\xFF\\xFF'::BLOB" },
		{ "long", "258", VALUE_LOWER, "'\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00'::BLOB" },
		{ "float", "-1.0", VALUE_LOWER, "'\\x00\\x00\\x80\\xBF'::BLOB" },
		{ "double", "0.0", VALUE_LOWER, "'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x80'::BLOB" },
		{ "double", "-0.0", VALUE_UPPER, "'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'::BLOB" },
		{ "double", "nan", VALUE_LOWER, NULL },
		{ "date", "1970-01-01", VALUE_LOWER, "'\\x00\\x00\\x00\\x00'::BLOB" },
		{ "date", "1969-12-31", VALUE_LOWER, "'\\xFF\\xFF\\xFF\\xFF'::BLOB" },
		{ "date", "2000-02-29", VALUE_LOWER, "'\\x08\\x2B\\x00\\x00'::BLOB" },
		{ "date", "infinity", VALUE_LOWER, NULL },
		{ "date", "0044-03-15 (BC)", VALUE_LOWER, NULL },
		{ "time", "00:00:01.5", VALUE_LOWER, "'\\x60\\xE3\\x16\\x00\\x00\\x00\\x00\\x00'::BLOB" },
		{ "timestamp", "1970-01-01 00:00:00.000001", VALUE_LOWER, "'\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00'::BLOB" },
		{ "timestamptz", "1970-01-01 05:30:00+05:30", VALUE_LOWER, "'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'::BLOB" },
		{ "timestamptz", "1970-01-01 00:00:00", VALUE_LOWER, NULL },
		{ "decimal(9, 2)", "1.28", VALUE_LOWER, "'\\x00\\x80'::BLOB" },
		{ "decimal(9, 2)", "-1.28", VALUE_LOWER, "'\\x80'::BLOB" },
		{ "decimal(9, 2)", "0.00", VALUE_LOWER, "'\\x00'::BLOB" },
		{ "uuid", "01020304-0506-0708-090a-0b0c0d0e0f10", VALUE_LOWER,
		  "'\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08\\x09\\x0A\\x0B\\x0C\\x0D\\x0E\\x0F\\x10'::BLOB" },
		{ "binary", "00FF", VALUE_UPPER, "'\\x00\\xFF'::BLOB" },
		{ "binary", "00FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", VALUE_UPPER, "'\\x01'::BLOB" },
		{ "binary", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", VALUE_UPPER, NULL },
		{ "string", "", VALUE_LOWER, "''::BLOB" },
		{ "string", "0123456789abcdefg", VALUE_LOWER,
		  "'\\x30\\x31\\x32\\x33\\x34\\x35\\x36\\x37\\x38\\x39\\x61\\x62\\x63\\x64\\x65\\x66'::BLOB" },
		{ "string", "0123456789abcdefg", VALUE_UPPER,
		  "'\\x30\\x31\\x32\\x33\\x34\\x35\\x36\\x37\\x38\\x39\\x61\\x62\\x63\\x64\\x65\\x67'::BLOB" },
		{ "string", "0123456789abcde\x7f.", VALUE_UPPER,
		  "'\\x30\\x31\\x32\\x33\\x34\\x35\\x36\\x37\\x38\\x39\\x61\\x62\\x63\\x64\\x65\\xC2\\x80'::BLOB" },
		{ "string", "0123456789abcde\xf4\x8f\xbf\xbf.", VALUE_UPPER,
		  "'\\x30\\x31\\x32\\x33\\x34\\x35\\x36\\x37\\x38\\x39\\x61\\x62\\x63\\x64\\x66'::BLOB" },
		{ "geometry", "x", VALUE_LOWER, NULL },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct buf bytes = BUF_INIT, sql = BUF_INIT;
		bool is = value_bytes(cases[i].type, cases[i].text, strlen(cases[i].text), cases[i].use, &bytes);

		assert_int_equal(is, cases[i].bytes != NULL);
		if (is) {
			value_sql_blob(&bytes, &sql);
			assert_string_equal(sql.s, cases[i].bytes);
		}
		buf_release(&bytes);
		buf_release(&sql);
	}
}

static void
values_are_ordered_by_their_bytes(void **state)
{
	static const struct {
		const char *type, *small, *large;
	} cases[] = {
		{ "int", "-1", "0" },          { "long", "255", "256" },
		{ "double", "-3.5", "1e300" }, { "decimal(9, 2)", "-1.28", "1.28" },
		{ "string", "a", "aa" },       { "date", "1969-01-01", "2024-01-01" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct buf a = BUF_INIT, b = BUF_INIT;

		assert_true(value_bytes(cases[i].type, cases[i].small, strlen(cases[i].small), VALUE_EXACT, &a));
		assert_true(value_bytes(cases[i].type, cases[i].large, strlen(cases[i].large), VALUE_EXACT, &b));
		assert_true(value_compare(cases[i].type, &a, &b) < 0);
		assert_true(value_compare(cases[i].type, &b, &a) > 0);
		assert_int_equal(value_compare(cases[i].type, &a, &a), 0);
		buf_release(&a);
		buf_release(&b);
	}
}

/* The examples of the specification's appendix on bucket hashes. */
static void
the_hash_is_the_specification_s(void **state)
{
	static const unsigned char number[] = { 34, 0, 0, 0, 0, 0, 0, 0 }, decimal[] = { 0x05, 0x8c }, bytes[] = { 0, 1, 2, 3 };

	(void)state;
	assert_int_equal((int32_t)murmur3_32(number, sizeof(number)), 2017239379);
	assert_int_equal((int32_t)murmur3_32(decimal, sizeof(decimal)), -500754589);
	assert_int_equal((int32_t)murmur3_32("iceberg", 7), 1210000089);
	assert_int_equal((int32_t)murmur3_32(bytes, sizeof(bytes)), -188683207);
}

static json_t *
columns(void)
{
	return json_pack("[{s:i,s:s,s:s},{s:i,s:s,s:{s:s,s:[{s:i,s:s,s:s}]}},{s:i,s:s,s:s}]", "id", 1, "name", "Id", "type",
			 "long", "id", 2, "name", "st", "type", "type", "struct", "fields", "id", 4, "name", "at", "type",
			 "timestamp", "id", 3, "name", "a b", "type", "string");
}

static void
terms_become_fields(void **state)
{
	static const struct {
		const char *term, *name, *transform;
		int source;
	} cases[] = {
		{ "id", "id", "identity", 1 },
		{ "a b", "a b", "identity", 3 },
		{ " bucket( 16 , Id )", "Id_bucket", "bucket[16]", 1 },
		{ "days(st.at)", "st.at_day", "day", 4 },
		{ "HOUR(st.at)", "st.at_hour", "hour", 4 },
		{ "truncate(3, a b)", "a b_trunc", "truncate[3]", 3 },
	};
	static const char *const wrong[] = {
		"",   "bucket(Id)",         "bucket(0, Id)", "bucket(x, Id)",          "day(Id)", "day(st.at", "week(st.at)",
		"st", "truncate(2, st.at)", "id desc",       "bucket(99999999999, Id)"
	};
	json_t *schema = columns();

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		json_t *texts = json_pack("[s]", cases[i].term), *field;
		struct err e = { 0 };
		json_t *fields = partition_parse(texts, schema, &e);

		assert_non_null(fields);
		field = json_array_get(fields, 0);
		assert_string_equal(json_string_value(json_object_get(field, "name")), cases[i].name);
		assert_string_equal(json_string_value(json_object_get(field, "transform")), cases[i].transform);
		assert_int_equal(json_integer_value(json_object_get(field, "source-id")), cases[i].source);
		json_decref(fields);
		json_decref(texts);
	}
	for (size_t i = 0; i < COUNT(wrong); i++) {
		json_t *texts = json_pack("[s]", wrong[i]);
		struct err e = { 0 };

		assert_null(partition_parse(texts, schema, &e));
		assert_int_not_equal(e.code, 0);
		err_release(&e);
		json_decref(texts);
	}
	json_decref(schema);
}

static void
avro_takes_any_name(void **state)
{
	static const char *const cases[][2] = { { "plain_1", "plain_1" }, { "2nd", "_2nd" }, { "a b-c", "a_x20b_x2Dc" } };

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct buf b = BUF_INIT;

		avro_name(cases[i][0], &b);
		assert_string_equal(b.s, cases[i][1]);
		buf_release(&b);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_have_the_bytes_of_the_specification),
		cmocka_unit_test(values_are_ordered_by_their_bytes),
		cmocka_unit_test(the_hash_is_the_specification_s),
		cmocka_unit_test(terms_become_fields),
		cmocka_unit_test(avro_takes_any_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
