/*
 * The one file that knows libmicrohttpd.
 *
 * A request's life: MHD tells about it when its headers are there (begin: route, caller, size), hands over the body, and asks
 * for the answer. The handler runs then. If it has not replied when it returns, the connection is suspended; the reply keeps
 * the response and resumes it, and MHD asks again. MHD does not look at a suspended connection, so a client that leaves is
 * noticed only after the reply: until then the exchange cannot vanish under its handler. Only when the server stops may MHD
 * let go first; such an exchange is an orphan that its late reply frees.
 */
#include "api/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/app.h"
#include "api/auth.h"
#include "api/listener.h"
#include "api/route.h"
#include "base/alloc.h"
#include "base/list.h"
#include "base/log.h"

#define EXCHANGE_MAGIC    0x45584348u
#define CONNECTIONS_MAX   1000
#define OWN_FILES         100 /* descriptors that are not for clients */
#define IDLE_TIMEOUT_S    75
#define STREAM_BEHIND_MAX ((size_t)4 * 1024 * 1024)
#define STREAM_PING_MS    15000
#define LATE_CHECK_MS     1000
#define PATIENCE          (20 * US_PER_S)
#define RETRY_AFTER       "2"                          /* seconds: by then the store has tried to connect again */
#define BODY_DRAIN_MAX    ((uint64_t)32 * 1024 * 1024) /* of a refused request: beyond, the connection is closed instead */

struct kept {
	struct kept *next;
	char *owned, *value; /* value: of a header */
};

struct stream {
	struct exchange *x;
	struct buf out;
	size_t head; /* bytes of `out` that are sent */
	bool ended, cut, ping;
	void (*on_drain)(void *arg);
	void (*on_close)(void *arg);
	void *arg;
};

struct exchange {
	struct request rq; /* first, so that one is the other */
	unsigned magic;
	struct http *http;
	struct MHD_Connection *conn; /* NULL: the connection is gone */
	const struct route *route;
	char *param[ROUTE_PARAMS];
	struct kept *kept, *headers;
	struct err refused; /* decided at the headers */
	struct buf allow;   /* of 405 */
	mono_us handled_at;
	bool handled; /* the handler was called */
	bool replied; /* it has replied */
	bool suspended;
	int status;
	struct MHD_Response *response; /* until it is queued */
	struct stream *stream;
	struct list node;
};

struct http {
	struct app *app;
	struct MHD_Daemon *daemon;
	struct listener *listener;
	unsigned connections, connections_max;
	uv_poll_t poll;
	uv_timer_t timer, ping, late;
	bool local, closing;
	bool resumed; /* since the last MHD_run */
	struct list open;
	int handles;
};

static uint64_t requests_answered;
/* Exchanges whose connection is gone before their reply: only at a stop, whose last answers may never come. */
static struct list orphans = { &orphans, &orphans };

static void on_timer(uv_timer_t *t);
static void on_late(uv_timer_t *t);

static struct exchange *
exchange_of(struct request *rq)
{
	struct exchange *x = (struct exchange *)(void *)rq;

	ASSERT(x->magic == EXCHANGE_MAGIC);
	return x;
}

/* ---- what handlers read ---- */

char *
request_keep(struct request *rq, char *owned)
{
	struct exchange *x = exchange_of(rq);
	struct kept *k = xcalloc(1, sizeof(*k));

	k->owned = owned;
	k->next = x->kept;
	x->kept = k;
	return owned;
}

const char *
request_query(struct request *rq, const char *name)
{
	struct exchange *x = exchange_of(rq);
	const char *raw = x->conn ? MHD_lookup_connection_value(x->conn, MHD_GET_ARGUMENT_KIND, name) : NULL;
	char *value = raw ? percent_decode(raw, strlen(raw), false) : NULL; /* MHD has replaced every + already */

	return value ? request_keep(rq, value) : NULL;
}

const char *
request_header(struct request *rq, const char *name)
{
	struct exchange *x = exchange_of(rq);

	return x->conn ? MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, name) : NULL;
}

