/*
 * A collection of MongoDB as the target of an export. Its server may stand alone, without transactions, so each mode has another
 * way of being whole:
 *
 *     append      every document's _id is RUN/TASK/row: an attempt after one that died writes the same ones again, and those that
 *                 are there are refused by the server. What it has finished is noted in the collection sluice_exports.
 *     upsert      writing the same rows by the same key again changes nothing
 *     overwrite,  a collection beside is filled and takes the name in one step, so readers see the old rows or the new ones
 *     replace
 *
 * All attempts of a task write the same rows: those that the first one has put aside in the folder that they hand on.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fs.h"
#include "tasks/engines/duck_rows.h"
#include "tasks/engines/duckdb.h"
#include "tasks/export.h"
#include "tasks/mongo.h"
#include "tasks/mongo_document.h"
#include "tasks/report.h"

#define LEDGER       "sluice_exports"
#define KEPT         "sluice_kept.main.sluice_rows"
#define BATCH_WRITES 2000
#define BATCH_BYTES  (8 * 1024 * 1024)
#define SHOWN        5 /* of the rows that were refused */
#define PROGRESS     US_PER_S

/* A document in the batch: where it lies, and of which row it is. */
struct item {
	size_t key, key_len, document, document_len;
	int64_t row;
};

struct refused {
	int64_t row;
	char *why;
};

struct sink {
	struct context *cx;
	struct mongo *m;
	const char *database, *collection, *into; /* into: what is being filled */
	const json_t *key;
	enum export_mode mode;
	json_t *columns; /* [{name, type}] of the rows */
	json_t *names;   /* of these, those of the key first */
	char *prefix;    /* of the documents' _id */
	bool named;      /* the rows have an _id of their own */
	int64_t total, scanned, sent, added;
	struct buf bytes; /* of the batch */
	struct item *items;
	size_t count;
	struct refused shown[SHOWN];
	int64_t refused;
	bool passing; /* what was refused may be taken later */
	mono_us told;
};

/* Set when the attempt is to end: what an append has done is taken back first. */
static volatile sig_atomic_t asked_to_end;

static void
on_sigterm(int sig)
{
	(void)sig;
	asked_to_end = 1;
}

/* ---- the rows ---- */

static int
refuse_column(struct sink *s, const char *place, const char *name, const char *why)
{
	s->cx->final = true;
	return task_fail_at(s->cx, place, "column \"%s\" %s", name, why);
}

/* A name with a dot means a field within a field to the server, one with a dollar a command. */
static int
check_names(struct sink *s)
{
	const char *name;
	json_t *it;
	size_t i;

	json_array_foreach (s->names, i, it) {
		name = json_string_value(it);
		if (*name == '$' || *name == '\0' || strchr(name, '.'))
			return refuse_column(s, "to/collection", name,
					     "has a name that MongoDB reads otherwise: no dots, and no $ at its begin; give it "
					     "another one in from.sql");
		if (strcmp(name, "_id") == 0 && s->mode == MODE_APPEND)
			return refuse_column(
				s, "to/mode", name,
				"is the document's own key, which append sets itself so that no row comes twice; write "
				"mode: upsert with key: _id, or give the column another name");
		s->named |= strcmp(name, "_id") == 0;
	}
	return 0;
}

/* A list as a condition means its elements, too. */
static int
check_key_types(struct sink *s)
{
	json_t *column;
	size_t i;

	json_array_foreach (s->columns, i, column) {
		const char *name = json_string_value(json_object_get(column, "name")),
			   *type = json_string_value(json_object_get(column, "type"));

		if (task_has_name(s->key, name) &&
		    (strchr(type, '[') || strncmp(type, "STRUCT(", 7) == 0 || strncmp(type, "MAP(", 4) == 0))
			return refuse_column(s, "to/key", name, "cannot be part of a key: it is a list, a struct or a map");
	}
	return 0;
}

