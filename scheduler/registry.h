/*
 * The flows in force: files below the flows folder, watched. A file that breaks keeps its last good version in force and
 * shows its problems.
 */
#ifndef SCHEDULER_REGISTRY_H
#define SCHEDULER_REGISTRY_H

#include <jansson.h>
#include <uv.h>

#include "flows/flow.h"

struct registry;

struct registry_entry {
	char *file;
	struct flow *flow;   /* the last good version; NULL when there never was one */
	struct diags *diags; /* problems of the newest text; NULL when there are none */
	wall_us loaded_at;
};

/* Called after a load changed anything; not from inside registry_open. */
typedef void (*registry_changed_cb)(void *arg);

struct registry *registry_open(uv_loop_t *loop, const char *dir, const struct config *config, registry_changed_cb cb, void *arg,
			       struct err *e);
void registry_close(struct registry *r);
/* The good version of a flow by id; NULL if unknown. Borrowed: flow_ref it to keep it. */
struct flow *registry_flow(struct registry *r, const char *id);
/* All entries in order of flow id, then file. */
size_t registry_count(const struct registry *r);
const struct registry_entry *registry_entry_at(const struct registry *r, size_t i);

#endif