bool
request_local(struct request *rq, uid_t *uid)
{
	struct exchange *x = exchange_of(rq);
	const union MHD_ConnectionInfo *info;
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (!x->http->local || x->conn == NULL)
		return false;
	info = MHD_get_connection_info(x->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (info == NULL || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return false;
	*uid = cred.uid;
	return true;
}

json_t *
request_json(struct request *rq)
{
	json_error_t je;
	json_t *v;

	if (rq->body.len == 0)
		return json_object();
	v = json_loadb(rq->body.s, rq->body.len, JSON_REJECT_DUPLICATES, &je);
	if (v == NULL) {
		reply_problem(rq, ERR_INVALID, "the body is not JSON: line %d, column %d: %s", je.line, je.column, je.text);
	} else if (!json_is_object(v)) {
		json_decref(v);
		v = NULL;
		reply_problem(rq, ERR_INVALID, "the body must be a JSON object");
	}
	return v;
}

/* ---- an exchange's life ---- */

static void
kept_free(struct kept *k)
{
	while (k) {
		struct kept *next = k->next;

		free(k->owned);
		free(k->value);
		free(k);
		k = next;
	}
}

static void
exchange_free(struct exchange *x)
{
	if (x->rq.data_free)
		x->rq.data_free(x->rq.data);
	for (int i = 0; i < ROUTE_PARAMS; i++)
		free(x->param[i]);
	kept_free(x->kept);
	kept_free(x->headers);
	buf_release(&x->rq.body);
	buf_release(&x->allow);
	err_release(&x->refused);
	free(x->rq.attempt);
	free(x->rq.who);
	if (x->response)
		MHD_destroy_response(x->response);
	x->magic = 0;
	free(x);
}

/* The connection is done with this request, well or not. */
static void
on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode how)
{
	struct exchange *x = *con_cls;
	struct stream *st;

	(void)cls;
	(void)conn;
	(void)how;
	if (x == NULL)
		return;
	*con_cls = NULL;
	x->conn = NULL;
	x->suspended = false;
	list_remove(&x->node);
	st = x->stream;
	if (st) {
		x->stream = NULL;
		if (st->on_close)
			st->on_close(st->arg);
		buf_release(&st->out);
		free(st);
	}
	if (x->handled && !x->replied) {
		list_append(&orphans, &x->node); /* exchange_reply frees it */
		return;
	}
	exchange_free(x);
}

/* MHD takes a resumed connection up in its next run, which nothing but us brings about. */
static void
exchange_resume(struct exchange *x)
{
	if (!x->suspended)
		return;
	x->suspended = false;
	MHD_resume_connection(x->conn);
	x->http->resumed = true;
	if (!x->http->closing)
		uv_timer_start(&x->http->timer, on_timer, 0, 0);
}

/* Every reply ends here. Takes the response over. */
static void
exchange_reply(struct exchange *x, int status, struct MHD_Response *r)
{
	bool cache = false;

	if (x->replied)
		BUG("%s %s: replied twice", x->rq.method, x->rq.path);
	x->replied = true;
	if (x->conn == NULL) {
		MHD_destroy_response(r);
		list_remove(&x->node);
		exchange_free(x);
		return;
	}
	for (struct kept *h = x->headers; h; h = h->next) {
		MHD_add_response_header(r, h->owned, h->value);
		cache = cache || strcasecmp(h->owned, "Cache-Control") == 0;
	}
	if (!cache)
		MHD_add_response_header(r, "Cache-Control", "no-store");
	MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
	requests_answered++;
	log_debug("%s %s %d", x->rq.method, x->rq.path, status);
	if (x->response) { /* the server is stopping and has answered for the handler */
		MHD_destroy_response(r);
		return;
	}
	x->response = r;
	x->status = status;
	exchange_resume(x);
}

/* ---- replies ---- */

static struct MHD_Response *
response_of(const char *type, char *data, size_t len, enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(len, data, mode);

	if (r == NULL)
		BUG("no response of %zu bytes", len);
	if (type)
		MHD_add_response_header(r, "Content-Type", type);
	return r;
}

void
reply_header(struct request *rq, const char *name, const char *value)
{
	struct exchange *x = exchange_of(rq);
	struct kept *h = xcalloc(1, sizeof(*h)), **end = &x->headers;

	h->owned = xstrdup(name);
	h->value = xstrdup(value);
	for (char *p = h->value; *p; p++)
		if ((unsigned char)*p < ' ' && *p != '\t') /* a line break would begin another header */
			*p = ' ';
	while (*end)
		end = &(*end)->next;
	*end = h;
}

static void
reply_dumped(struct request *rq, int status, const char *type, json_t *body)
{
	char *text = json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);

	json_decref(body);
	if (text == NULL)
		BUG("%s %s: the reply is not JSON", rq->method, rq->path);
	exchange_reply(exchange_of(rq), status, response_of(type, text, strlen(text), MHD_RESPMEM_MUST_FREE));
}

