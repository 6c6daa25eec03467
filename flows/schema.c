/* The grammar's rows as JSON Schema (2020-12), for editors and for the reference. Rows of later issues are left out. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "flows/flow.h"
#include "flows/grammar.h"

#define REF_PATTERN "\\$\\{[^}]+\\}"

static json_t *
enum_values(const char *values)
{
	char *copy = xstrdup(values), *save = NULL;
	json_t *list = json_array();

	for (char *v = strtok_r(copy, " ", &save); v; v = strtok_r(NULL, " ", &save)) {
		if (*v != '!')
			json_array_append_new(list, json_string(v));
	}
	free(copy);
	return list;
}

static json_t *
def_ref(const char *name)
{
	return json_pack("{s:o}", "$ref", json_sprintf("#/$defs/%s", name));
}

static void
add_range(json_t *schema, const char *range)
{
	const char *dots = range ? strstr(range, "..") : NULL;

	if (dots && dots != range)
		json_object_set_new(schema, "minimum", json_integer(strtoll(range, NULL, 10)));
	if (dots && dots[2])
		json_object_set_new(schema, "maximum", json_integer(strtoll(dots + 2, NULL, 10)));
}

/* One value of a row, whatever its shape. */
static json_t *
one_schema(const struct grammar_row *row)
{
	json_t *s;

	switch (row->type) {
	case G_STRING:
		return json_pack("{s:[s, s, s]}", "type", "string", "number", "boolean");
	case G_CHAR:
		return json_pack("{s:s, s:s}", "type", "string", "pattern", row->arg ? "^[\\x01-\\x7f]?$" : "^[\\x01-\\x7f]$");
	case G_ID:
		return json_pack("{s:s, s:s}", "type", "string", "pattern", "^[a-z][a-z0-9_-]{0,62}$");
	case G_BOOL:
		return json_pack("{s:s}", "type", "boolean");
	case G_INT:
	case G_NUMBER:
		s = json_pack("{s:s}", "type", row->type == G_INT ? "integer" : "number");
		add_range(s, row->range);
		return s;
	case G_DURATION:
	case G_SIZE:
	case G_PERCENT:
		return def_ref(row->type == G_DURATION ? "duration" : row->type == G_SIZE ? "size" : "percent");
	case G_ENUM:
		return json_pack("{s:o}", "enum", enum_values(row->arg));
	case G_OBJECT:
		return def_ref(row->arg);
	case G_DEP:
		return json_pack("{s:s}", "type", "string");
	case G_SELECT:
		return json_pack("{s:[s, s]}", "type", "string", "object");
	case G_ANY:
		break;
	}
	return json_object();
}

/* In a task's own keys a ref may stand for any single value; the keys that the scheduler reads itself take none. */
static bool
takes_refs(const struct grammar_row *row)
{
	static const char *const spec[] = { "stage",    "source",      "from",     "target",           "publish",
					    "curate",   "validate",    "check",    "row_count",        "accepted_values",
					    "range",    "same_rows",   "command",  "python",           "engine_options",
					    "maintain", "compact",     "keep",     "expire_snapshots", "remove_orphan_files",
					    "export",   "export_from", "export_to" };

	if (row->type != G_BOOL && row->type != G_INT && row->type != G_NUMBER && row->type != G_SIZE &&
	    row->type != G_DURATION && row->type != G_ENUM && row->type != G_CHAR)
		return false;
	for (size_t i = 0; i < sizeof(spec) / sizeof(spec[0]); i++) {
		if (strcmp(row->object, spec[i]) == 0)
			return true;
	}
	return false;
}

/* One value, or a list of them; takes it over. */
static json_t *
either_schema(json_t *one)
{
	return json_pack("[O, {s:s, s:o}]", one, "type", "array", "items", one);
}

static json_t *
row_schema(const struct grammar_row *row)
{
	json_t *one = one_schema(row), *s;

	if (takes_refs(row))
		one = json_pack("{s:[o, {s:s, s:s}]}", "anyOf", one, "type", "string", "pattern", REF_PATTERN);
	switch (row->shape) {
	case G_LIST:
		s = json_pack("{s:s, s:o}", "type", "array", "items", one);
		break;
	case G_ONE_OR_LIST:
	case G_AS_LIST:
		s = json_pack("{s:o}", "anyOf", either_schema(one));
		break;
	case G_MAP:
		s = json_pack("{s:s, s:o}", "type", "object", "additionalProperties", one);
		break;
	default:
		s = one;
		break;
	}
	if (row->doc)
		json_object_set_new(s, "description", json_string(row->doc));
	if (row->def && *row->def && *row->def != '{' && *row->def != '[') {
		json_error_t ignored;
		json_t *v = json_loads(row->def, JSON_DECODE_ANY, &ignored);

		json_object_set_new(s, "default", v ? v : json_string(row->def));
	}
	return s;
}

/* Adds the properties of one object of the table; the shorthand key goes through `shorthand`. */
static void
add_rows(const char *object, json_t *properties, json_t *required, const struct grammar_row **shorthand)
{
	for (size_t i = 0; i < grammar_row_count; i++) {
		const struct grammar_row *row = &grammar_rows[i];

		if (strcmp(row->object, object) != 0 || (row->flags & G_LATER))
			continue;
		if (row->flags & G_REQUIRED)
			json_array_append_new(required, json_string(row->key));
		if (row->flags & G_SHORT)
			*shorthand = row;
		json_object_set_new(properties, row->key, row_schema(row));
	}
}

static void
add_groups(const char *object, json_t *schema)
{
	for (size_t i = 0; i < grammar_group_count; i++) {
		json_t *keys, *key, *any;
		size_t k;

		if (strcmp(grammar_groups[i].object, object) != 0)
			continue;
		keys = enum_values(grammar_groups[i].keys);
		any = json_array();
		json_array_foreach (keys, k, key)
			json_array_append_new(any, json_pack("{s:[O]}", "required", key));
		json_object_set_new(schema, "oneOf", any);
		json_decref(keys);
	}
}

