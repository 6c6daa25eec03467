/* Copies of logs and artifacts: one delivery an attempt, a few at a time, each tried until it succeeds. */
#include "scheduler/archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/trouble.h"
#include "scheduler/alarm.h"
#include "scheduler/hide.h"
#include "scheduler/sched.h"
#include "scheduler/store/store.h"
#include "scheduler/work.h"
#include "storage/storage.h"

#define AT_ONCE     2
#define PAUSE_FIRST US_PER_S
#define PAUSE_MAX   US_PER_MIN
#define DRAIN_MAX   (10 * US_PER_S)
#define PIECE       65536

struct archive {
	unsigned refs; /* the daemon's, and one for each piece of work under way */
	uv_loop_t *loop;
	struct store *store;
	const struct config *config;
	struct registry *registry;
	struct sched *sched;
	struct sched_sub *sub;
	char *home, *place; /* NULL: none */
	struct storage *storage;
	json_t *due;        /* attempts to copy, as keys, oldest first */
	json_t *failed;     /* those that could not be, for whatever reason, and are due again */
	struct list asking; /* deliveries that the database is asked about */
	int busy;
	bool closing;
	struct alarm *again; /* while what failed waits */
	dur_us pause;
	void (*drained)(void *arg);
	void *drained_arg;
	struct alarm *drain_end;
};

/* One attempt on its way. */
struct delivery {
	struct work work;
	struct list node; /* in archive->asking */
	struct archive *archive;
	char *key;
	struct mask *mask; /* what its log must not show; NULL: nothing */
	struct err e;
};

static void archive_next(struct archive *a);

static void
archive_unref(struct archive *a)
{
	if (--a->refs > 0)
		return;
	storage_free(a->storage);
	json_decref(a->due);
	json_decref(a->failed);
	free(a->home);
	free(a->place);
	free(a);
}

static char *
mark_path(const char *home, const char *attempt)
{
	char *path = xasprintf("%s/archive/%s", home, attempt);

	for (char *p = path + strlen(path) - strlen(attempt); *p; p++)
		if (*p == '/')
			*p = '.';
	return path;
}

int
archive_mark(const char *home, const char *attempt)
{
	char *path = mark_path(home, attempt);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 && errno == ENOENT && fs_make_parents(path) == 0)
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	free(path);
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

/* ---- a delivery, in a worker thread ---- */

/* The log as everybody may see it, in a file beside it. */
static int
masked_copy(struct mask *m, const char *from, const char *to, struct err *e)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc = 0;
	struct buf text = BUF_INIT;
	char *piece = xmalloc(PIECE);
	ssize_t n = 1;

	while (in >= 0 && out >= 0 && rc == 0 && n > 0) {
		n = read(in, piece, PIECE);
		buf_clear(&text);
		mask_feed(m, piece, n > 0 ? (size_t)n : 0, n <= 0, &text);
		rc = n < 0 || fs_write_all(out, text.s, text.len) < 0 ? -1 : 0;
	}
	if (in < 0 || out < 0 || rc < 0)
		rc = err_set(e, ERR_IO, "%s cannot be copied to %s: %s", from, to, strerror(errno));
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	buf_release(&text);
	free(piece);
	return rc;
}

static int
deliver_log(struct delivery *d, const char *folder, const char *to)
{
	char *log = xasprintf("%s/log", folder), *masked = xasprintf("%s/log.masked", folder),
	     *location = xasprintf("%s/log", to);
	int rc = 0;

	if (access(log, F_OK) < 0 && errno == ENOENT) { /* it never began */
	} else if (d->mask == NULL) {
		rc = storage_upload(d->archive->storage, location, log, &d->e);
	} else {
		rc = masked_copy(d->mask, log, masked, &d->e);
		if (rc == 0)
			rc = storage_upload(d->archive->storage, location, masked, &d->e);
		unlink(masked);
	}
	free(log);
	free(masked);
	free(location);
	return rc;
}

struct sending {
	struct delivery *d;
	const char *to;
	size_t skip; /* of a path: the attempt's folder */
};

