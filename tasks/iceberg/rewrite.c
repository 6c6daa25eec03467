/*
 * What a commit does to the manifests of the snapshot before it: they stay (append), their files are all taken out (overwrite),
 * or those manifests that hold files to be taken out are written again with these marked as deleted. Written by anybody: fields
 * that a writer left out are filled up with nulls.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/entries.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"

/* Columns of list_select. */
enum {
	L_PATH,
	L_LENGTH,
	L_SPEC,
	L_CONTENT,
	L_SEQUENCE,
	L_MIN_SEQUENCE,
	L_SNAPSHOT,
	L_ADDED,
	L_EXISTING,
	L_DELETED,
	L_ROWS_ADDED,
	L_ROWS_EXISTING,
};

static json_int_t
old_int(const json_t *manifest, int column)
{
	return json_integer_value(json_array_get(manifest, (size_t)column));
}

static const char *
old_path(const json_t *manifest)
{
	return json_string_value(json_array_get(manifest, L_PATH));
}

static const char *
parent_list(const struct commit *c)
{
	return json_string_value(json_object_get(c->parent, "manifest-list"));
}

/* "(SELECT status, …, data_file AS d FROM a manifest) WHERE it is not deleted" */
static int
entry_source(struct writer *wr, const json_t *manifest, const json_t *spec, struct buf *b)
{
	buf_adds(b, "(SELECT status, snapshot_id, sequence_number, file_sequence_number, data_file AS d FROM (SELECT * FROM "
		    "read_avro(");
	buf_add_sql_string(b, strip_scheme(old_path(manifest)));
	buf_adds(b, ") UNION ALL BY NAME ");
	if (entries_template(wr, spec, b) < 0)
		return -1;
	buf_adds(b, ")) WHERE status <> 2");
	return 0;
}

/* Entries as they go into a new manifest; those for which `gone` holds are deleted by this snapshot. */
static int
entry_select(struct writer *wr, const struct commit *c, const json_t *manifest, const json_t *spec, const char *gone,
	     struct buf *b)
{
	long long sequence = old_int(manifest, L_SEQUENCE);

	buf_addf(b,
		 "SELECT (CASE WHEN %s THEN 2 ELSE 0 END)::INTEGER AS status, (CASE WHEN %s THEN %lld ELSE coalesce(snapshot_id, "
		 "%lld) "
		 "END)::BIGINT AS snapshot_id, coalesce(sequence_number, %lld)::BIGINT AS sequence_number, "
		 "coalesce(file_sequence_number, %lld)::BIGINT AS file_sequence_number, {'content': coalesce(d.\"content\", "
		 "0)::INTEGER",
		 gone, gone, (long long)c->snapshot, (long long)old_int(manifest, L_SNAPSHOT), sequence, sequence);
	for (size_t i = 0; i < ENTRY_FIELDS; i++)
		buf_addf(b, ", '%s': d.%s", entry_fields[i].name, entry_fields[i].name);
	if (json_array_size(json_object_get(spec, "fields")))
		buf_adds(b, ", 'partition': d.\"partition\"");
	else
		buf_adds(b, ", 'partition': {'__duckdb_empty_struct_marker': true}");
	buf_adds(b, "} AS data_file FROM ");
	return entry_source(wr, manifest, spec, b);
}

/*
 * Deleted entries of data files need no more than what is required, and are written several times as fast so. Manifests from
 * before there were sequence numbers may lack even that.
 */
static bool
slim_enough(const json_t *old, const json_t *like)
{
	json_t *manifest;
	size_t i;

	json_array_foreach (old, i, manifest)
		if (old_int(manifest, L_SPEC) == old_int(like, L_SPEC) &&
		    old_int(manifest, L_CONTENT) == old_int(like, L_CONTENT) &&
		    (old_int(manifest, L_CONTENT) != CONTENT_DATA || old_int(manifest, L_SEQUENCE) <= 0))
			return false;
	return true;
}

