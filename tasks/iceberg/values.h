/* Values as the bytes that Iceberg's bounds are made of ("single-value serialization"). Pure. */
#ifndef TASKS_ICEBERG_VALUES_H
#define TASKS_ICEBERG_VALUES_H

#include <stdbool.h>

#include "base/buf.h"

enum value_use {
	VALUE_EXACT,
	VALUE_LOWER, /* long text and bytes are cut: what is left is not above the value */
	VALUE_UPPER, /* cut and raised: what is left is not below the value */
};

/*
 * Adds the bytes of `text`, as DuckDB spells a value of the Iceberg type `type`, to `out`. False, with nothing added, when there
 * is no such bound: an unknown type, a spelling of its own (infinity, BC), text that cannot be raised. A bound that is left out
 * is always right.
 */
bool value_bytes(const char *type, const char *text, size_t len, enum value_use use, struct buf *out);

/* The order of two values of one type, by their bytes: less than, equal to or greater than zero. */
int value_compare(const char *type, const struct buf *a, const struct buf *b);
/* Adds bytes as an SQL literal of a BLOB. */
void value_sql_blob(const struct buf *bytes, struct buf *out);

#endif
