/*
 * The nursery process. One thread, one poll loop, no database, no secrets kept: a spawn request is parsed, forked and
 * forgotten. libduckdb and its extensions are mapped before the first fork, so native children start warm.
 */
#include "scheduler/nursery.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/log.h"
#include "base/trouble.h"
#include "scheduler/oom.h"
#include "scheduler/orphans.h"
#include "scheduler/spare.h"
#include "tasks/task.h"

#define LOCK_TRIES        1000 /* ten seconds in all */
#define LOCK_WAIT_US      10000
#define MESSAGE_MAX       (64u << 20)
#define FORSAKEN_CHECK_MS 10000
#define DEAF_MS           1000

struct child {
	struct list node;
	char *key;
	pid_t pid;
	bool alive;
	bool native;
	bool killed; /* by us */
	mono_us started;
	struct oom_mark born;
	json_t *exit; /* the "exited" message, kept until acknowledged */
};

struct nest {
	char id[40], *binary;
	int listen_fd, signal_fd, conn;
	char *socket; /* the path that we listen on */
	int null_fd;
	struct buf in, out;
	struct list children;
	json_t *prepared; /* messages by key that wait for their "go" */
	bool stopping;
	bool deaf; /* no descriptor for a new daemon's connection: not listening for a second */
	struct oom oom;
	struct spares spares;
	sigset_t old_mask;
};

