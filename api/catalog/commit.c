/*
 * Everything that writes metadata: create, register, commit, and commits to several tables at once. One path:
 *
 *     look     where do the tables stand?                            (one statement)
 *     build    check requirements, apply updates, write new files    (worker thread)
 *     swap     move all pointers, or none                            (one statement, thus one transaction)
 *     verify   only when the answer to the swap was lost: did it land?
 *
 * A pointer that moved in between begins again at `look`, and the requirements decide anew: this is how changes that do not
 * touch each other both succeed. For an attempt of a run there is no swap: the scheduler notes the commit as one that only the
 * run sees, or refuses it, when the attempt was given up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/catalog/commit_int.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "scheduler/alarm.h"

#define TRIES_MAX    6
#define BATCH_MAX    64
#define VERIFY_FOR   (30 * US_PER_S) /* since the answer was lost: a database that restarts needs its time */
#define VERIFY_PAUSE (200 * US_PER_MS)
#define VERIFY_MOST  US_PER_S
#define PATIENCE     (90 * US_PER_S) /* more than all its steps may take */

static void job_look(struct job *j);
static void jobs_start(struct catalog *c);
static void job_swap(struct job *j);
static void job_verify(void *arg);

/* ---- life ---- */

static void
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

static void
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
	free(j->who);
	alarm_cancel(&j->pause);
	err_release(&j->e);
	list_remove(&j->node);
	jobs_start(j->catalog);
	catalog_unref(j->catalog);
	free(j);
}

static void
job_forget_files(struct job *j)
{
	for (size_t i = 0; i < j->nparts; i++)
		part_forget_new(j, &j->parts[i], true);
}

/* Ends the job with an error; what it wrote goes. Takes the error over. */
static void
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

/* ---- the end ---- */

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

/* Each part's metadata stays in memory: the next request for the table is likely to want it. */
static void
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
		if (p->json == NULL || p->new == NULL)
			continue;
		meta_unref(m);
		part_forget_old(j, p);
		m = meta_keep(j->catalog, p->new, p->text, p->len, p->json);
		p->text = NULL;
		p->json = NULL;
	}
	if (j->kind == KIND_DROP && job_purge(j))
		return;
	if (j->kind == KIND_UNDO)
		job_reply_undone(j);
	else if (m == NULL || j->kind == KIND_TRANSACTION)
		reply_empty(j->rq, 204);
	else
		tables_reply(j->rq, m, j->kind != KIND_COMMIT);
	meta_unref(m);
	job_free(j);
}

/* The database was asked something and the daemon is stopping: it must not be asked again. */
static bool
job_stopped(struct job *j)
{
	struct err e = ERR_INIT;

	if (!j->catalog->closing)
		return false;
	err_set(&e, ERR_UNAVAILABLE, "the daemon is stopping");
	job_fail(j, &e);
	return true;
}

/* ---- one after the other ---- */

/* Do both work on the same state of tables: that of everybody, or of the same run? */
static bool
jobs_same_view(const struct job *a, const struct job *b)
{
	size_t n = a->attempt ? strcspn(a->attempt, "/") : 0;

	if (a->attempt == NULL || b->attempt == NULL)
		return a->attempt == b->attempt;
	return strcspn(b->attempt, "/") == n && strncmp(a->attempt, b->attempt, n) == 0;
}

static bool
jobs_meet(const struct job *a, const struct job *b)
{
	if (!jobs_same_view(a, b))
		return false;
	for (size_t i = 0; i < a->nparts; i++)
		for (size_t k = 0; k < b->nparts; k++)
			if (strcmp(a->parts[i].name, b->parts[k].name) == 0 && strcmp(a->parts[i].ns, b->parts[k].ns) == 0)
				return true;
	return false;
}

static struct job *
jobs_next(struct catalog *c)
{
	LIST_FOR_EACH (it, &c->jobs) {
		struct job *j = LIST_ENTRY(it, struct job, node);
		bool ready = !j->started;

		for (struct list *before = c->jobs.next; ready && before != it; before = before->next)
			ready = !jobs_meet(j, LIST_ENTRY(before, struct job, node));
		if (ready)
			return j;
	}
	return NULL;
}

