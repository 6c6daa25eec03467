#include "tasks/iceberg/entries.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/types.h"

#define READ_AT_ONCE 200
#define ENTRY_SIZE   400 /* where nobody can tell */

const struct entry_field entry_fields[ENTRY_FIELDS] = {
	{ "file_path", "VARCHAR" },
	{ "file_format", "VARCHAR" },
	{ "record_count", "BIGINT" },
	{ "file_size_in_bytes", "BIGINT" },
	{ "column_sizes", "MAP(INTEGER, BIGINT)" },
	{ "value_counts", "MAP(INTEGER, BIGINT)" },
	{ "null_value_counts", "MAP(INTEGER, BIGINT)" },
	{ "nan_value_counts", "MAP(INTEGER, BIGINT)" },
	{ "lower_bounds", "MAP(INTEGER, BLOB)" },
	{ "upper_bounds", "MAP(INTEGER, BLOB)" },
	{ "split_offsets", "BIGINT[]" },
	{ "sort_order_id", "INTEGER" },
	{ "key_metadata", "BLOB" },
	{ "equality_ids", "INTEGER[]" },
	{ "first_row_id", "BIGINT" },
	{ "referenced_data_file", "VARCHAR" },
	{ "content_offset", "BIGINT" },
	{ "content_size_in_bytes", "BIGINT" },
};

json_t *
entries_spec(struct writer *wr, json_int_t id)
{
	json_t *spec = element_by_id(wr->meta, "partition-specs", "spec-id", id);

	if (spec == NULL)
		task_fail(wr->cx, ERR_UNPROCESSABLE,
			  "table %s: a manifest has the partition spec %lld, which the table's metadata lacks", wr->w->name,
			  (long long)id);
	return spec;
}

static bool
partitioned(const json_t *spec)
{
	return json_array_size(json_object_get(spec, "fields")) > 0;
}

/* ---- reading ---- */

/* For each field of the spec: `before`, the field of the partition in SQL, `after`. */
static void
each_partition_field(const json_t *spec, const char *from, const char *between, const char *before, const char *after,
		     struct buf *b)
{
	json_t *field;
	size_t i;

	json_array_foreach (json_object_get(spec, "fields"), i, field) {
		struct buf name = BUF_INIT;

		avro_name(json_string_value(json_object_get(field, "name")), &name);
		buf_addf(b, "%s%s%s.", i ? between : "", before, from);
		buf_add_sql_name(b, name.s);
		buf_adds(b, after);
		buf_release(&name);
	}
}

/* ", {the partition} AS p", in which the same value is the same whoever wrote it. */
static void
add_partition(const json_t *spec, struct buf *b)
{
	json_t *field;
	size_t i;

	json_array_foreach (json_object_get(spec, "fields"), i, field) {
		struct buf name = BUF_INIT, value = BUF_INIT;

		avro_name(json_string_value(json_object_get(field, "name")), &name);
		buf_adds(&value, "data_file.\"partition\".");
		buf_add_sql_name(&value, name.s);
		buf_adds(b, i ? ", " : ", {");
		buf_add_sql_name(b, name.s);
		if (partition_is_day(field)) /* by way of text, since the engine casts no number to a date */
			buf_addf(b,
				 ": coalesce(TRY_CAST(CAST(%s AS VARCHAR) AS DATE), DATE '1970-01-01' + TRY_CAST(CAST(%s AS "
				 "VARCHAR) AS INTEGER))",
				 value.s, value.s);
		else
			buf_addf(b, ": %s", value.s);
		buf_release(&name);
		buf_release(&value);
	}
	buf_adds(b, i ? "} AS p" : "");
}

int
entries_template(struct writer *wr, const json_t *spec, struct buf *b)
{
	buf_adds(b, "SELECT NULL::INTEGER AS status, NULL::BIGINT AS snapshot_id, NULL::BIGINT AS "
		    "sequence_number, NULL::BIGINT AS file_sequence_number, {'content': NULL::INTEGER");
	for (size_t i = 0; i < ENTRY_FIELDS; i++)
		buf_addf(b, ", '%s': NULL::%s", entry_fields[i].name, entry_fields[i].type);
	if (partitioned(spec)) {
		buf_adds(b, ", 'partition': ");
		if (partition_struct(wr, spec, NULL, b) < 0)
			return -1;
	}
	buf_adds(b, "} AS data_file WHERE false");
	return 0;
}

