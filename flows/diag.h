/* Problems found in a file: all of them, each with its place, in the order of the file. */
#ifndef FLOWS_DIAG_H
#define FLOWS_DIAG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

enum severity { SEVERITY_ERROR, SEVERITY_WARNING };

struct diag {
	enum severity severity;
	char *file;
	int line, col; /* from 1; 0 when the problem has no place */
	char *message; /* a sentence without the place */
};

struct diags {
	struct diag *items;
	size_t count, cap;
	size_t errors; /* how many are SEVERITY_ERROR */
};

#define DIAGS_INIT                                                                                                               \
	{                                                                                                                        \
		0                                                                                                                \
	}

void diags_release(struct diags *d);
void diags_add(struct diags *d, enum severity severity, const char *file, int line, int col, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* One "file:line:col: error: message" a line. */
void diags_print(const struct diags *d, struct buf *out);
/* [{file, line, col, severity, message}]; the caller owns the result. */
json_t *diags_json(const struct diags *d);

#endif
