/*
 * See registry.h. inotify (through uv_fs_event) on the flows folder and every folder below it; a burst of events is waited
 * out for a moment, then the tree is scanned and only files whose identity, size or time changed are read again.
 */
#include "scheduler/registry.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/list.h"
#include "base/log.h"

#define SETTLE_MS 30 /* an editor's write-and-rename is one change */
#define DEPTH_MAX 16

struct watch {
	struct list node;
	struct registry *registry;
	uv_fs_event_t event;
	char *dir;
	bool seen;
};

struct file {
	struct registry_entry entry;
	struct timespec mtime;
	off_t size;
	ino_t inode;
	bool seen;
};

struct registry {
	uv_loop_t *loop;
	char *dir;
	const struct config *config;
	registry_changed_cb cb;
	void *arg;
	uv_timer_t settle;
	struct file **files;
	size_t count, cap;
	struct list watches;
	int handles;
	bool closing;
};

static void registry_scan(struct registry *r, bool tell);

static bool
is_flow_file(const char *name)
{
	const char *dot = strrchr(name, '.');

	/* The main config may lie beside the flows, and others as sluice.NAME.yaml. */
	return dot && name[0] != '.' && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0) &&
	       strncmp(name, "sluice.", 7) != 0;
}

static void
on_settled(uv_timer_t *t)
{
	registry_scan(t->data, true);
}

static void
diags_free(struct diags *d)
{
	if (d == NULL)
		return;
	diags_release(d);
	free(d);
}

static void
file_free(struct file *f)
{
	flow_unref(f->entry.flow);
	diags_free(f->entry.diags);
	free(f->entry.file);
	free(f);
}

static struct file *
registry_file(struct registry *r, const char *path)
{
	for (size_t i = 0; i < r->count; i++)
		if (strcmp(r->files[i]->entry.file, path) == 0)
			return r->files[i];
	if (r->count == r->cap) {
		r->cap = r->cap ? r->cap * 2 : 16;
		r->files = xrealloc(r->files, r->cap * sizeof(*r->files));
	}
	r->files[r->count] = xcalloc(1, sizeof(*r->files[0]));
	r->files[r->count]->entry.file = xstrdup(path);
	return r->files[r->count++];
}

/* Reads one file again if it changed. A text that is not good keeps the last good version in force. */
static bool
registry_load(struct registry *r, const char *path, const struct stat *st)
{
	struct file *f = registry_file(r, path);
	struct diags *diags;
	struct flow *flow;
	struct buf text = BUF_INIT;

	f->seen = true;
	if (f->entry.loaded_at && f->size == st->st_size && f->inode == st->st_ino && f->mtime.tv_sec == st->st_mtim.tv_sec &&
	    f->mtime.tv_nsec == st->st_mtim.tv_nsec)
		return false;
	f->size = st->st_size;
	f->inode = st->st_ino;
	f->mtime = st->st_mtim;
	diags = xcalloc(1, sizeof(*diags));
	flow = flow_load_file(path, r->config, diags);
	f->entry.loaded_at = clock_wall();
	diags_free(f->entry.diags);
	f->entry.diags = NULL;
	if (flow) {
		flow_unref(f->entry.flow);
		f->entry.flow = flow;
		log_info("flow %s loaded from %s", flow->id, path);
	}
	if (diags->count) {
		diags_print(diags, &text);
		log_warn("%s%s", flow ? "" : f->entry.flow ? "the last good version stays in force:\n" : "not loaded:\n", text.s);
		f->entry.diags = diags;
	} else {
		diags_free(diags);
	}
	buf_release(&text);
	return true;
}

static void
on_watch_event(uv_fs_event_t *h, const char *name, int events, int status)
{
	struct registry *r = ((struct watch *)h->data)->registry;

	(void)name;
	(void)events;
	(void)status;
	uv_timer_start(&r->settle, on_settled, SETTLE_MS, 0);
}

static void
registry_watch(struct registry *r, const char *dir)
{
	struct watch *w;

	LIST_FOR_EACH (it, &r->watches) {
		w = LIST_ENTRY(it, struct watch, node);
		if (strcmp(w->dir, dir) == 0) {
			w->seen = true;
			return;
		}
	}
	w = xcalloc(1, sizeof(*w));
	w->registry = r;
	w->dir = xstrdup(dir);
	w->seen = true;
	uv_fs_event_init(r->loop, &w->event);
	w->event.data = w;
	if (uv_fs_event_start(&w->event, on_watch_event, dir, 0) < 0)
		log_warn("cannot watch %s: changes to flows there are seen after a restart", dir);
	list_append(&r->watches, &w->node);
}

/* A daemon's own folder may lie among the flows, as in a folder that holds all of an example; nothing in it is one. */
static bool
is_state_folder(const char *path)
{
	char *pid = xasprintf("%s/daemon.pid", path);
	bool is = access(pid, F_OK) == 0;

	free(pid);
	return is;
}

