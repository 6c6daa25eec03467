/* The catalog's routes, its configuration, and the prefix that clients may put before a path. */
#include "api/catalog/routes.h"

#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "api/route.h"
#include "base/alloc.h"

#define BODY_SMALL (1u << 20)
#define BODY_LARGE (64u << 20) /* a commit may bring a schema of thousands of columns */

/* What there is, in the specification's own words: clients ask for nothing else. */
static const char *const endpoints[] = {
	"GET /v1/{prefix}/namespaces",
	"POST /v1/{prefix}/namespaces",
	"GET /v1/{prefix}/namespaces/{namespace}",
	"HEAD /v1/{prefix}/namespaces/{namespace}",
	"DELETE /v1/{prefix}/namespaces/{namespace}",
	"POST /v1/{prefix}/namespaces/{namespace}/properties",
	"GET /v1/{prefix}/namespaces/{namespace}/tables",
	"POST /v1/{prefix}/namespaces/{namespace}/tables",
	"GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
	"HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
	"POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
	"DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
	"POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
	"GET /v1/{prefix}/namespaces/{namespace}/tables/{table}/credentials",
	"POST /v1/{prefix}/namespaces/{namespace}/register",
	"POST /v1/{prefix}/tables/rename",
	"POST /v1/{prefix}/transactions/commit",
	"GET /v1/{prefix}/namespaces/{namespace}/views",
	"POST /v1/{prefix}/namespaces/{namespace}/views",
	"GET /v1/{prefix}/namespaces/{namespace}/views/{view}",
	"HEAD /v1/{prefix}/namespaces/{namespace}/views/{view}",
	"POST /v1/{prefix}/namespaces/{namespace}/views/{view}",
	"DELETE /v1/{prefix}/namespaces/{namespace}/views/{view}",
	"POST /v1/{prefix}/namespaces/{namespace}/register-view",
	"POST /v1/{prefix}/views/rename",
};

/* Is this what a client may call our warehouse: nothing, the catalog's name, or the place? */
static bool
warehouse_is_ours(const struct catalog *c, const char *asked)
{
	return asked == NULL || *asked == '\0' || strcmp(asked, c->name) == 0 || warehouse_same(asked, c->warehouse);
}

static void
catalog_config(struct request *rq)
{
	const char *warehouse = request_query(rq, "warehouse");
	json_t *list;

	if (!warehouse_is_ours(rq->app->catalog, warehouse)) {
		catalog_reply_error(rq, 404, "NoSuchWarehouseException",
				    "there is no warehouse \"%s\" here: the catalog is named \"%s\", its warehouse is %s",
				    warehouse, rq->app->catalog->name, rq->app->catalog->warehouse);
		return;
	}
	list = json_array();
	for (size_t i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++)
		json_array_append_new(list, json_string(endpoints[i]));
	reply_json(rq, 200, json_pack("{s:{},s:{},s:o}", "defaults", "overrides", "endpoints", list));
}

/*
 * Clients may put a prefix before what they ask for; ours is the catalog's name, and needs none. What follows it is looked up
 * again, still percent-encoded.
 */
static void
catalog_prefixed(struct request *rq)
{
	static const struct route_table own = { catalog_routes, &catalog_routes_count };
	const char *rest = rq->path + strlen("/iceberg/v1/") + strcspn(rq->path + strlen("/iceberg/v1/"), "/");
	char *path = request_keep(rq, xasprintf("/iceberg/v1%s", rest)), *param[ROUTE_PARAMS];
	const struct route *found;
	struct buf allow = BUF_INIT;
	enum route_result result = ROUTE_NO_PATH;

	memset(param, 0, sizeof(param));
	if (strcmp(rq->param[0], rq->app->catalog->name) == 0)
		result = route_find(&own, 1, rq->method, path, &found, param, &allow);
	buf_release(&allow);
	for (int i = 0; i < ROUTE_PARAMS; i++)
		rq->param[i] = param[i] ? request_keep(rq, param[i]) : NULL;
	if (result == ROUTE_FOUND && found->handler != catalog_prefixed)
		found->handler(rq);
	else
		catalog_reply_error(rq, result == ROUTE_NO_METHOD ? 405 : 404, "NotFoundException",
				    "there is nothing at %s %s (the catalog is named \"%s\")", rq->method, rq->path,
				    rq->app->catalog->name);
}

