#include "tasks/web.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/mask.h"
#include "tasks/rate.h"
#include "tasks/spent.h"

#define REDIRECTS_MAX 10
#define CONNECT_MAX   (10 * US_PER_S)
#define EXCERPT       200
#define SAY_FROM      (500 * US_PER_MS) /* shorter waits for the rate are told once */

struct web {
	struct web_settings set;
	struct mask *mask;
	struct rate rate;
	struct web_counts counts;
	CURL *curl;
	bool rate_told;
};

/* One try of a request, with the hops that redirects ask for. */
struct
try {
	struct web *w;
	const struct web_request *r;
	struct web_answer *a;
	char *url; /* of this hop */
	const char *method;
	bool bare; /* the body was left behind by a redirect */
	CURLcode code;
	long status;
	curl_off_t retry_after; /* seconds; 0: not said */
	bool too_large;
	size_t json_at; /* where the answer stops being JSON */
	bool json;
	char type[128], why[CURL_ERROR_SIZE];
};

/* ---- addresses ---- */

/* Scheme, host and port in one text; NULL when it is no address. The caller frees it. */
static char *
host_of(const char *url)
{
	CURLU *u = curl_url();
	char *scheme = NULL, *host = NULL, *port = NULL, *out = NULL;

	if (curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
	    curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
	    curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK)
		out = xasprintf("%s://%s:%s", scheme, host, port);
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_url_cleanup(u);
	return out;
}

bool
web_same_host(const char *a, const char *b)
{
	char *one = host_of(a), *other = host_of(b);
	bool same = one && other && strcasecmp(one, other) == 0;

	free(one);
	free(other);
	return same;
}

char *
web_resolve(const char *base, const char *address)
{
	CURLU *u = curl_url();
	char *url = NULL, *out = NULL;

	if (curl_url_set(u, CURLUPART_URL, base, 0) == CURLUE_OK && curl_url_set(u, CURLUPART_URL, address, 0) == CURLUE_OK &&
	    curl_url_get(u, CURLUPART_URL, &url, 0) == CURLUE_OK &&
	    (strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0))
		out = xstrdup(url);
	curl_free(url);
	curl_url_cleanup(u);
	return out;
}

/* The parameter's place in the query and its length with the & behind it; NULL: it is not there. */
static const char *
find_param(const char *url, const char *encoded, size_t *len)
{
	const char *p = strchr(url, '?');
	size_t n = strlen(encoded);

	for (p = p ? p + 1 : NULL; p && *p && *p != '#'; p += *len) {
		*len = strcspn(p, "&#");
		if (*len >= n && strncmp(p, encoded, n) == 0 && (*len == n || p[n] == '=')) {
			*len += p[*len] == '&';
			return p;
		}
		*len += p[*len] == '&';
	}
	return NULL;
}

bool
web_has_param(const char *url, const char *name)
{
	struct buf encoded = BUF_INIT;
	size_t len;
	bool found;

	buf_add_encoded(&encoded, name, "");
	found = find_param(url, encoded.s, &len) != NULL;
	buf_release(&encoded);
	return found;
}

char *
web_with_param(const char *url, const char *name, const char *value, bool replace)
{
	struct buf encoded = BUF_INIT, out = BUF_INIT;
	const char *at;
	size_t len, n;

	buf_add_encoded(&encoded, name, "");
	buf_add(&out, url, strcspn(url, "#"));
	while (replace && (at = find_param(out.s, encoded.s, &len)) != NULL) {
		char *rest = xstrdup(at + len);

		out.len = (size_t)(at - out.s);
		out.s[out.len] = '\0';
		buf_adds(&out, rest);
		free(rest);
	}
	n = out.len;
	if (strchr(out.s, '?') == NULL)
		buf_addc(&out, '?');
	else if (out.s[n - 1] != '?' && out.s[n - 1] != '&')
		buf_addc(&out, '&');
	buf_addf(&out, "%s=", encoded.s);
	buf_add_encoded(&out, value, "");
	buf_release(&encoded);
	return buf_detach(&out);
}

/* ---- what may be told ---- */

static void
hide(struct mask *m, const char *secret)
{
	struct buf b = BUF_INIT;

	mask_add(m, secret);
	buf_add_encoded(&b, secret, "");
	if (strcmp(b.s, secret) != 0)
		mask_add(m, b.s);
	buf_release(&b);
}

