/* The catalog's routes, and the two that are about the catalog itself: its configuration and tokens. */
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
	"POST /v1/{prefix}/namespaces/{namespace}/register",
	"POST /v1/{prefix}/tables/rename",
	"POST /v1/{prefix}/transactions/commit",
};

static void
catalog_config(struct request *rq)
{
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++)
		json_array_append_new(list, json_string(endpoints[i]));
	reply_json(rq, 200, json_pack("{s:{},s:{},s:o}", "defaults", "overrides", "endpoints", list));
}

/* The value of a field of a form; NULL when it is missing. The caller frees it. */
static char *
form_field(const char *form, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = form; *p; p += *p == '&') {
		size_t len = strcspn(p, "&");

		if (len > n && strncmp(p, name, n) == 0 && p[n] == '=')
			return percent_decode(p + n + 1, len - n - 1, true);
		p += len;
	}
	return NULL;
}

/* Clients that know a "credential" only: its secret is a token of ours already. Whether it is valid shows at its first use. */
static void
catalog_token(struct request *rq)
{
	char *grant = form_field(rq->body.s, "grant_type"), *token;
	bool exchange = grant && strcmp(grant, "urn:ietf:params:oauth:grant-type:token-exchange") == 0;
	json_t *answer;

	token = form_field(rq->body.s, exchange ? "subject_token" : "client_secret");
	answer = json_pack("{s:s,s:s,s:s}", "access_token", token ? token : "", "token_type", "bearer", "issued_token_type",
			   "urn:ietf:params:oauth:token-type:access_token");
	if (grant == NULL || (!exchange && strcmp(grant, "client_credentials") != 0))
		reply_json(
			rq, 400,
			json_pack("{s:s,s:s}", "error", "unsupported_grant_type", "error_description", "use client_credentials"));
	else if (token == NULL || *token == '\0' || answer == NULL)
		reply_json(rq, 401,
			   json_pack("{s:s,s:s}", "error", "invalid_client", "error_description",
				     "the client_secret must be a token of this daemon"));
	else
		reply_json(rq, 200, json_incref(answer));
	json_decref(answer);
	if (token)
		explicit_bzero(token, strlen(token));
	free(token);
	free(grant);
}

static void
views_list(struct request *rq)
{
	reply_json(rq, 200, json_pack("{s:[]}", "identifiers"));
}

static void
view_load(struct request *rq)
{
	catalog_reply_error(rq, 404, "NoSuchViewException", "View does not exist: %s", rq->param[1]);
}

#define NS "/iceberg/v1/namespaces/{namespace}"

const struct route catalog_routes[] = {
	{ "GET", "/iceberg/v1/config", catalog_config, ROLE_CATALOG, 0, "Tells a client of the Iceberg catalog what there is." },
	{ "POST", "/iceberg/v1/oauth/tokens", catalog_token, ROLE_NONE, 65536,
	  "Gives clients that know credentials only their secret as token." },
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
	{ "POST", NS "/tables/{table}/metrics", tables_metrics, ROLE_CATALOG, BODY_LARGE, "Takes a report of a scan or commit." },
	{ "POST", "/iceberg/v1/tables/rename", tables_rename, ROLE_CATALOG, BODY_SMALL, "Renames a table." },
	{ "POST", "/iceberg/v1/transactions/commit", transactions_commit, ROLE_CATALOG, BODY_LARGE,
	  "Commits to several tables, all or nothing." },
	{ "GET", NS "/views", views_list, ROLE_CATALOG, 0, "Lists the views of a namespace: none yet." },
	{ "GET", NS "/views/{view}", view_load, ROLE_CATALOG, 0, "Gives a view: there are none yet." },
};
const size_t catalog_routes_count = sizeof(catalog_routes) / sizeof(catalog_routes[0]);
