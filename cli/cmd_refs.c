/* Which state of a table has which name: roll back, tags, branches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/tables_text.h"
#include "cli/term.h"

/* Tells what a ref is now and was before. */
static void
print_change(const json_t *answer)
{
	const char *now = text_or_null(answer, "snapshot_id"), *before = text_or_null(answer, "before");

	printf("%s: %s %s ", text_or_null(answer, "table"), text_or_null(answer, "type"), text_or_null(answer, "name"));
	if (now == NULL)
		printf("removed; it was at %s\n", before);
	else if (before == NULL)
		printf("made at %s\n", now);
	else if (strcmp(now, before) == 0)
		printf("is at %s, as before\n", now);
	else
		printf("is at %s now, was at %s\n", now, before);
}

/* One request whose answer is what a ref became; `body` is taken over. */
static int
change(const struct args *a, const char *method, const char *path, json_t *body, json_t **out)
{
	struct client *c = client_open(a);
	json_t *answer = NULL;
	int rc = client_do(c, method, path, body, &answer);

	if (rc == EXIT_OK && a->json)
		print_json(answer);
	else if (rc == EXIT_OK)
		print_change(answer);
	if (out)
		*out = answer;
	else
		json_decref(answer);
	client_close(c);
	return rc;
}

int
cmd_rollback(const struct args *a)
{
	json_t *body = json_pack("{s:s?}", "to", a->to), *answer = NULL;
	const char *before;
	char *path;
	int rc;

	if (a->to == NULL || body == NULL) {
		json_decref(body);
		return refuse("`sluice tables history TABLE` lists the states it had",
			      "say which state with --to: a snapshot id, a time, a tag or `previous`");
	}
	path = table_path(a->operands[0], "/rollback");
	rc = change(a, "POST", path, body, &answer);
	before = text_or_null(answer, "before");
	if (rc == EXIT_OK && !a->json && before && strcmp(before, text_or_null(answer, "snapshot_id")) != 0)
		fprintf(stderr, "%sto take that back: sluice rollback %s --to %s%s\n", term_dim(stderr),
			text_or_null(answer, "table"), before, term_off(stderr));
	json_decref(answer);
	free(path);
	return rc;
}

/* The wish as JSON; NULL after a message. */
static json_t *
ref_body(const struct args *a, const char *type)
{
	json_t *body = json_pack("{s:s}", "type", type);
	char *end;
	long n;

	if (a->at)
		json_object_set_new(body, "at", json_string(a->at));
	if (a->retain)
		json_object_set_new(body, "retain", json_string(a->retain));
	if (a->snapshot_age)
		json_object_set_new(body, "snapshot_age", json_string(a->snapshot_age));
	if (a->replace)
		json_object_set_new(body, "replace", json_true());
	if (a->keep_text) {
		n = strtol(a->keep_text, &end, 10);
		if (*end || n < 1) {
			refuse(NULL, "--keep-snapshots %s is not a whole number from 1 on", a->keep_text);
			json_decref(body);
			return NULL;
		}
		json_object_set_new(body, "keep_snapshots", json_integer(n));
	}
	return body;
}

/* Without a name: the ones there are. */
static int
refs_of_type(const struct args *a, const char *type)
{
	char *path = table_path(a->operands[0], "/refs");
	struct client *c = client_open(a);
	json_t *answer = NULL, *ref, *some = json_array();
	int rc = client_do(c, "GET", path, NULL, &answer);
	size_t i;

	json_array_foreach (json_object_get(answer, "items"), i, ref)
		if (strcmp(text_or_null(ref, "type"), type) == 0)
			json_array_append(some, ref);
	if (rc == EXIT_OK && a->json)
		print_json(some);
	else if (rc == EXIT_OK && json_array_size(some))
		print_refs(some);
	else if (rc == EXIT_OK)
		fprintf(stderr, "%s has no %s\n", a->operands[0], strcmp(type, "tag") == 0 ? "tags" : "branches");
	json_decref(some);
	json_decref(answer);
	client_close(c);
	free(path);
	return rc;
}

static int
cmd_ref(const struct args *a, const char *type)
{
	struct buf path = BUF_INIT;
	json_t *body = NULL;
	char *own;
	int rc;

	if (a->count == 1)
		return refs_of_type(a, type);
	if (a->remove && (a->at || a->retain || a->keep_text || a->snapshot_age || a->replace))
		return refuse(NULL, "--delete takes no other option");
	if (!a->remove && (body = ref_body(a, type)) == NULL)
		return EXIT_REFUSED;
	own = table_path(a->operands[0], "/refs/");
	buf_adds(&path, own);
	add_encoded(&path, a->operands[1]);
	if (a->remove)
		add_query(&path, "type", type);
	rc = change(a, a->remove ? "DELETE" : "PUT", path.s, body, NULL);
	free(own);
	buf_release(&path);
	return rc;
}

int
cmd_tag(const struct args *a)
{
	return cmd_ref(a, "tag");
}

int
cmd_branch(const struct args *a)
{
	return cmd_ref(a, "branch");
}
