/*
 * The nursery process. One thread, one poll loop, no database, no secrets kept: a spawn request is parsed, forked and
 * forgotten (when a spare was given it: as soon as that has read it). libduckdb and its extensions are mapped before the first
 * fork, so native children start warm.
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

#define NICE 10 /* of what steps behind others */

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
	struct spares *kind; /* of whose kind of spares it could be; NULL: a command */
	bool killed;         /* by us */
	mono_us started;
	struct oom_mark born;
	json_t *exit; /* the "exited" message, kept until acknowledged */
	json_t *msg;  /* the request, until the spare that was given it has read it; NULL: it has, or was none */
	int given;    /* with `msg`: hangs up then */
	bool unread;  /* it hung up because it died, and never read it */
};

struct nest {
	char id[40], *binary;
	int listen_fd, signal_fd, conn;
	char *socket; /* the path that we listen on */
	struct buf in, out;
	struct list children;
	json_t *prepared; /* messages by key that wait for their "go" */
	bool stopping;
	bool deaf;     /* no descriptor for a new daemon's connection: not listening for a second */
	mono_us alone; /* without `conn`: since when */
	struct oom oom;
	struct spawner spawner;
	struct list kinds; /* of spares; the native one is always there */
	struct spares *native;
	struct pollfd *fds; /* scratch of the loop */
	size_t fds_cap;
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

/* Its process has the request, or shall not have it any more. */
static void
child_forget_request(struct child *c)
{
	if (c->msg == NULL)
		return;
	json_decref(c->msg);
	c->msg = NULL;
	c->unread = false;
	close(c->given);
}

/* The descriptor has hung up, which tells once why. */
static void
child_hung_up(struct child *c)
{
	if (c->msg == NULL || c->unread)
		return;
	c->unread = !spares_read(c->kind, c->given);
	if (!c->unread)
		child_forget_request(c);
}

static void
child_free(struct child *c)
{
	child_forget_request(c);
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

/* The kind of spares that could be such an attempt, NULL for a command. */
static struct spares *
nest_kind(struct nest *n, const json_t *msg)
{
	const json_t *doc = json_object_get(msg, "doc");
	const char *python = json_string_value(json_object_get(msg, "python")),
		   *type = json_string_value(json_object_get(doc, "type")), *engine;
	struct spares *s;

	if (python == NULL)
		return doc ? n->native : NULL;
	engine = type && strcmp(type, "python") == 0 ? NULL : json_string_value(json_object_get(doc, "engine"));
	LIST_FOR_EACH (it, &n->kinds) {
		s = LIST_ENTRY(it, struct spares, node);
		if (spares_are(s, python, engine))
			return s;
	}
	s = spares_new(&n->spawner, python, engine);
	list_append(&n->kinds, &s->node);
	return s;
}

static void
nest_drop_spares(struct nest *n)
{
	LIST_FOR_EACH (it, &n->kinds)
		spares_drop(LIST_ENTRY(it, struct spares, node));
}

/* Starts what the message says: a spare becomes it, or a process is made. */
static pid_t
child_start(struct child *c, struct spawn *sp, json_t *msg)
{
	json_t *argv = json_object_get(msg, "argv"), *doc = json_object_get(msg, "doc"), *env = json_object_get(msg, "env");
	pid_t pid;

	if (c->kind == NULL)
		return spawn_program(sp, argv, env);
	spares_want(c->kind);
	pid = spares_take(c->kind, doc, env, sp->cwd, sp->log_fd, sp->report_fd, &c->given);
	if (pid > 0) {
		c->msg = json_incref(msg);
		return pid;
	}
	return c->kind->python ? spawn_python(sp, c->kind->python, doc, env) : spawn_native(sp, doc, env);
}

/* Gives the child its process, and says so. */
static void
nest_start(struct nest *n, struct child *c, json_t *msg)
{
	const char *dir = json_string_value(json_object_get(msg, "dir"));
	struct spawn sp = {
		.by = &n->spawner, .cwd = json_string_value(json_object_get(msg, "cwd")), .log_fd = -1, .report_fd = -1
	};

	c->pid = -1;
	sp.log_fd = open_append(dir, "log");
	sp.report_fd = open_append(dir, "report");
	if (sp.log_fd < 0 || sp.report_fd < 0) {
		sp.no = errno;
		sp.why = xasprintf("cannot open the log in %s: %s", dir, strerror(sp.no));
	} else if (disk_full(sp.log_fd)) { /* it could neither say nor report anything */
		sp.no = ENOSPC;
		sp.why = xasprintf("cannot write the log in %s: %s", dir, strerror(sp.no));
	} else {
		FAULT("nursery.fork.before");
		c->pid = child_start(c, &sp, msg);
		/* Shadows and comparisons step behind what somebody waits for. */
		if (c->pid > 0 && json_is_true(json_object_get(msg, "behind")))
			setpriority(PRIO_PGRP, (id_t)c->pid, NICE);
		FAULT("nursery.fork.after");
		if (c->pid < 0)
			nest_drop_spares(n); /* they take what is short */
	}
	if (sp.log_fd >= 0)
		close(sp.log_fd);
	if (sp.report_fd >= 0)
		close(sp.report_fd);
	c->alive = c->pid > 0;
	c->started = clock_mono();
	c->born = oom_mark(&n->oom);
	if (c->pid < 0) {
		c->exit = json_pack("{s:s,s:s,s:s,s:i}", "ev", "spawn_failed", "key", c->key, "error", sp.why, "errno", sp.no);
		nest_send(n, json_incref(c->exit));
	} else {
		nest_send(n, json_pack("{s:s,s:s,s:i}", "ev", "started", "key", c->key, "pid", (int)c->pid));
	}
	free(sp.why);
}

static void
nest_spawn(struct nest *n, json_t *msg)
{
	const char *key = json_string_value(json_object_get(msg, "key"));
	struct child *c = nest_find(n, key);

	if (c) { /* asked twice: tell again what is */
		nest_send(n, c->exit ? json_incref(c->exit)
				     : json_pack("{s:s,s:s,s:i}", "ev", "started", "key", key, "pid", (int)c->pid));
		return;
	}
	c = xcalloc(1, sizeof(*c));
	c->key = xstrdup(key);
	c->kind = nest_kind(n, msg);
	list_append(&n->children, &c->node);
	nest_start(n, c, msg);
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
		spares_want(nest_kind(n, msg));
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
	int fds[2] = { open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), dup(n->spawner.null_fd) };
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
		nest_drop_spares(n);
	nest_send(n, json_pack("{s:s,s:s?}", "ev", "probed", "error", why));
	free(why);
	free(path);
}

static json_int_t
tv_us(struct timeval tv)
{
	return (json_int_t)tv.tv_sec * US_PER_S + tv.tv_usec;
}

static bool
nest_spare_ended(struct nest *n, pid_t pid)
{
	LIST_FOR_EACH (it, &n->kinds)
		if (spares_ended(LIST_ENTRY(it, struct spares, node), pid))
			return true;
	return false;
}

/* A spare was killed while it waited, and then given an attempt, of which it never knew. */
static void
nest_start_again(struct nest *n, struct child *c)
{
	json_t *msg = json_incref(c->msg);

	log_warn("nursery: %s was given to process %d, which died before it read it; it starts in another one", c->key,
		 (int)c->pid);
	child_forget_request(c);
	nest_start(n, c, msg);
	json_decref(msg);
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
		if (wait4(pid, &status, 0, &ru) != pid || nest_spare_ended(n, pid))
			continue;
		LIST_FOR_EACH (it, &n->children) {
			struct child *c = LIST_ENTRY(it, struct child, node);

			if (c->pid != pid || !c->alive)
				continue;
			c->alive = false;
			child_hung_up(c);
			if (c->unread) {
				nest_start_again(n, c);
				continue;
			}
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

			child_forget_request(c); /* it ends, whether it has begun or not */
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
	n->alone = clock_mono();
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

/* How many attempts run, of this kind; NULL: of all, and commands. */
static size_t
nest_running(struct nest *n, const struct spares *kind)
{
	size_t running = 0;

	LIST_FOR_EACH (it, &n->children) {
		struct child *c = LIST_ENTRY(it, struct child, node);

		running += c->alive && (kind == NULL || c->kind == kind);
	}
	return running;
}

/* A kind of Python that nobody has wanted for long is forgotten; whoever comes next makes it anew. */
static void
nest_forget_kind(struct nest *n, struct spares *kind)
{
	LIST_FOR_EACH (it, &n->children) {
		struct child *c = LIST_ENTRY(it, struct child, node);

		if (c->kind == kind)
			return; /* its exit waits to be acknowledged */
	}
	spares_free(kind);
}

/* How long the loop may sleep, in milliseconds. */
static int
nest_patience(struct nest *n)
{
	/* Without a daemon: look now and then whether one will come back. */
	int ms = n->deaf ? DEAF_MS : n->conn < 0 ? FORSAKEN_CHECK_MS : -1;

	for (struct list *it = n->kinds.next, *next; it != &n->kinds; it = next) {
		struct spares *kind = LIST_ENTRY(it, struct spares, node);
		int spares = spares_turn(kind, nest_running(n, kind));

		next = it->next;
		if (spares >= 0 && (ms < 0 || spares < ms))
			ms = spares;
		if (kind->python && kind->wanted_at == 0)
			nest_forget_kind(n, kind);
	}
	return ms;
}

#define FDS 3 /* of the nursery's own */

/* What the loop waits for: its own descriptors, then those of spares that have not read yet what they were given. */
static size_t
nest_fds(struct nest *n)
{
	size_t nfds = FDS;

	LIST_FOR_EACH (it, &n->children)
		nfds += LIST_ENTRY(it, struct child, node)->msg != NULL;
	if (nfds > n->fds_cap) {
		n->fds_cap = nfds * 2;
		n->fds = xrealloc(n->fds, n->fds_cap * sizeof(*n->fds));
	}
	n->fds[0] = (struct pollfd){ .fd = n->signal_fd, .events = POLLIN };
	n->fds[1] = (struct pollfd){ .fd = n->deaf ? -1 : n->listen_fd, .events = POLLIN };
	n->fds[2] = (struct pollfd){ .fd = n->conn, .events = (short)(POLLIN | (n->out.len ? POLLOUT : 0)) };
	nfds = FDS;
	LIST_FOR_EACH (it, &n->children) {
		struct child *c = LIST_ENTRY(it, struct child, node);

		if (c->msg)
			n->fds[nfds++] = (struct pollfd){ .fd = c->unread ? -1 : c->given };
	}
	return nfds;
}

/* The children are as nest_fds saw them. */
static void
nest_hung_up(struct nest *n)
{
	size_t at = FDS;

	LIST_FOR_EACH (it, &n->children) {
		struct child *c = LIST_ENTRY(it, struct child, node);

		if (c->msg && n->fds[at++].revents)
			child_hung_up(c);
	}
}

/* Will nobody come back to us, and nothing be missed? The state folder was removed; or there is nothing to come back to. */
static bool
nest_forsaken(struct nest *n)
{
	if (access(n->socket, F_OK) < 0)
		return nest_running(n, NULL) == 0;
	return list_empty(&n->children) && clock_mono() - n->alone >= FORSAKEN_CHECK_MS * US_PER_MS;
}

static void
nest_loop(struct nest *n)
{
	int ready;

	for (;;) {
		size_t nfds = nest_fds(n);

		if (n->stopping && list_empty(&n->children) && n->out.len == 0)
			return;
		ready = poll(n->fds, nfds, nest_patience(n));
		n->deaf = false;
		if (ready < 0 && errno != EINTR)
			die("nursery: poll: %s", strerror(errno));
		if (ready < 0)
			continue;
		nest_hung_up(n);
		if (ready == 0 && n->conn < 0 && nest_forsaken(n))
			return;
		if (n->fds[0].revents)
			nest_reap(n);
		if (n->fds[2].revents & (POLLIN | POLLHUP | POLLERR))
			nest_read(n);
		if (n->fds[1].revents)
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
	struct nest n = { .conn = -1, .in = BUF_INIT, .out = BUF_INIT, .alone = clock_mono() };
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
	spawner_init(&n.spawner, home, libdir);
	list_init(&n.kinds);
	n.native = spares_new(&n.spawner, NULL, NULL);
	list_append(&n.kinds, &n.native->node);
	snprintf(n.id, sizeof(n.id), "%d-%lld", (int)getpid(), (long long)clock_wall());
	setsid();
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "sluice-nursery");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, &n.spawner.mask);
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
	while (!list_empty(&n.kinds))
		spares_free(LIST_ENTRY(n.kinds.next, struct spares, node));
	free(n.fds);
	unlink(n.socket);
	free(n.socket);
	buf_release(&n.in);
	buf_release(&n.out);
	json_decref(n.prepared);
	free(n.binary);
	spawner_release(&n.spawner);
	return 0;
}