static int
check_types(struct sink *s, const char *query)
{
	char *sql = xasprintf("SELECT * FROM (%s) LIMIT 0", query);
	struct duck_rows *r = duck_rows_open(s->cx->db, sql, &s->cx->err);
	size_t foreign = r ? duck_rows_foreign(r) : 0;
	const json_t *column = json_array_get(s->columns, foreign);
	const char *name = json_string_value(json_object_get(column, "name"));
	int rc = r ? 0 : -1;

	duck_rows_free(r);
	free(sql);
	if (rc < 0 || column == NULL)
		return rc;
	s->cx->final = true;
	return task_fail_at(
		s->cx, "to/collection",
		"MongoDB has no type for column \"%s\", %s; give it another one in from.sql, as in SELECT %s::VARCHAR AS %s",
		name, json_string_value(json_object_get(column, "type")), name, name);
}

static int
look_at_columns(struct sink *s, const char *query)
{
	json_t *column;
	size_t i;

	s->columns = duck_describe(s->cx->db, query, &s->cx->err);
	if (s->columns == NULL)
		return -1;
	s->names = json_array();
	for (int keys = 1; keys >= 0; keys--)
		json_array_foreach (s->columns, i, column) {
			json_t *name = json_object_get(column, "name");
			bool first =
				task_has_name(s->key, json_string_value(name)) || strcmp(json_string_value(name), "_id") == 0;

			if (first == keys)
				json_array_append(s->names, name);
		}
	if (export_check_key(s->cx, s->names, s->key) < 0 || check_names(s) < 0 || check_key_types(s) < 0)
		return -1;
	return check_types(s, query);
}

/* Puts the rows aside, unless an attempt before this one has. Another that still lives holds the file. */
static int
keep_rows(struct sink *s, const char *query)
{
	struct context *cx = s->cx;
	const char *kept = doc_text(cx, "kept"), *folder = kept ? kept : doc_text(cx, "scratch");
	char *path = xasprintf("%s/rows.duckdb", folder), *sql = xasprintf("CREATE TABLE " KEPT " AS %s", query);
	struct buf attach = BUF_INIT;
	struct duck_result *r;
	int64_t there = 0;
	int rc = fs_make_folders(folder, 0700);

	buf_adds(&attach, "ATTACH ");
	buf_add_sql_string(&attach, path);
	buf_adds(&attach, " AS sluice_kept");
	if (rc < 0)
		rc = task_fail(cx, ERR_IO, "the rows cannot be put aside in %s: %s", folder, strerror(errno));
	else if ((rc = duck_exec(cx->db, attach.s, &cx->err)) == 0)
		there = duck_count(cx->db,
				   "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'sluice_kept' AND table_name = "
				   "'sluice_rows'",
				   &cx->err);
	if (rc == 0 && there == 0) {
		r = duck_query_counted(cx->db, sql, &s->scanned, &cx->err);
		rc = r ? 0 : -1;
		duck_result_free(r);
	} else if (rc == 0 && there > 0) {
		printf("the rows are there from an earlier attempt\n");
	}
	if (rc == 0 && there >= 0)
		s->total = duck_count(cx->db, "SELECT count(*) FROM " KEPT, &cx->err);
	buf_release(&attach);
	free(path);
	free(sql);
	return rc < 0 || there < 0 || s->total < 0 ? -1 : 0;
}

/* "a, b" of names, each with something behind it. */
static void
add_names(struct buf *b, const json_t *names, const char *after, const char *between)
{
	json_t *name;
	size_t i;

	json_array_foreach ((json_t *)(uintptr_t)names, i, name) {
		buf_adds(b, i ? between : "");
		buf_add_sql_name(b, json_string_value(name));
		buf_adds(b, after);
	}
}

/* Rows with one key twice, or without one, would become one document or several by chance. */
static int
check_keys(struct sink *s)
{
	struct buf b = BUF_INIT, names = BUF_INIT;
	struct duck_result *r;
	char *text;
	int rc = 0;

	add_names(&names, s->key, "", ", ");
	buf_addf(&b, "SELECT concat_ws(', ', %s), count(*)::BIGINT, count(*) FILTER (", names.s);
	add_names(&b, s->key, " IS NULL", " OR ");
	buf_addf(&b, ")::BIGINT AS none FROM " KEPT " GROUP BY %s HAVING count(*) > 1 OR none > 0 LIMIT 1", names.s);
	r = duck_query(s->cx->db, b.s, &s->cx->err);
	if (r == NULL) {
		rc = -1;
	} else if (duck_rows(r) > 0) {
		text = duck_text(r, 0, 0);
		s->cx->final = true;
		if (duck_int(r, 0, 2) > 0)
			rc = task_fail_at(s->cx, "to/key", "%" PRId64 " of the rows have no value in their key (%s)",
					  duck_int(r, 0, 2), names.s);
		else
			rc = task_fail_at(s->cx, "to/key", "%" PRId64 " rows have the same key (%s): %s", duck_int(r, 0, 1),
					  names.s, text);
		free(text);
	}
	duck_result_free(r);
	buf_release(&b);
	buf_release(&names);
	return rc;
}

