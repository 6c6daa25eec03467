/*
 * See store.h. Both connections are in libpq's pipeline mode. On the reader every statement is followed by its own sync
 * point, so one that fails spoils no other. On the writer all statements of a batch stand before a single sync point and
 * are therefore one implicit transaction, without BEGIN and COMMIT on the wire; only one batch is in flight, and what is
 * written meanwhile makes up the next: the busier the daemon, the larger the batches.
 */
#include "scheduler/store/store.h"

#include <errno.h>
#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/log.h"
#include "base/trouble.h"
#include "scheduler/store/start.h"

/* "sluice" as an advisory lock: one daemon a database. */
#define STORE_LOCK "782345190283"
/* What each connection is told first. The writer's statements all find their rows by key: plans made once, and never one that
 * reads a table through, which statistics of a young table suggest. */
#define SETTINGS_BOTH "set_config('search_path', 'sluice, public', false), set_config('lock_timeout', '2s', false)"
/* One statement that never ends would hold up all the others behind it. */
/* The reader's have filters that may be absent: a plan for all cases would read a history of 300,000 runs through for some. */
#define SETTINGS_READER                                                                                                          \
	", set_config('statement_timeout', '8s', false), set_config('plan_cache_mode', 'force_custom_plan', false)"
#define SETTINGS_WRITER                                                                                                          \
	", set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false), "             \
	"set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false), "                            \
	"set_config('jit', 'off', false)"
/* Who has it, or had it last. */
#define OWNER              "obj_description('sluice'::regnamespace, 'pg_namespace')"
#define RECONNECT_FIRST_MS 50
#define RECONNECT_MAX_MS   2000
/*
 * A server that stands still gives no error at all: a connection that has shown no sign of life for so long is given up. The
 * writer's bound doubles with each try of the same batch, since a batch may just be large.
 */
#define CONNECT_MAX_MS 5000
#define ANSWER_MAX_MS  10000
#define ANSWER_MOST_MS 160000

struct rows {
	const PGresult *res;
};

/* A statement that waits or is on the wire. */
struct op {
	struct list node;
	const char *sql; /* a literal or owned, see own_sql */
	char *own_sql;
	size_t nparams;
	char **params;
	store_rows_cb cb;
	void *arg;
	PGresult *answer; /* of a write with cb, until its batch is committed */
};

struct after {
	struct list node;
	store_done_cb cb;
	void *arg;
};

/* One entry of a connection's pipeline, in wire order. */
enum sent_kind { SENT_PREPARE, SENT_OP, SENT_SYNC };
struct sent {
	struct list node;
	enum sent_kind kind;
	struct op *op;     /* SENT_OP */
	struct stmt *stmt; /* SENT_PREPARE */
};

struct stmt {
	char *sql;
	char name[16];
	UT_hash_handle hh;
};

enum conn_state { CONN_DOWN, CONN_STARTING, CONN_UP };

struct conn {
	struct store *store;
	const char *role; /* for the log */
	bool writer;
	enum conn_state state;
	PGconn *pg;
	int polled;      /* the events that `poll` waits for */
	uv_poll_t *poll; /* freed in its close callback, since the descriptor changes with every reconnect */
	uv_timer_t retry;
	unsigned delay_ms;
	uv_timer_t watch;      /* active while anything is, or was just now, in flight */
	mono_us heard;         /* the last sign of life while something is in flight */
	unsigned answer_ms;    /* for how long none is waited for */
	int old_pid;           /* writer: of the backend that we lost, which may not know it yet */
	struct list sent;      /* of struct sent */
	struct stmt *prepared; /* statements this connection knows */
	unsigned nprepared;
	bool batch_failed; /* writer: a statement of the batch in flight failed */
	bool setup;        /* the first statements after a reconnect are on the wire */
	bool refused;      /* writer: the last batch was refused for the time being */
	char *refusal;     /* what the server said */
};

