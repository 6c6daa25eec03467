#include "cli/catalog_check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/engine_home.h"

#define PATIENCE   30 /* seconds */
#define ANSWER_MAX 4096

/* In the child: the program, with what it is to ask on its standard input. Ended by its alarm where nothing answers. */
static void
become(const char *python, const char *libdir, int in, int out)
{
	char *path = xasprintf("%s/python", libdir);

	setenv("PYTHONPATH", path, 1);
	dup2(in, 0);
	dup2(out, 1);
	if ((out = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0)
		dup2(out, 2); /* warnings of libraries */
	alarm(PATIENCE);
	execl(python, python, "-m", "sluice.engines.catalogs", (char *)NULL);
	_exit(127);
}

static void
send_all(int fd, const char *text)
{
	size_t left = strlen(text);
	ssize_t n;

	while (left && ((n = write(fd, text, left)) > 0 || errno == EINTR)) {
		text += n > 0 ? n : 0;
		left -= n > 0 ? (size_t)n : 0;
	}
	close(fd);
}

static void
read_all(int fd, struct buf *b)
{
	char part[512];
	ssize_t n;

	while ((n = read(fd, part, sizeof(part))) > 0 || (n < 0 && errno == EINTR))
		if (n > 0 && b->len + (size_t)n < ANSWER_MAX)
			buf_add(b, part, (size_t)n);
	while (b->len && b->s[b->len - 1] == '\n')
		b->s[--b->len] = '\0';
	close(fd);
}

static bool
ask(const char *python, const char *libdir, const char *question, struct buf *answer)
{
	int in[2], out[2], status = -1;
	pid_t pid;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		buf_addf(answer, "cannot start a process: %s", strerror(errno));
		return false;
	}
	if (pid == 0)
		become(python, libdir, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	signal(SIGPIPE, SIG_IGN);
	send_all(in[1], question);
	read_all(out[0], answer);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		buf_addf(answer, "it does not answer within %d s", PATIENCE);
	else if (answer->len == 0 && status != 0)
		buf_addf(answer, "%s could not ask it", python);
	return status == 0;
}

bool
catalog_check(const struct config *config, const char *home, const char *libdir, struct buf *answer)
{
	json_t *doc = json_pack("{s:O,s:O?}", "catalog", json_object_get(config->json, "catalog"), "s3",
				json_object_get(config->json, "s3"));
	char *python = xasprintf("%s/engines/polars/bin/python", home), *question = json_dumps(doc, JSON_COMPACT);
	bool good = false;

	if (engine_home_ready(home, "polars"))
		good = ask(python, libdir, question, answer);
	else
		buf_adds(answer, "the engine polars, which would ask it, is not installed: `sluice engines install polars`");
	explicit_bzero(question, strlen(question));
	free(question);
	free(python);
	json_decref(doc);
	return good;
}
