/*
 * A topic of Kafka as the target of an export: a message of JSON a row, all in one transaction of the brokers. In it the export
 * notes itself as the offset of a group of its own, so that an attempt after one that died before it could tell sends nothing
 * twice. The rows are put aside first: the engine's answer is not held in memory.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "tasks/engines/duckdb.h"
#include "tasks/export.h"
#include "tasks/json_text.h"
#include "tasks/kafka.h"
#include "tasks/report.h"

#define PROGRESS US_PER_S
#define SEEN     (10 * US_PER_S) /* how long to wait until readers see what was committed */
#define ASK      10              /* ms between two looks whether they do */
#define KEY      "sluice:key"

struct sink {
	struct kafka_client client; /* first: what the library's callback gets */
	struct context *cx;
	const char *topic, *key; /* the column of the key, or NULL */
	char *name;              /* of the transaction, and of its note's group */
	char *path;              /* of the rows */
	int64_t rows, sent, delivered, bytes, scanned;
	int64_t *ends; /* what comes behind our last message, by partition; 0: none of ours is there */
	int partitions;
	/* the first message that was not taken */
	rd_kafka_resp_err_t refused;
	int64_t refused_row;
	mono_us told;
};

/* The brokers have, or have not, taken a message; called while the library is asked. */
static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
	struct sink *s = opaque;

	(void)rk;
	if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
		s->delivered++;
		if (m->partition < s->partitions)
			s->ends[m->partition] = m->offset + 1;
		kafka_calm(&s->client);
	} else if (s->refused == RD_KAFKA_RESP_ERR_NO_ERROR && m->err != RD_KAFKA_RESP_ERR__PURGE_QUEUE) {
		s->refused = m->err;
		s->refused_row = (int64_t)(intptr_t)m->_private;
	}
}

/* Takes what a step of the transaction gave. */
static int
check(struct sink *s, rd_kafka_error_t *error, const char *what)
{
	int rc;

	if (error == NULL)
		return 0;
	kafka.poll(s->client.rk, 0);
	if (s->refused)
		rc = kafka_fail(&s->client, s->refused, kafka.err2str(s->refused), "row %" PRId64 " is not taken by topic \"%s\"",
				s->refused_row, s->topic);
	else
		rc = kafka_fail(&s->client, kafka.error_code(error), kafka.error_string(error), "%s", what);
	kafka.error_destroy(error);
	return rc;
}

/* ---- the rows ---- */

/* Puts them aside, a line each: the row, with its key as the first member. */
static int
put_aside(struct sink *s, const char *query)
{
	struct buf b = BUF_INIT;
	struct duck_result *r;

	buf_adds(&b, "COPY (SELECT ");
	if (s->key) {
		buf_add_sql_name(&b, s->key);
		buf_adds(&b, "::VARCHAR AS \"" KEY "\", ");
	}
	buf_addf(&b, "* FROM (%s)) TO ", query);
	buf_add_sql_string(&b, s->path);
	buf_adds(&b, " (FORMAT json)");
	r = duck_query_counted(s->cx->db, b.s, &s->scanned, &s->cx->err);
	buf_release(&b);
	if (r == NULL)
		return -1;
	s->rows = duck_int(r, 0, 0);
	duck_result_free(r);
	return 0;
}

static int
check_key(struct sink *s, const json_t *key, const char *query)
{
	json_t *columns, *names = json_array(), *column;
	size_t i;
	int rc = -1;

	columns = duck_describe(s->cx->db, query, &s->cx->err);
	json_array_foreach (columns, i, column)
		json_array_append(names, json_object_get(column, "name"));
	if (columns)
		rc = export_check_key(s->cx, names, key);
	json_decref(columns);
	json_decref(names);
	return rc;
}

static void
tell_progress(struct sink *s)
{
	mono_us now = clock_mono();

	if (s->told && now - s->told < PROGRESS)
		return;
	s->told = now;
	report("progress", json_pack("{s:I,s:I,s:s}", "done", (json_int_t)s->delivered, "total", (json_int_t)s->rows, "message",
				     "messages taken by the brokers"));
}

/* Hands one message to the library, which waits for room in its queue as long as the brokers take any. */
static int
send_one(struct sink *s, rd_kafka_topic_t *topic, struct json_text value, const char *key)
{
	mono_us since = clock_mono();
	int64_t before = s->delivered;
	rd_kafka_resp_err_t code;

	while (kafka.produce(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, (void *)(uintptr_t)value.s, value.len, key,
			     key ? strlen(key) : 0, (void *)(intptr_t)(s->sent + 1)) < 0) {
		code = kafka.last_error();
		if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			return kafka_fail(&s->client, code, kafka.err2str(code), "row %" PRId64 " for topic \"%s\"", s->sent + 1,
					  s->topic);
		kafka.poll(s->client.rk, 100);
		if (s->delivered > before) {
			before = s->delivered;
			since = clock_mono();
		}
		if (clock_mono() - since > s->client.patience * US_PER_MS)
			return kafka_fail(&s->client, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL, "sending to topic \"%s\"", s->topic);
	}
	s->sent++;
	s->bytes += (int64_t)value.len;
	if (s->sent % 1000 == 0) {
		kafka.poll(s->client.rk, 0);
		FAULT("export.messages.sent");
	}
	return 0;
}