static void
slim_select(const struct commit *c, const json_t *manifest, const json_t *spec, struct buf *b)
{
	long long sequence = old_int(manifest, L_SEQUENCE);

	buf_addf(b,
		 "SELECT 2::INTEGER AS status, %lld::BIGINT AS snapshot_id, coalesce(sequence_number, %lld)::BIGINT AS "
		 "sequence_number, coalesce(file_sequence_number, %lld)::BIGINT AS file_sequence_number, {'content': "
		 "data_file.\"content\"::INTEGER, 'file_path': data_file.file_path, 'file_format': data_file.file_format, "
		 "'partition': %s, 'record_count': data_file.record_count::BIGINT, 'file_size_in_bytes': "
		 "data_file.file_size_in_bytes::BIGINT} AS data_file FROM read_avro(",
		 (long long)c->snapshot, sequence, sequence,
		 json_array_size(json_object_get(spec, "fields")) ? "data_file.\"partition\""
								  : "{'__duckdb_empty_struct_marker': true}");
	buf_add_sql_string(b, strip_scheme(old_path(manifest)));
	buf_adds(b, ") WHERE status <> 2");
}

/* Writes what `select` gives as a manifest and adds it to the list. */
static int
add_rewritten(struct writer *wr, struct commit *c, const json_t *spec, const char *select, struct list_entry *e, size_t index,
	      enum entry_fields fields, struct buf *list)
{
	char *path = xasprintf("%s/metadata/%s-%lld-r%zu.avro", wr->local, wr->stem, (long long)c->snapshot, index);
	char *url = xasprintf("%s%s", wr->location, path + strlen(wr->local));
	char *meta = manifest_metadata(wr, spec, e->content), *ids = manifest_ids(spec, fields);
	int rc = write_avro(wr, path, "manifest_entry", select, ids, meta, &e->length);

	if (rc == 0) {
		e->url = url;
		e->spec = (int)json_integer_value(json_object_get(spec, "spec-id"));
		e->first_row_id = -1;
		list_add(list, c, e, writer_format(wr));
	}
	free(path);
	free(url);
	free(meta);
	free(ids);
	return rc;
}

/* ---- everything goes ---- */

/* One manifest for all that have spec and content in common: its files, each deleted. */
static int
delete_group(struct writer *wr, struct commit *c, const json_t *old, size_t first, struct buf *list)
{
	const json_t *like = json_array_get(old, first);
	json_t *spec = entries_spec(wr, old_int(like, L_SPEC)), *manifest;
	struct list_entry e = { .content = (int)old_int(like, L_CONTENT),
				.partitions = NO_PARTITIONS,
				.min_sequence = c->sequence };
	enum entry_fields fields = slim_enough(old, like) ? ENTRY_SLIM : ENTRY_ALL;
	struct buf b = BUF_INIT;
	int rc = spec ? 0 : -1;
	size_t i;

	json_array_foreach (old, i, manifest) {
		if (rc < 0 || old_int(manifest, L_SPEC) != old_int(like, L_SPEC) || old_int(manifest, L_CONTENT) != e.content)
			continue;
		if (i < first) { /* an earlier turn has done this group */
			buf_release(&b);
			return 0;
		}
		buf_adds(&b, b.len ? " UNION ALL " : "");
		if (fields == ENTRY_SLIM)
			slim_select(c, manifest, spec, &b);
		else
			rc = entry_select(wr, c, manifest, spec, "true", &b);
		e.deleted += (size_t)(old_int(manifest, L_ADDED) + old_int(manifest, L_EXISTING));
		e.rows_deleted += old_int(manifest, L_ROWS_ADDED) + old_int(manifest, L_ROWS_EXISTING);
	}
	if (rc == 0 && e.deleted)
		rc = add_rewritten(wr, c, spec, b.s, &e, first, fields, list);
	if (e.content == CONTENT_DATA) {
		c->deleted_files += e.deleted;
		c->deleted_rows += e.rows_deleted;
	} else {
		c->removed_delete_files += e.deleted;
	}
	buf_release(&b);
	return rc;
}

static int
delete_all(struct writer *wr, struct commit *c, const json_t *old, struct buf *list)
{
	int rc = 0;

	for (size_t i = 0; i < json_array_size(old) && rc == 0; i++)
		rc = delete_group(wr, c, old, i, list);
	c->deleted_bytes = summary_number(c->parent, "total-files-size");
	c->removed_position_deletes = summary_number(c->parent, "total-position-deletes");
	c->removed_equality_deletes = summary_number(c->parent, "total-equality-deletes");
	return rc;
}

