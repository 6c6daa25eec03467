/* What attempts tell: the JSON lines of their report folded into one value, tidied, with secrets hidden. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/trouble.h"
#include "scheduler/sched_int.h"

#define REPORT_MAX (64u << 20)

void
report_fold(json_t *into, const char *text, size_t len)
{
	while (len > 0) {
		const char *nl = memchr(text, '\n', len), *name;
		size_t n = nl ? (size_t)(nl - text) : len;
		json_t *line = json_loadb(text, n, 0, NULL), *value, *have;

		json_object_foreach (line, name, value) {
			have = json_object_get(into, name);
			if (json_is_object(have) && json_is_object(value))
				json_object_update(have, value);
			else if (json_is_array(have) && json_is_array(value))
				json_array_extend(have, value);
			else
				json_object_set_new(into, name, json_deep_copy(value));
		}
		json_decref(line);
		text += n + (nl ? 1 : 0);
		len -= n + (nl ? 1 : 0);
	}
}

/* The same value with every secret in its texts and names hidden. Done after parsing, since JSON can spell a text in many ways.
 */
static json_t *
mask_json(json_t *value, struct mask *m)
{
	json_t *out, *item;
	const char *name;
	char *text;
	size_t i;

	switch (json_typeof(value)) {
	case JSON_STRING:
		text = mask_text(m, json_string_value(value));
		out = json_string(text);
		free(text);
		return out;
	case JSON_ARRAY:
		out = json_array();
		json_array_foreach (value, i, item)
			json_array_append_new(out, mask_json(item, m));
		return out;
	case JSON_OBJECT:
		out = json_object();
		json_object_foreach (value, name, item) {
			text = mask_text(m, name);
			json_object_set_new(out, text, mask_json(item, m));
			free(text);
		}
		return out;
	default:
		return json_incref(value);
	}
}

/* A report is what a foreign program wrote: values that are not of the kind that readers rely on are dropped. */
void
report_tidy(json_t *report)
{
	static const struct {
		const char *name;
		json_type type;
	} kinds[] = {
		{ "progress", JSON_OBJECT }, { "outputs", JSON_OBJECT }, { "metrics", JSON_OBJECT }, { "tables", JSON_ARRAY },
		{ "checks", JSON_ARRAY },    { "result", JSON_OBJECT },  { "error", JSON_OBJECT },   { "writing", JSON_ARRAY },
		{ "expiring", JSON_ARRAY },  { "streams", JSON_ARRAY },
	};
	json_t *error = json_object_get(report, "error");

	if (json_is_string(error))
		json_object_set_new(report, "error", json_pack("{s:O}", "message", error));
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		json_t *value = json_object_get(report, kinds[i].name);

		if (value && json_typeof(value) != kinds[i].type)
			json_object_del(report, kinds[i].name);
	}
}

json_t *
attempt_report(const struct attempt *a)
{
	struct buf b = BUF_INIT_MAX(REPORT_MAX);
	char *path = xasprintf("%s/report", a->dir);
	json_t *fold = NULL, *hidden;
	int rc = buf_add_file(&b, path);

	if (rc < 0 && errno_passing(-rc)) { /* it would look as if it had reported nothing */
		trouble_begin(TROUBLE_REPORT, "cannot read what attempts reported: %s: %s; trying again every second", path,
			      strerror(-rc));
		goto out;
	}
	trouble_end(TROUBLE_REPORT, "what attempts reported can be read again");
	fold = json_object();
	if (rc == -EFBIG)
		log_warn("%s: its report is longer than 64 MB; the rest is ignored", a->key);
	report_fold(fold, b.s, b.len);
	report_tidy(fold);
	if (!mask_empty(a->mask)) {
		hidden = mask_json(fold, a->mask);
		json_decref(fold);
		fold = hidden;
	}
out:
	buf_release(&b);
	free(path);
	return fold;
}
