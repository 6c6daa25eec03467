/* Sources: the Iceberg table specification on partition transforms, their result types and sort orders. */
#include "tasks/iceberg/partition.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "tasks/iceberg/types.h"

/* ---- columns ---- */

const json_t *
column_by_id(const json_t *columns, json_int_t id, struct buf *sql)
{
	const json_t *column, *found;
	size_t i;

	json_array_foreach (columns, i, column) {
		const json_t *inner = json_object_get(json_object_get(column, "type"), "fields");
		const char *name = json_string_value(json_object_get(column, "name"));
		struct buf path = BUF_INIT, part = BUF_INIT;

		if (json_integer_value(json_object_get(column, "id")) == id) {
			if (sql)
				buf_add_sql_name(sql, name);
			return column;
		}
		if (inner == NULL || (found = column_by_id(inner, id, sql ? &part : NULL)) == NULL)
			continue;
		if (sql) {
			buf_add_sql_name(&path, name);
			buf_addf(sql, "%s.%s", path.s, part.s);
			buf_release(&path);
			buf_release(&part);
		}
		return found;
	}
	return NULL;
}

/* By name; "a.b" is the field b of the struct a, if no column is called that. */
static const json_t *
column_by_name(const json_t *columns, const char *name, size_t len)
{
	const json_t *column, *loose = NULL;
	size_t i;

	json_array_foreach (columns, i, column) {
		const char *have = json_string_value(json_object_get(column, "name"));

		if (strlen(have) == len && strncmp(have, name, len) == 0)
			return column;
		if (strlen(have) == len && strncasecmp(have, name, len) == 0)
			loose = column;
	}
	for (size_t dot = 0; loose == NULL && dot < len; dot++) {
		if (name[dot] != '.' || (column = column_by_name(columns, name, dot)) == NULL)
			continue;
		loose = column_by_name(json_object_get(json_object_get(column, "type"), "fields"), name + dot + 1, len - dot - 1);
	}
	return loose;
}

/* ---- what a flow says ---- */

static const struct transform {
	const char *name, *suffix;
	bool number; /* takes one: bucket(16, c) */
	const char *types;
} transforms[] = {
	{ "identity", "", false, NULL },
	{ "bucket", "_bucket", true, "int long decimal date time timestamp timestamptz string uuid binary" },
	{ "truncate", "_trunc", true, "int long decimal string binary" },
	{ "year", "_year", false, "date timestamp timestamptz" },
	{ "month", "_month", false, "date timestamp timestamptz" },
	{ "day", "_day", false, "date timestamp timestamptz" },
	{ "hour", "_hour", false, "timestamp timestamptz" },
};

/* One text taken apart; `column` and `rest` point into it. */
struct term {
	const struct transform *transform;
	long number;
	const char *column;
	size_t column_len;
	const char *rest; /* what follows: a direction */
};

static const char *
skip_blanks(const char *s)
{
	while (*s == ' ' || *s == '\t')
		s++;
	return s;
}

static const struct transform *
transform_find(const char *name, size_t len)
{
	for (size_t i = 0; i < sizeof(transforms) / sizeof(transforms[0]); i++) {
		size_t n = strlen(transforms[i].name);

		/* Spark's plural is taken as well: days(ts). */
		if (strncasecmp(transforms[i].name, name, n) == 0 &&
		    (len == n || (len == n + 1 && tolower((unsigned char)name[n]) == 's')))
			return &transforms[i];
	}
	return NULL;
}

static int
term_fail(struct err *e, const char *text)
{
	return err_set(e, ERR_INVALID,
		       "\"%s\" is no column or transform: write a column's name, year(c), month(c), day(c), hour(c), "
		       "bucket(N, c) or truncate(N, c)",
		       text);
}

/* "bucket(16, id) desc" */
static int
term_call(const char *text, const char *open, struct term *t, struct err *e)
{
	const char *p = skip_blanks(open + 1), *close = strchr(open, ')');
	const char *name = skip_blanks(text);
	char *end;

	t->transform = transform_find(name, strcspn(name, " \t("));
	if (t->transform == NULL || close == NULL)
		return term_fail(e, text);
	if (t->transform->number) {
		t->number = strtol(p, &end, 10);
		p = skip_blanks(end);
		if (end == open + 1 || *p != ',' || t->number < 1 || t->number > 2147483647)
			return err_set(e, ERR_INVALID, "\"%s\": %s needs a whole number from 1, then a column: %s(16, id)", text,
				       t->transform->name, t->transform->name);
		p = skip_blanks(p + 1);
	}
	t->column = p;
	t->column_len = (size_t)(close - p);
	t->rest = close + 1;
	while (t->column_len && p[t->column_len - 1] == ' ')
		t->column_len--;
	return 0;
}

