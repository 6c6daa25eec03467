/*
 * The whole of a change: what comes before the first update (a copy of the base, brought to one shape) and after the last
 * (the logs, what version 1 repeats, the dates), and what a commit requires.
 */
#include "api/catalog/metadata.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/metadata_int.h"

int64_t
metadata_int(const json_t *object, const char *key, int64_t otherwise)
{
	const json_t *v = json_object_get(object, key);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

json_t *
metadata_find(const json_t *array, const char *key, int64_t id, size_t *at)
{
	json_t *it;
	size_t i;

	json_array_foreach (array, i, it)
		if (metadata_int(it, key, NO_ID) == id && json_object_get(it, key)) {
			if (at)
				*at = i;
			return it;
		}
	return NULL;
}

json_t *
metadata_current(const json_t *md, const char *list, const char *key, const char *which)
{
	return metadata_find(json_object_get(md, list), key, metadata_int(md, which, NO_ID), NULL);
}

bool
metadata_same(const json_t *a, const json_t *b)
{
	return a == b || json_equal(a, b);
}

json_t *
metadata_array(json_t *md, const char *key)
{
	if (!json_is_array(json_object_get(md, key)))
		json_object_set_new(md, key, json_array());
	return json_object_get(md, key);
}

json_t *
metadata_object(json_t *md, const char *key)
{
	if (!json_is_object(json_object_get(md, key)))
		json_object_set_new(md, key, json_object());
	return json_object_get(md, key);
}

int
metadata_format(const json_t *md)
{
	return (int)metadata_int(md, "format-version", 1);
}

int
metadata_validate(const json_t *md, struct err *e)
{
	int64_t version = metadata_int(md, "format-version", NO_ID);

	if (version == NO_ID || !json_is_string(json_object_get(md, "location")))
		return err_set(e, ERR_INVALID,
			       "this is not the metadata of an Iceberg table: \"format-version\" or \"location\" is missing");
	if (version > FORMAT_MAX)
		return err_set(e, ERR_UNSUPPORTED, "the table has format version %" PRId64 "; known are 1 to %d", version,
			       FORMAT_MAX);
	if (!json_is_array(json_object_get(md, "schemas")) && !json_is_object(json_object_get(md, "schema")))
		return err_set(e, ERR_INVALID, "the metadata of the table has no schema");
	return 0;
}

/* ---- requirements ---- */

struct requirement {
	const char *type;
	const char *key; /* of the requirement */
	const char *of;  /* of the metadata */
};

static const struct requirement number_requirements[] = {
	{ "assert-last-assigned-field-id", "last-assigned-field-id", "last-column-id" },
	{ "assert-current-schema-id", "current-schema-id", "current-schema-id" },
	{ "assert-last-assigned-partition-id", "last-assigned-partition-id", "last-partition-id" },
	{ "assert-default-spec-id", "default-spec-id", "default-spec-id" },
	{ "assert-default-sort-order-id", "default-sort-order-id", "default-sort-order-id" },
};

static int
check_ref(const json_t *md, const json_t *r, struct err *e)
{
	const char *name = json_string_value(json_object_get(r, "ref"));
	const json_t *ref;
	int64_t want = metadata_int(r, "snapshot-id", NO_ID), have;

	if (name == NULL)
		return err_set(e, ERR_INVALID, "the requirement assert-ref-snapshot-id needs \"ref\"");
	ref = json_object_get(json_object_get(md, "refs"), name);
	have = metadata_int(ref, "snapshot-id", NO_ID);
	if (ref == NULL && strcmp(name, "main") == 0) /* metadata from before there were refs */
		have = metadata_int(md, "current-snapshot-id", NO_ID);
	if (have == want)
		return 0;
	if (want == NO_ID)
		return err_set(e, ERR_CONFLICT,
			       "the ref \"%s\" was made meanwhile: it should not exist, but points at snapshot %" PRId64, name,
			       have);
	if (have == NO_ID)
		return err_set(e, ERR_CONFLICT, "the ref \"%s\" should point at snapshot %" PRId64 ", but it does not exist",
			       name, want);
	return err_set(e, ERR_CONFLICT,
		       "the ref \"%s\" has moved: it should point at snapshot %" PRId64 ", but points at %" PRId64, name, want,
		       have);
}

/* What is required of a number that older metadata may leave out. */
static int64_t
required_number(const json_t *md, const char *of)
{
	if (strcmp(of, "last-partition-id") == 0)
		return metadata_int(md, of, FIRST_PARTITION_ID - 1);
	return metadata_int(md, of, 0);
}

static int
check_one(const json_t *md, const json_t *r, struct err *e)
{
	const char *type = json_string_value(json_object_get(r, "type")), *want, *have;

	if (type == NULL)
		return err_set(e, ERR_INVALID, "a requirement needs \"type\"");
	if (strcmp(type, "assert-create") == 0)
		return md ? err_set(e, ERR_CONFLICT, "the table exists already") : 0;
	if (md == NULL)
		return err_set(e, ERR_CONFLICT, "the requirement %s needs a table, but it does not exist", type);
	if (strcmp(type, "assert-ref-snapshot-id") == 0)
		return check_ref(md, r, e);
	if (strcmp(type, "assert-table-uuid") == 0) {
		want = json_string_value(json_object_get(r, "uuid"));
		have = json_string_value(json_object_get(md, "table-uuid"));
		if (want == NULL)
			return err_set(e, ERR_INVALID, "the requirement assert-table-uuid needs \"uuid\"");
		if (have == NULL || strcasecmp(want, have) != 0)
			return err_set(e, ERR_CONFLICT, "the table is another one: its uuid should be %s, but is %s", want,
				       have ? have : "missing");
		return 0;
	}
	for (size_t i = 0; i < sizeof(number_requirements) / sizeof(number_requirements[0]); i++) {
		const struct requirement *q = &number_requirements[i];
		int64_t wanted = metadata_int(r, q->key, NO_ID);

		if (strcmp(q->type, type) != 0)
			continue;
		if (!json_is_integer(json_object_get(r, q->key)))
			return err_set(e, ERR_INVALID, "the requirement %s needs \"%s\"", type, q->key);
		if (wanted != required_number(md, q->of))
			return err_set(e, ERR_CONFLICT, "the table's %s has changed: it should be %" PRId64 ", but is %" PRId64,
				       q->of, wanted, required_number(md, q->of));
		return 0;
	}
	return err_set(e, ERR_INVALID, "the requirement \"%s\" is not supported", type);
}

int
metadata_check(const json_t *md, const json_t *requirements, struct err *e)
{
	const json_t *r;
	size_t i;
	int rc;

	json_array_foreach (requirements, i, r) {
		rc = check_one(md, r, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ---- before and after the updates ---- */

static json_t *
metadata_empty(void)
{
	return json_pack("{s:i,s:I,s:i,s:i,s:[],s:i,s:[],s:i,s:[],s:i,s:{},s:[],s:{},s:[],s:[]}", "format-version",
			 FORMAT_DEFAULT, "last-updated-ms", (json_int_t)0, "last-column-id", 0, "current-schema-id", -1,
			 "schemas", "default-spec-id", -1, "partition-specs", "default-sort-order-id", -1, "sort-orders",
			 "last-partition-id", FIRST_PARTITION_ID - 1, "properties", "snapshots", "refs", "snapshot-log",
			 "metadata-log");
}

/* Version 1 knew one schema and one spec, and nothing of orders and refs. */
static void
modernise(json_t *md, const struct metadata_input *in)
{
	json_t *schemas, *schema, *spec = json_object_get(md, "partition-spec");
	int64_t current = metadata_int(md, "current-snapshot-id", NO_ID);

	if (!json_is_array(json_object_get(md, "schemas"))) {
		schemas = metadata_array(md, "schemas");
		schema = json_deep_copy(json_object_get(md, "schema"));
		json_object_set_new(schema, "schema-id", json_integer(metadata_int(schema, "schema-id", 0)));
		json_object_set(md, "current-schema-id", json_object_get(schema, "schema-id"));
		json_array_append_new(schemas, schema);
	}
	if (!json_is_array(json_object_get(md, "partition-specs"))) {
		int64_t last = FIRST_PARTITION_ID - 1;
		json_t *fields = json_is_array(spec) ? json_deep_copy(spec) : json_array(), *f;
		size_t i;

		json_array_foreach (fields, i, f) {
			int64_t id = metadata_int(f, "field-id", FIRST_PARTITION_ID + (int64_t)i);

			json_object_set_new(f, "field-id", json_integer(id));
			last = id > last ? id : last;
		}
		json_array_append_new(metadata_array(md, "partition-specs"),
				      json_pack("{s:i,s:o}", "spec-id", 0, "fields", fields));
		json_object_set_new(md, "default-spec-id", json_integer(0));
		json_object_set_new(md, "last-partition-id", json_integer(last));
	}
	if (!json_is_array(json_object_get(md, "sort-orders"))) {
		json_array_append_new(metadata_array(md, "sort-orders"), json_pack("{s:i,s:[]}", "order-id", 0, "fields"));
		json_object_set_new(md, "default-sort-order-id", json_integer(0));
	}
	if (!json_is_string(json_object_get(md, "table-uuid")))
		json_object_set_new(md, "table-uuid", json_string(in->uuid));
	if (current == NO_ID)
		json_object_del(md, "current-snapshot-id");
	if (!json_is_object(json_object_get(md, "refs"))) {
		metadata_object(md, "refs");
		if (current != NO_ID)
			json_object_set_new(json_object_get(md, "refs"), "main",
					    json_pack("{s:I,s:s}", "snapshot-id", (json_int_t)current, "type", "branch"));
	}
}

/* A table that was just made: what the updates left out. */
static int
complete(struct change *ch)
{
	json_t *md = ch->md;

	if (metadata_int(md, "current-schema-id", NO_ID) == NO_ID) {
		if (ch->schema.id == NO_ID)
			return err_set(ch->e, ERR_INVALID, "a new table needs a schema");
		json_object_set_new(md, "current-schema-id", json_integer(ch->schema.id));
	}
	if (metadata_int(md, "default-spec-id", NO_ID) == NO_ID) {
		if (ch->spec.id == NO_ID) {
			json_array_append_new(metadata_array(md, "partition-specs"),
					      json_pack("{s:i,s:[]}", "spec-id", 0, "fields"));
			ch->spec.id = 0;
		}
		json_object_set_new(md, "default-spec-id", json_integer(ch->spec.id));
	}
	if (metadata_int(md, "default-sort-order-id", NO_ID) == NO_ID) {
		if (ch->order.id == NO_ID) {
			json_array_append_new(metadata_array(md, "sort-orders"),
					      json_pack("{s:i,s:[]}", "order-id", 0, "fields"));
			ch->order.id = 0;
		}
		json_object_set_new(md, "default-sort-order-id", json_integer(ch->order.id));
	}
	if (!json_is_string(json_object_get(md, "table-uuid")))
		json_object_set_new(md, "table-uuid", json_string(ch->in->uuid));
	if (!json_is_string(json_object_get(md, "location")))
		json_object_set_new(md, "location", json_string(ch->in->location));
	return 0;
}

/*
 * The log tells which snapshot was current when. Snapshots that were current only inside this commit never were for
 * anybody; and history before a snapshot that was expired has a gap, so it goes as well.
 */
static void
tidy_snapshot_log(struct change *ch)
{
	json_t *old = json_object_get(ch->md, "snapshot-log"), *log, *entry;
	int64_t current = metadata_int(ch->md, "current-snapshot-id", NO_ID);
	size_t i;

	if (!json_object_size(ch->added) && !ch->snapshots_removed)
		return;
	log = json_array();
	json_array_foreach (old, i, entry) {
		int64_t id = metadata_int(entry, "snapshot-id", NO_ID);
		char text[32];

		snprintf(text, sizeof(text), "%" PRId64, id);
		if (json_object_get(ch->added, text) && id != current)
			continue;
		if (metadata_find(json_object_get(ch->md, "snapshots"), "snapshot-id", id, NULL))
			json_array_append(log, entry);
		else if (ch->snapshots_removed)
			json_array_clear(log);
	}
	json_object_set_new(ch->md, "snapshot-log", log);
}

/* What a version demands beside what all have. */
static void
suit_format(json_t *md)
{
	const json_t *schema, *spec;

	if (metadata_format(md) == 1) {
		schema = metadata_find(json_object_get(md, "schemas"), "schema-id", metadata_int(md, "current-schema-id", 0),
				       NULL);
		spec = metadata_find(json_object_get(md, "partition-specs"), "spec-id", metadata_int(md, "default-spec-id", 0),
				     NULL);
		json_object_set_new(md, "schema", json_deep_copy(schema));
		json_object_set_new(md, "partition-spec", json_deep_copy(json_object_get(spec, "fields")));
		return;
	}
	json_object_del(md, "schema");
	json_object_del(md, "partition-spec");
	json_object_set_new(md, "last-sequence-number", json_integer(metadata_int(md, "last-sequence-number", 0)));
	if (metadata_format(md) >= 3)
		json_object_set_new(md, "next-row-id", json_integer(metadata_int(md, "next-row-id", 0)));
}

static void
log_base(json_t *md, const json_t *base, const char *base_location)
{
	const char *setting =
		json_string_value(json_object_get(json_object_get(md, "properties"), "write.metadata.previous-versions-max"));
	long keep = setting ? strtol(setting, NULL, 10) : 100;
	json_t *log = metadata_array(md, "metadata-log");

	json_array_append_new(log, json_pack("{s:I,s:s}", "timestamp-ms", (json_int_t)metadata_int(base, "last-updated-ms", 0),
					     "metadata-file", base_location));
	while (json_array_size(log) > (size_t)(keep > 1 ? keep : 1))
		json_array_remove(log, 0);
}

static int
apply_all(struct change *ch, const json_t *updates)
{
	const json_t *u;
	size_t i;
	int rc;

	if (updates && !json_is_array(updates))
		return err_set(ch->e, ERR_INVALID, "\"updates\" must be a list");
	json_array_foreach (updates, i, u) {
		rc = change_apply(ch, u);
		if (rc < 0)
			return rc;
	}
	return ch->creating ? complete(ch) : 0;
}

json_t *
metadata_apply(const json_t *base, const char *base_location, const json_t *updates, const struct metadata_input *in,
	       struct err *e)
{
	struct change ch = {
		.in = in, .schema = ADDED_NONE, .spec = ADDED_NONE, .order = ADDED_NONE, .creating = base == NULL, .e = e
	};
	int rc;

	ch.md = base ? json_deep_copy(base) : metadata_empty();
	ch.added = json_object();
	if (base && json_array_size(updates))
		modernise(ch.md, in);
	rc = apply_all(&ch, updates);
	if (rc == 0) {
		tidy_snapshot_log(&ch);
		if (json_array_size(updates))
			suit_format(ch.md);
	}
	if (rc == 0 && base && !json_equal(base, ch.md))
		log_base(ch.md, base, base_location);
	if (rc == 0 && !ch.dated && (base == NULL || !json_equal(base, ch.md)))
		json_object_set_new(ch.md, "last-updated-ms", json_integer(in->now_ms));
	json_decref(ch.added);
	if (rc < 0) {
		json_decref(ch.md);
		return NULL;
	}
	return ch.md;
}

/* ---- creating ---- */

/* Properties that say something of the metadata itself; a client may name them, the table does not keep them. */
static const char *const reserved[] = { "format-version",           "uuid",
					"snapshot-count",           "current-snapshot-id",
					"current-snapshot-summary", "current-snapshot-timestamp-ms",
					"current-schema",           "default-partition-spec",
					"default-sort-order" };

static void
remap_sources(json_t *holder, const json_t *map)
{
	json_t *f;
	size_t i;

	json_array_foreach (json_object_get(holder, "fields"), i, f) {
		char text[32];

		snprintf(text, sizeof(text), "%" PRId64, metadata_int(f, "source-id", NO_ID));
		if (json_object_get(map, text))
			json_object_set(f, "source-id", json_object_get(map, text));
	}
}

json_t *
metadata_create(const json_t *request, const struct metadata_input *in, struct err *e)
{
	json_t *schema = json_deep_copy(json_object_get(request, "schema")),
	       *spec = json_deep_copy(json_object_get(request, "partition-spec")),
	       *order = json_deep_copy(json_object_get(request, "write-order")), *map = json_object(), *updates = json_array(),
	       *md = NULL;
	json_t *properties = json_is_object(json_object_get(request, "properties"))
				     ? json_copy(json_object_get(request, "properties"))
				     : json_object();
	const char *format = json_string_value(json_object_get(properties, "format-version"));
	int64_t max;

	if (!json_is_array(json_object_get(schema, "fields"))) {
		err_set(e, ERR_INVALID, "a new table needs \"schema\" with its \"fields\"");
		goto out;
	}
	/* Ids that can be used are kept, since the client may have written files with them; Spark counts from 0. */
	if (schema_check(schema, FORMAT_MAX, &max, NULL) < 0) {
		schema_renumber(schema, map);
		remap_sources(spec, map);
		remap_sources(order, map);
	}
	json_object_set_new(schema, "schema-id", json_integer(0));
	if (format)
		json_array_append_new(updates,
				      json_pack("{s:s,s:i}", "action", "upgrade-format-version", "format-version", atoi(format)));
	json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "add-schema", "schema", schema));
	if (json_is_object(spec)) {
		json_object_set_new(spec, "spec-id", json_integer(0));
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "add-spec", "spec", spec));
	}
	if (json_is_object(order))
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "add-sort-order", "sort-order", order));
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
		json_object_del(properties, reserved[i]);
	json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "set-properties", "updates", properties));
	md = metadata_apply(NULL, NULL, updates, in, e);
out:
	json_decref(schema);
	json_decref(spec);
	json_decref(order);
	json_decref(map);
	json_decref(updates);
	json_decref(properties);
	return md;
}