char *
nursery_binary(void)
{
	struct stat st = { 0 };

	if (stat("/proc/self/exe", &st) < 0)
		return xstrdup("unknown");
	return xasprintf("%llx-%llx-%lld.%09ld", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
			 (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

static void
nest_send(struct nest *n, json_t *msg)
{
	char *text;

	if (n->conn >= 0) {
		text = json_dumps(msg, JSON_COMPACT);
		buf_adds(&n->out, text);
		buf_addc(&n->out, '\n');
		free(text);
	}
	json_decref(msg);
}

static struct child *
nest_find(struct nest *n, const char *key)
{
	LIST_FOR_EACH (it, &n->children) {
		struct child *c = LIST_ENTRY(it, struct child, node);

		if (strcmp(c->key, key) == 0)
			return c;
	}
	return NULL;
}

static void
child_free(struct child *c)
{
	list_remove(&c->node);
	json_decref(c->exit);
	free(c->key);
	free(c);
}

static int
open_append(const char *dir, const char *name)
{
	char *path = xasprintf("%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	free(path);
	return fd;
}

static bool
disk_full(int fd)
{
	struct statvfs v;

	return fstatvfs(fd, &v) == 0 && v.f_blocks > 0 && (geteuid() == 0 ? v.f_bfree : v.f_bavail) == 0;
}

/* What a child needs, all made before the fork: after it only async-signal-safe calls are allowed in the exec'd case. */
struct spawn {
	int log_fd, report_fd, null_fd;
	char **argv, **envp;
	const char *cwd;
	const sigset_t *mask;
	pid_t parent;
	volatile int failed_step, failed_errno; /* written by a vforked child, which shares our memory */
};

/* Common to both kinds of children. Returns 0, or the step that failed. */
static int
child_setup(struct spawn *sp)
{
	/* A group of its own, but in the nursery's session: the kernel shares processors among sessions first, so that the
	 * attempts together weigh as much as the daemon, not each of them. */
	setpgid(0, 0);
	/* The nursery's children die with it; if it died before this call, we see another parent. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != sp->parent)
		_exit(125);
	if (dup2(sp->null_fd, 0) < 0 || dup2(sp->log_fd, 1) < 0 || dup2(sp->log_fd, 2) < 0)
		return 1;
	/* dup2 onto itself would keep close-on-exec set. */
	if (sp->report_fd == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(sp->report_fd, 3) < 0)
		return 1;
	if (sp->cwd && chdir(sp->cwd) < 0)
		return 2;
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, sp->mask, NULL);
	return 0;
}

static pid_t __attribute__((noinline)) spawn_exec(struct spawn *sp)
{
	pid_t pid = vfork();

	if (pid == 0) {
		sp->failed_step = child_setup(sp);
		if (sp->failed_step == 0) {
			close_range(4, ~0U, 0);
			execvpe(sp->argv[0], sp->argv, sp->envp);
			sp->failed_step = 3;
		}
		sp->failed_errno = errno;
		_exit(127);
	}
	return pid;
}

static pid_t
spawn_native(struct spawn *sp, const json_t *doc, const json_t *env)
{
	pid_t pid = fork();
	const char *name;
	json_t *value;

	if (pid != 0)
		return pid;
	if (child_setup(sp) != 0)
		_exit(126);
	close_range(4, ~0U, 0);
	json_object_foreach ((json_t *)(uintptr_t)env, name, value)
		setenv(name, json_string_value(value), 1);
	task_exit(task_main(doc));
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

static void
nest_spawn(struct nest *n, json_t *msg)
{
	static const char *const steps[] = { "", "its descriptors could not be set up", "cannot enter the folder", "cannot run" };
	const char *key = json_string_value(json_object_get(msg, "key")), *dir = json_string_value(json_object_get(msg, "dir"));
	json_t *argv = json_object_get(msg, "argv"), *env = json_object_get(msg, "env");
	struct spawn sp = { .log_fd = -1, .report_fd = -1, .null_fd = n->null_fd, .mask = &n->old_mask, .parent = getpid() };
	struct child *c = nest_find(n, key);
	char *why = NULL;
	pid_t pid = -1;
	int no = 0;

	if (c) { /* asked twice: tell again what is */
		nest_send(n, c->exit ? json_incref(c->exit)
				     : json_pack("{s:s,s:s,s:i}", "ev", "started", "key", key, "pid", (int)c->pid));
		return;
	}
	sp.cwd = json_string_value(json_object_get(msg, "cwd"));
	sp.log_fd = open_append(dir, "log");
	sp.report_fd = open_append(dir, "report");
	if (sp.log_fd < 0 || sp.report_fd < 0) {
		no = errno;
		why = xasprintf("cannot open the log in %s: %s", dir, strerror(no));
		goto out;
	}
	if (disk_full(sp.log_fd)) { /* it could neither say nor report anything */
		no = ENOSPC;
		why = xasprintf("cannot write the log in %s: %s", dir, strerror(no));
		goto out;
	}
	FAULT("nursery.fork.before");
	if (argv) {
		sp.argv = string_list(argv);
		sp.envp = env_list(env);
		pid = spawn_exec(&sp);
		no = pid < 0 ? errno : sp.failed_step ? sp.failed_errno : 0;
		if (pid > 0 && sp.failed_step) {
			waitpid(pid, NULL, 0);
			pid = -1;
			why = xasprintf("%s%s%s: %s", steps[sp.failed_step], sp.failed_step > 1 ? " " : "",
					sp.failed_step == 2   ? sp.cwd
					: sp.failed_step == 3 ? sp.argv[0]
							      : "",
					strerror(sp.failed_errno));
		}
		for (size_t i = 0; sp.envp[i]; i++)
			free(sp.envp[i]);
		free(sp.envp);
		free(sp.argv);
	} else {
		spares_want(&n->spares);
		pid = spares_take(&n->spares, json_object_get(msg, "doc"), env, sp.cwd, sp.log_fd, sp.report_fd);
		if (pid == 0)
			pid = spawn_native(&sp, json_object_get(msg, "doc"), env);
		no = pid < 0 ? errno : 0;
	}
	FAULT("nursery.fork.after");
	if (pid < 0 && why == NULL)
		why = xasprintf("cannot start a process: %s", strerror(no));
	if (pid < 0)
		spares_drop(&n->spares); /* they take what is short */
out:
	if (sp.log_fd >= 0)
		close(sp.log_fd);
	if (sp.report_fd >= 0)
		close(sp.report_fd);
	c = xcalloc(1, sizeof(*c));
	c->key = xstrdup(key);
	c->pid = pid;
	c->alive = pid > 0;
	c->native = argv == NULL;
	c->started = clock_mono();
	c->born = oom_mark(&n->oom);
	list_append(&n->children, &c->node);
	if (pid < 0) {
		c->exit = json_pack("{s:s,s:s,s:s,s:i}", "ev", "spawn_failed", "key", key, "error", why, "errno", no);
		nest_send(n, json_incref(c->exit));
	} else {
		nest_send(n, json_pack("{s:s,s:s,s:i}", "ev", "started", "key", key, "pid", (int)pid));
	}
	free(why);
}

/* Its files are made while the daemon still waits for the commit: opening them again is quick. What fails now is said then. */
static void
nest_prepare(struct nest *n, const char *key, json_t *msg)
{
	const char *dir = json_string_value(json_object_get(msg, "dir"));
	int fds[2] = { open_append(dir, "log"), open_append(dir, "report") };

	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	json_object_set(n->prepared, key, msg);
	if (json_object_get(msg, "doc"))
		spares_want(&n->spares);
}

static void
nest_go(struct nest *n, const char *key)
{
	json_t *msg = json_incref(json_object_get(n->prepared, key));

	if (msg) {
		json_object_del(n->prepared, key);
		nest_spawn(n, msg);
		json_decref(msg);
	} else {
		nest_send(n, json_pack("{s:s,s:s,s:s}", "ev", "spawn_failed", "key", key, "error",
				       "the nursery was told to fork what it was not given"));
	}
}

/* All that a start takes, for nobody: a file with something in it, and a process. */
static void
nest_probe(struct nest *n, const char *dir)
{
	char *path = xasprintf("%s/.probe", dir), *why = NULL;
	int fds[2] = { open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), dup(n->null_fd) };
	pid_t pid = -1;

	if (fds[0] < 0 || fds[1] < 0 || write(fds[0], "?\n", 2) != 2)
		why = xasprintf("cannot write in %s: %s", dir, strerror(errno));
	else if ((pid = vfork()) == 0)
		_exit(0);
	else if (pid < 0)
		why = xasprintf("cannot start a process: %s", strerror(errno));
	else
		waitpid(pid, NULL, 0);
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	unlink(path);
	if (why)
		spares_drop(&n->spares);
	nest_send(n, json_pack("{s:s,s:s?}", "ev", "probed", "error", why));
	free(why);
	free(path);
}

static json_int_t
tv_us(struct timeval tv)
{
	return (json_int_t)tv.tv_sec * US_PER_S + tv.tv_usec;
}

/* Collects every child that ended; strangers are grandchildren that came to us as subreaper. */
static void
nest_reap(struct nest *n)
{
	struct signalfd_siginfo info;
	siginfo_t look;
	struct rusage ru;
	int status;
	pid_t pid;

	while (read(n->signal_fd, &info, sizeof(info)) > 0) {}
	/* Looked at before it is reaped: while it is a zombie its group's number cannot be given to anybody else. */
	while (memset(&look, 0, sizeof(look)), waitid(P_ALL, 0, &look, WEXITED | WNOHANG | WNOWAIT) == 0 && look.si_pid > 0) {
		pid = look.si_pid;
		LIST_FOR_EACH (it, &n->children) {
			struct child *c = LIST_ENTRY(it, struct child, node);

			if (c->pid == pid && c->alive)
				kill(-pid, SIGKILL); /* whatever it left behind in its group */
		}
		if (wait4(pid, &status, 0, &ru) != pid || spares_ended(&n->spares, pid))
			continue;
		LIST_FOR_EACH (it, &n->children) {
			struct child *c = LIST_ENTRY(it, struct child, node);

			if (c->pid != pid || !c->alive)
				continue;
			c->alive = false;
			FAULT("nursery.exit.before");
			c->exit = json_pack("{s:s,s:s,s:i,s:i,s:I,s:I,s:I,s:I,s:I}", "ev", "exited", "key", c->key, "pid",
					    (int)pid, "status", status, "at", (json_int_t)clock_wall(), "wall_us",
					    (json_int_t)(clock_mono() - c->started), "user_us", tv_us(ru.ru_utime), "system_us",
					    tv_us(ru.ru_stime), "max_rss", (json_int_t)ru.ru_maxrss * 1024);
			if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !c->killed && oom_claims(&n->oom, &c->born))
				json_object_set_new(c->exit, "oom", json_true());
			nest_send(n, json_incref(c->exit));
		}
	}
}

static void
nest_list(struct nest *n)
{
	LIST_FOR_EACH (it, &n->children) {
		struct child *c = LIST_ENTRY(it, struct child, node);

		nest_send(n, json_pack("{s:s,s:s,s:i,s:b}", "ev", "child", "key", c->key, "pid", (int)c->pid, "alive", c->alive));
		if (c->exit)
			nest_send(n, json_incref(c->exit));
	}
	nest_send(n, json_pack("{s:s}", "ev", "listed"));
}

static void
nest_message(struct nest *n, const char *line, size_t len)
{
	json_t *msg = json_loadb(line, len, 0, NULL);
	const char *op = json_string_value(json_object_get(msg, "op")), *key = json_string_value(json_object_get(msg, "key"));
	struct child *c = key ? nest_find(n, key) : NULL;

	if (op == NULL) {
		log_error("nursery: a message that is not one of ours");
	} else if (strcmp(op, "prepare") == 0) {
		nest_prepare(n, key, msg);
	} else if (strcmp(op, "go") == 0) {
		nest_go(n, key);
	} else if (strcmp(op, "signal") == 0) {
		if (c && c->alive) {
			int sig = (int)json_integer_value(json_object_get(msg, "sig"));

			c->killed = c->killed || sig == SIGKILL;
			kill(-c->pid, sig);
		}
	} else if (strcmp(op, "ack") == 0) {
		json_object_del(n->prepared, key);
		if (c && !c->alive)
			child_free(c);
	} else if (strcmp(op, "probe") == 0) {
		nest_probe(n, json_string_value(json_object_get(msg, "dir")));
	} else if (strcmp(op, "list") == 0) {
		nest_list(n);
	} else if (strcmp(op, "stop") == 0) {
		n->stopping = true;
	}
	json_decref(msg);
}

static void
nest_disconnect(struct nest *n)
{
	close(n->conn);
	n->conn = -1;
	json_object_clear(n->prepared); /* whoever comes next finds their rows and prepares them again */
	buf_clear(&n->in);
	buf_clear(&n->out);
}

static void
nest_read(struct nest *n)
{
	char *nl;
	ssize_t got;

	buf_reserve(&n->in, 65536);
	got = read(n->conn, n->in.s + n->in.len, 65536);
	if (got <= 0) {
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		nest_disconnect(n);
		return;
	}
	n->in.len += (size_t)got;
	n->in.s[n->in.len] = '\0';
	while ((nl = memchr(n->in.s, '\n', n->in.len)) != NULL) {
		size_t len = (size_t)(nl - n->in.s);

		nest_message(n, n->in.s, len);
		/* What was in that message may have been secret. */
		explicit_bzero(n->in.s, len);
		buf_drop_front(&n->in, len + 1);
	}
	if (n->in.len > MESSAGE_MAX)
		nest_disconnect(n);
}

static void
nest_accept(struct nest *n)
{
	int fd = accept4(n->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred who;
	socklen_t len = sizeof(who);

	n->deaf = fd < 0 && errno_passing(errno);
	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.uid != geteuid()) {
		close(fd);
		return;
	}
	/* A new daemon takes over from one that died or is leaving. */
	if (n->conn >= 0)
		nest_disconnect(n);
	n->conn = fd;
	n->stopping = false;
	nest_send(n, json_pack("{s:s,s:s,s:i,s:s,s:s}", "ev", "hello", "id", n->id, "pid", (int)getpid(), "protocol",
			       NURSERY_PROTOCOL, "binary", n->binary));
}

static int
nest_listen(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t old = umask(0177);

	ASSERT(strlen(path) < sizeof(sa.sun_path));
	memcpy(sa.sun_path, path, strlen(path));
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 4) < 0)
		die("nursery: cannot listen on %s: %s", path, strerror(errno));
	umask(old);
	return fd;
}

