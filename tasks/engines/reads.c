#include "tasks/engines/reads.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static json_t *files; /* location -> bytes */

void
reads_start(void)
{
	json_decref(files);
	files = json_object();
}

void
reads_note(const char *entry)
{
	json_t *e, *before;
	const char *path, *bytes;

	if (files == NULL || strstr(entry, "\"op\":\"READ\"") == NULL)
		return;
	e = json_loads(entry, 0, NULL);
	path = json_string_value(json_object_get(e, "path"));
	bytes = json_string_value(json_object_get(e, "bytes"));
	if (path && bytes) {
		pthread_mutex_lock(&lock);
		before = json_object_get(files, path);
		if (before)
			json_integer_set(before, json_integer_value(before) + strtoll(bytes, NULL, 10));
		else
			json_object_set_new(files, path, json_integer(strtoll(bytes, NULL, 10)));
		pthread_mutex_unlock(&lock);
	}
	json_decref(e);
}

json_t *
reads_files(void)
{
	return json_incref(files);
}
