/*
 * Data files: written by the engine's COPY, which also tells what each file holds; the footer is read again only where there are
 * several row groups. A file's name begins with run, task and attempt: what a failed attempt leaves is found by it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "base/clock.h"
#include "base/fs.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/partition.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"

#define FIRST_SPLIT     4 /* a Parquet file's first row group stands behind its magic */
#define OPEN_PARTITIONS 1000

int64_t
random_id(void)
{
	uint64_t n = 0;

	if (getrandom(&n, sizeof(n), 0) != sizeof(n))
		n = (uint64_t)clock_wall() * 2654435761u;
	return (int64_t)(n >> 1) | 1;
}

void
data_file_release(struct data_file *f)
{
	free(f->path);
	free(f->url);
	json_decref(f->partition);
	json_decref(f->columns);
	json_decref(f->nan);
	json_decref(f->splits);
}

struct data_file *
writer_add_file(struct writer *wr)
{
	wr->files = xrealloc(wr->files, (wr->nfiles + 1) * sizeof(*wr->files));
	wr->files[wr->nfiles] = (struct data_file){ 0 };
	return &wr->files[wr->nfiles++];
}

/* ---- the copy ---- */

/* One line of the copy's answer: name, rows, bytes, footer's bytes, statistics by column, values by partition column. */
static void
note_file(struct writer *wr, const json_t *row, json_t *spec, const json_t *keys, int content)
{
	const char *path = json_string_value(json_array_get(row, 0));
	struct data_file *f;
	json_t *key;
	size_t i;

	if (json_integer_value(json_array_get(row, 1)) == 0) { /* an empty file helps nobody */
		task_file_remove(wr->cx, path);
		return;
	}
	f = writer_add_file(wr);
	f->path = xstrdup(path);
	f->url = xasprintf("%s%s", wr->location, path + strlen(wr->local));
	f->content = content;
	f->rows = json_integer_value(json_array_get(row, 1));
	f->bytes = json_integer_value(json_array_get(row, 2));
	f->columns = json_incref(json_array_get(row, 4));
	/* Threads put what is left over together: half a row group may be one. */
	f->ask_footer = f->rows > (wr->row_group ? wr->row_group : ROW_GROUP_ROWS) / 2;
	f->spec = spec;
	f->partition = json_array();
	json_array_foreach (keys, i, key)
		json_array_append(f->partition, json_object_get(json_array_get(row, 5), json_string_value(key)));
}

int
writer_copy(struct writer *wr, const char *sql, json_t *spec, const json_t *keys, int content)
{
	json_t *rows = duck_query_json(wr->cx->db, sql, &wr->cx->err), *row;
	size_t i;

	if (rows == NULL)
		return -1;
	json_array_foreach (rows, i, row)
		note_file(wr, row, spec, keys, content);
	json_decref(rows);
	return 0;
}

const char *
writer_compression(const struct writer *wr)
{
	const char *name = wr->w->compression ? wr->w->compression : writer_property(wr, "write.parquet.compression-codec");

	return name == NULL ? "zstd" : strcmp(name, "none") == 0 ? "uncompressed" : strcmp(name, "lz4") == 0 ? "lz4_raw" : name;
}

int64_t
writer_file_size(const struct writer *wr)
{
	const char *own = writer_property(wr, "write.target-file-size-bytes");

	if (wr->w->target_file_size > 0)
		return wr->w->target_file_size;
	return own && atoll(own) > 0 ? atoll(own) : wr->w->usual_file_size;
}

static void
copy_options(const struct writer *wr, struct buf *b)
{
	buf_adds(b, " (FORMAT parquet, COMPRESSION ");
	buf_add_sql_string(b, writer_compression(wr));
	buf_adds(b, ", OVERWRITE_OR_IGNORE, RETURN_STATS, FIELD_IDS ");
	iceberg_field_ids(wr->fields, b);
}

/* A whole row group is written before the engine looks at the size: it aims a little lower. */
static int64_t
aim(int64_t size)
{
	return size - size / 32 > 0 ? size - size / 32 : size;
}

char *
writer_folder(struct writer *wr)
{
	char *dir = xasprintf("%s/data", wr->local), *probe = xasprintf("%s/x", dir);
	int rc = task_make_parents(wr->cx, probe);

	free(probe);
	if (rc == 0)
		return dir;
	free(dir);
	return NULL;
}

