/*
 * Manifests and manifest lists: written and read in SQL, through the avro extension. Field ids are those of the Iceberg table
 * specification, version 2.
 */
#include "tasks/iceberg/write_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"

/* Ids of optional fields stand alone; a required one must say that it takes no null. */
#define REQ(id) "{__duckdb_field_id: " #id ", __duckdb_nullable: false}"
/* clang-format off */
#define MANIFEST_IDS \
	"{status: " REQ(0) ", snapshot_id: 1, sequence_number: 3, file_sequence_number: 4, " \
	"data_file: {__duckdb_field_id: 2, __duckdb_nullable: false, content: " REQ(134) \
	", file_path: " REQ(100) ", file_format: " REQ(101) ", partition: " REQ(102) \
	", record_count: " REQ(103) ", file_size_in_bytes: " REQ(104) \
	", value_counts: {__duckdb_field_id: 109, key: " REQ(119) ", value: " REQ(120) "}" \
	", null_value_counts: {__duckdb_field_id: 110, key: " REQ(121) ", value: " REQ(122) "}}}"
#define LIST_IDS \
	"{manifest_path: " REQ(500) ", manifest_length: " REQ(501) ", partition_spec_id: " REQ(502) \
	", content: " REQ(517) ", sequence_number: " REQ(515) ", min_sequence_number: " REQ(516) \
	", added_snapshot_id: " REQ(503) \
	", added_files_count: " REQ(504) ", existing_files_count: " REQ(505) ", deleted_files_count: " REQ(506) \
	", added_rows_count: " REQ(512) ", existing_rows_count: " REQ(513) ", deleted_rows_count: " REQ(514) "}"
/* clang-format on */

static void
writer_made(struct writer *wr, const char *path)
{
	wr->made.items = xrealloc(wr->made.items, (wr->made.count + 1) * sizeof(char *));
	wr->made.items[wr->made.count++] = xstrdup(path);
}

/* Writes a manifest from a query of its entries; its length through `length`. */
static int
write_avro(struct writer *wr, const char *path, const char *root, const char *select, const char *ids, const char *metadata,
	   int64_t *length)
{
	struct context *cx = wr->cx;
	struct buf b = BUF_INIT;
	struct stat st;
	int rc;

	buf_addf(&b, "COPY (%s) TO ", select);
	buf_add_sql_string(&b, path);
	buf_addf(&b, " (FORMAT avro, ROOT_NAME '%s', FIELD_IDS %s, METADATA {%s})", root, ids, metadata);
	writer_made(wr, path);
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	if (rc < 0)
		return -1;
	if (stat(path, &st) < 0)
		return task_fail(cx, ERR_IO, "%s was not written: %s", path, strerror(errno));
	*length = st.st_size;
	return 0;
}

static char *
manifest_metadata(const struct writer *wr, const char *content)
{
	struct buf b = BUF_INIT;
	char *schema = json_dumps(wr->schema ? wr->schema : writer_schema(wr->meta), JSON_COMPACT);

	buf_adds(&b, "'schema': ");
	buf_add_sql_string(&b, schema);
	buf_addf(&b, ", 'partition-spec': '[]', 'partition-spec-id': '0', 'format-version': '2', 'content': '%s'", content);
	free(schema);
	return buf_detach(&b);
}

/* "(manifest list entry)" as a SELECT. */
static char *
list_entry(const char *path, int64_t length, int content, int64_t sequence, int64_t snapshot, size_t added, size_t deleted,
	   int64_t added_rows, int64_t deleted_rows)
{
	struct buf b = BUF_INIT;

	buf_adds(&b, "SELECT ");
	buf_add_sql_string(&b, path);
	buf_addf(&b,
		 " AS manifest_path, %lld::BIGINT AS manifest_length, 0::INTEGER AS partition_spec_id, %d::INTEGER AS "
		 "\"content\", %lld::BIGINT AS "
		 "sequence_number, %lld::BIGINT AS min_sequence_number, %lld::BIGINT AS added_snapshot_id, %zu::INTEGER AS "
		 "added_files_count, "
		 "0::INTEGER AS existing_files_count, %zu::INTEGER AS deleted_files_count, %lld::BIGINT AS added_rows_count, "
		 "0::BIGINT AS "
		 "existing_rows_count, %lld::BIGINT AS deleted_rows_count",
		 (long long)length, content, (long long)sequence, (long long)sequence, (long long)snapshot, added, deleted,
		 (long long)added_rows, (long long)deleted_rows);
	return buf_detach(&b);
}

