/*
 * Walks a tree along the rows of the grammar. Nothing stops at the first problem: what is wrong is left out of the result and
 * the walk goes on, so that one look at the output shows everything there is to mend.
 */
#include "flows/check.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/flow.h"
#include "flows/suggest.h"

#define MAX_VALUES 80 /* of an enum */

static json_t *check_value(struct check *c, const struct grammar_row *row, const struct ynode *n);

bool
text_has_ref(const char *text)
{
	for (const char *p = text; (p = strchr(p, '$')) != NULL; p++) {
		if (p[1] == '{')
			return true;
		if (p[1] == '$' && p[2] == '{')
			p += 2;
	}
	return false;
}

bool
id_is_valid(const char *text)
{
	size_t n = strlen(text);

	return n >= 1 && n <= 63 && text[0] >= 'a' && text[0] <= 'z' &&
	       text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-")] == '\0';
}

void
check_error(struct check *c, const struct ynode *at, const char *fmt, ...)
{
	va_list ap;
	char *msg;

	va_start(ap, fmt);
	msg = xvasprintf(fmt, ap);
	va_end(ap);
	diags_add(c->diags, SEVERITY_ERROR, c->file, at->line, at->col, "%s", msg);
	free(msg);
}

/* `"checks[2].range" of task "validate"`, or the owner alone at its top. The caller frees it. */
static char *
place_name(const struct check *c)
{
	struct buf b = BUF_INIT;
	const char *p = c->path.s;

	if (*p == '\0')
		return xstrdup(c->owner);
	buf_addc(&b, '"');
	while (*p) {
		size_t n = strcspn(p, "/");

		if (strspn(p, "0123456789") == n)
			buf_addf(&b, "[%.*s]", (int)n, p);
		else
			buf_addf(&b, "%s%.*s", b.len > 1 ? "." : "", (int)n, p);
		p += n + (p[n] == '/');
	}
	buf_addf(&b, "\" of %s", c->owner);
	return buf_detach(&b);
}

/* Goes down into a key or index; returns the length to come back to. */
static size_t
path_push(struct check *c, const char *name)
{
	size_t len = c->path.len;

	buf_addf(&c->path, "%s%s", len ? "/" : "", name);
	return len;
}

static void
path_pop(struct check *c, size_t len)
{
	c->path.len = len;
	if (c->path.cap)
		c->path.s[len] = '\0';
}

/* ---- single values ---- */

static const char *
type_words(enum gtype type)
{
	switch (type) {
	case G_STRING:
	case G_SELECT:
		return "a text";
	case G_CHAR:
		return "one character of ASCII";
	case G_ID:
		return "a name of a-z, 0-9, _ and - that begins with a letter and has at most 63 characters";
	case G_BOOL:
		return "true or false";
	case G_INT:
		return "a whole number";
	case G_NUMBER:
		return "a number";
	case G_DURATION:
		return "a duration such as 30s, 10m or 1h30m";
	case G_SIZE:
		return "a size such as 128MB or 4GB";
	case G_PERCENT:
		return "a share such as 10%";
	case G_ENUM:
		return "one of its values";
	case G_OBJECT:
		return "a map";
	case G_DEP:
		return "the id of a task";
	case G_ANY:
		break;
	}
	return "a value";
}

static json_t *
not_a(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	char *where = place_name(c);

	if (n->kind != Y_SCALAR || ynode_is_null(n))
		check_error(c, n, "%s must be %s, and is %s", where, type_words(row->type), ynode_kind_name(n));
	else
		check_error(c, n, "%s must be %s, not \"%.60s\"", where, type_words(row->type), n->text);
	free(where);
	return NULL;
}

/* "1..10", "0..": both ends included. */
static bool
in_range(const char *range, double v)
{
	const char *dots = strstr(range, "..");

	return (dots == range || v >= strtod(range, NULL)) && (dots[2] == '\0' || v <= strtod(dots + 2, NULL));
}

static json_t *
check_number(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	json_t *v = ynode_json(n);
	char *where;

	if (row->type == G_NUMBER ? !json_is_number(v) : !json_is_integer(v)) {
		json_decref(v);
		return not_a(c, row, n);
	}
	if (row->range && !in_range(row->range, json_number_value(v))) {
		const char *dots = strstr(row->range, "..");

		where = place_name(c);
		if (dots[2])
			check_error(c, n, "%s must be from %.*s to %s, and is %s", where, (int)(dots - row->range), row->range,
				    dots + 2, n->text);
		else
			check_error(c, n, "%s must be at least %.*s, and is %s", where, (int)(dots - row->range), row->range,
				    n->text);
		free(where);
	}
	return v;
}

