/* Settings, and the keys that sign requests: given, from the environment, or lent to a role. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "storage/storage_int.h"

#define TIMEOUT_DEFAULT (60 * US_PER_S)
#define STS_MAX         (1u << 20)

/* A setting, else the environment's variable; NULL when neither says anything. */
static const char *
setting(const json_t *s3, const char *name, const char *variable)
{
	const char *v = json_string_value(json_object_get(s3, name));

	if (v && *v)
		return v;
	v = variable ? getenv(variable) : NULL;
	return v && *v ? v : NULL;
}

/* A host that has no room for a bucket's name before it: an address, or a name without dots. */
static bool
host_is_bare(const char *host)
{
	size_t n = strcspn(host, ":");

	return *host == '[' || strspn(host, "0123456789.") == n || memchr(host, '.', n) == NULL;
}

static int
endpoint_set(struct storage *s, const char *endpoint, struct err *e)
{
	const char *host = strstr(endpoint, "://");
	size_t n;

	s->scheme = host ? xstrndup(endpoint, (size_t)(host - endpoint)) : xstrdup("https");
	host = host ? host + 3 : endpoint;
	for (n = strlen(host); n && host[n - 1] == '/';)
		n--;
	if (n == 0 || memchr(host, '/', n) || memchr(host, '@', n) ||
	    (strcmp(s->scheme, "http") != 0 && strcmp(s->scheme, "https") != 0))
		return err_set(e, ERR_INVALID,
			       "the object store's endpoint \"%s\" must be http://HOST, https://HOST, or HOST alone, with a port "
			       "where it has one",
			       endpoint);
	s->host = xstrndup(host, n);
	s->endpoint = xasprintf("%s://%s", s->scheme, s->host);
	s->path_style = s->path_style || host_is_bare(s->host);
	return 0;
}

static int
keys_set(struct storage *s, const json_t *s3, struct err *e)
{
	/* A pair belongs together: never one of the settings with one of the environment. */
	bool given = setting(s3, "access_key", NULL) || setting(s3, "secret_key", NULL);
	bool role = !given && setting(s3, "role_arn", NULL);
	const char *access = role ? NULL : setting(s3, "access_key", given ? NULL : "AWS_ACCESS_KEY_ID");
	const char *secret = role ? NULL : setting(s3, "secret_key", given ? NULL : "AWS_SECRET_ACCESS_KEY");
	const char *token = role ? NULL : setting(s3, "session_token", given ? NULL : "AWS_SESSION_TOKEN");
	const char *arn = setting(s3, "role_arn", "AWS_ROLE_ARN");
	const char *file = setting(s3, "token_file", "AWS_WEB_IDENTITY_TOKEN_FILE");

	if (!access != !secret)
		return err_set(e, ERR_INVALID, "the object store's %s key is given without the %s key: give both, or none",
			       access ? "access" : "secret", access ? "secret" : "access");
	s->keys.access_key = xstrdup(access ? access : "");
	s->keys.secret_key = xstrdup(secret ? secret : "");
	s->keys.session_token = xstrdup(access && token ? token : "");
	if (access == NULL && arn && file) {
		const char *sts = setting(s3, "sts_endpoint", "AWS_ENDPOINT_URL_STS");

		s->role_arn = xstrdup(arn);
		s->token_file = xstrdup(file);
		s->sts = sts ? xstrdup(sts) : xasprintf("https://sts.%s.amazonaws.com", s->region);
	}
	return 0;
}

struct storage *
storage_new(const json_t *s3, struct err *e)
{
	struct storage *s = xcalloc(1, sizeof(*s));
	const char *region = setting(s3, "region", "AWS_REGION"), *endpoint = setting(s3, "endpoint", "AWS_ENDPOINT_URL_S3");
	const char *ca = setting(s3, "ca", "AWS_CA_BUNDLE");
	json_t *timeout = json_object_get(s3, "timeout");
	char *aws = NULL;
	int rc;

	curl_global_init(CURL_GLOBAL_ALL);
	pthread_mutex_init(&s->fetch_lock, NULL);
	pthread_mutex_init(&s->keys_lock, NULL);
	pthread_mutex_init(&s->idle_lock, NULL);
	if (region == NULL)
		region = setting(NULL, "", "AWS_DEFAULT_REGION");
	if (endpoint == NULL)
		endpoint = setting(NULL, "", "AWS_ENDPOINT_URL");
	s->region = xstrdup(region ? region : "us-east-1");
	s->path_style = json_is_true(json_object_get(s3, "path_style"));
	s->timeout = json_is_integer(timeout) ? (dur_us)json_integer_value(timeout) : TIMEOUT_DEFAULT;
	if (endpoint == NULL)
		endpoint = aws = xasprintf("https://s3.%s.amazonaws.com", s->region);
	if (ca == NULL)
		ca = setting(NULL, "", "SSL_CERT_FILE");
	s->ca = xstrdup_null(ca);
	rc = endpoint_set(s, endpoint, e);
	free(aws);
	if (rc < 0 || keys_set(s, s3, e) < 0) {
		storage_free(s);
		return NULL;
	}
	return s;
}

void
storage_free(struct storage *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->idle_count; i++)
		curl_easy_cleanup(s->idle[i]);
	storage_keys_release(&s->keys);
	pthread_mutex_destroy(&s->fetch_lock);
	pthread_mutex_destroy(&s->keys_lock);
	pthread_mutex_destroy(&s->idle_lock);
	free(s->scheme);
	free(s->host);
	free(s->endpoint);
	free(s->region);
	free(s->ca);
	free(s->role_arn);
	free(s->token_file);
	free(s->sts);
	free(s);
}

