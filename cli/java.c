#include "cli/java.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"

/* The first `java` on the PATH, links followed, without its "/bin/java"; NULL when there is none. */
static char *
home_on_path(void)
{
	const char *path = getenv("PATH");
	char *home = NULL;

	while (path && *path && home == NULL) {
		size_t n = strcspn(path, ":");
		char *program = xasprintf("%.*s/java", (int)n, path);

		if (access(program, X_OK) == 0 && (home = realpath(program, NULL)) != NULL) {
			size_t len = strlen(home);

			if (len > 9 && strcmp(home + len - 9, "/bin/java") == 0)
				home[len - 9] = '\0';
		}
		free(program);
		path += n + (path[n] == ':');
	}
	return home;
}

/* A line of HOME/release says JAVA_VERSION="17.0.15"; before 9 it was "1.8.0_402". */
static void
read_version(struct java *j)
{
	static const char key[] = "JAVA_VERSION=\"";
	char *path = xasprintf("%s/release", j->home);
	struct buf text = BUF_INIT;
	const char *at;
	int first = 0, second = 0;

	if (buf_add_file(&text, path) == 0 && (at = strstr(text.s, key)) != NULL) {
		at += sizeof(key) - 1;
		snprintf(j->version, sizeof(j->version), "%.*s", (int)strcspn(at, "\"\n"), at);
		if (sscanf(j->version, "%d.%d", &first, &second) > 0)
			j->major = first == 1 ? second : first;
	}
	buf_release(&text);
	free(path);
}

void
java_find(struct java *j)
{
	const char *named = getenv("JAVA_HOME");

	*j = (struct java){ 0 };
	if (named && *named) {
		char *program = xasprintf("%s/bin/java", named);

		if (access(program, X_OK) == 0)
			j->home = xstrdup(named);
		free(program);
	} else {
		j->home = home_on_path();
	}
	if (j->home)
		read_version(j);
}

void
java_release(struct java *j)
{
	free(j->home);
	j->home = NULL;
}

char *
java_problem(const struct java *j, int least)
{
	const char *named = getenv("JAVA_HOME");

	if (j->home == NULL && named && *named)
		return xasprintf("JAVA_HOME is %s, and %s/bin/java cannot be run; it needs Java %d or newer", named, named,
				 least);
	if (j->home == NULL)
		return xasprintf("it needs Java %d or newer, and there is no java on the PATH", least);
	if (j->major && j->major < least)
		return xasprintf("it needs Java %d or newer, and %s is Java %s", least, j->home, j->version);
	return NULL;
}
