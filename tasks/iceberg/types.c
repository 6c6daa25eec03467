#include "tasks/iceberg/types.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"

static const struct {
	const char *duck, *iceberg, *write_as;
} scalar_types[] = {
	{ "BOOLEAN", "boolean", "BOOLEAN" },
	{ "TINYINT", "int", "INTEGER" },
	{ "SMALLINT", "int", "INTEGER" },
	{ "INTEGER", "int", "INTEGER" },
	{ "UTINYINT", "int", "INTEGER" },
	{ "USMALLINT", "int", "INTEGER" },
	{ "BIGINT", "long", "BIGINT" },
	{ "UINTEGER", "long", "BIGINT" },
	/* sum() of whole numbers is HUGEINT in DuckDB and long in every other engine; a sum that does not fit fails loudly. */
	{ "HUGEINT", "long", "BIGINT" },
	{ "UBIGINT", "decimal(20, 0)", "DECIMAL(20,0)" },
	{ "FLOAT", "float", "FLOAT" },
	{ "DOUBLE", "double", "DOUBLE" },
	{ "DATE", "date", "DATE" },
	{ "TIME", "time", "TIME" },
	{ "TIMESTAMP", "timestamp", "TIMESTAMP" },
	{ "TIMESTAMP_S", "timestamp", "TIMESTAMP" },
	{ "TIMESTAMP_MS", "timestamp", "TIMESTAMP" },
	{ "TIMESTAMP_NS", "timestamp", "TIMESTAMP" },
	{ "TIMESTAMP WITH TIME ZONE", "timestamptz", "TIMESTAMP WITH TIME ZONE" },
	{ "VARCHAR", "string", "VARCHAR" },
	{ "JSON", "string", "VARCHAR" },
	{ "BLOB", "binary", "BLOB" },
	{ "UUID", "uuid", "UUID" },
};

/* A cursor over a type's text. */
struct type_text {
	const char *p;
	const char *whole;
	int *next_id;
	struct err *e;
};

static json_t *type_parse(struct type_text *t);

static void
skip_space(struct type_text *t)
{
	while (*t->p == ' ')
		t->p++;
}

static json_t *
type_unknown(struct type_text *t)
{
	err_set(t->e, ERR_UNPROCESSABLE, "the type %s has no Iceberg counterpart; cast it to another type", t->whole);
	return NULL;
}

/* A field's name, perhaps quoted. */
static char *
type_name(struct type_text *t)
{
	struct buf b = BUF_INIT;

	skip_space(t);
	if (*t->p == '"') {
		for (t->p++; *t->p && (*t->p != '"' || t->p[1] == '"'); t->p++) {
			if (*t->p == '"')
				t->p++;
			buf_addc(&b, *t->p);
		}
		if (*t->p)
			t->p++;
	} else {
		while (isalnum((unsigned char)*t->p) || *t->p == '_')
			buf_addc(&b, *t->p++);
	}
	return buf_detach(&b);
}

static json_t *
type_struct(struct type_text *t)
{
	json_t *fields = json_array();

	while (*t->p && *t->p != ')') {
		char *name = type_name(t);
		int id = ++*t->next_id;
		json_t *type;

		skip_space(t);
		type = type_parse(t);
		if (type == NULL) {
			free(name);
			json_decref(fields);
			return NULL;
		}
		json_array_append_new(fields,
				      json_pack("{s:i,s:s,s:b,s:o}", "id", id, "name", name, "required", 0, "type", type));
		free(name);
		skip_space(t);
		if (*t->p == ',')
			t->p++;
	}
	if (*t->p == ')')
		t->p++;
	return json_pack("{s:s,s:o}", "type", "struct", "fields", fields);
}

static json_t *
type_map(struct type_text *t)
{
	int key_id = ++*t->next_id, value_id = ++*t->next_id;
	json_t *key = type_parse(t), *value = NULL;

	skip_space(t);
	if (key && *t->p == ',') {
		t->p++;
		skip_space(t);
		value = type_parse(t);
	}
	if (value == NULL) {
		json_decref(key);
		return NULL;
	}
	if (*t->p == ')')
		t->p++;
	return json_pack("{s:s,s:i,s:o,s:i,s:o,s:b}", "type", "map", "key-id", key_id, "key", key, "value-id", value_id, "value",
			 value, "value-required", 0);
}

static json_t *
type_scalar(struct type_text *t)
{
	const char *end = t->p;
	int precision, scale, used = 0;
	char text[40];
	size_t n;

	if (strncmp(t->p, "DECIMAL(", 8) == 0 && sscanf(t->p, "DECIMAL(%d,%d)%n", &precision, &scale, &used) == 2 && used) {
		t->p += used;
		snprintf(text, sizeof(text), "decimal(%d, %d)", precision, scale);
		return json_string(text);
	}
	if (strncmp(t->p, "ENUM(", 5) == 0) {
		t->p += strcspn(t->p, ")");
		if (*t->p)
			t->p++;
		return json_string("string");
	}
	while (isalnum((unsigned char)*end) || *end == '_' || (*end == ' ' && isupper((unsigned char)end[1])))
		end++;
	n = (size_t)(end - t->p);
	for (size_t i = 0; i < sizeof(scalar_types) / sizeof(scalar_types[0]); i++)
		if (strlen(scalar_types[i].duck) == n && strncmp(scalar_types[i].duck, t->p, n) == 0) {
			t->p = end;
			return json_string(scalar_types[i].iceberg);
		}
	return type_unknown(t);
}

