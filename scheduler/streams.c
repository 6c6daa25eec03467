/*
 * How far each stream of messages was read (docs/architecture.md, "Streams"): the table `offsets`, which only this daemon
 * writes and so knows by heart. A task's offsets move with its run's tables, by the same statement, if they are still where
 * the task began.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/sched_int.h"

/* s->offsets: {stream: {"cluster": id, "topics": {topic: {partition: offset}}}} */

static json_t *
child(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	if (value == NULL) {
		value = json_object();
		json_object_set_new(object, key, value);
	}
	return value;
}

static void
note(struct sched *s, const json_t *row)
{
	json_t *stream = child(s->offsets, json_string_value(json_object_get(row, "stream"))),
	       *cluster = json_object_get(row, "cluster");
	char partition[24];

	if (json_is_string(cluster))
		json_object_set(stream, "cluster", cluster);
	snprintf(partition, sizeof(partition), "%lld", (long long)json_integer_value(json_object_get(row, "partition")));
	json_object_set(child(child(stream, "topics"), json_string_value(json_object_get(row, "topic"))), partition,
			json_object_get(row, "next"));
}

void
streams_recover(struct sched *s, const json_t *rows)
{
	json_t *row;
	size_t i;

	json_object_clear(s->offsets);
	json_array_foreach (rows, i, row)
		note(s, row);
}

json_t *
streams_doc(const struct task *t, const json_t *spec)
{
	const json_t *source = json_object_get(spec, "source"), *stream;
	const char *format = json_string_value(json_object_get(source, "format")),
		   *group = json_string_value(json_object_get(source, "group"));
	char *name;
	json_t *doc;

	if (format == NULL || strcmp(format, "kafka") != 0)
		return NULL;
	name = group ? xstrdup(group) : xasprintf("%s.%s", t->run->flow->id, t->def->id);
	stream = json_object_get(t->run->sched->offsets, name);
	doc = json_pack("{s:s,s:O*,s:O*}", "name", name, "cluster", json_object_get(stream, "cluster"), "offsets",
			json_object_get(stream, "topics"));
	free(name);
	return doc;
}

/* What one partition's report becomes; NULL: it is none. */
static json_t *
row_of(const struct task *t, const json_t *stream, const json_t *partition)
{
	const json_t *base = json_object_get(partition, "base");

	if (!json_is_string(json_object_get(stream, "stream")) || !json_is_string(json_object_get(partition, "topic")) ||
	    !json_is_integer(json_object_get(partition, "partition")) || !json_is_integer(json_object_get(partition, "next")) ||
	    !(json_is_integer(base) || json_is_null(base)))
		return NULL;
	return json_pack("{s:O,s:O?,s:O,s:O,s:O,s:O,s:s}", "stream", json_object_get(stream, "stream"), "cluster",
			 json_object_get(stream, "cluster"), "topic", json_object_get(partition, "topic"), "partition",
			 json_object_get(partition, "partition"), "base", base, "next", json_object_get(partition, "next"),
			 "task", t->def->id);
}

void
streams_note(struct task *t, const json_t *report)
{
	json_t *stream, *partition, *row;
	size_t i, k;

	streams_forget(t);
	/* Of a program's report anybody may be the author; and a rehearsal leaves everything where it was. */
	if (t->def->type != TASK_STAGE || t->run->rehearsal || !json_is_array(json_object_get(report, "streams")))
		return;
	t->reads = json_array();
	json_array_foreach (json_object_get(report, "streams"), i, stream)
		json_array_foreach (json_object_get(stream, "partitions"), k, partition)
			if ((row = row_of(t, stream, partition)) != NULL)
				json_array_append_new(t->reads, row);
}

void
streams_forget(struct task *t)
{
	json_decref(t->reads);
	t->reads = NULL;
}

bool
streams_pending(const struct run *run, const struct task *t)
{
	for (size_t i = 0; i < run->flow->ntasks; i++)
		if ((t == NULL || t == &run->tasks[i]) && json_array_size(run->tasks[i].reads) > 0)
			return true;
	return false;
}

json_t *
streams_rows(const struct run *run, const struct task *t)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < run->flow->ntasks; i++)
		if (t == NULL || t == &run->tasks[i])
			json_array_extend(rows, run->tasks[i].reads);
	return rows;
}

void
streams_settle(struct run *run, const struct task *t)
{
	json_t *rows = streams_rows(run, t), *row;
	size_t i;

	json_array_foreach (rows, i, row)
		note(run->sched, row);
	json_decref(rows);
	for (i = 0; i < run->flow->ntasks; i++)
		if (t == NULL || t == &run->tasks[i])
			streams_forget(&run->tasks[i]);
}
