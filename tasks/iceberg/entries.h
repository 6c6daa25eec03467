/*
 * What a snapshot's manifests hold, as tables of the engine, for those who work on many files at once: compaction and the
 * merging of manifests. A manifest never changes, so each is read once, however often somebody else commits meanwhile.
 *
 *     sluice_list               the manifest list, as list_select gives it
 *     sluice_live               view: every live entry: spec, manifest, kind (0 data, 1 position deletes, 2 equality deletes),
 *                               file_path, record_count, file_size_in_bytes, sequence_number, part (its partition as one text),
 *                               texts (the partition's values as text), sort_order_id, file_format, snapshot_id
 *     sluice_gone               file_path: the files that the next commit takes out; made by who calls
 */
#ifndef TASKS_ICEBERG_ENTRIES_H
#define TASKS_ICEBERG_ENTRIES_H

#include "tasks/iceberg/write_int.h"

/* Fields of a data_file that are the same in every spec, beside its content and partition. */
#define ENTRY_FIELDS 18
extern const struct entry_field {
	const char *name, *type; /* type: in SQL */
} entry_fields[ENTRY_FIELDS];

/* The spec of that id; NULL with the error set when the table has none. Borrowed. */
json_t *entries_spec(struct writer *wr, json_int_t id);
/* Adds a SELECT of no rows with every column of a manifest's, so that what a manifest lacks is there. */
MUSTCHECK int entries_template(struct writer *wr, const json_t *spec, struct buf *b);
/* Reads what was not read yet of the writer's current snapshot, which it must have. 0, or -1 with the error set. */
MUSTCHECK int entries_read(struct writer *wr);
/* Forgets what was read: for the next table. */
void entries_forget(struct writer *wr);
/*
 * Writes a manifest of those live entries for which `where` (SQL over sluice_live's columns) holds, each as existing, and adds it
 * to `list`. Nothing is added when there are none.
 */
MUSTCHECK int entries_manifest(struct writer *wr, struct commit *c, json_int_t spec, bool deletes, const char *where,
			       const char *path, struct buf *list);
/*
 * The old manifests of a commit that takes sluice_gone out, or (WRITE_MANIFESTS) only merges those in sluice_merge: those that it
 * touches are written anew, the others stay. ERR_CONFLICT when a file is not there any more, or has got deletes meanwhile.
 */
MUSTCHECK int entries_commit(struct writer *wr, struct commit *c, struct buf *list);
/*
 * The same after somebody else committed first: with the manifests of the try before, if those that they replace are all still
 * there, so that a try takes as long as its list, and others who commit all the time do not keep it from ever landing.
 * 1: they are in `list`, and `c` is what it was; 0: they are of no use, and gone; -1 with the error set, as entries_commit.
 */
MUSTCHECK int entries_again(struct writer *wr, struct commit *c, struct buf *list);
/*
 * The old manifests of a commit that only adds files, where these have become many: some of them in one, as the table's
 * commit.manifest-merge.enabled and commit.manifest.min-count-to-merge (100) say. New files are in no merged manifest, so that
 * the commit can be given another place (rebase.c). True: the old manifests are in `list`, merged or not. False: there are
 * few of them, or merging cannot be done, which is no reason to refuse the new rows: a warning is in the log; `list` is as it
 * was. A transaction of the engine's may be over.
 */
bool entries_append(struct writer *wr, struct commit *c, struct buf *list);

#endif