/* Splits "a b !c" into the values in force, and says whether `text` is one (1), a later one (2) or none (0). */
static int
enum_find(const char *values, const char *text, const char **names, size_t *count, char *store)
{
	int found = 0;
	char *save = NULL;

	strcpy(store, values); /* the caller's array is as long as the text */
	*count = 0;
	for (char *v = strtok_r(store, " ", &save); v; v = strtok_r(NULL, " ", &save)) {
		if (strcmp(*v == '!' ? v + 1 : v, text) == 0)
			found = *v == '!' ? 2 : 1;
		if (*v != '!')
			names[(*count)++] = v;
	}
	return found;
}

static json_t *
check_enum(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	const char *names[MAX_VALUES];
	char *store = xmalloc(strlen(row->arg) + 1), *known;
	struct buf hint = BUF_INIT;
	const char *what = strcmp(row->object, "task") == 0 && strcmp(row->key, "type") == 0 ? "task type" : row->key;
	size_t count;
	int found = enum_find(row->arg, n->text, names, &count, store);
	size_t from = c->path.len;
	char *where;

	/* Name the thing that has the key: `unknown mode "x" in task "publish"`. */
	while (from > 0 && c->path.s[from - 1] != '/')
		from--;
	if (found != 1) {
		struct check above = *c;

		above.path = (struct buf)BUF_INIT;
		if (from > 1)
			buf_add(&above.path, c->path.s, from - 1);
		where = place_name(&above);
		buf_release(&above.path);
		if (found == 2) {
			for (size_t i = 0; i < count; i++)
				buf_addf(&hint, "%s%s", i ? ", " : "", names[i]);
			check_error(c, n, "%s \"%s\" in %s is not supported yet; supported: %s", what, n->text, where, hint.s);
		} else {
			known = xasprintf("%s is one of", what);
			suggest_hint(&hint, n->text, names, count, known);
			free(known);
			check_error(c, n, "unknown %s \"%.60s\" in %s%s", what, n->text, where, hint.s);
		}
		free(where);
		buf_release(&hint);
	}
	free(store);
	return found == 1 ? json_string(n->text) : NULL;
}

static json_t *
check_percent(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	char *end;
	double v = strtod(n->text, &end);

	if (end == n->text || strcmp(end, "%") != 0 || v < 0 || v > 100)
		return not_a(c, row, n);
	return json_real(v / 100);
}

/* A bare number is a duration where the loader put it, and not where a ref did. */
static json_t *
check_duration(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	char *path = xstrdup(c->path.s), *save = NULL;
	json_t *before = (json_t *)c->before;
	dur_us v;

	for (char *key = strtok_r(path, "/", &save); key && before; key = strtok_r(NULL, "/", &save))
		before = json_object_get(before, key);
	free(path);
	if (json_is_integer(before))
		return json_incref(before);
	return duration_parse(n->text, &v) == 0 ? json_integer(v) : not_a(c, row, n);
}

static bool
is_ascii_char(const char *s)
{
	return *s != '\0' && (unsigned char)*s < 128 && s[1] == '\0';
}

static json_t *
check_scalar(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	struct ynode unquoted;
	int64_t v;

	if (n->kind != Y_SCALAR || ynode_is_null(n))
		return not_a(c, row, n);
	if (c->resolved) {
		unquoted = *n;
		unquoted.plain = true;
		n = &unquoted;
	}
	if (c->refs && text_has_ref(n->text))
		return json_string(n->text);
	switch (row->type) {
	case G_BOOL:
		if (n->plain && (strcmp(n->text, "true") == 0 || strcmp(n->text, "false") == 0))
			return json_boolean(n->text[0] == 't');
		return not_a(c, row, n);
	case G_INT:
	case G_NUMBER:
		return check_number(c, row, n);
	case G_DURATION:
		return check_duration(c, row, n);
	case G_SIZE:
		return size_parse(n->text, &v) == 0 ? json_integer(v) : not_a(c, row, n);
	case G_PERCENT:
		return check_percent(c, row, n);
	case G_ENUM:
		return check_enum(c, row, n);
	case G_CHAR:
		return is_ascii_char(n->text) || (row->arg && *n->text == '\0') ? json_string(n->text) : not_a(c, row, n);
	case G_ID:
		return id_is_valid(n->text) ? json_string(n->text) : not_a(c, row, n);
	default:
		return json_string(n->text);
	}
}

