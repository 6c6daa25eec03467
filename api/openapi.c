/*
 * Paths, methods, path parameters, roles and summaries come from the routes; only what those rows cannot say (queries, bodies,
 * answers) is listed here, by pattern.
 */
#include "api/openapi.h"

#include <stdlib.h>
#include <string.h>

#include "api/route.h"
#include "base/alloc.h"
#include "base/log.h"

struct extra {
	const char *method, *pattern;
	const char *query;  /* names, separated by blanks */
	const char *body;   /* properties: "name:type", separated by blanks; ! behind: required */
	const char *answer; /* schema's name, or a media type */
};

/* clang-format off */
static const struct extra extras[] = {
	{ "GET", "/api/v1/flows", "", "", "FlowList" },
	{ "GET", "/api/v1/flows/{flow}", "", "", "Flow" },
	{ "GET", "/api/v1/flows/{flow}/next", "count", "", "NextList" },
	{ "POST", "/api/v1/flows/{flow}/runs", "wait", "params:object engine:any rehearsal:boolean check:boolean", "Run" },
	{ "POST", "/api/v1/flows/{flow}/pause", "", "", "Flow" },
	{ "POST", "/api/v1/flows/{flow}/resume", "", "", "Flow" },
	{ "POST", "/api/v1/runs", "wait", "source:string! file:string params:object engine:any rehearsal:boolean check:boolean", "Run" },
	{ "GET", "/api/v1/shadows", "flow since", "", "List" },
	{ "GET", "/api/v1/flows/{flow}/shadows", "limit", "", "List" },
	{ "POST", "/api/v1/compare", "", "runs:array! limit:integer", "" },
	{ "POST", "/api/v1/maintenance", "wait",
	  "tables:any! when_health_below:integer dry_run:boolean compact:any rewrite_manifests:string expire_snapshots:any "
	  "remove_orphan_files:any wait_for_writers:string", "Run" },
	{ "GET", "/api/v1/runs", "flow state limit cursor", "", "RunList" },
	{ "GET", "/api/v1/runs/{run}", "wait", "", "Run" },
	{ "POST", "/api/v1/runs/{run}/cancel", "", "", "Run" },
	{ "GET", "/api/v1/runs/{run}/tables", "", "", "List" },
	{ "POST", "/api/v1/runs/{run}/undo", "", "with_later:boolean", "" },
	{ "GET", "/api/v1/runs/{run}/tasks/{task}", "", "", "Task" },
	{ "GET", "/api/v1/runs/{run}/tasks/{task}/logs", "attempt follow", "", "text/plain" },
	{ "GET", "/api/v1/runs/{run}/tasks/{task}/artifacts", "attempt", "", "List" },
	{ "GET", "/api/v1/runs/{run}/tasks/{task}/artifacts/{name...}", "attempt", "", "application/octet-stream" },
	{ "GET", "/api/v1/events", "run flow after", "", "text/event-stream" },
	{ "POST", "/api/v1/sql", "", "sql:string! limit:integer", "Result" },
	{ "GET", "/api/v1/tables", "namespace limit cursor", "", "TableList" },
	{ "GET", "/api/v1/tables/health", "match limit cursor", "", "List" },
	{ "GET", "/api/v1/tables/{table}", "", "", "Table" },
	{ "GET", "/api/v1/tables/{table}/snapshots", "limit cursor", "", "SnapshotList" },
	{ "GET", "/api/v1/tables/{table}/history", "limit cursor", "", "List" },
	{ "GET", "/api/v1/tables/{table}/refs", "", "", "RefList" },
	{ "GET", "/api/v1/tables/{table}/schemas", "", "", "List" },
	{ "GET", "/api/v1/tables/{table}/schema", "at", "", "Schema" },
	{ "GET", "/api/v1/tables/{table}/files", "at limit cursor", "", "List" },
	{ "GET", "/api/v1/tables/{table}/partitions", "at limit cursor", "", "List" },
	{ "GET", "/api/v1/tables/{table}/manifests", "at limit cursor", "", "List" },
	{ "GET", "/api/v1/tables/{table}/preview", "at limit", "", "Result" },
	{ "GET", "/api/v1/tables/{table}/diff", "from to key limit", "", "Diff" },
	{ "POST", "/api/v1/tables/{table}/rollback", "", "to:string!", "RefChange" },
	{ "PUT", "/api/v1/tables/{table}/refs/{name}", "",
	  "type:string! at:string retain:string snapshot_age:string keep_snapshots:integer replace:boolean", "RefChange" },
	{ "DELETE", "/api/v1/tables/{table}/refs/{name}", "type", "", "RefChange" },
	{ "POST", "/api/v1/validate", "", "source:string! file:string", "Validation" },
	{ "POST", "/api/v1/tokens", "", "scope:string!", "Token" },
	{ "GET", "/metrics", "", "", "text/plain" },
};
/* clang-format on */

