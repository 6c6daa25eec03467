/* What belongs together in a task's stream of Kafka, read or written, beyond the grammar. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "flows/flow_int.h"

/* Settings of the library that decide whether each message counts once: those are ours. */
static const char *const ours[] = {
	"bootstrap.servers",
	"metadata.broker.list",
	"group.id",
	"enable.auto.commit",
	"enable.auto.offset.store",
	"auto.offset.reset",
	"enable.partition.eof",
	"transactional.id",
	"enable.idempotence",
	"acks",
	"request.required.acks",
	"retries",
	"message.send.max.retries",
	"max.in.flight",
	"max.in.flight.requests.per.connection",
};

static bool
is_kafka(const json_t *place)
{
	const char *format = json_string_value(json_object_get(place, "format"));

	return format && strcmp(format, "kafka") == 0;
}

static void
error_at(struct loader *l, const struct task_def *t, const char *place, const char *what)
{
	int line = t->line, col = t->col;

	pos_find(t->pos, place, &line, &col);
	load_error(l, line, col, "\"%s\" of task \"%s\" %s", place, t->id, what);
}

static void
check_options(struct loader *l, const struct task_def *t, const char *object)
{
	const json_t *where = json_object_get(t->spec, object), *security = json_object_get(where, "security");
	const char *name, *protocol = json_string_value(json_object_get(security, "protocol"));
	json_t *value;
	char *place;

	json_object_foreach (json_object_get(where, "options"), name, value)
		for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
			if (strcmp(ours[i], name) != 0)
				continue;
			place = xasprintf("%s/options/%s", object, name);
			error_at(l, t, place, "is set by Sluice, so that each message counts once");
			free(place);
		}
	place = xasprintf("%s/security", object);
	if (protocol && strncmp(protocol, "sasl", 4) == 0 && json_object_get(security, "mechanism") == NULL)
		error_at(l, t, place, "needs \"mechanism\" with protocol: sasl_ssl or sasl_plaintext");
	if (protocol && strncmp(protocol, "sasl", 4) != 0 && !text_has_ref(protocol) && json_object_get(security, "username"))
		error_at(l, t, place, "names a user, which goes with protocol: sasl_ssl or sasl_plaintext");
	free(place);
}

static void
check_source(struct loader *l, const struct task_def *t, const json_t *source)
{
	const char *starting = json_string_value(json_object_get(source, "starting")),
		   *value = json_string_value(json_object_get(source, "value_format"));
	wall_us at;

	if (starting && !text_has_ref(starting) && strcmp(starting, "earliest") != 0 && strcmp(starting, "latest") != 0 &&
	    time_parse_at(starting, 0, &at) < 0)
		error_at(l, t, "source/starting",
			 "must be earliest, latest, a time such as 2026-11-21 06:00 (UTC), or one such as 2h ago");
	if ((value == NULL || strcmp(value, "json") == 0) && json_object_size(json_object_get(source, "columns")) == 0 &&
	    json_object_size(json_object_get(t->spec, "schema")) == 0)
		error_at(l, t, "source",
			 "needs \"columns\", name to SQL type: a run that finds no new message could not know them (or "
			 "value_format: "
			 "text)");
	if (value && strcmp(value, "json") != 0 && !text_has_ref(value) && json_object_get(source, "columns"))
		error_at(l, t, "source/columns", "goes with value_format: json; text and bytes have the one column \"value\"");
}

void
flow_check_kafka(struct loader *l, const struct task_def *t)
{
	const json_t *source = json_object_get(t->spec, "source"), *to = json_object_get(t->spec, "to");

	if (is_kafka(source)) {
		check_source(l, t, source);
		check_options(l, t, "source");
	}
	if (is_kafka(to))
		check_options(l, t, "to");
}

/* Both topics lists of one group: do they share a topic? */
static bool
share_topic(const json_t *a, const json_t *b)
{
	json_t *x, *y;
	size_t i, k;

	json_array_foreach (json_object_get(a, "topic"), i, x)
		json_array_foreach (json_object_get(b, "topic"), k, y)
			if (json_equal(x, y))
				return true;
	return false;
}

void
flow_check_streams(struct loader *l)
{
	for (size_t i = 0; i < l->flow->ntasks; i++)
		for (size_t k = 0; k < i; k++) {
			const struct task_def *t = &l->flow->tasks[i], *other = &l->flow->tasks[k];
			const json_t *a = json_object_get(t->spec, "source"), *b = json_object_get(other->spec, "source"),
				     *group = json_object_get(a, "group");
			char *what;

			if (!is_kafka(a) || !is_kafka(b) || group == NULL || !json_equal(group, json_object_get(b, "group")) ||
			    !share_topic(a, b))
				continue;
			what = xasprintf("is that of task \"%s\", too, for the same topic: a stream is read by one task of a run",
					 other->id);
			error_at(l, t, "source/group", what);
			free(what);
		}
}
