/* What only a table's own files tell: files, partitions, manifests, rows. A query in a child reads them. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/browse.h"
#include "api/catalog/table_json.h"
#include "base/alloc.h"
#include "base/table_at.h"
#include "flows/suggest.h"

#define ITEMS_DEFAULT   100
#define ITEMS_MAX       10000
#define ROWS_DEFAULT    20
#define OFFSET_MAX      1000000000
#define KEY_COLUMNS_MAX 100 /* that a hint looks at */
#define QUERY_TIMEOUT   (300 * US_PER_S)

/* A query that is under way. */
struct reading {
	struct request *rq;
	json_t *snapshot; /* its id as text, or null */
	long limit, offset;
	void (*answer)(struct reading *r, json_t *result);
};

static void
on_query_done(void *arg, const json_t *report, struct err *e)
{
	struct reading *r = arg;
	json_t *result = reply_unless_result(r->rq, report, e, "the query");

	if (result)
		r->answer(r, result);
	json_decref(r->snapshot);
	free(r);
}

static void
answer_items(struct reading *r, json_t *result)
{
	bool more = json_is_true(json_object_get(result, "truncated"));

	reply_json(r->rq, 200,
		   json_pack("{s:O,s:O,s:o}", "snapshot_id", r->snapshot, "items", json_object_get(result, "rows"), "next",
			     more ? json_sprintf("%ld", r->offset + r->limit) : json_null()));
}

static void
answer_rows(struct reading *r, json_t *result)
{
	json_t *body = json_copy(result);

	json_object_set(body, "snapshot_id", r->snapshot);
	reply_json(r->rq, 200, body);
}

/* Which of its states the request asks for: `id` gets the snapshot's, -1 for a table without rows. False after an answer. */
static bool
state_of(struct browse *b, json_int_t *id)
{
	const char *at = request_query(b->rq, "at");
	const json_t *snapshot;

	*id = -1;
	if ((at == NULL || *at == '\0') && table_current(b->tables[0].meta->json) < 0)
		return true;
	snapshot = browse_at(b, at);
	if (snapshot == NULL)
		return false;
	*id = json_integer_value(json_object_get(snapshot, "snapshot-id"));
	return true;
}

/* Runs the statement, taken over, in a child; `answer` gets its result. */
static void
query_start(struct browse *b, json_int_t snapshot, char *sql, long limit, long offset,
	    void (*answer)(struct reading *r, json_t *result))
{
	struct reading *r = xcalloc(1, sizeof(*r));
	char *name = browse_name(&b->tables[0]);
	json_t *spec = json_pack("{s:s,s:I,s:s}", "sql", sql, "limit", (json_int_t)limit, "table", name);

	free(name);
	r->rq = b->rq;
	r->snapshot = snapshot < 0 ? json_null() : json_sprintf("%" JSON_INTEGER_FORMAT, snapshot);
	r->limit = limit;
	r->offset = offset;
	r->answer = answer;
	b->rq->patience = QUERY_TIMEOUT + 30 * US_PER_S; /* the query's own bound comes first */
	sched_adhoc(b->rq->app->sched, "query", spec, QUERY_TIMEOUT, on_query_done, r);
	json_decref(spec);
	free(sql);
}

/* A page of one of the tables about a table, see tasks/iceberg/inspect.h. */
static void
items_reply(struct browse *b, const char *kind, const char *order)
{
	long limit = request_number(b->rq, "limit", ITEMS_DEFAULT, 1, ITEMS_MAX), offset;
	struct buf sql = BUF_INIT;
	json_int_t snapshot;
	char *name;

	if (limit < 0 || (offset = request_number(b->rq, "cursor", 0, 0, OFFSET_MAX)) < 0 || !state_of(b, &snapshot))
		return;
	name = browse_name(&b->tables[0]);
	buf_addf(&sql, "SELECT * FROM %s(", kind);
	buf_add_sql_string(&sql, name);
	if (snapshot >= 0)
		buf_addf(&sql, ", '%" JSON_INTEGER_FORMAT "'", snapshot);
	buf_addf(&sql, ") ORDER BY %s OFFSET %ld", order, offset);
	free(name);
	query_start(b, snapshot, buf_detach(&sql), limit, offset, answer_items);
}

static void
files_done(struct browse *b)
{
	items_reply(b, "files", "file_path");
}

static void
partitions_done(struct browse *b)
{
	items_reply(b, "partitions", "spec_id, \"partition\"::VARCHAR");
}

static void
manifests_done(struct browse *b)
{
	items_reply(b, "manifests", "sequence_number DESC, path");
}

static void
preview_done(struct browse *b)
{
	long limit = request_number(b->rq, "limit", ROWS_DEFAULT, 1, ITEMS_MAX);
	struct buf sql = BUF_INIT;
	json_int_t snapshot;

	if (limit < 0 || !state_of(b, &snapshot))
		return;
	buf_adds(&sql, "SELECT * FROM ");
	buf_add_sql_name(&sql, b->catalog->name);
	buf_addc(&sql, '.');
	buf_add_sql_name(&sql, b->tables[0].ns);
	buf_addc(&sql, '.');
	buf_add_sql_name(&sql, b->tables[0].name);
	if (snapshot >= 0)
		buf_addf(&sql, " AT (VERSION => %" JSON_INTEGER_FORMAT ")", snapshot);
	query_start(b, snapshot, buf_detach(&sql), limit, 0, answer_rows);
}

