/*
 * Gives what a run appended to tables a new place, on top of what others have committed meanwhile:
 *
 *     plan     is that all the run did to them?      (worker thread)
 *     lists    new manifest lists                    (a child, since they are Avro)
 *     build    new metadata files                    (worker thread)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/commit_int.h"
#include "api/catalog/metadata.h"
#include "base/alloc.h"
#include "base/attempt_name.h"
#include "base/clock.h"

#define LISTS_TIMEOUT (60 * US_PER_S)

/* One table: the metadata that the run began from (NULL: it made the table), that it arrived at, and that is there now. */
struct moved {
	const char *ns, *name, *have, *attempt;
	json_t *base, *mine, *head;
	json_t *snapshots; /* of the run, oldest first */
	json_t *lists;     /* what the child is told: {head, snapshots: [{id, sequence, list, into}]} */
	char *after;
};

struct rebase {
	struct catalog *catalog;
	json_t *tables; /* as given */
	struct moved *moved;
	size_t n;
	sched_rebased_cb cb;
	void *arg;
	struct work work;
	struct err e;
};

static void
rebase_end(struct rebase *r)
{
	json_t *done = json_array();

	for (size_t i = 0; i < r->n; i++) {
		struct moved *m = &r->moved[i];

		if (r->e.code == 0)
			json_array_append_new(done, json_pack("{s:s,s:s,s:s,s:s}", "namespace", m->ns, "name", m->name, "before",
							      m->have, "after", m->after));
		json_decref(m->base);
		json_decref(m->mine);
		json_decref(m->head);
		json_decref(m->snapshots);
		json_decref(m->lists);
		free(m->after);
	}
	if (!r->catalog->closing)
		r->cb(r->arg, done, r->e.code ? &r->e : NULL);
	json_decref(done);
	err_release(&r->e);
	json_decref(r->tables);
	catalog_unref(r->catalog);
	free(r->moved);
	free(r);
}

static json_t *
read_metadata(const json_t *table, const char *key, struct err *e)
{
	const char *location = json_string_value(json_object_get(table, key));
	json_t *json = NULL;
	char *text;
	size_t len;

	if (location == NULL || warehouse_read(location, &text, &len, &json, e) < 0)
		return NULL;
	free(text);
	return json;
}

/* Did the run change nothing but the rows? */
static bool
rows_only(const struct moved *m)
{
	static const char *const keys[] = { "schemas",         "current-schema-id", "partition-specs",
					    "default-spec-id", "sort-orders",       "default-sort-order-id",
					    "properties",      "location",          "format-version",
					    "table-uuid" };

	if (metadata_int(m->head, "format-version", 0) > 2) /* its rows have numbers, and would get others */
		return false;
	if (m->base == NULL) /* it made the table, and so did somebody else: are they alike? */
		return metadata_same(
			       json_object_get(metadata_current(m->mine, "schemas", "schema-id", "current-schema-id"), "fields"),
			       json_object_get(metadata_current(m->head, "schemas", "schema-id", "current-schema-id"),
					       "fields")) &&
		       metadata_same(json_object_get(m->mine, "partition-specs"), json_object_get(m->head, "partition-specs")) &&
		       metadata_same(json_object_get(m->mine, "format-version"), json_object_get(m->head, "format-version"));
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!metadata_same(json_object_get(m->base, keys[i]), json_object_get(m->mine, keys[i])))
			return false;
	return metadata_same(json_object_get(m->base, "table-uuid"), json_object_get(m->head, "table-uuid"));
}

/* May these rows be added to whatever is there? An upsert of nothing but new keys is an append, too, but not with others' keys.
 */
static bool
appended_blindly(const json_t *snapshot)
{
	const json_t *summary = json_object_get(snapshot, "summary");
	const char *operation = json_string_value(json_object_get(summary, "operation")),
		   *mode = json_string_value(json_object_get(summary, "sluice.mode"));

	return operation && strcmp(operation, "append") == 0 && !(mode && strcmp(mode, "upsert") == 0);
}

