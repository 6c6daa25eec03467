/*
 * See write.h. Sources: the Iceberg table specification, version 2 (snapshots and their summaries), and the REST catalog's update
 * and requirement types.
 */
#include "tasks/iceberg/write.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"
#include "tasks/spent.h"

#define COMMIT_TRIES 6

static int64_t
random_id(void)
{
	uint64_t n = 0;

	if (getrandom(&n, sizeof(n), 0) != sizeof(n))
		n = (uint64_t)clock_wall() * 2654435761u;
	return (int64_t)(n >> 1) | 1;
}

/* The element of a list of the metadata by its id; NULL when there is none. */
static json_t *
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

static json_t *
snapshot_by_id(const json_t *meta, json_int_t id)
{
	return element_by_id(meta, "snapshots", "snapshot-id", id);
}

static json_t *
current_snapshot(const json_t *meta)
{
	json_t *id = json_object_get(meta, "current-snapshot-id");

	return json_is_integer(id) && json_integer_value(id) != -1 ? snapshot_by_id(meta, json_integer_value(id)) : NULL;
}

/* ---- the schema ---- */

static json_t *
field_named(const json_t *fields, const char *name)
{
	json_t *field;
	size_t i;

	json_array_foreach (fields, i, field)
		if (strcmp(json_string_value(json_object_get(field, "name")), name) == 0)
			return field;
	return NULL;
}

/* A schema for new rows: ids of columns that were there under the same name are kept, so that history stays readable. */
static int
schema_from_columns(struct writer *wr, const json_t *columns, const json_t *old_fields)
{
	struct context *cx = wr->cx;
	json_t *column, *type, *old;
	size_t i;

	wr->fields = json_array();
	/* Top-level ids first, in column order, as other engines give them. */
	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name"));
		int id;

		for (size_t k = 0; k < i; k++)
			if (strcasecmp(json_string_value(json_object_get(json_array_get(columns, k), "name")), name) == 0)
				return task_fail(cx, ERR_UNPROCESSABLE,
						 "table %s: two columns are called \"%s\" (case makes no difference); give one "
						 "another name",
						 wr->w->name, name);
		old = old_fields ? field_named(old_fields, name) : NULL;
		id = old ? (int)json_integer_value(json_object_get(old, "id")) : ++wr->last_column_id;
		json_array_append_new(wr->fields, json_pack("{s:i,s:s,s:b}", "id", id, "name", name, "required", 0));
	}
	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name"));

		type = iceberg_type(json_string_value(json_object_get(column, "type")), &wr->last_column_id, &cx->err);
		if (type == NULL) {
			err_prefix(&cx->err, "column \"%s\"", name);
			return -1;
		}
		json_object_set_new(json_array_get(wr->fields, i), "type", type);
	}
	wr->schema = json_pack("{s:s,s:i,s:O}", "type", "struct", "schema-id", 0, "fields", wr->fields);
	return 0;
}

/* The rows must fit the table's schema, by name. */
static int
schema_match(struct writer *wr, const json_t *columns)
{
	struct context *cx = wr->cx;
	json_t *column, *field;
	size_t i;

	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")), *near;

		if (field_named(wr->fields, name))
			continue;
		near = task_nearest(wr->fields, name);
		return task_fail(cx, ERR_UNPROCESSABLE,
				 "table %s has no column \"%s\"%s%s%s; leave it out of the rows, or use mode: replace to change "
				 "the table's schema",
				 wr->w->name, name, near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
	}
	json_array_foreach (wr->fields, i, field) {
		const char *name = json_string_value(json_object_get(field, "name"));

		if (json_is_true(json_object_get(field, "required")) && field_named(columns, name) == NULL)
			return task_fail(cx, ERR_UNPROCESSABLE, "table %s requires the column \"%s\", which the rows do not have",
					 wr->w->name, name);
	}
	return 0;
}

static int
writer_select(struct writer *wr, const json_t *columns)
{
	struct buf b = BUF_INIT;
	json_t *field;
	size_t i;

	buf_adds(&b, "SELECT ");
	json_array_foreach (wr->fields, i, field) {
		const char *name = json_string_value(json_object_get(field, "name"));

		if (i)
			buf_adds(&b, ", ");
		buf_adds(&b, "CAST(");
		if (field_named(columns, name))
			buf_add_sql_name(&b, name);
		else
			buf_adds(&b, "NULL");
		buf_adds(&b, " AS ");
		if (iceberg_to_duck(json_object_get(field, "type"), &b, &wr->cx->err) < 0) {
			buf_release(&b);
			return -1;
		}
		buf_adds(&b, ") AS ");
		buf_add_sql_name(&b, name);
	}
	buf_addf(&b, " FROM (%s\n)", wr->w->query);
	wr->select = buf_detach(&b);
	return 0;
}

