#include "tasks/mongo.h"

#include <dlfcn.h>
#include <mongoc/mongoc.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mask.h"

#define LIBRARY "libmongoc-1.0.so.0"
#define PACKAGE "libmongoc-1.0-0"

/* What is used of the library; called through this table, since it is mapped at run time. */
/* clang-format off */
#define MONGO_API(X)                                                                                                             \
	X(mongoc_init)                                                                                                           \
	X(mongoc_log_set_handler)                                                                                                \
	X(mongoc_uri_new_with_error)                                                                                             \
	X(mongoc_uri_destroy)                                                                                                    \
	X(mongoc_uri_get_hosts)                                                                                                  \
	X(mongoc_uri_get_database)                                                                                               \
	X(mongoc_uri_get_password)                                                                                               \
	X(mongoc_uri_get_write_concern)                                                                                          \
	X(mongoc_uri_set_write_concern)                                                                                          \
	X(mongoc_uri_has_option)                                                                                                 \
	X(mongoc_uri_set_option_as_int32)                                                                                        \
	X(mongoc_uri_set_appname)                                                                                                \
	X(mongoc_write_concern_new)                                                                                              \
	X(mongoc_write_concern_destroy)                                                                                          \
	X(mongoc_write_concern_is_default)                                                                                       \
	X(mongoc_write_concern_set_wmajority)                                                                                    \
	X(mongoc_client_new_from_uri)                                                                                            \
	X(mongoc_client_destroy)                                                                                                 \
	X(mongoc_client_set_error_api)                                                                                           \
	X(mongoc_client_command_simple)                                                                                          \
	X(mongoc_client_get_collection)                                                                                          \
	X(mongoc_collection_destroy)                                                                                             \
	X(mongoc_collection_create_bulk_operation_with_opts)                                                                     \
	X(mongoc_bulk_operation_insert_with_opts)                                                                                \
	X(mongoc_bulk_operation_update_one_with_opts)                                                                            \
	X(mongoc_bulk_operation_execute)                                                                                         \
	X(mongoc_bulk_operation_destroy)                                                                                         \
	X(bson_new_from_json)                                                                                                    \
	X(bson_init_static)                                                                                                      \
	X(bson_as_canonical_extended_json)                                                                                       \
	X(bson_destroy)                                                                                                          \
	X(bson_free)
/* clang-format on */

static struct {
#define X(name) __typeof__(&name) name;
	MONGO_API(X)
#undef X
} api;

struct mongo {
	struct context *cx;
	const char *key; /* where the address stands in the task */
	char *place;
	mongoc_uri_t *uri;
	mongoc_client_t *client;
	bool lost;
};

static int
load_library(struct context *cx)
{
	void *library;

	if (api.mongoc_init)
		return 0;
	/* Its counters, made as it is loaded, would stay in /dev/shm: an attempt ends without the clean-up that removes them. */
	setenv("MONGOC_DISABLE_SHM", "1", 1);
	library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) {
		cx->final = true;
		return task_fail(
			cx, ERR_UNAVAILABLE,
			"MongoDB's C library is not there (%s); install it on the daemon's machine, on Debian with: apt-get "
			"install " PACKAGE,
			dlerror());
	}
#define X(name)                                                                                                                  \
	*(void **)&api.name = dlsym(library, #name);                                                                             \
	if (api.name == NULL)                                                                                                    \
		return task_fail(cx, ERR_UNAVAILABLE, LIBRARY " has no " #name "; it needs version 1.23 or a later 1.x");
	MONGO_API(X)
#undef X
	api.mongoc_init();
	api.mongoc_log_set_handler(NULL, NULL); /* what matters comes back as errors */
	return 0;
}

/* ---- errors ---- */

bool
mongo_code_passes(int code)
{
	/* The server stops, steps down, is too busy or was interrupted; the network between its parts. */
	static const int codes[] = { 6,   7,   24,  46,  50,  63,    64,    75,    79,    89,    91,    112,  133,
				     150, 189, 202, 234, 262, 10107, 11600, 11602, 13435, 13436, 14031, 9001, 384 };

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i] == code)
			return true;
	return false;
}

/* Would another attempt fail alike? */
static bool
for_good(const bson_error_t *e)
{
	switch (e->domain) {
	case MONGOC_ERROR_SERVER:
	case MONGOC_ERROR_WRITE_CONCERN:
		return !mongo_code_passes((int)e->code);
	case MONGOC_ERROR_STREAM:
	case MONGOC_ERROR_SERVER_SELECTION:
	case MONGOC_ERROR_PROTOCOL:
		return strstr(e->message, "certificate verify failed") != NULL;
	default:
		return true;
	}
}