/* ORDER BY of the table's sort order, if it has one. */
static int
add_order(struct writer *wr, struct buf *b)
{
	const json_t *fields = json_object_get(wr->order, "fields");
	struct buf order = BUF_INIT;
	bool hash = false;
	int rc = 0;

	if (json_array_size(fields) == 0)
		return 0;
	if (sort_expr(fields, wr->fields, &order, &hash, &wr->cx->err) < 0 ||
	    (hash && duck_add_hash(wr->cx->db, &wr->cx->err) < 0))
		rc = -1;
	else
		buf_addf(b, " ORDER BY %s", order.s);
	buf_release(&order);
	return rc;
}

static int
copy_plain(struct writer *wr, const char *dir)
{
	struct buf b = BUF_INIT;
	int rc = -1;

	buf_addf(&b, "COPY (%s", wr->select);
	if (json_array_size(json_object_get(wr->order, "fields"))) {
		buf_clear(&b);
		buf_addf(&b, "COPY (SELECT * FROM (%s)", wr->select);
	}
	if (add_order(wr, &b) < 0)
		goto out;
	buf_adds(&b, ") TO ");
	buf_add_sql_string(&b, dir);
	copy_options(wr, &b);
	buf_addf(&b, ", FILENAME_PATTERN '%s-{i}', FILE_SIZE_BYTES %lld)", wr->stem, (long long)aim(writer_file_size(wr)));
	rc = writer_copy(wr, b.s, wr->spec, NULL, CONTENT_DATA);
out:
	buf_release(&b);
	return rc;
}

/* ---- partitions ---- */

static bool
is_column(const json_t *fields, const char *name)
{
	json_t *field;
	size_t i;

	json_array_foreach (fields, i, field)
		if (strcasecmp(json_string_value(json_object_get(field, "name")), name) == 0)
			return true;
	return false;
}

/* Can the folders be named by the table's own columns? Then the rows need no others. */
static bool
only_columns(const struct writer *wr)
{
	json_t *field;
	size_t i;

	json_array_foreach (json_object_get(wr->spec, "fields"), i, field) {
		const json_t *column = column_by_id(wr->fields, json_integer_value(json_object_get(field, "source-id")), NULL);

		if (strcmp(json_string_value(json_object_get(field, "transform")), "identity") != 0 ||
		    !json_equal(json_object_get(column, "name"), json_object_get(field, "name")) ||
		    !is_column(wr->fields, json_string_value(json_object_get(column, "name"))))
			return false;
	}
	return true;
}

/* The columns to partition by: of the table, or added to `select` under names that are no column's. NULL with the error set. */
static json_t *
partition_columns(struct writer *wr, bool own, struct buf *select)
{
	json_t *names = json_array(), *field;
	bool hash = false;
	size_t i;

	json_array_foreach (json_object_get(wr->spec, "fields"), i, field) {
		struct buf name = BUF_INIT;

		buf_adds(&name, json_string_value(json_object_get(field, "name")));
		if (!own) {
			while (is_column(wr->fields, name.s))
				buf_adds(&name, "_key");
			buf_adds(select, ", ");
			if (partition_expr(field, wr->fields, select, &hash, &wr->cx->err) < 0) {
				buf_release(&name);
				json_decref(names);
				return NULL;
			}
			buf_adds(select, " AS ");
			buf_add_sql_name(select, name.s);
		}
		json_array_append_new(names, json_string(name.s));
		buf_release(&name);
	}
	if (hash && duck_add_hash(wr->cx->db, &wr->cx->err) < 0) {
		json_decref(names);
		return NULL;
	}
	return names;
}

/* Moves a file from the attempt's own folder to the one of all, and gives its partition's folders the fields' names. */
static int
file_settle(struct writer *wr, struct data_file *f, const char *from, const char *dir, const json_t *keys)
{
	struct buf path = BUF_INIT;
	const char *at = f->path + strlen(from), *end;
	json_t *key;
	size_t i;
	int rc = 0;

	buf_adds(&path, dir);
	json_array_foreach (keys, i, key) {
		const char *field =
			json_string_value(json_object_get(json_array_get(json_object_get(wr->spec, "fields"), i), "name"));
		size_t n = strlen(json_string_value(key));

		end = strchr(at + 1, '/');
		if (end == NULL || strncmp(at + 1, json_string_value(key), n) != 0 || at[n + 1] != '=')
			break; /* a name that the engine writes in another way stays as it is */
		buf_addf(&path, "/%s%.*s", field, (int)(end - at - 1 - (ptrdiff_t)n), at + 1 + n);
		at = end;
	}
	buf_adds(&path, at);
	if (fs_make_parents(path.s) < 0 || rename(f->path, path.s) < 0)
		rc = task_fail(wr->cx, ERR_IO, "%s cannot be renamed to %s: %s", f->path, path.s, strerror(errno));
	free(f->path);
	free(f->url);
	f->path = buf_detach(&path);
	f->url = xasprintf("%s%s", wr->location, f->path + strlen(wr->local));
	return rc;
}

