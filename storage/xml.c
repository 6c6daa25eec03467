#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "storage/storage_int.h"

bool
xml_find(const char *from, const char *to, const char *name, const char **begin, const char **end)
{
	size_t n = strlen(name);

	for (const char *p = from; (p = memchr(p, '<', (size_t)(to - p))) != NULL; p++) {
		const char *content, *q;

		if ((size_t)(to - p) < n + 2 || strncmp(p + 1, name, n) != 0 || (p[n + 1] != '>' && p[n + 1] != ' '))
			continue;
		content = memchr(p, '>', (size_t)(to - p));
		if (content++ == NULL)
			return false;
		for (q = content; (q = memchr(q, '<', (size_t)(to - q))) != NULL; q++)
			if ((size_t)(to - q) >= n + 3 && q[1] == '/' && strncmp(q + 2, name, n) == 0 && q[n + 2] == '>') {
				*begin = content;
				*end = q;
				return true;
			}
		return false;
	}
	return false;
}

static void
add_code_point(struct buf *b, unsigned long c)
{
	if (c < 0x80) {
		buf_addc(b, (char)c);
	} else if (c < 0x800) {
		buf_addc(b, (char)(0xC0 | c >> 6));
		buf_addc(b, (char)(0x80 | (c & 0x3F)));
	} else if (c < 0x10000) {
		buf_addc(b, (char)(0xE0 | c >> 12));
		buf_addc(b, (char)(0x80 | (c >> 6 & 0x3F)));
		buf_addc(b, (char)(0x80 | (c & 0x3F)));
	} else if (c < 0x110000) {
		buf_addc(b, (char)(0xF0 | c >> 18));
		buf_addc(b, (char)(0x80 | (c >> 12 & 0x3F)));
		buf_addc(b, (char)(0x80 | (c >> 6 & 0x3F)));
		buf_addc(b, (char)(0x80 | (c & 0x3F)));
	}
}

/* Adds what the entity at `p` stands for; returns where it ends, or `p` when it is none. */
static const char *
add_entity(struct buf *b, const char *p, const char *to)
{
	static const struct {
		const char *name;
		char c;
	} known[] = { { "&amp;", '&' }, { "&lt;", '<' }, { "&gt;", '>' }, { "&quot;", '"' }, { "&apos;", '\'' } };
	char *end;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		size_t n = strlen(known[i].name);

		if ((size_t)(to - p) >= n && strncmp(p, known[i].name, n) == 0) {
			buf_addc(b, known[i].c);
			return p + n;
		}
	}
	if (to - p > 3 && p[1] == '#') {
		unsigned long c = p[2] == 'x' ? strtoul(p + 3, &end, 16) : strtoul(p + 2, &end, 10);

		if (end < to && *end == ';') {
			add_code_point(b, c);
			return end + 1;
		}
	}
	return p;
}

char *
xml_text(const char *from, const char *to, const char *name)
{
	struct buf b = BUF_INIT;
	const char *p, *end;

	if (!xml_find(from, to, name, &p, &end))
		return NULL;
	while (p < end) {
		const char *next = *p == '&' ? add_entity(&b, p, end) : p;

		if (next == p)
			buf_addc(&b, *next++);
		p = next;
	}
	return buf_detach(&b);
}

void
xml_add_escaped(struct buf *b, const char *s)
{
	for (; *s; s++)
		if (*s == '&')
			buf_adds(b, "&amp;");
		else if (*s == '<')
			buf_adds(b, "&lt;");
		else if (*s == '>')
			buf_adds(b, "&gt;");
		else if ((unsigned char)*s < ' ')
			buf_addf(b, "&#%d;", *s);
		else
			buf_addc(b, *s);
}
