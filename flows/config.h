/*
 * The main config, sluice.yaml: the shape teams already keep (env, catalog, s3, tables, paths, housekeeping) and the
 * daemon's own settings. `${env.NAME}` and a `.env` file beside it are honoured, and every key can be set by an
 * environment variable SLUICE_SECTION_KEY.
 */
#ifndef FLOWS_CONFIG_H
#define FLOWS_CONFIG_H

#include <jansson.h>
#include <stdbool.h>

#include "flows/diag.h"

struct config {
	char *file;   /* NULL: no file, defaults and environment only */
	json_t *json; /* the whole, normalised, with defaults: what ${config.…} reads */
	json_t *env;  /* object name -> string: the process environment over .env: what ${env.…} reads */
};

/*
 * Loads `file` (NULL: none) with the environment `envp` (as environ). Always returns a config when there are no errors in
 * `diags`, else NULL. Relative paths in `paths` and `catalog.warehouse` (a place, not a server's name for it) are made absolute
 * against the file's folder.
 */
struct config *config_load(const char *file, char *const *envp, struct diags *diags);
void config_free(struct config *c);
/* A string by path, "catalog.name"; NULL when absent or not a string. Borrowed. */
const char *config_get(const struct config *c, const char *path);
/* Do the tables belong to another server's catalog (catalog.type: rest, hive, glue)? */
bool config_foreign(const struct config *c);
/* Where that server is, for people: its address, or the type of the catalog. Borrowed. */
const char *config_place(const struct config *c);
/* To one that only engines in Python reach (hive, glue)? */
bool config_apart(const struct config *c);

#endif
