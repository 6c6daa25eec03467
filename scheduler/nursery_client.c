/* The daemon's end of the nursery's socket. */
#include "scheduler/nursery.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/trouble.h"

#define START_TIMEOUT (20 * US_PER_S)
#define START_AGAIN   (2 * US_PER_S)

struct nursery {
	uv_loop_t *loop;
	char *home, *libdir;
	const struct nursery_events *ev;
	void *arg;
	uv_pipe_t pipe;
	uv_timer_t retry;
	bool open, closing, retired;
	mono_us started; /* the last time that we tried */
	int handles;
	struct buf in, out;
};

static int nursery_attach(struct nursery *n, int fd);

static int
nursery_dial(const char *home)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char *path = xasprintf("%s/nursery.sock", home);
	int fd = -1;

	if (strlen(path) < sizeof(sa.sun_path)) {
		memcpy(sa.sun_path, path, strlen(path));
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
			close(fd);
			fd = -1;
		}
	}
	free(path);
	return fd;
}

/* A fresh exec of our own binary: no thread, connection or secret of ours comes along. */
static int
nursery_exec(struct nursery *n, struct err *e)
{
	char *argv[] = { (char *)"sluice", (char *)"nursery", n->home, n->libdir, NULL };
	char *log = xasprintf("%s/nursery.log", n->home);
	/* Only what programs need to run: secrets of the daemon's environment stay with the daemon. */
	static const char *const pass[] = { "PATH",
					    "HOME",
					    "LANG",
					    "LC_ALL",
					    "TZ",
					    "TMPDIR",
					    "LD_LIBRARY_PATH",
					    "ASAN_OPTIONS",
					    "UBSAN_OPTIONS",
					    "SLUICE_TRACE_SQL",
					    "SLUICE_FAULT" };
	char *envp[sizeof(pass) / sizeof(pass[0]) + 1] = { NULL };
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	size_t nenv = 0;
	sigset_t none;
	pid_t pid;
	int rc;

	for (size_t i = 0; i < sizeof(pass) / sizeof(pass[0]); i++)
		if (getenv(pass[i]))
			envp[nenv++] = xasprintf("%s=%s", pass[i], getenv(pass[i]));
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&fa, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(&fa, 1, 2);
	posix_spawn_file_actions_addclosefrom_np(&fa, 3);
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
	rc = posix_spawn(&pid, "/proc/self/exe", &fa, &attr, argv, envp);
	while (nenv > 0)
		free(envp[--nenv]);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&attr);
	free(log);
	if (rc != 0)
		return err_set(e, ERR_IO, "cannot start the nursery: %s", strerror(rc));
	return 0;
}

static void
nursery_send(struct nursery *n, json_t *msg)
{
	char *text = json_dumps(msg, JSON_COMPACT);

	json_decref(msg);
	if (n->open) { /* else its children are gone; `down` has said so */
		buf_adds(&n->out, text);
		buf_addc(&n->out, '\n');
	}
	explicit_bzero(text, strlen(text));
	free(text);
}

void
nursery_flush(struct nursery *n)
{
	uv_buf_t b;
	int wrote;

	if (!n->open || n->out.len == 0)
		return;
	b = uv_buf_init(n->out.s, (unsigned)n->out.len);
	wrote = uv_try_write((uv_stream_t *)&n->pipe, &b, 1);
	if (wrote < 0)
		wrote = 0;
	if ((size_t)wrote < n->out.len) {
		/* Its buffer is full: it reads soon, and this is our own process on the same machine. Finish it in blocking mode.
		 */
		uv_stream_set_blocking((uv_stream_t *)&n->pipe, 1);
		b = uv_buf_init(n->out.s + wrote, (unsigned)(n->out.len - (size_t)wrote));
		uv_try_write((uv_stream_t *)&n->pipe, &b, 1);
		uv_stream_set_blocking((uv_stream_t *)&n->pipe, 0);
	}
	explicit_bzero(n->out.s, n->out.len); /* it may have held secrets */
	buf_clear(&n->out);
}

void
nursery_list(struct nursery *n)
{
	nursery_send(n, json_pack("{s:s}", "op", "list"));
}

