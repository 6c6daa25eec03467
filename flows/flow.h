/*
 * A flow: one YAML file, checked and normalised. Immutable once loaded and reference-counted, since runs keep the version
 * that they were started with.
 */
#ifndef FLOWS_FLOW_H
#define FLOWS_FLOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/sha256.h"
#include "base/units.h"
#include "flows/config.h"
#include "flows/diag.h"
#include "flows/schedule.h"

/* symbol, name in YAML */
/* clang-format off */
#define TASK_TYPES(X)                                                                                                            \
	X(STAGE, "stage")                                                                                                        \
	X(PUBLISH, "publish")                                                                                                    \
	X(CURATE, "curate")                                                                                                      \
	X(VALIDATE, "validate")                                                                                                  \
	X(MAINTAIN, "maintain")                                                                                                  \
	X(EXPORT, "export")                                                                                                      \
	X(COMMAND, "command")                                                                                                    \
	X(PYTHON, "python")
/* clang-format on */
enum task_type {
#define X(sym, name) TASK_##sym,
	TASK_TYPES(X)
#undef X
};
const char *task_type_name(enum task_type t);
/* Does the task run a program of the user's own, and no engine? */
bool task_type_is_program(enum task_type t);

/* clang-format off */
#define TRIGGER_RULES(X)                                                                                                         \
	X(ALL_SUCCESS, "all_success")                                                                                            \
	X(ALL_DONE, "all_done")                                                                                                  \
	X(ALL_FAILED, "all_failed")                                                                                              \
	X(ONE_FAILED, "one_failed")                                                                                              \
	X(ONE_SUCCESS, "one_success")                                                                                            \
	X(ONE_DONE, "one_done")                                                                                                  \
	X(NONE_FAILED, "none_failed")                                                                                            \
	X(NONE_FAILED_MIN_ONE_SUCCESS, "none_failed_min_one_success")                                                            \
	X(NONE_SKIPPED, "none_skipped")                                                                                          \
	X(ALL_SKIPPED, "all_skipped")                                                                                            \
	X(ALWAYS, "always")
/* clang-format on */
enum trigger_rule {
#define X(sym, name) RULE_##sym,
	TRIGGER_RULES(X)
#undef X
};

/* When others see what tasks write to tables: with the run's success, or with the task's. */
enum isolation { ISOLATION_RUN, ISOLATION_TASK };
enum overlap { OVERLAP_QUEUE, OVERLAP_SKIP, OVERLAP_ALLOW };
enum backoff { BACKOFF_CONSTANT, BACKOFF_EXPONENTIAL };

struct retry {
	int max_attempts; /* counts the first try; 1 is no retry */
	dur_us interval;
	enum backoff backoff;
	double factor;
	dur_us max_interval;
	double jitter; /* share of the interval, 0.1 is 10 % */
};

struct task_def {
	char *id;
	enum task_type type;
	char *engine; /* "duckdb"; NULL for programs */
	size_t *deps; /* indexes into flow->tasks */
	size_t ndeps;
	enum trigger_rule rule;
	char *when; /* NULL: always */
	struct retry retry;
	dur_us timeout; /* 0: none */
	dur_us stop_grace;
	bool allow_failure, enabled;
	char *code;        /* of type python, inline: as it is written, its "${" are no refs; NULL: none */
	char *working_dir; /* NULL: the attempt's scratch folder */
	json_t *env;       /* object of strings, refs unresolved: the flow's under the task's */
	json_t *engine_options;
	json_t *spec; /* the type's own keys, normalised with defaults, refs unresolved */
	json_t *pos;  /* place of texts in spec: {"sql": [line, col], "checks/2/sql": [line, col]}; of the first content character
		       */
	bool dynamic; /* env, engine_options, spec or working_dir hold refs */
	int line, col;
};

struct param_def {
	char *name;
	json_t *def; /* normalised: {type, default?, required, enum?, min?, max?, pattern?, description?, secret} */
};

struct flow {
	int refs;
	char *id, *namespace_, *description;
	char *file;    /* path as given */
	char *source;  /* the YAML text */
	char hash[65]; /* SHA-256 of the text, hex: names the version */
	bool enabled;
	json_t *labels, *vars, *env;
	json_t *secrets; /* list of names */
	struct param_def *params;
	size_t nparams;
	struct schedule_def *schedules;
	size_t nschedules;
	int max_active_runs;  /* 0: no limit */
	int max_active_tasks; /* 0: no limit of its own */
	enum overlap overlap;
	enum isolation isolation;
	dur_us timeout;         /* of the run; 0: none */
	char *shadow;           /* the engine that repeats runs and is compared with them; NULL: none */
	double shadow_share;    /* of the runs: 0 to 1 */
	dur_us shadow_keep;     /* its figures */
	json_t *shadow_engine;  /* {task: engine}, as an override of a trigger */
	struct task_def *tasks; /* in the order of the file; a DAG by deps */
	size_t ntasks;
	int *topo; /* task indexes in an order that respects deps, file order among equals */
};

/* Loads and checks a flow from its text. NULL when there are errors in `diags`; warnings may be there either way. */
struct flow *flow_load(const char *file, const char *text, size_t len, const struct config *config, struct diags *diags);
/* As flow_load, from the file itself (10 MB at most). */
struct flow *flow_load_file(const char *file, const struct config *config, struct diags *diags);
struct flow *flow_ref(struct flow *f);
void flow_unref(struct flow *f);

/*
 * Checks and completes the params of a trigger: defaults filled in, types converted ("3" for an int param). Returns a new
 * object through `out`; ERR_UNPROCESSABLE names each unknown, missing or ill-typed param.
 */
MUSTCHECK int flow_params(const struct flow *f, const json_t *given, json_t **out, struct err *e);
/*
 * Checks a task's spec again after expr_resolve, since a ref can hide a value of the wrong type, and normalises it like the
 * loader (sizes to bytes). Replaces *spec; ERR_UNPROCESSABLE names each value that does not fit.
 */
MUSTCHECK int flow_spec_resolved(const struct task_def *t, json_t **spec, struct err *e);
/* Does the task read or write tables of the catalog? Of a query nobody can say, but of those that write to one. */
bool task_uses_tables(const struct task_def *t);
/* Is this run one that the flow's shadow repeats? The same answer for the same run, whoever asks and when. */
bool flow_shadows(const struct flow *f, const char *run_id);
/*
 * Checks an engine override, "duckdb" or {"task": "duckdb", "*": "polars"}, where "*" is every task that is not named: names and
 * support. ERR_UNPROCESSABLE / ERR_UNSUPPORTED.
 */
MUSTCHECK int flow_check_engine(const struct flow *f, const json_t *override, struct err *e);
/* The engine that an override asks for; NULL: none, the task's own. Borrowed from it. */
const char *flow_engine_asked(const struct task_def *t, const json_t *override);
/* The flow as the API shows it: {id, namespace, description, labels, file, hash, enabled, params, schedules, tasks: [{id,
 * type, engine, depends_on, …}]}; the caller owns it. */
json_t *flow_json(const struct flow *f);
/* The JSON Schema (2020-12) of the flow language, generated from the same rows that check it; the caller owns it. */
json_t *flow_schema(void);

#endif
