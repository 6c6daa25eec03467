/* Flows as the registry holds them, with their last runs from the database. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/alloc.h"

#define NEXT_DEFAULT 10
#define NEXT_MAX     1000

/* A file that never loaded has no id of its own: it goes by its name. The caller frees it. */
static char *
entry_id(const struct registry_entry *en)
{
	const char *base = strrchr(en->file, '/'), *dot;

	if (en->flow)
		return xstrdup(en->flow->id);
	base = base ? base + 1 : en->file;
	dot = strrchr(base, '.');
	return xstrndup(base, dot ? (size_t)(dot - base) : strlen(base));
}

static const struct registry_entry *
entry_find(struct registry *r, const char *id)
{
	const struct registry_entry *broken = NULL;

	for (size_t i = 0; i < registry_count(r); i++) {
		const struct registry_entry *en = registry_entry_at(r, i);
		char *name = entry_id(en);
		bool same = strcmp(name, id) == 0;

		free(name);
		if (same && en->flow)
			return en;
		if (same)
			broken = en;
	}
	return broken;
}

static json_t *
time_or_null(wall_us t)
{
	char text[TIME_TEXT];

	return t ? json_string(time_format(t, text)) : json_null();
}

static json_t *
flow_item(struct request *rq, const struct registry_entry *en)
{
	const struct flow *f = en->flow;
	char *id = entry_id(en);
	json_t *item, *schedules;
	bool paused;

	if (f) {
		item = flow_json(f);
		paused = sched_paused(rq->app->sched, f->id);
		schedules = json_object_get(item, "schedules");
		for (size_t i = 0; i < f->nschedules; i++) {
			bool planned = !paused && f->enabled && f->schedules[i].enabled;

			json_object_set_new(json_array_get(schedules, i), "next",
					    time_or_null(planned ? schedule_next(&f->schedules[i], clock_wall()) : 0));
		}
		json_object_set_new(item, "paused", json_boolean(paused));
		json_object_set_new(item, "next", time_or_null(sched_next(rq->app->sched, f)));
	} else {
		item = json_pack("{s:s, s:s, s:b, s:b}", "id", id, "file", en->file, "enabled", 0, "paused", 0);
		json_object_update_new(item, json_pack("{s:n, s:n, s:n}", "namespace", "description", "next"));
		json_object_update_new(item, json_pack("{s:{}, s:{}, s:[], s:[]}", "labels", "params", "schedules", "tasks"));
	}
	json_object_set_new(item, "problems", en->diags ? diags_json(en->diags) : json_array());
	json_object_set_new(item, "last_runs", json_array());
	free(id);
	return item;
}

/* ---- one statement brings the last runs of all flows shown ---- */

/* SQL is not C to the formatter. */
/* clang-format off */
#define LAST_RUNS_SQL                                                                                                           \
	"SELECT coalesce(json_object_agg(f.id, l.runs), '{}')::text FROM"                                                       \
	" (SELECT DISTINCT json_array_elements_text($1::json) AS id) f CROSS JOIN LATERAL"                                      \
	" (SELECT coalesce(json_agg(json_build_object('id', r.id, 'state', r.state, 'created_at', " SQL_TIME("r.created_at")    \
	", 'started_at', " SQL_TIME("r.started_at") ", 'ended_at', " SQL_TIME("r.ended_at")                                     \
	") ORDER BY r.created_at DESC, r.id DESC), '[]') AS runs FROM"                                                          \
	" (SELECT * FROM sluice.runs r WHERE r.flow = f.id AND r.shadow_of IS NULL ORDER BY r.created_at DESC, r.id DESC LIMIT 20) r) l"
/* clang-format on */

struct flows_reply {
	struct request *rq;
	json_t *items; /* list */
	bool one;      /* reply with the only item */
};

static void
on_last_runs(void *arg, const struct rows *r, struct err *e)
{
	struct flows_reply *fr = arg;
	json_t *item, *runs;
	size_t i;

	if (r == NULL) {
		reply_err(fr->rq, e);
		json_decref(fr->items);
	} else {
		runs = rows_json(r, 0, 0);
		json_array_foreach (fr->items, i, item) {
			json_t *last = json_object_get(runs, json_string_value(json_object_get(item, "id")));

			if (last)
				json_object_set(item, "last_runs", last);
		}
		json_decref(runs);
		if (fr->one) {
			reply_json(fr->rq, 200, json_incref(json_array_get(fr->items, 0)));
			json_decref(fr->items);
		} else {
			reply_json(fr->rq, 200, json_pack("{s:o,s:n}", "items", fr->items, "next"));
		}
	}
	free(fr);
}

