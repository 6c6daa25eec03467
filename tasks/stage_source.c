/* The source of a stage task: its files, their columns and types, and the SQL that reads them. */
#include "tasks/stage_int.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "tasks/delta.h"
#include "tasks/engines/duckdb.h"
#include "tasks/engines/reads.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/write.h"
#include "tasks/json_fit.h"
#include "tasks/report.h"

/* A header of more bytes, or of more lines, has a quote that never ends. */
enum { HEADER_MAX = 1 << 16, HEADER_LINES = 100 };

int
stage_missing_column(struct stage *st, const char *key, const char *name)
{
	const char *near = task_nearest(st->names, name);
	struct buf b = BUF_INIT;
	json_t *have;
	size_t i;
	int rc;

	json_array_foreach (st->names, i, have)
		buf_addf(&b, "%s%s", i ? ", " : "", json_string_value(have));
	rc = task_fail_at(st->cx, key, "%s: the source has no column \"%s\"%s%s%s; its columns are: %s", key, name,
			  near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "", b.s);
	buf_release(&b);
	return rc;
}

bool
stage_has_name(const json_t *names, const char *name)
{
	json_t *have;
	size_t i;

	json_array_foreach (names, i, have)
		if (strcmp(json_string_value(have), name) == 0)
			return true;
	return false;
}

/* A table is asked for as a file is: by its name. */
static int
stage_table(struct stage *st)
{
	const char *table = stage_source_text(st, "table", NULL);

	if (table == NULL)
		return task_fail(st->cx, ERR_INVALID,
				 "source.format iceberg needs source.table, a table of the catalog, not a path");
	json_array_append_new(st->files, json_string(table));
	return iceberg_attach(st->cx);
}

static int
stage_remote_file(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct stage *st = arg;

	(void)modified;
	json_array_append_new(st->files, json_string(location));
	st->files_in++;
	st->bytes_in += size;
	return 0;
}

/* Ours, since the engine's words for wrong keys or a missing bucket are few, and it does not try again. */
static int
stage_remote_files(struct stage *st, const char *pattern)
{
	size_t before = json_array_size(st->files);
	struct storage *s = task_storage(st->cx);
	int rc;

	if (s == NULL)
		return -1;
	rc = storage_glob(s, pattern, stage_remote_file, st, &st->cx->err);
	if (rc == 0 && json_array_size(st->files) == before)
		return task_fail_at(st->cx, "source/path", "no file matches %s; is the path right, and did the files arrive?",
				    pattern);
	return rc < 0 ? -1 : 0;
}

int
stage_files(struct stage *st)
{
	struct context *cx = st->cx;
	const json_t *path = json_object_get(st->source, "path");
	size_t n = json_is_array(path) ? json_array_size(path) : 1;

	st->files = json_array();
	if (strcmp(st->format, "iceberg") == 0)
		return stage_table(st);
	if (database_format(st->format))
		return stage_database(st);
	if (strcmp(st->format, "http") == 0)
		return stage_http_begin(st);
	if (strcmp(st->format, "kafka") == 0)
		return stage_kafka_begin(st);
	if (path == NULL || json_object_get(st->source, "at"))
		return task_fail(cx, ERR_INVALID, "source.table and source.at go with format: iceberg, not with %s", st->format);
	if (strcmp(st->format, "delta") == 0) { /* its log says which files it has */
		json_array_append(st->files, (json_t *)(uintptr_t)path);
		st->files_in = -1;
		return 0;
	}
	for (size_t i = 0; i < n; i++) {
		const char *given = json_string_value(json_is_array(path) ? json_array_get(path, i) : path), *local;
		struct buf b = BUF_INIT;
		struct duck_result *r;

		if (given == NULL)
			return task_fail(cx, ERR_INVALID, "source.path must be a path or a list of paths");
		if ((local = task_path(cx, "source", given)) == NULL)
			return -1;
		if (storage_remote(local)) {
			if (stage_remote_files(st, local) < 0)
				return -1;
			continue;
		}
		buf_adds(&b, "SELECT file FROM glob(");
		buf_add_sql_string(&b, local);
		buf_adds(&b, ") ORDER BY file");
		r = duck_query(cx->db, b.s, &cx->err);
		buf_release(&b);
		if (r == NULL)
			return -1;
		if (duck_rows(r) == 0) {
			duck_result_free(r);
			return task_fail_at(cx, "source/path", "no file matches %s; is the path right, and did the files arrive?",
					    local);
		}
		for (size_t k = 0; k < duck_rows(r); k++) {
			char *file = duck_text(r, k, 0);
			struct stat info;

			json_array_append_new(st->files, json_string(file));
			st->files_in++;
			st->bytes_in += stat(file, &info) == 0 ? info.st_size : 0;
			free(file);
		}
		duck_result_free(r);
	}
	return 0;
}

