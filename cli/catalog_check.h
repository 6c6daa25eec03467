/* Asks the catalogs that only engines in Python reach (hive, glue) whether they answer, by such an engine's own interpreter. */
#ifndef CLI_CATALOG_CHECK_H
#define CLI_CATALOG_CHECK_H

#include <stdbool.h>

#include "base/buf.h"
#include "flows/config.h"

/* True when it does; `answer` gets what there is, or why it does not. Keys go to the child's standard input, and nowhere else. */
bool catalog_check(const struct config *config, const char *home, const char *libdir, struct buf *answer);

#endif
