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

static void
log_line(enum log_level level, const char *fmt, va_list ap)
{
	struct buf b = BUF_INIT;
	char when[TIME_TEXT];

	if (level < log_least)
		return;
	buf_addf(&b, "%s %-5s ", time_format(clock_wall(), when), log_names[level]);
	buf_vaddf(&b, fmt, ap);
	buf_addc(&b, '\n');
	/* One write a line: lines of several processes do not mix. A log that cannot be written is nobody's error. */
	if (write(STDERR_FILENO, b.s, b.len) < 0) {}
	buf_release(&b);
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

	fprintf(stderr, "sluice: BUG at %s:%d: ", file, line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}
