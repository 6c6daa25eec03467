/*
 * Undo: everything that a run made visible goes back, in one transaction of the catalog. A table gets the state from before the
 * run as a new metadata file, so that its history stays; one that the run made is dropped, one that it dropped is there again.
 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/commit_int.h"
#include "api/catalog/metadata.h"
#include "base/alloc.h"

/* ---- what goes back (worker thread) ---- */

static void
undo_id(json_t *updates, const json_t *before, const json_t *now, const char *field, const char *action, const char *key)
{
	const json_t *id = json_object_get(before, field);

	if (id && !metadata_same(id, json_object_get(now, field)))
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", action, key, id));
}

static void
undo_properties(json_t *updates, const json_t *before, const json_t *now)
{
	json_t *old = json_object_get(before, "properties"), *gone = json_array(), *value;
	const char *name;

	json_object_foreach (json_object_get(now, "properties"), name, value)
		if (json_object_get(old, name) == NULL)
			json_array_append_new(gone, json_string(name));
	if (json_array_size(gone) > 0)
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "remove-properties", "removals", gone));
	if (json_object_size(old) > 0 && !metadata_same(old, json_object_get(now, "properties")))
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "set-properties", "updates", old));
	json_decref(gone);
}

/* Branches and tags; a table of version 1 may tell its only branch by the current snapshot alone. */
static json_t *
refs_of(const json_t *md)
{
	json_t *refs = json_object_get(md, "refs") ? json_copy(json_object_get(md, "refs")) : json_object();
	json_t *id = json_object_get(md, "current-snapshot-id");

	if (json_object_get(refs, "main") == NULL && json_is_integer(id) && json_integer_value(id) != -1)
		json_object_set_new(refs, "main", json_pack("{s:s,s:O}", "type", "branch", "snapshot-id", id));
	return refs;
}

static int
undo_refs(json_t *updates, const json_t *before, const json_t *now, struct err *e)
{
	json_t *old = refs_of(before), *have = refs_of(now), *ref, *update;
	const char *name;
	json_int_t id;
	int rc = 0;

	json_object_foreach (have, name, ref)
		if (json_object_get(old, name) == NULL)
			json_array_append_new(updates, json_pack("{s:s,s:s}", "action", "remove-snapshot-ref", "ref-name", name));
	json_object_foreach (old, name, ref) {
		if (metadata_same(ref, json_object_get(have, name)))
			continue;
		id = json_integer_value(json_object_get(ref, "snapshot-id"));
		if (metadata_find(json_object_get(now, "snapshots"), "snapshot-id", id, NULL) == NULL)
			rc = err_set(e, ERR_CONFLICT, "the snapshot %lld, to which %s would go back, has been expired",
				     (long long)id, name);
		update = json_pack("{s:s,s:s}", "action", "set-snapshot-ref", "ref-name", name);
		json_object_update(update, ref);
		json_array_append_new(updates, update);
	}
	json_decref(old);
	json_decref(have);
	return rc;
}

json_t *
undo_updates(const json_t *before, const json_t *now, struct err *e)
{
	json_t *updates = json_array();

	undo_id(updates, before, now, "current-schema-id", "set-current-schema", "schema-id");
	undo_id(updates, before, now, "default-spec-id", "set-default-spec", "spec-id");
	undo_id(updates, before, now, "default-sort-order-id", "set-default-sort-order", "sort-order-id");
	undo_properties(updates, before, now);
	if (undo_refs(updates, before, now, e) < 0) {
		json_decref(updates);
		return NULL;
	}
	return updates;
}

/* ---- who committed on top ---- */

char *
undo_refusal(const struct job *j)
{
	struct buf b = BUF_INIT;

	for (size_t i = 0; i < j->nparts; i++) {
		const struct part *p = &j->parts[i];
		json_t *c;
		size_t k;

		if (!p->moved)
			continue;
		buf_addf(&b, "%stable %s.%s was changed after the run", b.len ? "; " : "", p->ns, p->name);
		json_array_foreach (p->later, k, c) {
			const char *run = json_string_value(json_object_get(c, "run")),
				   *who = json_string_value(json_object_get(c, "who"));

			buf_addf(&b, "%s %s%s at %s", k ? "," : " by", run ? "run " : "",
				 run   ? run
				 : who ? who
				       : "somebody",
				 json_string_value(json_object_get(c, "at")));
		}
		if (json_array_size(p->later) == 0)
			buf_adds(&b, " by a program that does not use this catalog");
	}
	return buf_detach(&b);
}

/* ---- the way in ---- */

struct undo {
	struct request *rq;
	bool with_later;
};

static void
undo_part(struct job *j, size_t i, const struct rows *r)
{
	struct part *p = &j->parts[i];
	json_t *ids = rows_json(r, i, 5), *c;
	size_t k;

	p->ns = xstrdup(rows_get(r, i, 1));
	p->name = xstrdup(rows_get(r, i, 2));
	p->back = xstrdup_null(rows_get(r, i, 3));
	p->expect = xstrdup_null(rows_get(r, i, 4));
	p->later = rows_json(r, i, 6);
	p->view = strcmp(rows_get(r, i, 8), "VIEW") == 0;
	json_array_extend(j->undone, ids);
	json_decref(ids);
	json_array_foreach (p->later, k, c)
		if (j->with_later)
			json_array_append(j->undone, json_object_get(c, "id"));
}

