/*
 * libyaml's events to a tree. Aliases are refused rather than expanded: ten lines of them can stand for billions of values,
 * and `defaults` and `vars` serve the same need in the open.
 */
#include "flows/yaml.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/alloc.h"

#define MAX_DEPTH 64
#define MAX_NODES 200000

struct reader {
	yaml_parser_t parser;
	const char *file, *text;
	size_t len;
	struct diags *diags;
	size_t *line_at; /* byte offset of each line */
	size_t lines;
	size_t nodes;
};

static struct ynode *read_node(struct reader *r, yaml_event_t *ev, int depth);

void
ynode_free(struct ynode *n)
{
	if (n == NULL)
		return;
	for (size_t i = 0; i < n->count; i++) {
		ynode_free(n->items[i]);
		if (n->keys)
			free(n->keys[i].name);
	}
	free(n->items);
	free(n->keys);
	free(n->text);
	free(n);
}

static struct ynode *
ynode_new(enum ynode_kind kind, int line, int col)
{
	struct ynode *n = xcalloc(1, sizeof(*n));

	n->kind = kind;
	n->line = n->text_line = line;
	n->col = n->text_col = col;
	return n;
}

/* Adds a value to a list, or to a map under `key`, which is taken over. */
static void
ynode_add(struct ynode *n, struct ykey key, struct ynode *value)
{
	if (n->count == n->cap) {
		n->cap = n->cap ? n->cap * 2 : 8;
		n->items = xrealloc(n->items, n->cap * sizeof(struct ynode *));
		if (n->kind == Y_MAP)
			n->keys = xrealloc(n->keys, n->cap * sizeof(*n->keys));
	}
	if (n->kind == Y_MAP)
		n->keys[n->count] = key;
	n->items[n->count++] = value;
}

static void
index_lines(struct reader *r)
{
	size_t cap = 256;

	r->line_at = xmalloc(cap * sizeof(size_t));
	r->line_at[r->lines++] = 0;
	for (size_t i = 0; i < r->len; i++) {
		if (r->text[i] != '\n')
			continue;
		if (r->lines == cap)
			r->line_at = xrealloc(r->line_at, (cap *= 2) * sizeof(size_t));
		r->line_at[r->lines++] = i + 1;
	}
}

/* The text from a place on; "" beyond the end. Columns count characters, so this walks UTF-8. */
static const char *
text_at(const struct reader *r, size_t line, size_t col)
{
	const char *p, *end = r->text + r->len;

	if (line >= r->lines)
		return "";
	for (p = r->text + r->line_at[line]; col > 0 && p < end; col--) {
		for (p++; p < end && ((unsigned char)*p & 0xc0) == 0x80; p++)
			;
	}
	return p < end ? p : "";
}

static void
reader_error(struct reader *r, yaml_mark_t at, const char *message)
{
	diags_add(r->diags, SEVERITY_ERROR, r->file, (int)at.line + 1, (int)at.column + 1, "%s", message);
}

/* libyaml's own words are for those who write parsers; the usual mistakes get ours. */
static void
report_syntax(struct reader *r)
{
	yaml_parser_t *p = &r->parser;
	yaml_mark_t at = p->problem_mark;
	const char *problem = p->problem ? p->problem : "not readable", *here = text_at(r, at.line, at.column);
	const char *before = text_at(r, at.line, at.column > 0 ? at.column - 1 : 0);

	if (p->error == YAML_READER_ERROR) {
		size_t line = 0, upto = p->problem_offset < r->len ? p->problem_offset : r->len;

		while (line + 1 < r->lines && r->line_at[line + 1] <= upto)
			line++;
		diags_add(r->diags, SEVERITY_ERROR, r->file, (int)line + 1, (int)(upto - r->line_at[line]) + 1,
			  "the file is not text in UTF-8: %s", problem);
	} else if (*here == '\t') {
		reader_error(r, at, "a tab is used where YAML wants spaces; indent with spaces");
	} else if (*here == '{' && at.column > 0 && *before == '$') {
		reader_error(r, at, "a ${…} inside { } or [ ] must be quoted: \"${…}\"");
	} else if (strstr(problem, "mapping values are not allowed")) {
		reader_error(r, at, "a \":\" is not allowed here; check the indentation, or quote the text");
	} else if (strstr(problem, "cannot start any token")) {
		diags_add(r->diags, SEVERITY_ERROR, r->file, (int)at.line + 1, (int)at.column + 1,
			  "a text cannot begin with \"%c\" unless it is quoted", *here ? *here : '?');
	} else if (p->context) {
		diags_add(r->diags, SEVERITY_ERROR, r->file, (int)at.line + 1, (int)at.column + 1,
			  "this is not YAML: %s (%s that begins in line %d)", problem, p->context, (int)p->context_mark.line + 1);
	} else {
		diags_add(r->diags, SEVERITY_ERROR, r->file, (int)at.line + 1, (int)at.column + 1, "this is not YAML: %s",
			  problem);
	}
}

