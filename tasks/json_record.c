#include "tasks/json_record.h"

#include <stdlib.h>
#include <string.h>

/* Is the field read as text? `key` is as JSON has it. */
static bool
is_text(const json_t *texts, struct json_text key)
{
	char *name;
	bool found;

	if (memchr(key.s, '\\', key.len) == NULL)
		return json_object_getn(texts, key.s + 1, key.len - 2) != NULL;
	name = json_text_scalar(key);
	found = name && json_object_get(texts, name);
	free(name);
	return found;
}

/* Is a record one line without escapes, so that most of it is added as it stands? */
static bool
is_simple(struct json_text record)
{
	return memchr(record.s, '\\', record.len) == NULL && memchr(record.s, '\n', record.len) == NULL &&
	       memchr(record.s, '\r', record.len) == NULL;
}

/* The members of a simple record, and the bracket behind them. */
static void
add_simple(struct buf *line, struct json_text record, const json_t *texts)
{
	const char *from = record.s + 1;
	struct json_text key, value;
	size_t at = 0;

	while (json_text_next(record, &at, &key, &value)) {
		bool number = *value.s == '-' || (*value.s >= '0' && *value.s <= '9'), parts = *value.s == '{' || *value.s == '[';

		if (!parts && !(number && is_text(texts, key)))
			continue;
		buf_add(line, from, (size_t)(value.s - from));
		if (number)
			buf_addc(line, '"');
		json_text_add(line, value);
		if (number)
			buf_addc(line, '"');
		from = value.s + value.len;
	}
	buf_add(line, from, (size_t)(record.s + record.len - from));
}

size_t
json_record_add(struct buf *line, struct json_text record, const json_t *texts, const char *first)
{
	struct json_text key, value;
	const char *sep = "";
	size_t at = 0, halves = 0;

	if (first == NULL && json_object_size(texts) == 0)
		return json_text_add(line, record);
	buf_addc(line, '{');
	if (first) {
		buf_adds(line, first);
		sep = json_text_next(record, &at, NULL, &value) ? "," : "";
	}
	if (is_simple(record)) {
		buf_adds(line, sep);
		add_simple(line, record, texts);
		return 0;
	}
	at = 0;
	if (first)
		sep = ",";
	while (json_text_next(record, &at, &key, &value)) {
		bool number = *value.s == '-' || (*value.s >= '0' && *value.s <= '9'), quote = number && is_text(texts, key);

		buf_adds(line, sep);
		halves += json_text_add(line, key);
		buf_adds(line, quote ? ":\"" : ":");
		halves += json_text_add(line, value);
		buf_adds(line, quote ? "\"" : "");
		sep = ",";
	}
	buf_addc(line, '}');
	return halves;
}
