/* Does a JSON value fit a type made of parts? The engine's TRY_CAST makes NULL of a part that does not, without a word. */
#ifndef TASKS_JSON_FIT_H
#define TASKS_JSON_FIT_H

#include "base/buf.h"
#include "tasks/engines/duckdb.h"

/*
 * Adds the condition that casting `value` (an expression of type JSON) to `type` (any spelling of a DuckDB type) loses a part of
 * it: a value that is there becomes NULL, or an object's place is taken by something else. Members that are not there, are null,
 * or that the type does not have are no loss. NULL counts as false. 0, or -1 with `e` set.
 */
int json_fit_add_lost(struct duck *db, const char *value, const char *type, struct buf *b, struct err *e);

#endif
