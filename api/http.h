/*
 * libmicrohttpd inside the loop: its epoll descriptor is polled by libuv, no thread. A request is suspended when its body
 * is complete and resumed by exactly one reply_…(), now or any number of turns later; so every handler may ask the store first.
 */
#ifndef API_HTTP_H
#define API_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"

struct app; /* what handlers work on: see api/app.h */

enum role {
	ROLE_NONE,    /* no token needed: health, the page's own files */
	ROLE_VIEWER,  /* reads */
	ROLE_RUNNER,  /* reads, triggers, cancels */
	ROLE_ADMIN,   /* everything */
	ROLE_CATALOG, /* the Iceberg endpoint: an attempt's token, or ROLE_ADMIN */
};

struct request {
	struct app *app;
	const char *method; /* "GET" … */
	const char *path;
	const char *param[4]; /* what {} of the route's pattern matched, percent-decoded */
	struct buf body;
	enum role role; /* of the caller */
	char *attempt;  /* "run/task/n" when the caller holds an attempt's token, else NULL */
	char *who;      /* else: "token ID", or "user NAME" over the unix socket; NULL: nobody in particular */
	void *data;     /* the handler's own, freed by data_free when the request ends */
	void (*data_free)(void *data);
	/*
	 * Set by a handler that waits for something that may never come: called when the server stops, must reply (503) at once.
	 * Handlers that wait for the store or the scheduler need none.
	 */
	void (*on_stop)(struct request *rq);
	/* How long a reply may take before the client gets a 503 (the Iceberg endpoint: 504) instead; 0: the usual. */
	dur_us patience;
	/* rest private: see http.c */
};

typedef void (*route_fn)(struct request *rq);

struct route {
	const char *method;
	const char *pattern; /* "/api/v1/runs/{run}/tasks/{task}"; a final "{path...}" matches the rest */
	route_fn handler;
	enum role role;
	size_t body_max;     /* bytes; 0: no body accepted */
	const char *summary; /* one sentence, for OpenAPI */
};

/* Borrowed; NULL when absent. */
const char *request_query(struct request *rq, const char *name);
const char *request_header(struct request *rq, const char *name);
/* The caller came over the unix socket; `uid` gets who it is. */
bool request_local(struct request *rq, uid_t *uid);
/* Frees `owned` when the request ends; returns it. */
char *request_keep(struct request *rq, char *owned);
/* The body as JSON object; replies 400 itself and returns NULL when it is not one. An empty body is {} . The caller owns it. */
json_t *request_json(struct request *rq);

/* Each ends the request. `body` is taken over. */
void reply_json(struct request *rq, int status, json_t *body);
/* As reply_json for JSON text that PostgreSQL made; copied. */
void reply_json_text(struct request *rq, int status, const char *text);
/* RFC 9457 problem details from an error; releases the error. */
void reply_err(struct request *rq, struct err *e);
/* What a child has reported as its result, borrowed; NULL after a reply: `e` says why, or `what` ("the query") gave none. */
json_t *reply_unless_result(struct request *rq, const json_t *report, struct err *e, const char *what);
void reply_problem(struct request *rq, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As reply_problem with the list `errors` beside the sentence; takes it over. */
void reply_problem_errors(struct request *rq, int code, json_t *errors, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void reply_text(struct request *rq, int status, const char *type, const void *data, size_t len);
/* `len` bytes of a file from `offset`; takes `fd` over. */
void reply_fd(struct request *rq, int status, const char *type, int fd, uint64_t offset, uint64_t len);
void reply_empty(struct request *rq, int status);
/* Before the reply: one more header. */
void reply_header(struct request *rq, const char *name, const char *value);

/*
 * A server-sent event stream: stays open until the client leaves or stream_end; on_close is called at its end in any case, and
 * the stream is gone then. A comment goes out every 15 s, so that a client that left is noticed. NULL when the server is
 * stopping: on_close is not called then.
 */
struct stream;
struct stream *reply_stream(struct request *rq, void (*on_close)(void *arg), void *arg);
/* The same for a body of any type and unknown length, without comments. */
struct stream *reply_chunked(struct request *rq, int status, const char *type, void (*on_close)(void *arg), void *arg);
/* Called whenever the client has taken everything: a producer of much data sends its next piece from there. */
void stream_on_drain(struct stream *st, void (*on_drain)(void *arg));
/* Queues bytes; a client that is more than 4 MB behind is cut off (it can resume by Last-Event-ID). */
void stream_send(struct stream *st, const void *data, size_t len);
void stream_event(struct stream *st, const char *id, const char *event, const json_t *data);
/* Nothing more comes. */
void stream_end(struct stream *st);

/* One listening socket and its connections. */
struct http;
/* Serves on the listening socket `fd`, which is taken over; `local` says that it is a unix socket. NULL with `e` set. */
struct http *http_open(struct app *app, int fd, bool local, struct err *e);
/* Answers what is open with 503, ends streams, closes. Handlers that are waited for may still reply later. */
void http_close(struct http *h);
/* Requests answered since the start. */
uint64_t http_requests(void);

#endif