static int
fail(struct mongo *m, const bson_error_t *e)
{
	m->lost = e->domain == MONGOC_ERROR_STREAM || e->domain == MONGOC_ERROR_SERVER_SELECTION ||
		  e->domain == MONGOC_ERROR_PROTOCOL;
	m->cx->final = for_good(e);
	return task_fail_at(m->cx, m->key, "%s: %s", m->place, e->message);
}

bool
mongo_lost(const struct mongo *m)
{
	return m->lost;
}

/* ---- the connection ---- */

/* The whole address, and its password as it stands there and as it is meant; also those among its options. */
static void
hide(struct context *cx, const char *uri)
{
	const char *at = strrchr(uri, '@'), *colon = strstr(uri, "://"), *option = uri;

	if (cx->hidden == NULL)
		cx->hidden = mask_new();
	mask_add(cx->hidden, uri);
	if (at && colon && (colon = strchr(colon + 3, ':')) && colon < at) {
		char *coded = xstrndup(colon + 1, (size_t)(at - colon - 1));

		mask_add(cx->hidden, coded);
		free(coded);
	}
	while ((option = strcasestr(option, "password=")) != NULL) {
		char *value;

		option += strlen("password=");
		value = xstrndup(option, strcspn(option, "&"));
		mask_add(cx->hidden, value);
		free(value);
	}
}

static char *
place_of(const mongoc_uri_t *uri)
{
	const mongoc_host_list_t *host = api.mongoc_uri_get_hosts(uri);
	struct buf b = BUF_INIT;

	buf_adds(&b, "MongoDB at ");
	for (const mongoc_host_list_t *h = host; h; h = h->next)
		buf_addf(&b, "%s%s", h == host ? "" : ",", h->host_and_port);
	if (host == NULL)
		buf_adds(&b, "the hosts of its mongodb+srv address");
	return buf_detach(&b);
}

/* How long one waits for a server that does not answer, that what is written stays when a replica set changes its head, and who
 * we are in its lists; where the address says nothing else. */
static void
add_habits(struct context *cx, mongoc_uri_t *uri)
{
	char *name = xasprintf("sluice %.40s %.60s", doc_text(cx, "run_id"), doc_text(cx, "task_id"));

	if (!api.mongoc_uri_has_option(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS))
		api.mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, 10000);
	if (!api.mongoc_uri_has_option(uri, MONGOC_URI_APPNAME))
		api.mongoc_uri_set_appname(uri, name);
	if (api.mongoc_write_concern_is_default(api.mongoc_uri_get_write_concern(uri))) {
		mongoc_write_concern_t *majority = api.mongoc_write_concern_new();

		api.mongoc_write_concern_set_wmajority(majority, 60000);
		api.mongoc_uri_set_write_concern(uri, majority);
		api.mongoc_write_concern_destroy(majority);
	}
	free(name);
}

int
mongo_open(struct context *cx, const char *key, const char *uri, struct mongo **out)
{
	struct mongo *m;
	bson_error_t e;
	json_t *command, *answer;

	*out = NULL;
	hide(cx, uri);
	if (load_library(cx) < 0)
		return -1;
	*out = m = xcalloc(1, sizeof(*m));
	m->cx = cx;
	m->key = key;
	m->uri = api.mongoc_uri_new_with_error(uri, &e);
	if (m->uri == NULL) {
		cx->final = true;
		return task_fail_at(cx, key, "%s is no address such as mongodb://user:password@host:27017/database: %s", key,
				    e.message);
	}
	if (api.mongoc_uri_get_password(m->uri))
		mask_add(cx->hidden, api.mongoc_uri_get_password(m->uri));
	m->place = place_of(m->uri);
	add_habits(cx, m->uri);
	m->client = api.mongoc_client_new_from_uri(m->uri);
	if (m->client == NULL) {
		cx->final = true;
		return task_fail_at(cx, key, "%s: the address asks for what " LIBRARY " was not built with", m->place);
	}
	api.mongoc_client_set_error_api(m->client, MONGOC_ERROR_API_VERSION_2);
	command = json_pack("{s:i}", "ping", 1);
	answer = mongo_command(m, "admin", command);
	json_decref(command);
	json_decref(answer);
	return answer ? 0 : -1;
}

