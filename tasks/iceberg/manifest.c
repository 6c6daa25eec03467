/*
 * Manifests and manifest lists: written in SQL, through the avro extension. Field ids are those of the Iceberg table
 * specification. What a reader needs to leave files out without opening them is here: partition values, counts and bounds.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/entries.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/values.h"
#include "tasks/iceberg/write_int.h"

/* Ids of optional fields stand alone; a required one must say that it takes no null. */
#define REQ(id)           "{__duckdb_field_id: " #id ", __duckdb_nullable: false}"
#define MAP_ID(id, k, v)  "{__duckdb_field_id: " #id ", key: " REQ(k) ", value: " REQ(v) "}"
#define LIST_ID(id, item) "{__duckdb_field_id: " #id ", list: " REQ(item) "}"
/* clang-format off */
#define LIST_IDS \
	"{manifest_path: " REQ(500) ", manifest_length: " REQ(501) ", partition_spec_id: " REQ(502) \
	", content: " REQ(517) ", sequence_number: " REQ(515) ", min_sequence_number: " REQ(516) \
	", added_snapshot_id: " REQ(503) \
	", added_files_count: " REQ(504) ", existing_files_count: " REQ(505) ", deleted_files_count: " REQ(506) \
	", added_rows_count: " REQ(512) ", existing_rows_count: " REQ(513) ", deleted_rows_count: " REQ(514) \
	", partitions: {__duckdb_field_id: 507, list: {__duckdb_field_id: 508, __duckdb_nullable: false" \
	", contains_null: " REQ(509) ", contains_nan: 518, lower_bound: 510, upper_bound: 511}}"
#define REQUIRED_IDS ", record_count: " REQ(103) ", file_size_in_bytes: " REQ(104)
#define STATISTICS_IDS \
	", column_sizes: " MAP_ID(108, 117, 118) ", value_counts: " MAP_ID(109, 119, 120) \
	", null_value_counts: " MAP_ID(110, 121, 122) ", nan_value_counts: " MAP_ID(137, 138, 139) \
	", lower_bounds: " MAP_ID(125, 126, 127) ", upper_bounds: " MAP_ID(128, 129, 130) \
	", split_offsets: " LIST_ID(132, 133) ", sort_order_id: 140"
#define OTHER_IDS \
	", key_metadata: 131, equality_ids: " LIST_ID(135, 136) ", first_row_id: 142, referenced_data_file: 143" \
	", content_offset: 144, content_size_in_bytes: 145"
/* clang-format on */

static const struct {
	const char *name, *type;
} list_columns[] = {
	{ "manifest_path", "VARCHAR" },        { "manifest_length", "BIGINT" },
	{ "partition_spec_id", "INTEGER" },    { "content", "INTEGER" },
	{ "sequence_number", "BIGINT" },       { "min_sequence_number", "BIGINT" },
	{ "added_snapshot_id", "BIGINT" },     { "added_files_count", "INTEGER" },
	{ "existing_files_count", "INTEGER" }, { "deleted_files_count", "INTEGER" },
	{ "added_rows_count", "BIGINT" },      { "existing_rows_count", "BIGINT" },
	{ "deleted_rows_count", "BIGINT" },
};
#define LIST_COLUMNS (sizeof(list_columns) / sizeof(list_columns[0]))

int
write_avro(struct writer *wr, const char *path, const char *root, const char *select, const char *ids, const char *metadata,
	   int64_t *length)
{
	struct context *cx = wr->cx;
	struct buf b = BUF_INIT;
	int rc;

	buf_addf(&b, "COPY (%s) TO ", select);
	buf_add_sql_string(&b, path);
	buf_addf(&b, " (FORMAT avro, ROOT_NAME '%s', FIELD_IDS %s, METADATA {%s})", root, ids, metadata);
	wr->made.items = xrealloc(wr->made.items, (wr->made.count + 1) * sizeof(char *));
	wr->made.items[wr->made.count++] = xstrdup(path);
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	if (rc < 0)
		return -1;
	*length = task_file_size(cx, path);
	return *length < 0 ? -1 : 0;
}

