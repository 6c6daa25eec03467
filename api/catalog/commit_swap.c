/*
 * Moving the pointers of commits that are visible at once, and finding out what came of it when the answer was lost. Swaps that
 * are due while one is under way go together, in one statement and one flush of the disk; each lands or fails by itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/commit_int.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "scheduler/alarm.h"

#define BATCH_MAX    64
#define VERIFY_FOR   (30 * US_PER_S) /* since the answer was lost: a database that restarts needs its time */
#define VERIFY_PAUSE (200 * US_PER_MS)
#define VERIFY_MOST  US_PER_S

static void job_verify(void *arg);

/* ---- was it lost? ---- */

/*
 * The answer was lost, the statement may even run on at the server. Where the pointers are still the old ones it is sent
 * again: only one of the two can find them so, and then this comes back to see which.
 */
static void
on_verified(void *arg, const struct rows *r, struct err *e)
{
	struct job *j = arg;
	size_t landed = 0, untouched = 0;
	dur_us pause;

	for (size_t i = 0; r && i < rows_count(r) && i < j->nparts; i++) {
		const char *have = rows_get(r, i, 0), *before = rows_get(r, i, 1), *old = j->parts[i].old;

		/* Another commit may have come on top of it already. */
		landed += same_text(have, j->parts[i].new) || (before && same_text(before, j->parts[i].new));
		untouched += same_text(have, old);
	}
	if (r && landed == j->nparts) {
		job_succeed(j);
	} else if (j->catalog->closing || clock_mono() - j->lost_at > VERIFY_FOR) {
		job_unknown(j, r ? "it was tried too often" : e->msg);
	} else if (r == NULL) {
		pause = VERIFY_PAUSE * ++j->verified;
		alarm_set(&j->pause, j->catalog->app->loop, pause < VERIFY_MOST ? pause : VERIFY_MOST, job_verify, j);
	} else if (untouched == j->nparts) {
		job_swap(j);
	} else {
		job_unknown(j, "another commit came after it");
	}
}

static void
job_verify(void *arg)
{
	struct job *j = arg;
	char *text = job_parts_text(j);

	store_query(
		j->catalog->app->store,
		"SELECT t.metadata_location, t.previous_metadata_location FROM json_array_elements($2::json) WITH ORDINALITY AS "
		"x(part, i) LEFT JOIN "
		"iceberg_tables t"
		" ON t.catalog_name = $1 AND t.table_namespace = x.part->>'ns' AND t.table_name = x.part->>'name' ORDER BY x.i",
		2, (const char *const[]){ j->catalog->name, text }, on_verified, j);
	free(text);
}

/* `answered`: the statement ran, and `moved` says what came of it; else `e` tells why not. */
static void
job_swapped(struct job *j, bool answered, bool moved, struct err *e)
{
	if (moved) {
		job_succeed(j);
	} else if (j->lost_at || (!answered && e->code == ERR_UNAVAILABLE)) {
		/* This swap, or one before it, may have landed: its files must not be touched. */
		if (j->lost_at == 0)
			j->lost_at = clock_mono();
		if (j->catalog->closing)
			job_unknown(j, "the daemon is stopping");
		else
			job_verify(j);
	} else if (answered || e->code == ERR_CONFLICT) {
		if (!job_stopped(j))
			job_again(j);
	} else {
		job_fail(j, e);
	}
}

/* ---- together ---- */

/* Rows of `commits` for what changes, made once: a swap that is sent again must not be noted as another one. */
static void
job_rows(struct job *j)
{
	if (j->rows)
		return;
	j->rows = json_array();
	for (size_t i = 0; i < j->nparts; i++) {
		struct table_change ch = part_change_of(j, &j->parts[i]);

		if (ch.facts)
			json_array_append_new(j->rows, sched_table_row(j->catalog->app->sched, &ch, j->who, j->keeper));
	}
}

/* Swaps that go in one transaction: one flush of the disk for all. None has a table in common with another. */
struct batch {
	struct catalog *catalog;
	struct job *jobs[BATCH_MAX];
	size_t n;
};

static void swaps_send(struct catalog *c);

static void
on_swapped(void *arg, const struct rows *r, struct err *e)
{
	struct batch *b = arg;

	FAULT("catalog.swap.after");
	b->catalog->swapping = false;
	for (size_t i = 0; i < b->n; i++) {
		struct job *j = b->jobs[i];

		if (r || b->n == 1 || e->code == ERR_UNAVAILABLE) {
			job_swapped(j, r != NULL, r && strcmp(rows_get(r, i, 0), "t") == 0, e);
		} else { /* one of them is to blame, and which is seen when each goes alone */
			j->alone = true;
			list_append(&b->catalog->swaps, &j->swap);
		}
	}
	swaps_send(b->catalog);
	catalog_unref(b->catalog);
	free(b);
}

/* What happens to the tables, the rows of `commits` and what is undone, each with the number of its job. */
static void
batch_texts(const struct batch *b, char *out[3])
{
	json_t *lists[3] = { json_array(), json_array(), json_array() }, *it;
	size_t k;

	for (size_t i = 0; i < b->n; i++) {
		struct job *j = b->jobs[i];

		for (k = 0; k < j->nparts; k++) {
			const struct part *p = &j->parts[k];

			json_array_append_new(lists[0], json_pack("{s:I,s:s,s:s,s:s,s:s?,s:s?}", "j", (json_int_t)i, "type",
								  kind_name(j->view || p->view), "ns", p->ns, "name", p->name,
								  "old", p->old, "new", p->new));
		}
		job_rows(j);
		json_array_foreach (j->rows, k, it)
			json_array_append_new(lists[1], json_pack("{s:I,s:O}", "j", (json_int_t)i, "row", it));
		json_array_foreach (j->undone, k, it)
			json_array_append_new(lists[2], json_pack("{s:I,s:O}", "j", (json_int_t)i, "id", it));
	}
	for (k = 0; k < 3; k++) {
		out[k] = json_dumps(lists[k], JSON_COMPACT);
		json_decref(lists[k]);
	}
}