int64_t
stage_files_read(const struct stage *st)
{
	json_t *read = reads_files(), *file, *bytes;
	const char *path;
	int64_t n = 0;
	size_t i;

	json_array_foreach (st->files, i, file)
		n += json_object_get(read, json_string_value(file)) != NULL;
	if (strcmp(st->format, "iceberg") == 0 || strcmp(st->format, "delta") == 0)
		json_object_foreach (read, path, bytes) /* all that tells of no files */
			n += fnmatch("*.avro", path, 0) != 0 && fnmatch("*/_delta_log/*", path, 0) != 0;
	json_decref(read);
	return n;
}

static void
add_file_list(struct buf *b, const json_t *files)
{
	json_t *file;
	size_t i;

	buf_addc(b, '[');
	json_array_foreach (files, i, file) {
		if (i)
			buf_adds(b, ", ");
		buf_add_sql_string(b, json_string_value(file));
	}
	buf_addc(b, ']');
}

const char *
stage_source_text(const struct stage *st, const char *name, const char *otherwise)
{
	const char *v = json_string_value(json_object_get(st->source, name));

	return v ? v : otherwise;
}

/* Splits a header line as CSV does. */
static json_t *
split_header(const char *line, char delimiter, char quote)
{
	json_t *names = json_array();
	struct buf b = BUF_INIT;
	bool quoted = false;

	if (strncmp(line, "\xef\xbb\xbf", 3) == 0)
		line += 3;
	for (;; line++) {
		if (quoted && *line == quote && line[1] == quote) {
			buf_addc(&b, *++line);
		} else if (*line == quote && *line) {
			quoted = !quoted;
		} else if (*line == '\0' || (!quoted && (*line == delimiter || *line == '\r'))) {
			json_array_append_new(names, json_string(b.s));
			buf_clear(&b);
			if (*line != delimiter || *line == '\0')
				break;
		} else {
			buf_addc(&b, *line);
		}
	}
	buf_release(&b);
	return names;
}

static bool
is_compressed(const struct stage *st, const char *file)
{
	const char *given = stage_source_text(st, "compression", "auto"), *dot = strrchr(file, '.');

	if (strcmp(given, "auto") != 0)
		return strcmp(given, "none") != 0;
	return dot && (strcmp(dot, ".gz") == 0 || strcmp(dot, ".zst") == 0);
}

/* Adds a line of a header, of which a quoted name may have several; false while a quote is open that may end in a later one. */
static bool
header_whole(struct buf *lines, const char *line, char quote)
{
	size_t quotes = 0;

	buf_adds(lines, line);
	if (lines->len == 0 || lines->s[lines->len - 1] != '\n')
		buf_addc(lines, '\n');
	for (const char *c = lines->s; quote && *c; c++)
		quotes += *c == quote;
	return quotes % 2 == 0;
}

/* What was gathered, NULL for nothing. A quote that never ends is part of a name in the first line. */
static char *
header_of(struct buf *lines, bool whole)
{
	if (lines->len == 0)
		return NULL;
	lines->s[whole ? lines->len - 1 : strcspn(lines->s, "\n")] = '\0';
	return buf_detach(lines);
}

