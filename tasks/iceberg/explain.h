/*
 * Why a table could not be read. The engine names neither the table nor, of an Avro file, the file: when a task has failed, the
 * tables that its statement names are looked through.
 */
#ifndef TASKS_ICEBERG_EXPLAIN_H
#define TASKS_ICEBERG_EXPLAIN_H

#include "tasks/context.h"

/* Is the task's error about a file that could not be read? Then it gets the name of the table and of the file. */
void explain_error(struct context *cx);
/* The same where the engine could not even tell an error: false when no table of the task has such a file. */
bool explain_abort(struct context *cx);

#endif
