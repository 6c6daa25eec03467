#include "tasks/mongo_document.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The first byte of an element. */
enum {
	ELEMENT_DOUBLE = 0x01,
	ELEMENT_TEXT = 0x02,
	ELEMENT_DOCUMENT = 0x03,
	ELEMENT_LIST = 0x04,
	ELEMENT_BINARY = 0x05,
	ELEMENT_BOOL = 0x08,
	ELEMENT_DATE = 0x09,
	ELEMENT_NULL = 0x0a,
	ELEMENT_INT32 = 0x10,
	ELEMENT_INT64 = 0x12,
	ELEMENT_DECIMAL = 0x13
};
enum { BINARY_ANY = 0x00, BINARY_UUID = 0x04 };

/* The lowest byte first, as everything here. */
static void
add_number(struct buf *b, uint64_t n, int bytes)
{
	for (int i = 0; i < bytes; i++)
		buf_addc(b, (char)(n >> (8 * i)));
}

static void
put_length(struct buf *b, size_t at)
{
	uint64_t n = b->len - at;

	for (int i = 0; i < 4; i++)
		b->s[at + (size_t)i] = (char)(n >> (8 * i));
}

static void
add_head(struct document *d, int element, const char *name)
{
	char number[24];
	size_t level = d->depth - 1;

	if (d->levels[level].list) {
		snprintf(number, sizeof(number), "%zu", d->levels[level].next++);
		name = number;
	}
	buf_addc(d->out, (char)element);
	buf_add(d->out, name, strlen(name) + 1);
}

static void
level_begin(struct document *d, bool list)
{
	d->levels[d->depth].begins = d->out->len;
	d->levels[d->depth].list = list;
	d->levels[d->depth].next = 0;
	d->depth++;
	add_number(d->out, 0, 4);
}

static void
level_end(struct document *d)
{
	buf_addc(d->out, 0);
	put_length(d->out, d->levels[--d->depth].begins);
}

void
document_begin(struct document *d, struct buf *out)
{
	d->out = out;
	d->depth = d->skipped = 0;
	d->wrong = NULL;
	level_begin(d, false);
}

int
document_end(struct document *d)
{
	level_end(d);
	return d->wrong ? -1 : 0;
}

void
document_open(struct document *d, const char *name, bool list)
{
	if (d->depth == DOCUMENT_LEVELS)
		d->wrong = "is nested in more than 100 levels, which MongoDB does not take";
	if (d->wrong) {
		d->skipped++;
		return;
	}
	add_head(d, list ? ELEMENT_LIST : ELEMENT_DOCUMENT, name);
	level_begin(d, list);
}

void
document_close(struct document *d)
{
	if (d->skipped)
		d->skipped--;
	else
		level_end(d);
}

static void
add_text(struct document *d, const char *name, const char *text, size_t len)
{
	add_head(d, ELEMENT_TEXT, name);
	add_number(d->out, len + 1, 4);
	buf_add(d->out, text, len);
	buf_addc(d->out, 0);
}

void
document_text(struct document *d, const char *name, const char *text)
{
	add_text(d, name, text, strlen(text));
}

/* Sign, exponent and digits of an IEEE 754 decimal128 whose coefficient is a binary number. */
static void
add_decimal(struct document *d, const char *name, __int128 digits, int scale)
{
	unsigned __int128 n = digits < 0 ? -(unsigned __int128)digits : (unsigned __int128)digits, most = 1;

	for (int i = 0; i < 34; i++)
		most *= 10;
	for (; n >= most && n % 10 == 0 && scale > -6000; n /= 10) /* zeroes at the end are worth nothing */
		scale--;
	if (n >= most)
		d->wrong = "is a number of more than the 34 digits that MongoDB's decimal128 holds";
	add_head(d, ELEMENT_DECIMAL, name);
	add_number(d->out, (uint64_t)n, 8);
	add_number(d->out, (uint64_t)(digits < 0) << 63 | (uint64_t)(6176 - scale) << 49 | (uint64_t)(n >> 64), 8);
}

static void
add_binary(struct document *d, const char *name, const struct duck_value *value)
{
	add_head(d, ELEMENT_BINARY, name);
	add_number(d->out, value->len, 4);
	buf_addc(d->out, value->kind == DUCK_UUID ? BINARY_UUID : BINARY_ANY);
	buf_add(d->out, value->bytes, value->len);
}

static void
add_time(struct document *d, const char *name, int64_t us)
{
	char text[40];
	int n = snprintf(text, sizeof(text), "%02" PRId64 ":%02" PRId64 ":%02" PRId64, us / 3600000000, us / 60000000 % 60,
			 us / 1000000 % 60);

	if (us % 1000000)
		n += snprintf(text + n, sizeof(text) - (size_t)n, ".%06" PRId64, us % 1000000);
	while (us % 1000000 && text[n - 1] == '0')
		n--;
	add_text(d, name, text, (size_t)n);
}

void
document_value(struct document *d, const char *name, const struct duck_value *value)
{
	uint64_t bits;

	if (d->wrong)
		return;
	switch (value->kind) {
	case DUCK_NULL:
		add_head(d, ELEMENT_NULL, name);
		break;
	case DUCK_BOOL:
		add_head(d, ELEMENT_BOOL, name);
		buf_addc(d->out, value->truth);
		break;
	case DUCK_INT32:
		add_head(d, ELEMENT_INT32, name);
		add_number(d->out, (uint64_t)value->number, 4);
		break;
	case DUCK_INT64:
		add_head(d, ELEMENT_INT64, name);
		add_number(d->out, (uint64_t)value->number, 8);
		break;
	case DUCK_DOUBLE:
		memcpy(&bits, &value->real, sizeof(bits));
		add_head(d, ELEMENT_DOUBLE, name);
		add_number(d->out, bits, 8);
		break;
	case DUCK_DECIMAL:
		add_decimal(d, name, value->digits, value->scale);
		break;
	case DUCK_TEXT:
		add_text(d, name, value->bytes, value->len);
		break;
	case DUCK_BYTES:
	case DUCK_UUID:
		add_binary(d, name, value);
		break;
	case DUCK_TIME:
		add_time(d, name, value->number);
		break;
	case DUCK_MOMENT:
		add_head(d, ELEMENT_DATE, name);
		add_number(d->out, (uint64_t)(value->number / 1000 - (value->number % 1000 < 0)), 8);
		break;
	case DUCK_ENDLESS:
		d->wrong = "is a date or a time of infinity, which MongoDB does not have";
		break;
	case DUCK_NAMELESS:
		d->wrong = "has a key with a zero byte in it, which MongoDB does not take";
		break;
	}
}

static void
on_value(void *arg, const char *name, const struct duck_value *value)
{
	document_value(arg, name, value);
}

static void
on_begin(void *arg, const char *name, bool list)
{
	document_open(arg, name, list);
}

static void
on_end(void *arg)
{
	document_close(arg);
}

struct duck_visitor
document_visitor(struct document *d)
{
	return (struct duck_visitor){ .value = on_value, .begin = on_begin, .end = on_end, .arg = d };
}