void
reply_json(struct request *rq, int status, json_t *body)
{
	reply_dumped(rq, status, "application/json", body);
}

void
reply_json_text(struct request *rq, int status, const char *text)
{
	reply_text(rq, status, "application/json", text, strlen(text));
}

static void
reply_problem_sentence(struct request *rq, int code, json_t *errors, const char *sentence)
{
	int status = err_http_status(code);
	json_t *body, *detail = json_string(sentence);

	if (detail == NULL) { /* not UTF-8 */
		struct buf b = BUF_INIT;

		buf_add_visible(&b, sentence, strlen(sentence));
		detail = json_string(b.s);
		buf_release(&b);
	}
	if (status == 401)
		reply_header(rq, "WWW-Authenticate", "Bearer realm=\"sluice\"");
	if (status == 503)
		reply_header(rq, "Retry-After", RETRY_AFTER);
	if (strncmp(rq->path, "/iceberg/", 9) == 0) { /* its clients know the specification's own error model only */
		json_decref(errors);
		body = json_pack("{s:{s:o,s:s,s:i}}", "error", "message", detail, "type",
				 status == 401   ? "NotAuthorizedException"
				 : status == 403 ? "ForbiddenException"
				 : status == 404 ? "NotFoundException"
				 : status == 503 ? "ServiceUnavailableException"
				 : status < 500  ? "BadRequestException"
						 : "InternalServerError",
				 "code", status);
		reply_dumped(rq, status, "application/json", body);
		return;
	}
	body = json_pack("{s:s,s:s,s:i,s:o}", "type", err_name(code), "title", err_title(code), "status", status, "detail",
			 detail);
	if (errors)
		json_object_set_new(body, "errors", errors);
	reply_dumped(rq, status, "application/problem+json", body);
}

void
reply_err(struct request *rq, struct err *e)
{
	reply_problem_sentence(rq, e->code, NULL, e->msg ? e->msg : err_title(e->code));
	err_release(e);
}

json_t *
reply_unless_result(struct request *rq, const json_t *report, struct err *e, const char *what)
{
	json_t *result = json_object_get(report, "result");

	if (report == NULL)
		reply_err(rq, e);
	else if (result == NULL)
		reply_problem(rq, ERR_INTERNAL, "%s ended without a result", what);
	return result;
}

void
reply_problem(struct request *rq, int code, const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	s = xvasprintf(fmt, ap);
	va_end(ap);
	reply_problem_sentence(rq, code, NULL, s);
	free(s);
}

void
reply_problem_errors(struct request *rq, int code, json_t *errors, const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	s = xvasprintf(fmt, ap);
	va_end(ap);
	reply_problem_sentence(rq, code, errors, s);
	free(s);
}

void
reply_text(struct request *rq, int status, const char *type, const void *data, size_t len)
{
	char *copy = xmalloc(len + 1);

	memcpy(copy, data, len);
	exchange_reply(exchange_of(rq), status, response_of(type, copy, len, MHD_RESPMEM_MUST_FREE));
}

void
reply_empty(struct request *rq, int status)
{
	exchange_reply(exchange_of(rq), status, response_of(NULL, buf_empty, 0, MHD_RESPMEM_PERSISTENT));
}

void
reply_fd(struct request *rq, int status, const char *type, int fd, uint64_t offset, uint64_t len)
{
	struct MHD_Response *r;

	if (len == 0) {
		close(fd);
		reply_text(rq, status, type, "", 0);
		return;
	}
	r = MHD_create_response_from_fd_at_offset64(len, fd, offset);
	if (r == NULL)
		BUG("no response from a descriptor");
	MHD_add_response_header(r, "Content-Type", type);
	exchange_reply(exchange_of(rq), status, r);
}

/* ---- streams ---- */

