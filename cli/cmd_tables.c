/* The catalog's tables: what there is, what they are made of, how they came to be so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/tables_text.h"
#include "cli/term.h"
#include "flows/suggest.h"

/* ---- requests ---- */

char *
table_path(const char *table, const char *part)
{
	struct buf b = BUF_INIT;

	buf_adds(&b, "/api/v1/tables/");
	add_encoded(&b, table);
	buf_adds(&b, part);
	return buf_detach(&b);
}

void
add_query(struct buf *path, const char *name, const char *value)
{
	if (value == NULL)
		return;
	buf_addf(path, "%c%s=", strchr(path->s, '?') ? '&' : '?', name);
	add_encoded(path, value);
}

/* The pages of a list until there are `limit` items, as one: {items, next}. */
static int
get_list(struct client *c, const char *path, long limit, json_t **out)
{
	json_t *items = json_array(), *page = NULL;
	char *cursor = NULL;
	int rc;

	do {
		struct buf b = BUF_INIT;
		char number[32];
		long left = limit - (long)json_array_size(items);

		snprintf(number, sizeof(number), "%ld", left < 1000 ? left : 1000);
		buf_adds(&b, path);
		add_query(&b, "limit", number);
		add_query(&b, "cursor", cursor);
		free(cursor);
		cursor = NULL;
		rc = client_do(c, "GET", b.s, NULL, &page);
		buf_release(&b);
		if (rc == EXIT_OK) {
			json_array_extend(items, json_object_get(page, "items"));
			cursor = xstrdup_null(json_string_value(json_object_get(page, "next")));
		}
		json_decref(page);
		page = NULL;
	} while (rc == EXIT_OK && cursor && (long)json_array_size(items) < limit);
	*out = json_pack("{s:o,s:s?}", "items", items, "next", cursor);
	free(cursor);
	return rc;
}

/* ---- the kinds of list ---- */

struct listing {
	const char *verb;
	bool at; /* takes a state */
	void (*print)(const json_t *items);
};

static const struct listing listings[] = {
	{ "history", false, print_history }, { "snapshots", false, print_snapshots },  { "refs", false, print_refs },
	{ "files", true, print_files },      { "partitions", true, print_partitions }, { "manifests", true, print_manifests },
};

static int
list_all(const struct args *a, struct client *c, const char *path, long limit, void (*print)(const json_t *items))
{
	json_t *list = NULL;
	int rc = get_list(c, path, limit, &list);

	if (rc == EXIT_OK && a->json) {
		print_json(list);
	} else if (rc == EXIT_OK) {
		print(json_object_get(list, "items"));
		fflush(stdout);
		if (json_is_string(json_object_get(list, "next")))
			fprintf(stderr, "only the first %ld; more with --limit N\n", limit);
	}
	json_decref(list);
	return rc;
}

static int
list_one(const struct args *a, struct client *c, const struct listing *l, const char *table, long limit)
{
	char *part = xasprintf("/%s", l->verb), *own = table_path(table, part);
	struct buf path = BUF_INIT;
	int rc;

	buf_adds(&path, own);
	if (l->at)
		add_query(&path, "at", a->at);
	rc = list_all(a, c, path.s, limit, l->print);
	buf_release(&path);
	free(own);
	free(part);
	return rc;
}

static int
show_one(const struct args *a, struct client *c, const char *table, const char *part, void (*print)(const json_t *answer))
{
	char *own = table_path(table, part);
	struct buf path = BUF_INIT;
	json_t *answer = NULL;
	int rc;

	buf_adds(&path, own);
	add_query(&path, "at", a->at);
	rc = client_do(c, "GET", path.s, NULL, &answer);
	if (rc == EXIT_OK && a->json)
		print_json(answer);
	else if (rc == EXIT_OK)
		print(answer);
	json_decref(answer);
	buf_release(&path);
	free(own);
	return rc;
}

/* Some rows; JSON and CSV as `sluice sql` gives them. */
static int
preview(const struct args *a, struct client *c, const char *table)
{
	char *own = table_path(table, "/preview");
	struct buf path = BUF_INIT;
	json_t *answer = NULL;
	int rc;

	buf_adds(&path, own);
	add_query(&path, "at", a->at);
	add_query(&path, "limit", a->limit_text);
	rc = client_do(c, "GET", path.s, NULL, &answer);
	if (rc == EXIT_OK)
		print_result(a, answer);
	json_decref(answer);
	buf_release(&path);
	free(own);
	return rc;
}

