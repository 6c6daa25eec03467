/* Types that a task asks for, column by column. */
#ifndef TASKS_CASTS_H
#define TASKS_CASTS_H

#include <jansson.h>

#include "base/buf.h"
#include "tasks/context.h"

/* Is each of `cast` a column of `names` and a type? `key` is its place in the task. 0, or -1 with the error set. */
int casts_check(struct context *cx, const char *key, const json_t *cast, const json_t *names);
/* The type of a column in {column: type}, by name in whatever case; NULL: none. Borrowed. */
const char *casts_type(const json_t *cast, const char *name);
/* "CAST(name AS type) AS name", or the name alone where there is no type. */
void casts_add(struct buf *b, const char *name, const char *type);

#endif
