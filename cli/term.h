/* What people see: colours only on a terminal, tables that fit, times as words. */
#ifndef CLI_TERM_H
#define CLI_TERM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/clock.h"

/* Is this stream a terminal that takes colours (NO_COLOR unset)? */
bool term_colours(FILE *f);
int term_width(FILE *f);
/* The escape sequence of a state's colour, or "" without colours. */
const char *term_state(FILE *f, const char *state);
const char *term_bold(FILE *f);
const char *term_dim(FILE *f);
const char *term_off(FILE *f);
/* The text under `key`; without one "", or NULL. */
const char *text_of(const json_t *object, const char *key);
const char *text_or_null(const json_t *object, const char *key);
/* "340 ms", "12.3 s", "4m10s", "2h05m"; returns `out`. */
const char *term_duration(dur_us d, char out[24]);
/* "just now", "5 min ago", "in 3 h", or a date; returns `out`. */
const char *term_when(const char *rfc3339, char out[40]);
/* "10,000,000"; returns `out`. */
const char *term_number(long long n, char out[32]);
/* "812 B", "3.4 MB"; returns `out`. */
const char *term_bytes(long long n, char out[32]);
/* Prints rows (each a list of strings) under headers, columns cut to fit; `right` has an 'r' for each right-aligned column. */
void term_table(FILE *f, const char *const *headers, size_t columns, const json_t *rows, const char *right);

#endif
