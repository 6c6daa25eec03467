/*
 * `sluice engines`: what tasks can run on. An engine's virtual environment is made in a folder of its own and comes into force
 * by a link, whole; the one before stays until the next install, since tasks may be running on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/engine_home.h"
#include "base/fs.h"
#include "cli/engine_kinds.h"
#include "cli/engines.h"
#include "cli/follow.h"
#include "cli/jars.h"
#include "cli/java.h"
#include "cli/program.h"
#include "cli/term.h"
#include "daemon/daemon.h"
#include "flows/suggest.h"

/* ---- list ---- */

static void
print_engine(const json_t *engine)
{
	const char *state = text_of(engine, "state"), *problem = text_or_null(engine, "problem"),
		   *mend = text_or_null(engine, "mend"), *package;
	json_int_t bytes = json_integer_value(json_object_get(engine, "bytes"));
	json_t *version, *missing;
	char size[32];
	size_t i;

	printf("%s%-10s%s %s%s%s", term_bold(stdout), text_of(engine, "name"), term_off(stdout),
	       term_state(stdout, problem && strcmp(state, "absent") != 0 ? "failed" : "success"), state, term_off(stdout));
	if (text_or_null(engine, "python"))
		printf(", Python %s", text_of(engine, "python"));
	json_object_foreach (json_object_get(engine, "packages"), package, version)
		printf(", %s %s", package, json_string_value(version));
	if (text_or_null(engine, "java"))
		printf(", Java %s", text_of(engine, "java"));
	if (bytes)
		printf(", %s", term_bytes(bytes, size));
	putchar('\n');
	if (text_or_null(engine, "interpreter"))
		printf("%-10s %s\n", "", text_of(engine, "interpreter"));
	if (json_array_size(json_object_get(engine, "missing"))) {
		printf("%-10s missing:", "");
		json_array_foreach (json_object_get(engine, "missing"), i, missing)
			printf(" %s", json_string_value(missing));
		putchar('\n');
	}
	if (problem)
		printf("%-10s %s; to mend it: %s\n", "", problem, mend ? mend : "");
}

static int
engines_list(const struct args *a, const char *home, const char *libdir)
{
	json_t *all = engines_look(home, libdir), *engine;
	size_t i;

	if (a->json)
		print_json(all);
	else
		json_array_foreach (all, i, engine)
			print_engine(engine);
	json_decref(all);
	return EXIT_OK;
}

/* ---- install ---- */

struct install {
	const struct engine_kind *kind;
	const char *python; /* the interpreter to make it of */
	char version[32];   /* its version */
	const char *libdir;
	char *hash; /* of its requirements */
	struct java java;
	char *folder; /* HOME/engines */
	char *made;   /* the new environment */
	bool quiet;
};

