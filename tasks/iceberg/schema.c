/*
 * Which columns, partitions and order a write has: those of the table, of the task, and of the rows, brought together. Field ids
 * are what readers go by, so a column keeps its id for as long as it keeps its name.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"

static json_t *merge_type(struct writer *wr, json_t *old, json_t *fresh, const char *path);

static const char *
field_name(const json_t *field)
{
	return json_string_value(json_object_get(field, "name"));
}

/* By name; a name that differs in case only is the same one, as it is for every SQL engine. */
static json_t *
field_named(const json_t *fields, const char *name)
{
	json_t *field, *loose = NULL;
	size_t i;

	json_array_foreach (fields, i, field) {
		if (strcmp(field_name(field), name) == 0)
			return field;
		if (strcasecmp(field_name(field), name) == 0)
			loose = field;
	}
	return loose;
}

static const char *
type_kind(const json_t *type)
{
	return json_is_string(type) ? "scalar" : json_string_value(json_object_get(type, "type"));
}

/* ---- new ids ---- */

/* Gives a type that came from the rows ids of its own. */
static void
type_renumber(json_t *type, int *last)
{
	static const char *const ids[] = { "element-id", "key-id", "value-id" };
	static const char *const types[] = { "element", "key", "value" };
	json_t *field;
	size_t i;

	for (i = 0; i < 3; i++)
		if (json_object_get(type, ids[i])) {
			json_object_set_new(type, ids[i], json_integer(++*last));
			type_renumber(json_object_get(type, types[i]), last);
		}
	json_array_foreach (json_object_get(type, "fields"), i, field)
		json_object_set_new(field, "id", json_integer(++*last));
	json_array_foreach (json_object_get(type, "fields"), i, field)
		type_renumber(json_object_get(field, "type"), last);
}

/* The rows' columns as Iceberg fields, with ids that mean nothing yet. */
static json_t *
fields_from_columns(struct writer *wr, const json_t *columns)
{
	struct context *cx = wr->cx;
	json_t *out = json_array(), *column, *type;
	int id = 0;
	size_t i;

	json_array_foreach (columns, i, column) {
		const char *name = field_name(column);

		if (field_named(out, name)) {
			task_fail(cx, ERR_UNPROCESSABLE,
				  "table %s: two columns are called \"%s\" (case makes no difference); give one another name",
				  wr->w->name, name);
			goto fail;
		}
		type = iceberg_type(json_string_value(json_object_get(column, "type")), &id, &cx->err);
		if (type == NULL) {
			err_prefix(&cx->err, "column \"%s\"", name);
			goto fail;
		}
		json_array_append_new(out, json_pack("{s:i,s:s,s:b,s:o}", "id", 0, "name", name, "required", 0, "type", type));
	}
	return out;
fail:
	json_decref(out);
	return NULL;
}

/* Top-level ids first, in column order, as other engines give them. */
static void
fields_renumber(json_t *fields, int *last)
{
	json_t *field;
	size_t i;

	json_array_foreach (fields, i, field)
		if (json_integer_value(json_object_get(field, "id")) == 0)
			json_object_set_new(field, "id", json_integer(++*last));
}

/* ---- what is there and what comes, together ---- */

