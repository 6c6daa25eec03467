/* The command line's table of commands, and what its files share. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Exit statuses, the same everywhere. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_REFUSED = 2 };

/* What was given: options in any place, the rest in order. Strings are borrowed from argv. */
struct args {
	const struct command *command;
	const char *operands[64];
	size_t count;
	const char *home, *config, *flows, *listen, *database, *url; /* NULL: not given */
	const char *format, *scope, *state, *limit_text, *count_text, *attempt_text, *key, *at, *to, *retain, *keep_text,
		*snapshot_age, *older_than, *keep_last, *where, *max_bytes, *health_text, *python, *engine_list, *since;
	const char *params[128], *engines[64];
	size_t nparams, nengines;
	bool json, wait, follow, csv, ephemeral, help, quiet, replace, remove, with_later, dry_run, rehearse, compact, expire,
		orphans, manifests;
};

struct command {
	const char *name;
	int (*run)(const struct args *a);
	const char *options; /* names of the options it takes, blank-separated: "json wait param engine" */
	size_t min, max;     /* operands */
	const char *usage;   /* "trigger FLOW [-p name=value]…" */
	const char *summary; /* one line */
	const char *help;    /* more, with examples; may be NULL */
};

int cli_main(int argc, char **argv);

/* One function a command. */
int cmd_serve(const struct args *a);
int cmd_run(const struct args *a);
int cmd_trigger(const struct args *a);
int cmd_runs(const struct args *a);
int cmd_show(const struct args *a);
int cmd_logs(const struct args *a);
int cmd_artifacts(const struct args *a);
int cmd_cancel(const struct args *a);
int cmd_undo(const struct args *a);
int cmd_next(const struct args *a);
int cmd_pause(const struct args *a);
int cmd_resume(const struct args *a);
int cmd_flows(const struct args *a);
int cmd_validate(const struct args *a);
int cmd_schema(const struct args *a);
int cmd_tables(const struct args *a);
int cmd_diff(const struct args *a);
int cmd_compare(const struct args *a);
int cmd_shadow(const struct args *a);
int cmd_rollback(const struct args *a);
int cmd_tag(const struct args *a);
int cmd_branch(const struct args *a);
int cmd_maintain(const struct args *a);
int cmd_sql(const struct args *a);
int cmd_token(const struct args *a);
int cmd_engines(const struct args *a);
int cmd_doctor(const struct args *a);
int cmd_version(const struct args *a);

/* Prints "sluice: message" and, where `next` is not NULL, what to do; returns EXIT_REFUSED. */
int refuse(const char *next, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
