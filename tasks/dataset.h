/* A Parquet data set as a source of rows: files in folders such as year=2024, whose names are columns as well. */
#ifndef TASKS_DATASET_H
#define TASKS_DATASET_H

#include <jansson.h>

#include "base/buf.h"
#include "tasks/context.h"
#include "tasks/iceberg/write.h"

struct dataset {
	struct buf query;   /* its rows: the files' columns in their order, then those of the folders */
	json_t *partitions; /* list of the folders' columns */
};

/*
 * `from` has path and perhaps cast. `have`: column to SQL type of the table that the rows go to, which decides what a folder's
 * text is; NULL: no such table. 0, or -1 with the error set.
 */
int dataset_open(struct context *cx, const json_t *from, const json_t *have, enum write_evolution evolution, struct dataset *ds);
void dataset_release(struct dataset *ds);

#endif
