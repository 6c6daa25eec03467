/*
 * A stage task's source of format http: the records of a JSON API, page by page put aside as JSON lines, then read as a file is.
 * An attempt goes on behind the last whole page of an earlier one that asked for the same.
 */
#include "tasks/stage_http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/sha256.h"
#include "base/units.h"
#include "tasks/json_record.h"
#include "tasks/engines/duckdb.h"
#include "tasks/report.h"
#include "tasks/stage_int.h"
#include "tasks/web.h"

#define TRIES        5
#define INTERVAL     US_PER_S
#define INTERVAL_MAX US_PER_MIN
#define TIMEOUT      US_PER_MIN
#define ANSWER_MAX   ((int64_t)64 << 20)
#define FLUSH        ((size_t)1 << 20)
#define OBJECT_MIN   ((int64_t)16 << 20) /* the engine's own default */
#define PROGRESS     US_PER_S

struct stage_http {
	struct stage *st;
	struct web *web;
	struct paging p;
	struct kept kept;
	char *shown; /* the url, with secrets hidden */
	char *body;  /* of every request */
	const char *body_type;
	json_t *texts;  /* set of the columns that are read as text: the task asks for another type than the engine would take */
	int64_t halves; /* of characters, see json_text_add */
	mono_us told;
};

static const json_t *
source_key(const struct stage *st, const char *key)
{
	return json_object_get(st->source, key);
}

static int64_t
whole(const json_t *object, const char *key, int64_t otherwise)
{
	const json_t *v = json_object_get(object, key);

	return json_is_integer(v) ? (int64_t)json_integer_value(v) : otherwise;
}

/* ---- life ---- */

static int
open_web(struct stage *st, struct stage_http *h)
{
	const json_t *retry = source_key(st, "retry");
	const char *rate = stage_source_text(st, "rate_limit", NULL);
	struct web_settings set = {
		.max_attempts = (int)whole(retry, "max_attempts", TRIES),
		.interval = whole(retry, "interval", INTERVAL),
		.max_interval = whole(retry, "max_interval", INTERVAL_MAX),
		.timeout = whole(st->source, "timeout", TIMEOUT),
		.max_answer = (size_t)whole(st->source, "max_answer", ANSWER_MAX),
		.ca = stage_source_text(st, "ca", NULL),
		.hide = json_object_get(st->cx->doc, "hide"),
	};

	if (rate && rate_parse(rate, &set.rate, &set.rate_per) < 0)
		return task_fail_at(st->cx, "source/rate_limit", "source.rate_limit must be such as 40/10s or 5/s, not \"%s\"",
				    rate);
	h->web = web_new(&set, &st->cx->err);
	return h->web ? 0 : -1;
}

/* What is the same for all pages. */
static void
prepare_body(struct stage *st, struct stage_http *h)
{
	const json_t *body = source_key(st, "body");

	if (body == NULL)
		return;
	h->body = json_is_string(body) ? xstrdup(json_string_value(body)) : json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);
	h->body_type = json_is_string(body) ? "text/plain; charset=utf-8" : "application/json";
}

int
stage_http_begin(struct stage *st)
{
	const char *url = stage_source_text(st, "url", NULL);
	struct stage_http *h = xcalloc(1, sizeof(*h));
	char *clean;

	st->http = h;
	h->st = st;
	h->kept.data = h->kept.log = -1;
	if (url == NULL)
		return task_fail(st->cx, ERR_INVALID, "source.format http needs source.url");
	if (open_web(st, h) < 0)
		return -1;
	if ((clean = web_resolve(url, url)) == NULL) {
		char *hidden = web_hidden(h->web, url);
		int rc = task_fail_at(
			st->cx, "source/url",
			"source.url \"%s\" is no address for HTTP; does a value in it need to be in params, where it is "
			"encoded?",
			hidden);

		free(hidden);
		return rc;
	}
	free(clean);
	h->shown = web_hidden(h->web, url);
	json_array_append_new(st->files, json_string(h->shown));
	st->files_in = -1;
	prepare_body(st, h);
	h->texts = stage_texts(st);
	paging_init(&h->p, source_key(st, "pagination"));
	return 0;
}

