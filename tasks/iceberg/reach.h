/* What a table's metadata leads to: every file that a reader of any of its snapshots may need. */
#ifndef TASKS_ICEBERG_REACH_H
#define TASKS_ICEBERG_REACH_H

#include "tasks/context.h"

struct reach;
/* `file` is a location as it is written in the metadata. Borrowed. */
typedef void (*reach_found)(void *arg, const char *file);

/* Remembers which lists and manifests were read, so that none is read twice however many snapshots share it. */
struct reach *reach_new(struct context *cx, reach_found found, void *arg);
void reach_free(struct reach *r);
/* From now on lists and manifests that are not there are passed over, as when some were removed already. */
typedef bool (*reach_is)(void *arg, const char *file);
void reach_lenient(struct reach *r, reach_is is_there);
/*
 * Everything of a metadata file that lies at `location`: itself, those before it, statistics, lists, manifests, data and delete
 * files. Reads every manifest. 0, or -1 with the error set, which names the file that cannot be read.
 */
MUSTCHECK int reach_metadata(struct reach *r, const char *location, const json_t *md);
/* What one of its snapshots has added, and nothing that was there before: list, manifests, files. Not with reach_metadata in one.
 */
MUSTCHECK int reach_added(struct reach *r, const json_t *snapshot);

/* A metadata file as JSON, and its size (`bytes` may be NULL); NULL with the error set. */
json_t *reach_read(struct context *cx, const char *location, size_t *bytes);

#endif
