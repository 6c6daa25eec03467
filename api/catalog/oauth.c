/*
 * Tokens for clients that know credentials only. Nothing is issued: a token of this daemon is what a client gets back, once it
 * has shown that it knows it; so a token that is deleted is dead everywhere, and a refresh gives the same one again.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/auth.h"
#include "api/catalog/catalog_int.h"
#include "api/route.h"
#include "base/alloc.h"

#define ACCESS_TOKEN "urn:ietf:params:oauth:token-type:access_token"
#define EXCHANGE     "urn:ietf:params:oauth:grant-type:token-exchange"
/* Tokens do not expire; clients ask again after this time, and so learn that one was deleted. */
#define EXPIRES_IN 3600

/* The value of a field of a form; NULL when it is missing. The caller frees it. */
static char *
form_field(const char *form, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = form; *p; p += *p == '&') {
		size_t len = strcspn(p, "&");

		if (len > n && strncmp(p, name, n) == 0 && p[n] == '=')
			return percent_decode(p + n + 1, len - n - 1, true);
		p += len;
	}
	return NULL;
}

/* Text in base64; NULL when it is none. The caller frees it. */
static char *
base64_decode(const char *s)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	struct buf b = BUF_INIT;
	unsigned bits = 0, have = 0;

	for (; *s && *s != '='; s++) {
		const char *digit = strchr(digits, *s);

		if (digit == NULL) {
			buf_release(&b);
			return NULL;
		}
		bits = bits << 6 | (unsigned)(digit - digits);
		have += 6;
		if (have >= 8) {
			have -= 8;
			buf_addc(&b, (char)(bits >> have & 0xff));
		}
	}
	return buf_detach(&b);
}

static void
oauth_error(struct request *rq, int status, const char *error, const char *why)
{
	reply_header(rq, "Cache-Control", "no-store");
	reply_json(rq, status, json_pack("{s:s,s:s}", "error", error, "error_description", why));
}

static void
secret_free(char *s)
{
	if (s)
		explicit_bzero(s, strlen(s));
	free(s);
}

/* `id` is NULL when the client did not say which token it means. */
static void
oauth_answer(struct request *rq, const char *id, const char *token)
{
	struct err e = ERR_INIT;
	const char *owner;
	enum role role;
	int code;

	if (auth_token(rq->app, token, &role, &owner, &e) < 0) {
		code = e.code;
		err_release(&e);
		if (code == ERR_UNAVAILABLE)
			oauth_error(rq, 503, "temporarily_unavailable", "the tokens are not loaded yet; try again in a moment");
		else
			oauth_error(rq, 401, "invalid_client", "the secret is no token of this daemon");
	} else if (id && *id && strcmp(id, owner) != 0) {
		oauth_error(rq, 401, "invalid_client",
			    "the client_id is not the id of this token; \"admin\" is that of HOME/token");
	} else if (role != ROLE_ADMIN && role != ROLE_CATALOG) {
		oauth_error(rq, 400, "unauthorized_client", "the catalog needs a token of scope admin");
	} else {
		reply_header(rq, "Cache-Control", "no-store");
		reply_json(rq, 200,
			   json_pack("{s:s,s:s,s:i,s:s,s:s}", "access_token", token, "token_type", "bearer", "expires_in",
				     EXPIRES_IN, "issued_token_type", ACCESS_TOKEN, "scope", "catalog"));
	}
}

/* The id and secret come in the form, or in the header as user and password. */
static void
oauth_credentials(struct request *rq)
{
	const char *header = request_header(rq, "Authorization");
	char *id = form_field(rq->body.s, "client_id"), *secret = form_field(rq->body.s, "client_secret"), *basic, *colon;

	if (secret == NULL && header && strncasecmp(header, "Basic ", 6) == 0 && (basic = base64_decode(header + 6)) != NULL) {
		colon = strchr(basic, ':');
		if (colon) {
			free(id);
			id = xstrndup(basic, (size_t)(colon - basic));
			secret = xstrdup(colon + 1);
		}
		secret_free(basic);
	}
	if (secret == NULL || *secret == '\0')
		oauth_error(rq, 401, "invalid_client",
			    "client_id and client_secret must be the id of a token of this daemon, and the token");
	else
		oauth_answer(rq, id, secret);
	secret_free(secret);
	free(id);
}

static void
oauth_exchange(struct request *rq)
{
	char *subject = form_field(rq->body.s, "subject_token"), *type = form_field(rq->body.s, "subject_token_type");

	if (subject == NULL || *subject == '\0')
		oauth_error(rq, 400, "invalid_request", "a token exchange needs subject_token");
	else if (type == NULL || strcmp(type, ACCESS_TOKEN) != 0)
		oauth_error(rq, 400, "invalid_request", "the subject_token_type must be " ACCESS_TOKEN);
	else
		oauth_answer(rq, NULL, subject);
	secret_free(subject);
	free(type);
}

void
oauth_tokens(struct request *rq)
{
	char *grant = form_field(rq->body.s, "grant_type");

	if (grant == NULL)
		oauth_error(rq, 400, "invalid_request", "grant_type is missing");
	else if (strcmp(grant, "client_credentials") == 0)
		oauth_credentials(rq);
	else if (strcmp(grant, EXCHANGE) == 0)
		oauth_exchange(rq);
	else
		oauth_error(rq, 400, "unsupported_grant_type", "use client_credentials or " EXCHANGE);
	free(grant);
}
