/* Which page of an API's answer is asked for next, and when there is none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tasks/context.h"
#include "tasks/stage_http.h"
#include "tasks/web.h"

static const char *
text_of(const struct paging *p, const char *key)
{
	return json_string_value(json_object_get(p->spec, key));
}

static bool
number_of(const struct paging *p, const char *key, int64_t *out)
{
	const json_t *v = json_object_get(p->spec, key);

	if (!json_is_integer(v))
		return false;
	*out = (int64_t)json_integer_value(v);
	return true;
}

void
paging_init(struct paging *p, const json_t *spec)
{
	static const char *const types[] = { "", "page", "offset", "cursor", "link" };
	const char *type = json_string_value(json_object_get(spec, "type"));

	*p = (struct paging){ .spec = spec, .seen = json_object(), .total = -1 };
	for (int i = PAGING_PAGE; type && i <= PAGING_LINK; i++)
		if (strcmp(type, types[i]) == 0)
			p->type = (enum paging_type)i;
	if (!number_of(p, "start", &p->at))
		p->at = p->type == PAGING_PAGE;
}

void
paging_release(struct paging *p)
{
	json_decref(p->seen);
	free(p->next);
	*p = (struct paging){ 0 };
}

/* ---- the request ---- */

static void
set_param(char **url, const char *name, const char *value)
{
	char *with = web_with_param(*url, name, value, true);

	free(*url);
	*url = with;
}

/* An address that the API gave has all that it wants, but perhaps not the key: that it does not repeat. */
static char *
next_address(const struct paging *p, const json_t *source)
{
	const char *home = json_string_value(json_object_get(source, "url")), *name;
	char *url = xstrdup(p->next);
	json_t *value;

	json_object_foreach (json_object_get(source, "params"), name, value)
		if (web_same_host(home, url) && !web_has_param(url, name))
			set_param(&url, name, json_string_value(value));
	return url;
}

char *
paging_url(const struct paging *p, const json_t *source)
{
	static const char *const params[] = { NULL, "page", "offset", "cursor", NULL };
	const char *given = text_of(p, "param"), *size_param = text_of(p, "size_param"), *param = given ? given : params[p->type],
		   *name;
	char *url = xstrdup(json_string_value(json_object_get(source, "url"))), number[24];
	json_t *value;
	int64_t size;

	if (p->type == PAGING_LINK && p->next) {
		free(url);
		return next_address(p, source);
	}
	json_object_foreach (json_object_get(source, "params"), name, value)
		set_param(&url, name, json_string_value(value));
	if (size_param && number_of(p, "size", &size)) {
		snprintf(number, sizeof(number), "%lld", (long long)size);
		set_param(&url, size_param, number);
	}
	snprintf(number, sizeof(number), "%lld", (long long)p->at);
	if (p->type == PAGING_PAGE || p->type == PAGING_OFFSET)
		set_param(&url, param, number);
	else if (p->type == PAGING_CURSOR && p->next)
		set_param(&url, param, p->next);
	return url;
}

char *
paging_name(const struct paging *p)
{
	switch (p->type) {
	case PAGING_PAGE:
		return xasprintf("page %lld", (long long)p->at);
	case PAGING_OFFSET:
		return xasprintf("offset %lld", (long long)p->at);
	default:
		return xasprintf("page %lld", (long long)p->pages + 1);
	}
}

/* ---- the answer ---- */

/* Keys of an object, as a list of texts. */
static json_t *
keys_of(struct json_text v)
{
	json_t *keys = json_array();
	struct json_text key, value;
	size_t at = 0;

	while (*v.s == '{' && json_text_next(v, &at, &key, &value)) {
		char *text = json_text_scalar(key);

		if (text)
			json_array_append_new(keys, json_string(text));
		free(text);
	}
	return keys;
}

char *
paging_missing(struct json_text answer, const char *path)
{
	struct json_text there;
	const char *rest = path, *near;
	struct buf b = BUF_INIT;
	json_t *keys, *key;
	char *part;
	size_t i;

	json_text_find(answer, path, &there, &rest);
	keys = keys_of(there);
	part = xstrndup(rest, strcspn(rest, *path == '/' ? "/" : "."));
	near = task_nearest(keys, part);
	free(part);
	buf_addf(&b, "there is no \"%s\"", path);
	if (rest > path + (*path == '/'))
		buf_addf(&b, ": %.*s is %s", (int)(rest - path - 1), path, json_text_kind(there));
	else
		buf_addf(&b, ": the answer is %s", json_text_kind(there));
	json_array_foreach (keys, i, key)
		if (i < 40)
			buf_addf(&b, "%s%s", i ? ", " : " with ", json_string_value(key));
	if (near)
		buf_addf(&b, "; did you mean \"%s\"?", near);
	json_decref(keys);
	return buf_detach(&b);
}

