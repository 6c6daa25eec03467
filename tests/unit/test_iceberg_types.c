/* DuckDB's types and Iceberg's: what is written must be what every other engine reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "tasks/iceberg/types.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The Iceberg type as compact JSON with sorted keys; ids start behind `next_id`. */
static char *
iceberg_text(const char *duck, int next_id)
{
	struct err e = { 0 };
	json_t *type = iceberg_type(duck, &next_id, &e);
	char *text;

	if (type == NULL) {
		assert_int_not_equal(e.code, 0);
		assert_non_null(strstr(e.msg, duck));
		err_release(&e);
		return NULL;
	}
	assert_int_equal(e.code, 0);
	text = json_dumps(type, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
	json_decref(type);
	return text;
}

static void
duckdb_types_have_iceberg_names(void **state)
{
	static const struct {
		const char *duck, *iceberg;
	} cases[] = {
		{ "BOOLEAN", "\"boolean\"" },
		{ "TINYINT", "\"int\"" },
		{ "INTEGER", "\"int\"" },
		{ "USMALLINT", "\"int\"" },
		{ "UINTEGER", "\"long\"" },
		{ "BIGINT", "\"long\"" },
		{ "HUGEINT", "\"long\"" },
		{ "UBIGINT", "\"decimal(20, 0)\"" },
		{ "FLOAT", "\"float\"" },
		{ "DOUBLE", "\"double\"" },
		{ "DECIMAL(18,3)", "\"decimal(18, 3)\"" },
		{ "DECIMAL(38,0)", "\"decimal(38, 0)\"" },
		{ "VARCHAR", "\"string\"" },
		{ "JSON", "\"string\"" },
		{ "ENUM('a', 'b')", "\"string\"" },
		{ "DATE", "\"date\"" },
		{ "TIME", "\"time\"" },
		{ "TIMESTAMP", "\"timestamp\"" },
		{ "TIMESTAMP_NS", "\"timestamp\"" },
		{ "TIMESTAMP WITH TIME ZONE", "\"timestamptz\"" },
		{ "BLOB", "\"binary\"" },
		{ "UUID", "\"uuid\"" },
		{ "INTEGER[]", "{\"element\":\"int\",\"element-id\":11,\"element-required\":false,\"type\":\"list\"}" },
		{ "VARCHAR[3]", "{\"element\":\"string\",\"element-id\":11,\"element-required\":false,\"type\":\"list\"}" },
		{ "MAP(VARCHAR, DOUBLE)", "{\"key\":\"string\",\"key-id\":11,\"type\":\"map\",\"value\":\"double\",\"value-id\":"
					  "12,\"value-required\":false}" },
		{ "STRUCT(a INTEGER, \"b \"\"c\" VARCHAR)",
		  "{\"fields\":[{\"id\":11,\"name\":\"a\",\"required\":false,\"type\":\"int\"},"
		  "{\"id\":12,\"name\":\"b \\\"c\",\"required\":false,\"type\":\"string\"}],\"type\":\"struct\"}" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		char *text = iceberg_text(cases[i].duck, 10);

		assert_non_null(text);
		assert_string_equal(text, cases[i].iceberg);
		free(text);
	}
}

static void
types_that_iceberg_lacks_are_named(void **state)
{
	static const char *const cases[] = {
		"INTERVAL", "BIT", "TIME WITH TIME ZONE", "INTERVAL[]", "STRUCT(a INTERVAL)", "MAP(VARCHAR, BIT)", ""
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++)
		assert_null(iceberg_text(cases[i], 0));
}

static void
collect_ids(const json_t *type, int *seen)
{
	const json_t *field;
	static const char *const keys[] = { "id", "element-id", "key-id", "value-id" };
	static const char *const inner[] = { "type", "element", "key", "value" };
	size_t i;

	for (i = 0; i < 4; i++) {
		json_t *id = json_object_get(type, keys[i]);

		if (id) {
			assert_true(json_integer_value(id) > 0 && json_integer_value(id) < 32);
			assert_int_equal(seen[json_integer_value(id)]++, 0);
		}
		if (json_is_object(json_object_get(type, inner[i])))
			collect_ids(json_object_get(type, inner[i]), seen);
	}
	json_array_foreach (json_object_get(type, "fields"), i, field)
		collect_ids(field, seen);
}

static void
nested_fields_get_ids_of_their_own(void **state)
{
	struct err e = { 0 };
	int next = 3, seen[32] = { 0 };
	json_t *type = iceberg_type("STRUCT(a INTEGER, b STRUCT(c DATE, d MAP(VARCHAR, STRUCT(x BIGINT[][])[]))[])", &next, &e);

	(void)state;
	assert_non_null(type);
	collect_ids(type, seen);
	for (int id = 4; id <= next; id++)
		assert_int_equal(seen[id], 1);
	assert_int_equal(next, 14);
	json_decref(type);
}

/* What is read from a table's schema is cast to before it is written: there and back is the same type. */
static void
there_and_back(void **state)
{
	static const char *const cases[] = {
		"BOOLEAN",
		"INTEGER",
		"BIGINT",
		"FLOAT",
		"DOUBLE",
		"DATE",
		"TIME",
		"TIMESTAMP",
		"TIMESTAMP WITH TIME ZONE",
		"VARCHAR",
		"BLOB",
		"UUID",
		"DECIMAL(9,2)",
		"INTEGER[]",
		"MAP(VARCHAR, DATE[])",
		"STRUCT(\"a\" INTEGER, \"odd \"\"name\" VARCHAR[])",
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct buf b = BUF_INIT;
		struct err e = { 0 };
		int next = 0;
		json_t *type = iceberg_type(cases[i], &next, &e);

		assert_non_null(type);
		assert_int_equal(iceberg_to_duck(type, &b, &e), 0);
		assert_string_equal(b.s, cases[i]);
		json_decref(type);
		buf_release(&b);
	}
}

static void
foreign_iceberg_types(void **state)
{
	struct buf b = BUF_INIT;
	struct err e = { 0 };
	json_t *fixed = json_string("fixed[16]"), *later = json_string("variant");

	(void)state;
	assert_int_equal(iceberg_to_duck(fixed, &b, &e), 0);
	assert_string_equal(b.s, "BLOB");
	assert_int_equal(iceberg_to_duck(later, &b, &e), ERR_UNSUPPORTED);
	assert_non_null(strstr(e.msg, "variant"));
	err_release(&e);
	buf_release(&b);
	json_decref(fixed);
	json_decref(later);
}

static void
field_ids_as_the_engine_takes_them(void **state)
{
	struct buf b = BUF_INIT;
	struct err e = { 0 };
	int next = 3;
	json_t *list = iceberg_type("STRUCT(x INTEGER, y DATE[])[]", &next, &e),
	       *map = iceberg_type("MAP(VARCHAR, INTEGER)", &next, &e);
	json_t *fields = json_pack("[{s:i,s:s,s:s},{s:i,s:s,s:o},{s:i,s:s,s:o}]", "id", 1, "name", "id", "type", "long", "id", 2,
				   "name", "say \"l\"", "type", list, "id", 3, "name", "m", "type", map);

	(void)state;
	assert_non_null(fields);
	iceberg_field_ids(fields, &b);
	assert_string_equal(b.s, "{\"id\": {__duckdb_field_id: 1}, "
				 "\"say \"\"l\"\"\": {__duckdb_field_id: 2, element: {__duckdb_field_id: 7, \"x\": 4, "
				 "\"y\": {__duckdb_field_id: 5, element: {__duckdb_field_id: 6}}}}, "
				 "\"m\": {__duckdb_field_id: 3, key: {__duckdb_field_id: 8}, value: {__duckdb_field_id: 9}}}");
	json_decref(fields);
	buf_release(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(duckdb_types_have_iceberg_names),
		cmocka_unit_test(types_that_iceberg_lacks_are_named),
		cmocka_unit_test(nested_fields_get_ids_of_their_own),
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(foreign_iceberg_types),
		cmocka_unit_test(field_ids_as_the_engine_takes_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
