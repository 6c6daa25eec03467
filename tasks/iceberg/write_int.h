/* What write.c and manifest.c share: one write of a table, and one try to commit it. */
#ifndef TASKS_ICEBERG_WRITE_INT_H
#define TASKS_ICEBERG_WRITE_INT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tasks/iceberg/write.h"

struct data_file {
	char *path;
	int64_t rows, bytes;
	char *value_counts, *null_counts; /* MAP literals */
};

struct writer {
	struct context *cx;
	struct write *w;
	char *path;     /* of the REST table */
	json_t *loaded; /* load result, NULL for a new table until it is staged */
	bool create;
	json_t *meta;                        /* borrowed from loaded */
	char *location, *local;              /* of the table: as URL, and as path without the scheme */
	json_t *fields;                      /* of the schema written: list of Iceberg fields */
	json_t *schema;                      /* a new schema to add, or NULL */
	int last_column_id, first_column_id; /* first: before this task added any */
	char *select;                        /* the rows, cast to the schema, in its order */
	char stem[64];                       /* of this attempt's files */
	struct data_file *files;
	size_t nfiles;
	int64_t copied; /* rows, as the engine counted them */
	struct list_names {
		char **items;
		size_t count;
	} made; /* metadata files of ours, to remove if the commit fails */
};

struct commit {
	int64_t snapshot, sequence;
	json_t *parent;      /* borrowed; NULL: none */
	char *manifest_list; /* URL */
	int64_t deleted_rows;
	size_t deleted_files;
	bool keep_parent; /* the new snapshot descends from it */
};

/* The schema in force of a table's metadata; borrowed, NULL when there is none. */
json_t *writer_schema(const json_t *meta);
/* Manifests and the list of one try; the list differs from try to try, the data files do not. 0, or -1 with the error set. */
int commit_manifests(struct writer *wr, struct commit *c);

#endif
