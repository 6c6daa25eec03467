/* The files that tasks read and write, on this machine or on an S3 store. */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "storage/storage.h"
#include "tasks/context.h"
#include "tasks/engines/duckdb.h"

int
task_make_parents(struct context *cx, const char *path)
{
	if (!storage_remote(path) && fs_make_parents(path) < 0)
		return task_fail(cx, ERR_IO, "cannot make the folder of %s: %s", path, strerror(errno));
	return 0;
}

const char *
strip_scheme(const char *location)
{
	if (strncmp(location, "file://", 7) == 0)
		return location + 7;
	return strncmp(location, "file:/", 6) == 0 ? location + 5 : location;
}

const char *
task_path(struct context *cx, const char *what, const char *path)
{
	const char *local = strip_scheme(path);

	if (local != path)
		return local;
	if (storage_remote(path)) {
		if (task_s3(cx) == 0)
			return path;
		err_prefix(&cx->err, "%s %s", what, path);
		return NULL;
	}
	if (strstr(path, "://")) {
		task_fail(cx, ERR_UNSUPPORTED, "%s %s: only local files and s3:// are supported", what, path);
		return NULL;
	}
	return path;
}

struct storage *
task_storage(struct context *cx)
{
	if (cx->storage == NULL)
		cx->storage = storage_new(json_object_get(cx->doc, "s3"), &cx->err);
	return cx->storage;
}

/* The engine's own requests: as patient as ours, and certificates are looked at, which it does not do by itself. */
static int
s3_limits(struct context *cx, const struct storage *s, bool tls)
{
	struct buf b = BUF_INIT;
	int rc;

	buf_addf(&b, "SET http_timeout = %lld",
		 (long long)(storage_timeout(s) / US_PER_S / 2 > 0 ? storage_timeout(s) / US_PER_S / 2 : 1));
	if (tls)
		buf_adds(&b, "; SET enable_server_cert_verification = true");
	if (tls && storage_ca(s)) {
		buf_adds(&b, "; SET ca_cert_file = ");
		buf_add_sql_string(&b, storage_ca(s));
	}
	rc = duck_exec(cx->db, b.s, &cx->err);
	buf_release(&b);
	return rc;
}

int
task_s3(struct context *cx)
{
	struct storage *s = task_storage(cx);
	struct storage_keys k = { 0 };
	struct buf b = BUF_INIT;
	const char *host;
	bool tls = s && strncmp(storage_endpoint(s), "https", 5) == 0;
	int rc;

	if (cx->s3_given && (cx->s3_until == 0 || clock_wall() + STORAGE_KEYS_EARLY < cx->s3_until))
		return 0;
	if (s == NULL || duck_load_iceberg(cx->db, &cx->err) < 0 || storage_keys(s, &k, &cx->err) < 0)
		return -1;
	host = strstr(storage_endpoint(s), "://") + 3;
	buf_adds(&b, "CREATE OR REPLACE TEMPORARY SECRET sluice_s3 (TYPE s3, KEY_ID ");
	buf_add_sql_string(&b, k.access_key);
	buf_adds(&b, ", SECRET ");
	buf_add_sql_string(&b, k.secret_key);
	buf_adds(&b, ", SESSION_TOKEN ");
	buf_add_sql_string(&b, k.session_token);
	buf_adds(&b, ", REGION ");
	buf_add_sql_string(&b, storage_region(s));
	buf_adds(&b, ", ENDPOINT ");
	buf_add_sql_string(&b, host);
	buf_addf(&b, ", URL_STYLE '%s', USE_SSL %s)", storage_path_style(s) ? "path" : "vhost", tls ? "true" : "false");
	rc = duck_exec(cx->db, b.s, &cx->err);
	if (rc == 0)
		rc = s3_limits(cx, s, tls);
	cx->s3_given = rc == 0;
	cx->s3_until = k.expires;
	explicit_bzero(b.s, b.len);
	buf_release(&b);
	storage_keys_release(&k);
	return rc < 0 ? -1 : 0;
}

