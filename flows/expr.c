/* Refs in texts: resolved through whole JSON values, or listed. The conditions of `when` are in when.c. */
#include "flows/expr.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "flows/ref.h"

/* Adds text[from..to) with "$${" written as "${". */
static void
add_literal(struct buf *out, const char *text, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		if (text[i] == '$' && i + 2 < to && text[i + 1] == '$' && text[i + 2] == '{')
			i++;
		buf_addc(out, text[i]);
	}
}

static int
resolve_text(const char *text, const json_t *scope, json_t **out, struct err *e)
{
	struct buf b = BUF_INIT;
	size_t at = 0, start, end;
	json_t *value;
	int rc;

	while ((rc = ref_find(text, at, &start, &end, e)) > 0) {
		rc = ref_value(text, start, end, scope, false, &value, e);
		if (rc < 0)
			break;
		if (start == 0 && text[end] == '\0') {
			buf_release(&b);
			*out = value;
			return 0;
		}
		add_literal(&b, text, at, start);
		ref_add_text(&b, value);
		json_decref(value);
		at = end;
	}
	if (rc == 0) {
		add_literal(&b, text, at, strlen(text));
		*out = json_stringn(b.s, b.len);
	}
	buf_release(&b);
	return rc;
}

int
expr_resolve(const json_t *in, const json_t *scope, json_t **out, struct err *e)
{
	json_t *copy, *item, *value;
	const char *key;
	size_t i;
	int rc = 0;

	switch (json_typeof(in)) {
	case JSON_STRING:
		return resolve_text(json_string_value(in), scope, out, e);
	case JSON_ARRAY:
		copy = json_array();
		json_array_foreach (in, i, item) {
			rc = expr_resolve(item, scope, &value, e);
			if (rc < 0)
				break;
			json_array_append_new(copy, value);
		}
		break;
	case JSON_OBJECT:
		copy = json_object();
		json_object_foreach ((json_t *)in, key, item) {
			rc = expr_resolve(item, scope, &value, e);
			if (rc < 0)
				break;
			json_object_set_new(copy, key, value);
		}
		break;
	default:
		copy = json_deep_copy(in);
		break;
	}
	if (rc < 0) {
		json_decref(copy);
		return rc;
	}
	*out = copy;
	return 0;
}

bool
expr_dynamic(const json_t *in)
{
	json_t *item;
	const char *key;
	size_t i;

	if (json_is_string(in))
		return strstr(json_string_value(in), "${") != NULL;
	json_array_foreach (in, i, item)
		if (expr_dynamic(item))
			return true;
	json_object_foreach ((json_t *)in, key, item)
		if (expr_dynamic(item))
			return true;
	return false;
}

int
expr_refs(const char *text, int (*cb)(const char *path, size_t offset, void *arg), void *arg, struct err *e)
{
	size_t at = 0, start, end;
	bool has_default;
	char *path;
	int rc;

	while ((rc = ref_find(text, at, &start, &end, e)) > 0) {
		rc = ref_parse(text, start, end, &path, &has_default, e);
		if (rc < 0)
			return rc;
		rc = cb(path, start, arg);
		free(path);
		if (rc != 0)
			return rc;
		at = end;
	}
	return rc;
}
