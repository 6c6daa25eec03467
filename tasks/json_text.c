#include "tasks/json_text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define DEPTH_MAX 1000 /* of lists in lists: what is deeper is no data but an attack on somebody's stack */

/* Where the scanner is. Each scan_… moves behind what it is called after; false: `p` is where that was not to be found. */
struct scan {
	const char *p, *end;
	int depth;
};

static bool scan_value(struct scan *c);

static void
scan_blanks(struct scan *c)
{
	while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t'))
		c->p++;
}

static bool
scan_char(struct scan *c, char wanted)
{
	if (c->p == c->end || *c->p != wanted)
		return false;
	c->p++;
	return true;
}

static bool
scan_word(struct scan *c, const char *word)
{
	for (; *word; word++)
		if (!scan_char(c, *word))
			return false;
	return true;
}

static bool
scan_digits(struct scan *c)
{
	const char *from = c->p;

	while (c->p < c->end && *c->p >= '0' && *c->p <= '9')
		c->p++;
	return c->p > from;
}

static bool
scan_number(struct scan *c)
{
	if (c->p < c->end && *c->p == '-')
		c->p++;
	if (!scan_char(c, '0') && !scan_digits(c))
		return false;
	if (c->p < c->end && *c->p == '.') {
		c->p++;
		if (!scan_digits(c))
			return false;
	}
	if (c->p < c->end && (*c->p == 'e' || *c->p == 'E')) {
		c->p++;
		if (c->p < c->end && (*c->p == '-' || *c->p == '+'))
			c->p++;
		return scan_digits(c);
	}
	return true;
}

/* One character beyond ASCII, by the table of well-formed sequences of the Unicode standard. */
static bool
scan_utf8(struct scan *c)
{
	unsigned char first = (unsigned char)*c->p, low = 0x80, high = 0xbf;
	int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;

	if (first < 0xc2 || first > 0xf4)
		return false;
	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	for (c->p++; more > 0; more--, c->p++, low = 0x80, high = 0xbf)
		if (c->p == c->end || (unsigned char)*c->p < low || (unsigned char)*c->p > high)
			return false;
	return true;
}

static bool
scan_escape(struct scan *c)
{
	if (c->p == c->end)
		return false;
	if (*c->p != 'u') {
		if (*c->p == '\0' || strchr("\"\\/bfnrt", *c->p) == NULL)
			return false;
		c->p++;
		return true;
	}
	c->p++;
	for (int i = 0; i < 4; i++, c->p++)
		if (c->p == c->end || *c->p == '\0' || strchr("0123456789abcdefABCDEF", *c->p) == NULL)
			return false;
	return true;
}

#define EACH(byte)  (UINT64_C(0x0101010101010101) * (byte))
#define ZEROS(word) (((word)-EACH(0x01)) & ~(word)&EACH(0x80))

/* Moves over text that means nothing but itself, eight bytes at a time; what is left of it is for the caller. */
static void
scan_plain(struct scan *c)
{
	uint64_t word;

	for (; c->end - c->p >= 8; c->p += 8) {
		memcpy(&word, c->p, 8);
		if ((word | ((word - EACH(0x20)) & ~word) | ZEROS(word ^ EACH('"')) | ZEROS(word ^ EACH('\\'))) & EACH(0x80))
			return;
	}
}

static bool
scan_string(struct scan *c)
{
	if (!scan_char(c, '"'))
		return false;
	scan_plain(c);
	while (c->p < c->end) {
		unsigned char b = (unsigned char)*c->p;

		if (b == '"') {
			c->p++;
			return true;
		}
		if (b >= 0x80) {
			if (!scan_utf8(c))
				return false;
			continue;
		}
		if (b < 0x20)
			return false;
		c->p++;
		if (b == '\\' && !scan_escape(c))
			return false;
	}
	return false;
}

/* What stands between the brackets, and the closing one. */
static bool
scan_members(struct scan *c, char close)
{
	scan_blanks(c);
	if (scan_char(c, close))
		return true;
	for (;;) {
		scan_blanks(c);
		if (close == '}') {
			if (!scan_string(c))
				return false;
			scan_blanks(c);
			if (!scan_char(c, ':'))
				return false;
		}
		if (!scan_value(c))
			return false;
		scan_blanks(c);
		if (scan_char(c, close))
			return true;
		if (!scan_char(c, ','))
			return false;
	}
}

static bool
scan_value(struct scan *c)
{
	bool good;

	scan_blanks(c);
	if (c->p == c->end)
		return false;
	switch (*c->p) {
	case '{':
	case '[':
		if (++c->depth > DEPTH_MAX)
			return false;
		good = scan_members(c, *c->p++ == '{' ? '}' : ']');
		c->depth--;
		return good;
	case '"':
		return scan_string(c);
	case 't':
		return scan_word(c, "true");
	case 'f':
		return scan_word(c, "false");
	case 'n':
		return scan_word(c, "null");
	default:
		return scan_number(c);
	}
}

int
json_text_check(const char *s, size_t len, struct json_text *out, size_t *at)
{
	struct scan c = { .p = s, .end = s + len };

	if (len >= 3 && memcmp(s, "\xef\xbb\xbf", 3) == 0)
		c.p += 3;
	scan_blanks(&c);
	out->s = c.p;
	if (!scan_value(&c)) {
		*at = (size_t)(c.p - s);
		return -1;
	}
	out->len = (size_t)(c.p - out->s);
	scan_blanks(&c);
	*at = (size_t)(c.p - s);
	return c.p == c.end ? 0 : -1;
}

