/* Nearest names by edit distance (insert, delete, replace, swap of neighbours), after a small table of other tools' words. */
#include "flows/suggest.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"

#define NAME_MAX_COMPARED 64
#define NAMES_LISTED      30

/* What people coming from other orchestrators type, and our word for it. */
static const struct {
	const char *theirs, *ours;
} synonyms[] = {
	{ "steps", "tasks" },
	{ "jobs", "tasks" },
	{ "needs", "depends_on" },
	{ "depends", "depends_on" },
	{ "dependsOn", "depends_on" },
	{ "upstream", "depends_on" },
	{ "after", "depends_on" },
	{ "inputs", "params" },
	{ "parameters", "params" },
	{ "retries", "retry" },
	{ "retry_policy", "retry" },
	{ "if", "when" },
	{ "condition", "when" },
	{ "cmd", "command" },
	{ "run", "command" },
	{ "script", "command" },
	{ "name", "id" },
	{ "tags", "labels" },
	{ "disabled", "enabled" },
	{ "variables", "vars" },
	{ "environment", "env" },
	{ "query", "sql" },
	{ "to", "into" },
	{ "separator", "delimiter" },
	{ "limit", "max_attempts" },
	{ "delay", "interval" },
	{ "cwd", "working_dir" },
	{ "workdir", "working_dir" },
	{ "tz", "timezone" },
	{ "shell", "command" },
	{ "bash", "command" },
	{ "transform", "curate" },
	{ "load", "publish" },
	{ "extract", "stage" },
	{ "test", "validate" },
	{ "optimize", "maintain" },
	{ "vacuum", "maintain" },
	{ "housekeeping", "maintain" },
	{ "check", "validate" },
	{ "number", "float" },
	{ "integer", "int" },
	{ "boolean", "bool" },
	{ "text", "string" },
};

static int
edit_distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	int rows[3][NAME_MAX_COMPARED + 1];

	if (la > NAME_MAX_COMPARED || lb > NAME_MAX_COMPARED)
		return NAME_MAX_COMPARED;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (int)j;
	for (size_t i = 1; i <= la; i++) {
		int *cur = rows[i % 3], *prev = rows[(i + 2) % 3], *prev2 = rows[(i + 1) % 3];

		cur[0] = (int)i;
		for (size_t j = 1; j <= lb; j++) {
			int best = prev[j - 1] + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));

			if (prev[j] + 1 < best)
				best = prev[j] + 1;
			if (cur[j - 1] + 1 < best)
				best = cur[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && prev2[j - 2] + 1 < best)
				best = prev2[j - 2] + 1;
			cur[j] = best;
		}
	}
	return rows[la % 3][lb];
}

const char *
suggest(const char *typed, const char *const *names, size_t count)
{
	int best = (int)strlen(typed) / 3 + 1;
	const char *found = NULL;

	for (size_t s = 0; s < sizeof(synonyms) / sizeof(synonyms[0]); s++) {
		if (strcasecmp(typed, synonyms[s].theirs) != 0)
			continue;
		for (size_t i = 0; i < count; i++) {
			if (strcmp(names[i], synonyms[s].ours) == 0)
				return names[i];
		}
	}
	for (size_t i = 0; i < count; i++) {
		int d = edit_distance(typed, names[i]);

		/* A short name must not be "near" to everything. */
		if (d < best + (found == NULL) && d < (int)strlen(names[i])) {
			best = d;
			found = names[i];
		}
	}
	return found;
}

void
suggest_hint(struct buf *out, const char *typed, const char *const *names, size_t count, const char *known)
{
	const char *near = suggest(typed, names, count);

	if (near) {
		buf_addf(out, "; did you mean \"%s\"?", near);
	} else if (count > 0) {
		buf_addf(out, "; %s: ", known);
		for (size_t i = 0; i < count && i < NAMES_LISTED; i++)
			buf_addf(out, "%s%s", i ? ", " : "", names[i]);
		if (count > NAMES_LISTED)
			buf_adds(out, ", …");
	}
}

void
suggest_hint_keys(struct buf *out, const char *typed, const json_t *object, const char *known)
{
	size_t count = json_object_size(object), i = 0;
	const char **names = xcalloc(count + 1, sizeof(*names));

	for (void *it = json_object_iter((json_t *)object); it; it = json_object_iter_next((json_t *)object, it))
		names[i++] = json_object_iter_key(it);
	suggest_hint(out, typed, names, count, known);
	free(names);
}
