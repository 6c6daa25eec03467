#include "tasks/engines/duck_rows.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tasks/engines/duckdb_int.h"
#include "tasks/spent.h"

/* clang-format off */
#define ROWS_API(X)                                                                                                              \
	X(prepare)                                                                                                               \
	X(prepare_error)                                                                                                         \
	X(destroy_prepare)                                                                                                       \
	X(pending_prepared_streaming)                                                                                            \
	X(pending_error)                                                                                                         \
	X(destroy_pending)                                                                                                       \
	X(execute_pending)                                                                                                       \
	X(fetch_chunk)                                                                                                           \
	X(destroy_data_chunk)                                                                                                    \
	X(destroy_result)                                                                                                        \
	X(result_error)                                                                                                          \
	X(column_count)                                                                                                          \
	X(column_name)                                                                                                           \
	X(column_logical_type)                                                                                                   \
	X(data_chunk_get_size)                                                                                                   \
	X(data_chunk_get_vector)                                                                                                 \
	X(vector_get_data)                                                                                                       \
	X(vector_get_validity)                                                                                                   \
	X(validity_row_is_valid)                                                                                                 \
	X(list_vector_get_child)                                                                                                 \
	X(array_vector_get_child)                                                                                                \
	X(struct_vector_get_child)                                                                                               \
	X(get_type_id)                                                                                                           \
	X(list_type_child_type)                                                                                                  \
	X(array_type_child_type)                                                                                                 \
	X(array_type_array_size)                                                                                                 \
	X(struct_type_child_count)                                                                                               \
	X(struct_type_child_name)                                                                                                \
	X(struct_type_child_type)                                                                                                \
	X(map_type_key_type)                                                                                                     \
	X(map_type_value_type)                                                                                                   \
	X(decimal_scale)                                                                                                         \
	X(decimal_internal_type)                                                                                                 \
	X(enum_internal_type)                                                                                                    \
	X(enum_dictionary_size)                                                                                                  \
	X(enum_dictionary_value)                                                                                                 \
	X(destroy_logical_type)                                                                                                  \
	X(free)
/* clang-format on */

static struct {
#define X(name) __typeof__(&duckdb_##name) name;
	ROWS_API(X)
#undef X
} api;

/* A type, looked at once: the engine tells names only as copies. */
struct shape {
	char *name;               /* of a column or a field; NULL: it has none */
	duckdb_type type, stored; /* stored: of decimals and enums, the number that a cell holds */
	int scale;
	idx_t length; /* of a fixed list */
	char **words; /* of an enum */
	size_t word_count;
	struct shape *parts; /* the fields of a struct, the element of a list, key and value of a map */
	size_t part_count;
	bool foreign;
};

struct duck_rows {
	duckdb_prepared_statement statement;
	duckdb_pending_result pending;
	duckdb_result result;
	duckdb_data_chunk chunk;
	idx_t row, rows; /* in the chunk */
	struct shape *columns;
	size_t count;
};

static void
find_functions(void)
{
	if (api.prepare)
		return;
#define X(name) *(void **)&api.name = duck_symbol("duckdb_" #name);
	ROWS_API(X)
#undef X
}

/* ---- types ---- */

static void shape_init(struct shape *s, char *name, duckdb_logical_type type);

static char *
own_text(char *theirs)
{
	char *ours = xstrdup(theirs);

	api.free(theirs);
	return ours;
}

/* Takes `type`. */
static void
shape_part(struct shape *s, size_t i, char *name, duckdb_logical_type type)
{
	shape_init(&s->parts[i], name, type);
	s->foreign |= s->parts[i].foreign;
	api.destroy_logical_type(&type);
}

static void
shape_parts(struct shape *s, size_t count)
{
	s->parts = xcalloc(count, sizeof(*s->parts));
	s->part_count = count;
}

static void
shape_words(struct shape *s, duckdb_logical_type type)
{
	s->stored = api.enum_internal_type(type);
	s->word_count = api.enum_dictionary_size(type);
	s->words = xcalloc(s->word_count + 1, sizeof(*s->words));
	for (size_t i = 0; i < s->word_count; i++)
		s->words[i] = own_text(api.enum_dictionary_value(type, i));
}

