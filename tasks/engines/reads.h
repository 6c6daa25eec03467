/* How many bytes the engine read of which file, here or on S3: its own log says so, read by read, so this is what was asked of
 * the file system or the store, whatever caches lie below. */
#ifndef TASKS_ENGINES_READS_H
#define TASKS_ENGINES_READS_H

#include <jansson.h>

/* An entry of the engine's log of its file systems; any of its threads may call. */
void reads_note(const char *entry);
/* From here on. */
void reads_start(void);
/* Location to bytes, while no statement runs. The caller's reference. */
json_t *reads_files(void);

#endif
