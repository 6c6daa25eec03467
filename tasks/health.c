/*
 * health: what tables are made of, and how far that is from what it could be. Reads metadata, manifest lists and manifests of the
 * current snapshots, many with one statement; no data file is opened.
 *
 *     {"tables": [{"table", "location"}], "housekeeping": what the config says, "largest": n}
 *
 * The result: {"tables": [what health_json says, or {"table", "error"}]}. With `largest` only so many of the largest, and
 * {"others": the sums of the rest, "unreadable": how many cannot be read}.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/table_at.h"
#include "base/table_expiry.h"
#include "base/table_policy.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"
#include "tasks/health.h"
#include "tasks/iceberg/reach.h"
#include "tasks/iceberg/write.h"
#include "tasks/report.h"

#define READ_AT_ONCE 200

/* One of a table's partitions: manifests of several statements may tell of it. */
struct partition {
	char *name;
	json_int_t files, bytes, small;
	UT_hash_handle hh;
};

struct table {
	const char *name;
	json_t *md;
	size_t metadata_bytes;
	json_t *policy;          /* as base/table_policy.h has it */
	double target;           /* size of its files */
	int target_at;           /* where in the survey's targets */
	const char *list;        /* of the current snapshot; NULL: no rows yet */
	bool partitioned, fresh; /* fresh: the first one with this list */
	json_t *data;            /* manifests of a table with partitions, as paths: each such table is a statement of its own */
	json_int_t files, bytes, records, small, delete_files, ideal_files;
	json_int_t manifests, manifest_bytes, partitions, largest;
	struct partition *parts;
	char *error;
};

struct survey {
	struct context *cx;
	const json_t *housekeeping;
	struct table *tables;
	size_t n;
	json_t *targets;        /* each one once: tables of other targets are counted by the same statement */
	json_t *data, *deletes; /* manifests of all others; of all */
	json_t *owners;         /* path -> indexes of tables: two may share a file */
};

static void
table_fail(struct survey *s, struct table *t)
{
	if (t->error == NULL)
		t->error = xstrdup(s->cx->err.msg);
	err_release(&s->cx->err);
}

/* ---- the statements ---- */

/* Notes that the table needs this file; false when another one did before. */
static bool
file_add(struct survey *s, const char *path, const struct table *t)
{
	json_t *owners = json_object_get(s->owners, path);
	bool fresh = owners == NULL;

	if (fresh)
		json_object_set_new(s->owners, path, owners = json_array());
	json_array_append_new(owners, json_integer((json_int_t)(t - s->tables)));
	return fresh;
}

/* "read_avro(['a', 'b'])" */
static void
add_read(struct buf *b, const json_t *paths, size_t from, size_t n)
{
	buf_adds(b, "read_avro([");
	for (size_t i = from; i < from + n; i++) {
		buf_adds(b, i > from ? ", " : "");
		buf_add_sql_string(b, json_string_value(json_array_get(paths, i)));
	}
	buf_adds(b, "])");
}

typedef void (*row_fn)(struct survey *s, struct table *t, struct duck_result *r, size_t row);

/* The row to `only`, or to every table that needs the file which its first column names. */
static void
row_give(struct survey *s, struct duck_result *r, size_t row, struct table *only, row_fn fn)
{
	char *path;
	json_t *at;
	size_t i;

	if (only) {
		fn(s, only, r, row);
		return;
	}
	path = duck_text(r, row, 0);
	json_array_foreach (json_object_get(s->owners, path), i, at)
		fn(s, &s->tables[json_integer_value(at)], r, row);
	free(path);
}

static void
file_fail(struct survey *s, const char *path)
{
	json_t *at;
	size_t i;

	err_prefix(&s->cx->err, "%s", path);
	json_array_foreach (json_object_get(s->owners, path), i, at) {
		struct table *t = &s->tables[json_integer_value(at)];

		if (t->error == NULL)
			t->error = xstrdup(s->cx->err.msg);
	}
	err_release(&s->cx->err);
}

/*
 * Runs the statement over so many files at once as may be. A file that cannot be read is found by reading each alone, and spoils
 * the tables that need it only.
 */
