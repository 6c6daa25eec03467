/* What came of flows' shadows (scheduler/shadow.c): a report over the last weeks that says which engine to keep, and the runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/alloc.h"
#include "base/buf.h"

#define ENOUGH        10  /* runs that both have ended, before anything is said */
#define NEAR          0.1 /* a median that differs by less is the same */
#define SINCE_DEFAULT (14 * US_PER_DAY)
#define LIST_DEFAULT  20
#define LIST_MAX      500

/* clang-format off */
#define COUNTED(state) "count(*) FILTER (WHERE s.state = '" state "')"
#define OF_GOOD(side, what, share)                                                                                              \
	"percentile_disc(" share ") WITHIN GROUP (ORDER BY (s." side "->>'" what "')::bigint) FILTER (WHERE s." side "->>'state' = 'success')"
#define FIGURES(side)                                                                                                           \
	"jsonb_build_object('elapsed_median_us', " OF_GOOD(side, "elapsed_us", "0.5")                                           \
	", 'elapsed_p95_us', " OF_GOOD(side, "elapsed_us", "0.95") ", 'cpu_median_us', " OF_GOOD(side, "cpu_us", "0.5")         \
	", 'memory_median_bytes', " OF_GOOD(side, "max_rss_bytes", "0.5")                                                       \
	", 'memory_most_bytes', max((s." side "->>'max_rss_bytes')::bigint)"                                                    \
	", 'rows', sum((s." side "->>'rows')::bigint), 'files', sum((s." side "->>'files')::bigint)"                            \
	", 'ended', count(*) FILTER (WHERE s." side "->>'state' IN ('success', 'failed'))"                                      \
	", 'failed', count(*) FILTER (WHERE s." side "->>'state' = 'failed'))"

#define SQL_REPORT                                                                                                              \
	"WITH s AS MATERIALIZED (SELECT * FROM sluice.shadows WHERE ($1 = '' OR flow = $1) AND at >= $2::timestamptz)"          \
	" SELECT coalesce(jsonb_agg(to_jsonb(g) ORDER BY g.flow, g.engine, g.shadow_engine), '[]') FROM (SELECT s.flow, s.engine," \
	"  s.shadow_engine, " SQL_TIME("min(s.at)") " AS since, " SQL_TIME("max(s.at)") " AS until, count(*) AS runs, "         \
	COUNTED("equal") " AS equal, " COUNTED("different") " AS different, " COUNTED("failed") " AS failed, "                  \
	COUNTED("real_failed") " AS real_failed, " COUNTED("uncompared") " AS uncompared, " COUNTED("skipped") " AS skipped, "  \
	"  count(*) FILTER (WHERE s.state IN ('due', 'running')) AS open, " FIGURES("real") " AS real, "                        \
	FIGURES("shadow") " AS shadow,"                                                                                         \
	"  (SELECT jsonb_agg(jsonb_build_object('state', w.state, 'reason', w.reason, 'times', w.n) ORDER BY w.n DESC, w.reason)" \
	"   FROM (SELECT x.state, left(x.reason, 400) AS reason, count(*) AS n FROM s x WHERE x.flow = s.flow AND x.engine = s.engine" \
	"    AND x.shadow_engine = s.shadow_engine AND x.reason IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 2 LIMIT 5) w) AS reasons,"   \
	"  (SELECT jsonb_build_object('run', x.run_id, 'shadow', x.shadow_id, 'at', " SQL_TIME("x.at") ", 'tables', x.result->'tables')" \
	"   FROM s x WHERE x.flow = s.flow AND x.engine = s.engine AND x.shadow_engine = s.shadow_engine AND x.state = 'different'" \
	"   ORDER BY x.at DESC LIMIT 1) AS last_different"                                                                      \
	" FROM s GROUP BY s.flow, s.engine, s.shadow_engine) g"

#define SQL_LIST                                                                                                                \
	"SELECT coalesce(json_agg(json_build_object('run', s.run_id, 'shadow', s.shadow_id, 'at', " SQL_TIME("s.at")            \
	", 'engine', s.engine, 'shadow_engine', s.shadow_engine, 'state', s.state, 'reason', s.reason, 'real_figures', s.real,"  \
	" 'shadow_figures', s.shadow, 'tables', s.result->'tables') ORDER BY s.at DESC), '[]') FROM"                            \
	" (SELECT * FROM sluice.shadows WHERE flow = $1 ORDER BY at DESC LIMIT $2::int) s"
/* clang-format on */

static json_int_t
number_of(const json_t *item, const char *key)
{
	return json_integer_value(json_object_get(item, key));
}

/* "340 ms", "2.1 s". */
static const char *
took(json_int_t us, char out[32])
{
	if (us < US_PER_S)
		snprintf(out, 32, "%lld ms", (long long)(us / US_PER_MS));
	else
		snprintf(out, 32, "%.1f s", (double)us / US_PER_S);
	return out;
}