/* It may lead anywhere, so it is not kept. */
static bool
is_link(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

static int
on_artifact(const char *path, int64_t size, wall_us modified, void *arg)
{
	struct sending *s = arg;
	char *location = xasprintf("%s%s", s->to, path + s->skip);
	int rc = is_link(path) ? 0 : storage_upload(s->d->archive->storage, location, path, &s->d->e);

	(void)size;
	(void)modified;
	free(location);
	return rc;
}

static void
deliver(struct work *w)
{
	struct delivery *d = w->data;
	char *folder = xasprintf("%s/runs/%s", d->archive->home, d->key), *to = xasprintf("%s/%s", d->archive->place, d->key);
	char *artifacts = xasprintf("%s/artifacts", folder);
	struct sending s = { .d = d, .to = to, .skip = strlen(folder) };

	if (deliver_log(d, folder, to) == 0 && storage_list(d->archive->storage, artifacts, on_artifact, &s, &d->e) < 0 &&
	    d->e.code == 0)
		err_set(&d->e, ERR_IO, "the artifacts of %s cannot be copied", d->key);
	free(artifacts);
	free(folder);
	free(to);
}

/* ---- a delivery, on the loop ---- */

static void
delivery_free(struct delivery *d)
{
	struct archive *a = d->archive;

	list_remove(&d->node);
	mask_free(d->mask);
	err_release(&d->e);
	free(d->key);
	free(d);
	a->busy--;
	archive_unref(a);
}

/* There is nothing (more) to copy of this attempt. */
static void
delivery_settle(struct delivery *d)
{
	struct archive *a = d->archive;
	char *mark = mark_path(a->home, d->key);

	if (unlink(mark) < 0 && errno != ENOENT)
		log_warn("archive: %s cannot be removed: %s", mark, strerror(errno));
	free(mark);
	json_object_del(a->failed, d->key);
	if (json_object_size(a->failed) == 0)
		trouble_end(TROUBLE_ARCHIVE, "logs and artifacts are copied to %s again", a->place);
}

static void
on_again(void *arg)
{
	archive_next(arg);
}

static void
delivery_fail(struct delivery *d, const char *why)
{
	struct archive *a = d->archive;

	trouble_begin(TROUBLE_ARCHIVE,
		      "logs and artifacts cannot be copied to server.archive, they stay in %s/runs and are tried again: %s",
		      a->home, why);
	json_object_set_new(a->failed, d->key, json_true());
	json_object_set_new(a->due, d->key, json_true());
	if (a->again == NULL && !a->closing) {
		a->pause = a->pause == 0 ? PAUSE_FIRST : a->pause < PAUSE_MAX / 2 ? 2 * a->pause : PAUSE_MAX;
		alarm_set(&a->again, a->loop, a->pause, on_again, a);
	}
}

static void
on_delivered(struct work *w, int status)
{
	struct delivery *d = w->data;
	struct archive *a = d->archive;

	(void)status;
	if (a->closing) {
		delivery_free(d);
		return;
	}
	if (d->e.code) {
		delivery_fail(d, d->e.msg);
	} else {
		a->pause = 0;
		delivery_settle(d);
	}
	delivery_free(d);
	archive_next(a);
}

static void
on_attempt_read(void *arg, const struct rows *r, struct err *e)
{
	struct delivery *d = arg;
	struct archive *a = d->archive;
	struct flow_ran ran;
	const char *state;

	list_remove(&d->node);
	if (r == NULL) {
		delivery_fail(d, e->msg);
	} else if (rows_count(r) == 0) { /* it could not begin, so there never was such an attempt */
		delivery_settle(d);
	} else if (state = rows_get(r, 0, 0), strcmp(state, "running") == 0 || strcmp(state, "stopping") == 0) {
		/* its end will tell */
	} else {
		ran = (struct flow_ran){ rows_get(r, 0, 1), rows_get(r, 0, 2), rows_get(r, 0, 3), rows_get(r, 0, 4) };
		if (hide_secrets(a->registry, a->config, &ran, &d->mask, &d->e) < 0) {
			log_warn("archive: %s stays on this machine alone: %s", d->key, d->e.msg);
		} else {
			work_queue(a->loop, &d->work, storage_remote(a->place), deliver, on_delivered);
			return;
		}
	}
	delivery_free(d);
	archive_next(a);
}

static void
delivery_begin(struct archive *a, const char *key)
{
	struct delivery *d = xcalloc(1, sizeof(*d));
	char *run = xstrdup(key), *task = strchr(run, '/'), *n = strrchr(run, '/');

	*task++ = '\0';
	*n++ = '\0';
	d->archive = a;
	d->key = xstrdup(key);
	d->work.data = d;
	list_init(&d->node);
	list_append(&a->asking, &d->node);
	a->refs++;
	a->busy++;
	store_query(a->store,
		    "SELECT a.state, r.flow, v.hash, v.file, " SQL_HIDE_SOURCE(
			    "v.source") " FROM sluice.attempts a JOIN sluice.runs r ON r.id = a.run_id JOIN sluice.flow_versions "
					"v ON v.hash = r.version"
					" WHERE a.run_id = $1 AND a.task_id = $2 AND a.n = $3::int",
		    3, (const char *const[]){ run, task, n }, on_attempt_read, d);
	free(run);
}

static void
drain_over(void *arg)
{
	struct archive *a = arg;
	void (*done)(void *) = a->drained;

	alarm_cancel(&a->drain_end);
	a->drained = NULL;
	if (done)
		done(a->drained_arg);
}

static void
archive_next(struct archive *a)
{
	void *first;

	while (!a->closing && a->again == NULL && a->busy < AT_ONCE && (first = json_object_iter(a->due)) != NULL) {
		char *key = xstrdup(json_object_iter_key(first));

		json_object_del(a->due, key);
		delivery_begin(a, key);
		free(key);
	}
	if (a->drained && a->busy == 0 && (a->again || json_object_size(a->due) == 0))
		drain_over(a);
}

static void
on_event(void *arg, const json_t *ev)
{
	struct archive *a = arg;
	const char *kind = json_string_value(json_object_get(ev, "kind")), *run = json_string_value(json_object_get(ev, "run")),
		   *task = json_string_value(json_object_get(ev, "task")),
		   *state = json_string_value(json_object_get(ev, "state"));
	json_int_t n = json_integer_value(json_object_get(ev, "attempt"));
	char *key, *mark;

	if (kind == NULL || strcmp(kind, "task") != 0 || run == NULL || task == NULL || n < 1 || state == NULL ||
	    strcmp(state, "running") == 0)
		return;
	key = xasprintf("%s/%s/%lld", run, task, (long long)n);
	mark = mark_path(a->home, key);
	if (access(mark, F_OK) == 0) {
		json_object_set_new(a->due, key, json_true());
		archive_next(a);
	}
	free(mark);
	free(key);
}

/* Those that an earlier daemon did not get to. */
static void
archive_resume(struct archive *a)
{
	char *path = xasprintf("%s/archive", a->home);
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) != NULL) {
		char *key = xstrdup(entry->d_name), *first = strchr(key, '.'), *last = strrchr(key, '.');

		if (first && first > key && last > first) {
			*first = *last = '/';
			json_object_set_new(a->due, key, json_true());
		}
		free(key);
	}
	if (dir)
		closedir(dir);
	free(path);
	archive_next(a);
}

