/* What metadata alone tells of tables: no child is started for it. */
#include "api/catalog/browse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/table_json.h"
#include "base/alloc.h"
#include "base/table_at.h"
#include "flows/suggest.h"

#define LIST_DEFAULT 100
#define LIST_MAX     1000
#define BODY_MAX     65536

/* ---- finding and reading ---- */

struct browse *
browse_new(struct request *rq, void (*done)(struct browse *b))
{
	struct browse *b = xcalloc(1, sizeof(*b));

	b->work.data = b;
	b->catalog = catalog_ref(rq->app->catalog);
	b->rq = rq;
	b->done = done;
	return b;
}

void
browse_free(struct browse *b)
{
	for (size_t i = 0; i < b->count; i++) {
		struct browsed *t = &b->tables[i];

		free(t->ns);
		free(t->name);
		free(t->location);
		meta_unref(t->meta);
		err_release(&t->e);
	}
	free(b->tables);
	catalog_unref(b->catalog);
	free(b);
}

void
browse_done(struct browse *b)
{
	struct browsed *t = b->tables;

	if (b->one && t->meta == NULL) {
		err_prefix(&t->e, "table %s.%s", t->ns, t->name);
		reply_err(b->rq, &t->e);
	} else {
		b->done(b);
	}
	browse_free(b);
}

static void
browse_work(struct work *w)
{
	struct browse *b = w->data;

	for (size_t i = 0; i < b->count; i++) {
		struct browsed *t = &b->tables[i];

		if (t->meta == NULL && warehouse_read(t->location, &t->text, &t->len, &t->json, &t->e) < 0)
			t->text = NULL;
	}
}

static void
on_browse_read(struct work *w, int status)
{
	struct browse *b = w->data;

	for (size_t i = 0; i < b->count; i++) {
		struct browsed *t = &b->tables[i];

		if (t->text)
			t->meta = meta_keep(b->catalog, t->location, t->text, t->len, t->json);
		else if (t->meta == NULL && t->e.code == 0)
			err_set(&t->e, ERR_INTERNAL, "%s", uv_strerror(status));
	}
	browse_done(b);
}

/* Rows of namespace, name, location. */
static void
browse_take(struct browse *b, const struct rows *r, size_t n)
{
	bool all = true, remote = false;

	b->count = n;
	b->tables = xcalloc(n ? n : 1, sizeof(*b->tables));
	for (size_t i = 0; i < n; i++) {
		struct browsed *t = &b->tables[i];

		t->ns = xstrdup(rows_get(r, i, 0));
		t->name = xstrdup(rows_get(r, i, 1));
		t->location = xstrdup(rows_get(r, i, 2) ? rows_get(r, i, 2) : "");
		t->meta = meta_cached(b->catalog, t->location);
		all = all && t->meta;
		remote = remote || storage_remote(t->location);
	}
	if (all)
		browse_done(b);
	else
		work_queue(b->catalog->app->loop, &b->work, remote, browse_work, on_browse_read);
}

char *
browse_name(const struct browsed *t)
{
	return xasprintf("%s.%s", t->ns, t->name);
}

/* ---- one table ---- */

void
browse_none(struct browse *b, const char **names, size_t n)
{
	const char *wanted = b->rq->param[0], *near = suggest(wanted, names, n);

	if (near)
		reply_problem(b->rq, ERR_NOT_FOUND, "there is no table %s; did you mean \"%s\"?", wanted, near);
	else
		reply_problem(b->rq, ERR_NOT_FOUND, "there is no table %s; `sluice tables` lists %s", wanted,
			      n == 1 ? "the one there is" : "what there is");
	browse_free(b);
}

static void
on_names(void *arg, const struct rows *r, struct err *e)
{
	struct browse *b = arg;
	size_t n = r ? rows_count(r) : 0;
	const char **names = xcalloc(n + 1, sizeof(*names));

	for (size_t i = 0; i < n; i++)
		names[i] = rows_get(r, i, 0);
	if (r) {
		browse_none(b, names, n);
	} else {
		reply_err(b->rq, e);
		browse_free(b);
	}
	free(names);
}

static void
on_browse_found(void *arg, const struct rows *r, struct err *e)
{
	struct browse *b = arg;

	if (r && rows_count(r)) {
		browse_take(b, r, 1);
		return;
	}
	if (r) {
		store_query(b->rq->app->store,
			    "SELECT table_namespace || '.' || table_name FROM iceberg_tables WHERE catalog_name = $1 "
			    "AND " SQL_IS_TABLE " ORDER BY 1",
			    1, (const char *const[]){ b->catalog->name }, on_names, b);
		return;
	}
	reply_err(b->rq, e);
	browse_free(b);
}

