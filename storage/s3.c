/* The verbs on an S3 store. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/sha256.h"
#include "storage/storage_int.h"

#define ANSWER_MAX (64u << 20)
#define PART_MIN   ((int64_t)16 << 20)
#define PARTS_MAX  10000

static size_t
scheme_length(const char *location)
{
	return strncmp(location, "s3://", 5) == 0 ? 5 : 6;
}

char *
s3_split(const char *location, const char **key, struct err *e)
{
	const char *bucket = location + scheme_length(location);
	size_t n = strcspn(bucket, "/");

	if (n == 0) {
		err_set(e, ERR_INVALID, "%s names no bucket: it must be s3://BUCKET/KEY", location);
		return NULL;
	}
	*key = bucket + n + (bucket[n] == '/');
	return xstrndup(bucket, n);
}

/* Of one object; explains errors with its location. `c` has method, headers and body. */
static int
object_call(struct storage *s, struct s3_call *c, const char *location, struct err *e)
{
	char *bucket = s3_split(location, &c->key, e);
	int rc;

	if (bucket == NULL)
		return e ? e->code : ERR_INVALID;
	c->bucket = bucket;
	rc = s3_call(s, c, e);
	if (rc < 0)
		err_prefix(e, "%s", location);
	free(bucket);
	return rc;
}

int
s3_read(struct storage *s, const char *location, struct buf *out, struct err *e)
{
	struct s3_call c = { .method = "GET", .answer = BUF_INIT_MAX(out->max ? out->max - out->len : 0) };
	int rc = object_call(s, &c, location, e);

	if (rc == 0 && out->len == 0) {
		size_t max = out->max;

		buf_release(out);
		*out = c.answer;
		out->max = max;
		buf_init(&c.answer, 0);
	} else if (rc == 0) {
		buf_add(out, c.answer.s, c.answer.len);
	}
	s3_call_release(&c);
	return rc;
}

int
s3_size(struct storage *s, const char *location, int64_t *size, struct err *e)
{
	struct s3_call c = { .method = "HEAD", .answer = BUF_INIT_MAX(ANSWER_MAX) };
	struct err why = ERR_INIT;
	int rc = object_call(s, &c, location, &why);

	*size = c.length < 0 ? 0 : c.length;
	s3_call_release(&c);
	if (rc < 0 && rc != ERR_UNAVAILABLE && rc != ERR_INVALID) {
		/* An answer to HEAD has no body to say why. */
		struct s3_call again = { .method = "GET", .headers = { "Range: bytes=0-0" }, .answer = BUF_INIT_MAX(ANSWER_MAX) };
		struct err better = ERR_INIT;

		if (object_call(s, &again, location, &better) < 0)
			rc = err_move(&why, &better);
		s3_call_release(&again);
		err_release(&better);
	}
	return rc < 0 ? err_move(e, &why) : 0;
}

int
s3_read_range(struct storage *s, const char *location, int64_t at, int64_t len, struct buf *out, struct err *e)
{
	char *range = xasprintf("Range: bytes=%lld-%lld", (long long)at, (long long)(at + len - 1));
	struct s3_call c = { .method = "GET", .headers = { range }, .answer = BUF_INIT_MAX((size_t)len) };
	int rc = object_call(s, &c, location, e);

	if (rc == 0 && (int64_t)c.answer.len != len)
		rc = err_set(e, ERR_UNAVAILABLE, "%s: it changed while it was read", location);
	if (rc == 0)
		buf_add(out, c.answer.s, c.answer.len);
	s3_call_release(&c);
	free(range);
	return rc;
}

/* Was it this very object that made a second try of a STORAGE_NEW fail, because the first one's answer was lost? */
static bool
ours_already(struct storage *s, const char *location, const void *data, size_t len)
{
	struct buf there = BUF_INIT_MAX(len + 1);
	struct err e = ERR_INIT;
	bool same = s3_read(s, location, &there, &e) == 0 && there.len == len && memcmp(there.s, data, len) == 0;

	err_release(&e);
	buf_release(&there);
	return same;
}