static void
each_row(struct survey *s, const json_t *paths, struct table *only, const char *before, const char *after, row_fn fn)
{
	size_t total = json_array_size(paths), n = only ? total : READ_AT_ONCE;

	for (size_t from = 0; from < total;) {
		struct buf sql = BUF_INIT;
		struct duck_result *r;

		n = n > total - from ? total - from : n;
		buf_adds(&sql, before);
		add_read(&sql, paths, from, n);
		buf_adds(&sql, after);
		r = duck_query(s->cx->db, sql.s, &s->cx->err);
		buf_release(&sql);
		if (r == NULL && n > 1) {
			err_release(&s->cx->err);
			n = 1;
			continue;
		}
		for (size_t i = 0; r && i < duck_rows(r); i++)
			row_give(s, r, i, only, fn);
		if (r == NULL)
			file_fail(s, json_string_value(json_array_get(paths, from)));
		duck_result_free(r);
		from += n;
	}
}

static void
on_manifest(struct survey *s, struct table *t, struct duck_result *r, size_t row)
{
	char *given = duck_text(r, row, 1);
	const char *path = given ? task_path(s->cx, "manifest", given) : NULL;
	bool deletes = duck_int(r, row, 3) != 0;

	if (path == NULL) {
		table_fail(s, t);
	} else {
		t->manifests++;
		t->manifest_bytes += duck_int(r, row, 2);
		if (t->partitioned && !deletes) {
			(void)file_add(s, path, t);
			json_array_append_new(t->data, json_string(path));
		} else if (file_add(s, path, t)) {
			json_array_append_new(deletes ? s->deletes : s->data, json_string(path));
		}
	}
	free(given);
}

static void
on_delete_files(struct survey *s, struct table *t, struct duck_result *r, size_t row)
{
	(void)s;
	t->delete_files += duck_int(r, row, 1);
}

/* Columns after the path: files, bytes, rows, and small files by each target. */
static void
on_data_files(struct survey *s, struct table *t, struct duck_result *r, size_t row)
{
	(void)s;
	t->files += duck_int(r, row, 1);
	t->bytes += duck_int(r, row, 2);
	t->records += duck_int(r, row, 3);
	t->small += duck_int(r, row, 4 + (size_t)t->target_at);
}

/* The same of one partition, whose name comes before them. */
static void
on_partition(struct survey *s, struct table *t, struct duck_result *r, size_t row)
{
	char *text = duck_text(r, row, 0), *name = text ? text : xstrdup("");
	struct partition *p;

	(void)s;
	HASH_FIND_STR(t->parts, name, p);
	if (p == NULL) {
		p = xcalloc(1, sizeof(*p));
		p->name = name;
		name = NULL;
		HASH_ADD_KEYPTR(hh, t->parts, p->name, strlen(p->name), p);
	}
	p->files += duck_int(r, row, 1);
	p->bytes += duck_int(r, row, 2);
	p->small += duck_int(r, row, 4 + (size_t)t->target_at);
	t->records += duck_int(r, row, 3);
	free(name);
}

/* ---- the survey ---- */

static void
table_target(struct survey *s, struct table *t)
{
	json_t *target = json_object_get(t->policy, "target_file_size"), *known;
	size_t i;

	t->target = (double)json_integer_value(target);
	json_array_foreach (s->targets, i, known)
		if (json_equal(known, target))
			break;
	if (i == json_array_size(s->targets))
		json_array_append(s->targets, target);
	t->target_at = (int)i;
}

static int
table_read(struct survey *s, struct table *t, const json_t *item)
{
	const json_t *list, *spec, *specs;
	const char *path;
	json_int_t id;
	size_t i;

	t->name = json_string_value(json_object_get(item, "table"));
	t->data = json_array();
	t->policy = table_policy(s->housekeeping, t->name);
	table_target(s, t);
	t->md = reach_read(s->cx, json_string_value(json_object_get(item, "location")), &t->metadata_bytes);
	if (t->md == NULL)
		return -1;
	specs = json_object_get(t->md, "partition-specs");
	json_array_foreach (specs, i, spec)
		t->partitioned = t->partitioned || json_array_size(json_object_get(spec, "fields")) > 0;
	id = table_current(t->md);
	json_array_foreach (json_object_get(t->md, "snapshots"), i, list)
		if (json_integer_value(json_object_get(list, "snapshot-id")) == id &&
		    (path = json_string_value(json_object_get(list, "manifest-list"))) != NULL) {
			if ((t->list = task_path(s->cx, "manifest list", path)) == NULL)
				return -1;
			t->fresh = file_add(s, t->list, t);
		}
	return 0;
}

