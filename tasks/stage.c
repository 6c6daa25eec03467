/*
 * stage: files in, one Parquet file (or a partitioned folder) out. The order of its steps: read (types by `schema` and
 * `cast`, text otherwise for CSV), `where` on the source's columns, `select`, `rename`. The target appears by rename, whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/fs.h"
#include "storage/storage.h"
#include "tasks/engines/duckdb.h"
#include "tasks/report.h"
#include "tasks/stage_int.h"

/* ---- rejects ---- */

/* Adds the rows that `bad` finds. They are looked for by reading the source once more. */
static int
collect_bad(struct stage *st)
{
	struct context *cx = st->cx;
	struct buf b = BUF_INIT;
	int64_t some;
	int rc;

	/* Cheap first: of a good source no more is read than what a condition needs, and no line is counted. */
	if (strcmp(st->format, "csv") == 0)
		buf_addf(&b, "SELECT count(*) FROM (FROM %s WHERE %s LIMIT 1)", st->reader.s, st->bad.s);
	else
		buf_addf(&b, "SELECT count(*) FROM (FROM (%s) WHERE %s LIMIT 1)", st->traced.s, st->bad.s);
	some = duck_count(cx->db, b.s, &cx->err);
	buf_clear(&b);
	if (some <= 0) {
		buf_release(&b);
		return some < 0 ? -1 : 0;
	}
	buf_addf(&b,
		 "CREATE OR REPLACE TEMP TABLE sluice_bad AS SELECT sluice_file AS file, sluice_row::BIGINT AS line, "
		 "concat_ws('; ', %s) AS message, "
		 "to_json({",
		 st->reasons.s);
	for (size_t i = 0; i < json_array_size(st->names); i++) {
		const char *name = json_string_value(json_array_get(st->names, i));

		buf_adds(&b, i ? ", " : "");
		buf_add_sql_string(&b, name);
		buf_adds(&b, ": ");
		buf_add_sql_name(&b, name);
	}
	buf_addf(&b, "})::VARCHAR AS \"text\" FROM (%s) WHERE %s", st->traced.s, st->bad.s);
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	/* Lines that the reader refused stand between those that it gave. */
	if (rc == 0)
		rc = duck_exec(cx->db,
			       "INSERT INTO sluice_rejects SELECT file, line + (SELECT count(*) FROM (SELECT r.file, r.line - "
			       "row_number() OVER "
			       "(PARTITION BY r.file ORDER BY r.line) + 1 AS at FROM sluice_rejects r) x WHERE x.file = b.file "
			       "AND x.at <= b.line), "
			       "'VALUE', message, \"text\" FROM sluice_bad b",
			       &cx->err);
	return rc < 0 ? -1 : 0;
}

/* Puts what the reader refused and what does not fit into one table. */
static int
collect_rejects(struct stage *st)
{
	struct context *cx = st->cx;
	static const char empty[] = "CREATE OR REPLACE TEMP TABLE sluice_rejects (file VARCHAR, line BIGINT, reason VARCHAR, "
				    "message VARCHAR, \"text\" VARCHAR)";

	if (strcmp(st->format, "csv") != 0) {
		if (duck_exec(cx->db, empty, &cx->err) < 0)
			return -1;
	} else if (duck_exec(cx->db,
			     /* One a row, however many of its columns are wrong. */
			     "CREATE OR REPLACE TEMP TABLE sluice_rejects AS SELECT s.file_path AS file, e.line::BIGINT AS line, "
			     "first(e.error_type)::VARCHAR AS reason, string_agg(DISTINCT e.error_message, '; ') AS message, "
			     "first(e.csv_line) AS \"text\" FROM reject_errors e JOIN reject_scans s USING (scan_id, file_id) "
			     "GROUP BY ALL",
			     &cx->err) < 0) {
		if (strstr(cx->err.msg, "reject_errors") == NULL)
			return -1;
		err_release(&cx->err); /* nothing was ever rejected: the tables are not there */
		if (duck_exec(cx->db, empty, &cx->err) < 0)
			return -1;
	}
	if (st->bad.len && collect_bad(st) < 0)
		return -1;
	if (st->kafka && stage_kafka_rejects(st) < 0)
		return -1;
	st->rejected = duck_count(cx->db, "SELECT count(*) FROM sluice_rejects", &cx->err);
	return st->rejected < 0 ? -1 : 0;
}

