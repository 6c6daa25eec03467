#include "tasks/json_fit.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/iceberg/types.h"

static void add_lost(struct buf *b, const char *json, const char *cast, const json_t *type, int depth);

/* A member's place as a JSON pointer (RFC 6901), which can say any name. */
static char *
pointer_to(const char *name)
{
	struct buf pointer = BUF_INIT, quoted = BUF_INIT;

	buf_addc(&pointer, '/');
	for (; *name; name++)
		if (*name == '~' || *name == '/')
			buf_adds(&pointer, *name == '~' ? "~0" : "~1");
		else
			buf_addc(&pointer, *name);
	buf_add_sql_string(&quoted, pointer.s);
	buf_release(&pointer);
	return buf_detach(&quoted);
}

static void
add_members(struct buf *b, const char *json, const char *cast, const json_t *fields, int depth)
{
	const json_t *field;
	size_t i;

	json_array_foreach (fields, i, field) {
		const char *name = json_string_value(json_object_get(field, "name"));
		char *pointer = pointer_to(name), *part = xasprintf("(%s -> %s)", json, pointer);
		struct buf member = BUF_INIT;

		buf_addf(&member, "%s.", cast);
		buf_add_sql_name(&member, name);
		buf_adds(b, " OR ");
		add_lost(b, part, member.s, json_object_get(field, "type"), depth);
		buf_release(&member);
		free(pointer);
		free(part);
	}
}

/* `parts` gives the list of what is in the JSON value, `cast` what became of each, in the same order. */
static void
add_elements(struct buf *b, const char *parts, const char *cast, const json_t *type, int depth)
{
	char *part = xasprintf("(%s)[i%d]", parts, depth), *made = xasprintf("(%s)[i%d]", cast, depth);

	buf_addf(b, " OR len(list_filter(range(1, len(%s) + 1), lambda i%d: ", cast, depth);
	add_lost(b, part, made, type, depth + 1);
	buf_adds(b, ")) > 0");
	free(part);
	free(made);
}

static void
add_lost(struct buf *b, const char *json, const char *cast, const json_t *type, int depth)
{
	const char *kind = json_string_value(json_object_get(type, "type"));

	buf_addf(b, "coalesce(json_type(%s) <> 'NULL' AND (%s IS NULL", json, cast);
	if (kind && strcmp(kind, "list") == 0) {
		char *parts = xasprintf("json_extract(%s, '$[*]')", json);

		add_elements(b, parts, cast, json_object_get(type, "element"), depth);
		free(parts);
	} else if (kind) {
		buf_addf(b, " OR json_type(%s) <> 'OBJECT'", json);
		if (strcmp(kind, "struct") == 0) {
			add_members(b, json, cast, json_object_get(type, "fields"), depth);
		} else {
			char *parts = xasprintf("json_extract(%s, '$.*')", json), *values = xasprintf("map_values(%s)", cast);

			add_elements(b, parts, values, json_object_get(type, "value"), depth);
			free(parts);
			free(values);
		}
	}
	buf_adds(b, "), false)");
}

/* Its parts and their names; what the innermost ones are does not matter. */
static json_t *
parts_of(struct duck *db, const char *type, struct err *e)
{
	char *query = xasprintf("SELECT CAST(NULL AS %s) AS v", type);
	json_t *columns = duck_describe(db, query, e), *parts = NULL;
	int id = 0;

	if (columns)
		parts = iceberg_type(json_string_value(json_object_get(json_array_get(columns, 0), "type")), &id, e);
	json_decref(columns);
	free(query);
	return parts;
}

int
json_fit_add_lost(struct duck *db, const char *value, const char *type, struct buf *b, struct err *e)
{
	json_t *parts = parts_of(db, type, e);
	char *cast = xasprintf("TRY_CAST(%s AS %s)", value, type);

	if (parts)
		add_lost(b, value, cast, parts, 0);
	json_decref(parts);
	free(cast);
	return parts ? 0 : -1;
}