char *
web_hidden(struct web *w, const char *text)
{
	return mask_text(w->mask, text);
}

/* The first bytes of the answer, for an error; the caller frees it. */
static char *
excerpt(const struct try *t)
{
	struct buf b = BUF_INIT;
	size_t n = t->a->body.len < EXCERPT ? t->a->body.len : EXCERPT;
	char *hidden, *text;

	/* A secret that is cut off at the end would not be known any more: so hide first. */
	text = xstrndup(t->a->body.s, strlen(t->a->body.s) < 4096 ? strlen(t->a->body.s) : 4096);
	hidden = web_hidden(t->w, text);
	if (strlen(t->a->body.s) < n) { /* a zero byte: this is no text */
		buf_add_visible(&b, t->a->body.s, n < 60 ? n : 60);
	} else {
		size_t len = 0;

		utf8_clean(hidden, strlen(hidden) < EXCERPT ? strlen(hidden) : EXCERPT, true, &b);
		for (size_t i = 0; i < b.len; i++) { /* in one line, blanks once */
			char c = b.s[i] == '\n' || b.s[i] == '\r' || b.s[i] == '\t' ? ' ' : b.s[i];

			if (c != ' ' || (len && b.s[len - 1] != ' '))
				b.s[len++] = c;
		}
		b.len = len;
		b.s[len] = '\0';
		if (strlen(hidden) > EXCERPT)
			buf_adds(&b, "…");
	}
	free(text);
	free(hidden);
	return buf_detach(&b);
}

/* ---- waiting ---- */

static void
pause_for(struct web *w, dur_us pause)
{
	struct timespec t = { .tv_sec = pause / US_PER_S, .tv_nsec = pause % US_PER_S * 1000 };

	w->counts.waited += pause;
	nanosleep(&t, NULL);
}

static void
wait_for_rate(struct web *w)
{
	dur_us wait;

	while ((wait = rate_wait(&w->rate, clock_mono())) > 0) {
		if (wait >= SAY_FROM || !w->rate_told)
			printf("rate_limit %lld/%.3gs: waiting %.1f s\n", (long long)w->set.rate,
			       (double)w->set.rate_per / US_PER_S, (double)wait / US_PER_S);
		w->rate_told = true;
		pause_for(w, wait);
	}
}

/* ---- one hop ---- */

static size_t
on_answer_bytes(char *data, size_t size, size_t n, void *arg)
{
	struct try *t = arg;

	if (buf_add(&t->a->body, data, size * n) < 0) {
		t->too_large = true;
		return 0;
	}
	return size * n;
}

/* The address of rel="next" in a header Link: <https://…>; rel="next", <…>; rel="last". The caller frees it. */
static char *
link_next(const char *value)
{
	for (const char *p = strchr(value, '<'); p; p = strchr(p, '<')) {
		const char *end = strchr(p, '>'), *until;
		char *params;
		bool next;

		if (end == NULL)
			return NULL;
		until = strchr(end, '<');
		params = xstrndup(end, until ? (size_t)(until - end) : strlen(end));
		next = strcasestr(params, "rel=\"next\"") || strcasestr(params, "rel=next");
		free(params);
		if (next)
			return xstrndup(p + 1, (size_t)(end - p - 1));
		p = end;
	}
	return NULL;
}

static size_t
on_answer_header(char *line, size_t size, size_t n, void *arg)
{
	struct try *t = arg;
	size_t len = size * n;

	if (len > 5 && strncasecmp(line, "Link:", 5) == 0 && t->a->next == NULL) {
		char *value = xstrndup(line + 5, len - 5);

		t->a->next = link_next(value);
		free(value);
	}
	return len;
}

struct curl_slist *
web_header(struct curl_slist *list, const char *name, const char *value)
{
	char *line = *value ? xasprintf("%s: %s", name, value) : xasprintf("%s;", name); /* as curl wants it */

	list = curl_slist_append(list, line);
	explicit_bzero(line, strlen(line));
	free(line);
	return list;
}

static bool
has_header(const struct web_request *r, const char *wanted)
{
	const char *name;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)r->headers, name, value)
		if (strcasecmp(name, wanted) == 0)
			return true;
	return false;
}