static bool
next_event(struct reader *r, yaml_event_t *ev)
{
	if (yaml_parser_parse(&r->parser, ev))
		return true;
	report_syntax(r);
	return false;
}

/* A block scalar's text begins in the line below its `|`, behind the indentation. */
static void
place_text(struct reader *r, struct ynode *n, const yaml_event_t *ev)
{
	yaml_scalar_style_t style = ev->data.scalar.style;
	const char *content = n->text;
	size_t line = ev->start_mark.line + 1;

	if (style == YAML_SINGLE_QUOTED_SCALAR_STYLE || style == YAML_DOUBLE_QUOTED_SCALAR_STYLE)
		n->text_col++;
	if (style != YAML_LITERAL_SCALAR_STYLE && style != YAML_FOLDED_SCALAR_STYLE)
		return;
	n->text_line = (int)line + 1;
	n->text_col = 1;
	for (; line < r->lines; line++) {
		const char *p = r->text + r->line_at[line], *end = r->text + r->len;
		const char *first = p;

		while (first < end && *first == ' ')
			first++;
		if (first < end && *first != '\n' && *first != '\r') {
			/* Blanks beyond the indentation are content: take away what the text itself begins with. */
			size_t own;

			content += strspn(content, "\n");
			own = strspn(content, " ");
			n->text_col = (int)(first - p) - (int)own + 1;
			if (n->text_col < 1)
				n->text_col = 1;
			return;
		}
	}
}

static struct ynode *
read_scalar(struct reader *r, const yaml_event_t *ev)
{
	struct ynode *n = ynode_new(Y_SCALAR, (int)ev->start_mark.line + 1, (int)ev->start_mark.column + 1);

	n->text = xstrndup((const char *)ev->data.scalar.value, ev->data.scalar.length);
	if (strlen(n->text) != ev->data.scalar.length) {
		reader_error(r, ev->start_mark, "a text cannot contain a NUL character");
		ynode_free(n);
		return NULL;
	}
	n->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	place_text(r, n, ev);
	return n;
}

/* Reads a value and adds it; a map's key has been read already. */
static int
read_into(struct reader *r, struct ynode *parent, struct ykey key, yaml_event_t *ev, int depth)
{
	struct ynode *value = read_node(r, ev, depth);

	if (value == NULL) {
		free(key.name);
		return -1;
	}
	ynode_add(parent, key, value);
	return 0;
}

/* `seen` maps the keys so far to their line. */
static int
read_pair(struct reader *r, struct ynode *map, json_t *seen, yaml_event_t *ev, int depth)
{
	struct ykey key = { NULL, (int)ev->start_mark.line + 1, (int)ev->start_mark.column + 1 };
	json_t *earlier;
	yaml_event_t value;
	int rc;

	if (ev->type != YAML_SCALAR_EVENT || ev->data.scalar.anchor || ev->data.scalar.tag) {
		reader_error(r, ev->start_mark,
			     ev->type == YAML_ALIAS_EVENT || ev->type == YAML_SCALAR_EVENT
				     ? "anchors, aliases and tags are not allowed"
				     : "a key must be a plain text");
		return -1;
	}
	key.name = xstrndup((const char *)ev->data.scalar.value, ev->data.scalar.length);
	earlier = json_object_get(seen, key.name);
	if (earlier)
		diags_add(r->diags, SEVERITY_ERROR, r->file, key.line, key.col, "duplicate key \"%s\"; it is already in line %d",
			  key.name, (int)json_integer_value(earlier));
	else
		json_object_set_new_nocheck(seen, key.name, json_integer(key.line));
	if (!next_event(r, &value)) {
		free(key.name);
		return -1;
	}
	rc = read_into(r, map, key, &value, depth);
	yaml_event_delete(&value);
	return rc;
}

