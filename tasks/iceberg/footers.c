/* What the footers of Parquet files tell about their columns: a manifest's statistics, without reading a row. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/values.h"
#include "tasks/iceberg/write_int.h"

/* The least or greatest of a column's values over the row groups, or NULL when one is not known. */
static json_t *
extreme(const char *type, const json_t *values, int sign)
{
	json_t *value, *best = NULL;
	struct buf a = BUF_INIT, b = BUF_INIT;
	size_t i;

	json_array_foreach (values, i, value) {
		buf_clear(&a);
		if (!json_is_string(value) ||
		    !value_bytes(type, json_string_value(value), json_string_length(value), VALUE_EXACT, &a)) {
			best = NULL;
			break;
		}
		if (best && sign * value_compare(type, &a, &b) <= 0)
			continue;
		best = value;
		buf_clear(&b);
		buf_add(&b, a.s, a.len);
	}
	buf_release(&a);
	buf_release(&b);
	return best;
}

static void
set_text(json_t *object, const char *key, const json_t *number)
{
	if (json_is_integer(number))
		json_object_set_new(object, key, json_sprintf("%lld", (long long)json_integer_value(number)));
}

/* Which bounds are good? Of text a writer may have kept a part only, and NaN makes a bound of floats doubtful. */
static bool
bounds_hold(const char *type, bool ours)
{
	if (type == NULL || strcmp(type, "binary") == 0) /* whose text could be hexadecimal digits or not */
		return false;
	return ours || strcmp(type, "int") == 0 || strcmp(type, "long") == 0 || strcmp(type, "date") == 0 ||
	       strncmp(type, "timestamp", 9) == 0 || strncmp(type, "decimal", 7) == 0;
}

static bool
is_real(const char *type)
{
	return type && (strcmp(type, "float") == 0 || strcmp(type, "double") == 0);
}

enum { FILE_NAME, COLUMN, VALUES, NULLS, BYTES, LEAST, GREATEST, ROWS, UNBOUND, PLACES };
#define WITH_VALUES " FILTER (WHERE stats_null_count IS NULL OR num_values > stats_null_count)"
/* clang-format off */
/* A line a file and column. A row group begins with its first column's first page: so a reader may take a part of a file. */
#define ASK "WITH m AS MATERIALIZED (FROM parquet_metadata(%s)), c AS (" \
	"SELECT file_name, path_in_schema, sum(num_values)::BIGINT, sum(stats_null_count)::BIGINT, sum(total_compressed_size)::BIGINT, " \
	"list(stats_min_value)" WITH_VALUES ", list(stats_max_value)" WITH_VALUES ", sum(row_group_num_rows)::BIGINT, " \
	"(count(*)" WITH_VALUES " - count(stats_min_value)" WITH_VALUES ")::BIGINT FROM m GROUP BY ALL), " \
	"g AS (SELECT file_name, row_group_id, min(CASE WHEN dictionary_page_offset > 0 THEN least(dictionary_page_offset, data_page_offset) " \
	"ELSE data_page_offset END)::BIGINT AS place FROM m GROUP BY ALL), " \
	"p AS (SELECT file_name, list(place ORDER BY place) FROM g GROUP BY ALL) " \
	"FROM c JOIN p USING (file_name) ORDER BY file_name"
/* clang-format on */

static void
note_column(struct writer *wr, struct data_file *f, const json_t *row, bool ours)
{
	const char *name = json_string_value(json_array_get(row, COLUMN));
	json_t *stats, *field, *v;
	struct buf path = BUF_INIT;
	size_t i;

	f->rows = json_integer_value(json_array_get(row, ROWS));
	if (f->splits == NULL)
		f->splits = json_incref(json_array_get(row, PLACES));
	buf_add_sql_name(&path, name);
	stats = json_object_get(f->columns, path.s);
	if (stats == NULL)
		json_object_set_new(f->columns, path.s, stats = json_object());
	set_text(stats, "num_values", json_array_get(row, VALUES));
	set_text(stats, "null_count", json_array_get(row, NULLS));
	set_text(stats, "column_size_bytes", json_array_get(row, BYTES));
	json_array_foreach (wr->fields, i, field) {
		const char *type = json_string_value(json_object_get(field, "type"));

		if (strcmp(json_string_value(json_object_get(field, "name")), name) != 0 || !bounds_hold(type, ours))
			continue;
		if ((v = extreme(type, json_array_get(row, LEAST), -1)))
			json_object_set(stats, "min", v);
		if ((v = extreme(type, json_array_get(row, GREATEST), 1)))
			json_object_set(stats, "max", v);
		if (is_real(type) && ours)
			json_object_set_new(stats, "has_nan",
					    json_string(json_integer_value(json_array_get(row, UNBOUND)) ? "true" : "false"));
	}
	buf_release(&path);
}

int
footers_note(struct writer *wr, const char *files, bool ours, struct data_file *(*file_of)(struct writer *, const char *path))
{
	char *sql = xasprintf(ASK, files);
	json_t *rows = duck_query_json(wr->cx->db, sql, &wr->cx->err), *row;
	int rc = rows ? 0 : -1;
	size_t i;

	free(sql);
	json_array_foreach (rows, i, row) {
		struct data_file *f = file_of(wr, json_string_value(json_array_get(row, FILE_NAME)));

		if (f) {
			note_column(wr, f, row, ours);
		} else if (wr->cx->err.code) {
			rc = -1;
			break;
		}
	}
	json_decref(rows);
	return rc;
}