/* Columns of the rows that are read of the list. */
enum { M_PATH, M_SPEC, M_SEQUENCE, M_SNAPSHOT };

static int
read_batch(struct writer *wr, const json_t *spec, const json_t *manifests, size_t from, size_t n, bool first)
{
	long long id = (long long)json_integer_value(json_object_get(spec, "spec-id"));
	struct buf b = BUF_INIT;
	const json_t *m;
	int rc = -1;

	buf_addf(&b, first ? "CREATE OR REPLACE TEMP TABLE sluice_entries_%lld AS " : "INSERT INTO sluice_entries_%lld ", id);
	buf_adds(&b, "SELECT m.path AS manifest, coalesce(e.d.\"content\", 0)::INTEGER AS kind, "
		     "coalesce(e.snapshot_id, m.snapshot)::BIGINT AS snapshot_id, "
		     "coalesce(e.sequence_number, m.sequence)::BIGINT AS sequence_number, "
		     "coalesce(e.file_sequence_number, m.sequence)::BIGINT AS file_sequence_number");
	for (size_t i = 0; i < ENTRY_FIELDS; i++)
		buf_addf(&b, ", e.d.%s::%s AS %s", entry_fields[i].name, entry_fields[i].type, entry_fields[i].name);
	if (partitioned(spec))
		buf_adds(&b, ", e.p AS \"partition\", concat(");
	else
		buf_adds(&b, ", concat('");
	if (partitioned(spec))
		each_partition_field(spec, "e.p", ", ", "coalesce(CAST(", " AS VARCHAR), chr(1)), chr(2)", &b);
	else
		buf_adds(&b, "'");
	buf_adds(&b, ") AS part, [");
	each_partition_field(spec, "e.p", ", ", "CAST(", " AS VARCHAR)", &b);
	buf_adds(&b, "]::VARCHAR[] AS texts FROM (SELECT filename AS file, status, snapshot_id, sequence_number, "
		     "file_sequence_number, data_file AS d");
	add_partition(spec, &b);
	buf_adds(&b, " FROM (SELECT *, filename FROM read_avro([");
	for (size_t i = from; i < from + n; i++) {
		m = json_array_get(manifests, i);
		buf_adds(&b, i > from ? ", " : "");
		buf_add_sql_string(&b, strip_scheme(json_string_value(json_array_get(m, M_PATH))));
	}
	buf_adds(&b, "]) UNION ALL BY NAME ");
	if (entries_template(wr, spec, &b) < 0)
		goto out;
	buf_adds(&b, ") WHERE status <> 2) e JOIN (VALUES ");
	for (size_t i = from; i < from + n; i++) {
		m = json_array_get(manifests, i);
		buf_adds(&b, i > from ? ", (" : "(");
		buf_add_sql_string(&b, strip_scheme(json_string_value(json_array_get(m, M_PATH))));
		buf_adds(&b, ", ");
		buf_add_sql_string(&b, json_string_value(json_array_get(m, M_PATH)));
		buf_addf(&b, ", %lld, %lld)", (long long)json_integer_value(json_array_get(m, M_SEQUENCE)),
			 (long long)json_integer_value(json_array_get(m, M_SNAPSHOT)));
	}
	buf_adds(&b, ") m(file, path, sequence, snapshot) USING (file)");
	rc = duck_exec(wr->cx->db, b.s, &wr->cx->err);
out:
	buf_release(&b);
	return rc;
}

/* Manifests of one spec: many with one statement if they have the same fields, else one by one, which finds the damaged one. */
static int
read_spec(struct writer *wr, const json_t *spec, const json_t *manifests, bool first)
{
	size_t total = json_array_size(manifests), n = READ_AT_ONCE;

	for (size_t from = 0; from < total; from += n, first = false) {
		n = n > total - from ? total - from : n;
		if (read_batch(wr, spec, manifests, from, n, first) == 0)
			continue;
		if (n > 1) {
			err_release(&wr->cx->err);
			n = 1;
			if (read_batch(wr, spec, manifests, from, n, first) == 0)
				continue;
		}
		err_prefix(&wr->cx->err, "table %s: %s", wr->w->name,
			   json_string_value(json_array_get(json_array_get(manifests, from), M_PATH)));
		return -1;
	}
	return 0;
}

