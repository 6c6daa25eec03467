/* DuckDB's types and Iceberg's, both ways. Pure. */
#ifndef TASKS_ICEBERG_TYPES_H
#define TASKS_ICEBERG_TYPES_H

#include <jansson.h>

#include "base/buf.h"
#include "base/err.h"

/*
 * The Iceberg type of a DuckDB type's text ("DECIMAL(18,2)", "STRUCT(a INTEGER, b VARCHAR[])"). Ids of nested fields are taken
 * from `*next_id`, which is raised. NULL with `e` set for a type that Iceberg does not have.
 */
json_t *iceberg_type(const char *duck_type, int *next_id, struct err *e);
/* The DuckDB type that a value must be cast to before it is written as this Iceberg type, as DESCRIBE spells it: added to `out`.
 */
int iceberg_to_duck(const json_t *type, struct buf *out, struct err *e);
/*
 * The FIELD_IDS option for a list of Iceberg fields: "{"a": 1, "b": {__duckdb_field_id: 2, element: 3}}", added to `out`.
 */
void iceberg_field_ids(const json_t *fields, struct buf *out);

#endif