const char *
json_text_kind(struct json_text v)
{
	switch (*v.s) {
	case '{':
		return "an object";
	case '[':
		return "a list";
	case '"':
		return "a text";
	case 't':
	case 'f':
		return "true or false";
	case 'n':
		return "null";
	default:
		return "a number";
	}
}

bool
json_text_next(struct json_text v, size_t *at, struct json_text *key, struct json_text *value)
{
	struct scan c = { .p = v.s + *at, .end = v.s + v.len };

	if (*v.s != '{' && *v.s != '[')
		return false;
	if (*at == 0)
		c.p++;
	scan_blanks(&c);
	scan_char(&c, ',');
	scan_blanks(&c);
	if (c.p == c.end || *c.p == '}' || *c.p == ']')
		return false;
	if (*v.s == '{') {
		const char *from = c.p;

		scan_string(&c);
		if (key)
			*key = (struct json_text){ from, (size_t)(c.p - from) };
		scan_blanks(&c);
		scan_char(&c, ':');
		scan_blanks(&c);
	}
	value->s = c.p;
	scan_value(&c);
	value->len = (size_t)(c.p - value->s);
	*at = (size_t)(c.p - v.s);
	return true;
}

/* ---- paths ---- */

/* The part of a path up to the next separator, decoded; the caller frees it. */
static char *
path_part(const char **path, bool pointer)
{
	size_t n = strcspn(*path, pointer ? "/" : ".");
	struct buf b = BUF_INIT;

	for (size_t i = 0; i < n; i++) {
		char ch = (*path)[i];

		if (pointer && ch == '~' && ((*path)[i + 1] == '0' || (*path)[i + 1] == '1'))
			ch = (*path)[++i] == '0' ? '~' : '/';
		buf_addc(&b, ch);
	}
	*path += n;
	return buf_detach(&b);
}

static bool
is_key(struct json_text key, const char *name)
{
	char *text;
	bool same;

	if (memchr(key.s, '\\', key.len) == NULL)
		return key.len == strlen(name) + 2 && memcmp(key.s + 1, name, key.len - 2) == 0;
	text = json_text_scalar(key);
	same = text && strcmp(text, name) == 0;
	free(text);
	return same;
}

static bool
find_part(struct json_text *v, const char *part)
{
	struct json_text key, value, last = { 0 };
	size_t at = 0, n = 0;
	char *end;
	long index = strtol(part, &end, 10);
	bool list = *v->s == '[';

	if (list && (*part == '\0' || *end || index < -1))
		return false;
	while (json_text_next(*v, &at, &key, &value)) {
		if (list ? index == (long)n++ : is_key(key, part)) {
			*v = value;
			return true;
		}
		last = value;
	}
	if (!list || index != -1 || last.s == NULL)
		return false;
	*v = last;
	return true;
}

bool
json_text_find(struct json_text v, const char *path, struct json_text *out, const char **at)
{
	bool pointer = path && *path == '/';
	const char *rest = path ? path + pointer : "";

	*out = v;
	while (path && (*rest || pointer)) {
		const char *from = rest;
		char *part = path_part(&rest, pointer);
		bool found = find_part(out, part);

		free(part);
		if (!found) {
			if (at)
				*at = from;
			return false;
		}
		if (*rest == '\0')
			break;
		rest++;
	}
	return true;
}

/* ---- values ---- */

/* What an escape \uXXXX stands for; 0 where there is none. */
static unsigned long
escape_code(const char *p, const char *end)
{
	char hex[5] = "";

	if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
		return 0;
	memcpy(hex, p + 2, 4);
	return strtoul(hex, NULL, 16);
}

size_t
json_text_add(struct buf *b, struct json_text v)
{
	const char *from = v.s, *end = v.s + v.len;
	bool quoted = false;
	size_t halves = 0;

	if (*v.s != '{' && *v.s != '[' && memchr(v.s, '\\', v.len) == NULL) {
		buf_add(b, v.s, v.len);
		return 0;
	}
	for (const char *p = v.s; p < end; p++) {
		if (quoted && *p == '\\') {
			unsigned long code = escape_code(p, end), low = escape_code(p + 6 < end ? p + 6 : end, end);

			if (code >= 0xd800 && code < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
				p += 11;
			} else if (code >= 0xd800 && code < 0xe000) {
				buf_add(b, from, (size_t)(p - from));
				buf_adds(b, "\\ufffd");
				from = p + 6;
				p += 5;
				halves++;
			} else {
				p++;
			}
		} else if (*p == '"') {
			quoted = !quoted;
		} else if (!quoted && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) {
			buf_add(b, from, (size_t)(p - from));
			from = p + 1;
		}
	}
	buf_add(b, from, (size_t)(end - from));
	return halves;
}

json_t *
json_text_value(struct json_text v)
{
	return json_loadb(v.s, v.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}

char *
json_text_scalar(struct json_text v)
{
	json_t *text;
	char *s;

	if (*v.s == '{' || *v.s == '[' || *v.s == 'n')
		return NULL;
	if (*v.s != '"')
		return xstrndup(v.s, v.len);
	text = json_text_value(v);
	s = xstrdup_null(json_string_value(text));
	json_decref(text);
	return s;
}
