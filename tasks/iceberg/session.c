/* See session.h. Sources: the Iceberg REST catalog's OpenAPI document (config, OAuth2 client credentials). */
#include "tasks/iceberg/session.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "storage/storage.h"
#include "tasks/iceberg/rest.h"
#include "tasks/spent.h"
#include "tasks/web.h"

#define ANSWER_MAX   (256u << 20)
#define PATIENCE     (5 * US_PER_MIN) /* with our own daemon, which may be upgraded; the task's timeout may end it earlier */
#define TOKEN_MARGIN (30 * US_PER_S)  /* a token is renewed this long before it ends, at most */

/* One connection for the whole attempt. */
static CURL *session_curl;

/* What another server has told, for the document it was asked for. */
static struct {
	const json_t *doc;
	char *base;         /* NULL: its config has not been asked for */
	char *token;        /* NULL: none yet, or none needed */
	mono_us token_ends; /* 0: never */
} session;

struct message {
	const char *method, *url, *type, *body;
	bool bare;  /* without authorization */
	bool fresh; /* on a connection of its own: on a used one curl repeats a request whose answer does not come */
};

void
rest_warm(void)
{
	curl_global_init(CURL_GLOBAL_ALL);
	session_curl = curl_easy_init();
}

/* ---- settings ---- */

static const char *
setting(const struct context *cx, const char *key)
{
	return json_string_value(json_object_get(json_object_get(cx->doc, "catalog"), key));
}

bool
session_foreign(const struct context *cx)
{
	const char *type = setting(cx, "type");

	return type && strcmp(type, "rest") == 0;
}

dur_us
session_patience(const struct context *cx)
{
	const json_t *given = json_object_get(json_object_get(cx->doc, "catalog"), "timeout");

	return json_is_integer(given) ? (dur_us)json_integer_value(given) : PATIENCE;
}

/* ---- one request ---- */

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

static struct curl_slist *
message_headers(const struct context *cx, const struct message *m)
{
	const char *token = session_foreign(cx) ? session.token : setting(cx, "token"), *name;
	struct curl_slist *headers = web_header(NULL, "Content-Type", m->type);
	json_t *value;
	char *bearer;

	headers = curl_slist_append(headers, "Expect:");
	json_object_foreach (json_object_get(json_object_get(cx->doc, "catalog"), "headers"), name, value)
		headers = web_header(headers, name, json_string_value(value));
	if (session_foreign(cx) && json_object_get(cx->doc, "s3") == NULL)
		headers = web_header(headers, "X-Iceberg-Access-Delegation", "vended-credentials");
	if (token == NULL || m->bare)
		return headers;
	bearer = xasprintf("Bearer %s", token);
	headers = web_header(headers, "Authorization", bearer);
	explicit_bzero(bearer, strlen(bearer));
	free(bearer);
	return headers;
}

/* A server that sends nothing for a third of what it is waited for hangs: so the whole is bounded by a little more than that. */
static void
message_bounds(const struct context *cx, CURL *curl)
{
	long stalled = (long)(session_patience(cx) / US_PER_S / 3);

	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, session_foreign(cx) && stalled < 10 ? (stalled ? stalled : 1L) : 10L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 120L);
	if (!session_foreign(cx))
		return;
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, stalled ? stalled : 1L);
}

static int
message_send(struct context *cx, const struct message *m, json_t **out)
{
	struct buf answer = BUF_INIT_MAX(ANSWER_MAX);
	struct curl_slist *headers = message_headers(cx, m);
	char why[CURL_ERROR_SIZE] = "";
	enum spent part = spent_enter(SPENT_CATALOG);
	CURLcode code;
	CURL *curl;
	long status = -1;

	*out = NULL;
	if (session_curl == NULL)
		rest_warm();
	curl = session_curl;
	curl_easy_reset(curl);
	curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, m->fresh ? 1L : 0L);
	curl_easy_setopt(curl, CURLOPT_URL, m->url);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, m->method);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_answer_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	message_bounds(cx, curl);
	if (m->body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, m->body);
	code = curl_easy_perform(curl);
	if (code != CURLE_OK) {
		task_fail(cx, ERR_UNAVAILABLE, "the catalog at %s cannot be asked: %s", setting(cx, "uri"),
			  why[0] ? why : curl_easy_strerror(code));
		if (code_away(code))
			status = REST_UNSURE;
	} else {
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
		if (answer.len)
			*out = json_loadb(answer.s, answer.len, 0, NULL);
	}
	curl_easy_reset(curl); /* what it points to ends here */
	curl_slist_free_all(headers);
	buf_release(&answer);
	spent_leave(part);
	return (int)status;
}

/* ---- another server's tokens and configuration ---- */

static char *
token_endpoint(const struct context *cx)
{
	const char *given = setting(cx, "oauth2_server_uri");

	return given ? xstrdup(given) : xasprintf("%s/v1/oauth/tokens", setting(cx, "uri"));
}

