/*
 * Compaction: rows of many small files, or of files with deletes, move into files of the target size, a partition at a time. The
 * engine reads a group of files as a table of its own: a snapshot in the scratch folder that holds these files and their deletes
 * and nothing else, so what it reads is what any reader of the table sees. Commits are made on the way, so a large table makes
 * progress whatever comes; each takes in what others have committed, and only what changed the rows at hand makes it begin anew.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/fs.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/entries.h"
#include "tasks/iceberg/partition.h"
#include "tasks/maintain/maintain.h"
#include "tasks/report.h"

#define GROUP_FILES    5000         /* each costs memory while it is read */
#define GROUP_BYTES    (4LL << 30)  /* read and written in one go */
#define TOGETHER_BYTES (64LL << 20) /* small partitions are done together, up to this */
#define TOGETHER_FILES 1000
#define COMMIT_BYTES   (8LL << 30) /* rewritten before a commit */
#define VECTOR         2048        /* rows that the engine works on at a time */
#define PLANS          5
#define BYTES_A_SECOND (32 << 20) /* a guess, for how long writers must leave the table alone */

struct compaction {
	struct care *k;
	struct writer wr;
	struct write w;
	int64_t target;
	json_int_t min_files;
	bool sort;
	json_t *groups; /* see plan_groups */
	json_int_t files, bytes, new_files, new_bytes, delete_files, commits, left;
	int64_t held; /* bytes that were rewritten since the last commit */
};

/* ---- the plan ---- */

/* Which data files each delete file has to do with: sluice_hit(delete_path, file_path). */
static int
plan_deletes(struct compaction *p)
{
	struct duck *db = p->wr.cx->db;
	struct err *e = &p->wr.cx->err;
	json_t *files, *row;
	struct buf b = BUF_INIT;
	size_t i;
	int rc = -1;

	if (duck_exec(db,
		      "CREATE OR REPLACE TEMP TABLE sluice_deletes AS SELECT file_path, spec, part, kind, sequence_number, "
		      "file_format FROM "
		      "sluice_live WHERE kind <> 0; "
		      "CREATE OR REPLACE TEMP TABLE sluice_hit(delete_path VARCHAR, file_path VARCHAR)",
		      e) < 0)
		return -1;
	files = duck_query_json(db, "SELECT file_path FROM sluice_deletes WHERE kind = 1 AND upper(file_format) = 'PARQUET'", e);
	if (files == NULL)
		return -1;
	/* One by one: each is small, and its name in the manifest is what it is known by. */
	json_array_foreach (files, i, row) {
		const char *name = json_string_value(json_array_get(row, 0)), *path = task_path(p->wr.cx, "delete file", name);

		if (path == NULL)
			goto out;
		buf_clear(&b);
		buf_adds(&b, "INSERT INTO sluice_hit SELECT DISTINCT ");
		buf_add_sql_string(&b, name);
		buf_adds(&b, ", file_path FROM read_parquet(");
		buf_add_sql_string(&b, path);
		buf_adds(&b, ", hive_partitioning = false)");
		if (duck_exec(db, b.s, e) < 0)
			goto out;
	}
	/* What does not name its files may concern all of its partition that are not younger; without partitions: of the table.
	 */
	rc = duck_exec(
		db,
		"INSERT INTO sluice_hit SELECT d.file_path, e.file_path FROM sluice_deletes d JOIN sluice_live e ON e.kind = 0 "
		"AND "
		"((e.spec = d.spec AND e.part = d.part) OR d.part = '') AND e.sequence_number < d.sequence_number + (d.kind = "
		"1)::INTEGER WHERE d.kind = 2 OR upper(d.file_format) <> 'PARQUET'",
		e);
out:
	json_decref(files);
	buf_release(&b);
	return rc;
}

