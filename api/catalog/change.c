/*
 * Changes that people ask for by name: roll a table back, set and remove tags and branches. Each is one commit as the
 * specification has it, made here and led by commit.c, with requirements that say what it was decided on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/catalog/browse.h"
#include "api/catalog/metadata.h"
#include "base/alloc.h"
#include "base/table_at.h"
#include "flows/flow.h"
#include "flows/suggest.h"

#define NAME_MAX_BYTES 255
#define KEEP_MAX       1000000

/* ---- the answer ---- */

/* What the request's data holds meanwhile: {table, name, type, before}. */
static void
data_free(void *data)
{
	json_decref(data);
}

bool
change_asked(const struct request *rq)
{
	return strncmp(rq->path, "/api/", 5) == 0;
}

void
change_reply(struct request *rq, const struct meta *m)
{
	json_t *answer = json_copy(rq->data);
	const json_t *ref = json_object_get(json_object_get(m->json, "refs"), json_string_value(json_object_get(answer, "name")));
	json_int_t id = metadata_int(ref, "snapshot-id", -1);

	json_object_set_new(answer, "snapshot_id", ref ? json_sprintf("%" JSON_INTEGER_FORMAT, id) : json_null());
	reply_json(rq, 200, answer);
}

void
change_reply_error(struct request *rq, int status, const char *message)
{
	static const int codes[] = { ERR_INVALID,   ERR_UNAUTHORIZED,  ERR_FORBIDDEN,   ERR_NOT_FOUND,   ERR_CONFLICT,
				     ERR_TOO_LARGE, ERR_UNPROCESSABLE, ERR_UNSUPPORTED, ERR_UNAVAILABLE, ERR_TIMEOUT };

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (err_http_status(codes[i]) == status) {
			reply_problem(rq, codes[i], "%s", message);
			return;
		}
	reply_problem(rq, ERR_INTERNAL, "%s", message);
}

/* ---- the commit ---- */

static json_t *
id_or_null(const json_t *ref)
{
	json_t *id = json_object_get(ref, "snapshot-id");

	return id ? json_incref(id) : json_null();
}

/*
 * Commits one update, taken over, of the ref `name` as it was when this was decided. With `type` (borrowed) the ref's type
 * for the answer.
 */
static void
change_commit(struct browse *b, const char *name, const char *type, json_t *update)
{
	const struct browsed *t = &b->tables[0];
	const json_t *md = t->meta->json, *ref = json_object_get(json_object_get(md, "refs"), name);
	json_int_t before = ref ? metadata_int(ref, "snapshot-id", -1) : -1;
	char *table = browse_name(t);
	json_t *change = json_pack("{s:[{s:s,s:O},{s:s,s:s,s:o}],s:[o]}", "requirements", "type", "assert-table-uuid", "uuid",
				   json_object_get(md, "table-uuid"), "type", "assert-ref-snapshot-id", "ref", name,
				   "snapshot-id", id_or_null(ref), "updates", update);

	b->rq->data = json_pack("{s:s,s:s,s:s,s:o}", "table", table, "name", name, "type", type, "before",
				before < 0 ? json_null() : json_sprintf("%" JSON_INTEGER_FORMAT, before));
	b->rq->data_free = data_free;
	free(table);
	if (change == NULL) /* version 1 may have no uuid */
		reply_problem(b->rq, ERR_UNPROCESSABLE,
			      "table %s.%s has no \"table-uuid\": its metadata cannot be changed safely", t->ns, t->name);
	else if (config_foreign(b->rq->app->config))
		foreign_change(b->rq, t->ns, t->name, change);
	else
		tables_change(b->rq, t->ns, t->name, change);
}

/* The body of a request, or NULL after an answer. */
static json_t *
change_body(struct browse *b)
{
	return b->rq->body.len ? request_json(b->rq) : json_object();
}

/* A text of the body; NULL when absent. Answers itself and returns false when it is something else. */
static bool
body_text(struct browse *b, const json_t *body, const char *key, const char **out)
{
	const json_t *v = json_object_get(body, key);

	*out = json_string_value(v);
	if (*out || v == NULL || json_is_null(v))
		return true;
	reply_problem(b->rq, ERR_INVALID, "\"%s\" must be a text", key);
	return false;
}

/* ---- rollback ---- */

