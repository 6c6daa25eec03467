/*
 * See catalog.h. A commit goes: pointers (one query) -> files that are not cached (off the loop) -> check and apply (pure) ->
 * new files (off the loop, synced) -> one statement that swaps every pointer or none. If that statement finds that a pointer
 * moved, it starts again from the top.
 */
#include "api/catalog/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

#include "api/catalog/metadata.h"
#include "base/alloc.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/log.h"

#define CACHE_MAX (32u << 20) /* bytes of metadata text */
#define FILE_MAX (256u << 20)
#define COMMIT_TRIES 6

struct cached {
	char *location;
	json_t *meta;
	size_t bytes;
	struct list lru; /* newest last */
	UT_hash_handle hh;
};

struct catalog {
	struct app *app;
	char *name, *warehouse;
	struct cached *cache;
	struct list lru;
	size_t cache_bytes;
};

/* ---- life and small parts ---- */

struct catalog *
catalog_new(struct app *app, struct err *e)
{
	struct catalog *c = xcalloc(1, sizeof(*c));
	const char *name = config_get(app->config, "catalog.name"), *warehouse = config_get(app->config, "catalog.warehouse"), *path;

	(void)e;
	c->app = app;
	list_init(&c->lru);
	c->name = xstrdup(name ? name : "local");
	if (warehouse == NULL || *warehouse == '\0')
		c->warehouse = xasprintf("file://%s/warehouse", app->home);
	else if (warehouse[0] == '/')
		c->warehouse = xasprintf("file://%s", warehouse);
	else
		c->warehouse = xstrdup(warehouse);
	while (strlen(c->warehouse) > 8 && c->warehouse[strlen(c->warehouse) - 1] == '/')
		c->warehouse[strlen(c->warehouse) - 1] = '\0';
	path = location_path(c->warehouse);
	if (path == NULL)
		log_warn("catalog: the warehouse %s is not local; tables can be listed, but not read or written yet", c->warehouse);
	return c;
}

static void
cache_drop(struct catalog *c, struct cached *e)
{
	HASH_DEL(c->cache, e);
	list_remove(&e->lru);
	c->cache_bytes -= e->bytes;
	json_decref(e->meta);
	free(e->location);
	free(e);
}

void
catalog_free(struct catalog *c)
{
	struct cached *e, *tmp;

	HASH_ITER(hh, c->cache, e, tmp)
		cache_drop(c, e);
	free(c->name);
	free(c->warehouse);
	free(c);
}

const char *
catalog_name(const struct catalog *c)
{
	return c->name;
}

const char *
catalog_warehouse(const struct catalog *c)
{
	return c->warehouse;
}

const char *
location_path(const char *location)
{
	if (strncmp(location, "file://", 7) == 0)
		return location[7] == '/' ? location + 7 : NULL;
	if (strncmp(location, "file:/", 6) == 0)
		return location + 5;
	return location[0] == '/' ? location : NULL;
}

