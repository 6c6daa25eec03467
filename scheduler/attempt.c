/*
 * One attempt's life: its document is resolved, its row committed, it is forked, it reports, it ends, and what it reported
 * decides how. The nursery keeps the exit until our row about it is committed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/engine_home.h"
#include "base/fault.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/trouble.h"
#include "flows/engines.h"
#include "flows/expr.h"
#include "flows/secrets.h"
#include "scheduler/archive.h"
#include "scheduler/sched_int.h"
#include "storage/storage.h"

#define PROGRESS_EVERY US_PER_S
#define ADHOC_GRACE    US_PER_S
#define ADHOC_MAX      8 /* queries at once */
#define HEAR_AGAIN     US_PER_S

static void progress_arm(struct sched *s);
static void on_attempt_exited(void *arg, const struct nursery_exit *x);
static void attempt_lose(struct attempt *a, const char *reason);
static void attempt_leave(struct attempt *a);

/* ---- small parts ---- */

static char *
token_new(void)
{
	unsigned char noise[32];
	struct buf b = BUF_INIT;

	if (getrandom(noise, sizeof(noise), 0) != sizeof(noise))
		BUG("no random numbers");
	for (size_t i = 0; i < sizeof(noise); i++)
		buf_addf(&b, "%02x", noise[i]);
	return buf_detach(&b);
}

/* A text for people, which may quote what was resolved. */
static void
mask_message(char **text, struct mask *m)
{
	char *shown;

	if (*text == NULL || mask_empty(m))
		return;
	shown = mask_text(m, *text);
	free(*text);
	*text = shown;
}

/* 0, or -1 when it cannot be read for the time being. */
static int
attempt_read_report(struct attempt *a)
{
	json_t *report = attempt_report(a);

	if (report == NULL)
		return -1;
	json_decref(a->report);
	a->report = report;
	return 0;
}

/* ---- making ---- */

static void
attempt_set_token(struct attempt *a)
{
	struct sched *s = a->sched;

	if (a->token_hash[0])
		HASH_DELETE(hh_token, s->attempts_by_token, a);
	free(a->token);
	a->token = token_new();
	sha256_hex(a->token, strlen(a->token), a->token_hash);
	HASH_ADD_KEYPTR(hh_token, s->attempts_by_token, a->token_hash, strlen(a->token_hash), a);
}

static struct attempt *
attempt_alloc(struct sched *s, struct task *t, char *key, int n)
{
	struct attempt *a = xcalloc(1, sizeof(*a));

	a->sched = s;
	a->task = t;
	a->key = key;
	a->n = n;
	a->dir = xasprintf("%s/runs/%s", s->home, key);
	a->scratch = xasprintf("%s/scratch/%s", s->home, key);
	for (char *p = a->scratch + strlen(a->scratch) - strlen(key); *p; p++)
		if (*p == '/')
			*p = '.';
	list_init(&a->preparing);
	a->exit_code = a->signal = -1;
	a->report = json_object();
	a->nursery = xstrdup(s->nursery_id ? s->nursery_id : "");
	HASH_ADD_KEYPTR(hh, s->attempts, a->key, strlen(a->key), a);
	return a;
}

/* Where the catalog answers. The caller frees it. */
static char *
catalog_uri(const struct sched *s)
{
	if (config_foreign(s->config))
		return xstrdup(config_get(s->config, "catalog.uri") ? config_get(s->config, "catalog.uri") : "");
	return xasprintf("%s/iceberg", *s->url ? *s->url : "");
}

/* The catalog and what opens it: another server's as the config has it, else ours with the attempt's own token. */
static json_t *
catalog_doc(const struct attempt *a)
{
	const struct config *c = a->sched->config;
	const char *name = config_get(c, "catalog.name"), *warehouse = config_get(c, "catalog.warehouse");
	char *uri;
	json_t *doc;

	if (config_foreign(c))
		return json_copy(json_object_get(c->json, "catalog"));
	uri = catalog_uri(a->sched);
	doc = json_pack("{s:s,s:s,s:s,s:s*}", "name", name ? name : "local", "uri", uri, "token", a->token, "warehouse",
			warehouse);
	free(uri);
	return doc;
}

json_t *
attempts_s3(const struct sched *s)
{
	const char *warehouse = config_get(s->config, "catalog.warehouse");
	const json_t *given = json_object_get(s->config->json, "s3");
	struct err e = ERR_INIT;
	struct storage *storage;
	json_t *doc;

	if (given == NULL && !(warehouse && storage_remote(warehouse)) && getenv("AWS_ACCESS_KEY_ID") == NULL &&
	    getenv("AWS_WEB_IDENTITY_TOKEN_FILE") == NULL)
		return NULL;
	storage = storage_new(given, &e);
	err_release(&e); /* said when the daemon began */
	if (storage == NULL)
		return NULL;
	doc = storage_settings(storage);
	storage_free(storage);
	return doc;
}

/* The values of a flow's secrets, the store's and those of another server's catalog: never to be stored. */
static struct mask *
mask_of(const struct config *config, const json_t *secrets)
{
	static const char *const own[] = { "s3.secret_key", "catalog.token" };
	struct mask *m = mask_new();
	const char *name;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)secrets, name, value)
		mask_add(m, json_string_value(value));
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (config_get(config, own[i]))
			mask_add(m, config_get(config, own[i]));
	if (config_get(config, "catalog.credential"))
		mask_add(m, strchr(config_get(config, "catalog.credential"), ':') + 1);
	return m;
}

static void
env_set(json_t *env, const char *name, const char *value)
{
	json_object_set_new(env, name, json_string(value ? value : ""));
}

