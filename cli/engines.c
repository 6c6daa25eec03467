/* What is there of each engine: read from its folder's names and its mark, no interpreter is started. */
#include "cli/engines.h"

#include <dirent.h>
#include <ftw.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/engine_home.h"
#include "base/sha256.h"
#include "cli/engine_kinds.h"
#include "cli/jars.h"
#include "cli/java.h"

const struct engine_kind engine_kinds[] = {
	{ .name = "polars", .packages = "polars pyiceberg pyarrow sqlglot duckdb", .python_minor = 10 },
	{ .name = "spark",
	  .packages = "pyspark pyarrow sqlglot duckdb",
	  .python_minor = 10,
	  .from_source = "pyspark",
	  .java = 17 },
	{ .name = "spark-3.5",
	  .packages = "pyspark pyarrow sqlglot duckdb",
	  .python_minor = 10,
	  .from_source = "pyspark",
	  .java = 17 },
};
const size_t engine_kind_count = sizeof(engine_kinds) / sizeof(engine_kinds[0]);

char *
engine_requirements(const char *libdir, const char *name, const char *suffix)
{
	return xasprintf("%s/python/requirements/%s%s", libdir, name, suffix);
}

char *
engine_requirements_hash(const char *libdir, const char *name)
{
	static const char *const suffixes[] = { ".txt", "-build.txt", ".jars" };
	char *hash = NULL;
	struct buf text = BUF_INIT;
	bool there = false;

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		char *path = engine_requirements(libdir, name, suffixes[i]);

		there = buf_add_file(&text, path) == 0 || there;
		free(path);
	}
	if (there) {
		hash = xmalloc(SHA256_HEX);
		sha256_hex(text.s, text.len, hash);
	}
	buf_release(&text);
	return hash;
}

static json_int_t folder_bytes;

static int
on_measure(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path;
	(void)ftw;
	if (type == FTW_F)
		folder_bytes += st->st_blocks * 512;
	return 0;
}

/* The version of an installed package, from the name of its NAME-VERSION.dist-info, or NAME-VERSION-py3.11.egg-info by a pip
 * before 23.1 of what it has built; NULL when it is not there. */
static char *
package_version(const char *path, const char *package)
{
	char *pattern = xasprintf("%s/lib/python3*/site-packages/%s-*.{dist,egg}-info", path, package), *version = NULL;
	glob_t found;

	if (glob(pattern, GLOB_BRACE, NULL, &found) == 0) {
		const char *from = strrchr(found.gl_pathv[0], '/') + 1 + strlen(package) + 1, *end = strstr(from, "-py");

		version = xstrndup(from, (size_t)((end ? end : strrchr(from, '.')) - from));
		globfree(&found);
	}
	free(pattern);
	return version;
}

/* Fills in packages and missing. */
static void
look_at_packages(json_t *engine, const char *path, const char *names)
{
	json_t *packages = json_object(), *missing = json_array();

	for (const char *p = names; *p; p += strcspn(p, " "), p += *p == ' ') {
		char *name = xstrndup(p, strcspn(p, " ")), *version = package_version(path, name);

		if (version)
			json_object_set_new(packages, name, json_string(version));
		else
			json_array_append_new(missing, json_string(name));
		free(version);
		free(name);
	}
	json_object_set_new(engine, "packages", packages);
	json_object_set_new(engine, "missing", missing);
}

/* Folders of an installation that did not come to its end. */
static bool
has_unfinished(const char *home, const char *name)
{
	char *pattern = xasprintf("%s/engines/%s-??????", home, name);
	bool found = false;
	glob_t all;

	if (glob(pattern, GLOB_ONLYDIR, NULL, &all) == 0) {
		for (size_t i = 0; i < all.gl_pathc; i++) {
			char *mark = xasprintf("%s/" ENGINE_MARK, all.gl_pathv[i]);

			found = found || access(mark, F_OK) < 0;
			free(mark);
		}
		globfree(&all);
	}
	free(pattern);
	return found;
}