void
stage_http_release(struct stage *st)
{
	struct stage_http *h = st->http;

	if (h == NULL)
		return;
	web_free(h->web);
	if (h->p.seen)
		paging_release(&h->p);
	kept_release(&h->kept);
	json_decref(h->texts);
	free(h->shown);
	free(h->body);
	free(h);
	st->http = NULL;
}

/* ---- what is kept ---- */

/* All that decides which records come, and how they are kept; not how patiently they are asked for. */
static void
request_digest(const struct stage *st, char out[SHA256_HEX])
{
	static const char *const keys[] = { "url", "method", "headers", "params", "body", "records", "pagination", "columns" },
				 *const own[] = { "cast", "schema" }; /* see json_record_add */
	json_t *request = json_object();
	char *text;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (source_key(st, keys[i]))
			json_object_set(request, keys[i], (json_t *)(uintptr_t)source_key(st, keys[i]));
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (json_object_get(st->cx->spec, own[i]))
			json_object_set(request, own[i], json_object_get(st->cx->spec, own[i]));
	text = json_dumps(request, JSON_COMPACT | JSON_SORT_KEYS);
	sha256_hex(text, strlen(text), out);
	explicit_bzero(text, strlen(text));
	free(text);
	json_decref(request);
}

static int
open_kept(struct stage *st, struct stage_http *h)
{
	const char *folder = json_is_false(source_key(st, "resume")) ? NULL : doc_text(st->cx, "kept");
	char digest[SHA256_HEX], *own = xasprintf("%s/pages", doc_text(st->cx, "scratch"));
	int rc;

	request_digest(st, digest);
	rc = kept_open(&h->kept, folder ? folder : own, digest, &h->p, &st->cx->err);
	if (rc == 1) { /* one that was given up and still lives: it cannot commit, but it can write there */
		kept_release(&h->kept);
		rc = kept_open(&h->kept, own, digest, &h->p, &st->cx->err);
	}
	free(own);
	if (rc == 0 && h->p.pages)
		printf("%lld pages with %lld records are there from an earlier attempt\n", (long long)h->p.pages,
		       (long long)h->p.records);
	return rc < 0 ? -1 : 0;
}

/* ---- a page ---- */

/* The list of records; a single object is one record. */
static int
find_records(const struct stage_http *h, struct json_text answer, struct json_text *list)
{
	struct stage *st = h->st;
	const char *path = stage_source_text(st, "records", NULL);
	char *why;

	if (!json_text_find(answer, path, list, NULL)) {
		why = paging_missing(answer, path);
		task_fail_at(st->cx, "source/records", "source.records: %s", why);
		free(why);
		return -1;
	}
	if (*list->s == '[' || (*list->s == '{' && (path || h->p.type == PAGING_NONE)))
		return 0;
	if (path)
		return task_fail_at(st->cx, "source/records", "source.records: \"%s\" is %s, not a list of records", path,
				    json_text_kind(*list));
	why = paging_missing(answer, "");
	task_fail(st->cx, ERR_UNPROCESSABLE,
		  "the answer is no list of records but %s; source.records says where in it the list is (%s)",
		  json_text_kind(answer), strchr(why, ':') ? strchr(why, ':') + 2 : why);
	free(why);
	return -1;
}

static int
keep_record(struct stage_http *h, struct json_text record, int64_t number, struct buf *lines)
{
	size_t from = lines->len;

	if (*record.s != '{')
		return task_fail(h->st->cx, ERR_UNPROCESSABLE, "record %lld is %s, not an object", (long long)number,
				 json_text_kind(record));
	h->halves += (int64_t)json_record_add(lines, record, h->texts, NULL);
	buf_addc(lines, '\n');
	if ((int64_t)(lines->len - from) > h->kept.longest)
		h->kept.longest = (int64_t)(lines->len - from);
	if (lines->len < FLUSH)
		return 0;
	if (kept_write(&h->kept, lines, &h->st->cx->err) < 0)
		return -1;
	buf_clear(lines);
	return 0;
}

