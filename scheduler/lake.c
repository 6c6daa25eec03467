/*
 * A run is a transaction over the tables it writes: what its attempts have committed and nobody else sees yet, and how that
 * becomes visible or is taken back (docs/architecture.md, "Run transactions"). Where a run stands is the list of its commits: a
 * table is what its last one says, and the first one tells from where the run began.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/log.h"
#include "scheduler/sched_int.h"

#define REBASE_PAUSE (100 * US_PER_MS)

struct commit {
	struct list node; /* in run->commits */
	int64_t id;
	size_t task;
	int n;
	char *ns, *name, *type, *before, *after;
};

static void
commit_free(struct commit *c)
{
	list_remove(&c->node);
	free(c->ns);
	free(c->name);
	free(c->type);
	free(c->before);
	free(c->after);
	free(c);
}

void
lake_release(struct run *run)
{
	LIST_FOR_EACH (it, &run->commits)
		commit_free(LIST_ENTRY(it, struct commit, node));
}

static bool
commit_is_of(const struct commit *c, const char *ns, const char *name)
{
	return strcmp(c->name, name) == 0 && strcmp(c->ns, ns) == 0;
}

/* Do its tasks see each other's commits, which become visible together? A rehearsal's always do, since they never become so. */
static bool
sees_all(const struct run *run)
{
	return run->flow->isolation == ISOLATION_RUN || run->rehearsal;
}

/* The last commit to a table that this task sees; NULL: none. */
static struct commit *
lake_last(const struct task *t, const char *ns, const char *name)
{
	const struct run *run = t->run;

	for (struct list *it = run->commits.prev; it != &run->commits; it = it->prev) {
		struct commit *c = LIST_ENTRY(it, struct commit, node);

		if (commit_is_of(c, ns, name) && (sees_all(run) || c->task == t->idx))
			return c;
	}
	return NULL;
}

static struct task *
task_of_attempt(struct sched *s, const char *key)
{
	struct attempt *a = NULL;

	if (key)
		HASH_FIND_STR(s->attempts, key, a);
	return a && a->phase == ATTEMPT_RUNNING ? a->task : NULL;
}

bool
sched_table_seen(struct sched *s, const char *attempt, const char *ns, const char *name, struct table_seen *seen)
{
	const struct task *t = task_of_attempt(s, attempt);
	const struct commit *c = t ? lake_last(t, ns, name) : NULL;

	if (c == NULL)
		return t && shadow_table_seen(t->run, ns, name, seen);
	*seen = (struct table_seen){ .location = c->after, .type = c->type };
	return true;
}

void
lake_tables(const struct run *run, json_t *out)
{
	LIST_FOR_EACH (it, &run->commits) {
		const struct commit *c = LIST_ENTRY(it, struct commit, node);
		char *table = xasprintf("%s.%s", c->ns, c->name);

		json_object_set_new(out, table, json_sprintf("run %s has written to it, which is not visible yet", run->id));
		free(table);
	}
}

void
sched_tables_seen(struct sched *s, const char *attempt, const char *ns, sched_table_cb cb, void *arg)
{
	const struct task *t = task_of_attempt(s, attempt);
	struct table_seen seen;

	if (t == NULL)
		return;
	shadow_tables_seen(t->run, ns, cb, arg); /* first: what the run itself did is told after it, and counts */
	LIST_FOR_EACH (it, &t->run->commits) {
		const struct commit *c = LIST_ENTRY(it, struct commit, node);

		if (strcmp(c->ns, ns) == 0 && lake_last(t, ns, c->name) == c) {
			seen = (struct table_seen){ .location = c->after, .type = c->type };
			cb(arg, c->name, &seen);
		}
	}
}

/* ---- committing ---- */

static json_t *
text_or_null(const char *s)
{
	return s ? json_string(s) : json_null();
}

/* Commits are numbered by their time, each one more than the one before. */
static json_t *
commit_row(struct sched *s, const struct table_change *ch)
{
	json_t *row = json_deep_copy(ch->facts);
	wall_us now = clock_wall();
	char text[TIME_TEXT];

	s->last_commit = now > s->last_commit ? now : s->last_commit + 1;
	json_object_set_new(row, "id", json_integer(s->last_commit));
	json_object_set_new(row, "at", json_string(time_format(now, text)));
	json_object_set_new(row, "namespace", json_string(ch->ns));
	json_object_set_new(row, "name", json_string(ch->name));
	json_object_set_new(row, "type", json_string(ch->type));
	json_object_set_new(row, "metadata_before", text_or_null(ch->before));
	json_object_set_new(row, "metadata_after", text_or_null(ch->after));
	return row;
}

