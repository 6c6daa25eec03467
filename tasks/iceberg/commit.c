/*
 * One commit: what it says about the snapshot, what it requires, and what becomes of an answer that is lost. Sources: the Iceberg
 * table specification (snapshots and their summaries) and the REST catalog's update and requirement types.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/write_int.h"

/* ---- the summary ---- */

int64_t
summary_number(const json_t *snap, const char *key)
{
	const char *text = json_string_value(json_object_get(json_object_get(snap, "summary"), key));

	return text ? strtoll(text, NULL, 10) : 0;
}

static void
summary_set(json_t *summary, const char *key, int64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	json_object_set_new(summary, key, json_string(text));
}

/* What was not there is not mentioned. */
static void
summary_count(json_t *summary, const char *key, int64_t value)
{
	if (value)
		summary_set(summary, key, value);
}

static void
summary_total(json_t *summary, const struct commit *c, const char *key, int64_t added, int64_t removed)
{
	int64_t before = c->keep_parent ? summary_number(c->parent, key) : 0, now = before + added - removed;

	summary_set(summary, key, now > 0 ? now : 0);
}

static json_t *
commit_summary(const struct writer *wr, const struct commit *c)
{
	const struct write *w = wr->w;
	bool appends =
		w->mode == WRITE_APPEND || w->mode == WRITE_ADD_FILES || (w->mode == WRITE_UPSERT && c->deleted_files == 0);
	int64_t delete_files = 0, position_deletes = 0, partitions = 0;
	json_t *s;
	struct context *cx = wr->cx;

	for (size_t i = 0; i < wr->nfiles; i++) {
		if (wr->files[i].content == CONTENT_POSITION_DELETES) {
			delete_files++;
			position_deletes += wr->files[i].rows;
		}
		partitions += json_array_size(wr->files[i].partition) > 0;
	}
	s = json_pack("{s:s}", "operation",
		      w->mode >= WRITE_COMPACT       ? "replace"
		      : appends && delete_files == 0 ? "append"
						     : "overwrite");
	summary_set(s, "added-data-files", w->files);
	summary_set(s, "added-records", w->rows);
	summary_set(s, "added-files-size", w->bytes);
	summary_count(s, "added-delete-files", delete_files);
	summary_count(s, "added-position-delete-files", delete_files);
	summary_count(s, "added-position-deletes", position_deletes);
	summary_count(s, "deleted-data-files", (int64_t)c->deleted_files);
	summary_count(s, "deleted-records", c->deleted_rows);
	summary_count(s, "removed-files-size", c->deleted_bytes);
	summary_count(s, "removed-delete-files", (int64_t)c->removed_delete_files);
	summary_count(s, "removed-position-deletes", c->removed_position_deletes);
	summary_count(s, "removed-equality-deletes", c->removed_equality_deletes);
	summary_total(s, c, "total-data-files", w->files, (int64_t)c->deleted_files);
	summary_total(s, c, "total-records", w->rows, c->deleted_rows);
	summary_total(s, c, "total-files-size", w->bytes, c->deleted_bytes);
	summary_total(s, c, "total-delete-files", delete_files, (int64_t)c->removed_delete_files);
	summary_total(s, c, "total-position-deletes", position_deletes, c->removed_position_deletes);
	summary_total(s, c, "total-equality-deletes", 0, c->removed_equality_deletes);
	summary_count(s, "manifests-created", (int64_t)c->manifests_created);
	summary_count(s, "manifests-replaced", (int64_t)c->manifests_replaced);
	json_object_set_new(s, "sluice.flow", json_string(doc_text(cx, "flow")));
	json_object_set_new(s, "sluice.run-id", json_string(doc_text(cx, "run_id")));
	json_object_set_new(s, "sluice.task-id", json_string(doc_text(cx, "task_id")));
	json_object_set_new(s, "sluice.mode", json_string(write_mode_names[w->mode]));
	summary_set(s, "sluice.attempt", json_integer_value(json_object_get(cx->doc, "attempt")));
	return s;
}

/* ---- updates and requirements ---- */

static void
add_update(json_t *updates, json_t *update)
{
	json_array_append_new(updates, update);
}

/* "The one that was added last", or one that is there: by its id. */
static void
set_default(json_t *updates, const char *action, const char *key, json_int_t id)
{
	add_update(updates, json_pack("{s:s,s:I}", "action", action, key, id));
}

