/*
 * Follows a run to its end. On a terminal the list of tasks is drawn again and again in place; elsewhere every transition is
 * one line. Both come from the same question, "the run, when it has ended or after this wait".
 */
#include "cli/follow.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "cli/term.h"

#define LOST_WAIT_S 30 /* a daemon that restarts is back by then */

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t pressed;

static void
on_interrupt(int sig)
{
	(void)sig;
	pressed++;
}

void
interrupts_catch(void)
{
	struct sigaction sa = { .sa_handler = on_interrupt };

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

int
interrupts(void)
{
	return pressed;
}

/* ---- the picture ---- */

struct view {
	FILE *f;
	bool live;       /* redrawn in place */
	bool cancelling; /* has been said */
	int drawn;       /* lines above the cursor that are ours */
	json_t *seen;    /* task id -> state and attempt last printed */
};

static bool
run_over(const char *state)
{
	return strcmp(state, "success") == 0 || strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0;
}

static const char *
mark_of(const char *state)
{
	if (strcmp(state, "success") == 0)
		return "✓";
	if (strcmp(state, "running") == 0)
		return "●";
	if (strcmp(state, "retry_wait") == 0)
		return "↻";
	if (strcmp(state, "waiting") == 0 || strcmp(state, "ready") == 0)
		return "○";
	if (strcmp(state, "skipped") == 0 || strcmp(state, "upstream_failed") == 0)
		return "–";
	return "✗";
}

/* Prints at most `room` characters of one line's text (0: all), controls as blanks. */
static void
print_cut(FILE *f, const char *s, int room)
{
	int n = 0;

	for (; *s; s++) {
		bool starts = ((unsigned char)*s & 0xc0) != 0x80;

		if (starts && room && ++n > room - 1 && strlen(s) > 1) {
			fputs("…", f);
			return;
		}
		fputc((unsigned char)*s < ' ' || *s == 127 ? ' ' : *s, f);
	}
}

static int
id_width(const json_t *tasks)
{
	json_t *t;
	size_t i;
	int w = 4;

	json_array_foreach (tasks, i, t)
		if ((int)strlen(text_of(t, "id")) > w)
			w = (int)strlen(text_of(t, "id"));
	return w > 32 ? 32 : w;
}

static void
print_task(struct view *v, const json_t *task, int width, int columns)
{
	const char *state = text_of(task, "state"), *colour = term_state(v->f, state);
	long long us = elapsed_us(json_object_get(task, "started_at"), json_object_get(task, "ended_at"));
	struct buf words = BUF_INIT;
	char took[24];

	task_words(&words, task);
	fprintf(v->f, "  %s%s%s %-*.*s  %s%-15s%s %8s  ", colour, mark_of(state), term_off(v->f), width, width,
		text_of(task, "id"), colour, state, term_off(v->f),
		us < 0 || (!v->live && strcmp(state, "running") == 0) ? "" : term_duration(us, took));
	if (columns == 0 || columns - width - 32 > 8)
		print_cut(v->f, words.s, columns ? columns - width - 32 : 0);
	fputc('\n', v->f);
	buf_release(&words);
}

static int
terminal_rows(FILE *f)
{
	struct winsize ws;

	return ioctl(fileno(f), TIOCGWINSZ, &ws) == 0 && ws.ws_row > 6 ? ws.ws_row : 24;
}

/* Of more tasks than the terminal has lines for, those that are over and well go first. */
static bool
dull(const char *state)
{
	return strcmp(state, "success") == 0 || strcmp(state, "skipped") == 0 || strcmp(state, "waiting") == 0;
}

static void
draw(struct view *v, const json_t *run)
{
	const json_t *tasks = json_object_get(run, "tasks");
	size_t count = json_array_size(tasks), room = (size_t)terminal_rows(v->f) - 3, i, hidden = 0, hide;
	int columns = term_width(v->f), width = id_width(tasks);
	const char *state = text_of(run, "state");
	json_t *task;
	char took[24];

	if (v->drawn)
		fprintf(v->f, "\033[%dF\033[J", v->drawn);
	v->drawn = 1;
	fprintf(v->f, "%s%s%s %s  %s%s%s  %s\n", term_bold(v->f), text_of(run, "flow"), term_off(v->f), text_of(run, "id"),
		term_state(v->f, state), state, term_off(v->f),
		term_duration(elapsed_us(json_object_get(run, "created_at"), json_object_get(run, "ended_at")), took));
	hide = count > room ? count - room + 1 : 0;
	json_array_foreach (tasks, i, task) {
		if (hidden < hide && dull(text_of(task, "state"))) {
			hidden++;
			continue;
		}
		if ((size_t)v->drawn > room)
			continue;
		print_task(v, task, width, columns);
		v->drawn++;
	}
	if (hidden) {
		fprintf(v->f, "  %sand %zu more that succeeded, were skipped or wait%s\n", term_dim(v->f), hidden,
			term_off(v->f));
		v->drawn++;
	}
	fflush(v->f);
}

/* One line for every task whose state or attempt is another than before; the waiting ones say nothing. */
static void
print_transitions(struct view *v, const json_t *run)
{
	json_t *task;
	size_t i;

	json_array_foreach (json_object_get(run, "tasks"), i, task) {
		const char *id = text_of(task, "id"), *state = text_of(task, "state"),
			   *before = json_string_value(json_object_get(v->seen, id));
		size_t n = json_array_size(json_object_get(task, "attempts"));
		char *now = xasprintf("%s %zu", state, n);

		if (strcmp(state, "waiting") != 0 && strcmp(state, "ready") != 0 &&
		    (before == NULL || strcmp(before, now) != 0)) {
			print_task(v, task, id_width(json_object_get(run, "tasks")), 0);
			json_object_set_new(v->seen, id, json_string(now));
		}
		free(now);
	}
	fflush(v->f);
}

static void
print_end(struct view *v, const json_t *run)
{
	const char *state = text_of(run, "state"), *error = json_string_value(json_object_get(run, "error"));
	char took[24];

	fprintf(v->f, "run %s of %s: %s%s%s in %s%s%s\n", text_of(run, "id"), text_of(run, "flow"), term_state(v->f, state),
		state, term_off(v->f),
		term_duration(elapsed_us(json_object_get(run, "created_at"), json_object_get(run, "ended_at")), took),
		error ? ": " : "", error ? error : "");
}

/* ---- the watch ---- */

static void
pause_ms(long ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&t, NULL); /* a Ctrl-C ends it early, as it should */
}

