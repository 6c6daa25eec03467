/*
 * Files by their location: file:///folder/name, /folder/name, s3://bucket/key and s3a:// (the same). Every call blocks, so the
 * daemon makes them in worker threads; one storage serves any number of threads. S3 requests are tried again, with growing
 * pauses, on what passes (5xx, 429, SlowDown, a broken connection), until the settings' timeout is over. Errors name the
 * location, the endpoint, the store's own code and what to do.
 */
#ifndef STORAGE_STORAGE_H
#define STORAGE_STORAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"

struct storage;

/*
 * `s3` holds the settings {endpoint, region, path_style, timeout (microseconds), access_key, secret_key, session_token, role_arn,
 * token_file, ca}, each may be absent, as may be the whole; keys that it does not have come from the environment, as other
 * programs have them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or AWS_ROLE_ARN with
 * AWS_WEB_IDENTITY_TOKEN_FILE; AWS_REGION, AWS_ENDPOINT_URL, AWS_CA_BUNDLE. ERR_INVALID when they cannot be used. Asks nobody.
 */
struct storage *storage_new(const json_t *s3, struct err *e);
void storage_free(struct storage *s);

/*
 * The settings with what came from the environment, as storage_new takes them: for an attempt, which has no such environment.
 * They hold secrets. The caller's reference.
 */
json_t *storage_settings(const struct storage *s);

/* Keys that are good now; those of a role are fetched when there are none, or they end soon. All empty: without a signature. */
struct storage_keys {
	char *access_key, *secret_key, *session_token; /* owned, never NULL */
	wall_us expires;                               /* 0: never */
};
MUSTCHECK int storage_keys(struct storage *s, struct storage_keys *out, struct err *e);
void storage_keys_release(struct storage_keys *k);
/* The same without asking anybody, so that it does not block: false when there are none that last for `left` more. */
MUSTCHECK bool storage_keys_now(struct storage *s, dur_us left, struct storage_keys *out);
#define STORAGE_KEYS_EARLY (5 * US_PER_MIN) /* those that end sooner are replaced by storage_keys */
/* "http://127.0.0.1:9000", without a bucket and a final slash. Borrowed, as is the region. */
const char *storage_endpoint(const struct storage *s);
const char *storage_region(const struct storage *s);
bool storage_path_style(const struct storage *s);
/* The file of certificates that vouch for the store's; NULL: the system's. Borrowed. */
const char *storage_ca(const struct storage *s);
dur_us storage_timeout(const struct storage *s);

/* What to do about an error of a store whose code `text` has somewhere ("NoSuchBucket"); NULL when it has none that we know. */
const char *storage_advice(const char *text);

/* Is it s3:// or s3a://? */
bool storage_remote(const char *location);
/* The path of a local file; NULL with ERR_UNSUPPORTED for any other. The caller frees it. */
char *storage_path(const char *location, struct err *e);

/* Appends the whole object, up to the buffer's maximum (ERR_TOO_LARGE). ERR_NOT_FOUND when there is none. */
MUSTCHECK int storage_read(struct storage *s, const char *location, struct buf *out, struct err *e);
/* Its size in bytes; ERR_NOT_FOUND. */
MUSTCHECK int storage_size(struct storage *s, const char *location, int64_t *size, struct err *e);

enum storage_how {
	STORAGE_REPLACE, /* what is there */
	STORAGE_NEW,     /* ERR_CONFLICT when something is there */
};
/* The whole object or nothing of it, and lasting when this returns. Missing folders are made. */
MUSTCHECK int storage_write(struct storage *s, const char *location, const void *data, size_t len, enum storage_how how,
			    struct err *e);
/* A local file as an object, in parts when it is large, so that it may be larger than memory. Replaces what is there. */
MUSTCHECK int storage_upload(struct storage *s, const char *location, const char *file, struct err *e);
/* An object as a local file: whole under that name, or not there. Missing folders are made; it may be larger than memory. */
MUSTCHECK int storage_download(struct storage *s, const char *location, const char *file, struct err *e);

/* `modified` is when it was written. A return value other than 0 ends the listing, which then returns it. */
typedef int (*storage_found)(const char *location, int64_t size, wall_us modified, void *arg);
/* Every file in the folder `location` and below, in no order; none when there is no such folder. */
MUSTCHECK int storage_list(struct storage *s, const char *location, storage_found found, void *arg, struct err *e);
/* Every file that a pattern matches: *, ?, [a-z] within a name, ** across folders. Without one of these: the file itself. */
MUSTCHECK int storage_glob(struct storage *s, const char *pattern, storage_found found, void *arg, struct err *e);

/* Is that one of the files that the pattern matches? As fnmatch, but a part that is ** stands for any number of folders. */
bool storage_matches(const char *pattern, const char *location);

/* What is not there is no error. */
MUSTCHECK int storage_remove(struct storage *s, const char *location, struct err *e);
/* The same for many, a thousand at a time; they may lie in different buckets. The first error ends it. */
MUSTCHECK int storage_remove_many(struct storage *s, const char *const *locations, size_t n, struct err *e);
/* A folder and everything in it; `removed` counts the files, and may be NULL. */
MUSTCHECK int storage_remove_folder(struct storage *s, const char *location, size_t *removed, struct err *e);

#endif