/* clang-format off */
static const char schemas[] =
	"{\"Problem\":{\"type\":\"object\",\"required\":[\"type\",\"title\",\"status\",\"detail\"],\"properties\":{"
	"\"type\":{\"type\":\"string\"},\"title\":{\"type\":\"string\"},\"status\":{\"type\":\"integer\"},\"detail\":{\"type\":\"string\"},"
	"\"errors\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/FlowProblem\"}}}},"
	"\"FlowProblem\":{\"type\":\"object\",\"properties\":{\"file\":{\"type\":\"string\"},\"line\":{\"type\":\"integer\"},\"col\":{\"type\":\"integer\"},"
	"\"severity\":{\"enum\":[\"error\",\"warning\"]},\"message\":{\"type\":\"string\"}}},"
	"\"Time\":{\"type\":[\"string\",\"null\"],\"format\":\"date-time\"},"
	"\"Flow\":{\"type\":\"object\",\"required\":[\"id\",\"file\",\"paused\",\"problems\",\"tasks\",\"last_runs\"],\"properties\":{"
	"\"id\":{\"type\":\"string\"},\"namespace\":{\"type\":[\"string\",\"null\"]},\"description\":{\"type\":[\"string\",\"null\"]},"
	"\"file\":{\"type\":\"string\"},\"enabled\":{\"type\":\"boolean\"},\"paused\":{\"type\":\"boolean\"},\"next\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"problems\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/FlowProblem\"}},"
	"\"tasks\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},\"last_runs\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},"
	"\"source\":{\"type\":\"string\"}}},"
	"\"FlowList\":{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Flow\"}},\"next\":{\"type\":[\"string\",\"null\"]}}},"
	"\"NextList\":{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{"
	"\"scheduled_at\":{\"$ref\":\"#/components/schemas/Time\"},\"interval_start\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"interval_end\":{\"$ref\":\"#/components/schemas/Time\"}}}},\"next\":{\"type\":\"null\"}}},"
	"\"Run\":{\"type\":\"object\",\"required\":[\"id\",\"flow\",\"state\",\"created_at\"],\"properties\":{\"id\":{\"type\":\"string\"},\"flow\":{\"type\":\"string\"},"
	"\"state\":{\"enum\":[\"queued\",\"running\",\"publishing\",\"success\",\"failed\",\"cancelled\"]},\"trigger\":{\"type\":\"string\"},\"params\":{\"type\":\"object\"},"
	"\"created_at\":{\"$ref\":\"#/components/schemas/Time\"},\"scheduled_for\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"interval_start\":{\"$ref\":\"#/components/schemas/Time\"},\"interval_end\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"started_at\":{\"$ref\":\"#/components/schemas/Time\"},\"ended_at\":{\"$ref\":\"#/components/schemas/Time\"},\"error\":{\"type\":[\"string\",\"null\"]},"
	"\"undone\":{\"type\":[\"object\",\"null\"],\"properties\":{\"at\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"by\":{\"type\":[\"string\",\"null\"]},\"whole\":{\"type\":\"boolean\"}}},"
	"\"tasks\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Task\"}}}},"
	"\"RunList\":{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Run\"}},\"next\":{\"type\":[\"string\",\"null\"]}}},"
	"\"Task\":{\"type\":\"object\",\"required\":[\"id\",\"type\",\"state\",\"attempts\"],\"properties\":{\"id\":{\"type\":\"string\"},\"type\":{\"type\":\"string\"},"
	"\"engine\":{\"type\":[\"string\",\"null\"]},\"state\":{\"enum\":[\"waiting\",\"ready\",\"running\",\"retry_wait\",\"success\",\"failed\",\"timed_out\","
	"\"cancelled\",\"lost\",\"skipped\",\"upstream_failed\"]},\"depends_on\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
	"\"attempts\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Attempt\"}},\"outputs\":{\"type\":\"object\"},"
	"\"started_at\":{\"$ref\":\"#/components/schemas/Time\"},\"ended_at\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"next_attempt_at\":{\"$ref\":\"#/components/schemas/Time\"},\"error\":{\"type\":[\"string\",\"null\"]},\"progress\":{\"type\":[\"object\",\"null\"]}}},"
	"\"Attempt\":{\"type\":\"object\",\"required\":[\"n\",\"state\"],\"properties\":{\"n\":{\"type\":\"integer\"},\"state\":{\"type\":\"string\"},"
	"\"cause\":{\"type\":[\"string\",\"null\"]},\"exit_code\":{\"type\":[\"integer\",\"null\"]},\"signal\":{\"type\":[\"integer\",\"null\"]},"
	"\"started_at\":{\"$ref\":\"#/components/schemas/Time\"},\"ended_at\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"wall_us\":{\"type\":[\"integer\",\"null\"]},\"user_us\":{\"type\":[\"integer\",\"null\"]},\"system_us\":{\"type\":[\"integer\",\"null\"]},"
	"\"max_rss_bytes\":{\"type\":[\"integer\",\"null\"]},\"metrics\":{\"type\":\"object\"},\"tables\":{\"type\":\"array\"},\"checks\":{\"type\":\"array\"},"
	"\"error\":{\"type\":[\"object\",\"null\"]}}},"
	"\"Result\":{\"type\":\"object\",\"properties\":{\"columns\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},"
	"\"rows\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},\"truncated\":{\"type\":\"boolean\"}}},"
	"\"TableItem\":{\"type\":\"object\",\"required\":[\"name\",\"namespace\",\"table\",\"metadata_location\"],"
	"\"properties\":{\"name\":{\"type\":\"string\"},\"namespace\":{\"type\":\"string\"},\"table\":{\"type\":\"string\"},"
	"\"metadata_location\":{\"type\":\"string\"},\"format_version\":{\"type\":\"integer\"},\"snapshot_id\":{\"type\":[\"string\",\"null\"]},"
	"\"snapshots\":{\"type\":\"integer\"},\"rows\":{\"type\":[\"integer\",\"null\"]},\"files\":{\"type\":[\"integer\",\"null\"]},"
	"\"bytes\":{\"type\":[\"integer\",\"null\"]},\"changed_at\":{\"$ref\":\"#/components/schemas/Time\"},\"error\":{\"type\":\"string\"}}},"
	"\"TableList\":{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/TableItem\"}},"
	"\"next\":{\"type\":[\"string\",\"null\"]}}},"
	"\"Table\":{\"type\":\"object\",\"required\":[\"name\",\"schema\",\"refs\"],\"properties\":{\"name\":{\"type\":\"string\"},"
	"\"namespace\":{\"type\":\"string\"},\"table\":{\"type\":\"string\"},\"metadata_location\":{\"type\":\"string\"},"
	"\"format_version\":{\"type\":\"integer\"},\"snapshot_id\":{\"type\":[\"string\",\"null\"]},\"snapshots\":{\"type\":\"integer\"},"
	"\"rows\":{\"type\":[\"integer\",\"null\"]},\"files\":{\"type\":[\"integer\",\"null\"]},\"bytes\":{\"type\":[\"integer\",\"null\"]},"
	"\"changed_at\":{\"$ref\":\"#/components/schemas/Time\"},\"uuid\":{\"type\":\"string\"},\"location\":{\"type\":\"string\"},"
	"\"schema\":{\"$ref\":\"#/components/schemas/Schema\"},\"partition_spec\":{\"type\":\"object\"},\"sort_order\":{\"type\":\"object\"},"
	"\"properties\":{\"type\":\"object\"},\"current_snapshot\":{\"anyOf\":[{\"$ref\":\"#/components/schemas/Snapshot\"},{\"type\":\"null\"}]},"
	"\"refs\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Ref\"}}}},"
	"\"Schema\":{\"type\":\"object\",\"properties\":{\"schema_id\":{\"type\":\"integer\"},\"current\":{\"type\":\"boolean\"},"
	"\"fields\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}}}},"
	"\"Snapshot\":{\"type\":\"object\",\"required\":[\"snapshot_id\",\"at\"],\"properties\":{\"snapshot_id\":{\"type\":\"string\"},"
	"\"parent_id\":{\"type\":[\"string\",\"null\"]},\"at\":{\"$ref\":\"#/components/schemas/Time\"},\"sequence_number\":{\"type\":\"integer\"},"
	"\"schema_id\":{\"type\":[\"integer\",\"null\"]},\"operation\":{\"type\":[\"string\",\"null\"]},\"current\":{\"type\":\"boolean\"},"
	"\"refs\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},\"rows\":{\"type\":[\"integer\",\"null\"]},"
	"\"rows_added\":{\"type\":[\"integer\",\"null\"]},\"rows_deleted\":{\"type\":[\"integer\",\"null\"]},\"files\":{\"type\":[\"integer\","
	"\"null\"]},\"files_added\":{\"type\":[\"integer\",\"null\"]},\"files_deleted\":{\"type\":[\"integer\",\"null\"]},"
	"\"bytes\":{\"type\":[\"integer\",\"null\"]},\"run\":{\"type\":\"string\"},\"task\":{\"type\":\"string\"},"
	"\"summary\":{\"type\":\"object\"}}},"
	"\"SnapshotList\":{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Snapshot\"}},"
	"\"next\":{\"type\":[\"string\",\"null\"]}}},"
	"\"Ref\":{\"type\":\"object\",\"required\":[\"name\",\"type\",\"snapshot_id\"],\"properties\":{\"name\":{\"type\":\"string\"},"
	"\"type\":{\"enum\":[\"branch\",\"tag\"]},\"snapshot_id\":{\"type\":\"string\"},\"at\":{\"$ref\":\"#/components/schemas/Time\"},"
	"\"max_ref_age_ms\":{\"type\":\"integer\"},\"max_snapshot_age_ms\":{\"type\":\"integer\"},\"min_snapshots_to_keep\":{\"type\":\"integer\"}}},"
	"\"Diff\":{\"type\":\"object\",\"properties\":{\"table\":{\"type\":\"string\"},"
	"\"from\":{\"$ref\":\"#/components/schemas/Snapshot\"},\"to\":{\"$ref\":\"#/components/schemas/Snapshot\"},"
	"\"schema\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},\"columns\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
	"\"counts\":{\"type\":\"object\"},\"rows\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},\"truncated\":{\"type\":\"boolean\"}}},"
	"\"RefChange\":{\"type\":\"object\",\"required\":[\"table\",\"name\",\"type\"],\"properties\":{\"table\":{\"type\":\"string\"},"
	"\"name\":{\"type\":\"string\"},\"type\":{\"enum\":[\"branch\",\"tag\"]},\"before\":{\"type\":[\"string\",\"null\"]},"
	"\"snapshot_id\":{\"type\":[\"string\",\"null\"]}}},"
	"\"RefList\":{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Ref\"}},"
	"\"next\":{\"type\":[\"string\",\"null\"]}}},"
	"\"List\":{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},\"next\":{\"type\":[\"string\","
	"\"null\"]}}},"
	"\"Validation\":{\"type\":\"object\",\"properties\":{\"valid\":{\"type\":\"boolean\"},\"problems\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/FlowProblem\"}}}},"
	"\"Token\":{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"string\"},\"scope\":{\"enum\":[\"viewer\",\"runner\",\"admin\"]},"
	"\"created_at\":{\"$ref\":\"#/components/schemas/Time\"},\"token\":{\"type\":\"string\"}}}}";
