/* The catalog's own state and manners: the cache of metadata, names, errors. */
#include "api/catalog/catalog.h"

#include <limits.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/catalog_int.h"
#include "base/alloc.h"
#include "base/log.h"
#include "scheduler/alarm.h"

/* Parsed JSON takes several times its text. */
#define CACHE_MAX       (96u << 20)
#define CACHE_COST(len) ((len)*7 + 512)
#define CACHE_IDLE      (30 * US_PER_S)
#define NAME_MAX_BYTES  255
#define POINTERS_MAX    4096
#define PAGE_SIZE       1000 /* for a client that wants pages of no particular size */

struct catalog *
catalog_new(struct app *app, struct err *e)
{
	const char *name = config_get(app->config, "catalog.name"), *warehouse = config_get(app->config, "catalog.warehouse");
	struct catalog *c;
	size_t n;

	if (config_foreign(app->config)) { /* its name for the warehouse is none of ours */
		warehouse = "";
	} else if (warehouse == NULL || *warehouse == '\0') {
		err_set(e, ERR_INVALID, "the config has no catalog.warehouse: the folder where the tables lie");
		return NULL;
	}
	if (warehouse_open(json_object_get(app->config->json, "s3"), e) < 0)
		return NULL;
	c = xcalloc(1, sizeof(*c));
	c->refs = 1;
	c->app = app;
	c->name = xstrdup(name && *name ? name : "local");
	c->warehouse = xstrdup(warehouse);
	for (n = strlen(c->warehouse); n > 1 && c->warehouse[n - 1] == '/' && c->warehouse[n - 2] != '/'; n--)
		c->warehouse[n - 1] = '\0';
	list_init(&c->lru);
	list_init(&c->jobs);
	list_init(&c->swaps);
	sched_on_moved(app->sched, catalog_rebase, c);
	sched_on_shadowed(app->sched, compare_shadow, c);
	c->cleanup = cleanup_new(c);
	c->gauges = gauges_new(c);
	return c;
}

struct catalog *
catalog_ref(struct catalog *c)
{
	c->refs++;
	return c;
}

static void
cache_drop(struct catalog *c, struct meta *m)
{
	HASH_DEL(c->cached, m);
	list_remove(&m->lru);
	c->bytes -= CACHE_COST(m->len);
	meta_unref(m);
}

static void
cache_clear(struct catalog *c)
{
	LIST_FOR_EACH (it, &c->lru)
		cache_drop(c, LIST_ENTRY(it, struct meta, lru));
}

static void pointer_drop(struct catalog *c, struct pointer *p);

void
catalog_unref(struct catalog *c)
{
	if (--c->refs)
		return;
	cache_clear(c);
	while (c->pointers)
		pointer_drop(c, c->pointers);
	free(c->name);
	free(c->warehouse);
	free(c);
}

void
catalog_free(struct catalog *c)
{
	if (c == NULL)
		return;
	c->closing = true;
	alarm_cancel(&c->idle);
	cleanup_free(c->cleanup); /* the scheduler is closed: nothing that it waits for will come */
	gauges_free(c->gauges);
	catalog_unref(c);
}

/* ---- metadata in memory ---- */

void
meta_unref(struct meta *m)
{
	if (m == NULL || --m->refs)
		return;
	free(m->location);
	free(m->text);
	json_decref(m->json);
	free(m);
}

struct meta *
meta_ref(struct meta *m)
{
	m->refs++;
	return m;
}

/* Nobody asked for half a minute: the memory is worth more than reading a file again. */
static void
cache_idle(void *arg)
{
	struct catalog *c = arg;

	if (c->used) {
		c->used = false;
		alarm_set(&c->idle, c->app->loop, CACHE_IDLE, cache_idle, c);
		return;
	}
	cache_clear(c);
	malloc_trim(0);
}

struct meta *
meta_cached(struct catalog *c, const char *location)
{
	struct meta *m;

	c->used = true;
	HASH_FIND_STR(c->cached, location, m);
	if (m == NULL)
		return NULL;
	list_remove(&m->lru);
	list_append(&c->lru, &m->lru);
	m->refs++;
	return m;
}

