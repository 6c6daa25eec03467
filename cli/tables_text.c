#include "cli/tables_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/names.h"
#include "cli/term.h"

#define NUMBER_TEXT 32

/* "10,000,000"; "?" where nobody knows without reading. */
static const char *
number_of(const json_t *object, const char *key, char out[NUMBER_TEXT])
{
	const json_t *n = json_object_get(object, key);

	return json_is_integer(n) ? term_number(json_integer_value(n), out) : "?";
}

static const char *
bytes_of(const json_t *object, const char *key, char out[NUMBER_TEXT])
{
	const json_t *n = json_object_get(object, key);

	return json_is_integer(n) ? term_bytes(json_integer_value(n), out) : "?";
}

/* "2026-11-21 06:00:00.123", as --at takes it; the caller frees it. */
static char *
time_of(const json_t *object, const char *key)
{
	char *s = xstrdup(text_of(object, key));

	if (strlen(s) >= 23) {
		s[10] = ' ';
		s[23] = '\0';
	}
	return s;
}

static void
print_rows(const char *const *headers, size_t n, json_t *rows, const char *right, const char *none)
{
	if (json_array_size(rows))
		term_table(stdout, headers, n, rows, right);
	else
		fprintf(stderr, "%s\n", none);
	json_decref(rows);
}

/* ---- lists ---- */

void
print_tables(const json_t *items)
{
	static const char *const headers[] = { "TABLE", "ROWS", "SIZE", "CHANGED", "SNAPSHOT" };
	char rows_text[NUMBER_TEXT], bytes[NUMBER_TEXT], when[40];
	json_t *rows = json_array(), *item;
	size_t i;

	json_array_foreach (items, i, item)
		if (json_object_get(item, "error"))
			json_array_append_new(rows, json_pack("[s,s,s,s,s]", text_of(item, "name"), "?", "?", "cannot be read",
							      text_of(item, "error")));
		else
			json_array_append_new(rows, json_pack("[s,s,s,s,s]", text_of(item, "name"),
							      number_of(item, "rows", rows_text), bytes_of(item, "bytes", bytes),
							      term_when(text_of(item, "changed_at"), when),
							      json_is_null(json_object_get(item, "snapshot_id"))
								      ? "no rows yet"
								      : text_of(item, "snapshot_id")));
	print_rows(headers, 5, rows, "lrrll", "no tables yet");
}

void
print_history(const json_t *items)
{
	static const char *const headers[] = { "CURRENT SINCE (UTC)", "SNAPSHOT", "OPERATION", "ROWS", "" };
	json_t *rows = json_array(), *item;
	char number[NUMBER_TEXT];
	size_t i;

	json_array_foreach (items, i, item) {
		char *since = time_of(item, "at");
		bool gone = *text_of(item, "operation") == '\0';
		const char *note = json_is_true(json_object_get(item, "current"))     ? "current"
				   : gone                                             ? "expired"
				   : json_is_false(json_object_get(item, "ancestor")) ? "rolled back"
										      : "";

		json_array_append_new(rows,
				      json_pack("[s,s,s,s,s]", since, text_of(item, "snapshot_id"), text_of(item, "operation"),
						gone ? "" : number_of(item, "rows", number), note));
		free(since);
	}
	print_rows(headers, 5, rows, "lllrl", "it has no history: no rows were written yet");
}

/* "+3 -1": what a snapshot did. */
static char *
change_of(const json_t *item)
{
	long long added = json_integer_value(json_object_get(item, "rows_added")),
		  gone = json_integer_value(json_object_get(item, "rows_deleted"));
	char a[NUMBER_TEXT], b[NUMBER_TEXT];

	if (added && gone)
		return xasprintf("+%s -%s", term_number(added, a), term_number(gone, b));
	if (gone)
		return xasprintf("-%s", term_number(gone, b));
	return xasprintf("+%s", term_number(added, a));
}

