/*
 * The Iceberg REST catalog as clients see it: PyIceberg, Spark and DuckDB. Handlers only parse, ask catalog.c or the store, and
 * answer; errors have the specification's own shape.
 */
#include "api/catalog/routes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/app.h"
#include "api/auth.h"
#include "api/catalog/catalog.h"
#include "api/catalog/metadata.h"
#include "base/alloc.h"

#define BODY_MAX (64u << 20)
#define PAGE_DEFAULT 1000

/* ---- answers ---- */

/* Who is told what: our code, the specification's exception, the status. */
static void
reply_iceberg(struct request *rq, int status, const char *type, const char *message)
{
	reply_json(rq, status, json_pack("{s:{s:s,s:s,s:i,s:[]}}", "error", "message", message, "type", type, "code", status, "stack"));
}

static void
reply_iceberg_err(struct request *rq, const struct err *e, const char *missing_type)
{
	const char *type = "ServiceFailureException";
	int status = err_http_status(e->code);

	if (e->code == ERR_CONFLICT)
		type = "CommitFailedException";
	else if (e->code == ERR_NOT_FOUND)
		type = missing_type;
	else if (e->code == ERR_FORBIDDEN)
		type = "ForbiddenException";
	else if (e->code == ERR_INVALID || e->code == ERR_UNPROCESSABLE)
		type = "BadRequestException";
	else if (e->code == ERR_UNSUPPORTED)
		type = "UnsupportedOperationException";
	else if (e->code == ERR_UNAVAILABLE)
		type = "ServiceUnavailableException";
	reply_iceberg(rq, status, type, e->msg);
}

/* Queries may read only. Replies itself and returns false. */
static bool
may_write(struct request *rq)
{
	if (rq->attempt == NULL || strncmp(rq->attempt, "adhoc/", 6) != 0)
		return true;
	reply_iceberg(rq, 403, "ForbiddenException", "a query may not change tables; do it in a flow's task");
	return false;
}

/* The namespace of a path parameter, whose levels the unit separator parts, with dots. The caller frees it. */
static char *
ns_param(const struct request *rq)
{
	char *ns = xstrdup(rq->param[0] ? rq->param[0] : "");

	for (char *p = ns; *p; p++)
		if (*p == '\x1f')
			*p = '.';
	return ns;
}

/* ["a", "b"] as "a.b"; NULL when it is not a list of names. The caller frees it. */
static char *
ns_join(const json_t *levels)
{
	struct buf b = BUF_INIT;
	json_t *level;
	size_t i;

	if (!json_is_array(levels) || json_array_size(levels) == 0)
		return NULL;
	json_array_foreach(levels, i, level) {
		if (!json_is_string(level) || *json_string_value(level) == '\0') {
			buf_release(&b);
			return NULL;
		}
		buf_addf(&b, "%s%s", i ? "." : "", json_string_value(level));
	}
	return buf_detach(&b);
}

static json_t *
ns_split(const char *ns)
{
	char *copy = xstrdup(ns), *save = NULL;
	json_t *out = json_array();

	for (char *level = strtok_r(copy, ".", &save); level; level = strtok_r(NULL, ".", &save))
		json_array_append_new(out, json_string(level));
	free(copy);
	return out;
}

/* Names become folders: no slash, no dots alone, nothing unprintable. */
static bool
good_name(const char *name)
{
	if (*name == '\0' || strlen(name) > 255 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	for (; *name; name++)
		if (*name == '/' || *name == '\\' || (unsigned char)*name < 0x20)
			return false;
	return true;
}

static struct catalog *
cat(const struct request *rq)
{
	return rq->app->catalog;
}

static void
query(struct request *rq, const char *sql, size_t n, const char *const *params, store_rows_cb cb)
{
	store_query(rq->app->store, sql, n, params, cb, rq);
}

/* Replies when a statement failed; true when it did. */
static bool
failed(struct request *rq, const struct rows *r, const struct err *e)
{
	if (r)
		return false;
	reply_iceberg_err(rq, e, "NoSuchNamespaceException");
	return true;
}

/* The body, or a reply in the specification's shape. */
static json_t *
body_of(struct request *rq)
{
	json_error_t why;
	json_t *body = rq->body.len ? json_loadb(rq->body.s, rq->body.len, 0, &why) : json_object();
	char *msg;

	if (json_is_object(body))
		return body;
	json_decref(body);
	msg = xasprintf("the body is not a JSON object%s%s", rq->body.len ? ": " : "", rq->body.len ? why.text : "");
	reply_iceberg(rq, 400, "BadRequestException", msg);
	free(msg);
	return NULL;
}

/* ---- config ---- */

static void
get_config(struct request *rq)
{
	static const char *const endpoints[] = {
		"GET /v1/{prefix}/namespaces", "POST /v1/{prefix}/namespaces", "GET /v1/{prefix}/namespaces/{namespace}",
		"HEAD /v1/{prefix}/namespaces/{namespace}", "DELETE /v1/{prefix}/namespaces/{namespace}",
		"POST /v1/{prefix}/namespaces/{namespace}/properties", "GET /v1/{prefix}/namespaces/{namespace}/tables",
		"POST /v1/{prefix}/namespaces/{namespace}/tables", "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
		"HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}", "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
		"DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}", "POST /v1/{prefix}/tables/rename",
		"POST /v1/{prefix}/namespaces/{namespace}/register", "POST /v1/{prefix}/transactions/commit",
		"POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
	};
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++)
		json_array_append_new(list, json_string(endpoints[i]));
	reply_json(rq, 200, json_pack("{s:{},s:{},s:o}", "defaults", "overrides", "endpoints", list));
}

