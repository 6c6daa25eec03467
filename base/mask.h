/* Secrets in text that is about to be sent: each becomes ***, also where the text comes in pieces. Pure. */
#ifndef BASE_MASK_H
#define BASE_MASK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

struct mask;

struct mask *mask_new(void);
void mask_free(struct mask *m);
/* A text to hide; its lines too when it has several. Shorter ones than 3 bytes are left alone: they would hide everything. */
void mask_add(struct mask *m, const char *secret);
bool mask_empty(const struct mask *m);
/*
 * Adds what can be told of `data` to `out`; keeps back an end that may be the beginning of a secret. `final`: nothing
 * follows, nothing is kept back.
 */
void mask_feed(struct mask *m, const char *data, size_t len, bool final, struct buf *out);
/* A whole text with every secret hidden; the caller frees it. */
char *mask_text(struct mask *m, const char *text);
/* Bytes kept back. */
size_t mask_pending(const struct mask *m);

/* Adds `data` to `out` as valid UTF-8, U+FFFD for what is none; returns how much was consumed: all but a cut-off last character.
 */
size_t utf8_clean(const char *data, size_t len, bool final, struct buf *out);

#endif
