#include "cli/program.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

int
program_run(const char *const *argv, int out)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		dup2(out >= 0 ? out : 2, 1);
		execvp(argv[0], (char *const *)(const void *)argv);
		_exit(127);
	}
	if (pid < 0)
		return 127;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