int
s3_write(struct storage *s, const char *location, const void *data, size_t len, enum storage_how how, struct err *e)
{
	struct s3_call c = { .method = "PUT", .body = data, .len = len, .answer = BUF_INIT_MAX(ANSWER_MAX) };
	struct err why = ERR_INIT;
	int rc;

	if (how == STORAGE_NEW)
		c.headers[0] = "If-None-Match: *";
	rc = object_call(s, &c, location, &why);
	if (rc == ERR_CONFLICT && c.tries > 1 && ours_already(s, location, data, len))
		rc = 0;
	s3_call_release(&c);
	if (rc < 0)
		return err_move(e, &why);
	err_release(&why);
	return 0;
}

/* ---- large files, in parts ---- */

struct upload {
	struct storage *s;
	const char *location;
	int fd;
	int64_t size, part;
	char *id;         /* encoded */
	struct buf parts; /* the document that puts them together */
	char *bytes;      /* one part */
};

static int
upload_read(struct upload *u, const char *file, int64_t at, size_t len, struct err *e)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(u->fd, u->bytes + done, len - done, at + (int64_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, ERR_IO, "%s cannot be read: %s", file, n < 0 ? strerror(errno) : "it became shorter");
		done += (size_t)n;
	}
	return 0;
}

static int
upload_begin(struct upload *u, struct err *e)
{
	struct s3_call c = { .method = "POST", .query = "uploads=", .answer = BUF_INIT_MAX(ANSWER_MAX) };
	struct buf id = BUF_INIT;
	char *text = NULL;
	int rc = object_call(u->s, &c, u->location, e);

	if (rc == 0 && (text = xml_text(c.answer.s, c.answer.s + c.answer.len, "UploadId")) == NULL)
		rc = err_set(e, ERR_UNAVAILABLE, "%s: the store began no upload", u->location);
	if (text)
		s3_add_encoded(&id, text, false);
	u->id = buf_detach(&id);
	free(text);
	s3_call_release(&c);
	return rc;
}

static int
upload_part(struct upload *u, int number, size_t len, struct err *e)
{
	char *query = xasprintf("partNumber=%d&uploadId=%s", number, u->id);
	struct s3_call c = { .method = "PUT", .query = query, .body = u->bytes, .len = len, .answer = BUF_INIT_MAX(ANSWER_MAX) };
	int rc = object_call(u->s, &c, u->location, e);

	if (rc == 0) {
		buf_addf(&u->parts, "<Part><PartNumber>%d</PartNumber><ETag>", number);
		xml_add_escaped(&u->parts, c.etag);
		buf_adds(&u->parts, "</ETag></Part>");
	}
	s3_call_release(&c);
	free(query);
	return rc;
}

/* Puts the parts together, or gives them up. */
static int
upload_end(struct upload *u, bool good, struct err *e)
{
	char *query = xasprintf("uploadId=%s", u->id);
	struct s3_call c = { .method = good ? "POST" : "DELETE", .query = query, .answer = BUF_INIT_MAX(ANSWER_MAX) };
	int rc;

	if (good) {
		buf_adds(&u->parts, "</CompleteMultipartUpload>");
		c.body = u->parts.s;
		c.len = u->parts.len;
	}
	rc = object_call(u->s, &c, u->location, e);
	s3_call_release(&c);
	free(query);
	return rc;
}

static int
upload_parts(struct upload *u, const char *file, struct err *e)
{
	int rc = upload_begin(u, e), number = 1;

	buf_adds(&u->parts, "<CompleteMultipartUpload>");
	for (int64_t at = 0; rc == 0 && at < u->size; at += u->part, number++) {
		size_t len = (size_t)(u->size - at < u->part ? u->size - at : u->part);

		rc = upload_read(u, file, at, len, e);
		if (rc == 0)
			rc = upload_part(u, number, len, e);
	}
	if (rc == 0)
		rc = upload_end(u, true, e);
	/* Parts that nothing puts together cost money for ever. */
	if (rc < 0 && u->id && *u->id && upload_end(u, false, NULL) < 0)
		err_prefix(e, "an unfinished upload stays behind");
	return rc;
}

