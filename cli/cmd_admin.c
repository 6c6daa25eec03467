/* The daemon's upkeep: tokens, the doctor, the version. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/err.h"
#include "cli/catalog_check.h"
#include "cli/engines.h"
#include "cli/follow.h"
#include "cli/term.h"
#include "daemon/daemon.h"
#include "flows/config.h"
#include "scheduler/cluster.h"

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0.0.0"
#endif

extern char **environ;

int
cmd_version(const struct args *a)
{
	if (a->json)
		printf("{\"version\": \"%s\"}\n", SLUICE_VERSION);
	else
		puts("sluice " SLUICE_VERSION);
	return EXIT_OK;
}

/* ---- tokens ---- */

static int
token_create(struct client *c, const struct args *a)
{
	json_t *made = NULL;
	int rc;

	if (a->scope == NULL)
		return refuse("viewer reads, runner also triggers and cancels, admin may do everything",
			      "token create needs --scope viewer, runner or admin");
	rc = client_do(c, "POST", "/api/v1/tokens", json_pack("{s:s}", "scope", a->scope), &made);
	if (rc == EXIT_OK && a->json) {
		print_json(made);
	} else if (rc == EXIT_OK) {
		fprintf(stderr, "token %s, scope %s; it is shown this once:\n", json_string_value(json_object_get(made, "id")),
			a->scope);
		puts(json_string_value(json_object_get(made, "token")));
	}
	json_decref(made);
	return rc;
}

static int
token_list(struct client *c, const struct args *a)
{
	static const char *const headers[] = { "TOKEN", "SCOPE", "CREATED" };
	json_t *list = NULL, *rows = json_array(), *item;
	int rc = client_do(c, "GET", "/api/v1/tokens", NULL, &list);
	size_t i;

	json_array_foreach (json_object_get(list, "items"), i, item) {
		char when[40];

		json_array_append_new(rows, json_pack("[s,s,s]", json_string_value(json_object_get(item, "id")),
						      json_string_value(json_object_get(item, "scope")),
						      term_when(json_string_value(json_object_get(item, "created_at")), when)));
	}
	if (rc == EXIT_OK && a->json)
		print_json(list);
	else if (rc == EXIT_OK && json_array_size(rows))
		term_table(stdout, headers, 3, rows, "lll");
	else if (rc == EXIT_OK)
		fputs("no tokens but the admin's own\n", stderr);
	json_decref(rows);
	json_decref(list);
	return rc;
}

static int
token_delete(struct client *c, const char *id)
{
	struct buf path = BUF_INIT;
	int rc;

	buf_adds(&path, "/api/v1/tokens/");
	add_encoded(&path, id);
	rc = client_do(c, "DELETE", path.s, NULL, NULL);
	if (rc == EXIT_OK)
		fprintf(stderr, "token %s is deleted; it opens nothing any more\n", id);
	buf_release(&path);
	return rc;
}

int
cmd_token(const struct args *a)
{
	const char *verb = a->operands[0];
	struct client *c;
	int rc;

	if (strcmp(verb, "delete") == 0 ? a->count != 2 : a->count != 1)
		return refuse(NULL, "usage: sluice %s", a->command->usage);
	c = client_open(a);
	if (strcmp(verb, "create") == 0)
		rc = token_create(c, a);
	else if (strcmp(verb, "list") == 0)
		rc = token_list(c, a);
	else if (strcmp(verb, "delete") == 0)
		rc = token_delete(c, a->operands[1]);
	else
		rc = refuse(NULL, "usage: sluice %s", a->command->usage);
	client_close(c);
	return rc;
}

/* ---- the doctor ---- */

struct doctor {
	int sick;
};