/* "12 of 30": so many could be fewer; "30" where none could. The caller's reference. */
static json_t *
some_of(const json_t *item, const char *key, const char *all)
{
	char some[NUMBER_TEXT], total[NUMBER_TEXT];

	number_of(item, all, total);
	if (json_integer_value(json_object_get(item, key)) == 0)
		return json_string(total);
	return json_sprintf("%s of %s", number_of(item, key, some), total);
}

void
print_health(const json_t *items)
{
	static const char *const headers[] = {
		"TABLE", "HEALTH", "SIZE", "FILES (SMALL)", "AVERAGE", "DELETES", "SNAPSHOTS (OLD)"
	};
	char size[NUMBER_TEXT], average[NUMBER_TEXT], deletes[NUMBER_TEXT];
	json_t *rows = json_array(), *item;
	size_t i;

	json_array_foreach (items, i, item)
		if (json_object_get(item, "error"))
			json_array_append_new(rows, json_pack("[s,s,s,s,s,s,s]", text_of(item, "table"), "?", "?", "?", "?", "?",
							      text_of(item, "error")));
		else
			json_array_append_new(
				rows,
				json_pack("[s,o,s,o,s,s,o]", text_of(item, "table"),
					  json_sprintf("%lld", (long long)json_integer_value(json_object_get(item, "score"))),
					  bytes_of(item, "bytes", size), some_of(item, "small_files", "files"),
					  bytes_of(item, "average_file_bytes", average), number_of(item, "delete_files", deletes),
					  some_of(item, "expirable_snapshots", "snapshots")));
	print_rows(headers, 7, rows, "lrrrrrr", "no tables");
}

void
print_snapshots(const json_t *items)
{
	static const char *const headers[] = { "SNAPSHOT", "MADE", "OPERATION", "ROWS", "RUN (REFS)" };
	json_t *rows = json_array(), *item;
	char when[40];
	size_t i;

	json_array_foreach (items, i, item) {
		char *change = change_of(item), *refs = names_joined(json_object_get(item, "refs"), ", ");
		const char *run = text_of(item, "run");

		json_array_append_new(
			rows, json_pack("[s,s,s,s,o]", text_of(item, "snapshot_id"), term_when(text_of(item, "at"), when),
					text_of(item, "operation"), change,
					json_sprintf("%s%s%s%s", run, *refs ? *run ? " (" : "(" : "", refs, *refs ? ")" : "")));
		free(change);
		free(refs);
	}
	print_rows(headers, 5, rows, "lllrl", "it has no snapshots: no rows were written yet");
}

/* "kept 30d": how long; "" for ever. The caller frees it. */
static char *
retention_of(const json_t *ref)
{
	static const struct {
		const char *key, *words;
	} kept[] = { { "max_ref_age_ms", "kept" }, { "max_snapshot_age_ms", "its snapshots" } };
	const json_t *least = json_object_get(ref, "min_snapshots_to_keep");
	struct buf b = BUF_INIT;

	for (size_t i = 0; i < 2; i++) {
		const json_t *ms = json_object_get(ref, kept[i].key);
		long long hours = json_integer_value(ms) / 3600000;

		if (!json_is_integer(ms))
			continue;
		buf_addf(&b, "%s%s ", b.len ? ", " : "", kept[i].words);
		if (hours && hours % 24 == 0)
			buf_addf(&b, "%lldd", hours / 24);
		else
			buf_addf(&b, "%lldh", hours);
	}
	if (json_is_integer(least))
		buf_addf(&b, "%sat least %" JSON_INTEGER_FORMAT " snapshots", b.len ? ", " : "", json_integer_value(least));
	return buf_detach(&b);
}

void
print_refs(const json_t *items)
{
	static const char *const headers[] = { "NAME", "TYPE", "SNAPSHOT", "OF (UTC)", "RETENTION" };
	json_t *rows = json_array(), *item;
	size_t i;

	json_array_foreach (items, i, item) {
		char *kept = retention_of(item), *at = time_of(item, "at");

		json_array_append_new(rows, json_pack("[s,s,s,s,s]", text_of(item, "name"), text_of(item, "type"),
						      text_of(item, "snapshot_id"), at, kept));
		free(kept);
		free(at);
	}
	print_rows(headers, 5, rows, "lllll", "it has no branches and no tags: no rows were written yet");
}

