/* Matching is a walk along the table: a hundred rows of short patterns cost less than a microsecond or two. */
#include "api/route.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

char *
percent_decode(const char *s, size_t n, bool plus)
{
	char *out = xmalloc(n + 1);
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		char c = s[i];

		if (c == '%') {
			int hi = i + 2 < n ? hex_digit(s[i + 1]) : -1, lo = hi >= 0 ? hex_digit(s[i + 2]) : -1;

			if (lo < 0 || (hi == 0 && lo == 0)) {
				free(out);
				return NULL;
			}
			c = (char)(hi * 16 + lo);
			i += 2;
		} else if (c == '+' && plus) {
			c = ' ';
		}
		out[len++] = c;
	}
	out[len] = '\0';
	return out;
}

struct span {
	const char *s;
	size_t n;
};

/* Walks pattern and path together; spans get what {} matched. Returns how many, or -1. */
static int
pattern_match(const char *pattern, const char *path, struct span spans[ROUTE_PARAMS])
{
	int n = 0;

	while (*pattern) {
		const char *close;

		if (*pattern != '{') {
			if (*pattern++ != *path++)
				return -1;
			continue;
		}
		close = strchr(pattern, '}');
		spans[n].s = path;
		if (close - pattern >= 3 && memcmp(close - 3, "...", 3) == 0) {
			spans[n].n = strlen(path);
			return spans[n].n ? n + 1 : -1;
		}
		spans[n].n = strcspn(path, "/");
		if (spans[n].n == 0)
			return -1;
		path += spans[n++].n;
		pattern = close + 1;
	}
	return *path == '\0' ? n : -1;
}

static void
allow_add(struct buf *allow, const char *method)
{
	if (strstr(allow->s, method))
		return;
	if (allow->len)
		buf_adds(allow, ", ");
	buf_adds(allow, method);
	if (strcmp(method, "GET") == 0)
		buf_adds(allow, ", HEAD");
}

enum route_result
route_find(const struct route_table *tables, size_t ntables, const char *method, const char *path, const struct route **found,
	   char *param[ROUTE_PARAMS], struct buf *allow)
{
	struct span spans[ROUTE_PARAMS];

	memset(param, 0, ROUTE_PARAMS * sizeof(*param));
	if (strcmp(method, "HEAD") == 0)
		method = "GET";
	for (size_t t = 0; t < ntables; t++) {
		for (size_t i = 0; i < *tables[t].count; i++) {
			const struct route *r = &tables[t].routes[i];
			int n = pattern_match(r->pattern, path, spans);

			if (n < 0)
				continue;
			if (strcmp(r->method, method) != 0) {
				allow_add(allow, r->method);
				continue;
			}
			for (int k = 0; k < n; k++) {
				param[k] = percent_decode(spans[k].s, spans[k].n, false);
				if (param[k] == NULL)
					return ROUTE_BAD_PATH;
			}
			*found = r;
			return ROUTE_FOUND;
		}
	}
	return allow->len ? ROUTE_NO_METHOD : ROUTE_NO_PATH;
}
