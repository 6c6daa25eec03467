/*
 * See cluster.h. The complication is root: PostgreSQL refuses to run as root, so it runs as the system's `postgres` user
 * (or `nobody`), and where that user cannot reach the state folder the cluster lies below /var/lib/sluice instead, with a
 * link from the state folder.
 */
#include "scheduler/cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/trouble.h"
#include "flows/flow.h" /* sha256_hex */

#define START_TIMEOUT  (60 * US_PER_S)
#define START_TRIES    10
#define START_PAUSE_US 300000
#define STOP_TIMEOUT   (10 * US_PER_S)
#define EMPTY_LOCK_S   1 /* far longer than a postmaster takes from making its lock file to writing it */
#define WATCH_MS       2000
#define RESTART_MS     100 /* doubled while it ends again at once */
#define RESTART_MAX_MS 5000
#define SETTLED_MS     3000 /* who lives so long is well */

struct cluster {
	char *bindir, *data, *sock, *dsn, *log;
	struct passwd *as; /* NULL: our own user */
	pid_t pid;         /* of the postmaster */
	bool child;        /* we started it, so we must reap it */
	uv_poll_t watch;   /* on its pidfd: readable when it ends */
	int pidfd;
	uv_timer_t restart;
	unsigned delay_ms;
	uv_loop_t *loop;
	int handles;
};

static void cluster_watch(struct cluster *c);

/* Major version of a "postgres (PostgreSQL) 15.18" line by running the program; 0 when it cannot be run. */
static int
cluster_version(const char *bindir)
{
	char *cmd = xasprintf("'%s/postgres' --version 2>/dev/null", bindir);
	FILE *p = popen(cmd, "r");
	int major = 0;

	free(cmd);
	if (p == NULL)
		return 0;
	if (fscanf(p, "postgres (PostgreSQL) %d", &major) != 1)
		major = 0;
	pclose(p);
	return major;
}

char *
cluster_bindir(struct err *e)
{
	static const char *const roots[] = { "/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt" };
	const char *forced = getenv("SLUICE_PG_BIN");
	char *best = NULL;
	int best_major = 0;

	if (forced && *forced) {
		best_major = cluster_version(forced);
		if (best_major == 0) {
			err_set(e, ERR_UNAVAILABLE, "SLUICE_PG_BIN is %s, but there is no working postgres program in it",
				forced);
			return NULL;
		}
		best = xstrdup(forced);
	}
	for (size_t i = 0; best == NULL && i < sizeof(roots) / sizeof(roots[0]); i++) {
		DIR *d = opendir(roots[i]);
		struct dirent *ent;

		while (d && (ent = readdir(d)) != NULL) {
			char *dir;
			int major = atoi(ent->d_name);

			if (major <= best_major)
				continue;
			dir = xasprintf("%s/%s/bin", roots[i], ent->d_name);
			major = cluster_version(dir);
			if (major > best_major) {
				free(best);
				best = dir;
				best_major = major;
			} else {
				free(dir);
			}
		}
		if (d)
			closedir(d);
	}
	if (best == NULL) { /* a server on the PATH, as other systems install it */
		FILE *p = popen("dirname \"$(readlink -f \"$(command -v postgres)\")\" 2>/dev/null", "r");
		char line[512] = "";

		if (p && fgets(line, sizeof(line), p))
			line[strcspn(line, "\n")] = '\0';
		if (p)
			pclose(p);
		if (line[0] == '/' && (best_major = cluster_version(line)) > 0)
			best = xstrdup(line);
	}
	if (best == NULL) {
		err_set(e, ERR_UNAVAILABLE,
			"PostgreSQL is not installed (no postgres program in /usr/lib/postgresql/*/bin or on the PATH); "
			"install it (Debian: apt-get install postgresql), point SLUICE_PG_BIN at its programs, "
			"or give a database of your own with --database");
		return NULL;
	}
	if (best_major < 13) {
		err_set(e, ERR_UNSUPPORTED, "PostgreSQL %d in %s is not supported: version 13 or newer is needed", best_major,
			best);
		free(best);
		return NULL;
	}
	return best;
}