/* ---- what differs between two states ---- */

struct comparing {
	struct request *rq;
	json_t *answer; /* what metadata told */
};

static void
on_compared(void *arg, const json_t *report, struct err *e)
{
	struct comparing *c = arg;
	json_t *result = reply_unless_result(c->rq, report, e, "the comparison");

	if (result) {
		json_object_update(c->answer, result);
		reply_json(c->rq, 200, json_incref(c->answer));
	}
	json_decref(c->answer);
	free(c);
}

/* The places of the key's columns ("a,b"); NULL after an answer. */
static json_t *
key_places(struct browse *b, const json_t *names, const char *key)
{
	const char *all[KEY_COLUMNS_MAX];
	size_t n = 0, i;
	json_t *out = json_array(), *name;
	struct buf hint = BUF_INIT;

	json_array_foreach (names, i, name)
		if (n < KEY_COLUMNS_MAX)
			all[n++] = json_string_value(name);
	while (key && *key && out) {
		size_t len = strcspn(key, ",");
		char *one = xstrndup(key, len);

		for (i = 0; i < json_array_size(names); i++)
			if (strcmp(json_string_value(json_array_get(names, i)), one) == 0)
				break;
		if (i < json_array_size(names)) {
			json_array_append_new(out, json_integer((json_int_t)i));
		} else {
			suggest_hint(&hint, one, all, n, "its columns are");
			reply_problem(b->rq, ERR_INVALID, "table %s.%s has no column \"%s\" to be its key%s", b->tables[0].ns,
				      b->tables[0].name, one, hint.s);
			json_decref(out);
			out = NULL;
		}
		free(one);
		key += len + (key[len] == ',');
	}
	buf_release(&hint);
	return out;
}

static json_t *
names_shown(const json_t *columns)
{
	json_t *out = json_array(), *column;
	size_t i;

	json_array_foreach (columns, i, column)
		json_array_append(out, json_object_get(column, "name"));
	return out;
}

static json_t *
names_at(const json_t *names, const json_t *places)
{
	json_t *out = json_array(), *place;
	size_t i;

	json_array_foreach (places, i, place)
		json_array_append(out, json_array_get(names, (size_t)json_integer_value(place)));
	return out;
}

static void
compare(struct browse *b, const json_t *from, const json_t *to, long limit)
{
	const struct browsed *t = &b->tables[0];
	const json_t *md = t->meta->json;
	json_t *before = table_schema_json(md, from), *after = table_schema_json(md, to), *columns = table_columns(before, after),
	       *names = names_shown(columns), *key = key_places(b, names, request_query(b->rq, "key")), *spec;
	struct comparing *c;

	if (key) {
		c = xcalloc(1, sizeof(*c));
		c->rq = b->rq;
		c->answer = json_pack("{s:o,s:o,s:o,s:o,s:O,s:o}", "table", json_sprintf("%s.%s", t->ns, t->name), "from",
				      table_snapshot_json(md, from), "to", table_snapshot_json(md, to), "schema",
				      table_schema_diff(before, after), "columns", names, "key", names_at(names, key));
		spec = json_pack("{s:s,s:s,s:o,s:o,s:O,s:O,s:I}", "namespace", t->ns, "table", t->name, "before",
				 json_sprintf("%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(from, "snapshot-id"))),
				 "after",
				 json_sprintf("%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(to, "snapshot-id"))),
				 "columns", columns, "key", key, "limit", (json_int_t)limit);
		b->rq->patience = QUERY_TIMEOUT + 30 * US_PER_S;
		sched_adhoc(b->rq->app->sched, "diff", spec, QUERY_TIMEOUT, on_compared, c);
		json_decref(spec);
	}
	json_decref(key);
	json_decref(names);
	json_decref(columns);
	json_decref(after);
	json_decref(before);
}

static void
diff_done(struct browse *b)
{
	const char *from = request_query(b->rq, "from"), *to = request_query(b->rq, "to");
	long limit = request_number(b->rq, "limit", ITEMS_DEFAULT, 1, ITEMS_MAX);
	const json_t *before, *after;

	if (limit < 0 || (after = browse_at(b, to)) == NULL || (before = browse_at(b, from && *from ? from : "previous")) == NULL)
		return;
	compare(b, before, after, limit);
}

void
table_files(struct request *rq)
{
	browse_table(rq, files_done);
}

void
table_partitions(struct request *rq)
{
	browse_table(rq, partitions_done);
}

void
table_manifests(struct request *rq)
{
	browse_table(rq, manifests_done);
}

void
table_preview(struct request *rq)
{
	browse_table(rq, preview_done);
}

void
table_diff(struct request *rq)
{
	browse_table(rq, diff_done);
}
