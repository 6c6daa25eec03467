/* How a commit ends: with its answer, and with the files that are no longer needed. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/catalog/commit_int.h"
#include "base/alloc.h"
#include "base/log.h"
#include "scheduler/alarm.h"

/* ---- files and memory of its parts ---- */

void
part_forget_base(struct part *p)
{
	meta_unref(p->base);
	p->base = NULL;
	free(p->base_text);
	p->base_text = NULL;
	json_decref(p->base_json);
	p->base_json = NULL;
	free(p->old);
	p->old = NULL;
}

struct forgetting {
	struct work work;
	char *location;
};

static void
forgetting_work(struct work *w)
{
	warehouse_remove(((struct forgetting *)w->data)->location);
}

static void
on_forgotten(struct work *w, int status)
{
	struct forgetting *f = w->data;

	(void)status;
	free(f->location);
	free(f);
}

/* Removes a file in the background; one that is gone already is as good. */
static void
file_forget(struct job *j, const char *location)
{
	struct forgetting *f = xcalloc(1, sizeof(*f));

	f->work.data = f;
	f->location = xstrdup(location);
	work_queue(j->catalog->app->loop, &f->work, storage_remote(location), forgetting_work, on_forgotten);
}

/* What was written, or would have been. With `unlink_file`: no pointer leads to it, it was written for nothing. */
static void
part_forget_new(struct job *j, struct part *p, bool unlink_file)
{
	if (p->written && unlink_file)
		file_forget(j, p->new);
	free(p->new);
	p->new = NULL;
	p->written = false;
	free(p->text);
	p->text = NULL;
	json_decref(p->json);
	p->json = NULL;
	meta_unref(p->made);
	p->made = NULL;
	json_decref(p->facts);
	p->facts = NULL;
}

/* With write.metadata.delete-after-commit.enabled: files that fell out of the metadata log go. */
static void
part_forget_old(struct job *j, const struct part *p)
{
	const json_t *before = json_object_get(p->base ? p->base->json : p->base_json, "metadata-log");
	const json_t *log = json_object_get(p->json, "metadata-log"), *entry;
	const char *wish = json_string_value(
		json_object_get(json_object_get(p->json, "properties"), "write.metadata.delete-after-commit.enabled"));
	const char *oldest = json_string_value(json_object_get(json_array_get(log, 0), "metadata-file"));
	size_t i;

	/* What a run replaced is still everybody else's. */
	if (j->attempt || !p->written || oldest == NULL || wish == NULL || strcasecmp(wish, "true") != 0)
		return;
	json_array_foreach (before, i, entry) {
		const char *file = json_string_value(json_object_get(entry, "metadata-file"));

		if (file == NULL || strcmp(file, oldest) == 0)
			return;
		file_forget(j, file);
	}
}

void
job_forget_files(struct job *j)
{
	for (size_t i = 0; i < j->nparts; i++)
		part_forget_new(j, &j->parts[i], true);
}

/* Ends the job with an error; what it wrote goes. Takes the error over. */
void
job_fail(struct job *j, struct err *e)
{
	job_forget_files(j);
	if (j->kind == KIND_UNDO)
		reply_err(j->rq, e);
	else if (e->code == ERR_CONFLICT && j->kind != KIND_COMMIT && j->kind != KIND_TRANSACTION)
		catalog_reply_error(j->rq, 409, "AlreadyExistsException", "%s", e->msg);
	else
		catalog_reply_err(j->rq, e);
	err_release(e);
	job_free(j);
}

void
job_free(struct job *j)
{
	for (size_t i = 0; i < j->nparts; i++) {
		part_forget_base(&j->parts[i]);
		part_forget_new(j, &j->parts[i], false);
		free(j->parts[i].ns);
		free(j->parts[i].name);
		free(j->parts[i].back);
		free(j->parts[i].expect);
		json_decref(j->parts[i].later);
	}
	free(j->parts);
	json_decref(j->body);
	json_decref(j->rows);
	json_decref(j->undone);
	free(j->attempt);
	free(j->keeper);
	free(j->who);
	alarm_cancel(&j->pause);
	err_release(&j->e);
	list_remove(&j->node);
	jobs_start(j->catalog);
	catalog_unref(j->catalog);
	free(j);
}