struct store {
	uv_loop_t *loop;
	char *dsn;
	char owner[64]; /* our mark in the database: whoever wrote last; empty: we may not set it */
	struct conn reader, writer;
	struct list waiting; /* writes not yet sent */
	struct list batch;   /* writes in flight */
	struct list after_waiting, after_batch;
	uv_prepare_t flush; /* runs last in a turn, before the loop sleeps */
	uv_idle_t kick;     /* active while something must be flushed, so that the loop does not sleep first */
	store_done_cb decide, chores;
	void *on_turn_arg;
	bool kicked;
	bool closing;
	int handles; /* open libuv handles */
};

static void conn_start(struct conn *c);
static void conn_down(struct conn *c, const char *why);
static void conn_flush(struct conn *c);
static void store_wake(struct store *s);
static void on_conn_watch(uv_timer_t *t);

/* ---- rows ---- */

size_t
rows_count(const struct rows *r)
{
	return (size_t)PQntuples(r->res);
}

const char *
rows_get(const struct rows *r, size_t row, size_t col)
{
	if (PQgetisnull(r->res, (int)row, (int)col))
		return NULL;
	return PQgetvalue(r->res, (int)row, (int)col);
}

json_t *
rows_json(const struct rows *r, size_t row, size_t col)
{
	const char *text = rows_get(r, row, col);

	return text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
}

size_t
rows_affected(const struct rows *r)
{
	return (size_t)strtoul(PQcmdTuples((PGresult *)(uintptr_t)r->res), NULL, 10);
}

/* ---- operations ---- */

static struct op *
op_new(const char *sql, size_t nparams, const char *const *params, store_rows_cb cb, void *arg)
{
	struct op *op = xcalloc(1, sizeof(*op));

	list_init(&op->node);
	op->own_sql = xstrdup(sql);
	op->sql = op->own_sql;
	op->nparams = nparams;
	op->params = nparams ? xcalloc(nparams, sizeof(*op->params)) : NULL;
	for (size_t i = 0; i < nparams; i++)
		op->params[i] = xstrdup_null(params[i]);
	op->cb = cb;
	op->arg = arg;
	return op;
}

static void
op_free(struct op *op)
{
	for (size_t i = 0; i < op->nparams; i++)
		free(op->params[i]);
	free(op->params);
	free(op->own_sql);
	PQclear(op->answer);
	free(op);
}

static void
op_fail(struct op *op, int code, const char *why)
{
	struct err e = ERR_INIT;

	if (op->cb) {
		err_set(&e, code, "%s", why);
		op->cb(op->arg, NULL, &e);
		err_release(&e);
	}
	op_free(op);
}

static void
after_run(struct list *l)
{
	struct list mine;

	/* Callbacks may register further ones; those belong to the next commit. */
	if (list_empty(l))
		return;
	mine = *l;
	mine.next->prev = mine.prev->next = &mine;
	list_init(l);
	LIST_FOR_EACH (it, &mine) {
		struct after *a = LIST_ENTRY(it, struct after, node);

		list_remove(it);
		a->cb(a->arg);
		free(a);
	}
}

/* ---- sending ---- */

static struct sent *
sent_add(struct conn *c, enum sent_kind kind, struct op *op)
{
	struct sent *s = xcalloc(1, sizeof(*s));

	if (list_empty(&c->sent)) {
		c->heard = clock_mono();
		if (!uv_is_active((uv_handle_t *)&c->watch))
			uv_timer_start(&c->watch, on_conn_watch, c->answer_ms, 0);
	}
	s->kind = kind;
	s->op = op;
	list_append(&c->sent, &s->node);
	return s;
}

/* Puts one statement on the wire, prepared the first time this connection sees its text. */
static int
conn_send_op(struct conn *c, struct op *op)
{
	struct stmt *st;

	HASH_FIND_STR(c->prepared, op->sql, st);
	if (st == NULL && c->nprepared < 1000) {
		st = xcalloc(1, sizeof(*st));
		st->sql = xstrdup(op->sql);
		snprintf(st->name, sizeof(st->name), "s%u", c->nprepared++);
		HASH_ADD_KEYPTR(hh, c->prepared, st->sql, strlen(st->sql), st);
		if (!PQsendPrepare(c->pg, st->name, st->sql, (int)op->nparams, NULL))
			return -1;
		sent_add(c, SENT_PREPARE, NULL)->stmt = st;
	}
	if (st ? !PQsendQueryPrepared(c->pg, st->name, (int)op->nparams, (const char *const *)op->params, NULL, NULL, 0)
	       : !PQsendQueryParams(c->pg, op->sql, (int)op->nparams, NULL, (const char *const *)op->params, NULL, NULL, 0))
		return -1;
	sent_add(c, SENT_OP, op);
	return 0;
}