/* Puts the page's records aside and counts them. */
static int
keep_records(struct stage_http *h, struct json_text list, int64_t *count)
{
	struct buf lines = BUF_INIT;
	struct json_text record;
	size_t at = 0;
	int rc = 0;

	*count = 0;
	if (*list.s == '{')
		rc = keep_record(h, list, ++*count, &lines);
	while (rc == 0 && *list.s == '[' && json_text_next(list, &at, NULL, &record))
		rc = keep_record(h, record, ++*count, &lines);
	if (rc == 0)
		rc = kept_write(&h->kept, &lines, &h->st->cx->err);
	buf_release(&lines);
	return rc;
}

static int
take_page(struct stage_http *h, const struct web_answer *a)
{
	struct err *e = &h->st->cx->err;
	struct json_text list;
	int64_t count;

	if (find_records(h, a->json, &list) < 0 || keep_records(h, list, &count) < 0 ||
	    paging_step(&h->p, a->json, list, count, a->next, a->url, e) < 0)
		return -1;
	if (kept_page(&h->kept, paging_state(&h->p), e) < 0)
		return -1;
	FAULT("stage.page.kept");
	return 0;
}

/* An error of the page's is told with its place; nothing of it is kept. */
static int
fail_page(struct stage_http *h, const char *name, bool asked)
{
	struct context *cx = h->st->cx;
	struct err e = ERR_INIT;
	char *hidden;

	if (asked)
		err_prefix(&cx->err, "%s, %s", h->shown, name);
	else
		err_prefix(&cx->err, "%s", name);
	hidden = web_hidden(h->web, cx->err.msg); /* what the API says of itself may repeat what it was told */
	err_set(&cx->err, cx->err.code, "%s", hidden);
	free(hidden);
	if (h->kept.data >= 0 && kept_drop(&h->kept, &e) < 0)
		err_release(&e);
	return -1;
}

static int
fetch_page(struct stage_http *h)
{
	struct stage *st = h->st;
	char *url = paging_url(&h->p, st->source), *name = paging_name(&h->p);
	struct web_request r = {
		.method = stage_source_text(st, "method", h->body ? "POST" : "GET"),
		.url = url,
		.headers = source_key(st, "headers"),
		.home = stage_source_text(st, "url", NULL),
		.body = h->body,
		.type = h->body_type,
	};
	struct web_answer a = { .body = BUF_INIT };
	bool final = false;
	int rc = 0;

	if (web_ask(h->web, &r, &a, &final, &st->cx->err) < 0) {
		st->cx->final = final;
		rc = fail_page(h, name, false);
	} else if (take_page(h, &a) < 0) {
		rc = fail_page(h, name, true);
	}
	web_answer_release(&a);
	free(url);
	free(name);
	return rc;
}

/* ---- all pages ---- */

/* Where nothing leaves a record out, no more have to be fetched than the limit takes. */
static int64_t
records_enough(const struct stage *st)
{
	static const char *const filters[] = { "where", "sql" };
	const json_t *limit = json_object_get(st->cx->spec, "limit");

	for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
		if (json_object_get(st->cx->spec, filters[i]))
			return -1;
	if (!json_is_integer(limit) || st->on_reject != REJECT_FAIL)
		return -1;
	return json_integer_value(limit) > 0 ? (int64_t)json_integer_value(limit) : 1; /* one tells the columns */
}

static void
tell_progress(struct stage_http *h, bool last)
{
	int64_t total = paging_total_pages(&h->p);
	mono_us now = clock_mono();
	json_t *progress;

	if (!last && h->told && now - h->told < PROGRESS)
		return;
	h->told = now;
	progress = json_pack("{s:I}", "done", (json_int_t)h->p.pages);
	json_object_set_new(progress, "total", total < 0 ? json_null() : json_integer((json_int_t)total));
	json_object_set_new(progress, "message",
			    json_sprintf("%lld pages, %lld records", (long long)h->p.pages, (long long)h->p.records));
	report("progress", progress);
}