static void
on_found(void *arg, const struct rows *r, struct err *e)
{
	struct undo *u = arg;
	struct request *rq = u->rq;
	struct job *j;

	if (r == NULL) {
		reply_err(rq, e);
	} else if (rows_count(r) == 0) {
		reply_problem(rq, ERR_NOT_FOUND, "there is no run \"%s\"", rq->param[0]);
	} else if (config_foreign(rq->app->config)) { /* there are no commits of the run that are known here */
		reply_problem(
			rq, ERR_UNSUPPORTED,
			"the catalog \"%s\" is kept by another server (%s): what run %s wrote there is not taken back as one; "
			"`sluice rollback TABLE --to previous` sets a table back",
			config_get(rq->app->config, "catalog.name"), config_place(rq->app->config), rq->param[0]);
	} else if (rows_get(r, 0, 1) == NULL) {
		reply_problem(rq, ERR_CONFLICT,
			      strcmp(rows_get(r, 0, 7), "t") == 0 ? "run %s has been undone already"
								  : "run %s (%s) made nothing visible in any table: there is "
								    "nothing to take back",
			      rq->param[0], rows_get(r, 0, 0));
	} else {
		j = job_new(rq, KIND_UNDO, NULL, rows_count(r));
		j->with_later = u->with_later;
		j->undone = json_array();
		for (size_t i = 0; i < j->nparts; i++)
			undo_part(j, i, r);
		job_begin(j);
	}
	free(u);
}

/*
 * For each table of the run: where it goes back to, where it stands as far as commits tell, and who changed rows or columns after
 * the run. Neither maintenance nor an undo of something later does: what they leave is what the run left.
 */
/* clang-format off */
#define SQL_UNDO                                                                                                                \
	"WITH m AS (SELECT namespace, name, (array_agg(metadata_before ORDER BY id))[1] AS back, (array_agg(type ORDER BY id))" \
	"[1] AS type, json_agg(id) AS ids, max(visible_at) AS at FROM commits WHERE run_id = $1 AND state = 'visible'"          \
	" GROUP BY namespace, name) "                                                                                           \
	"SELECT r.state, m.namespace, m.name, m.back, l.now, m.ids, l.later, EXISTS (SELECT 1 FROM commits c WHERE c.run_id ="  \
	" r.id AND c.state = 'undone'), m.type FROM runs r LEFT JOIN m ON true LEFT JOIN LATERAL ("                             \
	"SELECT (array_agg(c.metadata_after ORDER BY c.visible_at DESC, c.id DESC))[1] AS now, json_agg(json_build_object("     \
	"'id', c.id, 'at', " SQL_TIME("c.visible_at") ", 'run', c.run_id, 'who', c.who) ORDER BY c.visible_at, c.id) FILTER ("  \
	"WHERE c.run_id IS DISTINCT FROM r.id AND c.action NOT IN ('maintain', 'undo') AND c.operation IS DISTINCT FROM"        \
	" 'replace') AS later FROM commits c WHERE c.namespace = m.namespace AND c.name = m.name AND c.state = 'visible'"       \
	" AND c.visible_at >= m.at) l ON true WHERE r.id = $1"
/* clang-format on */

static void
undo_run(struct request *rq)
{
	json_t *body = request_json(rq);
	struct undo *u;

	if (body == NULL)
		return;
	u = xcalloc(1, sizeof(*u));
	u->rq = rq;
	u->with_later = json_is_true(json_object_get(body, "with_later"));
	json_decref(body);
	store_query(rq->app->store, SQL_UNDO, 1, (const char *[]){ rq->param[0] }, on_found, u);
}

/* ---- what a run did ---- */

static void
on_lineage(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;

	if (r == NULL)
		reply_err(rq, e);
	else if (rows_get(r, 0, 0) == NULL)
		reply_problem(rq, ERR_NOT_FOUND, "there is no run \"%s\"", rq->param[0]);
	else
		reply_json_text(rq, 200, rows_get(r, 0, 0));
}

/* clang-format off */
#define LINEAGE                                                                                                                 \
	"json_build_object('table', c.namespace || '.' || c.name, 'task', c.task_id, 'attempt', c.attempt, 'state', c.state,"   \
	" 'action', c.action, 'operation', c.operation, 'at', " SQL_TIME("c.at") ", 'visible_at', " SQL_TIME("c.visible_at")    \
	", 'snapshot_before', c.snapshot_before::text, 'snapshot_after', c.snapshot_after::text, 'rows_added', c.rows_added,"   \
	" 'rows_removed', c.rows_removed, 'files_added', c.files_added, 'files_removed', c.files_removed,"                      \
	" 'undone_at', " SQL_TIME("u.at") ", 'undone_by', u.who)"
/* clang-format on */

static void
lineage_get(struct request *rq)
{
	store_query(rq->app->store,
		    "SELECT (SELECT json_build_object('items', coalesce((SELECT json_agg(" LINEAGE " ORDER BY c.id)"
		    " FROM commits c LEFT JOIN LATERAL (" SQL_UNDO_OF("c") ") u ON true WHERE c.run_id = r.id), '[]'),"
									   " 'next', NULL) FROM runs r WHERE r.id = $1)",
		    1, (const char *[]){ rq->param[0] }, on_lineage, rq);
}

const struct route undo_routes[] = {
	{ "GET", "/api/v1/runs/{run}/tables", lineage_get, ROLE_VIEWER, 0, "Lists the commits that a run made to tables." },
	{ "POST", "/api/v1/runs/{run}/undo", undo_run, ROLE_RUNNER, 1024,
	  "Takes back everything that a run wrote to tables, in one transaction." },
};
const size_t undo_routes_count = sizeof(undo_routes) / sizeof(undo_routes[0]);
