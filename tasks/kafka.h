/*
 * Kafka, by librdkafka, which is mapped when an attempt needs it and nowhere else: a client by a task's settings, what the
 * library says in the log, and what went wrong in words. Whoever includes this calls the library as `kafka.NAME(…)`.
 */
#ifndef TASKS_KAFKA_H
#define TASKS_KAFKA_H

#include <jansson.h>
#include <librdkafka/rdkafka.h>
#include <stdbool.h>

#include "tasks/context.h"

/* What is used of it: rd_kafka_… */
/* clang-format off */
#define KAFKA_API(X)                                                                                                             \
	X(abort_transaction)                                                                                                    \
	X(assign)                                                                                                               \
	X(begin_transaction)                                                                                                    \
	X(clusterid)                                                                                                            \
	X(commit)                                                                                                               \
	X(commit_transaction)                                                                                                   \
	X(committed)                                                                                                            \
	X(conf_destroy)                                                                                                         \
	X(conf_get)                                                                                                             \
	X(conf_new)                                                                                                             \
	X(conf_set)                                                                                                             \
	X(conf_set_dr_msg_cb)                                                                                                   \
	X(conf_set_error_cb)                                                                                                    \
	X(conf_set_log_cb)                                                                                                      \
	X(conf_set_offset_commit_cb)                                                                                            \
	X(conf_set_opaque)                                                                                                      \
	X(consume_batch_queue)                                                                                                  \
	X(consumer_group_metadata_destroy)                                                                                      \
	X(consumer_group_metadata_new)                                                                                          \
	X(destroy_flags)                                                                                                        \
	X(err2str)                                                                                                              \
	X(error_code)                                                                                                           \
	X(error_destroy)                                                                                                        \
	X(error_string)                                                                                                         \
	X(fatal_error)                                                                                                          \
	X(header_get_all)                                                                                                       \
	X(init_transactions)                                                                                                    \
	X(last_error)                                                                                                           \
	X(mem_free)                                                                                                             \
	X(message_destroy)                                                                                                      \
	X(message_errstr)                                                                                                       \
	X(message_headers)                                                                                                      \
	X(message_timestamp)                                                                                                    \
	X(metadata)                                                                                                             \
	X(metadata_destroy)                                                                                                     \
	X(new)                                                                                                                  \
	X(offsets_for_times)                                                                                                    \
	X(pause_partitions)                                                                                                     \
	X(poll)                                                                                                                 \
	X(produce)                                                                                                              \
	X(purge)                                                                                                                \
	X(queue_destroy)                                                                                                        \
	X(queue_get_consumer)                                                                                                   \
	X(queue_length)                                                                                                         \
	X(send_offsets_to_transaction)                                                                                          \
	X(topic_destroy)                                                                                                        \
	X(topic_name)                                                                                                           \
	X(topic_new)                                                                                                            \
	X(topic_partition_list_add)                                                                                             \
	X(topic_partition_list_destroy)                                                                                         \
	X(topic_partition_list_new)                                                                                             \
	X(version_str)
/* clang-format on */

extern struct kafka_api {
#define X(name) __typeof__(&rd_kafka_##name) name;
	KAFKA_API(X)
#undef X
} kafka;

/* A client, and the last trouble that it told of. */
struct kafka_client {
	struct context *cx;
	const char *key;             /* "source" or "to": where the task's settings are */
	const json_t *where;         /* these; borrowed */
	char *place;                 /* "Kafka at HOST:PORT", for people */
	rd_kafka_t *rk;              /* NULL before */
	int64_t patience;            /* how long the brokers may say nothing, in ms */
	rd_kafka_resp_err_t trouble; /* what the brokers' threads met since kafka_calm; RD_KAFKA_RESP_ERR_NO_ERROR: nothing */
	bool telling;                /* the group's offsets are on their way to the brokers */
	char *said;                  /* in its words */
};

/* Settings of ours: name, value, …, NULL. */
typedef const char *const kafka_settings[];

/*
 * Maps the library and makes a client of `type` by the object `key` of the task's spec, whose `options` are stronger than
 * `defaults` (those that this release of the library has) and weaker than `ours`. Nothing is sent yet. `on_delivery` (NULL: none)
 * gets the client. 0, or -1 with the error set.
 */
int kafka_open(struct kafka_client *k, struct context *cx, const char *key, const json_t *where, rd_kafka_type_t type,
	       kafka_settings defaults, kafka_settings ours,
	       void (*on_delivery)(rd_kafka_t *, const rd_kafka_message_t *, void *));
void kafka_close(struct kafka_client *k);
/*
 * Sets the error for `code`, which came while `what` was done ("reading topic orders"), final or not by what it is; returns -1.
 * With no words of its own (NULL) it says what the brokers' threads met, if they did.
 */
int kafka_fail(struct kafka_client *k, rd_kafka_resp_err_t code, const char *said, const char *what, ...)
	__attribute__((format(printf, 4, 5)));
/* The brokers answered: what was before is over. */
void kafka_calm(struct kafka_client *k);
/* The partitions of a topic, which must be there. -1 with the error set. */
int kafka_partitions(struct kafka_client *k, const char *name, int *count);

#endif