static void
report_fetched(const struct stage_http *h)
{
	const struct web_counts *c = web_counts(h->web);

	report("metrics", json_pack("{s:I,s:I,s:I,s:I,s:I}", "pages", (json_int_t)h->p.pages, "requests", (json_int_t)c->requests,
				    "requests_repeated", (json_int_t)c->repeated, "requests_waited_us", (json_int_t)c->waited,
				    "bytes_in", (json_int_t)c->bytes));
	if (h->halves)
		printf("%lld halves of a character (\\ud83d alone) stand in texts of the API; U+FFFD is in their place\n",
		       (long long)h->halves);
	printf("%lld records of %lld pages of %s, %lld requests\n", (long long)h->p.records, (long long)h->p.pages, h->shown,
	       (long long)c->requests);
}

static int
fetch(struct stage *st, struct stage_http *h)
{
	int64_t enough = records_enough(st);
	int rc = open_kept(st, h);

	while (rc == 0 && !h->p.ended && (enough < 0 || h->p.records < enough)) {
		tell_progress(h, false);
		rc = fetch_page(h);
	}
	if (rc == 0 && !h->p.ended)
		printf("limit is reached: no more pages are asked for\n");
	tell_progress(h, true);
	report_fetched(h);
	return rc;
}

/* ---- reading them ---- */

/* Is there a value of that very name? 1, 0, or -1 with the error set. */
static int
any_record_has(const struct stage_http *h, const char *call, const char *name)
{
	struct buf sql = BUF_INIT;
	int64_t some;

	buf_addf(&sql, "SELECT count(*) FROM (SELECT 1 FROM %s, columns = {", call);
	buf_add_sql_string(&sql, name);
	buf_adds(&sql, ": 'JSON'}) WHERE ");
	buf_add_sql_name(&sql, name);
	buf_adds(&sql, " IS NOT NULL LIMIT 1)");
	some = duck_count(h->st->cx->db, sql.s, &h->st->cx->err);
	buf_release(&sql);
	return some < 0 ? -1 : some > 0;
}

/*
 * Names that differ in case alone are one to SQL, so the engine calls the second of Name and name name_1: which would be a
 * column that no record has.
 */
static int
check_names(const struct stage_http *h, const char *call, json_t *types)
{
	const char *name, *other;
	json_t *type;
	void *it;

	json_object_foreach (types, name, type)
		for (it = json_object_iter(types); it; it = json_object_iter_next(types, it)) {
			size_t n;

			other = json_object_iter_key(it);
			n = strlen(other);
			if (strlen(name) <= n + 1 || strncasecmp(name, other, n) != 0 || name[n] != '_' ||
			    strncmp(name, other, n) == 0 || name[n + 1 + strspn(name + n + 1, "0123456789")] != '\0')
				continue;
			switch (any_record_has(h, call, name)) {
			case 1:
				continue;
			case 0:
				return task_fail(h->st->cx, ERR_UNPROCESSABLE,
						 "records have the fields \"%s\" and \"%.*s\", which are one name to SQL", other,
						 (int)n, name);
			default:
				return -1;
			}
		}
	return 0;
}

/* Columns as the records have them: name -> type. */
static json_t *
inferred(const struct stage_http *h, const char *call)
{
	json_t *types = json_object(), *columns, *column;
	char *query;
	size_t i;

	if (h->p.records == 0)
		return types;
	query = xasprintf("SELECT * FROM %s, sample_size = -1)", call);
	columns = duck_describe(h->st->cx->db, query, &h->st->cx->err);
	free(query);
	if (columns == NULL) {
		json_decref(types);
		return NULL;
	}
	json_array_foreach (columns, i, column)
		json_object_set(types, json_string_value(json_object_get(column, "name")), json_object_get(column, "type"));
	json_decref(columns);
	if (check_names(h, call, types) < 0) {
		json_decref(types);
		return NULL;
	}
	return types;
}