/* ---- the way back ---- */

struct fetch {
	struct work work;
	struct archive *archive;
	char *key, *name; /* name NULL: the list of artifacts */
	json_t *items;
	archive_fetched fetched;
	archive_listed listed;
	void *arg;
	struct err e;
};

static void
fetch_work(struct work *w)
{
	struct fetch *f = w->data;
	char *location = xasprintf("%s/%s/%s", f->archive->place, f->key, f->name),
	     *file = xasprintf("%s/runs/%s/%s", f->archive->home, f->key, f->name);

	if (storage_download(f->archive->storage, location, file, &f->e) < 0 && f->e.code == 0)
		err_set(&f->e, ERR_IO, "%s cannot be fetched", location);
	free(location);
	free(file);
}

static int
on_listed_file(const char *location, int64_t size, wall_us modified, void *arg)
{
	struct fetch *f = arg;
	char *part = xasprintf("/%s/artifacts/", f->key);
	const char *at = strstr(location, part);

	(void)modified;
	if (at && !is_link(location))
		json_array_append_new(f->items, json_pack("{s:s,s:I}", "name", at + strlen(part), "size", (json_int_t)size));
	free(part);
	return 0;
}

static void
list_work(struct work *w)
{
	struct fetch *f = w->data;
	struct archive *a = f->archive;
	char *here = xasprintf("%s/runs/%s", a->home, f->key), *report = xasprintf("%s/report", here), *folder;

	/* Only the folder of an attempt that ran here has a report, and everything else; another holds what was fetched. */
	if (a->place == NULL || access(report, F_OK) == 0)
		folder = xasprintf("%s/artifacts", here);
	else
		folder = xasprintf("%s/%s/artifacts", a->place, f->key);
	if (storage_list(a->storage, folder, on_listed_file, f, &f->e) < 0 && f->e.code == 0)
		err_set(&f->e, ERR_IO, "%s cannot be listed", folder);
	free(folder);
	free(report);
	free(here);
}

