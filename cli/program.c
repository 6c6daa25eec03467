#include "cli/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t
program_start(const char *const *argv, int out)
{
	pid_t pid = fork();

	if (pid == 0) {
		dup2(out, 1);
		execvp(argv[0], (char *const *)(const void *)argv);
		_exit(127);
	}
	return pid;
}

static int
program_wait(pid_t pid)
{
	int status = 0;

	if (pid < 0)
		return 127;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int
program_run(const char *const *argv)
{
	return program_wait(program_start(argv, STDERR_FILENO));
}

int
program_run_lines(const char *const *argv, void (*on_line)(void *arg, char *line), void *arg)
{
	char *line = NULL;
	size_t room = 0;
	int pipes[2];
	FILE *lines;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return 127;
	pid = program_start(argv, pipes[1]);
	close(pipes[1]);
	lines = fdopen(pipes[0], "r");
	while (lines && getline(&line, &room, lines) >= 0) {
		line[strcspn(line, "\r\n")] = '\0';
		on_line(arg, line);
	}
	free(line);
	if (lines)
		fclose(lines);
	return program_wait(pid);
}