static int
evolve_refuse(struct writer *wr, const json_t *old_fields, const char *path)
{
	const char *dot = strrchr(path, '.'), *near = task_nearest(old_fields, dot ? dot + 1 : path);

	return task_fail(
		wr->cx, ERR_UNPROCESSABLE,
		"table %s has no column \"%s\"%s%s%s; leave it out of the rows, say schema_evolution: add_columns, or use "
		"mode: replace to change the table's schema",
		wr->w->name, path, near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
}

static bool
can_widen(const char *from, const char *to)
{
	int p1, s1, p2, s2;

	if (strcmp(from, "int") == 0)
		return strcmp(to, "long") == 0;
	if (strcmp(from, "float") == 0)
		return strcmp(to, "double") == 0;
	return sscanf(from, "decimal(%d, %d)", &p1, &s1) == 2 && sscanf(to, "decimal(%d, %d)", &p2, &s2) == 2 && p2 > p1 &&
	       s1 == s2;
}

static json_t *
merge_scalar(struct writer *wr, json_t *old, json_t *fresh, const char *path)
{
	const char *from = json_string_value(old), *to = json_string_value(fresh);

	if (wr->w->mode == WRITE_REPLACE || (wr->w->evolution == EVOLVE_WIDEN && can_widen(from, to)))
		return json_incref(fresh);
	/* What is only taken over cannot be cast: a reader makes values wider, but not narrower. */
	if (wr->w->mode == WRITE_ADD_FILES && strcmp(from, to) != 0 && !can_widen(to, from)) {
		task_fail_at(wr->cx, "from",
			     "table %s: the column \"%s\" is %s in the table and %s in the files; their rows can be appended "
			     "with mode: "
			     "append, which casts them",
			     wr->w->name, path, from, to);
		return NULL;
	}
	return json_incref(old);
}

/* A field that is new to the table. */
static json_t *
added_field(struct writer *wr, const json_t *fresh)
{
	json_t *field = json_deep_copy(fresh);

	json_object_set_new(field, "id", json_integer(++wr->last_column_id));
	type_renumber(json_object_get(field, "type"), &wr->last_column_id);
	return field;
}

/* One field that both have: id, comment and "required" stay. */
static json_t *
merge_field(struct writer *wr, json_t *old, const json_t *fresh, const char *path)
{
	json_t *type = merge_type(wr, json_object_get(old, "type"), json_object_get(fresh, "type"), path), *field;

	if (type == NULL)
		return NULL;
	field = json_copy(old);
	json_object_set_new(field, "type", type);
	return field;
}

static json_t *
merge_fields(struct writer *wr, const json_t *old, const json_t *fresh, const char *prefix)
{
	bool replace = wr->w->mode == WRITE_REPLACE;
	const json_t *first = replace ? fresh : old, *second = replace ? old : fresh;
	json_t *out = json_array(), *field, *other, *merged;
	size_t i;

	/* The order is the rows' when they replace everything, else that of the table. */
	json_array_foreach (first, i, field) {
		char *path = xasprintf("%s%s", prefix, field_name(field));

		other = field_named(second, field_name(field));
		if (other == NULL)
			merged = replace ? added_field(wr, field) : json_incref(field);
		else
			merged = replace ? merge_field(wr, other, field, path) : merge_field(wr, field, other, path);
		free(path);
		if (merged == NULL)
			goto fail;
		json_array_append_new(out, merged);
	}
	json_array_foreach (fresh, i, field) {
		char *path;

		if (replace || field_named(old, field_name(field)))
			continue;
		path = xasprintf("%s%s", prefix, field_name(field));
		if (wr->w->evolution == EVOLVE_NONE)
			evolve_refuse(wr, old, path);
		free(path);
		if (wr->w->evolution == EVOLVE_NONE)
			goto fail;
		json_array_append_new(out, added_field(wr, field));
	}
	return out;
fail:
	json_decref(out);
	return NULL;
}

/* The inner types of a list or a map. */
static json_t *
merge_inner(struct writer *wr, json_t *old, json_t *fresh, const char *const *keys, const char *path)
{
	json_t *out = json_copy(old), *inner;

	for (; *keys; keys++) {
		char *below = xasprintf("%s.%s", path, *keys);

		inner = merge_type(wr, json_object_get(old, *keys), json_object_get(fresh, *keys), below);
		free(below);
		if (inner == NULL) {
			json_decref(out);
			return NULL;
		}
		json_object_set_new(out, *keys, inner);
	}
	return out;
}

static json_t *
merge_type(struct writer *wr, json_t *old, json_t *fresh, const char *path)
{
	static const char *const list_keys[] = { "element", NULL }, *const map_keys[] = { "key", "value", NULL };
	const char *kind = type_kind(old);
	json_t *fields, *out;
	char *prefix;

	if (strcmp(kind, type_kind(fresh)) != 0) {
		if (wr->w->mode != WRITE_REPLACE) {
			task_fail(wr->cx, ERR_UNPROCESSABLE,
				  "table %s: the column \"%s\" is a %s in the table and a %s in the rows; use mode: replace to "
				  "change "
				  "the table's schema",
				  wr->w->name, path, kind, type_kind(fresh));
			return NULL;
		}
		out = json_deep_copy(fresh);
		type_renumber(out, &wr->last_column_id);
		return out;
	}
	if (strcmp(kind, "list") == 0)
		return merge_inner(wr, old, fresh, list_keys, path);
	if (strcmp(kind, "map") == 0)
		return merge_inner(wr, old, fresh, map_keys, path);
	if (strcmp(kind, "struct") != 0)
		return merge_scalar(wr, old, fresh, path);
	prefix = xasprintf("%s.", path);
	fields = merge_fields(wr, json_object_get(old, "fields"), json_object_get(fresh, "fields"), prefix);
	free(prefix);
	if (fields == NULL)
		return NULL;
	out = json_copy(old);
	json_object_set_new(out, "fields", fields);
	return out;
}

static int
required_present(struct writer *wr, const json_t *columns)
{
	json_t *field;
	size_t i;

	json_array_foreach (wr->fields, i, field)
		if (json_is_true(json_object_get(field, "required")) && field_named(columns, field_name(field)) == NULL)
			return task_fail(wr->cx, ERR_UNPROCESSABLE,
					 "table %s requires the column \"%s\", which the rows do not have", wr->w->name,
					 field_name(field));
	return 0;
}

int
schema_plan(struct writer *wr, const json_t *columns)
{
	const json_t *have = json_object_get(writer_schema(wr->meta), "fields");
	json_t *fresh = fields_from_columns(wr, columns), *field, *name;
	size_t i;

	if (fresh == NULL)
		return -1;
	if (have) {
		wr->fields = merge_fields(wr, have, fresh, "");
		json_decref(fresh);
		if (wr->fields == NULL)
			return -1;
	} else {
		fields_renumber(wr->fields = fresh, &wr->last_column_id);
		json_array_foreach (wr->fields, i, field)
			type_renumber(json_object_get(field, "type"), &wr->last_column_id);
		json_array_foreach (wr->w->new_required, i, name)
			if ((field = field_named(wr->fields, json_string_value(name))))
				json_object_set_new(field, "required", json_true());
	}
	if (!json_equal(wr->fields, have))
		wr->schema = json_pack("{s:s,s:i,s:O}", "type", "struct", "schema-id", 0, "fields", wr->fields);
	return required_present(wr, columns);
}

/* ---- partitions and order ---- */

static json_int_t
next_id(const json_t *list, const char *key, json_int_t from)
{
	const json_t *it;
	size_t i;

	json_array_foreach (list, i, it)
		if (json_integer_value(json_object_get(it, key)) >= from)
			from = json_integer_value(json_object_get(it, key)) + 1;
	return from;
}

/* The list's element with these fields; borrowed, or NULL. */
static json_t *
same_fields(const json_t *list, const json_t *fields)
{
	json_t *it;
	size_t i;

	json_array_foreach (list, i, it)
		if (partition_same(json_object_get(it, "fields"), fields))
			return it;
	return NULL;
}

/* A field that an earlier spec had keeps its id; a new one gets the next. */
static void
spec_number(const struct writer *wr, json_t *fields)
{
	json_int_t last = json_integer_value(json_object_get(wr->meta, "last-partition-id"));
	json_t *field, *spec, *f;
	size_t i, k, n;

	if (last < 999)
		last = 999;
	json_array_foreach (fields, i, field) {
		json_array_foreach (json_object_get(wr->meta, "partition-specs"), k, spec)
			json_array_foreach (json_object_get(spec, "fields"), n, f)
				if (json_equal(json_object_get(f, "name"), json_object_get(field, "name")) &&
				    json_equal(json_object_get(f, "transform"), json_object_get(field, "transform")) &&
				    json_equal(json_object_get(f, "source-id"), json_object_get(field, "source-id")))
					json_object_set(field, "field-id", json_object_get(f, "field-id"));
		if (json_object_get(field, "field-id") == NULL)
			json_object_set_new(field, "field-id", json_integer(++last));
	}
}

static int
layout_error(struct writer *wr, const char *key)
{
	err_prefix(&wr->cx->err, "%s of table %s", key, wr->w->name);
	return -1;
}

static int
spec_differs(struct writer *wr, const json_t *have)
{
	struct buf names = BUF_INIT;
	json_t *field;
	size_t i;

	json_array_foreach (json_object_get(have, "fields"), i, field)
		buf_addf(&names, "%s%s", i ? ", " : "", field_name(field));
	task_fail_at(wr->cx, "partition_by",
		     "table %s is partitioned otherwise: by %s; leave partition_by out to write to it as it is, or change its "
		     "partitions with mode: replace",
		     wr->w->name, names.len ? names.s : "nothing");
	buf_release(&names);
	return -1;
}

static int
spec_plan(struct writer *wr)
{
	const json_t *texts = wr->w->partition_by ? wr->w->partition_by : wr->loaded ? NULL : wr->w->new_partitions;
	json_t *specs = json_object_get(wr->meta, "partition-specs"), *fields, *same,
	       *have = element_by_id(wr->meta, "partition-specs", "spec-id",
				     json_integer_value(json_object_get(wr->meta, "default-spec-id")));

	if (texts == NULL && have) {
		wr->spec = json_incref(have);
		return 0;
	}
	fields = texts ? partition_parse(texts, wr->fields, &wr->cx->err) : json_array();
	if (fields == NULL)
		return layout_error(wr, "partition_by");
	if (have && partition_same(json_object_get(have, "fields"), fields)) {
		wr->spec = json_incref(have);
		json_decref(fields);
		return 0;
	}
	if (have && wr->w->mode != WRITE_REPLACE) {
		json_decref(fields);
		return spec_differs(wr, have);
	}
	wr->new_spec = true;
	same = same_fields(specs, fields);
	if (same) {
		wr->spec = json_incref(same);
		json_decref(fields);
		return 0;
	}
	spec_number(wr, fields);
	wr->spec = json_pack("{s:I,s:o}", "spec-id", next_id(specs, "spec-id", 0), "fields", fields);
	return 0;
}

static int
order_plan(struct writer *wr)
{
	const json_t *texts = wr->w->sort_by;
	json_t *orders = json_object_get(wr->meta, "sort-orders"), *fields, *same,
	       *have = element_by_id(wr->meta, "sort-orders", "order-id",
				     json_integer_value(json_object_get(wr->meta, "default-sort-order-id")));

	if (texts == NULL && have) {
		wr->order = json_incref(have);
		return 0;
	}
	fields = texts ? sort_parse(texts, wr->fields, &wr->cx->err) : json_array();
	if (fields == NULL)
		return layout_error(wr, "sort_by");
	if (have && partition_same(json_object_get(have, "fields"), fields)) {
		wr->order = json_incref(have);
		json_decref(fields);
		return 0;
	}
	wr->new_order = true;
	same = same_fields(orders, fields);
	if (same) {
		wr->order = json_incref(same);
		json_decref(fields);
		return 0;
	}
	wr->order = json_pack("{s:I,s:o}", "order-id", json_array_size(fields) ? next_id(orders, "order-id", 1) : 0, "fields",
			      fields);
	return 0;
}

int
layout_plan(struct writer *wr)
{
	json_t *field;
	size_t i;

	if (spec_plan(wr) < 0 || order_plan(wr) < 0)
		return -1;
	/* A replaced schema may have lost what the table was laid out by. */
	json_array_foreach (json_object_get(wr->spec, "fields"), i, field)
		if (wr->w->mode == WRITE_REPLACE && !wr->new_spec &&
		    column_by_id(wr->fields, json_integer_value(json_object_get(field, "source-id")), NULL) == NULL)
			return task_fail(wr->cx, ERR_UNPROCESSABLE,
					 "table %s is partitioned by %s, whose column the new rows do not have; say how it is "
					 "partitioned now, with partition_by: [] for not at all",
					 wr->w->name, field_name(field));
	json_array_foreach (json_object_get(wr->order, "fields"), i, field)
		if (wr->w->mode == WRITE_REPLACE && !wr->new_order &&
		    column_by_id(wr->fields, json_integer_value(json_object_get(field, "source-id")), NULL) == NULL) {
			/* Sorting is a wish, not a promise. */
			json_decref(wr->order);
			wr->order = json_pack("{s:i,s:[]}", "order-id", 0, "fields");
			wr->new_order = true;
			break;
		}
	return 0;
}

/* ---- the rows ---- */

int
writer_select(struct writer *wr, const json_t *columns, const char *query, struct buf *out)
{
	json_t *field;
	size_t i;

	buf_adds(out, "SELECT ");
	json_array_foreach (wr->fields, i, field) {
		const json_t *column = field_named(columns, field_name(field));
		bool required = json_is_true(json_object_get(field, "required"));
		struct buf value = BUF_INIT;

		if (column)
			buf_add_sql_name(&value, field_name(column));
		else
			buf_adds(&value, "NULL");
		buf_addf(out, "%sCAST(", i ? ", " : "");
		if (required) {
			char *text = xasprintf("column \"%s\" is required, but a row has no value there", field_name(field));

			buf_addf(out, "CASE WHEN %s IS NULL THEN error(", value.s);
			buf_add_sql_string(out, text);
			buf_addf(out, ") ELSE %s END", value.s);
			free(text);
		} else {
			buf_adds(out, value.s);
		}
		buf_release(&value);
		buf_adds(out, " AS ");
		if (iceberg_to_duck(json_object_get(field, "type"), out, &wr->cx->err) < 0) {
			err_prefix(&wr->cx->err, "table %s, column \"%s\"", wr->w->name, field_name(field));
			return -1;
		}
		buf_adds(out, ") AS ");
		buf_add_sql_name(out, field_name(field));
	}
	buf_addf(out, " FROM (%s\n)", query);
	return 0;
}

/* ---- for those who make the rows ---- */

json_t *
iceberg_columns(struct context *cx, const char *ns, const char *table)
{
	json_t *loaded = NULL, *out = json_object(), *field;
	int status = rest_load_table(cx, ns, table, &loaded);
	struct buf b = BUF_INIT;
	size_t i;

	json_array_foreach (json_object_get(writer_schema(json_object_get(loaded, "metadata")), "fields"), i, field) {
		struct err ignored = ERR_INIT; /* a type that cannot be written is told when it is to be */

		buf_clear(&b);
		if (iceberg_to_duck(json_object_get(field, "type"), &b, &ignored) == 0)
			json_object_set_new(out, field_name(field), json_string(b.s));
		err_release(&ignored);
	}
	buf_release(&b);
	json_decref(loaded);
	if (status < 0) {
		json_decref(out);
		return NULL;
	}
	return out;
}
