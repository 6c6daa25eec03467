/* A loaded flow: its life, names and how the API shows it. */
#include "flows/flow.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "flows/engines.h"
#include "flows/suggest.h"

const char *
task_type_name(enum task_type t)
{
	static const char *const names[] = {
#define X(sym, name) name,
		TASK_TYPES(X)
#undef X
	};

	return names[t];
}

bool
task_type_is_program(enum task_type t)
{
	return t == TASK_COMMAND || t == TASK_PYTHON;
}

struct flow *
flow_ref(struct flow *f)
{
	f->refs++;
	return f;
}

static void
task_def_release(struct task_def *t)
{
	free(t->id);
	free(t->engine);
	free(t->deps);
	free(t->when);
	free(t->code);
	free(t->working_dir);
	json_decref(t->env);
	json_decref(t->engine_options);
	json_decref(t->spec);
	json_decref(t->pos);
}

void
flow_unref(struct flow *f)
{
	if (f == NULL || --f->refs > 0)
		return;
	for (size_t i = 0; i < f->ntasks; i++)
		task_def_release(&f->tasks[i]);
	free(f->shadow);
	json_decref(f->shadow_engine);
	for (size_t i = 0; i < f->nparams; i++) {
		free(f->params[i].name);
		json_decref(f->params[i].def);
	}
	for (size_t i = 0; i < f->nschedules; i++)
		schedule_release(&f->schedules[i]);
	free(f->tasks);
	free(f->params);
	free(f->schedules);
	free(f->topo);
	free(f->id);
	free(f->namespace_);
	free(f->description);
	free(f->file);
	free(f->source);
	json_decref(f->labels);
	json_decref(f->vars);
	json_decref(f->env);
	json_decref(f->secrets);
	free(f);
}

/* Is there such a task, and does it run on an engine? */
static int
check_engine_task(const struct flow *f, const char *id, struct err *e)
{
	const char **names = xcalloc(f->ntasks + 1, sizeof(*names));
	struct buf hint = BUF_INIT;
	int rc = 0;

	for (size_t i = 0; i < f->ntasks; i++)
		names[i] = f->tasks[i].id;
	for (size_t i = 0; i < f->ntasks; i++) {
		if (strcmp(f->tasks[i].id, id) != 0)
			continue;
		if (f->tasks[i].engine == NULL)
			rc = err_set(e, ERR_UNPROCESSABLE, "task \"%s\" is a %s and runs on no engine", id,
				     task_type_name(f->tasks[i].type));
		goto out;
	}
	suggest_hint(&hint, id, names, f->ntasks, "tasks are");
	rc = err_set(e, ERR_UNPROCESSABLE, "engine for unknown task \"%s\"%s", id, hint.s);
out:
	buf_release(&hint);
	free(names);
	return rc;
}

const char *
flow_engine_asked(const struct task_def *t, const json_t *override)
{
	const char *name = json_string_value(override);

	if (name == NULL)
		name = json_string_value(json_object_get(override, t->id));
	return name ? name : json_string_value(json_object_get(override, "*"));
}