/* Takes `name`. */
static void
shape_init(struct shape *s, char *name, duckdb_logical_type type)
{
	*s = (struct shape){ .name = name, .type = api.get_type_id(type) };
	switch (s->type) {
	case DUCKDB_TYPE_STRUCT:
		shape_parts(s, api.struct_type_child_count(type));
		for (size_t i = 0; i < s->part_count; i++)
			shape_part(s, i, own_text(api.struct_type_child_name(type, i)), api.struct_type_child_type(type, i));
		break;
	case DUCKDB_TYPE_LIST:
		shape_parts(s, 1);
		shape_part(s, 0, NULL, api.list_type_child_type(type));
		break;
	case DUCKDB_TYPE_ARRAY:
		s->length = api.array_type_array_size(type);
		shape_parts(s, 1);
		shape_part(s, 0, NULL, api.array_type_child_type(type));
		break;
	case DUCKDB_TYPE_MAP:
		shape_parts(s, 2);
		shape_part(s, 0, xstrdup("key"), api.map_type_key_type(type));
		shape_part(s, 1, xstrdup("value"), api.map_type_value_type(type));
		break;
	case DUCKDB_TYPE_DECIMAL:
		s->scale = api.decimal_scale(type);
		s->stored = api.decimal_internal_type(type);
		break;
	case DUCKDB_TYPE_ENUM:
		shape_words(s, type);
		break;
	case DUCKDB_TYPE_INTERVAL:
	case DUCKDB_TYPE_TIME_TZ:
	case DUCKDB_TYPE_TIME_NS:
	case DUCKDB_TYPE_BIT:
	case DUCKDB_TYPE_BIGNUM:
	case DUCKDB_TYPE_UNION:
	case DUCKDB_TYPE_UHUGEINT:
	case DUCKDB_TYPE_INVALID:
		s->foreign = true;
		break;
	default:
		s->foreign = s->type > DUCKDB_TYPE_TIME_NS; /* of a later release */
		break;
	}
}

static void
shape_release(struct shape *s)
{
	for (size_t i = 0; i < s->part_count; i++)
		shape_release(&s->parts[i]);
	for (size_t i = 0; i < s->word_count; i++)
		free(s->words[i]);
	free(s->words);
	free(s->parts);
	free(s->name);
}

/* ---- values ---- */

static void tell(const struct duck_visitor *v, const struct shape *s, const char *name, duckdb_vector from, idx_t row);

static bool
is_null(duckdb_vector v, idx_t row)
{
	uint64_t *valid = api.vector_get_validity(v);

	return valid && !api.validity_row_is_valid(valid, row);
}

/* A number of the engine's as one of ours. */
static __int128
number(duckdb_type type, const void *data, idx_t row)
{
	switch (type) {
	case DUCKDB_TYPE_TINYINT:
		return ((const int8_t *)data)[row];
	case DUCKDB_TYPE_SMALLINT:
		return ((const int16_t *)data)[row];
	case DUCKDB_TYPE_INTEGER:
	case DUCKDB_TYPE_DATE:
		return ((const int32_t *)data)[row];
	case DUCKDB_TYPE_UTINYINT:
		return ((const uint8_t *)data)[row];
	case DUCKDB_TYPE_USMALLINT:
		return ((const uint16_t *)data)[row];
	case DUCKDB_TYPE_UINTEGER:
		return ((const uint32_t *)data)[row];
	case DUCKDB_TYPE_UBIGINT:
		return ((const uint64_t *)data)[row];
	case DUCKDB_TYPE_HUGEINT:
	case DUCKDB_TYPE_UUID: {
		const duckdb_hugeint *h = &((const duckdb_hugeint *)data)[row];

		return (__int128)((unsigned __int128)(uint64_t)h->upper << 64 | h->lower);
	}
	default:
		return ((const int64_t *)data)[row];
	}
}

/* Microseconds of a number of `unit`s before or after 1970; what lies under a microsecond is cut off, towards the past. */
static void
set_moment(struct duck_value *out, int64_t n, int64_t least, int64_t most, int64_t times, int64_t by)
{
	if (n == most || n == -most || n == least || __builtin_mul_overflow(n, times, &out->number)) {
		out->kind = DUCK_ENDLESS;
		return;
	}
	out->kind = DUCK_MOMENT;
	if (by > 1)
		out->number = n / by - (n % by < 0);
}

static void
set_text(struct duck_value *out, enum duck_kind kind, const void *data, idx_t row)
{
	const duckdb_string_t *s = &((const duckdb_string_t *)data)[row];

	out->kind = kind;
	out->len = s->value.inlined.length;
	out->bytes = out->len <= 12 ? s->value.inlined.inlined : s->value.pointer.ptr;
}

/* The engine keeps a UUID as a number whose highest bit is turned round, so that it sorts. */
static void
set_uuid(struct duck_value *out, __int128 n, unsigned char bytes[16])
{
	for (int i = 0; i < 16; i++)
		bytes[i] = (unsigned char)(n >> (8 * (15 - i)));
	bytes[0] ^= 0x80;
	out->kind = DUCK_UUID;
	out->bytes = (const char *)bytes;
	out->len = 16;
}

