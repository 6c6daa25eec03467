#include "base/table_at.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

#define NO_SNAPSHOT ((json_int_t)-1)

static json_int_t
id_of(const json_t *object, const char *key)
{
	const json_t *id = json_object_get(object, key);

	return json_is_integer(id) ? json_integer_value(id) : NO_SNAPSHOT;
}

json_int_t
table_current(const json_t *md)
{
	return id_of(md, "current-snapshot-id");
}

const json_t *
table_snapshot(const json_t *md, json_int_t id)
{
	const json_t *snapshots = json_object_get(md, "snapshots"), *s;
	size_t i;

	json_array_foreach (snapshots, i, s)
		if (id_of(s, "snapshot-id") == id)
			return s;
	return NULL;
}

/* Names the branches and tags, for the end of a sentence. */
static void
add_refs(struct buf *b, const json_t *md)
{
	json_t *refs = json_object_get(md, "refs"), *ref;
	const char *name, *comma = "; its branches and tags are ";

	json_object_foreach (refs, name, ref) {
		buf_addf(b, "%s%s", comma, name);
		comma = ", ";
	}
}

/* What was current at `t`: the log tells every change of it, oldest first. */
static const json_t *
at_time(const json_t *md, wall_us t, struct err *e)
{
	const json_t *log = json_object_get(md, "snapshot-log"), *entry;
	json_int_t id = NO_SNAPSHOT;
	const json_t *found;
	char text[TIME_TEXT], first[TIME_TEXT];
	size_t i;

	json_array_foreach (log, i, entry)
		if (id_of(entry, "timestamp-ms") * US_PER_MS <= t)
			id = id_of(entry, "snapshot-id");
	found = id == NO_SNAPSHOT ? NULL : table_snapshot(md, id);
	if (found)
		return found;
	time_format(t, text);
	if (id != NO_SNAPSHOT)
		err_set(e, ERR_NOT_FOUND, "what was current at %s, snapshot %" JSON_INTEGER_FORMAT ", has expired", text, id);
	else if (json_array_size(log) == 0)
		err_set(e, ERR_NOT_FOUND, "the table has no history");
	else
		err_set(e, ERR_NOT_FOUND, "the table's history begins at %s, after %s",
			time_format(id_of(json_array_get(log, 0), "timestamp-ms") * US_PER_MS, first), text);
	return NULL;
}

/*
 * What the current snapshot was made from. One that replaced the whole table says nothing of what was there: then what was
 * current before it became so for the first time.
 */
static json_int_t
previous_of(const json_t *md)
{
	json_int_t current = table_current(md), id = id_of(table_snapshot(md, current), "parent-snapshot-id");
	const json_t *log = json_object_get(md, "snapshot-log"), *entry;
	size_t i;

	if (id != NO_SNAPSHOT)
		return id;
	json_array_foreach (log, i, entry) {
		if (id_of(entry, "snapshot-id") == current)
			break;
		id = id_of(entry, "snapshot-id");
	}
	return id;
}

static const json_t *
at_id(const json_t *md, json_int_t id, const char *what, struct err *e)
{
	const json_t *found = id == NO_SNAPSHOT ? NULL : table_snapshot(md, id);

	if (found == NULL && id == NO_SNAPSHOT)
		err_set(e, ERR_NOT_FOUND, "the table has no %s snapshot", what);
	else if (found == NULL)
		err_set(e, ERR_NOT_FOUND,
			"the table has no snapshot %" JSON_INTEGER_FORMAT ": it never had it, or it has expired", id);
	return found;
}

const json_t *
table_at(const json_t *md, const char *at, wall_us now, struct err *e)
{
	const json_t *ref = at ? json_object_get(json_object_get(md, "refs"), at) : NULL;
	struct buf b = BUF_INIT;
	wall_us t;

	if (at == NULL || *at == '\0' || (strcmp(at, "main") == 0 && ref == NULL))
		return at_id(md, table_current(md), "current", e);
	if (ref)
		return at_id(md, id_of(ref, "snapshot-id"), at, e);
	if (at[strspn(at, "0123456789")] == '\0')
		return at_id(md, strtoll(at, NULL, 10), at, e);
	if (strcmp(at, "previous") == 0)
		return at_id(md, previous_of(md), "previous", e);
	if (time_parse_at(at, now, &t) == 0)
		return at_time(md, t, e);
	add_refs(&b, md);
	err_set(e, ERR_NOT_FOUND, "\"%s\" is no branch, tag, snapshot id or time of the table%s", at, b.s);
	buf_release(&b);
	return NULL;
}
