/* From where to where a stream is read: by what was committed, what the brokers have, and what the task says of either. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fs.h"
#include "tasks/stage_kafka.h"

/* As the protocol asks for them in the place of a time. */
#define TIME_LATEST   (-1)
#define TIME_EARLIEST (-2)
#define TELL          (2 * US_PER_S)
#define WAKE          200 /* ms */

void
ranges_release(struct ranges *r)
{
	free(r->items);
	free(r->cluster);
	*r = (struct ranges){ 0 };
}

int64_t
ranges_all(const struct ranges *r)
{
	int64_t n = 0;

	for (size_t i = 0; i < r->n; i++)
		n += r->items[i].to - r->items[i].from;
	return n;
}

int64_t
ranges_read(const struct ranges *r)
{
	int64_t n = 0;

	for (size_t i = 0; i < r->n; i++)
		n += r->items[i].at - r->items[i].from;
	return n;
}

/* ---- asking ---- */

static rd_kafka_topic_partition_list_t *
list_of(const struct ranges *r)
{
	rd_kafka_topic_partition_list_t *list = kafka.topic_partition_list_new((int)r->n);

	for (size_t i = 0; i < r->n; i++)
		kafka.topic_partition_list_add(list, r->items[i].topic, r->items[i].partition);
	return list;
}

/* What is there of each partition by a time, TIME_LATEST or TIME_EARLIEST; the caller frees it. NULL with the error set. */
static int64_t *
ask_offsets(struct kafka_client *k, const struct ranges *r, int64_t time)
{
	rd_kafka_topic_partition_list_t *list = list_of(r);
	int64_t *out = xcalloc(r->n ? r->n : 1, sizeof(*out));
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
	size_t bad = 0;

	for (size_t i = 0; i < r->n; i++)
		list->elems[i].offset = time;
	if (r->n)
		code = kafka.offsets_for_times(k->rk, list, (int)k->patience);
	kafka.poll(k->rk, 0);
	for (size_t i = 0; i < r->n; i++) {
		out[i] = list->elems[i].offset;
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR && list->elems[i].err) {
			code = list->elems[i].err;
			bad = i;
		}
	}
	kafka.topic_partition_list_destroy(list);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		return out;
	kafka_fail(k, code, kafka.err2str(code), "asking for the offsets of topic \"%s\"", r->items[bad].topic);
	free(out);
	return NULL;
}

static int
add_topic(struct kafka_client *k, struct ranges *r, const char *topic)
{
	int count;

	if (kafka_partitions(k, topic, &count) < 0)
		return -1;
	r->items = xrealloc(r->items, (r->n + (size_t)count) * sizeof(*r->items));
	for (int32_t p = 0; p < count; p++)
		r->items[r->n++] = (struct range){ .topic = topic, .partition = p, .base = NO_OFFSET };
	return 0;
}

static int
find_partitions(struct kafka_client *k, struct ranges *r)
{
	json_t *topic;
	size_t i;

	json_array_foreach (json_object_get(k->where, "topic"), i, topic)
		if (add_topic(k, r, json_string_value(topic)) < 0)
			return -1;
	return 0;
}

/* ---- where each begins ---- */

/* Where those begin that the stream has not read yet; TIME_EARLIEST, TIME_LATEST or ms since 1970. */
static int
starting_time(struct kafka_client *k, int64_t *out)
{
	const char *text = json_string_value(json_object_get(k->where, "starting"));
	wall_us t;

	*out = TIME_EARLIEST;
	if (text == NULL || strcmp(text, "earliest") == 0)
		return 0;
	*out = TIME_LATEST;
	if (strcmp(text, "latest") == 0)
		return 0;
	if (time_parse_at(text, clock_wall(), &t) < 0) {
		k->cx->final = true;
		return task_fail_at(
			k->cx, "source/starting",
			"source.starting must be earliest, latest, a time such as 2026-11-21 06:00 (UTC) or 2h ago, not "
			"\"%s\"",
			text);
	}
	*out = t / US_PER_MS;
	return 0;
}