/* The updates that make a staged table real. */
static void
create_updates(const struct writer *wr, json_t *updates)
{
	const json_t *meta = wr->meta;

	add_update(updates, json_pack("{s:s,s:O}", "action", "assign-uuid", "uuid", json_object_get(meta, "table-uuid")));
	add_update(updates, json_pack("{s:s,s:i}", "action", "upgrade-format-version", "format-version", writer_format(wr)));
	add_update(updates, json_pack("{s:s,s:O,s:O}", "action", "add-schema", "schema", writer_schema(meta), "last-column-id",
				      json_object_get(meta, "last-column-id")));
	set_default(updates, "set-current-schema", "schema-id", -1);
	add_update(updates, json_pack("{s:s,s:O}", "action", "add-spec", "spec", wr->spec));
	set_default(updates, "set-default-spec", "spec-id", -1);
	add_update(updates, json_pack("{s:s,s:O}", "action", "add-sort-order", "sort-order", wr->order));
	set_default(updates, "set-default-sort-order", "sort-order-id", -1);
	add_update(updates, json_pack("{s:s,s:O}", "action", "set-location", "location", json_object_get(meta, "location")));
	if (json_object_size(json_object_get(meta, "properties")))
		add_update(updates,
			   json_pack("{s:s,s:O}", "action", "set-properties", "updates", json_object_get(meta, "properties")));
}

/* The id that the catalog gives a schema: that of an equal one, or the next. Written into the schema. */
static void
number_schema(const json_t *meta, json_t *schema)
{
	json_int_t id = 0;
	json_t *have;
	size_t i;

	json_array_foreach (json_object_get(meta, "schemas"), i, have) {
		json_int_t theirs = json_integer_value(json_object_get(have, "schema-id"));

		if (json_equal(json_object_get(have, "fields"), json_object_get(schema, "fields"))) {
			id = theirs;
			break;
		}
		if (theirs >= id)
			id = theirs + 1;
	}
	json_object_set_new(schema, "schema-id", json_integer(id));
}

static void
require_number(json_t *requirements, const char *type, const char *key, const json_t *value)
{
	json_array_append_new(requirements, json_pack("{s:s,s:O}", "type", type, key, value));
}

/* Schema, partitions and order that the task changes; each requires that nobody else changed them meanwhile. */
static void
layout_updates(struct writer *wr, json_t *updates, json_t *requirements)
{
	const json_t *meta = wr->meta;

	if (wr->schema) {
		json_array_append_new(requirements, json_pack("{s:s,s:i}", "type", "assert-last-assigned-field-id",
							      "last-assigned-field-id", wr->first_column_id));
		add_update(updates, json_pack("{s:s,s:O,s:i}", "action", "add-schema", "schema", wr->schema, "last-column-id",
					      wr->last_column_id));
		set_default(updates, "set-current-schema", "schema-id", -1);
	}
	require_number(requirements, "assert-default-spec-id", "default-spec-id", json_object_get(meta, "default-spec-id"));
	if (wr->new_spec) {
		add_update(updates, json_pack("{s:s,s:O}", "action", "add-spec", "spec", wr->spec));
		set_default(updates, "set-default-spec", "spec-id", -1);
	}
	if (wr->new_order) {
		add_update(updates, json_pack("{s:s,s:O}", "action", "add-sort-order", "sort-order", wr->order));
		set_default(updates, "set-default-sort-order", "sort-order-id", -1);
	}
}

static void
snapshot_updates(struct writer *wr, const struct commit *c, json_t *updates)
{
	json_t *snap = json_pack("{s:I,s:I,s:I,s:s,s:o}", "snapshot-id", (json_int_t)c->snapshot, "sequence-number",
				 (json_int_t)c->sequence, "timestamp-ms", (json_int_t)(clock_wall() / 1000), "manifest-list",
				 c->manifest_list, "summary", commit_summary(wr, c));

	if (c->keep_parent)
		json_object_set(snap, "parent-snapshot-id", json_object_get(c->parent, "snapshot-id"));
	json_object_set(snap, "schema-id",
			wr->schema ? json_object_get(wr->schema, "schema-id") : json_object_get(wr->meta, "current-schema-id"));
	if (writer_format(wr) >= 3) {
		json_int_t first = json_integer_value(json_object_get(wr->meta, "next-row-id"));

		json_object_set_new(snap, "first-row-id", json_integer(first));
		json_object_set_new(snap, "added-rows", json_integer(c->first_row_id - first));
	}
	add_update(updates, json_pack("{s:s,s:o}", "action", "add-snapshot", "snapshot", snap));
	add_update(updates, json_pack("{s:s,s:s,s:s,s:I}", "action", "set-snapshot-ref", "ref-name", "main", "type", "branch",
				      "snapshot-id", (json_int_t)c->snapshot));
}

