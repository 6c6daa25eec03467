/*
 * Which state of a table a word means, in one place for the daemon and for tasks. The word is, in this order: a branch or a
 * tag; a snapshot's id; `previous`, what was there before the current snapshot; a time, which means what was current then
 * ("2026-11-21", "2026-11-21 06:00", with a zone or in UTC, "2h ago"). Pure: Iceberg metadata in, a snapshot out.
 */
#ifndef BASE_TABLE_AT_H
#define BASE_TABLE_AT_H

#include <jansson.h>

#include "base/clock.h"
#include "base/err.h"

/*
 * The snapshot that `at` means (NULL or "": the current one), borrowed from `md`. NULL with ERR_NOT_FOUND when the table has
 * none such, and the sentence says what it has.
 */
const json_t *table_at(const json_t *md, const char *at, wall_us now, struct err *e);
/* The snapshot of an id; NULL when the table has none. Borrowed. */
const json_t *table_snapshot(const json_t *md, json_int_t id);
/* The id of the current snapshot; -1: none. */
json_int_t table_current(const json_t *md);

#endif