/* A row as people find it again: by its key, else by its first column. The caller frees it. */
static char *
name_of_row(struct sink *s, int64_t row)
{
	json_t *first = json_pack("[O]", json_array_get(s->names, 0)), *name;
	const json_t *by = json_array_size(s->key) ? s->key : first;
	struct buf b = BUF_INIT;
	struct duck_result *r;
	struct err e = ERR_INIT;
	char *out = NULL;
	size_t i;

	buf_adds(&b, "SELECT concat_ws(', '");
	json_array_foreach ((json_t *)(uintptr_t)by, i, name) {
		buf_adds(&b, ", ");
		buf_add_sql_string(&b, json_string_value(name));
		buf_adds(&b, " || ' = ' || left(");
		buf_add_sql_name(&b, json_string_value(name));
		buf_adds(&b, "::VARCHAR, 100)");
	}
	buf_addf(&b, ") FROM " KEPT " WHERE rowid = %" PRId64, row);
	r = duck_query(s->cx->db, b.s, &e);
	if (r && duck_rows(r) == 1)
		out = duck_text(r, 0, 0);
	duck_result_free(r);
	err_release(&e);
	buf_release(&b);
	json_decref(first);
	return out ? out : xasprintf("row %" PRId64, row);
}

/* ---- commands ---- */

static json_t *
command(struct sink *s, const char *database, json_t *what)
{
	json_t *answer = mongo_command(s->m, database, what);

	json_decref(what);
	return answer;
}

static int
run_command(struct sink *s, const char *database, json_t *what)
{
	json_t *answer = command(s, database, what), *wrong = json_array_get(json_object_get(answer, "writeErrors"), 0);
	int rc = answer ? 0 : -1;

	if (wrong)
		rc = task_fail_at(s->cx, "to/collection", "%s: %s", mongo_place(s->m),
				  json_string_value(json_object_get(wrong, "errmsg")));
	json_decref(answer);
	return rc;
}

static json_t *
majority(void)
{
	return json_pack("{s:s,s:i}", "w", "majority", "wtimeout", 60000);
}

/* What the server says of a collection; null where there is none such. NULL with the error set. Some servers tell of all. */
static json_t *
find_collection(struct sink *s, const char *name)
{
	json_t *answer = command(s, s->database, json_pack("{s:i,s:{s:s}}", "listCollections", 1, "filter", "name", name)),
	       *all = json_object_get(json_object_get(answer, "cursor"), "firstBatch"), *out = answer ? json_null() : NULL, *it;
	size_t i;

	json_array_foreach (all, i, it)
		if (strcmp(json_string_value(json_object_get(it, "name")), name) == 0)
			out = json_incref(it);
	json_decref(answer);
	return out;
}

static json_t *
find_indexes(struct sink *s)
{
	json_t *answer = command(s, s->database, json_pack("{s:s}", "listIndexes", s->collection)),
	       *out = json_incref(json_object_get(json_object_get(answer, "cursor"), "firstBatch"));

	json_decref(answer);
	return out;
}

/* Takes the collection beside away, if there is one. */
static int
drop_beside(struct sink *s)
{
	json_t *there = find_collection(s, s->into);
	int rc = there ? 0 : -1;

	if (rc == 0 && !json_is_null(there))
		rc = run_command(s, s->database, json_pack("{s:s,s:o}", "drop", s->into, "writeConcern", majority()));
	json_decref(there);
	return rc;
}

/* ---- the batch ---- */