char *
manifest_metadata(const struct writer *wr, const json_t *spec, int content)
{
	char *schema = json_dumps(wr->schema ? wr->schema : writer_schema(wr->meta), JSON_COMPACT);
	char *fields = json_dumps(json_object_get(spec, "fields"), JSON_COMPACT);
	struct buf b = BUF_INIT;

	buf_adds(&b, "'schema': ");
	buf_add_sql_string(&b, schema);
	buf_adds(&b, ", 'partition-spec': ");
	buf_add_sql_string(&b, fields);
	buf_addf(&b, ", 'partition-spec-id': '%lld', 'format-version': '%d', 'content': '%s'",
		 (long long)json_integer_value(json_object_get(spec, "spec-id")), writer_format(wr),
		 content == CONTENT_DATA ? "data" : "deletes");
	free(schema);
	free(fields);
	return buf_detach(&b);
}

char *
manifest_ids(const json_t *spec, enum entry_fields which)
{
	struct buf b = BUF_INIT;
	json_t *field;
	size_t i;

	buf_adds(&b, "{status: " REQ(0) ", snapshot_id: 1, sequence_number: 3, file_sequence_number: 4, data_file: "
					"{__duckdb_field_id: 2, __duckdb_nullable: false, content: " REQ(134) ", file_path: " REQ(
						100) ", file_format: " REQ(101) ", partition: {__duckdb_field_id: 102, "
										"__duckdb_nullable: false");
	json_array_foreach (json_object_get(spec, "fields"), i, field) {
		struct buf name = BUF_INIT;

		avro_name(json_string_value(json_object_get(field, "name")), &name);
		buf_adds(&b, ", ");
		buf_add_sql_name(&b, name.s);
		buf_addf(&b, ": %lld", (long long)json_integer_value(json_object_get(field, "field-id")));
		buf_release(&name);
	}
	buf_adds(&b, "}" REQUIRED_IDS);
	if (which != ENTRY_SLIM)
		buf_adds(&b, STATISTICS_IDS);
	if (which == ENTRY_ALL)
		buf_adds(&b, OTHER_IDS);
	buf_adds(&b, "}}");
	return buf_detach(&b);
}

int
partition_struct(struct writer *wr, const json_t *spec, const json_t *values, struct buf *out)
{
	const json_t *fields = json_object_get(spec, "fields");
	bool first = true;
	json_t *field;
	size_t i;

	if (json_array_size(fields) == 0) {
		buf_adds(out, "{'__duckdb_empty_struct_marker': true}");
		return 0;
	}
	json_array_foreach (fields, i, field) {
		const char *text = json_string_value(json_array_get(values, i));
		struct buf name = BUF_INIT, type = BUF_INIT, duck = BUF_INIT;
		json_t *iceberg;
		int rc;

		/* Of an old spec a column may be gone, and a day is a date or a number: what stands there is taken as it is. */
		if (values == NULL &&
		    (partition_is_day(field) ||
		     column_by_id(wr->fields, json_integer_value(json_object_get(field, "source-id")), NULL) == NULL))
			continue;
		avro_name(json_string_value(json_object_get(field, "name")), &name);
		rc = partition_type(field, wr->fields, &type, &wr->cx->err);
		iceberg = json_string(type.s);
		if (rc == 0)
			rc = iceberg_to_duck(iceberg, &duck, &wr->cx->err);
		json_decref(iceberg);
		buf_adds(out, first ? "{" : ", ");
		first = false;
		buf_add_sql_name(out, name.s);
		buf_adds(out, ": CAST(");
		if (text)
			buf_add_sql_string(out, text);
		else
			buf_adds(out, "NULL");
		buf_addf(out, " AS %s)", duck.s);
		buf_release(&name);
		buf_release(&type);
		buf_release(&duck);
		if (rc < 0)
			return -1;
	}
	buf_adds(out, first ? "NULL" : "}");
	return 0;
}

/* ---- the statistics of one file ---- */

enum { STAT_SIZE, STAT_VALUES, STAT_NULLS, STAT_NANS, STAT_LOWER, STAT_UPPER, STATS };

