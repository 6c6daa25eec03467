/*
 * An attempt's log: whole, a range of it, or followed while it grows. What the attempt prints goes straight into the file, so
 * secrets are hidden here, on the way out. A flow without secrets (most) has its file sent by the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "base/mask.h"
#include "base/alloc.h"
#include "base/log.h"
#include "scheduler/archive.h"
#include "scheduler/hide.h"
#include "scheduler/alarm.h"
#include "scheduler/run_states.h"

#define LOG_TYPE         "text/plain; charset=utf-8"
#define PIECE            32768
#define MASKED_RANGE_MAX ((off_t)16 * 1024 * 1024) /* a bigger masked file is sent whole, whatever range was asked for */
#define LOOK_AGAIN       (100 * US_PER_MS)         /* for a log that its attempt has not opened yet */

/* What is asked for, and what the database says about it. */
struct logs {
	struct request *rq;
	struct app *app;
	char *run, *task;
	int n; /* of the attempt; 0: none yet */
	bool follow;
	bool live;   /* the attempt (or, without one, the task) may still change */
	char *state; /* of the attempt or task, when it is over */
	struct mask *mask;
	/* while followed */
	struct stream *stream;
	struct sched_sub *sub;
	struct alarm *look;
	uv_fs_event_t *watch;
	int fd;
	off_t offset, resume; /* bytes read; where a client that comes back goes on */
	int resume_n;         /* and in which attempt */
	struct buf tail;      /* masked text whose last character is not complete */
	char number[24];      /* of the attempt that was asked for; "0": the newest */
	bool reading, again;  /* the database is being asked; and must be once more, since something happened meanwhile */
};

static void
on_watch_closed(uv_handle_t *h)
{
	free(h);
}

static void
logs_free(struct logs *l)
{
	if (l->sub)
		sched_unsubscribe(l->app->sched, l->sub);
	alarm_cancel(&l->look);
	if (l->watch)
		uv_close((uv_handle_t *)l->watch, on_watch_closed);
	if (l->fd >= 0)
		close(l->fd);
	mask_free(l->mask);
	buf_release(&l->tail);
	free(l->state);
	free(l->run);
	free(l->task);
	free(l);
}

static char *
log_path(const struct logs *l)
{
	return xasprintf("%s/runs/%s/%s/%d/log", l->app->home, l->run, l->task, l->n);
}

/* ---- whole or a range ---- */

/* "bytes=0-99", "bytes=100-", "bytes=-100". 1: a range, 0: none that we honour, -1: not in the file. */
static int
range_parse(const char *text, uint64_t size, uint64_t *from, uint64_t *len)
{
	uint64_t first, last;
	char *end;

	if (text == NULL || strncmp(text, "bytes=", 6) != 0 || strchr(text, ','))
		return 0;
	text += 6;
	if (*text == '-') {
		if (text[1] < '0' || text[1] > '9')
			return 0;
		last = strtoull(text + 1, &end, 10);
		if (*end)
			return 0;
		if (last == 0 || size == 0)
			return -1;
		*len = last < size ? last : size;
		*from = size - *len;
		return 1;
	}
	if (*text < '0' || *text > '9')
		return 0;
	first = strtoull(text, &end, 10);
	if (*end++ != '-')
		return 0;
	last = UINT64_MAX;
	if (*end) {
		if (*end < '0' || *end > '9')
			return 0;
		last = strtoull(end, &end, 10);
		if (*end || last < first)
			return 0;
	}
	if (first >= size)
		return -1;
	if (last >= size)
		last = size - 1;
	*from = first;
	*len = last - first + 1;
	return 1;
}

/* Judges the Range header and sets the headers of the answer; returns its status. */
static int
range_status(struct request *rq, uint64_t size, uint64_t *from, uint64_t *len)
{
	const char *range = request_header(rq, "If-Range") ? NULL : request_header(rq, "Range");
	int rc = range_parse(range, size, from, len);
	char text[80];

	reply_header(rq, "Accept-Ranges", "bytes");
	if (rc == 0) {
		*from = 0;
		*len = size;
		return 200;
	}
	if (rc < 0) {
		snprintf(text, sizeof(text), "bytes */%llu", (unsigned long long)size);
		reply_header(rq, "Content-Range", text);
		return 416;
	}
	snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)*from, (unsigned long long)(*from + *len - 1),
		 (unsigned long long)size);
	reply_header(rq, "Content-Range", text);
	return 206;
}