static int
judge_rejects(struct stage *st, bool copied)
{
	struct context *cx = st->cx;
	json_t *max = json_object_get(cx->spec, "max_rejects");
	struct duck_result *r;
	char *path;
	int rc;

	/* With `fail` a copy that went through has found nothing beyond the reader's own refusals. */
	if (copied && st->on_reject == REJECT_FAIL)
		buf_clear(&st->bad);
	if (collect_rejects(st) < 0)
		return -1;
	if (st->rejected == 0 || st->on_reject == REJECT_SKIP) {
		path = xasprintf("%s.rejects.parquet", st->path);
		task_file_remove(cx, path); /* an earlier run's: publish would take it for this one's */
		free(path);
	}
	if (st->rejected == 0)
		return 0;
	if (st->on_reject == REJECT_FAIL || (json_is_integer(max) && st->rejected > json_integer_value(max))) {
		const char *number = st->http ? ", record " : st->kafka ? ", offset " : ":";
		char *file, *message, *text, *hint, *at;
		int64_t line;

		r = duck_query(
			cx->db,
			"SELECT file, coalesce(line, 0), message, \"text\" FROM sluice_rejects ORDER BY file, line LIMIT 1",
			&cx->err);
		if (r == NULL)
			return -1;
		file = duck_text(r, 0, 0);
		line = duck_int(r, 0, 1);
		message = duck_text(r, 0, 2);
		text = duck_text(r, 0, 3);
		duck_result_free(r);
		hint = st->on_reject == REJECT_FAIL ? xstrdup("on_reject: skip or quarantine takes the rest")
						    : xasprintf("max_rejects is %lld", (long long)json_integer_value(max));
		text[strcspn(text, "\r\n")] = '\0';
		if (strlen(text) > 200)
			strcpy(text + 197, "...");
		at = line || st->kafka ? xasprintf("%s%" PRId64, number, line) : xstrdup(""); /* rows of a database have none */
		rc = task_fail(cx, ERR_UNPROCESSABLE,
			       "%s%s: %s: \"%s\"; %" PRId64 " row%s of the source %s bad; nothing was written (%s)",
			       file && *file ? file : json_string_value(json_array_get(st->files, 0)), at, message, text,
			       st->rejected, st->rejected == 1 ? "" : "s", st->rejected == 1 ? "is" : "are", hint);
		free(at);
		free(hint);
		free(file);
		free(message);
		free(text);
		return rc;
	}
	report_metric("rows_rejected", (json_int_t)st->rejected);
	printf("%" PRId64 " rows rejected\n", st->rejected);
	if (st->on_reject != REJECT_QUARANTINE)
		return 0;
	path = xasprintf("%s.rejects.parquet", st->path);
	{
		struct buf b = BUF_INIT;

		buf_adds(&b, "COPY (SELECT * FROM sluice_rejects ORDER BY file, line) TO ");
		buf_add_sql_string(&b, st->tmp_rejects);
		buf_adds(&b, " (FORMAT parquet)");
		rc = duck_exec(cx->db, b.s, &cx->err);
		buf_release(&b);
		if (rc == 0 && storage_remote(path))
			rc = storage_upload(task_storage(st->cx), path, st->tmp_rejects, &st->cx->err);
		else if (rc == 0 && rename(st->tmp_rejects, path) < 0)
			rc = task_fail(cx, ERR_IO, "cannot rename %s to %s: %s", st->tmp_rejects, path, strerror(errno));
	}
	if (rc == 0)
		report_output("rejects", json_string(path));
	free(path);
	return rc < 0 ? -1 : 0;
}

/* ---- the target ---- */

/* How the file is written, behind FORMAT. */
static void
add_format(const struct stage *st, struct buf *b)
{
	const char *compression = json_string_value(json_object_get(st->target, "compression")),
		   *delimiter = json_string_value(json_object_get(st->target, "delimiter"));
	const json_t *header = json_object_get(st->target, "header");

	if (st->writes == NULL) {
		buf_addf(b, "parquet, COMPRESSION %s", compression ? compression : "zstd");
		return;
	}
	buf_addf(b, "%s, COMPRESSION %s", st->writes,
		 compression && strcmp(compression, "uncompressed") != 0 ? compression
		 : compression                                           ? "none"
		 : fnmatch("*.gz", st->suffix, 0) == 0                   ? "gzip"
		 : fnmatch("*.zst", st->suffix, 0) == 0                  ? "zstd"
									 : "none");
	if (strcmp(st->writes, "csv") == 0) {
		buf_addf(b, ", HEADER %s, DELIMITER ", json_is_false(header) ? "false" : "true");
		buf_add_sql_string(b, delimiter ? delimiter : ",");
	}
}

