/* A small client of the catalog's REST endpoint, for what the engine's own extension does not offer. */
#ifndef TASKS_ICEBERG_REST_H
#define TASKS_ICEBERG_REST_H

#include <jansson.h>

#include "base/clock.h"
#include "tasks/context.h"

/* Begins what every request needs; done by the first one, if not before. */
void rest_warm(void);
/*
 * One request to URI/v1/PATH with the attempt's token. Returns the HTTP status and the answer's JSON through `out` (NULL when
 * there is none; the caller owns it); -1 with the error set when the catalog could not be asked. While the daemon is away (an
 * upgrade, a crash) or has no database it is asked again, for some minutes: so the request must be one that may be repeated.
 */
int rest_call(struct context *cx, const char *method, const char *path, const json_t *body, json_t **out);
/*
 * The same once, for a request that must not be repeated blindly. REST_UNSURE when the answer was lost, or leaves open whether
 * it was done; the error is set then.
 */
#define REST_UNSURE (-2)
int rest_once(struct context *cx, const char *method, const char *path, const json_t *body, json_t **out);
/* Waiting for a catalog that is away: begin with zeros. Pauses; false when it has been away for too long. */
struct rest_wait {
	mono_us since;
	int tries;
};
bool rest_wait(struct context *cx, struct rest_wait *w);
/* Tells the log that the waiting is over, if there was any. */
void rest_waited(const struct rest_wait *w);
/* Sets the error from a refused request's answer: "what: message (type)". Returns -1. */
int rest_fail(struct context *cx, const char *what, int status, const json_t *answer);
/* "namespaces/NS/tables/TABLE", percent-encoded; the caller frees it. */
char *rest_table_path(const char *ns, const char *table);
/* "namespaces/NS" and what comes after it; a path with a query's value. The caller frees them. */
char *rest_namespace_path(const char *ns, const char *what);
char *rest_query_path(const char *path, const char *name, const char *value);
/* Loads a table: 200 with the load result through `out`, or 404; -1 with the error set for anything else. */
int rest_load_table(struct context *cx, const char *ns, const char *table, json_t **out);
/* Makes the namespace unless it is there. */
int rest_ensure_namespace(struct context *cx, const char *ns);

#endif
