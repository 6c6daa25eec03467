/*
 * Tokens are 32 random bytes; only their SHA-256 is kept (the admin's, in a file of the state folder, aside), so that looking
 * one up by hash takes no secret-dependent time. All of them are in memory; the table is read once, at the start.
 */
#include "api/auth.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/sha256.h"
#include "scheduler/alarm.h"

#define TOKEN_BYTES 32
#define TOKEN_MIN   20 /* characters that a token in the file must have */
#define COOKIE      "sluice_token"

struct token {
	char *id, *created_at;
	enum role role;
	char hash[SHA256_HEX];
	UT_hash_handle hh;
};

struct auth {
	struct app *app;
	char *listen_host;
	struct token *tokens; /* by hash */
	bool loaded;          /* the table was read */
	bool closed, pending; /* pending: the store will still call back */
	struct alarm *retry;
};

static const struct {
	const char *name;
	enum role role;
} scopes[] = { { "viewer", ROLE_VIEWER }, { "runner", ROLE_RUNNER }, { "admin", ROLE_ADMIN } };

static const char *
scope_name(enum role role)
{
	for (size_t i = 0; i < sizeof(scopes) / sizeof(scopes[0]); i++)
		if (scopes[i].role == role)
			return scopes[i].name;
	return role == ROLE_CATALOG ? "catalog" : "none";
}

static enum role
scope_parse(const char *name)
{
	for (size_t i = 0; name && i < sizeof(scopes) / sizeof(scopes[0]); i++)
		if (strcmp(scopes[i].name, name) == 0)
			return scopes[i].role;
	return ROLE_NONE;
}

/* Random bytes in lower-case hex: an id or a token is then never taken for an option, nor split by a double click. The caller
 * frees it. */
static char *
token_random(size_t bytes)
{
	unsigned char noise[TOKEN_BYTES];
	struct buf b = BUF_INIT;

	ASSERT(bytes <= sizeof(noise));
	if (getrandom(noise, bytes, 0) != (ssize_t)bytes)
		BUG("no random numbers");
	for (size_t i = 0; i < bytes; i++)
		buf_addf(&b, "%02x", noise[i]);
	return buf_detach(&b);
}

static struct token *
token_add(struct auth *a, const char *id, enum role role, const char *hash, const char *created_at)
{
	struct token *t;

	HASH_FIND_STR(a->tokens, hash, t);
	if (t)
		return t;
	t = xcalloc(1, sizeof(*t));
	t->id = xstrdup(id);
	t->created_at = xstrdup(created_at);
	t->role = role;
	snprintf(t->hash, sizeof(t->hash), "%s", hash);
	HASH_ADD_STR(a->tokens, hash, t);
	return t;
}

static void
token_remove(struct auth *a, struct token *t)
{
	HASH_DEL(a->tokens, t);
	free(t->id);
	free(t->created_at);
	free(t);
}

static struct token *
token_by_id(struct auth *a, const char *id)
{
	struct token *t, *tmp;

	HASH_ITER(hh, a->tokens, t, tmp)
	{
		if (strcmp(t->id, id) == 0)
			return t;
	}
	return NULL;
}

/* ---- the admin's token ---- */

static int
token_file_make(const char *path, struct err *e)
{
	char *tmp = xasprintf("%s.new", path), *token = token_random(TOKEN_BYTES), *line = xasprintf("%s\n", token);
	int fd, rc = -1;

	unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line) && fsync(fd) == 0 && rename(tmp, path) == 0)
		rc = 0;
	else
		err_set(e, ERR_IO, "cannot write the admin token %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(line);
	free(token);
	free(tmp);
	return rc;
}

static int
token_file_read(struct auth *a, struct err *e)
{
	char *path = xasprintf("%s/token", a->app->home);
	struct buf b = BUF_INIT_MAX(4096);
	char hash[SHA256_HEX], now[TIME_TEXT];
	struct stat st;
	int rc = -1, io;

	if (access(path, F_OK) < 0 && token_file_make(path, e) < 0)
		goto out;
	if (stat(path, &st) == 0 && (st.st_mode & 077)) {
		log_warn("%s could be read by others; its mode is 0600 now", path);
		if (chmod(path, 0600) < 0)
			log_warn("%s: %s", path, strerror(errno));
	}
	io = buf_add_file(&b, path);
	if (io < 0) {
		err_set(e, ERR_IO, "cannot read the admin token %s: %s", path, strerror(-io));
		goto out;
	}
	b.len = strcspn(b.s, " \t\r\n");
	b.s[b.len] = '\0';
	if (b.len < TOKEN_MIN) {
		err_set(e, ERR_INVALID,
			"the admin token in %s has fewer than %d characters; remove the file and a new one is made", path,
			TOKEN_MIN);
		goto out;
	}
	sha256_hex(b.s, b.len, hash);
	token_add(a, "admin", ROLE_ADMIN, hash, time_format(clock_wall(), now));
	rc = 0;
out:
	explicit_bzero(b.s, b.len);
	buf_release(&b);
	free(path);
	return rc;
}