/* `where` of the task: files that hold no such row are left alone. */
static int
plan_where(struct compaction *p)
{
	const char *where = json_string_value(step_option(p->k, "compact", "where")), *location;
	struct context *cx = p->wr.cx;
	struct buf b = BUF_INIT;
	int rc;

	if (where == NULL)
		return duck_exec(cx->db,
				 "CREATE OR REPLACE TEMP TABLE sluice_where AS SELECT file_path FROM sluice_live WHERE kind = 0",
				 &cx->err);
	location = task_path(cx, "metadata file", json_string_value(json_object_get(p->wr.loaded, "metadata-location")));
	if (location == NULL)
		return -1;
	buf_adds(&b, "SELECT DISTINCT filename AS file_path FROM iceberg_scan(");
	buf_add_sql_string(&b, location);
	buf_adds(&b, ") WHERE (");
	rc = task_check_sql(cx, "compact/where", b.s, where, ")");
	if (rc == 0)
		rc = duck_execf(cx->db, &cx->err, "CREATE OR REPLACE TEMP TABLE sluice_where AS %s%s)", b.s, where);
	buf_release(&b);
	return rc;
}

/* Columns of a group. */
enum { G_ID, G_SPEC, G_FILES, G_BYTES, G_ROWS, G_TEXTS, G_FIRST, G_HIT, G_PARTS };

/*
 * c: what may be rewritten; p: the partitions where that is worth it; g: their files, in pieces of a size; t: the pieces; u:
 * which small ones without deletes are done together. In it: too small, unsorted counts, the order's id, least files, target, a
 * piece in bytes and files, small piece, together in bytes and files.
 */
/* clang-format off */
#define SQL_GROUPS \
	"CREATE OR REPLACE TEMP TABLE sluice_groups AS WITH " \
	"c AS (SELECT spec, part, texts, file_path, file_size_in_bytes AS size, record_count, sequence_number," \
	"  file_path IN (SELECT file_path FROM sluice_hit) AS hit, size < %lld AS small," \
	"  (%s AND coalesce(sort_order_id, 0) <> %lld) AS unsorted" \
	"  FROM sluice_live WHERE kind = 0 AND upper(file_format) = 'PARQUET' AND file_path IN (SELECT file_path FROM sluice_where))," \
	"p AS (SELECT spec, part FROM c WHERE small OR hit OR unsorted GROUP BY ALL" \
	"  HAVING bool_or(hit OR unsorted) OR count(*) >= %lld OR (count(*) > 1 AND sum(size) >= %lld))," \
	"g AS (SELECT c.*, greatest((sum(size) OVER v - size) // %lld, (count(*) OVER v - 1) // %d) AS piece" \
	"  FROM c JOIN p USING (spec, part) WHERE small OR hit OR unsorted" \
	"  WINDOW v AS (PARTITION BY spec, part ORDER BY sequence_number, file_path))," \
	"t AS (SELECT spec, part, piece, sum(size) AS bytes, count(*) AS files, bool_or(hit) OR sum(size) >= %lld AS alone FROM g" \
	"  GROUP BY ALL)," \
	"u AS (SELECT *, CASE WHEN NOT alone THEN ((sum(bytes) OVER w - bytes) // %lld) || ' ' || ((sum(files) OVER w - files) // %d)" \
	"  ELSE '' END AS together FROM t WINDOW w AS (PARTITION BY spec, alone ORDER BY part, piece)) " \
	"SELECT g.*, dense_rank() OVER (ORDER BY spec, together, if(together = '', part, ''), if(together = '', piece, 0))::BIGINT AS id" \
	"  FROM g JOIN u USING (spec, part, piece)"
#define SQL_GROUP_LIST \
	"SELECT id, any_value(spec), count(*), sum(size)::BIGINT, sum(record_count)::BIGINT, any_value(texts), min(file_path)," \
	" bool_or(hit), count(DISTINCT part) FROM sluice_groups GROUP BY id ORDER BY count(*) DESC, id"
/* clang-format on */

static int
plan_groups(struct compaction *p)
{
	long long order = (long long)json_integer_value(json_object_get(p->wr.order, "order-id"));

	if (duck_execf(p->wr.cx->db, &p->wr.cx->err, SQL_GROUPS, (long long)((double)p->target * SMALL_SHARE),
		       p->sort && order ? "true" : "false", order, (long long)p->min_files, (long long)p->target, GROUP_BYTES,
		       GROUP_FILES, TOGETHER_BYTES / 4, TOGETHER_BYTES, TOGETHER_FILES) < 0)
		return -1;
	json_decref(p->groups);
	p->groups = duck_query_json(p->wr.cx->db, SQL_GROUP_LIST, &p->wr.cx->err);
	return p->groups ? 0 : -1;
}