static int
note_refused(struct sink *s, const struct item *item, const json_t *wrong)
{
	int code = (int)json_integer_value(json_object_get(wrong, "code"));
	const char *why = json_string_value(json_object_get(wrong, "errmsg"));

	if (s->refused < SHOWN)
		s->shown[s->refused] = (struct refused){ item->row, xstrdup(why ? why : "the server gave no reason") };
	s->passing = (s->refused == 0 || s->passing) && mongo_code_passes(code);
	s->refused++;
	return -1;
}

/* Is it there already, from an attempt before this one? */
static bool
is_there(const struct sink *s, const struct item *item, const json_t *wrong)
{
	const char *why = json_string_value(json_object_get(wrong, "errmsg"));
	char *id = xasprintf("\"%s%" PRId64 "\"", s->prefix, item->row);
	bool there = s->mode == MODE_APPEND && why && strstr(why, id) != NULL;

	free(id);
	return there;
}

static json_t *
write_items(struct sink *s, const struct item *items, size_t count)
{
	struct mongo_write *writes = xcalloc(count, sizeof(*writes));
	json_t *answer;

	for (size_t i = 0; i < count; i++)
		writes[i] = (struct mongo_write){ .key = items[i].key_len ? s->bytes.s + items[i].key : NULL,
						  .key_len = items[i].key_len,
						  .document = s->bytes.s + items[i].document,
						  .document_len = items[i].document_len };
	answer = mongo_write(s->m, s->database, s->into, writes, count);
	free(writes);
	s->added += json_integer_value(json_object_get(answer, "nInserted")) +
		    json_integer_value(json_object_get(answer, "nUpserted"));
	return answer;
}

/*
 * Two who add the same key at once: the server refuses one of them, for whom there is now a document to change. So what an upsert
 * had refused as a duplicate is written once more.
 */
static int
write_again(struct sink *s, const json_t *wrong, const struct item *items)
{
	struct item *again = xcalloc(json_array_size(wrong), sizeof(*again));
	json_t *answer, *it;
	size_t n = 0, i;
	int rc = 0;

	json_array_foreach ((json_t *)(uintptr_t)wrong, i, it) {
		const struct item *item = &items[json_integer_value(json_object_get(it, "index"))];

		if (json_integer_value(json_object_get(it, "code")) == MONGO_DUPLICATE_KEY)
			again[n++] = *item;
		else
			note_refused(s, item, it);
	}
	answer = n ? write_items(s, again, n) : json_object();
	json_array_foreach (json_object_get(answer, "writeErrors"), i, it)
		note_refused(s, &again[json_integer_value(json_object_get(it, "index"))], it);
	rc = answer ? 0 : -1;
	json_decref(answer);
	free(again);
	return rc;
}

static void
tell_progress(struct sink *s, bool last)
{
	mono_us now = clock_mono();

	if (!last && s->told && now - s->told < PROGRESS)
		return;
	s->told = now;
	report("progress", json_pack("{s:I,s:I,s:o}", "done", (json_int_t)s->sent, "total", (json_int_t)s->total, "message",
				     json_sprintf("%lld of %lld rows", (long long)s->sent, (long long)s->total)));
}

static int
send_batch(struct sink *s)
{
	json_t *answer = s->count ? write_items(s, s->items, s->count) : json_object(),
	       *wrong = json_object_get(answer, "writeErrors"), *it;
	int rc = answer ? 0 : -1;
	size_t i;

	if (s->mode == MODE_UPSERT && json_array_size(wrong))
		rc = write_again(s, wrong, s->items);
	else
		json_array_foreach (wrong, i, it) {
			const struct item *item = &s->items[json_integer_value(json_object_get(it, "index"))];

			if (!is_there(s, item, it))
				note_refused(s, item, it);
		}
	json_decref(answer);
	s->sent += (int64_t)s->count;
	s->count = 0;
	buf_clear(&s->bytes);
	tell_progress(s, false);
	FAULT("export.batch.after");
	if (rc == 0 && asked_to_end)
		rc = task_fail(s->cx, ERR_IO, "it was asked to end");
	/* What the other modes have done so far is taken back, so there is no use in going on. */
	return rc < 0 || (s->refused && s->mode != MODE_UPSERT) ? -1 : 0;
}