/*
 * Commits to one table wait for each other here, in order of arrival, so that none is built in vain. Against other daemons
 * and other writers of the same database it is the swap that decides.
 */
static void
jobs_start(struct catalog *c)
{
	struct job *j;

	while ((j = jobs_next(c)) != NULL) {
		j->started = true;
		if (!job_stopped(j))
			job_look(j);
	}
}

void
job_begin(struct job *j)
{
	list_append(&j->catalog->jobs, &j->node);
	jobs_start(j->catalog);
}

/* ---- swap and verify ---- */

static const char *
kind_name(bool view)
{
	return view ? "VIEW" : "TABLE";
}

static char *
job_parts_text(const struct job *j)
{
	json_t *list = json_array();
	char *text;

	for (size_t i = 0; i < j->nparts; i++) {
		const struct part *p = &j->parts[i];

		json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:s?,s:s?}", "ns", p->ns, "name", p->name, "type",
						      kind_name(j->view || p->view), "old", p->old, "new", p->new));
	}
	text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	return text;
}

static void
job_unknown(struct job *j, const char *why)
{
	catalog_reply_error(
		j->rq, 504, "CommitStateUnknownException",
		"the connection to the database was lost during the commit, and it cannot be told whether it happened: %s", why);
	job_free(j); /* the files stay: they may be the table */
}

static bool
same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/*
 * The answer was lost, the statement may even run on at the server. Where the pointers are still the old ones it is sent
 * again: only one of the two can find them so, and then this comes back to see which.
 */
static void
on_verified(void *arg, const struct rows *r, struct err *e)
{
	struct job *j = arg;
	size_t landed = 0, untouched = 0;
	dur_us pause;

	for (size_t i = 0; r && i < rows_count(r) && i < j->nparts; i++) {
		const char *have = rows_get(r, i, 0), *before = rows_get(r, i, 1), *old = j->parts[i].old;

		/* Another commit may have come on top of it already. */
		landed += same_text(have, j->parts[i].new) || (before && same_text(before, j->parts[i].new));
		untouched += same_text(have, old);
	}
	if (r && landed == j->nparts) {
		job_succeed(j);
	} else if (j->catalog->closing || clock_mono() - j->lost_at > VERIFY_FOR) {
		job_unknown(j, r ? "it was tried too often" : e->msg);
	} else if (r == NULL) {
		pause = VERIFY_PAUSE * ++j->verified;
		alarm_set(&j->pause, j->catalog->app->loop, pause < VERIFY_MOST ? pause : VERIFY_MOST, job_verify, j);
	} else if (untouched == j->nparts) {
		job_swap(j);
	} else {
		job_unknown(j, "another commit came after it");
	}
}

static void
job_verify(void *arg)
{
	struct job *j = arg;
	char *text = job_parts_text(j);

	store_query(
		j->catalog->app->store,
		"SELECT t.metadata_location, t.previous_metadata_location FROM json_array_elements($2::json) WITH ORDINALITY AS "
		"x(part, i) LEFT JOIN "
		"iceberg_tables t"
		" ON t.catalog_name = $1 AND t.table_namespace = x.part->>'ns' AND t.table_name = x.part->>'name' ORDER BY x.i",
		2, (const char *const[]){ j->catalog->name, text }, on_verified, j);
	free(text);
}

static void
job_again(struct job *j)
{
	struct err e = ERR_INIT;

	job_forget_files(j);
	if (++j->tries < TRIES_MAX) {
		job_look(j);
		return;
	}
	err_set(&e, ERR_CONFLICT, "table %s.%s is being changed by others all the time; %d tries came too late", j->parts[0].ns,
		j->parts[0].name, j->tries);
	job_fail(j, &e);
}