/* Are all the names engines, and all but "*" tasks that run on one? */
static int
check_engine_names(const struct flow *f, const json_t *override, struct err *e)
{
	const char *id;
	json_t *v;
	int rc = 0;

	if (json_is_string(override))
		return engine_check_name(json_string_value(override), e);
	if (!json_is_object(override))
		return err_set(e, ERR_UNPROCESSABLE, "engine must be a name or a map of tasks to names");
	json_object_foreach ((json_t *)(uintptr_t) override, id, v) {
		if (!json_is_string(v))
			return err_set(e, ERR_UNPROCESSABLE, "the engine of task \"%s\" must be a name", id);
		rc = engine_check_name(json_string_value(v), e);
		if (rc == 0 && strcmp(id, "*") != 0)
			rc = check_engine_task(f, id, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int
flow_check_engine(const struct flow *f, const json_t *override, struct err *e)
{
	int rc = override && !json_is_null(override) ? check_engine_names(f, override, e) : 0;

	for (size_t i = 0; rc == 0 && i < f->ntasks; i++) {
		const char *name = flow_engine_asked(&f->tasks[i], override);

		if (f->tasks[i].engine && name)
			rc = engine_check_task(name, &f->tasks[i], f->tasks[i].spec, NULL, e);
	}
	return rc;
}

bool
task_uses_tables(const struct task_def *t)
{
	static const char *const keys[] = { "into", "table", "tables" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (json_object_get(t->spec, keys[i]))
			return true;
	return json_object_get(json_object_get(t->spec, "source"), "table") ||
	       (t->type == TASK_EXPORT && json_object_get(json_object_get(t->spec, "from"), "table"));
}

bool
flow_shadows(const struct flow *f, const char *run_id)
{
	char hex[SHA256_HEX];

	if (f->shadow == NULL)
		return false;
	sha256_hex(run_id, strlen(run_id), hex);
	hex[8] = '\0'; /* 32 bits are chance enough */
	return (double)strtoul(hex, NULL, 16) / 4294967296.0 < f->shadow_share;
}

static json_t *
params_json(const struct flow *f)
{
	json_t *out = json_object();

	for (size_t i = 0; i < f->nparams; i++)
		json_object_set(out, f->params[i].name, f->params[i].def);
	return out;
}

static json_t *
schedules_json(const struct flow *f)
{
	static const char *const catchups[] = { [CATCHUP_NONE] = "none", [CATCHUP_LAST] = "last", [CATCHUP_ALL] = "all" };
	json_t *out = json_array();

	for (size_t i = 0; i < f->nschedules; i++) {
		const struct schedule_def *s = &f->schedules[i];

		json_array_append_new(out,
				      json_pack("{s:s, s:s, s:s, s:b, s:O?}", "cron", s->cron_text, "timezone", s->timezone,
						"catchup", catchups[s->catchup], "enabled", s->enabled, "params", s->params));
	}
	return out;
}

static json_t *
task_json(const struct flow *f, const struct task_def *t)
{
	static const char *const rules[] = {
#define X(sym, name) name,
		TRIGGER_RULES(X)
#undef X
	};
	json_t *deps = json_array();

	for (size_t i = 0; i < t->ndeps; i++)
		json_array_append_new(deps, json_string(f->tasks[t->deps[i]].id));
	return json_pack("{s:s, s:s, s:s?, s:o, s:s, s:s?, s:i, s:b, s:b, s:i}", "id", t->id, "type", task_type_name(t->type),
			 "engine", t->engine, "depends_on", deps, "trigger_rule", rules[t->rule], "when", t->when, "max_attempts",
			 t->retry.max_attempts, "allow_failure", t->allow_failure, "enabled", t->enabled, "line", t->line);
}

json_t *
flow_json(const struct flow *f)
{
	static const char *const overlaps[] = { [OVERLAP_QUEUE] = "queue", [OVERLAP_SKIP] = "skip", [OVERLAP_ALLOW] = "allow" };
	json_t *tasks = json_array(), *out;

	for (size_t i = 0; i < f->ntasks; i++)
		json_array_append_new(tasks, task_json(f, &f->tasks[i]));
	out = json_pack("{s:s, s:s, s:s, s:O, s:s, s:s, s:b, s:o, s:o, s:{s:i, s:i, s:s}, s:o}", "id", f->id, "namespace",
			f->namespace_, "description", f->description, "labels", f->labels, "file", f->file, "hash", f->hash,
			"enabled", f->enabled, "params", params_json(f), "schedules", schedules_json(f), "concurrency",
			"max_active_runs", f->max_active_runs, "max_active_tasks", f->max_active_tasks, "overlap",
			overlaps[f->overlap], "tasks", tasks);
	if (out && f->shadow)
		json_object_set_new(out, "shadow", json_pack("{s:s,s:f}", "engine", f->shadow, "share", f->shadow_share));
	if (out == NULL)
		BUG("flow_json: a flow's text is not UTF-8");
	return out;
}
