/* The files that a task's attempt kept: listed, or one of them on standard output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/term.h"

static int
on_bytes(void *arg, const char *data, size_t len)
{
	(void)arg;
	return fwrite(data, 1, len, stdout) == len ? 0 : -1;
}

static void
items_table(const json_t *items)
{
	static const char *const headers[] = { "FILE", "SIZE" };
	json_t *rows = json_array(), *item;
	char size[32];
	size_t i;

	json_array_foreach ((json_t *)(uintptr_t)items, i, item)
		json_array_append_new(rows, json_pack("[O,s]", json_object_get(item, "name"),
						      term_bytes(json_integer_value(json_object_get(item, "size")), size)));
	term_table(stdout, headers, 2, rows, " r");
	json_decref(rows);
}

/* Asked for after the list, so that an error is not mistaken for the file. */
static int
item_print(struct client *c, const json_t *items, const struct args *a, struct buf *path)
{
	const char *name = a->operands[2];
	json_t *item;
	size_t i;
	int status;

	json_array_foreach ((json_t *)(uintptr_t)items, i, item)
		if (strcmp(json_string_value(json_object_get(item, "name")), name) == 0)
			break;
	if (i == json_array_size(items))
		return refuse("`sluice artifacts RUN TASK` lists them", "the task has kept no file %s", name);
	for (const char *p = name; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
		char *part = xstrndup(p, strcspn(p, "/"));

		buf_addc(path, '/');
		add_encoded(path, part);
		free(part);
	}
	if (a->attempt_text) {
		buf_adds(path, "?attempt=");
		add_encoded(path, a->attempt_text);
	}
	status = client_stream(c, path->s, "application/octet-stream", on_bytes, NULL);
	return status >= 200 && status < 300 && fflush(stdout) == 0 ? EXIT_OK : EXIT_REFUSED;
}

int
cmd_artifacts(const struct args *a)
{
	struct client *c = client_open(a);
	char *run = run_resolve(c, a->operands[0]), *list;
	struct buf path = BUF_INIT;
	json_t *answer = NULL, *items;
	int rc = EXIT_REFUSED;

	if (run) {
		buf_addf(&path, "/api/v1/runs/%s/tasks/", run);
		add_encoded(&path, a->operands[1]);
		buf_adds(&path, "/artifacts");
		list = xasprintf("%s%s%s", path.s, a->attempt_text ? "?attempt=" : "", a->attempt_text ? a->attempt_text : "");
		rc = client_do(c, "GET", list, NULL, &answer);
		free(list);
	}
	items = json_object_get(answer, "items");
	if (rc == EXIT_OK && a->count == 3)
		rc = item_print(c, items, a, &path);
	else if (rc == EXIT_OK && a->json)
		print_json(items);
	else if (rc == EXIT_OK)
		items_table(items);
	json_decref(answer);
	buf_release(&path);
	free(run);
	client_close(c);
	return rc;
}
