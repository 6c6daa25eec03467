/*
 * The engine's extension reads the table; which version, and what it says of its columns, is read from the log here: the
 * extension knows no times, does not tell which columns are required, and says little about what it cannot read.
 */
#include "tasks/delta.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "tasks/engines/duckdb.h"

#define VERSION_DIGITS 20

/* One file of the log. */
struct entry {
	int64_t version;
	wall_us modified;
	char *file;
};

struct log {
	struct entry *commits, *checkpoints; /* by version; a checkpoint may have several files */
	size_t ncommits, ncheckpoints;
	int64_t oldest, newest; /* versions that can be read */
};

/* ---- which versions there are ---- */

static void
entry_add(struct entry **list, size_t *n, const char *file, wall_us modified)
{
	*list = xrealloc(*list, (*n + 1) * sizeof(**list));
	(*list)[(*n)++] = (struct entry){ strtoll(strrchr(file, '/') + 1, NULL, 10), modified, xstrdup(file) };
}

static int
on_log_file(const char *location, int64_t size, wall_us modified, void *arg)
{
	const char *name = strrchr(location, '/'), *folder = strstr(location, "/_delta_log/"), *next;
	struct log *l = arg;

	(void)size;
	while (folder && (next = strstr(folder + 1, "/_delta_log/")))
		folder = next;
	if (folder == NULL || name != folder + strlen("/_delta_log"))
		return 0; /* of a folder in it */
	if (strspn(++name, "0123456789") != VERSION_DIGITS)
		return 0;
	name += VERSION_DIGITS;
	if (strcmp(name, ".json") == 0)
		entry_add(&l->commits, &l->ncommits, location, modified);
	else if (strncmp(name, ".checkpoint.", 12) == 0)
		entry_add(&l->checkpoints, &l->ncheckpoints, location, modified);
	return 0;
}

static int
entry_compare(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	return x->version < y->version ? -1 : x->version > y->version;
}

static void
log_release(struct log *l)
{
	for (size_t i = 0; i < l->ncommits; i++)
		free(l->commits[i].file);
	for (size_t i = 0; i < l->ncheckpoints; i++)
		free(l->checkpoints[i].file);
	free(l->commits);
	free(l->checkpoints);
}

static int
log_list(struct context *cx, const char *key, const char *path, struct log *l)
{
	char *folder = xasprintf("%s/_delta_log", path);
	struct storage *s = task_storage(cx);
	int rc = s ? storage_list(s, folder, on_log_file, l, &cx->err) : -1;

	free(folder);
	if (rc < 0)
		return -1;
	if (l->ncommits == 0 && l->ncheckpoints == 0)
		return task_fail_at(
			cx, key,
			"%s is no Delta table: it has no _delta_log with commits; is the path right? A folder of Parquet "
			"files is read with format: parquet",
			path);
	if (l->ncommits)
		qsort(l->commits, l->ncommits, sizeof(*l->commits), entry_compare);
	if (l->ncheckpoints)
		qsort(l->checkpoints, l->ncheckpoints, sizeof(*l->checkpoints), entry_compare);
	l->newest = l->ncommits ? l->commits[l->ncommits - 1].version : -1;
	if (l->ncheckpoints && l->checkpoints[l->ncheckpoints - 1].version > l->newest)
		l->newest = l->checkpoints[l->ncheckpoints - 1].version;
	/* Commits before the first checkpoint may have been cleaned away; without the first of all they lead nowhere. */
	l->oldest = l->ncommits && (l->commits[0].version == 0 || l->ncheckpoints == 0) ? l->commits[0].version
											: l->checkpoints[0].version;
	return 0;
}

/* ---- the version ---- */

/* The commits' own fields, for read_json. */
#define COMMIT_COLUMNS                                                                                                           \
	", format = 'newline_delimited', filename = true, columns = {commitInfo: 'STRUCT(\"timestamp\" BIGINT, "                 \
	"inCommitTimestamp "                                                                                                     \
	"BIGINT)', metaData: 'STRUCT(schemaString VARCHAR, partitionColumns VARCHAR[], configuration MAP(VARCHAR, VARCHAR))'})"