/* The header of a plain file as it is: a line that is not UTF-8 further down is the reader's to judge. */
static char *
header_plain(struct stage *st, const char *file, char quote)
{
	FILE *f = fopen(file, "re");
	struct buf lines = BUF_INIT;
	bool whole = false;
	char *line = NULL;
	size_t room = 0;

	if (f == NULL) {
		task_fail(st->cx, ERR_IO, "%s cannot be read: %s", file, strerror(errno));
		return NULL;
	}
	while (!whole && lines.len < HEADER_MAX && getline(&line, &room, f) >= 0)
		whole = header_whole(&lines, line, quote);
	free(line);
	fclose(f);
	return header_of(&lines, whole);
}

/* The header of a file, decompressed where it must be. */
static char *
header_line(struct stage *st, const char *file, char quote)
{
	struct buf b = BUF_INIT, lines = BUF_INIT;
	struct duck_result *r;
	bool whole = false;

	if (!is_compressed(st, file) && !storage_remote(file))
		return header_plain(st, file, quote);
	buf_adds(&b, "SELECT line FROM read_csv(");
	buf_add_sql_string(&b, file);
	buf_adds(&b, ", auto_detect = false, header = false, delim = '\x01', quote = '', escape = '', strict_mode = false, "
		     "columns = {'line': 'VARCHAR'}");
	if (json_object_get(st->source, "compression")) {
		buf_adds(&b, ", compression = ");
		buf_add_sql_string(&b, stage_source_text(st, "compression", "auto"));
	}
	buf_addf(&b, ") LIMIT %d", HEADER_LINES);
	r = duck_query(st->cx->db, b.s, &st->cx->err);
	buf_release(&b);
	for (size_t i = 0; r && i < duck_rows(r) && !whole; i++) {
		char *line = duck_text(r, i, 0);

		whole = header_whole(&lines, line ? line : "", quote);
		free(line);
	}
	duck_result_free(r);
	return header_of(&lines, whole);
}

/* All files must have one header: columns are matched by place. */
static int
csv_names(struct stage *st, bool header)
{
	const char *delimiter = stage_source_text(st, "delimiter", ","), *quote = stage_source_text(st, "quote", "\"");
	const json_t *columns = json_object_get(st->source, "columns");
	json_t *file, *names, *type;
	const char *key;
	size_t i;

	json_array_foreach (st->files, i, file) {
		char *line = header_line(st, json_string_value(file), *quote);

		if (line == NULL) {
			if (st->cx->err.code)
				return -1;
			if (header)
				return task_fail(st->cx, ERR_UNPROCESSABLE, "%s is empty: it has no header line",
						 json_string_value(file));
			continue;
		}
		names = split_header(line, *delimiter, *quote);
		free(line);
		if (!header && json_object_size(columns)) {
			if (json_object_size(columns) != json_array_size(names)) {
				int rc =
					task_fail_at(st->cx, "source/columns", "source.columns names %zu columns, but %s has %zu",
						     json_object_size(columns), json_string_value(file), json_array_size(names));

				json_decref(names);
				return rc;
			}
			json_array_clear(names);
			json_object_foreach ((json_t *)(uintptr_t)columns, key, type)
				json_array_append_new(names, json_string(key));
		} else {
			for (size_t k = 0; k < json_array_size(names); k++) {
				char *name;

				if (header && *json_string_value(json_array_get(names, k)))
					continue;
				name = xasprintf("column%zu", k);
				json_array_set_new(names, k, json_string(name));
				free(name);
			}
		}
		for (size_t k = 0; k < json_array_size(names); k++)
			for (size_t j = 0; j < k; j++)
				if (strcasecmp(json_string_value(json_array_get(names, k)),
					       json_string_value(json_array_get(names, j))) == 0) {
					int rc = task_fail(st->cx, ERR_UNPROCESSABLE,
							   "%s:1: the header names the column \"%s\" twice",
							   json_string_value(file), json_string_value(json_array_get(names, k)));

					json_decref(names);
					return rc;
				}
		if (st->names && !json_equal(st->names, names)) {
			json_decref(names);
			return task_fail(st->cx, ERR_UNPROCESSABLE,
					 "%s has another header than %s; files of one source must have the same columns",
					 json_string_value(file), json_string_value(json_array_get(st->files, 0)));
		}
		if (st->names)
			json_decref(names);
		else
			st->names = names;
	}
	if (st->names == NULL)
		st->names = json_array();
	return 0;
}

