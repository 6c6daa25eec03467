/*
 * Every ref of a flow, checked while it is loaded: a misspelt name is found now and not at three in the morning. What is known
 * of paths and table names without a run is checked as well.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/engines.h"
#include "flows/expr.h"
#include "flows/flow_int.h"
#include "flows/ref.h"
#include "flows/suggest.h"

/* Where a text stands: its task and its path in the task's spec. */
struct place {
	struct loader *l;
	const struct task_def *task; /* NULL: of the flow */
	const json_t *pos;
	const char *path;
	const char *text;
	bool no_secrets; /* `when` and texts that are stored or shown */
	bool *upstream;  /* by task: the run has ended it before this one starts */
};

static const char *const scopes[] = { "params", "run", "flow", "tasks", "env", "secrets", "vars", "config" };
static const char *const run_keys[] = {
	"id", "trigger", "created_at", "started_at", "scheduled_for", "data_interval_start", "data_interval_end", "error"
};
static const char *const flow_keys[] = { "id", "namespace", "file", "dir" };
static const char *const task_keys[] = { "outputs", "state", "error" };
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Reports at byte `offset` of the place's text. */
static void __attribute__((format(printf, 3, 4))) place_error(const struct place *p, size_t offset, const char *fmt, ...)
{
	int line = p->task ? p->task->line : 0, col = p->task ? p->task->col : 0, start_col;
	va_list ap;
	char *msg;

	pos_find(p->pos, p->path, &line, &col);
	start_col = col;
	for (size_t i = 0; i < offset; i++) {
		if (p->text[i] == '\n') {
			line++;
			col = start_col;
		} else if (((unsigned char)p->text[i] & 0xc0) != 0x80) {
			col++;
		}
	}
	va_start(ap, fmt);
	msg = xvasprintf(fmt, ap);
	va_end(ap);
	load_error(p->l, line, col, "%s", msg);
	free(msg);
}

/* `${path}: unknown WHAT "name"; did you mean …` */
static void
unknown_name(const struct place *p, size_t offset, const char *path, const char *what, const char *name, const char *const *names,
	     size_t count, const char *known)
{
	struct buf hint = BUF_INIT;

	suggest_hint(&hint, name, names, count, known);
	place_error(p, offset, "${%s}: unknown %s \"%s\"%s", path, what, name, hint.s);
	buf_release(&hint);
}

static bool
among(const char *name, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(names[i], name) == 0)
			return true;
	}
	return false;
}

static void
check_output(const struct place *p, size_t offset, const char *path, const struct task_def *t, const char *name)
{
	static const char *const by_type[][10] = {
		[TASK_STAGE] = { "path", "rows", "rejects", "version" },
		[TASK_PUBLISH] = { "table", "snapshot_id", "rows", "version" },
		[TASK_CURATE] = { "table", "snapshot_id", "rows" },
		[TASK_VALIDATE] = { "passed" },
		[TASK_MAINTAIN] = { "tables", "changed", "skipped", "failed", "files_rewritten", "bytes_rewritten",
				    "snapshots_expired", "files_removed", "bytes_reclaimed" },
		[TASK_EXPORT] = { "path", "table", "collection", "topic", "rows", "version", "inserted", "updated", "deleted" },
		[TASK_COMMAND] = { NULL },
		[TASK_PYTHON] = { NULL },
	};
	const json_t *declared = json_object_get(t->spec, "outputs");
	struct buf hint = BUF_INIT;
	size_t n = 0;

	if (t->type == TASK_PYTHON && declared == NULL)
		return; /* known when it has run */
	if (task_type_is_program(t->type)) {
		if (json_object_get(declared, name))
			return;
		if (json_object_size(declared) == 0)
			buf_adds(&hint, "; declare it there: outputs: {NAME: string}");
		else
			suggest_hint_keys(&hint, name, declared, "outputs are");
	} else {
		while (by_type[t->type][n])
			n++;
		/* What an engine that has sessions tells of its own, whatever the task does. */
		if (among(name, by_type[t->type], n) || strcmp(name, "session") == 0)
			return;
		suggest_hint(&hint, name, by_type[t->type], n, "outputs are");
	}
	place_error(p, offset, "${%s}: task \"%s\" (%s) has no output \"%s\"%s", path, t->id, task_type_name(t->type), name,
		    hint.s);
	buf_release(&hint);
}