static int
term_parse(const char *text, bool sorted, struct term *t, struct err *e)
{
	const char *open = strchr(text, '(');

	*t = (struct term){ .transform = &transforms[0] };
	if (open)
		return term_call(text, open, t, e);
	t->column = skip_blanks(text);
	/* A column's name may hold blanks where nothing can follow it. */
	t->column_len = sorted ? strcspn(t->column, " \t") : strlen(t->column);
	t->rest = t->column + t->column_len;
	return t->column_len ? 0 : term_fail(e, text);
}

static bool
type_allowed(const struct transform *transform, const json_t *type)
{
	const char *name = json_string_value(type), *at = transform->types;
	size_t n = name ? strcspn(name, "([") : 0;

	if (name == NULL)
		return false;
	if (at == NULL)
		return true;
	while (*at) {
		size_t len = strcspn(at, " ");

		if (len == n && strncmp(at, name, n) == 0)
			return true;
		at += len + (at[len] == ' ');
	}
	return false;
}

/* The column that a term names, checked against its transform. */
static const json_t *
term_column(const char *text, const struct term *t, const json_t *columns, struct err *e)
{
	const json_t *column = column_by_name(columns, t->column, t->column_len), *type;
	struct buf names = BUF_INIT;
	size_t i;

	if (column == NULL) {
		json_array_foreach (columns, i, column)
			buf_addf(&names, "%s%s", i ? ", " : "", json_string_value(json_object_get(column, "name")));
		err_set(e, ERR_INVALID, "\"%s\": there is no column \"%.*s\"; columns are: %s", text, (int)t->column_len,
			t->column, names.s);
		buf_release(&names);
		return NULL;
	}
	type = json_object_get(column, "type");
	if (!type_allowed(t->transform, type)) {
		err_set(e, ERR_INVALID, "\"%s\": %s does not apply to the column's type %s", text, t->transform->name,
			json_is_string(type) ? json_string_value(type) : json_string_value(json_object_get(type, "type")));
		return NULL;
	}
	return column;
}

static json_t *
term_transform(const struct term *t)
{
	return t->transform->number ? json_sprintf("%s[%ld]", t->transform->name, t->number) : json_string(t->transform->name);
}

static bool
name_taken(const json_t *list, const char *name)
{
	const json_t *item;
	size_t i;

	json_array_foreach (list, i, item)
		if (strcmp(json_string_value(json_object_get(item, "name")), name) == 0)
			return true;
	return false;
}

json_t *
partition_parse(const json_t *texts, const json_t *columns, struct err *e)
{
	json_t *out = json_array(), *text;
	size_t i;

	json_array_foreach (texts, i, text) {
		const char *s = json_string_value(text);
		const json_t *column;
		struct term t;
		char *name;

		if (s == NULL || term_parse(s, false, &t, e) < 0 || (column = term_column(s, &t, columns, e)) == NULL)
			goto fail;
		if (*skip_blanks(t.rest)) {
			term_fail(e, s);
			goto fail;
		}
		name = xasprintf("%.*s%s", (int)t.column_len, t.column, t.transform->suffix);
		if (name_taken(out, name) || (*t.transform->suffix && name_taken(columns, name))) {
			err_set(e, ERR_INVALID, "\"%s\": the partition field would be called %s, and that name is taken", s,
				name);
			free(name);
			goto fail;
		}
		json_array_append_new(out, json_pack("{s:s,s:o,s:O}", "name", name, "transform", term_transform(&t), "source-id",
						     json_object_get(column, "id")));
		free(name);
	}
	return out;
fail:
	if (e->code == 0)
		err_set(e, ERR_INVALID, "partition_by takes texts");
	json_decref(out);
	return NULL;
}

/* "desc nulls last"; by default ascending, and nulls where they are smallest. */
static int
sort_direction(const char *text, const char *rest, const char **direction, const char **nulls, struct err *e)
{
	char first[8] = "", word[8] = "", where[8] = "";
	int used = 0;

	*direction = "asc";
	sscanf(rest, " %7s%n", first, &used);
	if (strcasecmp(first, "asc") == 0 || strcasecmp(first, "desc") == 0) {
		*direction = strcasecmp(first, "desc") == 0 ? "desc" : "asc";
		rest += used;
	}
	*nulls = **direction == 'a' ? "nulls-first" : "nulls-last";
	used = 0;
	if (sscanf(rest, " %7s %7s %n", word, where, &used) == 2 && strcasecmp(word, "nulls") == 0 && rest[used] == '\0' &&
	    (strcasecmp(where, "first") == 0 || strcasecmp(where, "last") == 0)) {
		*nulls = strcasecmp(where, "first") == 0 ? "nulls-first" : "nulls-last";
		return 0;
	}
	if (*skip_blanks(rest))
		return err_set(e, ERR_INVALID, "\"%s\": after the column may stand asc or desc, then nulls first or nulls last",
			       text);
	return 0;
}

