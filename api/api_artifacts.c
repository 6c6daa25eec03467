/* What commands kept in $SLUICE_ARTIFACTS: listed, and sent as it is. What is not in the state folder comes from the archive. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "base/alloc.h"

#define FILE_TYPE "application/octet-stream"

struct wanted {
	struct request *rq;
	char *key, *name; /* the attempt, "run/task/n", and "artifacts/NAME"; NULL: all */
};

static void
wanted_free(struct wanted *w)
{
	free(w->key);
	free(w->name);
	free(w);
}

static void
on_listed(void *arg, json_t *items, struct err *e)
{
	struct wanted *w = arg;

	if (e)
		reply_err(w->rq, e);
	else
		reply_json(w->rq, 200, json_pack("{s:o,s:n}", "items", items, "next"));
	wanted_free(w);
}

static void on_fetched(void *arg, struct err *e);

/* Opens the file, if it is one in the attempt's own folder; a link that leads out of it is none. */
static int
artifact_open(const struct wanted *w, struct stat *st)
{
	char *folder = xasprintf("%s/runs/%s/artifacts", w->rq->app->home, w->key), *real_folder = realpath(folder, NULL),
	     *path = xasprintf("%s/runs/%s/%s", w->rq->app->home, w->key, w->name), *real = realpath(path, NULL);
	size_t n = real_folder ? strlen(real_folder) : 0;
	int fd = -1;

	if (real && n && strncmp(real, real_folder, n) == 0 && real[n] == '/')
		fd = open(real, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, st) < 0 || !S_ISREG(st->st_mode))) {
		close(fd);
		fd = -1;
	}
	free(folder);
	free(real_folder);
	free(path);
	free(real);
	return fd;
}

/* `elsewhere`: the archive has not been asked yet. */
static void
artifact_reply(struct wanted *w, bool elsewhere)
{
	struct archive *archive = w->rq->app->archive;
	struct stat st;
	int fd = artifact_open(w, &st);

	if (fd < 0 && elsewhere && archive_has_place(archive)) {
		archive_fetch(archive, w->key, w->name, on_fetched, w);
		return;
	}
	if (fd < 0)
		reply_problem(w->rq, ERR_NOT_FOUND, "attempt %s has kept no file %s", w->key, strchr(w->name, '/') + 1);
	else
		reply_fd(w->rq, 200, FILE_TYPE, fd, 0, (uint64_t)st.st_size);
	wanted_free(w);
}

static void
on_fetched(void *arg, struct err *e)
{
	struct wanted *w = arg;

	if (e && e->code != ERR_NOT_FOUND) {
		reply_err(w->rq, e);
		wanted_free(w);
	} else {
		artifact_reply(w, false);
	}
}

static void
on_attempt_read(void *arg, const struct rows *r, struct err *e)
{
	struct wanted *w = arg;
	if (r == NULL || rows_count(r) == 0) {
		if (r)
			reply_problem(w->rq, ERR_NOT_FOUND, "task %s of run %s has no such attempt", w->rq->param[1],
				      w->rq->param[0]);
		else
			reply_err(w->rq, e);
		wanted_free(w);
		return;
	}
	w->key = xasprintf("%s/%s/%s", w->rq->param[0], w->rq->param[1], rows_get(r, 0, 0));
	if (w->name)
		artifact_reply(w, true);
	else
		archive_list(w->rq->app->archive, w->key, on_listed, w);
}

/* No part of it may lead upwards or nowhere. */
static bool
name_good(const char *name)
{
	for (const char *p = name; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
		size_t n = strcspn(p, "/");

		if (n == 0 || (n <= 2 && strncmp(p, "..", n) == 0))
			return false;
	}
	return true;
}

static void
artifacts_ask(struct request *rq, const char *name)
{
	long n = request_number(rq, "attempt", 0, 1, 1000000);
	struct wanted *w;
	char number[24];

	if (n < 0)
		return;
	if (name && !name_good(name)) {
		reply_problem(rq, ERR_NOT_FOUND, "there can be no file \"%s\": a name has no empty part, . or ..", name);
		return;
	}
	w = xcalloc(1, sizeof(*w));
	w->rq = rq;
	w->name = name ? xasprintf("artifacts/%s", name) : NULL;
	snprintf(number, sizeof(number), "%ld", n);
	store_query(rq->app->store,
		    "SELECT n FROM sluice.attempts WHERE run_id = $1 AND task_id = $2 AND ($3::int = 0 OR n = $3::int)"
		    " ORDER BY n DESC LIMIT 1",
		    3, (const char *const[]){ rq->param[0], rq->param[1], number }, on_attempt_read, w);
}

static void
artifacts_list(struct request *rq)
{
	artifacts_ask(rq, NULL);
}

static void
artifacts_get(struct request *rq)
{
	artifacts_ask(rq, rq->param[2]);
}

const struct route artifacts_routes[] = {
	{ "GET", "/api/v1/runs/{run}/tasks/{task}/artifacts", artifacts_list, ROLE_VIEWER, 0,
	  "Lists the files that an attempt kept." },
	{ "GET", "/api/v1/runs/{run}/tasks/{task}/artifacts/{name...}", artifacts_get, ROLE_VIEWER, 0,
	  "Sends a file that an attempt kept." },
};
const size_t artifacts_routes_count = sizeof(artifacts_routes) / sizeof(artifacts_routes[0]);
