/*
 * Refs: a path into the scope, then filters from left to right. A path is names and numbers joined by dots
 * ("tasks.stage.outputs.files.0"); a filter's argument is a bare word or a quoted text.
 */
#include "flows/ref.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "flows/suggest.h"

#define MAX_ARGS 2

struct filter {
	char *name;
	char *args[MAX_ARGS];
	int nargs;
};

struct ref {
	char *path;
	struct filter *filters;
	size_t nfilters;
};

typedef int filter_fn(json_t **value, const struct filter *f, struct err *e);

static void
ref_release(struct ref *r)
{
	for (size_t i = 0; i < r->nfilters; i++) {
		free(r->filters[i].name);
		for (int a = 0; a < r->filters[i].nargs; a++)
			free(r->filters[i].args[a]);
	}
	free(r->filters);
	free(r->path);
}

int
ref_find(const char *text, size_t from, size_t *start, size_t *end, struct err *e)
{
	const char *p = text + from;

	while ((p = strchr(p, '$')) != NULL) {
		char quote = 0;

		if (p[1] == '$' && p[2] == '{') {
			p += 3;
			continue;
		}
		if (p[1] != '{') {
			p++;
			continue;
		}
		*start = (size_t)(p - text);
		for (p += 2; *p && (quote || *p != '}'); p++) {
			if (quote && *p == quote)
				quote = 0;
			else if (!quote && (*p == '\'' || *p == '"'))
				quote = *p;
			else if (!quote && *p == '\n')
				break;
		}
		if (*p != '}')
			return err_set(e, ERR_UNPROCESSABLE,
				       "\"${\" is not closed by \"}\"; write \"$${\" for the characters themselves");
		*end = (size_t)(p - text) + 1;
		return 1;
	}
	return 0;
}

static size_t
skip_blanks(const char *text, size_t at)
{
	while (text[at] == ' ' || text[at] == '\t')
		at++;
	return at;
}

/* One argument of a filter; `*at` moves behind it. */
static int
parse_arg(const char *text, size_t *at, char **out, struct err *e)
{
	size_t from = *at;

	if (text[from] == '\'' || text[from] == '"') {
		const char *close = strchr(text + from + 1, text[from]);

		*out = xstrndup(text + from + 1, (size_t)(close - text) - from - 1); /* ref_find made sure that it closes */
		*at = (size_t)(close - text) + 1;
		return 0;
	}
	while (text[*at] && strchr(",)}", text[*at]) == NULL)
		++*at;
	if (*at == from)
		return err_set(e, ERR_UNPROCESSABLE, "an argument is missing");
	*out = xstrndup(text + from, *at - from);
	for (size_t n = strlen(*out); n > 0 && (*out)[n - 1] == ' '; n--)
		(*out)[n - 1] = '\0';
	return 0;
}

static int
parse_filter(const char *text, size_t *at, struct ref *r, struct err *e)
{
	struct filter *f;
	size_t from = *at;

	while (isalnum((unsigned char)text[*at]) || text[*at] == '_')
		++*at;
	if (*at == from)
		return err_set(e, ERR_UNPROCESSABLE, "a filter's name must follow \"|\"");
	r->filters = xrealloc(r->filters, (r->nfilters + 1) * sizeof(*r->filters));
	f = &r->filters[r->nfilters++];
	*f = (struct filter){ .name = xstrndup(text + from, *at - from) };
	*at = skip_blanks(text, *at);
	if (text[*at] != '(')
		return 0;
	do {
		if (f->nargs == MAX_ARGS)
			return err_set(e, ERR_UNPROCESSABLE, "filter \"%s\" has too many arguments", f->name);
		*at = skip_blanks(text, *at + 1);
		if (f->nargs == 0 && text[*at] == ')')
			break;
		if (parse_arg(text, at, &f->args[f->nargs], e) < 0)
			return ERR_UNPROCESSABLE;
		f->nargs++;
		*at = skip_blanks(text, *at);
	} while (text[*at] == ',');
	if (text[*at] != ')')
		return err_set(e, ERR_UNPROCESSABLE, "\")\" is missing behind filter \"%s\"", f->name);
	++*at;
	return 0;
}

