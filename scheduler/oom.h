/*
 * Did the kernel kill for lack of memory? It says so only by counters: of the control group where there is one of version 2,
 * else of the whole machine. For the nursery.
 */
#ifndef SCHEDULER_OOM_H
#define SCHEDULER_OOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

struct oom {
	int fd;          /* the file with the counter; -1: none can be read */
	int64_t count;   /* as last read */
	mono_us read_at; /* when */
	int64_t claimed; /* deaths that were explained with it so far */
};

/* What a child has to remember of its start. */
struct oom_mark {
	int64_t count, claimed;
};

void oom_open(struct oom *o);
/* At a child's start; reads the counter at most once a second. */
struct oom_mark oom_mark(struct oom *o);
/* At the death of a child by a SIGKILL that we did not send: was it the kernel's? */
bool oom_claims(struct oom *o, const struct oom_mark *since);
/* The number of a line "oom_kill N"; -1 when there is none. */
int64_t oom_parse(const char *text, size_t len);

#endif
