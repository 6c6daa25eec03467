/* What stages of JSON records share, of an API's and of a stream's: which columns the task asks for, and as what they are read.
 */
#include <string.h>
#include <strings.h>

#include "tasks/stage_int.h"

const char *
stage_asked_type(const struct stage *st, const char *name)
{
	const json_t *maps[] = { json_object_get(st->cx->spec, "cast"), json_object_get(st->cx->spec, "schema"),
				 json_object_get(st->source, "columns") };

	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++)
		if (json_string_value(json_object_get(maps[i], name)))
			return json_string_value(json_object_get(maps[i], name));
	return NULL;
}

bool
stage_is_nested(const char *type)
{
	size_t n = strlen(type);

	return strncasecmp(type, "struct", 6) == 0 || strncasecmp(type, "map", 3) == 0 || strncasecmp(type, "json", 4) == 0 ||
	       (n && type[n - 1] == ']') || strstr(type, "] ");
}

bool
stage_nested(const struct stage *st, const char *type)
{
	return (st->http || st->kafka) && stage_is_nested(type);
}

json_t *
stage_texts(const struct stage *st)
{
	const json_t *maps[] = { json_object_get(st->cx->spec, "cast"), json_object_get(st->cx->spec, "schema"),
				 json_object_get(st->source, "columns") };
	json_t *set = json_object(), *type;
	const char *name;

	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++)
		json_object_foreach ((json_t *)(uintptr_t)maps[i], name, type)
			if (json_is_string(type) && !stage_is_nested(stage_asked_type(st, name)))
				json_object_set_new(set, name, json_true());
	return set;
}