static struct curl_slist *
hop_headers(const struct try *t)
{
	bool home = web_same_host(t->url, t->r->home);
	struct curl_slist *list = curl_slist_append(NULL, "Expect:");
	const char *name;
	json_t *value;

	if (!has_header(t->r, "Accept"))
		list = web_header(list, "Accept", "application/json");
	if (!has_header(t->r, "User-Agent"))
		list = web_header(list, "User-Agent", "sluice/" SLUICE_VERSION);
	if (t->r->body && !t->bare && !has_header(t->r, "Content-Type"))
		list = web_header(list, "Content-Type", t->r->type);
	/* Any of them may be what opens the API, whatever its name: elsewhere go those alone that say what is asked for. */
	json_object_foreach ((json_t *)(uintptr_t)t->r->headers, name, value)
		if (home || strncasecmp(name, "Accept", 6) == 0 || strcasecmp(name, "User-Agent") == 0 ||
		    strcasecmp(name, "Content-Type") == 0)
			list = web_header(list, name, json_string_value(value));
	return list;
}

static void
hop_settings(struct try *t, CURL *curl)
{
	dur_us connect = t->w->set.timeout < CONNECT_MAX ? t->w->set.timeout : CONNECT_MAX;
	const char *ca = t->w->set.ca;

	curl_easy_setopt(curl, CURLOPT_URL, t->url);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "");
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(connect / US_PER_MS) + 1);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)(t->w->set.timeout / US_PER_MS) + 1);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_answer_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_answer_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, t->why);
	if (ca)
		curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
	if (t->r->body && !t->bare)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, t->r->body);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, t->method);
}

static void
hop(struct try *t)
{
	CURL *curl = t->w->curl;
	struct curl_slist *headers = hop_headers(t);
	const char *type = NULL;

	buf_clear(&t->a->body);
	t->a->body.overflow = false;
	free(t->a->next);
	t->a->next = NULL;
	t->status = 0;
	t->retry_after = 0;
	t->why[0] = t->type[0] = '\0';
	hop_settings(t, curl);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	wait_for_rate(t->w);
	t->code = curl_easy_perform(curl);
	rate_note(&t->w->rate, clock_mono());
	t->w->counts.requests++;
	t->w->counts.bytes += (int64_t)t->a->body.len;
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &t->status);
	curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &t->retry_after);
	if (curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type) == CURLE_OK && type)
		snprintf(t->type, sizeof(t->type), "%s", type);
}

/* Where a redirect leads; NULL: it is none, or it does not say. The caller frees it. */
static char *
redirect_of(const struct try *t)
{
	char *to = NULL;

	if (t->code != CURLE_OK || t->status < 301 || t->status > 308 || t->status == 304)
		return NULL;
	curl_easy_getinfo(t->w->curl, CURLINFO_REDIRECT_URL, &to);
	return to ? web_resolve(t->url, to) : NULL;
}

/* Asks, and goes where it is sent. Not curl's own way, which would take all headers but Authorization along. */
static void
try_once(struct try *t)
{
	t->method = t->r->method;
	t->bare = t->too_large = false;
	free(t->url);
	t->url = xstrdup(t->r->url);
	for (int hops = 0; hops <= REDIRECTS_MAX; hops++) {
		char *to;

		hop(t);
		to = redirect_of(t);
		curl_easy_reset(t->w->curl); /* what it points to ends here */
		if (to == NULL)
			break;
		if (t->status == 303 || (t->status < 303 && strcmp(t->method, "POST") == 0)) {
			t->method = "GET";
			t->bare = true;
		}
		free(t->url);
		t->url = to;
	}
	t->json = t->code == CURLE_OK && json_text_check(t->a->body.s, t->a->body.len, &t->a->json, &t->json_at) == 0;
}

/* ---- what came of it ---- */

static bool
is_good(const struct try *t)
{
	return t->code == CURLE_OK && t->status >= 200 && t->status < 300 && t->json;
}

/* An answer that ends too early was cut, by whoever stands between us and the API. */
static bool
is_cut(const struct try *t)
{
	return t->code == CURLE_OK && t->status >= 200 && t->status < 300 && !t->json && t->a->body.len > 0 &&
	       t->json_at == t->a->body.len;
}