/*
 * When a commit was made: by the time in it that the table vouches for, else by the one that its writer noted, else by its
 * file's. As readers do it, no commit is older than the one before it.
 */
static char *
times_query(const struct log *l, const char *timestamp)
{
	struct buf b = BUF_INIT, files = BUF_INIT;

	buf_adds(&b, "WITH wanted AS (SELECT epoch_ms(CAST(");
	buf_add_sql_string(&b, timestamp);
	buf_adds(&b, " AS TIMESTAMPTZ)) AS ms), files AS (FROM (VALUES ");
	for (size_t i = 0; i < l->ncommits; i++) {
		if (l->commits[i].version < l->oldest)
			continue;
		buf_addf(&b, "%s(%" PRId64 "::BIGINT, %" PRId64 "::BIGINT)", files.len ? ", " : "", l->commits[i].version,
			 l->commits[i].modified / US_PER_MS);
		buf_adds(&files, files.len ? ", " : "");
		buf_add_sql_string(&files, l->commits[i].file);
	}
	buf_addf(&b,
		 ") AS f(version, ms)), said AS (SELECT regexp_extract(filename, '([0-9]{20})[.]json$', 1)::BIGINT AS version, "
		 "max(coalesce(commitInfo.inCommitTimestamp, commitInfo.\"timestamp\")) AS ms FROM read_json([%s]" COMMIT_COLUMNS
		 " GROUP BY ALL), made AS (SELECT version, max(coalesce(said.ms, files.ms)) OVER (ORDER BY version) AS ms FROM "
		 "files "
		 "LEFT JOIN said USING (version)) SELECT coalesce(max(version) FILTER (WHERE made.ms <= wanted.ms), -1)::BIGINT, "
		 "strftime(make_timestamp(min(made.ms) * 1000), '%%Y-%%m-%%d %%H:%%M:%%S.%%g') FROM made, wanted",
		 files.s);
	buf_release(&files);
	return buf_detach(&b);
}

static int
version_at(struct context *cx, const char *key, const struct log *l, const char *timestamp, struct delta *d)
{
	char *query = times_query(l, timestamp), *place = xasprintf("%s/timestamp", key), *first = NULL;
	struct duck_result *r = NULL;
	int rc = -1;

	if (l->ncommits == 0)
		task_fail_at(cx, place, "Delta table %s: no commit is left in its log that tells a time; name a version",
			     d->path);
	else if ((r = duck_query(cx->db, query, &cx->err)) == NULL && strstr(cx->err.msg, "Conversion Error"))
		task_fail_at(cx, place, "timestamp \"%s\" is no time; write it as 2026-11-21 06:00 or 2026-11-21T06:00:00+01:00",
			     timestamp);
	if (r == NULL)
		goto out;
	d->version = duck_int(r, 0, 0);
	first = duck_text(r, 0, 1);
	if (d->version < 0)
		task_fail_at(cx, place,
			     "Delta table %s has no version as old as %s: its oldest is version %" PRId64 ", of %s UTC", d->path,
			     timestamp, l->oldest, first);
	rc = d->version < 0 ? -1 : 0;
out:
	duck_result_free(r);
	free(first);
	free(place);
	free(query);
	return rc;
}

static int
version_pick(struct context *cx, const char *key, const json_t *source, const struct log *l, struct delta *d)
{
	const char *timestamp = json_string_value(json_object_get(source, "timestamp"));
	const json_t *version = json_object_get(source, "version");
	char *place;
	int rc;

	d->version = version ? json_integer_value(version) : l->newest;
	if (version && timestamp)
		return task_fail_at(cx, key, "version and timestamp each name a version; leave one out");
	if (timestamp)
		return version_at(cx, key, l, timestamp, d);
	if (d->version >= l->oldest && d->version <= l->newest)
		return 0;
	place = xasprintf("%s/version", key);
	rc = task_fail_at(cx, place, "Delta table %s has no version %" PRId64 ": it has %" PRId64 " to %" PRId64 "%s", d->path,
			  d->version, l->oldest, l->newest, l->oldest > 0 ? "; older ones have been cleaned away" : "");
	free(place);
	return rc;
}

