/* What only a table's own files tell: files, partitions, manifests, rows. A query in a child reads them. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/browse.h"
#include "base/alloc.h"
#include "base/table_at.h"

#define ITEMS_DEFAULT 100
#define ITEMS_MAX     10000
#define ROWS_DEFAULT  20
#define OFFSET_MAX    1000000000
#define QUERY_TIMEOUT (300 * US_PER_S)

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
	json_t *result = json_object_get(report, "result");

	if (report == NULL)
		reply_err(r->rq, e);
	else if (result == NULL)
		reply_problem(r->rq, ERR_INTERNAL, "the query ended without a result");
	else
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
	json_t *spec = json_pack("{s:s,s:I}", "sql", sql, "limit", (json_int_t)limit);

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
