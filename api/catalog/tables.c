/* Tables and views, but for what changes them (commit.c): list and load. */
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
static struct ask *
ask_kind(struct request *rq, bool view)
{
	struct err e = ERR_INIT;
	char *ns = namespace_of_param(rq->param[0], &e);
	struct ask *a;

	if (ns && table_name_check(rq->param[1], &e) == 0) {
		a = ask_new(rq, ns, xstrdup(rq->param[1]));
		a->view = view;
		return a;
	}
	free(ns);
	err_release(&e);
	catalog_reply_none(rq, view, rq->param[0], rq->param[1]);
	return NULL;
}

struct ask *
ask_table(struct request *rq)
{
	return ask_kind(rq, false);
}

struct ask *
ask_view(struct request *rq)
{
	return ask_kind(rq, true);
}

/* ---- list ---- */

/* The names of a page, which the run of whoever asks may see differently. */
struct listing {
	const char *kind;
	json_t *names;             /* object: name -> true */
	const char *after, *until; /* until NULL: to the end */
};

static void
page_see(void *arg, const char *name, const struct table_seen *seen)
{
	struct listing *p = arg;

	if (strcmp(name, p->after) <= 0 || (p->until && strcmp(name, p->until) > 0))
		return;
	if (seen->location && strcmp(seen->type, p->kind) == 0)
		json_object_set_new(p->names, name, json_true());
	else
		json_object_del(p->names, name);
}

static void
on_listed(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;
	const char *token = request_query(a->rq, "pageToken"), *name;
	struct listing listing = { .kind = kind_name(a->view), .after = token ? token : "" };
	json_t *list, *body, *yes;
	size_t n;

	if (r == NULL) {
		catalog_reply_err(a->rq, e);
	} else if (strcmp(rows_get(r, 0, 0), "f") == 0) {
		catalog_reply_no_namespace(a->rq, a->ns);
	} else {
		list = json_array();
		n = rows_get(r, 0, 1) ? rows_count(r) : 0;
		listing.names = json_object();
		for (size_t i = 0; i < n && (long)i < a->limit; i++)
			json_object_set_new(listing.names, rows_get(r, i, 1), json_true());
		if ((long)n > a->limit)
			listing.until = rows_get(r, (size_t)a->limit - 1, 1);
		sched_tables_seen(a->rq->app->sched, a->rq->attempt, a->ns, page_see, &listing);
		json_object_foreach (listing.names, name, yes)
			json_array_append_new(list, json_pack("{s:o,s:s}", "namespace", namespace_json(a->ns), "name", name));
		json_decref(listing.names);
		body = json_pack("{s:o}", "identifiers", list);
		if (listing.until)
			json_object_set_new(body, "next-page-token", json_string(listing.until));
		reply_json(a->rq, 200, body);
	}
	ask_done(a);
}

static void
kind_list(struct request *rq, bool view)
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
	a->view = view;
	a->limit = page.limit;
	store_query(rq->app->store,
		    "SELECT " SQL_NAMESPACE_EXISTS(
			    "$1", "$2::text") ", l.name FROM (SELECT 1) one LEFT JOIN ("
					      "  SELECT table_name COLLATE \"C\" AS name FROM iceberg_tables WHERE catalog_name "
					      "= $1 AND table_namespace = $2"
					      "  AND " SQL_KIND(
						      "$5") ") l ON l.name > $3 COLLATE \"C\" ORDER BY l.name LIMIT $4::bigint",
		    5, (const char *const[]){ a->catalog->name, ns, page.token, page.param, kind_name(a->view) }, on_listed, a);
}

void
tables_list(struct request *rq)
{
	kind_list(rq, false);
}

void
views_list(struct request *rq)
{
	kind_list(rq, true);
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

static void
reply_loaded(struct request *rq, const struct meta *m, bool config)
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

/* An answer that waits for keys. */
struct loaded {
	struct request *rq;
	struct meta *m;
};

static void
loaded_reply(void *arg)
{
	struct loaded *l = arg;

	reply_loaded(l->rq, l->m, true);
	meta_unref(l->m);
	free(l);
}

void
tables_reply(struct request *rq, struct meta *m, bool config)
{
	const char *location = json_string_value(json_object_get(m->json, "location"));
	struct loaded *l;

	if (change_asked(rq)) {
		change_reply(rq, m);
	} else if (config && access_must_wait(location, request_header(rq, "X-Iceberg-Access-Delegation"))) {
		l = xcalloc(1, sizeof(*l));
		l->rq = rq;
		l->m = meta_ref(m);
		access_wait(rq->app->catalog, loaded_reply, l);
	} else {
		reply_loaded(rq, m, config);
	}
}

/* A file that is being read for a request. */
struct reading {
	struct work work;
	struct ask *ask;
	char *location, *text;
	size_t len;
	json_t *json;
	struct err e;
};

static void
reading_work(struct work *w)
{
	struct reading *rd = w->data;

	if (warehouse_read(rd->location, &rd->text, &rd->len, &rd->json, &rd->e) < 0)
		rd->text = NULL;
}

static void
on_read(struct work *w, int status)
{
	struct reading *rd = w->data;
	struct ask *a = rd->ask;
	struct meta *m;

	if (status < 0 && rd->e.code == 0)
		err_set(&rd->e, ERR_INTERNAL, "%s", uv_strerror(status));
	if (rd->e.code) {
		err_prefix(&rd->e, "%s %s.%s", a->view ? "view" : "table", a->ns, a->name);
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

/* Answers with the table whose metadata lies there; NULL: no such table. */
static void
ask_load(struct ask *a, const char *location)
{
	struct reading *rd;
	struct meta *m;

	if (location == NULL) {
		catalog_reply_none(a->rq, a->view, a->ns, a->name);
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
		work_queue(a->catalog->app->loop, &rd->work, storage_remote(location), reading_work, on_read);
		return;
	}
	ask_done(a);
}

static void
on_pointer(void *arg, const struct rows *r, struct err *e)
{
	struct ask *a = arg;

	if (r == NULL) {
		catalog_reply_err(a->rq, e);
		ask_done(a);
	} else {
		ask_load(a, rows_count(r) ? rows_get(r, 0, 0) : NULL);
	}
}

static void
kind_load(struct ask *a)
{
	struct request *rq = a->rq;
	struct table_seen seen;

	if (rq->attempt && sched_table_seen(rq->app->sched, rq->attempt, a->ns, a->name, &seen))
		ask_load(a, seen.location && strcmp(seen.type, kind_name(a->view)) == 0 ? seen.location : NULL);
	else
		store_query(rq->app->store,
			    "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2"
			    " AND table_name = $3 AND " SQL_KIND("$4"),
			    4, (const char *const[]){ a->catalog->name, a->ns, a->name, kind_name(a->view) }, on_pointer, a);
}

void
views_load(struct request *rq)
{
	struct ask *a = ask_view(rq);

	if (a)
		kind_load(a);
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
		kind_load(a);
}