static void
note_committed(struct ranges *r, const json_t *offsets)
{
	for (size_t i = 0; i < r->n; i++) {
		char partition[16];
		const json_t *at;

		snprintf(partition, sizeof(partition), "%d", r->items[i].partition);
		at = json_object_get(json_object_get(offsets, r->items[i].topic), partition);
		if (json_is_integer(at))
			r->items[i].base = json_integer_value(at);
	}
}

/*
 * The stream's offsets are of another state of the topic, or what comes next is gone already. Nobody but the user can know
 * whether that matters.
 */
static int
lost_data(struct kafka_client *k, struct range *r, int64_t low, int64_t high)
{
	const char *on = json_string_value(json_object_get(k->where, "on_data_loss"));
	bool early = r->base < low;
	char *what;

	if (early)
		what = xasprintf(
			"of topic \"%s\", partition %d, the stream was read to offset %" PRId64 ", and what is there begins at "
			"%" PRId64 ": %" PRId64 " offsets are lost (retention was shorter than the time between two runs)",
			r->topic, r->partition, r->base, low, low - r->base);
	else
		what = xasprintf("of topic \"%s\", partition %d, the stream was read to offset %" PRId64
				 ", but it ends at %" PRId64 ": the topic was made anew, or brokers lost what they had",
				 r->topic, r->partition, r->base, high);
	r->from = low;
	if (on && strcmp(on, "continue") == 0) {
		printf("%s; on_data_loss: continue reads from %" PRId64 "\n", what, low);
		free(what);
		return 0;
	}
	task_fail_at(k->cx, "source", "%s: %s; on_data_loss: continue goes on with what is there, another `group` begins anew",
		     k->place, what);
	k->cx->final = true;
	free(what);
	return -1;
}

static int
set_range(struct kafka_client *k, struct range *r, int64_t low, int64_t high, int64_t begin)
{
	r->to = high;
	if (r->base != NO_OFFSET) {
		r->from = r->base;
		if (r->base < low || r->base > high)
			return lost_data(k, r, low, high);
	} else {
		r->from = begin < 0 ? high : begin; /* nothing is as young as the time asked for */
	}
	if (r->from > high)
		r->from = high;
	return 0;
}

/* Has the stream read any partition of the topic? Then what is new of it came later, and is read from its beginning. */
static bool
topic_known(const struct ranges *r, const char *topic)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->items[i].base != NO_OFFSET && strcmp(r->items[i].topic, topic) == 0)
			return true;
	return false;
}

static int
set_ranges(struct kafka_client *k, struct ranges *r, const int64_t *low, const int64_t *high, const int64_t *begin)
{
	for (size_t i = 0; i < r->n; i++) {
		struct range *it = &r->items[i];
		bool fresh = it->base == NO_OFFSET && topic_known(r, it->topic);

		if (fresh)
			printf("partition %d of topic \"%s\" is new to the stream: it is read from its beginning\n",
			       it->partition, it->topic);
		if (set_range(k, it, low[i], high[i], fresh ? low[i] : begin[i]) < 0)
			return -1;
	}
	return 0;
}

/* Of what there is, at most so many messages: each partition gives its share, so that none waits for the others. */
static void
limit_messages(const struct kafka_client *k, struct ranges *r)
{
	const json_t *max = json_object_get(k->where, "max_messages");
	int64_t all = ranges_all(r), left = json_is_integer(max) ? json_integer_value(max) : all;
	double share = all > left ? (double)left / (double)all : 1;

	for (size_t i = 0; share < 1 && i < r->n; i++) {
		struct range *it = &r->items[i];
		int64_t have = it->to - it->from, take = (int64_t)((double)have * share + 0.999);

		if (take > left)
			take = left;
		it->to = it->from + (take < have ? take : have);
		left -= it->to - it->from;
	}
}

