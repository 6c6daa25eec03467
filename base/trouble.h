/*
 * What keeps the daemon from its work for the time being: said once when it begins and once when it is over, however often it
 * is met meanwhile, and shown by the API while it lasts. One instance a kind and process, told by whoever meets it.
 */
#ifndef BASE_TROUBLE_H
#define BASE_TROUBLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"

/* symbol, name shown */
#define TROUBLES(X)                                                                                                              \
	X(DATABASE, "database")     /* it cannot be reached, or refuses to write */                                              \
	X(POSTGRESQL, "postgresql") /* the private cluster ends again and again */                                               \
	X(START, "start")           /* no attempt can be started */                                                              \
	X(NURSERY, "nursery")       /* it cannot be started */                                                                   \
	X(REPORT, "report")         /* what attempts reported cannot be read */                                                  \
	X(ACCEPT, "accept")         /* no connection can be taken */                                                             \
	X(ARCHIVE, "archive")       /* logs and artifacts cannot be copied to server.archive */

enum trouble {
#define X(sym, name) TROUBLE_##sym,
	TROUBLES(X)
#undef X
		TROUBLE_COUNT
};

/* Logs the sentence if this is news, and keeps it; a later one replaces it silently. True if it is news. */
bool trouble_begin(enum trouble t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Logs the sentence, and how long it took; nothing if there was no trouble. */
void trouble_end(enum trouble t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Name, since when and the sentence; false when there is no such trouble now. */
bool trouble_now(enum trouble t, const char **name, wall_us *since, const char **message);

/* Changes with every beginning and end. */
unsigned troubles_news(void);

/* Is this errno of a lack (memory, processes, descriptors, disk) that may be over in a moment? */
bool errno_passing(int no);

#endif
