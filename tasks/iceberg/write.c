/* See write.h: the order of a write's steps, and what happens when one of them fails. */
#include "tasks/iceberg/write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/attempt_name.h"
#include "base/fault.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/session.h"
#include "tasks/iceberg/write_int.h"
#include "tasks/report.h"
#include "tasks/spent.h"

#define COMMIT_TRIES 20
#define FORMAT_MAX   3

const char *const write_mode_names[] = { "append",    "overwrite", "replace", "overwrite_partitions", "upsert",
					 "add_files", "register",  "compact", "rewrite_manifests" };

/* ---- metadata ---- */

json_t *
element_by_id(const json_t *meta, const char *list, const char *key, json_int_t id)
{
	json_t *element;
	size_t i;

	json_array_foreach (json_object_get(meta, list), i, element)
		if (json_integer_value(json_object_get(element, key)) == id)
			return element;
	return NULL;
}

json_t *
writer_schema(const json_t *meta)
{
	return element_by_id(meta, "schemas", "schema-id", json_integer_value(json_object_get(meta, "current-schema-id")));
}

json_t *
snapshot_by_id(const json_t *meta, json_int_t id)
{
	return element_by_id(meta, "snapshots", "snapshot-id", id);
}

json_t *
current_snapshot(const json_t *meta)
{
	json_t *id = json_object_get(meta, "current-snapshot-id");

	return json_is_integer(id) && json_integer_value(id) != -1 ? snapshot_by_id(meta, json_integer_value(id)) : NULL;
}

const char *
writer_property(const struct writer *wr, const char *name)
{
	const char *own = json_string_value(json_object_get(wr->w->properties, name));

	return own ? own : json_string_value(json_object_get(json_object_get(wr->meta, "properties"), name));
}

int
writer_format(const struct writer *wr)
{
	return (int)json_integer_value(json_object_get(wr->meta, "format-version"));
}

/* ---- before the rows ---- */

static int
writer_location(struct writer *wr)
{
	const char *local;

	wr->meta = json_object_get(wr->loaded, "metadata");
	wr->location = xstrdup(json_string_value(json_object_get(wr->meta, "location")));
	local = task_path(wr->cx, "the table's location", wr->location);
	if (local == NULL)
		return -1;
	wr->local = xstrdup(local);
	return 0;
}

/* Properties of a table that is about to be made: the format version is asked for by one, and the compression is remembered. */
static json_t *
create_properties(const struct write *w)
{
	json_t *out = json_object_size(w->properties) ? json_copy((json_t *)(uintptr_t)w->properties) : json_object();

	if (w->format_version)
		json_object_set_new(out, "format-version", json_sprintf("%d", w->format_version));
	if (w->compression && json_object_get(out, "write.parquet.compression-codec") == NULL)
		json_object_set_new(out, "write.parquet.compression-codec", json_string(w->compression));
	if (w->target_file_size && json_object_get(out, "write.target-file-size-bytes") == NULL)
		json_object_set_new(out, "write.target-file-size-bytes", json_sprintf("%lld", (long long)w->target_file_size));
	return out;
}

/* Our own catalog makes them as it stages a table. */
static int
writer_make_folders(struct writer *wr)
{
	char *data = xasprintf("%s/data/", wr->local), *metadata = xasprintf("%s/metadata/", wr->local);
	int rc = task_make_parents(wr->cx, data);

	if (rc == 0)
		rc = task_make_parents(wr->cx, metadata);
	free(data);
	free(metadata);
	return rc;
}

/* A table that is not there yet is staged: nothing is visible before its first commit. */
static int
writer_stage_create(struct writer *wr)
{
	struct write *w = wr->w;
	json_t *body, *answer;
	char *list, *slash;
	int status;

	if (rest_ensure_namespace(wr->cx, w->ns) < 0)
		return -1;
	body = json_pack("{s:s,s:O,s:O,s:O,s:b,s:o}", "name", w->table, "schema", wr->schema, "partition-spec", wr->spec,
			 "write-order", wr->order, "stage-create", 1, "properties", create_properties(w));
	list = rest_table_path(w->ns, w->table);
	slash = strrchr(list, '/');
	*slash = '\0';
	status = rest_call(wr->cx, "POST", list, body, &answer);
	free(list);
	json_decref(body);
	if (status != 200) {
		if (status >= 0)
			rest_fail(wr->cx, "the table cannot be made", status, answer);
		json_decref(answer);
		return -1;
	}
	wr->loaded = answer;
	wr->create = true;
	if (session_storage(wr->cx, answer) < 0 || writer_location(wr) < 0)
		return -1;
	return session_foreign(wr->cx) ? writer_make_folders(wr) : 0;
}

