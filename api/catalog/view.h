/*
 * Metadata of Iceberg views as JSON: made from a create request, checked against a commit's requirements, changed by its updates.
 * Pure, as metadata.h is for tables, with the same kinds of errors.
 */
#ifndef API_CATALOG_VIEW_H
#define API_CATALOG_VIEW_H

#include <stdbool.h>

#include "api/catalog/metadata.h"

/* Is this the metadata of a view rather than of a table? */
bool view_is(const json_t *md);
MUSTCHECK int view_validate(const json_t *md, struct err *e);
/* NULL with `e` set. The caller owns the result. */
json_t *view_create(const json_t *request, const struct metadata_input *in, struct err *e);
MUSTCHECK int view_check(const json_t *md, const json_t *requirements, struct err *e);
/* A new value that equals `base` when nothing changes. */
json_t *view_apply(const json_t *base, const json_t *updates, const struct metadata_input *in, struct err *e);

#endif