/* What an event of kind `table` tells: the row without what is ours alone. */
static json_t *
commit_news(const json_t *row)
{
	static const char *const ours[] = { "id", "at", "visible_at", "told", "state", "run_id", "task_id", "attempt" };
	json_t *data = json_deep_copy(row), *value;
	const char *key;
	void *tmp;

	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		json_object_del(data, ours[i]);
	json_object_foreach_safe(data, tmp, key, value) if (json_is_null(value)) json_object_del(data, key);
	json_object_set(data, "commit", json_object_get(row, "id"));
	return data;
}

json_t *
sched_table_row(struct sched *s, const struct table_change *ch, const char *who, const char *attempt)
{
	json_t *row = commit_row(s, ch);
	struct attempt *a = NULL;

	if (attempt)
		HASH_FIND_STR(s->attempts, attempt, a);
	if (a && a->task) {
		json_object_set_new(row, "run_id", json_string(a->task->run->id));
		json_object_set_new(row, "task_id", json_string(a->task->def->id));
		json_object_set_new(row, "attempt", json_integer(a->n));
	}
	json_object_set_new(row, "state", json_string("visible"));
	json_object_set(row, "visible_at", json_object_get(row, "at"));
	json_object_set_new(row, "told", json_false());
	json_object_set_new(row, "who", text_or_null(who));
	return row;
}

void
sched_table_told(struct sched *s, const json_t *row)
{
	char id[32];

	snprintf(id, sizeof(id), "%lld", (long long)json_integer_value(json_object_get(row, "id")));
	record_event(s, "table", NULL, NULL, 0, "visible", commit_news(row));
	if (s->recovered) /* else those who see what was before it have been told by the database */
		shadow_moved(s, json_string_value(json_object_get(row, "namespace")),
			     json_string_value(json_object_get(row, "name")), json_string_value(json_object_get(row, "type")),
			     json_string_value(json_object_get(row, "metadata_before")));
	store_write(s->store, "UPDATE commits SET told = true WHERE id = $1::bigint", 1, (const char *[]){ id });
	sched_wake(s);
}

static void
lake_add(struct attempt *a, const struct table_change *ch)
{
	struct sched *s = a->sched;
	struct commit *c = xcalloc(1, sizeof(*c));
	json_t *row = commit_row(s, ch);

	c->id = json_integer_value(json_object_get(row, "id"));
	c->task = a->task->idx;
	c->n = a->n;
	c->ns = xstrdup(ch->ns);
	c->name = xstrdup(ch->name);
	c->type = xstrdup(ch->type);
	c->before = xstrdup_null(ch->before);
	c->after = xstrdup_null(ch->after);
	list_append(&a->task->run->commits, &c->node);
	json_object_set_new(row, "state", json_string("private"));
	json_object_set_new(row, "told", json_true());
	json_object_set_new(row, "run_id", json_string(a->task->run->id));
	json_object_set_new(row, "task_id", json_string(a->task->def->id));
	json_object_set_new(row, "attempt", json_integer(a->n));
	record_event(s, "table", a->task->run, a->task, a->n, "private", commit_news(row));
	json_array_append_new(s->commits, row);
}

/* Is this where the run stands? */
static bool
change_fits(const struct task *t, const struct table_change *ch)
{
	const struct commit *last = lake_last(t, ch->ns, ch->name);

	if (last == NULL) /* the first one: whether it still is so shows when it is published */
		return true;
	return last->after && ch->before ? strcmp(last->after, ch->before) == 0 : last->after == ch->before;
}

void
sched_tables_commit(struct sched *s, const char *attempt, const struct table_change *changes, size_t n, sched_done_cb cb,
		    void *arg)
{
	struct err e = ERR_INIT;
	struct attempt *a;

	HASH_FIND_STR(s->attempts, attempt, a);
	if (a == NULL || a->phase != ATTEMPT_RUNNING || a->task == NULL)
		err_set(&e, ERR_FORBIDDEN, "attempt %s is no longer current", attempt);
	else if (!store_connected(s->store))
		err_set(&e, ERR_UNAVAILABLE, "the database cannot be reached now; try again in a moment");
	for (size_t i = 0; i < n && e.code == 0; i++)
		if (!change_fits(a->task, &changes[i]))
			err_set(&e, ERR_CONFLICT, "table %s.%s has been changed meanwhile", changes[i].ns, changes[i].name);
	if (e.code) {
		cb(arg, &e);
		err_release(&e);
		return;
	}
	for (size_t i = 0; i < n; i++)
		lake_add(a, &changes[i]);
	done_after_commit(s, cb, arg);
	sched_wake(s);
}