/* Was `id` ever what the table was? What only a branch has may not become the table by a rollback. */
static bool
was_current(const json_t *md, json_int_t id)
{
	const json_t *log = json_object_get(md, "snapshot-log"), *entry;
	size_t i;

	json_array_foreach (log, i, entry)
		if (metadata_int(entry, "snapshot-id", -1) == id)
			return true;
	for (json_int_t kin = table_current(md); kin >= 0; kin = metadata_int(table_snapshot(md, kin), "parent-snapshot-id", -1))
		if (kin == id)
			return true;
	return false;
}

static void
rollback_to(struct browse *b, const char *to)
{
	const struct browsed *t = &b->tables[0];
	const json_t *md = t->meta->json, *snapshot, *main_ref = json_object_get(json_object_get(md, "refs"), "main");
	json_t *update;
	json_int_t id;

	if (to == NULL || *to == '\0') {
		reply_problem(b->rq, ERR_INVALID, "\"to\" must say which state: a snapshot id, a time, a tag or `previous`");
		return;
	}
	if ((snapshot = browse_at(b, to)) == NULL)
		return;
	id = metadata_int(snapshot, "snapshot-id", -1);
	if (!was_current(md, id)) {
		reply_problem(b->rq, ERR_CONFLICT,
			      "table %s.%s was never at snapshot %" JSON_INTEGER_FORMAT
			      ": it belongs to a branch; `sluice tables history %s.%s` lists what the table was",
			      t->ns, t->name, id, t->ns, t->name);
		return;
	}
	/* How long main's snapshots are kept stays as it is. */
	update = main_ref ? json_copy((json_t *)(uintptr_t)main_ref) : json_object();
	json_object_update_new(update, json_pack("{s:s,s:s,s:s,s:I}", "action", "set-snapshot-ref", "ref-name", "main", "type",
						 "branch", "snapshot-id", id));
	change_commit(b, "main", "branch", update);
}

static void
rollback_done(struct browse *b)
{
	json_t *body = change_body(b);
	const char *to;

	if (body && body_text(b, body, "to", &to))
		rollback_to(b, to);
	json_decref(body);
}

void
table_rollback(struct request *rq)
{
	browse_table(rq, rollback_done);
}

/* ---- tags and branches ---- */

/* A ref is found before a snapshot or a time of the same text: one that hides these is a trap. */
static bool
name_fits(struct browse *b, const char *name)
{
	wall_us t;

	if (strcmp(name, "main") == 0)
		reply_problem(b->rq, ERR_CONFLICT, "main is the table itself; `sluice rollback` sets it to an earlier state");
	else if (strlen(name) > NAME_MAX_BYTES)
		reply_problem(b->rq, ERR_INVALID, "the name is longer than %d bytes", NAME_MAX_BYTES);
	else if (name[strspn(name, "0123456789")] == '\0' || strcmp(name, "previous") == 0 || time_parse(name, &t) == 0)
		reply_problem(b->rq, ERR_INVALID,
			      "\"%s\" reads as a snapshot id or a time, which it would hide; give it a letter in front", name);
	else
		return true;
	return false;
}

/* Adds a duration of the body in milliseconds. False after an answer. */
static bool
add_age(struct browse *b, const json_t *body, const char *key, json_t *update, const char *as)
{
	const char *text;
	dur_us age;

	if (!body_text(b, body, key, &text))
		return false;
	if (text == NULL)
		return true;
	if (duration_parse(text, &age) < 0 || age < US_PER_MS) {
		reply_problem(b->rq, ERR_INVALID, "\"%s\" must be a duration such as 30d, not \"%s\"", key, text);
		return false;
	}
	json_object_set_new(update, as, json_integer(age / US_PER_MS));
	return true;
}

static bool
add_keep(struct browse *b, const json_t *body, bool branch, json_t *update)
{
	const json_t *keep = json_object_get(body, "keep_snapshots");

	if (keep && (!json_is_integer(keep) || json_integer_value(keep) < 1 || json_integer_value(keep) > KEEP_MAX)) {
		reply_problem(b->rq, ERR_INVALID, "\"keep_snapshots\" must be a whole number from 1 to %d", KEEP_MAX);
		return false;
	}
	if (!branch && (keep || json_object_get(body, "snapshot_age"))) {
		reply_problem(b->rq, ERR_INVALID,
			      "a tag is one snapshot: \"keep_snapshots\" and \"snapshot_age\" are for branches");
		return false;
	}
	if (keep)
		json_object_set_new(update, "min-snapshots-to-keep", json_copy((json_t *)(uintptr_t)keep));
	return true;
}

