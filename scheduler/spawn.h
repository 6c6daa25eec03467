/*
 * How the nursery starts a process: a program (vfork and exec), a document in an interpreter, the fork server of an interpreter,
 * or a native task (a plain fork). Each gets a process group of its own, dies with the nursery, and has the log on descriptors 1
 * and 2 and the report on 3.
 */
#ifndef SCHEDULER_SPAWN_H
#define SCHEDULER_SPAWN_H

#include <jansson.h>
#include <signal.h>
#include <sys/types.h>

/* The same for all children of a nursery. */
struct spawner {
	int null_fd;
	sigset_t mask;      /* theirs */
	char *run_py;       /* what interpreters run */
	json_t *server_env; /* of fork servers */
};

void spawner_init(struct spawner *by, const char *home, const char *libdir);
void spawner_release(struct spawner *by);

struct spawn {
	const struct spawner *by;
	const char *cwd; /* NULL: the nursery's */
	int log_fd, report_fd;
	char *why; /* when it could not be started; the caller frees it */
	int no;    /* its errno */
};

/* All give the process, or -1 with `why`. */
pid_t spawn_program(struct spawn *sp, const json_t *argv, const json_t *env);
/* Runs the document in an interpreter, where it is on descriptor 4. */
pid_t spawn_python(struct spawn *sp, const char *python, const json_t *doc, const json_t *env);
/* An interpreter that does what tasks on the engine import, and forks when it is told so on descriptor 4; see spare.h. */
pid_t spawn_server(struct spawn *sp, const char *python, const char *engine, int fd);
pid_t spawn_native(struct spawn *sp, const json_t *doc, const json_t *env);
/* In a child: what the nursery's children have in common. It ends when the nursery did meanwhile. */
void spawn_child_begin(pid_t nursery);
void spawn_child_signals(const struct spawner *by);

#endif
