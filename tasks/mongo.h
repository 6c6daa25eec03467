/*
 * A MongoDB server, by its own C library. That is no part of this program: it is mapped by the attempt that asks for it, so it
 * costs nobody else anything, and who exports nothing there need not have it. Only mongo.c knows its headers.
 */
#ifndef TASKS_MONGO_H
#define TASKS_MONGO_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "tasks/context.h"

struct mongo;

/* The largest document that servers take. */
#define MONGO_DOCUMENT_MAX (16 * 1024 * 1024)
/* Of the server's codes. */
#define MONGO_DUPLICATE_KEY 11000

/*
 * Connects to `uri`, which stands at `key`.uri of the task, and has it answer once. What is secret of the address stands in none
 * of our errors. 0, or -1 with the error set, as everywhere here.
 */
int mongo_open(struct context *cx, const char *key, const char *uri, struct mongo **out);
void mongo_free(struct mongo *m);
/* "MongoDB at 127.0.0.1:27017", for people. */
const char *mongo_place(const struct mongo *m);
/* The database that the address names, or NULL. */
const char *mongo_database(const struct mongo *m);

/* The answer to a command, {"name": …}, both in extended JSON; the caller owns it. NULL with the error set. */
json_t *mongo_command(struct mongo *m, const char *database, const json_t *command);
/* May an error of that code pass by itself? */
bool mongo_code_passes(int code);
/* Was the connection lost, so that nothing more can be asked of it? */
bool mongo_lost(const struct mongo *m);

/* One document to write: a new one, or where there is a `key` the fields of `document` into the one that has that key. */
struct mongo_write {
	const void *key, *document; /* BSON; key: NULL or {name: value} */
	size_t key_len, document_len;
};
/*
 * Writes them in whatever order, and goes on behind what is refused: {"nInserted", "nUpserted", "nMatched", "nModified",
 * "writeErrors": [{"index", "code", "errmsg"}]}, which the caller owns. NULL with the error set where the server could not do it.
 */
json_t *mongo_write(struct mongo *m, const char *database, const char *collection, const struct mongo_write *writes,
		    size_t count);

#endif
