#include "base/table_expiry.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/table_at.h"

#define US_PER_WEEK (7 * US_PER_DAY)
#define MONDAY      (4 * US_PER_DAY) /* the first one after 1970-01-01, which was a Thursday */

struct choice {
	const json_t *md;
	const struct table_expiry *x;
	json_t *by_id;        /* id -> snapshot */
	json_t *times;        /* id -> when it was made, as far as that can be trusted */
	json_t *kept, *lines; /* sets of ids: what stays; what belongs to a branch or tag */
};

static json_int_t
number(const json_t *object, const char *key, json_int_t otherwise)
{
	const json_t *value = json_object_get(object, key);

	if (json_is_string(value)) /* as properties have it */
		return strtoll(json_string_value(value), NULL, 10);
	return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

static const char *
id_text(json_int_t id, char out[24])
{
	snprintf(out, 24, "%lld", (long long)id);
	return out;
}

static const json_t *
snapshot_of(const struct choice *c, json_int_t id)
{
	char text[24];

	return json_object_get(c->by_id, id_text(id, text));
}

static wall_us
made_at(const struct choice *c, const json_t *snapshot)
{
	char text[24];

	return json_integer_value(json_object_get(c->times, id_text(number(snapshot, "snapshot-id", -1), text)));
}

static wall_us
told_at(const json_t *entry)
{
	return number(entry, "timestamp-ms", 0) * US_PER_MS;
}

/*
 * Clocks of writers differ, but the list is in the order of the commits: whoever tells a time before that of an earlier one, or
 * one that is still to come, is not believed, and its snapshot counts as made when the next one was.
 */
static void
take_times(struct choice *c)
{
	json_t *list = json_object_get(c->md, "snapshots"), *snapshot;
	size_t n = json_array_size(list), i;
	wall_us *times = xcalloc(n + 1, sizeof(*times)), last = 0;
	char text[24];

	json_array_foreach (list, i, snapshot) {
		wall_us at = told_at(snapshot);

		times[i] = at >= last && at <= c->x->now ? (last = at) : -1;
	}
	times[n] = c->x->now;
	while (i-- > 0) {
		snapshot = json_array_get(list, i);
		times[i] = times[i] < 0 ? times[i + 1] : times[i];
		id_text(number(snapshot, "snapshot-id", -1), text);
		json_object_set(c->by_id, text, snapshot);
		json_object_set_new(c->times, text, json_integer(times[i]));
	}
	free(times);
}

static void
keep(struct choice *c, const json_t *snapshot)
{
	char text[24];

	json_object_set_new(c->kept, id_text(number(snapshot, "snapshot-id", -1), text), json_true());
}

static void
belongs(struct choice *c, const json_t *snapshot)
{
	char text[24];

	json_object_set_new(c->lines, id_text(number(snapshot, "snapshot-id", -1), text), json_true());
}

static const json_t *
parent_of(const struct choice *c, const json_t *snapshot)
{
	return snapshot_of(c, number(snapshot, "parent-snapshot-id", -1));
}

/* The number of the day, week or month that a moment falls into, in UTC. */
static json_int_t
period(const char *what, wall_us at)
{
	time_t seconds = (time_t)(at / US_PER_S);
	struct tm tm;

	if (strcmp(what, "daily") == 0)
		return at / US_PER_DAY;
	if (strcmp(what, "weekly") == 0)
		return (at - MONDAY) / US_PER_WEEK;
	gmtime_r(&seconds, &tm);
	return tm.tm_year * 12 + tm.tm_mon;
}

/* The newest of each of the last so many days (weeks, months) that have one. */
static void
keep_calendar(struct choice *c, const json_t *head)
{
	static const char *const kinds[] = { "daily", "weekly", "monthly" };

	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		json_int_t left = number(c->x->keep, kinds[k], 0), last = -1;

		for (const json_t *s = head; s && left > 0; s = parent_of(c, s)) {
			json_int_t now = period(kinds[k], made_at(c, s));

			if (now == last)
				continue;
			last = now;
			left--;
			keep(c, s);
		}
	}
}