static void __attribute__((format(printf, 2, 3))) say(const struct install *in, const char *fmt, ...)
{
	va_list ap;

	if (in->quiet)
		return;
	fprintf(stderr, "%s: ", in->kind->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static int
check_java(struct install *in)
{
	char *problem;

	if (in->kind->java == 0)
		return EXIT_OK;
	java_find(&in->java);
	problem = java_problem(&in->java, in->kind->java);
	if (problem == NULL)
		return EXIT_OK;
	refuse(JAVA_MEND, "the engine %s cannot be installed: %s", in->kind->name, problem);
	free(problem);
	return EXIT_FAILED;
}

static void
on_version(void *arg, char *line)
{
	struct install *in = arg;

	snprintf(in->version, sizeof(in->version), "%s", line);
}

/* Asks the interpreter for its version, and whether it can make environments. */
static int
ask_python(struct install *in)
{
	static const char code[] = "import sys, venv, ensurepip; print('%d.%d.%d' % sys.version_info[:3])";
	const char *argv[] = { in->python, "-I", "-c", code, NULL };
	int status = program_run_lines(argv, on_version, in), minor = 0;

	if (status == 127)
		return refuse("install Python, or name one with --python", "%s cannot be run", in->python);
	if (status != 0 || sscanf(in->version, "3.%d", &minor) != 1)
		return refuse("Debian keeps a part of it in a package of its own: apt-get install python3-venv",
			      "%s cannot make virtual environments; what it says stands above", in->python);
	if (minor < in->kind->python_minor)
		return refuse("name a newer one with --python", "%s is Python %s; the engine %s needs 3.%d or newer", in->python,
			      in->version, in->kind->name, in->kind->python_minor);
	return EXIT_OK;
}

/* Of what pip tells, packages that take a while: "  Downloading NAME-VERSION-TAGS.whl (12.3 MB)". */
static void
on_pip_line(void *arg, char *line)
{
	const struct install *in = arg;
	char *file = strstr(line, "Downloading "), *size = strrchr(line, '('), *end;

	if (file && size && strstr(size, " MB)")) {
		file += strlen("Downloading ");
		end = strchr(file, '-');
		end = end ? end + 1 + strcspn(end + 1, "- ") : file;
		say(in, "getting %.*s %s", (int)(end - file), file, size);
	} else if (strstr(line, "Building wheel") && strstr(line, "started")) {
		say(in, "unpacking it");
	} else if (strncmp(line, "Installing collected", 20) == 0) {
		say(in, "installing what it has");
	}
}

/* Has pip install what a file of requirements names. */
static int
pip_install(const struct install *in, const char *suffix)
{
	char *python = xasprintf("%s/bin/python", in->made), *file = engine_requirements(in->libdir, in->kind->name, suffix),
	     *source = in->kind->from_source ? xasprintf("--no-binary=%s", in->kind->from_source) : NULL;
	const char *argv[16] = {
		python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "--only-binary=:all:",
		"-r",   file
	};
	size_t n = 10;
	int rc = EXIT_OK;

	/* What it is built with is installed by then, pinned as all else. Its wheel is unpacked as soon as it is made. */
	if (source) {
		argv[n++] = "--no-build-isolation";
		argv[n++] = "--config-settings=--build-option=--compression=stored";
		argv[n++] = source;
	}
	if (in->quiet)
		argv[n] = "-q";
	if (program_run_lines(argv, on_pip_line, (void *)(uintptr_t)in) != 0)
		rc = refuse("nothing was changed: an engine that was there before stays in force",
			    "pip could not install the packages of %s; what it says stands above", in->kind->name);
	free(python);
	free(file);
	free(source);
	return rc;
}

static int
get_jars(const struct install *in)
{
	char *list = engine_requirements(in->libdir, in->kind->name, ".jars"), *folder = xasprintf("%s/jars", in->made);
	int rc = access(list, R_OK) == 0 ? jars_get(list, folder, in->quiet) : EXIT_OK;

	free(list);
	free(folder);
	return rc;
}

static int
make_environment(struct install *in)
{
	const char *venv[] = { in->python, "-I", "-m", "venv", in->made, NULL };
	int rc = EXIT_OK;

	say(in, "making a virtual environment of Python %s in %s", in->version, in->made);
	if (program_run(venv) != 0)
		return refuse(NULL, "%s -m venv failed; what it says stands above", in->python);
	/* They are the smaller part: what they lack is told first. */
	rc = get_jars(in);
	if (rc == EXIT_OK)
		say(in, "installing its packages; pip's own settings (mirrors, proxies) apply");
	if (rc == EXIT_OK && in->kind->from_source)
		rc = pip_install(in, "-build.txt");
	return rc == EXIT_OK ? pip_install(in, ".txt") : rc;
}

static int
write_mark(const struct install *in)
{
	char *path = xasprintf("%s/" ENGINE_MARK, in->made), when[40];
	time_t now = time(NULL);
	struct tm tm;
	json_t *mark;
	int rc;

	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	mark = json_pack("{s:s,s:s,s:s,s:s?,s:s}", "engine", in->kind->name, "requirements", in->hash, "python", in->version,
			 "java", in->java.home, "installed_at", when);
	rc = json_dump_file(mark, path, JSON_INDENT(2));
	if (rc < 0)
		refuse(NULL, "cannot write %s: %s", path, strerror(errno));
	json_decref(mark);
	free(path);
	return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

/* What Spark finds beside its jars: how Delta commits on S3, and its classes, which are read once and kept as the JVM maps them.
 * Without these, each JVM takes three times as long to begin: said, no failure. */
static void
archive_classes(const struct install *in)
{
	static const char code[] =
		"import sys; sys.path.insert(0, sys.argv[1]); from sluice.engines import spark_archive; spark_archive.make()";
	char *python = xasprintf("%s/bin/python", in->made), *package = xasprintf("%s/python", in->libdir);
	const char *argv[] = { python, "-I", "-c", code, package, NULL };

	if (in->kind->java) {
		say(in, "starting Spark once, so that its JVM begins faster from now on");
		if (program_run(argv) != 0)
			say(in, "that did not work; the engine does, but begins slower and writes no Delta tables on S3");
	}
	free(python);
	free(package);
}

/* The link is put in its place in one step; `before` gets what it led to. */
static int
bring_into_force(const struct install *in, char **before)
{
	char *link = xasprintf("%s/%s", in->folder, in->kind->name),
	     *fresh = xasprintf("%s/.%s.link", in->folder, in->kind->name);
	int rc = EXIT_OK;

	*before = realpath(link, NULL);
	unlink(fresh);
	if (symlink(strrchr(in->made, '/') + 1, fresh) < 0 || rename(fresh, link) < 0)
		rc = refuse("if a folder of yours is there, move it away", "cannot put %s in its place: %s", link,
			    strerror(errno));
	free(link);
	free(fresh);
	return rc;
}

/* Half made ones, and those that were in force before the last one. */
static void
remove_old(const struct install *in, const char *before)
{
	char *pattern = xasprintf("%s/%s-??????", in->folder, in->kind->name);
	glob_t all;

	if (glob(pattern, GLOB_ONLYDIR, NULL, &all) == 0) {
		for (size_t i = 0; i < all.gl_pathc; i++) {
			char *real = realpath(all.gl_pathv[i], NULL);

			if (real && strcmp(all.gl_pathv[i], in->made) != 0 && !(before && strcmp(real, before) == 0)) {
				say(in, "removing %s, which is not in use", real);
				fs_remove_tree(all.gl_pathv[i]);
			}
			free(real);
		}
		globfree(&all);
	}
	free(pattern);
}

static int
install_whole(struct install *in)
{
	char *before = NULL, *out;
	int rc;

	in->made = xasprintf("%s/%s-XXXXXX", in->folder, in->kind->name);
	if (mkdtemp(in->made) == NULL || chmod(in->made, 0755) < 0)
		return refuse(NULL, "cannot make a folder in %s: %s", in->folder, strerror(errno));
	rc = make_environment(in);
	if (rc == EXIT_OK)
		rc = write_mark(in);
	if (rc == EXIT_OK)
		archive_classes(in);
	if (rc == EXIT_OK)
		rc = bring_into_force(in, &before);
	if (rc != EXIT_OK) {
		fs_remove_tree(in->made);
		free(before);
		return rc == EXIT_REFUSED ? EXIT_FAILED : rc;
	}
	remove_old(in, before);
	if (before && strcmp(before, in->made) != 0)
		say(in, "the one before stays until the next install, for tasks that run on it: %s", before);
	out = xasprintf("%s/%s", in->folder, in->kind->name);
	say(in, "installed in %s", out);
	free(out);
	free(before);
	return EXIT_OK;
}

static const struct engine_kind *
kind_named(const char *name)
{
	const char *names[16];
	struct buf hint = BUF_INIT;

	name = engine_home_name(name);
	for (size_t i = 0; i < engine_kind_count; i++) {
		if (strcmp(engine_kinds[i].name, name) == 0)
			return &engine_kinds[i];
		names[i] = engine_kinds[i].name;
	}
	if (strcmp(name, "duckdb") == 0) {
		refuse(NULL, "duckdb is built in; there is nothing to install");
	} else {
		suggest_hint(&hint, name, names, engine_kind_count, "engines to install are");
		refuse(NULL, "there is no engine \"%s\"%s", name, hint.s);
		buf_release(&hint);
	}
	return NULL;
}

/* Is there nothing to do? */
static bool
is_installed(const char *home, const char *libdir, const char *name)
{
	json_t *all = engines_look(home, libdir), *engine;
	bool good = false;
	size_t i;

	json_array_foreach (all, i, engine)
		if (strcmp(text_of(engine, "name"), name) == 0)
			good = strcmp(text_of(engine, "state"), "installed") == 0;
	json_decref(all);
	return good;
}

static int
engines_install(const struct args *a, const char *home, const char *libdir, const char *name)
{
	struct install in = {
		.kind = kind_named(name), .python = a->python ? a->python : "python3", .libdir = libdir, .quiet = a->quiet
	};
	char *lock = NULL;
	int fd = -1, rc = EXIT_FAILED;

	if (in.kind == NULL)
		return EXIT_REFUSED;
	name = in.kind->name;
	in.hash = engine_requirements_hash(libdir, name);
	in.folder = xasprintf("%s/engines", home);
	lock = xasprintf("%s/.lock", in.folder);
	if (in.hash == NULL) {
		refuse("`make` puts them beside the libraries; SLUICE_LIB names another folder",
		       "the requirements of %s cannot be read below %s: %s", name, libdir, strerror(errno));
	} else if (fs_make_folders(in.folder, 0755) < 0 || (fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0644)) < 0) {
		refuse(NULL, "cannot write to %s: %s", in.folder, strerror(errno));
	} else if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		refuse(NULL, "another `sluice engines install` is at work in %s", in.folder);
	} else if (!a->replace && is_installed(home, libdir, name)) {
		say(&in, "installed already; --replace makes it anew");
		rc = EXIT_OK;
	} else if ((rc = check_java(&in)) == EXIT_OK && (rc = ask_python(&in)) == EXIT_OK) {
		rc = install_whole(&in);
	}
	if (fd >= 0)
		close(fd);
	java_release(&in.java);
	free(in.hash);
	free(in.folder);
	free(in.made);
	free(lock);
	return rc;
}

int
cmd_engines(const struct args *a)
{
	const char *verb = a->count ? a->operands[0] : "list";
	char *home = a->home ? xstrdup(a->home) : default_home(), *libdir = default_libdir(), *whole;
	int rc;

	/* A virtual environment holds its own path. */
	if (home[0] != '/' && (fs_make_folders(home, 0755) == 0) && (whole = realpath(home, NULL)) != NULL) {
		free(home);
		home = whole;
	}
	if (strcmp(verb, "list") == 0 && a->count <= 1)
		rc = engines_list(a, home, libdir);
	else if (strcmp(verb, "install") == 0 && a->count == 2)
		rc = engines_install(a, home, libdir, a->operands[1]);
	else
		rc = refuse(NULL, "usage: sluice %s", a->command->usage);
	free(home);
	free(libdir);
	return rc;
}