/* ---- taking back ---- */

/* A task that has ended waits again for those that it depends on. */
static void
task_reset(struct task *t)
{
	json_decref(t->outputs);
	t->outputs = NULL;
	streams_forget(t);
	if (task_state_terminal(t->state))
		task_transition(t, TASK_EV_RESET, NULL);
}

/*
 * A row of `cleanup`: where to look for files of this attempt that no table needs, by location or by a metadata file in it; or
 * (`expired`) for what that metadata file leads to and no table needs any more.
 */
static void
leave(struct sched *s, const struct run *run, const char *task, int n, const char *ns, const char *name, const char *location,
      const char *metadata, bool expired)
{
	char now[TIME_TEXT];

	json_array_append_new(s->cleanup,
			      json_pack("{s:s,s:s,s:s,s:i,s:s,s:s,s:s?,s:s?,s:b}", "at", time_format(clock_wall(), now), "run_id",
					run->id, "task_id", task, "attempt", n, "namespace", ns, "name", name, "location",
					location, "metadata", metadata, "expired", expired));
}

static void
commit_leave(const struct run *run, const struct commit *c)
{
	if (c->after)
		leave(run->sched, run, run->flow->tasks[c->task].id, c->n, c->ns, c->name, NULL, c->after, false);
}

void
lake_leave(const struct attempt *a)
{
	json_t *table;
	size_t i;

	/* What tables of another server need, we do not know; what a program reports, it may have made up. */
	if (config_foreign(a->sched->config) || task_type_is_program(a->task->def->type))
		return;
	json_array_foreach (json_object_get(a->report, "writing"), i, table) {
		const char *ns = json_string_value(json_object_get(table, "namespace")),
			   *name = json_string_value(json_object_get(table, "name")),
			   *location = json_string_value(json_object_get(table, "location"));

		if (ns && name && location)
			leave(a->sched, a->task->run, a->task->def->id, a->n, ns, name, location, NULL, false);
	}
	json_array_foreach (json_object_get(a->report, "expiring"), i, table) {
		const char *ns = json_string_value(json_object_get(table, "namespace")),
			   *name = json_string_value(json_object_get(table, "name")),
			   *metadata = json_string_value(json_object_get(table, "metadata"));

		if (ns && name && metadata)
			leave(a->sched, a->task->run, a->task->def->id, a->n, ns, name, NULL, metadata, true);
	}
}

static void
commit_take_back(const struct run *run, struct commit *c)
{
	commit_leave(run, c);
	json_array_append_new(run->sched->abandoned, json_integer(c->id));
	commit_free(c);
}

/*
 * Which tasks must be done again, beginning with those of `redo`: until nothing is added, who depends on one of these, and who
 * committed on top of one of these.
 */
static void
redo_closure(const struct run *run, bool *redo)
{
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < run->flow->ntasks; i++) {
			const struct task_def *def = run->tasks[i].def;

			for (size_t k = 0; k < def->ndeps && !redo[i]; k++)
				more = (redo[i] = redo[def->deps[k]]) || more;
		}
		LIST_FOR_EACH (it, &run->commits) {
			const struct commit *c = LIST_ENTRY(it, struct commit, node);

			for (struct list *on = it->next; redo[c->task] && on != &run->commits; on = on->next) {
				const struct commit *later = LIST_ENTRY(on, struct commit, node);

				if (!redo[later->task] && commit_is_of(later, c->ns, c->name))
					more = redo[later->task] = true;
			}
		}
	}
}

/* From the newest on, of every task that is done again. */
static void
take_back_of(const struct run *run, const bool *redo)
{
	for (struct list *it = run->commits.prev, *before; it != &run->commits; it = before) {
		before = it->prev;
		if (redo[LIST_ENTRY(it, struct commit, node)->task])
			commit_take_back(run, LIST_ENTRY(it, struct commit, node));
	}
}