/* Takes those out that the task's limits leave for another time. */
static void
plan_limits(struct compaction *p)
{
	struct duty *d = p->k->duty;
	json_int_t bytes = d->bytes_left, files = d->files_left;
	size_t i = 0;

	p->left = 0;
	while (i < json_array_size(p->groups)) {
		const json_t *g = json_array_get(p->groups, i);
		json_int_t b = json_integer_value(json_array_get(g, G_BYTES)), n = json_integer_value(json_array_get(g, G_FILES));

		if ((d->bytes_left >= 0 && b > bytes) || (d->files_left >= 0 && n > files)) {
			p->left += n;
			json_array_remove(p->groups, i);
			continue;
		}
		bytes -= b;
		files -= n;
		i++;
	}
}

static json_int_t
plan_sum(const struct compaction *p, int column)
{
	json_int_t sum = 0;
	json_t *g;
	size_t i;

	json_array_foreach (p->groups, i, g)
		sum += json_integer_value(json_array_get(g, (size_t)column));
	return sum;
}

static int
compaction_plan(struct compaction *p)
{
	struct writer *wr = &p->wr;

	wr->data_sequence = json_integer_value(json_object_get(current_snapshot(wr->meta), "sequence-number"));
	if (entries_read(wr) < 0 || plan_deletes(p) < 0 || plan_where(p) < 0 || plan_groups(p) < 0 ||
	    duck_exec(wr->cx->db, "CREATE OR REPLACE TEMP TABLE sluice_gone(file_path VARCHAR)", &wr->cx->err) < 0)
		return -1;
	plan_limits(p);
	return 0;
}

/* ---- one group ---- */

/* A table's metadata with one snapshot, whose list lies here. */
static int
group_metadata(struct writer *wr, const char *list, const char *path)
{
	json_t *md = json_copy(wr->meta), *snapshot = json_copy(current_snapshot(wr->meta));
	int rc = 0;

	json_object_set_new(snapshot, "manifest-list", json_string(list));
	json_object_set(snapshot, "schema-id", json_object_get(wr->meta, "current-schema-id"));
	json_object_del(snapshot, "parent-snapshot-id");
	json_object_set_new(md, "snapshots", json_pack("[o]", snapshot));
	json_object_set_new(
		md, "refs",
		json_pack("{s:{s:s,s:O}}", "main", "type", "branch", "snapshot-id", json_object_get(snapshot, "snapshot-id")));
	json_object_set_new(md, "snapshot-log", json_array());
	json_object_set_new(md, "metadata-log", json_array());
	json_object_set_new(md, "statistics", json_array());
	json_object_set_new(md, "partition-statistics", json_array());
	if (json_dump_file(md, path, JSON_COMPACT) < 0)
		rc = task_fail(wr->cx, ERR_IO, "%s cannot be written", path);
	json_decref(md);
	return rc;
}

/* The manifests of the group's files and of the deletes that may concern them. */
static int
group_manifests(struct writer *wr, struct commit *c, const json_t *group, const char *folder, struct buf *list)
{
	char *path = xasprintf("%s/data.avro", folder);
	json_t *specs = NULL, *row;
	size_t i;
	int rc = entries_manifest(wr, c, json_integer_value(json_array_get(group, G_SPEC)), false,
				  "file_path IN (SELECT file_path FROM sluice_group)", path, list);

	free(path);
	if (rc == 0 && json_is_true(json_array_get(group, G_HIT))) {
		specs = duck_query_json(wr->cx->db, "SELECT DISTINCT spec FROM sluice_live WHERE kind <> 0", &wr->cx->err);
		rc = specs ? 0 : -1;
	}
	json_array_foreach (specs, i, row) {
		json_int_t spec = json_integer_value(json_array_get(row, 0));

		if (rc < 0)
			break;
		path = xasprintf("%s/deletes-%lld.avro", folder, (long long)spec);
		rc = entries_manifest(wr, c, spec, true, "part = '' OR part IN (SELECT part FROM sluice_group)", path, list);
		free(path);
	}
	json_decref(specs);
	return rc;
}

