#include "tasks/iceberg/parquet_footer.h"

#include <stdint.h>

/* Thrift's compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md */
enum { T_STOP, T_TRUE, T_FALSE, T_BYTE, T_I16, T_I32, T_I64, T_DOUBLE, T_BINARY, T_LIST, T_SET, T_MAP, T_STRUCT };

/* parquet.thrift */
#define FILE_SCHEMA      2 /* of FileMetaData: a list of SchemaElement, the root first */
#define ELEMENT_CHILDREN 5 /* of SchemaElement: it has columns of its own */
#define ELEMENT_FIELD_ID 9

#define DEPTH_MAX 16 /* of what is passed over; a footer has six levels */

struct in {
	const unsigned char *p, *end;
	bool bad;
};

struct field {
	const unsigned char *value;
	int id, type;
};

static unsigned char
in_byte(struct in *in)
{
	if (in->p == in->end) {
		in->bad = true;
		return 0;
	}
	return *in->p++;
}

static uint64_t
in_number(struct in *in)
{
	uint64_t v = 0;
	unsigned char b = 0x80;

	for (unsigned shift = 0; b & 0x80; shift += 7) {
		if (shift > 63) {
			in->bad = true;
			return 0;
		}
		b = in_byte(in);
		v |= (uint64_t)(b & 0x7f) << shift;
	}
	return in->bad ? 0 : v;
}

static int64_t
in_signed(struct in *in)
{
	uint64_t v = in_number(in);

	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

static void
in_pass(struct in *in, uint64_t n)
{
	if (n > (uint64_t)(in->end - in->p))
		in->bad = true;
	else
		in->p += n;
}

/* The next field of a struct; its type is T_STOP behind the last one. */
static struct field
in_field(struct in *in, int before)
{
	unsigned char head = in_byte(in);
	struct field f = { .type = in->bad ? T_STOP : head & 15 };

	if (f.type != T_STOP)
		f.id = head >> 4 ? before + (head >> 4) : (int)in_signed(in);
	f.value = in->p;
	return f;
}

static size_t
in_list(struct in *in, int *type)
{
	unsigned char head = in_byte(in);

	*type = head & 15;
	return head >> 4 == 15 ? in_number(in) : head >> 4;
}

static void in_skip(struct in *in, int type, int depth);

static void
in_skip_struct(struct in *in, int depth)
{
	struct field f = { 0 };

	while (f = in_field(in, f.id), f.type != T_STOP)
		in_skip(in, f.type, depth);
}

static void
in_skip_list(struct in *in, int depth)
{
	int type;
	size_t n = in_list(in, &type);

	for (size_t i = 0; i < n && !in->bad; i++)
		if (type == T_TRUE || type == T_FALSE)
			in_pass(in, 1); /* in a list it takes a byte; in a struct it is the type itself */
		else
			in_skip(in, type, depth);
}

static void
in_skip(struct in *in, int type, int depth)
{
	if (depth > DEPTH_MAX) {
		in->bad = true;
		return;
	}
	switch (type) {
	case T_TRUE:
	case T_FALSE:
		break;
	case T_BYTE:
		in_pass(in, 1);
		break;
	case T_I16:
	case T_I32:
	case T_I64:
		in_number(in);
		break;
	case T_DOUBLE:
		in_pass(in, 8);
		break;
	case T_BINARY:
		in_pass(in, in_number(in));
		break;
	case T_LIST:
	case T_SET:
		in_skip_list(in, depth + 1);
		break;
	case T_STRUCT:
		in_skip_struct(in, depth + 1);
		break;
	default: /* a footer has no maps */
		in->bad = true;
	}
}

/* ---- out ---- */

static void
add_bytes(struct buf *out, const unsigned char *from, const unsigned char *to)
{
	buf_add(out, (const char *)from, (size_t)(to - from));
}

static void
add_number(struct buf *out, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		buf_addc(out, (char)(v | 0x80));
	buf_addc(out, (char)v);
}

static void
add_signed(struct buf *out, int64_t v)
{
	add_number(out, (uint64_t)v << 1 ^ (uint64_t)(v >> 63));
}

/* The head of a field says how far its id is from the one before. */
static void
add_head(struct buf *out, int id, int before, int type)
{
	if (id > before && id - before < 16) {
		buf_addc(out, (char)((id - before) << 4 | type));
	} else {
		buf_addc(out, (char)type);
		add_signed(out, id);
	}
}

/* One SchemaElement, with this id. */
static void
element(struct in *in, int id, struct buf *out)
{
	struct field f = { 0 };
	int before = 0;
	bool added = false;

	do {
		f = in_field(in, f.id);
		if (f.type == T_STOP || f.id > ELEMENT_FIELD_ID) {
			if (!added) {
				add_head(out, ELEMENT_FIELD_ID, before, T_I32);
				add_signed(out, id);
				before = ELEMENT_FIELD_ID;
			}
			added = true;
		}
		if (f.type == T_STOP)
			break;
		in_skip(in, f.type, 0);
		if (f.id == ELEMENT_CHILDREN)
			in->bad = true;
		if (f.id == ELEMENT_FIELD_ID)
			continue;
		add_head(out, f.id, before, f.type);
		add_bytes(out, f.value, in->p);
		before = f.id;
	} while (!in->bad);
	buf_addc(out, T_STOP);
}

/* The whole list, whose elements but the first are the columns. */
static void
schema(struct in *in, const int *ids, size_t n, struct buf *out)
{
	const unsigned char *start = in->p;
	int type;

	if (in_list(in, &type) != n + 1 || type != T_STRUCT) {
		in->bad = true;
		return;
	}
	in_skip_struct(in, 0); /* the root */
	add_bytes(out, start, in->p);
	for (size_t i = 0; i < n && !in->bad; i++)
		element(in, ids[i], out);
}

bool
parquet_footer_with_ids(const char *footer, size_t len, const int *ids, size_t n, struct buf *out)
{
	struct in in = { .p = (const unsigned char *)footer, .end = (const unsigned char *)footer + len };
	const unsigned char *start = in.p;
	struct buf whole = BUF_INIT;
	struct field f = { 0 };

	while (f = in_field(&in, f.id), f.type != T_STOP && f.id != FILE_SCHEMA)
		in_skip(&in, f.type, 0);
	if (f.type == T_LIST && !in.bad) {
		add_bytes(&whole, start, in.p);
		schema(&in, ids, n, &whole);
		start = in.p;
		/* What follows is looked at only for being whole. */
		while (f = in_field(&in, f.id), f.type != T_STOP)
			in_skip(&in, f.type, 0);
		add_bytes(&whole, start, in.p);
	} else {
		in.bad = true;
	}
	if (in.p != in.end)
		in.bad = true;
	if (!in.bad)
		buf_add(out, whole.s, whole.len);
	buf_release(&whole);
	return !in.bad;
}