static int
writer_location(struct writer *wr)
{
	const char *local;

	wr->meta = json_object_get(wr->loaded, "metadata");
	wr->location = xstrdup(json_string_value(json_object_get(wr->meta, "location")));
	local = task_local_path(wr->cx, "the table's location", wr->location);
	if (local == NULL)
		return -1;
	wr->local = xstrdup(local);
	return 0;
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
	body = json_pack("{s:s,s:O,s:b,s:O?}", "name", w->table, "schema", wr->schema, "stage-create", 1, "properties",
			 json_object_size(w->properties) ? w->properties : NULL);
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
	return 0;
}

/* ---- data files ---- */

/* Counts by column as a MAP of counts by field id. A nested field's path is no column's name: it is left out. */
static char *
counts_literal(const json_t *fields, const json_t *counts)
{
	struct buf b = BUF_INIT;
	json_t *field, *count;
	bool first = true;
	size_t i;

	buf_adds(&b, "MAP {");
	json_array_foreach (fields, i, field) {
		count = json_object_get(counts, json_string_value(json_object_get(field, "name")));
		if (!json_is_integer(count))
			continue;
		buf_addf(&b, "%s%d::INTEGER: %lld::BIGINT", first ? "" : ", ",
			 (int)json_integer_value(json_object_get(field, "id")), (long long)json_integer_value(count));
		first = false;
	}
	buf_adds(&b, "}");
	if (first) { /* an empty map literal has no type */
		buf_clear(&b);
		buf_adds(&b, "NULL::MAP(INTEGER, BIGINT)");
	}
	return buf_detach(&b);
}

static int
writer_data(struct writer *wr)
{
	struct context *cx = wr->cx;
	struct write *w = wr->w;
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *dir = xasprintf("%s/data", wr->local), *probe = xasprintf("%s/x", dir);
	int rc = task_make_parents(cx, probe);

	free(probe);
	if (rc < 0) {
		free(dir);
		return -1;
	}
	buf_addf(&b, "COPY (%s) TO ", wr->select);
	buf_add_sql_string(&b, dir);
	buf_addf(&b,
		 " (FORMAT parquet, COMPRESSION zstd, FILE_SIZE_BYTES %lld, FILENAME_PATTERN '%s-{i}', OVERWRITE_OR_IGNORE, "
		 "RETURN_STATS, FIELD_IDS ",
		 (long long)w->target_file_size, wr->stem);
	iceberg_field_ids(wr->fields, &b);
	buf_adds(&b, ")");
	r = duck_query(cx->db, b.s, &cx->err);
	buf_release(&b);
	free(dir);
	if (r == NULL)
		return -1;
	for (size_t i = 0; i < duck_rows(r); i++)
		wr->copied += duck_int(r, i, 1);
	duck_result_free(r);
	return 0;
}

