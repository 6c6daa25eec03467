/* The anatomy of one `${path | filter(arg) | …}`: shared by expr.c, which resolves, and when.c, which compares. */
#ifndef FLOWS_REF_H
#define FLOWS_REF_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

/*
 * Finds the next ref in text[from..]: sets *start at its "${" and *end behind its "}", and returns 1; 0 when there is none; a
 * negative code when one is not closed. "$${" is skipped.
 */
int ref_find(const char *text, size_t from, size_t *start, size_t *end, struct err *e);
/* The value of the ref text[start..end), filters applied. A null value counts as none unless `null_ok`. */
MUSTCHECK int ref_value(const char *text, size_t start, size_t end, const json_t *scope, bool null_ok, json_t **out,
			struct err *e);
/* Checks a ref's form and gives its path (caller frees) and whether a `default` filter covers its absence. */
MUSTCHECK int ref_parse(const char *text, size_t start, size_t end, char **path, bool *has_default, struct err *e);
/* Adds a value as text: strings as they are, everything else as JSON. */
void ref_add_text(struct buf *out, const json_t *value);

#endif
