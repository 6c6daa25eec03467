/* What a client needs, beside a table's metadata, to reach the table's files. */
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "base/alloc.h"

void
access_grant(const struct catalog *c, const char *location, const char *delegation, json_t *config, json_t *credentials)
{
	/* Files on this machine: the file system decides. */
	(void)c;
	(void)location;
	(void)delegation;
	(void)config;
	(void)credentials;
}

void
access_add(struct buf *b, struct request *rq, const char *location)
{
	json_t *config = json_object(), *credentials = json_array();
	char *text;

	access_grant(rq->app->catalog, location, request_header(rq, "X-Iceberg-Access-Delegation"), config, credentials);
	text = json_dumps(config, JSON_COMPACT);
	buf_addf(b, ",\"config\":%s", text);
	free(text);
	if (json_array_size(credentials)) {
		text = json_dumps(credentials, JSON_COMPACT);
		buf_addf(b, ",\"storage-credentials\":%s", text);
		free(text);
	}
	json_decref(config);
	json_decref(credentials);
}

static void
on_pointer(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;
	json_t *config, *credentials;

	if (r == NULL) {
		catalog_reply_err(a->rq, e);
	} else if (rows_count(r) == 0) {
		catalog_reply_no_table(a->rq, a->ns, a->name);
	} else {
		config = json_object();
		credentials = json_array();
		access_grant(a->catalog, rows_get(r, 0, 0), "vended-credentials", config, credentials);
		json_decref(config);
		reply_json(a->rq, 200, json_pack("{s:o}", "storage-credentials", credentials));
	}
	ask_done(a);
}

void
access_credentials(struct request *rq)
{
	struct ask *a = ask_table(rq);

	if (a)
		store_query(rq->app->store,
			    "SELECT regexp_replace(metadata_location, '/metadata/[^/]*$', '') FROM iceberg_tables WHERE "
			    "catalog_name = "
			    "$1 AND table_namespace = $2 AND table_name = $3 AND " SQL_IS_TABLE,
			    3, (const char *const[]){ a->catalog->name, a->ns, a->name }, on_pointer, a);
}
