/* What stage.c and its stage_*.c share: one stage task. */
#ifndef TASKS_STAGE_INT_H
#define TASKS_STAGE_INT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tasks/context.h"
#include "tasks/database.h"

/* The copy's error when a value is missing; the sentence for the user names file and line. */
#define STAGE_NULL_FOUND "sluice: a value is missing"

enum on_reject { REJECT_FAIL, REJECT_SKIP, REJECT_QUARANTINE };

struct stage {
	struct context *cx;
	const json_t *source, *target;
	const char *format;
	const char *writes;         /* csv or json; NULL: Parquet */
	const char *suffix;         /* of the names of its files in a folder: ".parquet" */
	json_t *files;              /* list of paths; of a table: its name */
	int64_t files_in, bytes_in; /* what there is to read: files, or the data files of a table's state; -1: unknown */
	int64_t rows_in;            /* what the scan handed on */
	json_t *names;              /* list of the source's column names */
	json_t *types;              /* object: column -> type, for those that have one */
	json_t *lost;               /* object: column of JSON -> condition that its type, made of parts, loses one (json_fit.h) */
	json_t *not_null;           /* list of names */
	enum on_reject on_reject;
	struct buf reader; /* table function call over the files, or a subquery over it */
	struct buf
		traced; /* the same rows before any cast, with the columns sluice_file and, where there are numbers, sluice_row */
	struct buf bad; /* condition over `traced`: the row is a reject that the reader itself did not refuse */
	struct buf reasons; /* list of expressions over `traced`: what is wrong, each NULL when nothing is */
	char *path, *tmp;   /* target and its temporary name */
	char *tmp_rejects;
	bool back;                /* it is itself read */
	struct database database; /* where the source is one */
	int64_t rejected;
	struct stage_http *http;   /* of an API, see stage_http.c */
	struct stage_kafka *kafka; /* of a stream, see stage_kafka.c */
	/* of a folder on a store, see stage_store.c */
	json_t *old; /* locations of its files before */
	bool marked; /* it was whole */
};

/* Finds the files that the source's paths name; a path that names none is an error. 0, or -1 with the error set. */
int stage_files(struct stage *st);
/* How many of the source's files something was read of. */
int64_t stage_files_read(const struct stage *st);
/* Of format http: the API is known, nothing is asked for yet; its records are fetched; what both made goes. 0, or -1. */
int stage_http_begin(struct stage *st);
int stage_http_read(struct stage *st);
void stage_http_release(struct stage *st);
/* Of format kafka, alike; and what its rejects are beyond those of all formats, into sluice_rejects. */
int stage_kafka_begin(struct stage *st);
int stage_kafka_read(struct stage *st);
int stage_kafka_rejects(struct stage *st);
/* The rows are at their place: tells the daemon how far the stream was read. */
int stage_kafka_end(struct stage *st);
void stage_kafka_release(struct stage *st);
/* The type that the task asks for a column of JSON records; NULL: none. A name alone counts, whatever its type. */
const char *stage_asked_type(const struct stage *st, const char *name);
/* Is a type made of parts, which JSON has as it has them? */
bool stage_is_nested(const char *type);
/* The same of a column of records: then it is of type JSON before it is cast. */
bool stage_nested(const struct stage *st, const char *type);
/* Columns, as a set, that have to become a type of one value, which is cast from the text that the record has. */
json_t *stage_texts(const struct stage *st);
/* Fills in names, types, not_null, reader, traced, bad and reasons. 0, or -1 with the error set. */
int stage_read(struct stage *st);
/* The same for files that bring their types: `plain` is what FROM takes. */
int stage_read_typed(struct stage *st, const char *plain);
/* Opens the database that the source is. */
int stage_database(struct stage *st);
int stage_read_database(struct stage *st);
/* The copy failed: was the server lost, or can a column's values not be read? Then the error says so. */
void stage_explain_database(struct stage *st);
/* A text of the source's, or `otherwise`; borrowed. */
const char *stage_source_text(const struct stage *st, const char *name, const char *otherwise);
/* Says where to write, and removes what killed attempts left there. 0, or -1 with the error set. */
int stage_begin(struct stage *st);
/* Writes the rows beside the target; how many, or -1 with the error set. */
int64_t stage_write(struct stage *st, const char *query);
/* Puts what was written where the target is, in one step. */
int stage_take_place(struct stage *st);
void stage_report(const struct stage *st, int64_t rows);
/* Frees what it holds, and removes what was written when `rc` is negative. */
void stage_end(struct stage *st, int rc);
/* The statement whose rows are written; `out` may hold half of it after an error. 0, or -1 with the error set. */
int stage_query(struct stage *st, struct buf *out);
/* May what is at the target be replaced, and will the next run not read it? 0, or -1 with the error set. */
int stage_check_target(struct stage *st);
/* Has the copy write into each file which task of which run this is: for a target that is read itself. */
void stage_add_mark(const struct stage *st, struct buf *b);
/*
 * How many rows an earlier attempt wrote back, which died after that: to read them again were to do the same twice.
 * STAGE_NOT_WRITTEN when there was none, -1 with the error set.
 */
int64_t stage_written_before(const struct stage *st);
#define STAGE_NOT_WRITTEN (-2)
#define STAGE_MARK        "sluice.written_by"
/* Where the target's path stands in the task. */
const char *stage_target_key(const struct stage *st);
/* Is the target a folder, by partitions? */
bool stage_is_folder(const struct stage *st);
/* Would a target on a store take something with it that no stage task wrote? 0, or -1 with the error set. */
int stage_store_check(struct stage *st);
/* Sends what was written to the store; what was there before goes away after it. */
int stage_store_send(struct stage *st);
/* How names of this attempt's files in a folder begin. The caller frees it. */
char *stage_store_prefix(const struct stage *st);
bool stage_has_name(const json_t *names, const char *name);
/* Sets the error for a column that the source lacks, with the nearest name and all of them; returns -1. */
int stage_missing_column(struct stage *st, const char *key, const char *name);

#endif