/* Takes the key out of the row: what comes behind it is the message. */
static char *
take_key(struct json_text *row)
{
	struct json_text value;
	size_t at = 0;

	json_text_next(*row, &at, NULL, &value);
	at += strspn(row->s + at, " "); /* then comes a comma, since the key is a column of the row as well */
	*(char *)(uintptr_t)(row->s + at) = '{';
	row->s += at;
	row->len -= at;
	return json_text_scalar(value);
}

static int
send_line(struct sink *s, rd_kafka_topic_t *topic, char *line, size_t len)
{
	struct json_text row;
	char *key = NULL;
	size_t at;
	int rc;

	if (json_text_check(line, len, &row, &at) < 0)
		return task_fail(s->cx, ERR_INTERNAL, "row %" PRId64 " is no JSON", s->sent + 1);
	if (s->key)
		key = take_key(&row);
	rc = send_one(s, topic, row, key);
	free(key);
	return rc;
}

static int
send_rows(struct sink *s)
{
	rd_kafka_topic_t *topic = kafka.topic_new(s->client.rk, s->topic, NULL);
	FILE *f = fopen(s->path, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	int rc = 0;

	if (topic == NULL)
		rc = kafka_fail(&s->client, kafka.last_error(), NULL, "topic \"%s\"", s->topic);
	else if (f == NULL)
		rc = task_fail(s->cx, ERR_IO, "%s cannot be read: %s", s->path, strerror(errno));
	while (rc == 0 && s->refused == RD_KAFKA_RESP_ERR_NO_ERROR && (n = getline(&line, &room, f)) > 0) {
		rc = send_line(s, topic, line, (size_t)n);
		tell_progress(s);
	}
	if (f)
		fclose(f);
	free(line);
	if (topic)
		kafka.topic_destroy(topic);
	return rc;
}

/* ---- once ---- */

/* How many rows an attempt before this one has sent, whose transaction was committed; -2: none has, -1 with the error set. */
static int64_t
sent_before(struct sink *s)
{
	kafka_settings ours = { "group.id", s->name, "enable.auto.commit", "false", NULL };
	rd_kafka_topic_partition_list_t *list;
	struct kafka_client reader;
	rd_kafka_resp_err_t code;
	int64_t rows = -1;

	if (json_integer_value(json_object_get(s->cx->doc, "attempt")) <= 1)
		return -2;
	if (kafka_open(&reader, s->cx, "to", s->client.where, RD_KAFKA_CONSUMER, NULL, ours, NULL) < 0)
		return -1;
	list = kafka.topic_partition_list_new(1);
	kafka.topic_partition_list_add(list, s->topic, 0);
	code = kafka.committed(reader.rk, list, (int)reader.patience);
	kafka.poll(reader.rk, 0);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = list->elems[0].err;
	if (code)
		kafka_fail(&reader, code, kafka.err2str(code), "asking what an attempt before this one has sent");
	else
		rows = list->elems[0].offset >= 0 ? list->elems[0].offset : -2;
	kafka.topic_partition_list_destroy(list);
	kafka_close(&reader);
	return rows;
}

static int
note(struct sink *s)
{
	rd_kafka_topic_partition_list_t *list = kafka.topic_partition_list_new(1);
	rd_kafka_consumer_group_metadata_t *group = kafka.consumer_group_metadata_new(s->name);
	int rc;

	kafka.topic_partition_list_add(list, s->topic, 0)->offset = s->sent;
	rc = check(s, kafka.send_offsets_to_transaction(s->client.rk, list, group, (int)s->client.patience),
		   "noting what was sent in the transaction");
	kafka.consumer_group_metadata_destroy(group);
	kafka.topic_partition_list_destroy(list);
	return rc;
}

/* Do those who read only what is committed get to each partition's end of ours? */
static bool
seen(struct sink *s)
{
	rd_kafka_topic_partition_list_t *list = kafka.topic_partition_list_new(s->partitions);
	bool yes;

	for (int i = 0; i < s->partitions; i++)
		if (s->ends[i] > 0)
			kafka.topic_partition_list_add(list, s->topic, i)->offset = RD_KAFKA_OFFSET_END;
	yes = list->cnt == 0 ||
	      kafka.offsets_for_times(s->client.rk, list, (int)(SEEN / US_PER_MS)) == RD_KAFKA_RESP_ERR_NO_ERROR;
	for (int i = 0; yes && i < list->cnt; i++)
		yes = list->elems[i].err == RD_KAFKA_RESP_ERR_NO_ERROR &&
		      list->elems[i].offset >= s->ends[list->elems[i].partition];
	kafka.topic_partition_list_destroy(list);
	return yes;
}

/*
 * The brokers answer a commit when it is sure, before they have written it to every partition: a task after this one would find
 * nothing new, or a part. An open transaction of somebody else holds readers up as well, so there is an end to waiting.
 */
static void
wait_until_seen(struct sink *s)
{
	mono_us until = clock_mono() + SEEN;

	while (!seen(s)) {
		if (clock_mono() > until) {
			printf("committed, but topic \"%s\" does not show it to readers yet: a transaction of somebody else is "
			       "open there, or its brokers are slow\n",
			       s->topic);
			return;
		}
		kafka.poll(s->client.rk, ASK);
	}
}

static int
fill(struct sink *s)
{
	int rc = check(s, kafka.begin_transaction(s->client.rk), "beginning a transaction");

	if (rc == 0)
		rc = send_rows(s);
	if (rc == 0)
		rc = note(s);
	FAULT("export.commit.before");
	if (rc == 0)
		rc = check(s, kafka.commit_transaction(s->client.rk, (int)s->client.patience), "committing the transaction");
	FAULT("export.commit.after");
	if (rc == 0)
		wait_until_seen(s);
	if (rc < 0) { /* so that nobody who reads waits for its end */
		rd_kafka_error_t *error;

		kafka.purge(s->client.rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
		error = kafka.abort_transaction(s->client.rk, (int)s->client.patience);
		if (error)
			kafka.error_destroy(error);
	}
	return rc;
}

/* ---- the task ---- */

static int
export_rows(struct sink *s, const char *query)
{
	int64_t before;

	if (kafka_partitions(&s->client, s->topic, &s->partitions) < 0)
		return -1;
	s->ends = xcalloc((size_t)s->partitions, sizeof(*s->ends));
	/* This ends a transaction that an earlier attempt left open. */
	if (check(s, kafka.init_transactions(s->client.rk, (int)s->client.patience), "preparing transactions") < 0)
		return -1;
	if ((before = sent_before(s)) == -1)
		return -1;
	if (before >= 0) {
		printf("an attempt before this one has sent the rows\n");
		s->sent = before;
		return 0;
	}
	return put_aside(s, query) < 0 ? -1 : fill(s);
}

static void
report_sink(const struct sink *s)
{
	report("metrics", json_pack("{s:I,s:I,s:I}", "rows_in", (json_int_t)s->scanned, "rows_out", (json_int_t)s->sent,
				    "bytes_out", (json_int_t)s->bytes));
	report("outputs", json_pack("{s:s,s:I}", "topic", s->topic, "rows", (json_int_t)s->sent));
	printf("%" PRId64 " messages to %s, topic %s\n", s->sent, s->client.place, s->topic);
}

int
export_kafka(struct context *cx, const json_t *to, const char *query)
{
	const json_t *key = json_object_get(to, "key"), *topic = json_object_get(to, "topic");
	struct sink s = { .cx = cx,
			  .key = json_string_value(json_array_get(key, 0)),
			  .topic = json_string_value(json_is_array(topic) ? json_array_get(topic, 0) : topic) };
	char *name = xasprintf("sluice.%s.%s", doc_text(cx, "run_id"), doc_text(cx, "task_id"));
	kafka_settings ours = { "transactional.id", name, NULL };
	/* The rows wait on disk, not in the queue; keys go where Kafka's own client sends them; no longer do brokers let one
	 * take. */
	static const char *const defaults[] = { "queue.buffering.max.kbytes",
						"65536",
						"linger.ms",
						"20",
						"transaction.timeout.ms",
						"900000",
						"partitioner",
						"murmur2_random",
						NULL };
	int rc;

	s.name = name;
	s.path = xasprintf("%s/rows.jsonl", doc_text(cx, "scratch"));
	rc = check_key(&s, key, query);
	if (rc == 0)
		rc = kafka_open(&s.client, cx, "to", to, RD_KAFKA_PRODUCER, defaults, ours, on_delivery);
	if (rc == 0)
		rc = export_rows(&s, query);
	if (rc == 0)
		report_sink(&s);
	kafka_close(&s.client);
	free(s.ends);
	free(s.path);
	free(name);
	return rc;
}
