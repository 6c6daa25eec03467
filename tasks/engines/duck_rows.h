/*
 * Rows of a query one after the other, never all at once, and their values as few kinds of things, for who writes them in a form
 * that the engine does not know.
 */
#ifndef TASKS_ENGINES_DUCK_ROWS_H
#define TASKS_ENGINES_DUCK_ROWS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct duck;
struct duck_rows;

enum duck_kind {
	DUCK_NULL,
	DUCK_BOOL,
	DUCK_INT32,
	DUCK_INT64,
	DUCK_DOUBLE,
	DUCK_DECIMAL, /* also whole numbers that no int64_t holds */
	DUCK_TEXT,
	DUCK_BYTES,
	DUCK_UUID,    /* 16 bytes */
	DUCK_TIME,    /* microseconds since midnight */
	DUCK_MOMENT,  /* microseconds since 1970 in UTC: dates, too */
	DUCK_ENDLESS, /* a date or a time of infinity */
	DUCK_NAMELESS /* whatever it is: its key in a map has a zero byte */
};

struct duck_value {
	enum duck_kind kind;
	bool truth;
	int64_t number;
	double real;
	__int128 digits; /* of a decimal: digits / 10^scale */
	int scale;
	const char *bytes; /* of text, bytes and UUIDs; valid until the next row */
	size_t len;
};

/* Who is told a row's values. `name` is the column's or the field's, NULL within a list. */
struct duck_visitor {
	void (*value)(void *arg, const char *name, const struct duck_value *value);
	/* What comes until `end` belongs into a list, or into an object of names: a struct, or a map whose keys are texts. */
	void (*begin)(void *arg, const char *name, bool list);
	void (*end)(void *arg);
	void *arg;
};

/* NULL with `e` set on failure. While it is open, the connection does nothing else. */
struct duck_rows *duck_rows_open(struct duck *db, const char *sql, struct err *e);
void duck_rows_free(struct duck_rows *r);
/* The next row: 1, 0 when there is none, or -1 with `e` set. */
MUSTCHECK int duck_rows_next(struct duck_rows *r, struct err *e);
/* Tells the columns from `first` to before `last` of the row at hand. */
void duck_rows_tell(const struct duck_rows *r, size_t first, size_t last, const struct duck_visitor *v);
/* A column of the row at hand that is a whole number and not NULL. */
int64_t duck_rows_number(const struct duck_rows *r, size_t column);
/* The first of the columns whose type has values that are none of these kinds, or r's number of columns. */
size_t duck_rows_foreign(const struct duck_rows *r);

#endif
