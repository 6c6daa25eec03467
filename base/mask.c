/* A scan per position, cheap because most bytes begin no secret. */
#include "base/mask.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define SECRET_MIN 3
#define LINE_MIN   6 /* a line of a longer secret: `}` alone must not be hidden everywhere */

struct secret {
	char *text;
	size_t len;
};

struct mask {
	struct secret *secrets;
	size_t count;
	bool begins[256]; /* some secret begins with this byte */
	struct buf kept;
};

struct mask *
mask_new(void)
{
	struct mask *m = xcalloc(1, sizeof(*m));

	buf_init(&m->kept, 0);
	return m;
}

void
mask_free(struct mask *m)
{
	if (m == NULL)
		return;
	for (size_t i = 0; i < m->count; i++) {
		explicit_bzero(m->secrets[i].text, m->secrets[i].len);
		free(m->secrets[i].text);
	}
	free(m->secrets);
	buf_release(&m->kept);
	free(m);
}

static void
mask_add_text(struct mask *m, const char *text, size_t len)
{
	m->secrets = xrealloc(m->secrets, (m->count + 1) * sizeof(*m->secrets));
	m->secrets[m->count].text = xstrndup(text, len);
	m->secrets[m->count++].len = len;
	m->begins[(unsigned char)text[0]] = true;
}

void
mask_add(struct mask *m, const char *secret)
{
	size_t len = strlen(secret);

	if (len >= SECRET_MIN)
		mask_add_text(m, secret, len);
	if (strchr(secret, '\n') == NULL)
		return;
	for (const char *p = secret; *p;) {
		size_t n = strcspn(p, "\r\n");

		if (n >= LINE_MIN)
			mask_add_text(m, p, n);
		p += n;
		p += strspn(p, "\r\n");
	}
}

bool
mask_empty(const struct mask *m)
{
	return m == NULL || m->count == 0;
}

char *
mask_text(struct mask *m, const char *text)
{
	struct buf out = BUF_INIT;

	mask_feed(m, text, strlen(text), true, &out);
	return buf_detach(&out);
}

size_t
mask_pending(const struct mask *m)
{
	return m->kept.len;
}

/* How long the longest secret at `s` is; 0 for none. `*maybe`: a longer one may be there, with bytes that follow `n`. */
static size_t
mask_match(const struct mask *m, const char *s, size_t n, bool *maybe)
{
	size_t best = 0;

	*maybe = false;
	for (size_t i = 0; i < m->count; i++) {
		const struct secret *x = &m->secrets[i];

		if (x->len > n)
			*maybe = *maybe || memcmp(x->text, s, n) == 0;
		else if (x->len > best && memcmp(x->text, s, x->len) == 0)
			best = x->len;
	}
	return best;
}

void
mask_feed(struct mask *m, const char *data, size_t len, bool final, struct buf *out)
{
	size_t i = 0, from = 0, n;
	const char *s;

	buf_add(&m->kept, data, len);
	s = m->kept.s;
	n = m->kept.len;
	while (i < n) {
		bool maybe;
		size_t hit;

		if (!m->begins[(unsigned char)s[i]]) {
			i++;
			continue;
		}
		hit = mask_match(m, s + i, n - i, &maybe);
		if (maybe && !final)
			break;
		if (hit == 0) {
			i++;
			continue;
		}
		buf_add(out, s + from, i - from);
		buf_adds(out, "***");
		from = i += hit;
	}
	buf_add(out, s + from, i - from);
	buf_drop_front(&m->kept, i);
}

/* Length of the character at `s`, 0 when it is none, -1 when its end is missing. */
static int
utf8_length(const unsigned char *s, size_t n)
{
	unsigned char c = s[0], low = 0x80, high = 0xbf;
	int len;

	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (c == 0xe0)
		low = 0xa0; /* else overlong */
	else if (c == 0xed)
		high = 0x9f; /* else a surrogate */
	else if (c == 0xf0)
		low = 0x90;
	else if (c == 0xf4)
		high = 0x8f;
	for (int i = 1; i < len; i++) {
		if ((size_t)i >= n)
			return -1;
		if (s[i] < low || s[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return len;
}

size_t
utf8_clean(const char *data, size_t len, bool final, struct buf *out)
{
	size_t i = 0, from = 0;

	while (i < len) {
		int n = utf8_length((const unsigned char *)data + i, len - i);

		if (n > 0) {
			i += (size_t)n;
			continue;
		}
		buf_add(out, data + from, i - from);
		from = i;
		if (n < 0 && !final)
			return i;
		buf_adds(out, "\xef\xbf\xbd");
		from = ++i;
	}
	buf_add(out, data + from, i - from);
	return i;
}