/* clang-format on */

static const struct extra *
extra_find(const struct route *r)
{
	for (size_t i = 0; i < sizeof(extras) / sizeof(extras[0]); i++)
		if (strcmp(extras[i].method, r->method) == 0 && strcmp(extras[i].pattern, r->pattern) == 0)
			return &extras[i];
	return NULL;
}

static void
parameter_add(json_t *list, const char *name, size_t len, const char *in)
{
	json_array_append_new(list, json_pack("{s:s%,s:s,s:b,s:{s:s}}", "name", name, len, "in", in, "required",
					      strcmp(in, "path") == 0, "schema", "type", "string"));
}

/* "/a/{b...}" is "/a/{b}" there. Path parameters are added to `list`. The caller frees the result. */
static char *
path_of(const char *pattern, json_t *list)
{
	struct buf b = BUF_INIT;

	while (*pattern) {
		size_t n = strcspn(pattern, "{"), name;

		buf_add(&b, pattern, n);
		pattern += n;
		if (*pattern == '\0')
			break;
		name = strcspn(++pattern, ".}");
		buf_addf(&b, "{%.*s}", (int)name, pattern);
		parameter_add(list, pattern, name, "path");
		pattern += strcspn(pattern, "}") + 1;
	}
	return buf_detach(&b);
}

