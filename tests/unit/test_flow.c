/*
 * Loading flows: what a good flow becomes, and the exact words for every bad one. With SLUICE_UPDATE set, the schema's golden
 * file is written instead of compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "flows/flow.h"

static struct config *config;

/* Loads a text as f.yaml; the problems as printed go to `out`. */
static struct flow *
load(const char *text, size_t len, struct buf *out)
{
	struct diags d = DIAGS_INIT;
	struct flow *f = flow_load("f.yaml", text, len, config, &d);

	diags_print(&d, out);
	assert_int_equal(f == NULL, d.errors > 0);
	diags_release(&d);
	return f;
}

static struct flow *
load_good(const char *text)
{
	struct buf out = BUF_INIT;
	struct flow *f = load(text, strlen(text), &out);

	assert_string_equal(out.s, "");
	buf_release(&out);
	return f;
}

static void
expect(const char *text, const char *problems)
{
	struct buf out = BUF_INIT;
	struct flow *f = load(text, strlen(text), &out);

	assert_string_equal(out.s, problems);
	assert_null(f);
	buf_release(&out);
}

/* One command task, for texts about everything else. */
#define TASKS "tasks:\n  - {id: a, type: command, command: \"true\"}\n"

static const char employees[] = "id: employees_pipeline\n"
				"description: Active employees, counted by department\n"
				"params:\n"
				"  status: {type: string, default: active}\n"
				"schedule: {cron: \"0 6 * * *\", timezone: Europe/Madrid, catchup: last}\n"
				"defaults:\n"
				"  engine: duckdb\n"
				"  retry: {max_attempts: 3, interval: 10s, backoff: exponential, max_interval: 5m}\n"
				"tasks:\n"
				"  - id: stage\n"
				"    type: stage\n"
				"    source: {format: csv, path: \"${config.paths.raw_employees}\"}\n"
				"    select: [id, name, department, status]\n"
				"    where: status = '${params.status}'\n"
				"    target: {path: \"${config.paths.stage_root}/employees_active/run=${run.id}/part.parquet\"}\n"
				"  - id: publish\n"
				"    type: publish\n"
				"    depends_on: [stage]\n"
				"    from: ${tasks.stage.outputs.path}\n"
				"    into: ${config.tables.stg_active_employees}\n"
				"    mode: replace\n"
				"  - id: curate\n"
				"    type: curate\n"
				"    depends_on: [publish]\n"
				"    into: ${config.tables.cur_employee_counts}\n"
				"    mode: overwrite\n"
				"    sql: |\n"
				"      SELECT department, count(*) AS cnt\n"
				"      FROM ${config.tables.stg_active_employees} GROUP BY department\n"
				"  - id: validate\n"
				"    type: validate\n"
				"    depends_on: [curate]\n"
				"    retry: {max_attempts: 1}\n"
				"    table: ${config.tables.cur_employee_counts}\n"
				"    checks:\n"
				"      - row_count: {min: 1}\n"
				"      - unique: department\n"
				"      - sql: SELECT count(*) > 0 FROM this\n"
				"        severity: warn\n"
				"      - same_rows: {count_of: \"${tasks.stage.outputs.path}\", as: SELECT sum(cnt) FROM this}\n";