json_t *
sort_parse(const json_t *texts, const json_t *columns, struct err *e)
{
	json_t *out = json_array(), *text;
	size_t i;

	json_array_foreach (texts, i, text) {
		const char *s = json_string_value(text), *direction, *nulls;
		const json_t *column;
		struct term t;

		if (s == NULL || term_parse(s, true, &t, e) < 0 || (column = term_column(s, &t, columns, e)) == NULL ||
		    sort_direction(s, t.rest, &direction, &nulls, e) < 0) {
			if (e->code == 0)
				err_set(e, ERR_INVALID, "sort_by takes texts");
			json_decref(out);
			return NULL;
		}
		json_array_append_new(out, json_pack("{s:o,s:O,s:s,s:s}", "transform", term_transform(&t), "source-id",
						     json_object_get(column, "id"), "direction", direction, "null-order", nulls));
	}
	return out;
}

bool
partition_same(const json_t *a, const json_t *b)
{
	static const char *const keys[] = { "transform", "source-id", "name", "direction", "null-order" };
	const json_t *x;
	size_t i;

	if (json_array_size(a) != json_array_size(b))
		return false;
	json_array_foreach (a, i, x)
		for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++) {
			const json_t *mine = json_object_get(x, keys[k]),
				     *theirs = json_object_get(json_array_get(b, i), keys[k]);

			if (mine != theirs && !(mine && theirs && json_equal(mine, theirs)))
				return false;
		}
	return true;
}

/* ---- SQL ---- */

/* A decimal without its point; its text is the only exact way there that takes all 38 digits. */
#define UNSCALED "CAST(replace(CAST(%s AS VARCHAR), '.', '') AS HUGEINT)"

/* The value as what the hash is made of, by its type. */
static void
bucket_expr(const char *type, const char *column, long n, struct buf *out)
{
	char *value;

	if (strncmp(type, "decimal(", 8) == 0)
		value = xasprintf("sluice_hash_decimal(" UNSCALED ")", column);
	else if (strcmp(type, "string") == 0)
		value = xasprintf("sluice_hash_bytes(encode(%s))", column);
	else if (strcmp(type, "binary") == 0)
		value = xasprintf("sluice_hash_bytes(%s)", column);
	else if (strcmp(type, "uuid") == 0)
		value = xasprintf("sluice_hash_bytes(unhex(replace(CAST(%s AS VARCHAR), '-', '')))", column);
	else if (strcmp(type, "date") == 0)
		value = xasprintf("sluice_hash_number(CAST(%s - DATE '1970-01-01' AS BIGINT))", column);
	else if (strcmp(type, "int") == 0 || strcmp(type, "long") == 0)
		value = xasprintf("sluice_hash_number(CAST(%s AS BIGINT))", column);
	else
		value = xasprintf("sluice_hash_number(epoch_us(%s))", column);
	buf_addf(out, "(%s & 2147483647) %% %ld", value, n);
	free(value);
}

static void
truncate_expr(const char *type, const char *column, long w, struct buf *out)
{
	int precision, scale;

	if (sscanf(type, "decimal(%d, %d)", &precision, &scale) == 2) {
		/* What is above the last whole step of w, counted in units of the last place. */
		buf_addf(out, "CAST(%s - CAST((((" UNSCALED " %% %ld) + %ld) %% %ld) AS DECIMAL(10,0)) * ", column, column, w, w,
			 w);
		if (scale)
			buf_addf(out, "0.%0*d", scale, 1);
		else
			buf_adds(out, "1");
		buf_addf(out, " AS DECIMAL(%d,%d))", precision, scale);
	} else if (strcmp(type, "string") == 0) {
		buf_addf(out, "left(%s, %ld)", column, w);
	} else if (strcmp(type, "binary") == 0) {
		buf_addf(out, "unhex(left(hex(%s), %ld))", column, 2 * w);
	} else {
		buf_addf(out, "%s - (((%s %% %ld) + %ld) %% %ld)", column, column, w, w, w);
	}
}

/* "bucket[16]" */
static long
transform_number(const char *transform)
{
	const char *open = strchr(transform, '[');

	return open ? strtol(open + 1, NULL, 10) : 0;
}