static bool
registry_walk(struct registry *r, const char *dir, int depth)
{
	DIR *d = opendir(dir);
	struct dirent *ent;
	bool changed = false;

	if (d == NULL || depth > DEPTH_MAX) {
		if (d)
			closedir(d);
		return false;
	}
	registry_watch(r, dir);
	while ((ent = readdir(d)) != NULL) {
		char *path;
		struct stat st;

		if (ent->d_name[0] == '.')
			continue;
		path = xasprintf("%s/%s", dir, ent->d_name);
		if (stat(path, &st) == 0) {
			if (S_ISDIR(st.st_mode))
				changed |= !is_state_folder(path) && registry_walk(r, path, depth + 1);
			else if (S_ISREG(st.st_mode) && is_flow_file(ent->d_name))
				changed |= registry_load(r, path, &st);
		}
		free(path);
	}
	closedir(d);
	return changed;
}

static const char *
entry_id(const struct file *f)
{
	return f->entry.flow ? f->entry.flow->id : "~"; /* files without a flow come last */
}

static int
file_order(const void *a, const void *b)
{
	const struct file *x = *(struct file *const *)a, *y = *(struct file *const *)b;
	int c = strcmp(entry_id(x), entry_id(y));

	return c ? c : strcmp(x->entry.file, y->entry.file);
}

static void
on_folder_closed(uv_handle_t *h)
{
	struct watch *w = h->data;

	free(w->dir);
	free(w);
}

/* Two files with one id: the first by path is in force, the other says so. */
static void
registry_mark_twins(struct registry *r)
{
	for (size_t i = 1; i < r->count; i++) {
		struct file *a = r->files[i - 1], *b = r->files[i];

		if (a->entry.flow == NULL || b->entry.flow == NULL || strcmp(a->entry.flow->id, b->entry.flow->id) != 0)
			continue;
		if (b->entry.diags)
			continue;
		b->entry.diags = xcalloc(1, sizeof(*b->entry.diags));
		diags_add(b->entry.diags, SEVERITY_ERROR, b->entry.file, 1, 1,
			  "flow id \"%s\" is already taken by %s; this file is not in force", b->entry.flow->id, a->entry.file);
	}
}

/* Mark and sweep over files and folders. */
static void
registry_scan(struct registry *r, bool tell)
{
	bool changed;
	size_t kept = 0;

	for (size_t i = 0; i < r->count; i++)
		r->files[i]->seen = false;
	LIST_FOR_EACH (it, &r->watches)
		LIST_ENTRY(it, struct watch, node)->seen = false;
	changed = registry_walk(r, r->dir, 0);
	for (size_t i = 0; i < r->count; i++) {
		if (r->files[i]->seen) {
			r->files[kept++] = r->files[i];
			continue;
		}
		log_info("%s is gone", r->files[i]->entry.file);
		file_free(r->files[i]);
		changed = true;
	}
	r->count = kept;
	LIST_FOR_EACH (it, &r->watches) {
		struct watch *w = LIST_ENTRY(it, struct watch, node);

		if (!w->seen) {
			list_remove(&w->node);
			uv_close((uv_handle_t *)&w->event, on_folder_closed);
		}
	}
	if (r->count > 1)
		qsort(r->files, r->count, sizeof(*r->files), file_order);
	registry_mark_twins(r);
	if (changed && tell)
		r->cb(r->arg);
}

struct registry *
registry_open(uv_loop_t *loop, const char *dir, const struct config *config, registry_changed_cb cb, void *arg, struct err *e)
{
	struct registry *r;
	struct stat st;

	if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode)) {
		err_set(e, ERR_NOT_FOUND, "the flows folder %s is not there: %s", dir, strerror(errno ? errno : ENOTDIR));
		return NULL;
	}
	r = xcalloc(1, sizeof(*r));
	r->loop = loop;
	r->dir = xstrdup(dir);
	r->config = config;
	r->cb = cb;
	r->arg = arg;
	list_init(&r->watches);
	uv_timer_init(loop, &r->settle);
	r->settle.data = r;
	registry_scan(r, false);
	return r;
}

static void
on_registry_closed(uv_handle_t *h)
{
	struct registry *r = h->data;

	free(r->dir);
	free(r);
}

void
registry_close(struct registry *r)
{
	LIST_FOR_EACH (it, &r->watches) {
		list_remove(it);
		uv_close((uv_handle_t *)&LIST_ENTRY(it, struct watch, node)->event, on_folder_closed);
	}
	for (size_t i = 0; i < r->count; i++)
		file_free(r->files[i]);
	free(r->files);
	uv_close((uv_handle_t *)&r->settle, on_registry_closed);
}

struct flow *
registry_flow(struct registry *r, const char *id)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->files[i]->entry.flow && strcmp(r->files[i]->entry.flow->id, id) == 0)
			return r->files[i]->entry.flow;
	return NULL;
}

size_t
registry_count(const struct registry *r)
{
	return r->count;
}

const struct registry_entry *
registry_entry_at(const struct registry *r, size_t i)
{
	return &r->files[i]->entry;
}
