#include "tasks/engines/installed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/sha256.h"

static bool
newer(const struct stat *a, const struct stat *b)
{
	return a->st_mtim.tv_sec != b->st_mtim.tv_sec ? a->st_mtim.tv_sec > b->st_mtim.tv_sec
						      : a->st_mtim.tv_nsec > b->st_mtim.tv_nsec;
}

static int
file_hash(const char *path, char out[SHA256_HEX])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = -1;
	struct stat st;
	void *data;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && (data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) != MAP_FAILED) {
		sha256_hex(data, (size_t)st.st_size, out);
		munmap(data, (size_t)st.st_size);
		rc = 0;
	}
	close(fd);
	return rc;
}

/* One line of the list: the hash, two blanks, the name. Sets `read` when the file had to be. */
static int
line_check(const char *libdir, const struct stat *list, char *line, bool *read, char **why)
{
	char *name = strstr(line, "  "), *path, have[SHA256_HEX];
	struct stat st;
	int rc = 0;

	if (name == NULL)
		return 0;
	*name = '\0';
	path = xasprintf("%s/%s", libdir, name + 2);
	if (stat(path, &st) < 0) {
		*why = xasprintf("%s: %s; `make deps` installs it", path, strerror(errno));
		rc = -1;
	} else if (newer(&st, list)) {
		*read = true;
		if (file_hash(path, have) < 0) {
			*why = xasprintf("%s cannot be read: %s", path, strerror(errno));
			rc = -1;
		} else if (strcmp(have, line) != 0) {
			*why = xasprintf(
				"%s is not the file that was installed (its SHA-256 is %.12s…, not %.12s…); remove the folder "
				"and install it again (`make deps`)",
				path, have, line);
			rc = -1;
		}
	}
	free(path);
	return rc;
}

int
installed_check(const char *libdir, char **why)
{
	char *path = xasprintf("%s/SHA256SUMS", libdir), *next = NULL;
	struct buf b = BUF_INIT;
	bool read = false;
	struct stat list;
	int rc = 0;

	if (stat(path, &list) < 0 || buf_add_file(&b, path) < 0) {
		*why = xasprintf("%s is not there: nobody knows whether the engine's files are the right ones", path);
	} else {
		for (char *line = strtok_r(b.s, "\n", &next); line && rc == 0; line = strtok_r(NULL, "\n", &next))
			rc = line_check(libdir, &list, line, &read, why);
		if (rc == 0 && read)
			(void)utimensat(AT_FDCWD, path, NULL, 0); /* a folder that is not ours to write is read again next time */
	}
	buf_release(&b);
	free(path);
	return rc;
}