static int
fail_missing(struct json_text answer, const char *key, const char *path, struct err *e)
{
	char *why = paging_missing(answer, path);
	int rc = err_set(e, ERR_UNPROCESSABLE, "pagination.%s: %s", key, why);

	free(why);
	return rc;
}

/* A number that the answer has at the path of `key`; -1 where no such key is given. */
static int
answer_number(const struct paging *p, struct json_text answer, const char *key, int64_t *out, struct err *e)
{
	const char *path = text_of(p, key);
	struct json_text v;
	char *text, *end;

	*out = -1;
	if (path == NULL)
		return 0;
	if (!json_text_find(answer, path, &v, NULL))
		return fail_missing(answer, key, path, e);
	text = json_text_scalar(v);
	*out = text ? strtoll(text, &end, 10) : -1;
	if (text == NULL || end == text || *end || *out < 0) {
		free(text);
		return err_set(e, ERR_UNPROCESSABLE, "pagination.%s: \"%s\" is %s, not a whole number", key, path,
			       json_text_kind(v));
	}
	free(text);
	return 0;
}

/* Whether the answer says that there is more: 1, 0, or -1 where no `more` is given; -2 with the error set. */
static int
answer_more(const struct paging *p, struct json_text answer, struct err *e)
{
	const char *path = text_of(p, "more");
	struct json_text v;

	if (path == NULL)
		return -1;
	if (!json_text_find(answer, path, &v, NULL)) {
		fail_missing(answer, "more", path, e);
		return -2;
	}
	if (*v.s != 't' && *v.s != 'f') {
		err_set(e, ERR_UNPROCESSABLE, "pagination.more: \"%s\" is %s, not true or false", path, json_text_kind(v));
		return -2;
	}
	return *v.s == 't';
}

/* By numbers: the next page or offset, and the end by what the API said of all, or by a page that shows it. */
static int
step_number(struct paging *p, struct json_text answer, int64_t records, struct err *e)
{
	const char *until = text_of(p, "until");
	int64_t total_pages, total, size = 0;
	int more = answer_more(p, answer, e);

	if (more == -2 || answer_number(p, answer, "total_pages", &total_pages, e) < 0 ||
	    answer_number(p, answer, "total", &total, e) < 0)
		return -1;
	number_of(p, "size", &size);
	p->at += p->type == PAGING_PAGE ? 1 : records;
	if (more >= 0)
		p->ended = !more;
	else if (total_pages >= 0)
		p->ended = p->pages >= total_pages;
	else if (total >= 0)
		p->ended = p->records >= total || records == 0;
	else
		p->ended = records == 0 || (until && strcmp(until, "short") == 0 && records < size);
	if (p->type == PAGING_OFFSET && records == 0)
		p->ended = true; /* the same offset would be asked for again */
	if (total_pages >= 0 || total >= 0) {
		int64_t now = total_pages >= 0 ? total_pages : total;

		if (p->total >= 0 && p->total != now)
			printf("the API spoke of %lld %s before and of %lld now: it changes while it is read, so records may be "
			       "missing or there twice\n",
			       (long long)p->total, total_pages >= 0 ? "pages" : "records", (long long)now);
		p->total = now;
	}
	if (!p->ended && records < size && !p->short_told) {
		printf("a page in the middle has %lld records, not %lld\n", (long long)records, (long long)size);
		p->short_told = true;
	}
	if (p->ended && total >= 0 && p->records != total)
		printf("the API speaks of %lld records, and gave %lld\n", (long long)total, (long long)p->records);
	return 0;
}

/* Where it goes on by what the page itself says; NULL: nowhere. -1 with the error set. */
static int
answer_next(const struct paging *p, struct json_text answer, const char *link, char **out, struct err *e)
{
	const char *key = p->type == PAGING_CURSOR ? "cursor" : "next", *path = text_of(p, key);
	struct json_text v;

	*out = NULL;
	if (path == NULL) {
		*out = link && *link ? xstrdup(link) : NULL;
		return 0;
	}
	if (!json_text_find(answer, path, &v, NULL)) {
		if (p->pages == 1) { /* misspelt, or all there is */
			char *why = paging_missing(answer, path);

			printf("pagination.%s: %s; so this page is taken for the last\n", key, why);
			free(why);
		}
		return 0;
	}
	*out = json_text_scalar(v);
	if (*out == NULL && *v.s != 'n')
		return err_set(e, ERR_UNPROCESSABLE, "pagination.%s: \"%s\" is %s, not a text or a number", key, path,
			       json_text_kind(v));
	if (*out && (**out == '\0' || strcmp(*out, "false") == 0)) {
		free(*out);
		*out = NULL;
	}
	return 0;
}

