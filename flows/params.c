/* Params: their definitions in a flow, and the values that a trigger gives. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/expr.h"
#include "flows/flow_int.h"
#include "flows/suggest.h"

static const char *
param_type(const json_t *def)
{
	return json_string_value(json_object_get(def, "type"));
}

/* Numbers and booleans arrive as texts from command lines and queries. */
static json_t *
from_text(const char *type, const char *text, struct buf *why)
{
	json_t *v = NULL;
	char *end;
	wall_us t;
	int64_t n;

	if (strcmp(type, "int") == 0) {
		errno = 0;
		n = strtoll(text, &end, 10);
		v = errno || end == text || *end || isspace((unsigned char)*text) ? NULL : json_integer(n);
		buf_adds(why, "must be a whole number");
	} else if (strcmp(type, "float") == 0) {
		double d = strtod(text, &end);

		v = end == text || *end || !isfinite(d) || isspace((unsigned char)*text) ? NULL : json_real(d);
		buf_adds(why, "must be a number");
	} else if (strcmp(type, "bool") == 0) {
		v = strcmp(text, "true") == 0 ? json_true() : strcmp(text, "false") == 0 ? json_false() : NULL;
		buf_adds(why, "must be true or false");
	} else if (strcmp(type, "date") == 0) {
		v = strlen(text) == 10 && time_parse(text, &t) == 0 ? json_string(text) : NULL;
		buf_adds(why, "must be a date such as 2026-11-21");
	} else if (strcmp(type, "datetime") == 0) {
		v = time_parse(text, &t) == 0 ? json_string(text) : NULL;
		buf_adds(why, "must be a time such as 2026-11-21T06:00:00Z");
	} else if (strcmp(type, "duration") == 0) {
		v = duration_parse(text, &n) == 0 ? json_string(text) : NULL;
		buf_adds(why, "must be a duration such as 30s or 1h30m");
	} else if (strcmp(type, "size") == 0) {
		v = size_parse(text, &n) == 0 ? json_string(text) : NULL;
		buf_adds(why, "must be a size such as 128MB");
	} else {
		json_error_t ignored;
		bool list = strcmp(type, "list") == 0;

		v = json_loads(text, 0, &ignored);
		if (v && (list ? !json_is_array(v) : !json_is_object(v))) {
			json_decref(v);
			v = NULL;
		}
		buf_adds(why, list ? "must be a list" : "must be a map");
	}
	return v;
}