/* A snapshot of the group alone. Its metadata file; NULL with the error set. The caller frees it. */
static char *
group_snapshot(struct writer *wr, const json_t *group)
{
	const json_t *snapshot = current_snapshot(wr->meta);
	struct commit c = { .snapshot = json_integer_value(json_object_get(snapshot, "snapshot-id")),
			    .sequence = json_integer_value(json_object_get(snapshot, "sequence-number")) };
	static unsigned made; /* the engine remembers files by their names */
	char *folder = xasprintf("%s/group-%u", doc_text(wr->cx, "scratch"), ++made),
	     *list_path = xasprintf("%s/list.avro", folder), *out = xasprintf("%s/v1.metadata.json", folder);
	struct buf list = BUF_INIT;
	int rc = fs_make_folders(folder, 0700) < 0 ? task_fail(wr->cx, ERR_IO, "the folder %s cannot be made", folder) : 0;

	if (rc == 0)
		rc = group_manifests(wr, &c, group, folder, &list);
	if (rc == 0)
		rc = commit_list(wr, &c, &list, list_path);
	if (rc == 0)
		rc = group_metadata(wr, list_path, out);
	buf_release(&list);
	free(c.manifest_list);
	free(list_path);
	free(folder);
	if (rc == 0)
		return out;
	free(out);
	return NULL;
}

/* The folder of the group's files, where they lie as the table's own do; else data/ itself. The caller frees it. */
static char *
group_folder(const struct writer *wr, const json_t *group)
{
	const char *first = strip_scheme(json_string_value(json_array_get(group, G_FIRST))), *slash = strrchr(first, '/');
	char *data = xasprintf("%s/data", wr->local);
	size_t n = strlen(data);

	if (slash == NULL || strncmp(first, data, n) != 0 || first[n] != '/')
		return data;
	free(data);
	return xstrndup(first, (size_t)(slash - first));
}

/* Of `n` rows that the manifests tell of, all must have arrived; with deletes, no more than these. */
static int
group_check(struct compaction *p, const json_t *group, size_t first)
{
	json_int_t want = json_integer_value(json_array_get(group, G_ROWS));
	bool hit = json_is_true(json_array_get(group, G_HIT));
	int64_t have = 0;

	for (size_t i = first; i < p->wr.nfiles; i++)
		have += p->wr.files[i].rows;
	if (have == want || (hit && have < want))
		return 0;
	return task_fail(p->wr.cx, ERR_UNPROCESSABLE,
			 "table %s: its manifests tell of %lld rows in the files of a partition (%s …), which hold %lld; nothing "
			 "was changed",
			 p->k->title, (long long)want, json_string_value(json_array_get(group, G_FIRST)), (long long)have);
}

/*
 * How many rows a row group may have. Files end between row groups, and each thread holds one when it is asked whether another
 * file is due: were they large, files would come out so small that the next compaction took them up again.
 */
static int64_t
group_row_group(const json_t *group, double size)
{
	double mean = (double)json_integer_value(json_array_get(group, G_BYTES)) /
		      ((double)json_integer_value(json_array_get(group, G_ROWS)) + 1),
	       rows = size / 16 / (mean + 1);

	return rows > INT32_MAX ? INT32_MAX : rows < VECTOR ? VECTOR : (int64_t)rows / VECTOR * VECTOR;
}

static int
group_rewrite(struct compaction *p, const json_t *group)
{
	struct writer *wr = &p->wr;
	json_int_t bytes = json_integer_value(json_array_get(group, G_BYTES));
	json_int_t id = json_integer_value(json_array_get(group, G_ID));
	double pieces = round((double)bytes / (double)p->target),
	       /* a little more than the mean, lest a last, small one remains */
		size = pieces > 1 ? (double)bytes / pieces * (1 + 0.1 / pieces) : 0;
	bool here = json_integer_value(json_array_get(group, G_SPEC)) == json_integer_value(json_object_get(wr->spec, "spec-id"));
	bool one = json_integer_value(json_array_get(group, G_PARTS)) == 1;
	struct buf select = BUF_INIT;
	size_t first = wr->nfiles;
	char *metadata = NULL, *query = NULL, *folder = NULL;
	int rc = -1;

	if (duck_execf(wr->cx->db, &wr->cx->err,
		       "CREATE OR REPLACE TEMP TABLE sluice_group AS SELECT file_path, part FROM sluice_groups WHERE id = %lld",
		       (long long)id) < 0 ||
	    (metadata = group_snapshot(wr, group)) == NULL)
		goto out;
	query = xasprintf("SELECT * FROM iceberg_scan('%s')", metadata);
	folder = group_folder(wr, group);
	if (writer_select(wr, wr->fields, query, &select) < 0)
		goto out;
	FAULT("maintain.data.before");
	rc = writer_data_part(wr, select.s, here && one ? json_array_get(group, G_TEXTS) : NULL, folder, (int64_t)size,
			      group_row_group(group, size));
	FAULT("maintain.data.after");
	if (rc == 0)
		rc = group_check(p, group, first);
	if (rc == 0)
		rc = duck_exec(wr->cx->db, "INSERT INTO sluice_gone SELECT file_path FROM sluice_group", &wr->cx->err);
out:
	if (rc < 0 && wr->cx->err.msg && strstr(wr->cx->err.msg, p->k->title) == NULL)
		err_prefix(&wr->cx->err, "table %s", p->k->title);
	buf_release(&select);
	free(metadata);
	free(query);
	free(folder);
	p->held += bytes;
	return rc;
}