static bool
may_pass(const struct try *t)
{
	if (t->too_large)
		return false;
	if (t->code == CURLE_OK)
		return is_cut(t) || t->status == 408 || t->status == 425 || t->status == 429 ||
		       (t->status >= 500 && t->status != 501 && t->status != 505);
	return t->code == CURLE_COULDNT_CONNECT || t->code == CURLE_COULDNT_RESOLVE_HOST || t->code == CURLE_GOT_NOTHING ||
	       t->code == CURLE_SEND_ERROR || t->code == CURLE_RECV_ERROR || t->code == CURLE_PARTIAL_FILE ||
	       t->code == CURLE_OPERATION_TIMEDOUT || t->code == CURLE_HTTP2 || t->code == CURLE_HTTP2_STREAM ||
	       t->code == CURLE_SSL_CONNECT_ERROR || t->code == CURLE_BAD_CONTENT_ENCODING;
}

/* Would the next attempt of the task meet the same? */
static bool
is_final(const struct try *t)
{
	if (t->code != CURLE_OK)
		return t->too_large || t->code == CURLE_URL_MALFORMAT || t->code == CURLE_UNSUPPORTED_PROTOCOL;
	return t->status < 500 && t->status >= 300 && !may_pass(t);
}

static const char *
advice(const struct try *t)
{
	switch (t->status) {
	case 401:
		return "it does not know who asks: look at the secret behind headers or params";
	case 403:
		return "it refuses this to the one who asks: look at the secret behind headers or params, and at what it may";
	case 404:
	case 410:
		return "there is nothing at this address: look at the url";
	case 429:
		return "it allows fewer requests: set rate_limit, or more retry.max_attempts";
	case 405:
		return "it wants another method";
	default:
		return t->status >= 500   ? "the trouble is the server's; retry.max_attempts says how often it is asked"
		       : t->status >= 400 ? "it refuses the request: look at url, params and body"
					  : "where it leads is not followed";
	}
}

static const char *
curl_advice(const struct try *t)
{
	switch (t->code) {
	case CURLE_PEER_FAILED_VERIFICATION:
		return "; its certificate is not trusted: source.ca names the file of those that vouch for it";
	case CURLE_SSL_CACERT_BADFILE:
		return "; look at source.ca";
	case CURLE_OPERATION_TIMEDOUT:
		return "; source.timeout says how long a request may take";
	case CURLE_COULDNT_RESOLVE_HOST:
		return "; look at the host in the url, and at the network";
	default:
		return "";
	}
}

/* No JSON where JSON should be. */
static void
fail_json(const struct try *t, const char *what, struct err *e)
{
	char *shown = excerpt(t);
	const char *p = t->a->body.s + strspn(t->a->body.s, " \r\n\t");

	if (t->a->body.len == 0)
		err_set(e, ERR_UNPROCESSABLE, "%s: status %ld with an empty answer, which is no JSON", what, t->status);
	else if (is_cut(t))
		err_set(e, ERR_UNAVAILABLE, "%s: the answer ends in the middle, after %zu bytes", what, t->a->body.len);
	else if (*p == '<')
		err_set(e, ERR_UNPROCESSABLE,
			"%s: status %ld, but the answer is %s, not JSON (a page for people? look at the url, and whether "
			"something "
			"asks to log in); it begins: %s",
			what, t->status, strcasestr(t->type, "xml") && !strcasestr(t->type, "html") ? "XML" : "HTML", shown);
	else
		err_set(e, ERR_UNPROCESSABLE, "%s: status %ld, but the answer is not JSON (%s%sbyte %zu); it begins: %s", what,
			t->status, t->type, *t->type ? ", " : "", t->json_at, shown);
	free(shown);
}