/* Columns that the task names and no record has: an API may leave out what is empty, so they are NULL; but that is told. */
static void
add_absent(const struct stage_http *h, json_t *types)
{
	const json_t *maps[] = { source_key(h->st, "columns"), json_object_get(h->st->cx->spec, "schema") };
	json_t *names = json_array(), *type;
	const char *name, *near;

	json_object_foreach (types, name, type)
		json_array_append_new(names, json_string(name));
	for (size_t i = 0; i < 2; i++)
		json_object_foreach ((json_t *)(uintptr_t)maps[i], name, type) {
			if (json_object_get(types, name))
				continue;
			near = task_nearest(names, name);
			if (h->p.records)
				printf("no record has \"%s\": the column is NULL%s%s%s\n", name, near ? "; there is \"" : "",
				       near ? near : "", near ? "\"" : "");
			json_object_set_new(types, name, json_string("JSON"));
		}
	json_decref(names);
}

/* The records as a subquery: what is to become a type of the task's is handed on as the text that the API wrote. */
static void
add_rows(const struct stage_http *h, const char *call, const json_t *types, struct buf *plain)
{
	struct buf columns = BUF_INIT;
	const char *name, *sep = "";
	json_t *type;

	buf_adds(plain, "(SELECT ");
	json_object_foreach ((json_t *)(uintptr_t)types, name, type) {
		const char *asked = stage_asked_type(h->st, name), *has = json_string_value(type);
		bool text = asked ? json_object_get(h->texts, name) != NULL : strcmp(has, "JSON") == 0;

		buf_adds(&columns, sep);
		buf_add_sql_string(&columns, name);
		buf_adds(&columns, ": ");
		buf_add_sql_string(&columns, asked ? "JSON" : has);
		buf_adds(plain, sep);
		buf_add_sql_name(plain, name);
		if (text) { /* also where records differ in what the field is */
			buf_adds(plain, " ->> '$' AS ");
			buf_add_sql_name(plain, name);
		}
		sep = ", ";
	}
	buf_addf(plain, " FROM %s, columns = {%s}))", call, columns.s);
	buf_release(&columns);
}

/* The place of a row, for rejects: the page and the number of the record in it. */
static int
add_traced(const struct stage_http *h, const char *plain)
{
	struct stage *st = h->st;
	struct buf pages = BUF_INIT;
	int rc;

	buf_adds(&st->traced, "SELECT t.* EXCLUDE (sluice_n), ");
	buf_add_sql_string(&st->traced, h->shown);
	buf_addf(&st->traced,
		 " || ', page ' || p.page AS sluice_file, t.sluice_n - p.before AS sluice_row FROM (SELECT *, row_number() OVER "
		 "() AS "
		 "sluice_n FROM %s) t ASOF JOIN sluice_pages p ON t.sluice_n > p.before",
		 plain);
	kept_add_pages(&h->kept, &pages);
	rc = duck_execf(st->cx->db, &st->cx->err, "CREATE OR REPLACE TEMP TABLE sluice_pages AS %s", pages.s);
	buf_release(&pages);
	return rc < 0 ? -1 : 0;
}

static char *
reader_call(const struct stage_http *h)
{
	int64_t longest = h->kept.longest + 1;
	struct buf call = BUF_INIT;

	buf_adds(&call, "read_json(");
	buf_add_sql_string(&call, h->kept.records);
	/* No guesses at dates but the one that is beyond doubt. */
	buf_addf(&call, ", format = 'newline_delimited', dateformat = '%%Y-%%m-%%d', maximum_object_size = %lld",
		 (long long)(longest > OBJECT_MIN ? longest : OBJECT_MIN));
	return buf_detach(&call);
}

int
stage_http_read(struct stage *st)
{
	struct stage_http *h = st->http;
	struct buf plain = BUF_INIT;
	json_t *types;
	char *call;
	int rc = fetch(st, h);

	if (rc < 0)
		return -1;
	call = reader_call(h);
	types = inferred(h, call);
	if (types) {
		add_absent(h, types);
		if (json_object_size(types) == 0)
			rc = task_fail(st->cx, ERR_UNPROCESSABLE,
				       "%s gave no record, so nothing tells which columns there are; name them in source.columns",
				       h->shown);
		else
			add_rows(h, call, types, &plain);
	}
	if (types == NULL || rc < 0 || stage_read_typed(st, plain.s) < 0 || (st->bad.len && add_traced(h, plain.s) < 0))
		rc = -1;
	json_decref(types);
	free(call);
	buf_release(&plain);
	return rc;
}
