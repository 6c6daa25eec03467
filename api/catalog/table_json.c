#include "api/catalog/table_json.h"

#include <stdlib.h>
#include <string.h>

#include "api/catalog/metadata_int.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/table_at.h"

/* ---- values ---- */

static json_t *
id_json(json_int_t id)
{
	return id < 0 ? json_null() : json_sprintf("%" JSON_INTEGER_FORMAT, id);
}

static json_t *
time_json(int64_t ms)
{
	char text[TIME_TEXT];

	return ms < 0 ? json_null() : json_string(time_format(ms * US_PER_MS, text));
}

/* A number of a summary, where all are texts; null when it is not there. */
static json_t *
summary_number(const json_t *summary, const char *key)
{
	const char *text = json_string_value(json_object_get(summary, key));

	return text && *text ? json_integer(strtoll(text, NULL, 10)) : json_null();
}

/* Rows of a snapshot by its summary. Deletes by equality cannot be counted without reading: null then. */
static json_t *
summary_rows(const json_t *summary)
{
	json_t *total = summary_number(summary, "total-records"), *gone = summary_number(summary, "total-position-deletes"),
	       *equal = summary_number(summary, "total-equality-deletes"), *rows;

	if (json_integer_value(equal) > 0 || !json_is_integer(total))
		rows = json_null();
	else
		rows = json_integer(json_integer_value(total) - json_integer_value(gone));
	json_decref(total);
	json_decref(gone);
	json_decref(equal);
	return rows;
}

/* ---- schemas ---- */

static void
add_type(struct buf *b, const json_t *type)
{
	const char *kind = json_string_value(json_object_get(type, "type"));
	const json_t *field;
	size_t i;

	if (json_is_string(type)) {
		buf_adds(b, json_string_value(type));
	} else if (kind && strcmp(kind, "list") == 0) {
		buf_adds(b, "list<");
		add_type(b, json_object_get(type, "element"));
		buf_addc(b, '>');
	} else if (kind && strcmp(kind, "map") == 0) {
		buf_adds(b, "map<");
		add_type(b, json_object_get(type, "key"));
		buf_adds(b, ", ");
		add_type(b, json_object_get(type, "value"));
		buf_addc(b, '>');
	} else {
		buf_adds(b, "struct<");
		json_array_foreach (json_object_get(type, "fields"), i, field) {
			const char *name = json_string_value(json_object_get(field, "name"));

			buf_addf(b, "%s%s: ", i ? ", " : "", name ? name : "");
			add_type(b, json_object_get(field, "type"));
		}
		buf_addc(b, '>');
	}
}

static json_t *
field_json(const json_t *field)
{
	struct buf type = BUF_INIT;
	json_t *doc = json_object_get(field, "doc"), *out;

	add_type(&type, json_object_get(field, "type"));
	out = json_pack("{s:O*,s:O*,s:s,s:b}", "id", json_object_get(field, "id"), "name", json_object_get(field, "name"), "type",
			type.s, "required", json_is_true(json_object_get(field, "required")));
	if (json_is_string(doc))
		json_object_set(out, "doc", doc);
	buf_release(&type);
	return out;
}

static const json_t *
schema_by_id(const json_t *md, int64_t id)
{
	const json_t *found = metadata_find(json_object_get(md, "schemas"), "schema-id", id, NULL);

	return found ? found : json_object_get(md, "schema"); /* version 1 may have this one only */
}

static json_t *
schema_json(const json_t *md, const json_t *schema)
{
	json_t *fields = json_array(), *field;
	int64_t id = metadata_int(schema, "schema-id", 0);
	size_t i;

	json_array_foreach (json_object_get(schema, "fields"), i, field)
		json_array_append_new(fields, field_json(field));
	return json_pack("{s:I,s:b,s:o}", "schema_id", (json_int_t)id, "current", id == metadata_int(md, "current-schema-id", 0),
			 "fields", fields);
}

json_t *
table_schemas_json(const json_t *md)
{
	json_t *out = json_array(), *schemas = json_object_get(md, "schemas"), *schema;
	size_t i;

	json_array_foreach (schemas, i, schema)
		json_array_append_new(out, schema_json(md, schema));
	if (json_array_size(schemas) == 0)
		json_array_append_new(out, schema_json(md, json_object_get(md, "schema")));
	return out;
}