/* ---- commits ---- */

/* Delete files all of whose files are gone. */
static int
drop_deletes(struct compaction *p)
{
	return duck_exec(p->wr.cx->db,
			 "INSERT INTO sluice_gone SELECT d.file_path FROM sluice_deletes d WHERE d.file_path NOT IN (SELECT "
			 "h.delete_path FROM "
			 "sluice_hit h JOIN sluice_live e ON e.file_path = h.file_path AND e.kind = 0 WHERE h.file_path NOT IN "
			 "(SELECT file_path "
			 "FROM sluice_gone)) AND d.file_path IN (SELECT file_path FROM sluice_live) AND d.file_path NOT IN "
			 "(SELECT file_path FROM "
			 "sluice_gone)",
			 &p->wr.cx->err);
}

/* What the last commit was about is the table's now. */
static void
batch_forget(struct compaction *p)
{
	struct writer *wr = &p->wr;

	for (size_t i = 0; i < wr->nfiles; i++)
		data_file_release(&wr->files[i]);
	wr->nfiles = 0;
	p->w.rows = p->w.files = p->w.bytes = 0;
	p->held = 0;
	writer_name(wr);
}

static void
batch_count(struct compaction *p)
{
	struct duty *d = p->k->duty;
	json_int_t bytes = p->w.removed_bytes, files = p->w.removed_files;

	p->files += files;
	p->bytes += bytes;
	p->new_files += p->w.files;
	p->new_bytes += p->w.bytes;
	p->delete_files += p->w.removed_delete_files;
	p->commits++;
	d->bytes_left = d->bytes_left < 0 ? -1 : bytes < d->bytes_left ? d->bytes_left - bytes : 0;
	d->files_left = d->files_left < 0 ? -1 : files < d->files_left ? d->files_left - files : 0;
}

/* 1; 0 when writers were in the way for too long; -1. */
static int
batch_commit(struct compaction *p, json_t *out)
{
	int rc;

	if (drop_deletes(p) < 0 || writer_data_done(&p->wr) < 0)
		return -1;
	rc = care_commit(p->k, &p->wr, out);
	if (rc <= 0)
		return rc;
	batch_count(p);
	batch_forget(p);
	if (duck_exec(p->wr.cx->db, "DELETE FROM sluice_gone", &p->wr.cx->err) < 0)
		return -1;
	return writer_reload(&p->wr) < 0 ? -1 : 1;
}

static void
compaction_progress(const struct compaction *p, size_t done)
{
	report("progress", json_pack("{s:I,s:I,s:o}", "done", (json_int_t)done, "total", (json_int_t)json_array_size(p->groups),
				     "message", json_sprintf("%s: compaction", p->k->title)));
}

/* All groups. 1; 0 and -1 as batch_commit. */
static int
compaction_do(struct compaction *p, json_t *out)
{
	size_t n = json_array_size(p->groups);
	int rc = 1;

	care_tell(p->k, p->wr.location);
	for (size_t i = 0; i < n && rc > 0; i++) {
		compaction_progress(p, i);
		rc = group_rewrite(p, json_array_get(p->groups, i)) < 0 ? -1 : 1;
		if (rc > 0 && (p->held >= COMMIT_BYTES || i + 1 == n))
			rc = batch_commit(p, out);
	}
	return rc;
}

/* Somebody changed the rows at hand: what was written for them goes, and the table is looked at again. */
static int
compaction_again(struct compaction *p)
{
	err_release(&p->wr.cx->err);
	p->wr.cx->cause = NULL;
	writer_unmake(&p->wr, true);
	writer_remove_data(&p->wr);
	batch_forget(p);
	return writer_reload(&p->wr);
}

