/*
 * rebase: gives snapshots that appended to a table a new place, on top of what was committed meanwhile. Only manifest lists are
 * written: each holds the manifests of the files that its snapshot added, and those of the one before it. Old manifests that
 * it had merged stay what they were; where it has put its own files among them there is no way to tell these apart.
 *
 *     {"tables": [{"format": 2, "head": LIST or null, "snapshots": [{"id", "sequence", "list": LIST, "into": LIST}]}]}
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/write_int.h"

#define LIST_FORMAT 2 /* lists of version 1 are filled up to it; those of version 3 are not given a new place */

/* The fields of a manifest list with their ids, as the table specification numbers them; from 507 on nested. */
static const struct {
	const char *name, *ids;
} list_fields[] = {
#define REQ(id) "{__duckdb_field_id: " #id ", __duckdb_nullable: false}"
	{ "manifest_path", REQ(500) },        { "manifest_length", REQ(501) },
	{ "partition_spec_id", REQ(502) },    { "content", REQ(517) },
	{ "sequence_number", REQ(515) },      { "min_sequence_number", REQ(516) },
	{ "added_snapshot_id", REQ(503) },    { "added_files_count", REQ(504) },
	{ "existing_files_count", REQ(505) }, { "deleted_files_count", REQ(506) },
	{ "added_rows_count", REQ(512) },     { "existing_rows_count", REQ(513) },
	{ "deleted_rows_count", REQ(514) },
#undef REQ
};

/* The option for these columns; -1 for a column that is not known. */
static int
list_ids(struct context *cx, const json_t *columns, struct buf *out)
{
	json_t *column;
	size_t i, k;

	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")),
			   *type = json_string_value(json_object_get(column, "type"));

		buf_adds(out, i ? ", " : "{");
		buf_add_sql_name(out, name);
		buf_adds(out, ": ");
		if (strcmp(name, "partitions") == 0) {
			buf_adds(out, "{__duckdb_field_id: 507, list: {__duckdb_field_id: 508, contains_null: "
				      "{__duckdb_field_id: 509, __duckdb_nullable: false}");
			if (strstr(type, "contains_nan"))
				buf_adds(out, ", contains_nan: 518");
			buf_adds(out, ", lower_bound: 510, upper_bound: 511}}");
			continue;
		}
		for (k = 0; k < sizeof(list_fields) / sizeof(list_fields[0]); k++)
			if (strcmp(name, list_fields[k].name) == 0)
				break;
		if (k == sizeof(list_fields) / sizeof(list_fields[0]))
			return task_fail(cx, ERR_UNSUPPORTED, "its manifest list has a field \"%s\", which is not known here",
					 name);
		buf_adds(out, list_fields[k].ids);
	}
	buf_addc(out, '}');
	return 0;
}

/* Are the snapshot's own files in manifests of their own? */
static int
check_own(struct context *cx, const char *list, long long id)
{
	struct buf b = BUF_INIT;
	int64_t mixed;

	buf_adds(&b, "SELECT count(*) FROM (");
	list_select(list, LIST_FORMAT, &b);
	buf_addf(&b, ") WHERE added_snapshot_id = %lld AND added_files_count > 0 AND existing_files_count > 0", id);
	mixed = duck_count(cx->db, b.s, &cx->err);
	buf_release(&b);
	if (mixed > 0)
		return task_fail(cx, ERR_CONFLICT, "a program merged the files that it added with those that were there");
	return mixed < 0 ? -1 : 0;
}

/* One snapshot's new manifest list; `before` is the list that it comes on top of, or NULL. */
static int
rebase_one(struct context *cx, const json_t *snapshot, const char *before, int format)
{
	long long id = json_integer_value(json_object_get(snapshot, "id")),
		  sequence = json_integer_value(json_object_get(snapshot, "sequence"));
	const char *list = json_string_value(json_object_get(snapshot, "list")),
		   *into = json_string_value(json_object_get(snapshot, "into"));
	struct buf select = BUF_INIT, copy = BUF_INIT;
	json_t *columns = NULL;
	int rc = -1;

	if (check_own(cx, list, id) < 0)
		goto out;
	buf_addf(&select, "SELECT * REPLACE (%lld::BIGINT AS sequence_number, %lld::BIGINT AS min_sequence_number) FROM (",
		 sequence, sequence);
	list_select(list, LIST_FORMAT, &select);
	buf_addf(&select, ") WHERE added_snapshot_id = %lld AND added_files_count > 0", id);
	if (before) {
		buf_adds(&select, " UNION ALL BY NAME ");
		list_select(before, LIST_FORMAT, &select);
	}
	if ((columns = duck_describe(cx->db, select.s, &cx->err)) == NULL)
		goto out;
	buf_addf(&copy, "COPY (%s) TO ", select.s);
	buf_add_sql_string(&copy, strip_scheme(into));
	buf_adds(&copy, " (FORMAT avro, ROOT_NAME 'manifest_file', FIELD_IDS ");
	if (list_ids(cx, columns, &copy) < 0)
		goto out;
	buf_addf(&copy, ", METADATA {'snapshot-id': '%lld', 'sequence-number': '%lld', 'format-version': '%d'})", id, sequence,
		 format);
	rc = duck_exec(cx->db, copy.s, &cx->err);
out:
	json_decref(columns);
	buf_release(&select);
	buf_release(&copy);
	return rc < 0 ? -1 : 0;
}

int
rebase_run(struct context *cx)
{
	json_t *table, *snapshot;
	size_t i, k;

	if (duck_load_iceberg(cx->db, &cx->err) < 0 || task_s3_if_any(cx) < 0)
		return -1;
	json_array_foreach (json_object_get(cx->spec, "tables"), i, table) {
		const char *before = json_string_value(json_object_get(table, "head"));
		int format = (int)json_integer_value(json_object_get(table, "format"));

		json_array_foreach (json_object_get(table, "snapshots"), k, snapshot) {
			if (rebase_one(cx, snapshot, before, format) < 0)
				return -1;
			before = json_string_value(json_object_get(snapshot, "into"));
		}
	}
	return 0;
}
