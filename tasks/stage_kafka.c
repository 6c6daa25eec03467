/*
 * A stage task's source of format kafka: the messages between what the stream has committed and what is there when the attempt
 * begins, put aside as JSON lines, then read as a file is. The offsets become the stream's with the run's tables, in the daemon's
 * transaction: nothing is committed to Kafka but what people watch.
 */
#include "tasks/stage_kafka.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fs.h"
#include "base/mask.h"
#include "tasks/engines/duckdb.h"
#include "tasks/json_record.h"
#include "tasks/report.h"
#include "tasks/stage_int.h"

#define BATCH      1000  /* messages asked of the library at once */
#define POLL       20    /* ms */
#define QUEUED     50000 /* waiting in the library: it fetches no more from twice as many on */
#define FLUSH      ((size_t)1 << 20)
#define OBJECT_MIN ((int64_t)16 << 20) /* the engine's own default */
#define PROGRESS   US_PER_S
#define META       "sluice:m" /* the member of a line that has what is not the value's */
#define META_TYPE  "STRUCT(t VARCHAR, p INTEGER, o BIGINT, s BIGINT, k VARCHAR, h STRUCT(\"key\" VARCHAR, \"value\" VARCHAR)[])"
#define COLUMN     "_kafka"

enum value_format { VALUE_JSON, VALUE_TEXT, VALUE_BYTES };

/* A file that lines are added to. */
struct lines {
	char *path;
	int fd;
	struct buf b;
};

struct stage_kafka {
	struct stage *st;
	struct kafka_client client;
	struct ranges ranges;
	enum value_format format;
	bool metadata, key_bytes;
	json_t *texts; /* set of the columns that are read as text */
	struct lines records, places, poison;
	/* the place after the last record's, to know whether the next one follows */
	const struct range *place;
	int64_t place_next;
	int64_t messages, bytes, nrecords, npoison, tombstones, halves, longest;
	int64_t max_bytes;
	size_t queued; /* the most messages that waited in the library since it was woken */
	mono_us told, heard;
};

/* ---- lines ---- */

