/* Tables, but for what writes metadata (commit.c): list, load, drop, rename. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "api/catalog/metadata.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/sha256.h"

/* DuckDB looks up whatever stands behind FROM, such as a file's path, and goes on when it is told that there is no such table. */
struct ask *
ask_table(struct request *rq)
{
	struct err e = ERR_INIT;
	char *ns = namespace_of_param(rq->param[0], &e);

	if (ns && table_name_check(rq->param[1], &e) == 0)
		return ask_new(rq, ns, xstrdup(rq->param[1]));
	free(ns);
	err_release(&e);
	catalog_reply_no_table(rq, rq->param[0], rq->param[1]);
	return NULL;
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
	} else if (strcmp(rows_get(r, 0, 0), "f") == 0) {
		catalog_reply_no_namespace(a->rq, a->ns);
	} else {
		list = json_array();
		n = rows_get(r, 0, 1) ? rows_count(r) : 0;
		for (size_t i = 0; i < n && (long)i < a->limit; i++)
			json_array_append_new(
				list, json_pack("{s:o,s:s}", "namespace", namespace_json(a->ns), "name", rows_get(r, i, 1)));
		body = json_pack("{s:o}", "identifiers", list);
		if ((long)n > a->limit)
			json_object_set_new(body, "next-page-token", json_string(rows_get(r, (size_t)a->limit - 1, 1)));
		reply_json(a->rq, 200, body);
	}
	ask_done(a);
}

void
tables_list(struct request *rq)
{
	struct err e = ERR_INIT;
	struct page page;
	struct ask *a;
	char *ns;

	if (!page_init(&page, rq))
		return;
	ns = namespace_of_param(rq->param[0], &e);
	if (ns == NULL) {
		catalog_reply_err(rq, &e);
		return;
	}
	a = ask_new(rq, ns, NULL);
	a->limit = page.limit;
	store_query(rq->app->store,
		    "SELECT " SQL_NAMESPACE_EXISTS(
			    "$1", "$2::text") ", l.name FROM (SELECT 1) one LEFT JOIN ("
					      "  SELECT table_name COLLATE \"C\" AS name FROM iceberg_tables WHERE catalog_name "
					      "= $1 AND table_namespace = $2"
					      "  AND " SQL_IS_TABLE
					      ") l ON l.name > $3 COLLATE \"C\" ORDER BY l.name LIMIT $4::bigint",
		    4, (const char *const[]){ a->catalog->name, ns, page.token, page.param }, on_listed, a);
}

/* ---- load ---- */

/* Does the client want only the snapshots that branches and tags point at? */
static bool
wants_refs(struct request *rq)
{
	const char *snapshots = strcmp(rq->method, "GET") == 0 ? request_query(rq, "snapshots") : NULL;

	return snapshots && strcmp(snapshots, "refs") == 0;
}

/* Of a metadata file, and of which part of it was asked for. */
static void
etag_of(struct request *rq, const char *location, char out[24])
{
	char hex[SHA256_HEX];

	sha256_hex(location, strlen(location), hex);
	snprintf(out, 24, "\"%.16s%s\"", hex, wants_refs(rq) ? "-r" : "");
}

/* The metadata with only the snapshots that refs point at. The caller frees it. */
static char *
refs_text(const json_t *md)
{
	json_t *out = json_copy((json_t *)(uintptr_t)md), *kept = json_array(), *wanted = json_object(), *ref, *s;
	const char *name;
	char id[32], *text;
	size_t i;

	json_object_foreach (json_object_get(md, "refs"), name, ref) {
		snprintf(id, sizeof(id), "%" PRId64, metadata_int(ref, "snapshot-id", -1));
		json_object_set_new(wanted, id, json_true());
	}
	json_array_foreach (json_object_get(md, "snapshots"), i, s) {
		snprintf(id, sizeof(id), "%" PRId64, metadata_int(s, "snapshot-id", -1));
		if (json_object_get(wanted, id))
			json_array_append(kept, s);
	}
	json_object_set_new(out, "snapshots", kept);
	text = json_dumps(out, JSON_COMPACT);
	json_decref(out);
	json_decref(wanted);
	return text;
}

void
tables_reply(struct request *rq, const struct meta *m, bool config)
{
	json_t *location = json_string(m->location);
	char *quoted = json_dumps(location, JSON_ENCODE_ANY), etag[24], *some = wants_refs(rq) ? refs_text(m->json) : NULL;
	struct buf b = BUF_INIT;

	etag_of(rq, m->location, etag);
	reply_header(rq, "ETag", etag);
	buf_addf(&b, "{\"metadata-location\":%s,\"metadata\":", quoted);
	buf_add(&b, some ? some : m->text, some ? strlen(some) : m->len);
	if (config)
		access_add(&b, rq, json_string_value(json_object_get(m->json, "location")));
	buf_addc(&b, '}');
	reply_json_text(rq, 200, b.s);
	buf_release(&b);
	free(some);
	free(quoted);
	json_decref(location);
}

