/* Schemas: their field ids (every column, list element, map key and map value has one, by which data files name columns), types
 * and defaults. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/catalog/metadata_int.h"

/* The places of a type that carry an id: where the id stands, and the type below it. */
struct place {
	const char *id_key, *type_key;
};

static const struct place list_places[] = { { "element-id", "element" }, { NULL, NULL } };
static const struct place map_places[] = { { "key-id", "key" }, { "value-id", "value" }, { NULL, NULL } };
static const struct place no_places[] = { { NULL, NULL } };

static const struct place *
type_places(const json_t *type)
{
	const char *name = json_string_value(json_object_get(type, "type"));

	if (name && strcmp(name, "list") == 0)
		return list_places;
	if (name && strcmp(name, "map") == 0)
		return map_places;
	return no_places;
}

struct check {
	json_t *seen; /* ids as keys */
	int64_t max;
	int format; /* the table's format version */
	struct err *e;
};

static int
check_id(struct check *c, const json_t *id, const char *what)
{
	char key[32];

	if (!json_is_integer(id) || json_integer_value(id) < 1)
		return err_set(c->e, ERR_INVALID, "the schema's %s has no valid field id: a whole number from 1 is needed", what);
	snprintf(key, sizeof(key), "%" JSON_INTEGER_FORMAT, json_integer_value(id));
	if (json_object_get(c->seen, key))
		return err_set(c->e, ERR_INVALID, "the schema uses field id %s twice, the second time for %s", key, what);
	json_object_set_new(c->seen, key, json_true());
	if (json_integer_value(id) > c->max)
		c->max = json_integer_value(id);
	return 0;
}

/* Primitive types and the format version that brought them. Those that end in a bracket have parameters. */
static const struct {
	const char *name;
	int format;
} primitives[] = {
	{ "boolean", 1 },        { "int", 1 },        { "long", 1 },     { "float", 1 },
	{ "double", 1 },         { "date", 1 },       { "time", 1 },     { "timestamp", 1 },
	{ "timestamptz", 1 },    { "string", 1 },     { "uuid", 1 },     { "binary", 1 },
	{ "decimal(", 1 },       { "fixed[", 1 },     { "unknown", 3 },  { "timestamp_ns", 3 },
	{ "timestamptz_ns", 3 }, { "variant", 3 },    { "geometry", 3 }, { "geometry(", 3 },
	{ "geography", 3 },      { "geography(", 3 },
};

static int
check_primitive(struct check *c, const char *name, const char *what)
{
	for (size_t i = 0; i < sizeof(primitives) / sizeof(primitives[0]); i++) {
		size_t n = strlen(primitives[i].name);
		bool open = primitives[i].name[n - 1] == '(' || primitives[i].name[n - 1] == '[';

		if (open ? strncmp(name, primitives[i].name, n) != 0 : strcmp(name, primitives[i].name) != 0)
			continue;
		if (c->format >= primitives[i].format)
			return 0;
		return err_set(
			c->e, ERR_INVALID,
			"the schema's %s has the type %s, which needs format version %d; the table has %d: upgrade it first",
			what, name, primitives[i].format, c->format);
	}
	return err_set(c->e, ERR_INVALID, "the schema's %s has the unknown type \"%s\"", what, name);
}

/* A column's value in rows that were written before there was the column: readers of older versions would not see it. */
static int
check_default(struct check *c, const json_t *field, const char *name)
{
	const json_t *value = json_object_get(field, "initial-default");

	if (value && !json_is_null(value) && c->format < 3)
		return err_set(c->e, ERR_INVALID,
			       "column \"%s\" has an initial-default, which needs format version 3; the table has %d: upgrade it "
			       "first",
			       name, c->format);
	return 0;
}