static void
test_employees(void **state)
{
	struct flow *f = load_good(employees);
	const struct task_def *t;
	char *spec;

	(void)state;
	assert_string_equal(f->id, "employees_pipeline");
	assert_string_equal(f->namespace_, "default");
	assert_int_equal(strlen(f->hash), 64);
	assert_int_equal(f->ntasks, 4);
	assert_int_equal(f->max_active_runs, 1);
	assert_int_equal(f->nschedules, 1);
	assert_string_equal(f->schedules[0].timezone, "Europe/Madrid");
	assert_int_equal(f->schedules[0].catchup, CATCHUP_LAST);
	t = &f->tasks[1];
	assert_int_equal(t->type, TASK_PUBLISH);
	assert_string_equal(t->engine, "duckdb");
	assert_int_equal(t->ndeps, 1);
	assert_int_equal(t->deps[0], 0);
	assert_int_equal(t->retry.max_attempts, 3);
	assert_int_equal(t->retry.interval, 10 * US_PER_S);
	assert_int_equal(t->retry.max_interval, 5 * US_PER_MIN);
	assert_int_equal(t->retry.backoff, BACKOFF_EXPONENTIAL);
	assert_int_equal(t->stop_grace, 10 * US_PER_S);
	spec = json_dumps(t->spec, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(spec, "{\"create\":true,\"from\":{\"path\":\"${tasks.stage.outputs.path}\"},\"into\":\"${config."
				  "tables.stg_active_employees}\","
				  "\"mode\":\"replace\",\"schema_evolution\":\"none\"}");
	free(spec);
	/* A block scalar's text begins in the next line; the task's own retry wins key by key. */
	spec = json_dumps(json_object_get(f->tasks[2].pos, "sql"), JSON_COMPACT);
	assert_string_equal(spec, "[28,7]");
	free(spec);
	assert_int_equal(f->tasks[3].retry.max_attempts, 1);
	assert_int_equal(f->tasks[3].retry.interval, 10 * US_PER_S);
	spec = json_dumps(json_object_get(f->tasks[3].spec, "checks"), JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(
		spec,
		"[{\"row_count\":{\"min\":1},\"severity\":\"error\"},{\"severity\":\"error\",\"unique\":[\"department\"]},"
		"{\"severity\":\"warn\",\"sql\":\"SELECT count(*) > 0 FROM this\"},{\"same_rows\":{\"as\":\"SELECT sum(cnt) "
		"FROM this\",\"count_of\":\"${tasks.stage.outputs.path}\"},\"severity\":\"error\"}]");
	free(spec);
	spec = json_dumps(json_object_get(f->tasks[3].pos, "checks/2/sql"), JSON_COMPACT);
	assert_string_equal(spec, "[38,14]");
	free(spec);
	flow_unref(f);
}

static void
test_all_problems_at_once(void **state)
{
	(void)state;
	expect("id: Orders\n"
	       "shedule: \"0 6 * * *\"\n"
	       "timeout: soon\n"
	       "enabled: yes\n"
	       "tasks:\n"
	       "  - id: publish\n"
	       "    type: publish\n"
	       "    depend_on: [stge]\n"
	       "    from: a.parquet\n"
	       "    into: orders\n"
	       "    mode: apend\n"
	       "  - id: load\n"
	       "    type: cmd\n"
	       "  - id: last\n"
	       "    type: command\n",
	       "f.yaml:1:5: error: \"id\" of the flow must be a name of a-z, 0-9, _ and - that begins with a letter and has at "
	       "most 63 "
	       "characters, not \"Orders\"\n"
	       "f.yaml:2:1: error: unknown key \"shedule\" in the flow; did you mean \"schedule\"?\n"
	       "f.yaml:3:10: error: \"timeout\" of the flow must be a duration such as 30s, 10m or 1h30m, not \"soon\"\n"
	       "f.yaml:4:10: error: \"enabled\" of the flow must be true or false, not \"yes\"\n"
	       "f.yaml:8:5: error: unknown key \"depend_on\" in task \"publish\"; did you mean \"depends_on\"?\n"
	       "f.yaml:10:11: error: \"into\" of task \"publish\" must be a table, namespace.table, not \"orders\"\n"
	       "f.yaml:11:11: error: unknown mode \"apend\" in task \"publish\"; did you mean \"append\"?\n"
	       "f.yaml:13:11: error: unknown task type \"cmd\" in task \"load\"; did you mean \"command\"?\n"
	       "f.yaml:14:5: error: task \"last\" needs the key \"command\"\n");
}

static void
test_later(void **state)
{
	(void)state;
	expect("id: a\npriority: 3\ntriggers: []\nschedule: {every: 5m}\nconcurrency: {overlap: fail}\n"
	       "tasks:\n"
	       "  - {id: a, type: notify, tables: [x]}\n"
	       "  - {id: b, type: publish, from: x, into: a.b, mode: merge, branch: run, engine: pyiceberg}\n"
	       "  - {id: c, type: command, command: x, for_each: [1], depends_on: [{task: a, state: done}]}\n",
	       "f.yaml:2:1: error: \"priority\" in the flow is not supported yet\n"
	       "f.yaml:3:1: error: \"triggers\" in the flow is not supported yet\n"
	       "f.yaml:4:12: error: \"every\" in \"schedule\" of the flow is not supported yet\n"
	       "f.yaml:5:24: error: overlap \"fail\" in \"concurrency\" of the flow is not supported yet; supported: queue, "
	       "skip, allow\n"
	       "f.yaml:7:19: error: task type \"notify\" in task \"a\" is not supported yet; supported: stage, publish, "
	       "curate, validate, maintain, export, command, python\n"
	       "f.yaml:8:54: error: mode \"merge\" in task \"b\" is not supported yet; supported: append, replace, "
	       "overwrite, overwrite_partitions, upsert, add_files, register\n"
	       "f.yaml:8:61: error: \"branch\" in task \"b\" is not supported yet\n"
	       "f.yaml:8:82: error: engine \"pyiceberg\" in task \"b\" is not supported yet; supported: duckdb, polars, spark, "
	       "spark_sql\n"
	       "f.yaml:9:40: error: \"for_each\" in task \"c\" is not supported yet\n"
	       "f.yaml:9:68: error: a map in \"depends_on\" of task \"c\" is not supported yet; give the task's id\n");
}

/* Loads a flow of one maintain task with these keys. */
static struct flow *
load_maintain(const char *keys, struct buf *out)
{
	struct buf text = BUF_INIT;
	struct flow *f;

	buf_addf(&text, "id: a\nparams: {age: {type: duration, default: 2d}, days: 7}\ntasks:\n  - {id: m, type: maintain, %s}\n",
		 keys);
	f = load(text.s, text.len, out);
	buf_release(&text);
	return f;
}

static void
maintain_is(const char *keys, const char *spec)
{
	struct buf out = BUF_INIT;
	struct flow *f = load_maintain(keys, &out);
	char *text;

	assert_string_equal(out.s, "");
	text = json_dumps(f->tasks[0].spec, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(text, spec);
	free(text);
	flow_unref(f);
	buf_release(&out);
}

static void
maintain_says(const char *keys, const char *problems)
{
	struct buf out = BUF_INIT;

	flow_unref(load_maintain(keys, &out));
	assert_string_equal(out.s, problems);
	buf_release(&out);
}

static void
test_maintain(void **state)
{
	(void)state;
	/* What is not named is not there: naming one operation means it alone. */
	maintain_is("tables: stg.*", "{\"dry_run\":false,\"tables\":[\"stg.*\"],\"wait_for_writers\":300000000}");
	maintain_is("tables: ['*'], compact: false, expire_snapshots: {}, remove_orphan_files: true, wait_for_writers: 0",
		    "{\"compact\":{\"enabled\":false,\"min_input_files\":5,\"strategy\":\"binpack\"},\"dry_run\":false,"
		    "\"expire_snapshots\":{\"enabled\":true},\"remove_orphan_files\":{\"dry_run\":false,\"enabled\":true},"
		    "\"tables\":[\"*\"],\"wait_for_writers\":0}");
	maintain_is(
		"tables: [a.b, local.a.c], compact: {strategy: sort, sort_by: day desc, max_bytes: 10GB}, when_health_below: 80,"
		" expire_snapshots: {older_than: 2d, keep: {daily: 7}}, rewrite_manifests: auto",
		"{\"compact\":{\"enabled\":true,\"max_bytes\":10737418240,\"min_input_files\":5,\"sort_by\":[\"day desc\"],"
		"\"strategy\":\"sort\"},\"dry_run\":false,\"expire_snapshots\":{\"enabled\":true,\"keep\":{\"daily\":7},"
		"\"older_than\":172800000000},\"rewrite_manifests\":\"auto\",\"tables\":[\"a.b\",\"local.a.c\"],"
		"\"wait_for_writers\":300000000,\"when_health_below\":80}");
	maintain_says("tables: []", "f.yaml:4:37: error: \"tables\" of task \"m\" names none; \"*\" is all tables\n");
	maintain_says(
		"tables: [stg.*, orders]",
		"f.yaml:4:45: error: \"tables\" of task \"m\" must name tables, namespace.table, or globs such as stg.*, not "
		"\"orders\"\n");
	maintain_says("tables: a.b, when_health_below: 101, rewrite_manifests: true, max_concurrent_tables: 2",
		      "f.yaml:4:61: error: \"when_health_below\" of task \"m\" must be from 0 to 100, and is 101\n"
		      "f.yaml:4:85: error: unknown rewrite_manifests \"true\" in task \"m\"; rewrite_manifests is one of: auto, "
		      "always, "
		      "never\n"
		      "f.yaml:4:91: error: \"max_concurrent_tables\" in task \"m\" is not supported yet\n");
	maintain_says("tables: a.b, compact: {min_input_files: 1, sort_by: a}, expire_snapshots: {keep_last: 0}",
		      "f.yaml:4:69: error: \"compact.min_input_files\" of task \"m\" must be at least 2, and is 1\n"
		      "f.yaml:4:81: error: \"compact.sort_by\" of task \"m\" goes with strategy: sort\n"
		      "f.yaml:4:115: error: \"expire_snapshots.keep_last\" of task \"m\" must be at least 1, and is 0\n");
	maintain_says("tables: a.b, remove_orphan_files: {older_than: 1h}",
		      "f.yaml:4:76: warning: \"remove_orphan_files.older_than\" of task \"m\" is under 24h: what another engine "
		      "is writing "
		      "meanwhile looks like an orphan and may lose files\n");
	maintain_says("tables: a.b, remove_orphan_files: {older_than: 1h, dry_run: true}", "");
}

/* A duration that the loader normalised stays; one that a ref gives needs its unit. */
static void
test_maintain_resolved(void **state)
{
	struct buf out = BUF_INIT;
	struct flow *f = load_maintain("tables: a.b, expire_snapshots: {older_than: \"${params.age}\"}", &out);
	json_t *spec = json_deep_copy(f->tasks[0].spec), *expire = json_object_get(spec, "expire_snapshots");
	struct err e = ERR_INIT;

	(void)state;
	json_object_set_new(expire, "older_than", json_string("2d"));
	json_object_set_new(spec, "tables", json_pack("[[s,s]]", "a.b", "c.*")); /* a ref to a list */
	assert_int_equal(flow_spec_resolved(&f->tasks[0], &spec, &e), 0);
	expire = json_object_get(spec, "expire_snapshots");
	assert_int_equal(json_integer_value(json_object_get(expire, "older_than")), 2 * US_PER_DAY);
	assert_int_equal(json_integer_value(json_object_get(spec, "wait_for_writers")), 5 * US_PER_MIN);
	assert_string_equal(json_string_value(json_array_get(json_object_get(spec, "tables"), 1)), "c.*");
	json_object_set_new(expire, "older_than", json_integer(7));
	assert_int_equal(flow_spec_resolved(&f->tasks[0], &spec, &e), ERR_UNPROCESSABLE);
	assert_string_equal(
		e.msg, "\"expire_snapshots.older_than\" of task \"m\" must be a duration such as 30s, 10m or 1h30m, not \"7\"");
	err_release(&e);
	json_decref(spec);
	flow_unref(f);
	buf_release(&out);
}

static void
test_graph(void **state)
{
	(void)state;
	expect("id: a\ntasks:\n"
	       "  - {id: one, type: command, command: x, depends_on: [three]}\n"
	       "  - {id: two, type: command, command: x, depends_on: one}\n"
	       "  - {id: three, type: command, command: x, depends_on: [two]}\n"
	       "  - {id: four, type: command, command: x, depends_on: [three]}\n",
	       "f.yaml:3:55: error: the tasks depend on each other in a circle (each on the next): one -> three -> two -> one\n");
	expect("id: a\ntasks:\n"
	       "  - {id: stage, type: command, command: x, depends_on: [stage]}\n"
	       "  - {id: stage, type: command, command: x, depends_on: [stgae, stage, stage]}\n",
	       "f.yaml:3:57: error: task \"stage\" depends on itself\n"
	       "f.yaml:4:10: error: duplicate task id \"stage\"; the first one is in line 3\n"
	       "f.yaml:4:57: error: task \"stage\" depends on unknown task \"stgae\"; did you mean \"stage\"?\n"
	       "f.yaml:4:71: error: task \"stage\" names \"stage\" twice in depends_on\n");
}

static void
test_order(void **state)
{
	struct flow *f = load_good("id: a\ntasks:\n"
				   "  - {id: last, type: command, command: x, depends_on: [left, right]}\n"
				   "  - {id: left, type: command, command: x, depends_on: [first]}\n"
				   "  - {id: right, type: command, command: x, depends_on: [first]}\n"
				   "  - {id: first, type: command, command: x}\n");

	(void)state;
	assert_int_equal(f->topo[0], 3);
	assert_int_equal(f->topo[1], 1);
	assert_int_equal(f->topo[2], 2);
	assert_int_equal(f->topo[3], 0);
	flow_unref(f);
}

static void
test_refs(void **state)
{
	(void)state;
	expect("id: a\n"
	       "params: {day: {type: date}}\n"
	       "vars: {root: /data}\n"
	       "secrets: [token]\n"
	       "tasks:\n"
	       "  - {id: stage, type: command, command: x, outputs: {path: string}}\n"
	       "  - {id: other, type: command, command: x}\n"
	       "  - id: last\n"
	       "    type: command\n"
	       "    depends_on: [stage]\n"
	       "    command:\n"
	       "      - ${param.day}\n"
	       "      - ${params.dya}\n"
	       "      - ${tasks.stge.outputs.path}\n"
	       "      - ${tasks.stage.outputs.paths}\n"
	       "      - ${tasks.other.state}\n"
	       "      - ${secrets.tokn}\n"
	       "      - ${vars.rot}\n"
	       "      - ${run.idd}\n"
	       "      - ${config.tables.stg_active_employes}\n"
	       "      - ${env.SLUICE_TEST_NOT_THERE}\n"
	       "      - ${env.SLUICE_TEST_NOT_THERE | default(x)}\n"
	       "      - ${params.day | dat}\n"
	       "      - ${params.day\n"
	       "      - $${params.nothing}\n"
	       "      - ${config.catalog.password}\n"
	       "      - |\n"
	       "        first line\n"
	       "        and ${item.x}\n",
	       "f.yaml:12:9: error: ${param.day}: unknown scope \"param\"; did you mean \"params\"?\n"
	       "f.yaml:13:9: error: ${params.dya}: unknown param \"dya\"; did you mean \"day\"?\n"
	       "f.yaml:14:9: error: ${tasks.stge.outputs.path}: no task \"stge\"; did you mean \"stage\"?\n"
	       "f.yaml:15:9: error: ${tasks.stage.outputs.paths}: task \"stage\" (command) has no output \"paths\"; did you mean "
	       "\"path\"?\n"
	       "f.yaml:16:9: error: ${tasks.other.state}: task \"last\" does not run after \"other\"; add \"other\" to its "
	       "depends_on\n"
	       "f.yaml:17:9: error: ${secrets.tokn}: the flow does not list the secret \"tokn\"; add it: secrets: [tokn]\n"
	       "f.yaml:18:9: error: ${vars.rot}: vars has no \"rot\"; did you mean \"root\"?\n"
	       "f.yaml:19:9: error: ${run.idd}: unknown part of run \"idd\"; did you mean \"id\"?\n"
	       "f.yaml:20:9: error: ${config.tables.stg_active_employes}: config.tables has no \"stg_active_employes\"; did you "
	       "mean "
	       "\"stg_active_employees\"?\n"
	       "f.yaml:21:9: error: ${env.SLUICE_TEST_NOT_THERE}: the environment variable \"SLUICE_TEST_NOT_THERE\" is not set; "
	       "set it, put "
	       "it in .env, or add \"| default(…)\"\n"
	       "f.yaml:23:9: error: ${params.day | dat}: unknown filter \"dat\"; did you mean \"date\"?\n"
	       "f.yaml:24:9: error: \"${\" is not closed by \"}\"; write \"$${\" for the characters themselves\n"
	       "f.yaml:26:9: error: ${config.catalog.password}: a flow cannot read this, since it holds credentials; use "
	       "secrets\n"
	       "f.yaml:29:13: error: ${item.x}: for_each and its item are not supported yet\n");
}

static void
test_outputs_by_type(void **state)
{
	(void)state;
	expect("id: a\ntasks:\n"
	       "  - {id: s, type: stage, source: {format: csv, path: x.csv}, target: {path: /x.parquet}}\n"
	       "  - {id: p, type: publish, depends_on: s, from: \"${tasks.s.outputs.pth}\", into: a.b}\n"
	       "  - {id: c, type: command, depends_on: p, command: \"echo ${tasks.p.outputs.snapshot}\"}\n",
	       "f.yaml:4:50: error: ${tasks.s.outputs.pth}: task \"s\" (stage) has no output \"pth\"; did you mean \"path\"?\n"
	       "f.yaml:5:58: error: ${tasks.p.outputs.snapshot}: task \"p\" (publish) has no output \"snapshot\"; did you mean "
	       "\"snapshot_id\"?\n");
}

static void
test_when(void **state)
{
	(void)state;
	expect("id: a\nparams: {full: false}\nsecrets: [s]\ntasks:\n"
	       "  - {id: a, type: command, command: x, when: \"${params.full} = true\"}\n"
	       "  - {id: b, type: command, command: x, when: \"full == true\"}\n"
	       "  - {id: c, type: command, command: x, when: \"${params.ful} == true\"}\n"
	       "  - {id: d, type: command, command: x, when: \"${secrets.s} == 'x'\"}\n"
	       "  - {id: e, type: command, command: x, when: \"(${params.full}\"}\n",
	       "f.yaml:5:47: error: when: \"=\" is not an operator (write \"==\") at character 16 of \"${params.full} = true\"\n"
	       "f.yaml:6:47: error: when: not understood (a text needs quotes, a name is ${scope.name}): at character 1 of "
	       "\"full == true\"\n"
	       "f.yaml:7:47: error: ${params.ful}: unknown param \"ful\"; did you mean \"full\"?\n"
	       "f.yaml:8:47: error: ${secrets.s}: a secret cannot be used here\n"
	       "f.yaml:9:47: error: when: \")\" is missing at character 16 of \"(${params.full}\"\n");
}

static void
test_yaml(void **state)
{
	(void)state;
	expect("id: a\nid: b\n" TASKS, "f.yaml:2:1: error: duplicate key \"id\"; it is already in line 1\n");
	expect("id: a\ntasks:\n\t- id: a\n", "f.yaml:3:1: error: a tab is used where YAML wants spaces; indent with spaces\n");
	expect("id: a\ntasks:\n  - {id: a, type: command, command: ${params.x}}\n",
	       "f.yaml:3:38: error: a ${…} inside { } or [ ] must be quoted: \"${…}\"\n");
	expect("id: a\ndescription: this: that\n",
	       "f.yaml:2:18: error: a \":\" is not allowed here; check the indentation, or quote the text\n");
	expect("id: a\ndescription: @x\n", "f.yaml:2:14: error: a text cannot begin with \"@\" unless it is quoted\n");
	expect("id: a\n---\nid: b\n", "f.yaml:2:1: error: a second document begins here; a file holds one\n");
	expect("- a\n", "f.yaml:1:1: error: the flow must be a map, and is a list\n");
	expect("", "f.yaml:1:1: error: the flow needs the key \"id\"\nf.yaml:1:1: error: the flow needs the key \"tasks\"\n");
	expect("id: a\ntasks: []\n", "f.yaml:2:8: error: a flow needs at least one task\n");
	expect("id: a\nenv: {A: &x 1, B: *x}\n" TASKS, "f.yaml:2:10: error: anchors (&) and aliases (*) are not allowed, since a "
						       "few lines of them can stand for billions of values; use "
						       "\"defaults\" or \"vars\" for what repeats, or quote the text\n");
	expect("id: a\ndescription: !!python/object:os.system x\n" TASKS,
	       "f.yaml:2:14: error: tags (!) are not allowed; quote the text if it begins with \"!\"\n");
	expect("id: a\ndescription: \"\xff\"\n",
	       "f.yaml:2:15: error: the file is not text in UTF-8: invalid leading UTF-8 octet\n");
	expect("id: a\ntasks:\n  - id: s\n    type: stage\n    source: {format: csv, path: /x}\n    target: {path: /y}\n"
	       "    schema: {amount: decimal(18,2), id: int}\n",
	       "f.yaml:7:33: error: \"2)\" looks like the rest of a text that was cut at its comma; inside { } and [ ] quote a "
	       "text that has "
	       "one, as in \"decimal(18,2)\"\n");
}

/* The billion laughs. */
static void
test_bomb(void **state)
{
	struct buf b = BUF_INIT;

	(void)state;
	buf_adds(&b, "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
	for (int i = 1; i < 10; i++)
		buf_addf(&b, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i, i - 1, i - 1, i - 1,
			 i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
	expect(b.s, "f.yaml:1:5: error: anchors (&) and aliases (*) are not allowed, since a few lines of them can stand for "
		    "billions of values; "
		    "use \"defaults\" or \"vars\" for what repeats, or quote the text\n");
	buf_clear(&b);
	for (int i = 0; i < 100; i++)
		buf_addc(&b, '[');
	expect(b.s, "f.yaml:1:66: error: nested too deeply: more than 64 levels\n");
	buf_release(&b);
}

static void
test_large(void **state)
{
	struct buf b = BUF_INIT, out = BUF_INIT;
	struct diags d = DIAGS_INIT;
	char path[] = "/tmp/test_flow.XXXXXX";
	int fd = mkstemp(path);
	struct flow *f;

	(void)state;
	assert_true(fd >= 0);
	/* Just under the limit: a flow with 9 MB of description loads. */
	buf_adds(&b, "id: a\n" TASKS "description: ");
	while (b.len < 9 * 1024 * 1024)
		buf_adds(&b, "0123456789abcdefghijklmnopqrstuvwxyz");
	f = load_good(b.s);
	assert_int_equal(f->ntasks, 1);
	flow_unref(f);
	while (b.len <= 10 * 1024 * 1024)
		buf_adds(&b, "0123456789abcdefghijklmnopqrstuvwxyz");
	f = load(b.s, b.len, &out);
	assert_null(f);
	assert_string_equal(out.s, "f.yaml: error: the file has 10.0 MB; 10 MB is the most that is read\n");
	assert_int_equal(write(fd, b.s, b.len), b.len);
	close(fd);
	assert_null(flow_load_file(path, config, &d));
	assert_string_equal(d.items[0].message, "the file is larger than 10 MB, the most that is read");
	unlink(path);
	assert_null(flow_load_file("/nonexistent/x.yaml", config, &d));
	assert_string_equal(d.items[1].message, "cannot read the file: No such file or directory");
	/* Many small values: refused for their number, and quickly. */
	buf_clear(&b);
	buf_clear(&out);
	buf_adds(&b, "id: a\ntasks: [");
	while (b.len < 2 * 1024 * 1024)
		buf_adds(&b, "1,");
	assert_null(load(b.s, b.len, &out));
	assert_string_equal(out.s,
			    "f.yaml:2:400003: error: too much for one file: more than 200000 values; keep data in data files\n");
	diags_release(&d);
	buf_release(&b);
	buf_release(&out);
}

static void
test_schedules(void **state)
{
	struct flow *f =
		load_good("id: a\nparams: {n: 1}\nschedule:\n  - \"@daily\"\n  - {cron: \"30 2 * * mon\", timezone: "
			  "Europe/Paris, start: 2026-07-01, "
			  "dst: {gap: skip, repeat: both}, catchup: all, catchup_window: 2d, params: {n: \"5\"}}\n" TASKS);

	(void)state;
	assert_int_equal(f->nschedules, 2);
	assert_string_equal(f->schedules[0].timezone, "UTC");
	assert_int_equal(f->schedules[0].catchup_window, US_PER_DAY);
	assert_int_equal(f->schedules[1].gap, GAP_SKIP);
	assert_int_equal(f->schedules[1].repeat, REPEAT_BOTH);
	assert_int_equal(f->schedules[1].start,
			 (int64_t)1782856800 * US_PER_S); /* midnight in Paris is 22:00 UTC of the day before */
	flow_unref(f);
	expect("id: a\nparams: {n: 1}\nschedule:\n  - {cron: \"0 6 * * *\", timezone: Europe/Madird}\n  - {cron: \"0 6 * * *\", "
	       "start: soon}\n"
	       "  - {cron: \"0 6 * * *\", params: {m: 1}}\n  - {timezone: UTC}\n" TASKS,
	       "f.yaml:4:35: error: unknown timezone \"Europe/Madird\"; give an IANA name such as Europe/Madrid\n"
	       "f.yaml:5:32: error: \"start\" of the schedule must be a date or time such as 2026-11-21 or 2026-11-21T06:00:00Z, "
	       "not \"soon\"\n"
	       "f.yaml:6:33: error: the params of schedule \"0 6 * * *\": flow \"a\": unknown param \"m\"; params are: n\n"
	       "f.yaml:7:5: error: \"schedule[3]\" of the flow needs the key \"cron\"\n");
}

static void
test_params(void **state)
{
	struct flow *f = load_good("id: a\nparams:\n"
				   "  day: {type: date, required: true}\n"
				   "  n: {type: int, default: 5, min: 1, max: 10}\n"
				   "  full: false\n"
				   "  mode: {enum: [fast, slow], default: fast}\n"
				   "  code: {pattern: \"[A-Z]{2}[0-9]+\", default: AB1}\n"
				   "  free:\n" TASKS);
	struct err e = ERR_INIT;
	json_t *given = json_pack("{s:s, s:s, s:s}", "day", "2026-02-28", "n", "7", "full", "true"), *out;
	char *dump;

	(void)state;
	assert_int_equal(flow_params(f, given, &out, &e), 0);
	dump = json_dumps(out, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(dump,
			    "{\"code\":\"AB1\",\"day\":\"2026-02-28\",\"free\":null,\"full\":true,\"mode\":\"fast\",\"n\":7}");
	free(dump);
	json_decref(out);
	json_decref(given);
	given = json_pack("{s:s, s:i, s:s, s:s, s:s}", "n", "many", "ful", 1, "mode", "quick", "code", "x", "full", "yes");
	assert_int_equal(flow_params(f, given, &out, &e), ERR_UNPROCESSABLE);
	assert_string_equal(
		e.msg,
		"flow \"a\": unknown param \"ful\"; did you mean \"full\"?; param \"day\" is required; param \"n\" must be a "
		"whole number; param \"full\" must be true or false; param \"mode\" must be one of [\"fast\", \"slow\"]; "
		"param \"code\" must match the pattern [A-Z]{2}[0-9]+");
	json_decref(given);
	given = json_pack("{s:s, s:i}", "day", "2026-02-28", "n", 11);
	assert_int_equal(flow_params(f, given, &out, &e), ERR_UNPROCESSABLE);
	assert_string_equal(e.msg, "flow \"a\": param \"n\" must be at most 10");
	json_decref(given);
	err_release(&e);
	flow_unref(f);
	expect("id: a\nparams:\n  n: {type: int, default: many}\n  m: {type: integer}\n  p: {pattern: \"(\"}\n  f: {type: "
	       "file}\n" TASKS,
	       "f.yaml:3:27: error: the default of param \"n\" must be a whole number\n"
	       "f.yaml:4:13: error: unknown type \"integer\" in \"params.m\" of the flow; did you mean \"int\"?\n"
	       "f.yaml:5:6: error: \"pattern\" of param \"p\" is not a regular expression: Unmatched ( or \\(\n"
	       "f.yaml:6:13: error: type \"file\" in \"params.f\" of the flow is not supported yet; supported: string, int, "
	       "float, bool, date, "
	       "datetime, duration, size, enum, list, object\n");
}

static void
test_states_of_tables(void **state)
{
	(void)state;
	expect("id: a\ntasks:\n  - {id: a, type: stage, source: {format: csv, table: b.t}, target: {path: x}}\n"
	       "  - {id: b, type: stage, source: {format: iceberg, path: x}, target: {path: x}}\n"
	       "  - {id: c, type: stage, source: {format: csv, path: x, at: v1}, target: {path: x}}\n"
	       "  - {id: d, type: validate, sql: SELECT 1, at: v1, checks: [{unique: a}]}\n"
	       "  - {id: e, type: stage, source: {format: iceberg, table: b.t, at: 2026-11-21}, target: {path: x}}\n",
	       "f.yaml:3:43: error: \"source\" of task \"a\": format: csv needs path\n"
	       "f.yaml:3:55: error: \"source\" of task \"a\": \"table\" does not go with format: csv\n"
	       "f.yaml:4:43: error: \"source\" of task \"b\": format: iceberg needs table\n"
	       "f.yaml:4:58: error: \"source\" of task \"b\": \"path\" does not go with format: iceberg\n"
	       "f.yaml:5:61: error: \"source\" of task \"c\": \"at\" does not go with format: csv\n"
	       "f.yaml:6:48: error: \"at\" of task \"d\" goes with \"table\"; in SQL it is as_of('namespace.table', 'state')\n");
}

static void
test_characters(void **state)
{
	(void)state;
	expect("id: a\ntasks:\n  - {id: a, type: stage, source: {format: csv, path: x, delimiter: '||', quote: \"'\"}, target: "
	       "{path: x}}\n"
	       "  - {id: b, type: stage, source: {format: csv, path: x, delimiter: '|', quote: 'ü'}, target: {path: x}}\n"
	       "  - {id: c, type: stage, source: {format: csv, path: x, delimiter: '', quote: ''}, target: {path: x}}\n",
	       "f.yaml:3:68: error: \"source.delimiter\" of task \"a\" must be one character of ASCII, not \"||\"\n"
	       "f.yaml:4:80: error: \"source.quote\" of task \"b\" must be one character of ASCII, not \"ü\"\n"
	       "f.yaml:5:68: error: \"source.delimiter\" of task \"c\" must be one character of ASCII, not \"\"\n");
}

static void
test_keys_of_other_types(void **state)
{
	(void)state;
	expect("id: a\ntasks:\n  - {id: a, type: command, command: x, sql: SELECT 1, engine: duckdb}\n"
	       "  - {id: b, type: curate, into: a.b, sql: SELECT 1, sql_file: /nonexistent/x.sql}\n"
	       "  - {id: c, type: validate, checks: [{not_null: a, unique: a}]}\n"
	       "  - {id: d, type: command, command: x, retry: {max_attempts: 0}, depends_on: \"${params.x}\"}\n",
	       "f.yaml:3:40: error: unknown key \"sql\" in task \"a\"; it belongs to tasks of type stage, curate and validate, "
	       "and this one is of type command\n"
	       "f.yaml:3:55: error: unknown key \"engine\" in task \"a\"; it belongs to tasks of type stage, publish, "
	       "curate, validate, maintain and export, and this one is of type command\n"
	       "f.yaml:4:5: error: task \"b\" needs exactly one of these keys: sql sql_file\n"
	       "f.yaml:4:63: error: cannot read the file \"/nonexistent/x.sql\" of task \"b\": No such file or directory\n"
	       "f.yaml:5:5: error: task \"c\" needs exactly one of these keys: table sql\n"
	       "f.yaml:5:38: error: \"checks[0]\" of task \"c\" needs exactly one of these keys: row_count not_null unique "
	       "accepted_values range "
	       "schema sql same_rows\n"
	       "f.yaml:6:62: error: \"retry.max_attempts\" of task \"d\" must be from 1 to 1000, and is 0\n"
	       "f.yaml:6:79: error: \"depends_on\" of task \"d\" cannot use refs: it is read before the run begins\n");
}

/* Where a publish task's rows are: bare, a list, or an object with a format. */
static void
test_from(void **state)
{
	struct flow *f = load_good(
		"id: a\ntasks:\n"
		"  - {id: a, type: publish, into: a.b, from: [x/*.parquet, /y]}\n"
		"  - {id: b, type: publish, into: a.b, from: {path: x, format: delta, version: 0, cast: {c: int}}}\n"
		"  - {id: c, type: stage, source: {format: delta, path: x, timestamp: 2026-01-01}, target: {path: y}}\n");

	(void)state;
	assert_int_equal(json_array_size(json_object_get(json_object_get(f->tasks[0].spec, "from"), "path")), 2);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(f->tasks[1].spec, "from"), "version")), 0);
	flow_unref(f);
	expect("id: a\ntasks:\n"
	       "  - {id: a, type: publish, into: a.b, from: {format: delta}}\n"
	       "  - {id: b, type: publish, into: a.b, from: {path: x, format: detla}}\n"
	       "  - {id: c, type: publish, into: a.b, from: {path: x, version: 1, cast: {c: int}}}\n"
	       "  - {id: d, type: publish, into: a.b, from: {path: x, format: parquet, timestamp: now}}\n"
	       "  - {id: e, type: stage, source: {format: csv, path: x, version: 1}, target: {path: y}}\n"
	       "  - {id: f, type: publish, into: a.b, from: x, parity: all}\n"
	       "  - {id: g, type: publish, into: a.b, from: {path: x, format: delta, version: 1, timestamp: now}}\n",
	       "f.yaml:3:45: error: \"from\" of task \"a\" needs the key \"path\"\n"
	       "f.yaml:4:63: error: unknown format \"detla\" in \"from\" of task \"b\"; did you mean \"delta\"?\n"
	       "f.yaml:5:64: error: \"from.version\" of task \"c\" goes with format: delta\n"
	       "f.yaml:5:73: error: \"from.cast\" of task \"c\" goes with \"from.format\"\n"
	       "f.yaml:6:83: error: \"from.timestamp\" of task \"d\" goes with format: delta\n"
	       "f.yaml:7:66: error: \"source.version\" of task \"e\" goes with format: delta\n"
	       "f.yaml:8:56: error: unknown parity \"all\" in task \"f\"; did you mean \"full\"?\n"
	       "f.yaml:9:93: error: \"from\" of task \"g\": \"version\" and \"timestamp\" each name a version; leave one out\n");
}

/* A ref can bring a value of any type: the second check sees what it became. */
static void
test_resolved_spec(void **state)
{
	struct flow *f =
		load_good("id: a\nparams: {mode: append, size: 64MB, create: true, files: []}\ntasks:\n"
			  "  - id: p\n    type: publish\n    from: ${params.files}\n    into: a.b\n    mode: ${params.mode}\n"
			  "    target_file_size: ${params.size}\n    create: ${params.create}\n"
			  "    engine_options: {memory_limit: 4GB, threads: 2}\n");
	json_t *spec = json_pack("{s:[s], s:s, s:s, s:s, s:s}", "from", "/x", "into", "a.b", "mode", "append", "target_file_size",
				 "64MB", "create", "true");
	struct err e = ERR_INIT;
	char *dump;

	(void)state;
	assert_int_equal(flow_spec_resolved(&f->tasks[0], &spec, &e), 0);
	dump = json_dumps(spec, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(dump, "{\"create\":true,\"from\":{\"path\":[\"/"
				  "x\"]},\"into\":\"a.b\",\"mode\":\"append\",\"target_file_size\":67108864}");
	free(dump);
	/* Checking what is checked changes nothing. */
	assert_int_equal(flow_spec_resolved(&f->tasks[0], &spec, &e), 0);
	json_decref(spec);
	spec = json_pack("{s:s, s:s}", "mode", "apend", "target_file_size", "big");
	assert_int_equal(flow_spec_resolved(&f->tasks[0], &spec, &e), ERR_UNPROCESSABLE);
	assert_string_equal(
		e.msg,
		"unknown mode \"apend\" in task \"p\"; did you mean \"append\"?; \"target_file_size\" of task \"p\" must be a "
		"size such as 128MB or 4GB, not \"big\"");
	json_decref(spec);
	err_release(&e);
	dump = json_dumps(f->tasks[0].engine_options, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(dump, "{\"memory_limit\":\"4294967296B\",\"threads\":2}");
	free(dump);
	flow_unref(f);
	/* Every spec of a whole flow passes as it is, its refs being texts. */
	f = load_good(employees);
	for (size_t i = 0; i < f->ntasks; i++) {
		spec = json_deep_copy(f->tasks[i].spec);
		assert_int_equal(flow_spec_resolved(&f->tasks[i], &spec, &e), 0);
		assert_true(json_equal(spec, f->tasks[i].spec));
		json_decref(spec);
	}
	flow_unref(f);
}

static void
test_engine_override(void **state)
{
	struct flow *f = load_good(employees);
	struct err e = ERR_INIT;
	json_t *j = json_string("duckdb");

	(void)state;
	assert_int_equal(flow_check_engine(f, j, &e), 0);
	json_decref(j);
	j = json_string("pyiceberg");
	assert_int_equal(flow_check_engine(f, j, &e), ERR_UNSUPPORTED);
	assert_string_equal(e.msg, "engine \"pyiceberg\" is not supported yet; supported: duckdb, polars, spark, spark_sql");
	json_decref(j);
	j = json_string("polars");
	assert_int_equal(flow_check_engine(f, j, &e), 0);
	json_decref(j);
	j = json_pack("{s:s}", "curat", "duckdb");
	assert_int_equal(flow_check_engine(f, j, &e), ERR_UNPROCESSABLE);
	assert_string_equal(e.msg, "engine for unknown task \"curat\"; did you mean \"curate\"?");
	json_decref(j);
	j = json_pack("{s:s}", "curate", "duckbd");
	assert_int_equal(flow_check_engine(f, j, &e), ERR_UNPROCESSABLE);
	assert_string_equal(e.msg, "unknown engine \"duckbd\"; did you mean \"duckdb\"?");
	json_decref(j);
	err_release(&e);
	flow_unref(f);
}

/* What an engine cannot do is told when the flow is loaded, at the key that it cannot do. */
static void
test_engine_fits(void **state)
{
	struct flow *f;
	struct err e = ERR_INIT;
	json_t *j;

	(void)state;
	expect("id: a\ndefaults:\n  engine: polars\ntasks:\n"
	       "  - {id: m, type: maintain, tables: x.y}\n"
	       "  - {id: s, type: stage, source: {format: sqlite, path: d, table: t}, target: {path: t.parquet}}\n"
	       "  - {id: p, type: publish, from: x.parquet, into: a.b, mode: add_files}\n"
	       "  - {id: q, type: publish, from: {path: x, format: parquet}, into: a.b}\n"
	       "  - {id: c, type: curate, sql: SELECT 1 AS a, into: a.b, format_version: 3}\n"
	       "  - {id: v, type: validate, table: a.b, checks: [{row_count: {min: 1}}], engine_options: {memory_limit: 1GB}}\n"
	       "  - {id: good, type: publish, from: x.parquet, into: a.b, mode: \"${vars.mode}\", partition_by: [a]}\n"
	       "vars: {mode: upsert}\n",
	       "f.yaml:3:11: error: engine \"polars\" does not do tasks of type maintain, as \"m\" is; these can: duckdb, spark, "
	       "spark_sql\n"
	       "f.yaml:6:43: error: engine \"polars\" does not do `source.format: sqlite` of task \"s\"; these can: duckdb\n"
	       "f.yaml:7:62: error: engine \"polars\" does not do `mode: add_files` of task \"p\"; these can: duckdb\n"
	       "f.yaml:8:52: error: engine \"polars\" does not do `from.format: parquet` of task \"q\"; these can: duckdb\n"
	       "f.yaml:9:74: error: engine \"polars\" does not do `format_version` of task \"c\"; these can: duckdb\n"
	       "f.yaml:10:105: error: engine \"polars\" does not do `engine_options.memory_limit` of task \"v\"; these can: "
	       "duckdb, spark, spark_sql\n");
	f = load_good("id: a\ntasks:\n  - {id: p, type: publish, from: x.parquet, into: a.b, mode: register}\n"
		      "  - {id: c, type: command, command: x}\n");
	j = json_string("polars");
	assert_int_equal(flow_check_engine(f, j, &e), ERR_UNPROCESSABLE);
	assert_string_equal(e.msg, "engine \"polars\" does not do `mode: register` of task \"p\"; these can: duckdb");
	json_decref(j);
	err_release(&e);
	flow_unref(f);
}

static void
test_units(void **state)
{
	dur_us d;
	int64_t n;
	char hex[SHA256_HEX];

	(void)state;
	assert_int_equal(duration_parse("1h30m", &d), 0);
	assert_int_equal(d, 90 * US_PER_MIN);
	assert_int_equal(duration_parse("250ms", &d), 0);
	assert_int_equal(d, 250000);
	assert_int_equal(duration_parse("1w", &d), 0);
	assert_int_equal(duration_parse("10", &d), -1);
	assert_int_equal(duration_parse("", &d), -1);
	assert_int_equal(duration_parse("1y", &d), -1);
	assert_int_equal(duration_parse("99999999999999999w", &d), -1);
	assert_int_equal(size_parse("128MB", &n), 0);
	assert_int_equal(n, 134217728);
	assert_int_equal(size_parse("134217728", &n), 0);
	assert_int_equal(n, 134217728);
	assert_int_equal(size_parse("9999999999TB", &n), -1);
	assert_int_equal(size_parse("MB", &n), -1);
	sha256_hex("abc", 3, hex);
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	sha256_hex("", 0, hex);
	assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
	assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

/* Only true and false are booleans; NO is Norway, 06:00 a text. */
static void
test_norway(void **state)
{
	struct flow *f = load_good("id: a\nlabels: {country: NO, at: 06:00, v: 1.10, oct: 010}\nenv: {ON: on}\n" TASKS);
	char *dump = json_dumps(f->labels, JSON_COMPACT | JSON_SORT_KEYS);

	(void)state;
	assert_string_equal(dump, "{\"at\":\"06:00\",\"country\":\"NO\",\"oct\":\"010\",\"v\":\"1.10\"}");
	free(dump);
	assert_string_equal(json_string_value(json_object_get(f->tasks[0].env, "ON")), "on");
	flow_unref(f);
}

/* flows/flow.schema.json is the schema, word for word. */
static void
test_schema_golden(void **state)
{
	const char *root = getenv("SLUICE_SOURCE") ? getenv("SLUICE_SOURCE") : ".";
	char *path = xasprintf("%s/flows/flow.schema.json", root), *dump;
	json_t *schema = flow_schema();
	struct buf file = BUF_INIT;

	(void)state;
	dump = json_dumps(schema, JSON_INDENT(2));
	json_decref(schema);
	if (getenv("SLUICE_UPDATE")) {
		FILE *out = fopen(path, "w");

		assert_non_null(out);
		fprintf(out, "%s\n", dump);
		fclose(out);
	}
	assert_int_equal(buf_add_file(&file, path), 0);
	if (file.len > 0)
		file.s[file.len - 1] = '\0';
	if (strcmp(file.s, dump) != 0)
		fail_msg("flows/flow.schema.json is stale: run this test with SLUICE_UPDATE=1, then tools/gen-reference");
	buf_release(&file);
	free(dump);
	free(path);
}

static int
setup(void **state)
{
	static const char *const env[] = { "SLUICE_TABLES_STG_ACTIVE_EMPLOYEES=local.stg.active_employees",
					   "SLUICE_TABLES_CUR_EMPLOYEE_COUNTS=cur.employee_counts",
					   "SLUICE_PATHS_RAW_EMPLOYEES=/data/*.csv",
					   "SLUICE_PATHS_STAGE_ROOT=/data/staging",
					   "SLUICE_CATALOG_PASSWORD=p",
					   NULL };
	struct diags d = DIAGS_INIT;

	(void)state;
	config = config_load(NULL, (char *const *)env, &d);
	diags_release(&d);
	return config ? 0 : -1;
}

static int
teardown(void **state)
{
	(void)state;
	config_free(config);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_employees),
		cmocka_unit_test(test_all_problems_at_once),
		cmocka_unit_test(test_later),
		cmocka_unit_test(test_maintain),
		cmocka_unit_test(test_maintain_resolved),
		cmocka_unit_test(test_graph),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_refs),
		cmocka_unit_test(test_outputs_by_type),
		cmocka_unit_test(test_when),
		cmocka_unit_test(test_yaml),
		cmocka_unit_test(test_bomb),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_schedules),
		cmocka_unit_test(test_params),
		cmocka_unit_test(test_characters),
		cmocka_unit_test(test_keys_of_other_types),
		cmocka_unit_test(test_states_of_tables),
		cmocka_unit_test(test_engine_override),
		cmocka_unit_test(test_engine_fits),
		cmocka_unit_test(test_units),
		cmocka_unit_test(test_norway),
		cmocka_unit_test(test_from),
		cmocka_unit_test(test_resolved_spec),
		cmocka_unit_test(test_schema_golden),
	};

	return cmocka_run_group_tests_name("flow", tests, setup, teardown);
}