/* ---- documents ---- */

static int
fail_row(struct sink *s, int64_t row, const char *what)
{
	char *name = name_of_row(s, row);
	int rc = task_fail_at(s->cx, "to/collection", "%s, collection %s.%s: the row with %s %s", mongo_place(s->m), s->database,
			      s->collection, name, what);

	s->cx->final = true;
	free(name);
	return rc;
}

/* {"$set": {…}} of what is no key; a row that is all key only has to be there. */
static void
add_changes(struct document *d, const struct duck_rows *r, size_t keys, size_t columns, const struct duck_visitor *tell)
{
	bool all_key = keys == columns;

	document_open(d, all_key ? "$setOnInsert" : "$set", false);
	duck_rows_tell(r, 1 + (all_key ? 0 : keys), 1 + columns, tell);
	document_close(d);
}

static int
add_row(struct sink *s, const struct duck_rows *r, struct document *d)
{
	struct item *item = &s->items[s->count];
	struct duck_visitor tell = document_visitor(d);
	size_t columns = json_array_size(s->names), keys = s->mode == MODE_UPSERT ? json_array_size(s->key) : 0;
	char *text;
	int rc = 0;

	*item = (struct item){ .row = duck_rows_number(r, 0), .key = s->bytes.len };
	if (keys) {
		document_begin(d, &s->bytes);
		duck_rows_tell(r, 1, 1 + keys, &tell);
		rc = document_end(d);
		item->key_len = s->bytes.len - item->key;
	}
	item->document = s->bytes.len;
	if (rc == 0) {
		document_begin(d, &s->bytes);
		if (!keys && !s->named) {
			text = xasprintf("%s%" PRId64, s->prefix, item->row);
			document_text(d, "_id", text);
			free(text);
		}
		if (keys)
			add_changes(d, r, keys, columns, &tell);
		else
			duck_rows_tell(r, 1, 1 + columns, &tell);
		rc = document_end(d);
	}
	item->document_len = s->bytes.len - item->document;
	s->count++;
	if (rc == 0 && item->document_len <= MONGO_DOCUMENT_MAX)
		return 0;
	/* The engine answers one question at a time, and the rows are one: who it was is asked later. */
	s->shown[0] = (struct refused){ item->row, d->wrong ? xasprintf("has a value that %s", d->wrong)
							    : xasprintf("becomes a document of %zu bytes; MongoDB takes %d",
									item->document_len, MONGO_DOCUMENT_MAX) };
	return -1;
}

/* What was refused, with the first of its rows. */
static int
fail_refused(struct sink *s)
{
	struct buf b = BUF_INIT;

	for (int64_t i = 0; i < s->refused && i < SHOWN; i++) {
		char *name = name_of_row(s, s->shown[i].row);

		buf_addf(&b, "%s%s: %s", i ? "; " : "", name, s->shown[i].why);
		free(name);
	}
	if (s->refused > SHOWN)
		buf_addf(&b, "; and %" PRId64 " more", s->refused - SHOWN);
	task_fail_at(s->cx, "to/collection", "%s, collection %s.%s does not take %" PRId64 " of %" PRId64 " rows (%s): %s",
		     mongo_place(s->m), s->database, s->collection, s->refused, s->total,
		     s->mode == MODE_UPSERT ? "the others are there; writing them again changes nothing"
					    : "so it keeps none of them",
		     b.s);
	s->cx->final = !s->passing;
	buf_release(&b);
	return -1;
}

/* Writes all rows to the collection `into`. */
static int
send_rows(struct sink *s)
{
	struct buf b = BUF_INIT;
	struct document *d = xcalloc(1, sizeof(*d));
	struct duck_rows *r;
	int rc = -1, more = 0;

	buf_adds(&b, "SELECT rowid, ");
	add_names(&b, s->names, "", ", ");
	buf_adds(&b, " FROM " KEPT);
	r = duck_rows_open(s->cx->db, b.s, &s->cx->err);
	for (rc = r ? 0 : -1; rc == 0 && (more = duck_rows_next(r, &s->cx->err)) > 0;) {
		rc = add_row(s, r, d);
		if (rc == 0 && (s->count == BATCH_WRITES || s->bytes.len >= BATCH_BYTES))
			rc = send_batch(s);
	}
	duck_rows_free(r);
	if (s->shown[0].why && s->refused == 0)
		rc = fail_row(s, s->shown[0].row, s->shown[0].why);
	else if (rc == 0 && (rc = more) == 0)
		rc = send_batch(s);
	if (s->refused && s->cx->err.msg == NULL)
		rc = fail_refused(s);
	if (rc == 0)
		tell_progress(s, true);
	buf_release(&b);
	free(d);
	FAULT("export.rows.after");
	return rc;
}