json_t *
table_schema_json(const json_t *md, const json_t *snapshot)
{
	int64_t current = metadata_int(md, "current-schema-id", 0);

	return schema_json(md, schema_by_id(md, metadata_int(snapshot, "schema-id", current)));
}

/* One change that field by field leads from one schema to the other; `what` is taken over. */
static void
add_change(json_t *list, const char *change, const json_t *field, json_t *what)
{
	json_object_set_new(what, "change", json_string(change));
	json_object_set(what, "column", json_object_get(field, "name"));
	json_array_append_new(list, what);
}

static void
diff_field(json_t *list, const json_t *a, const json_t *b)
{
	if (!json_equal(json_object_get(a, "name"), json_object_get(b, "name")))
		add_change(list, "renamed", b, json_pack("{s:O}", "before", json_object_get(a, "name")));
	if (!json_equal(json_object_get(a, "type"), json_object_get(b, "type")))
		add_change(list, "type", b,
			   json_pack("{s:O,s:O}", "before", json_object_get(a, "type"), "type", json_object_get(b, "type")));
	if (!json_equal(json_object_get(a, "required"), json_object_get(b, "required")))
		add_change(list, json_is_true(json_object_get(b, "required")) ? "required" : "optional", b, json_object());
}

json_t *
table_schema_diff(const json_t *before, const json_t *after)
{
	json_t *list = json_array(), *old = json_object_get(before, "fields"), *new = json_object_get(after, "fields"), *f,
	       *other;
	size_t i;

	json_array_foreach (old, i, f)
		if (metadata_find(new, "id", metadata_int(f, "id", NO_ID), NULL) == NULL)
			add_change(list, "removed", f, json_pack("{s:O}", "type", json_object_get(f, "type")));
	json_array_foreach (new, i, f) {
		other = metadata_find(old, "id", metadata_int(f, "id", NO_ID), NULL);
		if (other)
			diff_field(list, other, f);
		else
			add_change(list, "added", f, json_pack("{s:O}", "type", json_object_get(f, "type")));
	}
	return list;
}

/* Is there a column of that name? */
static bool
has_name(const json_t *fields, const json_t *name)
{
	const json_t *f;
	size_t i;

	json_array_foreach (fields, i, f)
		if (json_equal(json_object_get(f, "name"), name))
			return true;
	return false;
}

json_t *
table_columns(const json_t *before, const json_t *after)
{
	json_t *out = json_array(), *old = json_object_get(before, "fields"), *new = json_object_get(after, "fields"), *f, *other;
	size_t i;

	json_array_foreach (new, i, f) {
		json_t *name = json_object_get(f, "name");

		other = metadata_find(old, "id", metadata_int(f, "id", NO_ID), NULL);
		json_array_append_new(
			out, json_pack("{s:O,s:O*,s:O}", "name", name, "before", json_object_get(other, "name"), "after", name));
	}
	json_array_foreach (old, i, f) {
		json_t *name = json_object_get(f, "name");

		if (metadata_find(new, "id", metadata_int(f, "id", NO_ID), NULL))
			continue;
		/* One that went and came again under the same name is two. */
		json_array_append_new(
			out, json_pack("{s:o,s:O}", "name",
				       json_sprintf("%s%s", json_string_value(name), has_name(new, name) ? " (before)" : ""),
				       "before", name));
	}
	return out;
}

/* ---- partitions and order ---- */

static json_t *
fields_by_source(const json_t *md, const json_t *fields)
{
	static const char *const keys[] = { "name", "transform", "direction", "null-order" };
	const json_t *columns = json_object_get(schema_by_id(md, metadata_int(md, "current-schema-id", 0)), "fields"), *column,
		     *f;
	json_t *out = json_array(), *item;
	size_t i;

	json_array_foreach (fields, i, f) {
		item = json_object();
		for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
			if (json_object_get(f, keys[k]))
				json_object_set(item, k == 3 ? "null_order" : keys[k], json_object_get(f, keys[k]));
		column = metadata_find(columns, "id", metadata_int(f, "source-id", NO_ID), NULL);
		if (column)
			json_object_set(item, "column", json_object_get(column, "name"));
		json_array_append_new(out, item);
	}
	return out;
}