/* What an exec'd command sees: the daemon's own environment for PATH and the like, the flow's, and ours. */
static json_t *
command_env(const struct attempt *a, json_t *own)
{
	static const char *const pass[] = { "PATH",   "HOME", "LANG",    "LC_ALL", "TZ",
					    "TMPDIR", "USER", "LOGNAME", "SHELL",  "SSL_CERT_FILE" };
	json_t *env = json_object();
	const struct run *run = a->task->run;
	char *text;

	for (size_t i = 0; i < sizeof(pass) / sizeof(pass[0]); i++)
		if (getenv(pass[i]))
			env_set(env, pass[i], getenv(pass[i]));
	if (json_object_get(env, "PATH") == NULL)
		env_set(env, "PATH", "/usr/local/bin:/usr/bin:/bin");
	json_object_update(env, own);
	env_set(env, "SLUICE_RUN_ID", run->id);
	env_set(env, "SLUICE_FLOW", run->flow->id);
	env_set(env, "SLUICE_TASK_ID", a->task->def->id);
	text = xasprintf("%d", a->n);
	env_set(env, "SLUICE_ATTEMPT", text);
	free(text);
	text = xasprintf("%s/report", a->dir);
	env_set(env, "SLUICE_REPORT", text);
	free(text);
	text = xasprintf("%s/artifacts", a->dir);
	env_set(env, "SLUICE_ARTIFACTS", text);
	free(text);
	env_set(env, "SLUICE_SCRATCH", a->scratch);
	text = catalog_uri(a->sched);
	env_set(env, "SLUICE_CATALOG_URI", text);
	free(text);
	/* What opens another server's catalog is told only to commands whose flow names it among its secrets. */
	env_set(env, "SLUICE_CATALOG_TOKEN", config_foreign(a->sched->config) ? "" : a->token);
	env_set(env, "SLUICE_URL", *a->sched->url);
	return env;
}

/* Those that have a folder for what is to be kept: of programs, and of maintenance its report. */
static bool
keeps_files(enum task_type type)
{
	return task_type_is_program(type) || type == TASK_MAINTAIN;
}

/* The first program of that name on a PATH, or NULL. */
static char *
find_program(const char *name, const char *path)
{
	while (path && *path) {
		size_t n = strcspn(path, ":");
		char *full = xasprintf("%.*s/%s", (int)n, path, name);

		if (access(full, X_OK) == 0)
			return full;
		free(full);
		path += n + (path[n] == ':');
	}
	return NULL;
}

/* The interpreter that a task of type python names: by path, its virtual environment's folder, or a name on the PATH. */
static char *
named_python(const char *name, const char *flow_file, const char *path, struct err *e)
{
	const char *slash = strrchr(flow_file, '/');
	bool is_path = strchr(name, '/') != NULL;
	char *program = is_path ? xstrdup(name)
				: xasprintf("%.*s/%s", slash ? (int)(slash - flow_file) : 1, slash ? flow_file : ".", name),
	     *inside = xasprintf("%s/bin/python", program);

	if (access(inside, X_OK) == 0) {
		free(program);
		return inside;
	}
	free(inside);
	if (!is_path) {
		free(program);
		program = find_program(name, path);
	}
	if (program && access(program, X_OK) == 0)
		return program;
	err_set(e, ERR_UNPROCESSABLE,
		"cannot run the Python interpreter \"%s\": %s; make a virtual environment (python3 -m venv FOLDER), or have "
		"\"python\" name an interpreter or an environment's folder that is there",
		name, program ? strerror(errno) : "neither on the PATH nor a virtual environment beside the flow");
	free(program);
	return NULL;
}

static bool
in_python(const struct attempt *a)
{
	return a->task->def->type == TASK_PYTHON || (a->task->engine && strcmp(a->task->engine, "duckdb") != 0);
}

/* The interpreter that runs the attempt: that of the task, or of its engine; NULL in `program` where none does. The caller frees
 * it. */
static int
attempt_python(const struct attempt *a, const json_t *spec, const json_t *options, const json_t *env, char **program,
	       struct err *e)
{
	*program = NULL;
	if (a->task->def->type == TASK_PYTHON) {
		*program = named_python(json_string_value(json_object_get(spec, "python")), a->task->run->flow->file,
					json_string_value(json_object_get(env, "PATH")), e);
		return *program ? 0 : ERR_UNPROCESSABLE;
	}
	if (in_python(a))
		*program = engine_home_python(
			a->sched->home, engine_home_of(a->task->engine, json_string_value(json_object_get(options, "version"))));
	return 0;
}

/* What the interpreter gets beyond what every document has. */
static void
doc_for_python(const struct attempt *a, json_t *doc)
{
	const struct task_def *def = a->task->def;

	json_object_set(doc, "params", a->task->run->params);
	if (def->code)
		json_object_set_new(json_object_get(doc, "spec"), "code", json_string(def->code));
	json_object_set_new(doc, "artifacts", json_sprintf("%s/artifacts", a->dir));
}

/* The folder that a task's attempts hand on, one to the next. The caller frees it. */
static char *
task_kept(const struct task *t)
{
	return xasprintf("%s/scratch/%s.%s.kept", t->run->sched->home, t->run->id, t->def->id);
}

void
task_kept_leave(const struct task *t)
{
	char *kept = t->def->type == TASK_STAGE || t->def->type == TASK_EXPORT ? task_kept(t) : NULL, *gone = NULL;

	/* Under another name at once: the task may be done again before the chore is. */
	if (kept)
		gone = xasprintf("%s-%d", kept, t->attempts);
	if (kept && rename(kept, gone) == 0)
		json_array_append_new(t->run->sched->leftovers, json_string(gone));
	free(kept);
	free(gone);
}