/* Client credentials: the secret is one of our tokens already; it comes back as the bearer token. */
static void
post_oauth(struct request *rq)
{
	char *secret = NULL, *at = strstr(rq->body.s, "client_secret=");

	if (at) {
		size_t n = strcspn(at + 14, "&");

		secret = xstrndup(at + 14, n);
	}
	if (secret && *secret)
		reply_json(rq, 200, json_pack("{s:s,s:s,s:s}", "access_token", secret, "token_type", "bearer", "issued_token_type",
		                              "urn:ietf:params:oauth:token-type:access_token"));
	else
		reply_json(rq, 400, json_pack("{s:s,s:s}", "error", "invalid_request", "error_description", "client_secret must be a token of the daemon's"));
	free(secret);
}

/* ---- namespaces ---- */

/* All namespaces: those with a property row and those that only have tables. */
#define NS_ALL                                                                                    \
	"(SELECT namespace AS ns FROM iceberg_namespace_properties WHERE catalog_name = $1 UNION "   \
	"SELECT table_namespace FROM iceberg_tables WHERE catalog_name = $1)"

static void
reply_page(struct request *rq, const char *key, json_t *items, size_t limit)
{
	/* One more than the page was asked for: it is there just to say that there is more. */
	json_t *next = json_null();

	if (json_array_size(items) > limit) {
		json_t *last = json_array_get(items, limit - 1), *token = json_object_get(last, "token");

		next = json_incref(token);
		json_array_remove(items, limit);
	}
	for (size_t i = 0; i < json_array_size(items); i++)
		json_array_set(items, i, json_object_get(json_array_get(items, i), "item"));
	reply_json(rq, 200, json_pack("{s:o,s:o}", key, items, "next-page-token", next));
}

static size_t
page_size(struct request *rq)
{
	const char *text = request_query(rq, "pageSize");
	long n = text ? strtol(text, NULL, 10) : 0;

	return n > 0 && n < 10000 ? (size_t)n : PAGE_DEFAULT;
}

static void
on_namespaces(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	json_t *items = json_array();

	if (failed(rq, r, e)) {
		json_decref(items);
		return;
	}
	for (size_t i = 0; i < rows_count(r); i++)
		json_array_append_new(items, json_pack("{s:o,s:s}", "item", ns_split(rows_get(r, i, 0)), "token", rows_get(r, i, 0)));
	reply_page(rq, "namespaces", items, page_size(rq));
}

static void
get_namespaces(struct request *rq)
{
	const char *parent = request_query(rq, "parent"), *after = request_query(rq, "pageToken");
	char *dotted = xstrdup(parent ? parent : ""), limit[24];

	for (char *p = dotted; *p; p++)
		if (*p == '\x1f')
			*p = '.';
	snprintf(limit, sizeof(limit), "%zu", page_size(rq) + 1);
	/* Only the next level below the parent; a namespace that exists through deeper ones is listed too. */
	query(rq,
	      "SELECT DISTINCT CASE WHEN $2 = '' THEN split_part(ns, '.', 1) ELSE $2 || '.' || split_part(substr(ns, length($2) + 2), '.', 1) END AS n "
	      "FROM " NS_ALL " a WHERE ($2 = '' OR starts_with(ns, $2 || '.')) AND "
	      "CASE WHEN $2 = '' THEN split_part(ns, '.', 1) ELSE $2 || '.' || split_part(substr(ns, length($2) + 2), '.', 1) END > $3 "
	      "ORDER BY n LIMIT $4::int",
	      4, (const char *[]){ catalog_name(cat(rq)), dotted, after ? after : "", limit }, on_namespaces);
	free(dotted);
}

