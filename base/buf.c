#include "buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"

char buf_empty[1];

void
buf_init(struct buf *b, size_t max)
{
	*b = (struct buf)BUF_INIT_MAX(max);
}

void
buf_release(struct buf *b)
{
	if (b->cap)
		free(b->s);
	buf_init(b, b->max);
}

void
buf_clear(struct buf *b)
{
	b->len = 0;
	b->overflow = false;
	if (b->cap)
		b->s[0] = '\0';
}

int
buf_reserve(struct buf *b, size_t extra)
{
	size_t need = b->len + extra + 1, cap;

	if (b->max && b->len + extra > b->max) {
		b->overflow = true;
		return -1;
	}
	if (need <= b->cap)
		return 0;
	cap = b->cap ? b->cap * 2 : 64;
	if (cap < need)
		cap = need;
	b->s = b->cap ? xrealloc(b->s, cap) : xmalloc(cap);
	b->s[b->len] = '\0';
	b->cap = cap;
	return 0;
}

int
buf_add(struct buf *b, const void *data, size_t len)
{
	if (buf_reserve(b, len) < 0)
		return -1;
	if (len)
		memcpy(b->s + b->len, data, len);
	b->len += len;
	b->s[b->len] = '\0';
	return 0;
}

int
buf_adds(struct buf *b, const char *s)
{
	return buf_add(b, s, strlen(s));
}

int
buf_addc(struct buf *b, char c)
{
	return buf_add(b, &c, 1);
}

int
buf_vaddf(struct buf *b, const char *fmt, va_list ap)
{
	va_list copy;
	int n;

	va_copy(copy, ap);
	n = vsnprintf(NULL, 0, fmt, copy);
	va_end(copy);
	if (n < 0 || buf_reserve(b, (size_t)n) < 0)
		return -1;
	vsnprintf(b->s + b->len, (size_t)n + 1, fmt, ap);
	b->len += (size_t)n;
	return 0;
}

int
buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = buf_vaddf(b, fmt, ap);
	va_end(ap);
	return rc;
}

static void
buf_add_doubled(struct buf *b, const char *s, char quote)
{
	buf_addc(b, quote);
	for (; *s; s++) {
		if (*s == quote)
			buf_addc(b, quote);
		buf_addc(b, *s);
	}
	buf_addc(b, quote);
}

void
buf_add_sql_string(struct buf *b, const char *s)
{
	buf_add_doubled(b, s, '\'');
}

void
buf_add_sql_name(struct buf *b, const char *s)
{
	buf_add_doubled(b, s, '"');
}

void
buf_add_encoded(struct buf *b, const char *s, const char *keep)
{
	for (; *s; s++)
		if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~", *s) || strchr(keep, *s))
			buf_addc(b, *s);
		else
			buf_addf(b, "%%%02X", (unsigned char)*s);
}

void
buf_add_visible(struct buf *b, const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c == '\\')
			buf_adds(b, "\\\\");
		else if (c >= 0x20 && c < 0x7f)
			buf_addc(b, (char)c);
		else
			buf_addf(b, "\\x%02x", c);
	}
}

void
buf_drop_front(struct buf *b, size_t n)
{
	if (n > b->len)
		n = b->len;
	if (n == 0)
		return;
	memmove(b->s, b->s + n, b->len - n + 1);
	b->len -= n;
}

char *
buf_detach(struct buf *b)
{
	char *s = b->cap ? b->s : xstrdup("");

	buf_init(b, b->max);
	return s;
}

int
buf_add_file(struct buf *b, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	for (;;) {
		/* Never reserve past the maximum while a shorter file would still fit. */
		size_t want = 65536;

		if (b->max && b->len + want > b->max)
			want = b->max - b->len + 1;
		if (b->max && want == 1) {
			char c;

			n = read(fd, &c, 1);
			if (n > 0)
				rc = -EFBIG;
			else if (n < 0)
				rc = -errno;
			break;
		}
		if (b->max && b->len + want > b->max)
			want = b->max - b->len;
		buf_reserve(b, want);
		n = read(fd, b->s + b->len, want);
		if (n <= 0) {
			if (n < 0 && errno == EINTR)
				continue;
			rc = n < 0 ? -errno : 0;
			break;
		}
		b->len += (size_t)n;
		b->s[b->len] = '\0';
	}
	close(fd);
	return rc;
}

void
buf_add_base64(struct buf *b, const unsigned char *data, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < len; i += 3) {
		unsigned long v = (unsigned long)data[i] << 16 | (i + 1 < len ? (unsigned long)data[i + 1] << 8 : 0) |
				  (i + 2 < len ? data[i + 2] : 0);

		buf_addc(b, digits[v >> 18]);
		buf_addc(b, digits[v >> 12 & 63]);
		buf_addc(b, i + 1 < len ? digits[v >> 6 & 63] : '=');
		buf_addc(b, i + 2 < len ? digits[v & 63] : '=');
	}
}