static void
conn_forget_prepared(struct conn *c)
{
	struct stmt *st, *tmp;

	HASH_ITER(hh, c->prepared, st, tmp)
	{
		HASH_DEL(c->prepared, st);
		free(st->sql);
		free(st);
	}
	c->nprepared = 0;
}

/* ---- receiving ---- */

/* Temporary by nature (no room, shutting down, serialization): the same batch may succeed later. */
static bool
sqlstate_temporary(const char *state)
{
	return state == NULL || strncmp(state, "53", 2) == 0 || strncmp(state, "57", 2) == 0 || strncmp(state, "40", 2) == 0 ||
	       strncmp(state, "08", 2) == 0 || strncmp(state, "58", 2) == 0 || strncmp(state, "55", 2) == 0 ||
	       strcmp(state, "25006") == 0;
}

/* The writer's trouble, or the setup's: kept until the connection is given up, which is at the sync point. */
static void
conn_refused(struct conn *c, const PGresult *res)
{
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	if (c->refusal == NULL)
		c->refusal = xstrdup(text ? text : PQresultErrorMessage(res));
}

/* Both connections are good again, as far as we know. */
static void
store_is_back(struct store *s)
{
	if (!store_connected(s))
		return;
	trouble_end(TROUBLE_DATABASE, "store: the database is back");
	store_kick(s); /* what waited for it may go on */
}

static void
writer_batch_done(struct conn *c)
{
	struct store *s = c->store;
	struct list done;

	if (c->batch_failed) {
		/* Nothing of it happened. Put it back and start afresh after a pause. */
		c->refused = true;
		conn_down(c, c->refusal ? c->refusal : "the commit failed");
		return;
	}
	c->delay_ms = RECONNECT_FIRST_MS;
	c->answer_ms = ANSWER_MAX_MS;
	if (c->refused) {
		c->refused = false;
		store_is_back(s);
	}
	FAULT("store.commit.after");
	list_init(&done);
	LIST_FOR_EACH (it, &s->batch) {
		list_remove(it);
		list_append(&done, it);
	}
	after_run(&s->after_batch);
	LIST_FOR_EACH (it, &done) {
		struct op *op = LIST_ENTRY(it, struct op, node);

		list_remove(it);
		if (op->cb)
			op->cb(op->arg, &(struct rows){ op->answer }, NULL);
		op_free(op);
	}
	store_wake(s); /* not at once: what waits for a commit in this turn must not overtake the turn's own writes */
}

/* Nothing of what we remember may be written any more. The next start reads what is there; what runs is adopted. */
static void
store_forfeit(void)
{
	log_error("store: another daemon has used this database meanwhile; this one ends, and knows no more when it is started "
		  "again");
	exit(1);
}

