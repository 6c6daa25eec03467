/* What the API's handlers work on: borrowed parts of the daemon, set once at start. */
#ifndef API_APP_H
#define API_APP_H

#include <uv.h>

#include "flows/config.h"
#include "scheduler/archive.h"
#include "scheduler/registry.h"
#include "scheduler/sched.h"
#include "scheduler/store/store.h"
#include "scheduler/turns.h"

struct auth;    /* api/auth.h: the tokens */
struct catalog; /* api/catalog/catalog.h */

struct app {
	uv_loop_t *loop;
	const struct config *config;
	struct registry *registry;
	struct sched *sched;
	struct store *store;
	struct auth *auth;
	struct catalog *catalog;
	struct archive *archive;
	const struct turns *turns;
	const char *home; /* absolute path of the state folder */
	const char *flows_dir;
	char *url; /* "http://127.0.0.1:8080", set when the port is bound */
	bool private_cluster;
	wall_us started_at;
};

#endif
