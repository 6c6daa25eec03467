/* What tables are made of, and how far that is from what it could be. */
#ifndef TASKS_HEALTH_H
#define TASKS_HEALTH_H

#include "tasks/context.h"

/*
 * Of each of [{"table", "location"}], under the config's `housekeeping`, what tasks/health.c says: {"table", "score", "parts", …}
 * or {"table", "error"}, in the same order; a table that cannot be read spoils no other. New reference.
 */
json_t *health_of(struct context *cx, const json_t *tables, const json_t *housekeeping);

#endif