/* ---- what the table says of itself ---- */

static json_t *
metadata_rows(struct context *cx, const struct entry *entries, size_t n, int64_t after, int64_t until)
{
	static const char select[] = "SELECT metaData.schemaString, metaData.partitionColumns, metaData.configuration FROM ",
			  where[] = " WHERE metaData.schemaString IS NOT NULL";
	struct buf b = BUF_INIT;
	json_t *rows = json_array(), *some;

	/* The last one counts: a table's metadata can change with any commit. */
	for (size_t i = n; i-- > 0 && json_array_size(rows) == 0;) {
		size_t len = strlen(entries[i].file);

		if (entries[i].version <= after || entries[i].version > until)
			continue;
		buf_clear(&b);
		buf_adds(&b, select);
		if (strcmp(entries[i].file + len - 5, ".json") == 0) {
			buf_adds(&b, "read_json(");
			buf_add_sql_string(&b, entries[i].file);
			buf_adds(&b, COMMIT_COLUMNS);
		} else {
			buf_adds(&b, "read_parquet(");
			buf_add_sql_string(&b, entries[i].file);
			buf_adds(&b, ")");
		}
		buf_adds(&b, where);
		some = duck_query_json(cx->db, b.s, &cx->err);
		json_decref(rows);
		rows = some;
		if (rows == NULL)
			break;
	}
	buf_release(&b);
	return rows;
}

/* The metadata in force: of the commits after the last checkpoint, or of that. NULL with the error set. */
static json_t *
metadata_find(struct context *cx, const struct log *l, int64_t version)
{
	int64_t checkpoint = -1;
	json_t *rows;

	for (size_t i = 0; i < l->ncheckpoints && l->checkpoints[i].version <= version; i++)
		checkpoint = l->checkpoints[i].version;
	rows = metadata_rows(cx, l->commits, l->ncommits, checkpoint, version);
	if (rows && json_array_size(rows) == 0) {
		json_decref(rows);
		rows = metadata_rows(cx, l->checkpoints, l->ncheckpoints, checkpoint - 1, checkpoint);
	}
	return rows;
}

/* Field ids and the names that the files have for them. */
static void
mapped_names(const json_t *fields, json_t *out)
{
	json_t *field;
	size_t i;

	json_array_foreach (fields, i, field) {
		const json_t *metadata = json_object_get(field, "metadata"), *type = json_object_get(field, "type");
		char id[24];

		snprintf(id, sizeof(id), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(json_object_get(metadata, "delta.columnMapping.id")));
		json_object_set(out, id, json_object_get(metadata, "delta.columnMapping.physicalName"));
		mapped_names(json_object_get(type, "fields"), out);
		mapped_names(json_object_get(json_object_get(type, "elementType"), "fields"), out);
		mapped_names(json_object_get(json_object_get(type, "valueType"), "fields"), out);
	}
}

static void
metadata_take(const json_t *row, struct delta *d)
{
	json_t *schema = json_loads(json_string_value(json_array_get(row, 0)), 0, NULL), *field;
	const char *mode = json_string_value(json_object_get(json_array_get(row, 2), "delta.columnMapping.mode"));
	size_t i;

	d->partitions = json_incref(json_array_get(row, 1));
	d->required = json_array();
	json_array_foreach (json_object_get(schema, "fields"), i, field)
		if (json_is_false(json_object_get(field, "nullable")))
			json_array_append(d->required, json_object_get(field, "name"));
	if (mode && strcmp(mode, "id") == 0)
		mapped_names(json_object_get(schema, "fields"), d->mapped = json_object());
	json_decref(schema);
}