int
task_s3_if_any(struct context *cx)
{
	return json_object_get(cx->doc, "s3") ? task_s3(cx) : 0;
}

/* The engine names an object by its address on the store where that answers with an error: users know it as s3://BUCKET/KEY. */
static char *
named_as_s3(char *said, const char *endpoint)
{
	size_t len = strlen(endpoint);
	char *at = strstr(said, endpoint), *out;

	if (at == NULL || at[len] != '/')
		return said;
	out = xasprintf("%.*ss3:/%s", (int)(at - said), said, at + len);
	free(said);
	return out;
}

void
task_explain_store(struct context *cx)
{
	const char *advice;
	char *said, *end;

	if (cx->storage == NULL || cx->err.msg == NULL)
		return;
	if (strstr(cx->err.msg, "s3://") == NULL)
		cx->err.msg = named_as_s3(cx->err.msg, storage_endpoint(cx->storage));
	said = cx->err.msg;
	if (strstr(said, "s3://") == NULL || strstr(said, storage_endpoint(cx->storage)))
		return;
	advice = storage_advice(said);
	for (end = said + strlen(said); end > said && strchr("\r\n ", end[-1]);)
		*--end = '\0';
	cx->err.msg = xasprintf("%s (the store at %s%s%s)", said, storage_endpoint(cx->storage), advice ? ": " : "",
				advice ? advice : "");
	free(said);
}

int64_t
task_file_size(struct context *cx, const char *path)
{
	struct storage *s = task_storage(cx);
	int64_t size;

	return s && storage_size(s, path, &size, &cx->err) == 0 ? size : -1;
}

void
task_file_remove(struct context *cx, const char *path)
{
	struct err e = ERR_INIT;

	if (cx->storage == NULL && (cx->storage = storage_new(json_object_get(cx->doc, "s3"), &e)) == NULL)
		fprintf(stderr, "%s stays behind: %s\n", path, e.msg);
	else if (storage_remove(cx->storage, path, &e) < 0)
		fprintf(stderr, "a file stays behind: %s\n", e.msg);
	err_release(&e);
}

static int
on_any(const char *location, int64_t size, wall_us modified, void *arg)
{
	(void)location;
	(void)size;
	(void)modified;
	(void)arg;
	return 1;
}

int
task_any_file(struct context *cx, const char *pattern)
{
	struct err e = ERR_INIT;
	struct storage *s;
	glob_t g = { 0 };
	int rc;

	if (!storage_remote(pattern)) {
		rc = glob(pattern, GLOB_BRACE, NULL, &g);
		globfree(&g);
		return rc == 0 || strstr(pattern, "**") != NULL;
	}
	if ((s = task_storage(cx)) == NULL)
		return -1;
	rc = storage_glob(s, pattern, on_any, NULL, &e);
	if (rc == ERR_NOT_FOUND && strpbrk(pattern, "*?[") == NULL && strstr(e.msg, "NoSuchBucket") == NULL) {
		err_release(&e);
		return 0;
	}
	if (rc < 0)
		err_move(&cx->err, &e);
	return rc < 0 ? -1 : rc;
}

int
task_file_list(struct context *cx, const json_t *from, struct buf *out)
{
	size_t n = json_is_array(from) ? json_array_size(from) : 1;

	buf_addc(out, '[');
	for (size_t i = 0; i < n; i++) {
		const char *given = json_string_value(json_is_array(from) ? json_array_get(from, i) : from), *path;
		int any;

		if (given == NULL)
			return task_fail(cx, ERR_INVALID, "`from` must be a path or a list of paths");
		if ((path = task_path(cx, "from", given)) == NULL)
			return -1;
		if ((any = task_any_file(cx, path)) < 0)
			return -1;
		if (any == 0)
			return task_fail_at(cx, "from", "no file matches %s", path);
		if (i)
			buf_adds(out, ", ");
		buf_add_sql_string(out, path);
	}
	buf_addc(out, ']');
	return 0;
}