struct meta *
meta_new(const char *location, char *text, size_t len, json_t *json)
{
	struct meta *m = xcalloc(1, sizeof(*m));

	m->refs = 1;
	m->location = xstrdup(location);
	m->text = text;
	m->len = len;
	m->json = json;
	list_init(&m->lru);
	return m;
}

struct meta *
meta_keep(struct catalog *c, const char *location, char *text, size_t len, json_t *json)
{
	struct meta *m = meta_cached(c, location);

	if (m) { /* two requests read it at the same time */
		free(text);
		json_decref(json);
		return m;
	}
	m = meta_new(location, text, len, json);
	if (CACHE_COST(len) > CACHE_MAX)
		return m;
	while (c->bytes + CACHE_COST(len) > CACHE_MAX)
		cache_drop(c, LIST_ENTRY(c->lru.next, struct meta, lru));
	if (c->idle == NULL && !c->closing)
		alarm_set(&c->idle, c->app->loop, CACHE_IDLE, cache_idle, c);
	HASH_ADD_KEYPTR(hh, c->cached, m->location, strlen(m->location), m);
	list_append(&c->lru, &m->lru);
	c->bytes += CACHE_COST(len);
	m->refs++;
	return m;
}

/* ---- where tables stood ---- */

static char *
pointer_key(bool view, const char *ns, const char *name)
{
	return xasprintf("%c%s\x1f%s", view ? 'v' : 't', ns, name);
}

const char *
pointer_known(struct catalog *c, bool view, const char *ns, const char *name)
{
	char *key = pointer_key(view, ns, name);
	struct pointer *p;

	HASH_FIND_STR(c->pointers, key, p);
	free(key);
	return p ? p->location : NULL;
}

static void
pointer_drop(struct catalog *c, struct pointer *p)
{
	HASH_DEL(c->pointers, p);
	free(p->key);
	free(p->location);
	free(p);
}

void
pointer_keep(struct catalog *c, bool view, const char *ns, const char *name, const char *location)
{
	char *key = pointer_key(view, ns, name);
	struct pointer *p;

	HASH_FIND_STR(c->pointers, key, p);
	if (p)
		pointer_drop(c, p);
	if (location == NULL) {
		free(key);
		return;
	}
	if (HASH_COUNT(c->pointers) >= POINTERS_MAX)
		pointer_drop(c, c->pointers); /* the oldest */
	p = xcalloc(1, sizeof(*p));
	p->key = key;
	p->location = xstrdup(location);
	HASH_ADD_KEYPTR(hh, c->pointers, p->key, strlen(p->key), p);
}

/* ---- names ---- */

static bool
is_text(const char *s)
{
	json_t *j = json_string(s); /* NULL when it is not UTF-8 */

	json_decref(j);
	return j != NULL;
}

static int
level_check(const char *level, struct err *e)
{
	if (*level == '\0' || strlen(level) > NAME_MAX_BYTES)
		return err_set(e, ERR_INVALID, "a level of a namespace must have 1 to %d bytes", NAME_MAX_BYTES);
	if (!is_text(level))
		return err_set(e, ERR_INVALID, "the namespace is not UTF-8");
	for (const char *p = level; *p; p++)
		if (*p == '/' || (unsigned char)*p < ' ' || *p == 127)
			return err_set(e, ERR_INVALID, "the namespace level \"%s\" must have no / and no control characters",
				       level);
	return 0;
}

/* Of a dotted name: every level must be one. */
static char *
namespace_checked(char *ns, struct err *e)
{
	const char *p = ns;
	int rc = 0;

	while (rc == 0) {
		size_t n = strcspn(p, ".");
		char *level = xstrndup(p, n);

		rc = level_check(level, e);
		free(level);
		p += n;
		if (*p++ == '\0')
			break;
	}
	if (rc == 0 && strlen(ns) > NAME_MAX_BYTES)
		rc = err_set(e, ERR_INVALID, "the namespace \"%s\" is longer than %d bytes", ns, NAME_MAX_BYTES);
	if (rc == 0)
		return ns;
	free(ns);
	return NULL;
}

