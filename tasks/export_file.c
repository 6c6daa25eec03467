/* Files as the target of an export: written beside their place, which they take in one step, as those of a stage task do. */
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "tasks/export.h"
#include "tasks/stage_int.h"

/* The end of the files' names, by which one sees format and compression. */
static const char *
suffix_of(const json_t *to, const char *format)
{
	static const char *const suffixes[][3] = { { ".csv", ".csv.gz", ".csv.zst" }, { ".json", ".json.gz", ".json.zst" } };
	const char *compression = json_string_value(json_object_get(to, "compression")),
		   *path = json_string_value(json_object_get(to, "path"));
	int i = 0;

	if (strcmp(format, "parquet") == 0)
		return ".parquet";
	if (compression)
		i = strcmp(compression, "gzip") == 0 ? 1 : strcmp(compression, "zstd") == 0 ? 2 : 0;
	else
		i = fnmatch("*.gz", path, 0) == 0 ? 1 : fnmatch("*.zst", path, 0) == 0 ? 2 : 0;
	return suffixes[strcmp(format, "json") == 0][i];
}

static int
check_target(struct stage *st)
{
	if (stage_check_target(st) < 0)
		return -1;
	if (st->back)
		return task_fail_at(st->cx, "to/path",
				    "%s is read, and would be replaced by what is read of it; name another file", st->path);
	return 0;
}

/* What is read, so that it is not replaced. */
static void
note_sources(struct stage *st)
{
	const json_t *path = json_object_get(st->source, "path");
	size_t n = json_is_array(path) ? json_array_size(path) : path != NULL;

	st->files = json_array();
	st->files_in = -1;
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			st->files,
			json_string(strip_scheme(json_string_value(json_is_array(path) ? json_array_get(path, i) : path))));
}

int
export_file(struct context *cx, const json_t *to, const char *query)
{
	const char *format = json_string_value(json_object_get(to, "format"));
	struct stage st = { .cx = cx,
			    .source = json_object_get(cx->spec, "from"),
			    .target = to,
			    .format = "parquet",
			    .writes = strcmp(format, "parquet") == 0 ? NULL : format,
			    .reader = BUF_INIT,
			    .traced = BUF_INIT,
			    .bad = BUF_INIT,
			    .reasons = BUF_INIT };
	int64_t rows = -1;
	int rc;

	note_sources(&st);
	if (json_string_value(json_object_get(to, "path")))
		st.suffix = suffix_of(to, format);
	rc = stage_begin(&st);
	if (rc == 0)
		rc = check_target(&st);
	if (rc == 0)
		rc = task_make_parents(cx, st.path);
	if (rc == 0)
		rows = stage_write(&st, query);
	FAULT("export.finish.before");
	rc = rows < 0 ? -1 : stage_take_place(&st);
	FAULT("export.finish.after");
	if (rc == 0)
		stage_report(&st, rows);
	stage_end(&st, rc);
	return rc;
}