static int
make_view(struct writer *wr)
{
	struct buf b = BUF_INIT;
	const char *id;
	json_t *manifests;
	int rc;

	buf_adds(&b, "CREATE OR REPLACE TEMP VIEW sluice_live AS ");
	json_object_foreach (wr->read, id, manifests)
		buf_addf(&b,
			 "SELECT %s::BIGINT AS spec, manifest, kind, file_path, record_count, file_size_in_bytes, "
			 "sequence_number, "
			 "part, texts, sort_order_id, file_format, snapshot_id FROM sluice_entries_%s WHERE manifest IN (SELECT "
			 "manifest_path FROM sluice_list) UNION ALL ",
			 id, id);
	buf_adds(&b,
		 "SELECT 0::BIGINT, NULL::VARCHAR, 0::INTEGER, NULL::VARCHAR, 0::BIGINT, 0::BIGINT, 0::BIGINT, NULL::VARCHAR, "
		 "NULL::VARCHAR[], 0::INTEGER, NULL::VARCHAR, 0::BIGINT WHERE false");
	rc = duck_exec(wr->cx->db, b.s, &wr->cx->err);
	buf_release(&b);
	return rc;
}

static int
read_list(struct writer *wr)
{
	const char *path = json_string_value(json_object_get(current_snapshot(wr->meta), "manifest-list"));
	struct buf b = BUF_INIT;
	int rc;

	buf_adds(&b, "CREATE OR REPLACE TEMP TABLE sluice_list AS ");
	list_select(path, writer_format(wr), &b);
	rc = duck_exec(wr->cx->db, b.s, &wr->cx->err);
	if (rc < 0)
		err_prefix(&wr->cx->err, "table %s: %s", wr->w->name, path);
	buf_release(&b);
	return rc;
}

/* Reads those of the list for which `where` holds. */
static int
read_entries(struct writer *wr, const char *where)
{
	char *sql = xasprintf(
		"SELECT manifest_path, partition_spec_id, sequence_number, added_snapshot_id FROM sluice_list WHERE %s", where);
	json_t *rows = duck_query_json(wr->cx->db, sql, &wr->cx->err), *row, *fresh = json_object(), *list;
	const char *id;
	int rc = -1;
	size_t i;

	if (wr->read == NULL)
		wr->read = json_object();
	if (rows == NULL)
		goto out;
	json_array_foreach (rows, i, row) {
		char *spec = xasprintf("%lld", (long long)json_integer_value(json_array_get(row, M_SPEC)));
		const char *manifest = json_string_value(json_array_get(row, M_PATH));

		if (json_object_get(json_object_get(wr->read, spec), manifest) == NULL) {
			if ((list = json_object_get(fresh, spec)) == NULL)
				json_object_set_new(fresh, spec, list = json_array());
			json_array_append(list, row);
		}
		free(spec);
	}
	rc = 0;
	json_object_foreach (fresh, id, list) {
		json_t *spec = entries_spec(wr, atoll(id)), *known = json_object_get(wr->read, id);

		if (spec == NULL || read_spec(wr, spec, list, known == NULL) < 0) {
			rc = -1;
			break;
		}
		if (known == NULL)
			json_object_set_new(wr->read, id, known = json_object());
		json_array_foreach (list, i, row)
			json_object_set_new(known, json_string_value(json_array_get(row, M_PATH)), json_true());
	}
	if (rc == 0)
		rc = make_view(wr);
out:
	json_decref(rows);
	json_decref(fresh);
	free(sql);
	return rc;
}

int
entries_read(struct writer *wr)
{
	return read_list(wr) < 0 ? -1 : read_entries(wr, "true");
}

void
entries_forget(struct writer *wr)
{
	struct err e = ERR_INIT; /* what stays takes room only */
	const char *id;
	json_t *manifests;

	if (wr->read && duck_exec(wr->cx->db, "DROP VIEW IF EXISTS sluice_live", &e) == 0)
		json_object_foreach (wr->read, id, manifests)
			if (duck_execf(wr->cx->db, &e, "DROP TABLE IF EXISTS sluice_entries_%s", id) < 0)
				break;
	err_release(&e);
	json_decref(wr->read);
	wr->read = NULL;
}

