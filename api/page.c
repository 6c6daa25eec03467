/*
 * The page's files need no token: they hold no data. What they show comes from the API, which does ask for one.
 * Every address that the page itself draws (/runs/ID, /flows/ID, /tables/NAME) gets index.html, so that it can be opened
 * directly.
 */
#include "api/page.h"

#include <string.h>
#include <strings.h>

/* Everything from this origin and nothing inline: a flow's texts or a log's lines cannot become a script. */
#define PAGE_POLICY "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

static const struct page_asset *
asset_find(const char *path)
{
	for (size_t i = 0; i < page_assets_count; i++) {
		if (strcmp(page_assets[i].path, path) == 0)
			return &page_assets[i];
	}
	return NULL;
}

/* Finds `word` as a whole item of a comma-separated header; *end is what follows it. */
static const char *
item_find(const char *list, const char *word, size_t n, const char **end)
{
	for (const char *s = list; *s; s += strcspn(s, ",")) {
		s += strspn(s, ", \t");
		if (strncasecmp(s, word, n) == 0 && (s[n] == '\0' || strchr(",; \t", s[n]))) {
			*end = s + n;
			return s;
		}
	}
	return NULL;
}

bool
page_takes_gzip(const char *accept)
{
	const char *end;

	if (accept == NULL || item_find(accept, "gzip", 4, &end) == NULL)
		return false;
	/* "gzip;q=0" is a refusal. */
	end += strspn(end, "; \t");
	if (strncasecmp(end, "q=0", 3) != 0)
		return true;
	end += 3;
	if (*end == '.')
		end++;
	return end[strspn(end, "0")] >= '1' && end[strspn(end, "0")] <= '9';
}

bool
page_tag_matches(const char *if_none_match, const char *etag)
{
	const char *end;
	char weak[80] = "W/";

	if (if_none_match == NULL)
		return false;
	if (item_find(if_none_match, "*", 1, &end) || item_find(if_none_match, etag, strlen(etag), &end))
		return true;
	strncat(weak, etag, sizeof(weak) - 3);
	return item_find(if_none_match, weak, strlen(weak), &end) != NULL;
}

static void
asset_reply(struct request *rq, const struct page_asset *a)
{
	reply_header(rq, "ETag", a->etag);
	reply_header(rq, "Cache-Control", a->immutable ? "public, max-age=31536000, immutable" : "no-cache");
	reply_header(rq, "Vary", "Accept-Encoding");
	reply_header(rq, "X-Content-Type-Options", "nosniff");
	reply_header(rq, "Content-Security-Policy", PAGE_POLICY);
	reply_header(rq, "Referrer-Policy", "no-referrer");
	if (page_tag_matches(request_header(rq, "If-None-Match"), a->etag)) {
		reply_empty(rq, 304);
	} else if (a->gzip && page_takes_gzip(request_header(rq, "Accept-Encoding"))) {
		reply_header(rq, "Content-Encoding", "gzip");
		reply_text(rq, 200, a->type, a->gzip, a->gzip_len);
	} else {
		reply_text(rq, 200, a->type, a->data, a->len);
	}
}

static void
page_index(struct request *rq)
{
	const struct page_asset *a = asset_find("/index.html");

	if (a)
		asset_reply(rq, a);
	else
		reply_problem(rq, ERR_NOT_FOUND, "this program was built without the page");
}

static void
page_file(struct request *rq)
{
	const struct page_asset *a = asset_find(rq->path);

	if (a)
		asset_reply(rq, a);
	else
		reply_problem(rq, ERR_NOT_FOUND, "there is no file %s", rq->path);
}

const struct route page_routes[] = {
	{ "GET", "/", page_index, ROLE_NONE, 0, "The page." },
	{ "GET", "/assets/{path...}", page_file, ROLE_NONE, 0, "A file of the page." },
	{ "GET", "/tables", page_index, ROLE_NONE, 0, "The page, showing the tables." },
	{ "GET", "/tables/{table}", page_index, ROLE_NONE, 0, "The page, showing a table." },
	{ "GET", "/runs", page_index, ROLE_NONE, 0, "The page, showing the runs." },
	{ "GET", "/runs/{run}", page_index, ROLE_NONE, 0, "The page, showing a run." },
	{ "GET", "/flows/{flow}", page_index, ROLE_NONE, 0, "The page, showing a flow." },
};
const size_t page_routes_count = sizeof(page_routes) / sizeof(page_routes[0]);
