/*
 * The updates of a commit, one function each, found in the table at the end. The meaning is that of the REST
 * specification; ids of schemas, specs and orders that the client chose are kept when they are free.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/metadata_int.h"
#include "base/alloc.h"

static int
need_int(struct change *ch, const json_t *update, const char *key, int64_t *out)
{
	const json_t *v = json_object_get(update, key);

	*out = NO_ID;
	if (!json_is_integer(v))
		return err_set(ch->e, ERR_INVALID, "\"%s\" must be a whole number", key);
	*out = json_integer_value(v);
	return 0;
}

static int
need(struct change *ch, const json_t *update, const char *key, json_type type, const char *kind, json_t **out)
{
	*out = json_object_get(update, key);
	if (*out == NULL || json_typeof(*out) != type)
		return err_set(ch->e, ERR_INVALID, "\"%s\" must be %s", key, kind);
	return 0;
}

/* The id for something new in `array`: what the client asks for if that is free and at least `from`, else the next one. */
static int64_t
free_id(const json_t *array, const char *key, int64_t wish, int64_t from)
{
	const json_t *it;
	int64_t next = from;
	size_t i;

	if (wish >= from && metadata_find(array, key, wish, NULL) == NULL)
		return wish;
	json_array_foreach (array, i, it)
		if (metadata_int(it, key, NO_ID) >= next)
			next = metadata_int(it, key, NO_ID) + 1;
	return next;
}

/* Equal but for the id under `key`. */
static bool
equal_but(const json_t *a, const json_t *b, const char *key)
{
	json_t *x = json_copy((json_t *)(uintptr_t)a), *y = json_copy((json_t *)(uintptr_t)b);
	bool same;

	json_object_del(x, key);
	json_object_del(y, key);
	same = json_equal(x, y);
	json_decref(x);
	json_decref(y);
	return same;
}

/* ---- the table itself ---- */

static int
assign_uuid(struct change *ch, const json_t *u)
{
	const char *old = json_string_value(json_object_get(ch->md, "table-uuid"));
	json_t *uuid;

	if (need(ch, u, "uuid", JSON_STRING, "a string", &uuid) < 0)
		return ERR_INVALID;
	if (old && !ch->creating && strcmp(old, json_string_value(uuid)) != 0)
		return err_set(ch->e, ERR_INVALID, "the table has the uuid %s already, it cannot become %s", old,
			       json_string_value(uuid));
	json_object_set(ch->md, "table-uuid", uuid);
	return 0;
}

static int
upgrade_format_version(struct change *ch, const json_t *u)
{
	int64_t version, old = metadata_format(ch->md);

	if (need_int(ch, u, "format-version", &version) < 0)
		return ERR_INVALID;
	if (version < 1 || version > FORMAT_MAX)
		return err_set(ch->e, ERR_INVALID, "format version %" PRId64 " is not supported; known are 1 to %d", version,
			       FORMAT_MAX);
	if (version < old && !ch->creating)
		return err_set(ch->e, ERR_INVALID, "format version %" PRId64 " cannot go back to %" PRId64, old, version);
	json_object_set_new(ch->md, "format-version", json_integer(version));
	return 0;
}

static int
set_location(struct change *ch, const json_t *u)
{
	json_t *location;

	if (need(ch, u, "location", JSON_STRING, "a string", &location) < 0)
		return ERR_INVALID;
	json_object_set(ch->md, "location", location);
	return 0;
}

static int
set_properties(struct change *ch, const json_t *u)
{
	json_t *updates = json_object_get(u, "updates"), *v;
	const char *k;

	if (updates == NULL) /* the name in early drafts */
		updates = json_object_get(u, "updated");
	if (!json_is_object(updates))
		return err_set(ch->e, ERR_INVALID, "\"updates\" must be an object");
	json_object_foreach (updates, k, v)
		if (!json_is_string(v))
			return err_set(ch->e, ERR_INVALID, "the property \"%s\" must be a string", k);
	json_object_update(metadata_object(ch->md, "properties"), updates);
	return 0;
}

