/* What export.c and its export_*.c share. */
#ifndef TASKS_EXPORT_H
#define TASKS_EXPORT_H

#include <jansson.h>

#include "tasks/context.h"

enum export_mode { MODE_APPEND, MODE_REPLACE, MODE_OVERWRITE, MODE_UPSERT };

/* What `to.mode` says; an append where it says nothing. */
enum export_mode export_mode(const json_t *to);
/* Are the columns of the key, a list or NULL, among those of the rows? 0, or -1 with the error set. */
int export_check_key(struct context *cx, const json_t *names, const json_t *key);

/* Writes the rows of `query` into a file or a folder, whole or not at all. 0, or -1 with the error set. */
int export_file(struct context *cx, const json_t *to, const char *query);
/* The same into a table of another database, in one transaction of its server. */
int export_database(struct context *cx, const json_t *to, const char *query);
/* The same as messages of a topic of Kafka, in one transaction of its brokers. */
int export_kafka(struct context *cx, const json_t *to, const char *query);
/* The same into a collection of MongoDB. */
int export_mongo(struct context *cx, const json_t *to, const char *query);

#endif