/* Both write the same: does the time tell them apart? */
static const char *
advise_by_time(const json_t *item, struct buf *why)
{
	const char *mine = json_string_value(json_object_get(item, "engine")),
		   *other = json_string_value(json_object_get(item, "shadow_engine"));
	json_int_t real = number_of(json_object_get(item, "real"), "elapsed_median_us"),
		   shadow = number_of(json_object_get(item, "shadow"), "elapsed_median_us");
	bool better = (double)shadow<(double)real *(1 - NEAR), worse = (double)shadow>(double) real * (1 + NEAR);
	char a[32], b[32];

	buf_addf(why, "%s wrote the same rows in all %lld runs that both ended, in a median of %s, %s in %s", other,
		 (long long)number_of(item, "equal"), took(shadow, a), mine, took(real, b));
	if (!better && !worse)
		buf_adds(why, ": that is no reason to move");
	return better ? other : mine;
}

/* Which engine to keep, and why; NULL: nobody can say yet. */
static const char *
advise(const json_t *item, struct buf *why)
{
	const char *mine = json_string_value(json_object_get(item, "engine")),
		   *other = json_string_value(json_object_get(item, "shadow_engine"));
	const json_t *real = json_object_get(item, "real"), *shadow = json_object_get(item, "shadow");
	json_int_t ended = number_of(shadow, "ended"), different = number_of(item, "different"),
		   failed = number_of(shadow, "failed"), real_failed = number_of(real, "failed");

	if (different) { /* one is enough */
		buf_addf(why, "%s wrote other rows or columns in %lld of %lld runs", other, (long long)different,
			 (long long)ended);
		return mine;
	}
	if (ended < ENOUGH) {
		buf_addf(why, "too few runs to say: both engines have ended %lld, and it takes %d", (long long)ended, ENOUGH);
		return NULL;
	}
	if (failed != real_failed) {
		buf_addf(why, "of %lld runs %lld failed on %s and %lld on %s", (long long)ended, (long long)failed, other,
			 (long long)real_failed, mine);
		return failed > real_failed ? mine : other;
	}
	if (number_of(item, "equal") == 0) {
		buf_addf(why, "of %lld runs both engines ended none well: there is nothing to compare", (long long)ended);
		return NULL;
	}
	return advise_by_time(item, why);
}

static void
on_report(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	json_t *items, *item;
	size_t i;

	if (r == NULL) {
		reply_err(rq, e);
		return;
	}
	items = rows_json(r, 0, 0);
	json_array_foreach (items, i, item) {
		struct buf why = BUF_INIT, sentence = BUF_INIT;
		const char *keep = advise(item, &why);

		if (keep)
			buf_addf(&sentence, "keep %s: ", keep);
		buf_add(&sentence, why.s, why.len);
		json_object_set_new(item, "keep", keep ? json_string(keep) : json_null());
		json_object_set_new(item, "advice", json_string(sentence.s));
		buf_release(&why);
		buf_release(&sentence);
	}
	reply_json(rq, 200, json_pack("{s:o,s:n}", "items", items, "next"));
}

static void
shadow_report(struct request *rq)
{
	const char *flow = request_query(rq, "flow"), *since = request_query(rq, "since");
	dur_us back = SINCE_DEFAULT;
	char at[TIME_TEXT];

	if (since && *since && (duration_parse(since, &back) < 0 || back <= 0)) {
		reply_problem(rq, ERR_INVALID, "since=%s is not a duration such as 14d", since);
		return;
	}
	store_query(rq->app->store, SQL_REPORT, 2, (const char *[]){ flow ? flow : "", time_format(clock_wall() - back, at) },
		    on_report, rq);
}

static void
on_list(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;

	if (r == NULL)
		reply_err(rq, e);
	else
		reply_json(rq, 200, json_pack("{s:o,s:n}", "items", rows_json(r, 0, 0), "next"));
}

static void
shadow_list(struct request *rq)
{
	long limit = request_number(rq, "limit", LIST_DEFAULT, 1, LIST_MAX);
	char text[24];

	if (limit < 0)
		return;
	snprintf(text, sizeof(text), "%ld", limit);
	store_query(rq->app->store, SQL_LIST, 2, (const char *[]){ rq->param[0], text }, on_list, rq);
}

const struct route shadow_routes[] = {
	{ "GET", "/api/v1/shadows", shadow_report, ROLE_VIEWER, 0, "Says how flows' shadows did, and which engine to keep." },
	{ "GET", "/api/v1/flows/{flow}/shadows", shadow_list, ROLE_VIEWER, 0, "Lists the last runs that had a shadow." },
};
const size_t shadow_routes_count = sizeof(shadow_routes) / sizeof(shadow_routes[0]);
