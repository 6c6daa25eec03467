/* What belongs together in a stage's source of format http, beyond the grammar. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/flow_int.h"

/* Which keys of a pagination go with which type. */
static void
check_pagination(struct loader *l, const struct task_def *t, const json_t *pagination)
{
	static const struct {
		const char *key, *types;
	} only[] = {
		{ "total_pages", "page" }, { "total", "page offset" }, { "start", "page offset" },        { "cursor", "cursor" },
		{ "next", "link" },        { "until", "page offset" }, { "param", "page offset cursor" },
	};
	const char *type = json_string_value(json_object_get(pagination, "type")),
		   *until = json_string_value(json_object_get(pagination, "until"));
	int line = t->line, col = t->col;

	if (type == NULL || text_has_ref(type))
		return;
	pos_find(t->pos, "source/pagination", &line, &col);
	if (strcmp(type, "cursor") == 0 && json_object_get(pagination, "cursor") == NULL)
		load_error(l, line, col,
			   "\"pagination\" of task \"%s\": type: cursor needs \"cursor\", where in the answer the next page's "
			   "value is",
			   t->id);
	if (json_object_get(pagination, "size") == NULL &&
	    (json_object_get(pagination, "size_param") || (until && strcmp(until, "short") == 0)))
		load_error(l, line, col, "\"pagination\" of task \"%s\": %s needs \"size\"", t->id,
			   json_object_get(pagination, "size_param") ? "\"size_param\"" : "until: short");
	for (size_t i = 0; i < sizeof(only) / sizeof(only[0]); i++) {
		char *place = xasprintf("source/pagination/%s", only[i].key);

		/* `until` is there by default. */
		if (json_object_get(pagination, only[i].key) && json_object_get(t->pos, place) &&
		    strstr(only[i].types, type) == NULL) {
			pos_find(t->pos, place, &line, &col);
			load_error(l, line, col, "\"pagination.%s\" of task \"%s\" goes with type: %s, not with %s", only[i].key,
				   t->id, only[i].types, type);
		}
		free(place);
	}
}

void
flow_check_http(struct loader *l, const struct task_def *t)
{
	const json_t *source = json_object_get(t->spec, "source");
	const char *format = json_string_value(json_object_get(source, "format")),
		   *url = json_string_value(json_object_get(source, "url")),
		   *rate = json_string_value(json_object_get(source, "rate_limit"));
	int line = t->line, col = t->col;
	int64_t count;
	dur_us per;

	if (format == NULL || strcmp(format, "http") != 0)
		return;
	if (url && strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0 && strncmp(url, "${", 2) != 0) {
		pos_find(t->pos, "source/url", &line, &col);
		load_error(l, line, col, "\"source.url\" of task \"%s\" must begin with http:// or https://", t->id);
	}
	if (rate && !text_has_ref(rate) && rate_parse(rate, &count, &per) < 0) {
		pos_find(t->pos, "source/rate_limit", &line, &col);
		load_error(
			l, line, col,
			"\"source.rate_limit\" of task \"%s\" must be requests in a time, such as 40/10s or 5/s, not \"%.60s\"",
			t->id, rate);
	}
	check_pagination(l, t, json_object_get(source, "pagination"));
}
