/* What several runs wrote to their tables, compared: of runs on different engines above all. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/catalog_int.h"
#include "base/alloc.h"

#define RUNS_MAX      16
#define LIMIT_DEFAULT 5
#define LIMIT_MAX     1000
#define TIMEOUT       (30 * US_PER_MIN)

struct comparing {
	struct request *rq; /* NULL: the scheduler asks, for a shadow */
	struct sched *sched;
	struct store *store;
	json_t *runs; /* ids, as asked for */
	json_int_t limit;
};

static void
comparing_free(struct comparing *c)
{
	json_decref(c->runs);
	free(c);
}

static void
compared_for_shadow(struct comparing *c, const json_t *report, struct err *e)
{
	const json_t *result = json_object_get(report, "result");
	struct err none = ERR_INIT;

	if (result == NULL && (e == NULL || e->code == 0)) {
		err_set(&none, ERR_INTERNAL, "the comparison told nothing");
		e = &none;
	}
	sched_compared(c->sched, result, e);
	err_release(&none);
	comparing_free(c);
}

static void
on_compared(void *arg, const json_t *report, struct err *e)
{
	struct comparing *c = arg;
	json_t *result;

	if (c->rq == NULL) {
		compared_for_shadow(c, report, e);
		return;
	}
	result = reply_unless_result(c->rq, report, e, "the comparison");
	if (result) {
		result = json_copy(result);
		json_object_set(result, "runs", c->runs);
		reply_json(c->rq, 200, result);
	}
	comparing_free(c);
}

/* Have all ended well? Replies itself otherwise. */
static bool
runs_good(struct comparing *c, const json_t *found)
{
	json_t *id;
	size_t i;

	json_array_foreach (c->runs, i, id) {
		const char *state = json_string_value(json_object_get(found, json_string_value(id)));

		if (state == NULL)
			reply_problem(c->rq, ERR_NOT_FOUND, "there is no run \"%s\"", json_string_value(id));
		else if (strcmp(state, "success") != 0)
			reply_problem(c->rq, ERR_CONFLICT, "run %s is %s: only runs that succeeded can be compared",
				      json_string_value(id), state);
		if (state == NULL || strcmp(state, "success") != 0)
			return false;
	}
	return true;
}

static void
on_found(void *arg, const struct rows *r, struct err *e)
{
	struct comparing *c = arg;
	json_t *states = NULL, *tables = NULL, *spec;

	if (r == NULL) {
		if (c->rq) {
			reply_err(c->rq, e);
			comparing_free(c);
		} else {
			compared_for_shadow(c, NULL, e);
		}
		return;
	}
	states = rows_json(r, 0, 0);
	tables = rows_json(r, 0, 1);
	if (c->rq && !runs_good(c, states)) {
		comparing_free(c);
	} else {
		spec = json_pack("{s:o,s:I}", "tables", tables ? json_incref(tables) : json_array(), "limit", c->limit);
		if (c->rq)
			c->rq->patience = TIMEOUT + 30 * US_PER_S;
		sched_adhoc(c->sched, "compare", spec, TIMEOUT, on_compared, c);
		json_decref(spec);
	}
	json_decref(states);
	json_decref(tables);
}

/* clang-format off */
/* The states of the runs, and each table that any of them wrote with its last metadata file of each. */
#define SQL_WRITTEN                                                                                                             \
	"WITH asked AS (SELECT id, at FROM jsonb_array_elements_text($1::jsonb) WITH ORDINALITY AS x(id, at)),"                 \
	" ends AS (SELECT DISTINCT ON (c.run_id, c.namespace, c.name) c.run_id, c.namespace || '.' || c.name AS name,"          \
	"  c.metadata_after FROM sluice.commits c JOIN asked a ON a.id = c.run_id WHERE c.type = 'TABLE' AND c.action <>"       \
	"  'maintain' AND c.state IN ('visible', 'rehearsed', 'undone') ORDER BY c.run_id, c.namespace, c.name, c.id DESC)"     \
	" SELECT (SELECT jsonb_object_agg(r.id, r.state) FROM sluice.runs r JOIN asked a ON a.id = r.id),"                      \
	" (SELECT jsonb_agg(jsonb_build_object('table', t.name, 'sides', (SELECT jsonb_agg(e.metadata_after ORDER BY a.at)"     \
	"  FROM asked a LEFT JOIN ends e ON e.run_id = a.id AND e.name = t.name)) ORDER BY t.name)"                             \
	"  FROM (SELECT DISTINCT name FROM ends) t)"
/* clang-format on */

static void
compare_ask(struct comparing asked)
{
	struct comparing *c = xcalloc(1, sizeof(*c));
	char *text = json_dumps(asked.runs, JSON_COMPACT);

	*c = asked;
	store_query(c->store, SQL_WRITTEN, 1, (const char *[]){ text }, on_found, c);
	free(text);
}

static bool
runs_named(struct request *rq, const json_t *runs)
{
	json_t *id;
	size_t i;

	json_array_foreach (runs, i, id)
		if (!json_is_string(id))
			break;
	if (json_array_size(runs) >= 2 && json_array_size(runs) <= RUNS_MAX && i == json_array_size(runs))
		return true;
	reply_problem(rq, ERR_INVALID, "\"runs\" must be a list of 2 to %d ids of runs", RUNS_MAX);
	return false;
}

static void
compare(struct request *rq)
{
	json_t *body = request_json(rq), *runs = json_object_get(body, "runs"), *limit = json_object_get(body, "limit");
	json_int_t most = limit ? json_integer_value(limit) : LIMIT_DEFAULT;

	if (body == NULL)
		return;
	if (limit && (!json_is_integer(limit) || most < 0 || most > LIMIT_MAX)) {
		reply_problem(rq, ERR_INVALID, "\"limit\" must be a number from 0 to %d", LIMIT_MAX);
	} else if (runs_named(rq, runs)) {
		compare_ask((struct comparing){
			.rq = rq, .sched = rq->app->sched, .store = rq->app->store, .runs = json_incref(runs), .limit = most });
	}
	json_decref(body);
}

void
compare_shadow(void *arg, const char *run, const char *shadow)
{
	struct catalog *catalog = arg;

	compare_ask((struct comparing){ .sched = catalog->app->sched,
					.store = catalog->app->store,
					.runs = json_pack("[s,s]", run, shadow),
					.limit = LIMIT_DEFAULT });
}

const struct route compare_routes[] = {
	{ "POST", "/api/v1/compare", compare, ROLE_VIEWER, 8192, "Compares what runs wrote to their tables: schema and rows." },
};
const size_t compare_routes_count = sizeof(compare_routes) / sizeof(compare_routes[0]);