static void
batch_send(struct batch *b)
{
	char *text[3], count[24];

	batch_texts(b, text);
	snprintf(count, sizeof(count), "%zu", b->n);
	FAULT("catalog.swap.before");
	/*
	 * `held` locks the rows that are still as we know them, in one order for all, so that two transactions cannot wait
	 * for each other; `fit` says of each job whether that is all of its rows. A row that exists against our expectation is
	 * a unique violation, which undoes the whole statement.
	 */
	store_query(
		b->catalog->app->store,
		"WITH part AS (SELECT * FROM json_to_recordset($2::json) AS x(j int, type text, ns text, name text, old text, "
		"new text)), held AS ("
		"SELECT t.table_namespace, t.table_name FROM iceberg_tables t JOIN part p ON t.table_namespace = p.ns AND "
		"t.table_name = p.name WHERE t.catalog_name = $1 AND t.metadata_location = p.old"
		" ORDER BY t.table_namespace, t.table_name FOR UPDATE OF t), fit AS ("
		"SELECT i.j, count(h.table_name) = count(p.old) AS yes FROM generate_series(0, $5::int - 1) AS i(j) LEFT JOIN "
		"part p "
		"USING (j) LEFT JOIN held h ON h.table_namespace = p.ns AND h.table_name = p.name GROUP BY i.j), good AS ("
		"SELECT p.* FROM part p JOIN fit f USING (j) WHERE f.yes), moved AS ("
		"UPDATE iceberg_tables t SET metadata_location = p.new,"
		" previous_metadata_location = CASE WHEN p.new = p.old THEN t.previous_metadata_location ELSE p.old END"
		" FROM good p WHERE t.catalog_name = $1 AND t.table_namespace = p.ns AND t.table_name = p.name"
		" AND t.metadata_location = p.old AND p.new IS NOT NULL RETURNING p.j), gone AS ("
		"DELETE FROM iceberg_tables t USING good p WHERE t.catalog_name = $1 AND t.table_namespace = p.ns"
		" AND t.table_name = p.name AND t.metadata_location = p.old AND p.new IS NULL"
		" RETURNING p.j, t.table_namespace), stay AS (" /* the namespace, when its last table goes */
		"INSERT INTO iceberg_namespace_properties SELECT DISTINCT $1, table_namespace, 'exists', 'true' FROM gone"
		" ON CONFLICT DO NOTHING), made AS ("
		"INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)"
		" SELECT $1, ns, name, new, type FROM good WHERE old IS NULL RETURNING table_namespace, table_name), noted AS ("
		"INSERT INTO commits SELECT r.* FROM jsonb_to_recordset($3::jsonb) AS x(j int, \"row\" jsonb) JOIN fit f ON f.j "
		"= x.j"
		" AND f.yes CROSS JOIN LATERAL jsonb_populate_record(NULL::commits, x.\"row\") r), undone AS ("
		"UPDATE commits SET state = 'undone' WHERE id IN (SELECT x.id FROM jsonb_to_recordset($4::jsonb) AS x(j int, id "
		"bigint)"
		" JOIN fit f ON f.j = x.j AND f.yes))"
		"SELECT f.yes AND (SELECT count(*) FROM moved m WHERE m.j = f.j) + (SELECT count(*) FROM gone g WHERE g.j = f.j)"
		" + (SELECT count(*) FROM made m JOIN part p ON p.ns = m.table_namespace AND p.name = m.table_name WHERE p.j = "
		"f.j)"
		" = (SELECT count(*) FROM part p WHERE p.j = f.j) FROM fit f ORDER BY f.j",
		5, (const char *const[]){ b->catalog->name, text[0], text[1], text[2], count }, on_swapped, b);
	for (size_t i = 0; i < 3; i++)
		free(text[i]);
}

static bool
batch_meets(const struct batch *b, const struct job *j)
{
	for (size_t i = 0; i < b->n; i++)
		if (jobs_meet(b->jobs[i], j))
			return true;
	return false;
}

/* What comes while some are under way makes up the next batch. */
static void
swaps_send(struct catalog *c)
{
	struct batch *b;

	if (c->swapping || list_empty(&c->swaps))
		return;
	b = xcalloc(1, sizeof(*b));
	b->catalog = catalog_ref(c);
	LIST_FOR_EACH (it, &c->swaps) {
		struct job *j = LIST_ENTRY(it, struct job, swap);

		if (b->n == BATCH_MAX || (b->n && (j->alone || b->jobs[0]->alone)) || batch_meets(b, j))
			break;
		list_remove(&j->swap);
		if (!c->closing)
			b->jobs[b->n++] = j;
		else if (j->lost_at) /* it may have landed */
			job_unknown(j, "the daemon is stopping");
		else
			job_stopped(j);
	}
	if (b->n) {
		c->swapping = true;
		batch_send(b);
		return;
	}
	catalog_unref(c);
	free(b);
}

void
job_swap(struct job *j)
{
	list_append(&j->catalog->swaps, &j->swap);
	swaps_send(j->catalog);
}
