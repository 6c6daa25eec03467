#include "scheduler/oom.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"

#define FRESH US_PER_S

int64_t
oom_parse(const char *text, size_t len)
{
	static const char name[] = "oom_kill ";
	const size_t n = sizeof(name) - 1;

	while (len > 0) {
		const char *nl = memchr(text, '\n', len);
		size_t line = nl ? (size_t)(nl - text) : len;

		if (line > n && memcmp(text, name, n) == 0 && strspn(text + n, "0123456789") > 0)
			return strtoll(text + n, NULL, 10);
		text += line + (nl ? 1 : 0);
		len -= line + (nl ? 1 : 0);
	}
	return -1;
}

static int64_t
oom_read(struct oom *o)
{
	char text[16384];
	ssize_t n = o->fd >= 0 ? pread(o->fd, text, sizeof(text) - 1, 0) : -1;

	o->read_at = clock_mono();
	if (n <= 0)
		return o->count;
	text[n] = '\0';
	return oom_parse(text, (size_t)n);
}

/* The path below /sys/fs/cgroup that "0::/system.slice/x.service" names; the caller frees it, NULL without one. */
static char *
oom_group(void)
{
	struct buf b = BUF_INIT_MAX(65536);
	char *path = NULL;

	if (buf_add_file(&b, "/proc/self/cgroup") == 0)
		for (char *line = b.s; *line && path == NULL; line += strcspn(line, "\n") + (line[strcspn(line, "\n")] != '\0'))
			if (strncmp(line, "0::", 3) == 0)
				path = xasprintf("/sys/fs/cgroup%.*s/memory.events", (int)strcspn(line + 3, "\n"), line + 3);
	buf_release(&b);
	return path;
}

void
oom_open(struct oom *o)
{
	char *path = oom_group();

	memset(o, 0, sizeof(*o));
	o->fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	free(path);
	if (o->fd < 0 || (o->count = oom_read(o)) < 0) {
		if (o->fd >= 0)
			close(o->fd);
		o->fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
		o->count = 0;
		o->count = oom_read(o);
	}
}

struct oom_mark
oom_mark(struct oom *o)
{
	if (clock_mono() - o->read_at > FRESH)
		o->count = oom_read(o);
	return (struct oom_mark){ o->count, o->claimed };
}

bool
oom_claims(struct oom *o, const struct oom_mark *since)
{
	o->count = oom_read(o);
	if (o->count < 0 || since->count < 0 || o->count - since->count <= o->claimed - since->claimed)
		return false;
	o->claimed++;
	return true;
}