/* What went wrong first is what counts, whatever is tidied up after it. */
static int
tidy(struct sink *s, int (*work)(struct sink *s))
{
	struct err first = s->cx->err;
	bool final = s->cx->final;

	s->cx->err = (struct err){ 0 };
	if (!mongo_lost(s->m) && work(s) < 0)
		fprintf(stderr, "%s\n", s->cx->err.msg);
	err_release(&s->cx->err);
	s->cx->err = first;
	s->cx->final = final;
	return -1;
}

/* ---- append ---- */

/* How many rows an attempt before this one has appended; -1 with the error set, -2: none has. */
static int64_t
ledger_rows(struct sink *s)
{
	json_t *answer = command(s, s->database,
				 json_pack("{s:s,s:{s:{s:s,s:s}},s:i}", "find", LEDGER, "filter", "_id", "run",
					   doc_text(s->cx, "run_id"), "task", doc_text(s->cx, "task_id"), "limit", 1)),
	       *found = json_array_get(json_object_get(json_object_get(answer, "cursor"), "firstBatch"), 0);
	const char *rows = json_string_value(json_object_get(json_object_get(found, "rows"), "$numberLong"));
	int64_t n = answer == NULL ? -1 : found == NULL ? -2 : rows ? strtoll(rows, NULL, 10) : 0;

	json_decref(answer);
	return n;
}

static int
ledger_note(struct sink *s)
{
	json_t *id = json_pack("{s:s,s:s}", "run", doc_text(s->cx, "run_id"), "task", doc_text(s->cx, "task_id")),
	       *set = json_pack("{s:s,s:{s:o},s:{s:{s:o}}}", "collection", s->collection, "rows", "$numberLong",
				json_sprintf("%" PRId64, s->total), "exported_at", "$date", "$numberLong",
				json_sprintf("%" PRId64, (int64_t)(clock_wall() / US_PER_MS)));

	return run_command(s, s->database,
			   json_pack("{s:s,s:[{s:{s:o},s:{s:o},s:b}],s:o}", "update", LEDGER, "updates", "q", "_id", id, "u",
				     "$set", set, "upsert", 1, "writeConcern", majority()));
}

/* All of this run's and task's: "/" and what comes behind it in the alphabet, "0". */
static int
take_back(struct sink *s)
{
	char *end = xstrdup(s->prefix);
	int rc;

	end[strlen(end) - 1] = '0';
	rc = run_command(s, s->database,
			 json_pack("{s:s,s:[{s:{s:{s:s,s:s}},s:i}],s:o}", "delete", s->collection, "deletes", "q", "_id", "$gte",
				   s->prefix, "$lt", end, "limit", 0, "writeConcern", majority()));
	if (rc < 0)
		fprintf(stderr, "what was appended could not be taken back: it has an _id that begins with %s\n", s->prefix);
	free(end);
	return rc;
}

static int
append(struct sink *s)
{
	int64_t before = ledger_rows(s);
	int rc = before == -1 ? -1 : 0;

	if (before >= 0) {
		printf("an attempt before this one has appended the rows\n");
		s->sent = before;
		return 0;
	}
	if (rc == 0 && (rc = send_rows(s)) == 0) {
		FAULT("export.commit.before");
		rc = ledger_note(s);
		FAULT("export.commit.after");
	} else if (rc < 0 && (s->cx->final || asked_to_end)) {
		rc = tidy(s, take_back);
	}
	return rc;
}

/* ---- upsert ---- */