static json_t *
to_type(const char *type, const json_t *value, struct buf *why)
{
	char *text, dump[64];
	json_t *v;

	if (strcmp(type, "string") == 0 || strcmp(type, "enum") == 0) {
		if (json_is_string(value) || (strcmp(type, "enum") == 0 && !json_is_object(value) && !json_is_array(value)))
			return json_copy((json_t *)value);
		if (json_is_number(value) || json_is_boolean(value)) {
			text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
			v = json_string(text);
			free(text);
			return v;
		}
		buf_adds(why, "must be a text");
		return NULL;
	}
	if (json_is_string(value))
		return from_text(type, json_string_value(value), why);
	if ((strcmp(type, "int") == 0 && json_is_integer(value)) || (strcmp(type, "float") == 0 && json_is_number(value)) ||
	    (strcmp(type, "bool") == 0 && json_is_boolean(value)) || (strcmp(type, "list") == 0 && json_is_array(value)) ||
	    (strcmp(type, "object") == 0 && json_is_object(value)))
		return json_deep_copy(value);
	if (strcmp(type, "size") == 0 && json_is_integer(value)) {
		snprintf(dump, sizeof(dump), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		return json_string(dump);
	}
	v = from_text(type, "", why); /* for its words */
	json_decref(v);
	return NULL;
}

/* -1, 0, 1 in the type's own order; texts of dates order like their bytes. */
static int
order(const char *type, const json_t *a, const json_t *b)
{
	const char *x = json_string_value(a), *y = json_string_value(b);
	int64_t m, n;

	if (json_is_number(a) && json_is_number(b))
		return (json_number_value(a) > json_number_value(b)) - (json_number_value(a) < json_number_value(b));
	if (x == NULL || y == NULL)
		return 0;
	if ((strcmp(type, "duration") == 0 && duration_parse(x, &m) == 0 && duration_parse(y, &n) == 0) ||
	    (strcmp(type, "size") == 0 && size_parse(x, &m) == 0 && size_parse(y, &n) == 0) ||
	    (strcmp(type, "datetime") == 0 && time_parse(x, &m) == 0 && time_parse(y, &n) == 0))
		return (m > n) - (m < n);
	return strcmp(x, y);
}

static bool
matches(const char *pattern, const char *text)
{
	char *anchored = xasprintf("^(%s)$", pattern);
	regex_t re;
	bool ok = false;

	if (regcomp(&re, anchored, REG_EXTENDED | REG_NOSUB) == 0) {
		ok = regexec(&re, text, 0, NULL, 0) == 0;
		regfree(&re);
	}
	free(anchored);
	return ok;
}

static bool
listed(const json_t *values, const json_t *v)
{
	json_t *item;
	size_t i;

	json_array_foreach (values, i, item) {
		if (json_equal(item, v))
			return true;
	}
	return false;
}

json_t *
param_convert(const json_t *def, const json_t *value, struct buf *why)
{
	const char *type = param_type(def), *pattern = json_string_value(json_object_get(def, "pattern"));
	const json_t *values = json_object_get(def, "enum"), *min = json_object_get(def, "min"),
		     *max = json_object_get(def, "max");
	json_t *v = to_type(type, value, why);
	char *list;

	if (v == NULL)
		return NULL;
	buf_clear(why);
	if (values && !listed(values, v)) {
		list = json_dumps(values, JSON_ENCODE_ANY);
		buf_addf(why, "must be one of %s", list);
		free(list);
	} else if (min && order(type, v, min) < 0) {
		list = json_dumps(min, JSON_ENCODE_ANY);
		buf_addf(why, "must be at least %s", list);
		free(list);
	} else if (max && order(type, v, max) > 0) {
		list = json_dumps(max, JSON_ENCODE_ANY);
		buf_addf(why, "must be at most %s", list);
		free(list);
	} else if (pattern && json_is_string(v) && !matches(pattern, json_string_value(v))) {
		buf_addf(why, "must match the pattern %s", pattern);
	}
	if (why->len == 0)
		return v;
	json_decref(v);
	return NULL;
}

/* ---- definitions ---- */

static const char *
type_of(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_INTEGER:
		return "int";
	case JSON_REAL:
		return "float";
	case JSON_TRUE:
	case JSON_FALSE:
		return "bool";
	case JSON_ARRAY:
		return "list";
	case JSON_OBJECT:
		return "object";
	default:
		return "string";
	}
}

/* Limits and enum values are themselves values of the type. */
static void
convert_limits(struct loader *l, const char *name, json_t *def, int line, int col)
{
	static const char *const limits[] = { "min", "max" };
	json_t *values = json_object_get(def, "enum"), *v, *item;
	struct buf why = BUF_INIT;
	size_t i;

	for (int k = 0; k < 2; k++) {
		json_t *limit = json_object_get(def, limits[k]);

		if (limit == NULL)
			continue;
		buf_clear(&why);
		v = to_type(param_type(def), limit, &why);
		if (v)
			json_object_set_new(def, limits[k], v);
		else
			load_error(l, line, col, "\"%s\" of param \"%s\" %s", limits[k], name, why.s);
	}
	json_array_foreach (values, i, item) {
		buf_clear(&why);
		v = to_type(param_type(def), item, &why);
		if (v)
			json_array_set_new(values, i, v);
		else
			load_error(l, line, col, "\"enum\" of param \"%s\": each value %s", name, why.s);
	}
	buf_release(&why);
}

static void
check_pattern(struct loader *l, const char *name, const json_t *def, int line, int col)
{
	const char *pattern = json_string_value(json_object_get(def, "pattern"));
	char why[200];
	regex_t re;
	int rc;

	if (pattern == NULL)
		return;
	rc = regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB);
	if (rc == 0) {
		regfree(&re);
		return;
	}
	regerror(rc, &re, why, sizeof(why));
	load_error(l, line, col, "\"pattern\" of param \"%s\" is not a regular expression: %s", name, why);
}