/* A sum of whole numbers has the engine's widest type, and is hardly ever that large. */
static void
set_whole(struct duck_value *out, duckdb_type type, __int128 n)
{
	bool wide = type == DUCKDB_TYPE_BIGINT || type == DUCKDB_TYPE_UINTEGER || type == DUCKDB_TYPE_UBIGINT ||
		    type == DUCKDB_TYPE_HUGEINT;

	out->number = (int64_t)n;
	out->digits = n;
	out->kind = out->number != n ? DUCK_DECIMAL : wide ? DUCK_INT64 : DUCK_INT32;
}

static void
tell_leaf(const struct duck_visitor *v, const struct shape *s, const char *name, const void *data, idx_t row)
{
	struct duck_value out = { .kind = DUCK_NULL };
	unsigned char uuid[16];

	switch (s->type) {
	case DUCKDB_TYPE_BOOLEAN:
		out.kind = DUCK_BOOL;
		out.truth = ((const bool *)data)[row];
		break;
	case DUCKDB_TYPE_FLOAT:
		out.kind = DUCK_DOUBLE;
		out.real = (double)((const float *)data)[row];
		break;
	case DUCKDB_TYPE_DOUBLE:
		out.kind = DUCK_DOUBLE;
		out.real = ((const double *)data)[row];
		break;
	case DUCKDB_TYPE_VARCHAR:
		set_text(&out, DUCK_TEXT, data, row);
		break;
	case DUCKDB_TYPE_BLOB:
		set_text(&out, DUCK_BYTES, data, row);
		break;
	case DUCKDB_TYPE_ENUM:
		out.kind = DUCK_TEXT;
		out.bytes = s->words[(size_t)number(s->stored, data, row)];
		out.len = strlen(out.bytes);
		break;
	case DUCKDB_TYPE_UUID:
		set_uuid(&out, number(s->type, data, row), uuid);
		break;
	case DUCKDB_TYPE_TIME:
		out.kind = DUCK_TIME;
		out.number = ((const int64_t *)data)[row];
		break;
	case DUCKDB_TYPE_DATE:
		set_moment(&out, (int64_t)number(s->type, data, row), INT32_MIN, INT32_MAX, 86400000000, 1);
		break;
	case DUCKDB_TYPE_TIMESTAMP:
	case DUCKDB_TYPE_TIMESTAMP_TZ:
		set_moment(&out, ((const int64_t *)data)[row], INT64_MIN, INT64_MAX, 1, 1);
		break;
	case DUCKDB_TYPE_TIMESTAMP_S:
		set_moment(&out, ((const int64_t *)data)[row], INT64_MIN, INT64_MAX, 1000000, 1);
		break;
	case DUCKDB_TYPE_TIMESTAMP_MS:
		set_moment(&out, ((const int64_t *)data)[row], INT64_MIN, INT64_MAX, 1000, 1);
		break;
	case DUCKDB_TYPE_TIMESTAMP_NS:
		set_moment(&out, ((const int64_t *)data)[row], INT64_MIN, INT64_MAX, 1, 1000);
		break;
	case DUCKDB_TYPE_DECIMAL:
		out.kind = DUCK_DECIMAL;
		out.digits = number(s->stored, data, row);
		out.scale = s->scale;
		break;
	case DUCKDB_TYPE_SQLNULL:
		break;
	default:
		set_whole(&out, s->type, number(s->type, data, row));
		break;
	}
	v->value(v->arg, name, &out);
}

/* A list, or a map: an object where its keys are texts, else a list of its entries. */
static void
tell_list(const struct duck_visitor *v, const struct shape *s, const char *name, duckdb_vector from, idx_t row)
{
	const duckdb_list_entry *entry = &((const duckdb_list_entry *)api.vector_get_data(from))[row];
	bool fixed = s->type == DUCKDB_TYPE_ARRAY, map = s->type == DUCKDB_TYPE_MAP,
	     named = map && s->parts[0].type == DUCKDB_TYPE_VARCHAR;
	duckdb_vector child = fixed ? api.array_vector_get_child(from) : api.list_vector_get_child(from),
		      keys = map ? api.struct_vector_get_child(child, 0) : NULL,
		      values = map ? api.struct_vector_get_child(child, 1) : NULL;
	idx_t first = fixed ? row * s->length : entry->offset, last = first + (fixed ? s->length : entry->length);

	v->begin(v->arg, name, !named);
	for (idx_t i = first; i < last; i++) {
		if (named) {
			struct duck_value key;
			char *text;

			set_text(&key, DUCK_TEXT, api.vector_get_data(keys), i);
			text = xstrndup(key.bytes, key.len);
			if (strlen(text) < key.len)
				v->value(v->arg, text, &(struct duck_value){ .kind = DUCK_NAMELESS });
			else
				tell(v, &s->parts[1], text, values, i);
			free(text);
		} else if (map) {
			v->begin(v->arg, NULL, false);
			tell(v, &s->parts[0], s->parts[0].name, keys, i);
			tell(v, &s->parts[1], s->parts[1].name, values, i);
			v->end(v->arg);
		} else {
			tell(v, &s->parts[0], NULL, child, i);
		}
	}
	v->end(v->arg);
}