/* Dots may be in namespaces and in names: every way to cut `text` is tried, as it stands first. */
static void
add_cuts(json_t *list, const char *text)
{
	for (const char *dot = strchr(text, '.'); dot; dot = strchr(dot + 1, '.'))
		if (dot > text && dot[1])
			json_array_append_new(list, json_pack("[s%,s]", text, (size_t)(dot - text), dot + 1));
}

void
browse_table(struct request *rq, void (*done)(struct browse *b))
{
	struct browse *b = browse_new(rq, done);
	json_t *cuts = json_array();
	size_t n = strlen(b->catalog->name);
	char *text;

	b->one = true;
	if (config_foreign(rq->app->config)) {
		json_decref(cuts);
		foreign_table(b);
		return;
	}
	add_cuts(cuts, rq->param[0]);
	if (strncmp(rq->param[0], b->catalog->name, n) == 0 && rq->param[0][n] == '.')
		add_cuts(cuts, rq->param[0] + n + 1);
	text = json_dumps(cuts, JSON_COMPACT);
	store_query(rq->app->store,
		    "SELECT table_namespace, table_name, metadata_location FROM json_array_elements($2::json) WITH ORDINALITY AS "
		    "x(cut, i) JOIN iceberg_tables ON table_namespace = x.cut->>0 AND table_name = x.cut->>1"
		    " WHERE catalog_name = $1 AND " SQL_IS_TABLE " ORDER BY x.i LIMIT 1",
		    2, (const char *const[]){ b->catalog->name, text }, on_browse_found, b);
	free(text);
	json_decref(cuts);
}

const json_t *
browse_at(struct browse *b, const char *at)
{
	struct err e = ERR_INIT;
	const json_t *found = table_at(b->tables[0].meta->json, at, clock_wall(), &e);

	if (found)
		return found;
	err_prefix(&e, "table %s.%s", b->tables[0].ns, b->tables[0].name);
	reply_err(b->rq, &e);
	return NULL;
}

/* ---- answers ---- */

static json_t *
item_json(const struct browsed *t)
{
	return json_pack("{s:o,s:s,s:s,s:s}", "name", json_sprintf("%s.%s", t->ns, t->name), "namespace", t->ns, "table", t->name,
			 "metadata_location", t->location);
}

static void
list_done(struct browse *b)
{
	json_t *items = json_array(), *next = json_null();

	for (size_t i = 0; i < b->count; i++) {
		struct browsed *t = &b->tables[i];
		json_t *item = item_json(t);

		if (t->meta)
			table_add_state(item, t->meta->json);
		else
			json_object_set_new(item, "error", json_string(t->e.msg));
		json_array_append_new(items, item);
	}
	if (b->more)
		next = json_copy(json_object_get(json_array_get(items, b->count - 1), "name"));
	reply_json(b->rq, 200, json_pack("{s:o,s:o}", "items", items, "next", next));
}

static void
on_list_found(void *arg, const struct rows *r, struct err *e)
{
	struct browse *b = arg;
	size_t limit = b->count;

	b->count = 0;
	if (r) {
		b->more = rows_count(r) > limit;
		browse_take(b, r, b->more ? limit : rows_count(r));
		return;
	}
	reply_err(b->rq, e);
	browse_free(b);
}

static void
tables_get(struct request *rq)
{
	const char *ns = request_query(rq, "namespace"), *cursor = request_query(rq, "cursor");
	long limit = request_number(rq, "limit", LIST_DEFAULT, 1, LIST_MAX);
	struct browse *b;
	char number[32];

	if (limit < 0)
		return;
	b = browse_new(rq, list_done);
	if (config_foreign(rq->app->config)) {
		foreign_list(b, ns, cursor, limit);
		return;
	}
	b->count = (size_t)limit; /* until the rows are there */
	snprintf(number, sizeof(number), "%ld", limit + 1);
	store_query(
		rq->app->store,
		"SELECT table_namespace, table_name, metadata_location FROM iceberg_tables WHERE catalog_name = $1"
		" AND " SQL_IS_TABLE " AND ($2::text IS NULL OR table_namespace = $2 OR starts_with(table_namespace, $2 || '.'))"
		" AND ($3::text IS NULL OR (table_namespace || '.' || table_name) COLLATE \"C\" > $3 COLLATE \"C\")"
		" ORDER BY (table_namespace || '.' || table_name) COLLATE \"C\" LIMIT $4::bigint",
		4, (const char *const[]){ b->catalog->name, ns && *ns ? ns : NULL, cursor && *cursor ? cursor : NULL, number },
		on_list_found, b);
}

static void
show_done(struct browse *b)
{
	json_t *item = item_json(&b->tables[0]);

	table_add_all(item, b->tables[0].meta->json);
	reply_json(b->rq, 200, item);
}