static void
check_default(struct loader *l, const char *name, json_t *def, const char *path, int line, int col)
{
	json_t *value = json_object_get(def, "default"), *resolved = NULL, *converted;
	struct buf why = BUF_INIT;
	struct err e = ERR_INIT;

	pos_find(l->pos, path, &line, &col);
	if (expr_resolve(value, l->scope, &resolved, &e) < 0) {
		load_error(l, line, col, "the default of param \"%s\" can use only ${env.…}, ${config.…} and ${vars.…}: %s", name,
			   e.msg);
		err_release(&e);
		return;
	}
	converted = param_convert(def, resolved, &why);
	if (converted)
		json_object_set_new(def, "default", converted);
	else
		load_error(l, line, col, "the default of param \"%s\" %s", name, why.s);
	json_decref(resolved);
	buf_release(&why);
}

void
params_build(struct loader *l, json_t *params)
{
	const char *name;
	json_t *def;

	l->flow->params = xcalloc(json_object_size(params) + 1, sizeof(*l->flow->params));
	json_object_foreach (params, name, def) {
		struct param_def *p = &l->flow->params[l->flow->nparams++];
		char *path = xasprintf("params/%s/default", name);
		json_t *value = json_object_get(def, "default");
		int line = 0, col = 0;

		path[strlen(path) - strlen("/default")] = '\0';
		pos_find(l->pos, path, &line, &col);
		path[strlen(path)] = '/';
		if (json_is_null(value)) {
			json_object_del(def, "default");
			value = NULL;
		}
		if (!json_object_get(def, "type"))
			json_object_set_new(def, "type",
					    json_string(json_object_get(def, "enum") ? "enum"
							: value                      ? type_of(value)
										     : "string"));
		p->name = xstrdup(name);
		p->def = json_incref(def);
		convert_limits(l, name, def, line, col);
		check_pattern(l, name, def, line, col);
		if (strcmp(param_type(def), "enum") == 0 && json_array_size(json_object_get(def, "enum")) == 0)
			load_error(l, line, col, "param \"%s\" of type enum needs its values: enum: [a, b]", name);
		if (value)
			check_default(l, name, def, path, line, col);
		free(path);
	}
}

/* ---- values ---- */

static const struct param_def *
param_find(const struct flow *f, const char *name)
{
	for (size_t i = 0; i < f->nparams; i++) {
		if (strcmp(f->params[i].name, name) == 0)
			return &f->params[i];
	}
	return NULL;
}

static void
add_unknown(const struct flow *f, const char *name, struct buf *problems)
{
	const char **names = xcalloc(f->nparams + 1, sizeof(*names));

	for (size_t i = 0; i < f->nparams; i++)
		names[i] = f->params[i].name;
	buf_addf(problems, "%sunknown param \"%s\"", problems->len ? "; " : "", name);
	if (f->nparams == 0)
		buf_adds(problems, "; the flow has none");
	suggest_hint(problems, name, names, f->nparams, "params are");
	free(names);
}

int
flow_params(const struct flow *f, const json_t *given, json_t **out, struct err *e)
{
	struct buf problems = BUF_INIT, why = BUF_INIT;
	json_t *result = json_object(), *value;
	const char *name;
	int rc = 0;

	if (given && !json_is_null(given) && !json_is_object(given)) {
		json_decref(result);
		return err_set(e, ERR_UNPROCESSABLE, "params must be a map of names to values");
	}
	json_object_foreach ((json_t *)given, name, value) {
		if (param_find(f, name) == NULL)
			add_unknown(f, name, &problems);
	}
	for (size_t i = 0; i < f->nparams; i++) {
		const struct param_def *p = &f->params[i];
		json_t *v = json_object_get(given, p->name), *def = json_object_get(p->def, "default");

		buf_clear(&why);
		if (v) {
			json_t *converted = param_convert(p->def, v, &why);

			if (converted)
				json_object_set_new(result, p->name, converted);
			else
				buf_addf(&problems, "%sparam \"%s\" %s", problems.len ? "; " : "", p->name, why.s);
		} else if (json_is_true(json_object_get(p->def, "required"))) {
			buf_addf(&problems, "%sparam \"%s\" is required", problems.len ? "; " : "", p->name);
		} else {
			json_object_set_new(result, p->name, def ? json_deep_copy(def) : json_null());
		}
	}
	if (problems.len > 0) {
		rc = err_set(e, ERR_UNPROCESSABLE, "flow \"%s\": %s", f->id ? f->id : "", problems.s);
		json_decref(result);
	} else {
		*out = result;
	}
	buf_release(&problems);
	buf_release(&why);
	return rc;
}