/* Runs a program to its end as the cluster's user; its output goes to the cluster's log. */
static pid_t
cluster_spawn(struct cluster *c, char *const argv[])
{
	pid_t pid = fork();
	int fd;

	if (pid != 0)
		return pid;
	setsid();
	fd = open(c->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd >= 0) {
		dup2(fd, 1);
		dup2(fd, 2);
	}
	fd = open("/dev/null", O_RDONLY);
	if (fd >= 0)
		dup2(fd, 0);
	close_range(3, ~0U, 0);
	if (c->as && (setgid(c->as->pw_gid) != 0 || setuid(c->as->pw_uid) != 0))
		_exit(126);
	if (chdir("/") != 0)
		_exit(126);
	execv(argv[0], argv);
	_exit(127);
}

static int
mkdir_owned(const struct cluster *c, const char *path, mode_t mode, struct err *e)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return err_set(e, ERR_IO, "cannot make the folder %s: %s", path, strerror(errno));
	if (c->as && chown(path, c->as->pw_uid, c->as->pw_gid) < 0)
		return err_set(e, ERR_IO, "cannot give the folder %s to user %s: %s", path, c->as->pw_name, strerror(errno));
	return 0;
}

/* Can the cluster's user reach this folder? Every parent must be searchable for others. */
static bool
reachable(const char *path)
{
	char *copy = xstrdup(path);
	struct stat st;
	bool ok = true;

	for (char *p = copy + 1; ok && *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		ok = stat(copy, &st) == 0 && (st.st_mode & S_IXOTH);
		*p = '/';
	}
	ok = ok && stat(copy, &st) == 0 && (st.st_mode & S_IXOTH);
	free(copy);
	return ok;
}

static int
cluster_initdb(struct cluster *c, struct err *e)
{
	char *initdb = xasprintf("%s/initdb", c->bindir), *conf = xasprintf("%s/postgresql.conf", c->data);
	char *tmp = xasprintf("%s.new", c->data);
	char *argv[] = { initdb,
			 (char *)"-D",
			 tmp,
			 (char *)"-U",
			 (char *)"sluice",
			 (char *)"-A",
			 (char *)"trust",
			 (char *)"-E",
			 (char *)"UTF8",
			 (char *)"--locale=C",
			 (char *)"--data-checksums",
			 (char *)"-N",
			 NULL };
	int status, rc = 0;
	pid_t pid;
	FILE *f;

	/* Into a new folder, then renamed: a start that was killed half-way leaves nothing that looks like a cluster. */
	{
		char *rm = xasprintf("rm -rf '%s'", tmp);

		if (system(rm) != 0)
			log_warn("cannot remove %s", tmp);
		free(rm);
	}
	if ((rc = mkdir_owned(c, tmp, 0700, e)) < 0)
		goto out;
	log_info("making the private PostgreSQL cluster in %s", c->data);
	pid = cluster_spawn(c, argv);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		rc = err_set(e, ERR_IO, "initdb failed; see %s", c->log);
		goto out;
	}
	free(conf);
	conf = xasprintf("%s/postgresql.conf", tmp);
	f = fopen(conf, "a");
	if (f == NULL) {
		rc = err_set(e, ERR_IO, "cannot write %s: %s", conf, strerror(errno));
		goto out;
	}
	/* Small and quiet: one daemon is the only client. Durability is never relaxed. */
	fputs("\n# Sluice\nlisten_addresses = ''\nunix_socket_permissions = 0700\nmax_connections = 20\nshared_buffers = 8MB\n"
	      "fsync = on\nfull_page_writes = on\nsynchronous_commit = on\nwal_level = minimal\nmax_wal_senders = 0\n"
	      "max_worker_processes = 2\nmax_parallel_workers = 0\nmax_parallel_workers_per_gather = 0\njit = off\n"
	      "autovacuum_naptime = 5min\nbgwriter_delay = 10s\nwal_writer_delay = 10s\nlog_min_messages = warning\n"
	      "log_line_prefix = '%m '\nlogging_collector = off\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n",
	      f);
	if (fclose(f) != 0)
		rc = err_set(e, ERR_IO, "cannot write %s: %s", conf, strerror(errno));
	else if (rename(tmp, c->data) < 0)
		rc = err_set(e, ERR_IO, "cannot rename %s: %s", tmp, strerror(errno));
