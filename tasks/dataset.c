#include "tasks/dataset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "tasks/casts.h"
#include "tasks/engines/duckdb.h"
#include "tasks/folders.h"

struct file {
	char *path;
	size_t below; /* where the part begins whose folders are columns */
};

struct reading {
	struct context *cx;
	const json_t *cast, *have;
	enum write_evolution evolution;
	struct file *files;
	size_t nfiles;
	size_t base;         /* length of the folder that is being listed, 0: a pattern */
	struct buf list;     /* the files as SQL */
	json_t *folders;     /* column -> list of the texts that its folders have */
	json_t *columns;     /* of the files: [{name, type}] */
	json_t *instants;    /* column -> type, of those with INT96 */
	const char *kept_by; /* the format whose log is in the folder; NULL: none is */
	bool unite;          /* the files have different columns */
};

/* ---- files ---- */

/* Of a folder's files not those that writers hide: _SUCCESS, .part-0.crc, _temporary/…, but _year=2024/… */
static bool
is_hidden(const char *below)
{
	for (const char *part = below; *part; part += strspn(part, "/")) {
		size_t n = strcspn(part, "/");

		if (*part == '.' || (*part == '_' && memchr(part, '=', n) == NULL))
			return true;
		part += n;
	}
	return false;
}

static int
on_file(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct reading *rd = arg;
	size_t below = rd->base ? rd->base + 1 : 0;

	(void)size;
	(void)modified;
	/* Such a log says which of the files count; read without it, rows that were deleted would come back. */
	if (rd->base && strncmp(location + below, "_delta_log/", 11) == 0)
		rd->kept_by = "delta";
	else if (rd->base && strncmp(location + below, ".hoodie/", 8) == 0)
		rd->kept_by = "hudi";
	if (rd->base && is_hidden(location + below))
		return 0;
	rd->files = xrealloc(rd->files, (rd->nfiles + 1) * sizeof(*rd->files));
	rd->files[rd->nfiles++] = (struct file){ xstrdup(location), below };
	return 0;
}

static int
file_compare(const void *a, const void *b)
{
	return strcmp(((const struct file *)a)->path, ((const struct file *)b)->path);
}

/* A folder stands for all files in it and below. */
static int
list_folder(struct reading *rd, const char *path)
{
	size_t len = strlen(path);
	char *folder = xstrdup(path);
	int rc;

	while (len > 1 && folder[len - 1] == '/')
		folder[--len] = '\0';
	rd->base = len;
	rc = storage_list(task_storage(rd->cx), folder, on_file, rd, &rd->cx->err);
	rd->base = 0;
	free(folder);
	if (rc == 0 && rd->kept_by)
		return task_fail_at(rd->cx, "from/format", "%s is a table of format %s, whose log says which files count%s", path,
				    rd->kept_by,
				    rd->kept_by[0] == 'd' ? "; say format: delta" : "; that format is not supported");
	return rc < 0 ? -1 : 0;
}

static int
list_pattern(struct reading *rd, const char *path)
{
	int rc = storage_glob(task_storage(rd->cx), path, on_file, rd, &rd->cx->err);

	if (rc == ERR_NOT_FOUND && strstr(rd->cx->err.msg, "NoSuchBucket") == NULL) {
		err_release(&rd->cx->err);
		rc = 0;
	}
	return rc < 0 ? -1 : 0;
}

/* On a store nobody can tell a folder by its name: what is no pattern is tried as one, too. */
static int
list_path(struct reading *rd, const char *given)
{
	const char *path = task_path(rd->cx, "from", given);
	size_t before = rd->nfiles;
	bool remote, folder;
	struct stat st;
	int rc = 0;

	if (path == NULL || task_storage(rd->cx) == NULL)
		return -1;
	remote = storage_remote(path);
	folder = remote ? path[strlen(path) - 1] == '/' : stat(path, &st) == 0 && S_ISDIR(st.st_mode);
	if (!folder)
		rc = list_pattern(rd, path);
	if (rc == 0 && rd->nfiles == before && (folder || (remote && strpbrk(path, "*?[") == NULL)))
		rc = list_folder(rd, path);
	if (rc == 0 && rd->nfiles == before)
		return task_fail_at(rd->cx, "from/path", "no file matches %s, and no file is in a folder of that name", path);
	return rc;
}

