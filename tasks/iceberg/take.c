/*
 * Parquet files that hold what a write would put into files of its own become the table's by being copied, not decoded and
 * encoded once more: the pages as they are, behind them a footer that gives the columns the table's field ids. That fits what
 * `stage` writes and `publish` finds; rows of any other file are written anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "storage/storage.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/parquet_footer.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"

#define OURS           "DuckDB"   /* what created_by begins with: of other writers' statistics less is known */
#define FAR_GROUPS     2          /* times as many, or as few, row groups as it would have */
#define LARGE_SHARE    1.5        /* of the size that a file is to have: from there on it is written in pieces */
#define FOOTER_MAX     (64 << 20) /* bytes */
#define COPY_AT_A_TIME (64 << 20) /* bytes, so that a signal comes through */
#define COPY_BY_HAND   (1 << 20)  /* bytes */

/* ---- does it fit? ---- */

/* Have the rows the table's columns, each of the very type, in its order? [{name, type}] */
static bool
same_columns(const struct writer *wr, const json_t *columns)
{
	json_t *field;
	bool same = json_array_size(columns) == json_array_size(wr->fields);
	size_t i;

	json_array_foreach (wr->fields, i, field) {
		const json_t *column = json_array_get(columns, i);
		struct buf type = BUF_INIT;
		struct err ignored = ERR_INIT;

		same = same && json_is_string(json_object_get(field, "type")) && /* not nested */
		       !json_is_true(json_object_get(field, "required")) &&
		       json_equal(json_object_get(column, "name"), json_object_get(field, "name")) &&
		       iceberg_to_duck(json_object_get(field, "type"), &type, &ignored) == 0 &&
		       strcmp(json_string_value(json_object_get(column, "type")), type.s) == 0;
		err_release(&ignored);
		buf_release(&type);
	}
	return same;
}

static bool
may_take(const struct writer *wr)
{
	const struct write *w = wr->w;

	return w->files_from && (w->mode == WRITE_APPEND || w->mode == WRITE_OVERWRITE || w->mode == WRITE_REPLACE) &&
	       !storage_remote(wr->local) && json_array_size(json_object_get(wr->spec, "fields")) == 0 &&
	       json_array_size(json_object_get(wr->order, "fields")) == 0 && same_columns(wr, wr->columns);
}

/*
 * Their paths, where each is of our own writer and has the size and the row groups that it would have; those without a row are
 * left out. An empty list: not so. NULL with the error set.
 */
static json_t *
files_of_size(struct writer *wr)
{
	char *sql = xasprintf(
		"SELECT file_name, file_size_bytes::BIGINT, (created_by LIKE '" OURS "%%' AND format_version = 1 AND "
		"encryption_algorithm IS NULL AND num_row_groups BETWEEN num_rows // %d AND %d * (num_rows // %d + 1)) IS TRUE "
		"FROM parquet_file_metadata(%s) WHERE num_rows > 0 ORDER BY file_name",
		FAR_GROUPS * ROW_GROUP_ROWS, FAR_GROUPS, ROW_GROUP_ROWS, wr->w->files_from);
	json_t *rows = duck_query_json(wr->cx->db, sql, &wr->cx->err), *row, *files = rows ? json_array() : NULL;
	double size = (double)writer_file_size(wr);
	size_t i;

	free(sql);
	json_array_foreach (rows, i, row) {
		double bytes = json_number_value(json_array_get(row, 1));

		/* Several small ones are better written as one. */
		if (!json_is_true(json_array_get(row, 2)) || bytes > size * LARGE_SHARE ||
		    (json_array_size(rows) > 1 && bytes < size * SMALL_SHARE)) {
			json_array_clear(files);
			break;
		}
		json_array_append(files, json_array_get(row, 0));
	}
	json_decref(rows);
	return files;
}

/*
 * 1: of these files (SQL's list) `n` have rows, and each has the columns and the compression that it would have, and nothing that
 * means the same to DuckDB but not to others (milliseconds). 0: no. -1 with the error set.
 */