/* Lists of one format version have the same fields. */
static void
read_lists(struct survey *s)
{
	for (json_int_t version = 1; version <= 3; version++) {
		json_t *paths = json_array();

		for (size_t i = 0; i < s->n; i++)
			if (s->tables[i].list && s->tables[i].fresh &&
			    json_integer_value(json_object_get(s->tables[i].md, "format-version")) == version)
				json_array_append_new(paths, json_string(s->tables[i].list));
		each_row(s, paths, NULL,
			 "SELECT filename, m->>'manifest_path', (m->>'manifest_length')::BIGINT, "
			 "coalesce((m->>'content')::BIGINT, 0)"
			 " FROM (SELECT filename, to_json(f) AS m FROM ",
			 " AS f)", on_manifest);
		json_decref(paths);
	}
}

/* Files, bytes, rows, small files by each target. The caller frees it. */
static char *
sums_of(const struct survey *s)
{
	struct buf b = BUF_INIT;
	json_t *target;
	size_t i;

	buf_adds(&b, "count(*)::BIGINT, coalesce(sum(s), 0)::BIGINT, coalesce(sum(r), 0)::BIGINT");
	json_array_foreach (s->targets, i, target)
		buf_addf(&b, ", count(*) FILTER (s < %.0f)::BIGINT", (double)json_integer_value(target) * SMALL_SHARE);
	return buf_detach(&b);
}

static void
read_manifests(struct survey *s)
{
	char *sums = sums_of(s),
	     *flat = xasprintf(
		     "SELECT filename, %s FROM (SELECT filename, data_file.file_size_in_bytes AS s, data_file.record_count AS"
		     " r FROM ",
		     sums),
	     *grouped = xasprintf("SELECT p, %s FROM (SELECT data_file.file_size_in_bytes AS s, data_file.record_count AS r, "
				  "data_file.\"partition\"::VARCHAR AS p FROM ",
				  sums);

	for (size_t i = 0; i < s->n; i++)
		each_row(s, s->tables[i].data, &s->tables[i], grouped, " WHERE status <> 2) GROUP BY p", on_partition);
	each_row(s, s->data, NULL, flat, " WHERE status <> 2) GROUP BY filename", on_data_files);
	each_row(s, s->deletes, NULL, "SELECT filename, count(*)::BIGINT FROM ", " WHERE status <> 2 GROUP BY filename",
		 on_delete_files);
	free(sums);
	free(flat);
	free(grouped);
}

/* ---- what it means ---- */

/* How many snapshots the policy would let go. */
static size_t
expired(const struct table *t)
{
	struct table_expiry x = table_expiry_of(t->policy, t->md, clock_wall());
	json_t *ids = table_expired(t->md, &x, NULL);
	size_t n = json_array_size(ids);

	json_decref(ids);
	return n;
}

static double
share(double good, double all)
{
	return all <= 0 || good >= all ? 100 : good <= 0 ? 0 : 100 * good / all;
}

/* The table's numbers, and of each part how near it is to what it could be, from 0 to 100; the score is their weighted mean. */
static json_t *
health_json(const struct table *t)
{
	size_t snapshots = json_array_size(json_object_get(t->md, "snapshots")), gone = expired(t);
	double ideal_manifests = ceil((double)t->manifest_bytes / (double)MANIFEST_SIZE),
	       files = share((double)t->ideal_files, (double)t->files),
	       deletes = 100 - share((double)t->delete_files, (double)t->files),
	       history = share((double)(snapshots - gone), (double)snapshots),
	       manifests = share(ideal_manifests < MANIFESTS_MANY ? MANIFESTS_MANY : ideal_manifests, (double)t->manifests);
	json_t *out;

	if (t->delete_files == 0)
		deletes = 100;
	out = json_pack("{s:s,s:i,s:{s:i,s:i,s:i,s:i}}", "table", t->name, "score",
			(int)floor(0.4 * files + 0.3 * deletes + 0.2 * history + 0.1 * manifests), "parts", "files", (int)files,
			"deletes", (int)deletes, "snapshots", (int)history, "manifests", (int)manifests);
	json_object_update_new(out, json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "records", t->records, "files", t->files, "bytes",
					      t->bytes, "average_file_bytes", t->files ? t->bytes / t->files : 0, "small_files",
					      t->small, "files_needed", t->ideal_files, "delete_files", t->delete_files));
	json_object_update_new(out,
			       json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "snapshots", (json_int_t)snapshots,
					 "expirable_snapshots", (json_int_t)gone, "manifests", t->manifests, "manifest_bytes",
					 t->manifest_bytes, "metadata_bytes", (json_int_t)t->metadata_bytes, "partitions",
					 t->partitions, "largest_partition_bytes", t->largest));
	return out;
}