static int
remove_properties(struct change *ch, const json_t *u)
{
	json_t *removals = json_object_get(u, "removals"), *v;
	size_t i;

	if (removals == NULL)
		removals = json_object_get(u, "removed");
	if (!json_is_array(removals))
		return err_set(ch->e, ERR_INVALID, "\"removals\" must be a list");
	json_array_foreach (removals, i, v)
		if (json_is_string(v))
			json_object_del(metadata_object(ch->md, "properties"), json_string_value(v));
	return 0;
}

/* ---- schemas, specs, orders ---- */

static int
add_schema(struct change *ch, const json_t *u)
{
	json_t *schemas = metadata_array(ch->md, "schemas"), *schema, *it, *mine;
	int64_t max;
	size_t i;

	if (need(ch, u, "schema", JSON_OBJECT, "an object", &schema) < 0 ||
	    schema_check(schema, ch->for_view ? FORMAT_MAX : metadata_format(ch->md), &max, ch->e) < 0)
		return ERR_INVALID;
	if (max > metadata_int(ch->md, "last-column-id", 0))
		json_object_set_new(ch->md, "last-column-id", json_integer(max));
	ch->schema.asked = metadata_int(schema, "schema-id", NO_ID);
	json_array_foreach (schemas, i, it)
		if (equal_but(it, schema, "schema-id")) {
			ch->schema.id = metadata_int(it, "schema-id", 0);
			return 0;
		}
	mine = json_deep_copy(schema);
	ch->schema.id = free_id(schemas, "schema-id", ch->schema.asked, 0);
	json_object_set_new(mine, "type", json_string("struct"));
	json_object_set_new(mine, "schema-id", json_integer(ch->schema.id));
	json_array_append_new(schemas, mine);
	return 0;
}

/* set-current-schema, set-default-spec and set-default-sort-order are one thing. */
static int
choose(struct change *ch, const json_t *u, const char *key, const struct added *last, const char *list, const char *list_key,
       const char *target)
{
	int64_t id;

	if (need_int(ch, u, key, &id) < 0)
		return ERR_INVALID;
	if (last->id != NO_ID && id == last->asked)
		id = last->id;
	if (id == NO_ID && (id = last->id) == NO_ID)
		return err_set(ch->e, ERR_INVALID,
			       "\"%s\" -1 means the one that was added last, but none was added in this commit", key);
	if (metadata_find(json_object_get(ch->md, list), list_key, id, NULL) == NULL)
		return err_set(ch->e, ERR_INVALID, "the table has no \"%s\" %" PRId64, list_key, id);
	json_object_set_new(ch->md, target, json_integer(id));
	return 0;
}

static int
set_current_schema(struct change *ch, const json_t *u)
{
	return choose(ch, u, "schema-id", &ch->schema, "schemas", "schema-id", "current-schema-id");
}

static int
set_default_spec(struct change *ch, const json_t *u)
{
	return choose(ch, u, "spec-id", &ch->spec, "partition-specs", "spec-id", "default-spec-id");
}

static int
set_default_sort_order(struct change *ch, const json_t *u)
{
	return choose(ch, u, "sort-order-id", &ch->order, "sort-orders", "order-id", "default-sort-order-id");
}

static bool
any_schema_has(const json_t *md, int64_t id)
{
	const json_t *schemas = json_object_get(md, "schemas"), *it;
	size_t i;

	json_array_foreach (schemas, i, it)
		if (schema_has(it, id))
			return true;
	return false;
}

/* Fields of specs and orders: a transform of a column that exists. */
static int
check_sources(struct change *ch, const json_t *fields, const char *what)
{
	const json_t *f;
	size_t i;

	json_array_foreach (fields, i, f) {
		int64_t source = metadata_int(f, "source-id", NO_ID);

		if (!json_is_string(json_object_get(f, "transform")))
			return err_set(ch->e, ERR_INVALID, "field %zu of the %s needs \"transform\"", i + 1, what);
		if (!json_object_get(f, "source-ids") && !any_schema_has(ch->md, source))
			return err_set(ch->e, ERR_INVALID,
				       "field %zu of the %s has the source-id %" PRId64 ", which no column has", i + 1, what,
				       source);
	}
	return 0;
}

