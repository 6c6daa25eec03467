/* Pages of an API that are put aside until the task is done, see stage_http.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "tasks/stage_http.h"

static int
fail_folder(const struct kept *k, const char *what, struct err *e)
{
	return err_set(e, ERR_IO, "the pages in %s cannot be %s: %s", k->folder, what, strerror(errno)) ? -1 : 0;
}

static int
open_in(const char *folder, const char *name)
{
	char *path = xasprintf("%s/%s", folder, name);
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	free(path);
	return fd;
}

/* Takes one line of the log in. False: it, and all behind it, does not count. */
static bool
restore_line(struct kept *k, const char *line, size_t len, int64_t size, const char *digest, struct paging *p)
{
	json_t *state = json_loadb(line, len, 0, NULL);
	const char *request = json_string_value(json_object_get(state, "request"));
	int64_t end = json_integer_value(json_object_get(state, "end")),
		longest = json_integer_value(json_object_get(state, "longest"));
	bool good = request ? strcmp(request, digest) == 0 : state && end >= k->end && end <= size;

	if (good && request == NULL) {
		paging_restore(p, state);
		k->end = end;
		k->longest = longest > k->longest ? longest : k->longest;
	}
	json_decref(state);
	return good;
}

/* Reads the log up to its last whole page of this request, and cuts off what lies behind that. */
static int
restore(struct kept *k, const char *digest, struct paging *p, struct err *e)
{
	struct buf log = BUF_INIT;
	struct stat info;
	size_t at = 0;
	char *path = xasprintf("%s/pages.jsonl", k->folder), *newline;
	int rc;

	if (fstat(k->data, &info) < 0 || (rc = buf_add_file(&log, path)) < 0) {
		free(path);
		buf_release(&log);
		return fail_folder(k, "read", e);
	}
	free(path);
	while ((newline = memchr(log.s + at, '\n', log.len - at)) != NULL &&
	       restore_line(k, log.s + at, (size_t)(newline - log.s) - at, info.st_size, digest, p))
		at = (size_t)(newline - log.s) + 1;
	buf_release(&log);
	if (ftruncate(k->log, (off_t)at) < 0 || ftruncate(k->data, k->end) < 0)
		return fail_folder(k, "read", e);
	return at > 0 ? 0 : kept_page(k, json_pack("{s:s}", "request", digest), e);
}

int
kept_open(struct kept *k, const char *folder, const char *digest, struct paging *p, struct err *e)
{
	*k = (struct kept){ .folder = xstrdup(folder), .records = xasprintf("%s/records.jsonl", folder), .data = -1, .log = -1 };
	if (fs_make_folders(folder, 0700) < 0 || (k->log = open_in(folder, "pages.jsonl")) < 0)
		return fail_folder(k, "kept", e);
	if (flock(k->log, LOCK_EX | LOCK_NB) < 0)
		return 1;
	if ((k->data = open_in(folder, "records.jsonl")) < 0)
		return fail_folder(k, "kept", e);
	return restore(k, digest, p, e);
}

int
kept_write(struct kept *k, const struct buf *lines, struct err *e)
{
	return fs_write_all(k->data, lines->s, lines->len) < 0 ? fail_folder(k, "written", e) : 0;
}

int
kept_page(struct kept *k, json_t *state, struct err *e)
{
	struct stat info;
	char *line, *text;
	int rc;

	/* Records first: a machine that dies must not leave a line that speaks of records which are not there. */
	if (fstat(k->data, &info) < 0 || fdatasync(k->data) < 0) {
		json_decref(state);
		return fail_folder(k, "written", e);
	}
	k->end = info.st_size;
	json_object_set_new(state, "end", json_integer(k->end));
	json_object_set_new(state, "longest", json_integer(k->longest));
	text = json_dumps(state, JSON_COMPACT);
	line = xasprintf("%s\n", text);
	rc = fs_write_all(k->log, line, strlen(line));
	free(text);
	free(line);
	json_decref(state);
	return rc < 0 ? fail_folder(k, "written", e) : 0;
}

int
kept_drop(struct kept *k, struct err *e)
{
	return ftruncate(k->data, k->end) < 0 ? fail_folder(k, "written", e) : 0;
}

void
kept_release(struct kept *k)
{
	if (k->data >= 0)
		close(k->data);
	if (k->log >= 0)
		close(k->log);
	free(k->folder);
	free(k->records);
	*k = (struct kept){ .data = -1, .log = -1 };
}

void
kept_add_pages(const struct kept *k, struct buf *sql)
{
	char *path = xasprintf("%s/pages.jsonl", k->folder);

	buf_adds(sql,
		 "SELECT page, before FROM (SELECT page, \"all\", coalesce(lag(\"all\") OVER (ORDER BY page), 0) AS before FROM "
		 "read_json(");
	buf_add_sql_string(sql, path);
	buf_adds(sql, ", format = 'newline_delimited', columns = {'page': 'BIGINT', 'all': 'BIGINT'}) WHERE page IS NOT NULL) "
		      "WHERE \"all\" > before");
	free(path);
}
