#include "api/catalog/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/catalog/metadata_int.h"

#define VIEW_FORMAT  1
#define HISTORY_KEEP 10 /* versions, unless the property version.history.num-entries says otherwise */

/* A change in progress: what tables have too is in `base`. */
struct view_change {
	struct change base;
	int64_t last_version;  /* that was added; what the id -1 means */
	int64_t first_version; /* that was current before the change */
};

bool
view_is(const json_t *md)
{
	return json_object_get(md, "view-uuid") != NULL;
}

int
view_validate(const json_t *md, struct err *e)
{
	int64_t version = metadata_int(md, "format-version", NO_ID);

	if (version > VIEW_FORMAT)
		return err_set(e, ERR_UNSUPPORTED, "the view has format version %" PRId64 "; known is %d", version, VIEW_FORMAT);
	if (!json_is_string(json_object_get(md, "view-uuid")) || !json_is_string(json_object_get(md, "location")) ||
	    metadata_find(json_object_get(md, "versions"), "version-id", metadata_int(md, "current-version-id", NO_ID), NULL) ==
		    NULL)
		return err_set(e, ERR_INVALID,
			       "this is not the metadata of an Iceberg view: its uuid, location or current version is "
			       "missing");
	return 0;
}

int
view_check(const json_t *md, const json_t *requirements, struct err *e)
{
	const json_t *r;
	size_t i;

	json_array_foreach (requirements, i, r) {
		const char *type = json_string_value(json_object_get(r, "type")),
			   *want = json_string_value(json_object_get(r, "uuid"));
		const char *have = json_string_value(json_object_get(md, "view-uuid"));

		if (type == NULL)
			return err_set(e, ERR_INVALID, "a requirement needs \"type\"");
		if (strcmp(type, "assert-view-uuid") != 0)
			return err_set(e, ERR_INVALID, "the requirement \"%s\" is not supported for views", type);
		if (want == NULL)
			return err_set(e, ERR_INVALID, "the requirement assert-view-uuid needs \"uuid\"");
		if (have == NULL || strcasecmp(want, have) != 0)
			return err_set(e, ERR_CONFLICT, "the view is another one: its uuid should be %s, but is %s", want, have);
	}
	return 0;
}

/* ---- versions ---- */

static const char *
dialect_of(const json_t *representation)
{
	return json_string_value(json_object_get(representation, "dialect"));
}

static bool
has_dialect(const json_t *version, const char *dialect, size_t before)
{
	const json_t *list = json_object_get(version, "representations"), *r;
	size_t i;

	json_array_foreach (list, i, r)
		if (i < before && dialect_of(r) && strcasecmp(dialect_of(r), dialect) == 0)
			return true;
	return false;
}

static int
check_version(const json_t *v, struct err *e)
{
	const json_t *list = json_object_get(v, "representations"), *r;
	size_t i;

	if (!json_is_object(v) || metadata_int(v, "version-id", NO_ID) < 1 ||
	    !json_is_integer(json_object_get(v, "timestamp-ms")) || !json_is_integer(json_object_get(v, "schema-id")))
		return err_set(
			e, ERR_INVALID,
			"a view version needs \"version-id\" (from 1), \"timestamp-ms\" and \"schema-id\" as whole numbers");
	if (!json_is_array(json_object_get(v, "default-namespace")) || !json_is_object(json_object_get(v, "summary")))
		return err_set(e, ERR_INVALID, "a view version needs the list \"default-namespace\" and the object \"summary\"");
	if (json_array_size(list) == 0)
		return err_set(e, ERR_INVALID, "a view version needs \"representations\": at least one query");
	json_array_foreach (list, i, r) {
		const char *type = json_string_value(json_object_get(r, "type"));

		if (type == NULL || strcmp(type, "sql") != 0 || !json_is_string(json_object_get(r, "sql")) ||
		    dialect_of(r) == NULL)
			return err_set(e, ERR_INVALID,
				       "a view's representation must have the type \"sql\", \"sql\" and \"dialect\"");
		if (has_dialect(v, dialect_of(r), i))
			return err_set(e, ERR_INVALID, "a view version can have one query for the dialect %s, not two",
				       dialect_of(r));
	}
	return 0;
}

static bool
same_version(const json_t *a, const json_t *b)
{
	json_t *x = json_copy((json_t *)(uintptr_t)a), *y = json_copy((json_t *)(uintptr_t)b);
	bool same;

	json_object_del(x, "version-id");
	json_object_del(x, "timestamp-ms");
	json_object_del(y, "version-id");
	json_object_del(y, "timestamp-ms");
	same = json_equal(x, y);
	json_decref(x);
	json_decref(y);
	return same;
}