static void
conn_result(struct conn *c, struct sent *sent, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);
	const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	bool ok = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
	struct rows rows = { res };
	struct err e = ERR_INIT;

	if (c->setup) {
		if (!ok && status != PGRES_PIPELINE_ABORTED && sqlstate && strcmp(sqlstate, "22012") == 0)
			c->refusal = xstrdup("another daemon holds its lock, or a session of ours that has not ended yet");
		else if (!ok && sqlstate && strcmp(sqlstate, "22P02") == 0)
			store_forfeit();
		else if (!ok && status != PGRES_PIPELINE_ABORTED)
			conn_refused(c, res);
		return;
	}
	if (sent->kind == SENT_PREPARE) {
		/* A statement that does not parse makes the op behind it fail as well: that one reports. */
		if (!ok && status != PGRES_PIPELINE_ABORTED) {
			if (c->writer && !sqlstate_temporary(sqlstate))
				BUG("the database refused a statement of ours: %s", PQresultErrorMessage(res));
			if (c->writer)
				conn_refused(c, res);
			else
				log_error("store: %s", PQresultErrorMessage(res));
			c->batch_failed = c->writer;
		}
		if (!ok && sent->stmt) {
			HASH_DEL(c->prepared, sent->stmt);
			free(sent->stmt->sql);
			free(sent->stmt);
		}
		return;
	}
	if (c->writer) {
		if (ok && sent->op->cb)
			sent->op->answer = PQcopyResult(res, PG_COPYRES_TUPLES);
		if (!ok) {
			if (status != PGRES_PIPELINE_ABORTED && !sqlstate_temporary(sqlstate))
				BUG("the database refused a write of ours: %s (%s)", PQresultErrorMessage(res), sent->op->sql);
			if (status != PGRES_PIPELINE_ABORTED)
				conn_refused(c, res);
			c->batch_failed = true;
		}
		return;
	}
	if (sent->op == NULL)
		return;
	if (!ok)
		err_set(&e,
			sqlstate == NULL                                                    ? ERR_UNAVAILABLE
			: strcmp(sqlstate, "23505") == 0 || strncmp(sqlstate, "40", 2) == 0 ? ERR_CONFLICT
			: strncmp(sqlstate, "57", 2) == 0 || strcmp(sqlstate, "55P03") == 0 ? ERR_UNAVAILABLE
											    : ERR_DB,
			"%s",
			status == PGRES_PIPELINE_ABORTED ? "the statement could not be prepared" : PQresultErrorMessage(res));
	if (sent->op->cb)
		sent->op->cb(sent->op->arg, ok ? &rows : NULL, ok ? NULL : &e);
	else if (!ok)
		log_error("store: %s", e.msg);
	err_release(&e);
	op_free(sent->op);
	sent->op = NULL;
}

/* The first statements of a new connection are answered. */
static void
conn_ready(struct conn *c)
{
	if (c->refusal) {
		conn_down(c, c->refusal);
		return;
	}
	c->setup = false;
	c->old_pid = 0;
	if (!c->refused)
		c->delay_ms = RECONNECT_FIRST_MS;
	store_is_back(c->store);
	store_wake(c->store);
}

static void
conn_read(struct conn *c)
{
	PGresult *res;

	if (!PQconsumeInput(c->pg)) {
		conn_down(c, PQerrorMessage(c->pg));
		return;
	}
	while (c->state == CONN_UP && !PQisBusy(c->pg) && !list_empty(&c->sent)) {
		struct sent *sent = LIST_ENTRY(c->sent.next, struct sent, node);

		res = PQgetResult(c->pg);
		if (res == NULL) /* the separator between two statements' results */
			continue;
		c->heard = clock_mono();
		if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) {
			/* An error may have swallowed nothing: every entry before the sync had its own result. */
			list_remove(&sent->node);
			free(sent);
			PQclear(res);
			if (c->setup)
				conn_ready(c);
			else if (c->writer)
				writer_batch_done(c);
			continue;
		}
		if (sent->kind == SENT_SYNC) {
			/* The implicit commit itself failed. */
			if (c->writer && PQresultStatus(res) == PGRES_FATAL_ERROR) {
				conn_refused(c, res);
				c->batch_failed = true;
			}
			PQclear(res);
			continue;
		}
		list_remove(&sent->node);
		conn_result(c, sent, res);
		free(sent);
		PQclear(res);
	}
}

static void
on_conn_closed(uv_handle_t *h)
{
	free(h);
}

static void
on_conn_io(uv_poll_t *h, int status, int events)
{
	struct conn *c = h->data;

	if (c == NULL)
		return;
	if (status < 0) {
		conn_down(c, uv_strerror(status));
		return;
	}
	if (c->state == CONN_STARTING) {
		conn_start(c);
		return;
	}
	if (events & UV_READABLE)
		conn_read(c);
	if (c->state == CONN_UP)
		conn_flush(c);
}

static void
conn_poll_stop(struct conn *c)
{
	if (c->poll == NULL)
		return;
	c->poll->data = NULL;
	uv_poll_stop(c->poll);
	uv_close((uv_handle_t *)c->poll, on_conn_closed);
	c->poll = NULL;
	c->polled = 0;
}

