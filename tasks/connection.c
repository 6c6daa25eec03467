#include "tasks/connection.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"

/* What drivers of Java and others call what the client libraries call otherwise. */
static const struct {
	const char *format, *theirs, *ours;
} names[] = {
	{ "postgres", "database", "dbname" },
	{ "postgres", "connectTimeout", "connect_timeout" },
	{ "postgres", "ApplicationName", "application_name" },
	{ "mysql", "dbname", "database" },
	{ "mysql", "db", "database" },
	{ "mysql", "passwd", "password" },
	{ "mysql", "unix_socket", "socket" },
	{ "mysql", "sslMode", "ssl_mode" },
};

/* Takes `value`. */
static void
add(struct connection *c, const char *format, const char *name, char *value)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i].format, format) == 0 && strcmp(names[i].theirs, name) == 0)
			name = names[i].ours;
	if (strcmp(name, "password") == 0) {
		free(c->password);
		c->password = value;
		return;
	}
	if (strcmp(format, "postgres") == 0 && strcmp(name, "ssl") == 0) {
		if (strcmp(value, "false") != 0)
			json_object_set_new(c->keys, "sslmode", json_string("require"));
	} else if (*value) {
		json_object_set_new(c->keys, name, json_string(value));
	}
	free(value);
}

static int
hex(char digit)
{
	return isdigit((unsigned char)digit) ? digit - '0' : tolower((unsigned char)digit) - 'a' + 10;
}

static char *
decoded(const char *s, size_t n)
{
	struct buf b = BUF_INIT;

	for (size_t i = 0; i < n; i++) {
		if (s[i] == '%' && i + 2 < n && isxdigit((unsigned char)s[i + 1]) && isxdigit((unsigned char)s[i + 2])) {
			buf_addc(&b, (char)(hex(s[i + 1]) * 16 + hex(s[i + 2])));
			i += 2;
		} else {
			buf_addc(&b, s[i]);
		}
	}
	return buf_detach(&b);
}

/* "host:port,host:port", as libpq takes several; an address of IPv6 stands in brackets. */
static void
add_hosts(struct connection *c, const char *format, const char *s, size_t n)
{
	struct buf hosts = BUF_INIT, ports = BUF_INIT;
	bool any = false;

	for (size_t i = 0; i < n;) {
		size_t len = strcspn(s + i, ","), host, skip = 0;

		len = len < n - i ? len : n - i;
		host = s[i] == '[' ? strcspn(s + i, "]") : strcspn(s + i, ":");
		host = host < len ? host : len;
		skip = s[i] == '[' && host < len;
		buf_addf(&hosts, "%s%.*s", i ? "," : "", (int)(host - skip), s + i + skip);
		if (i)
			buf_addc(&ports, ',');
		if (host + skip < len && s[i + host + skip] == ':') {
			buf_add(&ports, s + i + host + skip + 1, len - host - skip - 1);
			any = true;
		}
		i += len + 1;
	}
	add(c, format, "host", decoded(hosts.s, hosts.len));
	if (any)
		add(c, format, "port", xstrdup(ports.s));
	buf_release(&hosts);
	buf_release(&ports);
}

static int
parse_url(const char *rest, const char *format, struct connection *c, struct err *e)
{
	size_t authority = strcspn(rest, "/?"), n;
	const char *at = memrchr(rest, '@', authority), *path = rest + authority;

	/* Else the password's rest would be taken for a database, and told to everybody. */
	if (memchr(path, '@', strcspn(path, "?")))
		return err_set(e, ERR_INVALID, "has a / before its @; in a user's name or a password it is written %%2F");
	if (at) {
		size_t user = strcspn(rest, ":@");

		add(c, format, "user", decoded(rest, user));
		if (rest[user] == ':')
			add(c, format, "password", decoded(rest + user + 1, (size_t)(at - rest) - user - 1));
		authority -= (size_t)(at + 1 - rest);
		rest = at + 1;
	}
	add_hosts(c, format, rest, authority);
	if (*path == '/') {
		n = strcspn(++path, "?");
		add(c, format, strcmp(format, "mysql") == 0 ? "database" : "dbname", decoded(path, n));
		path += n;
	}
	for (path += *path == '?'; *path; path += n + (path[n] == '&')) {
		size_t key = strcspn(path, "=&");
		char *name = decoded(path, key);

		n = strcspn(path, "&");
		add(c, format, name, key < n ? decoded(path + key + 1, n - key - 1) : xstrdup(""));
		free(name);
	}
	return 0;
}

static bool
is_scheme(const char *text, size_t n, const char *scheme)
{
	return strlen(scheme) == n && strncmp(text, scheme, n) == 0;
}

/* key=value, key='a value'; a backslash before what means itself. */
static int
parse_words(const char *p, const char *format, struct connection *c, struct err *e)
{
	for (p += strspn(p, " \t\r\n"); *p; p += strspn(p, " \t\r\n")) {
		size_t n = strcspn(p, "= \t\r\n");
		char *name = xstrndup(p, n);
		struct buf value = BUF_INIT;
		bool quoted;

		p += n;
		p += strspn(p, " \t\r\n");
		if (*p != '=') {
			free(name);
			return err_set(e, ERR_INVALID,
				       "is neither an address such as %s://user:password@host/database nor host=… user=…",
				       strcmp(format, "mysql") == 0 ? "mysql" : "postgresql");
		}
		p += 1 + strspn(p + 1, " \t");
		quoted = *p == '\'';
		for (p += quoted; *p && (quoted ? *p != '\'' : !isspace((unsigned char)*p)); p++) {
			if (*p == '\\' && p[1])
				p++;
			buf_addc(&value, *p);
		}
		p += quoted && *p == '\'';
		add(c, format, name, buf_detach(&value));
		free(name);
	}
	return 0;
}

int
connection_parse(const char *uri, const char *format, struct connection *c, struct err *e)
{
	const char *rest = strncmp(uri, "jdbc:", 5) == 0 ? uri + 5 : uri, *colon = strstr(rest, "://");
	size_t scheme = strcspn(rest, "+:");
	bool mysql = strcmp(format, "mysql") == 0;

	*c = (struct connection){ .keys = json_object() };
	if (colon == NULL || strcspn(rest, " =") < (size_t)(colon - rest))
		return parse_words(rest, format, c, e);
	if (mysql ? !is_scheme(rest, scheme, "mysql") && !is_scheme(rest, scheme, "mariadb")
		  : !is_scheme(rest, scheme, "postgresql") && !is_scheme(rest, scheme, "postgres"))
		return err_set(e, ERR_INVALID, "begins with %.*s://, and with format: %s it is %s://user:password@host/database",
			       (int)(colon - rest), rest, format, mysql ? "mysql" : "postgresql");
	return parse_url(colon + 3, format, c, e);
}

void
connection_release(struct connection *c)
{
	json_decref(c->keys);
	if (c->password)
		explicit_bzero(c->password, strlen(c->password));
	free(c->password);
}

const char *
connection_text(const struct connection *c, const char *name, const char *otherwise)
{
	const char *text = json_string_value(json_object_get(c->keys, name));

	return text ? text : otherwise;
}