static void
check_task_ref(const struct place *p, size_t offset, const char *path, char **part, size_t n)
{
	const struct flow *f = p->l->flow;
	const char **names;
	size_t i = 0;

	while (n > 1 && i < f->ntasks && strcmp(f->tasks[i].id, part[1]) != 0)
		i++;
	if (n < 3) {
		place_error(p, offset, "${%s}: a ref to a task is ${tasks.ID.outputs.NAME} or ${tasks.ID.state}", path);
	} else if (i == f->ntasks) {
		struct buf hint = BUF_INIT;

		names = xcalloc(f->ntasks + 1, sizeof(*names));
		for (i = 0; i < f->ntasks; i++)
			names[i] = f->tasks[i].id;
		suggest_hint(&hint, part[1], names, f->ntasks, "tasks are");
		place_error(p, offset, "${%s}: no task \"%s\"%s", path, part[1], hint.s);
		buf_release(&hint);
		free(names);
	} else if (!among(part[2], task_keys, COUNT(task_keys))) {
		unknown_name(p, offset, path, "part of a task", part[2], task_keys, COUNT(task_keys), "there are");
	} else if (p->task == NULL) {
		place_error(p, offset, "${%s}: what tasks report is not known here", path);
	} else if (p->upstream && !p->upstream[i]) {
		place_error(p, offset, "${%s}: task \"%s\" does not run after \"%s\"; add \"%s\" to its depends_on", path,
			    p->task->id, part[1], part[1]);
	} else if (strcmp(part[2], "outputs") == 0 && n > 3) {
		check_output(p, offset, path, &f->tasks[i], part[3]);
	}
}

static void
check_param_ref(const struct place *p, size_t offset, const char *path, const char *name)
{
	const struct flow *f = p->l->flow;
	const char **names = xcalloc(f->nparams + 1, sizeof(*names));

	for (size_t i = 0; i < f->nparams; i++)
		names[i] = f->params[i].name;
	if (f->nparams == 0)
		place_error(p, offset, "${%s}: unknown param \"%s\"; the flow has no params", path, name);
	else if (!among(name, names, f->nparams))
		unknown_name(p, offset, path, "param", name, names, f->nparams, "params are");
	free(names);
}

static void
check_secret_ref(const struct place *p, size_t offset, const char *path, const char *name)
{
	json_t *item;
	size_t i;

	json_array_foreach (p->l->flow->secrets, i, item) {
		if (json_is_string(item) && strcmp(json_string_value(item), name) == 0) {
			if (p->no_secrets)
				place_error(p, offset, "${%s}: a secret cannot be used here", path);
			return;
		}
	}
	place_error(p, offset, "${%s}: the flow does not list the secret \"%s\"; add it: secrets: [%s]", path, name, name);
}

/* Follows the path through an object, and names what is near where it breaks. */
static void
check_object_ref(const struct place *p, size_t offset, const char *path, char **part, size_t n, const json_t *at)
{
	struct buf hint = BUF_INIT, seen = BUF_INIT;

	buf_adds(&seen, part[0]);
	for (size_t i = 1; i < n; i++) {
		const json_t *next =
			json_is_array(at) ? json_array_get(at, strtoul(part[i], NULL, 10)) : json_object_get(at, part[i]);

		if (next == NULL) {
			char *known = xasprintf("%s has", seen.s);

			suggest_hint_keys(&hint, part[i], at, known);
			place_error(p, offset, "${%s}: %s has no \"%s\"%s", path, seen.s, part[i], hint.s);
			free(known);
			break;
		}
		at = next;
		buf_addf(&seen, ".%s", part[i]);
	}
	buf_release(&hint);
	buf_release(&seen);
}

static void
check_config_ref(const struct place *p, size_t offset, const char *path, char **part, size_t n)
{
	static const char *const hidden[] = { "config.catalog.password", "config.s3.secret_key", "config.s3.access_key",
					      "config.s3.session_token", "config.catalog.token", "config.catalog.credential",
					      "config.catalog.headers" };

	if (p->l->config == NULL || p->l->config->file == NULL) {
		const json_t *json = p->l->config ? p->l->config->json : NULL;

		if (n < 2 || json_object_size(json_object_get(json, part[1])) == 0) {
			place_error(p, offset,
				    "${%s}: there is no config file; give one with --config, or put sluice.yaml beside the flow",
				    path);
			return;
		}
	}
	if (among(path, hidden, COUNT(hidden)) || (n == 2 && (strcmp(part[1], "catalog") == 0 || strcmp(part[1], "s3") == 0)) ||
	    n == 1)
		place_error(p, offset, "${%s}: a flow cannot read this, since it holds credentials; use secrets", path);
	else
		check_object_ref(p, offset, path, part, n, p->l->config->json);
}