/* How a row is known that has a part which does not fit: the cast itself would make NULL of it. */
static int
stage_lost(struct stage *st, const char *key, const char *name, const char *type)
{
	struct buf q = BUF_INIT, lost = BUF_INIT;
	int rc;

	buf_add_sql_name(&q, name);
	rc = json_fit_add_lost(st->cx->db, q.s, type, &lost, &st->cx->err);
	if (rc < 0) {
		char *why = xstrdup(st->cx->err.msg);

		rc = task_fail_at(st->cx, key, "column \"%s\" cannot be of type \"%s\": %s", name, type, why);
		free(why);
	} else {
		json_object_set_new(st->lost, name, json_string(lost.s));
	}
	buf_release(&q);
	buf_release(&lost);
	return rc;
}

/* Notes one column's type, after the engine has been asked whether there is such a type. */
static int
stage_type(struct stage *st, const char *map, const char *name, const char *type)
{
	char *key = xasprintf("%s/%s", map, name), *sql = xasprintf("SELECT CAST(NULL AS %s)", type);
	int line, col, rc = 0;

	if (!stage_has_name(st->names, name))
		rc = stage_missing_column(st, key, name);
	else if (duck_check(st->cx->db, sql, &line, &col, &st->cx->err) < 0) {
		char *why = xstrdup(st->cx->err.msg);

		rc = task_fail_at(st->cx, key, "column \"%s\" cannot be of type \"%s\": %s", name, type, why);
		free(why);
	}
	if (rc == 0)
		json_object_set_new(st->types, name, json_string(type));
	if (rc == 0 && stage_nested(st, type))
		rc = stage_lost(st, key, name, type);
	free(key);
	free(sql);
	return rc;
}

/* The types that the task asks for: the source's columns, `schema` (with "not null") and `cast`, the later the stronger. */
static int
stage_types(struct stage *st)
{
	static const char *const maps[] = { "source/columns", "schema", "cast" };
	const json_t *defs[] = { json_object_get(st->source, "columns"), json_object_get(st->cx->spec, "schema"),
				 json_object_get(st->cx->spec, "cast") };
	json_t *type;
	const char *name;

	st->types = json_object();
	st->lost = json_object();
	st->not_null = json_array();
	for (size_t i = 0; i < 3; i++)
		json_object_foreach ((json_t *)(uintptr_t)defs[i], name, type) {
			char *text = xstrdup(json_string_value(type) ? json_string_value(type) : "VARCHAR"),
			     *nn = strcasestr(text, " not null");
			int rc;

			if (nn) {
				*nn = '\0';
				json_array_append_new(st->not_null, json_string(name));
			}
			rc = stage_type(st, maps[i], name, text);
			free(text);
			if (rc < 0)
				return rc;
		}
	return 0;
}

/* Adds the condition that a value of the column does not fit its type. */
static void
add_unfit(const struct stage *st, struct buf *b, const char *column, const char *type)
{
	const char *lost = json_string_value(json_object_get(st->lost, column));
	struct buf q = BUF_INIT;

	buf_add_sql_name(&q, column);
	if (lost)
		buf_addf(b, "(%s IS NOT NULL AND %s)", q.s, lost);
	else
		buf_addf(b, "(%s IS NOT NULL AND TRY_CAST(%s AS %s) IS NULL)", q.s, q.s, type);
	buf_release(&q);
}