static int
step_next(struct paging *p, struct json_text answer, const char *link, const char *base, struct err *e)
{
	int more = answer_more(p, answer, e);
	char *next;

	if (more == -2 || answer_next(p, answer, link, &next, e) < 0)
		return -1;
	if (next && p->type == PAGING_LINK) {
		char *whole = web_resolve(base, next);

		if (whole == NULL)
			err_set(e, ERR_UNPROCESSABLE, "the next page's address is none for HTTP: \"%.200s\"", next);
		free(next);
		if (whole == NULL)
			return -1;
		next = whole;
	}
	if (more == 1 && next == NULL)
		return err_set(e, ERR_UNPROCESSABLE, "\"%s\" says that there are more pages, but nothing says where",
			       text_of(p, "more"));
	if (next == NULL || more == 0) {
		free(next);
		p->ended = true;
		return 0;
	}
	if (json_object_get(p->seen, next)) {
		err_set(e, ERR_UNPROCESSABLE,
			"the API goes in a circle: it gives \"%.200s\" as the next page's %s, which was asked for before", next,
			p->type == PAGING_CURSOR ? "cursor" : "address");
		free(next);
		return -1;
	}
	json_object_set_new(p->seen, next, json_true());
	free(p->next);
	p->next = next;
	return 0;
}

/* Of the bytes, eight at a time: a cryptographic one would take longer than all the rest that is done with a page. */
static void
page_digest(struct json_text list, char out[PAGE_DIGEST])
{
	uint64_t h = list.len, word;

	for (size_t i = 0; i < list.len; i += sizeof(word)) {
		word = 0;
		memcpy(&word, list.s + i, list.len - i < sizeof(word) ? list.len - i : sizeof(word));
		h = (h ^ word) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	snprintf(out, PAGE_DIGEST, "%016llx", (unsigned long long)h);
}

/* An API that does not know the parameter answers with its first page for ever. */
static int
check_same(struct paging *p, struct json_text list, int64_t records, struct err *e)
{
	static const char *const params[] = { "", "page", "offset", "cursor", "" };
	const char *param = text_of(p, "param");
	char digest[PAGE_DIGEST];

	page_digest(list, digest);
	if (records > 0 && strcmp(digest, p->digest) == 0)
		return err_set(e, ERR_UNPROCESSABLE,
			       "the page has the same records as the one before, byte for byte; does the API know the parameter "
			       "\"%s\"?",
			       param ? param : params[p->type]);
	memcpy(p->digest, digest, sizeof(digest));
	return 0;
}

int
paging_step(struct paging *p, struct json_text answer, struct json_text list, int64_t records, const char *link, const char *base,
	    struct err *e)
{
	int64_t max;
	int rc = 0;

	if (p->type != PAGING_NONE && p->type != PAGING_LINK && check_same(p, list, records, e) < 0)
		return -1;
	p->pages++;
	p->records += records;
	if (p->type == PAGING_NONE)
		p->ended = true;
	else if (p->type == PAGING_PAGE || p->type == PAGING_OFFSET)
		rc = step_number(p, answer, records, e);
	else
		rc = step_next(p, answer, link, base, e);
	if (rc == 0 && !p->ended && number_of(p, "max_pages", &max) && p->pages >= max) {
		printf("pagination.max_pages is %lld: it ends here, and the API has more\n", (long long)max);
		p->ended = true;
	}
	return rc < 0 ? -1 : 0;
}

int64_t
paging_total_pages(const struct paging *p)
{
	int64_t max = -1;

	if (text_of(p, "total_pages") == NULL || p->total < 0)
		return p->type == PAGING_NONE ? 1 : -1;
	number_of(p, "max_pages", &max);
	return max >= 0 && max < p->total ? max : p->total;
}

/* ---- between attempts ---- */

json_t *
paging_state(const struct paging *p)
{
	json_t *state = json_pack("{s:I,s:I,s:I,s:I,s:b,s:s}", "page", (json_int_t)p->pages, "all", (json_int_t)p->records, "at",
				  (json_int_t)p->at, "total", (json_int_t)p->total, "ended", p->ended, "digest", p->digest);

	if (p->next)
		json_object_set_new(state, "next", json_string(p->next));
	return state;
}

void
paging_restore(struct paging *p, const json_t *state)
{
	const char *next = json_string_value(json_object_get(state, "next")),
		   *digest = json_string_value(json_object_get(state, "digest"));

	p->pages = json_integer_value(json_object_get(state, "page"));
	p->records = json_integer_value(json_object_get(state, "all"));
	p->at = json_integer_value(json_object_get(state, "at"));
	p->total = json_integer_value(json_object_get(state, "total"));
	p->ended = json_is_true(json_object_get(state, "ended"));
	snprintf(p->digest, sizeof(p->digest), "%s", digest ? digest : "");
	if (next) {
		free(p->next);
		p->next = xstrdup(next);
		json_object_set_new(p->seen, next, json_true());
	}
}