static void
tell(const struct duck_visitor *v, const struct shape *s, const char *name, duckdb_vector from, idx_t row)
{
	if (is_null(from, row)) {
		v->value(v->arg, name, &(struct duck_value){ .kind = DUCK_NULL });
	} else if (s->type == DUCKDB_TYPE_STRUCT) {
		v->begin(v->arg, name, false);
		for (size_t i = 0; i < s->part_count; i++)
			tell(v, &s->parts[i], s->parts[i].name, api.struct_vector_get_child(from, i), row);
		v->end(v->arg);
	} else if (s->part_count) {
		tell_list(v, s, name, from, row);
	} else {
		tell_leaf(v, s, name, api.vector_get_data(from), row);
	}
}

/* ---- rows ---- */

static struct duck_rows *
fail_open(struct duck_rows *r, const char *why, struct err *e)
{
	err_set(e, ERR_UNPROCESSABLE, "%s", why ? why : "the engine gave no reason");
	duck_rows_free(r);
	return NULL;
}

struct duck_rows *
duck_rows_open(struct duck *db, const char *sql, struct err *e)
{
	struct duck_rows *r = xcalloc(1, sizeof(*r));
	enum spent part;
	duckdb_state state;

	find_functions();
	if (api.prepare(duck_connection(db), sql, &r->statement) == DuckDBError)
		return fail_open(r, api.prepare_error(r->statement), e);
	if (api.pending_prepared_streaming(r->statement, &r->pending) == DuckDBError)
		return fail_open(r, r->pending ? api.pending_error(r->pending) : NULL, e);
	part = spent_enter(SPENT_SQL);
	state = api.execute_pending(r->pending, &r->result);
	spent_leave(part);
	if (state == DuckDBError)
		return fail_open(r, api.result_error(&r->result), e);
	r->count = api.column_count(&r->result);
	r->columns = xcalloc(r->count, sizeof(*r->columns));
	for (size_t i = 0; i < r->count; i++) {
		duckdb_logical_type type = api.column_logical_type(&r->result, i);

		shape_init(&r->columns[i], xstrdup(api.column_name(&r->result, i)), type);
		api.destroy_logical_type(&type);
	}
	return r;
}

void
duck_rows_free(struct duck_rows *r)
{
	if (r == NULL)
		return;
	for (size_t i = 0; i < r->count; i++)
		shape_release(&r->columns[i]);
	free(r->columns);
	if (r->chunk)
		api.destroy_data_chunk(&r->chunk);
	api.destroy_result(&r->result);
	if (r->pending)
		api.destroy_pending(&r->pending);
	if (r->statement)
		api.destroy_prepare(&r->statement);
	free(r);
}

int
duck_rows_next(struct duck_rows *r, struct err *e)
{
	enum spent part;
	const char *why;

	if (r->chunk && ++r->row < r->rows)
		return 1;
	if (r->chunk)
		api.destroy_data_chunk(&r->chunk);
	part = spent_enter(SPENT_SQL);
	r->chunk = api.fetch_chunk(r->result);
	spent_leave(part);
	r->row = 0;
	r->rows = r->chunk ? api.data_chunk_get_size(r->chunk) : 0;
	if (r->rows)
		return 1;
	why = api.result_error(&r->result);
	if (why && *why)
		err_set(e, ERR_UNPROCESSABLE, "%s", why);
	return why && *why ? -1 : 0;
}

void
duck_rows_tell(const struct duck_rows *r, size_t first, size_t last, const struct duck_visitor *v)
{
	for (size_t i = first; i < last; i++)
		tell(v, &r->columns[i], r->columns[i].name, api.data_chunk_get_vector(r->chunk, i), r->row);
}

int64_t
duck_rows_number(const struct duck_rows *r, size_t column)
{
	return (int64_t)number(r->columns[column].type, api.vector_get_data(api.data_chunk_get_vector(r->chunk, column)), r->row);
}

size_t
duck_rows_foreign(const struct duck_rows *r)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->columns[i].foreign)
			return i;
	return r->count;
}
