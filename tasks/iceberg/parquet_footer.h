/*
 * A Parquet file's footer (FileMetaData of parquet.thrift, in Thrift's compact protocol) with other field ids, by which Iceberg
 * knows columns. All else stays byte for byte, so it describes the same pages, copied to another file. Pure.
 */
#ifndef TASKS_ICEBERG_PARQUET_FOOTER_H
#define TASKS_ICEBERG_PARQUET_FOOTER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define PARQUET_MAGIC "PAR1"
#define PARQUET_TAIL  8 /* bytes behind the footer: its length, little-endian, and the magic */

/*
 * Adds the footer to `out` so that its columns have these ids, in order. False, with nothing added, when it is no footer of
 * a file of `n` columns without nested ones.
 */
bool parquet_footer_with_ids(const char *footer, size_t len, const int *ids, size_t n, struct buf *out);

#endif