static void
check_env_ref(const struct place *p, size_t offset, const char *path, const char *name)
{
	const json_t *process = p->l->config ? p->l->config->env : NULL;
	struct buf hint = BUF_INIT;

	if (json_object_get(process, name) || json_object_get(p->l->flow->env, name) ||
	    (p->task && json_object_get(p->task->env, name)))
		return;
	if (process) {
		const char **names = xcalloc(json_object_size(process) + 1, sizeof(*names)), *key, *near;
		json_t *ignored;
		size_t count = 0;

		json_object_foreach ((json_t *)process, key, ignored)
			names[count++] = key;
		near = suggest(name, names, count);
		if (near)
			buf_addf(&hint, "; did you mean \"%s\"?", near);
		free(names);
	}
	place_error(p, offset, "${%s}: the environment variable \"%s\" is not set%s", path, name,
		    hint.len ? hint.s : "; set it, put it in .env, or add \"| default(…)\"");
	buf_release(&hint);
}

static void
check_path(const struct place *p, size_t offset, const char *path, bool has_default)
{
	char *copy = xstrdup(path), *save = NULL, *part[16] = { NULL };
	size_t n = 0;

	for (char *s = strtok_r(copy, ".", &save); s && n < 16; s = strtok_r(NULL, ".", &save))
		part[n++] = s;
	if (strcmp(part[0], "item") == 0)
		place_error(p, offset, "${%s}: for_each and its item are not supported yet", path);
	else if (!among(part[0], scopes, COUNT(scopes)))
		unknown_name(p, offset, path, "scope", part[0], scopes, COUNT(scopes), "scopes are");
	else if (n == 1 && strcmp(part[0], "params") != 0 && strcmp(part[0], "vars") != 0 && strcmp(part[0], "config") != 0)
		place_error(p, offset, "${%s}: a name must follow: ${%s.NAME}", path, path);
	else if (strcmp(part[0], "tasks") == 0)
		check_task_ref(p, offset, path, part, n);
	else if (strcmp(part[0], "params") == 0 && n > 1)
		check_param_ref(p, offset, path, part[1]);
	else if (strcmp(part[0], "run") == 0 && !among(part[1], run_keys, COUNT(run_keys)))
		unknown_name(p, offset, path, "part of run", part[1], run_keys, COUNT(run_keys), "there are");
	else if (strcmp(part[0], "flow") == 0 && !among(part[1], flow_keys, COUNT(flow_keys)))
		unknown_name(p, offset, path, "part of flow", part[1], flow_keys, COUNT(flow_keys), "there are");
	else if (strcmp(part[0], "secrets") == 0)
		check_secret_ref(p, offset, path, part[1]);
	else if (strcmp(part[0], "vars") == 0)
		check_object_ref(p, offset, path, part, n, p->l->flow->vars);
	else if (strcmp(part[0], "config") == 0 && !has_default)
		check_config_ref(p, offset, path, part, n);
	else if (strcmp(part[0], "env") == 0 && !has_default)
		check_env_ref(p, offset, path, part[1]);
	free(copy);
}

static void
check_text(const struct place *p)
{
	size_t at = 0, start, end;
	struct err e = ERR_INIT;
	bool has_default;
	char *path;
	int rc;

	while ((rc = ref_find(p->text, at, &start, &end, &e)) > 0) {
		at = end;
		if (ref_parse(p->text, start, end, &path, &has_default, &e) < 0) {
			place_error(p, start, "%s", e.msg);
			err_release(&e);
			continue;
		}
		check_path(p, start, path, has_default);
		free(path);
	}
	if (rc < 0) {
		const char *open = strstr(p->text + at, "${");

		place_error(p, open ? (size_t)(open - p->text) : at, "%s", e.msg);
		err_release(&e);
	}
}

/* ---- paths and tables ---- */

char *
static_text(const struct loader *l, const char *text)
{
	json_t *in = json_string(text), *out = NULL;
	struct err e = ERR_INIT;
	char *s = NULL;

	if (expr_resolve(in, l->scope, &out, &e) == 0 && json_is_string(out))
		s = xstrdup(json_string_value(out));
	err_release(&e);
	json_decref(out);
	json_decref(in);
	return s;
}

struct remote {
	const struct loader *l;
	char *found;
};

static const char *
remote_in(const char *text)
{
	static const char *const schemes[] = { "s3n://", "gs://", "gcs://", "az://", "abfs://", "abfss://", "hdfs://" };

	for (size_t i = 0; i < COUNT(schemes); i++) {
		const char *at = strstr(text, schemes[i]);

		if (at && (at == text || !isalnum((unsigned char)at[-1])))
			return at;
	}
	return NULL;
}

