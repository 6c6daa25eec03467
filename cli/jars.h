/* Jars that an engine needs beside its packages: a list of SHA-256 and Maven coordinates, "HASH  group:artifact:version" a line.
 */
#ifndef CLI_JARS_H
#define CLI_JARS_H

#include <jansson.h>
#include <stdbool.h>

/* Where they come from when not by `mvn`: a Maven repository's address. */
#define JARS_FROM "SLUICE_MAVEN_REPOSITORY"

/*
 * Gets all jars of the list into the folder, which it makes: by `mvn` where it is there, so that its settings and mirrors apply,
 * or from the repository that SLUICE_MAVEN_REPOSITORY names, or from Maven Central. Each must have its hash. EXIT_OK, or it has
 * refused.
 */
int jars_get(const char *list, const char *folder, bool quiet);
/* {"artifact": "version"} of those that are in the folder; the others' file names are added to `missing`. The caller owns it. */
json_t *jars_look(const char *list, const char *folder, json_t *missing);

#endif