/* `answered`: the statement ran, and `moved` says what came of it; else `e` tells why not. */
static void
job_swapped(struct job *j, bool answered, bool moved, struct err *e)
{
	if (moved) {
		job_succeed(j);
	} else if (j->lost_at || (!answered && e->code == ERR_UNAVAILABLE)) {
		/* This swap, or one before it, may have landed: its files must not be touched. */
		if (j->lost_at == 0)
			j->lost_at = clock_mono();
		if (j->catalog->closing)
			job_unknown(j, "the daemon is stopping");
		else
			job_verify(j);
	} else if (answered || e->code == ERR_CONFLICT) {
		if (!job_stopped(j))
			job_again(j);
	} else {
		job_fail(j, e);
	}
}

/* As iceberg_type has it. */
static struct table_change
part_change_of(const struct part *p, bool view)
{
	return (struct table_change){
		.ns = p->ns, .name = p->name, .type = kind_name(view), .before = p->old, .after = p->new, .facts = p->facts
	};
}

/* Rows of `commits` for what changes, made once: a swap that is sent again must not be noted as another one. */
static void
job_rows(struct job *j)
{
	if (j->rows)
		return;
	j->rows = json_array();
	for (size_t i = 0; i < j->nparts; i++) {
		struct table_change ch = part_change_of(&j->parts[i], j->view || j->parts[i].view);

		if (ch.facts)
			json_array_append_new(j->rows, sched_table_row(j->catalog->app->sched, &ch, j->who));
	}
}

/* Swaps that go in one transaction: one flush of the disk for all. None has a table in common with another. */
struct batch {
	struct catalog *catalog;
	struct job *jobs[BATCH_MAX];
	size_t n;
};

static void swaps_send(struct catalog *c);

static void
on_swapped(void *arg, const struct rows *r, struct err *e)
{
	struct batch *b = arg;

	FAULT("catalog.swap.after");
	b->catalog->swapping = false;
	for (size_t i = 0; i < b->n; i++) {
		struct job *j = b->jobs[i];

		if (r || b->n == 1 || e->code == ERR_UNAVAILABLE) {
			job_swapped(j, r != NULL, r && strcmp(rows_get(r, i, 0), "t") == 0, e);
		} else { /* one of them is to blame, and which is seen when each goes alone */
			j->alone = true;
			list_append(&b->catalog->swaps, &j->swap);
		}
	}
	swaps_send(b->catalog);
	catalog_unref(b->catalog);
	free(b);
}

/* What happens to the tables, the rows of `commits` and what is undone, each with the number of its job. */
static void
batch_texts(const struct batch *b, char *out[3])
{
	json_t *lists[3] = { json_array(), json_array(), json_array() }, *it;
	size_t k;

	for (size_t i = 0; i < b->n; i++) {
		struct job *j = b->jobs[i];

		for (k = 0; k < j->nparts; k++) {
			const struct part *p = &j->parts[k];

			json_array_append_new(lists[0], json_pack("{s:I,s:s,s:s,s:s,s:s?,s:s?}", "j", (json_int_t)i, "type",
								  kind_name(j->view || p->view), "ns", p->ns, "name", p->name,
								  "old", p->old, "new", p->new));
		}
		job_rows(j);
		json_array_foreach (j->rows, k, it)
			json_array_append_new(lists[1], json_pack("{s:I,s:O}", "j", (json_int_t)i, "row", it));
		json_array_foreach (j->undone, k, it)
			json_array_append_new(lists[2], json_pack("{s:I,s:O}", "j", (json_int_t)i, "id", it));
	}
	for (k = 0; k < 3; k++) {
		out[k] = json_dumps(lists[k], JSON_COMPACT);
		json_decref(lists[k]);
	}
}

