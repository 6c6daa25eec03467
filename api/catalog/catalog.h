/* The Iceberg REST catalog in the daemon: pointers to table metadata in PostgreSQL, the metadata itself as files in the
 * warehouse. */
#ifndef API_CATALOG_CATALOG_H
#define API_CATALOG_CATALOG_H

#include "api/app.h"
#include "base/buf.h"

struct catalog;

/* Reads catalog.name and catalog.warehouse of the config. NULL with `e` set when they cannot be used. */
struct catalog *catalog_new(struct app *app, struct err *e);
/* What is under way is answered with an error or finishes on its own; the store is not asked any more. */
void catalog_free(struct catalog *c);

/*
 * The tables' numbers in Prometheus' text format, from the last survey in memory; nothing before the first. One that is older
 * than a minute is made anew in the background.
 */
void catalog_metrics(struct catalog *c, struct buf *b);

#endif
