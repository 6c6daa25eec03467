/* One request to an S3 store: its address, its signature (libcurl's), its tries, and what its failures mean. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/sha256.h"
#include "storage/storage_int.h"

#define TRIES_MAX   9
#define PAUSE_FIRST (100 * US_PER_MS)
#define PAUSE_MAX   (8 * US_PER_S)
#define CONNECT_S   10
#define EXPECT_MS   200L

/* ---- addresses ---- */

void
s3_add_encoded(struct buf *b, const char *s, bool slashes)
{
	buf_add_encoded(b, s, slashes ? "/" : "");
}

/* A bucket with dots in its name has no certificate of its own. */
static bool
bucket_in_path(const struct storage *s, const char *bucket)
{
	return s->path_style || strchr(bucket, '.') || strcmp(bucket, "") == 0;
}

static void
add_address(struct buf *url, const struct storage *s, const struct s3_call *c)
{
	if (bucket_in_path(s, c->bucket)) {
		buf_addf(url, "%s/", s->endpoint);
		s3_add_encoded(url, c->bucket, false);
	} else {
		buf_addf(url, "%s://%s.%s", s->scheme, c->bucket, s->host);
	}
	buf_addc(url, '/');
	s3_add_encoded(url, c->key, true);
	if (c->query)
		buf_addf(url, "?%s", c->query);
}

/* ---- one try ---- */

static CURL *
curl_take(struct storage *s)
{
	CURL *curl = NULL;

	pthread_mutex_lock(&s->idle_lock);
	if (s->idle_count)
		curl = s->idle[--s->idle_count];
	pthread_mutex_unlock(&s->idle_lock);
	return curl ? curl : curl_easy_init();
}

static void
curl_give(struct storage *s, CURL *curl)
{
	curl_easy_reset(curl); /* what it points to ends here; its connections stay */
	pthread_mutex_lock(&s->idle_lock);
	if (s->idle_count < STORAGE_IDLE_MAX) {
		s->idle[s->idle_count++] = curl;
		curl = NULL;
	}
	pthread_mutex_unlock(&s->idle_lock);
	if (curl)
		curl_easy_cleanup(curl);
}

static size_t
on_answer_bytes(char *data, size_t size, size_t n, void *arg)
{
	struct s3_call *c = arg;

	return buf_add(&c->answer, data, size * n) < 0 ? 0 : size * n;
}

/* Keeps a header's value if it is the one called `name`. */
static void
keep_header(const char *line, size_t len, const char *name, char *to, size_t room)
{
	size_t n = strlen(name);

	if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
		return;
	for (line += n + 1, len -= n + 1; len && *line == ' '; line++)
		len--;
	while (len && strchr("\r\n ", line[len - 1]))
		len--;
	snprintf(to, room, "%.*s", (int)len, line);
}

static size_t
on_answer_header(char *line, size_t size, size_t n, void *arg)
{
	struct s3_call *c = arg;

	keep_header(line, size * n, "ETag", c->etag, sizeof(c->etag));
	keep_header(line, size * n, "x-amz-bucket-region", c->bucket_region, sizeof(c->bucket_region));
	return size * n;
}

static struct curl_slist *
add_header(struct curl_slist *list, const char *name, const char *value)
{
	char *line = xasprintf("%s: %s", name, value);

	list = curl_slist_append(list, line);
	explicit_bzero(line, strlen(line));
	free(line);
	return list;
}

/* The signature covers every header that is set here. */
static struct curl_slist *
signature_set(CURL *curl, const struct storage *s, const struct s3_call *c, const struct storage_keys *keys,
	      struct curl_slist *headers)
{
	char digest[SHA256_HEX], *scope, *pair;