/* Is the index unique over the very columns of the key, in whatever order? */
static bool
serves_key(const struct sink *s, const json_t *index)
{
	const json_t *by = json_object_get(index, "key");
	const char *name;
	json_t *direction;
	bool same = json_object_size(by) == json_array_size(s->key) && json_object_get(index, "partialFilterExpression") == NULL;

	json_object_foreach ((json_t *)(uintptr_t)by, name, direction)
		same = same && task_has_name(s->key, name);
	return same && (json_is_true(json_object_get(index, "unique")) || json_object_get(by, "_id"));
}

/* Without one every row is looked for in the whole collection, and two writers could add a key twice. */
static int
check_index(struct sink *s)
{
	json_t *indexes = find_indexes(s), *index;
	struct buf keys = BUF_INIT;
	bool found = false;
	json_t *name;
	size_t i;
	int rc = indexes ? 0 : -1;

	json_array_foreach (indexes, i, index)
		found |= serves_key(s, index);
	json_decref(indexes);
	json_array_foreach ((json_t *)(uintptr_t)s->key, i, name)
		buf_addf(&keys, "%s\"%s\": 1", i ? ", " : "", json_string_value(name));
	if (rc == 0 && !found) {
		rc = task_fail_at(s->cx, "to/key",
				  "%s, collection %s.%s has no unique index over the key of mode: upsert; make one there, as in "
				  "db.%s.createIndex({%s}, {unique: true})",
				  mongo_place(s->m), s->database, s->collection, s->collection, keys.s);
		s->cx->final = true;
	}
	buf_release(&keys);
	return rc;
}

/* A new collection gets the index over its key. */
static int
make_index(struct sink *s)
{
	json_t *by = json_object(), *name;
	struct buf called = BUF_INIT;
	size_t i;
	int rc;

	json_array_foreach ((json_t *)(uintptr_t)s->key, i, name) {
		buf_addf(&called, "%s%s_1", i ? "_" : "", json_string_value(name));
		json_object_set_new(by, json_string_value(name), json_integer(1));
	}
	rc = run_command(s, s->database,
			 json_pack("{s:s,s:[{s:o,s:s,s:b}],s:o}", "createIndexes", s->collection, "indexes", "key", by, "name",
				   called.s, "unique", 1, "writeConcern", majority()));
	buf_release(&called);
	return rc;
}

static int
upsert(struct sink *s, const json_t *there)
{
	bool by_id = json_array_size(s->key) == 1 && strcmp(json_string_value(json_array_get(s->key, 0)), "_id") == 0;
	int rc = check_keys(s);

	if (rc == 0 && !by_id)
		rc = json_is_null(there) ? make_index(s) : check_index(s);
	if (rc == 0)
		rc = send_rows(s);
	FAULT("export.commit.before");
	FAULT("export.commit.after");
	return rc;
}

/* ---- overwrite and replace ---- */

/* The same indexes for the collection beside, so that it refuses what the old one would. */
static int
copy_indexes(struct sink *s)
{
	json_t *indexes = find_indexes(s), *own = json_array(), *index;
	int rc = indexes ? 0 : -1;
	size_t i;

	json_array_foreach (indexes, i, index) {
		if (json_object_get(json_object_get(index, "key"), "_id") && json_object_size(json_object_get(index, "key")) == 1)
			continue; /* every collection has it */
		json_object_del(index, "ns");
		json_array_append(own, index);
	}
	json_decref(indexes);
	if (rc == 0 && json_array_size(own))
		return run_command(
			s, s->database,
			json_pack("{s:s,s:o,s:o}", "createIndexes", s->into, "indexes", own, "writeConcern", majority()));
	json_decref(own);
	return rc;
}

/* With what the server was told of the old collection: rules for its documents, an order of texts. */
static int
make_beside(struct sink *s, const json_t *there)
{
	json_t *create = json_pack("{s:s}", "create", s->into);
	int rc;

	if (s->mode == MODE_OVERWRITE && !json_is_null(there))
		json_object_update(create, json_object_get(there, "options"));
	json_object_set_new(create, "writeConcern", majority());
	rc = run_command(s, s->database, create);
	return rc == 0 && s->mode == MODE_OVERWRITE && !json_is_null(there) ? copy_indexes(s) : rc;
}

