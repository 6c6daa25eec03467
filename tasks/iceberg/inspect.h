/*
 * Tables of the past, and tables about tables, in SQL: as_of('stg.t', 'v1'), snapshots('stg.t'), history(…), refs(…),
 * files('stg.t', 'v1'), partitions(…), manifests(…). Nothing of a statement's text is looked at or changed: they are macros over
 * query(…), whose text a function of ours makes when the statement is bound, from the metadata that the catalog gives.
 */
#ifndef TASKS_ICEBERG_INSPECT_H
#define TASKS_ICEBERG_INSPECT_H

#include "tasks/context.h"

/* Defines the macros and the function behind them: where there is time before a task, else when it begins. Harmless twice. */
MUSTCHECK int inspect_define(struct duck *db, struct err *e);
/* From now on they ask the catalog of this task. */
void inspect_begin(struct context *cx);
/* The table that was asked for last; NULL: none was. */
const char *inspect_subject(void);
/*
 * The statement that reads a table as it was; `at` as in base/table_at.h. NULL with the error set. The caller frees it, and owns
 * the summary of that state's snapshot; `summary` may be NULL, and what it gets, too.
 */
char *inspect_at(struct context *cx, const char *table, const char *at, json_t **summary);

#endif
