/*
 * The Iceberg catalog's state: pointers in PostgreSQL (the JDBC catalog's own tables), metadata files in the warehouse. Files
 * are read and written off the loop; metadata by location never changes, so it is cached.
 */
#ifndef API_CATALOG_CATALOG_H
#define API_CATALOG_CATALOG_H

#include <jansson.h>

#include "api/app.h"
#include "base/err.h"

struct catalog;

struct catalog *catalog_new(struct app *app, struct err *e);
void catalog_free(struct catalog *c);
/* "local", and "file:///…/warehouse". Borrowed. */
const char *catalog_name(const struct catalog *c);
const char *catalog_warehouse(const struct catalog *c);

/* The path of a local location ("file:///x", "file:/x", "/x"); NULL for another scheme. Borrowed from `location`. */
const char *location_path(const char *location);
/* Makes a table's data/ and metadata/ folders: some clients write there at once. Blocking, two mkdirs. 0 or a negative code. */
MUSTCHECK int location_prepare(const char *location, struct err *e);
/* A new random UUID, as text. */
void uuid_make(char out[37]);

/* One table of a read or a commit. */
struct table_change {
	char *ns, *table;
	json_t *requirements, *updates; /* of a commit; NULL otherwise */
	char *old_location;             /* NULL: no such table */
	json_t *meta;                   /* what is there; NULL: no such table. Never changed in place. */
	char *new_location;
	json_t *new_meta;
};

/* Called once; `e` is NULL on success. `changes` are valid during the call only. */
typedef void (*catalog_cb)(void *arg, struct table_change *changes, size_t count, struct err *e);

/*
 * Loads the tables that `changes` name (ns and table set; taken over, freed after `cb`). A table that is not there has
 * meta NULL and is not an error.
 */
void catalog_load(struct catalog *c, struct table_change *changes, size_t count, catalog_cb cb, void *arg);
/*
 * Commits to all tables or none: checks requirements, applies updates, writes the new metadata and swaps the pointers in one
 * statement, for `attempt` ("run/task/n", NULL: not an attempt) only while that attempt is current. Somebody else's commit in
 * between is retried while the requirements hold. ERR_CONFLICT, ERR_FORBIDDEN (fenced), ERR_NOT_FOUND, ERR_INVALID, …
 */
void catalog_commit(struct catalog *c, struct table_change *changes, size_t count, const char *attempt, catalog_cb cb, void *arg);
/* Reads one metadata file by its location, for register. */
void catalog_read(struct catalog *c, const char *location, catalog_cb cb, void *arg);
/* Removes everything below a dropped table's location, if that is inside the warehouse. Off the loop, no answer. */
void catalog_purge(struct catalog *c, const char *location);

#endif