/* ---- life ---- */

static void auth_load(void *arg);

static void
auth_free(struct auth *a)
{
	struct token *t, *tmp;

	HASH_ITER(hh, a->tokens, t, tmp)
	{
		token_remove(a, t);
	}
	alarm_cancel(&a->retry);
	free(a->listen_host);
	free(a);
}

static void
on_tokens_loaded(void *arg, const struct rows *r, struct err *e)
{
	struct auth *a = arg;

	a->pending = false;
	if (a->closed) {
		auth_free(a);
		return;
	}
	if (r == NULL) {
		log_warn("the tokens cannot be read now: %s", e->msg);
		alarm_set(&a->retry, a->app->loop, US_PER_S, auth_load, a);
		return;
	}
	for (size_t i = 0; i < rows_count(r); i++)
		token_add(a, rows_get(r, i, 0), scope_parse(rows_get(r, i, 1)), rows_get(r, i, 2), rows_get(r, i, 3));
	a->loaded = true;
}

static void
auth_load(void *arg)
{
	struct auth *a = arg;

	a->pending = true;
	store_query(a->app->store,
		    "SELECT id, scope, hash, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
		    " FROM sluice.tokens",
		    0, NULL, on_tokens_loaded, a);
}

struct auth *
auth_open(struct app *app, const char *listen_host, struct err *e)
{
	struct auth *a = xcalloc(1, sizeof(*a));

	a->app = app;
	a->listen_host = xstrdup_null(listen_host);
	if (token_file_read(a, e) < 0) {
		auth_free(a);
		return NULL;
	}
	auth_load(a);
	return a;
}

void
auth_close(struct auth *a)
{
	if (a == NULL)
		return;
	a->closed = true;
	alarm_cancel(&a->retry);
	if (!a->pending)
		auth_free(a);
}

/* ---- who asks ---- */

static bool
host_is_loopback_or(const char *name, const char *listen_host)
{
	struct in_addr v4;
	struct in6_addr v6;
	bool any = listen_host && (strcmp(listen_host, "0.0.0.0") == 0 || strcmp(listen_host, "::") == 0);
	size_t n = strlen(name);
	char own[256];

	if (strcasecmp(name, "localhost") == 0 || (n > 10 && strcasecmp(name + n - 10, ".localhost") == 0))
		return true;
	if (inet_pton(AF_INET, name, &v4) == 1) /* an address cannot be rebound, so on all interfaces any will do */
		return any || (ntohl(v4.s_addr) >> 24) == 127 || (listen_host && strcmp(name, listen_host) == 0);
	if (inet_pton(AF_INET6, name, &v6) == 1)
		return any || IN6_IS_ADDR_LOOPBACK(&v6) || (listen_host && strcasecmp(name, listen_host) == 0);
	if (any && gethostname(own, sizeof(own)) == 0 && strcasecmp(name, own) == 0)
		return true;
	return listen_host && !any && strcasecmp(name, listen_host) == 0;
}

bool
auth_host_ok(const char *host, const char *listen_host)
{
	char name[256];
	size_t n;

	if (host == NULL || *host == '\0')
		return false;
	if (*host == '[') {
		n = strcspn(++host, "]");
		if (host[n] != ']' || (host[n + 1] && host[n + 1] != ':'))
			return false;
	} else {
		n = strcspn(host, ":");
	}
	if (n == 0 || n >= sizeof(name))
		return false;
	memcpy(name, host, n);
	name[n] = '\0';
	return host_is_loopback_or(name, listen_host);
}

bool
auth_origin_ok(const char *origin, const char *host)
{
	if (host == NULL)
		return false;
	if (strncasecmp(origin, "http://", 7) == 0)
		return strcasecmp(origin + 7, host) == 0;
	return strncasecmp(origin, "https://", 8) == 0 && strcasecmp(origin + 8, host) == 0;
}

/* The cookie's value; the caller frees it. */
static char *
cookie_token(struct request *rq)
{
	const char *p = request_header(rq, "Cookie");
	size_t name = strlen(COOKIE);

	while (p && *p) {
		p += strspn(p, " ;");
		if (strncmp(p, COOKIE, name) == 0 && p[name] == '=')
			return xstrndup(p + name + 1, strcspn(p + name + 1, "; "));
		p = strchr(p, ';');
	}
	return NULL;
}