static void
batch_send(struct batch *b)
{
	char *text[3], count[24];

	batch_texts(b, text);
	snprintf(count, sizeof(count), "%zu", b->n);
	FAULT("catalog.swap.before");
	/*
	 * `held` locks the rows that are still as we know them, in one order for all, so that two transactions cannot wait
	 * for each other; `fit` says of each job whether that is all of its rows. A row that exists against our expectation is
	 * a unique violation, which undoes the whole statement.
	 */
	store_query(
		b->catalog->app->store,
		"WITH part AS (SELECT * FROM json_to_recordset($2::json) AS x(j int, type text, ns text, name text, old text, "
		"new text)), held AS ("
		"SELECT t.table_namespace, t.table_name FROM iceberg_tables t JOIN part p ON t.table_namespace = p.ns AND "
		"t.table_name = p.name WHERE t.catalog_name = $1 AND t.metadata_location = p.old"
		" ORDER BY t.table_namespace, t.table_name FOR UPDATE OF t), fit AS ("
		"SELECT i.j, count(h.table_name) = count(p.old) AS yes FROM generate_series(0, $5::int - 1) AS i(j) LEFT JOIN "
		"part p "
		"USING (j) LEFT JOIN held h ON h.table_namespace = p.ns AND h.table_name = p.name GROUP BY i.j), good AS ("
		"SELECT p.* FROM part p JOIN fit f USING (j) WHERE f.yes), moved AS ("
		"UPDATE iceberg_tables t SET metadata_location = p.new,"
		" previous_metadata_location = CASE WHEN p.new = p.old THEN t.previous_metadata_location ELSE p.old END"
		" FROM good p WHERE t.catalog_name = $1 AND t.table_namespace = p.ns AND t.table_name = p.name"
		" AND t.metadata_location = p.old AND p.new IS NOT NULL RETURNING p.j), gone AS ("
		"DELETE FROM iceberg_tables t USING good p WHERE t.catalog_name = $1 AND t.table_namespace = p.ns"
		" AND t.table_name = p.name AND t.metadata_location = p.old AND p.new IS NULL"
		" RETURNING p.j, t.table_namespace), stay AS (" /* the namespace, when its last table goes */
		"INSERT INTO iceberg_namespace_properties SELECT DISTINCT $1, table_namespace, 'exists', 'true' FROM gone"
		" ON CONFLICT DO NOTHING), made AS ("
		"INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)"
		" SELECT $1, ns, name, new, type FROM good WHERE old IS NULL RETURNING table_namespace, table_name), noted AS ("
		"INSERT INTO commits SELECT r.* FROM jsonb_to_recordset($3::jsonb) AS x(j int, \"row\" jsonb) JOIN fit f ON f.j "
		"= x.j"
		" AND f.yes CROSS JOIN LATERAL jsonb_populate_record(NULL::commits, x.\"row\") r), undone AS ("
		"UPDATE commits SET state = 'undone' WHERE id IN (SELECT x.id FROM jsonb_to_recordset($4::jsonb) AS x(j int, id "
		"bigint)"
		" JOIN fit f ON f.j = x.j AND f.yes))"
		"SELECT f.yes AND (SELECT count(*) FROM moved m WHERE m.j = f.j) + (SELECT count(*) FROM gone g WHERE g.j = f.j)"
		" + (SELECT count(*) FROM made m JOIN part p ON p.ns = m.table_namespace AND p.name = m.table_name WHERE p.j = "
		"f.j)"
		" = (SELECT count(*) FROM part p WHERE p.j = f.j) FROM fit f ORDER BY f.j",
		5, (const char *const[]){ b->catalog->name, text[0], text[1], text[2], count }, on_swapped, b);
	for (size_t i = 0; i < 3; i++)
		free(text[i]);
}

/* What comes while some are under way makes up the next batch. */
static void
swaps_send(struct catalog *c)
{
	struct batch *b;

	if (c->swapping || list_empty(&c->swaps))
		return;
	b = xcalloc(1, sizeof(*b));
	b->catalog = catalog_ref(c);
	LIST_FOR_EACH (it, &c->swaps) {
		struct job *j = LIST_ENTRY(it, struct job, swap);

		if (b->n == BATCH_MAX || (b->n && (j->alone || b->jobs[0]->alone)))
			break;
		list_remove(&j->swap);
		if (!c->closing)
			b->jobs[b->n++] = j;
		else if (j->lost_at) /* it may have landed */
			job_unknown(j, "the daemon is stopping");
		else
			job_stopped(j);
	}
	if (b->n) {
		c->swapping = true;
		batch_send(b);
		return;
	}
	catalog_unref(c);
	free(b);
}