/* Somebody else of the run has committed on top of what this attempt did to a table. */
static bool
built_upon(const struct attempt *a)
{
	LIST_FOR_EACH (it, &a->task->run->commits) {
		const struct commit *c = LIST_ENTRY(it, struct commit, node);

		if (c->task == a->task->idx && c->n == a->n && lake_last(a->task, c->ns, c->name)->task != a->task->idx)
			return true;
	}
	return false;
}

/*
 * What was built upon a failed attempt's commits goes with them. Who did so, or has read it, begins anew; who is still at it
 * cannot end well any more.
 */
static void
take_back_with_others(const struct attempt *a)
{
	struct run *run = a->task->run;
	bool *redo = xcalloc(run->flow->ntasks, sizeof(*redo));

	redo[a->task->idx] = true;
	redo_closure(run, redo);
	take_back_of(run, redo);
	for (size_t i = 0; i < run->flow->ntasks; i++) {
		struct task *t = &run->tasks[i];

		if (!redo[i] || t == a->task)
			continue;
		log_info("%s: task %s has built upon what it wrote, and is done again", a->key, t->def->id);
		if (t->attempt && t->attempt->phase != ATTEMPT_ENDED)
			attempt_undercut(t->attempt);
		else
			task_reset(t);
	}
	free(redo);
}

void
lake_take_back(const struct attempt *a)
{
	struct run *run = a->task->run;

	if (sees_all(run) && built_upon(a)) {
		take_back_with_others(a);
		return;
	}
	for (struct list *it = run->commits.prev, *before; it != &run->commits; it = before) {
		struct commit *c = LIST_ENTRY(it, struct commit, node);

		before = it->prev;
		if (c->task == a->task->idx && c->n == a->n)
			commit_take_back(run, c);
	}
}

void
lake_abandon(struct run *run)
{
	LIST_FOR_EACH (it, &run->commits)
		commit_take_back(run, LIST_ENTRY(it, struct commit, node));
}

void
lake_rehearsed(struct run *run)
{
	LIST_FOR_EACH (it, &run->commits) {
		struct commit *c = LIST_ENTRY(it, struct commit, node);

		commit_leave(run, c);
		commit_free(c);
	}
	store_write(run->sched->store, "UPDATE commits SET state = 'rehearsed' WHERE run_id = $1 AND state = 'private'", 1,
		    (const char *[]){ run->id });
}

/* ---- publishing ---- */

bool
lake_pending(const struct run *run, const struct task *t)
{
	if (sees_all(run) == (t != NULL))
		return false;
	if (streams_pending(run, t))
		return true;
	LIST_FOR_EACH (it, &run->commits)
		if (t == NULL || LIST_ENTRY(it, struct commit, node)->task == t->idx)
			return true;
	return false;
}

/* A publication that is under way. */
struct publication {
	struct sched *sched;
	char *run, *attempt; /* attempt: its key, or NULL for the whole run */
	wall_us ended;
	json_t *event; /* of the run's success */
	json_t *moved; /* tables that somebody else changed */
	struct alarm *pause;
};

static void
publication_free(struct publication *p)
{
	json_decref(p->event);
	json_decref(p->moved);
	alarm_cancel(&p->pause);
	free(p->run);
	free(p->attempt);
	free(p);
}

/* "stg.a, cur.b"; of streams, how far they are read. */
static char *
moved_names(const json_t *moved)
{
	struct buf b = BUF_INIT;
	json_t *m;
	size_t i;

	json_array_foreach (moved, i, m) {
		const char *stream = json_string_value(json_object_get(m, "stream"));

		buf_adds(&b, i ? ", " : "");
		if (stream)
			buf_addf(&b, "how far stream %s is read (topic %s, partition %lld)", stream,
				 json_string_value(json_object_get(m, "topic")),
				 (long long)json_integer_value(json_object_get(m, "partition")));
		else
			buf_addf(&b, "%s.%s", json_string_value(json_object_get(m, "namespace")),
				 json_string_value(json_object_get(m, "name")));
	}
	return buf_detach(&b);
}

static bool
commit_moved(const struct commit *c, const json_t *moved)
{
	json_t *m;
	size_t i;

	json_array_foreach (moved, i, m)
		if (json_object_get(m, "stream") == NULL && commit_is_of(c, json_string_value(json_object_get(m, "namespace")),
									 json_string_value(json_object_get(m, "name"))))
			return true;
	return false;
}

