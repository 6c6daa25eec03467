/*
 * One way to write a table, for every mode: data files, then a manifest and a manifest list (both in SQL, through the avro
 * extension), then one commit through the catalog. A new table appears together with its first rows.
 */
#ifndef TASKS_ICEBERG_WRITE_H
#define TASKS_ICEBERG_WRITE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tasks/context.h"

enum write_mode {
	WRITE_APPEND,    /* rows are added */
	WRITE_OVERWRITE, /* all rows are replaced, the schema stays */
	WRITE_REPLACE,   /* as CREATE OR REPLACE: rows and schema are replaced, the history is kept */
};

struct write {
	const char *name;  /* as given, for messages */
	char *ns, *table;  /* owned by the caller */
	const char *query; /* the rows */
	enum write_mode mode;
	const json_t *properties; /* object of strings or NULL */
	int64_t target_file_size; /* bytes */
	bool must_exist;          /* a table that is not there is an error */
	/* filled in */
	int64_t snapshot_id, rows, files, bytes;
	bool landed_before; /* an earlier attempt of this task had committed already: nothing was written now */
};

int iceberg_write(struct context *cx, struct write *w);

/* Makes the catalog's tables readable in SQL under its name and, where there is one, the first namespace the default. */
int iceberg_attach(struct context *cx);

#endif
