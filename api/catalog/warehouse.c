/* The warehouse's files. Everything here may block, so it is called in worker threads and touches no shared state. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/catalog/catalog_int.h"
#include "api/catalog/metadata.h"
#include "api/catalog/view.h"
#include "base/alloc.h"
#include "base/fs.h"
#include "base/gunzip.h"
#include "base/log.h"

#define METADATA_MAX (256u << 20)

char *
warehouse_path(const char *location, struct err *e)
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
		err_set(e, ERR_UNSUPPORTED,
			"%s is not on this machine: the catalog keeps tables in folders (file:///…), other file systems come "
			"later",
			location);
		return NULL;
	}
	return xstrdup(path);
}

int
warehouse_read(const char *location, char **text, size_t *len, json_t **json, struct err *e)
{
	char *path = warehouse_path(location, e);
	struct buf b = BUF_INIT_MAX(METADATA_MAX), packed;
	json_error_t je;
	json_t *md;
	int rc;

	if (path == NULL)
		return e->code;
	rc = buf_add_file(&b, path);
	free(path);
	if (rc < 0)
		rc = err_set(e, ERR_IO, "the table's metadata %s cannot be read: %s", location, strerror(-rc));
	if (rc == 0 && gunzip_is(b.s, b.len)) {
		packed = b;
		buf_init(&b, METADATA_MAX);
		rc = gunzip(packed.s, packed.len, &b, e);
		buf_release(&packed);
		if (rc < 0)
			err_prefix(e, "the table's metadata %s", location);
	}
	if (rc < 0) {
		buf_release(&b);
		return rc;
	}
	md = json_loadb(b.s, b.len, 0, &je);
	if (md == NULL) {
		rc = err_set(e, ERR_IO, "the table's metadata %s is damaged: line %d, column %d: %s", location, je.line,
			     je.column, je.text);
	} else if ((rc = (view_is(md) ? view_validate(md, e) : metadata_validate(md, e))) < 0) {
		err_prefix(e, "%s", location);
		json_decref(md);
	}
	if (rc < 0) {
		buf_release(&b);
		return rc;
	}
	*len = b.len;
	*text = buf_detach(&b);
	*json = md;
	return 0;
}

static int
write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

static int
sync_folder_of(const char *path)
{
	char *folder = xstrndup(path, (size_t)(strrchr(path, '/') - path));
	int fd = open(*folder ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	free(folder);
	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

/*
 * Under its own name at once: no pointer leads to it before it is whole, and a rename would cost the file system's journal a
 * second commit.
 */
static int
write_synced(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), rc;

	if (fd < 0 && errno == ENOENT && fs_make_parents(path) == 0)
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	rc = write_all(fd, text, len);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	close(fd);
	if (rc == 0)
		rc = sync_folder_of(path);
	if (rc < 0)
		unlink(path);
	return rc;
}

int
warehouse_write(const char *location, const char *text, size_t len, struct err *e)
{
	char *path = warehouse_path(location, e);
	int rc;

	if (path == NULL)
		return e->code;
	rc = write_synced(path, text, len);
	free(path);
	return rc < 0 ? err_set(e, ERR_IO, "the table's metadata %s cannot be written: %s", location, strerror(-rc)) : 0;
}

int
warehouse_make_table(const char *location, struct err *e)
{
	static const char *const parts[] = { "data", "metadata" };
	char *path = warehouse_path(location, e), *folder;
	int rc = 0;

	if (path == NULL)
		return e->code;
	for (size_t i = 0; i < 2 && rc == 0; i++) {
		folder = xasprintf("%s/%s", path, parts[i]);
		rc = fs_make_folders(folder, 0755) < 0 ? -errno : 0;
		if (rc < 0)
			rc = err_set(e, ERR_IO, "the table's folder %s cannot be made: %s", folder, strerror(-rc));
		free(folder);
	}
	free(path);
	return rc;
}

static bool
folder_has_entries(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *d;
	bool found = false;

	while (dir && !found && (d = readdir(dir)))
		found = strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
	if (dir)
		closedir(dir);
	return found;
}

bool
warehouse_in_use(const char *location)
{
	char *path = warehouse_path(location, NULL), *data, *metadata;
	bool used;

	if (path == NULL)
		return false;
	data = xasprintf("%s/data", path);
	metadata = xasprintf("%s/metadata", path);
	used = folder_has_entries(data) || folder_has_entries(metadata);
	free(data);
	free(metadata);
	free(path);
	return used;
}

static int
on_purge_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	if (remove(path) < 0)
		log_warn("catalog: %s cannot be removed: %s", path, strerror(errno));
	return 0;
}

void
warehouse_purge(const char *warehouse, const char *table_location)
{
	char *root = warehouse_path(warehouse, NULL), *path = warehouse_path(table_location, NULL);
	char *real_root = root ? realpath(root, NULL) : NULL, *real = path ? realpath(path, NULL) : NULL;
	size_t n = real_root ? strlen(real_root) : 0;

	if (real_root && real && n > 1 && strncmp(real, real_root, n) == 0 && real[n] == '/')
		nftw(real, on_purge_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	else if (real)
		log_warn("catalog: the files in %s stay: they are outside of the warehouse %s", table_location, warehouse);
	free(root);
	free(path);
	free(real_root);
	free(real);
}