static int
check_type(struct check *c, const json_t *type, const char *what)
{
	const json_t *fields, *field;
	json_t *names;
	int rc = 0;
	size_t i;

	if (json_is_string(type))
		return check_primitive(c, json_string_value(type), what);
	if (!json_is_object(type))
		return err_set(c->e, ERR_INVALID, "the schema's %s has no type", what);
	for (const struct place *p = type_places(type); p->id_key; p++) {
		if ((rc = check_id(c, json_object_get(type, p->id_key), p->type_key)) < 0 ||
		    (rc = check_type(c, json_object_get(type, p->type_key), p->type_key)) < 0)
			return rc;
	}
	if (type_places(type) != no_places)
		return 0;
	fields = json_object_get(type, "fields");
	if (!json_is_array(fields))
		return err_set(c->e, ERR_INVALID, "the schema's %s is neither a primitive type, a struct, a list nor a map",
			       what);
	names = json_object();
	json_array_foreach (fields, i, field) {
		const char *name = json_string_value(json_object_get(field, "name"));

		if (name == NULL || *name == '\0')
			rc = err_set(c->e, ERR_INVALID, "a field of the schema's %s has no name", what);
		else if (json_object_get(names, name))
			rc = err_set(c->e, ERR_INVALID, "the schema has two fields \"%s\" in %s", name, what);
		else
			rc = check_id(c, json_object_get(field, "id"), name);
		if (rc == 0)
			rc = check_type(c, json_object_get(field, "type"), name);
		if (rc == 0)
			rc = check_default(c, field, name);
		if (rc < 0)
			break;
		json_object_set_new(names, name, json_true());
	}
	json_decref(names);
	return rc;
}

int
schema_check(const json_t *schema, int format, int64_t *max, struct err *e)
{
	struct check c = { .format = format, .e = e };
	int rc;

	if (!json_is_array(json_object_get(schema, "fields")))
		return err_set(e, ERR_INVALID, "a schema needs the list \"fields\"");
	c.seen = json_object();
	rc = check_type(&c, schema, "top level");
	json_decref(c.seen);
	if (rc == 0)
		*max = c.max;
	return rc;
}

static void
renumber_id(json_t *holder, const char *key, int64_t *last, json_t *map)
{
	const json_t *old = json_object_get(holder, key);
	char text[32];

	if (json_is_integer(old)) {
		snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(old));
		json_object_set_new(map, text, json_integer(*last + 1));
	}
	json_object_set_new(holder, key, json_integer(++*last));
}

/* All ids of a level come before those of the levels below it: the order in which the reference implementation numbers. */
static void
renumber_type(json_t *type, int64_t *last, json_t *map)
{
	const struct place *places = type_places(type);
	json_t *fields = json_object_get(type, "fields"), *field;
	size_t i;

	for (const struct place *p = places; p->id_key; p++)
		renumber_id(type, p->id_key, last, map);
	for (const struct place *p = places; p->id_key; p++)
		renumber_type(json_object_get(type, p->type_key), last, map);
	if (places != no_places)
		return;
	json_array_foreach (fields, i, field)
		renumber_id(field, "id", last, map);
	json_array_foreach (fields, i, field)
		renumber_type(json_object_get(field, "type"), last, map);
}

void
schema_renumber(json_t *schema, json_t *map)
{
	json_t *identifiers = json_object_get(schema, "identifier-field-ids"), *id;
	int64_t last = 0;
	char text[32];
	size_t i;

	renumber_type(schema, &last, map);
	json_array_foreach (identifiers, i, id) {
		snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(id));
		if (json_object_get(map, text))
			json_array_set(identifiers, i, json_object_get(map, text));
	}
}

static bool
type_has(const json_t *type, int64_t id)
{
	const json_t *fields = json_object_get(type, "fields"), *field;
	size_t i;

	for (const struct place *p = type_places(type); p->id_key; p++)
		if (metadata_int(type, p->id_key, NO_ID) == id || type_has(json_object_get(type, p->type_key), id))
			return true;
	json_array_foreach (fields, i, field)
		if (metadata_int(field, "id", NO_ID) == id || type_has(json_object_get(field, "type"), id))
			return true;
	return false;
}

bool
schema_has(const json_t *schema, int64_t id)
{
	return type_has(schema, id);
}
