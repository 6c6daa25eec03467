/*
 * What a stage task would replace, looked at before it reads: nothing that it did not read or that no stage task wrote, and
 * nothing that the next run would take for its source. A task may read its own target and write it back.
 */
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "tasks/engines/duckdb.h"
#include "tasks/stage_int.h"

/* What is in the folder before; one walk at a time. */
static struct {
	const json_t *sources; /* file_key -> true */
	size_t read, others;
	char *foreign; /* the first of another kind than is written */
	const char *suffix;
} there;

/* The same file has the same key, however its path is written. The caller frees it. */
static char *
file_key(const struct stat *st)
{
	return xasprintf("%llx:%llx", (unsigned long long)st->st_dev, (unsigned long long)st->st_ino);
}

static int
on_there(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	size_t n = strlen(path), suffix = strlen(there.suffix);
	char *key;

	if (type != FTW_F || ftw->level == 0)
		return 0;
	if (n < suffix || strcmp(path + n - suffix, there.suffix) != 0) {
		there.foreign = xstrdup(path);
		return 1;
	}
	key = file_key(st);
	if (json_object_get(there.sources, key))
		there.read++;
	else
		there.others++;
	free(key);
	return 0;
}

static json_t *
source_keys(const struct stage *st)
{
	json_t *keys = json_object(), *file;
	struct stat info;
	size_t i;

	json_array_foreach (st->files, i, file) {
		char *key;

		if (stat(json_string_value(file), &info) < 0)
			continue;
		key = file_key(&info);
		json_object_set_new(keys, key, json_true());
		free(key);
	}
	return keys;
}

/* A folder may be read and written back: then all that goes was read. */
static int
check_folder(struct stage *st)
{
	json_t *keys = source_keys(st);
	int rc = 0;

	there.sources = keys;
	there.read = there.others = 0;
	there.foreign = NULL;
	there.suffix = st->suffix;
	nftw(st->path, on_there, 16, FTW_PHYS);
	if (there.foreign)
		rc = task_fail_at(
			st->cx, stage_target_key(st),
			"the folder %s holds %s, which is not %s; the result would replace it: name a folder of its own",
			st->path, there.foreign, st->writes ? st->suffix : "Parquet");
	else if (there.read && there.others)
		rc = task_fail_at(
			st->cx, stage_target_key(st),
			"the folder %s holds %zu files that this task reads and %zu that it does not, and the result would "
			"replace all of them; read the whole folder (%s/**/*.parquet), or name another one to write to",
			st->path, there.read, there.others, st->path);
	st->back = there.read > 0;
	free(there.foreign);
	json_decref(keys);
	return rc;
}

bool
stage_is_folder(const struct stage *st)
{
	return json_array_size(json_object_get(st->target, "partition_by")) > 0;
}

/* Would the pattern find what is going to be written, among other files? */
static bool
finds_target(const struct stage *st, const char *pattern)
{
	size_t n = strlen(st->path);
	struct buf written = BUF_INIT;
	bool finds;

	if (strpbrk(pattern, "*?[") == NULL)
		return false;
	buf_addf(&written, "%s.rejects.parquet", st->path);
	if (st->on_reject == REJECT_QUARANTINE && storage_matches(pattern, written.s)) {
		buf_release(&written);
		return true;
	}
	buf_clear(&written);
	buf_adds(&written, st->path);
	if (stage_is_folder(st)) {
		if (strncmp(pattern, st->path, n) == 0 && pattern[n] == '/')
			return false; /* it reads the folder that is written back */
		for (size_t i = 0; i < json_array_size(json_object_get(st->target, "partition_by")); i++)
			buf_addf(&written, "/%s=x",
				 json_string_value(json_array_get(json_object_get(st->target, "partition_by"), i)));
		buf_addf(&written, "/data_0%s", st->suffix);
	}
	finds = storage_matches(pattern, written.s);
	buf_release(&written);
	return finds;
}

static int
check_patterns(struct stage *st)
{
	const json_t *path = json_object_get(st->source, "path");
	size_t n = json_is_array(path) ? json_array_size(path) : 1;

	for (size_t i = 0; i < n; i++) {
		const char *pattern = json_string_value(json_is_array(path) ? json_array_get(path, i) : path);

		if (pattern && finds_target(st, strip_scheme(pattern)))
			return task_fail_at(
				st->cx, stage_target_key(st),
				"source.path %s also finds what is written to %s, so the next run would read this result "
				"as a source; write it elsewhere, or name the files to read one by one",
				pattern, st->path);
	}
	return 0;
}

/* Is the file at the target one of those that are read? */
static bool
reads_file(const struct stage *st, const struct stat *info)
{
	json_t *keys = source_keys(st);
	char *key = file_key(info);
	bool found = json_object_get(keys, key) != NULL;

	free(key);
	json_decref(keys);
	return found;
}

int
stage_check_target(struct stage *st)
{
	struct stat info;

	int rc = check_patterns(st);

	if (rc == 0 && storage_remote(st->path)) {
		st->back = !stage_is_folder(st) && stage_has_name(st->files, st->path);
		rc = stage_store_check(st);
	} else if (rc == 0 && lstat(st->path, &info) == 0) {
		if (S_ISDIR(info.st_mode) && !stage_is_folder(st))
			return task_fail_at(st->cx, stage_target_key(st),
					    "%s is a folder; name a file in it, or set partition_by to write a folder", st->path);
		if (stage_is_folder(st))
			rc = check_folder(st);
		else
			st->back = reads_file(st, &info);
	}
	if (rc == 0 && st->back && strcmp(st->format, "parquet") != 0)
		return task_fail_at(st->cx, stage_target_key(st),
				    "%s is the source, of format %s, and the result would be Parquet: name "
				    "another file to write",
				    st->path, st->format);
	return rc;
}

const char *
stage_target_key(const struct stage *st)
{
	return st->target == json_object_get(st->cx->spec, "to") ? "to/path" : "target/path";
}

/* ---- written back once ---- */

/* What Parquet files that were written back say of themselves. */
static char *
mark_text(const struct stage *st)
{
	return xasprintf("%s/%s", doc_text(st->cx, "run_id"), doc_text(st->cx, "task_id"));
}

void
stage_add_mark(const struct stage *st, struct buf *b)
{
	char *text = mark_text(st);

	buf_adds(b, ", KV_METADATA {'" STAGE_MARK "': ");
	buf_add_sql_string(b, text);
	buf_adds(b, "}");
	free(text);
}

/* All files of a folder take their place together, so that one tells of all. */
int64_t
stage_written_before(const struct stage *st)
{
	struct context *cx = st->cx;
	struct buf b = BUF_INIT;
	char *text = mark_text(st), *files = xasprintf("%s%s", st->path, stage_is_folder(st) ? "/**/*.parquet" : "");
	int64_t n;

	buf_adds(&b, "SELECT count(*) FROM parquet_kv_metadata(");
	buf_add_sql_string(&b, files);
	buf_adds(&b, ") WHERE decode(key) = '" STAGE_MARK "' AND decode(value) = ");
	buf_add_sql_string(&b, text);
	n = duck_count(cx->db, b.s, &cx->err);
	buf_clear(&b);
	buf_adds(&b, "SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata(");
	buf_add_sql_string(&b, files);
	buf_adds(&b, ")");
	if (n > 0)
		n = duck_count(cx->db, b.s, &cx->err);
	else if (n == 0)
		n = STAGE_NOT_WRITTEN;
	buf_release(&b);
	free(text);
	free(files);
	return n;
}