static char *
added_entries(const struct writer *wr, int64_t snapshot)
{
	struct buf b = BUF_INIT;

	for (size_t i = 0; i < wr->nfiles; i++) {
		const struct data_file *f = &wr->files[i];
		char *url = xasprintf("%s%s", wr->location, f->path + strlen(wr->local));

		buf_addf(&b,
			 "%sSELECT 1::INTEGER AS status, %lld::BIGINT AS snapshot_id, NULL::BIGINT AS sequence_number, "
			 "NULL::BIGINT AS "
			 "file_sequence_number, {'content': 0::INTEGER, 'file_path': ",
			 i ? " UNION ALL " : "", (long long)snapshot);
		buf_add_sql_string(&b, url);
		buf_addf(&b,
			 ", 'file_format': 'PARQUET', 'partition': {'__duckdb_empty_struct_marker': true}, 'record_count': "
			 "%lld::BIGINT, "
			 "'file_size_in_bytes': %lld::BIGINT, 'value_counts': %s, 'null_value_counts': %s} AS data_file",
			 (long long)f->rows, (long long)f->bytes, f->value_counts, f->null_counts);
		free(url);
	}
	return buf_detach(&b);
}

static const char *
strip_scheme(const char *url)
{
	if (strncmp(url, "file://", 7) == 0)
		return url + 7;
	return strncmp(url, "file:/", 6) == 0 ? url + 5 : url;
}

/* The files that an overwrite takes out, as entries with status 2 (deleted). */
static int
deleted_manifest(struct writer *wr, struct commit *c, struct buf *list)
{
	struct context *cx = wr->cx;
	const char *old = json_string_value(json_object_get(c->parent, "manifest-list"));
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *path, *meta, *entry;
	int64_t length, rows;
	size_t files;

	/* Paths are collected first: read_avro takes a list of constants. */
	buf_adds(&b, "SELECT manifest_path, sequence_number FROM read_avro(");
	buf_add_sql_string(&b, strip_scheme(old));
	buf_adds(&b, ") WHERE \"content\" = 0");
	r = duck_query(cx->db, b.s, &cx->err);
	buf_clear(&b);
	if (r == NULL)
		return -1;
	buf_adds(&b, "CREATE OR REPLACE TEMP TABLE sluice_gone AS ");
	for (size_t i = 0; i < duck_rows(r); i++) {
		char *manifest = duck_text(r, i, 0);

		buf_addf(&b,
			 "%sSELECT coalesce(sequence_number, %lld)::BIGINT AS sequence_number, coalesce(file_sequence_number, "
			 "%lld)::BIGINT AS "
			 "file_sequence_number, data_file.file_path AS file_path, data_file.record_count AS record_count, "
			 "data_file.file_size_in_bytes AS file_size FROM read_avro(",
			 i ? " UNION ALL " : "", (long long)duck_int(r, i, 1), (long long)duck_int(r, i, 1));
		buf_add_sql_string(&b, strip_scheme(manifest));
		buf_adds(&b, ") WHERE status <> 2");
		free(manifest);
	}
	if (duck_rows(r) == 0) {
		duck_result_free(r);
		buf_release(&b);
		return 0;
	}
	duck_result_free(r);
	if (duck_exec(cx->db, b.s, &cx->err) < 0) {
		buf_release(&b);
		return -1;
	}
	buf_release(&b);
	r = duck_query(cx->db, "SELECT count(*), coalesce(sum(record_count), 0)::BIGINT FROM sluice_gone", &cx->err);
	if (r == NULL)
		return -1;
	files = (size_t)duck_int(r, 0, 0);
	rows = duck_int(r, 0, 1);
	duck_result_free(r);
	if (files == 0)
		return 0;
	c->deleted_files = files;
	c->deleted_rows = rows;
	path = xasprintf("%s/metadata/%s-gone-%lld.avro", wr->local, wr->stem, (long long)c->snapshot);
	meta = manifest_metadata(wr, "data");
	buf_addf(&b,
		 "SELECT 2::INTEGER AS status, %lld::BIGINT AS snapshot_id, sequence_number, file_sequence_number, {'content': "
		 "0::INTEGER, "
		 "'file_path': file_path, 'file_format': 'PARQUET', 'partition': {'__duckdb_empty_struct_marker': true}, "
		 "'record_count': "
		 "record_count::BIGINT, 'file_size_in_bytes': file_size::BIGINT, 'value_counts': NULL::MAP(INTEGER, BIGINT), "
		 "'null_value_counts': NULL::MAP(INTEGER, BIGINT)} AS data_file FROM sluice_gone",
		 (long long)c->snapshot);
	if (write_avro(wr, path, "manifest_entry", b.s, MANIFEST_IDS, meta, &length) < 0) {
		free(path);
		free(meta);
		buf_release(&b);
		return -1;
	}
	buf_release(&b);
	{
		char *url = xasprintf("%s%s", wr->location, path + strlen(wr->local));

		entry = list_entry(url, length, 0, c->sequence, c->snapshot, 0, files, 0, rows);
		free(url);
	}
	buf_addf(list, "%s%s", list->len ? " UNION ALL " : "", entry);
	free(entry);
	free(path);
	free(meta);
	return 0;
}