static bool
has_format(const json_t *spec, const char *place, const char *format)
{
	const char *text = json_string_value(json_object_get(json_object_get(spec, place), "format"));

	return text && strcmp(text, format) == 0;
}

/* A stage that fetches from elsewhere keeps for the next attempt what it may go on with, and tells nobody what opens the source.
 * An export to MongoDB keeps its rows. */
static void
add_kept(const struct attempt *a, const json_t *secrets, json_t *doc)
{
	const json_t *spec = json_object_get(doc, "spec");
	bool http = has_format(spec, "source", "http"), stream = has_format(spec, "source", "kafka");
	char *kept = task_kept(a->task);
	json_t *hide = json_array(), *value;
	const char *name;

	if (http || stream || has_format(spec, "to", "kafka")) {
		json_object_foreach ((json_t *)(uintptr_t)secrets, name, value)
			json_array_append(hide, value);
		json_object_set(doc, "hide", hide);
	}
	if (stream)
		json_object_set_new(doc, "stream", streams_doc(a->task, spec));
	if (http || stream || has_format(spec, "to", "mongodb"))
		json_object_set_new(doc, "kept", json_string(kept));
	json_decref(hide);
	free(kept);
}

/* In a rehearsal maintenance, whose commits are visible at once, only tells what it would do. */
static void
rehearse(const struct attempt *a, json_t **spec)
{
	json_t *planned;

	if (!a->task->run->rehearsal || a->task->def->type != TASK_MAINTAIN)
		return;
	planned = json_copy(*spec);
	json_object_set_new(planned, "dry_run", json_true());
	json_decref(*spec);
	*spec = planned;
}

/* Resolves everything the task refers to and makes the nursery's message. */
static int
attempt_resolve(struct attempt *a, struct err *e)
{
	const struct task_def *def = a->task->def;
	const struct run *run = a->task->run;
	/* Its cost grows with the flow: 200 tasks that refer to nothing would each look at all others. */
	json_t *scope = def->dynamic ? sched_scope(run) : json_pack("{s:{}}", "env"), *secrets = NULL, *env = NULL, *spec = NULL,
	       *options = NULL, *dir = NULL, *full = NULL, *argv;
	json_t *wd = def->working_dir ? json_string(def->working_dir) : NULL, *command;
	char *python = NULL;
	int rc;

	rc = secrets_load(a->sched->config, run->flow->secrets, &secrets, e);
	if (rc < 0)
		goto out;
	json_object_set(scope, "secrets", secrets);
	mask_free(a->mask); /* of an earlier resolve, when it is forked late */
	a->mask = mask_of(a->sched->config, secrets);
	if ((rc = sched_scope_env(scope, def, &env, e)) < 0)
		goto out;
	if ((rc = expr_resolve(def->spec, scope, &spec, e)) < 0 || (rc = flow_spec_resolved(def, &spec, e)) < 0)
		goto out;
	rehearse(a, &spec);
	if (def->engine_options && (rc = expr_resolve(def->engine_options, scope, &options, e)) < 0)
		goto out;
	/* A ref may have hidden what the engine cannot do. */
	if (a->task->engine && def->dynamic && (rc = engine_check_task(a->task->engine, def, spec, NULL, e)) < 0)
		goto out;
	if (wd && (rc = expr_resolve(wd, scope, &dir, e)) < 0)
		goto out;
	full = task_type_is_program(def->type) || in_python(a) ? command_env(a, env) : json_incref(env);
	if ((rc = attempt_python(a, spec, options, full, &python, e)) < 0)
		goto out;
	json_decref(a->message);
	a->message = json_pack("{s:s,s:s,s:s}", "key", a->key, "dir", a->dir, "cwd",
			       json_is_string(dir) ? json_string_value(dir) : a->scratch);
	if (def->type == TASK_COMMAND) {
		command = json_object_get(spec, "command");
		argv = json_is_array(command) ? json_incref(command) : json_pack("[s,s,O]", "/bin/sh", "-c", command);
		json_object_set_new(a->message, "argv", argv);
	} else {
		json_object_set_new(a->message, "doc",
				    json_pack("{s:s,s:s,s:s,s:i,s:s,s:s,s:O,s:s,s:o,s:s,s:O,s:O}", "run_id", run->id, "flow",
					      run->flow->id, "task_id", def->id, "attempt", a->n, "type",
					      task_type_name(def->type), "engine", a->task->engine ? a->task->engine : "duckdb",
					      "engine_options", options ? options : json_null(), "scratch", a->scratch, "catalog",
					      catalog_doc(a), "file", run->flow->file, "pos", def->pos ? def->pos : json_null(),
					      "spec", spec));
		json_object_set(json_object_get(a->message, "doc"), "s3", a->sched->s3);
		if (run->rehearsal)
			json_object_set_new(json_object_get(a->message, "doc"), "rehearsal", json_true());
		add_kept(a, secrets, json_object_get(a->message, "doc"));
		if (keeps_files(def->type))
			json_object_set_new(json_object_get(a->message, "doc"), "artifacts",
					    json_sprintf("%s/artifacts", a->dir));
		if (json_object_get(a->sched->config->json, "housekeeping"))
			json_object_set(json_object_get(a->message, "doc"), "housekeeping",
					json_object_get(a->sched->config->json, "housekeeping"));
	}
	if (python) {
		json_object_set_new(a->message, "python", json_string(python));
		doc_for_python(a, json_object_get(a->message, "doc"));
	}
	json_object_set(a->message, "env", full);
	if (run->shadow_of)
		json_object_set_new(a->message, "behind", json_true());
out:
	free(python);
	json_decref(full);
	json_decref(scope);
	json_decref(secrets);
	json_decref(env);
	json_decref(spec);
	json_decref(options);
	json_decref(dir);
	json_decref(wd);
	if (rc == 0 && list_empty(&a->preparing))
		list_append(&a->sched->preparing, &a->preparing);
	return rc;
}