out:
	free(initdb);
	free(conf);
	free(tmp);
	return rc;
}

/* The pid of a postmaster that still runs on this data folder; 0 when none does. */
static pid_t
cluster_running(const struct cluster *c)
{
	char *path = xasprintf("%s/postmaster.pid", c->data), *exe, target[512];
	FILE *f = fopen(path, "r");
	long pid = 0;
	ssize_t n;

	free(path);
	if (f == NULL)
		return 0;
	if (fscanf(f, "%ld", &pid) != 1)
		pid = 0;
	fclose(f);
	if (pid <= 0 || kill((pid_t)pid, 0) < 0)
		return 0;
	/* A stale file may name a process that is something else by now. */
	exe = xasprintf("/proc/%ld/exe", pid);
	n = readlink(exe, target, sizeof(target) - 1);
	free(exe);
	if (n < 0)
		return 0;
	target[n] = '\0';
	return strstr(target, "postgres") ? (pid_t)pid : 0;
}

/*
 * A postmaster makes its lock files empty and then writes its id into them. One that died in between left a file with which
 * no other ever starts: it says so and asks for a human. The file's age keeps clear of one that is starting now.
 */
static void
cluster_unlock(const struct cluster *c)
{
	char *locks[] = { xasprintf("%s/postmaster.pid", c->data), xasprintf("%s/.s.PGSQL.5432.lock", c->sock) };

	for (size_t i = 0; i < sizeof(locks) / sizeof(locks[0]); i++) {
		struct stat st;

		if (stat(locks[i], &st) == 0 && st.st_size == 0 && time(NULL) - st.st_mtime > EMPTY_LOCK_S &&
		    unlink(locks[i]) == 0)
			log_warn("cluster: a PostgreSQL that was killed while it started left %s empty; removed it", locks[i]);
		free(locks[i]);
	}
}

static int
cluster_start(struct cluster *c, struct err *e)
{
	char *postgres = xasprintf("%s/postgres", c->bindir), *sockdir = xasprintf("unix_socket_directories=%s", c->sock);
	char *argv[] = { postgres, (char *)"-D", c->data, (char *)"-c", sockdir, NULL };
	int rc = 0;

	cluster_unlock(c);
	c->pid = cluster_running(c);
	c->child = false;
	if (c->pid == 0) {
		c->pid = cluster_spawn(c, argv);
		c->child = true;
		if (c->pid < 0)
			rc = err_set(e, ERR_IO, "cannot start PostgreSQL: %s", strerror(errno));
	}
	free(postgres);
	free(sockdir);
	return rc;
}

static bool
cluster_ended(const struct cluster *c)
{
	return c->child ? waitpid(c->pid, NULL, WNOHANG) != 0 : kill(c->pid, 0) < 0;
}

/* Was the postmaster told to stop? It writes so at the end of its file. */
static bool
cluster_stopping(const struct cluster *c)
{
	char *path = xasprintf("%s/postmaster.pid", c->data);
	struct buf b = BUF_INIT;
	bool stopping = buf_add_file(&b, path) == 0 && strstr(b.s, "\nstopping");

	buf_release(&b);
	free(path);
	return stopping;
}