static ssize_t
on_stream_read(void *cls, uint64_t pos, char *out, size_t max)
{
	struct stream *st = cls;
	size_t n = st->out.len - st->head;

	(void)pos;
	if (st->cut)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (n == 0 && !st->ended && st->on_drain) {
		st->on_drain(st->arg);
		n = st->out.len - st->head;
	}
	if (n > 0) {
		if (n > max)
			n = max;
		memcpy(out, st->out.s + st->head, n);
		st->head += n;
		if (st->head == st->out.len) {
			buf_clear(&st->out);
			st->head = 0;
		}
		return (ssize_t)n;
	}
	if (st->ended)
		return MHD_CONTENT_READER_END_OF_STREAM;
	/* Returning 0 alone would have MHD ask again at once, for ever. */
	st->x->suspended = true;
	MHD_suspend_connection(st->x->conn);
	return 0;
}

struct stream *
reply_chunked(struct request *rq, int status, const char *type, void (*on_close)(void *arg), void *arg)
{
	struct exchange *x = exchange_of(rq);
	struct stream *st;
	struct MHD_Response *r;

	st = xcalloc(1, sizeof(*st));
	buf_init(&st->out, 0);
	st->x = x;
	st->on_close = on_close;
	st->arg = arg;
	if (x->conn == NULL || x->response) {
		/* The server is stopping: the stream is over before it began, and the caller hears of it as of any other end. */
		st->ended = true;
	}
	r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32768, on_stream_read, st, NULL);
	if (r == NULL)
		BUG("no response from a callback");
	MHD_add_response_header(r, "Content-Type", type);
	if (!st->ended) {
		x->stream = st;
		exchange_reply(x, status, r);
		return st;
	}
	exchange_reply(x, status, r);
	free(st);
	return NULL;
}

struct stream *
reply_stream(struct request *rq, void (*on_close)(void *arg), void *arg)
{
	struct stream *st;

	reply_header(rq, "Cache-Control", "no-cache");
	reply_header(rq, "X-Accel-Buffering", "no");
	st = reply_chunked(rq, 200, "text/event-stream", on_close, arg);
	if (st) {
		st->ping = true;
		stream_send(st, ":\n\n", 3); /* the client sees at once that it is connected */
	}
	return st;
}

void
stream_on_drain(struct stream *st, void (*on_drain)(void *arg))
{
	st->on_drain = on_drain;
	exchange_resume(st->x);
}

void
stream_send(struct stream *st, const void *data, size_t len)
{
	const union MHD_ConnectionInfo *info;

	if (st->ended || st->cut || len == 0)
		return;
	if (st->head > st->out.len / 2) {
		buf_drop_front(&st->out, st->head);
		st->head = 0;
	}
	if (st->out.len - st->head + len > STREAM_BEHIND_MAX) {
		log_info("%s: a client is too far behind and is cut off", st->x->rq.path);
		st->cut = true;
		buf_release(&st->out);
		st->head = 0;
		info = MHD_get_connection_info(st->x->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
		if (info) /* it may be stuck in a write: this ends it */
			shutdown(info->connect_fd, SHUT_RDWR);
		exchange_resume(st->x);
		return;
	}
	buf_add(&st->out, data, len);
	exchange_resume(st->x);
}

void
stream_event(struct stream *st, const char *id, const char *event, const json_t *data)
{
	struct buf b = BUF_INIT;
	char *text = json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY);

	if (id)
		buf_addf(&b, "id: %s\n", id);
	buf_addf(&b, "event: %s\ndata: %s\n\n", event, text ? text : "null");
	stream_send(st, b.s, b.len);
	free(text);
	buf_release(&b);
}

void
stream_end(struct stream *st)
{
	st->ended = true;
	exchange_resume(st->x);
}

static void
on_ping(uv_timer_t *t)
{
	struct http *h = t->data;

	LIST_FOR_EACH (it, &h->open) {
		struct exchange *x = LIST_ENTRY(it, struct exchange, node);

		if (x->stream && x->stream->ping && x->stream->out.len == 0)
			stream_send(x->stream, ":\n\n", 3);
	}
}

/* ---- what MHD asks ---- */

static const char *
method_name(const char *method)
{
	static const char *const known[] = { "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS" };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i], method) == 0)
			return known[i];
	return "other";
}