static int
delta_describe(struct context *cx, const char *key, const struct log *l, struct delta *d)
{
	json_t *rows = metadata_find(cx, l, d->version);
	int rc = -1;

	if (rows == NULL)
		err_prefix(&cx->err, "the log of Delta table %s", d->path);
	else if (json_array_size(rows) == 0)
		task_fail_at(cx, key, "Delta table %s: its log has no metadata for version %" PRId64, d->path, d->version);
	else
		rc = 0;
	if (rc == 0)
		metadata_take(json_array_get(rows, 0), d);
	json_decref(rows);
	return rc;
}

/* ---- the extension ---- */

/* Its errors begin with classes of its own and end with a stack; between them is what a person can use. */
static int
delta_explain(struct context *cx, const char *key, const struct delta *d)
{
	char *said = xstrdup(cx->err.msg ? cx->err.msg : ""), *text = said, *at;
	int rc;

	said[strcspn(said, "\n")] = '\0';
	if ((at = strstr(text, "DeltaKernel ")) && (at = strstr(at, "): ")))
		text = at + 3;
	if (strncmp(text, "Generic delta kernel error: ", 28) == 0)
		text += 28;
	if (strstr(text, "Catalog-managed table"))
		rc = task_fail_at(
			cx, key,
			"Delta table %s: the feature catalogManaged is not supported: its commits are kept by a catalog's server",
			d->path);
	else
		rc = task_fail_at(cx, key, "Delta table %s, version %" PRId64 ": %s", d->path, d->version, text);
	free(said);
	return rc;
}

/* In a folder whose name is not ASCII the extension finds the log, but not the files: it gets there by another name. */
static int
delta_plain(struct context *cx, struct delta *d)
{
	bool ascii = true;

	for (const char *p = d->path; *p; p++)
		ascii = ascii && (unsigned char)*p < 0x80;
	if (ascii || storage_remote(d->path)) {
		d->plain = xstrdup(d->path);
		return 0;
	}
	d->plain = xasprintf("%s/delta", doc_text(cx, "scratch"));
	if (symlink(d->path, d->plain) < 0)
		return task_fail(cx, ERR_IO, "cannot make %s, a link to %s: %s", d->plain, d->path, strerror(errno));
	return 0;
}

/* Attached, since that keeps what was read of the log for all statements. */
static int
delta_attach(struct context *cx, const char *key, struct delta *d)
{
	struct storage *s = storage_remote(d->path) ? task_storage(cx) : NULL;
	struct buf b = BUF_INIT;
	int rc;

	/* It asks stores itself, by a library that knows certificates of one's own by this variable only. */
	if (s && storage_ca(s))
		setenv("SSL_CERT_FILE", storage_ca(s), true);
	if (duck_load_delta(cx->db, &cx->err) < 0)
		return -1;
	if (delta_plain(cx, d) < 0)
		return -1;
	buf_adds(&b, "ATTACH ");
	buf_add_sql_string(&b, d->plain);
	buf_addf(&b, " AS " DELTA_ROWS " (TYPE delta, VERSION %" PRId64 ", PIN_SNAPSHOT)", d->version);
	rc = duck_exec(cx->db, b.s, &cx->err);
	if (rc == 0) {
		json_t *columns = duck_describe(cx->db, "SELECT * FROM " DELTA_ROWS, &cx->err);

		rc = columns ? 0 : -1;
		json_decref(columns);
	}
	if (rc < 0)
		rc = delta_explain(cx, key, d);
	buf_release(&b);
	return rc;
}

static void
add_list_files(const struct delta *d, struct buf *b)
{
	buf_adds(b, "delta_list_files(");
	buf_add_sql_string(b, d->plain);
	buf_addf(b, ", version := %" PRId64 ", delete_count := true)", d->version);
}