static int
cluster_wait_ready(struct cluster *c, struct err *e)
{
	mono_us began = clock_mono(), until = began + START_TIMEOUT;
	bool told = false;

	for (;;) {
		PGPing ping = PQping(c->dsn);

		if (ping == PQPING_OK)
			return 0;
		if (cluster_ended(c))
			return err_set(e, ERR_IO, "PostgreSQL ended while starting; see %s", c->log);
		/* An earlier daemon's end was cut short, and its server is stuck in its own, see cluster_close. */
		if (!told && clock_mono() > began + STOP_TIMEOUT && cluster_stopping(c)) {
			log_warn("cluster: PostgreSQL (process %d) was told to stop and does not; ending it at once",
				 (int)c->pid);
			kill(c->pid, SIGQUIT);
			told = true;
		}
		if (clock_mono() > until)
			return err_set(e, ERR_TIMEOUT, "PostgreSQL did not become ready in 60 s; see %s", c->log);
		usleep(10000);
	}
}

/* A postmaster that was killed leaves backends, which end soon; until they have, a new one refuses to start. */
static int
cluster_up(struct cluster *c, struct err *e)
{
	for (int tries = 1;; tries++) {
		int rc = cluster_start(c, e);

		if (rc == 0)
			rc = cluster_wait_ready(c, e);
		if (rc == 0 || e->code != ERR_IO || tries == START_TRIES)
			return rc;
		log_warn("cluster: %s; trying again", e->msg);
		err_release(e);
		usleep(START_PAUSE_US);
	}
}

static void
on_cluster_settled(uv_timer_t *t)
{
	struct cluster *c = t->data;

	c->delay_ms = RESTART_MS;
	trouble_end(TROUBLE_POSTGRESQL, "cluster: PostgreSQL runs again");
}

static void
on_cluster_restart(uv_timer_t *t)
{
	struct cluster *c = t->data;
	struct err e = ERR_INIT;

	if (cluster_start(c, &e) < 0) {
		trouble_begin(TROUBLE_POSTGRESQL, "cluster: %s; trying again", e.msg);
		err_release(&e);
		uv_timer_start(&c->restart, on_cluster_restart, WATCH_MS, 0);
		return;
	}
	cluster_watch(c);
	uv_timer_start(&c->restart, on_cluster_settled, SETTLED_MS, 0);
}

static void
on_postmaster_end(uv_poll_t *h, int status, int events)
{
	struct cluster *c = h->data;

	(void)status;
	(void)events;
	uv_poll_stop(h);
	if (c->child)
		waitpid(c->pid, NULL, WNOHANG);
	trouble_begin(TROUBLE_POSTGRESQL, "cluster: PostgreSQL (process %d) ended; starting it again; see %s", (int)c->pid,
		      c->log);
	uv_timer_start(&c->restart, on_cluster_restart, c->delay_ms, 0);
	c->delay_ms = c->delay_ms * 2 > RESTART_MAX_MS ? RESTART_MAX_MS : c->delay_ms * 2;
}

static void
on_watch_closed(uv_handle_t *h)
{
	struct cluster *c = h->data;

	if (c->pidfd >= 0)
		close(c->pidfd);
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (c->pidfd < 0) {
		uv_timer_start(&c->restart, on_cluster_restart, WATCH_MS, 0);
		return;
	}
	uv_poll_init(c->loop, &c->watch, c->pidfd);
	c->watch.data = c;
	uv_poll_start(&c->watch, UV_READABLE, on_postmaster_end);
}

static void
cluster_watch(struct cluster *c)
{
	/* A poll handle is bound to one descriptor: the old one must be closed before the new one opens. */
	if (c->pidfd >= 0) {
		c->watch.data = c;
		uv_close((uv_handle_t *)&c->watch, on_watch_closed);
		return;
	}
	c->watch.data = c;
	on_watch_closed((uv_handle_t *)&c->watch);
}