static int
find_remote(const char *path, size_t offset, void *arg)
{
	struct remote *r = arg;
	char *ref, *text;
	const char *at;

	(void)offset;
	if (r->found || (strncmp(path, "config.", 7) != 0 && strncmp(path, "vars.", 5) != 0))
		return 0;
	ref = xasprintf("${%s}", path);
	text = static_text(r->l, ref);
	at = text ? remote_in(text) : NULL;
	if (at)
		r->found = xstrdup(at);
	free(text);
	free(ref);
	return 0;
}

/* Native tasks read and write local files and S3 stores only, so far. */
static void
check_remote(const struct place *p)
{
	struct remote r = { .l = p->l };
	const char *at = remote_in(p->text);
	struct err e = ERR_INIT;

	if (at)
		r.found = xstrndup(at, strcspn(at, "'\" \n"));
	else
		(void)expr_refs(p->text, find_remote, &r, &e);
	err_release(&e);
	if (r.found)
		place_error(p, at ? (size_t)(at - p->text) : 0,
			    "object stores other than S3 are not supported yet, and \"%s\" of task \"%s\" uses %s; use "
			    "s3://BUCKET/… or a local path",
			    p->path, p->task->id, r.found);
	free(r.found);
}

/* As the catalog takes names: of any characters but those. A dot always divides. */
static bool
is_table_name(const char *name)
{
	size_t levels = 0;

	for (const char *s = name;; s++) {
		size_t n = strcspn(s, ".");

		if (n == 0 || *s == ' ' || s[n - 1] == ' ')
			return false;
		for (; n; n--, s++)
			if (*s == '/' || (unsigned char)*s < ' ' || *s == 127)
				return false;
		levels++;
		if (*s == '\0')
			return levels > 1;
	}
}

/* Can the task's engine work on the tables of the config's catalog? */
static void
check_engine_catalog(struct loader *l, const struct task_def *t)
{
	const char *type = l->config ? config_get(l->config, "catalog.type") : NULL;
	int line = t->line, col = t->col;
	struct err e = ERR_INIT;

	if (type == NULL || t->engine == NULL || !task_uses_tables(t) || engine_check_catalog(t->engine, type, &e) == 0)
		return;
	pos_find(t->pos, "engine", &line, &col);
	load_error(l, line, col, "task \"%s\" works on tables of catalog \"%s\": %s", t->id,
		   config_get(l->config, "catalog.name"), e.msg);
	err_release(&e);
}

/* Can tasks work on the tables of the config's catalog at all? */
static void
check_catalog(struct loader *l, const struct task_def *t, int line, int col)
{
	const char *warehouse = l->config ? config_get(l->config, "catalog.warehouse") : NULL;

	if (warehouse && !config_foreign(l->config) && remote_in(warehouse))
		load_error(l, line, col,
			   "task \"%s\" writes or reads tables, and the config's warehouse is %s: object stores other than S3 "
			   "are not "
			   "supported yet; use s3://BUCKET/… or a local folder",
			   t->id, warehouse);
}

static void
check_table_name(struct loader *l, const struct task_def *t, const char *key)
{
	const char *text = json_string_value(json_object_get(t->spec, key));
	char *name = text ? static_text(l, text) : NULL;
	int line = t->line, col = t->col;

	if (text == NULL)
		return;
	pos_find(t->pos, key, &line, &col);
	check_catalog(l, t, line, col);
	if (name && !is_table_name(name))
		load_error(l, line, col, "\"%s\" of task \"%s\" must be a table, namespace.table, not \"%.80s\"%s", key, t->id,
			   name,
			   strchr(name, '.') ? ": no level may be empty, have a / or control characters, or a blank at its ends"
					     : "");
	free(name);
}

/* A name without * and ? must be a whole one; what a glob matches is seen when it runs. */
static void
check_table_globs(struct loader *l, const struct task_def *t)
{
	const json_t *globs = json_object_get(t->spec, "tables");
	int line = t->line, col = t->col;
	json_t *item;
	size_t i;

	if (globs == NULL)
		return;
	pos_find(t->pos, "tables", &line, &col);
	check_catalog(l, t, line, col);
	if (config_foreign(l->config))
		load_error(l, line, col,
			   "task \"%s\" maintains tables, and the config's catalog is another server's, which is the one to "
			   "maintain them",
			   t->id);
	json_array_foreach (globs, i, item) {
		char *glob = json_is_string(item) ? static_text(l, json_string_value(item)) : NULL, path[40];

		if (glob && !strpbrk(glob, "*?") && !is_table_name(glob)) {
			snprintf(path, sizeof(path), "tables/%zu", i);
			pos_find(t->pos, path, &line, &col);
			load_error(l, line, col,
				   "\"tables\" of task \"%s\" must name tables, namespace.table, or globs such as stg.*, not "
				   "\"%.80s\"",
				   t->id, glob);
		}
		free(glob);
	}
}