/* The id that an equal field of an earlier spec has; else a new one. */
static int64_t
partition_field_id(struct change *ch, const json_t *field)
{
	const json_t *specs = json_object_get(ch->md, "partition-specs"), *spec, *f;
	size_t i, j;

	json_array_foreach (specs, i, spec)
		json_array_foreach (json_object_get(spec, "fields"), j, f)
			if (equal_but(f, field, "field-id") && json_object_get(f, "field-id"))
				return metadata_int(f, "field-id", NO_ID);
	return metadata_int(ch->md, "last-partition-id", FIRST_PARTITION_ID - 1) + 1;
}

static bool
same_spec(const json_t *a, const json_t *b)
{
	const json_t *x = json_object_get(a, "fields"), *y = json_object_get(b, "fields"), *f;
	size_t i;

	if (json_array_size(x) != json_array_size(y))
		return false;
	json_array_foreach (x, i, f)
		if (!equal_but(f, json_array_get(y, i), "field-id"))
			return false;
	return true;
}

static int
add_spec(struct change *ch, const json_t *u)
{
	json_t *specs = metadata_array(ch->md, "partition-specs"), *spec, *fields, *f, *it, *mine;
	size_t i;

	if (need(ch, u, "spec", JSON_OBJECT, "an object", &spec) < 0 ||
	    need(ch, spec, "fields", JSON_ARRAY, "a list", &fields) < 0 || check_sources(ch, fields, "partition spec") < 0)
		return ERR_INVALID;
	json_array_foreach (fields, i, f)
		if (!json_is_string(json_object_get(f, "name")))
			return err_set(ch->e, ERR_INVALID, "field %zu of the partition spec needs \"name\"", i + 1);
	ch->spec.asked = metadata_int(spec, "spec-id", NO_ID);
	json_array_foreach (specs, i, it)
		if (same_spec(it, spec)) {
			ch->spec.id = metadata_int(it, "spec-id", 0);
			return 0;
		}
	mine = json_deep_copy(spec);
	ch->spec.id = free_id(specs, "spec-id", ch->spec.asked, 0);
	json_object_set_new(mine, "spec-id", json_integer(ch->spec.id));
	json_array_foreach (json_object_get(mine, "fields"), i, f) {
		int64_t id = metadata_int(f, "field-id", NO_ID);

		if (id == NO_ID)
			json_object_set_new(f, "field-id", json_integer(id = partition_field_id(ch, f)));
		if (id > metadata_int(ch->md, "last-partition-id", FIRST_PARTITION_ID - 1))
			json_object_set_new(ch->md, "last-partition-id", json_integer(id));
	}
	json_array_append_new(specs, mine);
	return 0;
}

static int
add_sort_order(struct change *ch, const json_t *u)
{
	json_t *orders = metadata_array(ch->md, "sort-orders"), *order, *fields, *it, *mine;
	size_t i;

	if (need(ch, u, "sort-order", JSON_OBJECT, "an object", &order) < 0 ||
	    need(ch, order, "fields", JSON_ARRAY, "a list", &fields) < 0 || check_sources(ch, fields, "sort order") < 0)
		return ERR_INVALID;
	ch->order.asked = metadata_int(order, "order-id", NO_ID);
	json_array_foreach (orders, i, it)
		if (equal_but(it, order, "order-id")) {
			ch->order.id = metadata_int(it, "order-id", 0);
			return 0;
		}
	/* The id 0 is kept for "unsorted", and unsorted has no other. */
	ch->order.id = json_array_size(fields) ? free_id(orders, "order-id", ch->order.asked, 1) : 0;
	mine = json_deep_copy(order);
	json_object_set_new(mine, "order-id", json_integer(ch->order.id));
	json_array_append_new(orders, mine);
	return 0;
}

static int
remove_some(struct change *ch, const json_t *u, const char *ids_key, const char *list, const char *key, const char *in_use)
{
	json_t *array = metadata_array(ch->md, list), *ids, *id;
	size_t i, at;

	if (need(ch, u, ids_key, JSON_ARRAY, "a list", &ids) < 0)
		return ERR_INVALID;
	json_array_foreach (ids, i, id) {
		if (json_integer_value(id) == metadata_int(ch->md, in_use, NO_ID))
			return err_set(ch->e, ERR_INVALID, "\"%s\" %" JSON_INTEGER_FORMAT " is in use and cannot be removed", key,
				       json_integer_value(id));
		if (metadata_find(array, key, json_integer_value(id), &at))
			json_array_remove(array, at);
	}
	return 0;
}