int
s3_upload(struct storage *s, const char *location, const char *file, struct err *e)
{
	struct upload u = { .s = s, .location = location, .part = PART_MIN, .parts = BUF_INIT };
	struct stat st;
	int rc = 0;

	u.fd = open(file, O_RDONLY | O_CLOEXEC);
	if (u.fd < 0 || fstat(u.fd, &st) < 0)
		rc = err_set(e, ERR_IO, "%s cannot be read: %s", file, strerror(errno));
	if (rc == 0) {
		u.size = st.st_size;
		while (u.size / u.part >= PARTS_MAX)
			u.part *= 2;
		u.bytes = xmalloc((size_t)(u.size < u.part ? u.size + 1 : u.part));
		if (u.size > u.part)
			rc = upload_parts(&u, file, e);
		else if ((rc = upload_read(&u, file, 0, (size_t)u.size, e)) == 0)
			rc = s3_write(s, location, u.bytes, (size_t)u.size, STORAGE_REPLACE, e);
	}
	if (u.fd >= 0)
		close(u.fd);
	free(u.bytes);
	free(u.id);
	buf_release(&u.parts);
	return rc;
}

/* ---- lists ---- */

/* Undoes encoding-type=url, where a blank may be a plus. */
static void
url_decode(char *s)
{
	char *to = s, hex[3] = "";

	for (; *s; s++) {
		if (*s == '%' && s[1] && s[2]) {
			memcpy(hex, s + 1, 2);
			*to++ = (char)strtoul(hex, NULL, 16);
			s += 2;
		} else {
			*to++ = *s == '+' ? ' ' : *s;
		}
	}
	*to = '\0';
}

struct page {
	const char *scheme_bucket; /* "s3://bucket/" */
	bool encoded;
	storage_found found;
	void *arg;
};

static int
page_entry(const struct page *p, const char *from, const char *to)
{
	char *key = xml_text(from, to, "Key"), *size = xml_text(from, to, "Size"), *modified = xml_text(from, to, "LastModified");
	wall_us when = 0;
	int rc = 0;

	if (modified && time_parse(modified, &when) < 0)
		when = 0;
	if (key && p->encoded)
		url_decode(key);
	/* What some stores and programs keep for a folder is no file. */
	if (key && *key && key[strlen(key) - 1] != '/') {
		char *location = xasprintf("%s%s", p->scheme_bucket, key);

		rc = p->found(location, size ? strtoll(size, NULL, 10) : 0, when, p->arg);
		free(location);
	}
	free(key);
	free(size);
	free(modified);
	return rc;
}

static int
page_entries(struct page *p, const struct buf *answer)
{
	const char *at = answer->s, *to = at + answer->len, *begin, *end;
	int rc = 0;

	p->encoded = xml_find(at, to, "EncodingType", &begin, &end);
	while (rc == 0 && xml_find(at, to, "Contents", &begin, &end)) {
		rc = page_entry(p, begin, end);
		at = end;
	}
	return rc;
}

/* One page of a list; `token` where it begins, and where the next one does, or NULL. */
static int
list_page(struct storage *s, const char *bucket, const char *prefix, char **token, struct page *p, struct err *e)
{
	struct buf query = BUF_INIT;
	struct s3_call c = { .method = "GET", .bucket = bucket, .key = "", .answer = BUF_INIT_MAX(ANSWER_MAX) };
	char *more;
	int rc;

	if (*token) {
		buf_adds(&query, "continuation-token=");
		s3_add_encoded(&query, *token, false);
		buf_addc(&query, '&');
	}
	buf_adds(&query, "encoding-type=url&list-type=2&max-keys=1000&prefix=");
	s3_add_encoded(&query, prefix, false);
	c.query = query.s;
	rc = s3_call(s, &c, e);
	free(*token);
	*token = NULL;
	if (rc == 0) {
		more = xml_text(c.answer.s, c.answer.s + c.answer.len, "IsTruncated");
		if (more && strcmp(more, "true") == 0)
			*token = xml_text(c.answer.s, c.answer.s + c.answer.len, "NextContinuationToken");
		free(more);
		rc = page_entries(p, &c.answer);
	} else {
		err_prefix(e, "%s%s", p->scheme_bucket, prefix);
	}
	s3_call_release(&c);
	buf_release(&query);
	return rc;
}