static int
list_files(struct reading *rd, const json_t *path)
{
	size_t n = json_is_array(path) ? json_array_size(path) : 1;

	for (size_t i = 0; i < n; i++) {
		const char *given = json_string_value(json_is_array(path) ? json_array_get(path, i) : path);

		if (given == NULL)
			return task_fail_at(rd->cx, "from", "path must be a path or a list of paths");
		if (list_path(rd, given) < 0)
			return -1;
	}
	if (n == 0)
		return task_fail_at(rd->cx, "from/path", "path is an empty list");
	qsort(rd->files, rd->nfiles, sizeof(*rd->files), file_compare);
	for (size_t i = 0; i < rd->nfiles; i++) {
		buf_adds(&rd->list, i ? ", " : "[");
		buf_add_sql_string(&rd->list, rd->files[i].path);
	}
	buf_addc(&rd->list, ']');
	return 0;
}

/* ---- folders ---- */

static bool
same_keys(const json_t *a, const json_t *b)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)a, key, value)
		if (json_object_get(b, key) == NULL)
			return false;
	return json_object_size(a) == json_object_size(b);
}

static char *
names_of(const json_t *values)
{
	struct buf b = BUF_INIT;
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)values, key, value)
		buf_addf(&b, "%s%s=…", b.len ? "/" : "", key);
	return b.len ? buf_detach(&b) : xstrdup("no such folder");
}

/* Which columns the folders are; every file must lie in the same ones. */
static int
find_folders(struct reading *rd)
{
	json_t *first = folder_values(rd->files[0].path + rd->files[0].below), *values, *value, *seen;
	const char *key;
	int rc = 0;

	rd->folders = json_object();
	json_object_foreach (first, key, value)
		json_object_set_new(rd->folders, key, json_object());
	for (size_t i = 0; i < rd->nfiles && rc == 0; i++) {
		values = folder_values(rd->files[i].path + rd->files[i].below);
		if (!same_keys(first, values)) {
			char *a = names_of(first), *b = names_of(values);

			rc = task_fail_at(rd->cx, "from",
					  "%s lies in %s, but %s in %s; the files of a data set must lie in the same kinds of "
					  "folders",
					  rd->files[0].path, a, rd->files[i].path, b);
			free(a);
			free(b);
		}
		json_object_foreach (rc == 0 ? values : NULL, key, value) {
			seen = json_object_get(rd->folders, key);
			if (json_is_string(value))
				json_object_set_new(seen, json_string_value(value), json_true());
		}
		json_decref(values);
	}
	json_decref(first);
	return rc;
}

/* ---- the files' columns ---- */

static json_t *
column_named(const json_t *columns, const char *name)
{
	json_t *column;
	size_t i;

	json_array_foreach (columns, i, column)
		if (strcasecmp(json_string_value(json_object_get(column, "name")), name) == 0)
			return column;
	return NULL;
}

static json_t *
describe(struct reading *rd, const char *files, bool unite)
{
	char *query = xasprintf("SELECT * FROM read_parquet(%s, hive_partitioning = false, union_by_name = %s)", files,
				unite ? "true" : "false");
	json_t *columns = duck_describe(rd->cx->db, query, &rd->cx->err);

	free(query);
	return columns;
}

/* Two files have different columns: is that what the task allows? */
static int
compare_columns(struct reading *rd, const char *a_file, const json_t *a, const char *b_file, const json_t *b)
{
	const json_t *column, *other;
	size_t i;

	json_array_foreach (a, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")),
			   *type = json_string_value(json_object_get(column, "type"));

		other = column_named(b, name);
		if (other && strcmp(type, json_string_value(json_object_get(other, "type"))) == 0)
			continue;
		rd->unite = true;
		if (other == NULL && rd->evolution == EVOLVE_NONE)
			return task_fail_at(rd->cx, "from",
					    "%s has the column \"%s\", but %s has not; schema_evolution: add_columns takes the "
					    "columns of all files, with NULL where a file has none",
					    a_file, name, b_file);
		if (other && rd->evolution != EVOLVE_WIDEN)
			return task_fail_at(
				rd->cx, "from",
				"the column \"%s\" is %s in %s and %s in %s; schema_evolution: widen takes the wider type", name,
				type, a_file, json_string_value(json_object_get(other, "type")), b_file);
	}
	return 0;
}

