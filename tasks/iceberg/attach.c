/* The catalog's tables in the engine's SQL. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"
#include "tasks/iceberg/inspect.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/session.h"
#include "tasks/iceberg/write.h"
#include "tasks/spent.h"

static const char *
catalog_name(const struct context *cx)
{
	return json_string_value(json_object_get(json_object_get(cx->doc, "catalog"), "name"));
}

static int
attach_catalog(struct context *cx)
{
	const char *warehouse = json_string_value(json_object_get(json_object_get(cx->doc, "catalog"), "warehouse"));
	struct buf secret = BUF_INIT, options = BUF_INIT, b = BUF_INIT;
	int rc = 0;

	session_engine(cx, &secret, &options);
	if (session_foreign(cx)) /* what the engine asks is bounded as our own requests are */
		rc = duck_execf(cx->db, &cx->err, "SET http_timeout = %lld; SET http_retries = 1",
				(long long)(session_patience(cx) / US_PER_S / 3 + 1));
	if (rc == 0 && secret.len)
		rc = duck_exec(cx->db, secret.s, &cx->err);
	buf_adds(&b, "ATTACH ");
	buf_add_sql_string(&b, session_foreign(cx) && warehouse ? warehouse : "");
	buf_adds(&b, " AS ");
	buf_add_sql_name(&b, catalog_name(cx));
	buf_addf(&b, " (TYPE iceberg%s)", options.s);
	if (rc == 0)
		rc = duck_exec(cx->db, b.s, &cx->err);
	if (rc == 0 && secret.len && session_foreign(cx)) /* what is attached has it; SQL could use it for another address */
		rc = duck_exec(cx->db, "DROP TEMPORARY SECRET sluice_catalog", &cx->err);
	if (rc < 0 && session_foreign(cx))
		err_prefix(&cx->err, "the catalog at %s",
			   json_string_value(json_object_get(json_object_get(cx->doc, "catalog"), "uri")));
	if (secret.len)
		explicit_bzero(secret.s, secret.len);
	buf_release(&secret);
	buf_release(&options);
	buf_release(&b);
	return rc;
}

/* With a default namespace set, both stg.t and local.stg.t resolve. */
static int
use_first(struct context *cx, const json_t *namespaces)
{
	const json_t *levels = json_array_get(json_object_get(namespaces, "namespaces"), 0);
	struct buf b = BUF_INIT;
	int rc;

	if (json_array_size(levels) != 1)
		return 0;
	buf_adds(&b, "USE ");
	buf_add_sql_name(&b, catalog_name(cx));
	buf_addc(&b, '.');
	buf_add_sql_name(&b, json_string_value(json_array_get(levels, 0)));
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	return rc;
}

int
iceberg_attach(struct context *cx)
{
	json_t *answer = NULL;
	enum spent part;
	int rc = -1, status;

	if (cx->attached)
		return 0;
	if (duck_load_iceberg(cx->db, &cx->err) < 0)
		return -1;
	part = spent_enter(SPENT_ATTACH);
	/* First, since it waits for a catalog that is away, as the engine does not. */
	status = rest_call(cx, "GET", "namespaces", NULL, &answer);
	if (status >= 0 && status != 200 && session_foreign(cx))
		status = rest_fail(cx, "the catalog's namespaces cannot be listed", status, answer);
	if (status < 0 || task_s3_if_any(cx) < 0 || attach_catalog(cx) < 0)
		goto out;
	cx->attached = true;
	rc = status == 200 ? use_first(cx, answer) : 0;
	if (rc == 0)
		rc = inspect_define(cx->db, &cx->err);
	inspect_begin(cx);
out:
	json_decref(answer);
	spent_leave(part);
	return rc < 0 ? -1 : 0;
}