/* How many files of the target size so many bytes are. */
static json_int_t
files_needed(const struct table *t, json_int_t files, json_int_t bytes)
{
	double ideal = ceil((double)bytes / t->target);

	return files == 0 ? 0 : ideal < 1 ? 1 : (json_int_t)ideal;
}

/* Sums up the partitions; a table without any is one. */
static void
table_settle(struct table *t)
{
	struct partition *p, *tmp;

	HASH_ITER(hh, t->parts, p, tmp)
	{
		t->partitions++;
		t->files += p->files;
		t->bytes += p->bytes;
		t->small += p->files > 1 ? p->small : 0; /* alone it is as large as it can be */
		t->ideal_files += files_needed(t, p->files, p->bytes);
		t->largest = p->bytes > t->largest ? p->bytes : t->largest;
		HASH_DEL(t->parts, p);
		free(p->name);
		free(p);
	}
	if (t->partitioned)
		return;
	t->ideal_files = files_needed(t, t->files, t->bytes);
	t->small = t->files > 1 ? t->small : 0;
	t->partitions = t->files > 0;
	t->largest = t->bytes;
}

static void
survey_run(struct survey *s, const json_t *items, json_t *out)
{
	for (size_t i = 0; i < s->n; i++)
		if (table_read(s, &s->tables[i], json_array_get(items, i)) < 0)
			table_fail(s, &s->tables[i]);
	read_lists(s);
	read_manifests(s);
	for (size_t i = 0; i < s->n; i++) {
		struct table *t = &s->tables[i];

		table_settle(t);
		json_array_append_new(out,
				      t->error ? json_pack("{s:s,s:s}", "table", t->name, "error", t->error) : health_json(t));
		json_decref(t->md);
		json_decref(t->data);
		json_decref(t->policy);
		free(t->error);
	}
}

static int
larger_first(const void *a, const void *b)
{
	json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "bytes")),
		   y = json_integer_value(json_object_get(*(json_t *const *)b, "bytes"));

	return (x < y) - (x > y);
}

/* The `n` largest tables, and the sums of all others. */
static json_t *
largest(const json_t *tables, size_t n)
{
	static const char *const sums[] = { "bytes", "files", "small_files", "delete_files", "snapshots", "metadata_bytes" };
	size_t count = json_array_size(tables), readable = 0, i;
	json_t **sorted = xcalloc(count ? count : 1, sizeof(json_t *)), *kept = json_array(), *others = json_object(), *table;

	json_array_foreach ((json_t *)tables, i, table)
		if (json_object_get(table, "error") == NULL)
			sorted[readable++] = table;
	qsort(sorted, readable, sizeof(json_t *), larger_first);
	for (i = 0; i < readable && i < n; i++)
		json_array_append(kept, sorted[i]);
	for (size_t k = 0; k < sizeof(sums) / sizeof(sums[0]); k++) {
		json_int_t sum = 0;

		for (i = n; i < readable; i++)
			sum += json_integer_value(json_object_get(sorted[i], sums[k]));
		json_object_set_new(others, sums[k], json_integer(sum));
	}
	free(sorted);
	return json_pack("{s:o,s:o,s:I}", "tables", kept, "others", others, "unreadable", (json_int_t)(count - readable));
}

json_t *
health_of(struct context *cx, const json_t *items, const json_t *housekeeping)
{
	struct survey s = { .cx = cx,
			    .housekeeping = housekeeping,
			    .n = json_array_size(items),
			    .targets = json_array(),
			    .data = json_array(),
			    .deletes = json_array(),
			    .owners = json_object() };
	json_t *out = json_array();

	s.tables = xcalloc(s.n ? s.n : 1, sizeof(*s.tables));
	survey_run(&s, items, out);
	free(s.tables);
	json_decref(s.targets);
	json_decref(s.data);
	json_decref(s.deletes);
	json_decref(s.owners);
	return out;
}

int
health_run(struct context *cx)
{
	json_t *n = json_object_get(cx->spec, "largest"), *out;

	if (duck_load_iceberg(cx->db, &cx->err) < 0 || task_s3_if_any(cx) < 0)
		return -1;
	out = health_of(cx, json_object_get(cx->spec, "tables"), json_object_get(cx->spec, "housekeeping"));
	report("result", n ? largest(out, (size_t)json_integer_value(n)) : json_pack("{s:O}", "tables", out));
	json_decref(out);
	return 0;
}
