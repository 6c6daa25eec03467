/*
 * browse: what the daemon asks of another server's catalog, since it waits for nobody itself. Its own catalog it reads in place.
 *
 *     {"namespace": "stg" or null, "after": "stg.t", "limit": 100}    a page of tables by name, with their metadata
 *     {"table": "stg.t"}                                              one table
 *     {"table": "stg.t", "change": {"requirements", "updates"}}       the same after a commit
 *
 * The result: {"tables": [{"namespace", "table", "location", "metadata" or "error"}], "more", "names": all, where one is not
 * there}.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/names.h"
#include "tasks/context.h"
#include "tasks/iceberg/rest.h"
#include "tasks/report.h"

#define NAMES_MAX 100000

/* The other way round, with the separator that the specification has in queries. */
static char *
levels_text(const char *ns)
{
	char *text = xstrdup(ns);

	for (char *p = text; *p; p++)
		if (*p == '.')
			*p = 0x1f;
	return text;
}

/* ---- what there is ---- */

/* The pages of a list as one; NULL with the error set. `status` gets that of a page that was refused. */
static json_t *
list_all(struct context *cx, const char *path, const char *key, int *status)
{
	json_t *all = json_array(), *page = NULL;
	char *next = xstrdup(path);

	do {
		const char *token;

		*status = rest_call(cx, "GET", next, NULL, &page);
		free(next);
		next = NULL;
		if (*status == 200) {
			json_array_extend(all, json_object_get(page, key));
			token = json_string_value(json_object_get(page, "next-page-token"));
			if (token && *token && json_array_size(all) < NAMES_MAX)
				next = rest_query_path(path, "pageToken", token);
		} else {
			if (*status >= 0)
				rest_fail(cx, "the catalog cannot be listed", *status, page);
			json_decref(all);
			all = NULL;
		}
		json_decref(page);
	} while (next);
	return all;
}

/* A list that may be missing: of namespaces that went away meanwhile, or by servers that do not nest them. */
static json_t *
list_maybe(struct context *cx, const char *path, const char *key)
{
	int status;
	json_t *all = list_all(cx, path, key, &status);

	if (all == NULL && (status == 404 || status == 400)) {
		err_release(&cx->err);
		cx->cause = NULL;
		return json_array();
	}
	return all;
}

static int
add_tables(struct context *cx, const char *ns, json_t *names)
{
	char *path = rest_namespace_path(ns, "/tables");
	json_t *found = list_maybe(cx, path, "identifiers"), *item;
	size_t i;

	free(path);
	if (found == NULL)
		return -1;
	json_array_foreach (found, i, item) {
		const char *name = json_string_value(json_object_get(item, "name"));

		char *key = name ? xasprintf("%s.%s", ns, name) : NULL;

		if (key)
			json_object_set_new(names, key, json_pack("[s,s]", ns, name));
		free(key);
	}
	json_decref(found);
	return 0;
}

