/*
 * Who may ask: tokens (HOME/token for the admin, further ones in the table `tokens` by hash), attempts' tokens, the unix
 * socket's peer; and the checks against pages of foreign origin (Host and Origin).
 */
#ifndef API_AUTH_H
#define API_AUTH_H

#include "api/app.h"
#include "api/http.h"

struct auth;

/*
 * Reads HOME/token, making it first if there is none, and begins to load the table. `listen_host` is the address that was
 * configured, NULL for none. NULL with `e` set on failure.
 */
struct auth *auth_open(struct app *app, const char *listen_host, struct err *e);
void auth_close(struct auth *a);

/* Sets rq->role and rq->attempt, or returns an error: 401 for a bad token, 403 for a foreign Host or Origin. */
MUSTCHECK int auth_check(struct request *rq, enum role needed, struct err *e);
/* Whose token is this? `id` (borrowed) is that of the token or, with ROLE_CATALOG, "run/task/n" of the attempt. 401 or 503. */
MUSTCHECK int auth_token(struct app *app, const char *token, enum role *role, const char **id, struct err *e);
/* Answers `GET /?token=…` with a cookie and a redirect to the same path without it. Returns false when this is no such request.
 */
bool auth_login(struct request *rq);

/* Pure, for tests. `host` is a Host header's value. */
bool auth_host_ok(const char *host, const char *listen_host);
bool auth_origin_ok(const char *origin, const char *host);

/* Handlers of /api/v1/tokens. */
void auth_list(struct request *rq);
void auth_create(struct request *rq);
void auth_delete(struct request *rq);

#endif