/*
 * A column of the table cannot be the copy's partition column beside others that are not the table's (those would be written into
 * the files), so it has another name there; but folders get the name that other engines give them. For that the copy goes to a
 * folder of the attempt's own, out of which the files are moved. A store has nothing to move.
 */
static bool
other_names(const struct writer *wr, const json_t *keys)
{
	json_t *field;
	size_t i;

	json_array_foreach (json_object_get(wr->spec, "fields"), i, field)
		if (!json_equal(json_object_get(field, "name"), json_array_get(keys, i)))
			return !storage_remote(wr->local);
	return false;
}

static int
files_settle(struct writer *wr, size_t first, const char *from, const char *dir, const json_t *keys)
{
	int rc = 0;

	for (size_t i = first; i < wr->nfiles && rc == 0; i++)
		rc = file_settle(wr, &wr->files[i], from, dir, keys);
	return rc;
}

/* With several threads a partition's rows arrive in any order. */
static int
one_thread(struct writer *wr, int64_t *before)
{
	*before = duck_count(wr->cx->db, "SELECT current_setting('threads')::BIGINT", &wr->cx->err);
	return *before < 0 ? -1 : duck_exec(wr->cx->db, "SET threads = 1", &wr->cx->err);
}

/* A partition's rows come in one file, however many: one that is far too large is written again in pieces. */
static int
split_large(struct writer *wr)
{
	int64_t size = writer_file_size(wr);
	size_t n = wr->nfiles;

	for (size_t i = 0; i < n; i++) {
		struct data_file old = wr->files[i];
		struct buf b = BUF_INIT;
		size_t first = wr->nfiles;
		char *slash;
		int rc;

		if (old.bytes <= size + size / 2)
			continue;
		buf_adds(&b, "COPY (SELECT * FROM read_parquet(");
		buf_add_sql_string(&b, old.path);
		buf_adds(&b, ", hive_partitioning = false)) TO ");
		slash = strrchr(old.path, '/');
		*slash = '\0';
		buf_add_sql_string(&b, old.path);
		*slash = '/';
		copy_options(wr, &b);
		buf_addf(&b, ", FILENAME_PATTERN '%s-%zu-{i}', FILE_SIZE_BYTES %lld)", wr->stem, i, (long long)aim(size));
		rc = writer_copy(wr, b.s, wr->spec, NULL, CONTENT_DATA);
		buf_release(&b);
		if (rc < 0)
			return -1;
		for (size_t k = first; k < wr->nfiles; k++)
			json_array_extend(wr->files[k].partition, old.partition);
		task_file_remove(wr->cx, old.path);
		data_file_release(&old);
		wr->files[i] = wr->files[--wr->nfiles]; /* the last piece takes its place */
	}
	return 0;
}

static int
copy_partitioned(struct writer *wr, const char *dir)
{
	bool own = only_columns(wr), sorted = json_array_size(json_object_get(wr->order, "fields")) > 0;
	struct buf b = BUF_INIT;
	json_t *keys = NULL, *key;
	size_t first = wr->nfiles, i;
	char *aside = NULL;
	int64_t threads = 0;
	int rc = -1;

	buf_adds(&b, "COPY (SELECT *");
	keys = partition_columns(wr, own, &b);
	if (keys == NULL)
		goto out;
	buf_addf(&b, " FROM (%s)", wr->select);
	if (add_order(wr, &b) < 0 || (sorted && one_thread(wr, &threads) < 0))
		goto out;
	buf_adds(&b, ") TO ");
	if (other_names(wr, keys))
		aside = xasprintf("%s/%s", dir, wr->stem);
	buf_add_sql_string(&b, aside ? aside : dir);
	copy_options(wr, &b);
	buf_addf(&b, ", FILENAME_PATTERN '%s-{uuid}', WRITE_PARTITION_COLUMNS %s, PARTITION_BY (", wr->stem,
		 own ? "true" : "false");
	json_array_foreach (keys, i, key) {
		buf_adds(&b, i ? ", " : "");
		buf_add_sql_name(&b, json_string_value(key));
	}
	buf_adds(&b, "))");
	if (duck_execf(wr->cx->db, &wr->cx->err, "SET partitioned_write_max_open_files = %d", OPEN_PARTITIONS) < 0)
		goto out;
	rc = writer_copy(wr, b.s, wr->spec, keys, CONTENT_DATA);
	if (rc == 0 && aside)
		rc = files_settle(wr, first, aside, dir, keys);
	if (rc == 0)
		rc = split_large(wr);
out:
	if (threads && duck_execf(wr->cx->db, &wr->cx->err, "SET threads = %lld", (long long)threads) < 0)
		rc = -1;
	if (aside)
		fs_remove_tree(aside);
	free(aside);
	json_decref(keys);
	buf_release(&b);
	return rc;
}

