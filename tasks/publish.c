/* publish and curate: rows from files or from SQL into a table. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "tasks/casts.h"
#include "tasks/context.h"
#include "tasks/dataset.h"
#include "tasks/delta.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/write.h"
#include "tasks/report.h"

#define DEFAULT_FILE_SIZE (128LL << 20)

static const char *const evolutions[] = { "none", "add_columns", "widen" };

static int
pick(struct context *cx, const char *key, const char *const *names, int count, int otherwise)
{
	const char *text = spec_text(cx, key);

	for (int i = 0; text && i < count; i++)
		if (strcmp(text, names[i]) == 0)
			return i;
	if (text)
		return task_fail(cx, ERR_UNSUPPORTED, "%s \"%s\" is not supported yet", key, text);
	return otherwise;
}

/* What the task says about the write. */
static int
write_from_spec(struct context *cx, struct write *w)
{
	static const char *const parities[] = { "none", "counts", "full" };
	const json_t *usual = json_object_get(json_object_get(cx->doc, "housekeeping"), "target_file_size");
	int mode = pick(cx, "mode", write_mode_names, WRITE_MODE_COUNT, WRITE_APPEND),
	    evolution = pick(cx, "schema_evolution", evolutions, 3, EVOLVE_NONE),
	    parity = pick(cx, "parity", parities, 3, w->parity);

	if (w->name == NULL)
		return task_fail(cx, ERR_INVALID, "`into` names no table");
	if (mode < 0 || evolution < 0 || parity < 0)
		return -1;
	w->mode = (enum write_mode)mode;
	w->evolution = (enum write_evolution)evolution;
	w->parity = (enum write_parity)parity;
	if (w->mode >= WRITE_UPSERT && spec_text(cx, "parity") && w->parity != PARITY_NONE)
		return task_fail_at(cx, "parity", "parity compares the rows that are written; mode: %s %s",
				    write_mode_names[w->mode], w->mode == WRITE_UPSERT ? "writes others, too" : "writes none");
	if (w->mode >= WRITE_UPSERT)
		w->parity = PARITY_NONE;
	w->must_exist = json_is_false(json_object_get(cx->spec, "create"));
	w->properties = json_object_get(cx->spec, "properties");
	w->partition_by = json_object_get(cx->spec, "partition_by");
	w->sort_by = json_object_get(cx->spec, "sort_by");
	w->key = json_object_get(cx->spec, "key");
	w->compression = spec_text(cx, "compression");
	w->format_version = (int)json_integer_value(json_object_get(cx->spec, "format_version"));
	w->target_file_size = json_integer_value(json_object_get(cx->spec, "target_file_size"));
	w->usual_file_size = json_integer_value(usual) > 0 ? json_integer_value(usual) : DEFAULT_FILE_SIZE;
	return task_table_name(cx, w->name, &w->ns, &w->table);
}

static void
write_report_table(const struct write *w)
{
	char id[24];

	snprintf(id, sizeof(id), "%" PRId64, w->snapshot_id);
	report("tables",
	       json_pack("[{s:s+++,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:b}]", "table", w->ns, ".", w->table, "", "operation",
			 write_mode_names[w->mode], "snapshot_id", id, "rows", (json_int_t)w->rows, "files", (json_int_t)w->files,
			 "bytes", (json_int_t)w->bytes, "removed_rows", (json_int_t)w->removed_rows, "removed_files",
			 (json_int_t)w->removed_files, "landed_before", w->landed_before));
	printf("%s %" PRId64 " rows in %" PRId64 " files (%" PRId64 " bytes) to %s.%s, snapshot %s%s\n",
	       write_mode_names[w->mode], w->rows, w->files, w->bytes, w->ns, w->table, id,
	       w->landed_before ? " (already committed by an earlier attempt)" : "");
}

static void
write_report(const struct write *w)
{
	char id[24];

	write_report_table(w);
	snprintf(id, sizeof(id), "%" PRId64, w->snapshot_id);
	report("metrics", json_pack("{s:I,s:I,s:I}", "rows_out", (json_int_t)w->rows, "files_out", (json_int_t)w->files,
				    "bytes_out", (json_int_t)w->bytes));
	report("outputs",
	       json_pack("{s:s++,s:s,s:I}", "table", w->ns, ".", w->table, "snapshot_id", id, "rows", (json_int_t)w->rows));
}