char *
namespace_of_param(const char *param, struct err *e)
{
	char *ns = xstrdup(param);

	for (char *p = ns; *p; p++)
		if (*p == 0x1f)
			*p = '.';
	return namespace_checked(ns, e);
}

char *
namespace_of_json(const json_t *levels, struct err *e)
{
	struct buf b = BUF_INIT;
	const json_t *v;
	size_t i;

	if (!json_is_array(levels) || json_array_size(levels) == 0) {
		err_set(e, ERR_INVALID, "\"namespace\" must be a list with at least one level");
		return NULL;
	}
	json_array_foreach (levels, i, v) {
		if (!json_is_string(v)) {
			err_set(e, ERR_INVALID, "the levels of \"namespace\" must be strings");
			buf_release(&b);
			return NULL;
		}
		if (i)
			buf_addc(&b, '.');
		buf_adds(&b, json_string_value(v));
	}
	return namespace_checked(buf_detach(&b), e);
}

const char *
kind_name(bool view)
{
	return view ? "VIEW" : "TABLE";
}

json_t *
namespace_json(const char *ns)
{
	json_t *levels = json_array();

	for (const char *p = ns;; p++) {
		size_t n = strcspn(p, ".");

		json_array_append_new(levels, json_stringn(p, n));
		p += n;
		if (*p == '\0')
			return levels;
	}
}

int
table_name_check(const char *name, struct err *e)
{
	if (name == NULL || *name == '\0' || strlen(name) > NAME_MAX_BYTES)
		return err_set(e, ERR_INVALID, "a table's \"name\" must have 1 to %d bytes", NAME_MAX_BYTES);
	if (!is_text(name))
		return err_set(e, ERR_INVALID, "the table's name is not UTF-8");
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(e, ERR_INVALID, "a table cannot be named \"%s\"", name);
	for (const char *p = name; *p; p++)
		if (*p == '/' || (unsigned char)*p < ' ' || *p == 127)
			return err_set(e, ERR_INVALID, "the table name \"%s\" must have no / and no control characters", name);
	return 0;
}

/* ---- answers ---- */

void
catalog_reply_error(struct request *rq, int status, const char *type, const char *fmt, ...)
{
	struct buf shown = BUF_INIT;
	json_t *text;
	char *message;
	va_list ap;

	va_start(ap, fmt);
	message = xvasprintf(fmt, ap);
	va_end(ap);
	buf_add_visible(&shown, message, strlen(message));
	if (status >= 500 && status != 503) /* that the database is away is said once, by the store */
		log_warn("catalog: %s %s: %s", rq->method, rq->path, shown.s);
	if (status == 503)
		reply_header(rq, "Retry-After", "2");
	text = json_string(message);
	if (text == NULL) /* a name in it is not UTF-8 */
		text = json_string(shown.s);
	if (change_asked(rq))
		change_reply_error(rq, status, json_string_value(text));
	else
		reply_json(rq, status,
			   json_pack("{s:{s:O,s:s,s:i,s:[]}}", "error", "message", text, "type", type, "code", status, "stack"));
	json_decref(text);
	buf_release(&shown);
	free(message);
}

void
catalog_reply_err(struct request *rq, struct err *e)
{
	static const struct {
		int code, status;
		const char *type;
	} map[] = {
		{ ERR_INVALID, 400, "BadRequestException" },
		{ ERR_UNAUTHORIZED, 401, "NotAuthorizedException" },
		{ ERR_FORBIDDEN, 403, "ForbiddenException" },
		{ ERR_NOT_FOUND, 404, "NotFoundException" },
		{ ERR_CONFLICT, 409, "CommitFailedException" },
		{ ERR_UNPROCESSABLE, 422, "UnprocessableEntityException" },
		{ ERR_UNSUPPORTED, 501, "UnsupportedOperationException" },
		{ ERR_UNAVAILABLE, 503, "ServiceUnavailableException" },
	};
	int status = 500;
	const char *type = "InternalServerError";

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (map[i].code == e->code) {
			status = map[i].status;
			type = map[i].type;
		}
	catalog_reply_error(rq, status, type, "%s", e->msg ? e->msg : err_title(e->code));
	err_release(e);
}

