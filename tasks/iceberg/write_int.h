/* What the files of a table's write share: one write, and one try to commit it. */
#ifndef TASKS_ICEBERG_WRITE_INT_H
#define TASKS_ICEBERG_WRITE_INT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "tasks/iceberg/write.h"

enum { CONTENT_DATA = 0, CONTENT_POSITION_DELETES = 1 };

struct data_file {
	char *path, *url; /* where it lies, and its name in manifests */
	int content;
	int64_t rows, bytes;
	json_t *spec;      /* its partition spec; borrowed from the writer or the metadata */
	json_t *partition; /* list, in the spec's order, of the values as DuckDB's text, or null */
	json_t *columns;   /* path -> statistics, as the engine's copy returns them */
	json_t *nan;       /* path -> how many; NULL: none was looked for */
	json_t *splits;    /* list of offsets */
	bool ask_footer;   /* the copy did not tell all that its footer has */
};

struct commit {
	int64_t snapshot, sequence;
	json_t *parent;      /* borrowed; NULL: none */
	char *manifest_list; /* URL */
	/* What this commit takes out. */
	int64_t deleted_rows, deleted_bytes, removed_position_deletes, removed_equality_deletes;
	size_t deleted_files, removed_delete_files;
	size_t manifests_created, manifests_replaced;
	int64_t first_row_id; /* version 3 */
	bool keep_parent;     /* the new snapshot descends from it */
};

struct writer {
	struct context *cx;
	struct write *w;
	char *path;     /* of the REST table */
	json_t *loaded; /* load result, NULL for a new table until it is staged */
	bool create;
	json_t *meta;                        /* borrowed from loaded */
	char *location, *local;              /* of the table: as URL, and as path without the scheme */
	json_t *columns;                     /* of the rows: [{name, type}] */
	json_t *fields;                      /* of the schema written: list of Iceberg fields */
	json_t *schema;                      /* a new schema to add, or NULL */
	json_t *spec, *order;                /* the partition spec and sort order written: whole objects with their ids */
	bool new_spec, new_order;            /* they are to be added, or made the default */
	int last_column_id, first_column_id; /* first: before this task added any */
	char *select;                        /* the rows, cast to the schema, in its order */
	char stem[160];                      /* of this attempt's files: see base/attempt_name.h */
	struct data_file *files;
	size_t nfiles;
	json_t *gone;          /* list of the names of data files that an upsert rewrites; NULL: not an upsert */
	bool sent;             /* a commit was sent: it may have landed */
	json_t *checked;       /* files that the partitions in question held when we first looked */
	json_t *read;          /* manifests that entries.c has read, by spec */
	int64_t data_sequence; /* of new data files, where it is not the commit's own; 0: it is */
	int64_t row_group;     /* how many rows of a copy go into one, where there are enough; 0: as the engine likes it */
	bool in_use;           /* the catalog refused the commit of a maintenance, which has to wait */
	json_t *folders;       /* partition_by of added files, as their folders have it */
	struct list_names {
		char **items;
		size_t count;
	} made; /* metadata files of ours, to remove if the commit fails */
	/*
	 * Maintenance: the manifests of a try that somebody else came before, which the next one has, too, where these still
	 * replace what they did; see entries_again.
	 */
	struct kept {
		struct commit commit; /* with its snapshot's id, 0: none is kept, and what it takes out */
		char *list;           /* their SELECTs */
		size_t made;          /* that many of `made` */
	} kept;
};

/* ---- write.c: the steps ---- */

void writer_begin(struct writer *wr, struct context *cx, struct write *w);
/* Loads the table; wr->loaded stays NULL when there is none. */
int writer_open(struct writer *wr);
void writer_take_table(struct writer *wr);
/* Gives the files that come another stem, since those before are the table's by now. */
void writer_name(struct writer *wr);
/* Somebody else committed first: the table as it is now. */
int writer_reload(struct writer *wr);
/* Forgets the manifests and lists that were made; `away`: and removes them. */
void writer_unmake(struct writer *wr, bool away);
/* Removes those of a try that was refused, but for what is kept. */
void writer_unmake_try(struct writer *wr);
void writer_release(struct writer *wr, bool failed);

/* ---- metadata ---- */

json_t *element_by_id(const json_t *meta, const char *list, const char *key, json_int_t id);
/* The schema in force of a table's metadata; borrowed, NULL when there is none. */
json_t *writer_schema(const json_t *meta);
json_t *snapshot_by_id(const json_t *meta, json_int_t id);
json_t *current_snapshot(const json_t *meta);
/* A property of the table, or of those this task sets; NULL: neither. */
const char *writer_property(const struct writer *wr, const char *name);
int writer_format(const struct writer *wr);

/* ---- schema.c: columns, partitions and order ---- */

/* Decides what is written from the rows' columns: fields, perhaps a new schema. 0, or -1 with the error set. */
int schema_plan(struct writer *wr, const json_t *columns);
/* And by which spec and in which order. */
int layout_plan(struct writer *wr);
/* "SELECT … FROM (query)": the rows as the schema wants them. */
int writer_select(struct writer *wr, const json_t *columns, const char *query, struct buf *out);

/* ---- data.c: files with rows ---- */

#define ROW_GROUP_ROWS 122880 /* as the engine makes them */

