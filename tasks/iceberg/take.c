/*
 * Parquet files that hold what a write would put into files of its own become the table's by being copied, not decoded and encoded
 * once more: the pages as they are, behind them a footer that gives the columns the table's field ids. That fits what `stage`
 * writes and `publish` finds; rows of any other file are written anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "storage/storage.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/parquet_footer.h"
#include "tasks/iceberg/types.h"
#include "tasks/iceberg/write_int.h"

#define OURS           "DuckDB"   /* what created_by begins with: of other writers' statistics less is known */
#define SMALL_GROUPS   2          /* a file may have so many times the row groups that it would have */
#define LARGE_SHARE    1.5        /* of the size that a file is to have: from there on it is written in pieces */
#define FOOTER_MAX     (64 << 20) /* bytes */
#define COPY_AT_A_TIME (64 << 20) /* bytes, so that a signal comes through */
#define COPY_BY_HAND   (1 << 20)  /* bytes */

/* ---- does it fit? ---- */

/* Do the rows have the table's columns, each of the very type, in its order? */
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

/* Each file that has rows: its name, its bytes, and whether it was written as we would. NULL with the error set. */
static json_t *
look(struct writer *wr, const char *files)
{
	char *sql = xasprintf(
		"SELECT f.file_name, f.file_size_bytes::BIGINT, (f.created_by LIKE '" OURS "%%' AND f.encryption_algorithm IS NULL AND "
		"f.num_row_groups <= %d * (f.num_rows // %d + 1) AND c.alike) IS TRUE FROM parquet_file_metadata(%s) f "
		"JOIN (SELECT file_name, bool_and(lower(compression) = '%s') AS alike FROM parquet_metadata(%s) GROUP BY ALL) c "
		"USING (file_name) ORDER BY file_name",
		SMALL_GROUPS, ROW_GROUP_ROWS, files, writer_compression(wr), files);
	json_t *rows = duck_query_json(wr->cx->db, sql, &wr->cx->err);

	free(sql);
	return rows;
}

/* Of read_parquet the first file says what the columns are; the others are made to fit, and could not be copied. */
static int
one_schema(struct writer *wr, const json_t *files)
{
	json_t *file;
	size_t i;

	json_array_foreach (files, i, file) {
		struct buf b = BUF_INIT;
		json_t *columns;
		bool same;

		buf_adds(&b, "SELECT * FROM read_parquet(");
		buf_add_sql_string(&b, json_string_value(json_array_get(file, 0)));
		buf_adds(&b, ", hive_partitioning = false)");
		columns = duck_describe(wr->cx->db, b.s, &wr->cx->err);
		same = same_columns(wr, columns);
		buf_release(&b);
		json_decref(columns);
		if (columns == NULL || !same)
			return columns ? 0 : -1;
	}
	return 1;
}

/* 1: all of them can be copied; 0: no; -1 with the error set. */
static int
all_fit(struct writer *wr, const json_t *files)
{
	double size = (double)writer_file_size(wr);
	json_t *file;
	size_t i;

	json_array_foreach (files, i, file) {
		double bytes = json_number_value(json_array_get(file, 1));

		/* Several small ones are better written as one. */
		if (!json_is_true(json_array_get(file, 2)) || bytes > size * LARGE_SHARE ||
		    (json_array_size(files) > 1 && bytes < size * SMALL_SHARE))
			return 0;
	}
	return json_array_size(files) ? one_schema(wr, files) : 0;
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
		ssize_t n = copy_file_range(from, &at, to, NULL, end - at < COPY_AT_A_TIME ? (size_t)(end - at) : COPY_AT_A_TIME, 0);

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

/* 1; 0: its footer is not as we know them; -1 with the error set. */
static int
take_file(struct writer *wr, const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out = -1, failed = errno;
	struct buf end = BUF_INIT;
	off_t at = in < 0 ? -1 : footer(wr, in, &end);
	bool known = in < 0 || at >= 0, done = false;

	if (at >= 0) {
		out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		done = out >= 0 && copy_bytes(in, out, at) == 0 && fs_write_all(out, end.s, end.len) == 0;
		failed = errno;
	}
	if (out >= 0 && close(out) < 0 && done) {
		failed = errno;
		done = false;
	}
	if (in >= 0)
		close(in);
	buf_release(&end);
	return done || !known ? done : task_fail(wr->cx, ERR_IO, "%s cannot be copied to %s: %s", from, to, strerror(failed));
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

/* 1; 0: they cannot be copied; -1 with the error set. */
static int
take_all(struct writer *wr, const json_t *files, struct buf *list)
{
	char *dir = writer_folder(wr);
	json_t *file;
	int rc = dir ? 1 : -1;
	size_t i;

	json_array_foreach (files, i, file) {
		struct data_file *f;

		if (rc != 1)
			break;
		f = writer_add_file(wr);
		f->path = xasprintf("%s/%s-%zu.parquet", dir, wr->stem, i);
		f->url = xasprintf("%s%s", wr->location, f->path + strlen(wr->local));
		f->spec = wr->spec;
		f->partition = json_array();
		f->columns = json_object();
		rc = take_file(wr, json_string_value(json_array_get(file, 0)), f->path);
		if (rc == 1 && (f->bytes = task_file_size(wr->cx, f->path)) < 0)
			rc = -1;
		buf_adds(list, i ? ", " : "[");
		buf_add_sql_string(list, f->path);
	}
	buf_addc(list, ']');
	free(dir);
	if (rc == 0)
		forget_all(wr);
	return rc;
}

int
take_files(struct writer *wr)
{
	struct buf list = BUF_INIT;
	json_t *files = NULL;
	int rc = 0;

	if (!may_take(wr))
		return 0;
	files = look(wr, wr->w->files_from);
	rc = files ? all_fit(wr, files) : -1;
	if (rc == 1)
		rc = take_all(wr, files, &list);
	if (rc == 1 && footers_note(wr, list.s, true, writer_file) < 0)
		rc = -1;
	if (rc == 1)
		printf("took %zu file%s as %s\n", wr->nfiles, wr->nfiles == 1 ? "" : "s", wr->nfiles == 1 ? "it is" : "they are");
	buf_release(&list);
	json_decref(files);
	return rc;
}