/* What the copy wrote, from the footers of the files themselves: their number, sizes and counts. */
static int
writer_collect(struct writer *wr)
{
	struct context *cx = wr->cx;
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *pattern = xasprintf("%s/data/%s-*.parquet", wr->local, wr->stem);
	glob_t g = { 0 };
	size_t row = 0;

	/* A line a file and column; a file without rows has none. */
	buf_adds(&b, "SELECT file_name, path_in_schema, sum(num_values)::BIGINT, sum(stats_null_count)::BIGINT, "
		     "sum(row_group_num_rows)::BIGINT FROM parquet_metadata(");
	buf_add_sql_string(&b, pattern);
	buf_adds(&b, ") GROUP BY ALL ORDER BY 1");
	if (glob(pattern, 0, NULL, &g) != 0 || (r = duck_query(cx->db, b.s, &cx->err)) == NULL) {
		globfree(&g);
		free(pattern);
		buf_release(&b);
		return cx->err.code ? -1 : task_fail(cx, ERR_IO, "no file of what was written is in %s/data", wr->local);
	}
	free(pattern);
	buf_release(&b);
	wr->files = xcalloc(g.gl_pathc, sizeof(*wr->files));
	for (size_t i = 0; i < g.gl_pathc; i++) {
		struct data_file *f = &wr->files[wr->nfiles];
		json_t *values = json_object(), *nulls = json_object();
		struct stat st;

		f->rows = 0;
		for (; row < duck_rows(r); row++) {
			char *file = duck_text(r, row, 0), *column = duck_text(r, row, 1);
			bool ours = strcmp(file, g.gl_pathv[i]) == 0;

			if (ours) {
				json_object_set_new(values, column, duck_json(r, row, 2));
				json_object_set_new(nulls, column, duck_json(r, row, 3));
				f->rows = duck_int(r, row, 4);
			}
			free(file);
			free(column);
			if (!ours)
				break;
		}
		if (f->rows == 0) { /* an empty file helps nobody */
			unlink(g.gl_pathv[i]);
		} else {
			f->path = xstrdup(g.gl_pathv[i]);
			if (stat(f->path, &st) == 0)
				f->bytes = st.st_size;
			f->value_counts = counts_literal(wr->fields, values);
			f->null_counts = counts_literal(wr->fields, nulls);
			wr->w->rows += f->rows;
			wr->w->bytes += f->bytes;
			wr->nfiles++;
		}
		json_decref(values);
		json_decref(nulls);
	}
	globfree(&g);
	wr->w->files = (int64_t)wr->nfiles;
	duck_result_free(r);
	if (wr->w->rows != wr->copied)
		return task_fail(cx, ERR_IO, "%lld rows were written to %s/data, but its files hold %lld", (long long)wr->copied,
				 wr->local, (long long)wr->w->rows);
	return 0;
}

/* ---- the commit ---- */

static int64_t
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

static json_t *
commit_summary(const struct writer *wr, const struct commit *c)
{
	static const char *const operations[] = { "append", "overwrite", "overwrite" };
	const struct write *w = wr->w;
	bool adds_up = w->mode == WRITE_APPEND && c->parent;
	json_t *s = json_pack("{s:s}", "operation", operations[w->mode]);
	struct context *cx = wr->cx;

	summary_set(s, "added-data-files", w->files);
	summary_set(s, "added-records", w->rows);
	summary_set(s, "added-files-size", w->bytes);
	if (c->deleted_files) {
		summary_set(s, "deleted-data-files", (int64_t)c->deleted_files);
		summary_set(s, "deleted-records", c->deleted_rows);
	}
	summary_set(s, "total-data-files", w->files + (adds_up ? summary_number(c->parent, "total-data-files") : 0));
	summary_set(s, "total-records", w->rows + (adds_up ? summary_number(c->parent, "total-records") : 0));
	summary_set(s, "total-files-size", w->bytes + (adds_up ? summary_number(c->parent, "total-files-size") : 0));
	summary_set(s, "total-delete-files", adds_up ? summary_number(c->parent, "total-delete-files") : 0);
	summary_set(s, "total-position-deletes", adds_up ? summary_number(c->parent, "total-position-deletes") : 0);
	summary_set(s, "total-equality-deletes", adds_up ? summary_number(c->parent, "total-equality-deletes") : 0);
	json_object_set_new(s, "sluice.flow", json_string(doc_text(cx, "flow")));
	json_object_set_new(s, "sluice.run-id", json_string(doc_text(cx, "run_id")));
	json_object_set_new(s, "sluice.task-id", json_string(doc_text(cx, "task_id")));
	summary_set(s, "sluice.attempt", json_integer_value(json_object_get(cx->doc, "attempt")));
	return s;
}

/* The updates that make a staged table real. */
static void
create_updates(const struct writer *wr, json_t *updates)
{
	const json_t *meta = wr->meta;

	json_array_append_new(updates,
			      json_pack("{s:s,s:O}", "action", "assign-uuid", "uuid", json_object_get(meta, "table-uuid")));
	json_array_append_new(updates, json_pack("{s:s,s:i}", "action", "upgrade-format-version", "format-version", 2));
	json_array_append_new(updates, json_pack("{s:s,s:O,s:O}", "action", "add-schema", "schema", writer_schema(meta),
						 "last-column-id", json_object_get(meta, "last-column-id")));
	json_array_append_new(updates, json_pack("{s:s,s:i}", "action", "set-current-schema", "schema-id", -1));
	json_array_append_new(updates, json_pack("{s:s,s:{s:i,s:[]}}", "action", "add-spec", "spec", "spec-id", 0, "fields"));
	json_array_append_new(updates, json_pack("{s:s,s:i}", "action", "set-default-spec", "spec-id", -1));
	json_array_append_new(updates,
			      json_pack("{s:s,s:{s:i,s:[]}}", "action", "add-sort-order", "sort-order", "order-id", 0, "fields"));
	json_array_append_new(updates, json_pack("{s:s,s:i}", "action", "set-default-sort-order", "sort-order-id", -1));
	json_array_append_new(updates,
			      json_pack("{s:s,s:O}", "action", "set-location", "location", json_object_get(meta, "location")));
}

