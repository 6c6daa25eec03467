/*
 * Puts the parts together, in the order in which they need each other, and takes them apart in the reverse one.
 *
 * SIGTERM or SIGINT drains: nothing new starts, what runs may end. A second one cancels what runs. SIGUSR2 leaves at once
 * and lets attempts run on, for the next daemon (perhaps a newer binary) to adopt; a kill -9 is as good.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "api/app.h"
#include "api/catalog/catalog.h"
#include "api/server.h"
#include "base/alloc.h"
#include "base/fs.h"
#include "base/log.h"
#include "scheduler/alarm.h"
#include "scheduler/cluster.h"
#include "scheduler/store/jdbc_uri.h"
#include "scheduler/turns.h"
#include "scheduler/work.h"

#define LOCK_TRIES   50 /* half a second in all */
#define LOCK_WAIT_US 10000

extern char **environ;

struct daemon {
	uv_loop_t loop;
	char *home, *flows, *libdir, *config_file;
	int lock_fd;
	struct config *config;
	struct cluster *cluster; /* NULL with a database of the user's */
	struct app app;
	struct turns turns;
	struct api *api;
	uv_signal_t signals[3];
	struct alarm *url_again;
	bool url_warned;
	int stops; /* how often we were asked to stop */
	bool leaving;
};

char *
default_home(void)
{
	const char *env = getenv("SLUICE_HOME"), *state = getenv("XDG_STATE_HOME"), *user = getenv("HOME");

	if (env && *env)
		return xstrdup(env);
	if (state && *state)
		return xasprintf("%s/sluice", state);
	if (user && *user && strcmp(user, "/") != 0)
		return xasprintf("%s/.local/state/sluice", user);
	return xstrdup("/var/lib/sluice");
}

char *
default_libdir(void)
{
	const char *env = getenv("SLUICE_LIB");
	char exe[4096], *slash, *dir;
	ssize_t n;

	if (env && *env)
		return xstrdup(env);
	n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (n < 0)
		return xstrdup("lib");
	exe[n] = '\0';
	slash = strrchr(exe, '/');
	*slash = '\0';
	dir = xasprintf("%s/lib", exe);
	if (access(dir, X_OK) == 0)
		return dir;
	free(dir);
	return xasprintf("%s/../lib/sluice", exe);
}

static char *
absolute(const char *path)
{
	char *real = realpath(path, NULL), *cwd, *out;

	if (real || path[0] == '/')
		return real ? real : xstrdup(path);
	cwd = getcwd(NULL, 0);
	out = xasprintf("%s/%s", cwd, path);
	free(cwd);
	return out;
}

/* The folder is ours for as long as we hold this lock. */
static void
daemon_lock(struct daemon *d)
{
	char *path = xasprintf("%s/daemon.pid", d->home), text[32] = "";
	int tries = 0;

	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->lock_fd < 0)
		die("cannot open %s: %s; is the state folder yours? choose another with --home", path, strerror(errno));
	/* A daemon that was killed while it started a process may have left its lock to it, until that process's own program
	 * runs. */
	while (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (tries++ < LOCK_TRIES) {
			usleep(LOCK_WAIT_US);
			continue;
		}
		if (read(d->lock_fd, text, sizeof(text) - 1) < 0)
			text[0] = '\0';
		text[strcspn(text, "\n")] = '\0';
		die("the state folder %s is in use by another daemon (process %s); stop that one, or choose another folder with "
		    "--home",
		    d->home, *text ? text : "unknown");
	}
	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (ftruncate(d->lock_fd, 0) < 0 || write(d->lock_fd, text, strlen(text)) < 0)
		log_warn("cannot write %s: %s", path, strerror(errno));
	free(path);
}

static void
daemon_home(struct daemon *d, const struct serve_options *o)
{
	char *home = o->home ? xstrdup(o->home) : default_home();

	/* Root's cluster runs as another user, who must be able to pass through; nobody else may list it. */
	if (fs_make_folders(home, geteuid() == 0 ? 0711 : 0700) < 0)
		die("cannot make the state folder %s: %s; choose another with --home", home, strerror(errno));
	d->home = absolute(home);
	free(home);
	if (access(d->home, W_OK | X_OK) < 0)
		die("cannot write to the state folder %s: %s; choose another with --home", d->home, strerror(errno));
	/* Logs and reports may hold what is nobody else's business. */
	home = xasprintf("%s/runs", d->home);
	if (fs_make_folders(home, 0700) < 0)
		die("cannot make the folder %s: %s", home, strerror(errno));
	free(home);
}

