#include "cli/client.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "daemon/daemon.h"

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0.0.0"
#endif

struct client {
	CURL *curl;
	char *url, *socket, *token, *header;
	char why[CURL_ERROR_SIZE];
	bool silent;
};

static struct client *
client_new(const char *url, const char *home)
{
	struct client *c = xcalloc(1, sizeof(*c));
	const char *token = getenv("SLUICE_TOKEN");

	curl_global_init(CURL_GLOBAL_DEFAULT);
	c->curl = curl_easy_init();
	if (url && *url) {
		c->url = xstrdup(url);
		c->url[strlen(c->url) - (c->url[strlen(c->url) - 1] == '/')] = '\0';
		c->token = xstrdup_null(token);
	} else {
		char *own = home ? xstrdup(home) : default_home();

		c->url = xstrdup("http://localhost");
		c->socket = xasprintf("%s/api.sock", own);
		free(own);
	}
	return c;
}

struct client *
client_open(const struct args *a)
{
	const char *env = getenv("SLUICE_URL");

	return client_new(a->url ? a->url : a->home ? NULL : env, a->home);
}

struct client *
client_open_home(const char *home)
{
	return client_new(NULL, home);
}

void
client_close(struct client *c)
{
	curl_easy_cleanup(c->curl);
	free(c->url);
	free(c->socket);
	free(c->token);
	free(c->header);
	free(c);
}

void
client_silent(struct client *c, bool silent)
{
	c->silent = silent;
}

void
client_header(struct client *c, const char *header)
{
	free(c->header);
	c->header = xstrdup_null(header);
}

static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	return buf_add(arg, data, size * n) < 0 ? 0 : size * n;
}

static struct curl_slist *
client_setup(struct client *c, const char *path, const char *accept)
{
	char *url = xasprintf("%s%s", c->url, path), *text;
	struct curl_slist *headers = NULL;

	curl_easy_reset(c->curl);
	c->why[0] = '\0';
	curl_easy_setopt(c->curl, CURLOPT_URL, url);
	curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->why);
	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "sluice/" SLUICE_VERSION);
	curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, 5L);
	curl_easy_setopt(c->curl, CURLOPT_NOPROXY, "*");
	if (c->socket)
		curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
	text = xasprintf("Accept: %s", accept);
	headers = curl_slist_append(headers, text);
	free(text);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Expect:");
	if (c->token) {
		text = xasprintf("Authorization: Bearer %s", c->token);
		headers = curl_slist_append(headers, text);
		free(text);
	}
	if (c->header)
		headers = curl_slist_append(headers, c->header);
	curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
	free(url);
	return headers;
}

static void
client_unreachable(struct client *c)
{
	const char *where = c->socket ? c->socket : c->url;

	if (c->silent)
		return;
	/* Of a socket's path curl tells a host and port that nobody asked for. */
	fprintf(stderr, "sluice: no daemon answers at %s%s%s\n", where, c->socket || !c->why[0] ? "" : ": ",
		c->socket ? "" : c->why);
	fputs("start one with `sluice serve`, or name its state folder with --home or its address with --url\n", stderr);
}

int
client_call(struct client *c, const char *method, const char *path, json_t *body, json_t **out)
{
	struct curl_slist *headers = client_setup(c, path, "application/json");
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	struct buf answer = BUF_INIT;
	long status = 0;
	json_t *json = NULL;

	json_decref(body);
	curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &answer);
	if (text || strcmp(method, "POST") == 0)
		curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, text ? text : "");
	if (curl_easy_perform(c->curl) != CURLE_OK) {
		client_unreachable(c);
	} else {
		curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
		if (answer.len)
			json = json_loadb(answer.s, answer.len, JSON_DECODE_ANY, NULL);
	}
	if (out)
		*out = json;
	else
		json_decref(json);
	curl_slist_free_all(headers);
	buf_release(&answer);
	free(text);
	return (int)status;
}

int
client_refuse(int status, const json_t *problem)
{
	const char *detail = json_string_value(json_object_get(problem, "detail"));
	const char *title = json_string_value(json_object_get(problem, "title"));
	json_t *error;
	size_t i;

	fprintf(stderr, "sluice: %s\n", detail ? detail : title ? title : "the daemon refused");
	json_array_foreach (json_object_get(problem, "errors"), i, error) {
		const char *file = json_string_value(json_object_get(error, "file"));

		if (file)
			fprintf(stderr, "%s:%lld:%lld: ", file, (long long)json_integer_value(json_object_get(error, "line")),
				(long long)json_integer_value(json_object_get(error, "col")));
		fprintf(stderr, "%s: %s\n",
			json_string_value(json_object_get(error, "severity"))
				? json_string_value(json_object_get(error, "severity"))
				: "error",
			json_string_value(json_object_get(error, "message"))
				? json_string_value(json_object_get(error, "message"))
				: "");
	}
	if (status == 401)
		fputs("give a token in SLUICE_TOKEN; the admin's is in the state folder, in the file `token`\n", stderr);
	return EXIT_REFUSED;
}

int
client_do(struct client *c, const char *method, const char *path, json_t *body, json_t **out)
{
	json_t *answer;
	int status = client_call(c, method, path, body, &answer), rc = EXIT_OK;

	if (status == 0)
		rc = EXIT_REFUSED;
	else if (status >= 300)
		rc = client_refuse(status, answer);
	if (rc == EXIT_OK && out)
		*out = answer;
	else
		json_decref(answer);
	return rc;
}

static bool
client_asks(struct client *c, const char *path)
{
	struct curl_slist *headers = client_setup(c, path, "*/*");
	struct buf answer = BUF_INIT;
	long status = 0;

	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &answer);
	if (curl_easy_perform(c->curl) == CURLE_OK)
		curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	curl_slist_free_all(headers);
	buf_release(&answer);
	return status == 200;
}

bool
client_answers(struct client *c)
{
	return client_asks(c, "/healthz");
}

bool
client_alive(struct client *c)
{
	return client_asks(c, "/readyz");
}

struct stream_call {
	int (*cb)(void *arg, const char *data, size_t len);
	void *arg;
	bool ended;
};

static size_t
on_stream(char *data, size_t size, size_t n, void *arg)
{
	struct stream_call *s = arg;

	if (s->cb(s->arg, data, size * n) != 0) {
		s->ended = true;
		return 0;
	}
	return size * n;
}

int
client_stream(struct client *c, const char *path, const char *accept, int (*cb)(void *arg, const char *data, size_t len),
	      void *arg)
{
	struct curl_slist *headers = client_setup(c, path, accept);
	struct stream_call s = { cb, arg, false };
	long status = 0;
	CURLcode code;

	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_stream);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &s);
	code = curl_easy_perform(c->curl);
	if (code != CURLE_OK && !s.ended && code != CURLE_PARTIAL_FILE && code != CURLE_RECV_ERROR)
		client_unreachable(c);
	else
		curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	curl_slist_free_all(headers);
	return (int)status;
}

void
add_encoded(struct buf *b, const char *s)
{
	buf_add_encoded(b, s, "");
}