static struct ynode *
read_children(struct reader *r, struct ynode *n, yaml_event_type_t end, int depth)
{
	json_t *seen = n->kind == Y_MAP ? json_object() : NULL;
	yaml_event_t ev;
	int rc = 0;

	for (;;) {
		if (!next_event(r, &ev)) {
			rc = -1;
			break;
		}
		if (ev.type == end) {
			yaml_event_delete(&ev);
			break;
		}
		if (n->kind == Y_MAP)
			rc = read_pair(r, n, seen, &ev, depth + 1);
		else
			rc = read_into(r, n, (struct ykey){ 0 }, &ev, depth + 1);
		yaml_event_delete(&ev);
		if (rc < 0)
			break;
	}
	json_decref(seen);
	if (rc < 0) {
		ynode_free(n);
		return NULL;
	}
	return n;
}

static bool
has_anchor(const yaml_event_t *ev)
{
	return ev->type == YAML_ALIAS_EVENT || (ev->type == YAML_SCALAR_EVENT && ev->data.scalar.anchor) ||
	       (ev->type == YAML_SEQUENCE_START_EVENT && ev->data.sequence_start.anchor) ||
	       (ev->type == YAML_MAPPING_START_EVENT && ev->data.mapping_start.anchor);
}

static bool
has_tag(const yaml_event_t *ev)
{
	return (ev->type == YAML_SCALAR_EVENT && ev->data.scalar.tag) ||
	       (ev->type == YAML_SEQUENCE_START_EVENT && ev->data.sequence_start.tag) ||
	       (ev->type == YAML_MAPPING_START_EVENT && ev->data.mapping_start.tag);
}

static struct ynode *
read_node(struct reader *r, yaml_event_t *ev, int depth)
{
	int line = (int)ev->start_mark.line + 1, col = (int)ev->start_mark.column + 1;
	const char *wrong = NULL;

	if (has_anchor(ev))
		wrong = "anchors (&) and aliases (*) are not allowed, since a few lines of them can stand for billions of "
			"values; "
			"use \"defaults\" or \"vars\" for what repeats, or quote the text";
	else if (has_tag(ev))
		wrong = "tags (!) are not allowed; quote the text if it begins with \"!\"";
	else if (depth > MAX_DEPTH)
		wrong = "nested too deeply: more than 64 levels";
	else if (++r->nodes > MAX_NODES)
		wrong = "too much for one file: more than 200000 values; keep data in data files";
	if (wrong) {
		reader_error(r, ev->start_mark, wrong);
		return NULL;
	}
	switch (ev->type) {
	case YAML_SCALAR_EVENT:
		return read_scalar(r, ev);
	case YAML_SEQUENCE_START_EVENT:
		return read_children(r, ynode_new(Y_LIST, line, col), YAML_SEQUENCE_END_EVENT, depth);
	case YAML_MAPPING_START_EVENT:
		return read_children(r, ynode_new(Y_MAP, line, col), YAML_MAPPING_END_EVENT, depth);
	default:
		reader_error(r, ev->start_mark, "this is not YAML");
		return NULL;
	}
}

/* Stream start, document, stream end. */
static struct ynode *
read_document(struct reader *r)
{
	struct ynode *root = NULL;
	yaml_event_t ev;

	while (next_event(r, &ev)) {
		yaml_event_type_t type = ev.type;
		yaml_mark_t at = ev.start_mark;
		bool fail = false;

		if (type == YAML_DOCUMENT_START_EVENT && root != NULL) {
			reader_error(r, at, "a second document begins here; a file holds one");
			fail = true;
		} else if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT &&
			   type != YAML_DOCUMENT_END_EVENT && type != YAML_STREAM_END_EVENT) {
			root = read_node(r, &ev, 0);
			fail = root == NULL;
		}
		yaml_event_delete(&ev);
		if (fail)
			break;
		if (type == YAML_STREAM_END_EVENT)
			return root ? root : ynode_new(Y_MAP, 1, 1);
	}
	ynode_free(root);
	return NULL;
}

