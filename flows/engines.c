#include "flows/engines.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "flows/suggest.h"

/*
 * One row an engine and a type that it does. What it cannot do of that type, blank-separated: a key, or "key=value|value"; a
 * slash leads into an object. What stands in no row it cannot do at all.
 */
/* clang-format off */
static const struct engine_row {
	const char *engine;
	enum task_type type;
	const char *lacks;
} engine_rows[] = {
	{ "duckdb", TASK_STAGE, "source/format=hudi" },
	{ "duckdb", TASK_PUBLISH, "" },
	{ "duckdb", TASK_CURATE, "" },
	{ "duckdb", TASK_VALIDATE, "" },
	{ "duckdb", TASK_MAINTAIN, "" },
	{ "duckdb", TASK_EXPORT, "to/format=delta|hudi" },

	{ "polars", TASK_STAGE, "source/format=hudi|postgres|sqlite|mysql|http|kafka target/row_group_size engine_options/memory_limit" },
	{ "polars", TASK_PUBLISH, "mode=add_files|register from/format parity=full|counts format_version=3 engine_options/memory_limit" },
	{ "polars", TASK_CURATE, "parity=full|counts format_version=3 engine_options/memory_limit" },
	{ "polars", TASK_VALIDATE, "engine_options/memory_limit" },
	{ "polars", TASK_EXPORT, "to/format=parquet|csv|json|postgres|sqlite|mysql|mongodb|kafka|hudi to/mode=update to/where engine_options/memory_limit" },

	{ "spark", TASK_STAGE, "source/format=postgres|sqlite|mysql|http|kafka target/row_group_size" },
	{ "spark", TASK_PUBLISH, "mode=add_files|register from/format parity=full|counts format_version=3" },
	{ "spark", TASK_CURATE, "parity=full|counts format_version=3" },
	{ "spark", TASK_VALIDATE, "" },
	{ "spark", TASK_MAINTAIN, "when_health_below dry_run=true compact/max_bytes compact/max_files compact/sort_by compact/where expire_snapshots/keep" },
	{ "spark", TASK_EXPORT, "to/format=parquet|csv|json|postgres|sqlite|mysql|mongodb|kafka" },

	{ "spark_sql", TASK_STAGE, "source/format=postgres|sqlite|mysql|http|kafka target/row_group_size" },
	{ "spark_sql", TASK_PUBLISH, "mode=add_files|register from/format parity=full|counts format_version=3" },
	{ "spark_sql", TASK_CURATE, "parity=full|counts format_version=3" },
	{ "spark_sql", TASK_VALIDATE, "" },
	{ "spark_sql", TASK_MAINTAIN, "when_health_below dry_run=true compact/max_bytes compact/max_files compact/sort_by compact/where expire_snapshots/keep" },
	{ "spark_sql", TASK_EXPORT, "to/format=parquet|csv|json|postgres|sqlite|mysql|mongodb|kafka" },
};
/* clang-format on */
#define NROWS (sizeof(engine_rows) / sizeof(engine_rows[0]))

/* One row an engine: the catalogs that it reaches, by type. */
static const struct {
	const char *engine, *catalogs;
} catalog_rows[] = {
	{ "duckdb", " sluice jdbc rest " },
	{ "polars", " sluice jdbc rest hive glue " },
	{ "spark", " sluice jdbc rest hive glue " },
	{ "spark_sql", " sluice jdbc rest hive glue " },
};

static const char *const later[] = { "pyiceberg" };

bool
engine_is_installed_apart(const char *name)
{
	return strcmp(name, "duckdb") != 0;
}

/* The engines of the table, each once; returns how many. */
static size_t
engine_names(const char *names[NROWS])
{
	size_t n = 0;

	for (size_t i = 0; i < NROWS; i++)
		if (n == 0 || strcmp(names[n - 1], engine_rows[i].engine) != 0)
			names[n++] = engine_rows[i].engine;
	return n;
}

int
engine_check_name(const char *name, struct err *e)
{
	const char *names[NROWS];
	size_t n = engine_names(names);
	struct buf hint = BUF_INIT;
	int rc = ERR_UNPROCESSABLE;

	for (size_t i = 0; i < n; i++)
		if (strcmp(name, names[i]) == 0)
			return 0;
	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++)
		if (strcmp(name, later[i]) == 0)
			rc = ERR_UNSUPPORTED;
	if (rc == ERR_UNSUPPORTED) {
		for (size_t i = 0; i < n; i++)
			buf_addf(&hint, "%s%s", i ? ", " : "", names[i]);
		err_set(e, rc, "engine \"%s\" is not supported yet; supported: %s", name, hint.s);
	} else {
		suggest_hint(&hint, name, names, n, "engine is one of");
		err_set(e, rc, "unknown engine \"%s\"%s", name, hint.s);
	}
	buf_release(&hint);
	return rc;
}

static const struct engine_row *
engine_find(const char *engine, enum task_type type)
{
	for (size_t i = 0; i < NROWS; i++)
		if (engine_rows[i].type == type && strcmp(engine_rows[i].engine, engine) == 0)
			return &engine_rows[i];
	return NULL;
}

