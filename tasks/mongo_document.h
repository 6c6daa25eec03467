/*
 * Documents as MongoDB stores them (BSON, version 1.1), written from the engine's values into a buffer. Pure.
 *
 * Whole numbers are int32 or int64, decimals decimal128 (34 digits), dates and times milliseconds in UTC: what lies under a
 * millisecond is cut off, towards the past. A time of day is text, "10:00:00.5".
 */
#ifndef TASKS_MONGO_DOCUMENT_H
#define TASKS_MONGO_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "tasks/engines/duck_rows.h"

/* More levels than the server takes. */
#define DOCUMENT_LEVELS 101

struct document {
	struct buf *out;
	size_t depth;
	size_t skipped; /* levels that were opened after something was wrong */
	struct {
		size_t begins; /* in `out` */
		bool list;
		size_t next; /* a list's elements are named by number */
	} levels[DOCUMENT_LEVELS];
	const char *wrong; /* what cannot be written, as the end of a sentence; NULL: nothing */
};

/* Begins a document at the end of `out`. */
void document_begin(struct document *d, struct buf *out);
/* Ends it; -1 when `wrong` says what of it could not be written. */
int document_end(struct document *d);
/* A document, or a list, within it. `name` is NULL in a list. */
void document_open(struct document *d, const char *name, bool list);
void document_close(struct document *d);
void document_value(struct document *d, const char *name, const struct duck_value *value);
void document_text(struct document *d, const char *name, const char *text);
/* For duck_rows_tell: `arg` is the document. */
struct duck_visitor document_visitor(struct document *d);

#endif