static int
remove_partition_specs(struct change *ch, const json_t *u)
{
	return remove_some(ch, u, "spec-ids", "partition-specs", "spec-id", "default-spec-id");
}

static int
remove_schemas(struct change *ch, const json_t *u)
{
	return remove_some(ch, u, "schema-ids", "schemas", "schema-id", "current-schema-id");
}

/* ---- snapshots ---- */

static int
check_sequence(struct change *ch, const json_t *snapshot)
{
	int64_t seq, last = metadata_int(ch->md, "last-sequence-number", 0);

	if (metadata_format(ch->md) < 2)
		return 0;
	if (need_int(ch, snapshot, "sequence-number", &seq) < 0)
		return ERR_INVALID;
	if (seq <= last && metadata_int(snapshot, "parent-snapshot-id", NO_ID) != NO_ID)
		return err_set(ch->e, ERR_CONFLICT,
			       "the snapshot has the sequence number %" PRId64 ", but the table is at %" PRId64
			       " already: it was made from an older state",
			       seq, last);
	if (seq > last)
		json_object_set_new(ch->md, "last-sequence-number", json_integer(seq));
	return 0;
}

/* Version 3 numbers rows: a snapshot begins where the last one ended. */
static int
check_rows(struct change *ch, const json_t *snapshot)
{
	int64_t next = metadata_int(ch->md, "next-row-id", 0), first, rows;

	if (metadata_format(ch->md) < 3)
		return 0;
	if (need_int(ch, snapshot, "first-row-id", &first) < 0 || need_int(ch, snapshot, "added-rows", &rows) < 0)
		return ERR_INVALID;
	if (first < next)
		return err_set(ch->e, ERR_CONFLICT,
			       "the snapshot's first-row-id is %" PRId64 ", but rows up to %" PRId64
			       " are taken: it was made from an older state",
			       first, next);
	json_object_set_new(ch->md, "next-row-id", json_integer(first + rows));
	return 0;
}

static const char *
id_text(int64_t id, char out[32])
{
	snprintf(out, 32, "%" PRId64, id);
	return out;
}

static int
add_snapshot(struct change *ch, const json_t *u)
{
	json_t *snapshots = metadata_array(ch->md, "snapshots"), *snapshot;
	int64_t id, at;
	char text[32];
	int rc;

	if (need(ch, u, "snapshot", JSON_OBJECT, "an object", &snapshot) < 0 || need_int(ch, snapshot, "snapshot-id", &id) < 0 ||
	    need_int(ch, snapshot, "timestamp-ms", &at) < 0)
		return ERR_INVALID;
	if (!json_is_string(json_object_get(snapshot, "manifest-list")) && metadata_format(ch->md) > 1)
		return err_set(ch->e, ERR_INVALID, "snapshot %" PRId64 " needs \"manifest-list\"", id);
	if (metadata_find(snapshots, "snapshot-id", id, NULL))
		return err_set(ch->e, ERR_INVALID, "the table has a snapshot %" PRId64 " already", id);
	if ((rc = check_sequence(ch, snapshot)) < 0 || (rc = check_rows(ch, snapshot)) < 0)
		return rc;
	json_array_append_new(snapshots, json_deep_copy(snapshot));
	json_object_set_new(ch->added, id_text(id, text), json_integer(at));
	json_object_set_new(ch->md, "last-updated-ms", json_integer(at));
	ch->dated = true;
	return 0;
}

