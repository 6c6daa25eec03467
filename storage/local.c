/* The same verbs on local files. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "storage/storage_int.h"

#define COPY_BYTES (1u << 20)

char *
storage_path(const char *location, struct err *e)
{
	const char *path = location;

	if (strncmp(path, "file:", 5) == 0) {
		path += 5;
		if (strncmp(path, "//", 2) == 0) {
			path += 2;
			if (strncmp(path, "localhost/", 10) == 0)
				path += 9;
		}
	}
	if (*path != '/') {
		err_set(e, ERR_UNSUPPORTED, "%s is neither on this machine (file:///…) nor on an S3 store (s3://…)", location);
		return NULL;
	}
	return xstrdup(path);
}

static int
code_of_errno(int no)
{
	return no == ENOENT || no == ENOTDIR ? ERR_NOT_FOUND : no == EEXIST ? ERR_CONFLICT : no == EFBIG ? ERR_TOO_LARGE : ERR_IO;
}

static int
local_fail(struct err *e, const char *location, const char *what, int no)
{
	return err_set(e, code_of_errno(no), "%s cannot be %s: %s", location, what, strerror(no));
}

int
local_read(const char *location, struct buf *out, struct err *e)
{
	char *path = storage_path(location, e);
	int rc;

	if (path == NULL)
		return ERR_UNSUPPORTED;
	rc = buf_add_file(out, path);
	free(path);
	return rc < 0 ? local_fail(e, location, "read", -rc) : 0;
}

int
local_size(const char *location, int64_t *size, struct err *e)
{
	char *path = storage_path(location, e);
	struct stat st;
	int rc;

	if (path == NULL)
		return ERR_UNSUPPORTED;
	rc = stat(path, &st) < 0 ? local_fail(e, location, "found", errno) : 0;
	*size = rc == 0 ? (int64_t)st.st_size : 0;
	free(path);
	return rc;
}

/* ---- whole files, synced under another name first ---- */

static int
copy_all(int fd, const char *file)
{
	char *bytes = xmalloc(COPY_BYTES);
	int from = open(file, O_RDONLY | O_CLOEXEC), rc = from < 0 ? -errno : 0;
	ssize_t n;

	while (rc == 0 && (n = read(from, bytes, COPY_BYTES)) != 0) {
		if (n > 0)
			rc = fs_write_all(fd, bytes, (size_t)n) < 0 ? -errno : 0;
		else if (errno != EINTR)
			rc = -errno;
	}
	if (from >= 0)
		close(from);
	free(bytes);
	return rc;
}

/* Gives the finished file its name. */
static int
put_in_place(const char *tmp, const char *path, enum storage_how how)
{
	if (how == STORAGE_REPLACE)
		return rename(tmp, path) < 0 ? -errno : 0;
	if (link(tmp, path) == 0) {
		unlink(tmp);
		return 0;
	}
	/* Some file systems have no links. */
	if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	return renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

/* Either `data` or the content of `file`. */
static int
write_synced(const char *path, const void *data, size_t len, const char *file, enum storage_how how)
{
	char *tmp = xasprintf("%s.XXXXXX.tmp", path);
	int fd = mkostemps(tmp, 4, O_CLOEXEC), rc;

	if (fd < 0 && errno == ENOENT && fs_make_parents(path) == 0) {
		memcpy(tmp + strlen(tmp) - 10, "XXXXXX", 6);
		fd = mkostemps(tmp, 4, O_CLOEXEC);
	}
	if (fd < 0) {
		rc = -errno;
		free(tmp);
		return rc;
	}
	if (file)
		rc = copy_all(fd, file);
	else
		rc = fs_write_all(fd, data, len) < 0 ? -errno : 0;
	if (rc == 0 && (fchmod(fd, 0644) < 0 || fsync(fd) < 0))
		rc = -errno;
	close(fd);
	if (rc == 0)
		rc = put_in_place(tmp, path, how);
	if (rc < 0)
		unlink(tmp);
	free(tmp);
	return rc < 0 ? rc : fs_sync_folder_of(path) < 0 ? -errno : 0;
}

static int
local_put(const char *location, const void *data, size_t len, const char *file, enum storage_how how, struct err *e)
{
	char *path = storage_path(location, e);
	int rc;

	if (path == NULL)
		return ERR_UNSUPPORTED;
	rc = write_synced(path, data, len, file, how);
	free(path);
	return rc < 0 ? local_fail(e, location, "written", -rc) : 0;
}

int
local_write(const char *location, const void *data, size_t len, enum storage_how how, struct err *e)
{
	return local_put(location, data, len, NULL, how, e);
}

int
local_upload(const char *location, const char *file, struct err *e)
{
	return local_put(location, NULL, 0, file, STORAGE_REPLACE, e);
}

/* ---- lists ---- */

struct walk {
	size_t skip;       /* of a path: what stands before what the caller calls it */
	const char *head;  /* what stands there instead: "file://" */
	const char *begin; /* only paths that begin so */
	storage_found found;
	void *arg;
	struct err *e;
};

static int walk_folder(struct walk *w, const char *folder);

static int
walk_entry(struct walk *w, const char *path)
{
	size_t n = strlen(w->begin), len = strlen(path);
	struct stat st;
	char *location;
	int rc;

	/* A folder that the prefix leads into is looked at although it is shorter. */
	if (strncmp(path, w->begin, len < n ? len : n) != 0 || stat(path, &st) < 0)
		return 0;
	if (S_ISDIR(st.st_mode))
		return walk_folder(w, path);
	if (len < n || !S_ISREG(st.st_mode))
		return 0;
	location = xasprintf("%s%s", w->head, path);
	rc = w->found(location, st.st_size, (wall_us)st.st_mtim.tv_sec * US_PER_S + st.st_mtim.tv_nsec / 1000, w->arg);
	free(location);
	return rc;
}

static int
walk_folder(struct walk *w, const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *d;
	int rc = 0;

	if (dir == NULL)
		return errno == ENOENT || errno == ENOTDIR ? 0 : local_fail(w->e, folder, "listed", errno);
	while (rc == 0 && (d = readdir(dir))) {
		char *path;

		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		path = xasprintf("%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/", d->d_name);
		rc = walk_entry(w, path);
		free(path);
	}
	closedir(dir);
	return rc;
}

int
local_list(const char *prefix, storage_found found, void *arg, struct err *e)
{
	char *path = storage_path(prefix, e), *folder, *head;
	struct walk w = { .found = found, .arg = arg, .e = e };
	int rc;

	if (path == NULL)
		return ERR_UNSUPPORTED;
	head = xstrndup(prefix, strlen(prefix) - strlen(path));
	folder = xstrndup(path, (size_t)(strrchr(path, '/') - path + 1));
	w.head = head;
	w.begin = path;
	rc = walk_folder(&w, folder);
	free(folder);
	free(head);
	free(path);
	return rc;
}

int
local_remove(const char *location, struct err *e)
{
	char *path = storage_path(location, e);
	int rc;

	if (path == NULL)
		return ERR_UNSUPPORTED;
	rc = unlink(path) < 0 && errno != ENOENT ? local_fail(e, location, "removed", errno) : 0;
	free(path);
	return rc;
}