static void
on_namespace_made(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	json_t *body;
	char *msg;

	if (failed(rq, r, e))
		return;
	body = rq->data;
	if (atoi(rows_get(r, 0, 0)) == 0) {
		char *ns = ns_join(json_object_get(body, "namespace"));

		msg = xasprintf("namespace %s exists already", ns);
		reply_iceberg(rq, 409, "AlreadyExistsException", msg);
		free(msg);
		free(ns);
		return;
	}
	reply_json(rq, 200, json_pack("{s:O,s:O}", "namespace", json_object_get(body, "namespace"), "properties", json_object_get(body, "properties")));
}

static void
json_free(void *json)
{
	json_decref(json);
}

static void
post_namespaces(struct request *rq)
{
	json_t *body, *level, *properties;
	char *ns, *text;
	size_t i;

	if (!may_write(rq) || (body = body_of(rq)) == NULL)
		return;
	ns = ns_join(json_object_get(body, "namespace"));
	json_array_foreach(json_object_get(body, "namespace"), i, level)
		if (ns && (!good_name(json_string_value(level)) || strchr(json_string_value(level), '.'))) {
			free(ns);
			ns = NULL;
		}
	if (ns == NULL) {
		json_decref(body);
		reply_iceberg(rq, 400, "BadRequestException", "namespace must be a list of names, without dots and slashes");
		return;
	}
	properties = json_object_get(body, "properties");
	if (!json_is_object(properties))
		json_object_set_new(body, "properties", properties = json_object());
	rq->data = body;
	rq->data_free = json_free;
	text = json_dumps(properties, JSON_COMPACT);
	query(rq,
	      "WITH there AS (SELECT 1 FROM " NS_ALL " a WHERE ns = $2), made AS (INSERT INTO iceberg_namespace_properties "
	      "SELECT $1, $2, key, value FROM (SELECT 'exists' AS key, 'true' AS value UNION SELECT key, value FROM jsonb_each_text($3::jsonb)) p "
	      "WHERE NOT EXISTS (SELECT 1 FROM there) ON CONFLICT DO NOTHING RETURNING 1) SELECT count(*) FROM made",
	      3, (const char *[]){ catalog_name(cat(rq)), ns, text }, on_namespace_made);
	free(text);
	free(ns);
}

static void
no_such_namespace(struct request *rq, const char *ns)
{
	char *msg = xasprintf("there is no namespace %s", ns);

	reply_iceberg(rq, 404, "NoSuchNamespaceException", msg);
	free(msg);
}

static void
on_namespace(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	json_t *properties;
	char *ns;

	if (failed(rq, r, e))
		return;
	ns = ns_param(rq);
	if (strcmp(rows_get(r, 0, 0), "t") != 0) {
		no_such_namespace(rq, ns);
	} else if (strcmp(rq->method, "HEAD") == 0) {
		reply_empty(rq, 204);
	} else {
		properties = rows_json(r, 0, 1);
		json_object_del(properties, "exists");
		reply_json(rq, 200, json_pack("{s:o,s:o}", "namespace", ns_split(ns), "properties", properties ? properties : json_object()));
	}
	free(ns);
}

/* True for a namespace itself and for one that has others below it. */
#define NS_EXISTS "EXISTS (SELECT 1 FROM " NS_ALL " a WHERE ns = $2 OR starts_with(ns, $2 || '.'))"

static void
get_namespace(struct request *rq)
{
	char *ns = ns_param(rq);

	query(rq,
	      "SELECT " NS_EXISTS ", (SELECT jsonb_object_agg(property_key, property_value) FROM iceberg_namespace_properties "
	      "WHERE catalog_name = $1 AND namespace = $2)",
	      2, (const char *[]){ catalog_name(cat(rq)), ns }, on_namespace);
	free(ns);
}

static void
on_namespace_dropped(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	char *ns, *msg;

	if (failed(rq, r, e))
		return;
	ns = ns_param(rq);
	if (strcmp(rows_get(r, 0, 0), "t") != 0) {
		no_such_namespace(rq, ns);
	} else if (strcmp(rows_get(r, 0, 1), "t") == 0) {
		msg = xasprintf("namespace %s is not empty: drop its tables and namespaces first", ns);
		reply_iceberg(rq, 409, "NamespaceNotEmptyException", msg);
		free(msg);
	} else {
		reply_empty(rq, 204);
	}
	free(ns);
}