static void
job_swap(struct job *j)
{
	list_append(&j->catalog->swaps, &j->swap);
	swaps_send(j->catalog);
}

/* ---- the same for a run ---- */

static void
on_noted(void *arg, struct err *e)
{
	struct job *j = arg;

	if (e == NULL)
		job_succeed(j);
	else if (e->code == ERR_CONFLICT && !j->catalog->closing)
		job_again(j);
	else if (e->code == ERR_FORBIDDEN) {
		job_forget_files(j);
		catalog_reply_fenced(j->rq);
		job_free(j);
	} else
		job_fail(j, e);
}

static void
job_note(struct job *j)
{
	struct table_change *changes = xcalloc(j->nparts, sizeof(*changes));
	size_t n = 0;

	for (size_t i = 0; i < j->nparts; i++)
		if (j->parts[i].facts)
			changes[n++] = part_change_of(&j->parts[i], j->view || j->parts[i].view);
	sched_tables_commit(j->catalog->app->sched, j->attempt, changes, n, on_noted, j);
	free(changes);
}

static void
job_move(struct job *j)
{
	if (j->attempt)
		job_note(j);
	else
		job_swap(j);
}

/* ---- between the steps ---- */

/* The answer to a staged create: the metadata, without a location. */
static void
job_reply_staged(struct job *j)
{
	struct part *p = &j->parts[0];
	struct buf b = BUF_INIT;

	buf_adds(&b, "{\"metadata\":");
	buf_add(&b, p->text, p->len);
	access_add(&b, j->rq, json_string_value(json_object_get(p->json, "location")));
	buf_addc(&b, '}');
	reply_json_text(j->rq, 200, b.s);
	buf_release(&b);
	job_free(j);
}

/* What the worker read is what a later answer needs: text and JSON of metadata that stays as it is. */
static void
part_settle(struct part *p)
{
	if (p->text)
		return;
	json_decref(p->json);
	if (p->base) {
		p->text = xstrndup(p->base->text, p->base->len);
		p->len = p->base->len;
		p->json = json_incref(p->base->json);
		return;
	}
	p->text = p->base_text;
	p->len = p->base_len;
	p->json = p->base_json;
	p->base_text = NULL;
	p->base_json = NULL;
}

static void
on_worked(struct work *w, int status)
{
	struct job *j = w->data;

	if (status < 0 && j->e.code == 0)
		err_set(&j->e, ERR_INTERNAL, "%s", uv_strerror(status));
	if (j->e.code) {
		struct err e = j->e;

		j->e = (struct err)ERR_INIT;
		if (j->guessed && !j->catalog->closing) { /* it may have been wrong: look, and judge then */
			err_release(&e);
			job_again(j);
		} else {
			job_fail(j, &e);
		}
		return;
	}
	if (j->kind == KIND_STAGE) {
		job_reply_staged(j);
		return;
	}
	if (job_stopped(j))
		return;
	for (size_t i = 0; i < j->nparts; i++)
		if (j->parts[i].new)
			part_settle(&j->parts[i]);
	job_move(j);
}

/* May its files lie on a store over the network? */
static bool
job_remote(const struct job *j)
{
	const char *given = json_string_value(json_object_get(j->body, "metadata-location"));

	if (given == NULL)
		given = json_string_value(json_object_get(j->body, "location"));
	for (size_t i = 0; i < j->nparts; i++)
		if (j->parts[i].old && storage_remote(j->parts[i].old))
			return true;
	return storage_remote(given ? given : j->catalog->warehouse);
}

