#include "tasks/kafka.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/mask.h"

#define LIBRARY  "librdkafka.so.1"
#define PATIENCE 60000
#define TURN     500 /* ms */
#define HINT     "install it: apt-get install librdkafka1 (Debian, Ubuntu), dnf install librdkafka (Fedora)"

struct kafka_api kafka;

/* ---- the library ---- */

static int
load(struct context *cx)
{
	void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

	if (lib == NULL) {
		cx->final = true;
		return task_fail(cx, ERR_UNSUPPORTED, "Kafka needs librdkafka, which is not there (%s); " HINT, dlerror());
	}
#define X(name)                                                                                                                  \
	*(void **)&kafka.name = dlsym(lib, "rd_kafka_" #name);                                                                   \
	if (kafka.name == NULL) {                                                                                                \
		cx->final = true;                                                                                                \
		return task_fail(cx, ERR_UNSUPPORTED,                                                                            \
				 LIBRARY " is too old: it has no rd_kafka_" #name "; it must be 1.6 or newer");                  \
	}
	KAFKA_API(X)
#undef X
	return 0;
}

/* ---- what it says ---- */

/* What the library logs goes to the attempt's log, which hides secrets. */
static void
on_log(const rd_kafka_t *rk, int level, const char *fac, const char *text)
{
	(void)rk;
	(void)level;
	fprintf(stderr, "librdkafka: %s: %s\n", fac, text);
}

/* Called while its queue is asked, so in our own thread. */
static void
on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	struct kafka_client *k = opaque;
	char fatal[512];

	if (code == RD_KAFKA_RESP_ERR__FATAL) {
		code = kafka.fatal_error(rk, fatal, sizeof(fatal));
		reason = fatal;
	}
	/* That all are down follows from what was wrong with each, which says more. */
	if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && k->trouble)
		return;
	k->trouble = (rd_kafka_resp_err_t)code;
	free(k->said);
	k->said = xstrdup(reason);
}

static void
on_told(rd_kafka_t *rk, rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
	struct kafka_client *k = opaque;

	(void)rk;
	(void)offsets;
	k->telling = false;
	if (code)
		printf("the brokers do not take the group's offsets, which only matters to who watches them: %s\n",
		       kafka.err2str(code));
}

void
kafka_calm(struct kafka_client *k)
{
	k->trouble = RD_KAFKA_RESP_ERR_NO_ERROR;
	free(k->said);
	k->said = NULL;
}

/* What to do about it, and whether another attempt would meet the same. */
static const struct {
	rd_kafka_resp_err_t code;
	const char *advice;
} finals[] = {
	{ RD_KAFKA_RESP_ERR__AUTHENTICATION, "is security.username and .password right, and the mechanism?" },
	{ RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, "is security.username and .password right, and the mechanism?" },
	{ RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM, "security.mechanism names one that the brokers do not have" },
	{ RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
	  "somebody has to allow this user to do so (kafka-acls --add --topic …); the topic may also not be there" },
	{ RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
	  "somebody has to allow this user the group (kafka-acls --add --group …)" },
	{ RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
	  "somebody has to allow this user to do so (kafka-acls --add --cluster …)" },
	{ RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
	  "somebody has to allow this user the transaction (kafka-acls --add --transactional-id 'sluice.*' …)" },
	{ RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "is the name right? make it first (kafka-topics --create --topic …)" },
	{ RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, "is the name right? make it first (kafka-topics --create --topic …)" },
	{ RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, "the topic has fewer partitions than it had" },
	{ RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, "that is no name of a topic" },
	{ RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
	  "options: {message.max.bytes: …} lets the client send it, the topic's max.message.bytes the brokers take it" },
};

static const char *
advice_on(rd_kafka_resp_err_t code, const char *said, bool *final)
{
	*final = false;
	for (size_t i = 0; i < sizeof(finals) / sizeof(finals[0]); i++)
		if (finals[i].code == code) {
			*final = true;
			return finals[i].advice;
		}
	if (code == RD_KAFKA_RESP_ERR__SSL) {
		*final = said && strstr(said, "certificate verify failed");
		return "does the port speak TLS (security.protocol), and does security.ca vouch for it?";
	}
	if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || code == RD_KAFKA_RESP_ERR__TRANSPORT ||
	    code == RD_KAFKA_RESP_ERR__TIMED_OUT || code == RD_KAFKA_RESP_ERR__RESOLVE)
		return "is the address right, and do the brokers run? `retry` of the task tries again";
	return NULL;
}

