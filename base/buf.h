/*
 * A growing byte buffer that is always a valid C string.
 * What comes from outside goes into a buffer with a maximum: exceeding it sets `overflow`, drops the bytes and is an
 * ordinary error for the caller to report; running out of memory is not.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct buf {
	char *s;       /* never NULL, terminated by a zero byte that `len` does not count */
	size_t len;    /* bytes in use */
	size_t cap;    /* bytes allocated; 0 while `s` is the shared empty string */
	size_t max;    /* refuse to grow beyond this many bytes; 0 is no limit */
	bool overflow; /* something was refused */
};

extern char buf_empty[];
#define BUF_INIT                                                                                                                 \
	{                                                                                                                        \
		.s = buf_empty                                                                                                   \
	}
#define BUF_INIT_MAX(limit)                                                                                                      \
	{                                                                                                                        \
		.s = buf_empty, .max = (limit)                                                                                   \
	}

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b);
/* Empties for reuse and keeps the allocation. */
void buf_clear(struct buf *b);

/* Each returns 0, or -1 when the maximum was hit (and then adds nothing). */
int buf_add(struct buf *b, const void *data, size_t len);
int buf_adds(struct buf *b, const char *s);
int buf_addc(struct buf *b, char c);
int buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_vaddf(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
/* Room for at least `extra` more bytes after `len`; the caller writes there and raises `len`. */
int buf_reserve(struct buf *b, size_t extra);
/* Adds `s` as a quoted SQL string literal: quote characters doubled. */
void buf_add_sql_string(struct buf *b, const char *s);
/* Adds `s` as a double-quoted SQL identifier. */
void buf_add_sql_name(struct buf *b, const char *s);
/* Adds `s` percent-encoded (RFC 3986): unreserved characters and those of `keep` stay. */
void buf_add_encoded(struct buf *b, const char *s, const char *keep);
/* Adds the bytes in base64. */
void buf_add_base64(struct buf *b, const unsigned char *data, size_t len);
/* Adds `s` with control bytes and non-ASCII escaped, for our own log. */
void buf_add_visible(struct buf *b, const char *s, size_t len);
/* Removes the first `n` bytes. */
void buf_drop_front(struct buf *b, size_t n);
/* Hands the string to the caller, who frees it; the buffer is empty afterwards. */
char *buf_detach(struct buf *b);
/* Appends a whole file. Returns 0, or a negative errno (-EFBIG when the buffer's maximum was hit). */
int buf_add_file(struct buf *b, const char *path);

#endif