#define NS "/iceberg/v1/namespaces/{namespace}"

const struct route catalog_routes[] = {
	{ "GET", "/iceberg/v1/config", catalog_config, ROLE_CATALOG, 0, "Tells a client of the Iceberg catalog what there is." },
	{ "POST", "/iceberg/v1/oauth/tokens", oauth_tokens, ROLE_NONE, 65536,
	  "Exchanges a token's id and the token, or a token, for one to use here." },
	{ "GET", "/iceberg/v1/namespaces", namespaces_list, ROLE_CATALOG, 0, "Lists namespaces." },
	{ "POST", "/iceberg/v1/namespaces", namespaces_create, ROLE_CATALOG, BODY_SMALL, "Makes a namespace." },
	{ "GET", NS, namespaces_load, ROLE_CATALOG, 0, "Gives a namespace's properties." },
	{ "DELETE", NS, namespaces_drop, ROLE_CATALOG, 0, "Removes an empty namespace." },
	{ "POST", NS "/properties", namespaces_properties, ROLE_CATALOG, BODY_SMALL,
	  "Sets and removes properties of a namespace." },
	{ "GET", NS "/tables", tables_list, ROLE_CATALOG, 0, "Lists the tables of a namespace." },
	{ "POST", NS "/tables", tables_create, ROLE_CATALOG, BODY_LARGE, "Makes a table, or stages one." },
	{ "POST", NS "/register", tables_register, ROLE_CATALOG, BODY_SMALL, "Makes a table of a metadata file that exists." },
	{ "GET", NS "/tables/{table}", tables_load, ROLE_CATALOG, 0, "Gives a table's metadata." },
	{ "POST", NS "/tables/{table}", tables_commit, ROLE_CATALOG, BODY_LARGE, "Commits to a table." },
	{ "DELETE", NS "/tables/{table}", tables_drop, ROLE_CATALOG, 0,
	  "Removes a table; with purgeRequested=true its files too." },
	{ "POST", NS "/tables/{table}/metrics", reports_take, ROLE_CATALOG, BODY_SMALL, "Takes a report of a scan or commit." },
	{ "GET", NS "/tables/{table}/credentials", access_credentials, ROLE_CATALOG, 0,
	  "Gives what a client needs to reach a table's files." },
	{ "POST", "/iceberg/v1/maintenance", maintenance_look, ROLE_CATALOG, BODY_SMALL,
	  "Tells a maintenance attempt what tables there are, and who needs what of them." },
	{ "POST", "/iceberg/v1/tables/rename", tables_rename, ROLE_CATALOG, BODY_SMALL, "Renames a table." },
	{ "POST", "/iceberg/v1/transactions/commit", transactions_commit, ROLE_CATALOG, BODY_LARGE,
	  "Commits to several tables, all or nothing." },
	{ "GET", NS "/views", views_list, ROLE_CATALOG, 0, "Lists the views of a namespace." },
	{ "POST", NS "/views", views_create, ROLE_CATALOG, BODY_LARGE, "Makes a view." },
	{ "GET", NS "/views/{view}", views_load, ROLE_CATALOG, 0, "Gives a view's metadata." },
	{ "POST", NS "/views/{view}", views_replace, ROLE_CATALOG, BODY_LARGE, "Commits to a view." },
	{ "DELETE", NS "/views/{view}", views_drop, ROLE_CATALOG, 0, "Removes a view." },
	{ "POST", NS "/register-view", views_register, ROLE_CATALOG, BODY_SMALL, "Makes a view of a metadata file that exists." },
	{ "POST", "/iceberg/v1/views/rename", views_rename, ROLE_CATALOG, BODY_SMALL, "Renames a view." },
	{ "GET", "/iceberg/v1/{prefix}/{path...}", catalog_prefixed, ROLE_CATALOG, 0,
	  "The same with the catalog's name as prefix." },
	{ "POST", "/iceberg/v1/{prefix}/{path...}", catalog_prefixed, ROLE_CATALOG, BODY_LARGE,
	  "The same with the catalog's name as prefix." },
	{ "DELETE", "/iceberg/v1/{prefix}/{path...}", catalog_prefixed, ROLE_CATALOG, 0,
	  "The same with the catalog's name as prefix." },
};
const size_t catalog_routes_count = sizeof(catalog_routes) / sizeof(catalog_routes[0]);
