/*
 * The address of a database's server, as people write it: postgresql://user:password@host:5432/database?sslmode=require, with
 * jdbc: before it or without, or "host=… user=…". Pure.
 */
#ifndef TASKS_CONNECTION_H
#define TASKS_CONNECTION_H

#include <jansson.h>

#include "base/err.h"

struct connection {
	json_t *keys;   /* name -> text: host, port, user, dbname (PostgreSQL) or database (MySQL), and what else was said */
	char *password; /* it stands nowhere else; NULL: none was said */
};

/* `format` is postgres or mysql. The error holds nothing of the address but a scheme. */
MUSTCHECK int connection_parse(const char *uri, const char *format, struct connection *c, struct err *e);
void connection_release(struct connection *c);
/* Borrowed; `otherwise` where it was not said. */
const char *connection_text(const struct connection *c, const char *name, const char *otherwise);

#endif