/* The jars that lie beside, and those that should. */
static void
look_at_jars(json_t *engine, const char *path, const char *libdir, const struct engine_kind *kind)
{
	char *list = engine_requirements(libdir, kind->name, ".jars"), *folder = xasprintf("%s/jars", path);

	if (access(list, R_OK) == 0)
		json_object_set_new(engine, "jars", jars_look(list, folder, json_object_get(engine, "missing")));
	free(list);
	free(folder);
}

static void
set_state(json_t *engine, const char *state, const char *problem)
{
	json_object_set_new(engine, "state", json_string(state));
	json_object_set_new(engine, "problem", problem ? json_string(problem) : json_null());
	if (problem)
		json_object_set_new(
			engine, "mend",
			json_sprintf("sluice engines install %s", json_string_value(json_object_get(engine, "name"))));
}

/* An engine that is whole otherwise does not run without its Java: that which it was installed with, or the one of now. */
static void
look_at_java(json_t *engine, const json_t *mark, int least)
{
	const char *home = json_string_value(json_object_get(mark, "java"));
	char *program = xasprintf("%s/bin/java", home ? home : ""), *problem;
	struct java java;

	java_find(&java);
	problem = java_problem(&java, least);
	if (problem && (home == NULL || access(program, X_OK) < 0)) {
		set_state(engine, "broken", problem);
		json_object_set_new(engine, "mend", json_string(JAVA_MEND));
	}
	json_object_set_new(engine, "java", problem ? json_null() : json_string(java.version));
	free(problem);
	free(program);
	java_release(&java);
}

static json_t *
look_at(const char *home, const char *libdir, const struct engine_kind *kind)
{
	char *path = engine_home_path(home, kind->name), *python = engine_home_python(home, kind->name),
	     *mark_path = xasprintf("%s/" ENGINE_MARK, path), *want = engine_requirements_hash(libdir, kind->name);
	json_t *mark = json_load_file(mark_path, 0, NULL), *engine = json_pack("{s:s}", "name", kind->name);
	const char *have = json_string_value(json_object_get(mark, "requirements"));
	struct stat st;

	if (lstat(path, &st) < 0) {
		set_state(engine, "absent",
			  has_unfinished(home, kind->name) ? "not installed: an installation did not come to its end"
							   : "not installed");
	} else {
		char *real = realpath(path, NULL);

		json_object_set_new(engine, "path", json_string(path));
		json_object_set_new(engine, "interpreter", json_string(python));
		json_object_set(engine, "python", json_object_get(mark, "python"));
		look_at_packages(engine, path, kind->packages);
		look_at_jars(engine, path, libdir, kind);
		folder_bytes = 0;
		if (real)
			nftw(real, on_measure, 16, FTW_PHYS);
		free(real);
		json_object_set_new(engine, "bytes", json_integer(folder_bytes));
		if (mark == NULL || access(python, X_OK) < 0)
			set_state(engine, "broken",
				  mark ? "its interpreter cannot be run: was that Python removed?"
				       : "it was not made by `sluice engines install`, or is not whole");
		else if (json_array_size(json_object_get(engine, "missing")))
			set_state(engine, "broken", "parts of it are missing");
		else if (want && have && strcmp(want, have) != 0)
			set_state(engine, "outdated", "it was made for another version of sluice");
		else
			set_state(engine, "installed", NULL);
		if (kind->java && strcmp(json_string_value(json_object_get(engine, "state")), "installed") == 0)
			look_at_java(engine, mark, kind->java);
	}
	json_decref(mark);
	free(path);
	free(python);
	free(mark_path);
	free(want);
	return engine;
}

json_t *
engines_look(const char *home, const char *libdir)
{
	json_t *out = json_array();

	json_array_append_new(out, json_pack("{s:s,s:s,s:n}", "name", "duckdb", "state", "built-in", "problem"));
	for (size_t i = 0; i < engine_kind_count; i++)
		json_array_append_new(out, look_at(home, libdir, &engine_kinds[i]));
	return out;
}