static int
make_folders(const char *path, struct err *e)
{
	char *copy = xstrdup(path);
	int rc = 0;

	for (char *p = copy + 1; rc == 0; p++) {
		char keep = *p;

		if (keep != '/' && keep != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			rc = err_set(e, ERR_IO, "cannot make the folder %s: %s", copy, strerror(errno));
		*p = keep;
		if (keep == '\0')
			break;
	}
	free(copy);
	return rc;
}

int
location_prepare(const char *location, struct err *e)
{
	static const char *const folders[] = { "data", "metadata" };
	const char *path = location_path(location);
	int rc = 0;

	if (path == NULL)
		return err_set(e, ERR_UNSUPPORTED, "the location %s is not local: other storage is not supported yet", location);
	if (strstr(path, "/../") || strstr(path, "/./"))
		return err_set(e, ERR_INVALID, "the location %s must not hold . or ..", location);
	for (size_t i = 0; rc == 0 && i < 2; i++) {
		char *folder = xasprintf("%s/%s", path, folders[i]);

		rc = make_folders(folder, e);
		free(folder);
	}
	return rc;
}

void
uuid_make(char out[37])
{
	unsigned char b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		BUG("no random numbers");
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7],
	         b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

/* ---- the cache ---- */

static json_t *
cache_get(struct catalog *c, const char *location)
{
	struct cached *e;

	HASH_FIND_STR(c->cache, location, e);
	if (e == NULL)
		return NULL;
	list_remove(&e->lru);
	list_append(&c->lru, &e->lru);
	return json_incref(e->meta);
}

static void
cache_put(struct catalog *c, const char *location, json_t *meta, size_t bytes)
{
	struct cached *e;

	HASH_FIND_STR(c->cache, location, e);
	if (e || bytes > CACHE_MAX / 4)
		return;
	while (c->cache_bytes + bytes > CACHE_MAX && !list_empty(&c->lru))
		cache_drop(c, LIST_ENTRY(c->lru.next, struct cached, lru));
	e = xcalloc(1, sizeof(*e));
	e->location = xstrdup(location);
	e->meta = json_incref(meta);
	e->bytes = bytes;
	c->cache_bytes += bytes;
	HASH_ADD_KEYPTR(hh, c->cache, e->location, strlen(e->location), e);
	list_append(&c->lru, &e->lru);
}

/* ---- files, off the loop ---- */

/* One file to read or write in a worker thread. */
struct file_job {
	char *location;
	json_t *meta;  /* to write, or read */
	size_t bytes;
	struct err err;
};

struct op {
	struct catalog *catalog;
	struct table_change *changes;
	size_t count;
	char *attempt;
	catalog_cb cb;
	void *arg;
	bool commit;
	int tries;
	uv_work_t work;
	struct file_job *jobs;
	size_t njobs;
	void (*next)(struct op *op);
};

static void
file_read(struct file_job *j)
{
	struct buf b = BUF_INIT_MAX(FILE_MAX);
	const char *path = location_path(j->location);
	json_error_t why;
	int rc;

	if (path == NULL) {
		err_set(&j->err, ERR_UNSUPPORTED, "%s is not local: other storage is not supported yet", j->location);
		return;
	}
	rc = buf_add_file(&b, path);
	if (rc < 0)
		err_set(&j->err, rc == -ENOENT ? ERR_NOT_FOUND : ERR_IO, "the metadata file %s cannot be read: %s", path, strerror(-rc));
	else if ((j->meta = json_loadb(b.s, b.len, 0, &why)) == NULL)
		err_set(&j->err, ERR_INVALID, "the metadata file %s is not JSON: line %d: %s", path, why.line, why.text);
	j->bytes = b.len;
	buf_release(&b);
}

/* New under a temporary name, synced, linked into place: a file that is there is whole. */
static void
file_write(struct file_job *j)
{
	const char *path = location_path(j->location);
	char *tmp, *text, *slash;
	int fd, failed = 0;
	size_t len;

	if (path == NULL) {
		err_set(&j->err, ERR_UNSUPPORTED, "%s is not local: other storage is not supported yet", j->location);
		return;
	}
	text = json_dumps(j->meta, JSON_COMPACT);
	len = strlen(text);
	j->bytes = len;
	tmp = xstrdup(path);
	slash = strrchr(tmp, '/');
	*slash = '\0';
	if (make_folders(tmp, &j->err) < 0) {
		free(tmp);
		free(text);
		return;
	}
	free(tmp);
	tmp = xasprintf("%s.tmp", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		failed = errno;
	for (size_t done = 0; failed == 0 && done < len;) {
		ssize_t n = write(fd, text + done, len - done);

		if (n < 0 && errno != EINTR)
			failed = errno;
		if (n > 0)
			done += (size_t)n;
	}
	if (failed == 0 && fsync(fd) < 0)
		failed = errno;
	if (fd >= 0)
		close(fd);
	if (failed == 0 && rename(tmp, path) < 0)
		failed = errno;
	if (failed) {
		err_set(&j->err, ERR_IO, "the metadata file %s cannot be written: %s", path, strerror(failed));
		unlink(tmp);
	}
	free(tmp);
	free(text);
}

static void
on_read_work(uv_work_t *w)
{
	struct op *op = w->data;

	for (size_t i = 0; i < op->njobs; i++)
		file_read(&op->jobs[i]);
}

static void
on_write_work(uv_work_t *w)
{
	struct op *op = w->data;

	for (size_t i = 0; i < op->njobs; i++)
		file_write(&op->jobs[i]);
}

static void
change_clear(struct table_change *ch)
{
	free(ch->old_location);
	free(ch->new_location);
	json_decref(ch->meta);
	json_decref(ch->new_meta);
	ch->old_location = ch->new_location = NULL;
	ch->meta = ch->new_meta = NULL;
}

static void
op_jobs_free(struct op *op)
{
	for (size_t i = 0; i < op->njobs; i++) {
		free(op->jobs[i].location);
		json_decref(op->jobs[i].meta);
		err_release(&op->jobs[i].err);
	}
	free(op->jobs);
	op->jobs = NULL;
	op->njobs = 0;
}

static void
op_end(struct op *op, struct err *e)
{
	op->cb(op->arg, op->changes, op->count, e);
	for (size_t i = 0; i < op->count; i++) {
		change_clear(&op->changes[i]);
		free(op->changes[i].ns);
		free(op->changes[i].table);
		json_decref(op->changes[i].requirements);
		json_decref(op->changes[i].updates);
	}
	op_jobs_free(op);
	free(op->changes);
	free(op->attempt);
	free(op);
	if (e)
		err_release(e);
}

static void
op_fail(struct op *op, int code, const char *msg)
{
	struct err e = ERR_INIT;

	err_set(&e, code, "%s", msg);
	op_end(op, &e);
}

static struct op *
op_new(struct catalog *c, struct table_change *changes, size_t count, const char *attempt, catalog_cb cb, void *arg)
{
	struct op *op = xcalloc(1, sizeof(*op));

	op->catalog = c;
	op->changes = changes;
	op->count = count;
	op->attempt = xstrdup_null(attempt);
	op->cb = cb;
	op->arg = arg;
	op->work.data = op;
	return op;
}

/* ---- loading ---- */

static void
on_read_done(uv_work_t *w, int status)
{
	struct op *op = w->data;

	(void)status;
	for (size_t i = 0; i < op->njobs; i++) {
		struct file_job *j = &op->jobs[i];

		if (j->err.code) {
			struct err e = ERR_INIT;

			err_move(&e, &j->err);
			op_end(op, &e);
			return;
		}
		cache_put(op->catalog, j->location, j->meta, j->bytes);
		for (size_t k = 0; k < op->count; k++) {
			struct table_change *ch = &op->changes[k];

			if (ch->meta == NULL && ch->old_location && strcmp(ch->old_location, j->location) == 0)
				ch->meta = json_incref(j->meta);
		}
	}
	op_jobs_free(op);
	op->next(op);
}

static void
op_read_files(struct op *op)
{
	op->jobs = xcalloc(op->count, sizeof(*op->jobs));
	for (size_t i = 0; i < op->count; i++) {
		struct table_change *ch = &op->changes[i];

		if (ch->old_location == NULL || (ch->meta = cache_get(op->catalog, ch->old_location)) != NULL)
			continue;
		op->jobs[op->njobs++].location = xstrdup(ch->old_location);
	}
	if (op->njobs == 0) {
		op_jobs_free(op);
		op->next(op);
		return;
	}
	uv_queue_work(op->catalog->app->loop, &op->work, on_read_work, on_read_done);
}

static void
on_pointers(void *arg, const struct rows *r, struct err *e)
{
	struct op *op = arg;
	struct err mine = ERR_INIT;

	if (r == NULL) {
		err_move(&mine, e);
		op_end(op, &mine);
		return;
	}
	for (size_t i = 0; i < rows_count(r); i++)
		for (size_t k = 0; k < op->count; k++)
			if (strcmp(op->changes[k].ns, rows_get(r, i, 0)) == 0 && strcmp(op->changes[k].table, rows_get(r, i, 1)) == 0 &&
			    op->changes[k].old_location == NULL)
				op->changes[k].old_location = xstrdup_null(rows_get(r, i, 2));
	op_read_files(op);
}

static void
op_load(struct op *op)
{
	json_t *wanted = json_array();
	char *text;

	for (size_t i = 0; i < op->count; i++) {
		change_clear(&op->changes[i]);
		json_array_append_new(wanted, json_pack("{s:s,s:s}", "ns", op->changes[i].ns, "tab", op->changes[i].table));
	}
	text = json_dumps(wanted, JSON_COMPACT);
	store_query(op->catalog->app->store,
	            "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables t JOIN "
	            "jsonb_to_recordset($2::jsonb) AS w(ns text, tab text) ON t.table_namespace = w.ns AND t.table_name = w.tab "
	            "WHERE catalog_name = $1 AND (iceberg_type IS NULL OR iceberg_type = 'TABLE')",
	            2, (const char *[]){ op->catalog->name, text }, on_pointers, op);
	free(text);
	json_decref(wanted);
}

static void
op_loaded(struct op *op)
{
	op_end(op, NULL);
}

void
catalog_load(struct catalog *c, struct table_change *changes, size_t count, catalog_cb cb, void *arg)
{
	struct op *op = op_new(c, changes, count, NULL, cb, arg);

	op->next = op_loaded;
	op_load(op);
}

void
catalog_read(struct catalog *c, const char *location, catalog_cb cb, void *arg)
{
	struct table_change *ch = xcalloc(1, sizeof(*ch));
	struct op *op;

	ch->ns = xstrdup("");
	ch->table = xstrdup("");
	ch->old_location = xstrdup(location);
	op = op_new(c, ch, 1, NULL, cb, arg);
	op->next = op_loaded;
	op_read_files(op);
}

/* ---- committing ---- */

static void op_prepared(struct op *op);

/* "metadata/00003-uuid.metadata.json", numbered on from the one before. */
static char *
next_location(const struct table_change *ch)
{
	const char *location = json_string_value(json_object_get(ch->new_meta, "location")), *slash;
	const char *path = json_string_value(json_object_get(json_object_get(ch->new_meta, "properties"), "write.metadata.path"));
	char uuid[37];
	int number = -1;

	if (ch->old_location && (slash = strrchr(ch->old_location, '/')) != NULL)
		number = atoi(slash + 1);
	uuid_make(uuid);
	return path ? xasprintf("%s/%05d-%s.metadata.json", path, number + 1, uuid)
	            : xasprintf("%s/metadata/%05d-%s.metadata.json", location, number + 1, uuid);
}

/* A commit by an attempt says so in its snapshots, whoever made them. */
static json_t *
stamp_updates(const struct op *op, json_t *updates)
{
	json_t *copy, *u, *summary;
	char *run, *task, *n;
	size_t i;

	if (op->attempt == NULL)
		return json_incref(updates);
	copy = json_deep_copy(updates);
	run = xstrdup(op->attempt);
	task = strchr(run, '/');
	n = task ? strchr(task + 1, '/') : NULL;
	if (n) {
		*task++ = '\0';
		*n++ = '\0';
		json_array_foreach(copy, i, u) {
			summary = json_object_get(json_object_get(u, "snapshot"), "summary");
			if (!json_is_object(summary) || json_object_get(summary, "sluice.run-id"))
				continue;
			json_object_set_new(summary, "sluice.run-id", json_string(run));
			json_object_set_new(summary, "sluice.task-id", json_string(task));
			json_object_set_new(summary, "sluice.attempt", json_string(n));
		}
	}
	free(run);
	return copy;
}

static int
change_apply(struct op *op, struct table_change *ch, struct err *e)
{
	json_t *updates;
	int rc;

	if ((rc = metadata_check(ch->meta, ch->requirements, e)) < 0)
		return rc;
	ch->new_meta = ch->meta ? json_deep_copy(ch->meta) : metadata_blank();
	updates = stamp_updates(op, ch->updates);
	rc = metadata_apply(ch->new_meta, updates, ch->old_location, clock_wall() / 1000, e);
	json_decref(updates);
	if (rc == 0)
		ch->new_location = next_location(ch);
	return rc;
}

static void
on_swapped(void *arg, const struct rows *r, struct err *e)
{
	struct op *op = arg;
	struct err mine = ERR_INIT;

	if (r == NULL && e->code == ERR_CONFLICT) { /* a table was made by somebody else in between */
		if (++op->tries < COMMIT_TRIES) {
			op_load(op);
			return;
		}
	}
	if (r == NULL) {
		if (e->code == ERR_UNAVAILABLE && op->tries < COMMIT_TRIES) {
			/* The answer was lost: whether it landed is seen in the pointers. It is looked up once the database is back. */
			err_set(&mine, ERR_UNAVAILABLE, "whether the commit landed is not known: the database went away; %s", e->msg);
			op_end(op, &mine);
			return;
		}
		err_move(&mine, e);
		op_end(op, &mine);
		return;
	}
	if (atoi(rows_get(r, 0, 0)) == 0) {
		err_set(&mine, ERR_FORBIDDEN, "attempt %s is no longer current: it was given up, so it cannot commit any more", op->attempt);
		op_end(op, &mine);
		return;
	}
	if (atoi(rows_get(r, 0, 1)) != (int)op->count) {
		if (++op->tries < COMMIT_TRIES) {
			op_load(op);
			return;
		}
		op_fail(op, ERR_CONFLICT, "the table changes too fast: the commit lost six races; try again");
		return;
	}
	for (size_t i = 0; i < op->count; i++) {
		char *text = json_dumps(op->changes[i].new_meta, JSON_COMPACT);

		cache_put(op->catalog, op->changes[i].new_location, op->changes[i].new_meta, strlen(text));
		free(text);
	}
	op_end(op, NULL);
}

/*
 * One statement for any number of tables, made and changed: every pointer is still where it was and the attempt is still
 * current, or nothing happens. A table made meanwhile fails the insert, and with it the whole statement.
 */
static const char swap_sql[] =
	"WITH c AS (SELECT * FROM jsonb_to_recordset($2::jsonb) AS c(ns text, tab text, old text, new text)),"
	" fence AS MATERIALIZED (SELECT 1 AS one FROM attempts WHERE $3::text IS NOT NULL AND run_id = $3 AND task_id = $4 AND n = $5::int "
	"   AND state = 'running' FOR SHARE),"
	" held AS MATERIALIZED (SELECT t.table_namespace, t.table_name FROM iceberg_tables t JOIN c ON t.table_namespace = c.ns "
	"   AND t.table_name = c.tab AND t.metadata_location = c.old WHERE t.catalog_name = $1 FOR UPDATE OF t),"
	" go AS MATERIALIZED (SELECT ($3::text IS NULL OR EXISTS (SELECT 1 FROM fence)) AS current,"
	"   (SELECT count(*) FROM held) = (SELECT count(*) FROM c WHERE old IS NOT NULL) AS unmoved),"
	" swapped AS (UPDATE iceberg_tables t SET metadata_location = c.new, previous_metadata_location = c.old FROM c, go "
	"   WHERE go.current AND go.unmoved AND t.catalog_name = $1 AND t.table_namespace = c.ns AND t.table_name = c.tab "
	"   AND t.metadata_location = c.old RETURNING 1),"
	" made AS (INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) "
	"   SELECT $1, c.ns, c.tab, c.new, 'TABLE' FROM c, go WHERE go.current AND go.unmoved AND c.old IS NULL RETURNING 1)"
	" SELECT (SELECT current::int FROM go), (SELECT count(*) FROM swapped) + (SELECT count(*) FROM made)";

static void
op_swap(struct op *op)
{
	json_t *list = json_array();
	char *text, *run = xstrdup_null(op->attempt), *task = NULL, *n = NULL;

	for (size_t i = 0; i < op->count; i++) {
		struct table_change *ch = &op->changes[i];

		json_array_append_new(list, json_pack("{s:s,s:s,s:s?,s:s}", "ns", ch->ns, "tab", ch->table, "old", ch->old_location, "new",
		                                      ch->new_location));
	}
	text = json_dumps(list, JSON_COMPACT);
	if (run && (task = strchr(run, '/')) != NULL) {
		*task++ = '\0';
		if ((n = strchr(task, '/')) != NULL)
			*n++ = '\0';
	}
	store_query(op->catalog->app->store, swap_sql, 5, (const char *[]){ op->catalog->name, text, run, task, n }, on_swapped, op);
	free(run);
	free(text);
	json_decref(list);
}

static void
on_write_done(uv_work_t *w, int status)
{
	struct op *op = w->data;
	struct err e = ERR_INIT;

	(void)status;
	for (size_t i = 0; i < op->njobs; i++)
		if (op->jobs[i].err.code) {
			err_move(&e, &op->jobs[i].err);
			op_end(op, &e);
			return;
		}
	op_jobs_free(op);
	op_swap(op);
}

static void
op_prepared(struct op *op)
{
	struct err e = ERR_INIT;

	for (size_t i = 0; i < op->count; i++)
		if (change_apply(op, &op->changes[i], &e) < 0) {
			if (op->count > 1)
				err_prefix(&e, "table %s.%s", op->changes[i].ns, op->changes[i].table);
			op_end(op, &e);
			return;
		}
	op->jobs = xcalloc(op->count, sizeof(*op->jobs));
	op->njobs = op->count;
	for (size_t i = 0; i < op->count; i++) {
		op->jobs[i].location = xstrdup(op->changes[i].new_location);
		op->jobs[i].meta = json_incref(op->changes[i].new_meta);
	}
	uv_queue_work(op->catalog->app->loop, &op->work, on_write_work, on_write_done);
}

void
catalog_commit(struct catalog *c, struct table_change *changes, size_t count, const char *attempt, catalog_cb cb, void *arg)
{
	struct op *op = op_new(c, changes, count, attempt, cb, arg);

	op->commit = true;
	op->next = op_prepared;
	op_load(op);
}

/* ---- purging ---- */

struct purge {
	uv_work_t work;
	char *path;
};

static int
on_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)ftw;
	return type == FTW_DP || type == FTW_D ? rmdir(path) : unlink(path);
}

static void
on_purge_work(uv_work_t *w)
{
	struct purge *p = w->data;

	nftw(p->path, on_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static void
on_purge_done(uv_work_t *w, int status)
{
	struct purge *p = w->data;

	(void)status;
	free(p->path);
	free(p);
}

void
catalog_purge(struct catalog *c, const char *location)
{
	const char *path = location_path(location), *home = location_path(c->warehouse);
	size_t n = home ? strlen(home) : 0;
	struct purge *p;

	/* Never outside the warehouse, whatever a table's metadata says. */
	if (path == NULL || n == 0 || strncmp(path, home, n) != 0 || path[n] != '/' || strstr(path, "..")) {
		log_warn("catalog: the files below %s are not in the warehouse: left in place", location);
		return;
	}
	p = xcalloc(1, sizeof(*p));
	p->work.data = p;
	p->path = xstrdup(path);
	uv_queue_work(c->app->loop, &p->work, on_purge_work, on_purge_done);
}
