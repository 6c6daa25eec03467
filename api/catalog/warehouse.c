/* The warehouse's files. Everything here may block, so it is called in worker threads and touches no shared state. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/catalog/catalog_int.h"
#include "api/catalog/metadata.h"
#include "api/catalog/view.h"
#include "base/alloc.h"
#include "base/fs.h"
#include "base/gunzip.h"
#include "base/log.h"

#define METADATA_MAX (256u << 20)

/* One for the process, as long as it lasts: work in other threads may outlive the catalog. */
static struct storage *store;

int
warehouse_open(const json_t *s3, struct err *e)
{
	store = storage_new(s3, e);
	return store ? 0 : e->code;
}

struct storage *
warehouse_storage(void)
{
	return store;
}

/*
 * The daemon's own trouble with a file is none of the client's: it may come back when the store is away, and must not think that
 * its token is refused or that there is no table.
 */
static int
own_trouble(int rc, struct err *e, const char *what)
{
	if (rc < 0 && e) {
		if (e->code != ERR_UNAVAILABLE)
			e->code = ERR_IO;
		err_prefix(e, "%s", what);
	}
	return rc == 0 || rc == ERR_UNAVAILABLE ? rc : ERR_IO;
}

int
warehouse_read(const char *location, char **text, size_t *len, json_t **json, struct err *e)
{
	struct buf b = BUF_INIT_MAX(METADATA_MAX), packed;
	json_error_t je;
	json_t *md;
	int rc = own_trouble(storage_read(store, location, &b, e), e, "the table's metadata");

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
	rc = fs_write_all(fd, text, len) < 0 ? -errno : 0;
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	close(fd);
	if (rc == 0)
		rc = fs_sync_folder_of(path) < 0 ? -errno : 0;
	if (rc < 0)
		unlink(path);
	return rc;
}

int
warehouse_write(const char *location, const char *text, size_t len, struct err *e)
{
	char *path;
	int rc;

	if (storage_remote(location))
		return own_trouble(storage_write(store, location, text, len, STORAGE_NEW, e), e, "the table's metadata");
	if ((path = storage_path(location, e)) == NULL)
		return e->code;
	rc = write_synced(path, text, len);
	free(path);
	return rc < 0 ? err_set(e, ERR_IO, "the table's metadata %s cannot be written: %s", location, strerror(-rc)) : 0;
}

void
warehouse_remove(const char *location)
{
	struct err e = ERR_INIT;

	if (storage_remove(store, location, &e) < 0)
		log_warn("catalog: %s", e.msg);
	err_release(&e);
}

int
warehouse_make_table(const char *location, struct err *e)
{
	static const char *const parts[] = { "data", "metadata" };
	char *path, *folder;
	int rc = 0;

	if (storage_remote(location)) /* has no folders */
		return 0;
	if ((path = storage_path(location, e)) == NULL)
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

static int
on_any(const char *location, int64_t size, wall_us modified, void *arg)
{
	(void)location;
	(void)size;
	(void)modified;
	*(bool *)arg = true;
	return 1;
}

bool
warehouse_in_use(const char *location)
{
	static const char *const parts[] = { "data", "metadata" };
	bool used = false;

	for (size_t i = 0; i < 2 && !used; i++) {
		char *folder = xasprintf("%s/%s", location, parts[i]);
		struct err e = ERR_INIT;

		if (storage_list(store, folder, on_any, &used, &e) < 0)
			err_release(&e); /* what is written next will tell */
		free(folder);
	}
	return used;
}

/* One name for one place: a path, or s3://…; without a final slash. */
static char *
plain_name(const char *location)
{
	char *name = storage_remote(location) ? xasprintf("s3%s", strchr(location, ':')) : storage_path(location, NULL);

	for (size_t n = name ? strlen(name) : 0; n > 1 && name[n - 1] == '/'; n--)
		name[n - 1] = '\0';
	return name;
}

bool
warehouse_same(const char *a, const char *b)
{
	char *x = plain_name(a), *y = plain_name(b);
	bool same = x && y && strcmp(x, y) == 0;

	free(x);
	free(y);
	return same;
}

/* Where a place is really: links followed, if it is a folder here. */
static char *
real_name(const char *location)
{
	char *name = plain_name(location), *real;

	if (name == NULL || storage_remote(location))
		return name;
	real = realpath(name, NULL);
	free(name);
	return real;
}

void
warehouse_purge(const char *warehouse, const char *table_location)
{
	char *root = real_name(warehouse), *table = real_name(table_location);
	size_t n = root ? strlen(root) : 0;
	struct err e = ERR_INIT;

	if (root && table && n > 1 && strncmp(table, root, n) == 0 && table[n] == '/' && strstr(table, "/../") == NULL) {
		if (storage_remove_folder(store, table, NULL, &e) < 0)
			log_warn("catalog: the files of a dropped table stay: %s", e.msg);
	} else if (table) {
		log_warn("catalog: the files in %s stay: they are outside of the warehouse %s", table_location, warehouse);
	}
	err_release(&e);
	free(root);
	free(table);
}
