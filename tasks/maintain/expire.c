/*
 * Snapshots that nobody wants any more leave the table's metadata. What only they needed is removed after that commit, by
 * orphans.c, which is told here where they can be looked up; and by the daemon, if this process dies before (`expiring`).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/table_expiry.h"
#include "tasks/iceberg/rest.h"
#include "tasks/maintain/maintain.h"
#include "tasks/report.h"

static struct table_expiry
expiry_of(const struct care *k, const json_t *md)
{
	struct table_expiry x = table_expiry_of(k->policy, md, clock_wall());
	const json_t *older = step_option(k, "expire_snapshots", "older_than"),
		     *last = step_option(k, "expire_snapshots", "keep_last"), *keep = step_option(k, "expire_snapshots", "keep");

	if (older)
		x.older_than = json_integer_value(older);
	if (last)
		x.keep_last = json_integer_value(last);
	if (keep)
		x.keep = keep;
	x.read_since = k->oldest_reader;
	return x;
}

/* The commit holds only if no branch or tag has moved. */
static json_t *
expiry_body(const json_t *md, const json_t *ids, const json_t *refs)
{
	json_t *requirements = json_pack("[{s:s,s:O}]", "type", "assert-table-uuid", "uuid", json_object_get(md, "table-uuid")),
	       *updates = json_array(), *ref;
	const char *name;
	size_t i;

	json_object_foreach (json_object_get(md, "refs"), name, ref)
		json_array_append_new(requirements, json_pack("{s:s,s:s,s:O}", "type", "assert-ref-snapshot-id", "ref", name,
							      "snapshot-id", json_object_get(ref, "snapshot-id")));
	json_array_foreach (refs, i, ref)
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "remove-snapshot-ref", "ref-name", ref));
	if (json_array_size(ids))
		json_array_append_new(updates, json_pack("{s:s,s:O}", "action", "remove-snapshots", "snapshot-ids", ids));
	return json_pack("{s:o,s:o}", "requirements", requirements, "updates", updates);
}

/* What it would be without these snapshots, as far as it leads to files. The caller owns it. */
static json_t *
metadata_without(const json_t *md, const json_t *ids)
{
	json_t *out = json_copy((json_t *)(uintptr_t)md), *left = json_array(), *gone = json_object(), *item;
	char text[24];
	size_t i;

	json_array_foreach (ids, i, item) {
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(item));
		json_object_set_new(gone, text, json_true());
	}
	json_array_foreach (json_object_get(md, "snapshots"), i, item) {
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(json_object_get(item, "snapshot-id")));
		if (json_object_get(gone, text) == NULL)
			json_array_append(left, item);
	}
	json_object_set_new(out, "snapshots", left);
	json_decref(gone);
	return out;
}

/* One try. The status, or -1 with the error set; 0 when there is nothing to do, or it was only to be told. */
static int
expiry_try(struct care *k, json_t *out)
{
	json_t *loaded = NULL, *answer = NULL, *refs = json_array(), *ids = NULL, *body;
	const json_t *md;
	const char *location, *type;
	struct table_expiry x;
	char *path = rest_table_path(k->ns, k->name);
	int status = rest_load_table(k->cx, k->ns, k->name, &loaded);

	if (status == 404)
		step_state(out, "skipped", "the table is not there any more");
	if (status != 200) {
		status = status == 404 ? 0 : -1;
		goto out;
	}
	md = json_object_get(loaded, "metadata");
	location = json_string_value(json_object_get(loaded, "metadata-location"));
	type = json_string_value(json_object_get(json_object_get(md, "properties"), "gc.enabled"));
	if (type && strcmp(type, "false") == 0) {
		step_state(out, "skipped", "the table's property gc.enabled is false");
		status = 0;
		goto out;
	}
	x = expiry_of(k, md);
	ids = table_expired(md, &x, refs);
	step_number(out, "snapshots", (json_int_t)json_array_size(ids));
	step_number(out, "refs", (json_int_t)json_array_size(refs));
	status = 0;
	if (json_array_size(ids) + json_array_size(refs) == 0) {
		step_state(out, "nothing", NULL);
		goto out;
	}
	if (k->duty->dry_run) {
		step_state(out, "planned", NULL);
		k->before_expiry = xstrdup(location);
		k->after_expiry = metadata_without(md, ids);
		goto out;
	}
	care_tell(k, json_string_value(json_object_get(md, "location")));
	/* Said before it is done: whoever reads this looks what is needed and removes only the rest. */
	report("expiring", json_pack("[{s:s,s:s,s:s}]", "namespace", k->ns, "name", k->name, "metadata", location));
	body = expiry_body(md, ids, refs);
	FAULT("maintain.expire.before");
	status = rest_call(k->cx, "POST", path, body, &answer);
	FAULT("maintain.expire.after");
	json_decref(body);
	type = json_string_value(json_object_get(json_object_get(answer, "error"), "type"));
	if (status == 200) {
		free(k->before_expiry);
		k->before_expiry = xstrdup(location);
		k->changed = true;
		step_state(out, "done", NULL);
	} else if (status == 409 && type && strcmp(type, "TableInUseException") == 0) {
		status = care_wait(k, 0, out) <= 0 ? (k->cx->err.code ? -1 : 0) : 409;
	} else if (status >= 0 && status != 409) {
		rest_fail(k->cx, "the snapshots cannot be expired", status, answer);
		status = -1;
	}
out:
	json_decref(loaded);
	json_decref(answer);
	json_decref(refs);
	json_decref(ids);
	free(path);
	return status;
}

/* Is there something to let go, as far as the catalog has told? -1 with the error set. */
static int
any_expired(struct care *k)
{
	const json_t *md = care_metadata(k);
	json_t *refs = json_array(), *ids;
	struct table_expiry x;
	int any = -1;

	if (md) {
		x = expiry_of(k, md);
		ids = table_expired(md, &x, refs);
		any = json_array_size(ids) + json_array_size(refs) > 0;
		json_decref(ids);
	}
	json_decref(refs);
	return any;
}

int
expire_run(struct care *k, json_t *out)
{
	int status;

	k->expiry = out;
	if (json_is_true(json_object_get(k->told, "private"))) {
		step_state(out, "skipped", "its own run has changed the table, which nobody sees before it has ended");
		return 0;
	}
	if (k->changed && care_look(k, 0) < 0)
		return -1;
	if (k->told == NULL) {
		step_state(out, "skipped", "the table is not there any more");
		return 0;
	}
	if ((status = any_expired(k)) <= 0) {
		step_state(out, "nothing", NULL);
		return status;
	}
	if (!k->duty->dry_run && (status = care_wait(k, 0, out)) <= 0)
		return status;
	for (int try = 0; try < COMMIT_TRIES; try++) {
		status = expiry_try(k, out);
		if (status != 409)
			return status < 0 ? -1 : 0;
	}
	step_state(out, "skipped", "others committed first, each of the %d times that it was tried", COMMIT_TRIES);
	return 0;
}