static void
keep_branch(struct choice *c, const json_t *ref, const json_t *head)
{
	json_int_t left = number(ref, "min-snapshots-to-keep", c->x->keep_last),
		   age = number(ref, "max-snapshot-age-ms", c->x->older_than / US_PER_MS);
	wall_us since = c->x->now - age * US_PER_MS, replaced = c->x->now;
	bool going = true;

	for (const json_t *s = head; s; s = parent_of(c, s)) {
		going = going && (left-- > 0 || made_at(c, s) >= since);
		if (going || s == head || (c->x->read_since && replaced >= c->x->read_since))
			keep(c, s);
		belongs(c, s);
		replaced = made_at(c, s);
	}
}

/* A rollback makes another one current without a child that tells: the log does. */
static void
keep_read(struct choice *c)
{
	const json_t *log = json_object_get(c->md, "snapshot-log");
	size_t n = json_array_size(log);

	for (size_t i = 0; c->x->read_since && i < n; i++) {
		const json_t *entry = json_array_get(log, i), *snapshot = snapshot_of(c, number(entry, "snapshot-id", -1));
		const json_t *next = json_array_get(log, i + 1);
		wall_us until = next ? told_at(next) : c->x->now, made = made_at(c, next);

		if (snapshot && (until > made ? until : made) >= c->x->read_since)
			keep(c, snapshot);
	}
}

static void
keep_refs(struct choice *c, json_t *expired)
{
	json_t *refs = json_object_get(c->md, "refs"), *ref;
	const char *name;

	json_object_foreach (refs, name, ref) {
		const json_t *head = snapshot_of(c, number(ref, "snapshot-id", -1));
		json_int_t age = number(ref, "max-ref-age-ms", -1);
		const char *type = json_string_value(json_object_get(ref, "type"));

		if (strcmp(name, "main") != 0 && head && age >= 0 && c->x->now - made_at(c, head) > age * US_PER_MS) {
			if (expired)
				json_array_append_new(expired, json_string(name));
			continue;
		}
		if (head == NULL)
			continue;
		if (type && strcmp(type, "tag") == 0) {
			keep(c, head);
			belongs(c, head);
		} else {
			keep_branch(c, ref, head);
		}
	}
	if (json_object_get(refs, "main") == NULL) { /* version 1 may tell its only branch by the current snapshot alone */
		const json_t *head = snapshot_of(c, table_current(c->md));

		if (head)
			keep_branch(c, NULL, head);
	}
	keep_calendar(c, snapshot_of(c, table_current(c->md)));
}

struct table_expiry
table_expiry_of(const json_t *policy, const json_t *md, wall_us now)
{
	const json_t *own = json_object_get(md, "properties");
	json_int_t days = number(policy, "expire_days", 7);

	return (struct table_expiry){
		.now = now,
		.older_than = number(own, "history.expire.max-snapshot-age-ms", days * (US_PER_DAY / US_PER_MS)) * US_PER_MS,
		.keep_last = number(own, "history.expire.min-snapshots-to-keep", number(policy, "keep_last", 1)),
		.keep = json_object_get(policy, "keep"),
	};
}

json_t *
table_expired(const json_t *md, const struct table_expiry *x, json_t *refs)
{
	struct choice c = {
		.md = md, .x = x, .by_id = json_object(), .times = json_object(), .kept = json_object(), .lines = json_object()
	};
	json_t *out = json_array(), *snapshot;
	char text[24];
	size_t i;

	take_times(&c);
	keep_refs(&c, refs);
	keep_read(&c);
	json_array_foreach (json_object_get(md, "snapshots"), i, snapshot) {
		wall_us made = made_at(&c, snapshot);
		bool young = made >= x->now - x->older_than || (x->read_since && made >= x->read_since);

		id_text(number(snapshot, "snapshot-id", -1), text);
		if (json_object_get(c.kept, text) == NULL && (json_object_get(c.lines, text) || !young))
			json_array_append(out, json_object_get(snapshot, "snapshot-id"));
	}
	json_decref(c.by_id);
	json_decref(c.times);
	json_decref(c.kept);
	json_decref(c.lines);
	return out;
}