static bool
path_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '.';
}

static int
parse(const char *text, size_t start, size_t end, struct ref *r, struct err *e)
{
	size_t at = skip_blanks(text, start + 2), from = at, close = end - 1;
	int rc = 0;

	while (path_char(text[at]))
		at++;
	r->path = xstrndup(text + from, at - from);
	if (at == from || text[from] == '.' || text[at - 1] == '.' || strstr(r->path, ".."))
		rc = err_set(e, ERR_UNPROCESSABLE, "a ref is ${scope.name}, as in ${params.day}");
	at = skip_blanks(text, at);
	while (rc == 0 && text[at] == '|') {
		at = skip_blanks(text, at + 1);
		rc = parse_filter(text, &at, r, e);
		at = skip_blanks(text, at);
	}
	if (rc == 0 && at != close)
		rc = err_set(e, ERR_UNPROCESSABLE, "\"%.*s\" is not understood; a ref is ${scope.name | filter}",
			     (int)(close - at), text + at);
	if (rc < 0) {
		ref_release(r);
		*r = (struct ref){ 0 };
	}
	return rc;
}

/* ---- filters ---- */

void
ref_add_text(struct buf *out, const json_t *value)
{
	char *dump;

	if (json_is_string(value)) {
		buf_adds(out, json_string_value(value));
		return;
	}
	dump = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
	buf_adds(out, dump ? dump : "");
	free(dump);
}

static char *
value_text(const json_t *value)
{
	struct buf b = BUF_INIT;

	ref_add_text(&b, value);
	return buf_detach(&b);
}

static void
replace(json_t **value, json_t *by)
{
	json_decref(*value);
	*value = by;
}

static int
filter_case(json_t **value, const struct filter *f, struct err *e)
{
	char *s = value_text(*value);

	(void)e;
	for (char *p = s; *p; p++)
		*p = (char)(f->name[0] == 'u' ? toupper((unsigned char)*p) : tolower((unsigned char)*p));
	replace(value, json_string(s));
	free(s);
	return 0;
}

static int
filter_trim(json_t **value, const struct filter *f, struct err *e)
{
	char *s = value_text(*value), *from = s, *end = s + strlen(s);

	(void)f;
	(void)e;
	while (isspace((unsigned char)*from))
		from++;
	while (end > from && isspace((unsigned char)end[-1]))
		end--;
	replace(value, json_stringn(from, (size_t)(end - from)));
	free(s);
	return 0;
}

/* date, date('%Y%m%d'): an RFC 3339 time or a date, in UTC. */
static int
filter_date(json_t **value, const struct filter *f, struct err *e)
{
	char *s = value_text(*value), out[256];
	time_t t;
	struct tm tm;
	wall_us us;
	int rc = 0;

	if (time_parse(s, &us) < 0) {
		rc = err_set(e, ERR_UNPROCESSABLE, "\"%s\" is not a date or time", s);
	} else {
		t = (time_t)((us - (us % US_PER_S + US_PER_S) % US_PER_S) / US_PER_S);
		gmtime_r(&t, &tm);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		if (strftime(out, sizeof(out), f->nargs > 0 ? f->args[0] : "%Y-%m-%d", &tm) == 0)
			rc = err_set(e, ERR_UNPROCESSABLE, "the date format is empty or gives more than 255 characters");
		else
			replace(value, json_string(out));
#pragma GCC diagnostic pop
	}
	free(s);
	return rc;
}

static int
filter_json(json_t **value, const struct filter *f, struct err *e)
{
	char *s = json_dumps(*value, JSON_ENCODE_ANY | JSON_COMPACT);

	(void)f;
	(void)e;
	replace(value, json_string(s));
	free(s);
	return 0;
}

/* A SQL literal: text in quotes, a list as 'a', 'b', numbers and booleans bare. */
static void
add_sql(struct buf *out, const json_t *value)
{
	json_t *item;
	size_t i;

	if (json_is_array(value)) {
		json_array_foreach (value, i, item) {
			if (i > 0)
				buf_adds(out, ", ");
			add_sql(out, item);
		}
	} else if (json_is_null(value)) {
		buf_adds(out, "NULL");
	} else if (json_is_number(value) || json_is_boolean(value)) {
		ref_add_text(out, value);
	} else {
		char *s = value_text(value);

		buf_add_sql_string(out, s);
		free(s);
	}
}