/* ---- some files go ---- */

/* A partition as one text, for comparison: what no value holds separates values and stands for null. */
static void
partition_key(const json_t *values, struct buf *b)
{
	json_t *value;
	size_t i;

	json_array_foreach (values, i, value) {
		buf_adds(b, json_is_string(value) ? json_string_value(value) : "\x01");
		buf_addc(b, '\x02');
	}
}

static void
partition_condition(const struct writer *wr, struct buf *b)
{
	const json_t *fields = json_object_get(wr->spec, "fields");
	json_t *field;
	size_t i;

	if (json_array_size(fields) == 0) { /* the whole table is one partition */
		buf_adds(b, "true");
		return;
	}
	buf_adds(b, "concat(");
	json_array_foreach (fields, i, field) {
		struct buf name = BUF_INIT;

		avro_name(json_string_value(json_object_get(field, "name")), &name);
		buf_adds(b, i ? ", coalesce(CAST(d.\"partition\"." : "coalesce(CAST(d.\"partition\".");
		buf_add_sql_name(b, name.s);
		buf_adds(b, " AS VARCHAR), chr(1)), chr(2)");
		buf_release(&name);
	}
	buf_adds(b, ") IN (''"); /* no key is empty */
	for (size_t k = 0; k < wr->nfiles; k++) {
		struct buf key = BUF_INIT;

		partition_key(wr->files[k].partition, &key);
		buf_adds(b, ", ");
		buf_add_sql_string(b, key.s);
		buf_release(&key);
	}
	buf_adds(b, ")");
}

static void
path_condition(const struct writer *wr, struct buf *b)
{
	json_t *path;
	size_t i;

	buf_adds(b, "d.file_path IN (''");
	json_array_foreach (wr->gone, i, path) {
		buf_adds(b, ", ");
		buf_add_sql_string(b, json_string_value(path));
	}
	buf_adds(b, ")");
}

/* May the manifest hold files that go? */
static bool
concerned(const struct writer *wr, const json_t *manifest)
{
	if (wr->w->mode == WRITE_UPSERT)
		return old_int(manifest, L_CONTENT) == CONTENT_DATA;
	return old_int(manifest, L_SPEC) == json_integer_value(json_object_get(wr->spec, "spec-id"));
}

/* Columns of the survey: which manifest, files and rows that go, their bytes, files and rows that stay, names of the first. */
enum { S_AT, S_GONE, S_GONE_ROWS, S_GONE_BYTES, S_STAY, S_STAY_ROWS, S_PATHS, S_EQUALITY_ROWS };

static json_t *
survey(struct writer *wr, const json_t *old, const char *gone)
{
	struct buf b = BUF_INIT;
	json_t *manifest, *rows = NULL;
	size_t i;

	json_array_foreach (old, i, manifest) {
		json_t *spec;

		if (!concerned(wr, manifest))
			continue;
		spec = entries_spec(wr, old_int(manifest, L_SPEC));
		if (spec == NULL)
			goto out;
		buf_addf(&b,
			 "%sSELECT %zu::BIGINT, count(*) FILTER (WHERE %s), coalesce(sum(d.record_count) FILTER (WHERE %s), "
			 "0)::BIGINT, "
			 "coalesce(sum(d.file_size_in_bytes) FILTER (WHERE %s), 0)::BIGINT, count(*) FILTER (WHERE NOT (%s)), "
			 "coalesce(sum(d.record_count) FILTER (WHERE NOT (%s)), 0)::BIGINT, list(d.file_path) FILTER (WHERE %s), "
			 "coalesce(sum(d.record_count) FILTER (WHERE %s AND d.\"content\" = 2), 0)::BIGINT FROM ",
			 b.len ? " UNION ALL " : "", i, gone, gone, gone, gone, gone, gone, gone);
		if (entry_source(wr, manifest, spec, &b) < 0)
			goto out;
	}
	rows = b.len ? duck_query_json(wr->cx->db, b.s, &wr->cx->err) : json_array();
out:
	buf_release(&b);
	return rows;
}