static const char *const stat_names[STATS] = { "column_sizes",     "value_counts", "null_value_counts",
					       "nan_value_counts", "lower_bounds", "upper_bounds" };

/* Maps under construction, one a kind of statistic. */
struct stats {
	struct buf map[STATS];
	const struct data_file *file;
};

static void
stat_begin(struct stats *s, int which, int id)
{
	buf_addf(&s->map[which], "%s%d: ", s->map[which].len ? ", " : "", id);
}

static void
stat_number(struct stats *s, int which, int id, const char *text)
{
	if (text == NULL)
		return;
	stat_begin(s, which, id);
	buf_addf(&s->map[which], "%s::BIGINT", text);
}

static void
stat_bound(struct stats *s, int which, int id, const char *type, const json_t *value, enum value_use use)
{
	struct buf bytes = BUF_INIT;

	if (json_is_string(value) && value_bytes(type, json_string_value(value), json_string_length(value), use, &bytes)) {
		stat_begin(s, which, id);
		value_sql_blob(&bytes, &s->map[which]);
	}
	buf_release(&bytes);
}

static void
stat_nan(struct stats *s, int id, const char *path, const json_t *column)
{
	const char *has = json_string_value(json_object_get(column, "has_nan"));
	const json_t *count = json_object_get(s->file->nan, path);
	char text[24];

	if (has == NULL)
		return;
	if (strcmp(has, "false") == 0) {
		stat_number(s, STAT_NANS, id, "0");
	} else if (json_is_integer(count)) {
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(count));
		stat_number(s, STAT_NANS, id, text);
	}
}

/* `whole`: bounds are not cut; inside of lists and maps there are only sizes. */
static void
stats_leaf(struct stats *s, int id, const char *type, const char *path, bool repeated, bool whole)
{
	const json_t *column = json_object_get(s->file->columns, path);

	stat_number(s, STAT_SIZE, id, json_string_value(json_object_get(column, "column_size_bytes")));
	if (column == NULL || repeated)
		return;
	stat_number(s, STAT_VALUES, id, json_string_value(json_object_get(column, "num_values")));
	stat_number(s, STAT_NULLS, id, json_string_value(json_object_get(column, "null_count")));
	stat_nan(s, id, path, column);
	stat_bound(s, STAT_LOWER, id, type, json_object_get(column, "min"), whole ? VALUE_EXACT : VALUE_LOWER);
	stat_bound(s, STAT_UPPER, id, type, json_object_get(column, "max"), whole ? VALUE_EXACT : VALUE_UPPER);
}

static void
stats_type(struct stats *s, int id, const json_t *type, const char *path, bool repeated)
{
	static const char *const inner[3][2] = { { "element", "element-id" }, { "key", "key-id" }, { "value", "value-id" } };
	json_t *field;
	size_t i;

	if (json_is_string(type)) {
		stats_leaf(s, id, json_string_value(type), path, repeated, false);
		return;
	}
	json_array_foreach (json_object_get(type, "fields"), i, field) {
		struct buf below = BUF_INIT;

		buf_addf(&below, "%s%s", path, *path ? "." : "");
		buf_add_sql_name(&below, json_string_value(json_object_get(field, "name")));
		stats_type(s, (int)json_integer_value(json_object_get(field, "id")), json_object_get(field, "type"), below.s,
			   repeated);
		buf_release(&below);
	}
	for (i = 0; i < 3; i++) {
		const json_t *below = json_object_get(type, inner[i][0]);
		char *name;

		if (below == NULL)
			continue;
		name = xasprintf("%s.\"%s\"", path, inner[i][0]);
		stats_type(s, (int)json_integer_value(json_object_get(type, inner[i][1])), below, name, true);
		free(name);
	}
}

#define PATH_ID 2147483546 /* the reserved ids of a position delete file's columns */
#define POS_ID  2147483545