int writer_data(struct writer *wr);
/* By what name the files' compression goes in SQL: "zstd". */
const char *writer_compression(const struct writer *wr);
int64_t writer_file_size(const struct writer *wr);
/* The folder of data files, made if it is missing. NULL with the error set; the caller's. */
char *writer_folder(struct writer *wr);
/*
 * Has the rows of `select` copied, as files of about `size` bytes each; 0: one file. `partition`: the values, as text, of the one
 * partition that they are all in, whose files go to `dir`; NULL: whichever they are in. `row_group`: how many rows
 * one may have at most, where there are several files. For writer_data_done to finish.
 */
int writer_data_part(struct writer *wr, const char *select, const json_t *partition, const char *dir, int64_t size,
		     int64_t row_group);
/* What the copies did not tell about the files; and their sum. */
int writer_data_done(struct writer *wr);
/* The sum of the files. */
void writer_sum(struct writer *wr);
void data_file_release(struct data_file *f);
struct data_file *writer_add_file(struct writer *wr);
/* Adds SQL's list of the data files for which `want` (NULL: always) holds; false, and nothing added, when there is none. */
bool writer_file_list(const struct writer *wr, bool (*want)(const struct data_file *), struct buf *b);
/* Has the engine copy and notes the files that it wrote; `keys` are the columns that it partitioned by. -1 with the error set. */
int writer_copy(struct writer *wr, const char *sql, json_t *spec, const json_t *keys, int content);
void writer_remove_data(const struct writer *wr);
int64_t random_id(void);

/* ---- parity.c ---- */

/* Compares the files with the rows of the query, and reports it. 0, or -1 with the error set. */
int parity_check(struct writer *wr);

/* ---- footers.c ---- */

/*
 * Notes what the footers of `files` (SQL's list) tell: rows, splits, and the statistics of columns (over what is noted already).
 * `file_of` makes the data file of a path, or gives it when it is there already; NULL passes the file over, with the error set it
 * ends the whole. `ours`: DuckDB wrote them, which cuts bounds so that they stay bounds, and gives none to a row group with NaN.
 */
int footers_note(struct writer *wr, const char *files, bool ours,
		 struct data_file *(*file_of)(struct writer *, const char *path));

/* ---- take.c ---- */

/*
 * Copies the files that the rows come from, where they are what would be written: 1. 0: the rows have to be written. -1 with the
 * error set. Their footers are still to be asked.
 */
int take_files(struct writer *wr);

/* ---- add_files.c ---- */

/* What the files' folders say about partitions: a list of names, the caller's. */
int add_files_plan(struct writer *wr, json_t **partition_by);
/* Notes the files instead of writing any. */
int add_files_data(struct writer *wr);
/* The property by which readers know the columns of files without field ids; the caller's. */
json_t *add_files_property(const struct writer *wr);

/* ---- upsert.c ---- */

/* Before the rows are written: finds the rows that the new ones replace. */
int upsert_prepare(struct writer *wr);
/* After: position deletes, if the table is one that merges when it is read. */
int upsert_deletes(struct writer *wr);

/* ---- manifest.c: entries of new files ---- */

/* Manifests and the list of one try; the list differs from try to try, the data files do not. 0, or -1 with the error set. */
int commit_manifests(struct writer *wr, struct commit *c);
/* Writes the manifest list whose entries `list` selects to `path`. */
int commit_list(struct writer *wr, struct commit *c, struct buf *list, const char *path);
/* Writes an avro file from a query; its length through `length`. */
int write_avro(struct writer *wr, const char *path, const char *root, const char *select, const char *ids, const char *metadata,
	       int64_t *length);
char *manifest_metadata(const struct writer *wr, const json_t *spec, int content);
/* FIELD_IDS of a manifest, by what its entries have: only what is required, what new files have, or every field there is. */
enum entry_fields { ENTRY_SLIM, ENTRY_NEW, ENTRY_ALL };
char *manifest_ids(const json_t *spec, enum entry_fields which);
/* The values of a spec's fields as an SQL struct; NULL texts are NULL. */
int partition_struct(struct writer *wr, const json_t *spec, const json_t *values, struct buf *out);
/* The list's entry of a manifest, as a SELECT that is added to `list`. */
struct list_entry {
	const char *url;
	int64_t length, min_sequence, rows_added, rows_existing, rows_deleted, first_row_id;
	size_t added, existing, deleted;
	int spec, content;
	const char *partitions; /* an SQL value */
};
void list_add(struct buf *list, const struct commit *c, const struct list_entry *e, int format);
#define NO_PARTITIONS "NULL::STRUCT(contains_null BOOLEAN, contains_nan BOOLEAN, lower_bound BLOB, upper_bound BLOB)[]"
/* The SELECT of a snapshot's own list, every column there and of its type. */
void list_select(const char *manifest_list, int format, struct buf *out);

/* What the partitions of these files have in common, as SQL for list_entry. The caller frees it; NULL with the error set. */
char *partition_summary(struct writer *wr, const struct data_file **files, size_t n);

/* ---- rewrite.c: what a commit takes out of the snapshot before it ---- */

/* Adds the entries of the manifests that stay, or take their place, to `list`. 0, or -1 with the error set. */
int commit_old_manifests(struct writer *wr, struct commit *c, struct buf *list);
/* The current snapshot's data files: name -> [spec, values as text]. NULL with the error set. */
json_t *old_partitions(struct writer *wr);

/* ---- commit.c ---- */

/* One try. Returns the HTTP status, or -1 with the error set. */
int commit_try(struct writer *wr);
int64_t summary_number(const json_t *snap, const char *key);

#endif
