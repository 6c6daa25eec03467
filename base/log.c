#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "clock.h"

static const char *const log_names[] = { "debug", "info", "warn", "error" };
static enum log_level log_least = LOG_INFO;
/* A thread's own: those of the pool write theirs at once. */
static _Thread_local bool log_held;
static _Thread_local struct buf log_lines = BUF_INIT;

void
log_set_level(enum log_level level)
{
	log_least = level;
}

int
log_level_parse(const char *name)
{
	for (int i = LOG_DEBUG; i <= LOG_ERROR; i++)
		if (strcmp(name, log_names[i]) == 0)
			return i;
	return -1;
}

void
log_hold(bool held)
{
	log_held = held;
	log_flush();
}

void
log_flush(void)
{
	/* Whole lines in one write: those of several processes do not mix. A log that cannot be written is nobody's error. */
	if (log_lines.len > 0 && write(STDERR_FILENO, log_lines.s, log_lines.len) < 0) {}
	if (log_held)
		buf_clear(&log_lines);
	else
		buf_release(&log_lines);
}

static void
log_line(enum log_level level, const char *fmt, va_list ap)
{
	struct buf *b = &log_lines;
	char when[TIME_TEXT];

	if (level < log_least)
		return;
	buf_addf(b, "%s %-5s ", time_format(clock_wall(), when), log_names[level]);
	buf_vaddf(b, fmt, ap);
	buf_addc(b, '\n');
	if (!log_held || level >= LOG_WARN)
		log_flush();
}

#define LOG_AT(level)                                                                                                            \
	do {                                                                                                                     \
		va_list ap;                                                                                                      \
		va_start(ap, fmt);                                                                                               \
		log_line((level), fmt, ap);                                                                                      \
		va_end(ap);                                                                                                      \
	} while (0)

void
log_debug(const char *fmt, ...)
{
	LOG_AT(LOG_DEBUG);
}

void
log_info(const char *fmt, ...)
{
	LOG_AT(LOG_INFO);
}

void
log_warn(const char *fmt, ...)
{
	LOG_AT(LOG_WARN);
}

void
log_error(const char *fmt, ...)
{
	LOG_AT(LOG_ERROR);
}

void
die(const char *fmt, ...)
{
	va_list ap;

	fputs("sluice: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

void
bug_at(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	log_flush();
	fprintf(stderr, "sluice: BUG at %s:%d: ", file, line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}