static void
note_place(struct check *c, const struct ynode *n)
{
	if (c->pos)
		json_object_set_new(c->pos, c->path.s, json_pack("[i, i]", n->text_line, n->text_col));
}

/* Everything inside of a free value is a text that may hold refs, so its places count too. */
static void
note_places(struct check *c, const struct ynode *n)
{
	char index[24];

	if (c->pos == NULL)
		return;
	note_place(c, n);
	for (size_t i = 0; i < n->count; i++) {
		size_t back;

		snprintf(index, sizeof(index), "%zu", i);
		back = path_push(c, n->kind == Y_MAP ? n->keys[i].name : index);
		note_places(c, n->items[i]);
		path_pop(c, back);
	}
}

static json_t *
check_select(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	struct buf b = BUF_INIT;
	json_t *out;

	if (n->kind != Y_MAP)
		return check_scalar(c, row, n);
	if (n->count != 1 || n->items[0]->kind != Y_SCALAR || ynode_is_null(n->items[0])) {
		char *where = place_name(c);

		check_error(c, n, "%s must be a column, \"expr AS name\" or {name: expr}", where);
		free(where);
		return NULL;
	}
	buf_addf(&b, "%s AS ", n->items[0]->text);
	buf_add_sql_name(&b, n->keys[0].name);
	out = json_string(b.s);
	buf_release(&b);
	return out;
}

static json_t *
check_dep(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	if (n->kind == Y_MAP) {
		check_error(c, n, "a map in \"depends_on\" of %s is not supported yet; give the task's id", c->owner);
		return NULL;
	}
	return check_scalar(c, row, n);
}

/* ---- objects, lists, maps ---- */

/* `{amount: decimal(18,2)}` leaves a key `2)` behind. */
static bool
report_cut_comma(struct check *c, const struct ynode *n, size_t i)
{
	const char *name = n->keys[i].name;

	if (!strchr(name, ')') || strchr(name, '(') || !ynode_is_null(n->items[i]))
		return false;
	diags_add(c->diags, SEVERITY_ERROR, c->file, n->keys[i].line, n->keys[i].col,
		  "\"%.60s\" looks like the rest of a text that was cut at its comma; inside { } and [ ] quote a text that has "
		  "one, as in "
		  "\"decimal(18,2)\"",
		  name);
	return true;
}

static json_t *
check_bare_object(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	for (size_t i = 0; i < grammar_row_count; i++) {
		const struct grammar_row *shorthand = &grammar_rows[i];
		struct ynode *item, wrap = { .kind = Y_MAP, .line = n->line, .col = n->col, .count = 1 };
		struct ykey key = { (char *)shorthand->key, n->line, n->col };

		if (strcmp(shorthand->object, row->arg) != 0 || !(shorthand->flags & G_SHORT))
			continue;
		if (n->kind == Y_LIST && shorthand->type != G_ANY && shorthand->shape != G_ONE_OR_LIST)
			break;
		item = (struct ynode *)n;
		wrap.keys = &key;
		wrap.items = &item;
		return check_object(c, &row->arg, 1, &wrap);
	}
	return not_a(c, row, n);
}

static json_t *
check_one(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	struct ynode empty = { .kind = Y_MAP, .line = n->line, .col = n->col };

	switch (row->type) {
	case G_OBJECT:
		/* Which keys a task has depends on its type and the defaults: flow_load.c checks the tasks one by one. */
		if (strcmp(row->arg, "task") == 0)
			return json_null();
		note_place(c, n);
		if (n->kind == Y_MAP)
			return check_object(c, &row->arg, 1, n);
		if (ynode_is_null(n) && row->shape == G_MAP)
			return check_object(c, &row->arg, 1, &empty);
		return check_bare_object(c, row, n);
	case G_ANY:
		note_places(c, n);
		return ynode_json(n);
	case G_SELECT:
		note_places(c, n->kind == Y_MAP && n->count == 1 ? n->items[0] : n);
		return check_select(c, row, n);
	case G_DEP:
		note_places(c, n);
		return check_dep(c, row, n);
	default:
		note_places(c, n);
		return check_scalar(c, row, n);
	}
}

static json_t *
check_list(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	json_t *out = json_array();
	char index[24];

	for (size_t i = 0; i < n->count; i++) {
		size_t back;
		json_t *v;

		snprintf(index, sizeof(index), "%zu", i);
		back = path_push(c, index);
		v = check_one(c, row, n->items[i]);
		path_pop(c, back);
		json_array_append_new(out, v ? v : json_null());
	}
	return out;
}