	if (c->url || *keys->access_key == '\0')
		return headers;
	/* Over TLS nobody changes a body on its way, and digests of large ones cost as much as sending them. */
	if (c->len && strcmp(s->scheme, "https") == 0)
		snprintf(digest, sizeof(digest), "UNSIGNED-PAYLOAD");
	else
		sha256_hex(c->body ? c->body : "", c->len, digest);
	headers = add_header(headers, "x-amz-content-sha256", digest);
	if (*keys->session_token)
		headers = add_header(headers, "x-amz-security-token", keys->session_token);
	scope = xasprintf("aws:amz:%s:s3", s->region);
	pair = xasprintf("%s:%s", keys->access_key, keys->secret_key);
	curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, scope);
	curl_easy_setopt(curl, CURLOPT_USERPWD, pair);
	explicit_bzero(pair, strlen(pair));
	free(pair);
	free(scope);
	return headers;
}

static void
limits_set(CURL *curl, const struct storage *s)
{
	long stalled = (long)(s->timeout / US_PER_S / 2);

	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, stalled > CONNECT_S ? (long)CONNECT_S : stalled > 0 ? stalled : 1L);
	/* No limit for a large object that moves; one that does not is given up. */
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, stalled > 0 ? stalled : 1L);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L); /* a key may have dots between its slashes */
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	if (s->ca)
		curl_easy_setopt(curl, CURLOPT_CAINFO, s->ca);
}

static CURLcode
try_once(struct storage *s, struct s3_call *c, const struct storage_keys *keys, const char *url, char why[CURL_ERROR_SIZE])
{
	CURL *curl = curl_take(s);
	struct curl_slist *headers = NULL;
	curl_off_t length = -1;
	CURLcode code;

	buf_clear(&c->answer);
	c->status = 0;
	c->etag[0] = c->bucket_region[0] = why[0] = '\0';
	curl_easy_setopt(curl, CURLOPT_URL, url);
	limits_set(curl, s);
	if (strcmp(c->method, "HEAD") == 0) {
		curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
	} else if (c->body || strcmp(c->method, "PUT") == 0 || strcmp(c->method, "POST") == 0) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, c->body ? c->body : "");
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->len);
		headers = curl_slist_append(headers, "Content-Type: application/octet-stream");
		/* A header taken away ("Expect:") would be signed all the same; so the store may be asked first. */
		curl_easy_setopt(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, EXPECT_MS);
	}
	if (strcmp(c->method, "HEAD") != 0)
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, c->method);
	for (size_t i = 0; i < S3_HEADERS && c->headers[i]; i++)
		headers = curl_slist_append(headers, c->headers[i]);
	headers = signature_set(curl, s, c, keys, headers);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_answer_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_answer_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, c);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	code = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &c->status);
	curl_easy_getinfo(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	c->length = length;
	curl_slist_free_all(headers);
	curl_give(s, curl);
	return code;
}

/* ---- what went wrong ---- */

