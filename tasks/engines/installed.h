/* Are the engine's files those that were installed? */
#ifndef TASKS_ENGINES_INSTALLED_H
#define TASKS_ENGINES_INSTALLED_H

/*
 * Compares the files of `libdir` with its list SHA256SUMS, which the installation wrote after them. A file that is not newer than
 * the list is taken as it was then; a newer one is read and hashed, and the list's time set when all are right. Once per nursery,
 * not in every child: DuckDB would check an extension's signature at each LOAD. Returns 0, or -1 with `why` (the caller frees
 * it). A folder without the list passes with `why` set.
 */
int installed_check(const char *libdir, char **why);

#endif
