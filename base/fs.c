#include "base/fs.h"

#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

int
fs_make_parents(const char *path)
{
	char *copy = xstrdup(path);
	int rc = 0;

	for (char *p = *copy ? copy + 1 : copy; *p && rc == 0; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			rc = -1;
		*p = '/';
	}
	free(copy);
	return rc;
}

int
fs_make_folders(const char *path, mode_t mode)
{
	/* The parents are mostly there. */
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
	nftw(path, fs_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}