/* The run's snapshots, if each only appended and they follow each other on main. */
static bool
appends_only(struct moved *m)
{
	json_t *at = metadata_current(m->mine, "snapshots", "snapshot-id", "current-snapshot-id");
	const json_t *base = json_object_get(m->base, "snapshots");
	size_t fresh = json_array_size(json_object_get(m->mine, "snapshots")) - json_array_size(base);

	m->snapshots = json_array();
	while (at && metadata_find(base, "snapshot-id", metadata_int(at, "snapshot-id", -1), NULL) == NULL) {
		if (!appended_blindly(at))
			return false;
		json_array_insert(m->snapshots, 0, at);
		at = metadata_find(json_object_get(m->mine, "snapshots"), "snapshot-id",
				   metadata_int(at, "parent-snapshot-id", -1), NULL);
	}
	return fresh > 0 && json_array_size(m->snapshots) == fresh &&
	       json_object_size(json_object_get(m->mine, "refs")) <= json_object_size(json_object_get(m->base, "refs")) + 1;
}

static void
plan_lists(struct moved *m)
{
	const char *location = json_string_value(json_object_get(m->head, "location"));
	json_t *head = metadata_current(m->head, "snapshots", "snapshot-id", "current-snapshot-id"), *list = json_array(), *s;
	json_int_t sequence = metadata_int(m->head, "last-sequence-number", 0),
		   format = metadata_int(m->head, "format-version", 1);
	char uuid[UUID_TEXT];
	size_t i;

	attempt_uuid(m->attempt, uuid); /* another one for every try */

	json_array_foreach (m->snapshots, i, s) {
		long long id = json_integer_value(json_object_get(s, "snapshot-id"));
		char *into = xasprintf("%s/metadata/snap-%lld-%zu-%s.avro", location, id, i + 1, uuid);

		sequence += format > 1; /* version 1 has no such numbers */
		json_array_append_new(list, json_pack("{s:I,s:I,s:O,s:s}", "id", (json_int_t)id, "sequence", sequence, "list",
						      json_object_get(s, "manifest-list"), "into", into));
		free(into);
	}
	m->lists =
		json_pack("{s:I,s:O?,s:o}", "format", format, "head", json_object_get(head, "manifest-list"), "snapshots", list);
}

static void
plan_work(struct work *w)
{
	struct rebase *r = w->data;

	for (size_t i = 0; i < r->n && r->e.code == 0; i++) {
		struct moved *m = &r->moved[i];
		const json_t *table = json_array_get(r->tables, i);

		m->base = read_metadata(table, "before", &r->e);
		m->mine = read_metadata(table, "after", &r->e);
		m->head = read_metadata(table, "have", &r->e);
		if (r->e.code)
			continue;
		if (m->mine == NULL || m->head == NULL || !rows_only(m) || !appends_only(m))
			err_set(&r->e, ERR_CONFLICT, "the run did more to table %s.%s than append to it", m->ns, m->name);
		else
			plan_lists(m);
	}
}

static void
summary_total(json_t *summary, const json_t *before, const char *total, const char *added)
{
	const char *have = json_string_value(json_object_get(before, total)),
		   *more = json_string_value(json_object_get(summary, added));
	char text[32];

	snprintf(text, sizeof(text), "%lld", (have ? strtoll(have, NULL, 10) : 0) + (more ? strtoll(more, NULL, 10) : 0));
	json_object_set_new(summary, total, json_string(text));
}

/* The snapshot in its new place, on top of `parent` (NULL: the first one). */
static json_t *
snapshot_moved(const json_t *snapshot, const json_t *lists, const json_t *parent, const json_t *md)
{
	json_t *s = json_deep_copy(snapshot), *summary = json_object_get(s, "summary");
	const json_t *before = json_object_get(parent, "summary");

	json_object_del(s, "parent-snapshot-id");
	if (parent)
		json_object_set(s, "parent-snapshot-id", json_object_get(parent, "snapshot-id"));
	json_object_del(s, "sequence-number");
	if (metadata_int(md, "format-version", 1) > 1)
		json_object_set(s, "sequence-number", json_object_get(lists, "sequence"));
	json_object_set(s, "manifest-list", json_object_get(lists, "into"));
	json_object_set_new(s, "timestamp-ms", json_integer(clock_wall() / US_PER_MS));
	json_object_set(s, "schema-id", json_object_get(md, "current-schema-id"));
	summary_total(summary, before, "total-records", "added-records");
	summary_total(summary, before, "total-data-files", "added-data-files");
	summary_total(summary, before, "total-files-size", "added-files-size");
	summary_total(summary, before, "total-delete-files", "added-delete-files");
	summary_total(summary, before, "total-position-deletes", "added-position-deletes");
	summary_total(summary, before, "total-equality-deletes", "added-equality-deletes");
	return s;
}