static void
conn_poll(struct conn *c, int events)
{
	if (c->poll == NULL) {
		c->poll = xcalloc(1, sizeof(*c->poll));
		uv_poll_init(c->store->loop, c->poll, PQsocket(c->pg));
		c->poll->data = c;
	}
	if (c->polled != events)
		uv_poll_start(c->poll, events, on_conn_io);
	c->polled = events;
}

static void
conn_flush(struct conn *c)
{
	int left = PQflush(c->pg);

	if (left < 0) {
		conn_down(c, PQerrorMessage(c->pg));
		return;
	}
	conn_poll(c, UV_READABLE | (left ? UV_WRITABLE : 0));
}

/* libpq prints the server's warnings by itself otherwise. */
static void
on_notice(void *arg, const PGresult *res)
{
	(void)arg;
	log_debug("store: %s", PQresultErrorMessage(res));
}

/* ---- connecting ---- */

static void
on_conn_retry(uv_timer_t *t)
{
	struct conn *c = t->data;

	c->pg = PQconnectStart(c->store->dsn);
	c->state = CONN_STARTING;
	c->heard = clock_mono();
	uv_timer_start(&c->watch, on_conn_watch, CONNECT_MAX_MS, 0);
	if (c->pg == NULL || PQstatus(c->pg) == CONNECTION_BAD) {
		conn_down(c, c->pg ? PQerrorMessage(c->pg) : "out of memory");
		return;
	}
	conn_poll(c, UV_WRITABLE);
}

/*
 * The writer writes only while it holds the lock. A backend that we gave up may still have a batch in its socket: as long as
 * it lives it holds the lock, so that no batch of it can be committed after one of ours; it is told to end, if it is that one
 * (the lock tells). When the lock cannot be had, by it or by another daemon, the division by zero fails the setup. And when
 * another daemon has had it meanwhile, what we remember is not what is there any more: the cast that fails tells that.
 */
static void
conn_send_lock(struct conn *c)
{
	char pid[16];

	if (c->old_pid) {
		snprintf(pid, sizeof(pid), "%d", c->old_pid);
		PQsendQueryParams(
			c->pg,
			"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND "
			"(classid::bigint << 32) + objid::bigint = " STORE_LOCK " AND pid = $1::int AND database = "
			"(SELECT oid FROM pg_database WHERE datname = current_database())",
			1, NULL, (const char *[]){ pid }, NULL, NULL, 0);
		sent_add(c, SENT_PREPARE, NULL);
	}
	PQsendQueryParams(c->pg, "SELECT 1 / pg_try_advisory_lock(" STORE_LOCK ")::int", 0, NULL, NULL, NULL, NULL, 0);
	sent_add(c, SENT_PREPARE, NULL);
	if (c->store->owner[0]) {
		PQsendQueryParams(c->pg, "SELECT (" OWNER " || '?')::int WHERE " OWNER " <> $1", 1, NULL,
				  (const char *[]){ c->store->owner }, NULL, NULL, 0);
		sent_add(c, SENT_PREPARE, NULL);
	}
}

/* The dialogue that opens a connection again; re-entered until it is up. */
static void
conn_start(struct conn *c)
{
	switch (PQconnectPoll(c->pg)) {
	case PGRES_POLLING_READING:
		conn_poll_stop(c); /* libpq may have moved on to another socket */
		conn_poll(c, UV_READABLE);
		return;
	case PGRES_POLLING_WRITING:
		conn_poll_stop(c);
		conn_poll(c, UV_WRITABLE);
		return;
	case PGRES_POLLING_OK:
		break;
	case PGRES_POLLING_FAILED:
	case PGRES_POLLING_ACTIVE:
		conn_down(c, PQerrorMessage(c->pg));
		return;
	}
	PQsetNoticeReceiver(c->pg, on_notice, NULL);
	PQsetnonblocking(c->pg, 1);
	PQenterPipelineMode(c->pg);
	c->state = CONN_UP;
	c->setup = true;
	if (!PQsendQueryParams(c->pg,
			       c->writer ? "SELECT " SETTINGS_BOTH SETTINGS_WRITER : "SELECT " SETTINGS_BOTH SETTINGS_READER, 0,
			       NULL, NULL, NULL, NULL, 0)) {
		conn_down(c, PQerrorMessage(c->pg));
		return;
	}
	sent_add(c, SENT_PREPARE, NULL);
	if (c->writer)
		conn_send_lock(c);
	PQpipelineSync(c->pg);
	sent_add(c, SENT_SYNC, NULL);
	conn_flush(c);
}