/* What --flows or the config says; else a folder of the state folder, which is made. */
static void
daemon_flows(struct daemon *d, const char *given)
{
	if (given == NULL)
		given = config_get(d->config, "server.flows");
	if (given) {
		d->flows = absolute(given);
		return;
	}
	d->flows = xasprintf("%s/flows", d->home);
	if (fs_make_folders(d->flows, 0755) < 0)
		die("cannot make the flows folder %s: %s", d->flows, strerror(errno));
}

static void
daemon_config(struct daemon *d, const struct serve_options *o)
{
	const char *env = getenv("SLUICE_CONFIG");
	struct diags diags = DIAGS_INIT;
	struct buf text = BUF_INIT;
	char *path;

	if (o->config || (env && *env)) {
		d->config_file = absolute(o->config ? o->config : env);
	} else {
		path = o->flows ? xasprintf("%s/sluice.yaml", o->flows) : xasprintf("%s/flows/sluice.yaml", d->home);
		if (access("sluice.yaml", R_OK) == 0)
			d->config_file = absolute("sluice.yaml");
		else if (access(path, R_OK) == 0)
			d->config_file = absolute(path);
		free(path);
	}
	d->config = config_load(d->config_file, environ, &diags);
	diags_print(&diags, &text);
	if (text.len)
		fputs(text.s, stderr);
	if (d->config == NULL)
		die("the config %s has problems (above); the daemon does not start with them",
		    d->config_file ? d->config_file : "from the environment");
	daemon_flows(d, o->flows);
	/* The default warehouse lies in the state folder; any setting of the user's wins over it. */
	if (config_get(d->config, "catalog.warehouse") == NULL && !config_foreign(d->config)) {
		path = xasprintf("file://%s/warehouse", d->home);
		json_object_set_new(json_object_get(d->config->json, "catalog"), "warehouse", json_string(path));
		free(path);
	}
	buf_release(&text);
	diags_release(&diags);
}

static void
on_flows_changed(void *arg)
{
	struct daemon *d = arg;

	if (d->app.sched)
		sched_flows_changed(d->app.sched);
}

static void
daemon_unlink(struct daemon *d, const char *name)
{
	char *path = xasprintf("%s/%s", d->home, name);

	unlink(path);
	free(path);
}

static void
daemon_close(struct daemon *d)
{
	alarm_cancel(&d->url_again);
	daemon_unlink(d, "url");
	if (d->api)
		api_stop(d->api);
	d->api = NULL;
	archive_close(d->app.archive);
	d->app.archive = NULL;
	if (d->app.sched)
		sched_close(d->app.sched, true);
	if (d->app.catalog)
		catalog_free(d->app.catalog);
	work_close();
	if (d->app.registry)
		registry_close(d->app.registry);
	if (d->app.store)
		store_close(d->app.store);
	turns_close(&d->turns);
	for (size_t i = 0; i < sizeof(d->signals) / sizeof(d->signals[0]); i++)
		uv_close((uv_handle_t *)&d->signals[i], NULL);
	if (d->cluster)
		cluster_close(d->cluster);
}

static void
on_archived(void *arg)
{
	struct daemon *d = arg;

	log_info("everything is written; good-bye");
	daemon_close(d);
	uv_stop(&d->loop);
}

static void
on_drained(void *arg)
{
	struct daemon *d = arg;

	archive_drain(d->app.archive, on_archived, d);
}

static void
on_stop_signal(uv_signal_t *h, int sig)
{
	struct daemon *d = h->data;

	if (sig == SIGUSR2) {
		log_info("leaving; attempts run on, the next daemon adopts them");
		daemon_unlink(d, "url");
		_exit(0);
	}
	switch (++d->stops) {
	case 1:
		log_info("stopping: nothing new starts; waiting for what runs (a second signal cancels it)");
		sched_drain(d->app.sched, on_drained, d);
		break;
	case 2:
		log_info("stopping: cancelling what runs");
		sched_cancel_all(d->app.sched, "the daemon was stopped");
		break;
	default:
		log_warn("stopping at once");
		_exit(1);
	}
}

static void
daemon_signals(struct daemon *d)
{
	static const int numbers[] = { SIGTERM, SIGINT, SIGUSR2 };

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		uv_signal_init(&d->loop, &d->signals[i]);
		d->signals[i].data = d;
		uv_signal_start(&d->signals[i], on_stop_signal, numbers[i]);
	}
}

/* Clients find us by this file: whole, or not there. Where there is no room for it now, it is tried again. */
static void
write_url(void *arg)
{
	struct daemon *d = arg;
	char *path = xasprintf("%s/url", d->home), *tmp = xasprintf("%s.new", path);
	FILE *f = fopen(tmp, "w");
	bool good = f && fprintf(f, "%s\n", d->app.url) > 0;

	if (f && fclose(f) != 0)
		good = false;
	if (!good || rename(tmp, path) < 0) {
		if (!d->url_warned)
			log_warn("cannot write %s: %s; trying again every second", path, strerror(errno));
		d->url_warned = true;
		unlink(tmp);
		alarm_set(&d->url_again, &d->loop, US_PER_S, write_url, d);
	}
	free(path);
	free(tmp);
}