/* ---- writing ---- */

/* One manifest to be made of entries that are there: which of them, in which order, which part of that. */
struct rewrite {
	const json_t *spec;
	bool deletes;
	const char *where, *gone; /* SQL over the entries; NULL: none is gone */
	size_t index, limit;      /* so many from index * limit on; limit 0: all */
};

/* "FROM (the entries) e" */
static void
add_entries(const struct rewrite *r, struct buf *b)
{
	long long id = (long long)json_integer_value(json_object_get(r->spec, "spec-id"));

	buf_addf(b,
		 "FROM (SELECT *, (%s) AS gone FROM sluice_entries_%lld WHERE kind %s 0 AND manifest IN (SELECT manifest_path "
		 "FROM sluice_list) AND (%s)",
		 r->gone ? r->gone : "false", id, r->deletes ? "<>" : "=", r->where);
	if (r->limit)
		buf_addf(b, " ORDER BY part, file_path LIMIT %zu OFFSET %zu", r->limit, r->index * r->limit);
	buf_adds(b, ") e");
}

static void
add_entry_columns(const struct commit *c, const struct rewrite *r, struct buf *b)
{
	buf_addf(b,
		 "SELECT (CASE WHEN gone THEN 2 ELSE 0 END)::INTEGER AS status, (CASE WHEN gone THEN %lld ELSE snapshot_id "
		 "END)::BIGINT AS snapshot_id, sequence_number, file_sequence_number, {'content': kind",
		 (long long)c->snapshot);
	for (size_t i = 0; i < ENTRY_FIELDS; i++)
		buf_addf(b, ", '%s': %s", entry_fields[i].name, entry_fields[i].name);
	buf_addf(b, ", 'partition': %s} AS data_file ",
		 partitioned(r->spec) ? "\"partition\"" : "{'__duckdb_empty_struct_marker': true}");
}

/* What the entries' partitions have in common, as the list tells it. The caller frees it; NULL with the error set. */
static char *
summary_of(struct writer *wr, const struct rewrite *r)
{
	struct buf b = BUF_INIT;
	const struct data_file **group = NULL;
	struct data_file *files = NULL;
	json_t *rows;
	char *out = NULL;
	size_t n;

	if (!partitioned(r->spec))
		return xstrdup(NO_PARTITIONS);
	buf_adds(&b, "SELECT DISTINCT texts ");
	add_entries(r, &b);
	rows = duck_query_json(wr->cx->db, b.s, &wr->cx->err);
	buf_release(&b);
	if (rows == NULL)
		return NULL;
	n = json_array_size(rows);
	files = xcalloc(n ? n : 1, sizeof(*files));
	group = xcalloc(n ? n : 1, sizeof(*group));
	for (size_t i = 0; i < n; i++) {
		files[i].spec = (json_t *)(uintptr_t)r->spec;
		files[i].partition = json_array_get(json_array_get(rows, i), 0);
		group[i] = &files[i];
	}
	out = n ? partition_summary(wr, group, n) : xstrdup(NO_PARTITIONS);
	free(files);
	free(group);
	json_decref(rows);
	return out;
}