static int
add_version(struct view_change *ch, const json_t *version)
{
	json_t *versions = metadata_array(ch->base.md, "versions"), *mine, *it;
	int64_t id;
	size_t i;

	if (check_version(version, ch->base.e) < 0)
		return ERR_INVALID;
	mine = json_deep_copy(version);
	if (metadata_int(mine, "schema-id", 0) == NO_ID)
		json_object_set_new(mine, "schema-id", json_integer(ch->base.schema.id));
	if (metadata_find(json_object_get(ch->base.md, "schemas"), "schema-id", metadata_int(mine, "schema-id", NO_ID), NULL) ==
	    NULL) {
		json_decref(mine);
		return err_set(ch->base.e, ERR_INVALID, "the view has no schema %" PRId64,
			       metadata_int(version, "schema-id", NO_ID));
	}
	id = metadata_int(mine, "version-id", 1);
	json_array_foreach (versions, i, it) {
		int64_t other = metadata_int(it, "version-id", 0);

		if (same_version(it, mine)) {
			ch->last_version = other;
			json_decref(mine);
			return 0;
		}
		id = other >= id ? other + 1 : id;
	}
	ch->last_version = id;
	json_object_set_new(mine, "version-id", json_integer(id));
	json_array_append_new(versions, mine);
	return 0;
}

static int
choose_version(struct view_change *ch, int64_t id)
{
	json_t *md = ch->base.md, *version;
	bool added = id == NO_ID || id == ch->last_version;

	if (id == NO_ID && (id = ch->last_version) == NO_ID)
		return err_set(ch->base.e, ERR_INVALID,
			       "\"view-version-id\" -1 means the one that was added last, but none was added in this commit");
	version = metadata_find(json_object_get(md, "versions"), "version-id", id, NULL);
	if (version == NULL)
		return err_set(ch->base.e, ERR_INVALID, "the view has no version %" PRId64, id);
	if (id == metadata_int(md, "current-version-id", NO_ID))
		return 0;
	json_object_set_new(md, "current-version-id", json_integer(id));
	json_array_append_new(metadata_array(md, "version-log"),
			      json_pack("{s:I,s:I}", "timestamp-ms",
					(json_int_t)(added ? metadata_int(version, "timestamp-ms", 0) : ch->base.in->now_ms),
					"version-id", (json_int_t)id));
	return 0;
}

/* ---- updates ---- */

static int
assign_uuid(struct view_change *ch, const json_t *uuid)
{
	const char *have = json_string_value(json_object_get(ch->base.md, "view-uuid")), *want = json_string_value(uuid);

	if (want == NULL)
		return err_set(ch->base.e, ERR_INVALID, "\"uuid\" must be a string");
	if (have && strcasecmp(have, want) != 0)
		return err_set(ch->base.e, ERR_INVALID, "the view has the uuid %s already, it cannot become %s", have, want);
	return 0;
}

static int
apply_one(struct view_change *ch, const json_t *u)
{
	static const char *const shared[] = { "add-schema", "set-location", "set-properties", "remove-properties" };
	const char *action = json_string_value(json_object_get(u, "action"));

	if (action == NULL)
		return err_set(ch->base.e, ERR_INVALID, "an update needs \"action\"");
	for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++)
		if (strcmp(action, shared[i]) == 0)
			return change_apply(&ch->base, u);
	if (strcmp(action, "assign-uuid") == 0)
		return assign_uuid(ch, json_object_get(u, "uuid"));
	if (strcmp(action, "add-view-version") == 0)
		return add_version(ch, json_object_get(u, "view-version"));
	if (strcmp(action, "upgrade-format-version") == 0)
		return metadata_int(u, "format-version", NO_ID) == VIEW_FORMAT
			       ? 0
			       : err_set(ch->base.e, ERR_INVALID, "views have format version %d", VIEW_FORMAT);
	if (strcmp(action, "set-current-view-version") == 0) {
		if (!json_is_integer(json_object_get(u, "view-version-id")))
			return err_set(ch->base.e, ERR_INVALID, "\"view-version-id\" must be a whole number");
		return choose_version(ch, metadata_int(u, "view-version-id", NO_ID));
	}
	return err_set(ch->base.e, ERR_INVALID, "the update \"%s\" is not supported for views", action);
}

/* ---- after the updates ---- */

static const char *
property(const json_t *md, const char *name)
{
	return json_string_value(json_object_get(json_object_get(md, "properties"), name));
}