static bool
engine_reaches(const char *engine, const char *type)
{
	char *word = xasprintf(" %s ", type);
	bool yes = false;

	for (size_t i = 0; i < sizeof(catalog_rows) / sizeof(catalog_rows[0]); i++)
		if (strcmp(catalog_rows[i].engine, engine) == 0)
			yes = strstr(catalog_rows[i].catalogs, word) != NULL;
	free(word);
	return yes;
}

int
engine_check_catalog(const char *engine, const char *type, struct err *e)
{
	const char *names[NROWS];
	size_t n = engine_names(names);
	struct buf can = BUF_INIT;

	if (engine_reaches(engine, type))
		return 0;
	for (size_t i = 0; i < n; i++)
		if (engine_reaches(names[i], type))
			buf_addf(&can, "%s%s", can.len ? ", " : "", names[i]);
	err_set(e, ERR_UNPROCESSABLE, "engine \"%s\" does not reach catalogs of type %s; these do: %s", engine, type, can.s);
	buf_release(&can);
	return ERR_UNPROCESSABLE;
}

bool
engine_does(const char *engine, enum task_type type)
{
	return engine_find(engine, type) != NULL;
}

static const json_t *
value_at(const struct task_def *t, const json_t *spec, const char *path)
{
	static const char options[] = "engine_options/";
	const json_t *at = spec;

	if (strncmp(path, options, sizeof(options) - 1) == 0) {
		at = t->engine_options;
		path += sizeof(options) - 1;
	}
	for (;;) {
		size_t n = strcspn(path, "/");
		char *key = xstrndup(path, n);

		at = json_object_get(at, key);
		free(key);
		if (path[n] == '\0')
			return at;
		path += n + 1;
	}
}

/* Is the value one of "a|b"? */
static bool
value_among(const json_t *value, const char *among)
{
	char *text = json_is_string(value) ? xstrdup(json_string_value(value)) : json_dumps(value, JSON_ENCODE_ANY);
	size_t n = text ? strlen(text) : 0;
	bool found = false;

	for (const char *p = among; text && *p && !found; p += strcspn(p, "|"), p += *p == '|')
		found = strcspn(p, "|") == n && strncmp(p, text, n) == 0;
	free(text);
	return found;
}

/* The first of what the row lacks that the task has, as "key" or "key=value|value"; NULL when it can do the task. */
static char *
row_lacks(const struct engine_row *row, const struct task_def *t, const json_t *spec)
{
	for (const char *p = row->lacks; *p; p += strcspn(p, " "), p += *p == ' ') {
		char *word = xstrndup(p, strcspn(p, " ")), *eq = strchr(word, '=');
		const json_t *value;
		bool found;

		if (eq)
			*eq = '\0';
		value = value_at(t, spec, word);
		found = value && !json_is_null(value) && (eq == NULL || value_among(value, eq + 1));
		if (found)
			return word;
		free(word);
	}
	return NULL;
}

/* Adds "; duckdb can", and which others. */
static void
add_those_that_can(struct buf *b, const struct task_def *t, const json_t *spec)
{
	bool any = false;

	for (size_t i = 0; i < NROWS; i++) {
		char *lacks;

		if (engine_rows[i].type != t->type)
			continue;
		lacks = row_lacks(&engine_rows[i], t, spec);
		if (lacks == NULL) {
			buf_addf(b, "%s%s", any ? ", " : "; these can: ", engine_rows[i].engine);
			any = true;
		}
		free(lacks);
	}
}

int
engine_check_task(const char *engine, const struct task_def *t, const json_t *spec, char **key, struct err *e)
{
	const struct engine_row *row = engine_find(engine, t->type);
	char *lacks = row ? row_lacks(row, t, spec) : xstrdup("engine");
	const json_t *value;
	struct buf what = BUF_INIT;
	char *shown;

	if (lacks == NULL)
		return 0;
	/* The engine's options are told in other units than they were written in. */
	value = row && strncmp(lacks, "engine_options", 14) != 0 ? value_at(t, spec, lacks) : NULL;
	shown = xstrdup(lacks);
	for (char *p = shown; (p = strchr(p, '/')) != NULL;)
		*p = '.';
	buf_addf(&what, "engine \"%s\" does not do ", engine);
	if (row == NULL)
		buf_addf(&what, "tasks of type %s, as \"%s\" is", task_type_name(t->type), t->id);
	else if (json_is_string(value))
		buf_addf(&what, "`%s: %s` of task \"%s\"", shown, json_string_value(value), t->id);
	else
		buf_addf(&what, "`%s` of task \"%s\"", shown, t->id);
	free(shown);
	add_those_that_can(&what, t, spec);
	err_set(e, ERR_UNPROCESSABLE, "%s", what.s);
	buf_release(&what);
	if (key)
		*key = lacks;
	else
		free(lacks);
	return ERR_UNPROCESSABLE;
}
