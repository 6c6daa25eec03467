/*
 * Numbers of tables for /metrics. They come from manifests, which a scrape must not wait for: it gets what the last survey found,
 * and begins the next when that is too old. Labels are bounded: the largest tables have their own, the others share one.
 */
#include <stdlib.h>
#include <string.h>

#include "api/catalog/browse.h"
#include "base/alloc.h"
#include "base/log.h"

#define FRESH      (60 * US_PER_S)
#define OWN_LABELS 200

struct gauges {
	struct catalog *catalog;
	mono_us begun; /* the last survey; 0: none */
	bool busy;
	wall_us at; /* when the survey that we have was made; 0: there is none */
	json_t *result;
	json_int_t total;
};

static const struct {
	const char *key, *name, *help;
} gauges_of_table[] = {
	{ "bytes", "sluice_table_bytes", "Bytes of the current data files." },
	{ "files", "sluice_table_files", "Current data files." },
	{ "small_files", "sluice_table_small_files", "Data files that compaction would put together." },
	{ "delete_files", "sluice_table_delete_files", "Current delete files." },
	{ "snapshots", "sluice_table_snapshots", "Snapshots in the metadata." },
	{ "metadata_bytes", "sluice_table_metadata_bytes", "Bytes of the current metadata file." },
	{ "score", "sluice_table_health_score", "How healthy the table is, from 0 to 100." },
};

static void
on_surveyed(void *arg, json_t *result, json_int_t total, const char *next, struct err *e)
{
	struct gauges *g = arg;

	(void)next;
	if (g->catalog->closing)
		return;
	g->busy = false;
	if (result == NULL) {
		if (e->code != ERR_UNAVAILABLE) /* that passes, and is said elsewhere */
			log_warn("metrics: the tables cannot be looked at: %s", e->msg);
		return;
	}
	json_decref(g->result);
	g->result = json_incref(result);
	g->total = total;
	g->at = clock_wall();
}

static void
gauges_refresh(struct gauges *g)
{
	struct app *app = g->catalog->app;

	if (g->busy || (g->begun && clock_mono() - g->begun < FRESH) || config_foreign(app->config) || !sched_ready(app->sched))
		return;
	g->busy = true;
	g->begun = clock_mono();
	health_survey(app, NULL, NULL, HEALTH_LIMIT, OWN_LABELS, on_surveyed, g);
}

/* `name{table="…"} value`. */
static void
add_sample(struct buf *b, const char *name, const char *table, const json_t *value)
{
	buf_addf(b, "%s{table=\"", name);
	for (const char *p = table; *p; p++) {
		if (strchr("\\\"\n", *p))
			buf_addc(b, '\\');
		buf_addc(b, *p == '\n' ? 'n' : *p);
	}
	buf_addf(b, "\"} %lld\n", (long long)json_integer_value(value));
}

static void
add_gauge(struct buf *b, const char *name, const char *help, json_int_t value)
{
	buf_addf(b, "# HELP %s %s\n# TYPE %s gauge\n%s %lld\n", name, help, name, name, (long long)value);
}

void
catalog_metrics(struct catalog *c, struct buf *b)
{
	struct gauges *g = c->gauges;
	const json_t *tables = json_object_get(g->result, "tables"), *others = json_object_get(g->result, "others");
	size_t own = json_array_size(tables), i;
	json_int_t unreadable = json_integer_value(json_object_get(g->result, "unreadable"));
	json_t *table;

	gauges_refresh(g);
	if (g->at == 0)
		return;
	add_gauge(b, "sluice_tables", "Tables in the catalog.", g->total);
	add_gauge(b, "sluice_tables_surveyed", "Tables that the numbers of tables cover, by name the first ones.",
		  g->total < HEALTH_LIMIT ? g->total : HEALTH_LIMIT);
	add_gauge(b, "sluice_tables_unreadable", "Tables whose metadata cannot be read.", unreadable);
	add_gauge(b, "sluice_tables_time_seconds", "When the tables were looked at.", g->at / US_PER_S);
	for (size_t k = 0; k < sizeof(gauges_of_table) / sizeof(gauges_of_table[0]); k++) {
		const char *name = gauges_of_table[k].name, *key = gauges_of_table[k].key;
		const json_t *rest = json_object_get(others, key);

		buf_addf(b, "# HELP %s %s\n# TYPE %s gauge\n", name, gauges_of_table[k].help, name);
		json_array_foreach ((json_t *)tables, i, table)
			add_sample(b, name, json_string_value(json_object_get(table, "table")), json_object_get(table, key));
		if (rest && g->total > (json_int_t)own + unreadable)
			add_sample(b, name, "(others)", rest);
	}
}

struct gauges *
gauges_new(struct catalog *c)
{
	struct gauges *g = xcalloc(1, sizeof(*g));

	g->catalog = c;
	return g;
}

void
gauges_free(struct gauges *g)
{
	json_decref(g->result);
	free(g);
}
