/* `sluice maintain`: a run of one maintenance task, followed to its end, and what the task says it did. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/term.h"
#include "flows/flow.h"

#define TASK "maintain" /* as POST /api/v1/maintenance calls it */

/* ---- what is asked for ---- */

/* Options that change an operation must not switch it on beside others that were named. */
static bool
options_fit(const struct args *a)
{
	bool named = a->compact || a->expire || a->orphans || a->manifests;
	dur_us age;

	if (a->orphans && !a->dry_run && a->older_than && duration_parse(a->older_than, &age) == 0 && age < US_PER_DAY)
		fputs("sluice: files younger than 24h may be what another engine is just writing\n", stderr);
	if (a->older_than && !a->expire && !a->orphans)
		refuse(NULL, "--older-than goes with --expire or --orphans: it says from which age what is named goes");
	else if (named && !a->compact && (a->where || a->max_bytes))
		refuse(NULL, "%s goes with --compact", a->where ? "--where" : "--max-bytes");
	else if (named && !a->expire && a->keep_last)
		refuse(NULL, "--keep-last goes with --expire");
	else
		return true;
	return false;
}

static void
set_text(json_t *object, const char *key, const char *text)
{
	if (text)
		json_object_set_new(object, key, json_string(text));
}

/* False after a message. */
static bool
set_number(json_t *object, const char *key, const char *option, const char *text)
{
	char *end;
	long n;

	if (text == NULL)
		return true;
	errno = 0;
	n = strtol(text, &end, 10);
	if (*text == '\0' || *end || errno) {
		refuse(NULL, "%s %s is not a whole number", option, text);
		return false;
	}
	json_object_set_new(object, key, json_integer(n));
	return true;
}

/* Adds the operation when it is wanted; what is not named stays out, so that the task does all when nothing is. */
static json_t *
operation(json_t *body, const char *key, bool wanted)
{
	json_t *op = json_pack("{s:b}", "enabled", 1);

	if (wanted)
		json_object_set(body, key, op);
	json_decref(op);
	return wanted ? json_object_get(body, key) : NULL;
}

/* NULL after a message. */
static json_t *
maintenance_body(const struct args *a)
{
	bool all = !a->compact && !a->expire && !a->orphans && !a->manifests && (a->where || a->max_bytes || a->keep_last), good;
	json_t *body = json_object(), *tables = json_array(), *op;

	for (size_t i = 0; i < a->count; i++)
		json_array_append_new(tables, json_string(a->operands[i]));
	if (a->count == 0)
		json_array_append_new(tables, json_string("*"));
	json_object_set_new(body, "tables", tables);
	json_object_set_new(body, "dry_run", json_boolean(a->dry_run));
	good = set_number(body, "when_health_below", "--when-health-below", a->health_text);
	op = operation(body, "compact", a->compact || all);
	set_text(op, "where", a->where);
	set_text(op, "max_bytes", a->max_bytes);
	if (a->manifests || all)
		json_object_set_new(body, "rewrite_manifests", json_string(all ? "auto" : "always"));
	op = operation(body, "expire_snapshots", a->expire || all);
	set_text(op, "older_than", a->older_than);
	good = set_number(op, "keep_last", "--keep-last", a->keep_last) && good;
	op = operation(body, "remove_orphan_files", a->orphans || all);
	set_text(op, "older_than", a->older_than);
	if (good)
		return body;
	json_decref(body);
	return NULL;
}

/* ---- what was done ---- */

static int
on_bytes(void *arg, const char *data, size_t len)
{
	(void)arg;
	return fwrite(data, 1, len, stdout) == len ? 0 : -1;
}

/* The task's own account, which an attempt that ended early may not have written. */
static int
print_account(struct client *c, const char *run, const char *name)
{
	char *list = xasprintf("/api/v1/runs/%s/tasks/" TASK "/artifacts", run), *path = xasprintf("%s/%s", list, name);
	json_t *answer = NULL, *item;
	int rc = client_do(c, "GET", list, NULL, &answer), status = 0;
	size_t i;

	json_array_foreach (json_object_get(answer, "items"), i, item)
		if (strcmp(text_of(item, "name"), name) == 0) {
			status = client_stream(c, path, "application/octet-stream", on_bytes, NULL);
			rc = status >= 200 && status < 300 && fflush(stdout) == 0 ? EXIT_OK : EXIT_REFUSED;
		}
	json_decref(answer);
	free(list);
	free(path);
	return rc;
}

int
cmd_maintain(const struct args *a)
{
	struct client *c;
	struct follow f = { .quiet = a->quiet };
	json_t *body = options_fit(a) ? maintenance_body(a) : NULL, *run = NULL, *ended = NULL;
	int rc, printed;

	if (body == NULL)
		return EXIT_REFUSED;
	if (a->count == 0 && !a->quiet)
		fprintf(stderr, "%s of all tables\n", a->dry_run ? "a dry run" : "maintenance");
	f.client = c = client_open(a);
	interrupts_catch(); /* one between the trigger and the following is meant for this run, too */
	rc = client_do(c, "POST", "/api/v1/maintenance", body, &run);
	if (rc == EXIT_OK)
		rc = follow_run(&f, text_of(run, "id"), &ended);
	if (ended) {
		printed = print_account(c, text_of(run, "id"), a->json ? "maintenance.json" : "maintenance.txt");
		rc = rc == EXIT_OK ? printed : rc;
	}
	json_decref(run);
	json_decref(ended);
	client_close(c);
	return rc;
}