static json_t *
type_parse(struct type_text *t)
{
	int element_id = 0;
	json_t *type;

	if (strncmp(t->p, "STRUCT(", 7) == 0) {
		t->p += 7;
		type = type_struct(t);
	} else if (strncmp(t->p, "MAP(", 4) == 0) {
		t->p += 4;
		type = type_map(t);
	} else {
		type = type_scalar(t);
	}
	while (type && t->p[0] == '[') {
		t->p += strcspn(t->p, "]");
		if (*t->p)
			t->p++;
		element_id = ++*t->next_id;
		type = json_pack("{s:s,s:i,s:o,s:b}", "type", "list", "element-id", element_id, "element", type,
				 "element-required", 0);
	}
	return type;
}

json_t *
iceberg_type(const char *duck_type, int *next_id, struct err *e)
{
	struct type_text t = { duck_type, duck_type, next_id, e };

	return type_parse(&t);
}

int
iceberg_to_duck(const json_t *type, struct buf *out, struct err *e)
{
	const char *name = json_string_value(type);
	const json_t *field;
	size_t i;

	if (name && strncmp(name, "decimal(", 8) == 0) {
		buf_adds(out, "DECIMAL");
		for (const char *p = name + 7; *p; p++)
			if (*p != ' ')
				buf_addc(out, *p);
		return 0;
	}
	if (name && strncmp(name, "fixed", 5) == 0) {
		buf_adds(out, "BLOB");
		return 0;
	}
	for (i = 0; name && i < sizeof(scalar_types) / sizeof(scalar_types[0]); i++)
		if (strcmp(scalar_types[i].iceberg, name) == 0 && strcmp(scalar_types[i].duck, scalar_types[i].write_as) == 0) {
			buf_adds(out, scalar_types[i].write_as);
			return 0;
		}
	if (name)
		return err_set(e, ERR_UNSUPPORTED, "the Iceberg type %s is not supported by the duckdb engine yet", name);
	name = json_string_value(json_object_get(type, "type"));
	if (name && strcmp(name, "list") == 0) {
		if (iceberg_to_duck(json_object_get(type, "element"), out, e) < 0)
			return e->code;
		buf_adds(out, "[]");
		return 0;
	}
	if (name && strcmp(name, "map") == 0) {
		buf_adds(out, "MAP(");
		if (iceberg_to_duck(json_object_get(type, "key"), out, e) < 0)
			return e->code;
		buf_adds(out, ", ");
		if (iceberg_to_duck(json_object_get(type, "value"), out, e) < 0)
			return e->code;
		buf_adds(out, ")");
		return 0;
	}
	buf_adds(out, "STRUCT(");
	json_array_foreach (json_object_get(type, "fields"), i, field) {
		if (i)
			buf_adds(out, ", ");
		buf_add_sql_name(out, json_string_value(json_object_get(field, "name")));
		buf_addc(out, ' ');
		if (iceberg_to_duck(json_object_get(field, "type"), out, e) < 0)
			return e->code;
	}
	buf_adds(out, ")");
	return 0;
}

static void
add_nested_ids(const json_t *type, struct buf *out)
{
	const char *name = json_string_value(json_object_get(type, "type"));
	const json_t *field;
	size_t i;

	if (strcmp(name, "struct") == 0) {
		json_array_foreach (json_object_get(type, "fields"), i, field) {
			const json_t *inner = json_object_get(field, "type");

			buf_adds(out, ", ");
			buf_add_sql_name(out, json_string_value(json_object_get(field, "name")));
			if (json_is_string(inner)) {
				buf_addf(out, ": %d", (int)json_integer_value(json_object_get(field, "id")));
			} else {
				buf_addf(out, ": {__duckdb_field_id: %d", (int)json_integer_value(json_object_get(field, "id")));
				add_nested_ids(inner, out);
				buf_adds(out, "}");
			}
		}
		return;
	}
	static const char *const parts[3][3] = { { "list", "element", "element-id" },
						 { "map", "key", "key-id" },
						 { "map", "value", "value-id" } };

	for (i = 0; i < 3; i++) {
		const json_t *inner = json_object_get(type, parts[i][1]);

		if (strcmp(name, parts[i][0]) != 0)
			continue;
		buf_addf(out, ", %s: {__duckdb_field_id: %d", parts[i][1],
			 (int)json_integer_value(json_object_get(type, parts[i][2])));
		if (!json_is_string(inner))
			add_nested_ids(inner, out);
		buf_adds(out, "}");
	}
}

void
iceberg_field_ids(const json_t *fields, struct buf *out)
{
	const json_t *field;
	size_t i;

	buf_adds(out, "{");
	json_array_foreach (fields, i, field) {
		const json_t *type = json_object_get(field, "type");

		if (i)
			buf_adds(out, ", ");
		buf_add_sql_name(out, json_string_value(json_object_get(field, "name")));
		buf_addf(out, ": {__duckdb_field_id: %d", (int)json_integer_value(json_object_get(field, "id")));
		if (!json_is_string(type))
			add_nested_ids(type, out);
		buf_adds(out, "}");
	}
	buf_adds(out, "}");
}