void
mongo_free(struct mongo *m)
{
	if (m == NULL)
		return;
	if (m->client)
		api.mongoc_client_destroy(m->client);
	if (m->uri)
		api.mongoc_uri_destroy(m->uri);
	free(m->place);
	free(m);
}

const char *
mongo_place(const struct mongo *m)
{
	return m->place;
}

const char *
mongo_database(const struct mongo *m)
{
	return api.mongoc_uri_get_database(m->uri);
}

/* ---- what is asked ---- */

static json_t *
as_json(const bson_t *b)
{
	char *text = api.bson_as_canonical_extended_json(b, NULL);
	json_t *out = json_loads(text ? text : "{}", 0, NULL);

	api.bson_free(text);
	return out ? out : json_object();
}

json_t *
mongo_command(struct mongo *m, const char *database, const json_t *command)
{
	char *text = json_dumps(command, JSON_COMPACT);
	bson_error_t e;
	bson_t *b = api.bson_new_from_json((const uint8_t *)text, -1, &e), reply;
	json_t *out = NULL;

	free(text);
	if (b == NULL) {
		fail(m, &e);
		return NULL;
	}
	if (api.mongoc_client_command_simple(m->client, database, b, NULL, &reply, &e))
		out = as_json(&reply);
	else
		fail(m, &e);
	api.bson_destroy(&reply);
	api.bson_destroy(b);
	return out;
}

/* Extended JSON writes whole numbers as {"$numberInt": "1"}. */
static json_t *
plain(json_t *value)
{
	const char *n = json_string_value(json_object_get(value, "$numberInt"));
	json_t *out, *part;
	const char *name;
	size_t i;

	n = n ? n : json_string_value(json_object_get(value, "$numberLong"));
	if (n)
		return json_integer(strtoll(n, NULL, 10));
	if (json_is_object(value)) {
		out = json_object();
		json_object_foreach (value, name, part)
			json_object_set_new(out, name, plain(part));
		return out;
	}
	if (json_is_array(value)) {
		out = json_array();
		json_array_foreach (value, i, part)
			json_array_append_new(out, plain(part));
		return out;
	}
	return json_incref(value);
}

static bool
add_write(mongoc_bulk_operation_t *bulk, const struct mongo_write *w, const bson_t *upsert, bson_error_t *e)
{
	bson_t key, document;

	api.bson_init_static(&document, w->document, w->document_len);
	if (w->key == NULL)
		return api.mongoc_bulk_operation_insert_with_opts(bulk, &document, NULL, e);
	api.bson_init_static(&key, w->key, w->key_len);
	return api.mongoc_bulk_operation_update_one_with_opts(bulk, &key, &document, upsert, e);
}

json_t *
mongo_write(struct mongo *m, const char *database, const char *collection, const struct mongo_write *writes, size_t count)
{
	static const char unordered_text[] = "{\"ordered\": false}", upsert_text[] = "{\"upsert\": true}";
	bson_error_t e;
	bson_t *unordered = api.bson_new_from_json((const uint8_t *)unordered_text, -1, &e),
	       *upsert = api.bson_new_from_json((const uint8_t *)upsert_text, -1, &e), reply;
	mongoc_collection_t *to = api.mongoc_client_get_collection(m->client, database, collection);
	mongoc_bulk_operation_t *bulk = api.mongoc_collection_create_bulk_operation_with_opts(to, unordered);
	json_t *full = NULL, *out = NULL;
	bool good = true;

	for (size_t i = 0; good && i < count; i++)
		good = add_write(bulk, &writes[i], upsert, &e);
	if (good) {
		good = api.mongoc_bulk_operation_execute(bulk, &reply, &e) != 0;
		full = as_json(&reply);
		out = plain(full);
		api.bson_destroy(&reply);
	}
	/* What was refused is the caller's; that nobody confirms what was written is an error of the whole. */
	if (!good && (e.domain != MONGOC_ERROR_SERVER || json_array_size(json_object_get(out, "writeErrors")) == 0)) {
		fail(m, &e);
		json_decref(out);
		out = NULL;
	}
	json_decref(full);
	api.mongoc_bulk_operation_destroy(bulk);
	api.mongoc_collection_destroy(to);
	api.bson_destroy(unordered);
	api.bson_destroy(upsert);
	return out;
}