static void
conn_down(struct conn *c, const char *why)
{
	struct store *s = c->store;
	char *reason = xstrdup(why);

	reason[strcspn(reason, "\n")] = '\0';
	if (!s->closing)
		trouble_begin(TROUBLE_DATABASE,
			      c->refused ? "store: the database refuses to write: %s; what runs goes on, nothing new starts"
					 : "store: the database cannot be reached: %s; what runs goes on, nothing new starts",
			      reason);
	if (!s->closing)
		store_kick(s); /* it is told to those who watch */
	log_debug("store: %s gives its connection up: %s", c->role, reason);
	conn_poll_stop(c);
	uv_timer_stop(&c->watch);
	if (c->writer && c->state == CONN_UP && !c->setup)
		c->old_pid = PQbackendPID(c->pg);
	if (c->pg)
		PQfinish(c->pg);
	c->pg = NULL;
	c->state = CONN_DOWN;
	c->setup = c->batch_failed = false;
	free(c->refusal);
	c->refusal = NULL;
	conn_forget_prepared(c);
	LIST_FOR_EACH (it, &c->sent) {
		struct sent *sent = LIST_ENTRY(it, struct sent, node);

		list_remove(it);
		if (sent->op && !c->writer && s->closing)
			op_free(sent->op); /* those who asked are gone already */
		else if (sent->op && !c->writer)
			op_fail(sent->op, ERR_UNAVAILABLE, "the connection to the database was lost");
		free(sent);
	}
	if (c->writer) {
		/* Back to the front of the queue, in order; each statement is idempotent. */
		for (struct list *it = s->batch.prev; it != &s->batch; it = s->batch.prev) {
			list_remove(it);
			PQclear(LIST_ENTRY(it, struct op, node)->answer);
			LIST_ENTRY(it, struct op, node)->answer = NULL;
			it->next = s->waiting.next;
			it->prev = &s->waiting;
			it->next->prev = it;
			s->waiting.next = it;
		}
		for (struct list *it = s->after_batch.prev; it != &s->after_batch; it = s->after_batch.prev) {
			list_remove(it);
			it->next = s->after_waiting.next;
			it->prev = &s->after_waiting;
			it->next->prev = it;
			s->after_waiting.next = it;
		}
	}
	if (!s->closing) {
		uv_timer_start(&c->retry, on_conn_retry, c->delay_ms, 0);
		c->delay_ms = c->delay_ms * 2 > RECONNECT_MAX_MS ? RECONNECT_MAX_MS : c->delay_ms * 2;
	}
	free(reason);
}

/* Is what is in flight still being answered? */
static void
on_conn_watch(uv_timer_t *t)
{
	struct conn *c = t->data;
	unsigned limit = c->state == CONN_STARTING ? CONNECT_MAX_MS : c->answer_ms;
	dur_us left = c->heard + (dur_us)limit * US_PER_MS - clock_mono();
	char why[64];

	if (c->state == CONN_DOWN || (c->state == CONN_UP && list_empty(&c->sent)))
		return;
	if (left > 0) {
		uv_timer_start(t, on_conn_watch, (uint64_t)(left / US_PER_MS) + 1, 0);
		return;
	}
	if (c->writer && c->state == CONN_UP && !c->setup && c->answer_ms < ANSWER_MOST_MS)
		c->answer_ms *= 2;
	snprintf(why, sizeof(why), "it has not answered for %u s", limit / 1000);
	conn_down(c, why);
}

/* ---- the turn ---- */