static void
add_stats(const struct writer *wr, const struct data_file *f, struct buf *out)
{
	struct stats s = { .file = f };

	for (int i = 0; i < STATS; i++)
		buf_init(&s.map[i], 0);
	if (f->content == CONTENT_DATA) {
		json_t *all = json_pack("{s:O}", "fields", wr->fields);

		stats_type(&s, 0, all, "", false);
		json_decref(all);
	} else {
		stats_leaf(&s, PATH_ID, "string", "\"file_path\"", false, true);
		stats_leaf(&s, POS_ID, "long", "\"pos\"", false, true);
	}
	for (int i = 0; i < STATS; i++) {
		const char *value = i < STAT_LOWER ? "BIGINT" : "BLOB";

		if (s.map[i].len)
			buf_addf(out, ", '%s': MAP {%s}", stat_names[i], s.map[i].s);
		else /* an empty map literal has no type */
			buf_addf(out, ", '%s': NULL::MAP(INTEGER, %s)", stat_names[i], value);
		buf_release(&s.map[i]);
	}
}

/* ---- entries ---- */

static int
add_entry(struct writer *wr, const struct data_file *f, struct buf *out)
{
	json_t *at;
	size_t i;

	buf_addf(out, "{'content': %d::INTEGER, 'file_path': ", f->content);
	buf_add_sql_string(out, f->url);
	buf_adds(out, ", 'file_format': 'PARQUET', 'partition': ");
	if (partition_struct(wr, f->spec, f->partition, out) < 0)
		return -1;
	buf_addf(out, ", 'record_count': %lld::BIGINT, 'file_size_in_bytes': %lld::BIGINT", (long long)f->rows,
		 (long long)f->bytes);
	add_stats(wr, f, out);
	buf_adds(out, ", 'split_offsets': ");
	json_array_foreach (f->splits, i, at)
		buf_addf(out, "%s%lld::BIGINT", i ? ", " : "[", (long long)json_integer_value(at));
	buf_adds(out, json_array_size(f->splits) ? "]" : "NULL::BIGINT[]");
	if (f->content == CONTENT_DATA)
		buf_addf(out, ", 'sort_order_id': %lld::INTEGER}",
			 (long long)json_integer_value(json_object_get(wr->order, "order-id")));
	else
		buf_adds(out, ", 'sort_order_id': NULL::INTEGER}");
	return 0;
}

/* What one partition field holds over all files of a manifest. */
static int
field_summary(struct writer *wr, const json_t *field, const struct data_file **files, size_t n, size_t at, struct buf *out)
{
	struct buf type = BUF_INIT, low = BUF_INIT, high = BUF_INIT, v = BUF_INIT;
	bool null = false, known = true, nan = false, any = false;
	int rc = partition_type(field, wr->fields, &type, &wr->cx->err);

	for (size_t i = 0; rc == 0 && i < n; i++) {
		const json_t *value = json_array_get(files[i]->partition, at);

		buf_clear(&v);
		if (!json_is_string(value)) {
			null = true;
		} else if (strcasecmp(json_string_value(value), "nan") == 0) {
			nan = true;
		} else if (!value_bytes(type.s, json_string_value(value), json_string_length(value), VALUE_EXACT, &v)) {
			known = false;
		} else {
			if (!any || value_compare(type.s, &v, &low) < 0) {
				buf_clear(&low);
				buf_add(&low, v.s, v.len);
			}
			if (!any || value_compare(type.s, &v, &high) > 0) {
				buf_clear(&high);
				buf_add(&high, v.s, v.len);
			}
			any = true;
		}
	}
	buf_addf(out, "{'contains_null': %s, 'contains_nan': %s, 'lower_bound': ", null ? "true" : "false",
		 nan ? "true" : "false");
	if (known && any) {
		value_sql_blob(&low, out);
		buf_adds(out, ", 'upper_bound': ");
		value_sql_blob(&high, out);
	} else {
		buf_adds(out, "NULL::BLOB, 'upper_bound': NULL::BLOB");
	}
	buf_adds(out, "}");
	buf_release(&type);
	buf_release(&low);
	buf_release(&high);
	buf_release(&v);
	return rc < 0 ? -1 : 0;
}

