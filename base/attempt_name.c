#include "base/attempt_name.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/sha256.h"

#define UUID_MARK 15 /* "xxxxxxxx-xxxx-8": what all UUIDs of an attempt have in common */

const char *
attempt_stem(const char *run, const char *task, int n, char out[ATTEMPT_STEM])
{
	char digest[SHA256_HEX];
	int len = snprintf(out, ATTEMPT_STEM, "%s-%s-%d", run, task, n);

	if (len >= ATTEMPT_STEM) { /* file names have a bound, ids have none */
		char *whole = xasprintf("%s-%s-%d", run, task, n);

		sha256_hex(whole, (size_t)len, digest);
		snprintf(out, ATTEMPT_STEM, "%.80s-%.32s", whole, digest);
		free(whole);
	}
	for (char *p = out; *p; p++)
		if (!isalnum((unsigned char)*p) && strchr("-_", *p) == NULL)
			*p = '_';
	return out;
}

void
attempt_uuid(const char *attempt, char out[UUID_TEXT])
{
	char mark[SHA256_HEX];
	unsigned char b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		BUG("no random numbers");
	b[6] = (unsigned char)((b[6] & 0x0f) | (attempt ? 0x80 : 0x40));
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	snprintf(out, UUID_TEXT, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
		 b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
	if (attempt) {
		sha256_hex(attempt, strlen(attempt), mark);
		memcpy(out, mark, 8);
		memcpy(out + 9, mark + 8, 4);
	}
}

/* What follows a stem, so that "R-a-1" does not take what "R-a-1-2-…" (task "a-1") wrote. */
static bool
nonce_follows(const char *s)
{
	size_t n = s[0] == '-' ? strspn(s + 1, "0123456789abcdef") : 0;

	return n == ATTEMPT_NONCE && !isalnum((unsigned char)s[1 + n]);
}

bool
attempt_named(const char *file, const char *stem, const char *uuid)
{
	size_t len = strlen(stem);
	char mark[UUID_MARK + 1];

	for (const char *at = strstr(file, stem); at; at = strstr(at + 1, stem))
		if ((at == file || !isalnum((unsigned char)at[-1])) && nonce_follows(at + len))
			return true;
	memcpy(mark, uuid, UUID_MARK);
	mark[UUID_MARK] = '\0';
	return strstr(file, mark) != NULL;
}
