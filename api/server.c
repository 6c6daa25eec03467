/* Sockets are made here, not by the HTTP library, so that a taken port gets a sentence of its own. */
#include "api/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/api.h"
#include "api/auth.h"
#include "api/http.h"
#include "base/alloc.h"
#include "base/log.h"

#define BACKLOG 511

struct api {
	struct app *app;
	struct http *tcp, *local;
	char *unix_path;
};

/* "127.0.0.1:8080", "[::1]:0", "localhost:8080", ":8080" (all addresses). */
static int
listen_parse(const char *listen, char **host, char **port, struct err *e)
{
	const char *colon = strrchr(listen, ':');
	size_t n;

	if (colon == NULL || colon[1] == '\0' || strspn(colon + 1, "0123456789") != strlen(colon + 1) || strlen(colon + 1) > 5 ||
	    atol(colon + 1) > 65535)
		return err_set(e, ERR_INVALID, "cannot listen on \"%s\": HOST:PORT is expected, such as 127.0.0.1:8080", listen);
	n = (size_t)(colon - listen);
	if (n >= 2 && listen[0] == '[' && listen[n - 1] == ']')
		*host = xstrndup(listen + 1, n - 2);
	else
		*host = n ? xstrndup(listen, n) : xstrdup("0.0.0.0");
	*port = xstrdup(colon + 1);
	return 0;
}

static int
tcp_listen(const char *host, const char *port, struct err *e)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV },
			*ai;
	int rc = getaddrinfo(host, port, &hints, &ai), fd, one = 1;

	if (rc != 0)
		return err_set(e, ERR_INVALID, "cannot listen on %s: %s", host, gai_strerror(rc));
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		err_set(e, ERR_IO, "cannot make a socket: %s", strerror(errno));
	} else {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
			if (errno == EADDRINUSE)
				err_set(e, ERR_CONFLICT,
					"port %s on %s is taken by another program; choose another with --listen %s:PORT", port,
					host, host);
			else
				err_set(e, ERR_IO, "cannot listen on port %s of %s: %s", port, host, strerror(errno));
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(ai);
	return fd;
}

static int
unix_listen(const char *path, struct err *e)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	mode_t mask;
	int fd;

	if (strlen(path) >= sizeof(sun.sun_path))
		return err_set(e, ERR_INVALID,
			       "the path of the socket %s is too long (at most %zu bytes); choose a shorter --home", path,
			       sizeof(sun.sun_path) - 1);
	memcpy(sun.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(e, ERR_IO, "cannot make a socket: %s", strerror(errno));
	unlink(path);
	mask = umask(077);
	if (bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 || listen(fd, BACKLOG) < 0) {
		err_set(e, ERR_IO, "cannot listen on the socket %s: %s", path, strerror(errno));
		close(fd);
		fd = -1;
	}
	umask(mask);
	return fd;
}

/* The base URL with the port that was really bound. On all addresses it names the loopback one. */
static char *
tcp_url(int fd, const char *host)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	unsigned port = 0;
	bool v6 = strchr(host, ':') != NULL;

	if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
		port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
						      : ((struct sockaddr_in *)&ss)->sin_port);
	if (strcmp(host, "0.0.0.0") == 0)
		host = "127.0.0.1";
	else if (strcmp(host, "::") == 0)
		host = "::1";
	return xasprintf(v6 ? "http://[%s]:%u" : "http://%s:%u", host, port);
}

struct api *
api_start(struct app *app, const char *listen, const char *unix_path, struct err *e)
{
	struct api *api = xcalloc(1, sizeof(*api));
	char *host = NULL, *port = NULL;
	int fd = -1;

	signal(SIGPIPE, SIG_IGN); /* clients leave while a file is sent to them */
	api->app = app;
	if (listen_parse(listen, &host, &port, e) < 0)
		goto fail;
	fd = tcp_listen(host, port, e);
	if (fd < 0)
		goto fail;
	app->url = tcp_url(fd, host);
	app->auth = auth_open(app, host, e);
	if (app->auth == NULL) {
		close(fd);
		goto fail;
	}
	api->tcp = http_open(app, fd, false, e);
	if (api->tcp == NULL)
		goto fail;
	if (unix_path) {
		fd = unix_listen(unix_path, e);
		if (fd < 0)
			goto fail;
		api->unix_path = xstrdup(unix_path);
		api->local = http_open(app, fd, true, e);
		if (api->local == NULL)
			goto fail;
	}
	api_metrics_open(app);
	free(host);
	free(port);
	return api;
fail:
	free(host);
	free(port);
	api_stop(api);
	return NULL;
}

void
api_stop(struct api *api)
{
	if (api == NULL)
		return;
	api_metrics_close(api->app);
	http_close(api->tcp);
	http_close(api->local);
	if (api->unix_path)
		unlink(api->unix_path);
	auth_close(api->app->auth);
	api->app->auth = NULL;
	free(api->app->url);
	api->app->url = NULL;
	free(api->unix_path);
	free(api);
}