/* ---- what the copy does not tell ---- */

bool
writer_file_list(const struct writer *wr, bool (*want)(const struct data_file *), struct buf *b)
{
	bool any = false;

	for (size_t i = 0; i < wr->nfiles; i++) {
		if (wr->files[i].content != CONTENT_DATA || (want && !want(&wr->files[i])))
			continue;
		buf_adds(b, any ? ", " : "[");
		buf_add_sql_string(b, wr->files[i].path);
		any = true;
	}
	if (any)
		buf_adds(b, "]");
	return any;
}

static struct data_file *
file_by_path(struct writer *wr, const char *path)
{
	for (size_t i = 0; i < wr->nfiles; i++)
		if (strcmp(wr->files[i].path, path) == 0)
			return &wr->files[i];
	return NULL;
}

static bool
asks_footer(const struct data_file *f)
{
	return f->ask_footer;
}

/*
 * Of a file with several row groups the copy tells of NaN in the last one only, of no bounds where one of them has no values, and
 * not where they begin. The footer has it all, but for NaN in fields of nested columns, of which nothing is known then.
 */
static int
ask_footers(struct writer *wr)
{
	struct buf files = BUF_INIT;
	const char *path;
	json_t *stats;
	int rc = 0;

	for (size_t i = 0; i < wr->nfiles; i++)
		if (wr->files[i].ask_footer)
			json_object_foreach (wr->files[i].columns, path, stats)
				json_object_del(stats, "has_nan");
	if (writer_file_list(wr, asks_footer, &files))
		rc = footers_note(wr, files.s, true, file_by_path);
	buf_release(&files);
	for (size_t i = 0; i < wr->nfiles && rc == 0; i++) {
		struct data_file *f = &wr->files[i];

		if (f->splits == NULL && !f->ask_footer)
			f->splits = json_pack("[i]", FIRST_SPLIT);
		if (f->rows == 0)
			rc = task_fail(wr->cx, ERR_IO, "the footer of %s was not found again", f->path);
	}
	return rc;
}

static bool
has_nan(const struct data_file *f)
{
	const char *path, *text;
	json_t *stats;

	json_object_foreach (f->columns, path, stats) {
		text = json_string_value(json_object_get(stats, "has_nan"));
		if (text && strcmp(text, "true") == 0)
			return true;
	}
	return false;
}

/* The copy tells whether there is a NaN, not how many: those files are counted. Columns inside of others stay unknown. */
static int
count_nan(struct writer *wr)
{
	struct buf files = BUF_INIT, b = BUF_INIT;
	json_t *rows, *row, *field, *names;
	size_t i, k;

	if (!writer_file_list(wr, has_nan, &files)) {
		buf_release(&files);
		return 0;
	}
	names = json_array();
	buf_adds(&b, "SELECT filename");
	json_array_foreach (wr->fields, i, field) {
		const char *type = json_string_value(json_object_get(field, "type"));

		if (type == NULL || (strcmp(type, "float") != 0 && strcmp(type, "double") != 0))
			continue;
		buf_adds(&b, ", count(*) FILTER (WHERE isnan(");
		buf_add_sql_name(&b, json_string_value(json_object_get(field, "name")));
		buf_adds(&b, "))");
		json_array_append(names, json_object_get(field, "name"));
	}
	buf_addf(&b, " FROM read_parquet(%s, filename = true, hive_partitioning = false) GROUP BY filename", files.s);
	rows = duck_query_json(wr->cx->db, b.s, &wr->cx->err);
	json_array_foreach (rows, i, row) {
		struct data_file *f = file_by_path(wr, json_string_value(json_array_get(row, 0)));
		json_t *name;

		if (f == NULL)
			continue;
		f->nan = json_object();
		json_array_foreach (names, k, name) {
			struct buf path = BUF_INIT;

			buf_add_sql_name(&path, json_string_value(name));
			json_object_set(f->nan, path.s, json_array_get(row, k + 1));
			buf_release(&path);
		}
	}
	i = rows != NULL;
	json_decref(rows);
	json_decref(names);
	buf_release(&files);
	buf_release(&b);
	return i ? 0 : -1;
}

