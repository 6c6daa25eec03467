/* What the files of storage/ share. */
#ifndef STORAGE_STORAGE_INT_H
#define STORAGE_STORAGE_INT_H

#include <curl/curl.h>
#include <pthread.h>

#include "storage/storage.h"

#define STORAGE_IDLE_MAX 16

struct storage {
	char *scheme, *host; /* "http", "127.0.0.1:9000" */
	char *endpoint;      /* both */
	char *region;
	char *role_arn, *token_file, *sts; /* web identity; NULL without */
	char *ca;                          /* certificates that vouch for the store's; NULL: the system's */
	bool path_style;
	dur_us timeout;             /* of a request with all its tries */
	pthread_mutex_t fetch_lock; /* while new keys are fetched, so that one thread asks and the others wait */
	pthread_mutex_t keys_lock;
	struct storage_keys keys; /* good until keys.expires */
	pthread_mutex_t idle_lock;
	CURL *idle[STORAGE_IDLE_MAX]; /* each has connections of its own, which are used again */
	size_t idle_count;
};

/* ---- s3_http.c: one request ---- */

#define S3_HEADERS 4

struct s3_call {
	const char *method, *bucket, *key; /* key "": of the bucket */
	const char *query;                 /* names sorted, values encoded, every name with its =; NULL */
	const char *headers[S3_HEADERS];   /* "name: value", up to the first NULL */
	const void *body;
	size_t len;
	const char *url; /* another address, which wants no signature; NULL */

	struct buf answer; /* set its maximum before; s3_call_release */
	long status;       /* 0: nobody answered */
	int64_t length;    /* of Content-Length; -1 */
	char etag[128], bucket_region[64];
	unsigned tries;
};
/* 0 for a status below 300; otherwise an error that says why. The answer is there in both cases. */
MUSTCHECK int s3_call(struct storage *s, struct s3_call *c, struct err *e);
void s3_call_release(struct s3_call *c);
/* Text as part of a path (slashes stay) or of a query. */
void s3_add_encoded(struct buf *b, const char *s, bool slashes);

/* ---- xml.c: the little XML that stores speak ---- */

/* The content of the first element `name` in [from, to); false when there is none. Elements of that name do not nest. */
bool xml_find(const char *from, const char *to, const char *name, const char **begin, const char **end);
/* The text of that element with its entities resolved; NULL when there is none. The caller frees it. */
char *xml_text(const char *from, const char *to, const char *name);
void xml_add_escaped(struct buf *b, const char *s);

/* ---- keys.c ---- */

void keys_copy(struct storage_keys *to, const struct storage_keys *from);

/* ---- local.c and s3.c: the same verbs for either kind ---- */

MUSTCHECK int local_read(const char *location, struct buf *out, struct err *e);
MUSTCHECK int local_size(const char *location, int64_t *size, struct err *e);
MUSTCHECK int local_write(const char *location, const void *data, size_t len, enum storage_how how, struct err *e);
MUSTCHECK int local_upload(const char *location, const char *file, struct err *e);
/* Below the folder that `prefix` ends with a slash in, what begins with it. */
MUSTCHECK int local_list(const char *prefix, storage_found found, void *arg, struct err *e);
MUSTCHECK int local_remove(const char *location, struct err *e);

MUSTCHECK int s3_read(struct storage *s, const char *location, struct buf *out, struct err *e);
MUSTCHECK int s3_size(struct storage *s, const char *location, int64_t *size, struct err *e);
MUSTCHECK int s3_write(struct storage *s, const char *location, const void *data, size_t len, enum storage_how how,
		       struct err *e);
MUSTCHECK int s3_upload(struct storage *s, const char *location, const char *file, struct err *e);
/* `len` bytes from `at`, appended. */
MUSTCHECK int s3_read_range(struct storage *s, const char *location, int64_t at, int64_t len, struct buf *out, struct err *e);
MUSTCHECK int s3_list(struct storage *s, const char *prefix, storage_found found, void *arg, struct err *e);
MUSTCHECK int s3_remove(struct storage *s, const char *location, struct err *e);
/* All in one bucket, at most a thousand. */
MUSTCHECK int s3_remove_batch(struct storage *s, const char *const *locations, size_t n, struct err *e);
#define S3_BATCH 1000
/* The bucket's name, as the caller's string, and where the key begins; ERR_INVALID without a bucket. */
char *s3_split(const char *location, const char **key, struct err *e);

#endif
