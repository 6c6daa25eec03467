#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

int
fs_make_parents(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *parent;
	int rc;

	if (slash == NULL || slash == path)
		return 0;
	parent = xstrndup(path, (size_t)(slash - path));
	rc = fs_make_folders(parent, 0755);
	free(parent);
	return rc;
}

int
fs_make_folders(const char *path, mode_t mode)
{
	/* From the end: the parents are mostly there. */
	if (mkdir(path, mode) == 0 || errno == EEXIST)
		return 0;
	if (errno != ENOENT || fs_make_parents(path) < 0)
		return -1;
	return mkdir(path, mode) < 0 && errno != EEXIST ? -1 : 0;
}

static int
fs_remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)ftw;
	return type == FTW_DP || type == FTW_D ? rmdir(path) : unlink(path);
}

void
fs_remove_tree(const char *path)
{
	/* Most scratch folders are empty: one call instead of seven. */
	if (rmdir(path) < 0 && errno != ENOENT)
		nftw(path, fs_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

int
fs_write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int
fs_sync_folder_of(const char *path)
{
	char *folder = xstrndup(path, (size_t)(strrchr(path, '/') - path));
	int fd = open(*folder ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc, saved;

	free(folder);
	if (fd < 0)
		return -1;
	rc = fsync(fd);
	saved = errno;
	close(fd);
	errno = saved;
	return rc;
}