static int
set_snapshot_ref(struct change *ch, const json_t *u)
{
	json_t *refs = metadata_object(ch->md, "refs"), *name, *type, *ref;
	bool is_main;
	int64_t id, at;
	char text[32];

	if (need(ch, u, "ref-name", JSON_STRING, "a string", &name) < 0 || need_int(ch, u, "snapshot-id", &id) < 0 ||
	    need(ch, u, "type", JSON_STRING, "\"branch\" or \"tag\"", &type) < 0)
		return ERR_INVALID;
	is_main = strcmp(json_string_value(name), "main") == 0;
	if (strcmp(json_string_value(type), "branch") != 0 && (is_main || strcmp(json_string_value(type), "tag") != 0))
		return err_set(ch->e, ERR_INVALID, "\"type\" of the ref \"%s\" must be %s", json_string_value(name),
			       is_main ? "\"branch\"" : "\"branch\" or \"tag\"");
	if (metadata_find(json_object_get(ch->md, "snapshots"), "snapshot-id", id, NULL) == NULL)
		return err_set(ch->e, ERR_INVALID,
			       "the ref \"%s\" cannot point at snapshot %" PRId64 ": the table has no such snapshot",
			       json_string_value(name), id);
	ref = json_copy((json_t *)(uintptr_t)u);
	json_object_del(ref, "action");
	json_object_del(ref, "ref-name");
	for (size_t i = 0; i < 3; i++) { /* absent and null are the same */
		static const char *const optional[] = { "max-ref-age-ms", "max-snapshot-age-ms", "min-snapshots-to-keep" };

		if (json_is_null(json_object_get(ref, optional[i])))
			json_object_del(ref, optional[i]);
	}
	json_object_set_new(refs, json_string_value(name), ref);
	if (!is_main || metadata_int(ch->md, "current-snapshot-id", NO_ID) == id)
		return 0;
	/* A snapshot of this very commit dates the change; going back to an older one happens now. */
	at = metadata_int(ch->added, id_text(id, text), NO_ID);
	if (at == NO_ID) {
		at = ch->in->now_ms;
		json_object_set_new(ch->md, "last-updated-ms", json_integer(at));
		ch->dated = true;
	}
	json_object_set_new(ch->md, "current-snapshot-id", json_integer(id));
	json_array_append_new(metadata_array(ch->md, "snapshot-log"),
			      json_pack("{s:I,s:I}", "timestamp-ms", (json_int_t)at, "snapshot-id", (json_int_t)id));
	return 0;
}

static void
drop_ref(struct change *ch, const char *name)
{
	json_object_del(metadata_object(ch->md, "refs"), name);
	if (strcmp(name, "main") == 0) {
		json_object_del(ch->md, "current-snapshot-id");
		json_array_clear(metadata_array(ch->md, "snapshot-log"));
	}
}

static int
remove_snapshot_ref(struct change *ch, const json_t *u)
{
	json_t *name;

	if (need(ch, u, "ref-name", JSON_STRING, "a string", &name) < 0)
		return ERR_INVALID;
	drop_ref(ch, json_string_value(name));
	return 0;
}

static void
drop_by_snapshot(struct change *ch, const char *list, int64_t id)
{
	json_t *array = json_object_get(ch->md, list);
	size_t at;

	if (metadata_find(array, "snapshot-id", id, &at))
		json_array_remove(array, at);
}

static int
remove_snapshots(struct change *ch, const json_t *u)
{
	json_t *ids, *v, *refs = metadata_object(ch->md, "refs"), *ref;
	const char *name;
	void *tmp;
	size_t i;

	if (need(ch, u, "snapshot-ids", JSON_ARRAY, "a list", &ids) < 0)
		return ERR_INVALID;
	json_array_foreach (ids, i, v) {
		int64_t id = json_integer_value(v);

		drop_by_snapshot(ch, "snapshots", id);
		drop_by_snapshot(ch, "statistics", id);
		drop_by_snapshot(ch, "partition-statistics", id);
		json_object_foreach_safe(refs, tmp, name, ref) if (metadata_int(ref, "snapshot-id", NO_ID) == id)
		{
			char *copy = xstrdup(name); /* the key dies with its entry */

			drop_ref(ch, copy);
			free(copy);
		}
		ch->snapshots_removed = true;
	}
	return 0;
}

/* ---- statistics ---- */

static int
put_statistics(struct change *ch, const json_t *u, const char *key, const char *list)
{
	json_t *file;
	int64_t id;

	if (need(ch, u, key, JSON_OBJECT, "an object", &file) < 0 || need_int(ch, file, "snapshot-id", &id) < 0)
		return ERR_INVALID;
	metadata_array(ch->md, list);
	drop_by_snapshot(ch, list, id);
	json_array_append_new(metadata_array(ch->md, list), json_deep_copy(file));
	return 0;
}

static int
set_statistics(struct change *ch, const json_t *u)
{
	return put_statistics(ch, u, "statistics", "statistics");
}

static int
set_partition_statistics(struct change *ch, const json_t *u)
{
	return put_statistics(ch, u, "partition-statistics", "partition-statistics");
}