/* The rows that the log counts, without those that are marked as deleted. */
static int
delta_count(struct context *cx, const char *key, struct delta *d)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;
	char *rows;

	/* A file without statistics has the largest number there is. */
	buf_adds(&b, "SELECT CASE WHEN coalesce(bool_and(cardinality < 9223372036854775807), true) THEN "
		     "coalesce(sum(cardinality - coalesce(delete_count, 0)), 0) END::VARCHAR FROM ");
	add_list_files(d, &b);
	r = duck_query(cx->db, b.s, &cx->err);
	buf_release(&b);
	if (r == NULL)
		return delta_explain(cx, key, d);
	rows = duck_text(r, 0, 0);
	d->rows = rows ? strtoll(rows, NULL, 10) : -1;
	free(rows);
	duck_result_free(r);
	return 0;
}

/* With column mapping by id the extension goes by the files' names all the same, and gives NULLs where they are others. */
static int
delta_check_names(struct context *cx, const char *key, const struct delta *d)
{
	struct buf b = BUF_INIT, names = BUF_INIT;
	json_t *files, *file, *name, *found = NULL, *row;
	const char *id;
	size_t i;
	int rc = -1;

	buf_adds(&b, "SELECT data_file FROM ");
	add_list_files(d, &b);
	files = duck_query_json(cx->db, b.s, &cx->err);
	json_object_foreach (d->mapped, id, name) {
		buf_addf(&names, "%s(%s, ", names.len ? ", " : "", id);
		buf_add_sql_string(&names, json_string_value(name));
		buf_addc(&names, ')');
	}
	buf_clear(&b);
	json_array_foreach (files, i, file) {
		buf_adds(&b, i ? ", " : "SELECT file_name, s.name, m.name FROM parquet_schema([");
		buf_add_sql_string(&b, json_string_value(json_array_get(file, 0)));
	}
	buf_addf(&b, "]) s JOIN (VALUES %s) m(id, name) ON s.field_id = m.id WHERE s.name <> m.name LIMIT 1", names.s);
	if (files && json_array_size(files) && names.len)
		found = duck_query_json(cx->db, b.s, &cx->err);
	else if (files)
		found = json_array();
	row = json_array_get(found, 0);
	if (row)
		task_fail_at(cx, key,
			     "Delta table %s: its columns are mapped by id (delta.columnMapping.mode = id), and %s calls \"%s\" "
			     "what the "
			     "table's log calls \"%s\"; the engine finds columns by name only: write the table anew with "
			     "delta.columnMapping.mode = name, or without",
			     d->path, json_string_value(json_array_get(row, 0)), json_string_value(json_array_get(row, 1)),
			     json_string_value(json_array_get(row, 2)));
	else if (found)
		rc = 0;
	json_decref(found);
	json_decref(files);
	buf_release(&b);
	buf_release(&names);
	return rc;
}

int
delta_open(struct context *cx, const char *key, const json_t *source, struct delta *d)
{
	const char *given = json_string_value(json_object_get(source, "path")), *path;
	struct log l = { 0 };
	int rc;

	*d = (struct delta){ .rows = -1 };
	if (given == NULL)
		return task_fail_at(cx, key, "with format: delta, path is one folder");
	if ((path = task_path(cx, key, given)) == NULL)
		return -1;
	/* The extension gives its library the store's keys under the one name only. */
	d->path = strncmp(path, "s3a://", 6) == 0 ? xasprintf("s3://%s", path + 6) : xstrdup(path);
	for (size_t n = strlen(d->path); n > 1 && d->path[n - 1] == '/'; n--)
		d->path[n - 1] = '\0';
	rc = log_list(cx, key, d->path, &l);
	if (rc == 0)
		rc = version_pick(cx, key, source, &l, d);
	if (rc == 0)
		rc = delta_describe(cx, key, &l, d);
	if (rc == 0)
		rc = delta_attach(cx, key, d);
	if (rc == 0 && d->mapped)
		rc = delta_check_names(cx, key, d);
	if (rc == 0)
		rc = delta_count(cx, key, d);
	if (rc == 0)
		printf("Delta table %s, version %" PRId64 "\n", d->path, d->version);
	log_release(&l);
	return rc;
}

void
delta_release(struct delta *d)
{
	free(d->path);
	free(d->plain);
	json_decref(d->partitions);
	json_decref(d->required);
	json_decref(d->mapped);
}