static json_t *
commit_body(struct writer *wr, const struct commit *c)
{
	json_t *updates = json_array(), *requirements = json_array();

	if (wr->create) {
		create_updates(wr, updates);
		json_array_append_new(requirements, json_pack("{s:s}", "type", "assert-create"));
	} else {
		require_number(requirements, "assert-table-uuid", "uuid", json_object_get(wr->meta, "table-uuid"));
		json_array_append_new(
			requirements,
			json_pack("{s:s,s:s,s:o}", "type", "assert-ref-snapshot-id", "ref", "main", "snapshot-id",
				  c->parent ? json_incref(json_object_get(c->parent, "snapshot-id")) : json_null()));
		layout_updates(wr, updates, requirements);
	}
	if (!wr->create && json_object_size(wr->w->properties))
		add_update(updates, json_pack("{s:s,s:O}", "action", "set-properties", "updates", wr->w->properties));
	if (wr->w->mode == WRITE_ADD_FILES)
		add_update(updates, json_pack("{s:s,s:o}", "action", "set-properties", "updates", add_files_property(wr)));
	snapshot_updates(wr, c, updates);
	return json_pack("{s:o,s:o}", "requirements", requirements, "updates", updates);
}

/* ---- sending ---- */

/* Is our snapshot in the table? 1, 0, or -1 with the error set. */
static int
commit_landed(struct writer *wr, int64_t snapshot)
{
	json_t *loaded = NULL;
	int status = rest_load_table(wr->cx, wr->w->ns, wr->w->table, &loaded), landed;

	landed = status == 200 && snapshot_by_id(json_object_get(loaded, "metadata"), snapshot) != NULL;
	json_decref(loaded);
	return status < 0 ? -1 : landed;
}

/*
 * A commit whose answer was lost is looked up, not repeated: only when the table does not have it, it is sent again, the very
 * same one. Should the first one arrive after all, then one of the two finds that the table has moved on, and that is looked
 * up as well. Returns the HTTP status, or -1 with the error set when nobody can tell.
 */
static int
commit_send(struct writer *wr, const json_t *body, int64_t snapshot, json_t **answer)
{
	struct context *cx = wr->cx;
	struct rest_wait wait = { 0 };
	int status, landed;

	for (;;) {
		status = rest_once(cx, "POST", wr->path, body, answer);
		if (status != REST_UNSURE && !(status == 409 && wait.tries))
			break;
		if (status == REST_UNSURE && !rest_wait(cx, &wait))
			return -1;
		if ((landed = commit_landed(wr, snapshot)) < 0)
			return -1;
		if (landed) {
			fputs("the commit had been made\n", stderr);
			status = 200;
		}
		if (status != REST_UNSURE)
			break;
		err_release(&cx->err);
	}
	rest_waited(&wait);
	if (status == 200)
		err_release(&cx->err);
	return status;
}

/* One try. Returns the HTTP status, or -1 with the error set. */
int
commit_try(struct writer *wr)
{
	struct context *cx = wr->cx;
	struct write *w = wr->w;
	struct commit c = { .snapshot = wr->kept.commit.snapshot ? wr->kept.commit.snapshot : random_id(),
			    .parent = wr->create ? NULL : current_snapshot(wr->meta) };
	json_t *body, *answer = NULL;
	int status = -1;

	c.sequence = json_integer_value(json_object_get(wr->meta, "last-sequence-number")) + 1;
	c.first_row_id = json_integer_value(json_object_get(wr->meta, "next-row-id"));
	c.keep_parent = c.parent && w->mode != WRITE_REPLACE;
	if (wr->schema)
		number_schema(wr->meta, wr->schema);
	if (commit_manifests(wr, &c) < 0) {
		if (cx->err.msg && strstr(cx->err.msg, w->name) == NULL)
			err_prefix(&cx->err, "table %s", w->name);
		goto out;
	}
	body = commit_body(wr, &c);
	FAULT("write.commit.before");
	wr->sent = true;
	status = commit_send(wr, body, c.snapshot, &answer);
	FAULT("write.commit.after");
	json_decref(body);
	if (status == 200) {
		w->snapshot_id = c.snapshot;
		w->removed_rows = c.deleted_rows;
		w->removed_files = (int64_t)c.deleted_files;
		w->removed_bytes = c.deleted_bytes;
		w->removed_delete_files = (int64_t)c.removed_delete_files;
	} else if (status >= 0) {
		const char *type = json_string_value(json_object_get(json_object_get(answer, "error"), "type"));
		char *what = xasprintf("table %s: the commit was refused", w->name);

		wr->in_use = type && strcmp(type, "TableInUseException") == 0;

		rest_fail(cx, what, status, answer);
		free(what);
	}
	json_decref(answer);
out:
	free(c.manifest_list);
	return status;
}
