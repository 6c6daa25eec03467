/*
 * The catalog's server: our own daemon, which takes the attempt's token, or another one (catalog.type: rest), which is asked for
 * its configuration once and for tokens as they end.
 */
#ifndef TASKS_ICEBERG_SESSION_H
#define TASKS_ICEBERG_SESSION_H

#include <jansson.h>

#include "base/clock.h"
#include "tasks/context.h"

/* Is the catalog another server's? */
bool session_foreign(const struct context *cx);
/* How long a server that is away is waited for. */
dur_us session_patience(const struct context *cx);
/*
 * One request to a path of the catalog, sent once but for a token that had ended: the HTTP status and the answer's JSON, as
 * rest_call has them; -1 with the error set, and REST_UNSURE where nobody knows whether it arrived. `fresh`: on a connection of
 * its own.
 */
int session_ask(struct context *cx, const char *method, const char *path, const json_t *body, bool fresh, json_t **out);
/*
 * Takes the S3 store of a table, as its load result tells it, for what is read and written from now on; where the config has a
 * store that one stays. 0, or -1 with the error set.
 */
int session_storage(struct context *cx, const json_t *loaded);
/* The statement that makes the engine's secret for the catalog (empty where it needs none), and ATTACH's options. */
void session_engine(const struct context *cx, struct buf *secret, struct buf *options);

#endif
