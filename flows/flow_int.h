/* What the parts of the loader share: flow_load.c builds, flow_refs.c checks refs and names, params.c the params. */
#ifndef FLOWS_FLOW_INT_H
#define FLOWS_FLOW_INT_H

#include "flows/check.h"
#include "flows/flow.h"

struct loader {
	struct flow *flow;
	const struct config *config; /* NULL: none */
	struct diags *diags;
	const char *file;
	char *dir;     /* folder of the file, absolute: where relative paths begin */
	json_t *pos;   /* places of the flow's own texts */
	json_t *scope; /* what refs are worth at load: {config, env, vars} */
};

/* The place of a text by path, or that of the nearest thing around it; leaves the place alone when there is none. */
void pos_find(const json_t *pos, const char *path, int *line, int *col);
void load_error(struct loader *l, int line, int col, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Checks every ref of the flow and what can be known of paths and table names. */
void flow_check_refs(struct loader *l);
/* What belongs together in a source of format http. */
void flow_check_http(struct loader *l, const struct task_def *t);
/* The same of format kafka, in a source and in a target. */
void flow_check_kafka(struct loader *l, const struct task_def *t);
/* Do two tasks of the flow read the same stream? */
void flow_check_streams(struct loader *l);
/* What belongs together in an export. */
void flow_check_export(struct loader *l, const struct task_def *t);
/* Does the version of Spark go with the formats of the task? */
void flow_check_spark(struct loader *l, const struct task_def *t);
/* Turns the checked `params` object into flow->params. */
void params_build(struct loader *l, json_t *params);
/* Checks and converts one value; returns the new value or NULL with the end of a sentence ("must be …") in `why`. */
json_t *param_convert(const json_t *def, const json_t *value, struct buf *why);
/* Resolves what can be known at load: NULL when the text depends on the run. The caller frees it. */
char *static_text(const struct loader *l, const char *text);

#endif
