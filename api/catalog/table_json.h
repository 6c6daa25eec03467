/* Table metadata as people and scripts read it: the shapes of /api/v1/tables. Pure; ids are texts, since they pass 2^53. */
#ifndef API_CATALOG_TABLE_JSON_H
#define API_CATALOG_TABLE_JSON_H

#include <jansson.h>

/* Each result belongs to the caller; `md` is a table's metadata. */

/* Adds to a list's item what is known of the current state: rows, files, size, last change. */
void table_add_state(json_t *item, const json_t *md);
/* The same with schema, partition spec, sort order, properties, refs and current snapshot. */
void table_add_all(json_t *item, const json_t *md);
json_t *table_snapshot_json(const json_t *md, const json_t *snapshot);
/* Newest first, `limit` of them from `*from` on; `*from` gets where the next page begins, or 0 at the end. */
json_t *table_snapshots_json(const json_t *md, size_t limit, size_t *from);
json_t *table_history_json(const json_t *md, size_t limit, size_t *from);
json_t *table_refs_json(const json_t *md);
/* All schemas, oldest first. */
json_t *table_schemas_json(const json_t *md);
/* The schema that a snapshot was written with; that of the table when it says none, or `snapshot` is NULL. */
json_t *table_schema_json(const json_t *md, const json_t *snapshot);
/* The columns of two schemas, one column being one whatever it is called: [{name, before, after}], its names then and now. */
json_t *table_columns(const json_t *before, const json_t *after);
/* What must be done to the first schema to get the second: [{change, column, type, …}]. */
json_t *table_schema_diff(const json_t *before, const json_t *after);

#endif
