#include "scheduler/spare.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tasks/task.h"

#define KEEP          4                /* a pipeline's worth */
#define MANY          16               /* of Python, while so many tasks run */
#define LINGER        (30 * US_PER_S)  /* after the last task of the kind was heard of */
#define LINGER_PYTHON (90 * US_PER_S)  /* an interpreter takes longer to come back; and flows run every minute */
#define QUIET         (50 * US_PER_MS) /* only then are more made than those that the next task needs */
#define AGAIN         (US_PER_S)       /* after a fork that failed, or a spare that died; twice as long each time in a row */
#define AGAIN_MOST    6                /* times */
#define GIVE_FD       4                /* in the spare: where the document comes from */
#define DOC_MAX       (1u << 20)       /* larger ones go the other way */

struct spare {
	struct list node;
	pid_t pid; /* 0: ordered from the server, and it has not said yet that it waits */
	int fd;
};

struct spares *
spares_new(const struct spawner *by, const char *python, const char *engine)
{
	struct spares *s = xcalloc(1, sizeof(*s));

	s->by = by;
	s->python = xstrdup_null(python);
	s->engine = xstrdup_null(engine);
	s->server_fd = -1;
	list_init(&s->node);
	list_init(&s->waiting);
	return s;
}

void
spares_free(struct spares *s)
{
	spares_drop(s);
	list_remove(&s->node);
	free(s->python);
	free(s->engine);
	free(s);
}

bool
spares_are(const struct spares *s, const char *python, const char *engine)
{
	return s->python && strcmp(s->python, python) == 0 && strcmp(s->engine ? s->engine : "", engine ? engine : "") == 0;
}

static void
spare_forget(struct spares *s, struct spare *sp)
{
	list_remove(&sp->node);
	s->count--;
	if (sp->fd >= 0)
		close(sp->fd);
	free(sp);
}

/* ---- in the spare ---- */

/* Waits for the document; its descriptors take their places. Ends the process when the nursery does not want it any more. */
static json_t *
spare_wait(void)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct msghdr msg = { .msg_control = &control, .msg_controllen = sizeof(control) };
	struct iovec iov;
	struct cmsghdr *c;
	json_t *given;
	ssize_t n;
	int fds[2];

	do
		n = recv(GIVE_FD, NULL, 0, MSG_PEEK | MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		_exit(0);
	iov = (struct iovec){ .iov_base = xmalloc((size_t)n), .iov_len = (size_t)n };
	msg.msg_iov = &iov;
	msg.msg_iovlen = 1;
	if (recvmsg(GIVE_FD, &msg, MSG_CMSG_CLOEXEC) != n || (c = CMSG_FIRSTHDR(&msg)) == NULL ||
	    c->cmsg_len != CMSG_LEN(sizeof(fds)))
		_exit(126);
	memcpy(fds, CMSG_DATA(c), sizeof(fds));
	/* Nothing has begun until the nursery can know it: a process that was killed may still take a message from the socket. */
	if (send(GIVE_FD, "+", 1, MSG_NOSIGNAL) != 1)
		_exit(126);
	if (dup2(fds[0], 1) < 0 || dup2(fds[0], 2) < 0 || dup2(fds[1], 3) < 0)
		_exit(126);
	close(fds[0]);
	close(fds[1]);
	close(GIVE_FD);
	given = json_loadb(iov.iov_base, iov.iov_len, 0, NULL);
	explicit_bzero(iov.iov_base, iov.iov_len);
	free(iov.iov_base);
	return given;
}

static void __attribute__((noreturn)) spare_main(struct spares *s, int fd, pid_t parent)
{
	json_t *given;
	const char *cwd;

	spawn_child_begin(parent);
	prctl(PR_SET_NAME, "sluice-spare");
	/* The report's place is held until it comes. */
	if (dup2(s->by->null_fd, 0) < 0 || (fd != GIVE_FD && dup2(fd, GIVE_FD) < 0) || dup2(0, 3) < 0)
		_exit(126);
	close_range(GIVE_FD + 1, ~0U, 0);
	spawn_child_signals(s->by);
	task_warm(GIVE_FD);
	given = spare_wait();
	prctl(PR_SET_NAME, "sluice-task");
	cwd = json_string_value(json_object_get(given, "cwd"));
	if (cwd && chdir(cwd) < 0)
		_exit(126);
	task_exit(task_main(json_object_get(given, "doc")));
}

