/* What the store does before there is a loop, blocking: a connection, a statement, the schema. */
#ifndef SCHEDULER_STORE_START_H
#define SCHEDULER_STORE_START_H

#include <libpq-fe.h>

#include "base/err.h"

/* NULL with `e` set when the server cannot be reached, or is too old. */
PGconn *start_connect(const char *dsn, struct err *e);
MUSTCHECK int start_exec(PGconn *pg, const char *sql, struct err *e);
/* Brings the schema up to date. */
MUSTCHECK int start_migrate(PGconn *pg, struct err *e);

#endif
