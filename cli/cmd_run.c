/*
 * `sluice run FILE`: one flow file, with no daemon needed. One that answers in the state folder is used; otherwise one is
 * started for the time of the run. It is a real daemon, so the run is recorded, and goes on in the next one if this one dies.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fs.h"
#include "cli/files.h"
#include "cli/follow.h"
#include "cli/term.h"
#include "daemon/daemon.h"

#define READY_WAIT     (60 * US_PER_S)
#define FILE_MAX_BYTES (10 * 1024 * 1024)
#define TAIL_LINES     15

struct local {
	const struct args *args;
	struct client *client;
	char *home, *config, *log;
	pid_t pid;   /* of the daemon that we started; 0: none */
	bool ready;  /* it has answered */
	off_t begun; /* where in the log it began */
};

static void
pause_ms(long ms)
{
	struct timespec t = { .tv_sec = 0, .tv_nsec = ms * 1000000 };

	nanosleep(&t, NULL);
}

/* ---- a daemon for the time of the run ---- */

/* Does some daemon hold the folder, whether it answers already, still, or not? */
static bool
home_taken(const struct local *l)
{
	char *path = xasprintf("%s/daemon.pid", l->home);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	bool taken = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;

	if (fd >= 0)
		close(fd);
	free(path);
	return taken;
}

/* In the child: becomes the daemon. Its own session, so that a Ctrl-C in the terminal is for us alone. */
static void
become_daemon(const struct local *l, int log)
{
	const char *argv[16] = { "sluice", "serve", "--ephemeral", "--home", l->home, "--listen", "127.0.0.1:0" };
	size_t n = 7;
	int null = open("/dev/null", O_RDONLY);

	if (l->config) {
		argv[n++] = "--config";
		argv[n++] = l->config;
	}
	if (l->args->database) {
		argv[n++] = "--database";
		argv[n++] = l->args->database;
	}
	setsid();
	dup2(null, 0);
	dup2(log, 1);
	dup2(log, 2);
	close_range(3, ~0U, 0);
	execv("/proc/self/exe", (char *const *)(const void *)argv);
	_exit(127);
}

static bool
daemon_start(struct local *l)
{
	int log;
	struct stat st;

	/* As the daemon makes it: root's cluster runs as another user, who must be able to pass through. */
	if (fs_make_folders(l->home, geteuid() == 0 ? 0711 : 0700) < 0) {
		refuse("choose another with --home", "cannot make the state folder %s: %s", l->home, strerror(errno));
		return false;
	}
	log = open(l->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log < 0 || fstat(log, &st) < 0) {
		refuse("choose another state folder with --home", "cannot write %s: %s", l->log, strerror(errno));
		return false;
	}
	l->begun = st.st_size;
	l->pid = fork();
	if (l->pid == 0)
		become_daemon(l, log);
	close(log);
	if (l->pid > 0)
		return true;
	l->pid = 0;
	refuse(NULL, "cannot start a daemon: %s", strerror(errno));
	return false;
}

/* What the daemon said last, since it began. */
static void
print_log_tail(const struct local *l)
{
	struct buf text = BUF_INIT;
	char *from;
	int lines = 0;

	if (buf_add_file(&text, l->log) == 0 && text.len > (size_t)l->begun) {
		while (text.len && text.s[text.len - 1] == '\n')
			text.s[--text.len] = '\0';
		from = text.s + text.len;
		while (from > text.s + l->begun && (from[-1] != '\n' || ++lines < TAIL_LINES))
			from--;
		fprintf(stderr, "%s\n", from);
	}
	buf_release(&text);
}

/* Notices the end of the daemon that we started. */
static bool
daemon_ended(struct local *l)
{
	if (l->pid == 0 || waitpid(l->pid, NULL, WNOHANG) != l->pid)
		return false;
	l->pid = 0;
	return true;
}

/* Waits until a daemon answers in the state folder, starting one when none holds it. */
static bool
daemon_ensure(void *arg)
{
	struct local *l = arg;
	mono_us deadline = clock_mono() + READY_WAIT;

	while (clock_mono() < deadline && interrupts() < 1) {
		if (client_alive(l->client))
			return l->ready = true;
		if (daemon_ended(l) && !l->ready && !home_taken(l)) {
			refuse(NULL, "the daemon for this run ended while it started; the end of its log, %s:", l->log);
			print_log_tail(l);
			return false;
		}
		if (l->pid == 0 && !home_taken(l)) {
			l->ready = false;
			if (!daemon_start(l))
				return false;
		}
		pause_ms(20);
	}
	if (interrupts()) {
		refuse(NULL, "interrupted");
	} else {
		refuse(NULL, "no daemon became ready in the state folder %s within 60 s; see %s", l->home, l->log);
		print_log_tail(l);
	}
	return false;
}