static void
build_one(struct moved *m, struct err *e)
{
	json_t *updates = json_array(), *s,
	       *parent = json_incref(metadata_current(m->head, "snapshots", "snapshot-id", "current-snapshot-id")), *md;
	struct metadata_input in = { .now_ms = clock_wall() / US_PER_MS };
	char *text;
	size_t i;

	json_array_foreach (m->snapshots, i, s) {
		json_t *next = snapshot_moved(s, json_array_get(json_object_get(m->lists, "snapshots"), i), parent, m->head);

		json_decref(parent);
		parent = next;
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "add-snapshot", "snapshot", next));
		json_array_append_new(updates, json_pack("{s:s,s:s,s:s,s:O}", "action", "set-snapshot-ref", "ref-name", "main",
							 "type", "branch", "snapshot-id", json_object_get(next, "snapshot-id")));
	}
	json_decref(parent);
	md = metadata_apply(m->head, m->have, updates, &in, e);
	json_decref(updates);
	if (md == NULL)
		return;
	text = json_dumps(md, JSON_COMPACT);
	m->after = metadata_location_next(md, m->have, m->attempt);
	(void)!warehouse_write(m->after, text, strlen(text), e);
	free(text);
	json_decref(md);
}

static void
build_work(struct work *w)
{
	struct rebase *r = w->data;

	for (size_t i = 0; i < r->n && r->e.code == 0; i++)
		build_one(&r->moved[i], &r->e);
}

static void
on_built(struct work *w, int status)
{
	(void)status;
	rebase_end(w->data);
}

static bool
rebase_remote(const struct rebase *r)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->moved[i].have && storage_remote(r->moved[i].have))
			return true;
	return false;
}

static void
on_listed(void *arg, const json_t *report, struct err *e)
{
	struct rebase *r = arg;

	(void)report;
	if (e) {
		err_set(&r->e, e->code, "%s", e->msg);
		rebase_end(r);
		return;
	}
	work_queue(r->catalog->app->loop, &r->work, rebase_remote(r), build_work, on_built);
}

static void
on_planned(struct work *w, int status)
{
	struct rebase *r = w->data;
	json_t *tables, *spec;

	(void)status;
	if (r->e.code || r->catalog->closing) {
		rebase_end(r);
		return;
	}
	tables = json_array();
	for (size_t i = 0; i < r->n; i++)
		json_array_append(tables, r->moved[i].lists);
	spec = json_pack("{s:o}", "tables", tables);
	sched_adhoc(r->catalog->app->sched, "rebase", spec, LISTS_TIMEOUT, on_listed, r);
	json_decref(spec);
}

void
catalog_rebase(void *arg, const json_t *tables, sched_rebased_cb cb, void *cb_arg)
{
	struct rebase *r = xcalloc(1, sizeof(*r));

	r->catalog = catalog_ref(arg);
	r->tables = json_deep_copy(tables);
	r->n = json_array_size(tables);
	r->moved = xcalloc(r->n, sizeof(*r->moved));
	r->cb = cb;
	r->arg = cb_arg;
	for (size_t i = 0; i < r->n; i++) {
		const json_t *t = json_array_get(r->tables, i);

		r->moved[i].ns = json_string_value(json_object_get(t, "namespace"));
		r->moved[i].name = json_string_value(json_object_get(t, "name"));
		r->moved[i].have = json_string_value(json_object_get(t, "have"));
		r->moved[i].attempt = json_string_value(json_object_get(t, "attempt"));
	}
	r->work.data = r;
	work_queue(r->catalog->app->loop, &r->work, rebase_remote(r), plan_work, on_planned);
}