/* What the table has is what is written: of one that was staged, the catalog has given the ids. */
void
writer_take_table(struct writer *wr)
{
	json_decref(wr->fields);
	wr->fields = json_incref(json_object_get(writer_schema(wr->meta), "fields"));
	json_decref(wr->schema);
	wr->schema = NULL;
	json_decref(wr->spec);
	wr->spec = json_incref(element_by_id(wr->meta, "partition-specs", "spec-id",
					     json_integer_value(json_object_get(wr->meta, "default-spec-id"))));
	json_decref(wr->order);
	wr->order = json_incref(element_by_id(wr->meta, "sort-orders", "order-id",
					      json_integer_value(json_object_get(wr->meta, "default-sort-order-id"))));
	wr->new_spec = wr->new_order = false;
}

/* An earlier attempt of this task may have committed and then been lost: its snapshot says so. */
static bool
landed_before(struct writer *wr)
{
	const char *run = doc_text(wr->cx, "run_id"), *task = doc_text(wr->cx, "task_id");
	json_t *snap = current_snapshot(wr->meta);

	while (snap) {
		const json_t *summary = json_object_get(snap, "summary"), *parent;
		const char *r = json_string_value(json_object_get(summary, "sluice.run-id"));
		const char *t = json_string_value(json_object_get(summary, "sluice.task-id"));

		if (r && t && strcmp(r, run) == 0 && strcmp(t, task) == 0) {
			wr->w->snapshot_id = json_integer_value(json_object_get(snap, "snapshot-id"));
			wr->w->rows = summary_number(snap, "added-records");
			wr->w->files = summary_number(snap, "added-data-files");
			wr->w->bytes = summary_number(snap, "added-files-size");
			return true;
		}
		parent = json_object_get(snap, "parent-snapshot-id");
		snap = json_is_integer(parent) ? snapshot_by_id(wr->meta, json_integer_value(parent)) : NULL;
	}
	return false;
}

static int
writer_check_format(struct writer *wr)
{
	int have = writer_format(wr);

	if (have < 2 || have > FORMAT_MAX)
		return task_fail(wr->cx, ERR_UNSUPPORTED,
				 "table %s has format version %d; the duckdb engine writes versions 2 and 3", wr->w->name, have);
	if (wr->w->format_version && wr->w->format_version != have)
		return task_fail_at(wr->cx, "format_version",
				    "table %s has format version %d already; format_version is for a table that is made",
				    wr->w->name, have);
	return 0;
}

static int
writer_prepare(struct writer *wr)
{
	struct context *cx = wr->cx;
	struct write *w = wr->w;
	struct buf select = BUF_INIT;
	int rc = -1;

	if (writer_open(wr) < 0)
		return -1;
	if (wr->loaded == NULL && w->must_exist)
		return task_fail_at(cx, "into", "table %s does not exist, and `create: false` says not to make it", w->name);
	if (wr->loaded && landed_before(wr)) {
		w->landed_before = true;
		return 0;
	}
	if ((wr->loaded && writer_check_format(wr) < 0) || (wr->columns = duck_describe(cx->db, w->query, &cx->err)) == NULL)
		return -1;
	wr->first_column_id = wr->last_column_id =
		wr->loaded ? (int)json_integer_value(json_object_get(wr->meta, "last-column-id")) : 0;
	if (w->mode == WRITE_ADD_FILES && w->partition_by == NULL && wr->loaded == NULL) {
		if (add_files_plan(wr, &wr->folders) < 0)
			return -1;
		w->partition_by = wr->folders;
	}
	if (schema_plan(wr, wr->columns) < 0 || layout_plan(wr) < 0)
		return -1;
	if (wr->loaded == NULL) {
		if (writer_stage_create(wr) < 0)
			return -1;
		writer_take_table(wr);
	}
	rc = writer_select(wr, wr->columns, w->query, &select);
	wr->select = buf_detach(&select);
	if (rc == 0 && w->mode == WRITE_UPSERT)
		rc = upsert_prepare(wr);
	return rc;
}

/* ---- after them ---- */

/* After somebody else's commit: do the rows that are written already still fit the table? */
static int
still_fits(struct writer *wr, const json_t *before)
{
	static const char *const same[] = { "current-schema-id", "last-column-id", "default-spec-id", "last-partition-id" };
	bool fits = true;

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]) && before; i++)
		fits = fits && json_equal(json_object_get(before, same[i]), json_object_get(wr->meta, same[i]));
	if (before == NULL) /* ours was staged only */
		fits = json_equal(json_object_get(writer_schema(wr->meta), "fields"), wr->fields);
	if (fits)
		return 0;
	wr->cx->cause = "conflict";
	return task_fail(wr->cx, ERR_CONFLICT,
			 "table %s: somebody else changed its columns or partitions meanwhile; the task can be tried again",
			 wr->w->name);
}

/* Somebody else committed first: the table as it is now. */
int
writer_reload(struct writer *wr)
{
	struct context *cx = wr->cx;
	json_t *before = wr->loaded;
	int rc = -1;

	wr->loaded = NULL;
	err_release(&cx->err);
	if (rest_load_table(cx, wr->w->ns, wr->w->table, &wr->loaded) == 200) {
		wr->meta = json_object_get(wr->loaded, "metadata");
		rc = wr->w->mode >= WRITE_COMPACT ? 0 : still_fits(wr, wr->create ? NULL : json_object_get(before, "metadata"));
		/* Made by somebody else: it is an ordinary table then, if its columns are ours. */
		wr->create = false;
	} else if (cx->err.code == 0) {
		task_fail(cx, ERR_CONFLICT, "table %s was dropped by somebody else meanwhile; the task can be tried again",
			  wr->w->name);
	}
	json_decref(before);
	return rc;
}

