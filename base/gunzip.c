#include "base/gunzip.h"

#include <stdint.h>
#include <string.h>
#include <zlib.h>

#define CHUNK 65536u

bool
gunzip_is(const void *data, size_t len)
{
	return len > 2 && memcmp(data, "\x1f\x8b", 2) == 0;
}

int
gunzip(const void *data, size_t len, struct buf *out, struct err *e)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)len };
	int rc = len > UINT32_MAX ? Z_MEM_ERROR : inflateInit2(&z, 15 + 16 /* gzip only */);

	while (rc == Z_OK) {
		if (buf_reserve(out, CHUNK) < 0) {
			inflateEnd(&z);
			return err_set(e, ERR_INVALID, "unpacked it has more than %zu bytes", out->max);
		}
		z.next_out = (Bytef *)out->s + out->len;
		z.avail_out = CHUNK;
		rc = inflate(&z, Z_NO_FLUSH);
		out->len += CHUNK - z.avail_out;
		if (rc == Z_OK && z.avail_in == 0 && z.avail_out)
			rc = Z_BUF_ERROR; /* it ends too early */
	}
	inflateEnd(&z);
	if (out->cap)
		out->s[out->len] = '\0';
	return rc == Z_STREAM_END ? 0
				  : err_set(e, ERR_INVALID, "it is packed, but damaged: %s", z.msg ? z.msg : "it ends too early");
}