static json_t *
spec_json(const json_t *md)
{
	int64_t id = metadata_int(md, "default-spec-id", 0);
	const json_t *spec = metadata_find(json_object_get(md, "partition-specs"), "spec-id", id, NULL);

	return json_pack("{s:I,s:o}", "spec_id", (json_int_t)id, "fields", fields_by_source(md, json_object_get(spec, "fields")));
}

static json_t *
order_json(const json_t *md)
{
	int64_t id = metadata_int(md, "default-sort-order-id", 0);
	const json_t *order = metadata_find(json_object_get(md, "sort-orders"), "order-id", id, NULL);

	return json_pack("{s:I,s:o}", "order_id", (json_int_t)id, "fields",
			 fields_by_source(md, json_object_get(order, "fields")));
}

/* ---- snapshots, history, refs ---- */

static json_t *
names_of_snapshot(const json_t *md, json_int_t id)
{
	json_t *out = json_array(), *refs = json_object_get(md, "refs"), *ref;
	const char *name;

	json_object_foreach (refs, name, ref)
		if (metadata_int(ref, "snapshot-id", NO_ID) == id)
			json_array_append_new(out, json_string(name));
	return out;
}

json_t *
table_snapshot_json(const json_t *md, const json_t *s)
{
	static const struct {
		const char *name, *key;
	} numbers[] = { { "rows_added", "added-records" },     { "rows_deleted", "deleted-records" },
			{ "files_added", "added-data-files" }, { "files_deleted", "deleted-data-files" },
			{ "files", "total-data-files" },       { "bytes", "total-files-size" } };
	static const char *const who[][2] = { { "run", "sluice.run-id" }, { "task", "sluice.task-id" } };
	const json_t *summary = json_object_get(s, "summary"), *operation = json_object_get(summary, "operation");
	json_int_t id = metadata_int(s, "snapshot-id", NO_ID);
	json_t *out, *schema = json_object_get(s, "schema-id");

	out = json_pack("{s:o,s:o,s:o,s:I,s:O?,s:O?,s:b,s:o,s:o}", "snapshot_id", id_json(id), "parent_id",
			id_json(metadata_int(s, "parent-snapshot-id", NO_ID)), "at",
			time_json(metadata_int(s, "timestamp-ms", NO_ID)), "sequence_number",
			(json_int_t)metadata_int(s, "sequence-number", 0), "schema_id", schema, "operation", operation, "current",
			id == table_current(md), "refs", names_of_snapshot(md, id), "rows", summary_rows(summary));
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		json_object_set_new(out, numbers[i].name, summary_number(summary, numbers[i].key));
	for (size_t i = 0; i < 2; i++)
		if (json_object_get(summary, who[i][1]))
			json_object_set(out, who[i][0], json_object_get(summary, who[i][1]));
	json_object_set_new(out, "summary", summary ? json_copy((json_t *)(uintptr_t)summary) : json_object());
	return out;
}

json_t *
table_snapshots_json(const json_t *md, size_t limit, size_t *from)
{
	const json_t *snapshots = json_object_get(md, "snapshots");
	size_t n = json_array_size(snapshots), i;
	json_t *out = json_array();

	for (i = *from; i < n && i - *from < limit; i++)
		json_array_append_new(out, table_snapshot_json(md, json_array_get(snapshots, n - 1 - i)));
	*from = i < n ? i : 0;
	return out;
}

/* Snapshots by their id's text: a table may have ten thousand, and each is looked for. */
static json_t *
snapshots_by_id(const json_t *md)
{
	json_t *out = json_object(), *snapshots = json_object_get(md, "snapshots"), *s;
	size_t i;

	json_array_foreach (snapshots, i, s) {
		json_t *key = id_json(metadata_int(s, "snapshot-id", 0));

		json_object_set(out, json_string_value(key), s);
		json_decref(key);
	}
	return out;
}

/* The ids of the current snapshot and of all that it was made from; what is not among them was rolled back. */
static json_t *
ancestors(const json_t *md, const json_t *by_id)
{
	json_t *out = json_object(), *key = id_json(table_current(md));
	const json_t *s;

	/* The same id twice would be metadata that somebody made up. */
	while (json_is_string(key) && (s = json_object_get(by_id, json_string_value(key))) != NULL &&
	       json_object_get(out, json_string_value(key)) == NULL) {
		json_object_set_new(out, json_string_value(key), json_true());
		json_decref(key);
		key = id_json(metadata_int(s, "parent-snapshot-id", NO_ID));
	}
	json_decref(key);
	return out;
}

