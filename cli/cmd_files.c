/* What needs no daemon: checking flow files, and the language's JSON Schema. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "cli/files.h"
#include "cli/follow.h"
#include "cli/term.h"
#include "flows/flow.h"

extern char **environ;

char *
config_beside(const struct args *a, const char *file)
{
	const char *env = getenv("SLUICE_CONFIG"), *slash = strrchr(file, '/');
	char *path;

	if (a->config || (env && *env))
		return xstrdup(a->config ? a->config : env);
	path = slash ? xasprintf("%.*s/sluice.yaml", (int)(slash - file), file) : xstrdup("sluice.yaml");
	if (access(path, F_OK) == 0)
		return path;
	free(path);
	return NULL;
}

bool
file_check(const char *file, const char *config_file, struct diags *diags)
{
	struct config *config = config_load(config_file, environ, diags);
	struct flow *flow = config ? flow_load_file(file, config, diags) : NULL;
	bool good = flow != NULL;

	flow_unref(flow);
	config_free(config);
	return good;
}

/* sluice.yaml and sluice.NAME.yaml are configs: the daemon takes them for no flows either. */
static bool
is_config(const char *file)
{
	const char *slash = strrchr(file, '/');

	return strncmp(slash ? slash + 1 : file, "sluice.", 7) == 0;
}

static bool
config_check(const char *file, struct diags *diags)
{
	struct config *config = config_load(file, environ, diags);
	bool good = config != NULL;

	config_free(config);
	return good;
}

/* Adds what is wrong with one file; returns its exit status. */
static int
validate_one(const struct args *a, const char *file, struct diags *diags)
{
	char *config = config_beside(a, file);
	int rc = EXIT_OK;

	if (access(file, R_OK) < 0) {
		diags_add(diags, SEVERITY_ERROR, file, 0, 0, "cannot read the file: %s", strerror(errno));
		rc = EXIT_REFUSED;
	} else if (is_config(file)) {
		rc = config_check(file, diags) ? EXIT_OK : EXIT_FAILED;
	} else if (config && access(config, R_OK) < 0) {
		diags_add(diags, SEVERITY_ERROR, config, 0, 0, "cannot read the config: %s", strerror(errno));
		rc = EXIT_REFUSED;
	} else if (!file_check(file, config, diags)) {
		rc = EXIT_FAILED;
	}
	free(config);
	return rc;
}

/* As diags_print, with colours. The same problem of a config that several files share is told once. */
static void
problems_print(const struct diags *d, json_t *told)
{
	for (size_t i = 0; i < d->count; i++) {
		const struct diag *item = &d->items[i];
		bool error = item->severity == SEVERITY_ERROR;
		char *key = xasprintf("%s:%d:%d:%s", item->file ? item->file : "", item->line, item->col, item->message);

		if (json_object_get(told, key) == NULL) {
			printf("%s%s", item->file ? item->file : "", item->file ? ":" : "");
			if (item->line > 0)
				printf("%d:%d:", item->line, item->col);
			printf(" %s%s%s: %s\n", term_state(stdout, error ? "failed" : "retry_wait"), error ? "error" : "warning",
			       term_off(stdout), item->message);
			json_object_set_new(told, key, json_true());
		}
		free(key);
	}
}

int
cmd_validate(const struct args *a)
{
	bool json = a->json || (a->format && strcmp(a->format, "json") == 0);
	json_t *problems = json_array(), *told = json_object(), *answer;
	int rc = EXIT_OK;

	if (a->format && !json && strcmp(a->format, "text") != 0) {
		json_decref(problems);
		json_decref(told);
		return refuse(NULL, "--format %s is neither text nor json", a->format);
	}
	for (size_t i = 0; i < a->count; i++) {
		struct diags diags = DIAGS_INIT;
		int one = validate_one(a, a->operands[i], &diags);
		json_t *list = diags_json(&diags);

		if (one > rc)
			rc = one;
		json_array_extend(problems, list);
		if (!json) {
			problems_print(&diags, told);
			if (one == EXIT_OK)
				printf("%s: %sgood%s\n", a->operands[i], term_state(stdout, "success"), term_off(stdout));
		}
		json_decref(list);
		diags_release(&diags);
	}
	answer = json_pack("{s:b,s:o}", "valid", rc == EXIT_OK, "problems", problems);
	if (json)
		print_json(answer);
	json_decref(answer);
	json_decref(told);
	return rc;
}

int
cmd_schema(const struct args *a)
{
	json_t *schema = flow_schema();

	(void)a;
	print_json(schema);
	json_decref(schema);
	return EXIT_OK;
}
