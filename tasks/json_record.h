/* Records of JSON as lines that the engine reads, with what it must not take for a double as texts. Pure. */
#ifndef TASKS_JSON_RECORD_H
#define TASKS_JSON_RECORD_H

#include <jansson.h>

#include "base/buf.h"
#include "tasks/json_text.h"

/*
 * Adds a record, an object that was checked, in one line; without a newline. The engine takes a number with a fraction for a
 * double; of the fields in the set `texts` it gets what was written, as a text. `first` (NULL: nothing) is a member that comes
 * before the record's own. Returns how many halves of characters there were, see json_text_add.
 */
size_t json_record_add(struct buf *line, struct json_text record, const json_t *texts, const char *first);

#endif
