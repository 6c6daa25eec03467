/* What folders such as day=2024-01-01 say of the files in them. */
#ifndef TASKS_FOLDERS_H
#define TASKS_FOLDERS_H

#include <jansson.h>

/* The folders "key=value" of a file's path, in order, as an object of texts; NULL values are JSON null. The caller's. */
json_t *folder_values(const char *path);

#endif
