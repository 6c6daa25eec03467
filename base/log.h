/*
 * The daemon's log: one line an event on stderr, "2026-11-21T06:00:00.123456Z info  message". Lines about a run start
 * with its identity (flow/run/task), made in one place by the caller's module.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_set_level(enum log_level level);
/* Parses "debug", "info", "warn", "error"; returns -1 for anything else. */
int log_level_parse(const char *name);

void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * While held, this thread's lines below a warning wait for log_flush (or for a warning), so that they are written where
 * nothing waits for it: the daemon flushes at the end of each turn of its loop.
 */
void log_hold(bool held);
void log_flush(void);

/* Ends the process with exit status 1 and a message for a person. Only while starting. */
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A broken invariant: aborts, in releases too. */
void bug_at(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4), noreturn));
#define BUG(...)     bug_at(__FILE__, __LINE__, __VA_ARGS__)
#define ASSERT(cond) ((cond) ? (void)0 : bug_at(__FILE__, __LINE__, "assertion failed: %s", #cond))

#endif