static bool
nest_busy(struct nest *n, bool native)
{
	LIST_FOR_EACH (it, &n->children) {
		struct child *c = LIST_ENTRY(it, struct child, node);

		if (c->alive && (c->native || !native))
			return true;
	}
	return false;
}

/* How long the loop may sleep, in milliseconds. */
static int
nest_patience(struct nest *n)
{
	/* Without a daemon: look now and then whether the state folder is still there for one to come back to. */
	int ms = n->deaf ? DEAF_MS : n->conn < 0 ? FORSAKEN_CHECK_MS : -1, spares = spares_turn(&n->spares, nest_busy(n, true));

	return spares >= 0 && (ms < 0 || spares < ms) ? spares : ms;
}

static void
nest_loop(struct nest *n)
{
	int ready;

	for (;;) {
		struct pollfd fds[3] = { { .fd = n->signal_fd, .events = POLLIN },
					 { .fd = n->deaf ? -1 : n->listen_fd, .events = POLLIN },
					 { .fd = n->conn, .events = (short)(POLLIN | (n->out.len ? POLLOUT : 0)) } };

		if (n->stopping && list_empty(&n->children) && n->out.len == 0)
			return;
		ready = poll(fds, 3, nest_patience(n));
		n->deaf = false;
		if (ready < 0 && errno != EINTR)
			die("nursery: poll: %s", strerror(errno));
		if (ready == 0 && n->conn < 0 && access(n->socket, F_OK) < 0 && !nest_busy(n, false))
			return;
		if (fds[0].revents)
			nest_reap(n);
		if (fds[2].revents & (POLLIN | POLLHUP | POLLERR))
			nest_read(n);
		if (fds[1].revents)
			nest_accept(n);
		while (n->conn >= 0 && n->out.len) {
			ssize_t sent = send(n->conn, n->out.s, n->out.len, MSG_NOSIGNAL);

			if (sent < 0) {
				/* It left; what it said last, perhaps "stop", is still to be read. */
				if (errno != EAGAIN && errno != EINTR)
					buf_clear(&n->out);
				break;
			}
			buf_drop_front(&n->out, (size_t)sent);
			FAULT("nursery.exit.after");
		}
	}
}

