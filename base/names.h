/* Lists of names: JSON arrays of strings. */
#ifndef BASE_NAMES_H
#define BASE_NAMES_H

#include <jansson.h>

/* The names in a row with `between` in the gaps: "a, b"; "" for none. The caller frees it. */
char *names_joined(const json_t *names, const char *between);

#endif