static int
filter_quote(json_t **value, const struct filter *f, struct err *e)
{
	struct buf b = BUF_INIT;

	(void)f;
	(void)e;
	add_sql(&b, *value);
	replace(value, json_string(b.s));
	buf_release(&b);
	return 0;
}

static int
filter_int(json_t **value, const struct filter *f, struct err *e)
{
	char *s = value_text(*value), *end;
	int rc = 0;
	long long n;

	(void)f;
	errno = 0;
	n = strtoll(s, &end, 10);
	if (errno || end == s || (*end && !json_is_real(*value)))
		rc = err_set(e, ERR_UNPROCESSABLE, "\"%s\" is not a whole number", s);
	else
		replace(value, json_integer(n));
	free(s);
	return rc;
}

static int
filter_float(json_t **value, const struct filter *f, struct err *e)
{
	char *s = value_text(*value), *end;
	int rc = 0;
	double d = strtod(s, &end);

	(void)f;
	if (end == s || *end || !isfinite(d))
		rc = err_set(e, ERR_UNPROCESSABLE, "\"%s\" is not a number", s);
	else
		replace(value, json_real(d));
	free(s);
	return rc;
}

static int
filter_length(json_t **value, const struct filter *f, struct err *e)
{
	size_t n = json_is_array(*value) ? json_array_size(*value) : json_is_object(*value) ? json_object_size(*value) : 0;

	(void)f;
	(void)e;
	if (n == 0 && !json_is_array(*value) && !json_is_object(*value)) {
		char *s = value_text(*value);

		for (const char *p = s; *p; p++)
			n += ((unsigned char)*p & 0xc0) != 0x80;
		free(s);
	}
	replace(value, json_integer((json_int_t)n));
	return 0;
}

static int
filter_first(json_t **value, const struct filter *f, struct err *e)
{
	size_t n = json_array_size(*value);

	if (n == 0)
		return err_set(e, ERR_UNPROCESSABLE, "the value is not a list, or is empty");
	replace(value, json_incref(json_array_get(*value, f->name[0] == 'f' ? 0 : n - 1)));
	return 0;
}

static int
filter_join(json_t **value, const struct filter *f, struct err *e)
{
	struct buf b = BUF_INIT;
	json_t *item;
	size_t i;

	if (!json_is_array(*value))
		return err_set(e, ERR_UNPROCESSABLE, "the value is not a list");
	json_array_foreach (*value, i, item) {
		if (i > 0)
			buf_adds(&b, f->nargs > 0 ? f->args[0] : ",");
		ref_add_text(&b, item);
	}
	replace(value, json_string(b.s));
	buf_release(&b);
	return 0;
}

static int
filter_replace(json_t **value, const struct filter *f, struct err *e)
{
	char *s = value_text(*value), *p = s, *hit;
	struct buf b = BUF_INIT;

	(void)e;
	while (*f->args[0] && (hit = strstr(p, f->args[0])) != NULL) {
		buf_add(&b, p, (size_t)(hit - p));
		buf_adds(&b, f->args[1]);
		p = hit + strlen(f->args[0]);
	}
	buf_adds(&b, p);
	replace(value, json_string(b.s));
	buf_release(&b);
	free(s);
	return 0;
}

/* default(x) works where the value is found; here it has one already. */
static int
filter_default(json_t **value, const struct filter *f, struct err *e)
{
	(void)value;
	(void)f;
	(void)e;
	return 0;
}

static const struct {
	const char *name;
	int min_args, max_args;
	filter_fn *fn;
} filters[] = {
	{ "upper", 0, 0, filter_case },    { "lower", 0, 0, filter_case },      { "trim", 0, 0, filter_trim },
	{ "date", 0, 1, filter_date },     { "default", 1, 1, filter_default }, { "json", 0, 0, filter_json },
	{ "quote", 0, 1, filter_quote },   { "int", 0, 0, filter_int },         { "float", 0, 0, filter_float },
	{ "length", 0, 0, filter_length }, { "first", 0, 0, filter_first },     { "last", 0, 0, filter_first },
	{ "join", 0, 1, filter_join },     { "replace", 2, 2, filter_replace },
};
#define NFILTERS (sizeof(filters) / sizeof(filters[0]))