static void finding(struct doctor *d, const char *what, const char *next, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* One line: good when there is nothing to do next. */
static void
finding(struct doctor *d, const char *what, const char *next, const char *fmt, ...)
{
	const char *colour = term_state(stdout, next ? "failed" : "success");
	va_list ap;

	printf("%s%s%s %-12s ", colour, next ? "✗" : "✓", term_off(stdout), what);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	if (next) {
		printf("  %-12s %s\n", "", next);
		d->sick++;
	}
}

static void
doctor_home(struct doctor *d, const char *home)
{
	struct statvfs fs;
	struct stat st;
	char *parent = xstrdup(home), *slash;

	if (strlen(home) + strlen("/nursery.sock") >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		finding(d, "state folder", "choose a shorter one with --home", "%s: too long for a unix socket's path", home);
	else if (stat(home, &st) == 0 && access(home, W_OK | X_OK) < 0)
		finding(d, "state folder", "make it yours, or choose another with --home", "%s: %s", home, strerror(errno));
	else
		finding(d, "state folder", NULL, "%s%s", home, stat(home, &st) == 0 ? "" : " (made at the first start)");
	while (statvfs(parent, &fs) < 0 && (slash = strrchr(parent, '/')) != NULL && slash != parent)
		*slash = '\0';
	if (statvfs(parent, &fs) == 0) {
		double gb = (double)fs.f_bavail * (double)fs.f_frsize / 1e9;

		finding(d, "disk", gb < 1 ? "make room: PostgreSQL and the tables need it" : NULL, "%.1f GB free", gb);
	}
	free(parent);
}

static void
doctor_postgres(struct doctor *d)
{
	const char *dsn = getenv("SLUICE_DATABASE");
	struct err e = ERR_INIT;
	char *bin;

	if (dsn && *dsn) {
		finding(d, "PostgreSQL", NULL, "yours, from SLUICE_DATABASE");
		return;
	}
	bin = cluster_bindir(&e);
	finding(d, "PostgreSQL", bin ? NULL : "install it (Debian: apt-get install postgresql), or give SLUICE_DATABASE", "%s",
		bin ? bin : e.msg);
	err_release(&e);
	free(bin);
}

static void
doctor_engine(struct doctor *d)
{
	static const char *const extensions[] = { "iceberg", "avro", "httpfs" };
	char *dir = default_libdir(), *path = xasprintf("%s/libduckdb.so", dir);

	if (access(path, R_OK) < 0)
		finding(d, "DuckDB", "`make deps` fetches it; SLUICE_LIB names another folder", "%s: %s", path, strerror(errno));
	else
		finding(d, "DuckDB", NULL, "%s", path);
	free(path);
	for (size_t i = 0; i < sizeof(extensions) / sizeof(extensions[0]); i++) {
		path = xasprintf("%s/%s.duckdb_extension", dir, extensions[i]);
		if (access(path, R_OK) < 0)
			finding(d, "extension", "`make deps` fetches it", "%s: %s", path, strerror(errno));
		free(path);
	}
	free(dir);
}

/* What tasks map when they need it; it is missed by nobody else. */
static void
doctor_library(struct doctor *d, const char *file, const char *there, const char *missing)
{
	void *library = dlopen(file, RTLD_LAZY);

	finding(d, "library", NULL, "%s", library ? there : missing);
	if (library)
		dlclose(library);
}

static void
doctor_libraries(struct doctor *d)
{
	doctor_library(d, "libmongoc-1.0.so.0", "libmongoc is there, for exports to MongoDB",
		       "libmongoc is not there; exports to MongoDB need it (Debian: apt-get install libmongoc-1.0-0)");
	doctor_library(d, "librdkafka.so.1", "librdkafka is there, for Kafka",
		       "librdkafka is not there; Kafka needs it (Debian: apt-get install librdkafka1)");
}

/* One that is not installed is missed by nobody before a task names it. */
static void
doctor_engines(struct doctor *d, const char *home)
{
	char *dir = default_libdir();
	json_t *all = engines_look(home, dir), *engine;
	size_t i;

	json_array_foreach (all, i, engine) {
		const char *state = text_of(engine, "state"), *problem = text_or_null(engine, "problem"), *mend = NULL;

		if (strcmp(state, "built-in") == 0)
			continue;
		if (problem && strcmp(state, "absent") != 0)
			mend = text_of(engine, "mend");
		finding(d, "engine", mend, "%s: %s", text_of(engine, "name"), problem ? problem : state);
	}
	json_decref(all);
	free(dir);
}

static void
doctor_catalog(struct doctor *d, const struct config *config, const char *home)
{
	char *dir = default_libdir();
	struct buf answer = BUF_INIT;
	bool good;

	if (config_apart(config)) {
		good = catalog_check(config, home, dir, &answer);
		finding(d, "catalog", good ? NULL : "look at catalog in the config, and whether its server runs", "%s, %s: %s",
			config_get(config, "catalog.type"), config_place(config), answer.s);
	}
	buf_release(&answer);
	free(dir);
}

static void
doctor_config(struct doctor *d, const struct args *a, const char *home)
{
	const char *env = getenv("SLUICE_CONFIG"), *file = a->config ? a->config : env && *env ? env : NULL;
	struct diags diags = DIAGS_INIT;
	struct config *config;

	if (file == NULL && access("sluice.yaml", R_OK) == 0)
		file = "sluice.yaml";
	config = config_load(file, environ, &diags);
	if (config)
		finding(d, "config", NULL, "%s", file ? file : "none: defaults and environment");
	if (config)
		doctor_catalog(d, config, home);
	for (size_t i = 0; i < diags.count; i++)
		if (diags.items[i].severity == SEVERITY_ERROR)
			finding(d, "config", "mend it: the daemon does not start with it", "%s:%d:%d: %s",
				diags.items[i].file ? diags.items[i].file : "environment", diags.items[i].line,
				diags.items[i].col, diags.items[i].message);
	config_free(config);
	diags_release(&diags);
}

static void
doctor_daemon(struct doctor *d, const struct args *a)
{
	struct client *c = client_open(a);
	json_t *s = NULL, *flows, *trouble;
	size_t i;

	if (!client_answers(c)) {
		finding(d, "daemon", NULL, "none answers; `sluice serve` starts one");
	} else if (client_call(c, "GET", "/api/v1/status", NULL, &s) != 200) {
		finding(d, "daemon", "give a token in SLUICE_TOKEN", "it answers, but does not say how it is");
	} else {
		const char *url = json_string_value(json_object_get(s, "url")),
			   *version = json_string_value(json_object_get(s, "version"));

		flows = json_object_get(s, "flows");
		finding(d, "daemon", NULL, "%s, version %s", url ? url : "no address", version ? version : "unknown");
		if (!json_is_true(json_object_get(json_object_get(s, "database"), "connected")))
			finding(d, "database", "see the daemon's log", "the daemon cannot reach it now");
		json_array_foreach (json_object_get(s, "troubles"), i, trouble)
			finding(d, json_string_value(json_object_get(trouble, "what")), "it goes on by itself when that is over",
				"%s", json_string_value(json_object_get(trouble, "message")));
		finding(d, "flows",
			json_integer_value(json_object_get(flows, "broken")) ? "`sluice flows` says what is wrong" : NULL,
			"%lld good, %lld with problems", (long long)json_integer_value(json_object_get(flows, "good")),
			(long long)json_integer_value(json_object_get(flows, "broken")));
	}
	json_decref(s);
	client_close(c);
}

int
cmd_doctor(const struct args *a)
{
	struct doctor d = { 0 };
	char *home = a->home ? xstrdup(a->home) : default_home();

	doctor_home(&d, home);
	doctor_postgres(&d);
	doctor_engine(&d);
	doctor_libraries(&d);
	doctor_engines(&d, home);
	finding(&d, "time zones",
		access("/usr/share/zoneinfo/Europe/Madrid", R_OK) < 0 ? "install tzdata: schedules with a timezone need it"
								      : NULL,
		"/usr/share/zoneinfo");
	doctor_config(&d, a, home);
	doctor_daemon(&d, a);
	free(home);
	if (d.sick)
		fprintf(stderr, "%d thing%s to mend\n", d.sick, d.sick == 1 ? "" : "s");
	return d.sick ? EXIT_FAILED : EXIT_OK;
}