static void
compaction_tell(const struct compaction *p, json_t *out)
{
	step_number(out, "files", p->files);
	step_number(out, "bytes", p->bytes);
	step_number(out, "new_files", p->new_files);
	step_number(out, "new_bytes", p->new_bytes);
	step_number(out, "delete_files", p->delete_files);
	step_number(out, "commits", p->commits);
	if (p->left)
		step_number(out, "files_left", p->left);
}

static int
compaction_sort(struct compaction *p)
{
	const char *strategy = json_string_value(step_option(p->k, "compact", "strategy"));
	const json_t *by = step_option(p->k, "compact", "sort_by");
	json_t *fields;

	p->sort = strategy && strcmp(strategy, "sort") == 0;
	if (!p->sort)
		return 0;
	if (json_array_size(by) == 0) {
		if (json_array_size(json_object_get(p->wr.order, "fields")))
			return 0;
		return task_fail(p->wr.cx, ERR_INVALID, "table %s has no sort order: say `sort_by`, or give the table one",
				 p->k->title);
	}
	if ((fields = sort_parse(by, p->wr.fields, &p->wr.cx->err)) == NULL)
		return -1;
	if (partition_same(fields, json_object_get(p->wr.order, "fields"))) {
		json_decref(fields);
		return 0;
	}
	json_decref(p->wr.order); /* an order of this task's own, which the table does not know */
	p->wr.order = json_pack("{s:i,s:o}", "order-id", 0, "fields", fields);
	return 0;
}

static int
compaction_run(struct compaction *p, json_t *out)
{
	int rc, plan;

	if (compaction_sort(p) < 0)
		return -1;
	for (plan = 0; plan < PLANS; plan++) {
		if (compaction_plan(p) < 0)
			return -1;
		if (p->k->duty->dry_run) {
			p->files = plan_sum(p, G_FILES);
			p->bytes = plan_sum(p, G_BYTES);
			step_state(out, p->files ? "planned" : "nothing", NULL);
			return 0;
		}
		if (json_array_size(p->groups) == 0)
			break;
		rc = care_wait(p->k, US_PER_S + plan_sum(p, G_BYTES) * US_PER_S / BYTES_A_SECOND, out);
		if (rc > 0)
			rc = compaction_do(p, out);
		if (rc == 0)
			return 0;
		if (rc > 0)
			break;
		if (p->wr.cx->err.code != ERR_CONFLICT || compaction_again(p) < 0)
			return -1;
	}
	if (plan == PLANS)
		step_state(out, "skipped", "others changed the same rows each of the %d times that it was tried", PLANS);
	else
		step_state(out, p->commits ? "done" : "nothing", p->left ? "%lld files are left for another time" : NULL,
			   (long long)p->left);
	return 0;
}

int
compact_run(struct care *k, json_t *out)
{
	struct compaction p = { .k = k, .w = { .mode = WRITE_COMPACT } };
	const json_t *target = step_option(k, "compact", "target_file_size"), *min = step_option(k, "compact", "min_input_files"),
		     *strategy = step_option(k, "compact", "strategy");
	int rc;

	/* Manifests tell this without being read again: nothing is too small, and nothing is deleted. */
	if (k->health && json_integer_value(json_object_get(k->health, "delete_files")) == 0 &&
	    json_integer_value(json_object_get(k->health, "small_files")) < 2 &&
	    !(strategy && strcmp(json_string_value(strategy), "sort") == 0)) {
		step_state(out, "nothing", NULL);
		return 0;
	}
	rc = care_open(k, &p.wr, &p.w, out);
	if (rc > 0) {
		p.target = json_integer_value(target ? target : json_object_get(k->policy, "target_file_size"));
		p.min_files = min ? json_integer_value(min) : 5;
		p.w.target_file_size = p.target;
		rc = compaction_run(&p, out);
		compaction_tell(&p, out);
	}
	entries_forget(&p.wr);
	json_decref(p.groups);
	/* Nothing that was written is the table's, unless a commit said so, or might have. */
	writer_release(&p.wr, (rc < 0 || p.wr.nfiles > 0) && !p.wr.sent);
	return rc < 0 ? -1 : 0;
}
