/* Fault points: which pass of which point does what, in one process and in several. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fault.h"

/* Passes `point` up to `times` times in a child with SLUICE_FAULT as given; returns its wait status. */
static int
pass_in_child(const char *value, const char *point, int times)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		setenv("SLUICE_FAULT", value, 1);
		for (int i = 0; i < times; i++)
			FAULT(point);
		_exit(7);
	}
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	if (WIFSTOPPED(status)) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return status;
}

static void
nothing_wanted(void **state)
{
	(void)state;
	assert_int_equal(WEXITSTATUS(pass_in_child("", "a", 3)), 7);
	assert_int_equal(WEXITSTATUS(pass_in_child("b=kill", "a", 3)), 7);
	assert_int_equal(WEXITSTATUS(pass_in_child("ab=kill", "a", 3)), 7);
	assert_int_equal(WEXITSTATUS(pass_in_child("a=kill", "ab", 3)), 7);
}

static void
counts(void **state)
{
	(void)state;
	assert_int_equal(WTERMSIG(pass_in_child("a=kill", "a", 1)), SIGKILL);
	assert_int_equal(WEXITSTATUS(pass_in_child("b=kill,a:12=kill", "a", 11)), 7);
	assert_int_equal(WTERMSIG(pass_in_child("b=kill,a:12=kill", "a", 12)), SIGKILL);
	assert_true(WIFSTOPPED(pass_in_child("a=stop,b=kill", "a", 1)));
}

static void
shared_by_processes(void **state)
{
	char path[] = "/tmp/sl-fault-XXXXXX", text[64] = "";
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "x=stop\na:3=kill\nb=stop\n", 23), 23);
	assert_int_equal(WEXITSTATUS(pass_in_child(path, "a", 1)), 7);
	assert_int_equal(WEXITSTATUS(pass_in_child(path, "a", 1)), 7);
	assert_int_equal(WTERMSIG(pass_in_child(path, "a", 1)), SIGKILL);
	assert_int_equal(WEXITSTATUS(pass_in_child(path, "a", 5)), 7); /* once */
	assert_true(WIFSTOPPED(pass_in_child(path, "b", 1)));
	assert_int_equal(pread(fd, text, sizeof(text) - 1, 0), 7);
	assert_string_equal(text, "x=stop\n");
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(WEXITSTATUS(pass_in_child(path, "x", 5)), 7);
	close(fd);
	unlink(path);
	assert_int_equal(WEXITSTATUS(pass_in_child(path, "x", 1)), 7);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_wanted),
		cmocka_unit_test(counts),
		cmocka_unit_test(shared_by_processes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
