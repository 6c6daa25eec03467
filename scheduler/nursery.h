/*
 * The nursery: the tiny process that forks attempts, keeps their exits until they are acknowledged, and outlives the
 * daemon. This header has both ends: the process's main, and the daemon's client.
 *
 * They speak JSON lines on HOME/nursery.sock:
 *   to it    {"op":"prepare","key","dir","doc"|"argv","env","cwd","python"}  {"op":"go","key"}  {"op":"signal","key","sig"}
 *            {"op":"ack","key"}  {"op":"list"}  {"op":"probe","dir"}  {"op":"stop"}
 *   from it  {"ev":"hello","id","pid","protocol","binary"}  {"ev":"started","key","pid"}
 *            {"ev":"exited","key","pid","status","wall_us","user_us","system_us","max_rss","oom","at"}
 *            {"ev":"spawn_failed","key","error","errno"}  {"ev":"child","key","pid","alive"}  {"ev":"listed"}
 * {"ev":"probed","error"}
 */
#ifndef SCHEDULER_NURSERY_H
#define SCHEDULER_NURSERY_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"

/* The nursery's own main: `sluice nursery HOME LIBDIR`, started by the daemon. */
int nursery_main(const char *home, const char *libdir);

struct nursery;

/* The program that a nursery runs: it stays what it was when the daemon is replaced by a newer one. */
enum nursery_fit {
	NURSERY_OURS,
	NURSERY_OTHER_BINARY,  /* understands us, but native tasks would run its code */
	NURSERY_OTHER_PROTOCOL /* tells about its children; nothing new may be given to it */
};
/* What both ends speak; the number changes with the messages below. */
#define NURSERY_PROTOCOL "sluice-nursery/3"
/* Names the file that this process runs; the caller frees it. */
char *nursery_binary(void);

struct nursery_exit {
	const char *key; /* "run/task/n" */
	pid_t pid;
	bool spawn_failed;
	const char *error; /* when spawn_failed */
	int error_no;      /* its errno, 0: none */
	bool oom;          /* the kernel killed it for lack of memory */
	int status;        /* as of waitpid */
	wall_us at;
	dur_us wall, user, system;
	int64_t max_rss; /* bytes */
};

struct nursery_events {
	/* The nursery answers; `id` names this instance of it: attempts of another instance are gone. */
	void (*up)(void *arg, const char *id, enum nursery_fit fit);
	/* One call for each child it knows, alive or not, after `up`; exits follow by `exited`; then `listed`. */
	void (*child)(void *arg, const char *key, pid_t pid, bool alive);
	void (*listed)(void *arg);
	void (*started)(void *arg, const char *key, pid_t pid);
	void (*exited)(void *arg, const struct nursery_exit *x);
	/* The answer to nursery_probe: why no process can be started, or NULL when one can. */
	void (*probed)(void *arg, const char *error);
	/* It is gone, and every child with it; a new one is being started. */
	void (*down)(void *arg);
};

/* Connects to the nursery of this home, starting one if there is none; blocking, only while starting. */
struct nursery *nursery_open(uv_loop_t *loop, const char *home, const char *libdir, const struct nursery_events *ev, void *arg,
			     struct err *e);
/* Leaves it running (children go on) or, with `stop`, asks it to end once it has no children. */
void nursery_close(struct nursery *n, bool stop);
/* Has it end once its children are gone and acknowledged; a new one of our own program is then started. */
void nursery_retire(struct nursery *n);
/* Has it tell its children and their exits once more. */
void nursery_list(struct nursery *n);
/* Hands over what is to be forked, {"key","dir","doc" or "argv","env","cwd"}; with "python", an interpreter, the doc is run in
 * it. Forgotten when this connection ends, or by nursery_ack. */
void nursery_prepare(struct nursery *n, const json_t *msg);
/* Forks what was prepared. */
void nursery_go(struct nursery *n, const char *key);
/* Messages wait for this: the daemon sends them once a turn. */
void nursery_flush(struct nursery *n);
/* Has it try whether an attempt could be forked now. */
void nursery_probe(struct nursery *n);
/* Signals the attempt's whole process group. */
void nursery_signal(struct nursery *n, const char *key, int sig);
/* The exit is recorded: forget it. */
void nursery_ack(struct nursery *n, const char *key);

#endif
