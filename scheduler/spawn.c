#include "scheduler/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tasks/task.h"

#define GIVEN_FD 4 /* of an interpreter: its document, or what a fork server is told */

/* What an exec'd child needs, all made before the fork: after it only async-signal-safe calls are allowed. */
struct program {
	const struct spawn *sp;
	char **argv, **envp;
	int given_fd; /* -1: none */
	pid_t parent;
	volatile int failed_step, failed_errno; /* written by a vforked child, which shares our memory */
};

void
spawner_init(struct spawner *by, const char *home, const char *libdir)
{
	static const char *const pass[] = { "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR" };

	by->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	by->run_py = xasprintf("%s/python/run.py", libdir);
	/* What a task forks itself is known by this when the nursery has died: see orphans.h. */
	by->server_env = json_pack("{s:o}", "SLUICE_REPORT", json_sprintf("%s/runs/", home));
	for (size_t i = 0; i < sizeof(pass) / sizeof(pass[0]); i++)
		if (getenv(pass[i]))
			json_object_set_new(by->server_env, pass[i], json_string(getenv(pass[i])));
}

void
spawner_release(struct spawner *by)
{
	close(by->null_fd);
	free(by->run_py);
	json_decref(by->server_env);
}

/* ---- in the child ---- */

void
spawn_child_begin(pid_t nursery)
{
	/* A group of its own, but in the nursery's session: the kernel shares processors among sessions first, so that the
	 * attempts together weigh as much as the daemon, not each of them. */
	setpgid(0, 0);
	/* The nursery's children die with it; if it died before this call, we see another parent. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != nursery)
		_exit(125);
}

void
spawn_child_signals(const struct spawner *by)
{
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, &by->mask, NULL);
}

/* Returns 0, or the step that failed. */
static int
child_setup(const struct spawn *sp, pid_t parent)
{
	spawn_child_begin(parent);
	if (dup2(sp->by->null_fd, 0) < 0 || dup2(sp->log_fd, 1) < 0 || dup2(sp->log_fd, 2) < 0)
		return 1;
	/* dup2 onto itself would keep close-on-exec set. */
	if (sp->report_fd == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(sp->report_fd, 3) < 0)
		return 1;
	if (sp->cwd && chdir(sp->cwd) < 0)
		return 2;
	spawn_child_signals(sp->by);
	return 0;
}

/* The nursery's own descriptors up to 4 stay open for life, so what is given never lies where something else is to go. */
static void
child_take_given(int fd)
{
	if (fd >= 0)
		dup2(fd, GIVEN_FD);
	close_range(fd >= 0 ? GIVEN_FD + 1 : GIVEN_FD, ~0U, 0);
}

/* ---- programs ---- */

static pid_t __attribute__((noinline)) program_exec(struct program *p)
{
	pid_t pid = vfork();

	if (pid == 0) {
		p->failed_step = child_setup(p->sp, p->parent);
		if (p->failed_step == 0) {
			child_take_given(p->given_fd);
			execvpe(p->argv[0], p->argv, p->envp);
			p->failed_step = 3;
		}
		p->failed_errno = errno;
		_exit(127);
	}
	return pid;
}

static char **
string_list(const json_t *list)
{
	size_t n = json_array_size(list);
	char **out = xcalloc(n + 1, sizeof(*out));

	for (size_t i = 0; i < n; i++)
		out[i] = (char *)(uintptr_t)json_string_value(json_array_get(list, i));
	return out;
}

/* "NAME=value" for each; the strings are owned. */
static char **
env_list(const json_t *env)
{
	char **out = xcalloc(json_object_size(env) + 1, sizeof(*out));
	const char *name;
	json_t *value;
	size_t n = 0;

	json_object_foreach ((json_t *)(uintptr_t)env, name, value)
		out[n++] = xasprintf("%s=%s", name, json_string_value(value) ? json_string_value(value) : "");
	return out;
}

static pid_t
spawn_failed(struct spawn *sp, int no, const char *what)
{
	sp->no = no;
	sp->why = xasprintf("%s: %s", what, strerror(no));
	return -1;
}

static pid_t
program_failed(struct spawn *sp, const struct program *p)
{
	char *what = p->failed_step == 1   ? xstrdup("its descriptors could not be set up")
		     : p->failed_step == 2 ? xasprintf("cannot enter the folder %s", sp->cwd)
					   : xasprintf("cannot run %s", p->argv[0]);

	spawn_failed(sp, p->failed_errno, what);
	free(what);
	return -1;
}

/* Execs a program and waits until it runs. */
static pid_t
program_start(struct spawn *sp, const json_t *argv, const json_t *env, int given_fd)
{
	struct program p = {
		.sp = sp, .argv = string_list(argv), .envp = env_list(env), .given_fd = given_fd, .parent = getpid()
	};
	pid_t pid = program_exec(&p);

	if (pid < 0) {
		spawn_failed(sp, errno, "cannot start a process");
	} else if (p.failed_step) {
		waitpid(pid, NULL, 0);
		pid = program_failed(sp, &p);
	}
	for (size_t i = 0; p.envp[i]; i++)
		free(p.envp[i]);
	free(p.envp);
	free(p.argv);
	return pid;
}

pid_t
spawn_program(struct spawn *sp, const json_t *argv, const json_t *env)
{
	return program_start(sp, argv, env, -1);
}

/* ---- interpreters ---- */

/* The document as a file in memory that nobody can change: it holds secrets, and touches no disk. -1 with errno. */
static int
doc_file(const json_t *doc)
{
	int fd = memfd_create("document", MFD_CLOEXEC | MFD_ALLOW_SEALING), failed;
	char *text = json_dumps(doc, JSON_COMPACT);
	size_t len = strlen(text), done = 0;
	ssize_t wrote = 0;

	while (fd >= 0 && done < len && wrote >= 0) {
		wrote = write(fd, text + done, len - done);
		done += wrote > 0 ? (size_t)wrote : 0;
	}
	failed = errno;
	explicit_bzero(text, len);
	free(text);
	if (fd >= 0 && done < len) {
		close(fd);
		errno = failed;
		return -1;
	}
	if (fd >= 0) {
		lseek(fd, 0, SEEK_SET);
		fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	}
	return fd;
}

pid_t
spawn_python(struct spawn *sp, const char *python, const json_t *doc, const json_t *env)
{
	json_t *argv = json_pack("[s,s,s]", python, "-u", sp->by->run_py);
	int fd = doc_file(doc);
	pid_t pid;

	pid = fd < 0 ? spawn_failed(sp, errno, "cannot keep its document in memory") : program_start(sp, argv, env, fd);
	if (fd >= 0)
		close(fd);
	json_decref(argv);
	return pid;
}

pid_t
spawn_server(struct spawn *sp, const char *python, const char *engine, int fd)
{
	json_t *argv = json_pack("[s,s,s,s,s]", python, "-u", sp->by->run_py, "--serve", engine);
	pid_t pid = program_start(sp, argv, sp->by->server_env, fd);

	json_decref(argv);
	return pid;
}

/* ---- native tasks ---- */

pid_t
spawn_native(struct spawn *sp, const json_t *doc, const json_t *env)
{
	pid_t parent = getpid(), pid = fork();
	const char *name;
	json_t *value;

	if (pid < 0)
		return spawn_failed(sp, errno, "cannot start a process");
	if (pid > 0) {
		setpgid(pid, pid); /* also here: its group may be signalled, or step behind, before it runs */
		return pid;
	}
	if (child_setup(sp, parent) != 0)
		_exit(126);
	close_range(4, ~0U, 0);
	json_object_foreach ((json_t *)(uintptr_t)env, name, value)
		setenv(name, json_string_value(value), 1);
	task_exit(task_main(doc));
}
