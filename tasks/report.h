/* What a task tells the daemon: JSON lines on descriptor 3, one write each (see docs/architecture.md). */
#ifndef TASKS_REPORT_H
#define TASKS_REPORT_H

#include <jansson.h>

/* Writes {"key": value} as one line; takes `value` over. */
void report(const char *key, json_t *value);
/* The errno of the first line that could not be written, 0: all were. */
int report_failure(void);
void report_metric(const char *name, json_int_t value);
void report_output(const char *name, json_t *value);

#endif