static void
on_fetch_done(struct work *w, int status)
{
	struct fetch *f = w->data;
	struct err *e;

	if (status < 0)
		err_set(&f->e, ERR_UNAVAILABLE, "the daemon is stopping");
	e = f->e.code ? &f->e : NULL;
	if (f->fetched) {
		f->fetched(f->arg, e);
	} else {
		if (e)
			json_decref(f->items);
		f->listed(f->arg, e ? NULL : f->items, e);
	}
	err_release(&f->e);
	archive_unref(f->archive);
	free(f->key);
	free(f->name);
	free(f);
}

static struct fetch *
fetch_new(struct archive *a, const char *attempt, void *arg)
{
	struct fetch *f = xcalloc(1, sizeof(*f));

	a->refs++;
	f->archive = a;
	f->key = xstrdup(attempt);
	f->arg = arg;
	f->work.data = f;
	return f;
}

bool
archive_has_place(const struct archive *a)
{
	return a->place != NULL;
}

void
archive_fetch(struct archive *a, const char *attempt, const char *name, archive_fetched cb, void *arg)
{
	struct fetch *f = fetch_new(a, attempt, arg);

	f->name = xstrdup(name);
	f->fetched = cb;
	work_queue(a->loop, &f->work, storage_remote(a->place), fetch_work, on_fetch_done);
}

void
archive_list(struct archive *a, const char *attempt, archive_listed cb, void *arg)
{
	struct fetch *f = fetch_new(a, attempt, arg);

	f->items = json_array();
	f->listed = cb;
	work_queue(a->loop, &f->work, a->place && storage_remote(a->place), list_work, on_fetch_done);
}

/* ---- life ---- */

struct archive *
archive_open(uv_loop_t *loop, struct store *store, const struct config *config, struct registry *registry, struct sched *sched,
	     const char *home, struct err *e)
{
	const char *place = config_get(config, "server.archive");
	struct storage *storage = storage_new(json_object_get(config->json, "s3"), e);
	struct archive *a;
	size_t n;

	if (storage == NULL)
		return NULL;
	a = xcalloc(1, sizeof(*a));
	a->refs = 1;
	a->loop = loop;
	a->store = store;
	a->config = config;
	a->registry = registry;
	a->sched = sched;
	a->home = xstrdup(home);
	a->storage = storage;
	a->due = json_object();
	a->failed = json_object();
	list_init(&a->asking);
	if (place && *place) {
		for (n = strlen(place); n > 1 && place[n - 1] == '/';)
			n--;
		a->place = xstrndup(place, n);
		a->sub = sched_subscribe(sched, on_event, a);
		archive_resume(a);
	}
	return a;
}

void
archive_drain(struct archive *a, void (*done)(void *arg), void *arg)
{
	a->drained = done;
	a->drained_arg = arg;
	alarm_set(&a->drain_end, a->loop, DRAIN_MAX, drain_over, a);
	archive_next(a);
}

void
archive_close(struct archive *a)
{
	if (a == NULL)
		return;
	a->closing = true;
	a->drained = NULL;
	if (a->sub)
		sched_unsubscribe(a->sched, a->sub);
	alarm_cancel(&a->again);
	alarm_cancel(&a->drain_end);
	LIST_FOR_EACH (it, &a->asking) /* the store drops what it was asked */
		delivery_free(LIST_ENTRY(it, struct delivery, node));
	archive_unref(a);
}