static int
write_rewritten(struct writer *wr, struct commit *c, const struct rewrite *r, const char *path, struct buf *list)
{
	struct list_entry e = { .content = r->deletes ? CONTENT_POSITION_DELETES : CONTENT_DATA, .first_row_id = -1 };
	char *meta = NULL, *ids = NULL, *summary = NULL, *url = NULL;
	struct buf b = BUF_INIT;
	struct duck_result *counts;
	int rc = -1;

	buf_adds(&b,
		 "SELECT count(*) FILTER (NOT gone), coalesce(sum(record_count) FILTER (NOT gone), 0)::BIGINT, count(*) FILTER "
		 "(gone), coalesce(sum(record_count) FILTER (gone), 0)::BIGINT, coalesce(min(sequence_number) FILTER (NOT gone), "
		 "0)::BIGINT ");
	add_entries(r, &b);
	counts = duck_query(wr->cx->db, b.s, &wr->cx->err);
	buf_clear(&b);
	if (counts == NULL)
		return -1;
	e.existing = (size_t)duck_int(counts, 0, 0);
	e.rows_existing = duck_int(counts, 0, 1);
	e.deleted = (size_t)duck_int(counts, 0, 2);
	e.rows_deleted = duck_int(counts, 0, 3);
	e.min_sequence = e.existing ? duck_int(counts, 0, 4) : c->sequence;
	duck_result_free(counts);
	if (e.existing + e.deleted == 0)
		return 0;
	if ((summary = summary_of(wr, r)) == NULL)
		goto out;
	add_entry_columns(c, r, &b);
	add_entries(r, &b);
	meta = manifest_metadata(wr, r->spec, e.content);
	ids = manifest_ids(r->spec, ENTRY_ALL);
	if (write_avro(wr, path, "manifest_entry", b.s, ids, meta, &e.length) < 0)
		goto out;
	url = strncmp(path, wr->local, strlen(wr->local)) == 0 ? xasprintf("%s%s", wr->location, path + strlen(wr->local))
							       : xstrdup(path);
	e.url = url;
	e.partitions = summary;
	e.spec = (int)json_integer_value(json_object_get(r->spec, "spec-id"));
	list_add(list, c, &e, writer_format(wr));
	rc = 0;
out:
	buf_release(&b);
	free(meta);
	free(ids);
	free(summary);
	free(url);
	return rc;
}

int
entries_manifest(struct writer *wr, struct commit *c, json_int_t spec, bool deletes, const char *where, const char *path,
		 struct buf *list)
{
	struct rewrite r = { .spec = entries_spec(wr, spec), .deletes = deletes, .where = where };

	return r.spec ? write_rewritten(wr, c, &r, path, list) : -1;
}

/* ---- a commit ---- */

/* Those of one spec and content that are touched: in as few manifests as their size allows. */
static int
rewrite_touched(struct writer *wr, struct commit *c, struct rewrite *r, size_t entries, size_t bytes, size_t *index,
		struct buf *list)
{
	size_t each = bytes && entries ? bytes / entries + 1 : ENTRY_SIZE;

	r->where = "manifest IN (SELECT manifest FROM sluice_touched)";
	r->limit = MANIFEST_SIZE / each + 1;
	for (r->index = 0; r->index * r->limit < entries; r->index++) {
		char *path = xasprintf("%s/metadata/%s-%lld-r%zu.avro", wr->local, wr->stem, (long long)c->snapshot, (*index)++);
		int rc = write_rewritten(wr, c, r, path, list);

		free(path);
		if (rc < 0)
			return -1;
	}
	return 0;
}

/* The list's manifests in `list`, those of sluice_touched written anew; `gone` (SQL over the entries, NULL: none) are taken out.
 */
static int
write_anew(struct writer *wr, struct commit *c, const char *gone, struct buf *list)
{
	struct buf made = BUF_INIT;
	size_t i, index = 0, replaced = 0;
	json_t *row,
		*rows = duck_query_json(
			wr->cx->db,
			"SELECT spec, kind <> 0, count(*), any_value(bytes), any_value(manifests) FROM sluice_live JOIN (SELECT "
			"partition_spec_id AS spec, \"content\" <> 0 AS deletes, sum(manifest_length)::BIGINT AS bytes, count(*) "
			"AS "
			"manifests FROM sluice_list WHERE manifest_path IN (SELECT manifest FROM sluice_touched) GROUP BY ALL) l "
			"USING "
			"(spec) WHERE manifest IN (SELECT manifest FROM sluice_touched) AND (kind <> 0) = l.deletes GROUP BY ALL",
			&wr->cx->err);
	int rc = rows ? 0 : -1;

	json_array_foreach (rows, i, row) {
		struct rewrite r = { .spec = entries_spec(wr, json_integer_value(json_array_get(row, 0))),
				     .deletes = json_is_true(json_array_get(row, 1)),
				     .gone = gone };

		if (rc == 0)
			rc = r.spec ? rewrite_touched(wr, c, &r, (size_t)json_integer_value(json_array_get(row, 2)),
						      (size_t)json_integer_value(json_array_get(row, 3)), &index, &made)
				    : -1;
		replaced += (size_t)json_integer_value(json_array_get(row, 4));
	}
	if (rc == 0) {
		c->manifests_replaced = replaced;
		c->manifests_created = index;
		if (made.len)
			buf_addf(list, "%s%s", list->len ? " UNION ALL " : "", made.s);
	}
	buf_release(&made);
	json_decref(rows);
	return rc;
}