/* ---- the walk ---- */

static void
walk(struct place *p, const json_t *v, struct buf *path)
{
	size_t len = path->len, i;
	const char *key;
	json_t *item;

	if (json_is_string(v)) {
		p->path = path->s;
		p->text = json_string_value(v);
		check_text(p);
		if (p->task && !task_type_is_program(p->task->type))
			check_remote(p);
		return;
	}
	json_object_foreach ((json_t *)v, key, item) {
		buf_addf(path, "%s%s", len ? "/" : "", key);
		walk(p, item, path);
		path->len = len;
		path->s[len] = '\0';
	}
	json_array_foreach ((json_t *)v, i, item) {
		buf_addf(path, "%s%zu", len ? "/" : "", i);
		walk(p, item, path);
		path->len = len;
		path->s[len] = '\0';
	}
}

static void
walk_at(struct place *p, const json_t *v, const char *prefix)
{
	struct buf path = BUF_INIT;

	buf_adds(&path, prefix);
	walk(p, v, &path);
	buf_release(&path);
}

/* Marks everything that task `i` waits for, itself excluded. */
static void
mark_upstream(const struct flow *f, size_t i, bool *marks)
{
	for (size_t d = 0; d < f->tasks[i].ndeps; d++) {
		size_t up = f->tasks[i].deps[d];

		if (!marks[up]) {
			marks[up] = true;
			mark_upstream(f, up, marks);
		}
	}
}

static void
check_when(struct loader *l, const struct task_def *t)
{
	struct err e = ERR_INIT;
	int line = t->line, col = t->col;

	pos_find(t->pos, "when", &line, &col);
	if (expr_when_check(t->when, &e) < 0) {
		load_error(l, line, col, "%s", e.msg);
		err_release(&e);
	}
}

static void
check_task_refs(struct loader *l, size_t index, bool *upstream)
{
	const struct task_def *t = &l->flow->tasks[index];
	struct place p = { .l = l, .task = t, .pos = t->pos, .upstream = upstream };
	json_t *own, *s;

	if (upstream)
		mark_upstream(l->flow, index, upstream);
	if (json_object_get(t->spec, "sql_file")) {
		/* Places in the SQL file are not places in this one. */
		own = json_copy(t->spec);
		json_object_del(own, "sql_file");
		walk_at(&p, own, "");
		json_decref(own);
	} else {
		walk_at(&p, t->spec, "");
	}
	walk_at(&p, t->engine_options, "engine_options");
	/* The flow's own variables are checked with the flow. */
	own = json_object();
	for (void *it = json_object_iter(t->env); it; it = json_object_iter_next(t->env, it)) {
		const char *name = json_object_iter_key(it);

		if (json_object_get(l->flow->env, name) != json_object_iter_value(it) &&
		    !json_equal(json_object_get(l->flow->env, name), json_object_iter_value(it)))
			json_object_set(own, name, json_object_iter_value(it));
	}
	if (task_type_is_program(t->type))
		walk_at(&p, own, "env");
	json_decref(own);
	if (t->working_dir) {
		s = json_string(t->working_dir);
		walk_at(&p, s, "working_dir");
		json_decref(s);
	}
	if (t->when) {
		check_when(l, t);
		p.no_secrets = true;
		s = json_string(t->when);
		p.task = t;
		p.path = "when";
		p.text = json_string_value(s);
		check_text(&p);
		json_decref(s);
	}
	check_engine_catalog(l, t);
	check_table_name(l, t, "into");
	check_table_name(l, t, "table");
	check_table_globs(l, t);
}

void
flow_check_refs(struct loader *l)
{
	struct flow *f = l->flow;
	struct place p = { .l = l, .pos = l->pos };

	walk_at(&p, f->env, "env");
	for (size_t i = 0; i < f->ntasks; i++) {
		bool *upstream = xcalloc(f->ntasks, sizeof(*upstream));

		check_task_refs(l, i, upstream);
		free(upstream);
	}
}