static void
count_gone(struct commit *c, const json_t *manifest, const json_t *found)
{
	json_int_t rows = json_integer_value(json_array_get(found, S_GONE_ROWS)),
		   equality = json_integer_value(json_array_get(found, S_EQUALITY_ROWS));
	size_t files = (size_t)json_integer_value(json_array_get(found, S_GONE));

	c->deleted_bytes += json_integer_value(json_array_get(found, S_GONE_BYTES));
	if (old_int(manifest, L_CONTENT) == CONTENT_DATA) {
		c->deleted_files += files;
		c->deleted_rows += rows;
	} else {
		c->removed_delete_files += files;
		c->removed_equality_deletes += equality;
		c->removed_position_deletes += rows - equality;
	}
}

static int
rewrite_one(struct writer *wr, struct commit *c, const json_t *manifest, const json_t *found, const char *gone, struct buf *list)
{
	json_t *spec = entries_spec(wr, old_int(manifest, L_SPEC));
	struct buf b = BUF_INIT, kept = BUF_INIT;
	struct list_entry e = { .content = (int)old_int(manifest, L_CONTENT),
				.min_sequence = old_int(manifest, L_MIN_SEQUENCE),
				.deleted = (size_t)json_integer_value(json_array_get(found, S_GONE)),
				.rows_deleted = json_integer_value(json_array_get(found, S_GONE_ROWS)),
				.existing = (size_t)json_integer_value(json_array_get(found, S_STAY)),
				.rows_existing = json_integer_value(json_array_get(found, S_STAY_ROWS)) };
	int rc = -1;

	if (spec == NULL || entry_select(wr, c, manifest, spec, gone, &b) < 0)
		goto out;
	/* The old summary holds for any part of the old files. */
	buf_adds(&kept, "(SELECT partitions FROM (");
	list_select(parent_list(c), writer_format(wr), &kept);
	buf_adds(&kept, ") WHERE manifest_path = ");
	buf_add_sql_string(&kept, old_path(manifest));
	buf_adds(&kept, ")");
	e.partitions = kept.s;
	rc = add_rewritten(wr, c, spec, b.s, &e, (size_t)json_integer_value(json_array_get(found, S_AT)), ENTRY_ALL, list);
out:
	buf_release(&b);
	buf_release(&kept);
	return rc;
}

static int
compare_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names of all files that go, sorted. */
static json_t *
gone_paths(const json_t *found)
{
	json_t *out = json_array(), *row, *path;
	const char **names = NULL;
	size_t i, k, n = 0;

	json_array_foreach (found, i, row)
		json_array_foreach (json_array_get(row, S_PATHS), k, path) {
			names = xrealloc(names, (n + 1) * sizeof(*names));
			names[n++] = json_string_value(path);
		}
	if (n)
		qsort(names, n, sizeof(*names), compare_text);
	for (i = 0; i < n; i++)
		json_array_append_new(out, json_string(names[i]));
	free(names);
	return out;
}

/* When somebody else committed first: are the partitions still as they were when this write began? */
static int
recheck(struct writer *wr, const json_t *found)
{
	json_t *now = gone_paths(found);
	bool same = wr->checked == NULL || json_equal(wr->checked, now);

	if (wr->checked == NULL)
		wr->checked = json_incref(now);
	json_decref(now);
	if (same)
		return 0;
	wr->cx->cause = "conflict";
	return task_fail(wr->cx, ERR_CONFLICT,
			 "table %s: somebody else wrote to the same partitions meanwhile; the task can be tried again",
			 wr->w->name);
}

static int
delete_some(struct writer *wr, struct commit *c, const json_t *old, struct buf *list)
{
	struct buf gone = BUF_INIT, stay = BUF_INIT;
	json_t *found, *row;
	int rc = -1;
	size_t i;

	if (wr->w->mode == WRITE_UPSERT)
		path_condition(wr, &gone);
	else
		partition_condition(wr, &gone);
	found = survey(wr, old, gone.s);
	if (found == NULL || recheck(wr, found) < 0)
		goto out;
	rc = 0;
	json_array_foreach (found, i, row) {
		const json_t *manifest = json_array_get(old, (size_t)json_integer_value(json_array_get(row, S_AT)));

		if (rc < 0 || json_integer_value(json_array_get(row, S_GONE)) == 0)
			continue;
		if (writer_format(wr) >= 3)
			rc = task_fail(
				wr->cx, ERR_UNSUPPORTED,
				"table %s has format version 3, where rows keep their ids: the duckdb engine appends to it and "
				"replaces all of it, but does not replace parts of it yet",
				wr->w->name);
		if (rc == 0)
			rc = rewrite_one(wr, c, manifest, row, gone.s, list);
		count_gone(c, manifest, row);
		buf_adds(&stay, stay.len ? ", " : "");
		buf_add_sql_string(&stay, old_path(manifest));
	}
	if (rc == 0) {
		buf_adds(list, list->len ? " UNION ALL " : "");
		list_select(parent_list(c), writer_format(wr), list);
		if (stay.len)
			buf_addf(list, " WHERE manifest_path NOT IN (%s)", stay.s);
	}
out:
	json_decref(found);
	buf_release(&gone);
	buf_release(&stay);
	return rc;
}