/* Finds the route and judges the caller; what is wrong is kept until the body is over. */
static void
exchange_begin(struct exchange *x)
{
	const char *length;
	size_t max;

	x->rq.body.max = 1;
	if (x->http->closing) {
		err_set(&x->refused, ERR_UNAVAILABLE, "the daemon is stopping");
		return;
	}
	switch (route_find(route_tables, route_tables_count, x->rq.method, x->rq.path, &x->route, x->param, &x->allow)) {
	case ROUTE_FOUND:
		break;
	case ROUTE_NO_PATH:
		err_set(&x->refused, ERR_NOT_FOUND, "there is nothing at %s", x->rq.path);
		return;
	case ROUTE_NO_METHOD:
		err_set(&x->refused, ERR_METHOD, "%s is not possible at %s; these are: %s", x->rq.method, x->rq.path, x->allow.s);
		return;
	case ROUTE_BAD_PATH:
		err_set(&x->refused, ERR_INVALID, "the path %s has a %% that is not followed by two hexadecimal digits",
			x->rq.path);
		return;
	}
	for (int i = 0; i < ROUTE_PARAMS; i++)
		x->rq.param[i] = x->param[i];
	if (auth_check(&x->rq, x->route->role, &x->refused) < 0)
		return;
	max = x->route->body_max;
	x->rq.body.max = max ? max : 1;
	length = request_header(&x->rq, "Content-Length");
	if (length && strtoull(length, NULL, 10) > max)
		err_set(&x->refused, ERR_TOO_LARGE,
			max ? "the body has %s bytes; at most %zu are taken here" : "no body is taken here (%s bytes came)",
			length, max);
}

static void
exchange_handle(struct exchange *x)
{
	x->handled = true;
	x->handled_at = clock_mono();
	if (x->refused.code == 0 && x->rq.body.overflow)
		err_set(&x->refused, ERR_TOO_LARGE, "the body is too large; at most %zu bytes are taken here",
			x->route->body_max);
	if (x->refused.code) {
		if (x->allow.len)
			reply_header(&x->rq, "Allow", x->allow.s);
		reply_err(&x->rq, &x->refused);
		return;
	}
	if (auth_login(&x->rq))
		return;
	x->route->handler(&x->rq);
}

/* Whether a refused request is answered before its body: when that is huge, or the client waits to be asked for it. */
static bool
exchange_refuse_early(struct exchange *x)
{
	const char *length = request_header(&x->rq, "Content-Length");

	return x->refused.code && ((length && strtoull(length, NULL, 10) > BODY_DRAIN_MAX) || request_header(&x->rq, "Expect"));
}

static struct exchange *
exchange_new(struct http *h, struct MHD_Connection *conn, const char *url, const char *method)
{
	struct exchange *x = xcalloc(1, sizeof(*x));

	x->magic = EXCHANGE_MAGIC;
	x->http = h;
	x->conn = conn;
	x->rq.app = h->app;
	x->rq.method = method_name(method);
	buf_init(&x->rq.body, 0);
	buf_init(&x->allow, 0);
	x->rq.path = request_keep(&x->rq, xstrdup(url));
	list_append(&h->open, &x->node);
	return x;
}

static enum MHD_Result
on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method, const char *version, const char *data,
	   size_t *size, void **con_cls)
{
	struct exchange *x = *con_cls;
	struct MHD_Response *r;
	enum MHD_Result ok;

	(void)version;
	if (x == NULL) {
		*con_cls = x = exchange_new(cls, conn, url, method);
		exchange_begin(x);
		if (!exchange_refuse_early(x))
			return MHD_YES;
		exchange_handle(x);
	} else if (*size > 0) {
		if (x->refused.code == 0)
			buf_add(&x->rq.body, data, *size);
		*size = 0;
		return MHD_YES;
	}
	if (!x->handled)
		exchange_handle(x);
	if (x->response == NULL) {
		x->suspended = true;
		MHD_suspend_connection(conn);
		if (!uv_is_active((uv_handle_t *)&x->http->late))
			uv_timer_start(&x->http->late, on_late, LATE_CHECK_MS, 0);
		return MHD_YES;
	}
	r = x->response;
	x->response = NULL;
	ok = MHD_queue_response(conn, (unsigned)x->status, r);
	MHD_destroy_response(r);
	return ok;
}