struct cluster *
cluster_open(uv_loop_t *loop, const char *home, struct err *e)
{
	struct cluster *c = xcalloc(1, sizeof(*c));
	struct stat st;
	char *base = xstrdup(home), *version;

	c->loop = loop;
	c->pidfd = -1;
	c->delay_ms = RESTART_MS;
	c->log = xasprintf("%s/pg.log", home);
	if ((c->bindir = cluster_bindir(e)) == NULL)
		goto fail;
	if (geteuid() == 0) {
		c->as = getpwnam("postgres");
		if (c->as == NULL)
			c->as = getpwnam("nobody");
		if (c->as == NULL) {
			err_set(e, ERR_UNAVAILABLE,
				"PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as");
			goto fail;
		}
		if (!reachable(home)) {
			char hash[65];

			sha256_hex(home, strlen(home), hash);
			hash[16] = '\0';
			free(base);
			base = xasprintf("/var/lib/sluice/%s", hash);
			mkdir("/var/lib/sluice", 0755);
			if (mkdir_owned(c, base, 0700, e) < 0)
				goto fail;
			log_debug("cluster: user %s cannot reach %s; the cluster lies in %s", c->as->pw_name, home, base);
		}
	}
	c->data = xasprintf("%s/pg", base);
	c->sock = xasprintf("%s/pg.run", base);
	if (strcmp(base, home) != 0) {
		char *link1 = xasprintf("%s/pg", home), *link2 = xasprintf("%s/pg.run", home);

		/* The state folder was removed and made anew: what it knew before must not come back half. */
		if (lstat(link1, &st) < 0 && stat(c->data, &st) == 0) {
			char *aside = xasprintf("%s.%lld", c->data, (long long)clock_wall());

			if (rename(c->data, aside) == 0)
				log_warn("cluster: %s is of an earlier state folder of this name; it was moved to %s", c->data,
					 aside);
			free(aside);
		}
		if ((symlink(c->data, link1) < 0 && errno != EEXIST) || (symlink(c->sock, link2) < 0 && errno != EEXIST))
			log_warn("cluster: cannot link %s: %s", link1, strerror(errno));
		free(link1);
		free(link2);
	}
	if (strlen(c->sock) > 90) {
		err_set(e, ERR_INVALID, "the state folder's path is too long for a unix socket (%s); choose a shorter --home",
			home);
		goto fail;
	}
	if (mkdir_owned(c, c->sock, 0700, e) < 0)
		goto fail;
	c->dsn = xasprintf("host='%s' user=sluice dbname=postgres application_name=sluice connect_timeout=10", c->sock);
	version = xasprintf("%s/PG_VERSION", c->data);
	if (stat(version, &st) < 0 && cluster_initdb(c, e) < 0) {
		free(version);
		goto fail;
	}
	free(version);
	if (cluster_up(c, e) < 0)
		goto fail;
	uv_timer_init(loop, &c->restart);
	c->restart.data = c;
	cluster_watch(c);
	free(base);
	return c;
fail:
	free(base);
	free(c->bindir);
	free(c->data);
	free(c->sock);
	free(c->dsn);
	free(c->log);
	free(c);
	return NULL;
}

const char *
cluster_dsn(const struct cluster *c)
{
	return c->dsn;
}

static void
on_cluster_closed(uv_handle_t *h)
{
	struct cluster *c = h->data;

	if (--c->handles)
		return;
	if (c->pidfd >= 0)
		close(c->pidfd);
	free(c->bindir);
	free(c->data);
	free(c->sock);
	free(c->dsn);
	free(c->log);
	free(c);
}

void
cluster_close(struct cluster *c)
{
	mono_us until = clock_mono() + STOP_TIMEOUT;
	int sig = SIGINT; /* "fast": ends sessions, writes a checkpoint */

	kill(c->pid, sig);
	while (!cluster_ended(c)) {
		if (clock_mono() > until) {
			if (sig == SIGQUIT)
				break;
			/* A server that was told so while it recovers from a crash of one of its processes never ends.
			 * "Immediate" loses nothing either: the next start reads its log. */
			log_warn("cluster: PostgreSQL does not stop; ending it at once");
			kill(c->pid, sig = SIGQUIT);
			until = clock_mono() + STOP_TIMEOUT;
		}
		usleep(5000);
	}
	c->handles = 1;
	uv_close((uv_handle_t *)&c->restart, on_cluster_closed);
	if (c->pidfd >= 0) {
		c->handles++;
		uv_close((uv_handle_t *)&c->watch, on_cluster_closed);
	}
}
