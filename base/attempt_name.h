/* How the files that an attempt writes into tables are named, so that what it left behind is found when it did not end well. */
#ifndef BASE_ATTEMPT_NAME_H
#define BASE_ATTEMPT_NAME_H

#include <stdbool.h>

#define ATTEMPT_STEM 128
/* "RUN-TASK-N", part of the names of what a native task writes, followed by "-" and ATTEMPT_NONCE hex digits. Returns `out`. */
const char *attempt_stem(const char *run, const char *task, int n, char out[ATTEMPT_STEM]);
#define ATTEMPT_NONCE 8

#define UUID_TEXT 37
/*
 * A UUID for the names of metadata files, whose form other programs expect. With an attempt ("run/task/n"): version 8 of RFC
 * 9562, whose first 48 bits are a digest of the attempt's key; without (NULL): a random one.
 */
void attempt_uuid(const char *attempt, char out[UUID_TEXT]);
/* Was a file of this name (without folders) made for the attempt? `stem` and `uuid` (any of its UUIDs) as above. */
bool attempt_named(const char *file, const char *stem, const char *uuid);

#endif
