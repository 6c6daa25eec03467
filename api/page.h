/* The page at `/`: the files that tools/embed compiled in, and the routes that serve them. */
#ifndef API_PAGE_H
#define API_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "api/http.h"

struct page_asset {
	const char *path; /* "/assets/index-4f2a….js" */
	const char *type;
	const char *etag; /* with its quotes */
	bool immutable;   /* its name holds a hash of its content */
	const unsigned char *data;
	size_t len;
	const unsigned char *gzip; /* NULL when compressing does not pay */
	size_t gzip_len;
};

/* Made by tools/embed from what web/ builds. */
extern const struct page_asset page_assets[];
extern const size_t page_assets_count;

extern const struct route page_routes[];
extern const size_t page_routes_count;

/* Pure, for tests: an Accept-Encoding header that takes gzip; an If-None-Match header that names the tag. NULL headers are
 * allowed. */
bool page_takes_gzip(const char *accept);
bool page_tag_matches(const char *if_none_match, const char *etag);

#endif