/* The id that the catalog gives a schema: that of an equal one, or the next. Written into the schema. */
static json_int_t
schema_id(const json_t *meta, json_t *schema)
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
	return id;
}

/* After somebody else's commit: do the rows that are written already still fit the table? */
static int
still_fits(struct writer *wr)
{
	const json_t *fields = json_object_get(writer_schema(wr->meta), "fields");
	bool fits = wr->schema ? json_integer_value(json_object_get(wr->meta, "last-column-id")) == wr->first_column_id
			       : json_equal(fields, wr->fields);

	if (fits)
		return 0;
	wr->cx->cause = "conflict";
	return task_fail(wr->cx, ERR_CONFLICT,
			 "table %s: somebody else changed its columns meanwhile; the task can be tried again", wr->w->name);
}

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
static int
commit_try(struct writer *wr)
{
	struct context *cx = wr->cx;
	struct write *w = wr->w;
	json_t *parent = wr->create ? NULL : current_snapshot(wr->meta), *updates = json_array(), *requirements = json_array(),
	       *snap, *body, *answer = NULL;
	struct commit c = { .parent = parent, .snapshot = random_id() };
	int status = -1;

	c.sequence = json_integer_value(json_object_get(wr->meta, "last-sequence-number")) + 1;
	if (wr->schema)
		schema_id(wr->meta, wr->schema);
	c.keep_parent = parent && w->mode != WRITE_REPLACE;
	if (commit_manifests(wr, &c) < 0)
		goto out;
	if (wr->create) {
		create_updates(wr, updates);
		json_array_append_new(requirements, json_pack("{s:s}", "type", "assert-create"));
	} else {
		json_array_append_new(requirements, json_pack("{s:s,s:O}", "type", "assert-table-uuid", "uuid",
							      json_object_get(wr->meta, "table-uuid")));
		json_array_append_new(requirements,
				      json_pack("{s:s,s:s,s:o}", "type", "assert-ref-snapshot-id", "ref", "main", "snapshot-id",
						parent ? json_incref(json_object_get(parent, "snapshot-id")) : json_null()));
		if (wr->schema) {
			json_array_append_new(requirements, json_pack("{s:s,s:i}", "type", "assert-last-assigned-field-id",
								      "last-assigned-field-id", wr->first_column_id));
			json_array_append_new(updates, json_pack("{s:s,s:O,s:i}", "action", "add-schema", "schema", wr->schema,
								 "last-column-id", wr->last_column_id));
			json_array_append_new(updates, json_pack("{s:s,s:i}", "action", "set-current-schema", "schema-id", -1));
		}
	}
	if (json_object_size(w->properties))
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "set-properties", "updates", w->properties));
	snap = json_pack("{s:I,s:I,s:I,s:s,s:o}", "snapshot-id", (json_int_t)c.snapshot, "sequence-number",
			 (json_int_t)c.sequence, "timestamp-ms", (json_int_t)(clock_wall() / 1000), "manifest-list",
			 c.manifest_list, "summary", commit_summary(wr, &c));
	if (c.keep_parent)
		json_object_set(snap, "parent-snapshot-id", json_object_get(parent, "snapshot-id"));
	json_object_set(snap, "schema-id",
			wr->schema ? json_object_get(wr->schema, "schema-id") : json_object_get(wr->meta, "current-schema-id"));
	json_array_append_new(updates, json_pack("{s:s,s:o}", "action", "add-snapshot", "snapshot", snap));
	json_array_append_new(updates, json_pack("{s:s,s:s,s:s,s:I}", "action", "set-snapshot-ref", "ref-name", "main", "type",
						 "branch", "snapshot-id", (json_int_t)c.snapshot));
	body = json_pack("{s:O,s:O}", "requirements", requirements, "updates", updates);
	FAULT("write.commit.before");
	status = commit_send(wr, body, c.snapshot, &answer);
	FAULT("write.commit.after");
	json_decref(body);
	if (status == 200)
		w->snapshot_id = c.snapshot;
	else if (status >= 0) {
		char *what = xasprintf("table %s: the commit was refused", w->name);

		rest_fail(cx, what, status, answer);
		free(what);
	}
	json_decref(answer);
