#include "base/names.h"

#include "base/buf.h"

char *
names_joined(const json_t *names, const char *between)
{
	struct buf b = BUF_INIT;
	json_t *name;
	size_t i;

	json_array_foreach (names, i, name)
		buf_addf(&b, "%s%s", i ? between : "", json_string_value(name));
	return buf_detach(&b);
}
