/* Which handler answers a method and a path: all tables of routes, in the order in which they are searched. */
#ifndef API_ROUTE_H
#define API_ROUTE_H

#include <stdbool.h>
#include <stddef.h>

#include "api/http.h"

struct route_table {
	const struct route *routes;
	const size_t *count;
};

extern const struct route_table route_tables[];
extern const size_t route_tables_count;

#define ROUTE_PARAMS 4

enum route_result {
	ROUTE_FOUND,
	ROUTE_NO_PATH,   /* 404 */
	ROUTE_NO_METHOD, /* 405: `allow` lists what there is */
	ROUTE_BAD_PATH,  /* 400: a % that does not decode, or to a zero byte */
};

/*
 * Finds the first route whose pattern and method match. `path` is as sent, percent-encoded; what {} matched is decoded into
 * param[], which the caller frees (also when nothing was found). HEAD is served by GET.
 */
enum route_result route_find(const struct route_table *tables, size_t ntables, const char *method, const char *path,
			     const struct route **found, char *param[ROUTE_PARAMS], struct buf *allow);
/* `n` bytes percent-decoded; with `plus` a + is a blank. NULL when malformed or a zero byte is in it. The caller frees it. */
char *percent_decode(const char *s, size_t n, bool plus);

#endif