/* A page of a list that metadata holds. */
static void
page_reply(struct browse *b, json_t *(*list)(const json_t *md, size_t limit, size_t *from))
{
	long limit = request_number(b->rq, "limit", LIST_DEFAULT, 1, LIST_MAX), start;
	size_t from;
	json_t *items;

	if (limit < 0 || (start = request_number(b->rq, "cursor", 0, 0, 1000000000)) < 0)
		return;
	from = (size_t)start;
	items = list(b->tables[0].meta->json, (size_t)limit, &from);
	reply_json(b->rq, 200, json_pack("{s:o,s:o}", "items", items, "next", from ? json_sprintf("%zu", from) : json_null()));
}

static void
snapshots_done(struct browse *b)
{
	page_reply(b, table_snapshots_json);
}

static void
history_done(struct browse *b)
{
	page_reply(b, table_history_json);
}

static void
refs_done(struct browse *b)
{
	reply_json(b->rq, 200, json_pack("{s:o,s:n}", "items", table_refs_json(b->tables[0].meta->json), "next"));
}

static void
schemas_done(struct browse *b)
{
	reply_json(b->rq, 200, json_pack("{s:o,s:n}", "items", table_schemas_json(b->tables[0].meta->json), "next"));
}

static void
schema_done(struct browse *b)
{
	const char *at = request_query(b->rq, "at");
	const json_t *snapshot = at && *at ? browse_at(b, at) : NULL;

	if (snapshot || at == NULL || *at == '\0')
		reply_json(b->rq, 200, table_schema_json(b->tables[0].meta->json, snapshot));
}

static void
show_get(struct request *rq)
{
	browse_table(rq, show_done);
}

static void
snapshots_get(struct request *rq)
{
	browse_table(rq, snapshots_done);
}

static void
history_get(struct request *rq)
{
	browse_table(rq, history_done);
}

static void
refs_get(struct request *rq)
{
	browse_table(rq, refs_done);
}

static void
schemas_get(struct request *rq)
{
	browse_table(rq, schemas_done);
}

static void
schema_get(struct request *rq)
{
	browse_table(rq, schema_done);
}

#define TABLES "/api/v1/tables"
#define TABLE  TABLES "/{table}"

const struct route browse_routes[] = {
	{ "GET", TABLES, tables_get, ROLE_VIEWER, 0, "Lists the tables of the catalog with their rows, files and last change." },
	{ "GET", TABLES "/health", tables_health, ROLE_VIEWER, 0,
	  "Tells of each table that ?match=PATTERN takes what it is made of, and how far that is from what it could be." },
	{ "GET", TABLE, show_get, ROLE_VIEWER, 0, "Shows a table: schema, partitions, properties, refs, current snapshot." },
	{ "GET", TABLE "/snapshots", snapshots_get, ROLE_VIEWER, 0, "Lists a table's snapshots, newest first." },
	{ "GET", TABLE "/history", history_get, ROLE_VIEWER, 0, "Tells what was current when, newest first." },
	{ "GET", TABLE "/refs", refs_get, ROLE_VIEWER, 0, "Lists a table's branches and tags." },
	{ "GET", TABLE "/schemas", schemas_get, ROLE_VIEWER, 0, "Lists all schemas that a table had." },
	{ "GET", TABLE "/schema", schema_get, ROLE_VIEWER, 0, "Shows a table's schema, now or at a snapshot." },
	{ "GET", TABLE "/files", table_files, ROLE_VIEWER, 0, "Lists the files of a table's state." },
	{ "GET", TABLE "/partitions", table_partitions, ROLE_VIEWER, 0, "Lists partitions with their rows and files." },
	{ "GET", TABLE "/manifests", table_manifests, ROLE_VIEWER, 0, "Lists the manifests of a table's state." },
	{ "GET", TABLE "/preview", table_preview, ROLE_VIEWER, 0, "Shows some rows of a table, now or as it was." },
	{ "GET", TABLE "/diff", table_diff, ROLE_VIEWER, 0, "Compares two states of a table: schema, counts, rows." },
	{ "POST", TABLE "/rollback", table_rollback, ROLE_ADMIN, BODY_MAX, "Sets a table back to an earlier state." },
	{ "PUT", TABLE "/refs/{name}", table_ref_put, ROLE_ADMIN, BODY_MAX, "Makes or moves a tag or a branch." },
	{ "DELETE", TABLE "/refs/{name}", table_ref_delete, ROLE_ADMIN, 0, "Removes a tag or a branch; no snapshot goes." },
};
const size_t browse_routes_count = sizeof(browse_routes) / sizeof(browse_routes[0]);
