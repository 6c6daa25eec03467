#include "scheduler/orphans.h"

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/log.h"

#define ENVIRON_MAX (4u << 20)
#define TRIES       100
#define PAUSE_US    10000

/* Does the process's environment hold a line that begins with `line`? One that is gone, or not ours to read, holds nothing. */
static bool
environ_has(const char *pid, const char *line, struct buf *b)
{
	char *path = xasprintf("/proc/%s/environ", pid);
	size_t n = strlen(line);
	bool has = false;

	buf_clear(b);
	if (buf_add_file(b, path) == 0)
		for (const char *at = b->s; !has && at < b->s + b->len; at += strlen(at) + 1)
			has = strncmp(at, line, n) == 0;
	free(path);
	return has;
}

void
orphans_end(const char *home)
{
	char *line = xasprintf("SLUICE_REPORT=%s/runs/", home);
	struct buf b = BUF_INIT_MAX(ENVIRON_MAX);
	bool found = true;

	for (int tries = 0; found && tries < TRIES; tries++) {
		DIR *proc = opendir("/proc");
		struct dirent *ent;

		found = false;
		while (proc && (ent = readdir(proc)) != NULL) {
			pid_t pid = (pid_t)atoi(ent->d_name);

			if (pid <= 1 || pid == getpid() || !environ_has(ent->d_name, line, &b))
				continue;
			found = true;
			if (kill(pid, SIGKILL) == 0 && tries == 0)
				log_info("nursery: ended process %d, which an attempt of an earlier nursery had left", (int)pid);
		}
		if (proc)
			closedir(proc);
		if (found)
			usleep(PAUSE_US);
	}
	buf_release(&b);
	free(line);
}