static void
nursery_met(struct nursery *n, const json_t *hello)
{
	const char *protocol = json_string_value(json_object_get(hello, "protocol")),
		   *binary = json_string_value(json_object_get(hello, "binary"));
	char *ours = nursery_binary();

	n->ev->up(n->arg, json_string_value(json_object_get(hello, "id")),
		  protocol == NULL || strcmp(protocol, NURSERY_PROTOCOL) != 0 ? NURSERY_OTHER_PROTOCOL
		  : binary == NULL || strcmp(binary, ours) != 0               ? NURSERY_OTHER_BINARY
									      : NURSERY_OURS);
	nursery_list(n);
	free(ours);
}

static void
nursery_event(struct nursery *n, json_t *m)
{
	const char *ev = json_string_value(json_object_get(m, "ev")), *key = json_string_value(json_object_get(m, "key"));
	pid_t pid = (pid_t)json_integer_value(json_object_get(m, "pid"));

	if (ev == NULL)
		return;
	if (strcmp(ev, "hello") == 0) {
		nursery_met(n, m);
	} else if (strcmp(ev, "child") == 0) {
		n->ev->child(n->arg, key, pid, json_is_true(json_object_get(m, "alive")));
	} else if (strcmp(ev, "listed") == 0) {
		n->ev->listed(n->arg);
	} else if (strcmp(ev, "started") == 0) {
		n->ev->started(n->arg, key, pid);
	} else if (strcmp(ev, "probed") == 0) {
		n->ev->probed(n->arg, json_string_value(json_object_get(m, "error")));
	} else if (strcmp(ev, "exited") == 0 || strcmp(ev, "spawn_failed") == 0) {
		struct nursery_exit x = {
			.key = key,
			.pid = pid,
			.spawn_failed = strcmp(ev, "spawn_failed") == 0,
			.error = json_string_value(json_object_get(m, "error")),
			.error_no = (int)json_integer_value(json_object_get(m, "errno")),
			.oom = json_is_true(json_object_get(m, "oom")),
			.status = (int)json_integer_value(json_object_get(m, "status")),
			.at = json_integer_value(json_object_get(m, "at")),
			.wall = json_integer_value(json_object_get(m, "wall_us")),
			.user = json_integer_value(json_object_get(m, "user_us")),
			.system = json_integer_value(json_object_get(m, "system_us")),
			.max_rss = json_integer_value(json_object_get(m, "max_rss")),
		};

		n->ev->exited(n->arg, &x);
	}
}

static void
on_nursery_alloc(uv_handle_t *h, size_t hint, uv_buf_t *out)
{
	struct nursery *n = h->data;

	(void)hint;
	buf_reserve(&n->in, 65536);
	*out = uv_buf_init(n->in.s + n->in.len, 65536);
}

static void
nursery_start(struct nursery *n)
{
	struct err e = ERR_INIT;

	n->started = clock_mono();
	if (nursery_exec(n, &e) < 0) {
		trouble_begin(TROUBLE_NURSERY, "nursery: %s; trying again every %d s", e.msg, (int)(START_AGAIN / US_PER_S));
		err_release(&e);
	}
}

static void
on_nursery_retry(uv_timer_t *t)
{
	struct nursery *n = t->data;
	int fd = nursery_dial(n->home);

	if (fd >= 0 && nursery_attach(n, fd) == 0) {
		trouble_end(TROUBLE_NURSERY, "nursery: started");
		return;
	}
	/* It could not be started, or ended while it began; one that is merely slow holds the lock, and another would end. */
	if (clock_mono() - n->started > START_AGAIN)
		nursery_start(n);
	uv_timer_start(&n->retry, on_nursery_retry, 20, 0);
}

static void
on_pipe_closed(uv_handle_t *h)
{
	struct nursery *n = h->data;

	if (n->closing)
		return;
	nursery_start(n);
	uv_timer_start(&n->retry, on_nursery_retry, 20, 0);
}

