/* The Iceberg REST catalog's routes, below /iceberg/v1. */
#ifndef API_CATALOG_ROUTES_H
#define API_CATALOG_ROUTES_H

#include "api/http.h"

extern const struct route catalog_routes[];
extern const size_t catalog_routes_count;

#endif