/*
 * Where the state lies: what the options, the environment or the config name; with a JDBC catalog in that catalog's database,
 * since a run's success and the pointers of its tables are one transaction; else in a cluster of our own. NULL with `e` set;
 * the caller frees it.
 */
static char *
daemon_dsn(struct daemon *d, const struct serve_options *o, struct err *e)
{
	const char *given = o->database ? o->database : getenv("SLUICE_DATABASE"), *type = config_get(d->config, "catalog.type"),
		   *jdbc;

	if (given == NULL || *given == '\0')
		given = config_get(d->config, "server.database");
	jdbc = type && strcmp(type, "jdbc") == 0 ? config_get(d->config, "catalog.jdbc_uri") : NULL;
	if (jdbc && given && *given) {
		err_set(e, ERR_INVALID,
			"both a database for the daemon and catalog.jdbc_uri are given: the daemon keeps its state in the "
			"catalog's "
			"database, in a schema of its own; leave out --database, SLUICE_DATABASE and server.database");
		return NULL;
	}
	if (jdbc)
		return jdbc_uri_dsn(jdbc, config_get(d->config, "catalog.user"), config_get(d->config, "catalog.password"), e);
	if (given && *given)
		return xstrdup(given);
	d->cluster = cluster_open(&d->loop, d->home, e);
	return d->cluster ? xstrdup(cluster_dsn(d->cluster)) : NULL;
}

static int
daemon_open(struct daemon *d, const struct serve_options *o, struct err *e)
{
	const char *listen = o->listen;
	char *sock = xasprintf("%s/api.sock", d->home), *dsn = daemon_dsn(d, o, e);
	int rc;

	if (dsn == NULL || (d->app.store = store_open(&d->loop, dsn, e)) == NULL)
		goto fail;
	if ((d->app.registry = registry_open(&d->loop, d->flows, d->config, on_flows_changed, d, e)) == NULL)
		goto fail;
	d->app.loop = &d->loop;
	d->app.config = d->config;
	d->app.home = d->home;
	d->app.flows_dir = d->flows;
	d->app.private_cluster = d->cluster != NULL;
	d->app.started_at = clock_wall();
	d->app.sched = sched_open(&d->loop, d->app.store, d->config, d->app.registry, d->home, d->libdir,
				  (const char *const *)&d->app.url, !o->ephemeral, e);
	if (d->app.sched == NULL)
		goto fail;
	d->app.archive = archive_open(&d->loop, d->app.store, d->config, d->app.registry, d->app.sched, d->home, e);
	if (d->app.archive == NULL)
		goto fail;
	if ((d->app.catalog = catalog_new(&d->app, e)) == NULL)
		goto fail;
	if (listen == NULL)
		listen = config_get(d->config, "server.listen");
	if ((d->api = api_start(&d->app, listen ? listen : "127.0.0.1:8080", sock, e)) == NULL)
		goto fail;
	free(sock);
	free(dsn);
	return 0;
fail:
	rc = e->code;
	free(sock);
	free(dsn);
	return rc;
}

int
serve_main(const struct serve_options *o)
{
	struct daemon d = { .lock_fd = -1 };
	const char *level = getenv("SLUICE_LOG_LEVEL");
	struct err e = ERR_INIT;
	struct rlimit files;
	int rc = 0;

	if (level && log_level_parse(level) >= 0)
		log_set_level((enum log_level)log_level_parse(level));
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (o->ephemeral)
		prctl(PR_SET_PDEATHSIG, SIGTERM);
	umask(022);
	daemon_home(&d, o);
	daemon_lock(&d);
	daemon_config(&d, o);
	d.libdir = default_libdir();
	work_open();
	uv_loop_init(&d.loop);
	turns_open(&d.turns, &d.loop);
	d.app.turns = &d.turns;
	daemon_signals(&d);
	if (daemon_open(&d, o, &e) == 0) {
		write_url(&d);
		log_info("listening on %s; state in %s, flows in %s", d.app.url, d.home, d.flows);
		uv_run(&d.loop, UV_RUN_DEFAULT);
	} else {
		fprintf(stderr, "sluice: %s\n", e.msg);
		err_release(&e);
		daemon_close(&d);
		rc = 1;
	}
	uv_run(&d.loop, UV_RUN_DEFAULT); /* closing callbacks */
	uv_loop_close(&d.loop);
	config_free(d.config);
	daemon_unlink(&d, "daemon.pid");
	free(d.app.url);
	free(d.home);
	free(d.flows);
	free(d.libdir);
	free(d.config_file);
	close(d.lock_fd);
	return rc;
}