int64_t
stage_write(struct stage *st, const char *query)
{
	const json_t *partitions = json_object_get(st->target, "partition_by");
	json_t *row_group = json_object_get(st->target, "row_group_size"), *name;
	struct buf b = BUF_INIT;
	struct duck_result *r;
	int64_t rows = -1;
	size_t i;

	buf_addf(&b, "COPY (%s) TO ", query);
	buf_add_sql_string(&b, st->tmp);
	buf_adds(&b, " (FORMAT ");
	add_format(st, &b);
	if (json_is_integer(row_group) && json_integer_value(row_group) > 0)
		buf_addf(&b, ", ROW_GROUP_SIZE_BYTES %lld", (long long)json_integer_value(row_group));
	if (json_array_size(partitions)) {
		buf_adds(&b, ", PARTITION_BY (");
		json_array_foreach (partitions, i, name) {
			if (i)
				buf_adds(&b, ", ");
			buf_add_sql_name(&b, json_string_value(name));
		}
		/* In the files too, so that reading them back loses no column. */
		buf_adds(&b, "), WRITE_PARTITION_COLUMNS true, FILE_EXTENSION ");
		buf_add_sql_string(&b, st->suffix + 1);
	}
	if (st->back)
		stage_add_mark(st, &b);
	buf_adds(&b, ")");
	/* A size in bytes for row groups is honoured only without order. */
	if (json_is_integer(row_group) && duck_exec(st->cx->db, "SET preserve_insertion_order = false", &st->cx->err) < 0)
		goto out;
	r = duck_query_counted(st->cx->db, b.s, &st->rows_in, &st->cx->err);
	if (r)
		rows = duck_int(r, 0, 0);
	duck_result_free(r);
	/* Lines of rejects are counted in the source's order. */
	if (json_is_integer(row_group) && duck_exec(st->cx->db, "SET preserve_insertion_order = true", &st->cx->err) < 0)
		rows = -1;
out:
	buf_release(&b);
	return rows;
}

static int64_t stage_bytes, stage_nfiles;

static int
on_measure(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path;
	(void)ftw;
	if (type == FTW_F) {
		stage_bytes += st->st_size;
		stage_nfiles++;
	}
	return 0;
}

/* The copy failed. When the cause is in the rows, say which one; otherwise the engine's words must do. */
static int
explain_failure(struct stage *st)
{
	struct err first;
	bool rows;

	if (database_format(st->format))
		stage_explain_database(st);
	first = st->cx->err;
	rows = strstr(first.msg, STAGE_NULL_FOUND) || strncmp(first.msg, "Conversion Error", 16) == 0;

	if (!rows || st->on_reject != REJECT_FAIL || st->bad.len == 0)
		return -1;
	st->cx->err = (struct err){ 0 };
	if (strcmp(st->format, "csv") == 0 && /* what the reader refuses was forgotten with the copy: all columns once more */
	    duck_execf(st->cx->db, &st->cx->err, "SELECT count(COLUMNS(*)) FROM %s", st->reader.s) < 0)
		err_release(&st->cx->err);
	if (judge_rejects(st, false) < 0 && st->rejected > 0) {
		err_release(&first);
		return -1;
	}
	err_release(&st->cx->err);
	st->cx->err = first;
	return -1;
}

/* Puts the written file or folder where the target is, in one step; what was there before goes away after it. */
int
stage_take_place(struct stage *st)
{
	nftw(st->tmp, on_measure, 16, FTW_PHYS);
	if (storage_remote(st->path))
		return stage_store_send(st);
	if (rename(st->tmp, st->path) == 0)
		return 0;
	if (renameat2(AT_FDCWD, st->tmp, AT_FDCWD, st->path, RENAME_EXCHANGE) < 0)
		return task_fail(st->cx, ERR_IO, "cannot rename %s to %s: %s", st->tmp, st->path, strerror(errno));
	fs_remove_tree(st->tmp);
	return 0;
}

void
stage_report(const struct stage *st, int64_t rows)
{
	report("metrics", json_pack("{s:I,s:I,s:I,s:I,s:I}", "files_read", (json_int_t)stage_files_read(st), "rows_in",
				    (json_int_t)st->rows_in, "rows_out", (json_int_t)rows, "files_out", (json_int_t)stage_nfiles,
				    "bytes_out", (json_int_t)stage_bytes));
	if (st->files_in >= 0)
		report("metrics",
		       json_pack("{s:I,s:I}", "files_in", (json_int_t)st->files_in, "bytes_in", (json_int_t)st->bytes_in));
	/* A partitioned target is read by its files. */
	if (stage_is_folder(st)) {
		char *prefix = storage_remote(st->path) ? stage_store_prefix(st) : xstrdup("");
		char *glob = xasprintf("%s/**/%s*%s", st->path, prefix, st->suffix);

		report_output("path", json_string(glob));
		free(glob);
		free(prefix);
	} else {
		report_output("path", json_string(st->path));
	}
	report_output("rows", json_integer((json_int_t)rows));
	if (st->http || st->kafka || st->writes)
		printf("%" PRId64 " rows to %s\n", rows, st->path);
	else
		printf("%" PRId64 " rows from %zu files to %s\n", rows, json_array_size(st->files), st->path);
}