/* After so many tries; 0: it is tried again, so that there is nothing to be done yet. */
static void
fail_try(const struct try *t, int tries, struct err *e)
{
	char *url = web_hidden(t->w, t->url), *why = web_hidden(t->w, t->why),
	     *what = tries > 1 ? xasprintf("%s %s, tried %d times", t->method, url, tries) : xasprintf("%s %s", t->method, url);

	if (t->too_large) {
		err_set(e, ERR_TOO_LARGE,
			"%s: the answer is larger than %.1f MB; ask for smaller pages, or raise source.max_answer", what,
			(double)t->w->set.max_answer / (1 << 20));
	} else if (t->code != CURLE_OK) {
		err_set(e, ERR_UNAVAILABLE, "%s: %s%s", what, *why ? why : curl_easy_strerror(t->code),
			tries ? curl_advice(t) : "");
	} else if (t->status >= 200 && t->status < 300) {
		fail_json(t, what, e);
	} else {
		char *shown = excerpt(t);

		err_set(e, ERR_UNPROCESSABLE, "%s: status %ld%s%s%s%s", what, t->status, tries ? "; " : "",
			tries ? advice(t) : "", t->a->body.len ? "; it says: " : "", shown);
		free(shown);
	}
	free(url);
	free(why);
	free(what);
}

static dur_us
pause_before(const struct try *t, int tries)
{
	const struct web_settings *set = &t->w->set;
	dur_us pause = set->interval;
	uint32_t noise = 0;

	if (t->retry_after > 0)
		return (dur_us)t->retry_after * US_PER_S;
	for (int i = 1; i < tries && pause < set->max_interval; i++)
		pause *= 2;
	if (pause > set->max_interval)
		pause = set->max_interval;
	if (getrandom(&noise, sizeof(noise), 0) != sizeof(noise))
		noise = 0;
	return pause + (dur_us)((double)pause * 0.1 * noise / UINT32_MAX); /* so that many do not come back at once */
}

static void
tell_again(const struct try *t, int tries, dur_us pause)
{
	struct err e = ERR_INIT;

	fail_try(t, 0, &e);
	printf("%s; waiting %.1f s%s before try %d of %d\n", e.msg, (double)pause / US_PER_S,
	       t->retry_after > 0 ? ", as it asks" : "", tries + 1, t->w->set.max_attempts);
	err_release(&e);
}

int
web_ask(struct web *w, const struct web_request *r, struct web_answer *a, bool *final, struct err *e)
{
	struct try t = { .w = w, .r = r, .a = a };
	enum spent part = spent_enter(SPENT_HTTP);
	int tries = 1, rc = 0;

	buf_init(&a->body, w->set.max_answer);
	*final = false;
	for (;; tries++) {
		dur_us pause;

		try_once(&t);
		if (is_good(&t))
			break;
		pause = pause_before(&t, tries);
		if (!may_pass(&t) || tries >= w->set.max_attempts || (t.retry_after > 0 && pause > w->set.max_interval)) {
			fail_try(&t, tries, e);
			if (may_pass(&t) && tries < w->set.max_attempts)
				err_prefix(e, "it asks to wait %.0f s, longer than retry.max_interval, %.0f s",
					   (double)pause / US_PER_S, (double)w->set.max_interval / US_PER_S);
			*final = is_final(&t);
			rc = -1;
			break;
		}
		tell_again(&t, tries, pause);
		w->counts.repeated++;
		pause_for(w, pause);
	}
	spent_leave(part);
	a->url = t.url;
	return rc;
}

void
web_answer_release(struct web_answer *a)
{
	buf_release(&a->body);
	free(a->next);
	free(a->url);
	*a = (struct web_answer){ .body = BUF_INIT };
}

/* ---- life ---- */

struct web *
web_new(const struct web_settings *settings, struct err *e)
{
	struct web *w = xcalloc(1, sizeof(*w));
	json_t *secret;
	size_t i;

	w->set = *settings;
	w->mask = mask_new();
	json_array_foreach ((json_t *)(uintptr_t)settings->hide, i, secret)
		hide(w->mask, json_string_value(secret));
	rate_init(&w->rate, settings->rate, settings->rate_per);
	curl_global_init(CURL_GLOBAL_ALL);
	w->curl = curl_easy_init();
	if (w->curl)
		return w;
	err_set(e, ERR_INTERNAL, "libcurl cannot be used");
	web_free(w);
	return NULL;
}

void
web_free(struct web *w)
{
	if (w == NULL)
		return;
	if (w->curl)
		curl_easy_cleanup(w->curl);
	mask_free(w->mask);
	rate_release(&w->rate);
	free(w);
}

const struct web_counts *
web_counts(const struct web *w)
{
	return &w->counts;
}
