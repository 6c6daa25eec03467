#include "scheduler/spare.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tasks/task.h"

#define KEEP    4                /* a pipeline's worth */
#define LINGER  (30 * US_PER_S)  /* after the last native task was heard of */
#define QUIET   (50 * US_PER_MS) /* only then are more made than the one that the next task needs */
#define AGAIN   (US_PER_S)       /* after a fork that failed, or a spare that died */
#define GIVE_FD 4                /* in the spare: where the document comes from */
#define DOC_MAX (1u << 20)       /* larger ones go the other way */

struct spare {
	struct list node;
	pid_t pid;
	int fd;
};

void
spares_init(struct spares *s, int null_fd, const sigset_t *mask)
{
	*s = (struct spares){ .null_fd = null_fd, .mask = mask };
	list_init(&s->waiting);
}

void
spares_want(struct spares *s)
{
	s->wanted_at = clock_mono();
}

static void
spare_forget(struct spares *s, struct spare *sp)
{
	list_remove(&sp->node);
	s->count--;
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

	/* As every child of the nursery: see its child_setup. */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(125);
	prctl(PR_SET_NAME, "sluice-spare");
	/* The report's place is held until it comes. */
	if (dup2(s->null_fd, 0) < 0 || (fd != GIVE_FD && dup2(fd, GIVE_FD) < 0) || dup2(0, 3) < 0)
		_exit(126);
	close_range(GIVE_FD + 1, ~0U, 0);
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, s->mask, NULL);
	task_warm(GIVE_FD);
	given = spare_wait();
	prctl(PR_SET_NAME, "sluice-task");
	cwd = json_string_value(json_object_get(given, "cwd"));
	if (cwd && chdir(cwd) < 0)
		_exit(126);
	task_exit(task_main(json_object_get(given, "doc")));
}

/* ---- in the nursery ---- */

static bool
spare_fork(struct spares *s)
{
	struct spare *sp;
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
	sp = xcalloc(1, sizeof(*sp));
	sp->pid = pid;
	sp->fd = fds[0];
	list_append(&s->waiting, &sp->node);
	s->count++;
	return true;
}

/* All or nothing, and without waiting: false when it is dead, or when the message is too large for its socket. */
static bool
spare_give(const struct spare *sp, char *text, size_t len, const int fds[2])
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control = { .space = { 0 } };
	struct iovec iov = { .iov_base = text, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(c), fds, 2 * sizeof(int));
	return sendmsg(sp->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

pid_t
spares_take(struct spares *s, const json_t *doc, const json_t *env, const char *cwd, int log_fd, int report_fd)
{
	int fds[2] = { log_fd, report_fd };
	json_t *given;
	pid_t pid = 0;
	char *text;
	size_t len;

	/* The engine has read the environment when it began; and a folder that cannot be entered is told by a fork. */
	if (list_empty(&s->waiting) || json_object_size(env) > 0 || !task_fits_warm(doc) || (cwd && access(cwd, X_OK) < 0))
		return 0;
	given = json_pack("{s:O,s:s?}", "doc", (json_t *)(uintptr_t)doc, "cwd", cwd);
	text = json_dumps(given, JSON_COMPACT);
	json_decref(given);
	len = text ? strlen(text) : 0;
	if (len > 0 && len <= DOC_MAX) {
		/* One that died in the meantime is passed over; it is reaped in time. */
		LIST_FOR_EACH (it, &s->waiting) {
			struct spare *sp = LIST_ENTRY(it, struct spare, node);

			if (!spare_give(sp, text, len, fds))
				continue;
			pid = sp->pid;
			spare_forget(s, sp);
			break;
		}
		explicit_bzero(text, len);
	}
	free(text);
	return pid;
}

bool
spares_ended(struct spares *s, pid_t pid)
{
	LIST_FOR_EACH (it, &s->waiting) {
		struct spare *sp = LIST_ENTRY(it, struct spare, node);

		if (sp->pid != pid)
			continue;
		spare_forget(s, sp);
		s->failed_at = clock_mono();
		return true;
	}
	return false;
}

void
spares_drop(struct spares *s)
{
	while (!list_empty(&s->waiting)) {
		struct spare *sp = LIST_ENTRY(s->waiting.next, struct spare, node);

		kill(sp->pid, SIGKILL);
		spare_forget(s, sp);
	}
	s->wanted_at = 0;
}

int
spares_turn(struct spares *s, bool native_runs)
{
	mono_us now;
	dur_us since;

	if (s->wanted_at == 0)
		return -1;
	now = clock_mono();
	since = now - s->wanted_at;
	if (native_runs)
		s->wanted_at = now;
	else if (since > LINGER) {
		spares_drop(s);
		return -1;
	}
	if (s->failed_at && now - s->failed_at < AGAIN)
		return (int)(AGAIN / US_PER_MS);
	s->failed_at = 0;
	/* The next task finds one. More only while nothing else wants the processors. */
	if (s->count == 0 || (s->count < KEEP && !native_runs && since >= QUIET)) {
		if (!spare_fork(s))
			s->failed_at = now;
	}
	if (native_runs)
		return -1;
	return (int)((s->count < KEEP ? QUIET : LINGER - since) / US_PER_MS) + 1;
}