/* ---- making them ---- */

static void
spare_add(struct spares *s, pid_t pid, int fd)
{
	struct spare *sp = xcalloc(1, sizeof(*sp));

	sp->pid = pid;
	sp->fd = fd;
	list_append(&s->waiting, &sp->node);
	s->count++;
}

static bool
spare_fork(struct spares *s)
{
	pid_t parent = getpid(), pid;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return false;
	pid = fork();
	if (pid == 0)
		spare_main(s, fds[1], parent);
	close(fds[1]);
	if (pid > 0)
		setpgid(pid, pid); /* also here: it may be signalled before it runs */
	if (pid < 0) {
		close(fds[0]);
		return false;
	}
	spare_add(s, pid, fds[0]);
	return true;
}

static void
server_forget(struct spares *s)
{
	if (s->server_fd >= 0)
		close(s->server_fd);
	s->server_fd = -1;
	s->server = 0;
}

static bool
server_start(struct spares *s)
{
	/* What it says goes to the nursery's log; it reports nothing. */
	struct spawn sp = { .by = s->by, .log_fd = 2, .report_fd = s->by->null_fd };
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return false;
	s->server = spawn_server(&sp, s->python, s->engine ? s->engine : "", fds[1]);
	close(fds[1]);
	if (s->server < 0) {
		log_warn("nursery: no fork server of %s: %s", s->python, sp.why);
		free(sp.why);
		close(fds[0]);
		s->server = 0;
		return false;
	}
	s->server_fd = fds[0];
	return true;
}

