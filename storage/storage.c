/* Which kind of storage a location is on, and what is the same for both. */
#include "storage/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "storage/storage_int.h"

#define PIECE ((int64_t)16 << 20)

bool
storage_remote(const char *location)
{
	return strncmp(location, "s3://", 5) == 0 || strncmp(location, "s3a://", 6) == 0;
}

int
storage_read(struct storage *s, const char *location, struct buf *out, struct err *e)
{
	return storage_remote(location) ? s3_read(s, location, out, e) : local_read(location, out, e);
}

int
storage_size(struct storage *s, const char *location, int64_t *size, struct err *e)
{
	return storage_remote(location) ? s3_size(s, location, size, e) : local_size(location, size, e);
}

int
storage_write(struct storage *s, const char *location, const void *data, size_t len, enum storage_how how, struct err *e)
{
	return storage_remote(location) ? s3_write(s, location, data, len, how, e) : local_write(location, data, len, how, e);
}

int
storage_upload(struct storage *s, const char *location, const char *file, struct err *e)
{
	return storage_remote(location) ? s3_upload(s, location, file, e) : local_upload(location, file, e);
}

/* In pieces, so that memory does not bound what can be had. */
static int
download_pieces(struct storage *s, const char *location, int fd, const char *file, struct err *e)
{
	struct buf piece = BUF_INIT;
	int64_t size, at, len;
	int rc = s3_size(s, location, &size, e);

	for (at = 0; rc == 0 && at < size; at += len) {
		len = size - at < PIECE ? size - at : PIECE;
		buf_clear(&piece);
		rc = s3_read_range(s, location, at, len, &piece, e);
		if (rc == 0 && fs_write_all(fd, piece.s, piece.len) < 0)
			rc = err_set(e, ERR_IO, "%s cannot be written: %s", file, strerror(errno));
	}
	buf_release(&piece);
	return rc;
}

int
storage_download(struct storage *s, const char *location, const char *file, struct err *e)
{
	char *tmp, *from;
	int fd, rc;

	if (!storage_remote(location)) {
		from = storage_path(location, e);
		rc = from ? local_upload(file, from, e) : ERR_UNSUPPORTED;
		free(from);
		return rc;
	}
	tmp = xasprintf("%s.XXXXXX", file);
	fd = fs_make_parents(file) < 0 ? -1 : mkostemp(tmp, O_CLOEXEC);
	if (fd < 0) {
		rc = err_set(e, ERR_IO, "%s cannot be written: %s", file, strerror(errno));
	} else {
		rc = download_pieces(s, location, fd, file, e);
		if (close(fd) < 0 || (rc == 0 && rename(tmp, file) < 0))
			rc = rc < 0 ? rc : err_set(e, ERR_IO, "%s cannot be written: %s", file, strerror(errno));
		if (rc < 0)
			unlink(tmp);
	}
	free(tmp);
	return rc;
}

static int
list_prefix(struct storage *s, const char *prefix, storage_found found, void *arg, struct err *e)
{
	return storage_remote(prefix) ? s3_list(s, prefix, found, arg, e) : local_list(prefix, found, arg, e);
}

int
storage_list(struct storage *s, const char *location, storage_found found, void *arg, struct err *e)
{
	size_t n = strlen(location);
	char *prefix = xasprintf("%s%s", location, n && location[n - 1] == '/' ? "" : "/");
	int rc = list_prefix(s, prefix, found, arg, e);

	free(prefix);
	return rc;
}

/* ---- patterns ---- */

bool
storage_matches(const char *pattern, const char *path)
{
	const char *stars = strstr(pattern, "**");
	char *head;
	size_t parts = 0;
	bool good = false;

	if (stars == NULL)
		return fnmatch(pattern, path, FNM_PATHNAME | FNM_PERIOD) == 0;
	head = xstrndup(pattern, (size_t)(stars - pattern));
	for (const char *p = head; *p; p++)
		parts += *p == '/';
	/* What stands before has as many slashes as its pattern; what comes after may begin at any slash. */
	for (const char *p = path; !good && *p; p++) {
		char *front = xstrndup(path, (size_t)(p - path));
		size_t n = 0;

		for (const char *q = front; *q; q++)
			n += *q == '/';
		if (n >= parts && (p == path || p[-1] == '/') && n == parts && fnmatch(head, front, FNM_PATHNAME) == 0) {
			const char *rest = stars + 2 + (stars[2] == '/');

			for (const char *q = p; !good && q; q = strchr(q, '/') ? strchr(q, '/') + 1 : NULL)
				good = *rest == '\0' || storage_matches(rest, q);
		}
		free(front);
	}
	free(head);
	return good;
}

struct globbing {
	const char *pattern;
	storage_found found;
	void *arg;
};

static int
glob_found(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct globbing *g = arg;

	return storage_matches(g->pattern, location) ? g->found(location, size, modified, g->arg) : 0;
}

int
storage_glob(struct storage *s, const char *pattern, storage_found found, void *arg, struct err *e)
{
	struct globbing g = { .pattern = pattern, .found = found, .arg = arg };
	size_t n = strcspn(pattern, "*?[");
	int64_t size;
	char *prefix;
	int rc;

	if (pattern[n] == '\0') {
		rc = storage_size(s, pattern, &size, e);
		return rc < 0 ? rc : found(pattern, size, 0, arg);
	}
	prefix = xstrndup(pattern, n);
	rc = list_prefix(s, prefix, glob_found, &g, e);
	free(prefix);
	return rc;
}

/* ---- removal ---- */

int
storage_remove(struct storage *s, const char *location, struct err *e)
{
	return storage_remote(location) ? s3_remove(s, location, e) : local_remove(location, e);
}

static bool
same_bucket(const char *a, const char *b)
{
	const char *x = strstr(a, "://") + 3, *y = strstr(b, "://") + 3;
	size_t n = strcspn(x, "/");

	return strncmp(x, y, n) == 0 && (y[n] == '/' || y[n] == '\0');
}

int
storage_remove_many(struct storage *s, const char *const *locations, size_t n, struct err *e)
{
	int rc = 0;

	for (size_t i = 0, count; rc == 0 && i < n; i += count) {
		count = 1;
		if (!storage_remote(locations[i])) {
			rc = local_remove(locations[i], e);
			continue;
		}
		while (i + count < n && count < S3_BATCH && storage_remote(locations[i + count]) &&
		       same_bucket(locations[i], locations[i + count]))
			count++;
		rc = s3_remove_batch(s, locations + i, count, e);
	}
	return rc;
}

struct folder {
	char **locations;
	size_t count, room;
};

static int
folder_found(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct folder *f = arg;

	(void)size;
	(void)modified;
	if (f->count == f->room) {
		f->room = f->room ? 2 * f->room : 64;
		f->locations = xrealloc(f->locations, f->room * sizeof(*f->locations));
	}
	f->locations[f->count++] = xstrdup(location);
	return 0;
}

int
storage_remove_folder(struct storage *s, const char *location, size_t *removed, struct err *e)
{
	struct folder f = { 0 };
	int rc = storage_list(s, location, folder_found, &f, e);
	char *path;

	if (rc == 0)
		rc = storage_remove_many(s, (const char *const *)f.locations, f.count, e);
	if (rc == 0 && !storage_remote(location) && (path = storage_path(location, e))) {
		fs_remove_tree(path);
		free(path);
	}
	if (removed)
		*removed = f.count;
	for (size_t i = 0; i < f.count; i++)
		free(f.locations[i]);
	free(f.locations);
	return rc;
}