/* A file that is being read for a request. */
struct reading {
	uv_work_t work;
	struct ask *ask;
	char *location, *text;
	size_t len;
	json_t *json;
	struct err e;
};

static void
reading_work(uv_work_t *w)
{
	struct reading *rd = w->data;

	if (warehouse_read(rd->location, &rd->text, &rd->len, &rd->json, &rd->e) < 0)
		rd->text = NULL;
}

static void
on_read(uv_work_t *w, int status)
{
	struct reading *rd = w->data;
	struct ask *a = rd->ask;
	struct meta *m;

	if (status < 0 && rd->e.code == 0)
		err_set(&rd->e, ERR_INTERNAL, "%s", uv_strerror(status));
	if (rd->e.code) {
		catalog_reply_err(a->rq, &rd->e);
	} else {
		m = meta_keep(a->catalog, rd->location, rd->text, rd->len, rd->json);
		tables_reply(a->rq, m, true);
		meta_unref(m);
	}
	free(rd->location);
	free(rd);
	ask_done(a);
}

static bool
not_modified(struct request *rq, const char *location)
{
	const char *have = request_header(rq, "If-None-Match");
	char etag[24];

	etag_of(rq, location, etag);
	return have && (strstr(have, etag) || strcmp(have, "*") == 0);
}

static void
on_pointer(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;
	const char *location = r && rows_count(r) ? rows_get(r, 0, 0) : NULL;
	struct reading *rd;
	struct meta *m;

	if (r == NULL) {
		catalog_reply_err(a->rq, e);
	} else if (location == NULL) {
		catalog_reply_no_table(a->rq, a->ns, a->name);
	} else if (strcmp(a->rq->method, "HEAD") == 0) {
		reply_empty(a->rq, 204);
	} else if (not_modified(a->rq, location)) {
		reply_empty(a->rq, 304);
	} else if ((m = meta_cached(a->catalog, location)) != NULL) {
		tables_reply(a->rq, m, true);
		meta_unref(m);
	} else {
		rd = xcalloc(1, sizeof(*rd));
		rd->work.data = rd;
		rd->ask = a;
		rd->location = xstrdup(location);
		uv_queue_work(a->catalog->app->loop, &rd->work, reading_work, on_read);
		return;
	}
	ask_done(a);
}

void
tables_load(struct request *rq)
{
	const char *snapshots = request_query(rq, "snapshots");
	struct ask *a;

	if (snapshots && strcmp(snapshots, "all") != 0 && strcmp(snapshots, "refs") != 0) {
		catalog_reply_error(rq, 400, "BadRequestException", "\"snapshots\" must be all or refs, not \"%s\"", snapshots);
		return;
	}
	a = ask_table(rq);
	if (a)
		store_query(rq->app->store,
			    "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2"
			    " AND table_name = $3 AND " SQL_IS_TABLE,
			    3, (const char *const[]){ a->catalog->name, a->ns, a->name }, on_pointer, a);
}

/* ---- drop ---- */

struct purge {
	uv_work_t work;
	struct ask *ask;
	char *warehouse, *location;
};

static void
purge_work(uv_work_t *w)
{
	struct purge *p = w->data;

	warehouse_purge(p->warehouse, p->location);
}

static void
on_purged(uv_work_t *w, int status)
{
	struct purge *p = w->data;

	(void)status;
	reply_empty(p->ask->rq, 204);
	ask_done(p->ask);
	free(p->warehouse);
	free(p->location);
	free(p);
}

/* The folder of a table is where its metadata/ lies; nothing is purged when that is not so. */
static bool
drop_purge(struct ask *a, const char *metadata_location, const char *neighbours)
{
	const char *file = strrchr(metadata_location, '/');
	struct purge *p;

	if (file == NULL || file - metadata_location < 10 || strncmp(file - 9, "/metadata", 9) != 0)
		return false;
	if (strcmp(neighbours, "0") != 0) {
		log_warn("catalog: the files of the dropped table %s.%s stay: another table uses the same folder", a->ns,
			 a->name);
		return false;
	}
	p = xcalloc(1, sizeof(*p));
	p->work.data = p;
	p->ask = a;
	p->warehouse = xstrdup(a->catalog->warehouse);
	p->location = xstrndup(metadata_location, (size_t)(file - 9 - metadata_location));
	uv_queue_work(a->catalog->app->loop, &p->work, purge_work, on_purged);
	return true;
}