static void
delete_namespace(struct request *rq)
{
	char *ns;

	if (!may_write(rq))
		return;
	ns = ns_param(rq);
	query(rq,
	      "WITH s AS MATERIALIZED (SELECT " NS_EXISTS " AS there, EXISTS (SELECT 1 FROM " NS_ALL " b WHERE starts_with(ns, $2 || '.')) OR "
	      "EXISTS (SELECT 1 FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2) AS full), "
	      "gone AS (DELETE FROM iceberg_namespace_properties p USING s WHERE NOT s.full AND p.catalog_name = $1 AND p.namespace = $2) "
	      "SELECT there, \"full\" FROM s",
	      2, (const char *[]){ catalog_name(cat(rq)), ns }, on_namespace_dropped);
	free(ns);
}

static void
on_namespace_properties(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	char *ns;

	if (failed(rq, r, e))
		return;
	ns = ns_param(rq);
	if (strcmp(rows_get(r, 0, 0), "t") != 0)
		no_such_namespace(rq, ns);
	else
		reply_json(rq, 200, rows_json(r, 0, 1));
	free(ns);
}

static void
post_namespace_properties(struct request *rq)
{
	json_t *body, *updates, *removals;
	char *ns, *up, *down;

	if (!may_write(rq) || (body = body_of(rq)) == NULL)
		return;
	ns = ns_param(rq);
	updates = json_object_get(body, "updates");
	removals = json_object_get(body, "removals");
	up = json_is_object(updates) ? json_dumps(updates, JSON_COMPACT) : xstrdup("{}");
	down = json_is_array(removals) ? json_dumps(removals, JSON_COMPACT) : xstrdup("[]");
	query(rq,
	      "WITH s AS MATERIALIZED (SELECT " NS_EXISTS " AS there), "
	      "gone AS (DELETE FROM iceberg_namespace_properties p USING s WHERE s.there AND p.catalog_name = $1 AND p.namespace = $2 "
	      "  AND property_key IN (SELECT jsonb_array_elements_text($4::jsonb)) RETURNING property_key), "
	      "put AS (INSERT INTO iceberg_namespace_properties SELECT $1, $2, key, value FROM s, jsonb_each_text($3::jsonb) WHERE s.there "
	      "  ON CONFLICT (catalog_name, namespace, property_key) DO UPDATE SET property_value = excluded.property_value RETURNING property_key) "
	      "SELECT (SELECT there FROM s), jsonb_build_object('updated', (SELECT coalesce(jsonb_agg(property_key), '[]') FROM put), "
	      "'removed', (SELECT coalesce(jsonb_agg(property_key), '[]') FROM gone), 'missing', (SELECT coalesce(jsonb_agg(k), '[]') FROM "
	      "jsonb_array_elements_text($4::jsonb) k WHERE k NOT IN (SELECT property_key FROM gone)))",
	      4, (const char *[]){ catalog_name(cat(rq)), ns, up, down }, on_namespace_properties);
	free(ns);
	free(up);
	free(down);
	json_decref(body);
}

/* ---- tables ---- */

static void
on_tables(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	json_t *items;
	char *ns;

	if (failed(rq, r, e))
		return;
	ns = ns_param(rq);
	if (strcmp(rows_get(r, 0, 1), "t") != 0) {
		no_such_namespace(rq, ns);
		free(ns);
		return;
	}
	items = json_array();
	for (size_t i = 0; i < rows_count(r); i++)
		if (rows_get(r, i, 0))
			json_array_append_new(items, json_pack("{s:{s:o,s:s},s:s}", "item", "namespace", ns_split(ns), "name", rows_get(r, i, 0), "token",
			                                       rows_get(r, i, 0)));
	free(ns);
	reply_page(rq, "identifiers", items, page_size(rq));
}

static void
list_identifiers(struct request *rq, const char *type)
{
	const char *after = request_query(rq, "pageToken");
	char *ns = ns_param(rq), limit[24];

	snprintf(limit, sizeof(limit), "%zu", page_size(rq) + 1);
	query(rq,
	      "SELECT t.table_name, s.there FROM (SELECT " NS_EXISTS " AS there) s LEFT JOIN LATERAL (SELECT table_name FROM iceberg_tables "
	      "WHERE catalog_name = $1 AND table_namespace = $2 AND coalesce(iceberg_type, 'TABLE') = $5 AND table_name > $3 "
	      "ORDER BY table_name LIMIT $4::int) t ON true",
	      5, (const char *[]){ catalog_name(cat(rq)), ns, after ? after : "", limit, type }, on_tables);
	free(ns);
}

