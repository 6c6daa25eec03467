/*
 * What a name or glob of tables means, and what the config's `housekeeping` says of one table. Names are namespace.table, with or
 * without the catalog's name in front; in globs * stands for any characters, dots too, and ? for one. Pure.
 */
#ifndef BASE_TABLE_POLICY_H
#define BASE_TABLE_POLICY_H

#include <jansson.h>

/*
 * A name or glob without the catalog's name: points into `glob`. `CATALOG.*` is all of its tables; a name of one level after
 * the catalog's is that of a table in a namespace which is called like it.
 */
const char *table_glob(const char *glob, const char *catalog);
/*
 * The table's policy: {target_file_size, expire_days, keep_last, orphan_days, keep: {daily, weekly, monthly}}, what
 * `housekeeping` says of all tables under what each entry of its `tables` says that matches, a later one over an earlier one.
 * `housekeeping` is the config's, complete and with the catalog's name taken off its globs. New reference.
 */
json_t *table_policy(const json_t *housekeeping, const char *table);

#endif
