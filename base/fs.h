/* Folders, made with their parents and removed with what is in them; bytes that are to be on disk. */
#ifndef BASE_FS_H
#define BASE_FS_H

#include <sys/types.h>

#include "base/err.h"

/* Makes every missing folder of `path`: parents with 0755, the last one with `mode`. 0, or -1 with errno set. */
MUSTCHECK int fs_make_folders(const char *path, mode_t mode);
/* The same for the folder that the file `path` will lie in. */
MUSTCHECK int fs_make_parents(const char *path);
/* Writes all of it, whatever signals come. 0, or -1 with errno set. */
MUSTCHECK int fs_write_all(int fd, const char *data, size_t len);
/* Makes the name of the file `path` last: syncs its folder. 0, or -1 with errno set. */
MUSTCHECK int fs_sync_folder_of(const char *path);
/* Removes a file, or a folder and everything in it, following no link; what is not there is no error. */
void fs_remove_tree(const char *path);

#endif