static int
take_place(struct sink *s)
{
	return run_command(s, "admin",
			   json_pack("{s:o,s:o,s:b,s:o}", "renameCollection", json_sprintf("%s.%s", s->database, s->into), "to",
				     json_sprintf("%s.%s", s->database, s->collection), "dropTarget", 1, "writeConcern",
				     majority()));
}

static int
put_in_place(struct sink *s, const json_t *there)
{
	char *beside = xasprintf("sluice_%s_%.25s", doc_text(s->cx, "run_id"), doc_text(s->cx, "task_id"));
	int rc;

	s->into = beside;
	rc = drop_beside(s);
	if (rc == 0)
		rc = make_beside(s, there);
	if (rc == 0)
		rc = send_rows(s);
	FAULT("export.commit.before");
	if (rc == 0)
		rc = take_place(s);
	FAULT("export.commit.after");
	if (rc < 0)
		rc = tidy(s, drop_beside);
	s->into = s->collection;
	free(beside);
	return rc;
}

/* ---- the task ---- */

static int
write_rows(struct sink *s)
{
	json_t *there = find_collection(s, s->collection);
	const char *type = json_string_value(json_object_get(there, "type"));
	int rc = there ? 0 : -1;

	signal(SIGTERM, on_sigterm);
	if (type && strcmp(type, "collection") != 0 && s->mode != MODE_APPEND) {
		rc = task_fail_at(s->cx, "to/collection", "%s: %s.%s is a %s, which takes mode: append alone", mongo_place(s->m),
				  s->database, s->collection, type);
		s->cx->final = true;
	}
	if (rc == 0 && s->mode == MODE_APPEND)
		rc = append(s);
	else if (rc == 0)
		rc = s->mode == MODE_UPSERT ? upsert(s, there) : put_in_place(s, there);
	json_decref(there);
	return rc;
}

static int
open_target(struct sink *s, const json_t *to)
{
	const char *uri = json_string_value(json_object_get(to, "uri")),
		   *database = json_string_value(json_object_get(to, "database"));
	int rc = mongo_open(s->cx, "to/uri", uri, &s->m);

	if (rc < 0)
		return rc;
	s->database = database ? database : mongo_database(s->m);
	if (s->database)
		return 0;
	s->cx->final = true;
	return task_fail_at(s->cx, "to", "%s: neither to.database nor the address names a database", mongo_place(s->m));
}

static void
report_sink(const struct sink *s)
{
	report("metrics", json_pack("{s:I,s:I}", "rows_in", (json_int_t)(s->scanned ? s->scanned : s->total), "rows_out",
				    (json_int_t)s->sent));
	report("outputs", json_pack("{s:o,s:I}", "collection", json_sprintf("%s.%s", s->database, s->collection), "rows",
				    (json_int_t)s->sent));
	printf("%" PRId64 " rows to %s, collection %s.%s; %" PRId64 " are new\n", s->sent, mongo_place(s->m), s->database,
	       s->collection, s->added);
}

static void
release(struct sink *s)
{
	for (size_t i = 0; i < SHOWN; i++)
		free(s->shown[i].why);
	json_decref(s->columns);
	json_decref(s->names);
	buf_release(&s->bytes);
	free(s->items);
	free(s->prefix);
	mongo_free(s->m);
}

int
export_mongo(struct context *cx, const json_t *to, const char *query)
{
	struct sink s = { .cx = cx,
			  .key = json_object_get(to, "key"),
			  .mode = export_mode(to),
			  .collection = json_string_value(json_object_get(to, "collection")),
			  .bytes = BUF_INIT,
			  .prefix = xasprintf("%s/%s/", doc_text(cx, "run_id"), doc_text(cx, "task_id")),
			  .items = xcalloc(BATCH_WRITES, sizeof(struct item)) };
	int rc;

	s.into = s.collection;
	rc = open_target(&s, to);
	if (rc == 0)
		rc = look_at_columns(&s, query);
	if (rc == 0)
		rc = keep_rows(&s, query);
	if (rc == 0)
		rc = write_rows(&s);
	if (rc == 0)
		report_sink(&s);
	release(&s);
	return rc < 0 ? -1 : 0;
}