static const struct {
	const char *code; /* of the store, or how the engine tells an answer without one */
	int err;
	bool again; /* it may be better in a moment */
	const char *advice;
} meanings[] = {
	{ "AccessDenied", ERR_FORBIDDEN, false, "these keys may not do this; check the keys, and the policy of the bucket" },
	{ "AuthorizationHeaderMalformed", ERR_FORBIDDEN, false, "check s3.region" },
	{ "EntityTooLarge", ERR_TOO_LARGE, false, "the store takes no object of this size" },
	{ "ExpiredToken", ERR_FORBIDDEN, false, "the session token has ended; get new keys" },
	{ "HTTP 500", ERR_UNAVAILABLE, true, "the store is in trouble, as its own log may tell" },
	{ "InternalError", ERR_UNAVAILABLE, true, "the store is in trouble, as its own log may tell" },
	{ "InvalidAccessKeyId", ERR_FORBIDDEN, false,
	  "the store does not know this access key; "
	  "check s3.access_key, or AWS_ACCESS_KEY_ID" },
	{ "InvalidBucketName", ERR_INVALID, false, "a bucket's name has 3 to 63 small letters, digits, dots and dashes" },
	{ "ExpiredTokenException", ERR_FORBIDDEN, false, "the token in AWS_WEB_IDENTITY_TOKEN_FILE has ended; renew it" },
	{ "InvalidIdentityToken", ERR_FORBIDDEN, false, "the token in AWS_WEB_IDENTITY_TOKEN_FILE is not accepted; renew it" },
	{ "InvalidToken", ERR_FORBIDDEN, false, "the session token is none of this store; get new keys" },
	{ "KeyTooLongError", ERR_INVALID, false, "a key has at most 1024 bytes" },
	{ "NoSuchBucket", ERR_NOT_FOUND, false, "make the bucket, or correct its name" },
	{ "NoSuchKey", ERR_NOT_FOUND, false, NULL },
	{ "OperationAborted", ERR_UNAVAILABLE, true, "something else changes the same object" },
	{ "PermanentRedirect", ERR_INVALID, false, "the bucket lies in another region; set s3.region" },
	{ "PreconditionFailed", ERR_CONFLICT, false, "there is such an object already" },
	{ "QuotaExceeded", ERR_IO, false, "the bucket is full" },
	{ "RequestTimeTooSkewed", ERR_FORBIDDEN, false,
	  "the clocks of this machine and of the store differ too much; "
	  "set this machine's clock" },
	{ "RequestTimeout", ERR_UNAVAILABLE, true, "the store waited too long for the request" },
	{ "ServiceUnavailable", ERR_UNAVAILABLE, true, "the store is overloaded" },
	{ "SignatureDoesNotMatch", ERR_FORBIDDEN, false,
	  "the secret key does not belong to the access key; "
	  "check s3.secret_key, or AWS_SECRET_ACCESS_KEY" },
	{ "SlowDown", ERR_UNAVAILABLE, true, "the store is overloaded" },
	{ "SlowDownRead", ERR_UNAVAILABLE, true, "the store is overloaded" },
	{ "SlowDownWrite", ERR_UNAVAILABLE, true, "the store is overloaded" },
	{ "XMinioStorageFull", ERR_IO, false, "the store's disk is full" },
	{ "InsufficientStorage", ERR_IO, false, "the store's disk is full" },
};

const char *
storage_advice(const char *text)
{
	for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++)
		if (strstr(text, meanings[i].code))
			return meanings[i].advice;
	return NULL;
}

/* What to think of a status without a code, as answers to HEAD are. */
static int
status_err(long status)
{
	switch (status) {
	case 401:
	case 403:
		return ERR_FORBIDDEN;
	case 404:
		return ERR_NOT_FOUND;
	case 409:
	case 412:
		return ERR_CONFLICT;
	case 507:
		return ERR_IO;
	}
	return status >= 500 || status == 429 ? ERR_UNAVAILABLE : ERR_IO;
}