static void
note_conflict(const struct task *t)
{
	char n[16];

	snprintf(n, sizeof(n), "%d", t->attempts);
	store_write(t->run->sched->store,
		    "UPDATE attempts SET state = 'failed', cause = 'conflict' WHERE run_id = $1 AND task_id = $2 AND n = $3::int",
		    3, (const char *[]){ t->run->id, t->def->id, n });
}

static void
task_redo(struct task *t, bool writer, const char *why)
{
	if (!writer) {
		task_reset(t);
		return;
	}
	json_decref(t->outputs);
	t->outputs = NULL;
	streams_forget(t);
	note_conflict(t);
	t->next_attempt_at = clock_wall() + task_retry_pause(t, t->attempts + 1);
	task_transition(t, TASK_EV_REDO, why);
	task_retry_later(t, t->next_attempt_at);
}

/* Has the task read a stream that somebody else has read meanwhile? */
static bool
stream_moved(const struct task *t, const json_t *moved)
{
	const char *task;
	json_t *m;
	size_t i;

	json_array_foreach (moved, i, m)
		if (json_object_get(m, "stream") && (task = json_string_value(json_object_get(m, "task"))) != NULL &&
		    strcmp(task, t->def->id) == 0)
			return true;
	return false;
}

/* Somebody else changed a table that the run wrote: again, where the writers may, or not at all. */
static void
run_conflict(struct run *run, const json_t *moved)
{
	size_t n = run->flow->ntasks;
	bool *redo = xcalloc(n, sizeof(*redo)), *writer = xcalloc(n, sizeof(*writer)), again = true;
	char *names = moved_names(moved), *why;

	why = xasprintf("conflict: another writer changed %s while the run was under way", names);
	LIST_FOR_EACH (it, &run->commits) {
		const struct commit *c = LIST_ENTRY(it, struct commit, node);

		if (commit_moved(c, moved))
			redo[c->task] = writer[c->task] = true;
	}
	for (size_t i = 0; i < n; i++)
		if (stream_moved(&run->tasks[i], moved))
			redo[i] = writer[i] = true;
	for (size_t i = 0; i < n; i++)
		again = again && !(writer[i] && run->tasks[i].attempts >= run->tasks[i].def->retry.max_attempts);
	if (again) {
		redo_closure(run, redo);
		take_back_of(run, redo);
		run_transition(run, RUN_EV_REDO, why);
		for (size_t i = 0; i < n; i++)
			if (redo[i])
				task_redo(&run->tasks[i], writer[i], why);
	} else {
		for (size_t i = 0; i < n; i++)
			if (writer[i]) {
				note_conflict(&run->tasks[i]);
				task_transition(&run->tasks[i], TASK_EV_CONFLICT, why);
			}
		run_transition(run, RUN_EV_FAIL, why);
	}
	free(names);
	free(why);
	free(redo);
	free(writer);
}

/* The commits that are visible now are nobody's business any more. */
static void
lake_settle(struct run *run, const struct task *t)
{
	LIST_FOR_EACH (it, &run->commits) {
		struct commit *c = LIST_ENTRY(it, struct commit, node);

		if (t == NULL || c->task == t->idx) {
			shadow_moved(run->sched, c->ns, c->name, c->type, c->before);
			commit_free(c);
		}
	}
}

/* The run, and the attempt if it is one's: neither ends while it is being published. */
static void
publication_find(const struct publication *p, struct run **run, struct attempt **a)
{
	*a = NULL;
	HASH_FIND_STR(p->sched->runs, p->run, *run);
	if (p->attempt)
		HASH_FIND_STR(p->sched->attempts, p->attempt, *a);
	if (*run == NULL || (p->attempt && *a == NULL))
		BUG("%s was being published and is gone", p->attempt ? p->attempt : p->run);
}

static void
publication_again(void *arg)
{
	struct publication *p = arg;
	struct attempt *a;
	struct run *run;

	publication_find(p, &run, &a);
	if (a)
		a->asked = false;
	else
		run->asked = false;
	run_mark(run);
	publication_free(p);
}

static void
publication_conflict(struct publication *p)
{
	char *names = moved_names(p->moved), *why = xasprintf("conflict: another writer changed %s while the task ran", names);
	struct attempt *a;
	struct run *run;

	publication_find(p, &run, &a);
	if (a)
		attempt_published(a, why);
	else
		run_conflict(run, p->moved);
	free(names);
	free(why);
	publication_free(p);
}

