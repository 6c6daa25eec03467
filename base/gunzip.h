/* Unpacks gzip. */
#ifndef BASE_GUNZIP_H
#define BASE_GUNZIP_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

/* Do these bytes begin as a gzip file does? */
bool gunzip_is(const void *data, size_t len);
/* Appends what is packed, up to the buffer's maximum. ERR_INVALID for damage or too much. */
MUSTCHECK int gunzip(const void *data, size_t len, struct buf *out, struct err *e);

#endif