static void
form_add(struct buf *b, const char *name, const char *value, size_t n)
{
	buf_addf(b, "%s%s=", b->len ? "&" : "", name);
	for (size_t i = 0; i < n; i++)
		buf_addf(b, "%%%02X", (unsigned char)value[i]);
}

/* The answer to an exchange: keeps the token. */
static int
token_keep(struct context *cx, int status, const json_t *answer)
{
	const char *token = json_string_value(json_object_get(answer, "access_token")),
		   *why = json_string_value(json_object_get(answer, "error_description"));
	dur_us lasts = (dur_us)json_integer_value(json_object_get(answer, "expires_in")) * US_PER_S;
	char *endpoint;

	if (status == 200 && token) {
		session.token = xstrdup(token);
		session.token_ends = lasts > 0 ? clock_mono() + lasts - (lasts > 2 * TOKEN_MARGIN ? TOKEN_MARGIN : lasts / 2) : 0;
		return 0;
	}
	if (why == NULL)
		why = json_string_value(json_object_get(answer, "error"));
	if (why == NULL)
		why = json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
	endpoint = token_endpoint(cx);
	task_fail(cx, ERR_UNAUTHORIZED, "the catalog at %s: %s gave no token for catalog.credential (HTTP status %d): %s",
		  setting(cx, "uri"), endpoint, status, why ? why : "no reason was given");
	free(endpoint);
	return status >= 500 ? REST_UNSURE : -1;
}

static int
token_exchange(struct context *cx)
{
	const char *credential = setting(cx, "credential"), *colon = strchr(credential, ':'), *scope = setting(cx, "scope");
	struct buf form = BUF_INIT;
	char *url = token_endpoint(cx);
	struct message m = { .method = "POST", .url = url, .type = "application/x-www-form-urlencoded", .bare = true };
	json_t *answer;
	int status;

	buf_adds(&form, "grant_type=client_credentials");
	form_add(&form, "client_id", credential, (size_t)(colon - credential));
	form_add(&form, "client_secret", colon + 1, strlen(colon + 1));
	if (scope && *scope)
		form_add(&form, "scope", scope, strlen(scope));
	m.body = form.s;
	status = message_send(cx, &m, &answer);
	explicit_bzero(form.s, form.len);
	buf_release(&form);
	free(url);
	if (status >= 0)
		status = token_keep(cx, status, answer);
	json_decref(answer);
	return status;
}

static void
token_drop(void)
{
	if (session.token)
		explicit_bzero(session.token, strlen(session.token));
	free(session.token);
	session.token = NULL;
	session.token_ends = 0;
}

static int
token_ready(struct context *cx)
{
	if (session.token && (session.token_ends == 0 || clock_mono() < session.token_ends))
		return 0;
	if (setting(cx, "credential")) {
		token_drop();
		return token_exchange(cx);
	}
	session.token = xstrdup_null(setting(cx, "token"));
	return 0;
}

static const char *
told(const json_t *config, const char *key)
{
	const char *forced = json_string_value(json_object_get(json_object_get(config, "overrides"), key));

	return forced ? forced : json_string_value(json_object_get(json_object_get(config, "defaults"), key));
}

static int
config_keep(struct context *cx, int status, const json_t *config)
{
	const char *prefix = told(config, "prefix"), *uri = setting(cx, "uri");
	char *what;

	if (status == 200 && json_is_object(json_object_get(config, "overrides"))) {
		session.base = xasprintf("%s/v1%s%s", uri, prefix && *prefix ? "/" : "", prefix ? prefix : "");
		return 0;
	}
	if (status == 200)
		return task_fail(cx, ERR_UNPROCESSABLE,
				 "what answers at %s/v1/config is no Iceberg REST catalog; see catalog.uri of the "
				 "config",
				 uri);
	what = xasprintf("the catalog at %s gave no configuration", uri);
	rest_fail(cx, what, status, config);
	free(what);
	return status >= 500 ? REST_UNSURE : -1;
}

static int
config_ready(struct context *cx)
{
	const char *warehouse = setting(cx, "warehouse");
	struct buf url = BUF_INIT;
	struct message m = { .method = "GET", .type = "application/json" };
	json_t *config;
	int status;

	buf_addf(&url, "%s/v1/config", setting(cx, "uri"));
	if (warehouse) {
		buf_adds(&url, "?warehouse=");
		for (const char *p = warehouse; *p; p++)
			buf_addf(&url, "%%%02X", (unsigned char)*p);
	}
	m.url = url.s;
	status = message_send(cx, &m, &config);
	buf_release(&url);
	if (status >= 0)
		status = config_keep(cx, status, config);
	json_decref(config);
	return status;
}

