#include "cli/jars.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/sha256.h"
#include "cli/cli.h"
#include "cli/program.h"

#define CENTRAL    "https://repo1.maven.org/maven2"
#define MVN_PLUGIN "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

/* ---- the list ---- */

struct jar {
	char *hash, *group, *artifact, *version;
	char *file; /* artifact-version.jar */
};

struct jars {
	struct jar *all;
	size_t count;
	char *text; /* which they point into, but for `file` */
};

static void
jars_release(struct jars *j)
{
	for (size_t i = 0; i < j->count; i++)
		free(j->all[i].file);
	free(j->all);
	free(j->text);
}

/* 0, or a negative errno. The file is ours, so a line that is not as it should be is left out, and its jar is not there. */
static int
jars_read(struct jars *j, const char *list)
{
	struct buf text = BUF_INIT;
	int rc = buf_add_file(&text, list);
	char *rest, *line;

	*j = (struct jars){ 0 };
	j->text = rest = rc == 0 ? xstrdup(text.s) : NULL;
	buf_release(&text);
	while ((line = strsep(&rest, "\n")) != NULL) {
		struct jar jar = { 0 };

		jar.hash = strsep(&line, " ");
		line += line ? strspn(line, " ") : 0;
		jar.group = strsep(&line, ":");
		jar.artifact = strsep(&line, ":");
		jar.version = line;
		if (jar.version == NULL)
			continue;
		jar.file = xasprintf("%s-%s.jar", jar.artifact, jar.version);
		j->all = xrealloc(j->all, (j->count + 1) * sizeof(*j->all));
		j->all[j->count++] = jar;
	}
	return rc;
}

json_t *
jars_look(const char *list, const char *folder, json_t *missing)
{
	json_t *there = json_object();
	struct jars j;

	jars_read(&j, list);
	for (size_t i = 0; i < j.count; i++) {
		char *path = xasprintf("%s/%s", folder, j.all[i].file);

		if (access(path, R_OK) == 0)
			json_object_set_new(there, j.all[i].artifact, json_string(j.all[i].version));
		else
			json_array_append_new(missing, json_string(j.all[i].file));
		free(path);
	}
	jars_release(&j);
	return there;
}

/* ---- by mvn ---- */

static bool
mvn_is_there(void)
{
	const char *argv[] = { "sh", "-c", "command -v mvn >/dev/null", NULL };

	return program_run(argv) == 0;
}

/* A project that depends on these jars and on nothing that they depend on. */
static int
write_pom(const struct jars *j, const char *path)
{
	FILE *f = fopen(path, "we");

	if (f == NULL)
		return refuse(NULL, "cannot write %s: %s", path, strerror(errno));
	fputs("<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\n"
	      "<groupId>sluice</groupId><artifactId>engine</artifactId><version>1</version><packaging>pom</"
	      "packaging>\n<dependencies>\n",
	      f);
	for (size_t i = 0; i < j->count; i++)
		fprintf(f,
			"<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version><exclusions><exclusion>"
			"<groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>\n",
			j->all[i].group, j->all[i].artifact, j->all[i].version);
	fputs("</dependencies></project>\n", f);
	return fclose(f) == 0 ? EXIT_OK : refuse(NULL, "cannot write %s: %s", path, strerror(errno));
}

/* It says nothing unless something is wrong, but takes colours back that it never set. */
static void
on_mvn_line(void *arg, char *line)
{
	char *to = line;

	(void)arg;
	for (const char *c = line; *c; c++) {
		if (c[0] == '\x1b' && c[1] == '[' && c[2 + strspn(c + 2, "0123456789;")] == 'm')
			c += 2 + strspn(c + 2, "0123456789;");
		else
			*to++ = *c;
	}
	*to = '\0';
	if (*line)
		fprintf(stderr, "%s\n", line);
}

