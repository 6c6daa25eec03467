#include "tasks/folders.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

static int
hex_value(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* "%2F" is a slash. */
static char *
decoded(const char *s, size_t n)
{
	struct buf b = BUF_INIT;

	for (size_t i = 0; i < n; i++) {
		bool coded = s[i] == '%' && i + 2 < n && hex_value(s[i + 1]) >= 0 && hex_value(s[i + 2]) >= 0;

		buf_addc(&b, coded ? (char)(hex_value(s[i + 1]) << 4 | hex_value(s[i + 2])) : s[i]);
		i += coded ? 2 : 0;
	}
	return buf_detach(&b);
}

json_t *
folder_values(const char *path)
{
	json_t *out = json_object();
	const char *end;

	for (; (end = strchr(path, '/')); path = end + 1) {
		const char *equals = memchr(path, '=', (size_t)(end - path));
		char *key, *value;

		if (equals == NULL || equals == path)
			continue;
		key = decoded(path, (size_t)(equals - path));
		value = decoded(equals + 1, (size_t)(end - equals - 1));
		json_object_set_new(out, key,
				    strcmp(value, "__HIVE_DEFAULT_PARTITION__") == 0 ? json_null() : json_string(value));
		free(key);
		free(value);
	}
	return out;
}