static json_t *
object_schema(const char *object)
{
	const struct grammar_row *shorthand = NULL;
	json_t *properties = json_object(), *required = json_array(), *s, *bare;

	add_rows(object, properties, required, &shorthand);
	s = json_pack("{s:s, s:o, s:b}", "type", "object", "properties", properties, "additionalProperties", 0);
	if (json_array_size(required) > 0)
		json_object_set(s, "required", required);
	json_decref(required);
	add_groups(object, s);
	if (shorthand == NULL)
		return s;
	/* The bare form is everything that is not a map; its description says what it is short for. */
	bare = json_pack("{s:{s:s}, s:o}", "not", "type", "object", "description",
			 json_sprintf("Short for {%s: value}.", shorthand->key));
	if (shorthand->shape == G_ONE_OR_LIST)
		json_object_set_new(bare, "anyOf", either_schema(one_schema(shorthand)));
	else if (shorthand->type != G_ANY)
		json_object_update_new(bare, one_schema(shorthand));
	return json_pack("{s:[o, o]}", "anyOf", s, bare);
}

/* Every task: the common keys, and by its type the keys of that type. */
static json_t *
task_schema(void)
{
	const struct grammar_row *ignored = NULL;
	json_t *properties = json_object(), *required = json_array(), *branches = json_array();

	add_rows("task", properties, required, &ignored);
	/* `type` may come from the defaults of the flow. */
	json_decref(required);
	for (size_t i = 0; grammar_task_types[i]; i++) {
		const char *type = grammar_task_types[i];

		json_array_append_new(branches,
				      json_pack("{s:{s:{s:{s:s}}, s:[s]}, s:{s:o}}", "if", "properties", "type", "const", type,
						"required", "type", "then", "$ref", json_sprintf("#/$defs/%s", type)));
	}
	return json_pack("{s:s, s:o, s:[s], s:o, s:b}", "type", "object", "properties", properties, "required", "id", "allOf",
			 branches, "unevaluatedProperties", 0);
}

/* Keys of one type. Required keys may come from the defaults of the flow, so only the loader insists on them. */
static json_t *
type_schema(const char *type)
{
	const struct grammar_row *ignored = NULL;
	json_t *properties = json_object(), *required = json_array(), *s;

	if (strcmp(type, "command") != 0 && strcmp(type, "python") != 0)
		add_rows("native", properties, required, &ignored);
	add_rows(type, properties, required, &ignored);
	s = json_pack("{s:o}", "properties", properties);
	if (json_array_size(required) > 0)
		json_object_set_new(s, "x-required", json_incref(required));
	json_decref(required);
	return s;
}

/* `defaults`: any key of any type, none required. */
static json_t *
defaults_schema(void)
{
	const struct grammar_row *ignored = NULL;
	json_t *properties = json_object(), *required = json_array();

	add_rows("task", properties, required, &ignored);
	add_rows("native", properties, required, &ignored);
	for (size_t i = 0; grammar_task_types[i]; i++)
		add_rows(grammar_task_types[i], properties, required, &ignored);
	json_object_del(properties, "id");
	json_object_del(properties, "depends_on");
	json_decref(required);
	return json_pack("{s:s, s:o, s:b}", "type", "object", "properties", properties, "additionalProperties", 0);
}

static void
add_scalars(json_t *defs)
{
	json_object_set_new(defs, "duration",
			    json_pack("{s:s, s:s, s:s}", "type", "string", "pattern", "^([0-9]+(ms|s|m|h|d|w))+$", "description",
				      "Numbers with units ms s m h d w, such as 1h30m."));
	json_object_set_new(defs, "size",
			    json_pack("{s:[s, s], s:s, s:s}", "type", "string", "integer", "pattern", "^[0-9]+([KMGT]?B)?$",
				      "description", "A number with a unit B KB MB GB TB (1 KB is 1024 bytes), such as 128MB."));
	json_object_set_new(
		defs, "percent",
		json_pack("{s:s, s:s, s:s}", "type", "string", "pattern", "^[0-9.]+%$", "description", "A share, such as 10%."));
}

json_t *
flow_schema(void)
{
	json_t *defs = json_object(), *flow = object_schema("flow"), *s;

	add_scalars(defs);
	for (size_t i = 0; i < grammar_row_count; i++) {
		const char *object = grammar_rows[i].object;
		bool skip = json_object_get(defs, object) != NULL || strcmp(object, "flow") == 0 || strcmp(object, "native") == 0;

		if (skip)
			continue;
		s = NULL;
		for (size_t t = 0; grammar_task_types[t]; t++) {
			if (strcmp(object, grammar_task_types[t]) == 0)
				s = type_schema(object);
		}
		if (s == NULL)
			s = strcmp(object, "task") == 0 ? task_schema() : object_schema(object);
		json_object_set_new(defs, object, s);
	}
	json_object_set_new(defs, "defaults", defaults_schema());
	json_object_set_new(
		json_object_get(flow, "properties"), "defaults",
		json_pack("{s:s, s:s}", "$ref", "#/$defs/defaults", "description", grammar_find("flow", "defaults")->doc));
	s = json_pack("{s:s, s:s, s:s}", "$schema", "https://json-schema.org/draft/2020-12/schema", "title", "Sluice flow",
		      "description", "A flow of Sluice: what to run, when, and in which order.");
	json_object_update_new(s, flow);
	json_object_set_new(s, "$defs", defs);
	if (s == NULL)
		BUG("flow_schema: the grammar's texts are not UTF-8");
	return s;
}