/* An engine whose query is gone could not read the view any more: that must be meant. */
static int
keep_dialects(struct view_change *ch)
{
	const json_t *versions = json_object_get(ch->base.md, "versions"), *r;
	const json_t *was = metadata_find(versions, "version-id", ch->first_version, NULL);
	const json_t *is = metadata_find(versions, "version-id", metadata_int(ch->base.md, "current-version-id", NO_ID), NULL);
	const char *allowed = property(ch->base.md, "replace.drop-dialect.allowed");
	size_t i;

	if (allowed && strcasecmp(allowed, "true") == 0)
		return 0;
	json_array_foreach (json_object_get(was, "representations"), i, r)
		if (!has_dialect(is, dialect_of(r) ? dialect_of(r) : "", SIZE_MAX))
			return err_set(ch->base.e, ERR_INVALID,
				       "the view would lose its query for the dialect %s; set the property "
				       "replace.drop-dialect.allowed=true if that is meant",
				       dialect_of(r));
	return 0;
}

/* The oldest versions go; a log with a gap would tell a wrong story, so what lies before one goes too. */
static void
drop_old_versions(json_t *md)
{
	const char *setting = property(md, "version.history.num-entries");
	long keep = setting ? strtol(setting, NULL, 10) : HISTORY_KEEP;
	json_t *versions = json_object_get(md, "versions"), *old = json_object_get(md, "version-log"), *log, *entry;
	size_t i = 0;

	if (json_array_size(versions) <= (size_t)(keep > 1 ? keep : 1))
		return;
	while (json_array_size(versions) > (size_t)(keep > 1 ? keep : 1)) {
		if (metadata_int(json_array_get(versions, i), "version-id", 0) == metadata_int(md, "current-version-id", NO_ID))
			i++;
		json_array_remove(versions, i);
	}
	log = json_array();
	json_array_foreach (old, i, entry) {
		if (metadata_find(versions, "version-id", metadata_int(entry, "version-id", 0), NULL))
			json_array_append(log, entry);
		else
			json_array_clear(log);
	}
	json_object_set_new(md, "version-log", log);
}

static json_t *
finish(struct view_change *ch, int rc)
{
	if (rc == 0)
		rc = keep_dialects(ch);
	if (rc < 0) {
		json_decref(ch->base.md);
		return NULL;
	}
	drop_old_versions(ch->base.md);
	json_object_del(ch->base.md, "last-column-id"); /* which only tables count */
	return ch->base.md;
}

static struct view_change
view_change_of(json_t *md, const struct metadata_input *in, struct err *e)
{
	return (struct view_change){ .base = { .md = md,
					       .in = in,
					       .schema = ADDED_NONE,
					       .spec = ADDED_NONE,
					       .order = ADDED_NONE,
					       .for_view = true,
					       .e = e },
				     .last_version = NO_ID,
				     .first_version = metadata_int(md, "current-version-id", NO_ID) };
}

json_t *
view_apply(const json_t *base, const json_t *updates, const struct metadata_input *in, struct err *e)
{
	struct view_change ch = view_change_of(json_deep_copy(base), in, e);
	const json_t *u;
	size_t i;
	int rc = 0;

	json_array_foreach (updates, i, u)
		if (rc == 0)
			rc = apply_one(&ch, u);
	return finish(&ch, rc);
}

json_t *
view_create(const json_t *request, const struct metadata_input *in, struct err *e)
{
	json_t *md = json_pack("{s:s,s:i,s:s,s:{},s:[],s:[],s:[]}", "view-uuid", in->uuid, "format-version", VIEW_FORMAT,
			       "location", in->location, "properties", "schemas", "versions", "version-log");
	struct view_change ch = view_change_of(md, in, e);
	json_t *schema = json_object_get(request, "schema"), *version = json_deep_copy(json_object_get(request, "view-version")),
	       *properties = json_object_get(request, "properties");
	json_t *updates = json_pack("[{s:s,s:O*},{s:s,s:O*},{s:s,s:o*},{s:s,s:i}]", "action", "add-schema", "schema", schema,
				    "action", "set-properties", "updates", properties, "action", "add-view-version",
				    "view-version", version, "action", "set-current-view-version", "view-version-id", -1);
	const json_t *u;
	size_t i;
	int rc = 0;

	if (json_is_integer(json_object_get(version, "schema-id"))) /* whatever it says, it is the only one */
		json_object_set_new(version, "schema-id", json_integer(NO_ID));
	json_array_foreach (updates, i, u)
		if (rc == 0 && !(i == 1 && properties == NULL))
			rc = apply_one(&ch, u);
	json_decref(updates);
	return finish(&ch, rc);
}