static void
on_dropped(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL)
		catalog_reply_err(a->rq, e);
	else if (strcmp(rows_get(r, 0, 0), "f") == 0)
		catalog_reply_fenced(a->rq);
	else if (rows_get(r, 0, 1) == NULL)
		catalog_reply_no_table(a->rq, a->ns, a->name);
	else if (a->flag && drop_purge(a, rows_get(r, 0, 1), rows_get(r, 0, 2)))
		return;
	else
		reply_empty(a->rq, 204);
	ask_done(a);
}

void
tables_drop(struct request *rq)
{
	const char *purge = request_query(rq, "purgeRequested");
	struct fence f;
	struct ask *a;

	if (!catalog_may_write(rq) || (a = ask_table(rq)) == NULL)
		return;
	a->flag = purge && strcasecmp(purge, "true") == 0;
	fence_init(&f, rq->attempt);
	/* The namespace stays when its last table goes, also if it was never made by itself. */
	store_query(rq->app->store,
		    "WITH " SQL_FENCE("$4", "$5", "$6") ", gone AS ("
							"DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace "
							"= $2 AND table_name = $3 AND " SQL_IS_TABLE
							" AND (SELECT yes FROM fence) RETURNING metadata_location), stay AS ("
							"INSERT INTO iceberg_namespace_properties SELECT $1, $2, 'exists', "
							"'true' FROM gone ON CONFLICT DO NOTHING)"
							"SELECT fence.yes, gone.metadata_location, (SELECT count(*) FROM "
							"iceberg_tables o WHERE starts_with(o.metadata_location,"
							" regexp_replace(gone.metadata_location, '/metadata/[^/]*$', '/'))"
							" AND (o.catalog_name, o.table_namespace, o.table_name) <> ($1, $2, $3)) "
							"FROM fence LEFT JOIN gone ON true",
		    6, (const char *const[]){ a->catalog->name, a->ns, a->name, f.part[0], f.part[1], f.part[2] }, on_dropped, a);
	fence_release(&f);
}

/* ---- rename ---- */

static void
on_renamed(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL && e->code == ERR_CONFLICT)
		catalog_reply_error(a->rq, 409, "AlreadyExistsException",
				    "Table %s.%s cannot be renamed: there is something of the new name already", a->ns, a->name);
	else if (r == NULL)
		catalog_reply_err(a->rq, e);
	else if (strcmp(rows_get(r, 0, 0), "f") == 0)
		catalog_reply_fenced(a->rq);
	else if (strcmp(rows_get(r, 0, 1), "f") == 0)
		catalog_reply_error(a->rq, 404, "NoSuchNamespaceException",
				    "Table %s.%s cannot be renamed: namespace does not exist: %s", a->ns, a->name, a->to);
	else if (strcmp(rows_get(r, 0, 2), "0") == 0)
		catalog_reply_no_table(a->rq, a->ns, a->name);
	else
		reply_empty(a->rq, 204);
	ask_done(a);
}

void
tables_rename(struct request *rq)
{
	struct err e = ERR_INIT;
	json_t *body, *from, *to;
	char *ns, *new_ns = NULL;
	const char *name, *new_name;
	struct fence f;
	struct ask *a;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	from = json_object_get(body, "source");
	to = json_object_get(body, "destination");
	name = json_string_value(json_object_get(from, "name"));
	new_name = json_string_value(json_object_get(to, "name"));
	if ((ns = namespace_of_json(json_object_get(from, "namespace"), &e)) == NULL ||
	    (new_ns = namespace_of_json(json_object_get(to, "namespace"), &e)) == NULL || table_name_check(name, &e) < 0 ||
	    table_name_check(new_name, &e) < 0) {
		free(ns);
		free(new_ns);
		json_decref(body);
		catalog_reply_err(rq, &e);
		return;
	}
	a = ask_new(rq, ns, xstrdup(name));
	a->to = new_ns;
	fence_init(&f, rq->attempt);
	store_query(rq->app->store,
		    "WITH " SQL_FENCE("$6", "$7", "$8") ", there AS (SELECT " SQL_NAMESPACE_EXISTS(
			    "$1", "$4::text") " AS yes), moved AS ("
					      "UPDATE iceberg_tables SET table_namespace = $4, table_name = $5 WHERE "
					      "catalog_name = $1 AND table_namespace = $2"
					      " AND table_name = $3 AND " SQL_IS_TABLE
					      " AND (SELECT yes FROM fence) AND (SELECT yes FROM there) RETURNING 1), stay AS ("
					      "INSERT INTO iceberg_namespace_properties SELECT $1, $2, 'exists', 'true' FROM "
					      "moved ON CONFLICT DO NOTHING)"
					      "SELECT fence.yes, there.yes, (SELECT count(*) FROM moved) FROM fence, there",
		    8, (const char *const[]){ a->catalog->name, ns, name, new_ns, new_name, f.part[0], f.part[1], f.part[2] },
		    on_renamed, a);
	fence_release(&f);
	json_decref(body);
}