int
kafka_fail(struct kafka_client *k, rd_kafka_resp_err_t code, const char *said, const char *what, ...)
{
	const char *advice;
	char *doing, *words;
	va_list ap;

	/* A deadline says less than what kept the brokers from answering. */
	if (k->trouble && (said == NULL || code == RD_KAFKA_RESP_ERR__TIMED_OUT)) {
		code = k->trouble;
		said = k->said;
	}
	va_start(ap, what);
	{
		struct buf b = BUF_INIT;

		buf_vaddf(&b, what, ap);
		doing = buf_detach(&b);
	}
	va_end(ap);
	words = xstrdup(said ? said : kafka.err2str(code));
	advice = advice_on(code, words, &k->cx->final);
	task_fail_at(k->cx, k->key, "%s: %s: %s%s%s", k->place, doing, words, advice ? "; " : "", advice ? advice : "");
	free(doing);
	free(words);
	return -1;
}

/* ---- settings ---- */

static const char *
text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* ["a:1", "b:2"] or "a:1,b:2" as one text. The caller frees it. */
static char *
brokers_of(const json_t *where)
{
	const json_t *brokers = json_object_get(where, "brokers");
	struct buf b = BUF_INIT;
	json_t *one;
	size_t i;

	if (json_is_string(brokers))
		buf_adds(&b, json_string_value(brokers));
	json_array_foreach ((json_t *)(uintptr_t)brokers, i, one)
		buf_addf(&b, "%s%s", i ? "," : "", json_string_value(one));
	return buf_detach(&b);
}

static int
set(struct kafka_client *k, rd_kafka_conf_t *conf, const char *key, const char *name, const char *value)
{
	char why[512];

	if (kafka.conf_set(conf, name, value, why, sizeof(why)) == RD_KAFKA_CONF_OK)
		return 0;
	k->cx->final = true;
	return task_fail_at(k->cx, key, "librdkafka %s: %s", kafka.version_str(), why);
}

/* Is it one of this release of the library? */
static bool
has_setting(const rd_kafka_conf_t *conf, const char *name)
{
	size_t len;

	return kafka.conf_get(conf, name, NULL, &len) == RD_KAFKA_CONF_OK;
}

/* The library's own words for one that is not there do not name it. */
static int
check_file(struct kafka_client *k, const char *key, const char *path)
{
	if (access(path, R_OK) == 0)
		return 0;
	k->cx->final = true;
	return task_fail_at(k->cx, key, "%s: %s cannot be read: %s", key, path, strerror(errno));
}

static int
set_security(struct kafka_client *k, rd_kafka_conf_t *conf, const json_t *security)
{
	static const char *const names[][2] = {
		{ "protocol", "security.protocol" }, { "mechanism", "sasl.mechanism" },
		{ "username", "sasl.username" },     { "password", "sasl.password" },
		{ "ca", "ssl.ca.location" },         { "certificate", "ssl.certificate.location" },
		{ "key", "ssl.key.location" },       { "key_password", "ssl.key.password" },
	};
	char *key;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = text_of(security, names[i][0]);

		key = xasprintf("%s/security/%s", k->key, names[i][0]);
		if (value && strstr(names[i][1], "location"))
			rc = check_file(k, key, value);
		if (value && rc == 0)
			rc = set(k, conf, key, names[i][1], value);
		free(key);
	}
	return rc;
}