/* Adds {"ns.name": [ns, name]} of all tables in `parent` (NULL: everywhere) and below. */
static int
add_below(struct context *cx, const char *parent, json_t *names)
{
	char *levels_of = parent ? levels_text(parent) : NULL;
	char *path = parent ? rest_query_path("namespaces", "parent", levels_of) : xstrdup("namespaces");
	json_t *spaces, *levels;
	int rc = parent ? add_tables(cx, parent, names) : 0, status;
	size_t i;

	spaces = rc < 0 ? NULL : parent ? list_maybe(cx, path, "namespaces") : list_all(cx, path, "namespaces", &status);
	free(path);
	free(levels_of);
	if (spaces == NULL)
		return -1;
	json_array_foreach (spaces, i, levels) {
		char *ns = names_joined(levels, ".");

		/* A server that does not know `parent` gives what it gives without. */
		if (rc == 0 && (parent == NULL || (strncmp(ns, parent, strlen(parent)) == 0 && ns[strlen(parent)] == '.')))
			rc = add_below(cx, ns, names);
		free(ns);
	}
	json_decref(spaces);
	return rc;
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* ---- tables ---- */

/* Of a table in a list only its present state is told: many tables with long histories are much text. */
static void
leave_out(json_t *md)
{
	static const char *const rest[] = { "metadata-log", "snapshot-log", "schemas",    "partition-specs",
					    "sort-orders",  "properties",   "statistics", "refs" };
	json_int_t current = json_integer_value(json_object_get(md, "current-snapshot-id"));
	json_t *snapshot;
	size_t i;

	for (i = 0; i < sizeof(rest) / sizeof(rest[0]); i++)
		json_object_del(md, rest[i]);
	json_array_foreach (json_object_get(md, "snapshots"), i, snapshot)
		if (json_integer_value(json_object_get(snapshot, "snapshot-id")) != current)
			json_object_clear(snapshot); /* it still counts */
}

/* Loads a table into `out`, its failure as its "error". 200, 404 or -1; with `must` a failure ends the task. */
static int
add_table(struct context *cx, const char *ns, const char *name, bool must, json_t *out)
{
	json_t *loaded = NULL, *item;
	int status = rest_load_table(cx, ns, name, &loaded);

	if (status < 0 && must)
		return -1;
	if (status == 404)
		return status;
	item = json_pack("{s:s,s:s,s:s}", "namespace", ns, "table", name, "location", "");
	if (status == 200) {
		if (!must)
			leave_out(json_object_get(loaded, "metadata"));
		json_object_set(item, "metadata", json_object_get(loaded, "metadata"));
		if (json_object_get(loaded, "metadata-location"))
			json_object_set(item, "location", json_object_get(loaded, "metadata-location"));
	} else {
		json_object_set_new(item, "error", json_string(cx->err.msg));
		err_release(&cx->err);
	}
	json_array_append_new(out, item);
	json_decref(loaded);
	return 200;
}

static int
browse_list(struct context *cx, json_t *tables, bool *more)
{
	const char *after = spec_text(cx, "after"), **sorted, *key;
	json_int_t limit = json_integer_value(json_object_get(cx->spec, "limit"));
	json_t *names = json_object(), *cut;
	size_t n = 0;
	int rc = add_below(cx, spec_text(cx, "namespace"), names);

	sorted = xcalloc(json_object_size(names) + 1, sizeof(*sorted));
	json_object_foreach (names, key, cut)
		if (after == NULL || strcmp(key, after) > 0)
			sorted[n++] = key;
	qsort(sorted, n, sizeof(*sorted), by_name);
	for (size_t i = 0; rc == 0 && i < n && (json_int_t)json_array_size(tables) < limit; i++) {
		cut = json_object_get(names, sorted[i]);
		add_table(cx, json_string_value(json_array_get(cut, 0)), json_string_value(json_array_get(cut, 1)), false,
			  tables);
		*more = i + 1 < n;
	}
	free(sorted);
	json_decref(names);
	return rc;
}

/* As tasks read the name. 200, 404 or -1. */
static int
find_table(struct context *cx, const char *name, json_t *tables)
{
	char *ns = NULL, *table = NULL;
	int status = task_table_name(cx, name, &ns, &table);

	if (status == 0)
		status = add_table(cx, ns, table, true, tables);
	free(ns);
	free(table);
	return status;
}

static int
browse_change(struct context *cx, const json_t *change, json_t *tables)
{
	json_t *table = json_array_get(tables, 0), *answer = NULL;
	const char *ns = json_string_value(json_object_get(table, "namespace")),
		   *name = json_string_value(json_object_get(table, "table"));
	char *path = rest_table_path(ns, name);
	int status = rest_once(cx, "POST", path, change, &answer);

	free(path);
	if (status == 200) {
		json_object_set(table, "metadata", json_object_get(answer, "metadata"));
		json_object_set(table, "location", json_object_get(answer, "metadata-location"));
	} else if (status >= 0) {
		char *what = xasprintf("table %s.%s", ns, name);

		rest_fail(cx, what, status, answer);
		free(what);
	}
	json_decref(answer);
	return status == 200 ? 0 : -1;
}

static json_t *
all_names(struct context *cx)
{
	json_t *names = json_object(), *out = json_array(), *cut;
	const char *key;

	if (add_below(cx, NULL, names) < 0)
		err_release(&cx->err); /* a hint less */
	json_object_foreach (names, key, cut)
		json_array_append_new(out, json_string(key));
	json_decref(names);
	return out;
}

int
browse_run(struct context *cx)
{
	const char *table = spec_text(cx, "table");
	const json_t *change = json_object_get(cx->spec, "change");
	json_t *tables = json_array(), *names = NULL;
	bool more = false;
	int rc;

	if (table == NULL) {
		rc = browse_list(cx, tables, &more);
	} else if ((rc = find_table(cx, table, tables)) == 404) {
		names = all_names(cx);
		rc = 0;
	} else if (rc == 200) {
		rc = change ? browse_change(cx, change, tables) : 0;
	}
	if (rc == 0)
		report("result", json_pack("{s:O,s:b,s:o*}", "tables", tables, "more", more, "names", names));
	json_decref(tables);
	return rc < 0 ? -1 : 0;
}