/* First and last commit of the run, or of the task alone, to a table. */
static void
lake_ends(const struct run *run, const struct task *t, const json_t *table, struct commit **first, struct commit **last)
{
	const char *ns = json_string_value(json_object_get(table, "namespace")),
		   *name = json_string_value(json_object_get(table, "name"));

	*first = *last = NULL;
	LIST_FOR_EACH (it, &run->commits) {
		struct commit *c = LIST_ENTRY(it, struct commit, node);

		if (!commit_is_of(c, ns, name) || (t && c->task != t->idx))
			continue;
		*last = c;
		if (*first == NULL)
			*first = c;
	}
}

static void
commit_move(struct sched *s, const struct commit *c, const char *column, char **at, const char *location)
{
	char id[32], *sql = xasprintf("UPDATE commits SET %s = $2 WHERE id = $1::bigint", column);

	free(*at);
	*at = xstrdup(location);
	snprintf(id, sizeof(id), "%lld", (long long)c->id);
	store_write(s->store, sql, 2, (const char *[]){ id, location });
	free(sql);
}

/* Lists and metadata that were made for the old place, or are not wanted in the new one. */
static void
publication_leave(const struct publication *p, const struct run *run, const struct task *t)
{
	LIST_FOR_EACH (it, &run->commits) {
		const struct commit *c = LIST_ENTRY(it, struct commit, node);

		if (commit_moved(c, p->moved) && (t == NULL || c->task == t->idx))
			commit_leave(run, c);
	}
}

static void
on_rebased(void *arg, const json_t *tables, struct err *e)
{
	struct publication *p = arg;
	struct commit *first, *last;
	struct attempt *a;
	struct run *run;
	json_t *table;
	size_t i;

	FAULT("lake.rebase.after");
	publication_find(p, &run, &a);
	if (e && e->code == ERR_UNAVAILABLE) {
		alarm_set(&p->pause, p->sched->loop, REBASE_PAUSE, publication_again, p);
		return;
	}
	publication_leave(p, run, a ? a->task : NULL);
	if (e) {
		log_info("%s: %s", p->run, e->msg);
		publication_conflict(p);
		return;
	}
	json_array_foreach (tables, i, table) {
		lake_ends(run, a ? a->task : NULL, table, &first, &last);
		commit_move(p->sched, first, "metadata_before", &first->before,
			    json_string_value(json_object_get(table, "before")));
		commit_move(p->sched, last, "metadata_after", &last->after, json_string_value(json_object_get(table, "after")));
	}
	publication_again(p);
}

/* Can the run's commits be had on top of what is there now? */
static void
publication_rebase(struct publication *p, const struct run *run, const struct task *t)
{
	struct commit *first, *last;
	json_t *table, *tables = json_array(), *item;
	size_t i;

	json_array_foreach (p->moved, i, table) {
		if (json_object_get(table, "stream"))
			continue; /* whoever read it first has it: nothing to put on top */
		lake_ends(run, t, table, &first, &last);
		if (last->after && json_is_string(json_object_get(table, "have")) && strcmp(last->type, "TABLE") == 0) {
			item = json_pack("{s:s,s:s,s:s?,s:s,s:O}", "namespace", first->ns, "name", first->name, "before",
					 first->before, "after", last->after, "have", json_object_get(table, "have"));
			json_object_set_new(item, "attempt",
					    json_sprintf("%s/%s/%d", run->id, run->flow->tasks[last->task].id, last->n));
			json_array_append_new(tables, item);
		}
	}
	FAULT("lake.rebase.before");
	if (p->sched->rebase && json_array_size(tables) == json_array_size(p->moved))
		p->sched->rebase(p->sched->rebase_arg, tables, on_rebased, p);
	else
		publication_conflict(p);
	json_decref(tables);
}

void
sched_on_cleanup(struct sched *s, sched_cleanup_fn fn, void *arg)
{
	s->cleanup_cb = fn;
	s->cleanup_arg = arg;
}

void
sched_on_moved(struct sched *s, sched_rebase_fn fn, void *arg)
{
	s->rebase = fn;
	s->rebase_arg = arg;
}

static void
on_published(void *arg, const struct rows *r, struct err *e)
{
	struct publication *p = arg;
	struct run *run;
	struct attempt *a;

	(void)e;
	FAULT("lake.publish.after");
	p->moved = rows_json(r, 0, 0);
	publication_find(p, &run, &a);
	if (json_array_size(p->moved) > 0) {
		publication_rebase(p, run, a ? a->task : NULL);
		return;
	}
	if (a) {
		lake_settle(run, a->task);
		streams_settle(run, a->task);
		attempt_published(a, NULL);
	} else {
		lake_settle(run, NULL);
		streams_settle(run, NULL);
		run_published(run, p->ended, json_incref(p->event));
	}
	publication_free(p);
}

