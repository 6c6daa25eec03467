#include "tasks/iceberg/rest.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "tasks/spent.h"

#define ANSWER_MAX  (256u << 20)
#define AWAY_MAX    (5 * US_PER_MIN) /* the task's own timeout may end it earlier */
#define PAUSE_FIRST (100 * US_PER_MS)
#define PAUSE_MAX   (2 * US_PER_S)

static size_t
on_answer_bytes(char *data, size_t size, size_t n, void *arg)
{
	return buf_add(arg, data, size * n) < 0 ? 0 : size * n;
}

/* Is nobody there, or did the connection break? Anything else is no better when it is tried again. */
static bool
code_away(CURLcode code)
{
	return code == CURLE_COULDNT_CONNECT || code == CURLE_GOT_NOTHING || code == CURLE_SEND_ERROR ||
	       code == CURLE_RECV_ERROR || code == CURLE_PARTIAL_FILE || code == CURLE_OPERATION_TIMEDOUT ||
	       code == CURLE_COULDNT_RESOLVE_HOST;
}

/* One for the whole attempt, so that its requests share a connection. */
static CURL *rest_curl;

void
rest_warm(void)
{
	curl_global_init(CURL_GLOBAL_ALL);
	rest_curl = curl_easy_init();
}

/* As rest_once, also for what it is unsure about: the status, or REST_UNSURE when there was none. */
static int
rest_ask(struct context *cx, const char *method, const char *path, const json_t *body, bool once, json_t **out)
{
	const json_t *catalog = json_object_get(cx->doc, "catalog");
	char *url = xasprintf("%s/v1/%s", json_string_value(json_object_get(catalog, "uri")), path), *text = NULL;
	char *auth = xasprintf("Authorization: Bearer %s", json_string_value(json_object_get(catalog, "token")));
	struct buf answer = BUF_INIT_MAX(ANSWER_MAX);
	struct curl_slist *headers = NULL;
	char why[CURL_ERROR_SIZE] = "";
	enum spent part = spent_enter(SPENT_CATALOG);
	CURLcode code;
	CURL *curl;
	long status = -1;

	*out = NULL;
	if (rest_curl == NULL)
		rest_warm();
	curl = rest_curl;
	curl_easy_reset(curl);
	/* On a connection that has been used curl repeats a request whose answer does not come. */
	curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, once ? 1L : 0L);
	headers = curl_slist_append(headers, auth);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Expect:");
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_answer_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 120L);
	if (body) {
		text = json_dumps(body, JSON_COMPACT);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text);
	}
	code = curl_easy_perform(curl);
	if (code != CURLE_OK) {
		task_fail(cx, ERR_UNAVAILABLE, "the catalog at %s cannot be asked: %s",
			  json_string_value(json_object_get(catalog, "uri")), why[0] ? why : curl_easy_strerror(code));
		if (code_away(code))
			status = REST_UNSURE;
	} else {
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
		if (answer.len)
			*out = json_loadb(answer.s, answer.len, 0, NULL);
	}
	curl_easy_reset(curl); /* what it points to ends here */
	curl_slist_free_all(headers);
	explicit_bzero(auth, strlen(auth));
	free(auth);
	free(text);
	free(url);
	buf_release(&answer);
	spent_leave(part);
	return (int)status;
}

static bool
status_away(int status)
{
	return status == REST_UNSURE || status == 502 || status == 503 || status == 504;
}

bool
rest_wait(struct context *cx, struct rest_wait *w)
{
	dur_us pause = PAUSE_FIRST << (w->tries < 10 ? w->tries : 10);
	struct timespec t;

	if (w->tries++ == 0) {
		w->since = clock_mono();
		fprintf(stderr, "%s; waiting for it\n", cx->err.msg ? cx->err.msg : "the catalog does not answer");
	} else if (clock_mono() - w->since > AWAY_MAX) {
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
		status = rest_ask(cx, method, path, body, false, out);
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
	int status = rest_ask(cx, method, path, body, true, out);
	const char *type = json_string_value(json_object_get(json_object_get(*out, "error"), "type"));

	if (!status_away(status) && !(type && strcmp(type, "CommitStateUnknownException") == 0))
		return status;
	if (status > 0)
		rest_fail(cx, "the catalog does not know", status, *out);
	json_decref(*out);
	*out = NULL;
	return REST_UNSURE;
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

int
rest_load_table(struct context *cx, const char *ns, const char *table, json_t **out)
{
	char *path = rest_table_path(ns, table);
	int status = rest_call(cx, "GET", path, NULL, out);

	free(path);
	if (status == 200 || status < 0)
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
