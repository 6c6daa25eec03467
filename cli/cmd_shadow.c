/* shadow: how the engines that repeat flows did beside the ones that run them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/follow.h"
#include "cli/term.h"

static long long
number_of(const json_t *item, const char *key)
{
	return (long long)json_integer_value(json_object_get(item, key));
}

/* Adds "7 equal", where there are any. */
static void
add_count(struct buf *b, const json_t *item, const char *key, const char *words)
{
	long long n = number_of(item, key);

	if (n)
		buf_addf(b, "%s%lld %s", b->len ? ", " : "", n, words);
}

static json_t *
figures_row(const json_t *figures, const char *engine, const char *role)
{
	char elapsed[24], most[24], cpu[24], memory[32], rows[32], files[32], failed[64];
	long long ended = number_of(figures, "ended");

	snprintf(failed, sizeof(failed), "%lld of %lld", number_of(figures, "failed"), ended);
	return json_pack("[s,s,s,s,s,s,s,s,s]", engine, role, term_duration(number_of(figures, "elapsed_median_us"), elapsed),
			 term_duration(number_of(figures, "elapsed_p95_us"), most),
			 term_duration(number_of(figures, "cpu_median_us"), cpu),
			 term_bytes(number_of(figures, "memory_median_bytes"), memory),
			 term_number(number_of(figures, "rows"), rows), term_number(number_of(figures, "files"), files), failed);
}

static void
print_reasons(const json_t *item)
{
	json_t *reason;
	size_t i;

	json_array_foreach (json_object_get(item, "reasons"), i, reason)
		printf("  %s%s, %lld x:%s %s\n", term_dim(stdout), text_of(reason, "state"), number_of(reason, "times"),
		       term_off(stdout), text_of(reason, "reason"));
	if (json_object_get(json_object_get(item, "last_different"), "run"))
		printf("  the last that differed: run %s, shadow %s\n", text_of(json_object_get(item, "last_different"), "run"),
		       text_of(json_object_get(item, "last_different"), "shadow"));
}

static void
print_flow(const json_t *item)
{
	static const char *const headers[] = { "ENGINE", "", "MEDIAN", "P95", "CPU", "MEMORY", "ROWS", "FILES", "FAILED" };
	const json_t *real = json_object_get(item, "real"), *shadow = json_object_get(item, "shadow");
	json_t *rows = json_array();
	struct buf counts = BUF_INIT;
	char since[40];

	add_count(&counts, item, "equal", "equal");
	add_count(&counts, item, "different", "different");
	add_count(&counts, item, "failed", "failed on the shadow's engine");
	add_count(&counts, item, "real_failed", "failed on the flow's own");
	add_count(&counts, item, "uncompared", "not compared");
	add_count(&counts, item, "skipped", "skipped");
	add_count(&counts, item, "open", "under way");
	printf("%s%s%s: %lld runs since %s: %s\n", term_bold(stdout), text_of(item, "flow"), term_off(stdout),
	       number_of(item, "runs"), term_when(text_of(item, "since"), since), counts.s);
	if (number_of(shadow, "ended")) {
		json_array_append_new(rows, figures_row(real, text_of(item, "engine"), "runs it"));
		json_array_append_new(rows, figures_row(shadow, text_of(item, "shadow_engine"), "shadow"));
		term_table(stdout, headers, 9, rows, "--rrrrrrr");
	}
	print_reasons(item);
	printf("  %s\n", text_of(item, "advice"));
	json_decref(rows);
	buf_release(&counts);
}

int
cmd_shadow(const struct args *a)
{
	struct buf path = BUF_INIT;
	json_t *answer = NULL, *item;
	struct client *c;
	size_t i;
	int rc;

	if (strcmp(a->operands[0], "report") != 0)
		return refuse("sluice shadow report [FLOW] [--since 14d]", "there is no `shadow %s`", a->operands[0]);
	buf_adds(&path, "/api/v1/shadows?flow=");
	if (a->count > 1)
		add_encoded(&path, a->operands[1]);
	buf_adds(&path, "&since=");
	add_encoded(&path, a->since ? a->since : "14d");
	c = client_open(a);
	rc = client_do(c, "GET", path.s, NULL, &answer);
	if (rc == EXIT_OK && a->json) {
		print_json(answer);
	} else if (rc == EXIT_OK) {
		json_array_foreach (json_object_get(answer, "items"), i, item) {
			if (i)
				putchar('\n');
			print_flow(item);
		}
		if (json_array_size(json_object_get(answer, "items")) == 0)
			puts("no run had a shadow: `shadow: {engine: NAME}` in a flow has its next ones repeated on that engine");
	}
	json_decref(answer);
	client_close(c);
	buf_release(&path);
	return rc;
}