/* And the others. */
static void
list_rest(struct buf *list)
{
	buf_addf(list,
		 "%sSELECT * FROM sluice_list WHERE manifest_path NOT IN (SELECT manifest FROM sluice_touched) AND "
		 "(deleted_files_count = 0 OR added_files_count + existing_files_count > 0)",
		 list->len ? " UNION ALL " : "");
}

/* What the commit takes out, by kind: files, rows, bytes. */
static int
count_gone(struct writer *wr, struct commit *c)
{
	json_t *rows = duck_query_json(
		       wr->cx->db,
		       "SELECT kind, count(*), sum(record_count)::BIGINT, sum(file_size_in_bytes)::BIGINT FROM sluice_live WHERE "
		       "file_path IN (SELECT file_path FROM sluice_gone) GROUP BY kind",
		       &wr->cx->err),
	       *row;
	size_t i;

	json_array_foreach (rows, i, row) {
		json_int_t kind = json_integer_value(json_array_get(row, 0)), files = json_integer_value(json_array_get(row, 1)),
			   count = json_integer_value(json_array_get(row, 2));

		c->deleted_bytes += json_integer_value(json_array_get(row, 3));
		if (kind == CONTENT_DATA) {
			c->deleted_files += (size_t)files;
			c->deleted_rows += count;
		} else {
			c->removed_delete_files += (size_t)files;
			*(kind == CONTENT_POSITION_DELETES ? &c->removed_position_deletes : &c->removed_equality_deletes) +=
				count;
		}
	}
	json_decref(rows);
	return rows ? 0 : -1;
}

/* Somebody else may have taken out, or deleted rows of, what this commit has read. */
static int
check_gone(struct writer *wr)
{
	static const char *const checks[] = {
		"SELECT count(*) FROM sluice_gone WHERE file_path NOT IN (SELECT file_path FROM sluice_live)",
		"SELECT count(*) FROM sluice_live n WHERE kind = 1 AND file_path NOT IN (SELECT file_path FROM sluice_deletes) "
		"AND EXISTS "
		"(SELECT 1 FROM sluice_live g WHERE g.kind = 0 AND g.spec = n.spec AND g.part = n.part AND g.file_path IN "
		"(SELECT "
		"file_path FROM sluice_gone))",
	};

	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		int64_t n = duck_count(wr->cx->db, checks[i], &wr->cx->err);

		if (n < 0)
			return -1;
		if (n == 0)
			continue;
		wr->cx->cause = "conflict";
		return task_fail(wr->cx, ERR_CONFLICT,
				 "table %s: somebody else changed rows of the files that were being rewritten", wr->w->name);
	}
	return 0;
}

int
entries_commit(struct writer *wr, struct commit *c, struct buf *list)
{
	bool merge = wr->w->mode == WRITE_MANIFESTS;

	if (entries_read(wr) < 0 || (!merge && check_gone(wr) < 0) ||
	    duck_exec(wr->cx->db,
		      merge ? "CREATE OR REPLACE TEMP TABLE sluice_touched AS SELECT manifest_path AS manifest FROM sluice_list "
			      "WHERE manifest_path IN (SELECT manifest FROM sluice_merge)"
			    : "CREATE OR REPLACE TEMP TABLE sluice_touched AS SELECT DISTINCT manifest FROM sluice_live WHERE "
			      "file_path IN (SELECT file_path FROM sluice_gone)",
		      &wr->cx->err) < 0 ||
	    (!merge && count_gone(wr, c) < 0) ||
	    write_anew(wr, c, merge ? NULL : "file_path IN (SELECT file_path FROM sluice_gone)", list) < 0)
		return -1;
	wr->kept = (struct kept){ .commit = *c, .list = xstrdup(list->s ? list->s : ""), .made = wr->made.count };
	list_rest(list);
	return 0;
}

