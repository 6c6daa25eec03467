/* Tables, snapshots and refs as people read them, in 80 columns. */
#ifndef CLI_TABLES_TEXT_H
#define CLI_TABLES_TEXT_H

#include <jansson.h>

#include "base/buf.h"

void print_tables(const json_t *items);
void print_table(const json_t *table);
void print_schema(const json_t *schema);
void print_history(const json_t *items);
void print_snapshots(const json_t *items);
void print_refs(const json_t *items);

/* "/api/v1/tables/TABLE" and `part`; the caller frees it. */
char *table_path(const char *table, const char *part);
/* Adds "?name=value" or "&name=value", unless the value is NULL. */
void add_query(struct buf *path, const char *name, const char *value);

#endif