/* Paths and queries stay as they were sent: a %2F in a name is no separator. */
static size_t
keep_encoded(void *cls, struct MHD_Connection *conn, char *s)
{
	(void)cls;
	(void)conn;
	return strlen(s);
}

static void
on_mhd_log(void *cls, const char *fmt, va_list ap)
{
	char *text = xvasprintf(fmt, ap);

	(void)cls;
	text[strcspn(text, "\n")] = '\0';
	log_debug("http: %s", text);
	free(text);
}

/* ---- in the loop ---- */

static void
http_run(struct http *h)
{
	MHD_UNSIGNED_LONG_LONG ms;

	h->resumed = false;
	if (MHD_run(h->daemon) != MHD_YES)
		log_error("http: MHD_run failed");
	if (h->resumed)
		uv_timer_start(&h->timer, on_timer, 0, 0);
	else if (MHD_get_timeout(h->daemon, &ms) == MHD_YES)
		uv_timer_start(&h->timer, on_timer, ms, 0);
	else
		uv_timer_stop(&h->timer);
}

static void
on_timer(uv_timer_t *t)
{
	http_run(t->data);
}

static void
on_poll(uv_poll_t *p, int status, int events)
{
	(void)status;
	(void)events;
	http_run(p->data);
}

static void
on_accepted(void *arg, int fd, const struct sockaddr *addr, socklen_t len)
{
	struct http *h = arg;

	if (MHD_add_connection(h->daemon, fd, addr, len) != MHD_YES)
		log_debug("http: a connection was not taken");
	http_run(h);
}

/* No more than the library takes: the others wait in the kernel's queue. */
static void
on_connection_change(void *cls, struct MHD_Connection *conn, void **ctx, enum MHD_ConnectionNotificationCode how)
{
	struct http *h = cls;

	(void)conn;
	(void)ctx;
	if (how == MHD_CONNECTION_NOTIFY_STARTED)
		h->connections++;
	else
		h->connections--;
	if (h->listener)
		listener_pause(h->listener, h->connections >= h->connections_max);
}

/* Of two servers; the daemon needs some descriptors for itself, and clients must not be able to use them up. */
static unsigned
connections_max(void)
{
	struct rlimit files;
	rlim_t half;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return CONNECTIONS_MAX;
	half = files.rlim_cur > 2 * OWN_FILES ? (files.rlim_cur - OWN_FILES) / 2 : OWN_FILES / 2;
	return half < CONNECTIONS_MAX ? (unsigned)half : CONNECTIONS_MAX;
}

struct http *
http_open(struct app *app, int fd, bool local, struct err *e)
{
	struct http *h = xcalloc(1, sizeof(*h));
	const union MHD_DaemonInfo *info;

	h->app = app;
	h->local = local;
	h->connections_max = connections_max();
	list_init(&h->open);
	/* clang-format off */
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0,
	                             NULL, NULL, on_request, h,
	                             MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL,
	                             MHD_OPTION_NOTIFY_CONNECTION, on_connection_change, h,
	                             MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
	                             MHD_OPTION_UNESCAPE_CALLBACK, keep_encoded, NULL,
	                             MHD_OPTION_CONNECTION_LIMIT, h->connections_max,
	                             MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S,
	                             MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
	                             MHD_OPTION_END);
	/* clang-format on */
	info = h->daemon ? MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (info == NULL) {
		err_set(e, ERR_IO, "the HTTP server cannot start: %s", strerror(errno));
		close(fd);
		free(h);
		return NULL;
	}
	uv_timer_init(app->loop, &h->timer);
	uv_timer_init(app->loop, &h->ping);
	uv_timer_init(app->loop, &h->late);
	uv_poll_init(app->loop, &h->poll, info->epoll_fd);
	h->timer.data = h->ping.data = h->late.data = h->poll.data = h;
	h->handles = 4;
	uv_poll_start(&h->poll, UV_READABLE, on_poll);
	h->listener = listener_open(app->loop, fd, on_accepted, h);
	uv_timer_start(&h->ping, on_ping, STREAM_PING_MS, STREAM_PING_MS);
	http_run(h);
	return h;
}

