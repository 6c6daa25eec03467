/* What metadata.c (the whole) and metadata_update.c, metadata_schema.c (its parts) share. */
#ifndef API_CATALOG_METADATA_INT_H
#define API_CATALOG_METADATA_INT_H

#include <stdbool.h>

#include "api/catalog/metadata.h"

#define NO_ID              ((int64_t)-1)
#define FORMAT_MAX         3
#define FORMAT_DEFAULT     2
#define FIRST_PARTITION_ID 1000

/*
 * What a change added last. The id -1 means it, and so does the id that the client gave it: where that was taken, or an equal one
 * was there already, it has another.
 */
struct added {
	int64_t id, asked; /* NO_ID: none was added; none was given */
};
#define ADDED_NONE                                                                                                               \
	{                                                                                                                        \
		NO_ID, NO_ID                                                                                                     \
	}

/* A change in progress. */
struct change {
	json_t *md; /* ours to change */
	const struct metadata_input *in;
	struct added schema, spec, order;
	json_t *added; /* ids of the snapshots it added, as keys */
	bool creating;
	bool dated; /* last-updated-ms is that of a snapshot */
	bool snapshots_removed;
	bool for_view; /* which has no format version of its own for types */
	struct err *e;
};

/* The array or object under `key`, made when it is missing. Borrowed. */
json_t *metadata_array(json_t *md, const char *key);
json_t *metadata_object(json_t *md, const char *key);
int metadata_format(const json_t *md);

/* Applies one update. */
MUSTCHECK int change_apply(struct change *ch, const json_t *update);

/* Checks a schema: ids that are positive and used once, names used once a level, types of this format version. `max` gets the
 * highest id. */
MUSTCHECK int schema_check(const json_t *schema, int format, int64_t *max, struct err *e);
/* Numbers all fields afresh, a level at a time; `map` gets old id (as text) -> new id. */
void schema_renumber(json_t *schema, json_t *map);
/* Does the schema have this field, at any level? */
bool schema_has(const json_t *schema, int64_t id);

#endif