static void
lake_publish(struct publication *p, const struct run *run, const struct task *t)
{
	const char *name = config_get(p->sched->config, "catalog.name");
	json_t *news = p->event ? json_pack("[O]", p->event) : json_array(), *reads = streams_rows(run, t);
	char *text = json_dumps(news, JSON_COMPACT), *offsets = json_dumps(reads, JSON_COMPACT), ended[TIME_TEXT];

	FAULT("lake.publish.before");
	store_write_rows(p->sched->store, "SELECT publish($1, $2, $3, $4::timestamptz, $5::jsonb, $6::jsonb)", 6,
			 (const char *[]){ name && *name ? name : "local", p->run, t ? t->def->id : NULL,
					   time_format(p->ended, ended), text, offsets },
			 on_published, p);
	free(text);
	free(offsets);
	json_decref(news);
	json_decref(reads);
}

void
lake_publish_run(struct run *run)
{
	struct publication *p = xcalloc(1, sizeof(*p));

	run->asked = true;
	p->sched = run->sched;
	p->run = xstrdup(run->id);
	p->ended = clock_wall();
	p->event = record_event_new(run->sched, "run", run, run_state_name(RUN_SUCCESS), NULL);
	lake_publish(p, run, NULL);
}

void
lake_publish_attempt(struct attempt *a)
{
	struct publication *p = xcalloc(1, sizeof(*p));

	a->asked = true;
	p->sched = a->sched;
	p->run = xstrdup(a->task->run->id);
	p->attempt = xstrdup(a->key);
	p->ended = clock_wall();
	lake_publish(p, a->task->run, a->task);
}

/* ---- writing and reading back ---- */

static void
write_list(struct sched *s, const char *sql, json_t **list)
{
	char *text;

	if (json_array_size(*list) == 0)
		return;
	text = json_dumps(*list, JSON_COMPACT);
	store_write(s->store, sql, 1, (const char *[]){ text });
	free(text);
	json_array_clear(*list);
}

static void
on_left(void *arg)
{
	struct sched *s = arg;

	if (s->cleanup_cb)
		s->cleanup_cb(s->cleanup_arg);
}

void
lake_write(struct sched *s)
{
	if (json_array_size(s->cleanup) > 0)
		store_after_commit(s->store, on_left, s);
	write_list(s,
		   "INSERT INTO cleanup (at, run_id, task_id, attempt, namespace, name, location, metadata, expired) SELECT at, "
		   "run_id, "
		   "task_id, attempt, namespace, name, location, metadata, expired FROM jsonb_populate_recordset(NULL::cleanup, "
		   "$1::jsonb)",
		   &s->cleanup);
	write_list(s,
		   "INSERT INTO commits SELECT * FROM jsonb_populate_recordset(NULL::commits, $1::jsonb) ON CONFLICT DO NOTHING",
		   &s->commits);
	write_list(s,
		   "UPDATE commits c SET state = 'abandoned' FROM jsonb_array_elements_text($1::jsonb) x WHERE c.id = x::bigint",
		   &s->abandoned);
}

void
lake_recover(struct run *run, const json_t *rows)
{
	json_t *row;
	size_t i;

	json_array_foreach (rows, i, row) {
		const char *task = json_string_value(json_object_get(row, "task_id"));
		struct commit *c = xcalloc(1, sizeof(*c));

		while (c->task + 1 < run->flow->ntasks && strcmp(run->tasks[c->task].def->id, task) != 0)
			c->task++;
		c->id = json_integer_value(json_object_get(row, "id"));
		c->n = (int)json_integer_value(json_object_get(row, "attempt"));
		c->ns = xstrdup(json_string_value(json_object_get(row, "namespace")));
		c->name = xstrdup(json_string_value(json_object_get(row, "name")));
		c->type = xstrdup(json_string_value(json_object_get(row, "type")));
		c->before = xstrdup_null(json_string_value(json_object_get(row, "metadata_before")));
		c->after = xstrdup_null(json_string_value(json_object_get(row, "metadata_after")));
		list_append(&run->commits, &c->node);
	}
}