static void
reply_not_satisfiable(struct request *rq)
{
	reply_text(rq, 416, LOG_TYPE, "", 0);
}

static void
reply_log_file(struct request *rq, int fd, uint64_t size)
{
	uint64_t from, len;
	int status = range_status(rq, size, &from, &len);

	if (status == 416) {
		close(fd);
		reply_not_satisfiable(rq);
	} else {
		reply_fd(rq, status, LOG_TYPE, fd, from, len);
	}
}

static void
reply_log_masked(struct request *rq, struct logs *l, size_t size)
{
	struct buf raw = BUF_INIT, out = BUF_INIT;
	uint64_t from, len;
	ssize_t n;
	int status;

	buf_reserve(&raw, size);
	n = pread(l->fd, raw.s, size, 0);
	mask_feed(l->mask, raw.s, n > 0 ? (size_t)n : 0, true, &out);
	buf_release(&raw);
	status = range_status(rq, out.len, &from, &len);
	if (status == 416)
		reply_not_satisfiable(rq);
	else
		reply_text(rq, status, LOG_TYPE, out.s + from, len);
	buf_release(&out);
}

/* The next piece of a big masked file. */
static void
on_masked_drain(void *arg)
{
	struct logs *l = arg;
	char piece[PIECE];
	ssize_t n = read(l->fd, piece, sizeof(piece));
	struct buf out = BUF_INIT;

	mask_feed(l->mask, piece, n > 0 ? (size_t)n : 0, n <= 0, &out);
	stream_send(l->stream, out.s, out.len);
	buf_release(&out);
	if (n <= 0)
		stream_end(l->stream);
}

static void
on_masked_close(void *arg)
{
	logs_free(arg);
}

