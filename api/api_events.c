/*
 * The events as they happen. A client that comes back tells the last id it saw; what it missed is read from the table in
 * batches, and only when nothing is left between the table and the present does the stream turn live: no gap, no duplicate.
 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/alloc.h"

#define BATCH 500

/* SQL is not C to the formatter. */
/* clang-format off */
#define EVENTS_SQL                                                                                                              \
	"SELECT id, json_build_object('id', id, 'at', " SQL_TIME("at") ", 'kind', kind, 'flow', flow, 'run', run,"              \
	" 'task', task, 'attempt', attempt, 'state', state, 'data', data)::text FROM sluice.events"                             \
	" WHERE id > $1::bigint AND ($2::text IS NULL OR run = $2) AND ($3::text IS NULL OR flow = $3) ORDER BY id LIMIT 500"
/* clang-format on */

struct events {
	struct app *app;
	struct stream *stream; /* NULL: the client has left */
	struct sched_sub *sub;
	char *run, *flow;  /* only these; NULL: all */
	json_int_t last;   /* sent */
	json_int_t newest; /* of those that came while we were catching up */
	bool catching, reading;
};

static void events_read(struct events *ev);

static void
events_free(struct events *ev)
{
	if (ev->stream || ev->reading)
		return;
	free(ev->run);
	free(ev->flow);
	free(ev);
}

static void
on_events_close(void *arg)
{
	struct events *ev = arg;

	ev->stream = NULL;
	sched_unsubscribe(ev->app->sched, ev->sub);
	events_free(ev);
}

static void
events_send(struct events *ev, json_int_t id, const char *text)
{
	struct buf b = BUF_INIT;

	if (id)
		buf_addf(&b, "id: %lld\n", (long long)id);
	buf_addf(&b, "event: event\ndata: %s\n\n", text);
	stream_send(ev->stream, b.s, b.len);
	buf_release(&b);
	if (id)
		ev->last = id;
}

static bool
same(const char *wanted, const json_t *event, const char *key)
{
	const char *is = json_string_value(json_object_get(event, key));

	return wanted == NULL || (is && strcmp(is, wanted) == 0);
}

static void
on_sched_event(void *arg, const json_t *event)
{
	struct events *ev = arg;
	json_int_t id = json_integer_value(json_object_get(event, "id"));
	char *text;

	if (!same(ev->run, event, "run") || !same(ev->flow, event, "flow"))
		return;
	if (ev->catching) {
		if (id > ev->newest)
			ev->newest = id;
		return;
	}
	if (id && id <= ev->last)
		return;
	text = json_dumps(event, JSON_COMPACT);
	events_send(ev, id, text);
	free(text);
}

/* Everything of the last batch is sent: the next one, unless the present is reached. */
static void
on_events_drain(void *arg)
{
	struct events *ev = arg;

	if (ev->catching && !ev->reading)
		events_read(ev);
}

static void
on_events_read(void *arg, const struct rows *r, struct err *e)
{
	struct events *ev = arg;

	(void)e;
	ev->reading = false;
	if (ev->stream == NULL) {
		events_free(ev);
		return;
	}
	if (r == NULL) { /* the client comes again and goes on where it was */
		stream_end(ev->stream);
		return;
	}
	for (size_t i = 0; i < rows_count(r); i++)
		events_send(ev, strtoll(rows_get(r, i, 0), NULL, 10), rows_get(r, i, 1));
	if (rows_count(r) < BATCH && ev->newest <= ev->last)
		ev->catching = false;
	else
		stream_on_drain(ev->stream, on_events_drain);
}

static void
events_read(struct events *ev)
{
	char after[24];

	snprintf(after, sizeof(after), "%lld", (long long)ev->last);
	ev->reading = true;
	store_query(ev->app->store, EVENTS_SQL, 3, (const char *[]){ after, ev->run, ev->flow }, on_events_read, ev);
}

static char *
filter_of(struct request *rq, const char *name)
{
	const char *v = request_query(rq, name);

	return v && *v ? xstrdup(v) : NULL;
}

static void
events_get(struct request *rq)
{
	const char *after = request_header(rq, "Last-Event-ID");
	struct events *ev;
	char *end = NULL;
	long long id = 0;

	if (after == NULL || *after == '\0')
		after = request_query(rq, "after");
	if (after && *after) {
		id = strtoll(after, &end, 10);
		if (*end || id < 0) {
			reply_problem(rq, ERR_INVALID, "the place to go on from, \"%s\", is not the id of an event", after);
			return;
		}
	}
	if (!store_connected(rq->app->store)) { /* nothing can happen, and what has happened cannot be read */
		reply_problem(rq, ERR_UNAVAILABLE, "the database cannot be reached now; try again in a moment");
		return;
	}
	ev = xcalloc(1, sizeof(*ev));
	ev->app = rq->app;
	ev->run = filter_of(rq, "run");
	ev->flow = filter_of(rq, "flow");
	ev->last = id;
	ev->catching = end != NULL;
	ev->stream = reply_stream(rq, on_events_close, ev);
	if (ev->stream == NULL) {
		events_free(ev);
		return;
	}
	ev->sub = sched_subscribe(ev->app->sched, on_sched_event, ev);
	if (ev->catching)
		events_read(ev);
}

const struct route events_routes[] = {
	{ "GET", "/api/v1/events", events_get, ROLE_VIEWER, 0, "Streams events as they happen (server-sent events)." },
};
const size_t events_routes_count = sizeof(events_routes) / sizeof(events_routes[0]);