/* ---- files ---- */

static const char *
base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* "region=eu, day=2026-11-21"; the caller frees it. */
static char *
partition_of(const json_t *item)
{
	json_t *partition = json_object_get(item, "partition"), *value;
	struct buf b = BUF_INIT;
	const char *key;

	json_object_foreach (partition, key, value) {
		char *text = json_is_string(value) ? xstrdup(json_string_value(value)) : json_dumps(value, JSON_ENCODE_ANY);

		buf_addf(&b, "%s%s=%s", b.len ? ", " : "", key, text);
		free(text);
	}
	return buf_detach(&b);
}

void
print_files(const json_t *items)
{
	static const char *const headers[] = { "FILE", "CONTENT", "ROWS", "SIZE", "PARTITION" };
	char number[NUMBER_TEXT], bytes[NUMBER_TEXT];
	json_t *rows = json_array(), *item;
	size_t i;

	json_array_foreach (items, i, item) {
		char *partition = partition_of(item);

		json_array_append_new(rows, json_pack("[s,s,s,s,s]", base_name(text_of(item, "file_path")),
						      text_of(item, "content"), number_of(item, "record_count", number),
						      bytes_of(item, "file_size_in_bytes", bytes), partition));
		free(partition);
	}
	print_rows(headers, 5, rows, "llrrl", "it has no files: no rows are in it");
}

void
print_partitions(const json_t *items)
{
	static const char *const headers[] = { "PARTITION", "ROWS", "FILES", "SIZE", "DELETED ROWS" };
	char number[NUMBER_TEXT], files[NUMBER_TEXT], bytes[NUMBER_TEXT], gone[NUMBER_TEXT];
	json_t *rows = json_array(), *item;
	size_t i;

	json_array_foreach (items, i, item) {
		char *partition = partition_of(item);

		json_array_append_new(rows,
				      json_pack("[s,s,s,s,s]", *partition ? partition : "(not partitioned)",
						number_of(item, "record_count", number), number_of(item, "file_count", files),
						bytes_of(item, "total_data_file_size_in_bytes", bytes),
						number_of(item, "position_delete_record_count", gone)));
		free(partition);
	}
	print_rows(headers, 5, rows, "lrrrr", "it has no partitions: no rows are in it");
}

void
print_manifests(const json_t *items)
{
	static const char *const headers[] = { "MANIFEST", "CONTENT", "ADDED", "KEPT", "GONE", "SIZE" };
	char added[NUMBER_TEXT], kept[NUMBER_TEXT], gone[NUMBER_TEXT], bytes[NUMBER_TEXT];
	json_t *rows = json_array(), *item;
	size_t i;

	json_array_foreach (items, i, item)
		json_array_append_new(rows,
				      json_pack("[s,s,s,s,s,s]", base_name(text_of(item, "path")), text_of(item, "content"),
						number_of(item, "added_files_count", added),
						number_of(item, "existing_files_count", kept),
						number_of(item, "deleted_files_count", gone), bytes_of(item, "length", bytes)));
	print_rows(headers, 6, rows, "llrrrr", "it has no manifests: no rows were written yet");
}

/* ---- one table ---- */

static void
print_columns(const json_t *schema)
{
	static const char *const headers[] = { "COLUMN", "TYPE", "", "COMMENT" };
	json_t *rows = json_array(), *field, *fields = json_object_get(schema, "fields");
	size_t i;

	json_array_foreach (fields, i, field)
		json_array_append_new(rows, json_pack("[s,s,s,s]", text_of(field, "name"), text_of(field, "type"),
						      json_is_true(json_object_get(field, "required")) ? "required" : "",
						      text_of(field, "doc")));
	print_rows(headers, 4, rows, "llll", "it has no columns");
}