/* The value in its type: a plain cast fails with the value; where rejects are left out they are known by `bad`. */
static void
add_cast(const struct stage *st, struct buf *b, const char *column, const char *q, const char *type)
{
	if (st->on_reject == REJECT_FAIL && json_object_get(st->lost, column)) {
		/* A plain cast would want every member to be there, and APIs leave out what is empty. */
		buf_adds(b, "CASE WHEN ");
		add_unfit(st, b, column, type);
		buf_addf(b, " THEN error('" STAGE_NULL_FOUND "') ELSE TRY_CAST(%s AS %s) END AS %s", q, type, q);
		return;
	}
	buf_addf(b, "%sCAST(%s AS %s) AS %s", st->on_reject == REJECT_FAIL ? "" : "TRY_", q, type, q);
}

/* Notes what makes a row a reject beyond the reader's own refusals: values that do not fit and values that are missing. */
static void
stage_conditions(struct stage *st, bool casts)
{
	json_t *name, *type;
	const char *column;
	size_t i;

	json_object_foreach (casts ? st->types : NULL, column, type) {
		struct buf q = BUF_INIT, said = BUF_INIT;

		buf_add_sql_name(&q, column);
		buf_addf(&said, "column \"%s\": not of type %s: ", column, json_string_value(type));
		buf_adds(&st->bad, st->bad.len ? " OR " : "");
		add_unfit(st, &st->bad, column, json_string_value(type));
		buf_addf(&st->reasons, "%sCASE WHEN ", st->reasons.len ? ", " : "");
		add_unfit(st, &st->reasons, column, json_string_value(type));
		buf_adds(&st->reasons, " THEN ");
		buf_add_sql_string(&st->reasons, said.s);
		buf_addf(&st->reasons, " || %s::VARCHAR END", q.s);
		buf_release(&q);
		buf_release(&said);
	}
	json_array_foreach (st->not_null, i, name) {
		struct buf q = BUF_INIT, said = BUF_INIT;

		buf_add_sql_name(&q, json_string_value(name));
		buf_addf(&said, "column \"%s\" has no value, the schema says not null", json_string_value(name));
		buf_addf(&st->bad, "%s%s IS NULL", st->bad.len ? " OR " : "", q.s);
		buf_addf(&st->reasons, "%sCASE WHEN %s IS NULL THEN ", st->reasons.len ? ", " : "", q.s);
		buf_add_sql_string(&st->reasons, said.s);
		buf_adds(&st->reasons, " END");
		buf_release(&q);
		buf_release(&said);
	}
}

static int
stage_read_csv(struct stage *st)
{
	json_t *header = json_object_get(st->source, "header"), *name;
	struct buf *b = &st->reader;
	bool has_header = header == NULL || json_is_true(header) ||
			  (json_is_string(header) && strcmp(json_string_value(header), "true") == 0);
	size_t i;

	if (csv_names(st, has_header) < 0 || stage_types(st) < 0)
		return -1;
	buf_adds(b, "read_csv(");
	add_file_list(b, st->files);
	buf_addf(b, ", auto_detect = false, header = %s, store_rejects = true, rejects_limit = 0, strict_mode = true, delim = ",
		 has_header ? "true" : "false");
	buf_add_sql_string(b, stage_source_text(st, "delimiter", ","));
	buf_adds(b, ", quote = ");
	buf_add_sql_string(b, stage_source_text(st, "quote", "\""));
	buf_adds(b, ", escape = ");
	buf_add_sql_string(b, stage_source_text(st, "quote", "\""));
	if (json_object_get(st->source, "compression")) {
		buf_adds(b, ", compression = ");
		buf_add_sql_string(b, stage_source_text(st, "compression", "auto"));
	}
	buf_adds(b, ", columns = {");
	json_array_foreach (st->names, i, name) {
		const char *type = json_string_value(json_object_get(st->types, json_string_value(name)));

		if (i)
			buf_adds(b, ", ");
		buf_add_sql_string(b, json_string_value(name));
		buf_adds(b, ": ");
		buf_add_sql_string(b, type ? type : "VARCHAR");
	}
	stage_conditions(st, false);
	/* The line of a row: the rows before it and the header; refused lines are added later. As the reader counts, by records.
	 */
	buf_addf(&st->traced,
		 "SELECT *, row_number() OVER (PARTITION BY sluice_file ORDER BY sluice_n) + %d AS sluice_row FROM (SELECT *, "
		 "row_number() "
		 "OVER () AS sluice_n FROM %s}, filename = 'sluice_file'))",
		 has_header ? 1 : 0, b->s);
	buf_adds(b, "})");
	return 0;
}