static bool
status_again(long status)
{
	return status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

/* Explains the store's answer; true if it may be better in a moment. */
static bool
explain_answer(const struct storage *s, const struct s3_call *c, struct err *e)
{
	char *code = xml_text(c->answer.s, c->answer.s + c->answer.len, "Code");
	char *message = xml_text(c->answer.s, c->answer.s + c->answer.len, "Message");
	int err = status_err(c->status);
	bool again = status_again(c->status);
	const char *advice = NULL;

	for (size_t i = 0; code && i < sizeof(meanings) / sizeof(meanings[0]); i++)
		if (strcmp(meanings[i].code, code) == 0) {
			err = meanings[i].err;
			again = meanings[i].again;
			advice = meanings[i].advice;
		}
	if (c->bucket_region[0] && strcmp(c->bucket_region, s->region) != 0)
		err_set(e, ERR_INVALID, "the bucket lies in region %s and s3.region is %s: set s3.region: %s", c->bucket_region,
			s->region, c->bucket_region);
	else
		err_set(e, err, "%s%s answers %ld%s%s%s%s%s%s%s", c->url ? "" : "the store at ", c->url ? "it" : s->endpoint,
			c->status, code ? " " : "", code ? code : "", message && *message ? " (" : "",
			message && *message ? message : "", message && *message ? ")" : "", advice ? ": " : "",
			advice ? advice : "");
	free(code);
	free(message);
	return again;
}

static bool
explain_silence(const struct storage *s, const struct s3_call *c, CURLcode code, const char *why, struct err *e)
{
	const char *said = why[0] ? why : curl_easy_strerror(code);

	if (c->answer.overflow) {
		err_set(e, ERR_TOO_LARGE, "it is larger than %zu bytes, which is more than is read of such a file",
			c->answer.max);
		return false;
	}
	if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
		err_set(e, ERR_FORBIDDEN,
			"the certificate of %s is not trusted: %s; name the file of the certificate that vouches for it in "
			"s3.ca, or "
			"in AWS_CA_BUNDLE",
			c->url ? "this address" : s->endpoint, said);
		return false;
	}
	err_set(e, ERR_UNAVAILABLE, "%s%s does not answer: %s; check %s, and that it runs", c->url ? "" : "the store at ",
		c->url ? "it" : s->endpoint, said, c->url ? "AWS_ENDPOINT_URL_STS" : "s3.endpoint");
	return code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_GOT_NOTHING ||
	       code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_PARTIAL_FILE ||
	       code == CURLE_OPERATION_TIMEDOUT;
}

/* Twice as long each time, and anything between half of it and all of it, so that many do not come back at once. */
static dur_us
pause_before(unsigned tries)
{
	dur_us pause = PAUSE_FIRST << tries;
	uint32_t dice = 0;

	if (pause > PAUSE_MAX)
		pause = PAUSE_MAX;
	if (getrandom(&dice, sizeof(dice), 0) < 0)
		dice = 0;
	return pause / 2 + (dur_us)(dice % (uint64_t)(pause / 2));
}

static void
sleep_us(dur_us pause)
{
	struct timespec t = { .tv_sec = pause / US_PER_S, .tv_nsec = pause % US_PER_S * 1000 };

	while (nanosleep(&t, &t) < 0)
		;
}

/* An answer of 200 may hold an error all the same: the store had begun to answer before it knew. */
static bool
answer_good(const struct s3_call *c)
{
	const char *begin, *end, *from = c->answer.s, *to = from + c->answer.len;

	if (c->status < 200 || c->status >= 300)
		return false;
	/* That of a removal lists errors of single keys. */
	return strcmp(c->method, "POST") != 0 || xml_find(from, to, "DeleteResult", &begin, &end) ||
	       !xml_find(from, to, "Error", &begin, &end);
}

int
s3_call(struct storage *s, struct s3_call *c, struct err *e)
{
	mono_us give_up = clock_mono() + s->timeout;
	struct storage_keys keys = { 0 };
	struct buf url = BUF_INIT;
	struct err why = ERR_INIT;
	char said[CURL_ERROR_SIZE];
	int rc = 0;

	if (c->url)
		buf_adds(&url, c->url);
	else
		add_address(&url, s, c);
	for (c->tries = 1;; c->tries++) {
		dur_us pause = pause_before(c->tries - 1);
		CURLcode code;
		bool again;

		if (c->url == NULL && (rc = storage_keys(s, &keys, &why)) < 0)
			break;
		code = try_once(s, c, &keys, url.s, said);
		storage_keys_release(&keys);
		if (code == CURLE_OK && answer_good(c)) {
			rc = 0;
			break;
		}
		again = code == CURLE_OK ? explain_answer(s, c, &why) : explain_silence(s, c, code, said, &why);
		rc = why.code;
		if (!again || c->tries == TRIES_MAX || clock_mono() + pause >= give_up)
			break;
		sleep_us(pause);
	}
	if (rc < 0)
		err_move(e, &why);
	err_release(&why);
	buf_release(&url);
	return rc;
}

void
s3_call_release(struct s3_call *c)
{
	buf_release(&c->answer);
}