struct attempt *
attempt_new(struct task *t, struct err *e)
{
	int n = t->attempts + 1;
	struct attempt *a = attempt_alloc(t->run->sched, t, xasprintf("%s/%s/%d", t->run->id, t->def->id, n), n);

	attempt_set_token(a);
	a->started_at = clock_wall();
	if (attempt_resolve(a, e) < 0) {
		char *where = NULL;

		mask_message(&e->msg, a->mask);
		if (t->def->line)
			where = xasprintf("%s:%d:%d", t->run->flow->file, t->def->line, t->def->col);
		if (where)
			err_prefix(e, "%s: task %s", where, t->def->id);
		free(where);
		attempt_free(a);
		return NULL;
	}
	a->fresh = a->dirty = true;
	a->adopted = true; /* ours, not inherited */
	return a;
}

struct attempt *
attempt_adopt(struct task *t, int n, bool stopping, const char *nursery, const char *token_hash, wall_us started_at)
{
	struct sched *s = t->run->sched;
	struct attempt *a = attempt_alloc(s, t, xasprintf("%s/%s/%d", t->run->id, t->def->id, n), n);
	json_t *secrets = NULL;

	free(a->nursery);
	a->nursery = xstrdup(nursery);
	a->phase = stopping ? ATTEMPT_STOPPING : ATTEMPT_RUNNING;
	a->started_at = started_at;
	snprintf(a->token_hash, sizeof(a->token_hash), "%s", token_hash);
	HASH_ADD_KEYPTR(hh_token, s->attempts_by_token, a->token_hash, strlen(a->token_hash), a);
	if (secrets_load(s->config, t->run->flow->secrets, &secrets, NULL) == 0)
		a->mask = mask_of(a->sched->config, secrets);
	json_decref(secrets);
	return a;
}

void
attempt_free(struct attempt *a)
{
	struct sched *s = a->sched;

	alarm_cancel(&a->timeout);
	alarm_cancel(&a->grace);
	list_remove(&a->preparing);
	HASH_DEL(s->attempts, a);
	if (a->token_hash[0])
		HASH_DELETE(hh_token, s->attempts_by_token, a);
	if (a->token)
		explicit_bzero(a->token, strlen(a->token));
	free(a->token);
	json_decref(a->message);
	mask_free(a->mask);
	json_decref(a->report);
	free(a->nursery);
	free(a->dir);
	free(a->scratch);
	free(a->unready);
	free(a->key);
	free(a);
}

/* ---- running ---- */

static void
attempt_timed_out(void *arg)
{
	attempt_stop(arg, STOP_TIMEOUT);
}

static void
attempt_arm_timeout(struct attempt *a)
{
	if (a->task && a->task->def->timeout && a->phase == ATTEMPT_RUNNING)
		alarm_set(&a->timeout, a->sched->loop, a->started_at + a->task->def->timeout - clock_wall(), attempt_timed_out,
			  a);
}

/* The folder for what an attempt wants to keep, and the mark that it must be archived; what cannot be made, or NULL. */
static const char *
attempt_keep(struct attempt *a)
{
	char *folder;
	bool good = true;

	if (keeps_files(a->task->def->type)) {
		folder = xasprintf("%s/artifacts", a->dir);
		good = mkdir(folder, 0755) == 0 || errno == EEXIST;
		free(folder);
	}
	if (good && config_get(a->sched->config, "server.archive"))
		good = archive_mark(a->sched->home, a->key) == 0;
	return good ? NULL : a->dir;
}

void
attempt_prepare(struct attempt *a)
{
	const char *failed = NULL;

	errno = 0;
	list_remove(&a->preparing);
	if (fs_make_folders(a->dir, 0755) < 0)
		failed = a->dir;
	else if (fs_make_folders(a->scratch, 0700) < 0)
		failed = a->scratch;
	else if (a->task)
		failed = attempt_keep(a);
	if (failed) {
		a->unready_errno = errno;
		a->unready = xasprintf("cannot make the folder %s: %s", failed, strerror(a->unready_errno));
	} else
		nursery_prepare(a->sched->nursery, a->message);
}

/* By key: between the write and its commit the attempt may have gone. */
struct spawn_call {
	struct sched *sched;
	char *key;
};

static void
attempt_spawn_now(void *arg)
{
	struct spawn_call *c = arg;
	struct sched *s = c->sched;
	struct attempt *a;

	HASH_FIND_STR(s->attempts, c->key, a);
	if (a && a->message) {
		struct nursery_exit x = { .key = a->key, .spawn_failed = true, .at = clock_wall() };

		if (!list_empty(&a->preparing))
			attempt_prepare(a);
		json_decref(a->message);
		a->message = NULL;
		if (a->phase != ATTEMPT_RUNNING) {
			x.error = "stopped before it began"; /* it never lived */
			on_attempt_exited(s, &x);
		} else if (a->unready) {
			x.error = a->unready;
			x.error_no = a->unready_errno;
			on_attempt_exited(s, &x);
		} else if (s->nursery_id == NULL || strcmp(a->nursery, s->nursery_id) != 0) {
			attempt_lose(a, "it was lost before it began: the nursery ended");
		} else {
			FAULT("attempt.spawn.before");
			nursery_go(s->nursery, a->key);
			FAULT("attempt.spawn.after");
			a->started_at = clock_wall(); /* the commit may have had to wait for the database */
			attempt_arm_timeout(a);
			progress_arm(s);
		}
	}
	free(c->key);
	free(c);
}