void
catalog_reply_no_namespace(struct request *rq, const char *ns)
{
	catalog_reply_error(rq, 404, "NoSuchNamespaceException", "Namespace does not exist: %s", ns);
}

void
catalog_reply_none(struct request *rq, bool view, const char *ns, const char *name)
{
	if (view)
		catalog_reply_error(rq, 404, "NoSuchViewException", "View does not exist: %s.%s", ns, name);
	else
		catalog_reply_no_table(rq, ns, name);
}

void
catalog_reply_no_table(struct request *rq, const char *ns, const char *name)
{
	catalog_reply_error(rq, 404, "NoSuchTableException", "Table does not exist: %s.%s", ns, name);
}

void
catalog_reply_fenced(struct request *rq)
{
	catalog_reply_error(rq, 403, "ForbiddenException",
			    "attempt %s is no longer current: it was ended or given up, and can write to no table any more",
			    rq->attempt);
}

json_t *
catalog_body(struct request *rq)
{
	json_error_t je;
	json_t *body = json_loadb(rq->body.s, rq->body.len, 0, &je);

	if (body == NULL)
		catalog_reply_error(rq, 400, "BadRequestException", "the body is not JSON: line %d, column %d: %s", je.line,
				    je.column, je.text);
	else if (!json_is_object(body))
		catalog_reply_error(rq, 400, "BadRequestException", "the body must be a JSON object");
	else
		return body;
	json_decref(body);
	return NULL;
}

bool
catalog_may_write(struct request *rq)
{
	if (rq->attempt == NULL || strncmp(rq->attempt, "adhoc/", 6) != 0)
		return true;
	catalog_reply_error(rq, 403, "ForbiddenException",
			    "ad hoc queries may only read: write to tables from a flow, or with a token of your own");
	return false;
}

bool
page_init(struct page *p, struct request *rq)
{
	const char *token = request_query(rq, "pageToken"), *size = request_query(rq, "pageSize");
	char *end = NULL;

	p->limit = size ? strtol(size, &end, 10) : PAGE_SIZE;
	if (p->limit < 1 || (size && (*size == '\0' || *end || p->limit > INT32_MAX))) {
		catalog_reply_error(rq, 400, "BadRequestException", "\"pageSize\" must be a whole number from 1, not \"%s\"",
				    size);
		return false;
	}
	snprintf(p->text, sizeof(p->text), "%ld", p->limit + 1);
	p->token = token ? token : "";
	p->param = token ? p->text : NULL;
	if (token == NULL)
		p->limit = LONG_MAX;
	return true;
}

/* ---- who writes, and waiting ---- */

void
fence_init(struct fence *f, const char *attempt)
{
	char *p;

	memset(f, 0, sizeof(*f));
	if (attempt == NULL)
		return;
	p = f->text = xstrdup(attempt);
	for (int i = 0; i < 3; i++) {
		f->part[i] = p;
		p += strcspn(p, "/");
		if (*p)
			*p++ = '\0';
	}
	if (*f->part[2] == '\0') /* not of a run: never current */
		f->part[2] = "0";
}

void
fence_release(struct fence *f)
{
	free(f->text);
}

struct ask *
ask_new(struct request *rq, char *ns, char *name)
{
	struct ask *a = xcalloc(1, sizeof(*a));

	a->catalog = catalog_ref(rq->app->catalog);
	a->rq = rq;
	a->ns = ns;
	a->name = name;
	return a;
}

void
ask_done(struct ask *a)
{
	catalog_unref(a->catalog);
	free(a->ns);
	free(a->name);
	free(a->to);
	free(a);
}