static void
get_tables(struct request *rq)
{
	list_identifiers(rq, "TABLE");
}

static void
get_views(struct request *rq)
{
	list_identifiers(rq, "VIEW");
}

static struct table_change *
one_change(char *ns, const char *table)
{
	struct table_change *ch = xcalloc(1, sizeof(*ch));

	ch->ns = ns;
	ch->table = xstrdup(table);
	return ch;
}

static void
no_such_table(struct request *rq, const struct table_change *ch)
{
	char *msg = xasprintf("there is no table %s.%s", ch->ns, ch->table);

	reply_iceberg(rq, 404, "NoSuchTableException", msg);
	free(msg);
}

static void
reply_table(struct request *rq, const char *location, const json_t *meta)
{
	reply_json(rq, 200, json_pack("{s:s?,s:O,s:{}}", "metadata-location", location, "metadata", meta, "config"));
}

static void
on_table_loaded(void *arg, struct table_change *ch, size_t count, struct err *e)
{
	struct request *rq = arg;
	const char *have = request_header(rq, "If-None-Match");
	char hash[65], etag[68];

	(void)count;
	if (e) {
		reply_iceberg_err(rq, e, "NoSuchTableException");
	} else if (ch->meta == NULL) {
		no_such_table(rq, ch);
	} else if (strcmp(rq->method, "HEAD") == 0) {
		reply_empty(rq, 204);
	} else {
		/* Metadata at a location never changes: the location is the version. */
		sha256_hex(ch->old_location, strlen(ch->old_location), hash);
		snprintf(etag, sizeof(etag), "\"%s\"", hash);
		reply_header(rq, "ETag", etag);
		if (have && strcmp(have, etag) == 0)
			reply_empty(rq, 304);
		else
			reply_table(rq, ch->old_location, ch->meta);
	}
}

static void
get_table(struct request *rq)
{
	catalog_load(cat(rq), one_change(ns_param(rq), rq->param[1]), 1, on_table_loaded, rq);
}

static void
on_committed(void *arg, struct table_change *ch, size_t count, struct err *e)
{
	struct request *rq = arg;

	(void)count;
	if (e)
		reply_iceberg_err(rq, e, "NoSuchTableException");
	else
		reply_table(rq, ch->new_location, ch->new_meta);
}

static void
post_table(struct request *rq)
{
	struct table_change *ch;
	json_t *body;

	if (!may_write(rq) || (body = body_of(rq)) == NULL)
		return;
	ch = one_change(ns_param(rq), rq->param[1]);
	ch->requirements = json_incref(json_object_get(body, "requirements"));
	ch->updates = json_incref(json_object_get(body, "updates"));
	json_decref(body);
	catalog_commit(cat(rq), ch, 1, rq->attempt, on_committed, rq);
}

/* A new table: its metadata, then the same commit as any other, with assert-create. */
struct creation {
	json_t *body, *meta;
	char *ns;
};

static void
creation_free(void *p)
{
	struct creation *c = p;

	json_decref(c->body);
	json_decref(c->meta);
	free(c->ns);
	free(c);
}

static void
on_created(void *arg, struct table_change *ch, size_t count, struct err *e)
{
	struct request *rq = arg;
	char *msg;

	(void)count;
	if (e && e->code == ERR_CONFLICT) {
		msg = xasprintf("table %s.%s exists already", ch->ns, ch->table);
		reply_iceberg(rq, 409, "AlreadyExistsException", msg);
		free(msg);
	} else if (e) {
		reply_iceberg_err(rq, e, "NoSuchNamespaceException");
	} else {
		reply_table(rq, ch->new_location, ch->new_meta);
	}
}

static void
on_create_checked(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	struct creation *c = rq->data;
	const char *name = json_string_value(json_object_get(c->body, "name"));
	struct err mine = ERR_INIT;
	struct table_change *ch;
	char *msg;

	if (failed(rq, r, e))
		return;
	if (strcmp(rows_get(r, 0, 0), "t") != 0) {
		no_such_namespace(rq, c->ns);
		return;
	}
	if (strcmp(rows_get(r, 0, 1), "t") == 0) {
		msg = xasprintf("%s.%s exists already", c->ns, name);
		reply_iceberg(rq, 409, "AlreadyExistsException", msg);
		free(msg);
		return;
	}
	if (location_prepare(json_string_value(json_object_get(c->meta, "location")), &mine) < 0) {
		reply_iceberg_err(rq, &mine, "NoSuchTableException");
		err_release(&mine);
		return;
	}
	if (json_is_true(json_object_get(c->body, "stage-create"))) {
		reply_table(rq, NULL, c->meta);
		return;
	}
	ch = one_change(xstrdup(c->ns), name);
	catalog_create(cat(rq), ch, json_incref(c->meta), rq->attempt, on_created, rq);
}