static void
job_build(struct job *j)
{
	j->work.data = j;
	work_queue(j->catalog->app->loop, &j->work, job_remote(j), job_work, on_worked);
}

static bool
part_wants_creation(const struct part *p)
{
	const json_t *r;
	size_t i;

	json_array_foreach (p->requirements, i, r) {
		const char *type = json_string_value(json_object_get(r, "type"));

		if (type && strcmp(type, "assert-create") == 0)
			return true;
	}
	return false;
}

/* Takes in where a table stands. Returns false when the job is over. */
static bool
part_found(struct job *j, struct part *p, const char *location, const char *type, bool namespace_exists)
{
	bool creates = j->kind == KIND_CREATE || j->kind == KIND_STAGE || j->kind == KIND_REGISTER ||
		       (j->kind == KIND_RENAME && p != &j->parts[0]);
	bool view = type && strcmp(type, "VIEW") == 0, other = location && view != j->view;

	if (j->kind == KIND_UNDO) {
		part_forget_base(p);
		p->old = xstrdup_null(location);
		p->moved = !same_text(location, p->expect);
		return true;
	}
	if (location && (other || creates) && !(j->kind == KIND_REGISTER && j->overwrite && !other) &&
	    (creates || part_wants_creation(p))) {
		job_forget_files(j);
		catalog_reply_error(j->rq, 409, creates ? "AlreadyExistsException" : "CommitFailedException",
				    "%s already exists: %s.%s", view ? "View" : "Table", p->ns, p->name);
		job_free(j);
		return false;
	}
	if ((location == NULL || other) && !creates && !part_wants_creation(p)) {
		catalog_reply_none(j->rq, j->view, p->ns, p->name);
		job_free(j);
		return false;
	}
	if (location == NULL && !namespace_exists) {
		catalog_reply_no_namespace(j->rq, p->ns);
		job_free(j);
		return false;
	}
	part_forget_base(p);
	p->old = xstrdup_null(location);
	if (location && j->kind != KIND_REGISTER)
		p->base = meta_cached(j->catalog, location);
	return true;
}

/* Nothing is built: the pointers go, or get another name. */
static void
job_unname(struct job *j)
{
	struct part *from = &j->parts[0];

	from->facts = json_pack("{s:s}", "action", j->kind == KIND_DROP ? "drop" : "rename");
	if (j->kind == KIND_RENAME) {
		j->parts[1].new = xstrdup(from->old);
		j->parts[1].facts = json_incref(from->facts);
	}
	job_move(j);
}

/* Answers itself when the run cannot be undone. */
static bool
job_may_undo(struct job *j)
{
	struct err e = ERR_INIT;
	char *why = undo_refusal(j);
	size_t n = 0;

	if (*why && !j->with_later) {
		err_set(&e, ERR_CONFLICT, "%s; say that later commits go back as well (--with-later), or undo those first", why);
		free(why);
		job_fail(j, &e);
		return false;
	}
	free(why);
	for (size_t i = 0; i < j->nparts; i++) { /* a table that is not there, and was not, needs nothing */
		struct part *p = &j->parts[i], keep = *p;

		if (p->old || p->back) {
			j->parts[i] = j->parts[n];
			j->parts[n++] = keep;
		}
	}
	for (size_t i = n; i < j->nparts; i++) {
		free(j->parts[i].ns);
		free(j->parts[i].name);
		free(j->parts[i].expect);
		json_decref(j->parts[i].later);
	}
	j->nparts = n;
	return true;
}

static void
on_looked(void *arg, const struct rows *r, struct err *e)
{
	struct job *j = arg;

	if (r == NULL) {
		job_fail(j, e);
		return;
	}
	for (size_t i = 0; i < j->nparts; i++) {
		struct part *p = &j->parts[i];
		struct table_seen seen = { .location = rows_get(r, i, 0), .type = rows_get(r, i, 1) };

		if (j->attempt)
			sched_table_seen(j->catalog->app->sched, j->attempt, p->ns, p->name, &seen);
		if (!part_found(j, p, seen.location, seen.location ? seen.type : NULL, strcmp(rows_get(r, i, 2), "t") == 0))
			return;
	}
	if (j->kind == KIND_DROP || j->kind == KIND_RENAME) {
		job_unname(j);
		return;
	}
	if (j->kind == KIND_UNDO && !job_may_undo(j))
		return;
	job_build(j);
}