int
s3_list(struct storage *s, const char *prefix, storage_found found, void *arg, struct err *e)
{
	const char *key;
	char *bucket = s3_split(prefix, &key, e), *token = NULL, *head;
	struct page p = { .found = found, .arg = arg };
	int rc;

	if (bucket == NULL)
		return e ? e->code : ERR_INVALID;
	head = xasprintf("%.*s%s/", (int)scheme_length(prefix), prefix, bucket);
	p.scheme_bucket = head;
	do
		rc = list_page(s, bucket, key, &token, &p, e);
	while (rc == 0 && token);
	free(token);
	free(head);
	free(bucket);
	return rc;
}

/* ---- removal ---- */

int
s3_remove(struct storage *s, const char *location, struct err *e)
{
	struct s3_call c = { .method = "DELETE", .answer = BUF_INIT_MAX(ANSWER_MAX) };
	struct err why = ERR_INIT;
	int rc = object_call(s, &c, location, &why);
	bool gone = rc == ERR_NOT_FOUND && strstr(c.answer.s, "NoSuchBucket") == NULL;

	s3_call_release(&c);
	if (rc < 0 && !gone)
		return err_move(e, &why);
	err_release(&why);
	return 0;
}

/* A removal of many must come with a digest of its body. */
static char *
checksum_header(const struct buf *body)
{
	char hex[SHA256_HEX], two[3] = "";
	unsigned char digest[32];
	struct buf b = BUF_INIT;

	sha256_hex(body->s, body->len, hex);
	for (size_t i = 0; i < sizeof(digest); i++) {
		memcpy(two, hex + 2 * i, 2);
		digest[i] = (unsigned char)strtoul(two, NULL, 16);
	}
	buf_adds(&b, "x-amz-checksum-sha256: ");
	buf_add_base64(&b, digest, sizeof(digest));
	return buf_detach(&b);
}

/* The first key that the store did not remove. */
static int
removal_error(const struct storage *s, const char *bucket, const struct buf *answer, struct err *e)
{
	const char *begin, *end;
	char *key, *code, *message;
	int rc = 0;

	if (!xml_find(answer->s, answer->s + answer->len, "Error", &begin, &end))
		return 0;
	key = xml_text(begin, end, "Key");
	code = xml_text(begin, end, "Code");
	message = xml_text(begin, end, "Message");
	if (code == NULL || strcmp(code, "NoSuchKey") != 0)
		rc = err_set(e, ERR_IO, "s3://%s/%s cannot be removed: the store at %s answers %s (%s)", bucket, key ? key : "?",
			     s->endpoint, code ? code : "an error", message ? message : "no reason given");
	free(key);
	free(code);
	free(message);
	return rc;
}

int
s3_remove_batch(struct storage *s, const char *const *locations, size_t n, struct err *e)
{
	struct buf body = BUF_INIT;
	struct s3_call c = { .method = "POST", .key = "", .query = "delete=", .answer = BUF_INIT_MAX(ANSWER_MAX) };
	char *bucket = NULL, *checksum;
	int rc;

	buf_adds(&body, "<Delete><Quiet>true</Quiet>");
	for (size_t i = 0; i < n; i++) {
		const char *key;

		free(bucket);
		bucket = s3_split(locations[i], &key, e);
		if (bucket == NULL) {
			buf_release(&body);
			return e ? e->code : ERR_INVALID;
		}
		buf_adds(&body, "<Object><Key>");
		xml_add_escaped(&body, key);
		buf_adds(&body, "</Key></Object>");
	}
	buf_adds(&body, "</Delete>");
	checksum = checksum_header(&body);
	c.bucket = bucket;
	c.headers[0] = checksum;
	c.headers[1] = "x-amz-sdk-checksum-algorithm: SHA256";
	c.body = body.s;
	c.len = body.len;
	rc = s3_call(s, &c, e);
	if (rc < 0)
		err_prefix(e, "s3://%s: %zu files cannot be removed", bucket, n);
	else
		rc = removal_error(s, bucket, &c.answer, e);
	s3_call_release(&c);
	free(checksum);
	free(bucket);
	buf_release(&body);
	return rc;
}
