/*
 * JSON as it was written: values are found in a text and cut out of it without changing a digit, and without a tree of it in
 * memory. Pure.
 */
#ifndef TASKS_JSON_TEXT_H
#define TASKS_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* One value: its first byte to its last, within a text that was checked. Borrowed. */
struct json_text {
	const char *s;
	size_t len;
};

/*
 * Checks that the text is one JSON value. 0; or -1 and in `at` the byte where it stops being that: `len` when it only ends too
 * early.
 */
int json_text_check(const char *s, size_t len, struct json_text *out, size_t *at);
/* "an object", "a list", "a text", … */
const char *json_text_kind(struct json_text v);
/*
 * The value at a path: data.items.0 or /data/items/0 (where ~1 is a slash and ~0 a tilde); -1 is the last of a list; an empty
 * path, or NULL, the value itself. Where there is none false: `out` is then how far it leads, and `at` the rest of the path.
 */
bool json_text_find(struct json_text v, const char *path, struct json_text *out, const char **at);
/* The next element of a list or object; `*at` is 0 before the first. `key` is a text as JSON has it; NULL: not wanted. */
bool json_text_next(struct json_text v, size_t *at, struct json_text *key, struct json_text *value);
/*
 * Adds the value in one line. The half of a surrogate pair, as a text has it that somebody cut, is no character: U+FFFD takes its
 * place. Returns how many there were.
 */
size_t json_text_add(struct buf *b, struct json_text v);
/* NULL when it is beyond what jansson holds, as a number of 30 digits is. The caller owns it. */
json_t *json_text_value(struct json_text v);
/* A text without its quotes, a number or boolean as it is written; NULL for what is none of these. The caller frees it. */
char *json_text_scalar(struct json_text v);

#endif