/* Gets what requests need. 0, or as session_ask. */
static int
session_ready(struct context *cx)
{
	int rc;

	if (session.doc != cx->doc) {
		token_drop();
		free(session.base);
		session.base = NULL;
		session.doc = cx->doc;
	}
	if (session_foreign(cx)) {
		if ((rc = token_ready(cx)) < 0)
			return rc;
		return session.base ? 0 : config_ready(cx);
	}
	if (session.base == NULL)
		session.base = xasprintf("%s/v1", setting(cx, "uri"));
	return 0;
}

int
session_ask(struct context *cx, const char *method, const char *path, const json_t *body, bool fresh, json_t **out)
{
	struct message m = { .method = method, .type = "application/json", .fresh = fresh };
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL, *url;
	int status;

	*out = NULL;
	for (int try = 0;; try++) {
		if ((status = session_ready(cx)) < 0)
			break;
		url = xasprintf("%s/%s", session.base, path);
		m.url = url;
		m.body = text;
		status = message_send(cx, &m, out);
		free(url);
		/* A server may forget its tokens before they end. What it refuses so it has not done. */
		if (status != 401 || try || !session_foreign(cx) || setting(cx, "credential") == NULL)
			break;
		json_decref(*out);
		token_drop();
	}
	free(text);
	return status;
}

/* ---- storage ---- */

int
session_storage(struct context *cx, const json_t *loaded)
{
	static const char *const names[][2] = { { "endpoint", "s3.endpoint" },
						{ "region", "s3.region" },
						{ "access_key", "s3.access-key-id" },
						{ "secret_key", "s3.secret-access-key" },
						{ "session_token", "s3.session-token" } };
	const json_t *config = json_object_get(loaded, "config"),
		     *given = json_array_get(json_object_get(loaded, "storage-credentials"), 0), *value;
	const char *style = json_string_value(json_object_get(config, "s3.path-style-access"));
	json_t *s3;

	if (!session_foreign(cx) || json_object_get(cx->doc, "s3"))
		return 0;
	s3 = json_pack("{s:b}", "path_style", style && strcmp(style, "true") == 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		value = json_object_get(json_object_get(given, "config"), names[i][1]);
		if (value == NULL)
			value = json_object_get(config, names[i][1]);
		if (value == NULL && strcmp(names[i][0], "region") == 0)
			value = json_object_get(config, "client.region");
		if (value)
			json_object_set(s3, names[i][0], (json_t *)(uintptr_t)value);
	}
	storage_free(cx->storage);
	cx->storage = storage_new(s3, &cx->err);
	cx->s3_given = false;
	json_decref(s3);
	return cx->storage ? 0 : -1;
}

/* ---- the engine's own requests ---- */

static void
add_option(struct buf *b, const char *name, const char *value, size_t n)
{
	char *text = xstrndup(value, n);

	buf_addf(b, ", %s ", name);
	buf_add_sql_string(b, text);
	explicit_bzero(text, n);
	free(text);
}

static void
add_extra_headers(const struct context *cx, struct buf *b)
{
	const json_t *headers = json_object_get(json_object_get(cx->doc, "catalog"), "headers");
	const char *name, *sep = "";
	json_t *value;

	if (json_object_size(headers) == 0)
		return;
	buf_adds(b, ", EXTRA_HTTP_HEADERS MAP {");
	json_object_foreach ((json_t *)(uintptr_t)headers, name, value) {
		buf_adds(b, sep);
		buf_add_sql_string(b, name);
		buf_adds(b, ": ");
		buf_add_sql_string(b, json_string_value(value));
		sep = ", ";
	}
	buf_addc(b, '}');
}

void
session_engine(const struct context *cx, struct buf *secret, struct buf *options)
{
	const char *token = setting(cx, "token"), *credential = setting(cx, "credential"), *scope = setting(cx, "scope");

	add_option(options, "ENDPOINT", setting(cx, "uri"), strlen(setting(cx, "uri")));
	if (session_foreign(cx)) /* our own catalog looks at the token; there a query could do whatever the config's may */
		buf_adds(options, ", READ_ONLY");
	if (token == NULL && credential == NULL) {
		buf_adds(options, ", AUTHORIZATION_TYPE 'none'");
		add_extra_headers(cx, options);
		return;
	}
	buf_adds(secret, "CREATE OR REPLACE TEMPORARY SECRET sluice_catalog (TYPE iceberg");
	if (token) {
		add_option(secret, "TOKEN", token, strlen(token));
	} else {
		/* The engine renews its token by itself. */
		const char *colon = strchr(credential, ':');
		char *endpoint = token_endpoint(cx);

		add_option(secret, "CLIENT_ID", credential, (size_t)(colon - credential));
		add_option(secret, "CLIENT_SECRET", colon + 1, strlen(colon + 1));
		add_option(secret, "OAUTH2_SERVER_URI", endpoint, strlen(endpoint));
		if (scope)
			add_option(secret, "OAUTH2_SCOPE", scope, strlen(scope));
		free(endpoint);
	}
	add_extra_headers(cx, secret);
	buf_addc(secret, ')');
	buf_adds(options, ", SECRET sluice_catalog");
}
