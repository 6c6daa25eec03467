/* The list of problems of a file. A file that is wrong in thousands of places is cut off, so that nobody prints them all. */
#include "flows/diag.h"

#include <stdarg.h>
#include <stdlib.h>

#include "base/alloc.h"

#define DIAGS_MAX 500

static const char *const severity_names[] = { [SEVERITY_ERROR] = "error", [SEVERITY_WARNING] = "warning" };

void
diags_release(struct diags *d)
{
	for (size_t i = 0; i < d->count; i++) {
		free(d->items[i].file);
		free(d->items[i].message);
	}
	free(d->items);
	*d = (struct diags)DIAGS_INIT;
}

void
diags_add(struct diags *d, enum severity severity, const char *file, int line, int col, const char *fmt, ...)
{
	struct diag *item;
	va_list ap;

	if (severity == SEVERITY_ERROR)
		d->errors++;
	if (d->count > DIAGS_MAX)
		return;
	if (d->count == d->cap) {
		d->cap = d->cap ? d->cap * 2 : 8;
		d->items = xrealloc(d->items, d->cap * sizeof(*d->items));
	}
	item = &d->items[d->count++];
	item->severity = severity;
	item->file = xstrdup_null(file);
	item->line = line;
	item->col = col;
	if (d->count > DIAGS_MAX) {
		item->message = xasprintf("there are more than %d problems; the rest is not shown", DIAGS_MAX);
		return;
	}
	va_start(ap, fmt);
	item->message = xvasprintf(fmt, ap);
	va_end(ap);
}

void
diags_print(const struct diags *d, struct buf *out)
{
	for (size_t i = 0; i < d->count; i++) {
		const struct diag *item = &d->items[i];

		if (item->file)
			buf_addf(out, "%s:", item->file);
		if (item->line > 0)
			buf_addf(out, "%d:%d:", item->line, item->col);
		buf_addf(out, "%s%s: %s\n", item->file || item->line > 0 ? " " : "", severity_names[item->severity],
			 item->message);
	}
}

json_t *
diags_json(const struct diags *d)
{
	json_t *list = json_array();

	for (size_t i = 0; i < d->count; i++) {
		const struct diag *item = &d->items[i];

		json_array_append_new(list,
				      json_pack("{s:s?, s:i, s:i, s:s, s:s}", "file", item->file, "line", item->line, "col",
						item->col, "severity", severity_names[item->severity], "message", item->message));
	}
	return list;
}