/* Takes `items` over. */
static void
flows_reply(struct request *rq, json_t *items, bool one)
{
	struct flows_reply *fr = xcalloc(1, sizeof(*fr));
	json_t *ids = json_array(), *item;
	char *text;
	size_t i;

	json_array_foreach (items, i, item)
		json_array_append(ids, json_object_get(item, "id"));
	text = json_dumps(ids, JSON_COMPACT);
	json_decref(ids);
	rq->data = fr; /* on_last_runs frees it */
	fr->rq = rq;
	fr->items = items;
	fr->one = one;
	store_query(rq->app->store, LAST_RUNS_SQL, 1, (const char *[]){ text }, on_last_runs, fr);
	free(text);
}

static void
flows_list(struct request *rq)
{
	json_t *items = json_array();

	for (size_t i = 0; i < registry_count(rq->app->registry); i++)
		json_array_append_new(items, flow_item(rq, registry_entry_at(rq->app->registry, i)));
	flows_reply(rq, items, false);
}

static void
flow_reply_one(struct request *rq)
{
	const struct registry_entry *en = entry_find(rq->app->registry, rq->param[0]);
	struct buf text = BUF_INIT_MAX(10 * 1024 * 1024);
	json_t *item, *items, *source = NULL;

	if (en == NULL) {
		reply_problem(rq, ERR_NOT_FOUND, "there is no flow \"%s\"", rq->param[0]);
		return;
	}
	item = flow_item(rq, en);
	/* The newest text when it is broken, since its problems point into it; else the version in force. */
	if ((en->diags && en->diags->errors) || en->flow == NULL) {
		if (buf_add_file(&text, en->file) == 0)
			source = json_stringn(text.s, text.len);
		buf_release(&text);
	}
	if (source == NULL)
		source = en->flow ? json_string(en->flow->source) : json_null();
	json_object_set_new(item, "source", source);
	items = json_array();
	json_array_append_new(items, item);
	flows_reply(rq, items, true);
}

struct flow *
flow_in_force(struct request *rq)
{
	struct flow *f = registry_flow(rq->app->registry, rq->param[0]);
	const struct registry_entry *en = f ? NULL : entry_find(rq->app->registry, rq->param[0]);

	if (en && en->diags)
		reply_problem_errors(rq, ERR_UNPROCESSABLE, diags_json(en->diags),
				     "%s has problems and never loaded without; nothing of it is in force", en->file);
	else if (f == NULL)
		reply_problem(rq, ERR_NOT_FOUND, "there is no flow \"%s\" in %s", rq->param[0], rq->app->flows_dir);
	return f;
}

/* ---- the plan ---- */

static void
flow_next(struct request *rq)
{
	struct flow *f = flow_in_force(rq);
	long count;
	json_t *list;
	wall_us after = clock_wall();

	if (f == NULL)
		return;
	count = request_number(rq, "count", NEXT_DEFAULT, 1, NEXT_MAX);
	if (count < 0)
		return;
	list = json_array();
	while ((long)json_array_size(list) < count) {
		const struct schedule_def *first = NULL;
		wall_us at = 0, from;

		for (size_t i = 0; i < f->nschedules; i++) {
			wall_us t = f->schedules[i].enabled ? schedule_next(&f->schedules[i], after) : 0;

			if (t && (at == 0 || t < at)) {
				at = t;
				first = &f->schedules[i];
			}
		}
		if (at == 0)
			break;
		from = schedule_prev(first, at - 1);
		json_array_append_new(list, json_pack("{s:o,s:o,s:o}", "scheduled_at", time_or_null(at), "interval_start",
						      time_or_null(from), "interval_end", time_or_null(at)));
		after = at;
	}
	reply_json(rq, 200, json_pack("{s:o,s:n}", "items", list, "next"));
}

static void
on_paused(void *arg, struct err *e)
{
	struct request *rq = arg;

	if (e)
		reply_err(rq, e);
	else
		flow_reply_one(rq);
}

static void
flow_pause(struct request *rq)
{
	if (flow_in_force(rq))
		sched_pause(rq->app->sched, rq->param[0], true, on_paused, rq);
}

static void
flow_resume(struct request *rq)
{
	if (flow_in_force(rq))
		sched_pause(rq->app->sched, rq->param[0], false, on_paused, rq);
}

const struct route flows_routes[] = {
	{ "GET", "/api/v1/flows", flows_list, ROLE_VIEWER, 0, "Lists the flows, with their next and last runs." },
	{ "GET", "/api/v1/flows/{flow}", flow_reply_one, ROLE_VIEWER, 0, "Shows a flow and its source." },
	{ "GET", "/api/v1/flows/{flow}/next", flow_next, ROLE_VIEWER, 0, "Lists the next times that its schedules name." },
	{ "POST", "/api/v1/flows/{flow}/pause", flow_pause, ROLE_RUNNER, 1024, "Pauses a flow's schedules." },
	{ "POST", "/api/v1/flows/{flow}/resume", flow_resume, ROLE_RUNNER, 1024, "Resumes a flow's schedules." },
};
const size_t flows_routes_count = sizeof(flows_routes) / sizeof(flows_routes[0]);
