/* Tables, snapshots and refs as people read them, in 80 columns. */
#ifndef CLI_TABLES_TEXT_H
#define CLI_TABLES_TEXT_H

#include <jansson.h>

#include "base/buf.h"
#include "cli/cli.h"

void print_tables(const json_t *items);
void print_table(const json_t *table);
void print_schema(const json_t *schema);
void print_history(const json_t *items);
void print_health(const json_t *items);
void print_snapshots(const json_t *items);
void print_refs(const json_t *items);
void print_files(const json_t *items);
void print_partitions(const json_t *items);
void print_manifests(const json_t *items);
/* A value as people read it: no quotes around strings, `null` where there is none. The caller frees it (cmd_data.c). */
char *value_text(const json_t *v, const char *null);
/* {columns, rows, truncated} of a query: as a table, or as --json and --csv say (cmd_data.c). */
void print_result(const struct args *a, const json_t *answer);

/* "/api/v1/tables/TABLE" and `part`; the caller frees it. */
char *table_path(const char *table, const char *part);
/* Adds "?name=value" or "&name=value", unless the value is NULL. */
void add_query(struct buf *path, const char *name, const char *value);

#endif
