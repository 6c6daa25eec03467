/*
 * The files in a table's folder: what lies there, what of it somebody needs, and the removal of the rest, of which only that goes
 * whose `kind` says so. What leads to other files goes after them, metadata last: while that is there, all can be done again.
 */
#ifndef TASKS_FOLDER_H
#define TASKS_FOLDER_H

#include <uthash.h>

#include "tasks/context.h"

struct reach;

/* What a file is that may go; removed in this order. */
enum folder_kind { FOLDER_OTHER, FOLDER_DATA, FOLDER_MANIFEST, FOLDER_LIST, FOLDER_METADATA };

struct folder_file {
	char *location, *name; /* name: the location in the one spelling that names are compared in */
	int64_t size;
	wall_us modified;
	enum folder_kind kind; /* FOLDER_OTHER stays */
	bool needed, gone;
	bool old; /* it may go whatever its age */
	UT_hash_handle hh;
};

struct folder {
	struct context *cx;
	const char *location; /* borrowed */
	wall_us until;        /* nothing younger goes; what is needed was looked up later than that */
	struct folder_file *files;
	json_t *tables; /* set: the UUIDs of the tables that folder_need was told of */
	bool young;     /* something stays because of its age */
	bool pretend;   /* nothing is removed, it is only counted */
	json_int_t removed, bytes;
};

/* Lists the folder; all files are FOLDER_OTHER. 0, or -1 with the error set, as everywhere here. */
MUSTCHECK int folder_list(struct folder *f);
/* The file of that name, however it is spelled; NULL: none in the folder. */
struct folder_file *folder_file(struct folder *f, const char *location);
/* What its name says that it is. */
enum folder_kind folder_kind_of(const char *location);
/* Marks what these metadata files lead to as needed. `may_be_gone`: one that is not there leads to nothing. */
MUSTCHECK int folder_need(struct folder *f, struct reach *r, const json_t *metadata, bool may_be_gone);
/*
 * What these metadata files lead to, of which some may be gone, and is not needed may go, whatever its age: it was the table's
 * once. After everything that is needed was marked. A table that was dropped since, or took another's name, keeps its files.
 */
MUSTCHECK int folder_expire(struct folder *f, const json_t *metadata);
/* The same for metadata that was read already. */
MUSTCHECK int folder_need_table(struct folder *f, struct reach *r, const char *location, const json_t *md);
/* What reaches into the folder, for folder_need. */
struct reach *folder_reach(struct folder *f);
/* For reach_lenient: is the file in the folder? */
bool folder_has(void *arg, const char *location);
/* Removes what may go. With `removed` and `bytes` counted also when it fails. */
MUSTCHECK int folder_remove(struct folder *f);
void folder_release(struct folder *f);

#endif