/* For an attempt that died after its result was at its place. */
static int
report_again(struct stage *st, int64_t rows)
{
	char *rejects = xasprintf("%s.rejects.parquet", st->path);
	int there = st->on_reject == REJECT_QUARANTINE ? task_any_file(st->cx, rejects) : 0;

	if (there > 0)
		report_output("rejects", json_string(rejects));
	free(rejects);
	stage_report(st, rows);
	return there < 0 ? -1 : 0;
}

static int
stage_work(struct stage *st)
{
	struct context *cx = st->cx;
	struct buf query = BUF_INIT;
	int64_t rows;
	int rc = -1;

	if (stage_files(st) < 0 || stage_check_target(st) < 0)
		return -1;
	if (st->back && json_integer_value(json_object_get(cx->doc, "attempt")) > 1 &&
	    (rows = stage_written_before(st)) != STAGE_NOT_WRITTEN) {
		printf("an attempt before this one has written the result\n");
		return rows < 0 ? -1 : report_again(st, rows);
	}
	rc = stage_read(st);
	if (rc < 0 || stage_query(st, &query) < 0 || task_make_parents(cx, st->path) < 0) {
		buf_release(&query);
		return -1;
	}
	rows = stage_write(st, query.s);
	buf_release(&query);
	if (rows < 0)
		return explain_failure(st);
	FAULT("stage.finish.before");
	if (judge_rejects(st, true) < 0 || stage_take_place(st) < 0)
		return -1;
	FAULT("stage.finish.after");
	if (st->kafka && stage_kafka_end(st) < 0)
		return -1;
	stage_report(st, rows);
	return 0;
}

int
stage_begin(struct stage *st)
{
	struct context *cx = st->cx;
	const char *path;
	char *base;

	path = json_string_value(json_object_get(st->target, "path"));
	if (path == NULL)
		return task_fail(cx, ERR_INVALID, "target.path is missing");
	if ((path = task_path(cx, "target", path)) == NULL)
		return -1;
	st->path = xstrdup(path);
	for (size_t n = strlen(st->path); storage_remote(path) && n > 0 && st->path[n - 1] == '/'; n--)
		st->path[n - 1] = '\0';
	/* What goes to a store is first written here: it can be sent again, and nobody sees it before it is judged. */
	base = storage_remote(path) ? xasprintf("%s/target", doc_text(cx, "scratch")) : xstrdup(path);
	st->tmp = xasprintf("%s.tmp-%s-%lld", base, doc_text(cx, "run_id"),
			    (long long)json_integer_value(json_object_get(cx->doc, "attempt")));
	st->tmp_rejects = xasprintf("%s.rejects", st->tmp);
	/* What an earlier attempt left that was killed. */
	for (long long n = 1; n < (long long)json_integer_value(json_object_get(cx->doc, "attempt")); n++) {
		char *old = xasprintf("%s.tmp-%s-%lld", base, doc_text(cx, "run_id"), n), *rejects = xasprintf("%s.rejects", old);

		fs_remove_tree(old);
		unlink(rejects);
		free(old);
		free(rejects);
	}
	free(base);
	return 0;
}

void
stage_end(struct stage *st, int rc)
{
	if (st->tmp_rejects)
		unlink(st->tmp_rejects);
	if (rc < 0 && st->tmp)
		fs_remove_tree(st->tmp);
	buf_release(&st->reader);
	buf_release(&st->traced);
	buf_release(&st->bad);
	buf_release(&st->reasons);
	database_release(&st->database);
	stage_http_release(st);
	stage_kafka_release(st);
	json_decref(st->files);
	json_decref(st->names);
	json_decref(st->types);
	json_decref(st->lost);
	json_decref(st->not_null);
	json_decref(st->old);
	free(st->path);
	free(st->tmp);
	free(st->tmp_rejects);
}

int
stage_run(struct context *cx)
{
	static const char *const reject_names[] = { "fail", "skip", "quarantine" };
	struct stage st = {
		.cx = cx, .suffix = ".parquet", .reader = BUF_INIT, .traced = BUF_INIT, .bad = BUF_INIT, .reasons = BUF_INIT
	};
	const char *on_reject = spec_text(cx, "on_reject");
	int rc;

	st.source = json_object_get(cx->spec, "source");
	st.target = json_object_get(cx->spec, "target");
	st.format = stage_source_text(&st, "format", "csv");
	for (int i = 0; on_reject && i < 3; i++)
		if (strcmp(on_reject, reject_names[i]) == 0)
			st.on_reject = (enum on_reject)i;
	rc = stage_begin(&st);
	if (rc == 0)
		rc = stage_work(&st);
	stage_end(&st, rc);
	return rc;
}