int
entries_again(struct writer *wr, struct commit *c, struct buf *list)
{
	struct commit now = *c;
	int64_t missing;

	if (entries_read(wr) < 0 || (wr->w->mode != WRITE_MANIFESTS && check_gone(wr) < 0) ||
	    (missing = duck_count(
		     wr->cx->db,
		     "SELECT count(*) FROM sluice_touched WHERE manifest NOT IN (SELECT manifest_path FROM sluice_list)",
		     &wr->cx->err)) < 0)
		return -1;
	if (missing || wr->kept.list[0] == '\0') {
		writer_unmake(wr, true);
		c->snapshot = random_id();
		return 0;
	}
	*c = wr->kept.commit;
	c->sequence = now.sequence;
	c->parent = now.parent;
	buf_addf(list, "SELECT * REPLACE (%lld::BIGINT AS sequence_number) FROM (%s)", (long long)c->sequence, wr->kept.list);
	list_rest(list);
	return 1;
}

/* ---- appends ---- */

/*
 * Which to merge: of those with some files, of those with hundreds, of those with ten thousands, as soon as there are `many` of
 * a kind, and no more at once than one manifest is to hold. So an entry is written again once for each kind, not with every
 * append that finds many.
 */
#define SQL_MANY                                                                                                                 \
	"CREATE OR REPLACE TEMP TABLE sluice_touched AS SELECT manifest_path AS manifest FROM (SELECT *, count(*) OVER k AS "    \
	"taken FROM (SELECT *, count(*) OVER k AS n, sum(manifest_length) OVER (PARTITION BY partition_spec_id, \"content\", "   \
	"kind ORDER BY manifest_length, manifest_path) AS bytes FROM (SELECT *, "                                                \
	"floor(log10(added_files_count + existing_files_count) / 2) AS kind FROM sluice_list WHERE added_files_count + "         \
	"existing_files_count > 0 AND manifest_length < %lld) WINDOW k AS (PARTITION BY partition_spec_id, \"content\", kind)) " \
	"WHERE n >= %lld AND bytes <= %lld WINDOW k AS (PARTITION BY partition_spec_id, \"content\", kind)) WHERE taken > 1"

static int64_t
number_property(const struct writer *wr, const char *name, int64_t usual)
{
	const char *text = writer_property(wr, name);
	int64_t n = text ? strtoll(text, NULL, 10) : 0;

	return n > 0 ? n : usual;
}

static int
merge_some(struct writer *wr, struct commit *c, struct buf *list)
{
	int64_t many = number_property(wr, "commit.manifest.min-count-to-merge", MANIFESTS_MANY), n;
	const char *enabled = writer_property(wr, "commit.manifest-merge.enabled");
	struct err none = ERR_INIT;

	/* A commit has a manifest of some file, mostly: what is known without a look tells whether to have one. */
	if (writer_format(wr) != 2 || (enabled && strcasecmp(enabled, "false") == 0) ||
	    summary_number(c->parent, "total-data-files") + summary_number(c->parent, "total-delete-files") < many)
		return 0;
	if (read_list(wr) < 0 ||
	    duck_execf(wr->cx->db, &wr->cx->err, SQL_MANY, (long long)(MANIFEST_SIZE * SMALL_SHARE), (long long)many,
		       (long long)MANIFEST_SIZE) < 0 ||
	    (n = duck_count(wr->cx->db, "SELECT count(*) FROM sluice_touched", &wr->cx->err)) < 0)
		return -1;
	if (n > 0) {
		/* The rows may have been read in a transaction, which the first damaged file would end for all that follows. */
		(void)!duck_exec(wr->cx->db, "COMMIT", &none);
		err_release(&none);
		if (read_entries(wr, "manifest_path IN (SELECT manifest FROM sluice_touched)") < 0 ||
		    write_anew(wr, c, NULL, list) < 0)
			return -1;
	}
	list_rest(list); /* read once, whether or not some were merged */
	return 1;
}

bool
entries_append(struct writer *wr, struct commit *c, struct buf *list)
{
	int rc = merge_some(wr, c, list);

	if (rc < 0) {
		fprintf(stderr, "warning: the manifests of table %s cannot be merged: %s\n", wr->w->name, wr->cx->err.msg);
		err_release(&wr->cx->err);
		json_decref(wr->read);
		wr->read = NULL;
	}
	return rc > 0;
}
