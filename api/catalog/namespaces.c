/* Namespaces: they live in iceberg_namespace_properties, or merely in the names of tables. */
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "base/alloc.h"

#define VALUE_MAX  1000
#define EXISTS_KEY "exists" /* the row that a namespace without properties has */

/* Answers 404 itself and returns NULL when nothing can be named like that. */
static char *
param_namespace(struct request *rq)
{
	struct err e = ERR_INIT;
	char *ns = namespace_of_param(rq->param[0], &e);

	if (ns == NULL)
		catalog_reply_no_namespace(rq, rq->param[0]);
	err_release(&e);
	return ns;
}

/* ---- list ---- */

static void
on_listed(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;
	json_t *list, *body;
	size_t n;

	if (r == NULL) {
		catalog_reply_err(a->rq, e);
	} else if (*a->ns && strcmp(rows_get(r, 0, 0), "f") == 0) {
		catalog_reply_no_namespace(a->rq, a->ns);
	} else {
		list = json_array();
		n = rows_get(r, 0, 1) ? rows_count(r) : 0;
		for (size_t i = 0; i < n && (long)i < a->limit; i++)
			json_array_append_new(list, namespace_json(rows_get(r, i, 1)));
		body = json_pack("{s:o}", "namespaces", list);
		if ((long)n > a->limit)
			json_object_set_new(body, "next-page-token", json_string(rows_get(r, (size_t)a->limit - 1, 1)));
		reply_json(a->rq, 200, body);
	}
	ask_done(a);
}

void
namespaces_list(struct request *rq)
{
	const char *parent = request_query(rq, "parent");
	char *ns, depth[32];
	struct err e = ERR_INIT;
	struct page page;
	struct ask *a;
	int levels = 1;

	if (!page_init(&page, rq))
		return;
	ns = parent && *parent ? namespace_of_param(parent, &e) : xstrdup("");
	if (ns == NULL) {
		catalog_reply_err(rq, &e);
		return;
	}
	if (*ns) {
		levels = 2;
		for (const char *p = ns; *p; p++)
			levels += *p == '.';
	}
	a = ask_new(rq, ns, NULL);
	a->limit = page.limit;
	snprintf(depth, sizeof(depth), "%d", levels);
	store_query(
		rq->app->store,
		"SELECT ($3 = '' OR " SQL_NAMESPACE_EXISTS(
			"$1", "$3::text") "), l.name FROM (SELECT 1) one LEFT JOIN ("
					  "  SELECT DISTINCT array_to_string((string_to_array(ns, '.'))[1:$2::int], '.') COLLATE "
					  "\"C\" AS name FROM ("
					  "    SELECT namespace AS ns FROM iceberg_namespace_properties WHERE catalog_name = $1"
					  "    UNION SELECT table_namespace FROM iceberg_tables WHERE catalog_name = $1) n"
					  "  WHERE ($3 = '' OR starts_with(ns, $3 || '.')) AND array_length(string_to_array(ns, "
					  "'.'), 1) >= $2::int"
					  "  ORDER BY 1) l ON l.name > $4 COLLATE \"C\" ORDER BY l.name LIMIT $5::bigint",
		5, (const char *const[]){ a->catalog->name, depth, a->ns, page.token, page.param }, on_listed, a);
}

/* ---- create ---- */

static void
on_created(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL && e->code != ERR_CONFLICT) {
		catalog_reply_err(a->rq, e);
	} else if (r == NULL || strcmp(rows_get(r, 0, 0), "t") == 0) {
		catalog_reply_error(a->rq, 409, "AlreadyExistsException", "Namespace already exists: %s", a->ns);
	} else {
		json_t *properties = rows_json(r, 0, 1);

		json_object_del(properties, EXISTS_KEY);
		reply_json(a->rq, 200, json_pack("{s:o,s:o}", "namespace", namespace_json(a->ns), "properties", properties));
	}
	ask_done(a);
}

