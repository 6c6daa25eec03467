#include "tasks/iceberg/rest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "tasks/iceberg/session.h"

#define PAUSE_FIRST (100 * US_PER_MS)
#define PAUSE_MAX   (2 * US_PER_S)

static bool
status_away(int status)
{
	return status == REST_UNSURE || status == 429 || status == 502 || status == 503 || status == 504;
}

bool
rest_wait(struct context *cx, struct rest_wait *w)
{
	dur_us pause = PAUSE_FIRST << (w->tries < 10 ? w->tries : 10);
	struct timespec t;

	if (w->tries++ == 0) {
		w->since = clock_mono();
		fprintf(stderr, "%s; waiting for it\n", cx->err.msg ? cx->err.msg : "the catalog does not answer");
	} else if (clock_mono() - w->since > session_patience(cx)) {
		return false;
	}
	if (pause > PAUSE_MAX)
		pause = PAUSE_MAX;
	t = (struct timespec){ .tv_sec = pause / US_PER_S, .tv_nsec = pause % US_PER_S * 1000 };
	nanosleep(&t, NULL);
	return true;
}

void
rest_waited(const struct rest_wait *w)
{
	if (w->tries)
		fprintf(stderr, "the catalog answers again, after %.1f s\n", (double)(clock_mono() - w->since) / US_PER_S);
}

int
rest_call(struct context *cx, const char *method, const char *path, const json_t *body, json_t **out)
{
	struct rest_wait wait = { 0 };
	int status;

	for (;;) {
		status = session_ask(cx, method, path, body, false, out);
		if (!status_away(status))
			break;
		if (status > 0)
			rest_fail(cx, "the catalog cannot answer now", status, *out);
		json_decref(*out);
		*out = NULL;
		if (!rest_wait(cx, &wait))
			return -1;
		err_release(&cx->err);
	}
	rest_waited(&wait);
	return status;
}

int
rest_once(struct context *cx, const char *method, const char *path, const json_t *body, json_t **out)
{
	int status = session_ask(cx, method, path, body, true, out);
	const char *type = json_string_value(json_object_get(json_object_get(*out, "error"), "type"));

	/* Our own daemon says when it does not know; of others any failure may be that. */
	if (!status_away(status) && !(type && strcmp(type, "CommitStateUnknownException") == 0) &&
	    !(status >= 500 && session_foreign(cx)))
		return status;
	if (status > 0)
		rest_fail(cx, "the catalog does not know", status, *out);
	json_decref(*out);
	*out = NULL;
	return REST_UNSURE;
}

/* Of a server that is not ours more is said: which it is, what it answered, and where its credentials are set. */
static int
foreign_fail(struct context *cx, const char *what, int status, const char *msg)
{
	const json_t *catalog = json_object_get(cx->doc, "catalog");
	bool refused = status == 401 || status == 403;

	return task_fail(cx,
			 refused         ? ERR_UNAUTHORIZED
			 : status == 409 ? ERR_CONFLICT
			 : status == 404 ? ERR_NOT_FOUND
					 : ERR_UNPROCESSABLE,
			 "%s: the catalog \"%s\" at %s answers %d: %s%s", what,
			 json_string_value(json_object_get(catalog, "name")), json_string_value(json_object_get(catalog, "uri")),
			 status, msg ? msg : "no reason was given",
			 refused ? " (see catalog.token and catalog.credential of the config)" : "");
}

int
rest_fail(struct context *cx, const char *what, int status, const json_t *answer)
{
	const json_t *error = json_object_get(answer, "error");
	const char *msg = json_string_value(json_object_get(error, "message"));

	if (msg == NULL)
		msg = json_string_value(json_object_get(answer, "detail"));
	if (status == 409)
		cx->cause = "conflict";
	if (session_foreign(cx))
		return foreign_fail(cx, what, status, msg);
	return task_fail(cx,
			 status == 409   ? ERR_CONFLICT
			 : status == 404 ? ERR_NOT_FOUND
					 : ERR_UNPROCESSABLE,
			 "%s: %s", what, msg ? msg : "the catalog gave no reason");
}

static void
add_encoded(struct buf *b, const char *s)
{
	for (; *s; s++)
		if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~", *s))
			buf_addc(b, *s);
		else if (*s == '.')
			buf_adds(b, "%1F"); /* the specification's separator of namespace levels */
		else
			buf_addf(b, "%%%02X", (unsigned char)*s);
}

char *
rest_table_path(const char *ns, const char *table)
{
	struct buf b = BUF_INIT;

	buf_adds(&b, "namespaces/");
	add_encoded(&b, ns);
	buf_adds(&b, "/tables/");
	add_encoded(&b, table);
	return buf_detach(&b);
}

char *
rest_namespace_path(const char *ns, const char *what)
{
	struct buf b = BUF_INIT;

	buf_adds(&b, "namespaces/");
	add_encoded(&b, ns);
	buf_adds(&b, what);
	return buf_detach(&b);
}

char *
rest_query_path(const char *path, const char *name, const char *value)
{
	struct buf b = BUF_INIT;

	buf_addf(&b, "%s%c%s=", path, strchr(path, '?') ? '&' : '?', name);
	for (; *value; value++)
		buf_addf(&b, "%%%02X", (unsigned char)*value);
	return buf_detach(&b);
}

int
rest_load_table(struct context *cx, const char *ns, const char *table, json_t **out)
{
	char *path = rest_table_path(ns, table);
	int status = rest_call(cx, "GET", path, NULL, out);

	free(path);
	if (status == 200)
		return session_storage(cx, *out) < 0 ? -1 : status;
	if (status < 0)
		return status;
	if (status != 404) {
		char *what = xasprintf("table %s.%s cannot be loaded", ns, table);

		rest_fail(cx, what, status, *out);
		free(what);
		status = -1;
	}
	json_decref(*out);
	*out = NULL;
	return status;
}

int
rest_ensure_namespace(struct context *cx, const char *ns)
{
	json_t *answer, *levels = json_array(), *body;
	char *copy = xstrdup(ns), *save = NULL;
	int status;

	for (char *level = strtok_r(copy, ".", &save); level; level = strtok_r(NULL, ".", &save))
		json_array_append_new(levels, json_string(level));
	free(copy);
	body = json_pack("{s:o,s:{}}", "namespace", levels, "properties");
	status = rest_call(cx, "POST", "namespaces", body, &answer);
	json_decref(body);
	if (status >= 0 && status != 200 && status != 409)
		status = rest_fail(cx, "the namespace cannot be made", status, answer);
	json_decref(answer);
	return status < 0 ? -1 : 0;
}