static const struct token *
token_find(struct auth *a, const char *text)
{
	char hash[SHA256_HEX];
	struct token *t;

	sha256_hex(text, strlen(text), hash);
	HASH_FIND_STR(a->tokens, hash, t);
	return t;
}

int
auth_token(struct app *app, const char *token, enum role *role, const char **id, struct err *e)
{
	const struct token *t = token_find(app->auth, token);

	if (t) {
		*role = t->role;
		*id = t->id;
		return 0;
	}
	*id = app->sched ? sched_attempt_of_token(app->sched, token) : NULL;
	if (*id) {
		*role = ROLE_CATALOG;
		return 0;
	}
	if (!app->auth->loaded || (app->sched && !sched_ready(app->sched))) /* an attempt's token may be known in a moment */
		return err_set(e, ERR_UNAVAILABLE, "the tokens are not loaded yet; try again in a moment");
	return err_set(e, ERR_UNAUTHORIZED,
		       "the token is not known here: it was deleted, belongs to an attempt that has ended, or to another daemon");
}

static char *
user_name(uid_t uid)
{
	const struct passwd *pw = getpwuid(uid);

	return pw ? xasprintf("user %s", pw->pw_name) : xasprintf("user %u", (unsigned)uid);
}

static int
auth_by_token(struct request *rq, const char *token, struct err *e)
{
	const char *id;
	int rc = auth_token(rq->app, token, &rq->role, &id, e);

	if (rc == 0 && rq->role == ROLE_CATALOG)
		rq->attempt = xstrdup(id);
	else if (rc == 0)
		rq->who = xasprintf("token %s", id);
	return rc;
}

static int
auth_who(struct request *rq, struct err *e)
{
	const char *header = request_header(rq, "Authorization"), *origin = request_header(rq, "Origin");
	char *cookie;
	uid_t uid;
	int rc;

	if (header) {
		if (strncasecmp(header, "Bearer ", 7) != 0)
			return err_set(e, ERR_UNAUTHORIZED, "the Authorization header must be: Bearer TOKEN");
		return auth_by_token(rq, header + 7 + strspn(header + 7, " "), e);
	}
	if (request_local(rq, &uid)) {
		if (uid != geteuid() && uid != 0)
			return err_set(e, ERR_UNAUTHORIZED,
				       "the socket serves the daemon's own user only; another user needs a token");
		rq->role = ROLE_ADMIN;
		rq->who = user_name(uid);
		return 0;
	}
	cookie = cookie_token(rq);
	if (cookie == NULL)
		return err_set(e, ERR_UNAUTHORIZED,
			       "send a token as \"Authorization: Bearer TOKEN\"; the admin's is in the file \"token\" of the "
			       "state folder");
	rc = auth_by_token(rq, cookie, e);
	free(cookie);
	/* A browser sends the cookie whoever wrote the page: what changes something must come from a page of ours. */
	if (rc == 0 && origin == NULL && strcmp(rq->method, "GET") != 0 && strcmp(rq->method, "HEAD") != 0) {
		rq->role = ROLE_NONE;
		return err_set(e, ERR_FORBIDDEN, "a %s with a cookie needs an Origin header of the same host", rq->method);
	}
	return rc;
}

int
auth_check(struct request *rq, enum role needed, struct err *e)
{
	const char *host = request_header(rq, "Host"), *origin = request_header(rq, "Origin");
	struct err who = ERR_INIT;
	uid_t uid;
	int rc;

	if (!request_local(rq, &uid) && !auth_host_ok(host, rq->app->auth->listen_host))
		return err_set(e, ERR_FORBIDDEN, "the Host \"%s\" is not one that this daemon answers to", host ? host : "");
	if (origin && !auth_origin_ok(origin, host))
		return err_set(e, ERR_FORBIDDEN, "a page of %s may not use this daemon", origin);
	rc = auth_who(rq, &who);
	if (needed == ROLE_NONE) {
		err_release(&who);
		return 0;
	}
	if (rc < 0)
		return err_move(e, &who);
	/* Tables that nobody of the daemon's own would ever see must not be made here. */
	if (needed == ROLE_CATALOG && config_foreign(rq->app->config))
		return err_set(e, ERR_UNSUPPORTED, "the catalog \"%s\" is kept by another server: %s",
			       config_get(rq->app->config, "catalog.name"), config_place(rq->app->config));
	if (needed == ROLE_CATALOG ? rq->role == ROLE_CATALOG || rq->role == ROLE_ADMIN
				   : rq->role != ROLE_CATALOG && rq->role >= needed)
		return 0;
	return err_set(e, ERR_FORBIDDEN, "this needs a token of scope %s; the one given has scope %s", scope_name(needed),
		       scope_name(rq->role));
}

