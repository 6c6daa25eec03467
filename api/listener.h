/*
 * A listening socket in the loop. The HTTP library could accept by itself, but when descriptors are used up it spins, or stops
 * for as long as any client stays.
 */
#ifndef API_LISTENER_H
#define API_LISTENER_H

#include <stdbool.h>
#include <sys/socket.h>
#include <uv.h>

struct listener;
/* A new connection: non-blocking, close-on-exec, the callee's. */
typedef void (*listener_cb)(void *arg, int fd, const struct sockaddr *addr, socklen_t len);

/* Takes `fd`, a non-blocking listening socket, over. */
struct listener *listener_open(uv_loop_t *loop, int fd, listener_cb cb, void *arg);
/* While paused, clients wait in the kernel's queue. */
void listener_pause(struct listener *l, bool paused);
/* Closes the socket now, frees in a later turn. */
void listener_close(struct listener *l);

#endif