/* Writes the rows of `w->query` into the table that `into` names, and reports it. */
static int
write_table(struct context *cx, struct write *w)
{
	int rc;

	w->name = spec_text(cx, "into");
	rc = write_from_spec(cx, w);
	if (rc == 0)
		rc = iceberg_write(cx, w);
	if (rc == 0 && w->parity != PARITY_NONE)
		rc = parity_table(cx, w);
	if (rc == 0)
		write_report(w);
	free(w->ns);
	free(w->table);
	return rc;
}

/* ---- rejects ---- */

/*
 * A stage task with on_reject: quarantine leaves what it rejected beside its target. Who publishes that target publishes these
 * rows as well, into a table of their own.
 */
static int
rejects_list(struct context *cx, const json_t *from, struct buf *out)
{
	size_t n = json_is_array(from) ? json_array_size(from) : 1;

	for (size_t i = 0; i < n; i++) {
		const char *path = task_path(cx, "from", json_string_value(json_is_array(from) ? json_array_get(from, i) : from));
		char *rejects;

		if (path == NULL)
			return -1;
		rejects = xasprintf("%s.rejects.parquet", path);
		if (storage_remote(rejects) ? task_any_file(cx, rejects) == 1 : access(rejects, R_OK) == 0) {
			buf_adds(out, out->len ? ", " : "[");
			buf_add_sql_string(out, rejects);
		}
		free(rejects);
	}
	if (out->len)
		buf_addc(out, ']');
	return 0;
}

static int
publish_rejects(struct context *cx)
{
	struct write w = { .mode = WRITE_APPEND, .usual_file_size = DEFAULT_FILE_SIZE };
	struct buf list = BUF_INIT, query = BUF_INIT;
	char *name = xasprintf("%s__rejected", spec_text(cx, "into"));
	int rc = rejects_list(cx, json_object_get(json_object_get(cx->spec, "from"), "path"), &list);

	if (rc < 0 || list.len == 0)
		goto out;
	buf_adds(&query, "SELECT ");
	buf_add_sql_string(&query, doc_text(cx, "run_id"));
	buf_adds(&query, " AS run_id, ");
	buf_add_sql_string(&query, doc_text(cx, "task_id"));
	buf_addf(&query, " AS task_id, file, line, message AS reason, \"text\" AS \"row\" FROM read_parquet(%s)", list.s);
	w.name = name;
	w.query = query.s;
	rc = task_table_name(cx, name, &w.ns, &w.table);
	if (rc == 0)
		rc = iceberg_write(cx, &w);
	if (rc == 0)
		write_report_table(&w);
out:
	free(w.ns);
	free(w.table);
	free(name);
	buf_release(&list);
	buf_release(&query);
	return rc;
}

/* mode: register: `from` is the metadata file, no data. */
static int
publish_register(struct context *cx)
{
	struct write w = { .name = spec_text(cx, "into") };
	const char *metadata = json_string_value(json_object_get(json_object_get(cx->spec, "from"), "path"));
	int rc;

	if (metadata == NULL)
		return task_fail_at(cx, "from", "with mode: register, `from` is one metadata file");
	rc = write_from_spec(cx, &w);
	if (rc == 0)
		rc = iceberg_register(cx, &w, metadata);
	if (rc == 0)
		write_report(&w);
	free(w.ns);
	free(w.table);
	return rc;
}

/* Is one of the paths in a store, whose files are not looked at for nothing? */
static bool
any_remote(const json_t *path)
{
	const json_t *one;
	size_t i;

	if (json_is_string(path))
		return storage_remote(json_string_value(path));
	json_array_foreach (path, i, one)
		if (storage_remote(json_string_value(one)))
			return true;
	return false;
}

/* Bare paths: Parquet files as they are. */
static int
publish_files(struct context *cx, const json_t *path)
{
	const char *mode = spec_text(cx, "mode");
	bool add = mode && strcmp(mode, "add_files") == 0;
	struct buf list = BUF_INIT;
	struct write w = { .source_rows = -1 };
	char *query = NULL;
	int rc = task_file_list(cx, path, &list);

	if (rc == 0) {
		w.query = query = xasprintf("SELECT * FROM read_parquet(%s, hive_partitioning = %s)", list.s,
					    add ? "true, union_by_name = true" : "false");
		w.files_from = add || !any_remote(path) ? list.s : NULL;
		rc = write_table(cx, &w);
	}
	if (rc == 0 && !add)
		rc = publish_rejects(cx);
	free(query);
	buf_release(&list);
	return rc;
}