out:
	json_decref(updates);
	json_decref(requirements);
	free(c.manifest_list);
	return status;
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
writer_prepare(struct writer *wr)
{
	struct context *cx = wr->cx;
	struct write *w = wr->w;
	json_t *columns, *spec, *schema;
	size_t i;
	int status, rc = -1;

	wr->path = rest_table_path(w->ns, w->table);
	status = rest_load_table(cx, w->ns, w->table, &wr->loaded);
	if (status < 0 || (status == 200 && writer_location(wr) < 0))
		return -1;
	if (wr->loaded == NULL && w->must_exist)
		return task_fail_at(cx, "into", "table %s does not exist, and `create: false` says not to make it", w->name);
	if (wr->loaded && landed_before(wr)) {
		w->landed_before = true;
		return 0;
	}
	if (wr->loaded && json_integer_value(json_object_get(wr->meta, "format-version")) != 2)
		return task_fail(cx, ERR_UNSUPPORTED, "table %s has format version %d; the duckdb engine writes version 2 only",
				 w->name, (int)json_integer_value(json_object_get(wr->meta, "format-version")));
	json_array_foreach (json_object_get(wr->meta, "partition-specs"), i, spec)
		if (json_array_size(json_object_get(spec, "fields")) > 0)
			return task_fail(cx, ERR_UNSUPPORTED,
					 "table %s is partitioned; writing partitioned tables is not supported yet", w->name);
	if ((columns = duck_describe(cx->db, w->query, &cx->err)) == NULL)
		return -1;
	wr->first_column_id = wr->last_column_id =
		wr->loaded ? (int)json_integer_value(json_object_get(wr->meta, "last-column-id")) : 0;
	schema = writer_schema(wr->meta);
	if (wr->loaded == NULL || w->mode == WRITE_REPLACE) {
		if (schema_from_columns(wr, columns, json_object_get(schema, "fields")) < 0)
			goto out;
		if (wr->loaded == NULL && (writer_stage_create(wr) < 0 || writer_location(wr) < 0))
			goto out;
		if (wr->create) { /* the catalog has given the ids */
			json_decref(wr->fields);
			wr->fields = json_incref(json_object_get(writer_schema(wr->meta), "fields"));
			json_decref(wr->schema);
			wr->schema = NULL;
		}
	} else {
		wr->fields = json_incref(json_object_get(schema, "fields"));
		if (schema_match(wr, columns) < 0)
			goto out;
	}
	rc = writer_select(wr, columns);
out:
	json_decref(columns);
	return rc;
}

/* Removes what a failed write left in data/, also the files that it never got to count. */
static void
writer_remove_data(const struct writer *wr)
{
	char *pattern = xasprintf("%s/data/%s-*", wr->local, wr->stem);
	glob_t g = { 0 };

	if (glob(pattern, 0, NULL, &g) == 0)
		for (size_t i = 0; i < g.gl_pathc; i++)
			unlink(g.gl_pathv[i]);
	globfree(&g);
	free(pattern);
}

static void
writer_release(struct writer *wr, bool failed)
{
	if (failed && wr->local)
		writer_remove_data(wr);
	for (size_t i = 0; i < wr->nfiles; i++) {
		free(wr->files[i].path);
		free(wr->files[i].value_counts);
		free(wr->files[i].null_counts);
	}
	for (size_t i = 0; i < wr->made.count; i++) {
		if (failed)
			unlink(wr->made.items[i]);
		free(wr->made.items[i]);
	}
	free(wr->made.items);
	free(wr->files);
	free(wr->select);
	free(wr->location);
	free(wr->local);
	free(wr->path);
	json_decref(wr->fields);
	json_decref(wr->schema);
	json_decref(wr->loaded);
}