/* ---- the files of a dropped table ---- */

struct purge {
	struct work work;
	char *warehouse, *location;
	struct job *job;
};

static void
purge_work(struct work *w)
{
	struct purge *p = w->data;

	warehouse_purge(p->warehouse, p->location);
}

static void
on_purged(struct work *w, int status)
{
	struct purge *p = w->data;

	(void)status;
	reply_empty(p->job->rq, 204);
	job_free(p->job);
	free(p->warehouse);
	free(p->location);
	free(p);
}

static void
on_neighbours(void *arg, const struct rows *r, struct err *e)
{
	struct purge *p = arg;

	if (r == NULL || strcmp(rows_get(r, 0, 0), "0") != 0) {
		log_warn("catalog: the files of the dropped table %s.%s stay: %s", p->job->parts[0].ns, p->job->parts[0].name,
			 r ? "another table uses the same folder" : e->msg);
		on_purged(&p->work, 0);
		return;
	}
	work_queue(p->job->catalog->app->loop, &p->work, storage_remote(p->location), purge_work, on_purged);
}

/* The folder of a table is where its metadata/ lies; nothing is purged when that is not so. */
static bool
job_purge(struct job *j)
{
	const char *old = j->parts[0].old, *file = strrchr(old, '/');
	struct purge *p;
	char *folder;

	if (!j->purge || j->attempt || file == NULL || file - old < 10 || strncmp(file - 9, "/metadata", 9) != 0)
		return false;
	p = xcalloc(1, sizeof(*p));
	p->work.data = p;
	p->job = j;
	p->warehouse = xstrdup(j->catalog->warehouse);
	p->location = xstrndup(old, (size_t)(file - 9 - old));
	folder = xasprintf("%s/", p->location);
	store_query(j->catalog->app->store, "SELECT count(*) FROM iceberg_tables WHERE starts_with(metadata_location, $1)", 1,
		    (const char *const[]){ folder }, on_neighbours, p);
	free(folder);
	return true;
}

/* ---- the answer ---- */

static void
job_reply_undone(struct job *j)
{
	json_t *tables = json_array();

	for (size_t i = 0; i < j->nparts; i++) {
		const struct part *p = &j->parts[i];
		char *name = xasprintf("%s.%s", p->ns, p->name);

		json_array_append_new(tables, json_pack("{s:s,s:s,s:O?}", "table", name, "outcome",
							p->new == NULL   ? "dropped"
							: p->old == NULL ? "restored"
									 : "rolled back",
							"snapshot", json_object_get(p->facts, "snapshot_after")));
		free(name);
	}
	reply_json(j->rq, 200, json_pack("{s:s,s:o}", "run", j->rq->param[0], "tables", tables));
}

void
job_succeed(struct job *j)
{
	struct meta *m = NULL;
	json_t *row;
	size_t k;

	json_array_foreach (j->rows, k, row)
		sched_table_told(j->catalog->app->sched, row);
	for (size_t i = 0; i < j->nparts; i++) {
		struct part *p = &j->parts[i];

		if (j->attempt == NULL)
			pointer_keep(j->catalog, j->view || p->view, p->ns, p->name, p->new);
		if (p->made == NULL)
			continue;
		part_forget_old(j, p);
		m = p->made;
	}
	if (j->kind == KIND_DROP && job_purge(j))
		return;
	if (j->kind == KIND_UNDO)
		job_reply_undone(j);
	else if (m == NULL || j->kind == KIND_TRANSACTION)
		reply_empty(j->rq, 204);
	else
		tables_reply(j->rq, m, j->kind != KIND_COMMIT);
	job_free(j);
}

/* The database was asked something and the daemon is stopping: it must not be asked again. */
bool
job_stopped(struct job *j)
{
	struct err e = ERR_INIT;

	if (!j->catalog->closing)
		return false;
	err_set(&e, ERR_UNAVAILABLE, "the daemon is stopping");
	job_fail(j, &e);
	return true;
}

void
job_unknown(struct job *j, const char *why)
{
	catalog_reply_error(
		j->rq, 504, "CommitStateUnknownException",
		"the connection to the database was lost during the commit, and it cannot be told whether it happened: %s", why);
	job_free(j); /* the files stay: they may be the table */
}