char *
partition_summary(struct writer *wr, const struct data_file **files, size_t n)
{
	const json_t *fields = json_object_get(files[0]->spec, "fields");
	struct buf b = BUF_INIT;
	json_t *field;
	size_t i;

	if (json_array_size(fields) == 0)
		return xstrdup(NO_PARTITIONS);
	json_array_foreach (fields, i, field) {
		buf_adds(&b, i ? ", " : "[");
		if (field_summary(wr, field, files, n, i, &b) < 0) {
			buf_release(&b);
			return NULL;
		}
	}
	buf_adds(&b, "]");
	return buf_detach(&b);
}

/* One manifest of new files that have content and spec in common. */
static int
write_manifest(struct writer *wr, struct commit *c, const struct data_file **files, size_t n, size_t index, struct buf *list)
{
	struct list_entry e = { .content = files[0]->content,
				.min_sequence = wr->data_sequence ? wr->data_sequence : c->sequence,
				.added = n,
				.first_row_id = -1 };
	char *path = xasprintf("%s/metadata/%s-%lld-m%zu.avro", wr->local, wr->stem, (long long)c->snapshot, index);
	char *url = xasprintf("%s%s", wr->location, path + strlen(wr->local)), *meta = NULL, *ids = NULL, *summary = NULL;
	struct buf b = BUF_INIT;
	int rc = -1;

	buf_addf(&b,
		 "SELECT 1::INTEGER AS status, %lld::BIGINT AS snapshot_id, nullif(%lld, 0)::BIGINT AS sequence_number, "
		 "NULL::BIGINT AS file_sequence_number, unnest([",
		 (long long)c->snapshot, (long long)wr->data_sequence);
	for (size_t i = 0; i < n; i++) {
		buf_adds(&b, i ? ", " : "");
		if (add_entry(wr, files[i], &b) < 0)
			goto out;
		e.rows_added += files[i]->rows;
	}
	buf_adds(&b, "]) AS data_file");
	summary = partition_summary(wr, files, n);
	if (summary == NULL)
		goto out;
	meta = manifest_metadata(wr, files[0]->spec, e.content);
	ids = manifest_ids(files[0]->spec, ENTRY_NEW);
	if (write_avro(wr, path, "manifest_entry", b.s, ids, meta, &e.length) < 0)
		goto out;
	if (e.content == CONTENT_DATA) {
		e.first_row_id = c->first_row_id;
		c->first_row_id += e.rows_added;
	}
	e.url = url;
	e.partitions = summary;
	e.spec = (int)json_integer_value(json_object_get(files[0]->spec, "spec-id"));
	list_add(list, c, &e, writer_format(wr));
	rc = 0;
out:
	buf_release(&b);
	free(path);
	free(url);
	free(meta);
	free(ids);
	free(summary);
	return rc;
}

/* ---- the list ---- */

void
list_add(struct buf *list, const struct commit *c, const struct list_entry *e, int format)
{
	buf_addf(list, "%sSELECT ", list->len ? " UNION ALL " : "");
	buf_add_sql_string(list, e->url);
	buf_addf(list,
		 " AS manifest_path, %lld::BIGINT AS manifest_length, %d::INTEGER AS partition_spec_id, %d::INTEGER AS "
		 "\"content\", "
		 "%lld::BIGINT AS sequence_number, %lld::BIGINT AS min_sequence_number, %lld::BIGINT AS added_snapshot_id, "
		 "%zu::INTEGER AS added_files_count, %zu::INTEGER AS existing_files_count, %zu::INTEGER AS deleted_files_count, "
		 "%lld::BIGINT AS added_rows_count, %lld::BIGINT AS existing_rows_count, %lld::BIGINT AS deleted_rows_count, "
		 "%s AS partitions",
		 (long long)e->length, e->spec, e->content == CONTENT_DATA ? 0 : 1, (long long)c->sequence,
		 (long long)e->min_sequence, (long long)c->snapshot, e->added, e->existing, e->deleted, (long long)e->rows_added,
		 (long long)e->rows_existing, (long long)e->rows_deleted, e->partitions);
	if (format >= 3 && e->first_row_id >= 0)
		buf_addf(list, ", %lld::BIGINT AS first_row_id", (long long)e->first_row_id);
	else if (format >= 3)
		buf_adds(list, ", NULL::BIGINT AS first_row_id");
}