/* The daemon does not answer any more. True when one does again. */
static bool
daemon_back(const struct follow *f, struct view *v)
{
	v->drawn = 0;
	if (f->lost)
		return f->lost(f->arg);
	fprintf(stderr, "the daemon does not answer; waiting %d s for it to come back\n", LOST_WAIT_S);
	for (int i = 0; i < LOST_WAIT_S * 2 && pressed < 2; i++) {
		if (client_alive(f->client)) {
			fputs("the daemon is back\n", stderr);
			return true;
		}
		pause_ms(500);
	}
	fputs("it did not; the run itself goes on, or will when a daemon is started again\n", stderr);
	return false;
}

/* False when the daemon cannot take it now. */
static bool
cancel(const struct follow *f, const char *id, struct view *v)
{
	char *path = xasprintf("/api/v1/runs/%s/cancel", id);
	int status;

	if (!v->cancelling)
		fprintf(stderr, "\ncancelling; Ctrl-C again leaves without waiting for the end\n");
	v->cancelling = true;
	v->drawn = 0;
	status = client_call(f->client, "POST", path, NULL, NULL);
	free(path);
	return status != 0 && status != 503;
}

static void
show(struct view *v, const struct follow *f, const json_t *run)
{
	if (f->quiet)
		return;
	if (v->live)
		draw(v, run);
	else
		print_transitions(v, run);
}

int
follow_run(const struct follow *f, const char *id, json_t **last)
{
	struct view v = { .f = stderr, .live = !f->quiet && term_colours(stderr) && term_width(stderr), .seen = json_object() };
	char *path = xasprintf("/api/v1/runs/%s?wait=%s", id, v.live ? "200ms" : f->quiet ? "1s" : "500ms");
	int rc = EXIT_REFUSED;
	bool cancelled = false; /* a Ctrl-C between the trigger and here is meant for this run, too */
	json_t *run = NULL;

	interrupts_catch();
	client_silent(f->client, true);
	while (pressed < 2) {
		int status;

		if (pressed && !cancelled)
			cancelled = cancel(f, id, &v);
		json_decref(run);
		status = client_call(f->client, "GET", path, NULL, &run);
		if (status == 0 || status == 503) {
			if (daemon_back(f, &v))
				continue;
			break;
		}
		if (status != 200) {
			client_refuse(status, run);
			break;
		}
		show(&v, f, run);
		if (run_over(text_of(run, "state"))) {
			rc = strcmp(text_of(run, "state"), "success") == 0 ? EXIT_OK : EXIT_FAILED;
			print_failures(stderr, f->client, run);
			if (!f->quiet)
				print_end(&v, run);
			break;
		}
	}
	if (rc == EXIT_REFUSED && pressed >= 2) {
		if (cancelled || cancel(f, id, &v))
			fprintf(stderr, "left; the run goes on being cancelled: sluice show %s\n", id);
		else
			fprintf(stderr, "left; the daemon could not be told: sluice cancel %s\n", id);
	}
	client_silent(f->client, false);
	if (last && rc != EXIT_REFUSED)
		*last = run;
	else
		json_decref(run);
	json_decref(v.seen);
	free(path);
	return rc == EXIT_REFUSED && pressed >= 2 ? EXIT_FAILED : rc;
}
