/*
 * What a snapshot's manifests hold, as tables of the engine, for those who work on many files at once: compaction and the
 * rewriting of manifests. A manifest never changes, so each is read once, however often somebody else commits meanwhile.
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

#endif
