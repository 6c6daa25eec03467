/* The address of a JDBC catalog's database, as Iceberg's clients are configured with it. Pure. */
#ifndef SCHEDULER_STORE_JDBC_URI_H
#define SCHEDULER_STORE_JDBC_URI_H

#include "base/err.h"

/*
 * A libpq connection string for `jdbc:postgresql://host:port/database?…`, `postgresql+psycopg2://…` or `postgresql://…`; user and
 * password may be NULL, else they win. NULL with ERR_INVALID for another database or a parameter that libpq has no word for. The
 * caller frees it.
 */
char *jdbc_uri_dsn(const char *uri, const char *user, const char *password, struct err *e);

#endif
