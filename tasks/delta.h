/* A Delta table as a source of rows: one version of it, the same for every statement of the task. */
#ifndef TASKS_DELTA_H
#define TASKS_DELTA_H

#include <jansson.h>
#include <stdint.h>

#include "tasks/context.h"

/* What FROM takes once delta_open has succeeded. */
#define DELTA_ROWS "sluice_delta"

struct delta {
	char *path;  /* without a slash at its end */
	char *plain; /* how the extension gets there */
	int64_t version;
	int64_t rows;       /* as its log counts them; -1: it does not */
	json_t *partitions; /* list of columns */
	json_t *required;   /* list of the columns that are never NULL */
	json_t *mapped;     /* with column mapping by id: field id -> the column's name in the files; else NULL */
};

/* `source` has path and perhaps version or timestamp; `key` is its place in the task. 0, or -1 with the error set. */
int delta_open(struct context *cx, const char *key, const json_t *source, struct delta *d);
void delta_release(struct delta *d);

#endif