void
print_schema(const json_t *schema)
{
	print_columns(schema);
	fflush(stdout);
	if (json_is_false(json_object_get(schema, "current")))
		fputs("the table's present schema is another one\n", stderr);
}

static void
print_line(const char *label, const char *text)
{
	printf("  %s%-11s%s %s\n", term_dim(stdout), label, term_off(stdout), text);
}

/* "day(at), region" or "none"; the caller frees it. */
static char *
fields_text(const json_t *fields, bool order)
{
	struct buf b = BUF_INIT;
	json_t *f;
	size_t i;

	json_array_foreach (fields, i, f) {
		const char *transform = text_of(f, "transform"), *column = text_of(f, "column");

		buf_adds(&b, i ? ", " : "");
		if (strcmp(transform, "identity") == 0)
			buf_adds(&b, column);
		else
			buf_addf(&b, "%s(%s)", transform, column);
		if (order && strcmp(text_of(f, "direction"), "desc") == 0)
			buf_adds(&b, " descending");
	}
	if (b.len == 0)
		buf_adds(&b, "none");
	return buf_detach(&b);
}

/* The names of one type of ref; the caller frees it. */
static char *
refs_text(const json_t *refs, const char *type)
{
	json_t *names = json_array(), *ref;
	size_t i;
	char *text;

	json_array_foreach (refs, i, ref)
		if (strcmp(text_of(ref, "type"), type) == 0)
			json_array_append(names, json_object_get(ref, "name"));
	text = names_joined(names, ", ");
	json_decref(names);
	return text;
}

static void
print_state(const json_t *table)
{
	const json_t *s = json_object_get(table, "current_snapshot");
	char rows[NUMBER_TEXT], files[NUMBER_TEXT], bytes[NUMBER_TEXT], when[40], *text;
	const char *run = text_of(s, "run");

	if (json_is_null(s)) {
		print_line("rows", "none were written yet");
		return;
	}
	text = xasprintf("%s in %s file%s, %s", number_of(table, "rows", rows), number_of(table, "files", files),
			 json_integer_value(json_object_get(table, "files")) == 1 ? "" : "s", bytes_of(table, "bytes", bytes));
	print_line("rows", text);
	free(text);
	text = xasprintf("%s, made %s by %s%s%s", text_of(s, "snapshot_id"), term_when(text_of(s, "at"), when),
			 text_of(s, "operation"), *run ? " of run " : "", run);
	print_line("snapshot", text);
	free(text);
	text = xasprintf("%" JSON_INTEGER_FORMAT " snapshots kept; `sluice tables history %s`",
			 json_integer_value(json_object_get(table, "snapshots")), text_of(table, "name"));
	print_line("history", text);
	free(text);
}

void
print_table(const json_t *table)
{
	const json_t *refs = json_object_get(table, "refs"), *properties = json_object_get(table, "properties");
	json_t *value;
	const char *key, *label = "properties";
	char *text;

	printf("%s%s%s\n", term_bold(stdout), text_of(table, "name"), term_off(stdout));
	print_state(table);
	for (size_t i = 0; i < 2; i++) {
		text = refs_text(refs, i ? "tag" : "branch");
		if (*text)
			print_line(i ? "tags" : "branches", text);
		free(text);
	}
	text = fields_text(json_object_get(json_object_get(table, "partition_spec"), "fields"), false);
	print_line("partitions", text);
	free(text);
	text = fields_text(json_object_get(json_object_get(table, "sort_order"), "fields"), true);
	print_line("sort order", text);
	free(text);
	text = xasprintf("Iceberg %" JSON_INTEGER_FORMAT " at %s", json_integer_value(json_object_get(table, "format_version")),
			 text_of(table, "location"));
	print_line("format", text);
	free(text);
	json_object_foreach ((json_t *)(uintptr_t)properties, key, value) {
		text = xasprintf("%s = %s", key, json_string_value(value) ? json_string_value(value) : "");
		print_line(label, text);
		label = "";
		free(text);
	}
	putchar('\n');
	print_columns(json_object_get(table, "schema"));
}