static int
files_alike(struct writer *wr, const char *files, size_t n)
{
	struct buf sql = BUF_INIT;
	json_t *rows, *row;
	size_t i;
	int rc;

	buf_adds(&sql, "WITH s AS (SELECT file_name, list({name: name, type: duckdb_type} ORDER BY column_id)::JSON::VARCHAR AS "
		       "columns, "
		       "bool_and(num_children IS NULL AND coalesce(converted_type, 'UTF8') IN ('UTF8', 'INT_32', 'INT_64', "
		       "'DECIMAL', 'DATE', "
		       "'TIME_MICROS', 'TIMESTAMP_MICROS')) AS plain FROM parquet_schema(");
	buf_addf(&sql, "%s) WHERE column_id > 0 GROUP BY ALL), m AS (SELECT file_name, bool_and(lower(compression) = lower(",
		 files);
	buf_add_sql_string(&sql, writer_compression(wr));
	buf_addf(&sql,
		 ")) AS packed FROM parquet_metadata(%s) GROUP BY ALL) SELECT columns, plain AND packed FROM s JOIN m USING "
		 "(file_name)",
		 files);
	rows = duck_query_json(wr->cx->db, sql.s, &wr->cx->err);
	rc = rows == NULL ? -1 : json_array_size(rows) == n;
	json_array_foreach (rows, i, row) {
		json_t *columns = json_loads(json_string_value(json_array_get(row, 0)), 0, NULL);

		if (!json_is_true(json_array_get(row, 1)) || !same_columns(wr, columns))
			rc = 0;
		json_decref(columns);
	}
	json_decref(rows);
	buf_release(&sql);
	return rc;
}

/* ---- the copy ---- */

static bool
cannot_here(int no)
{
	return no == EXDEV || no == EINVAL || no == EOPNOTSUPP || no == ENOSYS;
}

static int
copy_by_hand(int from, int to, off_t at, off_t end)
{
	char *part = xmalloc(COPY_BY_HAND);
	ssize_t n = 1;

	while (at < end && n > 0) {
		n = pread(from, part, end - at < COPY_BY_HAND ? (size_t)(end - at) : COPY_BY_HAND, at);
		if (n > 0 && fs_write_all(to, part, (size_t)n) < 0)
			n = -1;
		at += n > 0 ? n : 0;
	}
	free(part);
	if (n == 0)
		errno = EIO; /* it became shorter meanwhile */
	return at == end ? 0 : -1;
}

/* Copies all bytes before `end`, in the kernel where it can. 0, or -1 with errno. */
static int
copy_bytes(int from, int to, off_t end)
{
	off_t at = 0;

	while (at < end) {
		ssize_t n =
			copy_file_range(from, &at, to, NULL, end - at < COPY_AT_A_TIME ? (size_t)(end - at) : COPY_AT_A_TIME, 0);

		if (n == 0 || (n < 0 && cannot_here(errno)))
			return copy_by_hand(from, to, at, end);
		if (n < 0 && errno != EINTR)
			return -1;
	}
	return 0;
}

/* The file's footer, with the table's ids; where it begins. -1: it has none that we know. */
static off_t
footer(struct writer *wr, int fd, struct buf *out)
{
	size_t n = json_array_size(wr->fields);
	off_t size = lseek(fd, 0, SEEK_END), at = -1;
	unsigned char tail[PARQUET_TAIL];
	int *ids = xcalloc(n + 1, sizeof(*ids));
	char *text = NULL;
	uint32_t len;

	for (size_t i = 0; i < n; i++)
		ids[i] = (int)json_integer_value(json_object_get(json_array_get(wr->fields, i), "id"));
	if (size < PARQUET_TAIL || pread(fd, tail, sizeof(tail), size - PARQUET_TAIL) != sizeof(tail) ||
	    memcmp(tail + 4, PARQUET_MAGIC, 4) != 0)
		goto out;
	len = (uint32_t)tail[0] | (uint32_t)tail[1] << 8 | (uint32_t)tail[2] << 16 | (uint32_t)tail[3] << 24;
	if (len > FOOTER_MAX || len > size - PARQUET_TAIL)
		goto out;
	text = xmalloc(len);
	at = size - PARQUET_TAIL - (off_t)len;
	if (pread(fd, text, len, at) != (ssize_t)len || !parquet_footer_with_ids(text, len, ids, n, out)) {
		at = -1;
		goto out;
	}
	for (int i = 0; i < 4; i++)
		tail[i] = (unsigned char)(out->len >> (8 * i));
	buf_add(out, tail, sizeof(tail));
out:
	free(text);
	free(ids);
	return at;
}