/* JSON, Parquet and tables bring their own types; what is asked for beyond them is cast. `plain` is what FROM takes. */
int
stage_read_typed(struct stage *st, const char *plain)
{
	struct context *cx = st->cx;
	char *query = xasprintf("SELECT * FROM %s", plain);
	json_t *columns = duck_describe(cx->db, query, &cx->err), *column, *name;
	size_t i;

	free(query);
	if (columns == NULL)
		return -1;
	json_decref(st->names);
	st->names = json_array();
	json_array_foreach (columns, i, column)
		json_array_append(st->names, json_object_get(column, "name"));
	json_decref(columns);
	if (stage_types(st) < 0)
		return -1;
	stage_conditions(st, true);
	if (json_object_size(st->types) == 0) {
		buf_adds(&st->reader, plain);
	} else {
		bool first = true;

		buf_adds(&st->reader, "(SELECT * REPLACE (");
		json_array_foreach (st->names, i, name) {
			const char *n = json_string_value(name), *type = json_string_value(json_object_get(st->types, n));
			struct buf q = BUF_INIT;

			if (type == NULL)
				continue;
			buf_adds(&st->reader, first ? "" : ", ");
			first = false;
			buf_add_sql_name(&q, n);
			add_cast(st, &st->reader, n, q.s, type);
			buf_release(&q);
		}
		buf_addf(&st->reader, ") FROM %s", plain);
		if (st->on_reject != REJECT_FAIL)
			buf_addf(&st->reader, " WHERE NOT (%s)", st->bad.s);
		buf_adds(&st->reader, ")");
	}
	return 0;
}

/* Names the first file that has the column. */
static int
fail_extra_column(struct stage *st, const char *column)
{
	const char *first = json_string_value(json_array_get(st->files, 0));
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *file;
	int rc;

	buf_adds(&b, "SELECT first(file_name) FROM parquet_schema(");
	add_file_list(&b, st->files);
	buf_adds(&b, ") WHERE name = ");
	buf_add_sql_string(&b, column);
	r = duck_query(st->cx->db, b.s, &st->cx->err);
	buf_release(&b);
	if (r == NULL)
		return -1;
	file = duck_text(r, 0, 0);
	rc = task_fail_at(st->cx, "source/path",
			  "%s has the column \"%s\", which %s has not; files of one source must have the same columns, or say "
			  "source.union_by_name: true, for which a column that a file lacks is NULL",
			  file ? file : "one of the files", column, first);
	free(file);
	duck_result_free(r);
	return rc;
}

/* The engine goes by the first file: it tells what others lack, but leaves out without a word what they have beyond it. */
static int
check_same_columns(struct stage *st)
{
	struct buf b = BUF_INIT;
	json_t *all, *column;
	int rc = 0;
	size_t i;

	if (json_array_size(st->files) < 2)
		return 0;
	buf_adds(&b, "SELECT * FROM read_parquet(");
	add_file_list(&b, st->files);
	buf_adds(&b, ", union_by_name = true)");
	all = duck_describe(st->cx->db, b.s, &st->cx->err);
	buf_release(&b);
	if (all == NULL)
		return -1;
	json_array_foreach (all, i, column) {
		const char *name = json_string_value(json_object_get(column, "name"));

		if (rc == 0 && !stage_has_name(st->names, name))
			rc = fail_extra_column(st, name);
	}
	json_decref(all);
	return rc;
}