static int
filter_find(const struct filter *f, size_t *index, struct err *e)
{
	const char *names[NFILTERS];
	struct buf hint = BUF_INIT;

	for (size_t i = 0; i < NFILTERS; i++) {
		names[i] = filters[i].name;
		if (strcmp(filters[i].name, f->name) != 0)
			continue;
		*index = i;
		if (f->nargs < filters[i].min_args)
			return err_set(e, ERR_UNPROCESSABLE, "filter \"%s\" needs an argument: %s(…)", f->name, f->name);
		if (f->nargs > filters[i].max_args)
			return err_set(e, ERR_UNPROCESSABLE, "filter \"%s\" has too many arguments", f->name);
		return 0;
	}
	suggest_hint(&hint, f->name, names, NFILTERS, "filters are");
	err_set(e, ERR_UNPROCESSABLE, "unknown filter \"%s\"%s", f->name, hint.s);
	buf_release(&hint);
	return ERR_UNPROCESSABLE;
}

/* ---- values ---- */

/* Borrowed; NULL when the path leads nowhere. Names of the scope may themselves contain dots (table names do not, env may). */
static json_t *
lookup(const json_t *scope, const char *path)
{
	json_t *at = (json_t *)scope;

	while (at && *path) {
		const char *dot = strchrnul(path, '.');
		char *name = xstrndup(path, (size_t)(dot - path)), *end;
		unsigned long index;

		if (json_is_array(at)) {
			index = strtoul(name, &end, 10);
			at = *end ? NULL : json_array_get(at, index);
		} else {
			at = json_object_get(at, name);
		}
		free(name);
		path = *dot ? dot + 1 : dot;
	}
	return at;
}

int
ref_parse(const char *text, size_t start, size_t end, char **path, bool *has_default, struct err *e)
{
	struct ref r = { 0 };
	struct err why = ERR_INIT;
	size_t index;
	int rc = parse(text, start, end, &r, &why);

	*has_default = false;
	for (size_t i = 0; rc == 0 && i < r.nfilters; i++) {
		rc = filter_find(&r.filters[i], &index, &why);
		if (strcmp(r.filters[i].name, "default") == 0)
			*has_default = true;
	}
	if (rc < 0) {
		err_prefix(&why, "%.*s", (int)(end - start), text + start);
		ref_release(&r);
		return err_move(e, &why);
	}
	*path = r.path;
	r.path = NULL;
	ref_release(&r);
	return 0;
}

int
ref_value(const char *text, size_t start, size_t end, const json_t *scope, bool null_ok, json_t **out, struct err *e)
{
	struct ref r = { 0 };
	struct err why = ERR_INIT;
	json_t *value = NULL;
	size_t index;
	int rc = parse(text, start, end, &r, &why);

	if (rc == 0) {
		value = lookup(scope, r.path);
		if (json_is_null(value) && !null_ok)
			value = NULL;
		json_incref(value);
	}
	for (size_t i = 0; rc == 0 && i < r.nfilters; i++) {
		rc = filter_find(&r.filters[i], &index, &why);
		if (rc == 0 && filters[index].fn == filter_default && (value == NULL || json_is_null(value)))
			replace(&value, json_string(r.filters[i].args[0]));
		else if (rc == 0 && value != NULL)
			rc = filters[index].fn(&value, &r.filters[i], &why);
	}
	if (rc == 0 && value == NULL)
		rc = err_set(&why, ERR_UNPROCESSABLE, "%s has no value; give one with \"| default(…)\" if it may be absent",
			     r.path);
	if (rc < 0) {
		err_prefix(&why, "%.*s", (int)(end - start), text + start);
		json_decref(value);
		err_move(e, &why);
	} else {
		*out = value;
	}
	ref_release(&r);
	return rc;
}