static int
lines_open(struct stage_kafka *h, struct lines *l, const char *name)
{
	l->path = xasprintf("%s/%s", doc_text(h->st->cx, "scratch"), name);
	l->fd = open(l->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return l->fd < 0 ? task_fail(h->st->cx, ERR_IO, "%s cannot be made: %s", l->path, strerror(errno)) : 0;
}

static int
lines_flush(struct stage_kafka *h, struct lines *l, size_t above)
{
	if (l->b.len <= above)
		return 0;
	if (fs_write_all(l->fd, l->b.s, l->b.len) < 0)
		return task_fail(h->st->cx, ERR_IO, "%s cannot be written: %s", l->path, strerror(errno));
	buf_clear(&l->b);
	return 0;
}

static void
lines_release(struct lines *l)
{
	if (l->fd > 0)
		close(l->fd);
	free(l->path);
	buf_release(&l->b);
}

/* ---- life ---- */

static const struct range *
find_range(const struct stage_kafka *h, const char *topic, int32_t partition)
{
	for (size_t i = 0; i < h->ranges.n; i++)
		if (h->ranges.items[i].partition == partition && strcmp(h->ranges.items[i].topic, topic) == 0)
			return &h->ranges.items[i];
	return NULL;
}

static bool
source_is(const struct stage *st, const char *key, const char *value)
{
	return strcmp(stage_source_text(st, key, ""), value) == 0;
}

static void
settle(struct stage *st, struct stage_kafka *h)
{
	const json_t *max = json_object_get(st->source, "max_bytes");
	json_t *topic;
	size_t i;

	h->format = source_is(st, "value_format", "text")    ? VALUE_TEXT
		    : source_is(st, "value_format", "bytes") ? VALUE_BYTES
							     : VALUE_JSON;
	h->key_bytes = source_is(st, "key_format", "bytes");
	h->metadata = json_is_true(json_object_get(st->source, "metadata"));
	h->max_bytes = json_is_integer(max) ? json_integer_value(max) : INT64_MAX;
	h->texts = stage_texts(st);
	st->files_in = -1;
	json_array_foreach (json_object_get(st->source, "topic"), i, topic)
		json_array_append_new(st->files, json_sprintf("topic %s", json_string_value(topic)));
}

int
stage_kafka_begin(struct stage *st)
{
	struct context *cx = st->cx;
	struct stage_kafka *h = xcalloc(1, sizeof(*h));
	const json_t *stream = json_object_get(cx->doc, "stream");
	const char *group = json_string_value(json_object_get(stream, "name"));
	/* What is wanted is there already, so nobody needs to wait for it; batches of messages come whole. */
	static const char *const defaults[] = {
		"fetch.wait.max.ms", "50", "fetch.message.max.bytes", "4194304", "fetch.queue.backoff.ms", "20", NULL
	};
	kafka_settings ours = { "group.id",
				group ? group : "sluice",
				"enable.auto.commit",
				"false",
				"enable.auto.offset.store",
				"false",
				"enable.partition.eof",
				"true",
				"auto.offset.reset",
				"error",
				NULL };

	st->kafka = h;
	h->st = st;
	buf_init(&h->records.b, 0);
	buf_init(&h->places.b, 0);
	buf_init(&h->poison.b, 0);
	settle(st, h);
	if (kafka_open(&h->client, cx, "source", st->source, RD_KAFKA_CONSUMER, defaults, ours, NULL) < 0 ||
	    ranges_find(&h->client, json_object_get(stream, "offsets"), json_string_value(json_object_get(stream, "cluster")),
			doc_text(cx, "kept"), &h->ranges) < 0)
		return -1;
	if (!json_is_true(json_object_get(cx->doc, "rehearsal")))
		ranges_tell(&h->client, &h->ranges);
	return 0;
}

void
stage_kafka_release(struct stage *st)
{
	struct stage_kafka *h = st->kafka;

	if (h == NULL)
		return;
	kafka_close(&h->client);
	ranges_release(&h->ranges);
	lines_release(&h->records);
	lines_release(&h->places);
	lines_release(&h->poison);
	json_decref(h->texts);
	free(h);
	st->kafka = NULL;
}

/* ---- a message ---- */

/* A text as JSON has it; false: it is not UTF-8. */
static bool
add_text(struct buf *b, const void *s, size_t len)
{
	json_t *text = json_stringn(s ? s : "", len);
	char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;

	if (quoted)
		buf_adds(b, quoted);
	free(quoted);
	json_decref(text);
	return quoted != NULL;
}

static void
add_bytes(struct buf *b, const void *s, size_t len)
{
	buf_addc(b, '"');
	buf_add_base64(b, s, len);
	buf_addc(b, '"');
}

static void
add_headers(struct buf *b, const rd_kafka_message_t *m)
{
	rd_kafka_headers_t *headers;
	const char *name, *sep = "";
	const void *value;
	size_t len;

	if (kafka.message_headers(m, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	buf_adds(b, ",\"h\":[");
	for (size_t i = 0; kafka.header_get_all(headers, i, &name, &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR; i++) {
		struct buf clean = BUF_INIT;

		utf8_clean(name, strlen(name), true, &clean);
		buf_addf(b, "%s{\"key\":", sep);
		add_text(b, clean.s, clean.len);
		buf_clear(&clean);
		if (value)
			utf8_clean(value, len, true, &clean);
		buf_adds(b, ",\"value\":");
		if (value)
			add_text(b, clean.s, clean.len);
		else
			buf_adds(b, "null");
		buf_addc(b, '}');
		buf_release(&clean);
		sep = ",";
	}
	buf_addc(b, ']');
}

/* The member META; false: the key is no text. */
static bool
add_metadata(const struct stage_kafka *h, struct buf *b, const struct range *r, const rd_kafka_message_t *m)
{
	rd_kafka_timestamp_type_t type;
	int64_t at = kafka.message_timestamp(m, &type);

	buf_addf(b, "\"" META "\":{\"t\":\"%s\",\"p\":%d,\"o\":%" PRId64, r->topic, r->partition, m->offset);
	if (type != RD_KAFKA_TIMESTAMP_NOT_AVAILABLE)
		buf_addf(b, ",\"s\":%" PRId64, at);
	if (m->key) {
		buf_adds(b, ",\"k\":");
		if (h->key_bytes)
			add_bytes(b, m->key, m->key_len);
		else if (!add_text(b, m->key, m->key_len))
			return false;
	}
	add_headers(b, m);
	buf_addc(b, '}');
	return true;
}

/* What makes no row: where it was, why, and its bytes. */
static int
add_poison(struct stage_kafka *h, const struct range *r, const rd_kafka_message_t *m, const char *why)
{
	struct buf *b = &h->poison.b;

	h->npoison++;
	buf_addf(b, "{\"file\":\"topic %s, partition %d\",\"line\":%" PRId64 ",\"message\":\"%s\",\"text\":", r->topic,
		 r->partition, m->offset, why);
	if (m->payload == NULL) {
		buf_adds(b, "null");
	} else if (!add_text(b, m->payload, m->len)) {
		buf_adds(b, "\"base64:");
		buf_add_base64(b, m->payload, m->len);
		buf_addc(b, '"');
	}
	buf_adds(b, "}\n");
	return lines_flush(h, &h->poison, FLUSH);
}

/* The place of the next record, unless it follows the one before. */
static int
note_place(struct stage_kafka *h, const struct range *r, int64_t offset)
{
	bool follows = h->place == r && h->place_next == offset;

	h->place = r;
	h->place_next = offset + 1;
	if (follows)
		return 0;
	buf_addf(&h->places.b, "{\"before\":%" PRId64 ",\"topic\":\"%s\",\"partition\":%d,\"offset\":%" PRId64 "}\n", h->nrecords,
		 r->topic, r->partition, offset);
	return lines_flush(h, &h->places, FLUSH);
}

/* The line is whole. */
static int
keep_line(struct stage_kafka *h, const struct range *r, const rd_kafka_message_t *m, size_t began)
{
	struct buf *b = &h->records.b;

	buf_addc(b, '\n');
	if ((int64_t)(b->len - began) > h->longest)
		h->longest = (int64_t)(b->len - began);
	if (note_place(h, r, m->offset) < 0)
		return -1;
	h->nrecords++;
	return lines_flush(h, &h->records, FLUSH);
}

/* Text, or bytes, is the one column `value`. */
static int
take_plain(struct stage_kafka *h, const struct range *r, const rd_kafka_message_t *m, const char *first)
{
	struct buf *b = &h->records.b;
	size_t began = b->len;
	bool good = true;

	buf_addf(b, "{%s%s\"value\":", first ? first : "", first ? "," : "");
	if (m->payload == NULL)
		buf_adds(b, "null");
	else if (h->format == VALUE_BYTES)
		add_bytes(b, m->payload, m->len);
	else
		good = add_text(b, m->payload, m->len);
	buf_addc(b, '}');
	if (good)
		return keep_line(h, r, m, began);
	b->len = began;
	b->s[began] = '\0';
	return add_poison(h, r, m, "the value is not UTF-8; value_format: bytes takes any");
}

static int
take_json(struct stage_kafka *h, const struct range *r, const rd_kafka_message_t *m, const char *first)
{
	struct json_text record;
	size_t began = h->records.b.len, at;
	char *why;
	int rc;

	if (m->payload == NULL) { /* of a compacted topic: the key is deleted, and there is no record */
		h->tombstones++;
		return 0;
	}
	if (json_text_check(m->payload, m->len, &record, &at) < 0) {
		bool framed = m->len > 5 && *(const char *)m->payload == '\0';

		why = xasprintf("the value is not JSON: it ends being so at byte %zu of %zu%s", at + 1, m->len,
				framed ? " (it begins as a schema registry's do)" : "");
	} else if (*record.s != '{') {
		why = xasprintf("the value is %s, not an object", json_text_kind(record));
	} else {
		h->halves += (int64_t)json_record_add(&h->records.b, record, h->texts, first);
		return keep_line(h, r, m, began);
	}
	rc = add_poison(h, r, m, why);
	free(why);
	return rc;
}

static int
take(struct stage_kafka *h, const struct range *r, const rd_kafka_message_t *m)
{
	struct buf first = BUF_INIT;
	int rc;

	h->messages++;
	h->bytes += (int64_t)(m->len + m->key_len);
	if (h->metadata && !add_metadata(h, &first, r, m))
		rc = add_poison(h, r, m, "the key is not UTF-8; key_format: bytes takes any");
	else if (h->format == VALUE_JSON)
		rc = take_json(h, r, m, h->metadata ? first.s : NULL);
	else
		rc = take_plain(h, r, m, h->metadata ? first.s : NULL);
	buf_release(&first);
	return rc;
}

/* ---- reading the stream ---- */

static void
tell_progress(struct stage_kafka *h, bool last)
{
	int64_t all = ranges_all(&h->ranges), read = ranges_read(&h->ranges);
	mono_us now = clock_mono();
	json_t *progress;

	if (!last && h->told && now - h->told < PROGRESS)
		return;
	h->told = now;
	progress = json_pack("{s:I,s:I}", "done", (json_int_t)read, "total", (json_int_t)all);
	json_object_set_new(progress, "message",
			    json_sprintf("%lld messages, %lld behind", (long long)h->messages, (long long)(all - read)));
	report("progress", progress);
}

/* Begins what is to be read; how many partitions that are. -1 with the error set. */
static int
assign(struct stage_kafka *h)
{
	rd_kafka_topic_partition_list_t *list = kafka.topic_partition_list_new((int)h->ranges.n);
	rd_kafka_resp_err_t code;
	int n;

	for (size_t i = 0; i < h->ranges.n; i++)
		if (!h->ranges.items[i].done)
			kafka.topic_partition_list_add(list, h->ranges.items[i].topic, h->ranges.items[i].partition)->offset =
				h->ranges.items[i].from;
	n = list->cnt;
	code = n ? kafka.assign(h->client.rk, list) : RD_KAFKA_RESP_ERR_NO_ERROR;
	kafka.topic_partition_list_destroy(list);
	return code ? kafka_fail(&h->client, code, NULL, "reading") : n;
}

/* The partition gives nothing more that is wanted: its messages are not fetched for nothing. */
static void
finish(struct stage_kafka *h, struct range *r, int *open)
{
	rd_kafka_topic_partition_list_t *list = kafka.topic_partition_list_new(1);

	r->at = r->to;
	r->done = true;
	--*open;
	kafka.topic_partition_list_add(list, r->topic, r->partition);
	kafka.pause_partitions(h->client.rk, list);
	kafka.topic_partition_list_destroy(list);
}

/* What the library hands on in a message's place: the end of a partition for now, or trouble. */
static int
take_event(struct stage_kafka *h, struct range *r, const rd_kafka_message_t *m, int *open)
{
	if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
		/* Offsets are missing where a topic was compacted, and where transactions begin and end. */
		if (r && !r->done && m->offset >= r->to)
			finish(h, r, open);
		return 0;
	}
	if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET || m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE)
		return kafka_fail(&h->client, RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
				  "what was to be read went meanwhile (retention, or the topic was made anew)",
				  "reading topic \"%s\", partition %d, from offset %" PRId64, r ? r->topic : "",
				  r ? r->partition : -1, r ? r->at : -1);
	if (m->err == RD_KAFKA_RESP_ERR__TRANSPORT || m->err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		return 0; /* it goes on by itself, until patience ends */
	return kafka_fail(&h->client, m->err, kafka.message_errstr(m), "reading%s%s", r ? " topic " : "", r ? r->topic : "");
}

static int
take_one(struct stage_kafka *h, const rd_kafka_message_t *m, int *open)
{
	const char *topic = m->rkt ? kafka.topic_name(m->rkt) : NULL;
	struct range *r = topic && h->place && h->place->partition == m->partition && strcmp(h->place->topic, topic) == 0
				  ? (struct range *)(uintptr_t)h->place
			  : topic ? (struct range *)(uintptr_t)find_range(h, topic, m->partition)
				  : NULL;

	if (m->err)
		return take_event(h, r, m, open);
	if (r == NULL || r->done)
		return 0;
	if (m->offset < r->to && take(h, r, m) < 0)
		return -1;
	r->at = m->offset + 1 < r->to ? m->offset + 1 : r->to;
	if (m->offset + 1 >= r->to)
		finish(h, r, open);
	return 0;
}

/* Enough bytes: what comes later is left to the next run. */
static void
stop_here(struct stage_kafka *h)
{
	for (size_t i = 0; i < h->ranges.n; i++)
		h->ranges.items[i].to = h->ranges.items[i].at;
	printf("max_bytes is reached: the rest is left to the next run\n");
}

static int
take_batch(struct stage_kafka *h, rd_kafka_message_t **batch, ssize_t n, int *open)
{
	int rc = 0;

	for (ssize_t i = 0; i < n; i++) {
		if (rc == 0 && h->bytes < h->max_bytes)
			rc = take_one(h, batch[i], open);
		kafka.message_destroy(batch[i]);
	}
	return rc;
}

static int
still_patient(struct stage_kafka *h)
{
	kafka.poll(h->client.rk, 0);
	if (clock_mono() - h->heard < h->client.patience * US_PER_MS)
		return 0;
	return kafka_fail(&h->client, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL,
			  "reading: nothing came for %lld s, %lld messages are missing", (long long)h->client.patience / 1000,
			  (long long)(ranges_all(&h->ranges) - ranges_read(&h->ranges)));
}

/* The library stops fetching when it has enough, and does not see at once that it has no longer. */
static void
keep_fetching(struct stage_kafka *h, rd_kafka_queue_t *queue, ssize_t came)
{
	size_t queued = kafka.queue_length(queue);

	if (queued > h->queued)
		h->queued = queued;
	if (came > 0 && (h->queued < QUEUED || queued > QUEUED / 2))
		return;
	if (h->queued)
		ranges_wake(&h->client, &h->ranges);
	h->queued = 0;
}

static int
consume(struct stage_kafka *h, int open)
{
	rd_kafka_queue_t *queue = kafka.queue_get_consumer(h->client.rk);
	rd_kafka_message_t *batch[BATCH];
	int rc = 0;

	h->heard = clock_mono();
	while (rc == 0 && open > 0 && h->bytes < h->max_bytes) {
		ssize_t n = kafka.consume_batch_queue(queue, POLL, batch, BATCH);
		int64_t before = ranges_read(&h->ranges);

		if (n > 0) {
			rc = take_batch(h, batch, n, &open);
			FAULT("stage.kafka.batch");
		}
		if (rc == 0 && open > 0)
			keep_fetching(h, queue, n);
		if (ranges_read(&h->ranges) > before) {
			h->heard = clock_mono();
			kafka_calm(&h->client);
		} else if (rc == 0) {
			rc = still_patient(h);
		}
		tell_progress(h, false);
	}
	if (rc == 0 && open > 0)
		stop_here(h);
	kafka.assign(h->client.rk, NULL);
	kafka.queue_destroy(queue);
	return rc;
}

static int
fetch(struct stage_kafka *h)
{
	struct context *cx = h->st->cx;
	const char *kept = doc_text(cx, "kept");
	int open, rc;

	if (lines_open(h, &h->records, "records.jsonl") < 0 || lines_open(h, &h->places, "places.jsonl") < 0 ||
	    lines_open(h, &h->poison, "poison.jsonl") < 0)
		return -1;
	open = assign(h);
	rc = open < 0 ? -1 : consume(h, open);
	if (rc == 0)
		rc = lines_flush(h, &h->records, 0);
	if (rc == 0)
		rc = lines_flush(h, &h->places, 0);
	if (rc == 0)
		rc = lines_flush(h, &h->poison, 0);
	if (rc == 0 && kept)
		rc = ranges_keep(cx, &h->ranges, kept);
	tell_progress(h, true);
	FAULT("stage.kafka.read");
	return rc;
}

/* ---- reading what was put aside ---- */

/* Columns in the order in which the task names them. */
static void
add_columns(const struct stage_kafka *h, struct buf *select, struct buf *columns)
{
	const json_t *maps[] = { json_object_get(h->st->source, "columns"), json_object_get(h->st->cx->spec, "schema") };
	json_t *seen = json_object(), *type;
	const char *name;

	for (size_t i = 0; i < 2; i++)
		json_object_foreach ((json_t *)(uintptr_t)maps[i], name, type) {
			if (json_object_get(seen, name) || strcmp(name, COLUMN) == 0)
				continue;
			json_object_set_new(seen, name, json_true());
			buf_adds(columns, columns->len ? ", " : "");
			buf_add_sql_string(columns, name);
			buf_adds(columns, json_object_get(h->texts, name) ? ": 'VARCHAR'" : ": 'JSON'");
			buf_adds(select, select->len ? ", " : "");
			buf_add_sql_name(select, name);
		}
	json_decref(seen);
}

/* The lines as a subquery. */
static void
add_rows(const struct stage_kafka *h, struct buf *plain)
{
	struct buf select = BUF_INIT, columns = BUF_INIT;

	if (h->format == VALUE_JSON) {
		add_columns(h, &select, &columns);
	} else {
		buf_adds(&columns, "'value': 'VARCHAR'");
		buf_adds(&select, h->format == VALUE_BYTES ? "from_base64(\"value\") AS \"value\"" : "\"value\"");
	}
	if (h->metadata) {
		buf_adds(&columns, columns.len ? ", '" META "': '" : "'" META "': '");
		buf_adds(&columns, META_TYPE "'");
		buf_addf(&select,
			 "%sstruct_pack(topic := \"" META "\".t, \"partition\" := \"" META "\".p, \"offset\" := \"" META
			 "\".o, \"timestamp\" := make_timestamptz(\"" META "\".s * 1000), \"key\" := %s, headers := \"" META
			 "\".h) AS " COLUMN,
			 select.len ? ", " : "", h->key_bytes ? "from_base64(\"" META "\".k)" : "\"" META "\".k");
	}
	buf_addf(plain, "(SELECT %s FROM read_json(", select.s);
	buf_add_sql_string(plain, h->records.path);
	buf_addf(plain, ", format = 'newline_delimited', maximum_object_size = %" PRId64 ", columns = {%s}))",
		 h->longest + 1 > OBJECT_MIN ? h->longest + 1 : OBJECT_MIN, columns.s);
	buf_release(&select);
	buf_release(&columns);
}

/* The place of a row, for rejects: topic and partition, and the offset. */
static int
add_traced(const struct stage_kafka *h, const char *plain)
{
	struct stage *st = h->st;
	struct buf sql = BUF_INIT;
	int rc;

	buf_addf(&st->traced,
		 "SELECT t.* EXCLUDE (sluice_n), 'topic ' || p.topic || ', partition ' || p.\"partition\" AS sluice_file, "
		 "t.sluice_n - 1 - p.before + p.\"offset\" AS sluice_row FROM (SELECT *, row_number() OVER () AS sluice_n FROM "
		 "%s) t "
		 "ASOF JOIN sluice_places p ON t.sluice_n > p.before",
		 plain);
	buf_adds(&sql, "CREATE OR REPLACE TEMP TABLE sluice_places AS SELECT * FROM read_json(");
	buf_add_sql_string(&sql, h->places.path);
	buf_adds(&sql,
		 ", format = 'newline_delimited', columns = {'before': 'BIGINT', 'topic': 'VARCHAR', 'partition': 'INTEGER', "
		 "'offset': 'BIGINT'})");
	rc = duck_exec(st->cx->db, sql.s, &st->cx->err);
	buf_release(&sql);
	return rc < 0 ? -1 : 0;
}

int
stage_kafka_read(struct stage *st)
{
	struct stage_kafka *h = st->kafka;
	struct buf plain = BUF_INIT;
	int rc = fetch(h);

	if (rc == 0)
		add_rows(h, &plain);
	if (rc == 0 && (stage_read_typed(st, plain.s) < 0 || (st->bad.len && add_traced(h, plain.s) < 0)))
		rc = -1;
	buf_release(&plain);
	return rc;
}

int
stage_kafka_rejects(struct stage *st)
{
	struct buf sql = BUF_INIT;
	int rc;

	if (st->kafka->npoison == 0)
		return 0;
	buf_adds(&sql,
		 "INSERT INTO sluice_rejects SELECT file, line, 'MESSAGE', message, coalesce(\"text\", '') FROM read_json(");
	buf_add_sql_string(&sql, st->kafka->poison.path);
	buf_addf(&sql,
		 ", format = 'newline_delimited', maximum_object_size = %" PRId64
		 ", columns = {'file': 'VARCHAR', 'line': 'BIGINT', 'message': 'VARCHAR', 'text': 'VARCHAR'})",
		 OBJECT_MIN + 2 * st->kafka->bytes);
	rc = duck_exec(st->cx->db, sql.s, &st->cx->err);
	buf_release(&sql);
	return rc < 0 ? -1 : 0;
}

/* ---- the end ---- */

int
stage_kafka_end(struct stage *st)
{
	struct stage_kafka *h = st->kafka;
	const json_t *stream = json_object_get(st->cx->doc, "stream");
	int64_t behind = ranges_behind(&h->client, &h->ranges);

	ranges_told(&h->client);

	report("streams", json_pack("[{s:s,s:s*,s:o}]", "stream", json_string_value(json_object_get(stream, "name")), "cluster",
				    h->ranges.cluster, "partitions", ranges_report(&h->ranges)));
	report("metrics", json_pack("{s:I,s:I}", "messages", (json_int_t)h->messages, "bytes_in", (json_int_t)h->bytes));
	report_output("messages", json_integer((json_int_t)h->messages));
	if (h->tombstones) {
		report_metric("tombstones", (json_int_t)h->tombstones);
		printf("%" PRId64 " messages without a value (deleted keys) made no row\n", h->tombstones);
	}
	if (behind >= 0) {
		report_output("lag", json_integer((json_int_t)behind));
		report_metric("lag", (json_int_t)behind);
	}
	if (h->halves)
		printf("%" PRId64 " halves of a character (\\ud83d alone) stand in texts; U+FFFD is in their place\n", h->halves);
	printf("%" PRId64 " messages of %zu partitions of %s, %" PRId64 " behind\n", h->messages, h->ranges.n, h->client.place,
	       behind < 0 ? 0 : behind);
	return 0;
}