/* Copies an open file. 1; 0: it is not one that we know, or was written to meanwhile; -1 with the error set. */
static int
copy_file(struct writer *wr, int in, const char *from, const char *to)
{
	int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), rc = -1;
	struct stat before, after;
	struct buf end = BUF_INIT;
	off_t at;

	if (out < 0 || fstat(in, &before) < 0)
		goto out;
	at = footer(wr, in, &end);
	if (at < 0)
		rc = 0;
	else if (copy_bytes(in, out, at) == 0 && fs_write_all(out, end.s, end.len) == 0 && fstat(in, &after) == 0)
		rc = before.st_size == after.st_size && before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
		     before.st_mtim.tv_nsec == after.st_mtim.tv_nsec;
out:
	if (rc < 0)
		task_fail(wr->cx, ERR_IO, "%s cannot be copied to %s: %s", from, to, strerror(errno));
	if (out >= 0 && close(out) < 0 && rc == 1)
		rc = task_fail(wr->cx, ERR_IO, "%s cannot be written: %s", to, strerror(errno));
	buf_release(&end);
	return rc;
}

static void
forget_all(struct writer *wr)
{
	for (size_t i = 0; i < wr->nfiles; i++) {
		task_file_remove(wr->cx, wr->files[i].path);
		data_file_release(&wr->files[i]);
	}
	wr->nfiles = 0;
}

static int
take_file(struct writer *wr, const char *from, const char *dir)
{
	struct data_file *f;
	int in = open(from, O_RDONLY | O_CLOEXEC), rc;

	if (in < 0)
		return 0; /* the engine reads it, or says why it cannot */
	f = writer_add_file(wr);
	f->path = xasprintf("%s/%s-%zu.parquet", dir, wr->stem, wr->nfiles - 1);
	f->url = xasprintf("%s%s", wr->location, f->path + strlen(wr->local));
	f->spec = wr->spec;
	f->partition = json_array();
	f->columns = json_object();
	f->ask_footer = true;
	rc = copy_file(wr, in, from, f->path);
	close(in);
	if (rc == 1 && (f->bytes = task_file_size(wr->cx, f->path)) < 0)
		rc = -1;
	return rc;
}

static int
take_all(struct writer *wr, const json_t *files)
{
	char *dir = writer_folder(wr);
	struct buf copies = BUF_INIT;
	json_t *file;
	int rc = dir ? 1 : -1;
	size_t i;

	json_array_foreach (files, i, file)
		if (rc == 1)
			rc = take_file(wr, json_string_value(file), dir);
	/* What was looked at and what was copied may be two files of one name: the copies are looked at once more. */
	if (rc == 1 && writer_file_list(wr, NULL, &copies))
		rc = files_alike(wr, copies.s, wr->nfiles);
	if (rc == 0)
		forget_all(wr);
	buf_release(&copies);
	free(dir);
	return rc;
}

int
take_files(struct writer *wr)
{
	json_t *files;
	int rc;

	if (!may_take(wr))
		return 0;
	files = files_of_size(wr);
	rc = files == NULL ? -1 : json_array_size(files) ? files_alike(wr, wr->w->files_from, json_array_size(files)) : 0;
	if (rc == 1)
		rc = take_all(wr, files);
	if (rc == 1)
		printf("took %zu file%s as %s\n", wr->nfiles, wr->nfiles == 1 ? "" : "s", wr->nfiles == 1 ? "it is" : "they are");
	json_decref(files);
	return rc;
}