static void
on_nursery_read(uv_stream_t *st, ssize_t nread, const uv_buf_t *unused)
{
	struct nursery *n = st->data;
	char *nl;

	(void)unused;
	if (nread < 0) {
		n->open = false;
		buf_clear(&n->in);
		buf_clear(&n->out);
		if (!n->retired)
			log_error("nursery: gone, and every attempt with it (%s); starting a new one", uv_strerror((int)nread));
		n->retired = false;
		uv_close((uv_handle_t *)st, on_pipe_closed);
		n->ev->down(n->arg);
		return;
	}
	n->in.len += (size_t)nread;
	n->in.s[n->in.len] = '\0';
	while ((nl = memchr(n->in.s, '\n', n->in.len)) != NULL) {
		json_t *m = json_loadb(n->in.s, (size_t)(nl - n->in.s), 0, NULL);

		buf_drop_front(&n->in, (size_t)(nl - n->in.s) + 1);
		nursery_event(n, m);
		json_decref(m);
	}
}

static int
nursery_attach(struct nursery *n, int fd)
{
	uv_pipe_init(n->loop, &n->pipe, 0);
	n->pipe.data = n;
	if (uv_pipe_open(&n->pipe, fd) < 0) {
		close(fd);
		return -1;
	}
	n->open = true;
	uv_read_start((uv_stream_t *)&n->pipe, on_nursery_alloc, on_nursery_read);
	return 0;
}

struct nursery *
nursery_open(uv_loop_t *loop, const char *home, const char *libdir, const struct nursery_events *ev, void *arg, struct err *e)
{
	struct nursery *n = xcalloc(1, sizeof(*n));
	mono_us until = clock_mono() + START_TIMEOUT;
	int fd;

	n->loop = loop;
	n->home = xstrdup(home);
	n->libdir = xstrdup(libdir);
	n->ev = ev;
	n->arg = arg;
	buf_init(&n->in, 0);
	buf_init(&n->out, 0);
	fd = nursery_dial(home);
	if (fd < 0 && nursery_exec(n, e) < 0)
		goto fail;
	while (fd < 0 && clock_mono() < until) {
		usleep(2000);
		fd = nursery_dial(home);
	}
	if (fd < 0) {
		err_set(e, ERR_TIMEOUT, "the nursery did not start; see %s/nursery.log", home);
		goto fail;
	}
	uv_timer_init(loop, &n->retry);
	n->retry.data = n;
	if (nursery_attach(n, fd) < 0) {
		err_set(e, ERR_IO, "cannot use the nursery's socket");
		goto fail;
	}
	return n;
fail:
	free(n->home);
	free(n->libdir);
	free(n);
	return NULL;
}

void
nursery_prepare(struct nursery *n, const json_t *msg)
{
	json_t *m = json_copy((json_t *)(uintptr_t)msg);

	json_object_set_new(m, "op", json_string("prepare"));
	nursery_send(n, m);
}

void
nursery_go(struct nursery *n, const char *key)
{
	nursery_send(n, json_pack("{s:s,s:s}", "op", "go", "key", key));
}

void
nursery_probe(struct nursery *n)
{
	char *dir = xasprintf("%s/runs", n->home);

	nursery_send(n, json_pack("{s:s,s:s}", "op", "probe", "dir", dir));
	free(dir);
}

void
nursery_signal(struct nursery *n, const char *key, int sig)
{
	nursery_send(n, json_pack("{s:s,s:s,s:i}", "op", "signal", "key", key, "sig", sig));
}

void
nursery_retire(struct nursery *n)
{
	n->retired = true;
	nursery_send(n, json_pack("{s:s}", "op", "stop"));
}

void
nursery_ack(struct nursery *n, const char *key)
{
	nursery_send(n, json_pack("{s:s,s:s}", "op", "ack", "key", key));
}

static void
on_nursery_closed(uv_handle_t *h)
{
	struct nursery *n = h->data;

	if (--n->handles)
		return;
	buf_release(&n->in);
	buf_release(&n->out);
	free(n->home);
	free(n->libdir);
	free(n);
}

void
nursery_close(struct nursery *n, bool stop)
{
	if (stop)
		nursery_send(n, json_pack("{s:s}", "op", "stop"));
	nursery_flush(n);
	n->closing = true;
	n->handles = 1;
	uv_close((uv_handle_t *)&n->retry, on_nursery_closed);
	if (n->open) {
		n->handles++;
		uv_close((uv_handle_t *)&n->pipe, on_nursery_closed);
	}
}
