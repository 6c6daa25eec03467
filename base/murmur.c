#include "base/murmur.h"

static uint32_t
rotate(uint32_t x, int by)
{
	return x << by | x >> (32 - by);
}

static uint32_t
scramble(uint32_t k)
{
	return rotate(k * 0xcc9e2d51u, 15) * 0x1b873593u;
}

uint32_t
murmur3_32(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint32_t h = 0, tail = 0;
	size_t i;

	for (i = 0; i + 4 <= len; i += 4) {
		uint32_t k = (uint32_t)p[i] | (uint32_t)p[i + 1] << 8 | (uint32_t)p[i + 2] << 16 | (uint32_t)p[i + 3] << 24;

		h = rotate(h ^ scramble(k), 13) * 5 + 0xe6546b64u;
	}
	for (size_t n = len - i; n > 0; n--)
		tail = tail << 8 | p[i + n - 1];
	if (len & 3)
		h ^= scramble(tail);
	h ^= (uint32_t)len;
	h = (h ^ h >> 16) * 0x85ebca6bu;
	h = (h ^ h >> 13) * 0xc2b2ae35u;
	return h ^ h >> 16;
}