bool
auth_login(struct request *rq)
{
	const char *token = strcmp(rq->path, "/") == 0 ? request_query(rq, "token") : NULL;
	char *cookie;

	if (token == NULL || strcmp(rq->method, "GET") != 0)
		return false;
	if (token_find(rq->app->auth, token) == NULL) {
		reply_problem(
			rq, ERR_UNAUTHORIZED,
			"the token in the address is not known here; the admin's is in the file \"token\" of the state folder");
		return true;
	}
	cookie = xasprintf(COOKIE "=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000", token);
	reply_header(rq, "Set-Cookie", cookie);
	reply_header(rq, "Referrer-Policy", "no-referrer");
	reply_header(rq, "Location", "/");
	free(cookie);
	reply_empty(rq, 303);
	return true;
}

/* ---- /api/v1/tokens ---- */

static json_t *
token_json(const struct token *t)
{
	return json_pack("{s:s,s:s,s:s}", "id", t->id, "scope", scope_name(t->role), "created_at", t->created_at);
}

void
auth_list(struct request *rq)
{
	struct token *t, *tmp;
	json_t *items = json_array();

	HASH_ITER(hh, rq->app->auth->tokens, t, tmp)
	{
		if (strcmp(t->id, "admin") != 0)
			json_array_append_new(items, token_json(t));
	}
	reply_json(rq, 200, json_pack("{s:o,s:n}", "items", items, "next"));
}

struct token_new {
	struct request *rq;
	char *id, *token, *created_at, hash[SHA256_HEX];
	enum role role;
};

static void
on_token_written(void *arg)
{
	struct token_new *n = arg;
	struct request *rq = n->rq;

	if (rq->app->auth) /* else the server has stopped meanwhile */
		token_add(rq->app->auth, n->id, n->role, n->hash, n->created_at);
	reply_json(rq, 201,
		   json_pack("{s:s,s:s,s:s,s:s}", "id", n->id, "scope", scope_name(n->role), "created_at", n->created_at, "token",
			     n->token));
	explicit_bzero(n->token, strlen(n->token));
	free(n->id);
	free(n->token);
	free(n->created_at);
	free(n);
}

void
auth_create(struct request *rq)
{
	json_t *body = request_json(rq);
	struct token_new *n;
	char now[TIME_TEXT];
	enum role role;

	if (body == NULL)
		return;
	role = scope_parse(json_string_value(json_object_get(body, "scope")));
	json_decref(body);
	if (role == ROLE_NONE) {
		reply_problem(rq, ERR_INVALID, "\"scope\" must be viewer, runner or admin");
		return;
	}
	if (!store_connected(rq->app->store)) {
		reply_problem(rq, ERR_UNAVAILABLE, "the database cannot be reached now; try again in a moment");
		return;
	}
	n = xcalloc(1, sizeof(*n));
	n->rq = rq;
	rq->data = n; /* on_token_written frees it */
	n->role = role;
	n->id = token_random(6);
	n->token = token_random(TOKEN_BYTES);
	n->created_at = xstrdup(time_format(clock_wall(), now));
	sha256_hex(n->token, strlen(n->token), n->hash);
	store_write(rq->app->store,
		    "INSERT INTO sluice.tokens (id, scope, hash, created_at) VALUES ($1, $2, $3, $4::timestamptz) ON CONFLICT DO "
		    "NOTHING",
		    4, (const char *[]){ n->id, scope_name(role), n->hash, n->created_at });
	store_after_commit(rq->app->store, on_token_written, n);
}

static void
on_token_deleted(void *arg)
{
	reply_empty(arg, 204);
}

void
auth_delete(struct request *rq)
{
	struct token *t = token_by_id(rq->app->auth, rq->param[0]);

	if (t == NULL || strcmp(t->id, "admin") == 0) {
		reply_problem(rq, ERR_NOT_FOUND, "there is no token %s", rq->param[0]);
		return;
	}
	if (!store_connected(rq->app->store)) {
		reply_problem(rq, ERR_UNAVAILABLE, "the database cannot be reached now; try again in a moment");
		return;
	}
	token_remove(rq->app->auth, t); /* at once: who deletes a token wants it dead now */
	store_write(rq->app->store, "DELETE FROM sluice.tokens WHERE id = $1", 1, (const char *[]){ rq->param[0] });
	store_after_commit(rq->app->store, on_token_deleted, rq);
}
