/* Secrets from environment variables and files. */
#include "flows/secrets.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"

#define SECRET_MAX ((size_t)1024 * 1024)

/* A path beside the config file, or in the working folder without one. */
static char *
beside(const struct config *c, const char *path)
{
	const char *slash = c->file ? strrchr(c->file, '/') : NULL;

	if (*path == '/' || slash == NULL)
		return xstrdup(path);
	return xasprintf("%.*s/%s", (int)(slash - c->file), c->file, path);
}

static int
read_file(const char *name, const char *path, json_t **out, struct err *e)
{
	struct buf b = BUF_INIT_MAX(SECRET_MAX);
	int rc = buf_add_file(&b, path);

	if (rc == -EFBIG) {
		rc = err_set(e, ERR_UNPROCESSABLE, "secret \"%s\": the file %s is larger than 1 MB", name, path);
	} else if (rc < 0) {
		rc = err_set(e, ERR_UNPROCESSABLE, "secret \"%s\": cannot read the file %s: %s", name, path, strerror(-rc));
	} else {
		if (b.len > 0 && b.s[b.len - 1] == '\n')
			b.s[--b.len] = '\0';
		if (b.len > 0 && b.s[b.len - 1] == '\r')
			b.s[--b.len] = '\0';
		*out = json_stringn(b.s, b.len);
		if (*out == NULL)
			rc = err_set(e, ERR_UNPROCESSABLE, "secret \"%s\": the file %s is not text in UTF-8", name, path);
	}
	if (b.cap)
		explicit_bzero(b.s, b.len);
	buf_release(&b);
	return rc;
}

static int
read_default(const struct config *c, const char *name, json_t **out, struct err *e)
{
	char *upper = xstrdup(name), *folder = xasprintf("secrets/%s", name), *path = beside(c, folder);
	json_t *v;
	int rc = 0;

	for (char *p = upper; *p; p++)
		*p = (char)(*p == '-' ? '_' : toupper((unsigned char)*p));
	v = json_object_get(c->env, upper);
	if (v) {
		*out = json_incref(v);
	} else {
		struct err why = ERR_INIT;

		rc = read_file(name, path, out, &why);
		if (rc < 0)
			rc = err_set(e, ERR_UNPROCESSABLE,
				     "secret \"%s\": the environment variable %s is not set, and the file %s cannot be read; set "
				     "one of them, or "
				     "say where it is in the config: secrets: {%s: {env: NAME}} or {file: PATH}",
				     name, upper, path, name);
		err_release(&why);
	}
	free(upper);
	free(folder);
	free(path);
	return rc;
}

static int
read_secret(const struct config *c, const char *name, json_t **out, struct err *e)
{
	const json_t *def = json_object_get(json_object_get(c->json, "secrets"), name);
	const char *env = json_string_value(json_object_get(def, "env")), *file = json_string_value(json_object_get(def, "file"));
	char *path;
	int rc;

	if (env) {
		json_t *v = json_object_get(c->env, env);

		if (v == NULL)
			return err_set(e, ERR_UNPROCESSABLE, "secret \"%s\": the environment variable %s is not set", name, env);
		*out = json_incref(v);
		return 0;
	}
	if (file == NULL)
		return read_default(c, name, out, e);
	path = beside(c, file);
	rc = read_file(name, path, out, e);
	free(path);
	return rc;
}

int
secrets_load(const struct config *c, const json_t *names, json_t **out, struct err *e)
{
	json_t *result = json_object(), *item, *value;
	size_t i;

	json_array_foreach ((json_t *)names, i, item) {
		const char *name = json_string_value(item);
		int rc = name ? read_secret(c, name, &value, e) : 0;

		if (rc < 0) {
			json_decref(result);
			return rc;
		}
		if (name)
			json_object_set_new(result, name, value);
	}
	*out = result;
	return 0;
}