struct ynode *
yaml_parse(const char *file, const char *text, size_t len, struct diags *diags)
{
	struct reader r = { .file = file, .text = text, .len = len, .diags = diags };
	size_t errors = diags->errors;
	struct ynode *root;

	if (len > YAML_MAX_BYTES) {
		diags_add(diags, SEVERITY_ERROR, file, 0, 0, "the file has %.1f MB; 10 MB is the most that is read",
			  (double)len / (1024 * 1024));
		return NULL;
	}
	index_lines(&r);
	if (!yaml_parser_initialize(&r.parser))
		abort(); /* out of memory */
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
	root = read_document(&r);
	yaml_parser_delete(&r.parser);
	free(r.line_at);
	if (root && diags->errors > errors && root->count == 0) {
		ynode_free(root);
		root = NULL;
	}
	return root;
}

struct ynode *
yaml_from_json(const json_t *value)
{
	struct ynode *n;
	const char *key;
	json_t *v;
	size_t i;

	switch (json_typeof(value)) {
	case JSON_OBJECT:
		n = ynode_new(Y_MAP, 0, 0);
		json_object_foreach ((json_t *)value, key, v)
			ynode_add(n, (struct ykey){ xstrdup(key), 0, 0 }, yaml_from_json(v));
		return n;
	case JSON_ARRAY:
		n = ynode_new(Y_LIST, 0, 0);
		json_array_foreach (value, i, v)
			ynode_add(n, (struct ykey){ 0 }, yaml_from_json(v));
		return n;
	default:
		n = ynode_new(Y_SCALAR, 0, 0);
		n->plain = !json_is_string(value);
		if (json_is_string(value)) {
			n->text = xstrdup(json_string_value(value));
		} else {
			n->text = json_dumps(value, JSON_ENCODE_ANY);
			if (n->text == NULL)
				n->text = xstrdup("null");
		}
		return n;
	}
}

const struct ynode *
ynode_get(const struct ynode *map, const char *key)
{
	if (map == NULL || map->kind != Y_MAP)
		return NULL;
	for (size_t i = 0; i < map->count; i++) {
		if (strcmp(map->keys[i].name, key) == 0)
			return map->items[i];
	}
	return NULL;
}

bool
ynode_is_null(const struct ynode *n)
{
	return n->kind == Y_SCALAR && n->plain &&
	       (*n->text == '\0' || strcmp(n->text, "~") == 0 || strcmp(n->text, "null") == 0 || strcmp(n->text, "Null") == 0 ||
		strcmp(n->text, "NULL") == 0);
}

/* YAML 1.2 core: decimal, 0o17, 0x1f; 1_000, 1:30 and 017 (seventeen) stay what they look like. */
static json_t *
scalar_number(const char *t)
{
	const char *digits = t + (*t == '-' || *t == '+');
	char *end;
	long long i;
	double d;

	if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'o') && digits == t) {
		errno = 0;
		i = strtoll(digits + 2, &end, digits[1] == 'x' ? 16 : 8);
		return errno == 0 && digits[2] && strchr("+-", digits[2]) == NULL && *end == '\0' ? json_integer(i) : NULL;
	}
	if (*digits && digits[strspn(digits, "0123456789")] == '\0') {
		errno = 0;
		i = strtoll(t, &end, 10);
		return errno == 0 ? json_integer(i) : NULL;
	}
	if (digits[strspn(digits, "0123456789.eE+-")] != '\0' || strpbrk(digits, "0123456789") == NULL)
		return NULL;
	d = strtod(t, &end);
	return *end == '\0' && isfinite(d) ? json_real(d) : NULL;
}

json_t *
ynode_json(const struct ynode *n)
{
	json_t *out;

	switch (n->kind) {
	case Y_LIST:
		out = json_array();
		for (size_t i = 0; i < n->count; i++)
			json_array_append_new(out, ynode_json(n->items[i]));
		return out;
	case Y_MAP:
		out = json_object();
		for (size_t i = 0; i < n->count; i++)
			json_object_set_new(out, n->keys[i].name, ynode_json(n->items[i]));
		return out;
	case Y_SCALAR:
		if (!n->plain)
			return json_string(n->text);
		if (ynode_is_null(n))
			return json_null();
		if (strcmp(n->text, "true") == 0)
			return json_true();
		if (strcmp(n->text, "false") == 0)
			return json_false();
		out = scalar_number(n->text);
		return out ? out : json_string(n->text);
	}
	return NULL;
}

const char *
ynode_kind_name(const struct ynode *n)
{
	switch (n->kind) {
	case Y_LIST:
		return "a list";
	case Y_MAP:
		return "a map";
	case Y_SCALAR:
		return ynode_is_null(n) ? "empty" : "a single value";
	}
	return "";
}