static void
post_tables(struct request *rq)
{
	struct metadata_input in = { .now_ms = clock_wall() / 1000 };
	const char *name, *given;
	struct err e = ERR_INIT;
	struct creation *c;
	char uuid[37], *location;
	json_t *body;

	if (!may_write(rq) || (body = body_of(rq)) == NULL)
		return;
	name = json_string_value(json_object_get(body, "name"));
	if (name == NULL || !good_name(name)) {
		json_decref(body);
		reply_iceberg(rq, 400, "BadRequestException", "name must be a table's name, without slashes");
		return;
	}
	c = xcalloc(1, sizeof(*c));
	c->body = body;
	c->ns = ns_param(rq);
	rq->data = c;
	rq->data_free = creation_free;
	given = json_string_value(json_object_get(body, "location"));
	location = given && *given ? xstrdup(given) : table_location(cat(rq), c->ns, name);
	uuid_make(uuid);
	in.uuid = uuid;
	in.location = location;
	c->meta = metadata_create(body, &in, &e);
	free(location);
	if (c->meta == NULL) {
		reply_iceberg_err(rq, &e, "NoSuchTableException");
		err_release(&e);
		return;
	}
	query(rq,
	      "SELECT " NS_EXISTS ", EXISTS (SELECT 1 FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3)", 3,
	      (const char *[]){ catalog_name(cat(rq)), c->ns, name }, on_create_checked);
}

static void
on_dropped(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	char *location = rq->data;

	if (failed(rq, r, e))
		return;
	if (atoi(rows_get(r, 0, 0)) == 0) {
		reply_iceberg(rq, 403, "ForbiddenException", "the attempt is no longer current: it was given up, so it cannot drop tables any more");
		return;
	}
	if (atoi(rows_get(r, 0, 1)) == 0) {
		reply_iceberg(rq, 404, "NoSuchTableException", "the table was dropped by somebody else");
		return;
	}
	if (location)
		catalog_purge(cat(rq), location);
	reply_empty(rq, 204);
}

/* "run", "task", "n" of the caller's attempt, or NULLs. Free the first. */
static void
attempt_parts(const struct request *rq, char *out[3])
{
	out[0] = xstrdup_null(rq->attempt);
	out[1] = out[0] ? strchr(out[0], '/') : NULL;
	out[2] = out[1] ? strchr(out[1] + 1, '/') : NULL;
	if (out[1])
		*out[1]++ = '\0';
	if (out[2])
		*out[2]++ = '\0';
}

#define FENCE                                                                                                                                    \
	"fence AS MATERIALIZED (SELECT 1 WHERE $4::text IS NULL UNION ALL SELECT 1 FROM (SELECT 1 FROM attempts WHERE run_id = $4 AND task_id = $5 " \
	"AND n = $6::int AND state = 'running' FOR SHARE) a) "

static void
on_drop_loaded(void *arg, struct table_change *ch, size_t count, struct err *e)
{
	struct request *rq = arg;
	const char *purge = request_query(rq, "purgeRequested"), *location;
	char *who[3];

	(void)count;
	if (e && e->code != ERR_NOT_FOUND) {
		reply_iceberg_err(rq, e, "NoSuchTableException");
		return;
	}
	if (ch->old_location == NULL) {
		no_such_table(rq, ch);
		return;
	}
	location = json_string_value(json_object_get(ch->meta, "location"));
	if (purge && strcasecmp(purge, "true") == 0 && location) {
		rq->data = xstrdup(location);
		rq->data_free = free;
	}
	attempt_parts(rq, who);
	query(rq,
	      "WITH " FENCE ", gone AS (DELETE FROM iceberg_tables WHERE EXISTS (SELECT 1 FROM fence) AND catalog_name = $1 AND "
	      "table_namespace = $2 AND table_name = $3 RETURNING 1) SELECT (SELECT count(*) FROM fence), (SELECT count(*) FROM gone)",
	      6, (const char *[]){ catalog_name(cat(rq)), ch->ns, ch->table, who[0], who[1], who[2] }, on_dropped);
	free(who[0]);
}

static void
delete_table(struct request *rq)
{
	if (may_write(rq))
		catalog_load(cat(rq), one_change(ns_param(rq), rq->param[1]), 1, on_drop_loaded, rq);
}