static int
remove_statistics(struct change *ch, const json_t *u)
{
	int64_t id;

	if (need_int(ch, u, "snapshot-id", &id) < 0)
		return ERR_INVALID;
	drop_by_snapshot(ch, "statistics", id);
	return 0;
}

static int
remove_partition_statistics(struct change *ch, const json_t *u)
{
	int64_t id;

	if (need_int(ch, u, "snapshot-id", &id) < 0)
		return ERR_INVALID;
	drop_by_snapshot(ch, "partition-statistics", id);
	return 0;
}

/* ---- encryption ---- */

static int
find_key(const json_t *keys, const char *id)
{
	const json_t *key;
	size_t i;

	json_array_foreach (keys, i, key) {
		const char *have = json_string_value(json_object_get(key, "key-id"));

		if (have && strcmp(have, id) == 0)
			return (int)i;
	}
	return -1;
}

static int
add_encryption_key(struct change *ch, const json_t *u)
{
	json_t *key, *id, *secret, *keys;
	int at;

	if (need(ch, u, "encryption-key", JSON_OBJECT, "an object", &key) < 0 ||
	    need(ch, key, "key-id", JSON_STRING, "a string", &id) < 0 ||
	    need(ch, key, "encrypted-key-metadata", JSON_STRING, "a string", &secret) < 0)
		return ERR_INVALID;
	if (metadata_format(ch->md) < 3)
		return err_set(ch->e, ERR_INVALID, "encryption keys need format version 3; the table has %d: upgrade it first",
			       metadata_format(ch->md));
	keys = metadata_array(ch->md, "encryption-keys");
	at = find_key(keys, json_string_value(id));
	if (at < 0)
		json_array_append_new(keys, json_deep_copy(key));
	else if (!json_equal(json_array_get(keys, (size_t)at), key))
		return err_set(ch->e, ERR_INVALID, "the table has another encryption key \"%s\" already", json_string_value(id));
	return 0;
}

static int
remove_encryption_key(struct change *ch, const json_t *u)
{
	json_t *id;
	int at;

	if (need(ch, u, "key-id", JSON_STRING, "a string", &id) < 0)
		return ERR_INVALID;
	at = find_key(json_object_get(ch->md, "encryption-keys"), json_string_value(id));
	if (at >= 0)
		json_array_remove(json_object_get(ch->md, "encryption-keys"), (size_t)at);
	return 0;
}

static const struct {
	const char *action;
	int (*apply)(struct change *ch, const json_t *update);
} updates[] = {
	{ "assign-uuid", assign_uuid },
	{ "upgrade-format-version", upgrade_format_version },
	{ "add-schema", add_schema },
	{ "set-current-schema", set_current_schema },
	{ "add-spec", add_spec },
	{ "set-default-spec", set_default_spec },
	{ "add-sort-order", add_sort_order },
	{ "set-default-sort-order", set_default_sort_order },
	{ "add-snapshot", add_snapshot },
	{ "set-snapshot-ref", set_snapshot_ref },
	{ "remove-snapshots", remove_snapshots },
	{ "remove-snapshot-ref", remove_snapshot_ref },
	{ "set-location", set_location },
	{ "set-properties", set_properties },
	{ "remove-properties", remove_properties },
	{ "set-statistics", set_statistics },
	{ "remove-statistics", remove_statistics },
	{ "set-partition-statistics", set_partition_statistics },
	{ "remove-partition-statistics", remove_partition_statistics },
	{ "remove-partition-specs", remove_partition_specs },
	{ "remove-schemas", remove_schemas },
	{ "add-encryption-key", add_encryption_key },
	{ "remove-encryption-key", remove_encryption_key },
};

int
change_apply(struct change *ch, const json_t *update)
{
	const char *action = json_string_value(json_object_get(update, "action"));
	int rc;

	if (action == NULL)
		return err_set(ch->e, ERR_INVALID, "an update needs \"action\"");
	for (size_t i = 0; i < sizeof(updates) / sizeof(updates[0]); i++) {
		if (strcmp(updates[i].action, action) != 0)
			continue;
		rc = updates[i].apply(ch, update);
		if (rc < 0)
			err_prefix(ch->e, "update %s", action);
		return rc;
	}
	return err_set(ch->e, ERR_INVALID, "the update \"%s\" is not supported", action);
}
