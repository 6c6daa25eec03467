/* The nearest known name to a mistyped one. */
#ifndef FLOWS_SUGGEST_H
#define FLOWS_SUGGEST_H

#include <jansson.h>
#include <stddef.h>

#include "base/buf.h"

/* The name of `names` that `typed` most likely means, or NULL when none is near. Borrowed. */
const char *suggest(const char *typed, const char *const *names, size_t count);
/*
 * Adds the end of a sentence: `; did you mean "depends_on"?`, or `; KNOWN: a, b, c` when no name is near (`known` is
 * "known keys are", "tasks are", …), or nothing when there are no names.
 */
void suggest_hint(struct buf *out, const char *typed, const char *const *names, size_t count, const char *known);
/* The same with the keys of a JSON object as names. */
void suggest_hint_keys(struct buf *out, const char *typed, const json_t *object, const char *known);

#endif
