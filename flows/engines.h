/* The engines that tasks run on: which types of tasks each one does, and what of their keys it cannot. */
#ifndef FLOWS_ENGINES_H
#define FLOWS_ENGINES_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "flows/flow.h"

/* Is it an engine that tasks can name today? 0, or ERR_UNSUPPORTED / ERR_UNPROCESSABLE with the names that are. */
MUSTCHECK int engine_check_name(const char *name, struct err *e);
/* Does the engine do tasks of this type at all? */
bool engine_does(const char *engine, enum task_type type);
/* Does the engine reach catalogs of this type? 0, or ERR_UNPROCESSABLE with those that do. */
MUSTCHECK int engine_check_catalog(const char *engine, const char *type, struct err *e);
/*
 * Can the engine do this task, with these keys? `spec` may hold refs, which are taken for fit until they are resolved. 0, or
 * ERR_UNPROCESSABLE; `key`, if not NULL, then gets the path of what it cannot do, as in `pos`. The caller frees it.
 */
MUSTCHECK int engine_check_task(const char *engine, const struct task_def *t, const json_t *spec, char **key, struct err *e);
/* Does it live in a folder of its own (HOME/engines/NAME), made by `sluice engines install`? */
bool engine_is_installed_apart(const char *name);

#endif