static void
on_renamed(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;

	if (r == NULL && e->code == ERR_CONFLICT) {
		reply_iceberg(rq, 409, "AlreadyExistsException", "there is a table of the new name already");
		return;
	}
	if (failed(rq, r, e))
		return;
	if (strcmp(rows_get(r, 0, 0), "t") != 0)
		reply_iceberg(rq, 404, "NoSuchNamespaceException", "there is no namespace of the new name");
	else if (atoi(rows_get(r, 0, 1)) == 0)
		reply_iceberg(rq, 404, "NoSuchTableException", "there is no table of the old name");
	else
		reply_empty(rq, 204);
}

static void
post_rename(struct request *rq)
{
	json_t *body, *from, *to;
	char *from_ns, *to_ns;
	const char *from_name, *to_name;

	if (!may_write(rq) || (body = body_of(rq)) == NULL)
		return;
	from = json_object_get(body, "source");
	to = json_object_get(body, "destination");
	from_ns = ns_join(json_object_get(from, "namespace"));
	to_ns = ns_join(json_object_get(to, "namespace"));
	from_name = json_string_value(json_object_get(from, "name"));
	to_name = json_string_value(json_object_get(to, "name"));
	if (from_ns && to_ns && from_name && to_name && good_name(to_name))
		query(rq,
		      "WITH s AS MATERIALIZED (SELECT " NS_EXISTS " AS there), moved AS (UPDATE iceberg_tables SET table_namespace = $2, table_name = $3 "
		      "FROM s WHERE s.there AND catalog_name = $1 AND table_namespace = $4 AND iceberg_tables.table_name = $5 RETURNING 1) "
		      "SELECT (SELECT there FROM s), (SELECT count(*) FROM moved)",
		      5, (const char *[]){ catalog_name(cat(rq)), to_ns, to_name, from_ns, from_name }, on_renamed);
	else
		reply_iceberg(rq, 400, "BadRequestException", "source and destination need a namespace and a name");
	free(from_ns);
	free(to_ns);
	json_decref(body);
}

static void
on_registered(void *arg, const struct rows *r, struct err *e)
{
	struct request *rq = arg;
	json_t *data = rq->data;

	if (r == NULL && e->code == ERR_CONFLICT) {
		reply_iceberg(rq, 409, "AlreadyExistsException", "there is a table of that name already");
		return;
	}
	if (failed(rq, r, e))
		return;
	if (strcmp(rows_get(r, 0, 0), "t") != 0) {
		reply_iceberg(rq, 404, "NoSuchNamespaceException", "there is no such namespace");
		return;
	}
	reply_table(rq, json_string_value(json_object_get(data, "metadata-location")), json_object_get(data, "metadata"));
}

static void
on_register_read(void *arg, struct table_change *ch, size_t count, struct err *e)
{
	struct request *rq = arg;
	json_t *data = rq->data;
	struct err mine = ERR_INIT;
	char *ns;

	(void)count;
	if (e) {
		reply_iceberg_err(rq, e, "NotFoundException");
		return;
	}
	if (metadata_validate(ch->meta, &mine) < 0) {
		reply_iceberg_err(rq, &mine, "NotFoundException");
		err_release(&mine);
		return;
	}
	json_object_set(data, "metadata", ch->meta);
	ns = ns_param(rq);
	query(rq,
	      "WITH s AS MATERIALIZED (SELECT " NS_EXISTS " AS there), made AS (INSERT INTO iceberg_tables (catalog_name, table_namespace, "
	      "table_name, metadata_location, iceberg_type) SELECT $1, $2, $3, $4, 'TABLE' FROM s WHERE s.there RETURNING 1) "
	      "SELECT (SELECT there FROM s), (SELECT count(*) FROM made)",
	      4,
	      (const char *[]){ catalog_name(cat(rq)), ns, json_string_value(json_object_get(data, "name")),
	                        json_string_value(json_object_get(data, "metadata-location")) },
	      on_registered);
	free(ns);
}

static void
post_register(struct request *rq)
{
	const char *name, *location;
	json_t *body;

	if (!may_write(rq) || (body = body_of(rq)) == NULL)
		return;
	name = json_string_value(json_object_get(body, "name"));
	location = json_string_value(json_object_get(body, "metadata-location"));
	rq->data = body;
	rq->data_free = json_free;
	if (name && good_name(name) && location)
		catalog_read(cat(rq), location, on_register_read, rq);
	else
		reply_iceberg(rq, 400, "BadRequestException", "register needs a name and a metadata-location");
}