/* The ref of that name may be set: it is new, or of this type and to be moved. */
static bool
ref_free(struct browse *b, const char *name, const char *type, bool replace)
{
	const json_t *old = json_object_get(json_object_get(b->tables[0].meta->json, "refs"), name);
	const char *is = json_string_value(json_object_get(old, "type"));

	if (old == NULL || (replace && is && strcmp(is, type) == 0))
		return true;
	reply_problem(b->rq, ERR_CONFLICT, "table %s.%s has a %s %s already, at snapshot %" JSON_INTEGER_FORMAT "%s",
		      b->tables[0].ns, b->tables[0].name, is ? is : "ref", name, (json_int_t)metadata_int(old, "snapshot-id", -1),
		      is && strcmp(is, type) == 0 ? "; --replace (\"replace\": true) moves it" : "");
	return false;
}

static void
ref_put(struct browse *b, const json_t *body)
{
	const char *name = b->rq->param[1], *type, *at;
	const json_t *snapshot;
	json_t *update, *old;

	if (!body_text(b, body, "type", &type) || !body_text(b, body, "at", &at) || !name_fits(b, name))
		return;
	if (type == NULL || (strcmp(type, "tag") != 0 && strcmp(type, "branch") != 0)) {
		reply_problem(b->rq, ERR_INVALID, "\"type\" must be \"tag\" or \"branch\"");
		return;
	}
	if (!ref_free(b, name, type, json_is_true(json_object_get(body, "replace"))) || (snapshot = browse_at(b, at)) == NULL)
		return;
	/* What is moved keeps how long it is kept, but for what is said anew. */
	old = json_object_get(json_object_get(b->tables[0].meta->json, "refs"), name);
	update = old ? json_copy(old) : json_object();
	json_object_update_new(update, json_pack("{s:s,s:s,s:s,s:O}", "action", "set-snapshot-ref", "ref-name", name, "type",
						 type, "snapshot-id", json_object_get(snapshot, "snapshot-id")));
	if (add_age(b, body, "retain", update, "max-ref-age-ms") && add_keep(b, body, strcmp(type, "branch") == 0, update) &&
	    add_age(b, body, "snapshot_age", update, "max-snapshot-age-ms"))
		change_commit(b, name, type, update);
	else
		json_decref(update);
}

static void
ref_put_done(struct browse *b)
{
	json_t *body = change_body(b);

	if (body)
		ref_put(b, body);
	json_decref(body);
}

void
table_ref_put(struct request *rq)
{
	browse_table(rq, ref_put_done);
}

static void
ref_delete_done(struct browse *b)
{
	const json_t *refs = json_object_get(b->tables[0].meta->json, "refs"), *old = json_object_get(refs, b->rq->param[1]);
	const char *name = b->rq->param[1], *wanted = request_query(b->rq, "type"),
		   *type = json_string_value(json_object_get(old, "type"));
	struct buf hint = BUF_INIT;

	suggest_hint_keys(&hint, name, refs, "its branches and tags are");
	if (old == NULL)
		reply_problem(b->rq, ERR_NOT_FOUND, "table %s.%s has no %s %s%s", b->tables[0].ns, b->tables[0].name,
			      wanted && *wanted ? wanted : "ref", name, hint.s);
	else if (strcmp(name, "main") == 0)
		reply_problem(b->rq, ERR_CONFLICT, "main is the table itself and cannot be removed");
	else if (wanted && *wanted && type && strcmp(wanted, type) != 0)
		reply_problem(b->rq, ERR_CONFLICT, "%s of table %s.%s is a %s, not a %s", name, b->tables[0].ns,
			      b->tables[0].name, type, wanted);
	else
		change_commit(b, name, type ? type : "branch",
			      json_pack("{s:s,s:s}", "action", "remove-snapshot-ref", "ref-name", name));
	buf_release(&hint);
}

void
table_ref_delete(struct request *rq)
{
	browse_table(rq, ref_delete_done);
}