/* The rows of an attached Delta table, with the types that the task asks for. */
static int
delta_query(struct context *cx, const json_t *cast, struct buf *out)
{
	json_t *columns = duck_describe(cx->db, "SELECT * FROM " DELTA_ROWS, &cx->err), *names = json_array(), *column;
	size_t i;
	int rc = columns ? 0 : -1;

	buf_adds(out, "SELECT ");
	json_array_foreach (columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name"));

		json_array_append(names, json_object_get(column, "name"));
		buf_adds(out, i ? ", " : "");
		casts_add(out, name, casts_type(cast, name));
	}
	buf_adds(out, " FROM " DELTA_ROWS);
	if (rc == 0)
		rc = casts_check(cx, "from/cast", cast, names);
	json_decref(names);
	json_decref(columns);
	return rc;
}

static int
publish_delta(struct context *cx, const json_t *from)
{
	struct delta d = { 0 };
	struct buf query = BUF_INIT;
	struct write w = { .parity = PARITY_FULL };
	int rc = delta_open(cx, "from", from, &d);

	if (rc == 0)
		rc = delta_query(cx, json_object_get(from, "cast"), &query);
	if (rc == 0) {
		w.query = query.s;
		w.source_rows = d.rows;
		w.new_partitions = d.partitions;
		w.new_required = d.required;
		rc = write_table(cx, &w);
	}
	if (rc == 0)
		report_output("version", json_integer((json_int_t)d.version));
	buf_release(&query);
	delta_release(&d);
	return rc;
}

/* What the table has decides over the folders' texts, unless the rows replace it whole. */
static json_t *
columns_there(struct context *cx)
{
	const char *mode = spec_text(cx, "mode"), *into = spec_text(cx, "into");
	char *ns = NULL, *table = NULL;
	json_t *out = NULL;

	if (into == NULL)
		task_fail(cx, ERR_INVALID, "`into` names no table");
	else if (mode && strcmp(mode, "replace") == 0)
		out = json_object();
	else if (task_table_name(cx, into, &ns, &table) == 0)
		out = iceberg_columns(cx, ns, table);
	free(ns);
	free(table);
	return out;
}

static int
publish_dataset(struct context *cx, const json_t *from)
{
	int evolution = pick(cx, "schema_evolution", evolutions, 3, EVOLVE_NONE), rc = -1;
	json_t *have = evolution < 0 ? NULL : columns_there(cx);
	struct dataset ds = { .query = BUF_INIT };
	struct write w = { .parity = PARITY_FULL, .source_rows = -1 };

	if (have)
		rc = dataset_open(cx, from, have, (enum write_evolution)evolution, &ds);
	if (rc == 0) {
		w.query = ds.query.s;
		w.new_partitions = ds.partitions;
		rc = write_table(cx, &w);
	}
	dataset_release(&ds);
	json_decref(have);
	return rc;
}

int
publish_run(struct context *cx)
{
	const json_t *from = json_object_get(cx->spec, "from");
	const char *mode = spec_text(cx, "mode"), *format = json_string_value(json_object_get(from, "format"));

	if (mode && strcmp(mode, "register") == 0)
		return publish_register(cx);
	if (format == NULL)
		return publish_files(cx, json_object_get(from, "path"));
	if (mode && strcmp(mode, "add_files") == 0)
		return task_fail_at(cx, "from", "mode: add_files takes files as they are; leave out from.format");
	return strcmp(format, "delta") == 0 ? publish_delta(cx, from) : publish_dataset(cx, from);
}

int
curate_run(struct context *cx)
{
	const char *sql = spec_text(cx, "sql"), *file = spec_text(cx, "sql_file");
	struct buf text = BUF_INIT;
	int rc = -1;

	if (sql == NULL && file) {
		rc = buf_add_file(&text, file);
		if (rc < 0) {
			task_fail(cx, ERR_IO, "sql_file %s cannot be read: %s", file, strerror(-rc));
			goto out;
		}
		sql = text.s;
	}
	rc = -1;
	if (sql == NULL) {
		task_fail(cx, ERR_INVALID, "there is no `sql`");
		goto out;
	}
	/* One transaction: tables are asked for once, and what is checked is what is read. It ends with the process. */
	if (iceberg_attach(cx) < 0 || duck_exec(cx->db, "BEGIN", &cx->err) < 0 || task_check_sql(cx, "sql", "", sql, "") < 0)
		goto out;
	/* A trailing semicolon is what people write, but not what a subquery takes. */
	{
		char *trimmed = xstrdup(sql);
		size_t n = strlen(trimmed);

		while (n && strchr("; \t\r\n", trimmed[n - 1]))
			trimmed[--n] = '\0';
		rc = write_table(cx, &(struct write){ .query = trimmed, .source_rows = -1 });
		free(trimmed);
	}
out:
	buf_release(&text);
	return rc;
}