static void
on_handle_closed(uv_handle_t *handle)
{
	struct http *h = handle->data;

	if (--h->handles == 0)
		free(h);
}

/* Answers for the handler, whose own reply may come later and is dropped then. */
static void
exchange_answer_for(struct exchange *x, int code, const char *sentence)
{
	bool iceberg = strncmp(x->rq.path, "/iceberg/", 9) == 0;
	json_t *body = iceberg ? json_pack("{s:{s:s,s:s,s:i}}", "error", "message", sentence, "type",
					   code == ERR_TIMEOUT ? "CommitStateUnknownException" : "ServiceUnavailableException",
					   "code", err_http_status(code))
			       : json_pack("{s:s,s:s,s:i,s:s}", "type", err_name(code), "title", err_title(code), "status",
					   err_http_status(code), "detail", sentence);
	char *text = json_dumps(body, JSON_COMPACT);

	json_decref(body);
	x->response =
		response_of(iceberg ? "application/json" : "application/problem+json", text, strlen(text), MHD_RESPMEM_MUST_FREE);
	x->status = err_http_status(code);
	if (x->status == 503)
		MHD_add_response_header(x->response, "Retry-After", RETRY_AFTER);
	exchange_resume(x);
}

/*
 * Nobody waits for ever: a handler that waits for a commit, say, may have to wait until the database is back, and what was
 * asked for may then still happen. A change of a table is in the same place, for which Iceberg has a status of its own.
 */
static void
on_late(uv_timer_t *t)
{
	struct http *h = t->data;
	mono_us now = clock_mono();
	bool waits = false;

	LIST_FOR_EACH (it, &h->open) {
		struct exchange *x = LIST_ENTRY(it, struct exchange, node);
		dur_us patience = x->rq.patience ? x->rq.patience : PATIENCE;

		if (!x->suspended || x->replied || x->response || x->rq.on_stop)
			continue;
		if (now - x->handled_at < patience)
			waits = true;
		else if (strncmp(x->rq.path, "/iceberg/", 9) == 0)
			exchange_answer_for(x, ERR_TIMEOUT, "the database has not answered in time");
		else
			exchange_answer_for(
				x, ERR_UNAVAILABLE,
				"the database has not answered in time; what was asked for may still happen: look, or "
				"ask again with the same Idempotency-Key");
	}
	if (waits && !h->closing)
		uv_timer_start(&h->late, on_late, LATE_CHECK_MS, 0);
}

/* As the server stops. */
static void
exchange_abandon(struct exchange *x)
{
	if (x->stream) {
		stream_end(x->stream);
		return;
	}
	if (x->handled && !x->replied && x->rq.on_stop)
		x->rq.on_stop(&x->rq);
	if (!x->suspended)
		return;
	/* Iceberg's clients make a commit anew after a 503: not where the database has been asked for it. */
	if (strncmp(x->rq.path, "/iceberg/", 9) == 0 && strcmp(x->rq.method, "GET") != 0 && strcmp(x->rq.method, "HEAD") != 0)
		exchange_answer_for(x, ERR_TIMEOUT, "the daemon is stopping, and it cannot be told whether this happened");
	else
		exchange_answer_for(x, ERR_UNAVAILABLE, "the daemon is stopping");
}

void
http_close(struct http *h)
{
	if (h == NULL)
		return;
	h->closing = true;
	listener_close(h->listener);
	h->listener = NULL;
	LIST_FOR_EACH (it, &h->open)
		exchange_abandon(LIST_ENTRY(it, struct exchange, node));
	uv_poll_stop(&h->poll);
	for (int i = 0; i < 16 && !list_empty(&h->open); i++) /* a few rounds are enough for clients that read */
		MHD_run(h->daemon);
	LIST_FOR_EACH (it, &h->open) /* streams that fell asleep once more */
		exchange_abandon(LIST_ENTRY(it, struct exchange, node));
	uv_close((uv_handle_t *)&h->poll, on_handle_closed);
	uv_close((uv_handle_t *)&h->timer, on_handle_closed);
	uv_close((uv_handle_t *)&h->ping, on_handle_closed);
	uv_close((uv_handle_t *)&h->late, on_handle_closed);
	MHD_stop_daemon(h->daemon);
	h->daemon = NULL;
}

uint64_t
http_requests(void)
{
	return requests_answered;
}
