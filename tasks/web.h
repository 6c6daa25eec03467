/*
 * Requests to somebody's HTTP API: tried again where the trouble may pass, held back by a rate, and told about without secrets.
 */
#ifndef TASKS_WEB_H
#define TASKS_WEB_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "tasks/json_text.h"

struct web;

struct web_settings {
	int max_attempts; /* of one request */
	dur_us interval, max_interval;
	dur_us timeout;
	size_t max_answer;
	int64_t rate; /* requests in rate_per; 0: any number */
	dur_us rate_per;
	const char *ca;     /* NULL: the system's */
	const json_t *hide; /* list of texts that nobody may be told */
};

struct web_request {
	const char *method, *url;
	const json_t *headers; /* name -> text; they go to `home` alone */
	const char *home;      /* an address of the host that they are meant for */
	const char *body;      /* NULL: none */
	const char *type;      /* of the body */
};

struct web_answer {
	struct buf body;
	struct json_text json; /* the value in it */
	char *next;            /* of the header Link with rel="next"; NULL: none */
	char *url;             /* where it came from in the end */
};

struct curl_slist;

struct web_counts {
	int64_t requests, repeated, bytes;
	dur_us waited;
};

/* What the settings point to must outlive it. NULL with `e` set. */
struct web *web_new(const struct web_settings *settings, struct err *e);
void web_free(struct web *w);
/*
 * Asks until there is an answer of status 2xx that is JSON. 0; or -1 with `e` set, and `*final` where trying it all once more
 * would do no better.
 */
MUSTCHECK int web_ask(struct web *w, const struct web_request *r, struct web_answer *a, bool *final, struct err *e);
void web_answer_release(struct web_answer *a);
const struct web_counts *web_counts(const struct web *w);
/* A text that may be told: secrets in it are ***, also where they are encoded for a URL. The caller frees it. */
char *web_hidden(struct web *w, const char *text);
/* Do both addresses have one scheme, host and port? */
bool web_same_host(const char *a, const char *b);
/* An address as a page at `base` would mean it, NULL when it is none for HTTP. The caller frees it. */
char *web_resolve(const char *base, const char *address);
/* Adds name=value to the query of an address; `replace` takes one of that name out before. The caller frees the result. */
char *web_with_param(const char *url, const char *name, const char *value, bool replace);
bool web_has_param(const char *url, const char *name);
/* A header more for curl, also one without a value; the text in between, which may be secret, is wiped. */
struct curl_slist *web_header(struct curl_slist *list, const char *name, const char *value);

#endif