/* Of all tables, or those that a pattern takes. */
static int
health(const struct args *a, struct client *c, const char *match, long limit)
{
	struct buf path = BUF_INIT;
	int rc;

	buf_adds(&path, "/api/v1/tables/health");
	add_query(&path, "match", match);
	rc = list_all(a, c, path.s, limit, print_health);
	buf_release(&path);
	return rc;
}

/* ---- the command ---- */

#define LIMIT_DEFAULT 100
#define LIMIT_MAX     100000

static const char *const verbs[] = { "list",       "show",      "history", "snapshots", "refs",  "files",
				     "partitions", "manifests", "schema",  "preview",   "health" };
#define NVERBS (sizeof(verbs) / sizeof(verbs[0]))

static int
refuse_verb(const char *verb)
{
	const char *near = suggest(verb, verbs, NVERBS);
	struct buf all = BUF_INIT;
	int rc;

	for (size_t i = 0; i < NVERBS; i++)
		buf_addf(&all, "%s%s", i ? ", " : "what can be shown: ", verbs[i]);
	rc = refuse(all.s, "there is no `sluice tables %s`%s%s%s", verb, near ? "; did you mean \"" : "", near ? near : "",
		    near ? "\"?" : "");
	buf_release(&all);
	return rc;
}

static const struct listing *
listing_of(const char *verb)
{
	for (size_t i = 0; i < sizeof(listings) / sizeof(listings[0]); i++)
		if (strcmp(listings[i].verb, verb) == 0)
			return &listings[i];
	return NULL;
}

static bool
takes_at(const char *verb)
{
	const struct listing *l = listing_of(verb);

	return strcmp(verb, "schema") == 0 || strcmp(verb, "preview") == 0 || (l && l->at);
}

static int
tables_run(const struct args *a, struct client *c, const char *verb, const char *table, long limit)
{
	const struct listing *l = listing_of(verb);

	if (strcmp(verb, "list") == 0)
		return list_all(a, c, "/api/v1/tables", limit, print_tables);
	if (strcmp(verb, "health") == 0)
		return health(a, c, table, limit);
	if (strcmp(verb, "show") == 0)
		return show_one(a, c, table, "", print_table);
	if (strcmp(verb, "schema") == 0)
		return show_one(a, c, table, "/schema", print_schema);
	if (strcmp(verb, "preview") == 0)
		return preview(a, c, table);
	return list_one(a, c, l, table, limit);
}

int
cmd_tables(const struct args *a)
{
	const char *verb = a->count ? a->operands[0] : "list", *table = a->count > 1 ? a->operands[1] : NULL;
	bool known = false, list;
	struct client *c;
	char *end = NULL;
	long limit = a->limit_text ? strtol(a->limit_text, &end, 10) : 0;
	int rc;

	for (size_t i = 0; i < NVERBS; i++)
		known = known || strcmp(verbs[i], verb) == 0;
	if (!known && a->count == 1 && strchr(verb, '.')) { /* a table: it is shown */
		table = verb;
		verb = "show";
	} else if (!known) {
		return refuse_verb(verb);
	}
	list = strcmp(verb, "list") == 0 || strcmp(verb, "health") == 0;
	if (a->limit_text && (*end || limit < 1 || limit > LIMIT_MAX))
		return refuse(NULL, "--limit %s is not a whole number from 1 to %d", a->limit_text, LIMIT_MAX);
	if (strcmp(verb, "list") == 0 && table)
		return refuse("`sluice tables show TABLE` shows one", "`sluice tables list` takes no table");
	if (!list && table == NULL)
		return refuse("`sluice tables` lists them", "usage: sluice tables %s TABLE", verb);
	if (a->csv && (a->json || strcmp(verb, "preview") != 0))
		return refuse(NULL, "--csv is for `sluice tables preview` without --json");
	if (a->at && !takes_at(verb))
		return refuse(NULL, "`sluice tables %s` does not take --at: it tells of all times", verb);
	c = client_open(a);
	rc = tables_run(a, c, verb, table, limit ? limit : list ? LIMIT_MAX : LIMIT_DEFAULT);
	client_close(c);
	return rc;
}