void
attempt_spawn_after_commit(struct attempt *a)
{
	struct spawn_call *c = xcalloc(1, sizeof(*c));

	c->sched = a->sched;
	c->key = xstrdup(a->key);
	store_after_commit(a->sched->store, attempt_spawn_now, c);
}

static void
attempt_kill(void *arg)
{
	struct attempt *a = arg;

	log_warn("%s did not end in its grace time; killing it", a->key);
	nursery_signal(a->sched->nursery, a->key, SIGKILL);
}

static void
attempt_term_now(void *arg)
{
	struct spawn_call *c = arg;
	struct attempt *a;

	HASH_FIND_STR(c->sched->attempts, c->key, a);
	if (a && a->message == NULL && a->phase == ATTEMPT_STOPPING) {
		nursery_signal(a->sched->nursery, a->key, SIGTERM);
		alarm_set(&a->grace, a->sched->loop, a->task ? a->task->def->stop_grace : ADHOC_GRACE, attempt_kill, a);
	}
	free(c->key);
	free(c);
}

void
attempt_stop(struct attempt *a, enum stop_reason why)
{
	struct spawn_call *c;

	if (a->phase != ATTEMPT_RUNNING)
		return;
	a->phase = ATTEMPT_STOPPING; /* its token is worth nothing from here on */
	a->stop = why;
	alarm_cancel(&a->timeout);
	a->dirty = true;
	if (a->task) {
		a->task->dirty = true;
		run_mark(a->task->run);
	}
	/* First the row that fences it, then the signal: what it does on SIGTERM must not commit. */
	c = xcalloc(1, sizeof(*c));
	c->sched = a->sched;
	c->key = xstrdup(a->key);
	store_after_commit(a->sched->store, attempt_term_now, c);
	sched_wake(a->sched);
}

/* ---- ending ---- */

/* The reason for a person, with the place when the task told it. */
static char *
attempt_reason(const struct attempt *a, const struct nursery_exit *x)
{
	const json_t *err = json_object_get(a->report, "error");
	const char *msg = json_string_value(json_object_get(err, "message")),
		   *file = json_string_value(json_object_get(err, "file"));
	json_int_t line = json_integer_value(json_object_get(err, "line")), col = json_integer_value(json_object_get(err, "col"));

	if (a->stop == STOP_TIMEOUT)
		return a->task ? xasprintf("it took longer than its timeout of %.3g s", (double)a->task->def->timeout / US_PER_S)
			       : xstrdup("the query took too long");
	if (a->stop == STOP_CANCEL)
		return xstrdup("cancelled");
	if (x->spawn_failed)
		return xstrdup(x->error ? x->error : "it could not be started");
	if (msg && file && line && strstr(msg, file) == NULL)
		return xasprintf("%s:%lld:%lld: %s", file, (long long)line, (long long)col, msg);
	if (msg)
		return xstrdup(msg);
	if (x->oom)
		return xasprintf(
			"killed by the kernel for lack of memory; at its peak it held %lld MB: have it hold less at once "
			"(a native task by engine_options.memory_limit), or give the machine or its control group more",
			(long long)(x->max_rss >> 20));
	if (WIFSIGNALED(x->status))
		return xasprintf("killed by signal %d (%s)", WTERMSIG(x->status), strsignal(WTERMSIG(x->status)));
	if (a->task && !task_type_is_program(a->task->def->type) && WEXITSTATUS(x->status) == 1)
		return xstrdup("it failed and could not report why: look at its log, and whether the disk is full");
	return xasprintf("exit status %d", WEXITSTATUS(x->status));
}

/* A program must report each output that it declares; the first missing one, or NULL. */
static const char *
missing_output(const struct task *t, const json_t *outputs)
{
	json_t *declared = json_object_get(t->def->spec, "outputs"), *value;
	const char *name;

	json_object_foreach (declared, name, value)
		if (json_object_get(outputs, name) == NULL)
			return name;
	return NULL;
}

static enum task_event
attempt_judge(struct attempt *a, const struct nursery_exit *x, char **reason)
{
	const char *cause = json_string_value(json_object_get(json_object_get(a->report, "error"), "cause")), *missing;

	*reason = NULL;
	if (!x->spawn_failed && WIFSIGNALED(x->status))
		a->signal = WTERMSIG(x->status);
	if (!x->spawn_failed && WIFEXITED(x->status))
		a->exit_code = WEXITSTATUS(x->status);
	if (a->stop == STOP_NONE && !x->spawn_failed && WIFEXITED(x->status) && WEXITSTATUS(x->status) == 0) {
		missing = a->task ? missing_output(a->task, json_object_get(a->report, "outputs")) : NULL;
		a->cause = "exit";
		if (missing == NULL)
			return TASK_EV_SUCCEED;
		*reason = xasprintf("it ended well but did not report its output \"%s\"; write {\"outputs\": {\"%s\": …}} as a "
				    "line to $SLUICE_REPORT",
				    missing, missing);
		return TASK_EV_FAIL;
	}
	*reason = attempt_reason(a, x);
	if (a->stop == STOP_TIMEOUT) {
		a->cause = "timeout";
		return TASK_EV_TIME_OUT;
	}
	if (a->stop == STOP_CANCEL) {
		a->cause = "cancelled";
		return TASK_EV_CANCEL;
	}
	a->cause = x->oom || (cause && strcmp(cause, "oom") == 0) ? "oom"
		   : cause && strcmp(cause, "conflict") == 0      ? "conflict"
		   : a->signal >= 0                               ? "signal"
								  : "exit";
	return TASK_EV_FAIL;
}

