/* What a run did to tables, one commit a paragraph: it must fit a narrow terminal with two snapshot ids of 19 digits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/term.h"

/* "append", "made", "made, append", "dropped" */
static void
add_deed(struct buf *out, const json_t *commit)
{
	static const struct {
		const char *action, *word;
	} words[] = { { "create", "made" },    { "register", "registered" }, { "drop", "dropped" },
		      { "rename", "renamed" }, { "maintain", "maintained" }, { "commit", "" } };
	const char *action = text_of(commit, "action"), *operation = text_of(commit, "operation"), *word = action;

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(words[i].action, action) == 0)
			word = words[i].word;
	if (*word == '\0' && *operation == '\0')
		word = "changed"; /* its columns or properties: no rows */
	buf_addf(out, "%s%s%s", word, *word && *operation ? ", " : "", operation);
}

/* "+7 -2 rows"; nothing where nothing came or went. */
static void
add_counts(struct buf *out, const json_t *commit, const char *added, const char *removed, const char *one)
{
	long long plus = json_integer_value(json_object_get(commit, added)),
		  minus = json_integer_value(json_object_get(commit, removed));
	char number[32];

	if (plus == 0 && minus == 0)
		return;
	buf_adds(out, ",");
	if (plus)
		buf_addf(out, " +%s", term_number(plus, number));
	if (minus)
		buf_addf(out, " -%s", term_number(minus, number));
	buf_addf(out, " %s%s", one, plus + minus == 1 ? "" : "s");
}

char *
undone_words(const char *at, const char *by)
{
	char when[40];

	return xasprintf("undone%s%s%s%s", *at ? " " : "", *at ? term_when(at, when) : "", *by ? " by " : "", by);
}

/* Who sees it, where that is not everybody: "" or text. The caller frees it. */
static char *
state_words(const json_t *commit)
{
	const char *state = text_of(commit, "state");

	if (strcmp(state, "private") == 0)
		return xstrdup("seen by this run alone so far");
	if (strcmp(state, "abandoned") == 0)
		return xstrdup("given up, nobody sees it");
	if (strcmp(state, "rehearsed") == 0)
		return xstrdup("rehearsed, nobody sees it");
	if (strcmp(state, "undone") == 0)
		return undone_words(text_of(commit, "undone_at"), text_of(commit, "undone_by"));
	return xstrdup("");
}

static void
print_commit(FILE *f, const json_t *commit)
{
	const char *before = text_of(commit, "snapshot_before"), *after = text_of(commit, "snapshot_after");
	struct buf words = BUF_INIT;
	char *state = state_words(commit);

	add_deed(&words, commit);
	buf_addf(&words, " by %s", text_of(commit, "task"));
	add_counts(&words, commit, "rows_added", "rows_removed", "row");
	add_counts(&words, commit, "files_added", "files_removed", "file");
	fprintf(f, "  %s%s%s  %s\n", term_bold(f), text_of(commit, "table"), term_off(f), words.s);
	if (*after && strcmp(before, after) != 0)
		fprintf(f, "    %ssnapshot %s%s%s%s\n", term_dim(f), *before ? before : "none", " -> ", after, term_off(f));
	if (*state)
		fprintf(f, "    %s%s%s\n", term_state(f, "cancelled"), state, term_off(f));
	free(state);
	buf_release(&words);
}

int
print_written(FILE *f, struct client *c, const char *run)
{
	char *path = xasprintf("/api/v1/runs/%s/tables", run);
	json_t *list = NULL, *commit;
	int rc = client_do(c, "GET", path, NULL, &list);
	size_t i;

	free(path);
	if (rc == EXIT_OK && json_array_size(json_object_get(list, "items")))
		fprintf(f, "\n%stables that it wrote%s\n", term_dim(f), term_off(f));
	json_array_foreach (json_object_get(list, "items"), i, commit)
		print_commit(f, commit);
	json_decref(list);
	return rc;
}