/*
 * Most commits follow one of ours: what that left is then where the table stands. Should it not be, the swap finds out, or
 * the build fails, and the job begins again by looking.
 */
static bool
job_guess(struct job *j)
{
	j->guessed = false;
	if (j->attempt || j->tries || (j->kind != KIND_COMMIT && j->kind != KIND_TRANSACTION))
		return false;
	for (size_t i = 0; i < j->nparts; i++)
		if (pointer_known(j->catalog, j->view, j->parts[i].ns, j->parts[i].name) == NULL ||
		    part_wants_creation(&j->parts[i]))
			return false;
	for (size_t i = 0; i < j->nparts; i++) {
		struct part *p = &j->parts[i];

		part_forget_base(p);
		p->old = xstrdup(pointer_known(j->catalog, j->view, p->ns, p->name));
		p->base = meta_cached(j->catalog, p->old);
	}
	j->guessed = true;
	return true;
}

static void
job_look(struct job *j)
{
	char *text;

	if (job_guess(j)) {
		job_build(j);
		return;
	}
	text = job_parts_text(j);
	store_query(j->catalog->app->store,
		    "SELECT t.metadata_location, t.iceberg_type, " SQL_NAMESPACE_EXISTS(
			    "$1", "(x.part->>'ns')") " FROM json_array_elements($2::json) WITH ORDINALITY AS x(part, i) LEFT "
						     "JOIN iceberg_tables t"
						     " ON t.catalog_name = $1 AND t.table_namespace = x.part->>'ns' AND "
						     "t.table_name = x.part->>'name' ORDER BY x.i",
		    2, (const char *const[]){ j->catalog->name, text }, on_looked, j);
	free(text);
}

/* ---- the ways in ---- */

struct job *
job_new(struct request *rq, enum kind kind, json_t *body, size_t nparts)
{
	struct job *j = xcalloc(1, sizeof(*j));

	list_init(&j->node);
	list_init(&j->swap);
	j->catalog = catalog_ref(rq->app->catalog);
	j->rq = rq;
	rq->patience = PATIENCE;
	j->kind = kind;
	j->body = body;
	j->nparts = nparts;
	j->parts = xcalloc(nparts, sizeof(*j->parts));
	j->attempt = xstrdup_null(rq->attempt);
	j->who = xstrdup_null(rq->who);
	return j;
}

static int
part_init(struct part *p, char *ns, const char *name, json_t *change, struct err *e)
{
	p->ns = ns;
	if (ns == NULL || table_name_check(name, e) < 0)
		return e->code;
	p->name = xstrdup(name);
	p->requirements = json_object_get(change, "requirements");
	p->updates = json_object_get(change, "updates");
	if ((p->requirements && !json_is_array(p->requirements)) || (p->updates && !json_is_array(p->updates)))
		return err_set(e, ERR_INVALID, "\"requirements\" and \"updates\" must be lists");
	return 0;
}

