/* What belongs together in an export, beyond the grammar. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/flow_int.h"

static void
error_at(struct loader *l, const struct task_def *t, const char *place, const char *what)
{
	int line = t->line, col = t->col;

	pos_find(t->pos, place, &line, &col);
	load_error(l, line, col, "\"%.*s\" of task \"%s\": %s", (int)strcspn(place, "/"), place, t->id, what);
}

static bool
is(const char *text, const char *word)
{
	return text && strcmp(text, word) == 0;
}

/* Changes rows that are there: by a condition, or those with the keys of the rows that are given. */
static void
check_change(struct loader *l, const struct task_def *t, const json_t *to, const char *mode)
{
	bool update = is(mode, "update"), delete = is(mode, "delete"), key = json_object_get(to, "key") != NULL,
	     where = json_object_get(to, "where") != NULL, from = json_object_get(t->spec, "from") != NULL;

	if (update && json_object_size(json_object_get(to, "set")) == 0)
		error_at(l, t, "to/mode", "mode: update needs \"set\", a map of columns to expressions");
	if (!update && json_object_get(to, "set"))
		error_at(l, t, "to/set", "\"set\" goes with mode: update");
	if (!update && !delete &&where)
		error_at(l, t, "to/where", "\"where\" goes with mode: update and mode: delete");
	if (delete &&where == key)
		error_at(
			l, t, "to/mode",
			"mode: delete needs one of \"where\", a condition, and \"key\", by which the rows of `from` are deleted");
	if (from && (update || (delete &&where && !key)))
		error_at(l, t, "from", "a change by expression or condition takes no rows; mode: upsert changes rows by others");
	if (!from && delete &&key && !where)
		error_at(l, t, "to/key", "mode: delete with \"key\" needs `from`, the rows whose keys are deleted");
}

/* Which modes a format has, and what they need of the key. */
static void
check_mode(struct loader *l, const struct task_def *t, const json_t *to, const char *format)
{
	const json_t *key = json_object_get(to, "key");
	const char *mode = json_string_value(json_object_get(to, "mode"));
	bool delta = is(format, "delta"), hudi = is(format, "hudi");

	if (is(mode, "upsert") && json_array_size(key) == 0)
		error_at(l, t, "to/mode", "mode: upsert needs \"key\"");
	if (!delta && (is(mode, "update") || (is(mode, "delete") && !hudi)))
		error_at(l, t, "to/mode", "modes update and delete go with format: delta");
	if (hudi && (is(mode, "replace") || (is(mode, "delete") && key == NULL)))
		error_at(l, t, "to/mode", "a Hudi table takes append, overwrite, upsert, and delete with \"key\" and `from`");
	if (key && is(format, "kafka")) {
		if (json_array_size(key) != 1)
			error_at(l, t, "to/key", "\"key\" with format: kafka is one column");
	} else if (key && !hudi && !is(mode, "upsert") && !(delta && is(mode, "delete"))) {
		error_at(l, t, "to/key",
			 delta ? "\"key\" goes with mode: upsert and mode: delete" : "\"key\" goes with mode: upsert");
	}
	if (delta)
		check_change(l, t, to, mode);
}

void
flow_check_export(struct loader *l, const struct task_def *t)
{
	const json_t *from = json_object_get(t->spec, "from"), *to = json_object_get(t->spec, "to");
	const char *mode = json_string_value(json_object_get(to, "mode")),
		   *format = json_string_value(json_object_get(to, "format")),
		   *compression = json_string_value(json_object_get(to, "compression"));

	if (json_object_get(from, "at") && json_object_get(from, "table") == NULL)
		error_at(l, t, "from/at", "\"at\" goes with \"table\"; in SQL it is as_of('namespace.table', 'state')");
	if (from == NULL && format && !text_has_ref(format) && !(mode && text_has_ref(mode)) &&
	    (is(format, "hudi") || (!is(mode, "update") && !is(mode, "delete"))))
		load_error(l, t->line, t->col, "task \"%s\" needs the key \"from\"", t->id);
	if (!(format && text_has_ref(format)) && !(mode && text_has_ref(mode)))
		check_mode(l, t, to, format);
	if (is(compression, "snappy") && format && !is(format, "parquet") && !text_has_ref(format))
		error_at(l, t, "to/compression", "compression: snappy is Parquet's; CSV and JSON take gzip and zstd");
}

void
flow_check_spark(struct loader *l, const struct task_def *t)
{
	const char *object = t->type == TASK_EXPORT ? "to" : "source",
		   *format = json_string_value(json_object_get(json_object_get(t->spec, object), "format")),
		   *version = json_string_value(json_object_get(t->engine_options, "version"));
	const json_t *connect = json_object_get(t->engine_options, "connect");
	bool old = is(version, "3.5"), spark = is(t->engine, "spark") || is(t->engine, "spark_sql");
	char *place = xasprintf("%s/format", object);

	if (spark && is(format, "hudi") && !old)
		error_at(l, t, place,
			 "format: hudi needs engine_options: {version: \"3.5\"}; Hudi is not there for a newer Spark");
	if (spark && is(format, "delta") && old)
		error_at(l, t, place, "format: delta needs Spark 4.1, not engine_options.version 3.5");
	if (spark && old && connect && !json_is_false(connect))
		error_at(l, t, place, "engine_options.connect needs Spark 4.1, not version 3.5");
	free(place);
}
