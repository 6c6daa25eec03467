/* What a client needs, beside a table's metadata, to reach the table's files. */
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

/* The part of the location that keys are good for: its bucket. */
static char *
access_prefix(const char *location)
{
	const char *bucket = strstr(location, "://") + 3;

	return xstrndup(location, (size_t)(bucket - location) + strcspn(bucket, "/"));
}

/* Names as the specification and its clients have them; NULL when there are none (see access_wait). */
static json_t *
access_keys(struct storage *s)
{
	struct storage_keys k = { 0 };
	json_t *config;

	if (!storage_keys_now(s, 0, &k))
		return NULL;
	if (*k.access_key == '\0') {
		storage_keys_release(&k);
		return NULL;
	}
	config = json_pack("{s:s,s:s}", "s3.access-key-id", k.access_key, "s3.secret-access-key", k.secret_key);
	if (*k.session_token)
		json_object_set_new(config, "s3.session-token", json_string(k.session_token));
	if (k.expires)
		json_object_set_new(config, "s3.session-token-expires-at-ms",
				    json_sprintf("%lld", (long long)(k.expires / US_PER_MS)));
	storage_keys_release(&k);
	return config;
}

/* Keys of a role are fetched from another server, which may take its time. */
struct fetching {
	struct work work;
	struct catalog *catalog;
	void (*then)(void *arg);
	void *arg;
	struct err e;
};

static void
fetching_work(struct work *w)
{
	struct fetching *f = w->data;
	struct storage_keys k = { 0 };

	if (storage_keys(warehouse_storage(), &k, &f->e) == 0)
		storage_keys_release(&k);
}

static void
on_fetched(struct work *w, int status)
{
	struct fetching *f = w->data;

	(void)status;
	/* A client with keys of its own can go on without; the others are refused by the store. */
	if (f->e.code)
		log_warn("catalog: no credentials for a client: %s", f->e.msg);
	err_release(&f->e);
	f->then(f->arg);
	catalog_unref(f->catalog);
	free(f);
}

static bool
delegation_wants_keys(const char *delegation)
{
	return delegation && strstr(delegation, "vended-credentials");
}

bool
access_must_wait(const char *location, const char *delegation)
{
	struct storage_keys k = { 0 };
	bool good;

	if (location == NULL || !storage_remote(location) || !delegation_wants_keys(delegation))
		return false;
	good = storage_keys_now(warehouse_storage(), STORAGE_KEYS_EARLY, &k);
	storage_keys_release(&k);
	return !good;
}

void
access_wait(struct catalog *c, void (*then)(void *arg), void *arg)
{
	struct fetching *f = xcalloc(1, sizeof(*f));

	f->work.data = f;
	f->catalog = catalog_ref(c);
	f->then = then;
	f->arg = arg;
	work_queue(c->app->loop, &f->work, true, fetching_work, on_fetched);
}

/* DuckDB's extension speaks TLS to every store that has its buckets in the host's name, whatever the endpoint says. */
static bool
access_path_style(const struct storage *s)
{
	return storage_path_style(s) || strncmp(storage_endpoint(s), "http://", 7) == 0;
}

void
access_grant(const struct catalog *c, const char *location, const char *delegation, json_t *config, json_t *credentials)
{
	struct storage *s = warehouse_storage();
	json_t *keys;
	char *prefix;

	(void)c;
	if (location == NULL || !storage_remote(location)) /* files on this machine: the file system decides */
		return;
	json_object_set_new(config, "s3.endpoint", json_string(storage_endpoint(s)));
	json_object_set_new(config, "s3.region", json_string(storage_region(s)));
	json_object_set_new(config, "client.region", json_string(storage_region(s)));
	json_object_set_new(config, "s3.path-style-access", json_string(access_path_style(s) ? "true" : "false"));
	if (!delegation_wants_keys(delegation) || (keys = access_keys(s)) == NULL)
		return;
	json_object_update(config, keys); /* where clients looked before there were storage-credentials */
	json_object_update(keys, config);
	prefix = access_prefix(location);
	json_array_append_new(credentials, json_pack("{s:s,s:o}", "prefix", prefix, "config", keys));
	free(prefix);
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
reply_credentials(void *arg)
{
	struct ask *a = arg;
	json_t *config = json_object(), *credentials = json_array();

	access_grant(a->catalog, a->to, "vended-credentials", config, credentials);
	json_decref(config);
	reply_json(a->rq, 200, json_pack("{s:o}", "storage-credentials", credentials));
	ask_done(a);
}

static void
on_pointer(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL || rows_count(r) == 0) {
		if (r)
			catalog_reply_no_table(a->rq, a->ns, a->name);
		else
			catalog_reply_err(a->rq, e);
		ask_done(a);
		return;
	}
	a->to = xstrdup(rows_get(r, 0, 0));
	if (access_must_wait(a->to, "vended-credentials"))
		access_wait(a->catalog, reply_credentials, a);
	else
		reply_credentials(a);
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