static void
unmake_from(struct writer *wr, size_t first, bool away)
{
	for (size_t i = first; i < wr->made.count; i++) {
		if (away)
			task_file_remove(wr->cx, wr->made.items[i]);
		free(wr->made.items[i]);
	}
	wr->made.count = first;
}

void
writer_unmake(struct writer *wr, bool away)
{
	unmake_from(wr, 0, away);
	free(wr->kept.list);
	wr->kept = (struct kept){ 0 };
}

void
writer_unmake_try(struct writer *wr)
{
	unmake_from(wr, wr->kept.made, true);
}

/*
 * An append fits on top of anything; so does replacing everything. Partitions are looked at again. An upsert has read the table:
 * what somebody else wrote since may hold its keys, so the task begins anew.
 */
static int
writer_commit(struct writer *wr)
{
	int status = -1;

	for (int try = 0; try < COMMIT_TRIES; try++) {
		writer_unmake(wr, true); /* of a try that was refused, and cannot land any more */
		if (try && (wr->w->mode == WRITE_UPSERT || writer_reload(wr) < 0))
			break;
		status = commit_try(wr);
		if (status != 409)
			break;
	}
	return status;
}

void
writer_release(struct writer *wr, bool failed)
{
	if (failed && wr->local)
		writer_remove_data(wr);
	for (size_t i = 0; i < wr->nfiles; i++)
		data_file_release(&wr->files[i]);
	writer_unmake(wr, failed);
	free(wr->made.items);
	free(wr->files);
	free(wr->select);
	free(wr->location);
	free(wr->local);
	free(wr->path);
	json_decref(wr->columns);
	json_decref(wr->fields);
	json_decref(wr->schema);
	json_decref(wr->spec);
	json_decref(wr->order);
	json_decref(wr->gone);
	json_decref(wr->checked);
	json_decref(wr->read);
	if (wr->w->partition_by == wr->folders)
		wr->w->partition_by = NULL;
	json_decref(wr->folders);
	json_decref(wr->loaded);
}

/* Files that are made from now on are told from those before. */
void
writer_name(struct writer *wr)
{
	struct context *cx = wr->cx;
	char stem[ATTEMPT_STEM];

	snprintf(wr->stem, sizeof(wr->stem), "%s-%0*x",
		 attempt_stem(doc_text(cx, "run_id"), doc_text(cx, "task_id"),
			      (int)json_integer_value(json_object_get(cx->doc, "attempt")), stem),
		 ATTEMPT_NONCE, (unsigned)random_id());
}

void
writer_begin(struct writer *wr, struct context *cx, struct write *w)
{
	*wr = (struct writer){ .cx = cx, .w = w };
	writer_name(wr);
}

int
writer_open(struct writer *wr)
{
	int status;

	wr->path = rest_table_path(wr->w->ns, wr->w->table);
	status = rest_load_table(wr->cx, wr->w->ns, wr->w->table, &wr->loaded);
	return status < 0 || (status == 200 && writer_location(wr) < 0) ? -1 : 0;
}

void
iceberg_tell(const char *ns, const char *table, const char *location)
{
	report("writing", json_pack("[{s:s,s:s,s:s}]", "namespace", ns, "name", table, "location", location));
}

int
iceberg_write(struct context *cx, struct write *w)
{
	struct writer wr;
	int status = -1;

	writer_begin(&wr, cx, w);
	if (duck_load_iceberg(cx->db, &cx->err) < 0)
		goto out;
	if (writer_prepare(&wr) < 0) {
		if (cx->cause == NULL || wr.loaded)
			goto out;
		/* Somebody else made the table since we looked: it is written to as it is. */
		writer_release(&wr, false);
		writer_begin(&wr, cx, w);
		err_release(&cx->err);
		cx->cause = NULL;
		if (writer_prepare(&wr) < 0)
			goto out;
	}
	if (w->landed_before) {
		status = 200;
		goto out;
	}
	iceberg_tell(w->ns, w->table, wr.location);
	FAULT("write.data.before");
	if ((w->mode == WRITE_ADD_FILES ? add_files_data(&wr) : writer_data(&wr)) < 0 ||
	    (w->mode == WRITE_UPSERT && upsert_deletes(&wr) < 0) || (w->parity != PARITY_NONE && parity_check(&wr) < 0)) {
		err_prefix(&cx->err, "table %s", w->name);
		goto out;
	}
	FAULT("write.data.after");
	status = writer_commit(&wr);
	if (status == 200) {
		cx->cause = NULL;
		err_release(&cx->err);
	}
out:
	/* A commit whose answer was lost may have landed: its files must stay. */
	writer_release(&wr, status != 200 && (status >= 0 || !wr.sent));
	return status == 200 ? 0 : -1;
}
