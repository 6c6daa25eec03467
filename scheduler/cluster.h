/*
 * The private PostgreSQL cluster in the state folder: made once, listening on a unix socket only, checksums and fsync on.
 * It is a process of its own session and outlives a daemon that was killed; the next one adopts it.
 */
#ifndef SCHEDULER_CLUSTER_H
#define SCHEDULER_CLUSTER_H

#include <uv.h>

#include "base/err.h"

struct cluster;

/* Makes the cluster if needed and starts it unless it runs; blocking, only while starting. NULL with `e` set. */
struct cluster *cluster_open(uv_loop_t *loop, const char *home, struct err *e);
/* The libpq connection string. Borrowed. */
const char *cluster_dsn(const struct cluster *c);
/* Fast shutdown, waits for its end, frees. */
void cluster_close(struct cluster *c);
/* The folder with the newest installed server's programs, or NULL with `e` set; the caller frees it. */
char *cluster_bindir(struct err *e);

#endif