/* Properties as an object of strings that fit; NULL with `e` set. The caller owns the result. */
static json_t *
checked_properties(const json_t *given, struct err *e)
{
	json_t *out = json_object(), *v;
	const char *k;

	if (given && !json_is_object(given) && !json_is_null(given))
		err_set(e, ERR_INVALID, "properties must be an object of strings");
	json_object_foreach ((json_t *)(uintptr_t)given, k, v) {
		if (!json_is_string(v))
			err_set(e, ERR_INVALID, "the property \"%s\" must be a string", k);
		else if (strlen(k) > 255 || strlen(json_string_value(v)) > VALUE_MAX)
			err_set(e, ERR_INVALID,
				"the property \"%.100s\" is too long: names have up to 255 bytes, values up to %d", k, VALUE_MAX);
		else
			json_object_set(out, k, v);
	}
	if (e->code == 0)
		return out;
	json_decref(out);
	return NULL;
}

void
namespaces_create(struct request *rq)
{
	struct err e = ERR_INIT;
	json_t *body, *properties = NULL;
	char *ns = NULL, *text;
	struct ask *a;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	if ((ns = namespace_of_json(json_object_get(body, "namespace"), &e)) != NULL)
		properties = checked_properties(json_object_get(body, "properties"), &e);
	json_decref(body);
	if (properties == NULL) {
		free(ns);
		catalog_reply_err(rq, &e);
		return;
	}
	json_object_set_new(properties, EXISTS_KEY, json_string("true"));
	text = json_dumps(properties, JSON_COMPACT);
	json_decref(properties);
	a = ask_new(rq, ns, NULL);
	store_query(rq->app->store,
		    "WITH there AS (SELECT " SQL_NAMESPACE_EXISTS(
			    "$1", "$2::text") " AS yes), made AS ("
					      "INSERT INTO iceberg_namespace_properties SELECT $1, $2, key, value FROM "
					      "json_each_text($3::json)"
					      " WHERE NOT (SELECT yes FROM there)) SELECT yes, $3::json FROM there",
		    3, (const char *const[]){ a->catalog->name, ns, text }, on_created, a);
	free(text);
}

/* ---- load ---- */

static void
on_loaded(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL)
		catalog_reply_err(a->rq, e);
	else if (strcmp(rows_get(r, 0, 0), "f") == 0)
		catalog_reply_no_namespace(a->rq, a->ns);
	else if (strcmp(a->rq->method, "HEAD") == 0)
		reply_empty(a->rq, 204);
	else
		reply_json(a->rq, 200,
			   json_pack("{s:o,s:o}", "namespace", namespace_json(a->ns), "properties", rows_json(r, 0, 1)));
	ask_done(a);
}

void
namespaces_load(struct request *rq)
{
	char *ns = param_namespace(rq);
	struct ask *a;

	if (ns == NULL)
		return;
	a = ask_new(rq, ns, NULL);
	store_query(rq->app->store,
		    "SELECT " SQL_NAMESPACE_EXISTS(
			    "$1", "$2::text") ", (SELECT coalesce(json_object_agg(property_key, property_value), '{}')"
					      " FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2 AND "
					      "property_key <> '" EXISTS_KEY "')",
		    2, (const char *const[]){ a->catalog->name, ns }, on_loaded, a);
}

/* ---- drop ---- */

static void
on_dropped(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL)
		catalog_reply_err(a->rq, e);
	else if (strcmp(rows_get(r, 0, 0), "t") == 0)
		catalog_reply_error(a->rq, 409, "NamespaceNotEmptyException",
				    "Namespace %s is not empty: drop its tables and namespaces first", a->ns);
	else if (strcmp(rows_get(r, 0, 1), "0") == 0)
		catalog_reply_no_namespace(a->rq, a->ns);
	else
		reply_empty(a->rq, 204);
	ask_done(a);
}