/* All or nothing, and without waiting: false when the other end is gone, or when the message is too large for its socket. */
static bool
send_fds(int socket, char *text, size_t len, const int *fds, size_t nfds)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control = { .space = { 0 } };
	struct iovec iov = { .iov_base = text, .iov_len = len };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(nfds * sizeof(int))
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
	memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	return sendmsg(socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

/* Has the server fork one, which will say by its own socket that it waits. */
static bool
spare_order(struct spares *s)
{
	char parent[24];
	bool sent;
	int fds[2];

	if ((s->server == 0 && !server_start(s)) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return false;
	snprintf(parent, sizeof(parent), "%d", (int)getpid());
	sent = send_fds(s->server_fd, parent, strlen(parent), &fds[1], 1);
	close(fds[1]);
	if (sent)
		spare_add(s, 0, fds[0]);
	else
		close(fds[0]);
	return sent;
}

/* ---- giving them away ---- */

/* Does it wait? One that has gone is forgotten. */
static bool
spare_ready(struct spares *s, struct spare *sp)
{
	char text[24];
	siginfo_t info;
	ssize_t n;

	if (sp->pid > 0)
		return true;
	n = recv(sp->fd, text, sizeof(text) - 1, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	text[n > 0 ? n : 0] = '\0';
	sp->pid = (pid_t)strtol(text, NULL, 10);
	if (sp->pid > 1 && waitid(P_PID, (id_t)sp->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
		return true; /* it is our child */
	spare_forget(s, sp);
	return false;
}

/* The message to a spare, or NULL when the attempt must have a process of its own. */
static char *
spare_message(const struct spares *s, const json_t *doc, const json_t *env, const char *cwd)
{
	json_t *given;
	char *text;

	/* A folder that cannot be entered is told by a fork. DuckDB has read the environment when it began. */
	if ((cwd && access(cwd, X_OK) < 0) || (s->python == NULL && json_object_size(env) > 0))
		return NULL;
	given = json_pack("{s:O,s:O,s:s?}", "doc", (json_t *)(uintptr_t)doc, "env", (json_t *)(uintptr_t)env, "cwd", cwd);
	text = json_dumps(given, JSON_COMPACT);
	json_decref(given);
	return text;
}

pid_t
spares_take(struct spares *s, const json_t *doc, const json_t *env, const char *cwd, int log_fd, int report_fd, int *given)
{
	char *text = list_empty(&s->waiting) ? NULL : spare_message(s, doc, env, cwd);
	int fds[2] = { log_fd, report_fd };
	size_t len = text ? strlen(text) : 0;
	pid_t pid = 0;

	/* One that died in the meantime is passed over; it is reaped in time. */
	for (struct list *it = s->waiting.next, *next; len > 0 && len <= DOC_MAX && pid == 0 && it != &s->waiting; it = next) {
		struct spare *sp = LIST_ENTRY(it, struct spare, node);

		next = it->next;
		if (!spare_ready(s, sp) || !send_fds(sp->fd, text, len, fds, 2))
			continue;
		pid = sp->pid;
		*given = sp->fd;
		sp->fd = -1;
		spare_forget(s, sp);
	}
	if (text)
		explicit_bzero(text, len);
	free(text);
	return pid;
}

static void
spares_clear(struct spares *s)
{
	while (!list_empty(&s->waiting)) {
		struct spare *sp = LIST_ENTRY(s->waiting.next, struct spare, node);

		if (sp->pid > 0)
			kill(sp->pid, SIGKILL);
		spare_forget(s, sp); /* one that is being made finds the other end closed */
	}
}

static void
spares_failed(struct spares *s)
{
	s->failed_at = clock_mono();
	s->failures++;
}

bool
spares_read(struct spares *s, int given)
{
	char c;

	if (recv(given, &c, 1, MSG_DONTWAIT) != 1) {
		spares_failed(s);
		return false;
	}
	s->failures = 0;
	return true;
}

bool
spares_ended(struct spares *s, pid_t pid)
{
	if (pid == s->server) {
		log_warn("nursery: the fork server of %s ended; its tasks start without one for a while", s->python);
		server_forget(s);
		spares_clear(s); /* of an installation that may have changed */
		spares_failed(s);
		return true;
	}
	LIST_FOR_EACH (it, &s->waiting) {
		struct spare *sp = LIST_ENTRY(it, struct spare, node);

		if (sp->pid != pid)
			continue;
		spare_forget(s, sp);
		spares_failed(s);
		return true;
	}
	return false;
}

/* ---- how many there are ---- */

void
spares_want(struct spares *s)
{
	s->wanted_at = clock_mono();
}

void
spares_drop(struct spares *s)
{
	spares_clear(s);
	if (s->server > 0)
		kill(s->server, SIGKILL);
	server_forget(s);
	s->wanted_at = 0;
}

/* Milliseconds until another try after failures, 0: now. */
static int
spares_rest(struct spares *s, mono_us now)
{
	dur_us pause = AGAIN << (s->failures > AGAIN_MOST ? AGAIN_MOST : s->failures ? s->failures - 1 : 0);

	if (s->failed_at && now - s->failed_at < pause)
		return (int)((pause - (now - s->failed_at)) / US_PER_MS) + 1;
	s->failed_at = 0;
	return 0;
}

int
spares_turn(struct spares *s, size_t running)
{
	/* Those of Python take a moment to be ready: there is one for whoever follows each task that runs, and one more. */
	size_t least = s->python ? (running < MANY ? running : MANY) + 1 : 1;
	bool task_runs = running > 0;
	dur_us since, linger = s->python ? LINGER_PYTHON : LINGER;
	mono_us now;
	int rest;

	if (s->wanted_at == 0)
		return -1;
	now = clock_mono();
	since = now - s->wanted_at;
	if (task_runs)
		s->wanted_at = now;
	else if (since > linger) {
		spares_drop(s);
		return -1;
	}
	rest = spares_rest(s, now);
	if (rest > 0)
		return rest;
	/* The next task finds one. More only while nothing else wants the processors. */
	do {
		if (s->count >= least && (s->count >= KEEP || task_runs || since < QUIET))
			break;
		if (!(s->python ? spare_order(s) : spare_fork(s)))
			spares_failed(s);
	} while (s->count < least && s->failed_at == 0);
	if (task_runs)
		return -1;
	return (int)((s->count < KEEP ? QUIET : linger - since) / US_PER_MS) + 1;
}