static json_t *
body_of(const char *text)
{
	json_t *properties = json_object(), *required = json_array();

	while (*text) {
		size_t n = strcspn(text, " "), name = strcspn(text, ":"), type = n - name - 1;
		bool must = text[n - 1] == '!';
		json_t *p = json_object();

		if (must)
			type--;
		if (strncmp(text + name + 1, "any", type) != 0)
			json_object_set_new(p, "type", json_stringn(text + name + 1, type));
		json_object_setn_new(properties, text, name, p);
		if (must)
			json_array_append_new(required, json_stringn(text, name));
		text += n;
		text += strspn(text, " ");
	}
	return json_pack("{s:b,s:{s:{s:{s:s,s:o,s:o}}}}", "required", json_array_size(required) > 0, "content",
			 "application/json", "schema", "type", "object", "properties", properties, "required", required);
}

static json_t *
answer_of(const char *answer)
{
	const char *media = answer && strchr(answer, '/') ? answer : "application/json";
	json_t *schema = json_object();
	char *ref;

	if (answer && strchr(answer, '/')) {
		json_object_set_new(schema, "type", json_string("string"));
	} else if (answer) {
		ref = xasprintf("#/components/schemas/%s", answer);
		json_object_set_new(schema, "$ref", json_string(ref));
		free(ref);
	}
	return json_pack("{s:s,s:{s:{s:o}}}", "description", "Done.", "content", media, "schema", schema);
}