void
namespaces_drop(struct request *rq)
{
	char *ns;
	struct ask *a;

	if (!catalog_may_write(rq) || (ns = param_namespace(rq)) == NULL)
		return;
	a = ask_new(rq, ns, NULL);
	store_query(
		rq->app->store,
		"WITH inside AS (SELECT EXISTS (SELECT 1 FROM iceberg_tables WHERE catalog_name = $1 AND (table_namespace = $2"
		" OR starts_with(table_namespace, $2::text || '.'))) OR EXISTS (SELECT 1 FROM iceberg_namespace_properties"
		" WHERE catalog_name = $1 AND starts_with(namespace, $2::text || '.')) AS yes), gone AS ("
		"DELETE FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2 AND NOT (SELECT yes FROM "
		"inside)"
		" RETURNING 1) SELECT yes, (SELECT count(*) FROM gone) FROM inside",
		2, (const char *const[]){ a->catalog->name, ns }, on_dropped, a);
}

/* ---- properties ---- */

static void
on_properties(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL)
		catalog_reply_err(a->rq, e);
	else if (strcmp(rows_get(r, 0, 0), "f") == 0)
		catalog_reply_no_namespace(a->rq, a->ns);
	else
		reply_json(a->rq, 200,
			   json_pack("{s:o,s:o,s:o}", "updated", rows_json(r, 0, 1), "removed", rows_json(r, 0, 2), "missing",
				     rows_json(r, 0, 3)));
	ask_done(a);
}

/* What is to be removed, as a list of strings none of which is to be set too. NULL with `e` set. */
static json_t *
checked_removals(const json_t *given, const json_t *updates, struct err *e)
{
	json_t *out = json_array(), *v;
	size_t i;

	if (given && !json_is_array(given))
		err_set(e, ERR_INVALID, "\"removals\" must be a list of strings");
	json_array_foreach (given, i, v) {
		if (!json_is_string(v))
			err_set(e, ERR_INVALID, "\"removals\" must be a list of strings");
		else if (json_object_get(updates, json_string_value(v)))
			err_set(e, ERR_UNPROCESSABLE, "the property \"%s\" is both in \"updates\" and in \"removals\"",
				json_string_value(v));
		else if (strcmp(json_string_value(v), EXISTS_KEY) != 0)
			json_array_append(out, v);
	}
	if (e->code == 0)
		return out;
	json_decref(out);
	return NULL;
}

void
namespaces_properties(struct request *rq)
{
	struct err e = ERR_INIT;
	json_t *body, *updates = NULL, *removals = NULL;
	char *ns, *set, *del;
	struct ask *a;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	if ((ns = namespace_of_param(rq->param[0], &e)) != NULL &&
	    (updates = checked_properties(json_object_get(body, "updates"), &e)) != NULL)
		removals = checked_removals(json_object_get(body, "removals"), updates, &e);
	json_decref(body);
	if (removals == NULL) {
		json_decref(updates);
		free(ns);
		catalog_reply_err(rq, &e);
		return;
	}
	json_object_del(updates, EXISTS_KEY);
	set = json_dumps(updates, JSON_COMPACT);
	del = json_dumps(removals, JSON_COMPACT);
	json_decref(updates);
	json_decref(removals);
	a = ask_new(rq, ns, NULL);
	store_query(
		rq->app->store,
		"WITH there AS (SELECT " SQL_NAMESPACE_EXISTS(
			"$1", "$2::text") " AS yes), gone AS ("
					  "DELETE FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2"
					  " AND property_key IN (SELECT json_array_elements_text($4::json)) RETURNING "
					  "property_key), put AS ("
					  "INSERT INTO iceberg_namespace_properties SELECT $1, $2, key, value FROM ("
					  "  SELECT key, value FROM json_each_text($3::json) UNION ALL SELECT '" EXISTS_KEY
					  "', 'true') n"
					  " WHERE (SELECT yes FROM there) ON CONFLICT (catalog_name, namespace, property_key)"
					  " DO UPDATE SET property_value = EXCLUDED.property_value)"
					  "SELECT yes, (SELECT coalesce(json_agg(k), '[]') FROM json_object_keys($3::json) k),"
					  " (SELECT coalesce(json_agg(property_key), '[]') FROM gone),"
					  " (SELECT coalesce(json_agg(k), '[]') FROM json_array_elements_text($4::json) k WHERE "
					  "k NOT IN (SELECT property_key FROM gone))"
					  " FROM there",
		4, (const char *const[]){ a->catalog->name, ns, set, del }, on_properties, a);
	free(set);
	free(del);
}