int
nursery_main(const char *home, const char *libdir)
{
	struct nest n = { .conn = -1, .in = BUF_INIT, .out = BUF_INIT };
	char *path = xasprintf("%s/nursery.pid", home), *why = NULL, text[32];
	int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	sigset_t mask;

	/* One nursery a home; it holds the lock for life. The one of a daemon that has just stopped may still be about to end. */
	for (int tries = 0; lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0; tries++) {
		if (lock < 0 || tries == LOCK_TRIES)
			die("nursery: %s is held by another process", path);
		usleep(LOCK_WAIT_US);
	}
	free(path);
	list_init(&n.children);
	n.prepared = json_object();
	n.binary = nursery_binary();
	n.null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	spares_init(&n.spares, n.null_fd, &n.old_mask);
	snprintf(n.id, sizeof(n.id), "%d-%lld", (int)getpid(), (long long)clock_wall());
	setsid();
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "sluice-nursery");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, &n.old_mask);
	n.signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (task_preload(libdir, &why) < 0)
		log_warn("nursery: native tasks cannot run: %s", why);
	else if (why)
		log_warn("nursery: %s", why);
	free(why);
	orphans_end(home);
	oom_open(&n.oom);
	n.socket = xasprintf("%s/nursery.sock", home);
	n.listen_fd = nest_listen(n.socket);
	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (ftruncate(lock, 0) < 0 || write(lock, text, strlen(text)) < 0)
		log_warn("nursery: cannot write its pid file: %s", strerror(errno));
	nest_loop(&n);
	spares_drop(&n.spares);
	unlink(n.socket);
	free(n.socket);
	buf_release(&n.in);
	buf_release(&n.out);
	json_decref(n.prepared);
	free(n.binary);
	close(n.null_fd);
	return 0;
}