static int
stage_read_files(struct stage *st, const char *function)
{
	bool parquet = strcmp(function, "read_parquet") == 0, any = json_is_true(json_object_get(st->source, "union_by_name"));
	struct buf plain = BUF_INIT;
	int rc;

	buf_addf(&plain, "%s(", function);
	add_file_list(&plain, st->files);
	if (parquet)
		buf_addf(&plain, ", union_by_name = %s", any ? "true" : "false");
	/* Rows keep the file's order, so that their number in it can be counted. */
	buf_addf(&st->traced, "SELECT *, row_number() OVER (%s) AS sluice_row FROM %s, filename = 'sluice_file')",
		 json_array_size(st->files) > 1 ? "PARTITION BY sluice_file" : "", plain.s);
	buf_addc(&plain, ')');
	rc = stage_read_typed(st, plain.s);
	buf_release(&plain);
	if (rc == 0 && parquet && !any)
		rc = check_same_columns(st);
	return rc;
}

/* 0 where the one who wrote the state did not say. */
static int64_t
summary_number(const json_t *summary, const char *name)
{
	const char *text = json_string_value(json_object_get(summary, name));

	return text ? strtoll(text, NULL, 10) : 0;
}

/* One state of a table, the same for every statement of the task, whatever is committed meanwhile. */
static int
stage_read_table(struct stage *st)
{
	json_t *summary = NULL;
	char *query = inspect_at(st->cx, stage_source_text(st, "table", ""), stage_source_text(st, "at", NULL), &summary), *plain;
	int rc;

	st->files_in = summary_number(summary, "total-data-files");
	st->bytes_in = summary_number(summary, "total-files-size");
	json_decref(summary);
	if (query == NULL)
		return -1;
	plain = xasprintf("(%s)", query);
	buf_adds(&st->traced, "SELECT *, ");
	buf_add_sql_string(&st->traced, stage_source_text(st, "table", ""));
	buf_addf(&st->traced, " AS sluice_file, row_number() OVER () AS sluice_row FROM %s", plain);
	rc = stage_read_typed(st, plain);
	free(plain);
	free(query);
	return rc;
}

static int
stage_read_delta(struct stage *st)
{
	struct delta d = { 0 };
	int rc = delta_open(st->cx, "source", st->source, &d);

	if (rc == 0) {
		buf_adds(&st->traced, "SELECT *, ");
		buf_add_sql_string(&st->traced, d.path);
		buf_adds(&st->traced, " AS sluice_file, row_number() OVER () AS sluice_row FROM " DELTA_ROWS);
		rc = stage_read_typed(st, DELTA_ROWS);
	}
	if (rc == 0)
		report_output("version", json_integer((json_int_t)d.version));
	delta_release(&d);
	return rc;
}

int
stage_read(struct stage *st)
{
	if (strcmp(st->format, "csv") == 0)
		return stage_read_csv(st);
	if (strcmp(st->format, "json") == 0)
		return stage_read_files(st, "read_json");
	if (strcmp(st->format, "parquet") == 0)
		return stage_read_files(st, "read_parquet");
	if (strcmp(st->format, "iceberg") == 0)
		return stage_read_table(st);
	if (strcmp(st->format, "delta") == 0)
		return stage_read_delta(st);
	if (database_format(st->format))
		return stage_read_database(st);
	if (strcmp(st->format, "http") == 0)
		return stage_http_read(st);
	if (strcmp(st->format, "kafka") == 0)
		return stage_kafka_read(st);
	return task_fail(st->cx, ERR_UNSUPPORTED, "source.format \"%s\" is not supported yet", st->format);
}