/* What its end leaves to remove. */
static void
attempt_leave(struct attempt *a)
{
	json_array_append_new(a->sched->leftovers, json_string(a->scratch));
	if (a->task == NULL)
		json_array_append_new(a->sched->leftovers, json_string(a->dir));
}

void
attempts_sweep(struct sched *s)
{
	char *path = xasprintf("%s/scratch", s->home);
	DIR *dir = opendir(path);
	struct dirent *entry;
	json_t *live = json_object();
	struct attempt *a, *tmp;
	struct run *run, *next;

	HASH_ITER(hh, s->attempts, a, tmp)
	json_object_set_new(live, a->scratch, json_true());
	HASH_ITER(hh, s->runs, run, next)
	for (size_t i = 0; i < run->flow->ntasks; i++) {
		char *kept = task_kept(&run->tasks[i]);

		if (!task_state_terminal(run->tasks[i].state))
			json_object_set_new(live, kept, json_true());
		free(kept);
	}
	while (dir && (entry = readdir(dir)) != NULL) {
		char *full = xasprintf("%s/%s", path, entry->d_name);

		if (entry->d_name[0] != '.' && json_object_get(live, full) == NULL)
			json_array_append_new(s->leftovers, json_string(full));
		free(full);
	}
	if (dir)
		closedir(dir);
	json_decref(live);
	free(path);
}

static bool
adhoc_conflict(const struct attempt *a)
{
	const char *cause = json_string_value(json_object_get(json_object_get(a->report, "error"), "cause"));

	return cause && strcmp(cause, "conflict") == 0;
}

static void
adhoc_ended(struct attempt *a, const struct nursery_exit *x)
{
	struct sched *s = a->sched;
	struct err e = ERR_INIT;
	char *reason;

	if (attempt_judge(a, x, &reason) == TASK_EV_SUCCEED)
		a->adhoc_cb(a->adhoc_arg, a->report, NULL);
	else {
		err_set(&e,
			a->stop == STOP_TIMEOUT                         ? ERR_TIMEOUT
			: adhoc_conflict(a)                             ? ERR_CONFLICT
			: x->spawn_failed && errno_passing(x->error_no) ? ERR_UNAVAILABLE
									: ERR_UNPROCESSABLE,
			"%s", reason);
		a->adhoc_cb(a->adhoc_arg, NULL, &e);
		err_release(&e);
	}
	free(reason);
	s->adhoc_used--;
	nursery_ack(s->nursery, a->key);
	attempt_leave(a);
	attempt_free(a);
}

static void
attempt_ack_now(void *arg)
{
	struct spawn_call *c = arg;

	nursery_ack(c->sched->nursery, c->key);
	free(c->key);
	free(c);
}

/* Ends an attempt of a task: notes everything, and lets the scheduler go on. Its row is written this turn. */
static void
attempt_end(struct attempt *a, enum task_event ev, const char *reason)
{
	struct task *t = a->task;
	json_t *outputs = json_object_get(a->report, "outputs");
	struct spawn_call *c;

	alarm_cancel(&a->timeout);
	alarm_cancel(&a->grace);
	if (ev == TASK_EV_SUCCEED && a->undercut) {
		a->cause = "conflict";
		a->exit_code = -1;
		ev = TASK_EV_FAIL;
		reason = "conflict: it built upon what a failed attempt of another task had written, which was taken back";
	}
	if (ev != TASK_EV_SUCCEED)
		streams_forget(t);
	else if (a->phase != ATTEMPT_PUBLISHING)
		streams_note(t, a->report);
	if (ev == TASK_EV_SUCCEED && a->phase != ATTEMPT_PUBLISHING && lake_pending(t->run, t)) {
		a->phase = ATTEMPT_PUBLISHING;
		run_mark(t->run);
		return;
	}
	if (ev != TASK_EV_SUCCEED)
		lake_take_back(a);
	if (ev != TASK_EV_SUCCEED || a->started_at < a->sched->began) /* then a commit may have been made twice */
		lake_leave(a);
	c = xcalloc(1, sizeof(*c));
	a->phase = ATTEMPT_ENDED;
	if (ev == TASK_EV_SUCCEED) {
		json_decref(t->outputs);
		t->outputs = json_is_object(outputs) ? json_incref(outputs) : json_object();
	} else if (json_object_get(a->report, "error") == NULL && reason) {
		json_object_set_new(a->report, "error", json_pack("{s:s}", "message", reason));
	}
	a->dirty = true;
	attempt_leave(a);
	c->sched = a->sched;
	c->key = xstrdup(a->key);
	store_after_commit(a->sched->store, attempt_ack_now, c);
	task_attempt_ended(t, ev, reason);
}

void
attempt_undercut(struct attempt *a)
{
	a->undercut = true;
	a->cause = "conflict"; /* in its row, so that the next daemon knows */
	a->dirty = true;
	run_mark(a->task->run);
}

void
attempt_published(struct attempt *a, const char *reason)
{
	if (reason) {
		a->cause = "conflict";
		a->exit_code = a->exit_code == 0 ? -1 : a->exit_code;
	}
	attempt_end(a, reason ? TASK_EV_FAIL : TASK_EV_SUCCEED, reason);
}

