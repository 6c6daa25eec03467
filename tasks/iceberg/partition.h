/* Partition specs and sort orders: from what a flow says to the table's metadata, and from that to SQL. Pure. */
#ifndef TASKS_ICEBERG_PARTITION_H
#define TASKS_ICEBERG_PARTITION_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

/*
 * The fields of a spec ({"name", "transform", "source-id"}) from texts such as "region", "day(ts)" and "bucket(16, id)". NULL
 * with `e` set for a text that is none, or a column that is not among `columns` (the schema's fields).
 */
json_t *partition_parse(const json_t *texts, const json_t *columns, struct err *e);
/* The same for a sort order ({"transform", "source-id", "direction", "null-order"}): "id", "day(ts) desc", "id asc nulls last".
 */
json_t *sort_parse(const json_t *texts, const json_t *columns, struct err *e);

/*
 * The SQL of a field's value over rows with the table's columns. A negative code with `e` set when the engine cannot do it.
 * `hash` becomes true when it needs duck_add_hash.
 */
int partition_expr(const json_t *field, const json_t *columns, struct buf *out, bool *hash, struct err *e);
/* The Iceberg type of a field's value, added to `out`. */
int partition_type(const json_t *field, const json_t *columns, struct buf *out, struct err *e);
/* Is it of days? PyIceberg writes these as numbers, all others as dates. */
bool partition_is_day(const json_t *field);
/* ORDER BY's list. */
int sort_expr(const json_t *fields, const json_t *columns, struct buf *out, bool *hash, struct err *e);

/* A column by its id, also inside of structs; borrowed. With `sql`, how to say it in SQL is added. NULL: there is none. */
const json_t *column_by_id(const json_t *columns, json_int_t id, struct buf *sql);
/* A name as Avro takes it: other characters are spelled out, as other writers do it. */
void avro_name(const char *name, struct buf *out);
/* Do two lists of spec fields (or sort fields) say the same? */
bool partition_same(const json_t *a, const json_t *b);

#endif