/* A name that a ref can spell. */
static bool
is_identifier(const char *s)
{
	return (isalpha((unsigned char)*s) || *s == '_') &&
	       s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")] == '\0';
}

static json_t *
check_map(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	json_t *out = json_object();

	for (size_t i = 0; i < n->count; i++) {
		size_t back;
		json_t *v;

		if (report_cut_comma(c, n, i))
			continue;
		if ((row->flags & G_NAMES) && !is_identifier(n->keys[i].name)) {
			char *where = place_name(c);

			diags_add(c->diags, SEVERITY_ERROR, c->file, n->keys[i].line, n->keys[i].col,
				  "\"%.60s\" in %s is not a name; names have letters, digits, _ and -, and begin with a letter",
				  n->keys[i].name, where);
			free(where);
			continue;
		}
		back = path_push(c, n->keys[i].name);
		v = check_one(c, row, n->items[i]);
		path_pop(c, back);
		if (v)
			json_object_set_new(out, n->keys[i].name, v);
	}
	return out;
}

static json_t *
check_value(struct check *c, const struct grammar_row *row, const struct ynode *n)
{
	json_t *v, *list;
	bool is_list = n->kind == Y_LIST;
	char *where, index[24];
	size_t back;

	if (n->kind != Y_SCALAR)
		note_place(c, n);
	switch (row->shape) {
	case G_ONE:
		return check_one(c, row, n);
	case G_MAP:
		if (n->kind == Y_MAP)
			return check_map(c, row, n);
		break;
	case G_LIST:
		if (is_list)
			return check_list(c, row, n);
		/* A map names the columns of a select in order. */
		if (row->type == G_SELECT && n->kind == Y_MAP) {
			list = json_array();
			for (size_t i = 0; i < n->count; i++) {
				struct ynode one = { .kind = Y_MAP,
						     .line = n->keys[i].line,
						     .col = n->keys[i].col,
						     .keys = &n->keys[i],
						     .items = &n->items[i],
						     .count = 1 };

				snprintf(index, sizeof(index), "%zu", i);
				back = path_push(c, index);
				v = check_one(c, row, &one);
				path_pop(c, back);
				json_array_append_new(list, v ? v : json_null());
			}
			return list;
		}
		break;
	case G_ONE_OR_LIST:
		return is_list ? check_list(c, row, n) : check_one(c, row, n);
	case G_AS_LIST:
		/* One ref became a list of one ref, which has become a list itself. */
		if (c->resolved && is_list && n->count == 1 && n->items[0]->kind == Y_LIST)
			n = n->items[0];
		if (is_list)
			return check_list(c, row, n);
		list = json_array();
		v = check_one(c, row, n);
		json_array_append_new(list, v ? v : json_null());
		return list;
	}
	where = place_name(c);
	if (c->refs && n->kind == Y_SCALAR && text_has_ref(n->text)) {
		note_places(c, n);
		free(where);
		return json_string(n->text);
	}
	check_error(c, n, "%s must be %s, and is %s", where, row->shape == G_MAP ? "a map" : "a list", ynode_kind_name(n));
	free(where);
	return NULL;
}

/* Do other task types have the key? Then the name is right and the type is not. NULL when none has. The caller frees it. */
static char *
other_types(size_t nobjects, const char *key)
{
	struct buf b = BUF_INIT;
	const char *last = NULL;

	if (nobjects < 2)
		return NULL;
	if (grammar_find("native", key))
		return xstrdup("stage, publish, curate, validate, maintain and export");
	for (size_t t = 0; grammar_task_types[t]; t++) {
		if (grammar_find(grammar_task_types[t], key) == NULL)
			continue;
		if (last)
			buf_addf(&b, "%s%s", b.len ? ", " : "", last);
		last = grammar_task_types[t];
	}
	if (last)
		buf_addf(&b, "%s%s", b.len ? " and " : "", last);
	return last ? buf_detach(&b) : NULL;
}

static void
report_unknown(struct check *c, const char *const *objects, size_t nobjects, const struct ykey *key)
{
	const char **names = xcalloc(grammar_row_count, sizeof(*names));
	char *owners = other_types(nobjects, key->name);
	size_t count = 0;
	struct buf hint = BUF_INIT;
	char *where = place_name(c);

	for (size_t i = 0; i < grammar_row_count; i++) {
		for (size_t o = 0; o < nobjects; o++) {
			if (strcmp(grammar_rows[i].object, objects[o]) == 0 && !(grammar_rows[i].flags & G_LATER))
				names[count++] = grammar_rows[i].key;
		}
	}
	if (owners)
		buf_addf(&hint, "; it belongs to tasks of type %s, and this one is of type %s", owners, objects[nobjects - 1]);
	else
		suggest_hint(&hint, key->name, names, count, "known keys are");
	diags_add(c->diags, SEVERITY_ERROR, c->file, key->line, key->col, "unknown key \"%.60s\" in %s%s", key->name, where,
		  hint.s);
	buf_release(&hint);
	free(owners);
	free(where);
	free(names);
}

