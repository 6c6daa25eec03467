/*
 * Everything that writes metadata: create, register, commit, and commits to several tables at once. One path, which is led here:
 *
 *     start    a request becomes a job                               (commit_start.c)
 *     look     where do the tables stand?                            (one statement)
 *     build    check requirements, apply updates, write new files    (worker thread: commit_build.c)
 *     swap     move all pointers, or none                            (one statement, thus one transaction: commit_swap.c)
 *     verify   only when the answer to the swap was lost: did it land?
 *     end      the answer, and files that nobody needs any more      (commit_end.c)
 *
 * A pointer that moved in between begins again at `look`, and the requirements decide anew: this is how changes that do not
 * touch each other both succeed. For an attempt of a run there is no swap: the scheduler notes the commit as one that only the
 * run sees, or refuses it, when the attempt was given up.
 */
#include <stdlib.h>
#include <string.h>

#include "api/catalog/commit_int.h"
#include "base/alloc.h"
#include "base/fault.h"

#define TRIES_MAX 6

static void job_look(struct job *j);

/* ---- what its parts say ---- */

bool
same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

char *
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

struct table_change
part_change_of(const struct job *j, const struct part *p)
{
	return (struct table_change){ .ns = p->ns,
				      .name = p->name,
				      .type = kind_name(j->view || p->view),
				      .before = p->old,
				      .after = p->new,
				      .facts = p->facts };
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

bool
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

/* Changes to tables that are there, visible at once. */
static bool
job_ordinary(const struct job *j)
{
	if (j->attempt || j->view || (j->kind != KIND_COMMIT && j->kind != KIND_TRANSACTION))
		return false;
	for (size_t i = 0; i < j->nparts; i++)
		if (part_wants_creation(&j->parts[i]))
			return false;
	return true;
}

/* May it be built on top of what the other one has built, in the hope that its swap succeeds? */
static bool
job_may_follow(const struct job *j, const struct job *before)
{
	return before->built && before->lost_at == 0 && j->tries == 0 && job_ordinary(before) && job_ordinary(j);
}

static struct job *
jobs_next(struct catalog *c)
{
	LIST_FOR_EACH (it, &c->jobs) {
		struct job *j = LIST_ENTRY(it, struct job, node);
		bool ready = !j->started;

		for (struct list *at = c->jobs.next; ready && at != it; at = at->next) {
			const struct job *before = LIST_ENTRY(at, struct job, node);

			ready = !jobs_meet(j, before) || job_may_follow(j, before);
		}
		if (ready)
			return j;
	}
	return NULL;
}

/*
 * Commits to one table wait for each other here, in order of arrival, so that none is built in vain. One is built while the
 * swap of the one before it is under way. Against other daemons and other writers of the same database it is the swap that
 * decides.
 */
void
jobs_start(struct catalog *c)
{
	struct job *j;

	while ((j = jobs_next(c)) != NULL) {
		j->started = true;
		if (!job_stopped(j))
			job_look(j);
	}
}

const char *
job_attempt(const struct job *j)
{
	return j->attempt ? j->attempt : j->keeper;
}

/*
 * Maintenance changes no row, so its commits are visible at once, but where its own run has changed the table and nobody sees
 * that yet. It gives way to who writes: false, and answered, when somebody does.
 */
static bool
job_keep(struct job *j)
{
	struct sched *s = j->catalog->app->sched;
	struct table_seen seen;
	json_t *writers;
	bool may = true;

	for (size_t i = 0; i < j->nparts; i++)
		if (sched_table_seen(s, j->attempt, j->parts[i].ns, j->parts[i].name, &seen))
			return true;
	writers = sched_writers(s, j->attempt, 0);
	for (size_t i = 0; i < j->nparts && may; i++) {
		char *name = xasprintf("%s.%s", j->parts[i].ns, j->parts[i].name);
		const char *writer = json_string_value(json_object_get(writers, name));

		free(name);
		may = writer == NULL;
		if (writer)
			catalog_reply_error(j->rq, 409, "TableInUseException", "maintenance gives way: %s", writer);
	}
	json_decref(writers);
	j->keeper = j->attempt;
	j->attempt = NULL;
	return may;
}

void
job_begin(struct job *j)
{
	if (sched_maintains(j->catalog->app->sched, j->attempt) && !job_keep(j)) {
		job_free(j);
		return;
	}
	list_append(&j->catalog->jobs, &j->node);
	jobs_start(j->catalog);
}

/* ---- once more, or on ---- */

void
job_again(struct job *j)
{
	struct err e = ERR_INIT;

	job_forget_files(j);
	j->built = false;
	if (++j->tries < TRIES_MAX) {
		j->started = false; /* whoever was before it, is so still */
		jobs_start(j->catalog);
		return;
	}
	err_set(&e, ERR_CONFLICT, "table %s.%s is being changed by others all the time; %d tries came too late", j->parts[0].ns,
		j->parts[0].name, j->tries);
	job_fail(j, &e);
}

/* ---- the pointers of a run ---- */

static void
on_noted(void *arg, struct err *e)
{
	struct job *j = arg;

	FAULT("catalog.commit.after");
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
			changes[n++] = part_change_of(j, &j->parts[i]);
	FAULT("catalog.commit.before");
	sched_tables_commit(j->catalog->app->sched, j->attempt, changes, n, on_noted, j);
	free(changes);
}

static void
job_move(struct job *j)
{
	if (j->attempt) {
		job_note(j);
		return;
	}
	j->built = true;
	job_swap(j);
	jobs_start(j->catalog);
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

/* The metadata stays in memory: the next request for the table is likely to want it. */
static void
part_keep(struct job *j, struct part *p)
{
	p->made = meta_keep(j->catalog, p->new, p->text, p->len, json_incref(p->json));
	p->text = NULL;
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
		if (j->parts[i].new) {
			part_settle(&j->parts[i]);
			part_keep(j, &j->parts[i]);
		}
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
		p->moved = !same_text(location, p->expect) || json_array_size(p->later);
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

/* What the last job before this one does to the table; NULL: there is none. */
static const struct part *
part_before(const struct job *j, const struct part *p)
{
	for (const struct list *it = j->node.prev; it != &j->catalog->jobs; it = it->prev) {
		const struct job *before = LIST_ENTRY(it, struct job, node);

		for (size_t i = 0; jobs_same_view(j, before) && i < before->nparts; i++)
			if (strcmp(before->parts[i].name, p->name) == 0 && strcmp(before->parts[i].ns, p->ns) == 0)
				return &before->parts[i];
	}
	return NULL;
}

/*
 * Most commits follow one of ours, which has landed or is about to: what that leaves is then where the table stands. Should it
 * not be, the swap finds out, or the build fails, and the job begins again by looking.
 */
static bool
job_guess(struct job *j)
{
	j->guessed = false;
	if (j->tries || !job_ordinary(j))
		return false;
	for (size_t i = 0; i < j->nparts; i++)
		if (part_before(j, &j->parts[i]) == NULL &&
		    pointer_known(j->catalog, false, j->parts[i].ns, j->parts[i].name) == NULL)
			return false;
	for (size_t i = 0; i < j->nparts; i++) {
		struct part *p = &j->parts[i];
		const struct part *before = part_before(j, p);

		part_forget_base(p);
		p->old = xstrdup(before ? before->new : pointer_known(j->catalog, false, p->ns, p->name));
		p->base = before && before->made ? meta_ref(before->made) : meta_cached(j->catalog, p->old);
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