static void
logs_reply_whole(struct logs *l)
{
	struct request *rq = l->rq;
	char *path = log_path(l), n[16];
	struct stat st;

	snprintf(n, sizeof(n), "%d", l->n);
	reply_header(rq, "Sluice-Attempt", n);
	reply_header(rq, "Cache-Control", "no-cache");
	l->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (l->fd < 0 || fstat(l->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		if (errno == ENOENT && l->live)
			reply_text(rq, 200, LOG_TYPE, "", 0); /* its attempt is about to open it */
		else
			reply_problem(rq, ERR_NOT_FOUND, "the log of attempt %d of task %s in run %s is not there: %s", l->n,
				      l->task, l->run, strerror(errno));
	} else if (mask_empty(l->mask)) {
		reply_log_file(rq, l->fd, (uint64_t)st.st_size);
		l->fd = -1;
	} else if (st.st_size <= MASKED_RANGE_MAX) {
		reply_log_masked(rq, l, (size_t)st.st_size);
	} else {
		free(path);
		l->stream = reply_chunked(rq, 200, LOG_TYPE, on_masked_close, l);
		if (l->stream)
			stream_on_drain(l->stream, on_masked_drain);
		else
			logs_free(l);
		return;
	}
	free(path);
	logs_free(l);
}

/* ---- followed ---- */

static void on_follow_drain(void *arg);

/* Has the stream ask for more, if it is waiting. */
static void
follow_poke(void *arg)
{
	struct logs *l = arg;

	stream_on_drain(l->stream, on_follow_drain);
}

static void
on_log_changed(uv_fs_event_t *h, const char *name, int events, int status)
{
	(void)name;
	(void)events;
	(void)status;
	follow_poke(h->data);
}

/* Opens and watches the log once it is there. */
static bool
follow_open(struct logs *l)
{
	char *path;

	if (l->fd >= 0)
		return true;
	if (l->n == 0)
		return false;
	path = log_path(l);
	l->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (l->fd >= 0) {
		if (l->resume_n == l->n && lseek(l->fd, l->resume, SEEK_SET) >= 0)
			l->offset = l->resume;
		if (l->live) {
			l->watch = xcalloc(1, sizeof(*l->watch));
			uv_fs_event_init(l->app->loop, l->watch);
			l->watch->data = l;
			if (uv_fs_event_start(l->watch, on_log_changed, path, 0) < 0)
				log_warn("%s cannot be watched; its end will be shown when the attempt has ended", path);
		}
	} else if (l->live) {
		alarm_set(&l->look, l->app->loop, LOOK_AGAIN, follow_poke, l);
	}
	free(path);
	return l->fd >= 0;
}

static void
follow_send(struct logs *l, const char *data, size_t len, bool final)
{
	struct buf text = BUF_INIT;
	json_t *ev;
	char id[48];
	size_t used;

	if (mask_empty(l->mask))
		buf_add(&l->tail, data, len);
	else
		mask_feed(l->mask, data, len, final, &l->tail);
	l->offset += (off_t)len;
	used = utf8_clean(l->tail.s, l->tail.len, final, &text);
	buf_drop_front(&l->tail, used);
	if (text.len) {
		snprintf(id, sizeof(id), "%d:%lld", l->n,
			 (long long)(l->offset - (off_t)l->tail.len - (off_t)(mask_empty(l->mask) ? 0 : mask_pending(l->mask))));
		ev = json_pack("{s:s%}", "text", text.s, text.len);
		stream_event(l->stream, id, "log", ev);
		json_decref(ev);
	}
	buf_release(&text);
}

static void
follow_end(struct logs *l)
{
	json_t *ev;

	if (l->n)
		follow_send(l, "", 0, true);
	ev = json_pack("{s:o,s:s?}", "attempt", l->n ? json_integer(l->n) : json_null(), "state", l->state);
	stream_event(l->stream, NULL, "end", ev);
	json_decref(ev);
	stream_end(l->stream);
}

/* The client has taken everything so far. */
static void
on_follow_drain(void *arg)
{
	struct logs *l = arg;
	char piece[PIECE];
	ssize_t n = 0;

	if (follow_open(l))
		n = read(l->fd, piece, sizeof(piece));
	if (n > 0)
		follow_send(l, piece, (size_t)n, false);
	else if (!l->live)
		follow_end(l);
}

static void
follow_over(struct logs *l, const char *state)
{
	l->live = false;
	free(l->state);
	l->state = xstrdup_null(state);
	if (l->stream)
		follow_poke(l);
}

static void
on_follow_event(void *arg, const json_t *ev)
{
	struct logs *l = arg;
	const char *run = json_string_value(json_object_get(ev, "run")), *task = json_string_value(json_object_get(ev, "task")),
		   *state = json_string_value(json_object_get(ev, "state"));
	int n = (int)json_integer_value(json_object_get(ev, "attempt")), st = state ? task_state_parse(state) : -1;

	if (run == NULL || task == NULL || strcmp(run, l->run) != 0 || strcmp(task, l->task) != 0 || st < 0 || !l->live)
		return;
	if (l->reading) {
		l->again = true;
		return;
	}
	if (st == TASK_STATE_RUNNING) {
		if (l->n == 0) {
			l->n = n;
			if (l->stream)
				follow_poke(l);
		}
	} else if (l->n == 0 ? task_state_terminal((enum task_state)st) : n >= l->n) {
		follow_over(l, st == TASK_STATE_RETRY_WAIT ? "failed" : state);
	}
}

static void
on_follow_close(void *arg)
{
	struct logs *l = arg;

	l->stream = NULL;
	logs_free(l);
}

static void
logs_reply_follow(struct logs *l)
{
	const char *last = request_header(l->rq, "Last-Event-ID");
	long long offset;

	if (last && sscanf(last, "%d:%lld", &l->resume_n, &offset) == 2 && offset >= 0)
		l->resume = (off_t)offset;
	else
		l->resume_n = 0;
	l->stream = reply_stream(l->rq, on_follow_close, l);
	if (l->stream)
		stream_on_drain(l->stream, on_follow_drain);
	else
		logs_free(l);
}

/* ---- the request ---- */

static bool
attempt_live(const char *state)
{
	return strcmp(state, "running") == 0 || strcmp(state, "stopping") == 0;
}

static void logs_read(struct logs *l);

static void
logs_reply(struct logs *l)
{
	if (l->follow)
		logs_reply_follow(l);
	else
		logs_reply_whole(l);
}

/* Is the log of an attempt that has ended not here, and is there a place that it may be fetched from? */
static bool
logs_gone(const struct logs *l)
{
	char *path = log_path(l);
	bool gone = l->n > 0 && !l->live && archive_has_place(l->app->archive) && access(path, F_OK) < 0 && errno == ENOENT;

	free(path);
	return gone;
}

static void
on_log_fetched(void *arg, struct err *e)
{
	struct logs *l = arg;

	if (e == NULL) {
		logs_reply(l);
		return;
	}
	err_prefix(e, "the log of attempt %d of task %s in run %s is not in the state folder", l->n, l->task, l->run);
	reply_err(l->rq, e);
	logs_free(l);
}

static void
on_logs_read(void *arg, const struct rows *r, struct err *e)
{
	struct logs *l = arg;
	struct request *rq = l->rq;
	struct err mine = ERR_INIT;
	const char *task_state, *n, *state;
	struct flow_ran ran;
	int st;

	l->reading = false;
	if (r == NULL) {
		reply_err(rq, e);
		logs_free(l);
		return;
	}
	if (l->again) {
		l->again = false;
		logs_read(l);
		return;
	}
	if (rows_count(r) == 0) {
		reply_problem(rq, ERR_NOT_FOUND, "there is no task %s in a run %s", l->task, l->run);
		logs_free(l);
		return;
	}
	task_state = rows_get(r, 0, 0);
	n = rows_get(r, 0, 1);
	ran = (struct flow_ran){ rows_get(r, 0, 3), rows_get(r, 0, 4), rows_get(r, 0, 5), rows_get(r, 0, 6) };
	state = rows_get(r, 0, 2);
	st = task_state_parse(task_state);
	if (n == NULL && (!l->follow || request_query(rq, "attempt"))) {
		reply_problem(rq, ERR_NOT_FOUND, "task %s of run %s has no such attempt; it is %s", l->task, l->run, task_state);
		logs_free(l);
		return;
	}
	if (hide_secrets(l->app->registry, l->app->config, &ran, &l->mask, &mine) < 0) {
		reply_err(rq, &mine);
		logs_free(l);
		return;
	}
	if (n)
		l->n = (int)strtol(n, NULL, 10);
	if (n ? !attempt_live(state) : st >= 0 && task_state_terminal((enum task_state)st))
		follow_over(l, n ? state : task_state);
	if (logs_gone(l)) {
		char *key = xasprintf("%s/%s/%d", l->run, l->task, l->n);

		archive_fetch(l->app->archive, key, "log", on_log_fetched, l);
		free(key);
		return;
	}
	logs_reply(l);
}

static void
logs_read(struct logs *l)
{
	l->reading = true;
	store_query(l->app->store,
		    "SELECT t.state, a.n, a.state, r.flow, v.hash, v.file, " SQL_HIDE_SOURCE(
			    "v.source") " FROM sluice.tasks t JOIN sluice.runs r ON r.id = t.run_id JOIN sluice.flow_versions v "
					"ON v.hash = r.version"
					" LEFT JOIN LATERAL (SELECT n, state FROM sluice.attempts a WHERE a.run_id = t.run_id "
					"AND a.task_id = t.id"
					"  AND ($3::int = 0 OR a.n = $3::int) ORDER BY n DESC LIMIT 1) a ON true"
					" WHERE t.run_id = $1 AND t.id = $2",
		    3, (const char *[]){ l->run, l->task, l->number }, on_logs_read, l);
}

/* Stopping while the database is asked: the answer frees us, but the scheduler may be gone by then. */
static void
on_logs_server_stop(struct request *rq)
{
	struct logs *l = rq->data;

	if (l->sub)
		sched_unsubscribe(l->app->sched, l->sub);
	l->sub = NULL;
}

static void
logs_get(struct request *rq)
{
	const char *accept = request_header(rq, "Accept"), *follow = request_query(rq, "follow");
	long n = request_number(rq, "attempt", 0, 1, 1000000);
	struct logs *l;

	if (n < 0)
		return;
	l = xcalloc(1, sizeof(*l));
	l->rq = rq;
	rq->data = l; /* on_logs_read frees it, or what it begins */
	l->app = rq->app;
	l->run = xstrdup(rq->param[0]);
	l->task = xstrdup(rq->param[1]);
	snprintf(l->number, sizeof(l->number), "%ld", n);
	l->fd = -1;
	l->live = true;
	buf_init(&l->tail, 0);
	l->follow = (accept && strstr(accept, "text/event-stream")) ||
		    (follow && (strcmp(follow, "true") == 0 || strcmp(follow, "1") == 0));
	if (l->follow) { /* before the question, so that no end is missed */
		l->sub = sched_subscribe(l->app->sched, on_follow_event, l);
		rq->on_stop = on_logs_server_stop;
	}
	logs_read(l);
}

const struct route logs_routes[] = {
	{ "GET", "/api/v1/runs/{run}/tasks/{task}/logs", logs_get, ROLE_VIEWER, 0, "Shows or follows the log of an attempt." },
};
const size_t logs_routes_count = sizeof(logs_routes) / sizeof(logs_routes[0]);