/* The rows of wr->select. */
static int
copy_rows(struct writer *wr)
{
	char *dir = writer_folder(wr);
	int rc = -1;

	if (dir)
		rc = json_array_size(json_object_get(wr->spec, "fields")) ? copy_partitioned(wr, dir) : copy_plain(wr, dir);
	free(dir);
	return rc < 0 ? -1 : 0;
}

int
writer_data(struct writer *wr)
{
	int taken = take_files(wr);

	return taken < 0 || (taken == 0 && copy_rows(wr) < 0) ? -1 : writer_data_done(wr);
}

int
writer_data_part(struct writer *wr, const char *select, const json_t *partition, const char *dir, int64_t size, int64_t row_group)
{
	bool plain = partition || json_array_size(json_object_get(wr->spec, "fields")) == 0;
	struct buf b = BUF_INIT;
	size_t first = wr->nfiles;
	char *probe;
	int rc;

	if (!plain) {
		free(wr->select);
		wr->select = xstrdup(select);
		return copy_rows(wr);
	}
	probe = xasprintf("%s/x", dir);
	rc = task_make_parents(wr->cx, probe);
	free(probe);
	buf_addf(&b, "COPY (SELECT * FROM (%s)", select);
	if (rc < 0 || add_order(wr, &b) < 0)
		goto out;
	buf_adds(&b, ") TO ");
	probe = size ? xstrdup(dir) : xasprintf("%s/%s-%zu.parquet", dir, wr->stem, first);
	buf_add_sql_string(&b, probe);
	free(probe);
	copy_options(wr, &b);
	if (size)
		buf_addf(&b, ", FILENAME_PATTERN '%s-%zu-{i}', FILE_SIZE_BYTES %lld", wr->stem, first, (long long)size);
	wr->row_group = size && row_group < ROW_GROUP_ROWS ? row_group : 0;
	if (wr->row_group)
		buf_addf(&b, ", ROW_GROUP_SIZE %lld", (long long)row_group);
	buf_adds(&b, ")");
	rc = writer_copy(wr, b.s, wr->spec, NULL, CONTENT_DATA);
	for (size_t i = first; i < wr->nfiles; i++)
		json_array_extend(wr->files[i].partition, (json_t *)(uintptr_t)partition);
out:
	buf_release(&b);
	return rc < 0 ? -1 : 0;
}

void
writer_sum(struct writer *wr)
{
	for (size_t i = 0; i < wr->nfiles; i++) {
		wr->w->rows += wr->files[i].rows;
		wr->w->bytes += wr->files[i].bytes;
	}
	wr->w->files = (int64_t)wr->nfiles;
}

int
writer_data_done(struct writer *wr)
{
	if (ask_footers(wr) < 0 || count_nan(wr) < 0)
		return -1;
	writer_sum(wr);
	return 0;
}

static int
remove_if_ours(const char *location, int64_t size, wall_us modified, void *arg)
{
	const struct writer *wr = arg;
	const char *name = strrchr(location, '/');

	(void)size;
	(void)modified;
	if (name && strncmp(name + 1, wr->stem, strlen(wr->stem)) == 0)
		task_file_remove(wr->cx, location);
	return 0;
}

/* Removes what a failed write left in data/, also the files that it never got to know of. */
void
writer_remove_data(const struct writer *wr)
{
	char *dir = xasprintf("%s/data", wr->local);
	struct err e = ERR_INIT;

	if (wr->cx->storage == NULL)
		wr->cx->storage = storage_new(json_object_get(wr->cx->doc, "s3"), &e);
	if (wr->cx->storage && storage_list(wr->cx->storage, dir, remove_if_ours, (void *)(uintptr_t)wr, &e) < 0)
		fprintf(stderr, "files stay behind: %s\n", e.msg);
	err_release(&e);
	free(dir);
}