/* ---- between attempts ---- */

static char *
kept_path(const char *kept)
{
	return xasprintf("%s/ranges.json", kept);
}

int
ranges_keep(struct context *cx, const struct ranges *r, const char *kept)
{
	json_t *list = json_array();
	char *path = kept_path(kept), *tmp = xasprintf("%s.tmp", path), *text;
	int fd, rc;

	for (size_t i = 0; i < r->n; i++) {
		const struct range *it = &r->items[i];

		json_array_append_new(list,
				      json_pack("{s:s,s:i,s:I,s:I,s:I}", "topic", it->topic, "partition", it->partition, "base",
						(json_int_t)it->base, "from", (json_int_t)it->from, "to", (json_int_t)it->to));
	}
	text = json_dumps(list, JSON_COMPACT);
	rc = fs_make_folders(kept, 0700);
	fd = rc < 0 ? -1 : open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || fs_write_all(fd, text, strlen(text)) < 0 || rename(tmp, path) < 0)
		rc = task_fail(cx, ERR_IO, "%s cannot be written: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	json_decref(list);
	free(text);
	free(path);
	free(tmp);
	return rc < 0 ? -1 : 0;
}

/* Takes over the ranges of an attempt before this one, where it began from the same offsets. */
static bool
take_kept(struct ranges *r, const char *kept, const int64_t *low)
{
	char *path = kept_path(kept);
	json_t *list = json_load_file(path, 0, NULL), *item;
	size_t i;

	free(path);
	if (json_array_size(list) == 0 || json_array_size(list) != r->n) {
		if (list)
			printf("an attempt before this one read other partitions: what is there now decides\n");
		json_decref(list);
		return false;
	}
	json_array_foreach (list, i, item) {
		const char *topic = json_string_value(json_object_get(item, "topic"));
		int64_t from = json_integer_value(json_object_get(item, "from"));

		if (topic == NULL || strcmp(topic, r->items[i].topic) != 0 ||
		    json_integer_value(json_object_get(item, "base")) != r->items[i].base) {
			printf("an attempt before this one began from other offsets, which are not the last ones any more\n");
			json_decref(list);
			return false;
		}
		if (from < low[i] && from < json_integer_value(json_object_get(item, "to"))) {
			printf("what an attempt before this one read is partly gone (retention): what is there now decides\n");
			json_decref(list);
			return false;
		}
	}
	json_array_foreach (list, i, item) {
		r->items[i].from = json_integer_value(json_object_get(item, "from"));
		r->items[i].to = json_integer_value(json_object_get(item, "to"));
	}
	json_decref(list);
	printf("the same messages as the attempt before this one\n");
	return true;
}

/* ---- all of it ---- */

/* Is it the one that the stream was read from? 0; 1: no, and that does not matter; -1 with the error set. */
static int
check_cluster(struct kafka_client *k, struct ranges *r, const char *before)
{
	char *id = kafka.clusterid(k->rk, (int)k->patience);
	const char *on = json_string_value(json_object_get(k->where, "on_data_loss"));

	if (id)
		r->cluster = xstrdup(id);
	if (id)
		kafka.mem_free(k->rk, id);
	if (r->cluster == NULL || before == NULL || strcmp(r->cluster, before) == 0)
		return 0;
	if (on && strcmp(on, "continue") == 0) {
		printf("the cluster is another one than the stream was read from before (%s, not %s): it is read anew\n",
		       r->cluster, before);
		return 1;
	}
	k->cx->final = true;
	return task_fail_at(
		k->cx, "source/brokers",
		"%s is another cluster (%s) than the stream was read from before (%s), so its offsets mean nothing there; "
		"another `group` begins anew, on_data_loss: continue goes on with all that is there",
		k->place, r->cluster, before);
}

