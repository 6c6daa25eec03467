/*
 * Iceberg table metadata as JSON, format versions 1 to 3: made from a create request, checked against a commit's
 * requirements, changed by its updates. Pure: no clock, no files, no randomness; what it needs is passed in.
 */
#ifndef API_CATALOG_METADATA_H
#define API_CATALOG_METADATA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* What a change may need besides the metadata itself. */
struct metadata_input {
	int64_t now_ms;       /* milliseconds since 1970 UTC */
	const char *uuid;     /* of a table that is created, unless an update assigns one */
	const char *location; /* the same */
};

/* The metadata that a create request asks for. NULL with ERR_INVALID. The caller owns the result. */
json_t *metadata_create(const json_t *request, const struct metadata_input *in, struct err *e);

/*
 * Checks the requirements of a commit; `md` is NULL when there is no table. ERR_CONFLICT when one does not hold, ERR_INVALID
 * when it cannot be understood.
 */
MUSTCHECK int metadata_check(const json_t *md, const json_t *requirements, struct err *e);

/*
 * The metadata after the updates, a new value: `base`, which was read from `base_location`, stays as it is and goes into the
 * metadata log. `base` is NULL for a table that the updates create. The result equals `base` (json_equal) when the updates
 * change nothing. NULL with ERR_INVALID, or ERR_CONFLICT when a snapshot was made from an older state.
 */
json_t *metadata_apply(const json_t *base, const char *base_location, const json_t *updates, const struct metadata_input *in,
		       struct err *e);

/* Is this the metadata of a table, as far as we use it? ERR_INVALID or ERR_UNSUPPORTED (a version above 3). */
MUSTCHECK int metadata_validate(const json_t *md, struct err *e);

/* The element of an array of objects whose `key` is `id`; NULL when there is none. `at` gets its place. */
json_t *metadata_find(const json_t *array, const char *key, int64_t id, size_t *at);
/* The schema, snapshot, … that is in force: the one of `list` whose `key` is what `which` says. */
json_t *metadata_current(const json_t *md, const char *list, const char *key, const char *which);
/* Are both there and equal, or neither? */
bool metadata_same(const json_t *a, const json_t *b);

/* A whole number of an object; `otherwise` when it is absent, null or something else. */
int64_t metadata_int(const json_t *object, const char *key, int64_t otherwise);

#endif