static int
get_by_mvn(const struct jars *j, const char *folder)
{
	char *pom = xasprintf("%s/pom.xml", folder), *to = xasprintf("-DoutputDirectory=%s", folder);
	const char *argv[] = { "mvn", "-B", "-q", "-Dstyle.color=never", "-f", pom, MVN_PLUGIN, to, NULL };
	int rc = write_pom(j, pom);

	if (rc == EXIT_OK && program_run_lines(argv, on_mvn_line, NULL) != 0)
		rc = refuse("mend Maven's settings, or get them without it: " JARS_FROM "=" CENTRAL,
			    "mvn did not get the jars; what it says stands above");
	unlink(pom);
	free(pom);
	free(to);
	return rc;
}

/* ---- from a repository ---- */

static int
download(CURL *curl, const char *from, const struct jar *jar, const char *path)
{
	char why[CURL_ERROR_SIZE] = "", *group = xstrdup(jar->group), *url;
	FILE *f = fopen(path, "we");
	int rc = EXIT_OK;
	CURLcode code;

	if (f == NULL) {
		free(group);
		return refuse(NULL, "cannot write %s: %s", path, strerror(errno));
	}
	for (char *p = group; *p; p++)
		*p = *p == '.' ? '/' : *p;
	url = xasprintf("%s/%s/%s/%s/%s", from, group, jar->artifact, jar->version, jar->file);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, f);
	code = curl_easy_perform(curl);
	if (code != CURLE_OK || fclose(f) != 0)
		rc = refuse(JARS_FROM " names another Maven repository; where `mvn` is there, it gets them by its settings",
			    "cannot get %s:%s:%s: %s", jar->group, jar->artifact, jar->version,
			    code == CURLE_OK ? strerror(errno)
			    : *why           ? why
					     : curl_easy_strerror(code));
	if (code != CURLE_OK)
		fclose(f);
	free(url);
	free(group);
	return rc;
}

static int
get_from(const struct jars *j, const char *repository, const char *folder)
{
	CURL *curl;
	int rc = EXIT_OK;

	curl_global_init(CURL_GLOBAL_DEFAULT);
	curl = curl_easy_init();
	curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(curl, CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 30L);
	/* Given up when nothing comes for a minute, however long the whole takes. */
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 60L);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "sluice/" SLUICE_VERSION);
	for (size_t i = 0; i < j->count && rc == EXIT_OK; i++) {
		char *path = xasprintf("%s/%s", folder, j->all[i].file);

		rc = download(curl, repository, &j->all[i], path);
		free(path);
	}
	curl_easy_cleanup(curl);
	return rc;
}

/* ---- both ---- */

static int
check_hash(const struct jar *jar, const char *folder)
{
	char *path = xasprintf("%s/%s", folder, jar->file), hash[SHA256_HEX];
	struct buf data = BUF_INIT;
	int rc = buf_add_file(&data, path);

	free(path);
	if (rc == 0)
		sha256_hex(data.s, data.len, hash);
	buf_release(&data);
	if (rc < 0)
		return refuse(NULL, "%s did not come: %s", jar->file, strerror(-rc));
	if (strcmp(hash, jar->hash) != 0)
		return refuse("the repository that it came from has another file by that name: name another one by " JARS_FROM,
			      "%s is not the file that was pinned: its SHA-256 is %s, not %s", jar->file, hash, jar->hash);
	return EXIT_OK;
}

int
jars_get(const char *list, const char *folder, bool quiet)
{
	const char *named = getenv(JARS_FROM);
	struct jars j;
	int rc = jars_read(&j, list);

	if (rc < 0) {
		rc = refuse(NULL, "%s cannot be read: %s", list, strerror(-rc));
	} else if (mkdir(folder, 0755) < 0 && errno != EEXIST) {
		rc = refuse(NULL, "cannot make %s: %s", folder, strerror(errno));
	} else {
		bool mvn = !(named && *named) && mvn_is_there();

		if (!quiet)
			fprintf(stderr, "getting %zu jars %s\n", j.count,
				mvn ? "with mvn, by its settings" : "from a Maven repository");
		rc = mvn ? get_by_mvn(&j, folder) : get_from(&j, named && *named ? named : CENTRAL, folder);
		for (size_t i = 0; i < j.count && rc == EXIT_OK; i++)
			rc = check_hash(&j.all[i], folder);
	}
	jars_release(&j);
	return rc;
}