/* Manifests and the list of one try; the list differs from try to try, the data files do not. */
int
commit_manifests(struct writer *wr, struct commit *c)
{
	struct context *cx = wr->cx;
	struct buf list = BUF_INIT;
	char *path, *meta, *entries, *entry, *url;
	int64_t length;
	int rc = -1;

	if (wr->nfiles) {
		path = xasprintf("%s/metadata/%s-%lld.avro", wr->local, wr->stem, (long long)c->snapshot);
		entries = added_entries(wr, c->snapshot);
		meta = manifest_metadata(wr, "data");
		rc = write_avro(wr, path, "manifest_entry", entries, MANIFEST_IDS, meta, &length);
		url = xasprintf("%s%s", wr->location, path + strlen(wr->local));
		entry = list_entry(url, rc == 0 ? length : 0, 0, c->sequence, c->snapshot, wr->nfiles, 0, wr->w->rows, 0);
		buf_adds(&list, entry);
		free(entry);
		free(url);
		free(path);
		free(entries);
		free(meta);
		if (rc < 0)
			goto out;
	}
	if (c->parent && wr->w->mode == WRITE_APPEND) {
		buf_addf(&list,
			 "%sSELECT manifest_path, manifest_length, partition_spec_id, \"content\", sequence_number, "
			 "min_sequence_number, "
			 "added_snapshot_id, added_files_count, existing_files_count, deleted_files_count, added_rows_count, "
			 "existing_rows_count, deleted_rows_count FROM read_avro(",
			 list.len ? " UNION ALL " : "");
		buf_add_sql_string(&list, strip_scheme(json_string_value(json_object_get(c->parent, "manifest-list"))));
		buf_adds(&list, ")");
	} else if (c->parent && wr->w->mode == WRITE_OVERWRITE && (rc = deleted_manifest(wr, c, &list)) < 0) {
		goto out;
	}
	if (list.len == 0) { /* no manifest at all: a list without entries */
		entry = list_entry("", 0, 0, 0, 0, 0, 0, 0, 0);
		buf_addf(&list, "SELECT * FROM (%s) WHERE false", entry);
		free(entry);
	}
	path = xasprintf("%s/metadata/snap-%lld-%s.avro", wr->local, (long long)c->snapshot, wr->stem);
	meta = xasprintf("'snapshot-id': '%lld', 'sequence-number': '%lld', 'format-version': '2'", (long long)c->snapshot,
			 (long long)c->sequence);
	rc = write_avro(wr, path, "manifest_file", list.s, LIST_IDS, meta, &length);
	c->manifest_list = xasprintf("%s%s", wr->location, path + strlen(wr->local));
	free(path);
	free(meta);
	(void)cx;
out:
	buf_release(&list);
	return rc;
}
