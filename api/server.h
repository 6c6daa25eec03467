/* The API as the daemon starts it: the TCP listener, the unix socket, the tokens. */
#ifndef API_SERVER_H
#define API_SERVER_H

#include "api/app.h"

struct api;

/*
 * Listens on `listen`, "host:port" (port 0 picks one), and on the unix socket `unix_path` (NULL: none; an old file is
 * replaced, so the caller holds HOME's lock). Sets app->url and app->auth. NULL with `e` set, a sentence for a person.
 */
struct api *api_start(struct app *app, const char *listen, const char *unix_path, struct err *e);
/* Answers open requests with 503, ends streams, closes the sockets, and removes the unix socket's file. */
void api_stop(struct api *api);

#endif
