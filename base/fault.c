/* See fault.h. No memory is taken and nothing is remembered but the entries' text, so that a forked child is as its parent was.
 */
#include "base/fault.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define ENTRIES_MAX 1024

int fault_wanted = -1; /* not yet known */
static char fault_text[ENTRIES_MAX];

/*
 * Takes one pass of `point` from the entries in `text`: its count is lowered in place, or the entry taken out. Returns the
 * signal that is due, or 0. `*changed` says whether the text is another one now.
 */
static int
fault_take(char *text, const char *point, bool *changed)
{
	size_t n = strlen(point);

	for (char *at = text; *at;) {
		size_t len = strcspn(at, ",\n");
		char *digits = at + n + 1, *end;
		unsigned long count = 1;

		if (strncmp(at, point, n) == 0 && (at[n] == ':' || at[n] == '=')) {
			end = at + n;
			if (at[n] == ':')
				count = strtoul(digits, &end, 10);
			*changed = true;
			if (count > 1) {
				/* The same number of digits, so that nothing moves. */
				for (char *d = end - 1; d >= digits; d--) {
					if (*d != '0') {
						(*d)--;
						break;
					}
					*d = '9';
				}
				return 0;
			}
			count = strncmp(end, "=stop", 5) == 0 ? SIGSTOP : SIGKILL;
			memmove(at, at + len + (at[len] != '\0'), strlen(at + len) + (at[len] == '\0'));
			return (int)count;
		}
		at += len + (at[len] != '\0');
	}
	return 0;
}

static int
fault_take_shared(const char *path, const char *point)
{
	char text[ENTRIES_MAX] = "";
	int fd = open(path, O_RDWR | O_CLOEXEC), due = 0;
	bool changed = false;
	ssize_t got;

	if (fd < 0)
		return 0;
	if (flock(fd, LOCK_EX) == 0 && (got = read(fd, text, sizeof(text) - 1)) > 0) {
		due = fault_take(text, point, &changed);
		if (changed && (pwrite(fd, text, strlen(text), 0) < 0 || ftruncate(fd, (off_t)strlen(text)) < 0))
			due = 0;
	}
	close(fd);
	return due;
}

void
fault_pass(const char *point)
{
	const char *value;
	bool changed = false;
	int due;

	if (fault_wanted < 0) {
		value = getenv("SLUICE_FAULT");
		fault_wanted = value && *value;
		if (fault_wanted)
			snprintf(fault_text, sizeof(fault_text), "%s", value);
	}
	if (!fault_wanted)
		return;
	due = fault_text[0] == '/' ? fault_take_shared(fault_text, point) : fault_take(fault_text, point, &changed);
	if (due)
		kill(getpid(), due);
}