/* In an order in which the stronger comes last: ours for all, the task's, and what nobody may change. */
static int
configure(struct kafka_client *k, rd_kafka_conf_t *conf, kafka_settings defaults, kafka_settings ours)
{
	char *brokers = brokers_of(k->where), *key = xasprintf("%s/brokers", k->key);
	const char *name;
	json_t *value;
	int rc = set(k, conf, key, "bootstrap.servers", brokers);

	if (rc == 0)
		rc = set(k, conf, k->key, "client.id", "sluice");
	/* A broker that comes back is found at once, not after the library's ten seconds. */
	if (rc == 0)
		rc = set(k, conf, k->key, "reconnect.backoff.max.ms", "1000");
	for (size_t i = 0; rc == 0 && defaults && defaults[i]; i += 2)
		if (has_setting(conf, defaults[i]))
			rc = set(k, conf, k->key, defaults[i], defaults[i + 1]);
	if (rc == 0)
		rc = set_security(k, conf, json_object_get(k->where, "security"));
	free(key);
	json_object_foreach (json_object_get(k->where, "options"), name, value) {
		key = xasprintf("%s/options/%s", k->key, name);
		if (rc == 0)
			rc = set(k, conf, key, name, json_string_value(value));
		free(key);
	}
	for (size_t i = 0; rc == 0 && ours[i]; i += 2)
		rc = set(k, conf, k->key, ours[i], ours[i + 1]);
	k->place = xasprintf("Kafka at %s", brokers);
	free(brokers);
	return rc;
}

/* No error may show what opens the brokers. */
static void
hide_secrets(struct context *cx)
{
	json_t *value;
	size_t i;

	if (cx->hidden == NULL)
		cx->hidden = mask_new();
	json_array_foreach (json_object_get(cx->doc, "hide"), i, value)
		mask_add(cx->hidden, json_string_value(value));
}

int
kafka_open(struct kafka_client *k, struct context *cx, const char *key, const json_t *where, rd_kafka_type_t type,
	   kafka_settings defaults, kafka_settings ours, void (*on_delivery)(rd_kafka_t *, const rd_kafka_message_t *, void *))
{
	const json_t *timeout = json_object_get(where, "timeout");
	rd_kafka_conf_t *conf;
	char why[512];

	*k = (struct kafka_client){ .cx = cx, .key = key, .where = where, .patience = PATIENCE };
	if (json_is_integer(timeout))
		k->patience = json_integer_value(timeout) / 1000;
	if (load(cx) < 0)
		return -1;
	hide_secrets(cx);
	conf = kafka.conf_new();
	kafka.conf_set_opaque(conf, k);
	kafka.conf_set_log_cb(conf, on_log);
	kafka.conf_set_error_cb(conf, on_error);
	kafka.conf_set_offset_commit_cb(conf, on_told);
	if (on_delivery)
		kafka.conf_set_dr_msg_cb(conf, on_delivery);
	if (configure(k, conf, defaults, ours) < 0) {
		kafka.conf_destroy(conf);
		return -1;
	}
	k->rk = kafka.new(type, conf, why, sizeof(why));
	if (k->rk)
		return 0;
	kafka.conf_destroy(conf);
	cx->final = true;
	return task_fail_at(cx, key, "%s: the settings are not taken: %s", k->place, why);
}

void
kafka_close(struct kafka_client *k)
{
	/* The process ends soon: nobody waits for brokers to hear of it. */
	if (k->rk)
		kafka.destroy_flags(k->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	k->rk = NULL;
	free(k->place);
	free(k->said);
	k->place = k->said = NULL;
}

/* ---- topics ---- */

int
kafka_partitions(struct kafka_client *k, const char *name, int *count)
{
	rd_kafka_topic_t *topic = kafka.topic_new(k->rk, name, NULL);
	const struct rd_kafka_metadata *md = NULL;
	mono_us until = clock_mono() + k->patience * US_PER_MS;
	rd_kafka_resp_err_t code;
	bool final;

	if (topic == NULL)
		return kafka_fail(k, kafka.last_error(), NULL, "topic \"%s\"", name);
	do { /* in short turns: a user that is not let in need not be patient */
		code = kafka.metadata(k->rk, 0, topic, &md, TURN);
		kafka.poll(k->rk, 0);
		advice_on(k->trouble, k->said, &final);
	} while ((code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__TIMED_OUT) && !final &&
		 clock_mono() < until);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR && md->topic_cnt == 1)
		code = md->topics[0].err;
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		*count = md->topics[0].partition_cnt;
	if (md)
		kafka.metadata_destroy(md);
	kafka.topic_destroy(topic);
	return code ? kafka_fail(k, code, code == RD_KAFKA_RESP_ERR__TRANSPORT ? NULL : kafka.err2str(code), "topic \"%s\"", name)
		    : 0;
}