/* Sends what was written since the last batch, if none is in flight. */
static void
store_flush(struct store *s)
{
	struct conn *c = &s->writer;

	if (!list_empty(&s->batch) || !list_empty(&s->after_batch) || c->state != CONN_UP || c->setup || !list_empty(&c->sent))
		return;
	if (list_empty(&s->waiting)) {
		after_run(&s->after_waiting); /* nothing to wait for */
		return;
	}
	LIST_FOR_EACH (it, &s->after_waiting) {
		list_remove(it);
		list_append(&s->after_batch, it);
	}
	LIST_FOR_EACH (it, &s->waiting) {
		list_remove(it);
		list_append(&s->batch, it);
	}
	LIST_FOR_EACH (it, &s->batch) {
		if (conn_send_op(c, LIST_ENTRY(it, struct op, node)) < 0) {
			conn_down(c, PQerrorMessage(c->pg));
			return;
		}
	}
	FAULT("store.commit.before");
	if (!PQpipelineSync(c->pg)) {
		conn_down(c, PQerrorMessage(c->pg));
		return;
	}
	sent_add(c, SENT_SYNC, NULL);
	conn_flush(c);
	FAULT("store.commit.sent");
}

static void
on_idle_kick(uv_idle_t *h)
{
	(void)h; /* its being active keeps the loop from sleeping before on_turn_end */
}

static void
on_turn_end(uv_prepare_t *h)
{
	struct store *s = h->data;

	uv_idle_stop(&s->kick);
	if (s->kicked && s->decide) {
		s->kicked = false;
		s->decide(s->on_turn_arg);
	}
	store_flush(s);
	if (s->reader.state == CONN_UP && !list_empty(&s->reader.sent))
		conn_flush(&s->reader);
	if (s->chores)
		s->chores(s->on_turn_arg);
}

void
store_on_turn(struct store *s, store_done_cb decide, store_done_cb chores, void *arg)
{
	s->decide = decide;
	s->chores = chores;
	s->on_turn_arg = arg;
}

/* Wakes the loop for the flush at the end of this turn. */
static void
store_wake(struct store *s)
{
	if (!s->closing)
		uv_idle_start(&s->kick, on_idle_kick);
}

void
store_kick(struct store *s)
{
	s->kicked = true;
	store_wake(s);
}

void
store_query(struct store *s, const char *sql, size_t nparams, const char *const *params, store_rows_cb cb, void *arg)
{
	struct conn *c = &s->reader;
	struct op *op = op_new(sql, nparams, params, cb, arg);

	if (c->state != CONN_UP || c->setup) {
		op_fail(op, ERR_UNAVAILABLE,
			"the database cannot be reached now; what runs goes on, and the daemon reconnects by itself");
		return;
	}
	if (conn_send_op(c, op) < 0 || !PQpipelineSync(c->pg)) {
		struct sent *last = list_empty(&c->sent) ? NULL : LIST_ENTRY(c->sent.prev, struct sent, node);

		if (last == NULL || last->op != op)
			op_fail(op, ERR_UNAVAILABLE, "the connection to the database was lost");
		conn_down(c, PQerrorMessage(c->pg));
		return;
	}
	sent_add(c, SENT_SYNC, NULL);
	store_wake(s); /* flushed once at the end of the turn */
}

void
store_write(struct store *s, const char *sql, size_t nparams, const char *const *params)
{
	store_write_rows(s, sql, nparams, params, NULL, NULL);
}

void
store_write_rows(struct store *s, const char *sql, size_t nparams, const char *const *params, store_rows_cb cb, void *arg)
{
	struct op *op = op_new(sql, nparams, params, cb, arg);

	list_append(&s->waiting, &op->node);
	store_wake(s);
}

void
store_after_commit(struct store *s, store_done_cb cb, void *arg)
{
	struct after *a = xcalloc(1, sizeof(*a));

	a->cb = cb;
	a->arg = arg;
	list_append(&s->after_waiting, &a->node);
	store_wake(s);
}

bool
store_idle(const struct store *s)
{
	return list_empty(&s->waiting) && list_empty(&s->batch) && list_empty(&s->after_waiting) && list_empty(&s->after_batch);
}

bool
store_connected(const struct store *s)
{
	const struct conn *w = &s->writer, *r = &s->reader;

	return w->state == CONN_UP && !w->setup && !w->refused && r->state == CONN_UP && !r->setup;
}

/* ---- life ---- */

