/* The HTTP API as the command line speaks it: over the state folder's unix socket, or SLUICE_URL with SLUICE_TOKEN. */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buf.h"
#include "cli/cli.h"

struct client;

/* Never fails; whether a daemon answers is seen with the first call. */
struct client *client_open(const struct args *a);
struct client *client_open_home(const char *home);
void client_close(struct client *c);

/*
 * One request. Returns the HTTP status and the body as JSON (NULL when it is none; the caller owns it); 0 after printing why
 * no daemon could be asked. `body` is taken over.
 */
int client_call(struct client *c, const char *method, const char *path, json_t *body, json_t **out);
/* As client_call, and refuses for the person when the status is not 2xx: returns EXIT_OK, or the exit status to leave with. */
int client_do(struct client *c, const char *method, const char *path, json_t *body, json_t **out);
/* Says nothing when no daemon answers, for a caller that knows what to do then. */
void client_silent(struct client *c, bool silent);
/* An extra header for the next requests; NULL clears it. */
void client_header(struct client *c, const char *header);
/* The body's bytes as they come; non-zero from `cb` ends it. Returns the HTTP status, 0 after a message. */
int client_stream(struct client *c, const char *path, const char *accept, int (*cb)(void *arg, const char *data, size_t len),
		  void *arg);
/* Is a daemon there, though its database may be away? No message. */
bool client_answers(struct client *c);
/* Does a daemon answer that takes triggers? No message. */
bool client_alive(struct client *c);
/* Adds `s` percent-encoded. */
void add_encoded(struct buf *b, const char *s);
/* Prints a problem answer for a person; returns EXIT_REFUSED. */
int client_refuse(int status, const json_t *problem);

#endif
