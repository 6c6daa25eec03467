/* Tables of another server's catalog (catalog.type: rest). A child asks it (tasks/browse.c), since the loop waits for nobody. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/browse.h"
#include "base/alloc.h"

#define ASK_TIMEOUT (300 * US_PER_S)

/* What a child told of one table. */
static void
take(struct browsed *t, const json_t *told)
{
	json_t *metadata = json_object_get(told, "metadata");
	const char *why = json_string_value(json_object_get(told, "error"));

	t->ns = xstrdup(json_string_value(json_object_get(told, "namespace")));
	t->name = xstrdup(json_string_value(json_object_get(told, "table")));
	t->location = xstrdup(json_string_value(json_object_get(told, "location")));
	if (metadata)
		t->meta = meta_new(t->location, NULL, 0, json_incref(metadata));
	else
		err_set(&t->e, ERR_UNPROCESSABLE, "%s", why ? why : "its server gave no metadata");
}

static void
take_all(struct browse *b, const json_t *tables)
{
	size_t i;
	json_t *told;

	b->count = json_array_size(tables);
	b->tables = xcalloc(b->count ? b->count : 1, sizeof(*b->tables));
	json_array_foreach (tables, i, told)
		take(&b->tables[i], told);
}

static void
none(struct browse *b, const json_t *names)
{
	size_t n = json_array_size(names), i;
	const char **texts = xcalloc(n + 1, sizeof(*texts));
	json_t *name;

	json_array_foreach (names, i, name)
		texts[i] = json_string_value(name);
	browse_none(b, texts, n);
	free(texts);
}

static void
on_told(void *arg, const json_t *report, struct err *e)
{
	struct browse *b = arg;
	const json_t *result = json_object_get(report, "result"), *tables = json_object_get(result, "tables");

	if (result == NULL) {
		if (report)
			reply_problem(b->rq, ERR_INTERNAL, "the catalog's server was asked without a result");
		else
			reply_err(b->rq, e);
		browse_free(b);
	} else if (b->one && json_array_size(tables) == 0) {
		none(b, json_object_get(result, "names"));
	} else {
		b->more = json_is_true(json_object_get(result, "more"));
		take_all(b, tables);
		browse_done(b);
	}
}

static void
tell(struct request *rq, json_t *spec, sched_adhoc_cb cb, void *arg)
{
	rq->patience = ASK_TIMEOUT + 30 * US_PER_S; /* the child's own bound comes first */
	sched_adhoc(rq->app->sched, "browse", spec, ASK_TIMEOUT, cb, arg);
	json_decref(spec);
}

void
foreign_table(struct browse *b)
{
	tell(b->rq, json_pack("{s:s}", "table", b->rq->param[0]), on_told, b);
}

void
foreign_list(struct browse *b, const char *ns, const char *after, long limit)
{
	tell(b->rq, json_pack("{s:s?,s:s?,s:I}", "namespace", ns && *ns ? ns : NULL, "after", after, "limit", (json_int_t)limit),
	     on_told, b);
}

static void
on_changed(void *arg, const json_t *report, struct err *e)
{
	struct request *rq = arg;
	struct browsed t = { 0 };

	if (report == NULL) {
		reply_err(rq, e);
		return;
	}
	take(&t, json_array_get(json_object_get(json_object_get(report, "result"), "tables"), 0));
	if (t.meta)
		change_reply(rq, t.meta);
	else
		reply_problem(rq, ERR_INTERNAL, "the catalog's server was asked without a result");
	free(t.ns);
	free(t.name);
	free(t.location);
	meta_unref(t.meta);
	err_release(&t.e);
}

void
foreign_change(struct request *rq, const char *ns, const char *name, json_t *change)
{
	tell(rq, json_pack("{s:o,s:o}", "table", json_sprintf("%s.%s", ns, name), "change", change), on_changed, rq);
}