/* Older lists lack columns, and so do those that we wrote once: they are filled up from a row that is never there. */
void
list_select(const char *manifest_list, int format, struct buf *out)
{
	buf_adds(out, "SELECT ");
	for (size_t i = 0; i < LIST_COLUMNS; i++) {
		const char *name = list_columns[i].name;
		bool text = i == 0;

		if (text)
			buf_addf(out, "%s", name);
		else
			buf_addf(out, ", coalesce(\"%s\", 0)::%s AS \"%s\"", name, list_columns[i].type, name);
	}
	buf_adds(out, ", partitions");
	if (format >= 3)
		buf_adds(out, ", first_row_id");
	buf_adds(out, " FROM (SELECT * FROM read_avro(");
	buf_add_sql_string(out, strip_scheme(manifest_list));
	buf_adds(out, ") UNION ALL BY NAME SELECT ");
	for (size_t i = 0; i < LIST_COLUMNS; i++)
		buf_addf(out, "%sNULL::%s AS \"%s\"", i ? ", " : "", list_columns[i].type, list_columns[i].name);
	buf_adds(out, ", " NO_PARTITIONS " AS partitions, NULL::BIGINT AS first_row_id WHERE false)");
}

int
commit_list(struct writer *wr, struct commit *c, struct buf *list, const char *path)
{
	int format = writer_format(wr), rc;
	struct buf meta = BUF_INIT;
	int64_t length;

	if (list->len == 0) { /* no manifest at all: a list without entries */
		struct list_entry none = { .url = "", .partitions = NO_PARTITIONS };

		buf_adds(list, "SELECT * FROM (");
		{
			struct buf entry = BUF_INIT;

			list_add(&entry, c, &none, format);
			buf_adds(list, entry.s);
			buf_release(&entry);
		}
		buf_adds(list, ") WHERE false");
	}
	buf_addf(&meta, "'snapshot-id': '%lld', 'sequence-number': '%lld', 'format-version': '%d'", (long long)c->snapshot,
		 (long long)c->sequence, format);
	rc = write_avro(wr, path, "manifest_file", list->s, format >= 3 ? LIST_IDS ", first_row_id: 520}" : LIST_IDS "}", meta.s,
			&length);
	buf_release(&meta);
	return rc;
}

static int
write_list(struct writer *wr, struct commit *c, struct buf *list)
{
	char *path = xasprintf("%s/metadata/snap-%lld-%s.avro", wr->local, (long long)c->snapshot, wr->stem);
	int rc = commit_list(wr, c, list, path);

	c->manifest_list = xasprintf("%s%s", wr->location, path + strlen(wr->local));
	free(path);
	return rc;
}

/* Those of the new files. */
static int
new_manifests(struct writer *wr, struct commit *c, struct buf *list)
{
	const struct data_file **group = xcalloc(wr->nfiles + 1, sizeof(*group));
	bool *done = xcalloc(wr->nfiles + 1, sizeof(*done));
	int rc = 0;

	for (size_t i = 0; i < wr->nfiles && rc == 0; i++) {
		size_t n = 0;

		for (size_t k = i; k < wr->nfiles && !done[i]; k++) {
			if (done[k] || wr->files[k].content != wr->files[i].content || wr->files[k].spec != wr->files[i].spec)
				continue;
			done[k] = k != i;
			group[n++] = &wr->files[k];
		}
		if (n)
			rc = write_manifest(wr, c, group, n, i, list);
	}
	free(group);
	free(done);
	return rc;
}

int
commit_manifests(struct writer *wr, struct commit *c)
{
	struct buf list = BUF_INIT;
	int rc = wr->kept.commit.snapshot ? entries_again(wr, c, &list) : 0;

	if (rc == 0) {
		rc = new_manifests(wr, c, &list);
		if (rc == 0 && c->parent)
			rc = commit_old_manifests(wr, c, &list);
	}
	if (rc >= 0)
		rc = write_list(wr, c, &list);
	buf_release(&list);
	return rc;
}