/* ---- where the table's files are ---- */

json_t *
old_partitions(struct writer *wr)
{
	struct commit c = { .parent = current_snapshot(wr->meta) };
	struct buf b = BUF_INIT;
	json_t *old, *rows = NULL, *row, *out = NULL, *manifest;
	size_t i;

	list_select(parent_list(&c), writer_format(wr), &b);
	old = duck_query_json(wr->cx->db, b.s, &wr->cx->err);
	buf_clear(&b);
	json_array_foreach (old, i, manifest) {
		json_t *spec, *field;
		size_t k;

		if (old_int(manifest, L_CONTENT) != CONTENT_DATA)
			continue;
		if ((spec = entries_spec(wr, old_int(manifest, L_SPEC))) == NULL)
			goto out;
		buf_addf(&b, "%sSELECT d.file_path, %lld::BIGINT, [", b.len ? " UNION ALL " : "",
			 (long long)old_int(manifest, L_SPEC));
		json_array_foreach (json_object_get(spec, "fields"), k, field) {
			struct buf name = BUF_INIT;

			avro_name(json_string_value(json_object_get(field, "name")), &name);
			buf_adds(&b, k ? ", CAST(d.\"partition\"." : "CAST(d.\"partition\".");
			buf_add_sql_name(&b, name.s);
			buf_adds(&b, " AS VARCHAR)");
			buf_release(&name);
		}
		buf_adds(&b, "]::VARCHAR[] FROM ");
		if (entry_source(wr, manifest, spec, &b) < 0)
			goto out;
	}
	if (old == NULL || (rows = b.len ? duck_query_json(wr->cx->db, b.s, &wr->cx->err) : json_array()) == NULL)
		goto out;
	out = json_object();
	json_array_foreach (rows, i, row)
		json_object_set_new(out, json_string_value(json_array_get(row, 0)),
				    json_pack("[O,O]", json_array_get(row, 1), json_array_get(row, 2)));
out:
	json_decref(old);
	json_decref(rows);
	buf_release(&b);
	return out;
}

int
commit_old_manifests(struct writer *wr, struct commit *c, struct buf *list)
{
	enum write_mode mode = wr->w->mode;
	struct buf b = BUF_INIT;
	json_t *old;
	int rc;

	if (mode == WRITE_REPLACE)
		return 0;
	if (mode >= WRITE_COMPACT)
		return entries_commit(wr, c, list);
	if (mode == WRITE_APPEND || mode == WRITE_ADD_FILES || (mode == WRITE_UPSERT && json_array_size(wr->gone) == 0) ||
	    (mode == WRITE_PARTITIONS && wr->nfiles == 0)) {
		if (entries_append(wr, c, list))
			return 0;
		buf_adds(list, list->len ? " UNION ALL " : "");
		list_select(parent_list(c), writer_format(wr), list);
		/* One that only tells what was deleted has told it. */
		buf_adds(list, " WHERE deleted_files_count = 0 OR added_files_count + existing_files_count > 0");
		return 0;
	}
	list_select(parent_list(c), writer_format(wr), &b);
	old = duck_query_json(wr->cx->db, b.s, &wr->cx->err);
	buf_release(&b);
	if (old == NULL)
		return -1;
	rc = mode == WRITE_OVERWRITE ? delete_all(wr, c, old, list) : delete_some(wr, c, old, list);
	json_decref(old);
	return rc;
}
