/*
 * stage: files in, one Parquet file (or a partitioned folder) out. The order of its steps: read (types by `schema` and
 * `cast`, text otherwise for CSV), `where` on the source's columns, `select`, `rename`. The target appears by rename, whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/report.h"

/* The copy's error when a value is missing; the sentence for the user names file and line. */
#define NULL_FOUND "sluice: a value is missing"

enum on_reject { REJECT_FAIL, REJECT_SKIP, REJECT_QUARANTINE };

struct stage {
	struct context *cx;
	const json_t *source, *target;
	const char *format;
	json_t *files;    /* list of paths */
	json_t *names;    /* list of the source's column names */
	json_t *types;    /* object: column -> type, for those that have one */
	json_t *not_null; /* list of names */
	enum on_reject on_reject;
	struct buf reader; /* table function call over the files, or a subquery over it */
	struct buf
		traced; /* the same rows before any cast, with the columns sluice_file and, where there are numbers, sluice_row */
	struct buf bad; /* condition over `traced`: the row is a reject that the reader itself did not refuse */
	struct buf reasons; /* list of expressions over `traced`: what is wrong, each NULL when nothing is */
	char *path, *tmp;   /* target and its temporary name */
	char *tmp_rejects;
	int64_t rejected;
};

static bool
is_name(const char *s)
{
	if (!(*s == '_' || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z')))
		return false;
	for (; *s; s++)
		if (!(*s == '_' || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9')))
			return false;
	return true;
}

static int
missing_column(struct stage *st, const char *key, const char *name)
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

static bool
has_name(const json_t *names, const char *name)
{
	json_t *have;
	size_t i;

	json_array_foreach (names, i, have)
		if (strcmp(json_string_value(have), name) == 0)
			return true;
	return false;
}

/* ---- the source ---- */

static int
stage_files(struct stage *st)
{
	struct context *cx = st->cx;
	const json_t *path = json_object_get(st->source, "path");
	size_t n = json_is_array(path) ? json_array_size(path) : 1;

	st->files = json_array();
	for (size_t i = 0; i < n; i++) {
		const char *given = json_string_value(json_is_array(path) ? json_array_get(path, i) : path), *local;
		struct buf b = BUF_INIT;
		struct duck_result *r;

		if (given == NULL)
			return task_fail(cx, ERR_INVALID, "source.path must be a path or a list of paths");
		if ((local = task_local_path(cx, "source", given)) == NULL)
			return -1;
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

			json_array_append_new(st->files, json_string(file));
			free(file);
		}
		duck_result_free(r);
	}
	return 0;
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

static const char *
source_text(const struct stage *st, const char *name, const char *otherwise)
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
	const char *given = source_text(st, "compression", "auto"), *dot = strrchr(file, '.');

	if (strcmp(given, "auto") != 0)
		return strcmp(given, "none") != 0;
	return dot && (strcmp(dot, ".gz") == 0 || strcmp(dot, ".zst") == 0);
}

/* The first line of a plain file as it is: one that is not UTF-8 further down is the reader's to judge. */
static char *
first_line_plain(struct stage *st, const char *file)
{
	FILE *f = fopen(file, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t n;

	if (f == NULL) {
		task_fail(st->cx, ERR_IO, "%s cannot be read: %s", file, strerror(errno));
		return NULL;
	}
	n = getline(&line, &room, f);
	fclose(f);
	if (n < 0) {
		free(line);
		return NULL;
	}
	line[strcspn(line, "\n")] = '\0';
	return line;
}

/* The first line of a file, decompressed where it must be. */
static char *
first_line(struct stage *st, const char *file)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *line = NULL;

	if (!is_compressed(st, file))
		return first_line_plain(st, file);
	buf_adds(&b, "SELECT line FROM read_csv(");
	buf_add_sql_string(&b, file);
	buf_adds(&b, ", auto_detect = false, header = false, delim = '\x01', quote = '', escape = '', strict_mode = false, "
		     "columns = {'line': 'VARCHAR'}");
	if (json_object_get(st->source, "compression")) {
		buf_adds(&b, ", compression = ");
		buf_add_sql_string(&b, source_text(st, "compression", "auto"));
	}
	buf_adds(&b, ") LIMIT 1");
	r = duck_query(st->cx->db, b.s, &st->cx->err);
	buf_release(&b);
	if (r && duck_rows(r) == 1)
		line = duck_text(r, 0, 0);
	duck_result_free(r);
	return line;
}

/* All files must have one header: columns are matched by place. */
static int
csv_names(struct stage *st, bool header)
{
	const char *delimiter = source_text(st, "delimiter", ","), *quote = source_text(st, "quote", "\"");
	const json_t *columns = json_object_get(st->source, "columns");
	json_t *file, *names, *type;
	const char *key;
	size_t i;

	json_array_foreach (st->files, i, file) {
		char *line = first_line(st, json_string_value(file));

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
		} else if (!header) {
			for (size_t k = 0; k < json_array_size(names); k++) {
				char *name = xasprintf("column%zu", k);

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

/* Notes one column's type, after the engine has been asked whether there is such a type. */
static int
stage_type(struct stage *st, const char *map, const char *name, const char *type)
{
	char *key = xasprintf("%s/%s", map, name), *sql = xasprintf("SELECT CAST(NULL AS %s)", type);
	int line, col, rc = 0;

	if (!has_name(st->names, name))
		rc = missing_column(st, key, name);
	else if (duck_check(st->cx->db, sql, &line, &col, &st->cx->err) < 0) {
		char *why = xstrdup(st->cx->err.msg);

		rc = task_fail_at(st->cx, key, "column \"%s\" cannot be of type \"%s\": %s", name, type, why);
		free(why);
	}
	if (rc == 0)
		json_object_set_new(st->types, name, json_string(type));
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
		buf_addf(&st->bad, "%s(%s IS NOT NULL AND TRY_CAST(%s AS %s) IS NULL)", st->bad.len ? " OR " : "", q.s, q.s,
			 json_string_value(type));
		buf_addf(&st->reasons, "%sCASE WHEN %s IS NOT NULL AND TRY_CAST(%s AS %s) IS NULL THEN ",
			 st->reasons.len ? ", " : "", q.s, q.s, json_string_value(type));
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
read_csv(struct stage *st)
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
	buf_add_sql_string(b, source_text(st, "delimiter", ","));
	buf_adds(b, ", quote = ");
	buf_add_sql_string(b, source_text(st, "quote", "\""));
	buf_adds(b, ", escape = ");
	buf_add_sql_string(b, source_text(st, "quote", "\""));
	if (json_object_get(st->source, "compression")) {
		buf_adds(b, ", compression = ");
		buf_add_sql_string(b, source_text(st, "compression", "auto"));
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

/* JSON and Parquet bring their own types; what is asked for beyond them is cast. */
static int
read_typed(struct stage *st, const char *function)
{
	struct context *cx = st->cx;
	struct buf plain = BUF_INIT;
	json_t *columns, *column, *name;
	size_t i;

	buf_addf(&plain, "%s(", function);
	add_file_list(&plain, st->files);
	if (strcmp(function, "read_parquet") == 0)
		buf_adds(&plain, ", union_by_name = false");
	buf_adds(&plain, ")");
	{
		char *query = xasprintf("SELECT * FROM %s", plain.s);

		columns = duck_describe(cx->db, query, &cx->err);
		free(query);
	}
	if (columns == NULL) {
		buf_release(&plain);
		return -1;
	}
	st->names = json_array();
	json_array_foreach (columns, i, column)
		json_array_append(st->names, json_object_get(column, "name"));
	json_decref(columns);
	if (stage_types(st) < 0) {
		buf_release(&plain);
		return -1;
	}
	stage_conditions(st, true);
	plain.s[--plain.len] = '\0'; /* the parenthesis */
	/* Rows keep the file's order, so that their number in it can be counted. */
	buf_addf(&st->traced, "SELECT *, row_number() OVER (%s) AS sluice_row FROM %s, filename = 'sluice_file')",
		 json_array_size(st->files) > 1 ? "PARTITION BY sluice_file" : "", plain.s);
	buf_addc(&plain, ')');
	if (json_object_size(st->types) == 0) {
		buf_adds(&st->reader, plain.s);
	} else {
		bool first = true;

		buf_adds(&st->reader, "(SELECT * REPLACE (");
		json_array_foreach (st->names, i, name) {
			const char *n = json_string_value(name), *type = json_string_value(json_object_get(st->types, n));

			if (type == NULL)
				continue;
			/* A plain cast fails with the value; where rejects are left out they are known by `bad`. */
			buf_adds(&st->reader, first ? "" : ", ");
			first = false;
			buf_adds(&st->reader, st->on_reject == REJECT_FAIL ? "CAST(" : "TRY_CAST(");
			buf_add_sql_name(&st->reader, n);
			buf_addf(&st->reader, " AS %s) AS ", type);
			buf_add_sql_name(&st->reader, n);
		}
		buf_addf(&st->reader, ") FROM %s", plain.s);
		if (st->on_reject != REJECT_FAIL)
			buf_addf(&st->reader, " WHERE NOT (%s)", st->bad.s);
		buf_adds(&st->reader, ")");
	}
	buf_release(&plain);
	return 0;
}

/* ---- the rows ---- */

/* The text of each `select` entry: a name, "expr AS name", or name: expr. */
static int
add_select(struct stage *st, struct buf *b)
{
	const json_t *select = json_object_get(st->cx->spec, "select"), *schema = json_object_get(st->cx->spec, "schema");
	const char *name;
	json_t *item;
	size_t i;

	if (json_is_array(select)) {
		json_array_foreach (select, i, item) {
			const char *text = json_string_value(item);
			char *key = xasprintf("select/%zu", i), *from = xasprintf(" FROM %s", st->reader.s);
			int rc = 0;

			if (i)
				buf_adds(b, ", ");
			if (is_name(text)) {
				if (!has_name(st->names, text))
					rc = missing_column(st, key, text);
				buf_add_sql_name(b, text);
			} else {
				rc = task_check_sql(st->cx, key, "SELECT ", text, from);
				buf_adds(b, text);
			}
			free(key);
			free(from);
			if (rc < 0)
				return rc;
		}
		return 0;
	}
	if (json_is_object(select) || json_is_object(schema)) {
		bool first = true;

		json_object_foreach ((json_t *)(uintptr_t)(json_is_object(select) ? select : schema), name, item) {
			if (!first)
				buf_adds(b, ", ");
			first = false;
			if (json_is_object(select)) {
				char *key = xasprintf("select/%s", name), *from = xasprintf(" FROM %s", st->reader.s);
				int rc = task_check_sql(st->cx, key, "SELECT ", json_string_value(item), from);

				free(key);
				free(from);
				if (rc < 0)
					return rc;
				buf_addf(b, "%s AS ", json_string_value(item));
			}
			buf_add_sql_name(b, name);
		}
		return 0;
	}
	buf_adds(b, "*");
	return 0;
}

static int
build_query(struct stage *st, struct buf *out)
{
	const char *where = spec_text(st->cx, "where"), *name;
	const json_t *rename = json_object_get(st->cx->spec, "rename");
	struct buf inner = BUF_INIT;
	json_t *to;
	int rc = -1;
	size_t i;

	buf_adds(&inner, "SELECT ");
	if (add_select(st, &inner) < 0)
		goto out;
	buf_addf(&inner, " FROM %s", st->reader.s);
	if (where) {
		char *before = xasprintf("SELECT * FROM %s WHERE ", st->reader.s);

		rc = task_check_sql(st->cx, "where", before, where, "");
		free(before);
		if (rc < 0)
			goto out;
		buf_addf(&inner, " WHERE (%s\n)", where);
	}
	json_array_foreach (st->not_null, i, to) {
		buf_adds(&inner, where || i ? " AND " : " WHERE ");
		/* With `fail` the copy itself stops at the first one: no second reading to look for it in a good source. */
		buf_adds(&inner, st->on_reject == REJECT_FAIL ? "CASE WHEN " : "");
		buf_add_sql_name(&inner, json_string_value(to));
		buf_adds(&inner,
			 st->on_reject == REJECT_FAIL ? " IS NULL THEN error('" NULL_FOUND "') ELSE true END" : " IS NOT NULL");
	}
	if (json_object_size(rename)) {
		json_t *columns = duck_describe(st->cx->db, inner.s, &st->cx->err), *names = json_array(), *column;
		bool first = true;

		if (columns == NULL) {
			json_decref(names);
			goto out;
		}
		json_array_foreach (columns, i, column)
			json_array_append(names, json_object_get(column, "name"));
		json_decref(columns);
		json_decref(st->names);
		st->names = names;
		buf_adds(out, "SELECT * RENAME (");
		json_object_foreach ((json_t *)(uintptr_t)rename, name, to) {
			if (!has_name(st->names, name)) {
				rc = missing_column(st, "rename", name);
				goto out;
			}
			buf_adds(out, first ? "" : ", ");
			first = false;
			buf_add_sql_name(out, name);
			buf_adds(out, " AS ");
			buf_add_sql_name(out, json_string_value(to));
		}
		buf_addf(out, ") FROM (%s)", inner.s);
	} else {
		buf_adds(out, inner.s);
	}
	rc = 0;
out:
	buf_release(&inner);
	return rc < 0 ? -1 : 0;
}

/* ---- rejects ---- */

/* Adds the rows that `bad` finds. They are looked for by reading the source once more. */
static int
collect_bad(struct stage *st)
{
	struct context *cx = st->cx;
	struct buf b = BUF_INIT;
	bool csv = strcmp(st->format, "csv") == 0;
	int64_t some = 1;
	int rc;

	if (csv) { /* cheap first: the lines are counted over the whole source */
		buf_addf(&b, "SELECT count(*) FROM (FROM %s WHERE %s LIMIT 1)", st->reader.s, st->bad.s);
		some = duck_count(cx->db, b.s, &cx->err);
		buf_clear(&b);
	}
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
	if (st->rejected == 0) {
		path = xasprintf("%s.rejects.parquet", st->path);
		if (st->on_reject == REJECT_QUARANTINE)
			unlink(path); /* an earlier run's */
		free(path);
		return 0;
	}
	if (st->on_reject == REJECT_FAIL || (json_is_integer(max) && st->rejected > json_integer_value(max))) {
		char *file, *message, *text, *hint;
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
		rc = task_fail(cx, ERR_UNPROCESSABLE,
			       "%s:%" PRId64 ": %s: \"%s\"; %" PRId64 " row%s of the source %s bad; nothing was written (%s)",
			       file && *file ? file : json_string_value(json_array_get(st->files, 0)), line, message, text,
			       st->rejected, st->rejected == 1 ? "" : "s", st->rejected == 1 ? "is" : "are", hint);
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
		if (rc == 0 && rename(st->tmp_rejects, path) < 0)
			rc = task_fail(cx, ERR_IO, "cannot rename %s to %s: %s", st->tmp_rejects, path, strerror(errno));
	}
	if (rc == 0)
		report_output("rejects", json_string(path));
	free(path);
	return rc < 0 ? -1 : 0;
}

/* ---- the target ---- */

static int64_t
write_target(struct stage *st, const char *query)
{
	const char *compression = json_string_value(json_object_get(st->target, "compression"));
	const json_t *partitions = json_object_get(st->target, "partition_by");
	json_t *row_group = json_object_get(st->target, "row_group_size"), *name;
	struct buf b = BUF_INIT;
	struct duck_result *r;
	int64_t rows = -1;
	size_t i;

	buf_addf(&b, "COPY (%s) TO ", query);
	buf_add_sql_string(&b, st->tmp);
	buf_addf(&b, " (FORMAT parquet, COMPRESSION %s", compression ? compression : "zstd");
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
		buf_adds(&b, "), WRITE_PARTITION_COLUMNS true");
	}
	buf_adds(&b, ")");
	/* A size in bytes for row groups is honoured only without order. */
	if (json_is_integer(row_group) && duck_exec(st->cx->db, "SET preserve_insertion_order = false", &st->cx->err) < 0)
		goto out;
	r = duck_query(st->cx->db, b.s, &st->cx->err);
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
	struct err first = st->cx->err;
	bool rows = strstr(first.msg, NULL_FOUND) || strncmp(first.msg, "Conversion Error", 16) == 0;

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
static int
take_place(struct stage *st)
{
	if (rename(st->tmp, st->path) == 0)
		return 0;
	if (renameat2(AT_FDCWD, st->tmp, AT_FDCWD, st->path, RENAME_EXCHANGE) < 0)
		return task_fail(st->cx, ERR_IO, "cannot rename %s to %s: %s", st->tmp, st->path, strerror(errno));
	fs_remove_tree(st->tmp);
	return 0;
}

static bool foreign_file;

static int
on_foreign(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	size_t n = strlen(path);

	(void)st;
	if (type == FTW_F && ftw->level > 0 && (n < 8 || strcmp(path + n - 8, ".parquet") != 0))
		foreign_file = true;
	return foreign_file;
}

/* A target replaces what is there. It must not take with it what no stage task wrote. */
static int
check_target(struct stage *st)
{
	bool folder = json_array_size(json_object_get(st->target, "partition_by")) > 0;
	size_t n = strlen(st->path), i;
	struct stat info;
	json_t *file;

	if (lstat(st->path, &info) < 0)
		return 0;
	if (S_ISDIR(info.st_mode) && !folder)
		return task_fail_at(st->cx, "target/path",
				    "%s is a folder; name a file in it, or set partition_by to write a folder", st->path);
	json_array_foreach (st->files, i, file) {
		const char *path = json_string_value(file);

		if (folder && strncmp(path, st->path, n) == 0 && path[n] == '/')
			return task_fail_at(st->cx, "target/path",
					    "the folder %s holds the source %s, which the result would replace", st->path, path);
	}
	foreign_file = false;
	nftw(st->path, on_foreign, 16, FTW_PHYS);
	if (folder && foreign_file)
		return task_fail_at(
			st->cx, "target/path",
			"the folder %s holds files that are not Parquet; the result would replace them: name a folder of its own",
			st->path);
	return 0;
}

static int
stage_work(struct stage *st)
{
	struct context *cx = st->cx;
	struct buf query = BUF_INIT;
	int64_t rows;
	int rc = -1;

	if (stage_files(st) < 0 || check_target(st) < 0)
		return -1;
	if (strcmp(st->format, "csv") == 0)
		rc = read_csv(st);
	else if (strcmp(st->format, "json") == 0)
		rc = read_typed(st, "read_json");
	else if (strcmp(st->format, "parquet") == 0)
		rc = read_typed(st, "read_parquet");
	else
		rc = task_fail(cx, ERR_UNSUPPORTED, "source.format \"%s\" is not supported yet", st->format);
	if (rc < 0 || build_query(st, &query) < 0 || task_make_parents(cx, st->path) < 0) {
		buf_release(&query);
		return -1;
	}
	rows = write_target(st, query.s);
	buf_release(&query);
	if (rows < 0)
		return explain_failure(st);
	if (judge_rejects(st, true) < 0 || take_place(st) < 0)
		return -1;
	nftw(st->path, on_measure, 16, FTW_PHYS);
	report("metrics", json_pack("{s:I,s:I,s:I,s:I}", "rows_out", (json_int_t)rows, "bytes_out", (json_int_t)stage_bytes,
				    "files_out", (json_int_t)stage_nfiles, "files_in", (json_int_t)json_array_size(st->files)));
	/* A partitioned target is read by its files. */
	if (json_array_size(json_object_get(st->target, "partition_by"))) {
		char *glob = xasprintf("%s/**/*.parquet", st->path);

		report_output("path", json_string(glob));
		free(glob);
	} else {
		report_output("path", json_string(st->path));
	}
	report_output("rows", json_integer((json_int_t)rows));
	printf("%" PRId64 " rows from %zu files to %s\n", rows, json_array_size(st->files), st->path);
	return 0;
}

int
stage_run(struct context *cx)
{
	static const char *const reject_names[] = { "fail", "skip", "quarantine" };
	struct stage st = { .cx = cx, .reader = BUF_INIT, .traced = BUF_INIT, .bad = BUF_INIT, .reasons = BUF_INIT };
	const char *on_reject = spec_text(cx, "on_reject"), *path;
	int rc = -1;

	st.source = json_object_get(cx->spec, "source");
	st.target = json_object_get(cx->spec, "target");
	st.format = source_text(&st, "format", "csv");
	for (int i = 0; on_reject && i < 3; i++)
		if (strcmp(on_reject, reject_names[i]) == 0)
			st.on_reject = (enum on_reject)i;
	path = json_string_value(json_object_get(st.target, "path"));
	if (path == NULL)
		return task_fail(cx, ERR_INVALID, "target.path is missing");
	if ((path = task_local_path(cx, "target", path)) == NULL)
		return -1;
	st.path = xstrdup(path);
	st.tmp = xasprintf("%s.tmp-%s-%lld", path, doc_text(cx, "run_id"),
			   (long long)json_integer_value(json_object_get(cx->doc, "attempt")));
	st.tmp_rejects = xasprintf("%s.rejects", st.tmp);
	/* What an earlier attempt left that was killed. */
	for (long long n = 1; n < (long long)json_integer_value(json_object_get(cx->doc, "attempt")); n++) {
		char *old = xasprintf("%s.tmp-%s-%lld", path, doc_text(cx, "run_id"), n), *rejects = xasprintf("%s.rejects", old);

		fs_remove_tree(old);
		unlink(rejects);
		free(old);
		free(rejects);
	}
	rc = stage_work(&st);
	unlink(st.tmp_rejects);
	if (rc < 0)
		fs_remove_tree(st.tmp);
	buf_release(&st.reader);
	buf_release(&st.traced);
	buf_release(&st.bad);
	buf_release(&st.reasons);
	json_decref(st.files);
	json_decref(st.names);
	json_decref(st.types);
	json_decref(st.not_null);
	free(st.path);
	free(st.tmp);
	free(st.tmp_rejects);
	return rc;
}