static void
attempts_hear_again(void *arg)
{
	struct sched *s = arg;

	nursery_list(s->nursery);
	sched_wake(s); /* which sends it */
}

static void
on_attempt_exited(void *arg, const struct nursery_exit *x)
{
	struct sched *s = arg;
	struct attempt *a;
	enum task_event ev;
	char *reason;

	if (!s->recovered)
		return; /* it tells again when it is asked for its list */
	HASH_FIND_STR(s->attempts, x->key, a);
	if (a == NULL || a->phase == ATTEMPT_ENDED || a->phase == ATTEMPT_PUBLISHING) {
		if (a == NULL)
			nursery_ack(s->nursery, x->key); /* recorded before this daemon began, or nobody's */
		return;
	}
	FAULT("attempt.exit.heard");
	if (!x->spawn_failed && attempt_read_report(a) < 0) {
		/* The nursery keeps the exit, and tells it again when it is asked for its list. */
		if (s->relist_alarm == NULL)
			alarm_set(&s->relist_alarm, s->loop, HEAR_AGAIN, attempts_hear_again, s);
		return;
	}
	if (x->spawn_failed && errno_passing(x->error_no) && a->task && a->stop == STOP_NONE && a->task->run->stop == STOP_NONE) {
		reason = xstrdup(x->error);
		mask_message(&reason, a->mask);
		hold_unbegun(a, reason);
		free(reason);
		return;
	}
	a->ended_at = x->at ? x->at : clock_wall();
	a->wall = x->wall;
	a->user = x->user;
	a->system = x->system;
	a->max_rss = x->max_rss;
	if (a->task == NULL) {
		adhoc_ended(a, x);
		return;
	}
	ev = attempt_judge(a, x, &reason);
	mask_message(&reason, a->mask); /* it may quote the command */
	attempt_end(a, ev, reason);
	free(reason);
}

static void
attempt_lose(struct attempt *a, const char *reason)
{
	struct err e = ERR_INIT;

	a->ended_at = clock_wall();
	a->wall = a->ended_at - a->started_at;
	a->cause = "lost";
	if (a->task == NULL) {
		err_set(&e, ERR_UNAVAILABLE, "%s", reason);
		a->adhoc_cb(a->adhoc_arg, NULL, &e);
		err_release(&e);
		a->sched->adhoc_used--;
		attempt_leave(a);
		attempt_free(a);
		return;
	}
	if (attempt_read_report(a) < 0)
		log_warn("%s: what it reported before it was lost cannot be read", a->key);
	attempt_end(a, a->stop == STOP_CANCEL ? TASK_EV_CANCEL : TASK_EV_LOSE, reason);
}

/* ---- the nursery's events ---- */

static void
on_nursery_up(void *arg, const char *id, enum nursery_fit fit)
{
	struct sched *s = arg;

	s->nursery_fit = fit;
	if (fit == NURSERY_OTHER_PROTOCOL)
		log_warn("the nursery is of another version: what it runs goes on, nothing new starts until that has ended");

	free(s->nursery_id);
	s->nursery_id = xstrdup(id);
	s->nursery_listed = false;
}

static void
on_nursery_child(void *arg, const char *key, pid_t pid, bool alive)
{
	struct sched *s = arg;
	struct attempt *a;
	bool news;

	if (!s->recovered)
		return; /* what is waited for is not known yet: see on_recovered */
	HASH_FIND_STR(s->attempts, key, a);
	if (a == NULL) {
		log_warn("the nursery still has %s, which nothing waits for; ending it", key);
		nursery_signal(s->nursery, key, SIGKILL);
		return;
	}
	news = !a->adopted; /* else it was only asked for its list once more */
	a->adopted = true;
	a->pid = pid;
	if (alive && news) {
		log_info("%s (process %d) is still running: adopted", key, (int)pid);
		attempt_arm_timeout(a);
		progress_arm(s);
		if (a->phase == ATTEMPT_STOPPING) {
			nursery_signal(s->nursery, key, SIGTERM);
			alarm_set(&a->grace, s->loop, a->task ? a->task->def->stop_grace : ADHOC_GRACE, attempt_kill, a);
		}
	}
}

void
attempts_reconcile(struct sched *s)
{
	struct attempt *a, *tmp;
	struct err e = ERR_INIT;

	if (!s->recovered || !s->nursery_listed)
		return;
	HASH_ITER(hh, s->attempts, a, tmp)
	{
		if (a->phase == ATTEMPT_ENDED || a->phase == ATTEMPT_PUBLISHING || a->message)
			continue;
		if (strcmp(a->nursery, s->nursery_id) != 0) {
			attempt_lose(a, "it was lost: the process that held it ended (a crash or a restart of the machine)");
		} else if (!a->adopted && a->phase == ATTEMPT_RUNNING && s->nursery_fit != NURSERY_OTHER_PROTOCOL) {
			/* This very nursery never heard of it: its row was committed, but the daemon ended before the fork. */
			log_info("%s was recorded but never forked: forking it now", a->key);
			attempt_set_token(a);
			if (attempt_resolve(a, &e) < 0) {
				mask_message(&e.msg, a->mask);
				attempt_end(a, TASK_EV_FAIL, e.msg);
				err_release(&e);
				continue;
			}
			a->adopted = a->dirty = true;
			run_mark(a->task->run);
			attempt_spawn_after_commit(a);
		} else if (!a->adopted) {
			attempt_lose(a, "it was given up before it was forked");
		}
	}
}

static void
on_nursery_listed(void *arg)
{
	struct sched *s = arg;

	if (!s->recovered)
		return;
	s->nursery_listed = true;
	attempts_reconcile(s);
	sched_wake(s);
}