/* The engine would read all files as it reads the first: without the columns that only others have, and with its types. */
static int
check_columns(struct reading *rd)
{
	char *sql = xasprintf(
		"SELECT min(file_name) FROM (SELECT file_name, string_agg(concat_ws(':', name, type, duckdb_type, "
		"num_children), ',' ORDER BY column_id) AS columns FROM parquet_schema(%s) WHERE column_id > 0 GROUP BY "
		"ALL) GROUP BY columns ORDER BY 1",
		rd->list.s);
	json_t *kinds = duck_query_json(rd->cx->db, sql, &rd->cx->err), *first = NULL;
	const char *first_file = json_string_value(json_array_get(json_array_get(kinds, 0), 0));
	int rc = kinds ? 0 : -1;

	free(sql);
	for (size_t i = 0; i < json_array_size(kinds) && json_array_size(kinds) > 1 && rc == 0; i++) {
		const char *file = json_string_value(json_array_get(json_array_get(kinds, i), 0));
		struct buf quoted = BUF_INIT;
		json_t *columns;

		buf_add_sql_string(&quoted, file);
		columns = describe(rd, quoted.s, false);
		buf_release(&quoted);
		rc = columns ? 0 : -1;
		if (rc == 0 && first)
			rc = compare_columns(rd, first_file, first, file, columns);
		if (rc == 0 && first)
			rc = compare_columns(rd, file, columns, first_file, first);
		if (first == NULL)
			first = json_incref(columns);
		json_decref(columns);
	}
	json_decref(first);
	json_decref(kinds);
	return rc;
}

/* ---- old timestamps ---- */

/* The next TIMESTAMP without a zone in a type's text, that is no field's name nor another type. */
static const char *
next_timestamp(const char *type)
{
	static const char word[] = "TIMESTAMP";
	const size_t n = sizeof(word) - 1;
	bool quoted = false;

	for (; *type; type++) {
		if (*type == '"')
			quoted = !quoted;
		else if (!quoted && strncmp(type, word, n) == 0 && (type[n] == '\0' || strchr(",)[", type[n])))
			return type;
	}
	return NULL;
}

/* The type with a zone in each of its timestamps, if there are `n`; else NULL. */
static char *
with_zones(const char *type, size_t n)
{
	struct buf b = BUF_INIT;
	const char *at;
	size_t found = 0;

	for (; (at = next_timestamp(type)); type = at + strlen("TIMESTAMP"), found++)
		buf_addf(&b, "%.*sTIMESTAMP WITH TIME ZONE", (int)(at - type), type);
	buf_adds(&b, type);
	if (found == n)
		return buf_detach(&b);
	buf_release(&b);
	return NULL;
}

static size_t
count_below(const json_t *paths, const char *name)
{
	size_t n = strlen(name), found = 0, i;
	json_t *row;

	json_array_foreach (paths, i, row) {
		const char *path = json_string_value(json_array_get(row, 0));

		found += strncmp(path, name, n) == 0 && (path[n] == '\0' || strncmp(path + n, ", ", 2) == 0);
	}
	return found;
}

/* INT96 is how Spark and Hive write instants, in UTC and without saying so; the engine takes it for a timestamp without zone. */
static int
find_instants(struct reading *rd)
{
	char *sql = xasprintf("SELECT DISTINCT path_in_schema FROM parquet_metadata(%s) WHERE type = 'INT96' AND (SELECT "
			      "bool_or(type = 'INT96') FROM parquet_schema(%s))",
			      rd->list.s, rd->list.s);
	json_t *paths = duck_query_json(rd->cx->db, sql, &rd->cx->err), *column;
	size_t i;

	free(sql);
	if (paths == NULL)
		return -1;
	rd->instants = json_object();
	json_array_foreach (rd->columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name"));
		size_t n = count_below(paths, name);
		char *type = n ? with_zones(json_string_value(json_object_get(column, "type")), n) : NULL;

		if (type)
			json_object_set_new(rd->instants, name, json_string(type));
		else if (n && casts_type(rd->cast, name) == NULL)
			printf("column %s: has INT96 beside other timestamps; all are taken as without zone, in UTC; cast says "
			       "otherwise\n",
			       name);
		free(type);
	}
	json_decref(paths);
	return 0;
}

/* ---- types ---- */

/* The type that fits all texts of a folder's column: whole numbers, then dates, else text. */
static char *
folder_type(struct reading *rd, const json_t *texts)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	const char *text;
	char *type = NULL;
	json_t *ignored;

	buf_adds(
		&b,
		"SELECT CASE WHEN bool_and(regexp_full_match(v, '-?[0-9]{1,18}')) THEN CASE WHEN bool_and(TRY_CAST(v AS INTEGER) "
		"IS NOT NULL) THEN 'INTEGER' ELSE 'BIGINT' END WHEN bool_and(regexp_full_match(v, '[0-9]{4}-[0-9]{2}-[0-9]{2}') "
		"AND TRY_CAST(v AS DATE) IS NOT NULL) THEN 'DATE' ELSE 'VARCHAR' END FROM (SELECT unnest([''");
	json_object_foreach ((json_t *)(uintptr_t)texts, text, ignored) {
		buf_adds(&b, ", ");
		buf_add_sql_string(&b, text);
	}
	buf_adds(&b, "][2:]) AS v)");
	r = duck_query(rd->cx->db, b.s, &rd->cx->err);
	if (r)
		type = duck_text(r, 0, 0);
	duck_result_free(r);
	buf_release(&b);
	return type;
}