/* Asks for all three at once: what is there, and where to begin. */
static int
decide(struct kafka_client *k, struct ranges *r, const char *kept)
{
	int64_t time, *low, *high, *begin = NULL;
	int rc = -1;

	if (starting_time(k, &time) < 0)
		return -1;
	low = ask_offsets(k, r, TIME_EARLIEST);
	high = low ? ask_offsets(k, r, TIME_LATEST) : NULL;
	if (high)
		begin = time == TIME_EARLIEST ? low : time == TIME_LATEST ? high : ask_offsets(k, r, time);
	if (begin && kept && take_kept(r, kept, low)) {
		rc = 0;
	} else if (begin) {
		rc = set_ranges(k, r, low, high, begin);
		if (rc == 0)
			limit_messages(k, r);
		if (rc == 0 && kept)
			rc = ranges_keep(k->cx, r, kept);
	}
	if (begin != low && begin != high)
		free(begin);
	free(low);
	free(high);
	return rc;
}

int
ranges_find(struct kafka_client *k, const json_t *offsets, const char *cluster, const char *kept, struct ranges *out)
{
	int rc;

	*out = (struct ranges){ 0 };
	if (find_partitions(k, out) < 0)
		return -1;
	rc = check_cluster(k, out, cluster);
	if (rc < 0)
		return -1;
	if (rc == 0)
		note_committed(out, offsets);
	if (decide(k, out, kept) < 0)
		return -1;
	note_committed(out, offsets);
	for (size_t i = 0; i < out->n; i++) {
		out->items[i].at = out->items[i].from;
		out->items[i].done = out->items[i].from >= out->items[i].to;
	}
	return 0;
}

/*
 * Whoever serves a broker looks whether to fetch again when anything is sent to it, else once a second: so each is asked
 * something.
 */
void
ranges_wake(struct kafka_client *k, const struct ranges *r)
{
	rd_kafka_topic_partition_list_t *list = kafka.topic_partition_list_new((int)r->n);

	for (size_t i = 0; i < r->n; i++)
		if (!r->items[i].done)
			kafka.topic_partition_list_add(list, r->items[i].topic, r->items[i].partition)->offset = TIME_LATEST;
	kafka.offsets_for_times(k->rk, list, WAKE);
	kafka.topic_partition_list_destroy(list);
}

int64_t
ranges_behind(struct kafka_client *k, const struct ranges *r)
{
	int64_t *high = ask_offsets(k, r, TIME_LATEST), n = 0;

	if (high == NULL) {
		err_release(&k->cx->err);
		k->cx->final = false;
		return -1;
	}
	for (size_t i = 0; i < r->n; i++)
		n += high[i] > r->items[i].to ? high[i] - r->items[i].to : 0;
	free(high);
	return n;
}

json_t *
ranges_report(const struct ranges *r)
{
	json_t *list = json_array();

	for (size_t i = 0; i < r->n; i++) {
		const struct range *it = &r->items[i];
		json_t *one =
			json_pack("{s:s,s:i,s:I}", "topic", it->topic, "partition", it->partition, "next", (json_int_t)it->to);

		json_object_set_new(one, "base", it->base == NO_OFFSET ? json_null() : json_integer(it->base));
		json_array_append_new(list, one);
	}
	return list;
}

void
ranges_tell(struct kafka_client *k, const struct ranges *r)
{
	rd_kafka_topic_partition_list_t *list = kafka.topic_partition_list_new((int)r->n);

	for (size_t i = 0; i < r->n; i++)
		if (r->items[i].base != NO_OFFSET)
			kafka.topic_partition_list_add(list, r->items[i].topic, r->items[i].partition)->offset = r->items[i].base;
	k->telling = list->cnt > 0 && kafka.commit(k->rk, list, 1) == RD_KAFKA_RESP_ERR_NO_ERROR;
	kafka.topic_partition_list_destroy(list);
}

void
ranges_told(struct kafka_client *k)
{
	mono_us until = clock_mono() + TELL;

	while (k->telling && clock_mono() < until)
		kafka.poll(k->rk, 20);
}