static const json_t *
source_column(const json_t *field, const json_t *columns, struct buf *sql, struct err *e)
{
	json_int_t id = json_integer_value(json_object_get(field, "source-id"));
	const json_t *column = column_by_id(columns, id, sql);

	if (column == NULL)
		err_set(e, ERR_UNPROCESSABLE,
			"the table is partitioned or sorted by the column with id %lld, which its schema no longer has; the "
			"duckdb "
			"engine cannot write to it so",
			(long long)id);
	else if (!json_is_string(json_object_get(column, "type"))) {
		err_set(e, ERR_UNPROCESSABLE, "the column \"%s\" is nested: no table can be partitioned or sorted by it",
			json_string_value(json_object_get(column, "name")));
		column = NULL;
	}
	return column;
}

static bool
is_time_unit(const char *transform)
{
	return strcmp(transform, "year") == 0 || strcmp(transform, "month") == 0 || strcmp(transform, "hour") == 0;
}

int
partition_type(const json_t *field, const json_t *columns, struct buf *out, struct err *e)
{
	const char *transform = json_string_value(json_object_get(field, "transform"));
	const json_t *column;

	if (is_time_unit(transform) || strncmp(transform, "bucket", 6) == 0) {
		buf_adds(out, "int");
		return 0;
	}
	if (strcmp(transform, "day") == 0) {
		buf_adds(out, "date");
		return 0;
	}
	column = source_column(field, columns, NULL, e);
	if (column == NULL)
		return e->code;
	buf_adds(out, json_string_value(json_object_get(column, "type")));
	return 0;
}

bool
partition_is_day(const json_t *field)
{
	const char *transform = json_string_value(json_object_get(field, "transform"));

	return transform && strcmp(transform, "day") == 0;
}

int
partition_expr(const json_t *field, const json_t *columns, struct buf *out, bool *hash, struct err *e)
{
	const char *transform = json_string_value(json_object_get(field, "transform")), *type;
	struct buf sql = BUF_INIT, duck = BUF_INIT;
	const json_t *column = source_column(field, columns, &sql, e);
	long n = transform_number(transform);

	if (column == NULL)
		goto out;
	type = json_string_value(json_object_get(column, "type"));
	if (strcmp(type, "timestamptz") == 0 && strcmp(transform, "identity") != 0) {
		/* Days and hours are those of UTC, wherever the session thinks it is. */
		char *utc = xasprintf("(%s AT TIME ZONE 'UTC')", sql.s);

		buf_clear(&sql);
		buf_adds(&sql, utc);
		free(utc);
	}
	if (strcmp(transform, "identity") == 0) {
		buf_adds(out, sql.s);
	} else if (strcmp(transform, "void") == 0) {
		if (iceberg_to_duck(json_object_get(column, "type"), &duck, e) == 0)
			buf_addf(out, "CAST(NULL AS %s)", duck.s);
	} else if (strcmp(transform, "day") == 0) {
		buf_addf(out, "CAST(%s AS DATE)", sql.s);
	} else if (is_time_unit(transform)) {
		/* Counts the boundaries passed since 1970, also backwards. */
		buf_addf(out, "CAST(date_diff('%s', %s '1970-01-01', %s) AS INTEGER)", transform,
			 strcmp(type, "date") == 0 ? "DATE" : "TIMESTAMP", sql.s);
	} else if (strncmp(transform, "bucket[", 7) == 0) {
		*hash = true;
		bucket_expr(type, sql.s, n, out);
	} else if (strncmp(transform, "truncate[", 9) == 0) {
		truncate_expr(type, sql.s, n, out);
	} else {
		err_set(e, ERR_UNSUPPORTED, "the duckdb engine cannot write to a table that is partitioned or sorted by %s",
			transform);
	}
out:
	buf_release(&sql);
	buf_release(&duck);
	return e->code;
}

int
sort_expr(const json_t *fields, const json_t *columns, struct buf *out, bool *hash, struct err *e)
{
	const json_t *field;
	size_t i;

	json_array_foreach (fields, i, field) {
		const char *direction = json_string_value(json_object_get(field, "direction"));
		const char *nulls = json_string_value(json_object_get(field, "null-order"));

		if (i)
			buf_adds(out, ", ");
		if (partition_expr(field, columns, out, hash, e) < 0)
			return e->code;
		buf_addf(out, "%s NULLS %s", direction && strcmp(direction, "desc") == 0 ? " DESC" : " ASC",
			 nulls && strcmp(nulls, "nulls-last") == 0 ? "LAST" : "FIRST");
	}
	return 0;
}

void
avro_name(const char *name, struct buf *out)
{
	for (const char *p = name; *p; p++) {
		unsigned char c = (unsigned char)*p;

		if (isalpha(c) || c == '_' || (p > name && isdigit(c)))
			buf_addc(out, (char)c);
		else if (isdigit(c))
			buf_addf(out, "_%c", c);
		else
			buf_addf(out, "_x%X", c);
	}
}
