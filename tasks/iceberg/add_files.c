/*
 * Files that lie somewhere already become the table's, as they are. They carry no field ids, so the table gets a name mapping;
 * what their folders say (day=2024-01-01) are the values of identity partitions, and columns as well.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/folders.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/write_int.h"

#define MAPPING "schema.name-mapping.default"

/* ---- folders ---- */

/* How a new table is partitioned, unless the task says it: by what the first file's folders are called. */
static json_t *
folder_names(const char *path)
{
	json_t *values = folder_values(path), *names = json_array(), *value;
	const char *key;

	json_object_foreach (values, key, value)
		json_array_append_new(names, json_string(key));
	json_decref(values);
	return names;
}

/* ---- one file ---- */

/* The values of the file's partition, from its folders; identity only. */
static int
place_file(struct writer *wr, struct data_file *f)
{
	json_t *values = folder_values(f->path), *field;
	int rc = 0;
	size_t i;

	f->partition = json_array();
	json_array_foreach (json_object_get(wr->spec, "fields"), i, field) {
		const json_t *column = column_by_id(wr->fields, json_integer_value(json_object_get(field, "source-id")), NULL);
		const char *name = json_string_value(json_object_get(column, "name"));
		json_t *value = name ? json_object_get(values, name) : NULL;

		if (strcmp(json_string_value(json_object_get(field, "transform")), "identity") != 0 || value == NULL) {
			rc = task_fail_at(
				wr->cx, "from",
				"table %s is partitioned by %s, but the file %s does not lie in a folder %s=…; only identity "
				"partitions can be added so",
				wr->w->name, json_string_value(json_object_get(field, "name")), f->path, name ? name : "");
			break;
		}
		json_array_append(f->partition, value);
	}
	json_decref(values);
	return rc;
}

static struct data_file *
note_path(struct writer *wr, const char *path)
{
	struct data_file *f = wr->nfiles ? &wr->files[wr->nfiles - 1] : NULL;

	if (f && strcmp(f->path, path) == 0)
		return f;
	f = writer_add_file(wr);
	f->path = xstrdup(path);
	f->url = strncmp(wr->location, "file:", 5) == 0 ? xasprintf("file://%s", path) : xstrdup(path);
	f->spec = wr->spec;
	f->columns = json_object();
	if ((f->bytes = task_file_size(wr->cx, path)) < 0)
		return NULL;
	return place_file(wr, f) < 0 ? NULL : f;
}

/* A file that the table has already would be counted twice. */
static int
all_new(struct writer *wr)
{
	json_t *have = wr->create || current_snapshot(wr->meta) == NULL ? json_object() : old_partitions(wr);
	int rc = have ? 0 : -1;

	for (size_t i = 0; i < wr->nfiles && rc == 0; i++)
		if (json_object_get(have, wr->files[i].url) || json_object_get(have, wr->files[i].path))
			rc = task_fail_at(wr->cx, "from", "table %s has the file %s already", wr->w->name, wr->files[i].path);
	json_decref(have);
	return rc;
}

int
add_files_data(struct writer *wr)
{
	int rc = footers_note(wr, wr->w->files_from, false, note_path);

	if (rc == 0)
		rc = all_new(wr);
	if (rc == 0)
		writer_sum(wr);
	return rc;
}

/* ---- the table ---- */

/* [{"field-id", "names", "fields"}] of a list of fields. */
static json_t *
name_mapping(const json_t *fields)
{
	static const char *const inner[3][2] = { { "element", "element-id" }, { "key", "key-id" }, { "value", "value-id" } };
	json_t *out = json_array(), *field;
	size_t i;

	json_array_foreach (fields, i, field) {
		const json_t *type = json_object_get(field, "type");
		json_t *entry = json_pack("{s:O,s:[O]}", "field-id", json_object_get(field, "id"), "names",
					  json_object_get(field, "name")),
		       *below = json_array();

		if (json_object_get(type, "fields"))
			json_array_extend(below, json_object_get(type, "fields"));
		for (size_t k = 0; k < 3; k++)
			if (json_object_get(type, inner[k][0]))
				json_array_append_new(below, json_pack("{s:s,s:O,s:O}", "name", inner[k][0], "id",
								       json_object_get(type, inner[k][1]), "type",
								       json_object_get(type, inner[k][0])));
		if (json_array_size(below))
			json_object_set_new(entry, "fields", name_mapping(below));
		json_decref(below);
		json_array_append_new(out, entry);
	}
	return out;
}

int
add_files_plan(struct writer *wr, json_t **partition_by)
{
	char *sql = xasprintf("SELECT min(file) FROM glob(%s)", wr->w->files_from);
	struct duck_result *r = duck_query(wr->cx->db, sql, &wr->cx->err);
	char *first;

	free(sql);
	if (r == NULL)
		return -1;
	first = duck_text(r, 0, 0);
	*partition_by = folder_names(first ? first : "");
	free(first);
	duck_result_free(r);
	return 0;
}

json_t *
add_files_property(const struct writer *wr)
{
	json_t *mapping = name_mapping(wr->fields), *out;
	char *text = json_dumps(mapping, JSON_COMPACT);

	out = json_pack("{s:s}", MAPPING, text);
	free(text);
	json_decref(mapping);
	return out;
}

/* ---- a table of another catalog ---- */

int
iceberg_register(struct context *cx, struct write *w, const char *metadata)
{
	json_t *body = json_pack("{s:s,s:s}", "name", w->table, "metadata-location", metadata), *answer = NULL, *loaded = NULL,
	       *snap;
	char *path = rest_table_path(w->ns, w->table), *place = strrchr(path, '/');
	const char *have;
	int status = rest_load_table(cx, w->ns, w->table, &loaded), rc = -1;

	have = json_string_value(json_object_get(loaded, "metadata-location"));
	if (status < 0)
		goto out;
	if (have && strcmp(have, metadata) == 0) { /* an earlier attempt has done it */
		w->landed_before = true;
		answer = json_incref(loaded);
	} else if (have) {
		task_fail_at(cx, "into", "table %s is there already; drop it, or register %s under another name", w->name,
			     metadata);
		goto out;
	} else {
		if (rest_ensure_namespace(cx, w->ns) < 0)
			goto out;
		/* namespaces/NS/tables/T -> namespaces/NS/register, which is never longer */
		memcpy(place - strlen("tables"), "register", strlen("register") + 1);
		status = rest_call(cx, "POST", path, body, &answer);
		if (status != 200) {
			if (status >= 0)
				rest_fail(cx, "the table cannot be registered", status, answer);
			goto out;
		}
	}
	snap = current_snapshot(json_object_get(answer, "metadata"));
	w->snapshot_id = json_integer_value(json_object_get(snap, "snapshot-id"));
	w->rows = summary_number(snap, "total-records");
	w->files = summary_number(snap, "total-data-files");
	w->bytes = summary_number(snap, "total-files-size");
	rc = 0;
out:
	free(path);
	json_decref(body);
	json_decref(answer);
	json_decref(loaded);
	return rc;
}
