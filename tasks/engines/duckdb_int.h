/* What files beside duckdb.c need of it to call the engine's C API themselves. */
#ifndef TASKS_ENGINES_DUCKDB_INT_H
#define TASKS_ENGINES_DUCKDB_INT_H

#include <duckdb.h>

struct duck;

/* A function of the mapped library; there is one, or the release is another than the one we know: a bug. */
void *duck_symbol(const char *name);
duckdb_connection duck_connection(const struct duck *db);

#endif