static json_t *
operation_of(const struct route *r, json_t *parameters)
{
	static const char *const scopes[] = {
		[ROLE_VIEWER] = "viewer", [ROLE_RUNNER] = "runner", [ROLE_ADMIN] = "admin", [ROLE_CATALOG] = "catalog"
	};
	const struct extra *x = extra_find(r);
	const char *group = strncmp(r->pattern, "/iceberg/", 9) == 0  ? "catalog"
			    : strncmp(r->pattern, "/api/v1/", 8) == 0 ? r->pattern + 8
								      : "daemon";
	json_t *op = json_object(), *responses = json_object();

	for (const char *q = x ? x->query : ""; *q;) {
		size_t n = strcspn(q, " ");

		parameter_add(parameters, q, n, "query");
		q += n;
		q += strspn(q, " ");
	}
	json_object_set_new(op, "summary", json_string(r->summary ? r->summary : ""));
	json_object_set_new(op, "tags", json_pack("[s%]", group, strcspn(group, "/.")));
	json_object_set_new(op, "parameters", parameters);
	if (x && *x->body)
		json_object_set_new(op, "requestBody", body_of(x->body));
	json_object_set_new(responses, "2XX", answer_of(x ? x->answer : NULL));
	json_object_set_new(responses, "default",
			    json_pack("{s:s,s:{s:{s:{s:s}}}}", "description", "What went wrong.", "content",
				      "application/problem+json", "schema", "$ref", "#/components/schemas/Problem"));
	json_object_set_new(op, "responses", responses);
	if (r->role == ROLE_NONE)
		json_object_set_new(op, "security", json_array());
	else
		json_object_set_new(op, "x-scope", json_string(scopes[r->role]));
	return op;
}

json_t *
openapi_json(const char *version, const char *url)
{
	json_t *paths = json_object(), *doc;

	for (size_t t = 0; t < route_tables_count; t++) {
		for (size_t i = 0; i < *route_tables[t].count; i++) {
			const struct route *r = &route_tables[t].routes[i];
			json_t *parameters = json_array(), *item;
			char *path, method[8] = "";

			path = path_of(r->pattern, parameters);
			item = json_object_get(paths, path);
			if (item == NULL) {
				item = json_object();
				json_object_set_new(paths, path, item);
			}
			for (size_t k = 0; r->method[k] && k < sizeof(method) - 1; k++)
				method[k] = (char)(r->method[k] | 0x20);
			json_object_set_new(item, method, operation_of(r, parameters));
			free(path);
		}
	}
	doc = json_pack("{s:s,s:{s:s,s:s,s:s},s:[{s:s}],s:[{s:[]}],s:o,s:{s:{s:{s:s,s:s}},s:o}}", "openapi", "3.1.0", "info",
			"title", "Sluice", "version", version, "description", "Runs data flows and keeps their tables.",
			"servers", "url", url ? url : "/", "security", "token", "paths", paths, "components", "securitySchemes",
			"token", "type", "http", "scheme", "bearer", "schemas", json_loads(schemas, 0, NULL));
	if (doc == NULL)
		BUG("the OpenAPI document cannot be made");
	return doc;
}
