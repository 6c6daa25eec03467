/* One table: who else is at it, and how a commit to it is made. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "tasks/iceberg/reach.h"
#include "tasks/iceberg/rest.h"
#include "tasks/iceberg/write_int.h"
#include "tasks/maintain/maintain.h"

#define POLL       (250 * US_PER_MS)
#define MIN_FORMAT 2

void
step_state(json_t *out, const char *state, const char *why, ...)
{
	va_list ap;
	char *text;

	json_object_set_new(out, "state", json_string(state));
	if (why == NULL)
		return;
	va_start(ap, why);
	text = xvasprintf(why, ap);
	va_end(ap);
	json_object_set_new(out, "why", json_string(text));
	free(text);
}

void
step_number(json_t *out, const char *name, json_int_t value)
{
	json_object_set_new(out, name, json_integer(value));
}

const json_t *
step_option(const struct care *k, const char *step, const char *key)
{
	const json_t *value = json_object_get(json_object_get(k->cx->spec, step), key);

	return json_is_null(value) ? NULL : value;
}

/* ---- who else is at it ---- */

int
care_look(struct care *k, dur_us soon)
{
	json_t *body = json_pack("{s:[s],s:i,s:I}", "tables", k->title, "limit", 1, "soon", (json_int_t)soon), *answer = NULL;
	int status = rest_call(k->cx, "POST", "maintenance", body, &answer), rc = -1;

	json_decref(body);
	if (status == 200) {
		json_decref(k->told);
		k->told = json_incref(json_array_get(json_object_get(answer, "tables"), 0));
		k->oldest_reader = json_integer_value(json_object_get(answer, "oldest_reader"));
		rc = 0;
	} else if (status >= 0) {
		rest_fail(k->cx, "the catalog does not tell what runs beside", status, answer);
	}
	json_decref(answer);
	return rc;
}

int
care_wait(struct care *k, dur_us soon, json_t *out)
{
	mono_us since = clock_mono();
	const char *writer;

	for (;;) {
		if (care_look(k, soon) < 0)
			return -1;
		if (k->told == NULL) {
			step_state(out, "skipped", "the table is not there any more");
			return 0;
		}
		writer = json_string_value(json_object_get(k->told, "writer"));
		if (writer == NULL)
			return 1;
		if (clock_mono() - since >= k->duty->patience) {
			step_state(out, "skipped", "%s", writer);
			return 0;
		}
		nanosleep(&(struct timespec){ .tv_nsec = POLL * 1000 }, NULL);
	}
}

const json_t *
care_metadata(struct care *k)
{
	const char *location = json_string_value(json_object_get(k->told, "location"));

	if (k->md && strcmp(k->md_at, location) == 0)
		return k->md;
	json_decref(k->md);
	free(k->md_at);
	k->md_at = xstrdup(location);
	k->md = reach_read(k->cx, location, NULL);
	if (k->md == NULL || json_is_string(json_object_get(k->md, "location")))
		return k->md;
	task_fail(k->cx, ERR_UNPROCESSABLE, "%s does not say where the table lies", location);
	return NULL;
}

/* ---- commits ---- */

int
care_open(struct care *k, struct writer *wr, struct write *w, json_t *out)
{
	w->name = k->title;
	w->ns = k->ns;
	w->table = k->name;
	writer_begin(wr, k->cx, w);
	if (writer_open(wr) < 0)
		return -1;
	if (wr->loaded == NULL) {
		step_state(out, "skipped", "the table is not there any more");
		return 0;
	}
	if (current_snapshot(wr->meta) == NULL) {
		step_state(out, "nothing", "the table has no rows yet");
		return 0;
	}
	if (writer_format(wr) != MIN_FORMAT) {
		step_state(out, "skipped",
			   writer_format(wr) < MIN_FORMAT
				   ? "the table has format version %d; upgrade it to version 2 first"
				   : "the table has format version %d, where rows keep their ids, which is not supported yet",
			   writer_format(wr));
		return 0;
	}
	writer_take_table(wr);
	return 1;
}

void
care_tell(struct care *k, const char *location)
{
	if (!k->telling)
		iceberg_tell(k->ns, k->name, location);
	k->telling = true;
}

int
care_commit(struct care *k, struct writer *wr, json_t *out)
{
	int status = -1, rc;

	care_tell(k, wr->location);
	for (int try = 0; try < COMMIT_TRIES; try++) {
		writer_unmake_try(wr);
		if (try && writer_reload(wr) < 0)
			return -1;
		status = commit_try(wr);
		if (status == 200) {
			writer_unmake(wr, false);
			wr->sent = false;
			k->changed = true;
			return 1;
		}
		wr->sent = status < 0 && wr->sent; /* refused: it cannot land any more */
		if (status != 409)
			return -1;
		if (!wr->in_use)
			continue;
		wr->in_use = false;
		err_release(&k->cx->err);
		if ((rc = care_wait(k, 0, out)) <= 0)
			return rc;
	}
	err_release(&k->cx->err);
	k->cx->cause = NULL;
	step_state(out, "skipped", "others committed first, each of the %d times that it was tried", COMMIT_TRIES);
	return 0;
}
