#include "scheduler/store/jdbc_uri.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"

/* Parameters of JDBC's driver and of SQLAlchemy, and what libpq calls them. */
static const struct {
	const char *theirs, *ours;
} parameters[] = {
	{ "user", "user" },
	{ "password", "password" },
	{ "host", "host" },
	{ "port", "port" },
	{ "sslmode", "sslmode" },
	{ "sslrootcert", "sslrootcert" },
	{ "sslcert", "sslcert" },
	{ "sslkey", "sslkey" },
	{ "connectTimeout", "connect_timeout" },
	{ "connect_timeout", "connect_timeout" },
	{ "ApplicationName", "application_name" },
	{ "application_name", "application_name" },
	{ "options", "options" },
};

static void
add_parameter(struct buf *b, const char *name, const char *encoded, size_t n)
{
	buf_addf(b, "%c%s=%.*s", strchr(b->s, '?') ? '&' : '?', name, (int)n, encoded);
}

static void
add_plain(struct buf *b, const char *name, const char *value)
{
	struct buf coded = BUF_INIT;

	for (const char *p = value; *p; p++) {
		if (isalnum((unsigned char)*p) && (unsigned char)*p < 128)
			buf_addc(&coded, *p);
		else
			buf_addf(&coded, "%%%02X", (unsigned char)*p);
	}
	add_parameter(b, name, coded.s, coded.len);
	buf_release(&coded);
}

/* One "name=value" of the query. */
static int
convert(struct buf *b, const char *p, size_t n, struct err *e)
{
	size_t key = strcspn(p, "=&");
	const char *value = p + (key < n ? key + 1 : n);
	size_t len = n - (size_t)(value - p);

	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++)
		if (strlen(parameters[i].theirs) == key && strncmp(p, parameters[i].theirs, key) == 0) {
			add_parameter(b, parameters[i].ours, value, len);
			return 0;
		}
	if (key == 3 && strncmp(p, "ssl", 3) == 0) {
		if (len != 5 || strncmp(value, "false", 5) != 0)
			add_parameter(b, "sslmode", "require", 7);
		return 0;
	}
	if (key == 13 && strncmp(p, "currentSchema", 13) == 0) {
		char *option = xasprintf("-csearch_path%%3D%.*s", (int)len, value);

		add_parameter(b, "options", option, strlen(option));
		free(option);
		return 0;
	}
	return err_set(e, ERR_INVALID, "the parameter \"%.*s\" of the catalog's jdbc_uri is not known", (int)key, p);
}

char *
jdbc_uri_dsn(const char *uri, const char *user, const char *password, struct err *e)
{
	const char *rest = strncmp(uri, "jdbc:", 5) == 0 ? uri + 5 : uri, *query;
	size_t scheme = strcspn(rest, "+:"), n;
	struct buf b = BUF_INIT;

	if ((scheme != 10 || strncmp(rest, "postgresql", 10) != 0) && (scheme != 8 || strncmp(rest, "postgres", 8) != 0)) {
		err_set(e, ERR_INVALID,
			"the catalog's jdbc_uri is of \"%.*s\"; only PostgreSQL is possible: jdbc:postgresql://host/database",
			(int)scheme, rest);
		return NULL;
	}
	rest += strcspn(rest, ":");
	if (strncmp(rest, "://", 3) != 0) {
		err_set(e, ERR_INVALID, "the catalog's jdbc_uri must look like jdbc:postgresql://host:port/database");
		return NULL;
	}
	query = rest + strcspn(rest, "?");
	buf_addf(&b, "postgresql%.*s", (int)(query - rest), rest);
	for (query += *query == '?'; *query; query += n + (query[n] == '&')) {
		n = strcspn(query, "&");
		if (n && convert(&b, query, n, e) < 0) {
			buf_release(&b);
			return NULL;
		}
	}
	if (user && *user)
		add_plain(&b, "user", user);
	if (password && *password)
		add_plain(&b, "password", password);
	return buf_detach(&b);
}