int
iceberg_write(struct context *cx, struct write *w)
{
	struct writer wr = { .cx = cx, .w = w };
	bool sent = false;
	int status = -1;

	snprintf(wr.stem, sizeof(wr.stem), "sluice-%016llx", (unsigned long long)random_id());
	if (duck_load_iceberg(cx->db, &cx->err) < 0)
		goto out;
	if (writer_prepare(&wr) < 0) {
		if (cx->cause == NULL || wr.loaded)
			goto out;
		/* Somebody else made the table since we looked: it is written to as it is. */
		writer_release(&wr, false);
		wr = (struct writer){ .cx = cx, .w = w };
		snprintf(wr.stem, sizeof(wr.stem), "sluice-%016llx", (unsigned long long)random_id());
		err_release(&cx->err);
		cx->cause = NULL;
		if (writer_prepare(&wr) < 0)
			goto out;
	}
	if (w->landed_before) {
		status = 200;
		goto out;
	}
	FAULT("write.data.before");
	if (writer_data(&wr) < 0 || writer_collect(&wr) < 0) {
		err_prefix(&cx->err, "table %s", w->name);
		goto out;
	}
	FAULT("write.data.after");
	sent = true;
	for (int try = 0; try < COMMIT_TRIES; try++) {
		if (try) {
			/* Somebody else committed first. An append fits on top of anything; so does replacing everything. */
			json_decref(wr.loaded);
			wr.loaded = NULL;
			err_release(&cx->err);
			if (rest_load_table(cx, w->ns, w->table, &wr.loaded) != 200) {
				if (cx->err.code == 0)
					task_fail(cx, ERR_CONFLICT,
						  "table %s was dropped by somebody else meanwhile; the task can be tried again",
						  w->name);
				break;
			}
			wr.meta = json_object_get(wr.loaded, "metadata");
			/* Made by somebody else: it is an ordinary table then, if its columns are ours. */
			wr.create = false;
			if (still_fits(&wr) < 0)
				break;
		}
		status = commit_try(&wr);
		if (status != 409)
			break;
	}
	if (status == 200) {
		cx->cause = NULL;
		err_release(&cx->err);
	}
out:
	/* A commit whose answer was lost may have landed: its files must stay. */
	writer_release(&wr, status != 200 && (status >= 0 || !sent));
	return status == 200 ? 0 : -1;
}

int
iceberg_attach(struct context *cx)
{
	const json_t *catalog = json_object_get(cx->doc, "catalog");
	struct buf b = BUF_INIT;
	json_t *answer = NULL, *levels;
	enum spent part;
	int rc = -1, status;

	if (duck_load_iceberg(cx->db, &cx->err) < 0)
		return -1;
	part = spent_enter(SPENT_ATTACH);
	/* First, since it waits for a catalog that is away, as the engine does not. */
	status = rest_call(cx, "GET", "namespaces", NULL, &answer);
	if (status < 0)
		goto out;
	buf_adds(&b, "CREATE OR REPLACE TEMPORARY SECRET sluice_catalog (TYPE iceberg, TOKEN ");
	buf_add_sql_string(&b, json_string_value(json_object_get(catalog, "token")));
	buf_adds(&b, ")");
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_clear(&b);
	if (rc < 0)
		goto out;
	buf_adds(&b, "ATTACH '' AS ");
	buf_add_sql_name(&b, json_string_value(json_object_get(catalog, "name")));
	buf_adds(&b, " (TYPE iceberg, ENDPOINT ");
	buf_add_sql_string(&b, json_string_value(json_object_get(catalog, "uri")));
	buf_adds(&b, ", SECRET sluice_catalog)");
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_clear(&b);
	if (rc < 0)
		goto out;
	if (status == 200) {
		levels = json_array_get(json_object_get(answer, "namespaces"), 0);
		if (json_array_size(levels) == 1) {
			/* With a default namespace set, both stg.t and local.stg.t resolve. */
			buf_adds(&b, "USE ");
			buf_add_sql_name(&b, json_string_value(json_object_get(catalog, "name")));
			buf_addc(&b, '.');
			buf_add_sql_name(&b, json_string_value(json_array_get(levels, 0)));
			rc = duck_exec(cx->db, b.s, &cx->err);
		}
	}
	if (rc == 0)
		rc = inspect_define(cx->db, &cx->err);
	inspect_begin(cx);
out:
	json_decref(answer);
	buf_release(&b);
	spent_leave(part);
	return rc < 0 ? -1 : 0;
}