json_t *
storage_settings(const struct storage *s)
{
	json_t *j = json_pack("{s:s,s:s,s:b,s:I}", "endpoint", s->endpoint, "region", s->region, "path_style", s->path_style,
			      "timeout", (json_int_t)s->timeout);

	if (s->ca)
		json_object_set_new(j, "ca", json_string(s->ca));
	if (s->role_arn) {
		json_object_set_new(j, "role_arn", json_string(s->role_arn));
		json_object_set_new(j, "token_file", json_string(s->token_file));
		json_object_set_new(j, "sts_endpoint", json_string(s->sts));
	} else if (*s->keys.access_key) {
		json_object_set_new(j, "access_key", json_string(s->keys.access_key));
		json_object_set_new(j, "secret_key", json_string(s->keys.secret_key));
		if (*s->keys.session_token)
			json_object_set_new(j, "session_token", json_string(s->keys.session_token));
	}
	return j;
}

const char *
storage_endpoint(const struct storage *s)
{
	return s->endpoint;
}

const char *
storage_region(const struct storage *s)
{
	return s->region;
}

bool
storage_path_style(const struct storage *s)
{
	return s->path_style;
}

const char *
storage_ca(const struct storage *s)
{
	return s->ca;
}

dur_us
storage_timeout(const struct storage *s)
{
	return s->timeout;
}

void
keys_copy(struct storage_keys *to, const struct storage_keys *from)
{
	to->access_key = xstrdup(from->access_key);
	to->secret_key = xstrdup(from->secret_key);
	to->session_token = xstrdup(from->session_token);
	to->expires = from->expires;
}

static void
free_secret(char *s)
{
	if (s)
		explicit_bzero(s, strlen(s));
	free(s);
}

void
storage_keys_release(struct storage_keys *k)
{
	free(k->access_key);
	free_secret(k->secret_key);
	free_secret(k->session_token);
	memset(k, 0, sizeof(*k));
}

/* The keys of an answer of AssumeRoleWithWebIdentity; false when it holds none. */
static bool
keys_take(struct storage_keys *k, const struct buf *answer)
{
	const char *from, *to;
	char *expires;
	bool good;

	if (!xml_find(answer->s, answer->s + answer->len, "Credentials", &from, &to))
		return false;
	k->access_key = xml_text(from, to, "AccessKeyId");
	k->secret_key = xml_text(from, to, "SecretAccessKey");
	k->session_token = xml_text(from, to, "SessionToken");
	expires = xml_text(from, to, "Expiration");
	good = k->access_key && k->secret_key && k->session_token && expires && time_parse(expires, &k->expires) == 0;
	if (!good)
		storage_keys_release(k);
	free(expires);
	return good;
}

/* Shows the token of the file and gets the role's keys. */
static int
keys_fetch(struct storage *s, struct storage_keys *k, struct err *e)
{
	struct buf token = BUF_INIT_MAX(STS_MAX), url = BUF_INIT;
	struct s3_call call = { .method = "GET", .answer = BUF_INIT_MAX(STS_MAX) };
	int rc = buf_add_file(&token, s->token_file);

	if (rc < 0)
		rc = err_set(e, ERR_IO, "the web identity token %s cannot be read: %s", s->token_file, strerror(-rc));
	while (token.len && strchr("\r\n ", token.s[token.len - 1]))
		token.s[--token.len] = '\0';
	if (rc == 0) {
		buf_addf(&url, "%s/?Action=AssumeRoleWithWebIdentity&RoleArn=", s->sts);
		s3_add_encoded(&url, s->role_arn, false);
		buf_adds(&url, "&RoleSessionName=sluice&Version=2011-06-15&WebIdentityToken=");
		s3_add_encoded(&url, token.s, false);
		call.url = url.s;
		rc = s3_call(s, &call, e);
		if (rc == 0 && !keys_take(k, &call.answer))
			rc = err_set(e, ERR_UNAVAILABLE, "the answer holds no credentials");
	}
	if (rc < 0)
		err_prefix(e, "keys of the role %s from %s", s->role_arn, s->sts);
	s3_call_release(&call);
	buf_release(&url);
	buf_release(&token);
	return rc;
}

bool
storage_keys_now(struct storage *s, dur_us left, struct storage_keys *out)
{
	bool good;

	pthread_mutex_lock(&s->keys_lock);
	good = s->role_arn == NULL || s->keys.expires > clock_wall() + left;
	if (good)
		keys_copy(out, &s->keys);
	pthread_mutex_unlock(&s->keys_lock);
	return good;
}

int
storage_keys(struct storage *s, struct storage_keys *out, struct err *e)
{
	struct storage_keys new = { 0 };
	struct err why = ERR_INIT;
	int rc = 0;

	if (storage_keys_now(s, STORAGE_KEYS_EARLY, out))
		return 0;
	pthread_mutex_lock(&s->fetch_lock);
	if (storage_keys_now(s, STORAGE_KEYS_EARLY, out)) { /* another thread has fetched some meanwhile */
		pthread_mutex_unlock(&s->fetch_lock);
		return 0;
	}
	rc = keys_fetch(s, &new, &why);
	if (rc == 0) {
		pthread_mutex_lock(&s->keys_lock);
		storage_keys_release(&s->keys);
		s->keys = new;
		keys_copy(out, &new);
		pthread_mutex_unlock(&s->keys_lock);
	} else if (storage_keys_now(s, 0, out)) { /* those at hand are still good */
		rc = 0;
	}
	pthread_mutex_unlock(&s->fetch_lock);
	if (rc < 0)
		return err_move(e, &why);
	err_release(&why);
	return 0;
}