static void
on_transaction(void *arg, struct table_change *ch, size_t count, struct err *e)
{
	struct request *rq = arg;

	(void)ch;
	(void)count;
	if (e)
		reply_iceberg_err(rq, e, "NoSuchTableException");
	else
		reply_empty(rq, 204);
}

static void
post_transaction(struct request *rq)
{
	json_t *body, *list, *item;
	struct table_change *changes;
	size_t i, n, bad = 0;

	if (!may_write(rq) || (body = body_of(rq)) == NULL)
		return;
	list = json_object_get(body, "table-changes");
	n = json_array_size(list);
	changes = xcalloc(n ? n : 1, sizeof(*changes));
	json_array_foreach(list, i, item) {
		json_t *id = json_object_get(item, "identifier");
		const char *name = json_string_value(json_object_get(id, "name"));

		changes[i].ns = ns_join(json_object_get(id, "namespace"));
		changes[i].table = xstrdup(name ? name : "");
		changes[i].requirements = json_incref(json_object_get(item, "requirements"));
		changes[i].updates = json_incref(json_object_get(item, "updates"));
		if (changes[i].ns == NULL || name == NULL)
			bad++;
	}
	json_decref(body);
	if (n == 0 || bad) {
		for (i = 0; i < n; i++) {
			free(changes[i].ns);
			free(changes[i].table);
			json_decref(changes[i].requirements);
			json_decref(changes[i].updates);
		}
		free(changes);
		reply_iceberg(rq, 400, "BadRequestException", "table-changes must be a list of changes, each with an identifier");
		return;
	}
	catalog_commit(cat(rq), changes, n, rq->attempt, on_transaction, rq);
}

static void
post_metrics(struct request *rq)
{
	reply_empty(rq, 204);
}

const struct route catalog_routes[] = {
	{ "GET", "/iceberg/v1/config", get_config, ROLE_CATALOG, 0, "What this Iceberg catalog offers" },
	{ "POST", "/iceberg/v1/oauth/tokens", post_oauth, ROLE_NONE, 64u << 10, "Exchange client credentials for a token" },
	{ "GET", "/iceberg/v1/namespaces", get_namespaces, ROLE_CATALOG, 0, "List namespaces" },
	{ "POST", "/iceberg/v1/namespaces", post_namespaces, ROLE_CATALOG, BODY_MAX, "Create a namespace" },
	{ "GET", "/iceberg/v1/namespaces/{namespace}", get_namespace, ROLE_CATALOG, 0, "Load a namespace" },
	{ "DELETE", "/iceberg/v1/namespaces/{namespace}", delete_namespace, ROLE_CATALOG, 0, "Drop an empty namespace" },
	{ "POST", "/iceberg/v1/namespaces/{namespace}/properties", post_namespace_properties, ROLE_CATALOG, BODY_MAX, "Change a namespace's properties" },
	{ "GET", "/iceberg/v1/namespaces/{namespace}/tables", get_tables, ROLE_CATALOG, 0, "List tables" },
	{ "POST", "/iceberg/v1/namespaces/{namespace}/tables", post_tables, ROLE_CATALOG, BODY_MAX, "Create or stage a table" },
	{ "GET", "/iceberg/v1/namespaces/{namespace}/tables/{table}", get_table, ROLE_CATALOG, 0, "Load a table" },
	{ "POST", "/iceberg/v1/namespaces/{namespace}/tables/{table}", post_table, ROLE_CATALOG, BODY_MAX, "Commit to a table" },
	{ "DELETE", "/iceberg/v1/namespaces/{namespace}/tables/{table}", delete_table, ROLE_CATALOG, 0, "Drop a table" },
	{ "POST", "/iceberg/v1/namespaces/{namespace}/tables/{table}/metrics", post_metrics, ROLE_CATALOG, BODY_MAX, "Accept a metrics report" },
	{ "POST", "/iceberg/v1/namespaces/{namespace}/register", post_register, ROLE_CATALOG, BODY_MAX, "Register a table by its metadata file" },
	{ "GET", "/iceberg/v1/namespaces/{namespace}/views", get_views, ROLE_CATALOG, 0, "List views" },
	{ "POST", "/iceberg/v1/tables/rename", post_rename, ROLE_CATALOG, BODY_MAX, "Rename a table" },
	{ "POST", "/iceberg/v1/transactions/commit", post_transaction, ROLE_CATALOG, BODY_MAX, "Commit to several tables at once" },
};
const size_t catalog_routes_count = sizeof(catalog_routes) / sizeof(catalog_routes[0]);