static int
check_casts(struct reading *rd)
{
	json_t *names = json_array(), *column, *texts;
	const char *name;
	size_t i;
	int rc;

	json_array_foreach (rd->columns, i, column)
		json_array_append(names, json_object_get(column, "name"));
	json_object_foreach (rd->folders, name, texts)
		json_array_append_new(names, json_string(name));
	rc = casts_check(rd->cx, "from/cast", rd->cast, names);
	json_decref(names);
	return rc;
}

/* ---- the query ---- */

static void
add_file_columns(struct reading *rd, struct buf *b)
{
	json_t *column;
	size_t i;

	json_array_foreach (rd->columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")), *type = casts_type(rd->cast, name);

		if (type == NULL)
			type = json_string_value(json_object_get(rd->instants, name));
		buf_adds(b, i ? ", " : "");
		casts_add(b, name, type);
	}
}

/* Does any folder's name, also of those above the data set, stand for a column that the files have? The engine prefers it. */
static const char *
shadowed(const struct reading *rd)
{
	json_t *values = folder_values(rd->files[0].path), *value;
	const char *key, *found = NULL;

	json_object_foreach (values, key, value)
		if (found == NULL && column_named(rd->columns, key))
			found = json_string_value(json_object_get(column_named(rd->columns, key), "name"));
	json_decref(values);
	return found;
}

/* The folders' columns that the files do not have themselves: read as text, then made what they are. */
static int
add_folder_columns(struct reading *rd, struct buf *b, struct buf *options)
{
	const char *name, *taken;
	json_t *texts;

	json_object_foreach (rd->folders, name, texts) {
		const char *type = casts_type(rd->cast, name);
		char *found = NULL;

		if (column_named(rd->columns, name))
			continue;
		if ((taken = shadowed(rd)))
			return task_fail_at(
				rd->cx, "from",
				"the folder %s=… above %s is called as a column of the files; move the data set, or give "
				"that column another name",
				taken, rd->files[0].path);
		if (type == NULL)
			type = casts_type(rd->have, name);
		if (type == NULL)
			type = found = folder_type(rd, texts);
		if (type == NULL)
			return -1;
		printf("column %s: from the folders' names, as %s%s\n", name, type,
		       found                        ? ""
		       : casts_type(rd->cast, name) ? " (cast)"
						    : " (the table's)");
		buf_adds(b, ", ");
		casts_add(b, name, type);
		buf_adds(options, options->len ? ", " : ", hive_types = {");
		buf_add_sql_name(options, name);
		buf_adds(options, ": VARCHAR");
		free(found);
	}
	return 0;
}

static int
build(struct reading *rd, struct dataset *ds)
{
	struct buf options = BUF_INIT;
	const char *name;
	json_t *texts;
	int rc;

	buf_adds(&ds->query, "SELECT ");
	add_file_columns(rd, &ds->query);
	rc = add_folder_columns(rd, &ds->query, &options);
	buf_addf(&ds->query, " FROM read_parquet(%s, union_by_name = %s, hive_partitioning = %s%s%s)", rd->list.s,
		 rd->unite ? "true" : "false", options.len ? "true" : "false", options.s, options.len ? "}" : "");
	ds->partitions = json_array();
	json_object_foreach (rd->folders, name, texts)
		json_array_append_new(ds->partitions, json_string(name));
	buf_release(&options);
	return rc;
}

int
dataset_open(struct context *cx, const json_t *from, const json_t *have, enum write_evolution evolution, struct dataset *ds)
{
	struct reading rd = {
		.cx = cx, .cast = json_object_get(from, "cast"), .have = have, .evolution = evolution, .list = BUF_INIT
	};
	int rc = -1;

	*ds = (struct dataset){ .query = BUF_INIT };
	if (list_files(&rd, json_object_get(from, "path")) < 0 || find_folders(&rd) < 0 || check_columns(&rd) < 0 ||
	    (rd.columns = describe(&rd, rd.list.s, rd.unite)) == NULL || find_instants(&rd) < 0 || check_casts(&rd) < 0)
		goto out;
	rc = build(&rd, ds);
	if (rc == 0)
		printf("data set of %zu files\n", rd.nfiles);
out:
	for (size_t i = 0; i < rd.nfiles; i++)
		free(rd.files[i].path);
	free(rd.files);
	buf_release(&rd.list);
	json_decref(rd.folders);
	json_decref(rd.columns);
	json_decref(rd.instants);
	return rc;
}

void
dataset_release(struct dataset *ds)
{
	buf_release(&ds->query);
	json_decref(ds->partitions);
}