/* Leaves our mark, while we hold the lock. */
static void
store_sign(struct store *s, PGconn *pg)
{
	struct err e = ERR_INIT;
	char *sql;

	snprintf(s->owner, sizeof(s->owner), "sluice %d %lld", (int)getpid(), (long long)clock_wall());
	sql = xasprintf("COMMENT ON SCHEMA sluice IS '%s'", s->owner);
	if (start_exec(pg, sql, &e) < 0) {
		log_debug("store: the schema cannot be marked: %s", e.msg);
		err_release(&e);
		s->owner[0] = '\0';
	}
	free(sql);
}

static void
conn_adopt(struct conn *c, PGconn *pg)
{
	c->pg = pg;
	PQsetNoticeReceiver(pg, on_notice, NULL);
	PQsetnonblocking(pg, 1);
	PQenterPipelineMode(pg);
	c->state = CONN_UP;
	conn_poll(c, UV_READABLE);
}

static void
conn_init(struct conn *c, struct store *s, const char *role, bool writer)
{
	c->store = s;
	c->role = role;
	c->writer = writer;
	c->delay_ms = RECONNECT_FIRST_MS;
	c->answer_ms = ANSWER_MAX_MS;
	list_init(&c->sent);
	uv_timer_init(s->loop, &c->retry);
	uv_timer_init(s->loop, &c->watch);
	c->retry.data = c->watch.data = c;
}

struct store *
store_open(uv_loop_t *loop, const char *dsn, struct err *e)
{
	PGconn *writer = NULL, *reader = NULL;
	struct store *s;
	PGresult *res;
	bool locked;

	if ((writer = start_connect(dsn, e)) == NULL || (reader = start_connect(dsn, e)) == NULL)
		goto fail;
	res = PQexec(writer, "SELECT pg_try_advisory_lock(" STORE_LOCK ")");
	locked = PQresultStatus(res) == PGRES_TUPLES_OK && PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	if (!locked) {
		err_set(e, ERR_CONFLICT,
			"another daemon uses this database; stop it first, or give this one a database of its own");
		goto fail;
	}
	if (start_migrate(writer, e) < 0 || start_exec(writer, "SELECT " SETTINGS_BOTH SETTINGS_WRITER, e) < 0 ||
	    start_exec(reader, "SELECT " SETTINGS_BOTH SETTINGS_READER, e) < 0)
		goto fail;
	s = xcalloc(1, sizeof(*s));
	s->loop = loop;
	s->dsn = xstrdup(dsn);
	store_sign(s, writer);
	list_init(&s->waiting);
	list_init(&s->batch);
	list_init(&s->after_waiting);
	list_init(&s->after_batch);
	uv_prepare_init(loop, &s->flush);
	s->flush.data = s;
	uv_prepare_start(&s->flush, on_turn_end);
	uv_idle_init(loop, &s->kick);
	conn_init(&s->writer, s, "writer", true);
	conn_init(&s->reader, s, "reader", false);
	conn_adopt(&s->writer, writer);
	conn_adopt(&s->reader, reader);
	return s;
fail:
	if (writer)
		PQfinish(writer);
	if (reader)
		PQfinish(reader);
	return NULL;
}

static void
on_store_handle_closed(uv_handle_t *h)
{
	struct store *s = h->data;

	if (--s->handles == 0) {
		free(s->dsn);
		free(s);
	}
}

void
store_close(struct store *s)
{
	uv_handle_t *handles[] = { (uv_handle_t *)&s->flush,        (uv_handle_t *)&s->kick,
				   (uv_handle_t *)&s->writer.retry, (uv_handle_t *)&s->reader.retry,
				   (uv_handle_t *)&s->writer.watch, (uv_handle_t *)&s->reader.watch };

	s->closing = true;
	conn_down(&s->writer, "closing");
	conn_down(&s->reader, "closing");
	LIST_FOR_EACH (it, &s->waiting) {
		list_remove(it);
		op_free(LIST_ENTRY(it, struct op, node));
	}
	LIST_FOR_EACH (it, &s->after_waiting) {
		list_remove(it);
		free(LIST_ENTRY(it, struct after, node));
	}
	for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++) {
		handles[i]->data = s;
		s->handles++;
		uv_close(handles[i], on_store_handle_closed);
	}
}