json_t *
table_history_json(const json_t *md, size_t limit, size_t *from)
{
	const json_t *log = json_object_get(md, "snapshot-log");
	json_t *out = json_array(), *by_id = snapshots_by_id(md), *kin = ancestors(md, by_id);
	size_t n = json_array_size(log), i;

	for (i = *from; i < n && i - *from < limit; i++) {
		const json_t *entry = json_array_get(log, n - 1 - i);
		json_t *id = id_json(metadata_int(entry, "snapshot-id", 0));
		const json_t *s = json_object_get(by_id, json_string_value(id)), *summary = json_object_get(s, "summary");

		json_array_append_new(out,
				      json_pack("{s:o,s:O,s:o,s:O?,s:o,s:b,s:b}", "at",
						time_json(metadata_int(entry, "timestamp-ms", NO_ID)), "snapshot_id", id,
						"parent_id", id_json(metadata_int(s, "parent-snapshot-id", NO_ID)), "operation",
						json_object_get(summary, "operation"), "rows", summary_rows(summary), "current",
						i == 0, "ancestor", json_object_get(kin, json_string_value(id)) != NULL));
		json_decref(id);
	}
	json_decref(kin);
	json_decref(by_id);
	*from = i < n ? i : 0;
	return out;
}

json_t *
table_refs_json(const json_t *md)
{
	static const char *const kept[][2] = { { "max_ref_age_ms", "max-ref-age-ms" },
					       { "max_snapshot_age_ms", "max-snapshot-age-ms" },
					       { "min_snapshots_to_keep", "min-snapshots-to-keep" } };
	json_t *out = json_array(), *refs = json_object_get(md, "refs"), *ref, *item;
	const char *name;

	json_object_foreach (refs, name, ref) {
		json_int_t id = metadata_int(ref, "snapshot-id", NO_ID);

		item = json_pack("{s:s,s:O?,s:o,s:o}", "name", name, "type", json_object_get(ref, "type"), "snapshot_id",
				 id_json(id), "at", time_json(metadata_int(table_snapshot(md, id), "timestamp-ms", NO_ID)));
		for (size_t i = 0; i < 3; i++)
			if (json_object_get(ref, kept[i][1]))
				json_object_set(item, kept[i][0], json_object_get(ref, kept[i][1]));
		json_array_append_new(out, item);
	}
	return out;
}

/* ---- a table ---- */

void
table_add_state(json_t *item, const json_t *md)
{
	const json_t *s = table_snapshot(md, table_current(md)), *summary = json_object_get(s, "summary");

	json_object_set_new(item, "format_version", json_integer(metadata_int(md, "format-version", 1)));
	json_object_set_new(item, "snapshot_id", id_json(table_current(md)));
	json_object_set_new(item, "snapshots", json_integer((json_int_t)json_array_size(json_object_get(md, "snapshots"))));
	json_object_set_new(item, "rows", s ? summary_rows(summary) : json_integer(0));
	json_object_set_new(item, "files", s ? summary_number(summary, "total-data-files") : json_integer(0));
	json_object_set_new(item, "bytes", s ? summary_number(summary, "total-files-size") : json_integer(0));
	json_object_set_new(item, "changed_at", time_json(metadata_int(md, "last-updated-ms", NO_ID)));
}

void
table_add_all(json_t *item, const json_t *md)
{
	const json_t *s = table_snapshot(md, table_current(md)), *properties = json_object_get(md, "properties");

	table_add_state(item, md);
	json_object_set(item, "uuid", json_object_get(md, "table-uuid"));
	json_object_set(item, "location", json_object_get(md, "location"));
	json_object_set_new(item, "schema", table_schema_json(md, NULL));
	json_object_set_new(item, "partition_spec", spec_json(md));
	json_object_set_new(item, "sort_order", order_json(md));
	json_object_set_new(item, "properties", properties ? json_copy((json_t *)(uintptr_t)properties) : json_object());
	json_object_set_new(item, "current_snapshot", s ? table_snapshot_json(md, s) : json_null());
	json_object_set_new(item, "refs", table_refs_json(md));
}
