/*
 * One way to write a table, for every mode: data files, then manifests and a manifest list (both in SQL, through the avro
 * extension), then one commit through the catalog. A new table appears together with its first rows.
 */
#ifndef TASKS_ICEBERG_WRITE_H
#define TASKS_ICEBERG_WRITE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tasks/context.h"

#define MANIFEST_SIZE  (8 << 20) /* bytes, what manifests are made to be: Iceberg's commit.manifest.target-size-bytes */
#define MANIFESTS_MANY 100       /* from which on merging them pays: its commit.manifest.min-count-to-merge */
#define SMALL_SHARE    0.75      /* of the size that a file is to have: what its own rewriting takes for too small */

enum write_mode {
	WRITE_APPEND,     /* rows are added */
	WRITE_OVERWRITE,  /* all rows are replaced, the schema stays */
	WRITE_REPLACE,    /* as CREATE OR REPLACE: rows, schema, partitions and order are replaced, the history is kept */
	WRITE_PARTITIONS, /* the partitions that the new rows fall into are replaced */
	WRITE_UPSERT,     /* rows with the same key are replaced, the others added */
	WRITE_ADD_FILES,  /* files that lie somewhere already become the table's */
	WRITE_REGISTER,   /* a metadata file becomes a table: iceberg_register */
	WRITE_COMPACT,    /* rows move into other files: maintenance */
	WRITE_MANIFESTS,  /* manifests are merged */
};

/* What happens to the table's columns when the rows have other ones. */
enum write_evolution {
	EVOLVE_NONE,        /* an error */
	EVOLVE_ADD_COLUMNS, /* columns and fields that are new are added */
	EVOLVE_WIDEN,       /* and types become wider where the format has a way for it */
};

/* What is compared with the source before the commit. */
enum write_parity {
	PARITY_NONE,
	PARITY_COUNTS, /* rows, and NULLs of each column */
	PARITY_FULL,   /* and values */
};

struct write {
	const char *name;  /* as given, for messages */
	char *ns, *table;  /* owned by the caller */
	const char *query; /* the rows */
	/* SQL's list of the Parquet files whose rows the query gives, all of them; NULL: it gives others, or they need not be
	 * known. */
	const char *files_from;
	enum write_mode mode;
	enum write_evolution evolution;
	/* All borrowed, NULL: not said. Lists of texts but for the properties, an object of strings. */
	const json_t *properties, *partition_by, *sort_by, *key;
	const char *compression;  /* NULL: as the table's properties say, else zstd */
	int format_version;       /* of a new table; 0: not said */
	int64_t target_file_size; /* bytes; 0: as the table's properties say, else the usual one */
	int64_t usual_file_size;
	/* Lists of columns that a new table is partitioned by when partition_by is not said, and that it requires. Borrowed. */
	const json_t *new_partitions, *new_required;
	enum write_parity parity;
	int64_t source_rows; /* with a parity: as the source counts its rows itself; -1: it does not */
	bool must_exist;     /* a table that is not there is an error */
	/* filled in */
	int64_t snapshot_id, rows, files, bytes;
	int64_t removed_rows, removed_files, removed_bytes, removed_delete_files;
	bool landed_before; /* an earlier attempt of this task had committed already: nothing was written now */
};

/* What a mode is called in reports; those before WRITE_COMPACT also in flows. */
extern const char *const write_mode_names[];
#define WRITE_MODE_COUNT WRITE_COMPACT

/* {column: SQL type} of a table; an empty object when there is none. NULL with the error set. The caller's. */
json_t *iceberg_columns(struct context *cx, const char *ns, const char *table);
int iceberg_write(struct context *cx, struct write *w);
/* Tells the daemon that files of this attempt may lie there from now on, whatever becomes of it. */
void iceberg_tell(const char *ns, const char *table, const char *location);
/* After a write with a parity: does the table have its rows, as others read it? Reports it. 0, or -1 with the error set. */
int parity_table(struct context *cx, const struct write *w);
/* Makes a table of a metadata file; fills in what its current snapshot says. */
int iceberg_register(struct context *cx, struct write *w, const char *metadata);

/*
 * Makes the catalog's tables readable in SQL under its name and, where there is one, the first namespace the default. Harmless
 * twice.
 */
int iceberg_attach(struct context *cx);

#endif
