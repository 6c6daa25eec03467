#include "alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *
alloc_check(void *ptr)
{
	if (ptr == NULL) {
		fputs("sluice: out of memory\n", stderr);
		abort();
	}
	return ptr;
}

void *
xmalloc(size_t size)
{
	return alloc_check(malloc(size ? size : 1));
}

void *
xcalloc(size_t count, size_t size)
{
	return alloc_check(calloc(count ? count : 1, size ? size : 1));
}

void *
xrealloc(void *ptr, size_t size)
{
	return alloc_check(realloc(ptr, size ? size : 1));
}

char *
xstrdup(const char *s)
{
	return alloc_check(strdup(s));
}

char *
xstrdup_null(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

char *
xstrndup(const char *s, size_t n)
{
	return alloc_check(strndup(s, n));
}

char *
xvasprintf(const char *fmt, va_list ap)
{
	char *out;

	if (vasprintf(&out, fmt, ap) < 0)
		alloc_check(NULL);
	return out;
}

char *
xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *out;

	va_start(ap, fmt);
	out = xvasprintf(fmt, ap);
	va_end(ap);
	return out;
}