/* `name` NULL: the body has it. */
static void
job_start_one(struct request *rq, bool view, enum kind kind, const char *name)
{
	struct err e = ERR_INIT;
	struct job *j;
	json_t *body;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	if (kind == KIND_CREATE && json_is_true(json_object_get(body, "stage-create")) && !view)
		kind = KIND_STAGE;
	if (name == NULL)
		name = json_string_value(json_object_get(body, "name"));
	j = job_new(rq, kind, body, 1);
	j->view = view;
	j->overwrite = json_is_true(json_object_get(body, "overwrite")) && !view;
	if (part_init(&j->parts[0], namespace_of_param(rq->param[0], &e), name, body, &e) < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

void
tables_create(struct request *rq)
{
	job_start_one(rq, false, KIND_CREATE, NULL);
}

void
tables_register(struct request *rq)
{
	job_start_one(rq, false, KIND_REGISTER, NULL);
}

void
tables_commit(struct request *rq)
{
	job_start_one(rq, false, KIND_COMMIT, rq->param[1]);
}

void
views_create(struct request *rq)
{
	job_start_one(rq, true, KIND_CREATE, NULL);
}

void
views_register(struct request *rq)
{
	job_start_one(rq, true, KIND_REGISTER, NULL);
}

void
views_replace(struct request *rq)
{
	job_start_one(rq, true, KIND_COMMIT, rq->param[1]);
}

void
tables_change(struct request *rq, const char *ns, const char *name, json_t *change)
{
	struct err e = ERR_INIT;
	struct job *j = job_new(rq, KIND_COMMIT, change, 1);

	if (part_init(&j->parts[0], xstrdup(ns), name, change, &e) < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

void
transactions_commit(struct request *rq)
{
	struct err e = ERR_INIT;
	json_t *body, *changes, *change;
	struct job *j;
	size_t i;
	int rc = 0;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	changes = json_object_get(body, "table-changes");
	if (json_array_size(changes) == 0) {
		json_decref(body);
		catalog_reply_error(rq, 400, "BadRequestException", "\"table-changes\" must be a list with at least one change");
		return;
	}
	j = job_new(rq, KIND_TRANSACTION, body, json_array_size(changes));
	json_array_foreach (changes, i, change) {
		const json_t *id = json_object_get(change, "identifier");

		rc = part_init(&j->parts[i], namespace_of_json(json_object_get(id, "namespace"), &e),
			       json_string_value(json_object_get(id, "name")), change, &e);
		for (size_t k = 0; k < i && rc == 0; k++)
			if (strcmp(j->parts[k].ns, j->parts[i].ns) == 0 && strcmp(j->parts[k].name, j->parts[i].name) == 0)
				rc = err_set(&e, ERR_INVALID, "table %s.%s is changed twice in one transaction", j->parts[i].ns,
					     j->parts[i].name);
		if (rc < 0)
			break;
	}
	if (rc < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

static void
job_start_drop(struct request *rq, bool view)
{
	const char *purge = view ? NULL : request_query(rq, "purgeRequested");
	struct err e = ERR_INIT;
	struct job *j;

	if (!catalog_may_write(rq))
		return;
	j = job_new(rq, KIND_DROP, NULL, 1);
	j->view = view;
	j->purge = purge && strcasecmp(purge, "true") == 0;
	if (part_init(&j->parts[0], namespace_of_param(rq->param[0], &e), rq->param[1], NULL, &e) < 0) {
		err_release(&e); /* there can be no such thing */
		catalog_reply_none(rq, view, rq->param[0], rq->param[1]);
		job_free(j);
	} else
		job_begin(j);
}

void
tables_drop(struct request *rq)
{
	job_start_drop(rq, false);
}

void
views_drop(struct request *rq)
{
	job_start_drop(rq, true);
}

static void
job_start_rename(struct request *rq, bool view)
{
	static const char *const sides[] = { "source", "destination" };
	struct err e = ERR_INIT;
	json_t *body, *id;
	struct job *j;
	int rc = 0;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	j = job_new(rq, KIND_RENAME, body, 2);
	j->view = view;
	for (size_t i = 0; i < 2 && rc == 0; i++) {
		id = json_object_get(body, sides[i]);
		rc = part_init(&j->parts[i], namespace_of_json(json_object_get(id, "namespace"), &e),
			       json_string_value(json_object_get(id, "name")), NULL, &e);
	}
	if (rc < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

void
tables_rename(struct request *rq)
{
	job_start_rename(rq, false);
}

void
views_rename(struct request *rq)
{
	job_start_rename(rq, true);
}