static void
on_nursery_started(void *arg, const char *key, pid_t pid)
{
	struct sched *s = arg;
	struct attempt *a;

	HASH_FIND_STR(s->attempts, key, a);
	if (a)
		a->pid = pid;
}

static void
on_nursery_down(void *arg)
{
	struct sched *s = arg;
	struct attempt *a, *tmp;

	free(s->nursery_id);
	s->nursery_id = NULL;
	s->nursery_listed = false;
	HASH_ITER(hh, s->attempts, a, tmp)
	{
		if (a->phase == ATTEMPT_ENDED || a->message)
			continue;
		/* The kernel ends its child; what that had started is ours to end, before another attempt meets it. */
		if (a->pid > 0)
			kill(-a->pid, SIGKILL);
		attempt_lose(a, "it was lost: the nursery ended, and its children with it");
	}
	sched_wake(s);
}

static void
on_nursery_probed(void *arg, const char *error)
{
	hold_probed(arg, error);
}

const struct nursery_events attempt_nursery_events = {
	.up = on_nursery_up,
	.child = on_nursery_child,
	.listed = on_nursery_listed,
	.started = on_nursery_started,
	.exited = on_attempt_exited,
	.probed = on_nursery_probed,
	.down = on_nursery_down,
};

/* ---- queries outside runs ---- */

void
sched_adhoc(struct sched *s, const char *type, const json_t *spec, dur_us timeout, sched_adhoc_cb cb, void *arg)
{
	struct err e = ERR_INIT;
	struct attempt *a;
	json_t *message;

	if (config_apart(s->config)) {
		err_set(&e, ERR_UNSUPPORTED,
			"the daemon does not reach a catalog of type %s: its tables are read and written by tasks, on engines "
			"that do",
			config_get(s->config, "catalog.type"));
		cb(arg, NULL, &e);
		err_release(&e);
		return;
	}
	if (s->nursery_id == NULL || s->nursery_fit == NURSERY_OTHER_PROTOCOL || s->adhoc_used >= ADHOC_MAX) {
		err_set(&e, ERR_UNAVAILABLE,
			s->adhoc_used >= ADHOC_MAX ? "as many queries run as may at once; try again when one has ended"
						   : "the daemon is starting");
		cb(arg, NULL, &e);
		err_release(&e);
		return;
	}
	a = attempt_alloc(s, NULL, xasprintf("adhoc/%lld-%u", (long long)clock_wall(), ++s->adhoc_seq), 1);
	a->adhoc_cb = cb;
	a->adhoc_arg = arg;
	a->adopted = true;
	attempt_set_token(a);
	a->started_at = clock_wall();
	a->message = message =
		json_pack("{s:s,s:s,s:s,s:{},s:{s:s,s:s,s:s,s:i,s:s,s:s,s:{},s:s,s:o,s:s,s:{},s:O}}", "key", a->key, "dir",
			  a->dir, "cwd", a->scratch, "env", "doc", "run_id", "adhoc", "flow", "adhoc", "task_id", type, "attempt",
			  1, "type", type, "engine", "duckdb", "engine_options", "scratch", a->scratch, "catalog", catalog_doc(a),
			  "file", "", "pos", "spec", spec);
	json_object_set(json_object_get(message, "doc"), "s3", s->s3);
	if (strcmp(type, "compare") == 0)
		json_object_set_new(message, "behind", json_true());
	attempt_prepare(a);
	a->message = NULL;
	json_decref(message);
	if (a->unready) {
		err_set(&e, errno_passing(a->unready_errno) ? ERR_UNAVAILABLE : ERR_IO, "%s", a->unready);
		cb(arg, NULL, &e);
		err_release(&e);
		attempt_free(a);
		return;
	}
	s->adhoc_used++;
	nursery_go(s->nursery, a->key);
	if (timeout)
		alarm_set(&a->timeout, s->loop, timeout, attempt_timed_out, a);
}

/* ---- progress ---- */

static json_t *
attempt_progress(const struct attempt *a)
{
	json_t *fold = attempt_report(a), *progress = json_incref(json_object_get(fold, "progress"));

	json_decref(fold);
	return progress;
}

json_t *
sched_progress(struct sched *s, const char *run_id, const char *task_id)
{
	struct run *run;

	HASH_FIND_STR(s->runs, run_id, run);
	for (size_t i = 0; run && i < run->flow->ntasks; i++)
		if (strcmp(run->tasks[i].def->id, task_id) == 0 && run->tasks[i].attempt)
			return attempt_progress(run->tasks[i].attempt);
	return NULL;
}

/* Once a second while anything runs: whose report grew tells its progress. */
static void
progress_tick(void *arg)
{
	struct sched *s = arg;
	struct attempt *a, *tmp;

	HASH_ITER(hh, s->attempts, a, tmp)
	{
		char *path = xasprintf("%s/report", a->dir);
		struct stat st;
		json_t *progress;

		if (a->task && a->phase == ATTEMPT_RUNNING && stat(path, &st) == 0 && (size_t)st.st_size > a->report_seen) {
			a->report_seen = (size_t)st.st_size;
			progress = attempt_progress(a);
			if (progress)
				record_transient(s, a->task, json_pack("{s:o}", "progress", progress));
		}
		free(path);
	}
	progress_arm(s);
}

static void
progress_arm(struct sched *s)
{
	if (s->progress_alarm == NULL && s->slots_used > 0)
		alarm_set(&s->progress_alarm, s->loop, PROGRESS_EVERY, progress_tick, s);
}