/* The run is waiting while the daemon is gone: a new one goes on with it. */
static bool
daemon_again(void *arg)
{
	struct local *l = arg;

	fputs("starting another daemon, which goes on with the run\n", stderr);
	return daemon_ensure(l);
}

/* Lets ours end in order. When the person has left, it cancels what runs; every further Ctrl-C is passed on. */
static void
daemon_end(struct local *l)
{
	int passed = interrupts() >= 2 ? 1 : interrupts();

	if (l->pid == 0)
		return;
	kill(l->pid, SIGTERM);
	while (!daemon_ended(l)) {
		if (interrupts() > passed) {
			passed++;
			kill(l->pid, SIGTERM);
		}
		pause_ms(10);
	}
}

/* ---- the run ---- */

static json_t *
run_body(const struct args *a, const char *path)
{
	struct buf text = BUF_INIT_MAX(FILE_MAX_BYTES);
	json_t *body = NULL, *source = NULL;
	int rc = buf_add_file(&text, path);

	if (rc == -EFBIG)
		refuse(NULL, "%s is larger than 10 MB, the most that is read", path);
	else if (rc < 0)
		refuse(NULL, "cannot read %s: %s", path, strerror(-rc));
	else if ((source = json_stringn(text.s, text.len)) == NULL)
		refuse(NULL, "%s is not UTF-8 text", path);
	else
		body = trigger_body(a);
	buf_release(&text);
	if (body == NULL) {
		json_decref(source);
		return NULL;
	}
	json_object_set_new(body, "file", json_string(path));
	json_object_set_new(body, "source", source);
	return body;
}

/* A mistake in the file is told at once, before a daemon is started for it. */
static bool
file_good(const char *path, const char *config)
{
	struct diags diags = DIAGS_INIT;
	struct buf text = BUF_INIT;
	bool good = file_check(path, config, &diags);

	diags_print(&diags, &text);
	fputs(text.s, stderr);
	buf_release(&text);
	diags_release(&diags);
	return good;
}

/*
 * Starts the run. A daemon that dies before it has answered may have started it: the key makes the second question safe.
 * Takes `body` over.
 */
static int
run_post(struct local *l, json_t *body, json_t **run)
{
	unsigned char bytes[16];
	char header[64] = "Idempotency-Key: run-";
	int status, rc = EXIT_REFUSED;

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) {
		json_decref(body);
		return refuse(NULL, "the system gives no random bytes: %s", strerror(errno));
	}
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(header + strlen(header), 3, "%02x", bytes[i]);
	client_header(l->client, header);
	client_silent(l->client, true);
	do {
		json_decref(*run);
		status = client_call(l->client, "POST", "/api/v1/runs", json_incref(body), run);
	} while ((status == 0 || status == 503) && daemon_again(l));
	client_silent(l->client, false);
	client_header(l->client, NULL);
	json_decref(body);
	if (status == 200 || status == 201)
		rc = EXIT_OK;
	else if (status && status != 503)
		client_refuse(status, *run);
	return rc;
}

static int
run_and_follow(struct local *l, json_t *body)
{
	struct follow f = { .client = l->client, .quiet = l->args->quiet, .lost = daemon_again, .arg = l };
	json_t *run = NULL, *ended = NULL;
	int rc = run_post(l, body, &run);

	if (rc == EXIT_OK)
		rc = follow_run(&f, json_string_value(json_object_get(run, "id")), &ended);
	if (ended && l->args->json)
		print_json(ended);
	fflush(stdout);
	json_decref(run);
	json_decref(ended);
	return rc;
}

int
cmd_run(const struct args *a)
{
	struct local l = { .args = a };
	char *path = realpath(a->operands[0], NULL);
	json_t *body;
	int rc = EXIT_REFUSED;

	if (path == NULL)
		return refuse(NULL, "cannot read %s: %s", a->operands[0], strerror(errno));
	body = run_body(a, path);
	if (body == NULL) {
		free(path);
		return EXIT_REFUSED;
	}
	l.home = a->home ? xstrdup(a->home) : default_home();
	l.log = xasprintf("%s/serve.log", l.home);
	l.config = config_beside(a, path);
	l.client = client_open_home(l.home);
	interrupts_catch();
	if (client_alive(l.client)) {
		if (a->config)
			fprintf(stderr, "sluice: the daemon of %s runs this; its own config counts, not %s\n", l.home, a->config);
		rc = run_and_follow(&l, body);
	} else if (file_good(a->operands[0], l.config) && daemon_ensure(&l)) {
		rc = run_and_follow(&l, body);
	} else {
		json_decref(body);
	}
	client_close(l.client);
	daemon_end(&l);
	free(l.home);
	free(l.log);
	free(l.config);
	free(path);
	return rc;
}
