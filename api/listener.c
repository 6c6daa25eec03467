#include "api/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/trouble.h"

#define ACCEPTS_MAX 64 /* a turn, so that a crowd does not keep the loop from those who are in */
#define AGAIN_MS    250
#define QUIET       (3 * US_PER_S) /* without a failure: it is over */

struct listener {
	int fd;
	uv_poll_t poll;
	uv_timer_t again;
	bool paused;
	listener_cb cb;
	void *arg;
	int handles;
};

static mono_us last_failure; /* of any of them: the trouble is the process's */

static void on_listener_again(uv_timer_t *t);

static void
on_connection(uv_poll_t *p, int status, int events)
{
	struct listener *l = p->data;
	struct sockaddr_storage addr;

	(void)status;
	(void)events;
	for (int i = 0; i < ACCEPTS_MAX && !l->paused; i++) {
		socklen_t len = sizeof(addr);
		int fd = accept4(l->fd, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			l->cb(l->arg, fd, (struct sockaddr *)&addr, len);
		} else if (errno == EAGAIN) {
			return;
		} else if (errno_passing(errno) || errno == ENOBUFS) {
			last_failure = clock_mono();
			trouble_begin(TROUBLE_ACCEPT, "no new connection can be taken: %s; those that are open are served",
				      strerror(errno));
			uv_poll_stop(&l->poll); /* or it would be told at once again, and again */
			uv_timer_start(&l->again, on_listener_again, AGAIN_MS, 0);
			return;
		} else if (errno != EINTR && errno != ECONNABORTED) {
			log_debug("accept: %s", strerror(errno));
		}
	}
}

static void
on_listener_again(uv_timer_t *t)
{
	struct listener *l = t->data;

	if (!l->paused)
		uv_poll_start(&l->poll, UV_READABLE, on_connection);
	if (clock_mono() - last_failure > QUIET)
		trouble_end(TROUBLE_ACCEPT, "connections can be taken again");
	else
		uv_timer_start(&l->again, on_listener_again, AGAIN_MS, 0);
}

struct listener *
listener_open(uv_loop_t *loop, int fd, listener_cb cb, void *arg)
{
	struct listener *l = xcalloc(1, sizeof(*l));

	l->fd = fd;
	l->cb = cb;
	l->arg = arg;
	uv_poll_init(loop, &l->poll, fd);
	uv_timer_init(loop, &l->again);
	l->poll.data = l->again.data = l;
	uv_poll_start(&l->poll, UV_READABLE, on_connection);
	return l;
}

void
listener_pause(struct listener *l, bool paused)
{
	if (l->paused == paused)
		return;
	l->paused = paused;
	if (paused)
		uv_poll_stop(&l->poll);
	else
		uv_poll_start(&l->poll, UV_READABLE, on_connection);
}

static void
on_listener_closed(uv_handle_t *h)
{
	struct listener *l = h->data;

	if (--l->handles == 0)
		free(l);
}

void
listener_close(struct listener *l)
{
	l->handles = 2;
	uv_close((uv_handle_t *)&l->poll, on_listener_closed);
	uv_close((uv_handle_t *)&l->again, on_listener_closed);
	close(l->fd);
}