static const struct grammar_row *
find_row(const char *const *objects, size_t nobjects, const char *key)
{
	const struct grammar_row *row = NULL;

	for (size_t o = 0; o < nobjects && row == NULL; o++)
		row = grammar_find(objects[o], key);
	return row;
}

/* The default of a row, by checking it like a value in the file. */
static json_t *
default_value(struct check *c, const struct grammar_row *row)
{
	struct ynode n = { .kind = Y_SCALAR, .text = (char *)row->def, .plain = true };
	struct ynode empty = { .kind = Y_MAP };
	struct check quiet = *c;
	json_t *v;

	quiet.pos = NULL;
	quiet.path = (struct buf)BUF_INIT;
	if (strcmp(row->def, "{}") == 0)
		return row->shape == G_MAP || row->type == G_ANY ? json_object() : check_object(&quiet, &row->arg, 1, &empty);
	if (strcmp(row->def, "[]") == 0)
		return json_array();
	if (*row->def == '\0')
		return json_string("");
	v = check_one(&quiet, row, &n);
	buf_release(&quiet.path);
	return v;
}

static void
complete(struct check *c, const char *object, const struct ynode *n, json_t *out)
{
	char *where = place_name(c);

	for (size_t i = 0; i < grammar_row_count; i++) {
		const struct grammar_row *row = &grammar_rows[i];

		if (strcmp(row->object, object) != 0 || (n->kind == Y_MAP && ynode_get(n, row->key)))
			continue;
		if (row->flags & G_REQUIRED)
			check_error(c, n, "%s needs the key \"%s\"", where, row->key);
		else if (row->def)
			json_object_set_new(out, row->key, default_value(c, row));
	}
	for (size_t i = 0; i < grammar_group_count; i++) {
		char *keys, *save = NULL;
		size_t have = 0;

		if (strcmp(grammar_groups[i].object, object) != 0)
			continue;
		keys = xstrdup(grammar_groups[i].keys);
		for (char *key = strtok_r(keys, " ", &save); key; key = strtok_r(NULL, " ", &save))
			have += ynode_get(n, key) != NULL;
		/* A key of a later issue stands in for the one that is missing; it was reported already. */
		for (size_t k = 0; have == 0 && k < n->count; k++) {
			const struct grammar_row *row = grammar_find(object, n->keys[k].name);

			have = row && (row->flags & G_LATER);
		}
		if (have != 1 && strchr(grammar_groups[i].keys, ' '))
			check_error(c, n, "%s needs exactly one of these keys: %s", where, grammar_groups[i].keys);
		else if (have != 1)
			check_error(c, n, "%s needs the key \"%s\"", where, grammar_groups[i].keys);
		free(keys);
	}
	free(where);
}

json_t *
check_object(struct check *c, const char *const *objects, size_t nobjects, const struct ynode *n)
{
	json_t *out = json_object();

	if (n->kind != Y_MAP) {
		char *where = place_name(c);

		check_error(c, n, "%s must be a map, and is %s", where, ynode_kind_name(n));
		free(where);
		return out;
	}
	for (size_t i = 0; i < n->count; i++) {
		const struct ykey *key = &n->keys[i];
		const struct grammar_row *row = find_row(objects, nobjects, key->name);
		size_t back;
		json_t *v;

		if (row && (row->flags & G_LATER)) {
			char *where = place_name(c);

			diags_add(c->diags, SEVERITY_ERROR, c->file, key->line, key->col, "\"%s\" in %s is not supported yet",
				  key->name, where);
			free(where);
			continue;
		}
		if (row == NULL) {
			if (!c->any_key && !report_cut_comma(c, n, i))
				report_unknown(c, objects, nobjects, key);
			continue;
		}
		back = path_push(c, key->name);
		v = check_value(c, row, n->items[i]);
		path_pop(c, back);
		if (v)
			json_object_set_new(out, key->name, v);
	}
	if (!c->partial) {
		for (size_t o = 0; o < nobjects; o++)
			complete(c, objects[o], n, out);
	}
	return out;
}
