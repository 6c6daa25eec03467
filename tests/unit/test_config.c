/* The config file, .env, overrides and secrets. */
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
#include "flows/config.h"
#include "flows/flow.h"
#include "flows/secrets.h"

static char folder[] = "/tmp/test_config.XXXXXX";

static char *
in_folder(const char *name)
{
	return xasprintf("%s/%s", folder, name);
}

static void
write_file(const char *name, const char *text)
{
	char *path = in_folder(name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	free(path);
}

static void
remove_file(const char *name)
{
	char *path = in_folder(name);

	unlink(path);
	free(path);
}

/* Loads TEXT as sluice.yaml; the problems go to `out` with the folder's name taken off. */
static struct config *
load(const char *text, const char *const *env, struct buf *out)
{
	char *path = in_folder("sluice.yaml");
	struct diags d = DIAGS_INIT;
	struct config *c;

	write_file("sluice.yaml", text);
	c = config_load(path, (char *const *)env, &d);
	for (size_t i = 0; i < d.count; i++)
		buf_addf(out, "%s:%d:%d: %s\n", strrchr(d.items[i].file, '/') + 1, d.items[i].line, d.items[i].col,
			 d.items[i].message);
	assert_int_equal(c == NULL, d.errors > 0);
	diags_release(&d);
	free(path);
	return c;
}

static void
expect_error(const char *text, const char *problems)
{
	static const char *const env[] = { NULL };
	struct buf out = BUF_INIT;

	assert_null(load(text, env, &out));
	assert_string_equal(out.s, problems);
	buf_release(&out);
}

/* A config as teams keep it today. */
static const char team[] =
	"env: dev\n"
	"catalog: {name: local, jdbc_uri: \"jdbc:postgresql://127.0.0.1:5432/iceberg_catalog\", user: iceberg_user, password: "
	"iceberg_pass, "
	"warehouse: \"s3a://iceberg-warehouse/\"}\n"
	"s3: {endpoint: \"https://127.0.0.1:9000\", access_key: minioadmin, secret_key: minioadmin, path_style: true}\n"
	"tables: {stg_active_employees: local.stg.active_employees, cur_employee_counts: local.cur.employee_counts}\n"
	"paths: {raw_employees: \"s3://data-raw/employees/*.csv\", stage_root: \"s3://data-staging/intermediate\"}\n"
	"housekeeping: {target_file_size: 134217728, expire_days: 7}\n";

static void
test_team_config(void **state)
{
	static const char *const env[] = { NULL };
	struct buf out = BUF_INIT;
	struct config *c = load(team, env, &out);
	struct diags d = DIAGS_INIT;
	static const char flow[] =
		"id: a\ntasks:\n"
		"  - {id: s, type: stage, source: {format: csv, path: \"${config.paths.raw_employees}\"}, target: {path: /x}}\n"
		"  - {id: p, type: publish, depends_on: s, from: /x, into: \"${config.tables.stg_active_employees}\"}\n"
		"  - {id: t, type: stage, source: {format: csv, path: \"gs://b/x\"}, target: {path: /x}}\n";

	(void)state;
	assert_non_null(c);
	assert_string_equal(config_get(c, "env"), "dev");
	assert_string_equal(config_get(c, "catalog.name"), "local");
	assert_string_equal(config_get(c, "catalog.type"), "jdbc");
	assert_string_equal(config_get(c, "tables.cur_employee_counts"), "local.cur.employee_counts");
	assert_string_equal(config_get(c, "paths.raw_employees"), "s3://data-raw/employees/*.csv");
	assert_null(config_get(c, "s3.region"));
	assert_null(config_get(c, "nothing.there"));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(c->json, "housekeeping"), "target_file_size")),
			 134217728);
	assert_string_equal(out.s, "");
	assert_null(flow_load("f.yaml", flow, strlen(flow), c, &d));
	assert_int_equal(d.count, 1);
	assert_string_equal(
		d.items[0].message,
		"object stores other than S3 are not supported yet, and \"source/path\" of task \"t\" uses gs://b/x; use "
		"s3://BUCKET/… or a local path");
	diags_release(&d);
	buf_release(&out);
	config_free(c);
}

static void
test_defaults(void **state)
{
	static const char *const env[] = { "HOME=/h", NULL };
	struct diags d = DIAGS_INIT;
	struct config *c = config_load(NULL, (char *const *)env, &d);

	(void)state;
	assert_non_null(c);
	assert_int_equal(d.count, 0);
	assert_string_equal(config_get(c, "catalog.type"), "sluice");
	assert_string_equal(config_get(c, "server.listen"), "127.0.0.1:8080");
	assert_string_equal(json_string_value(json_object_get(c->env, "HOME")), "/h");
	config_free(c);
	assert_null(config_load("/nonexistent/sluice.yaml", (char *const *)env, &d));
	assert_string_equal(d.items[0].message, "cannot read the config file: No such file or directory");
	diags_release(&d);
}

/* The process's environment wins over .env, a SLUICE_ variable over the file. */
static void
test_environment(void **state)
{
	static const char *const env[] = { "SLUICE_CATALOG_WAREHOUSE=/wh",
					   "SLUICE_SERVER_MAX_ACTIVE_TASKS=3",
					   "SLUICE_TABLES_ORDERS=a.b",
					   "SLUICE_ENV=prod",
					   "ROOT=/process",
					   NULL };
	struct buf out = BUF_INIT;
	struct config *c;
	char *expected;

	(void)state;
	write_file(".env", "# comment\nROOT=/dotenv\nexport USER_NAME='a b'\n\nQ=\"x\\n\\\"y\" \nPLAIN=one # two\n");
	c = load("env: test\ncatalog: {warehouse: wh}\ntables: {Orders: c.d, orders: e.f}\n"
		 "paths: {root: \"${env.ROOT}/in\", mine: \"data/${env.USER_NAME}\", q: \"/${env.Q}\", p: \"/${env.PLAIN}\", "
		 "d: \"/${env.NONE | default(d)}\"}\n",
		 env, &out);
	assert_string_equal(out.s, "");
	assert_string_equal(config_get(c, "env"), "prod");
	assert_string_equal(config_get(c, "catalog.warehouse"), "/wh");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(c->json, "server"), "max_active_tasks")), 3);
	assert_string_equal(config_get(c, "tables.orders"), "a.b");
	assert_string_equal(config_get(c, "tables.Orders"), "c.d");
	assert_string_equal(config_get(c, "paths.root"), "/process/in");
	expected = in_folder("data/a b");
	assert_string_equal(config_get(c, "paths.mine"), expected);
	assert_string_equal(config_get(c, "paths.q"), "/x\n\"y");
	assert_string_equal(config_get(c, "paths.p"), "/one");
	assert_string_equal(config_get(c, "paths.d"), "/d");
	free(expected);
	config_free(c);
	buf_release(&out);
	write_file(".env", "FINE=1\nnot a line\nOPEN='x\n");
	expect_error("env: test\n", ".env:2:1: a line must be NAME=value\n.env:3:1: the value of OPEN has no closing quote\n");
	remove_file(".env");
}

/* Globs lose the catalog's name and keep their order, by which later ones win. */
static void
test_housekeeping(void **state)
{
	static const char *const env[] = { "SLUICE_HOUSEKEEPING_KEEP_LAST=5", NULL };
	struct buf out = BUF_INIT;
	struct config *c =
		load("catalog: {name: lake}\nhousekeeping:\n  keep: {monthly: 12}\n  tables:\n"
		     "    lake.gold.*: {expire_days: 30, keep: {daily: 7}}\n    bronze.*: {expire_days: 3, orphan_days: 0}\n"
		     "    lake.*: {target_file_size: 1MB}\n",
		     env, &out);
	char *text;

	(void)state;
	assert_string_equal(out.s,
			    "sluice.yaml:0:0: orphan_days of bronze.* is under a day: what another engine is writing meanwhile "
			    "looks like an orphan and may lose files\n");
	text = json_dumps(json_object_get(c->json, "housekeeping"), JSON_COMPACT);
	assert_string_equal(text, "{\"keep\":{\"monthly\":12},\"tables\":{\"gold.*\":{\"expire_days\":30,\"keep\":{\"daily\":7}},"
				  "\"bronze.*\":{\"expire_days\":3,\"orphan_days\":0},\"*\":{\"target_file_size\":1048576}},"
				  "\"keep_last\":5,\"target_file_size\":134217728,\"expire_days\":7,\"orphan_days\":3}");
	free(text);
	buf_release(&out);
	config_free(c);
	expect_error(
		"housekeeping: {tables: {orders: {expire_days: 3}}}\n",
		"sluice.yaml:0:0: \"orders\" in housekeeping.tables is not a table: write namespace.table, or a glob such as "
		"stg.*\n");
	expect_error(
		"housekeeping: {tables: {a.*: {expiry: 3}}, keep: {yearly: 1}}\n",
		"sluice.yaml:1:31: unknown key \"expiry\" in \"housekeeping.tables.a.*\" of the config; known keys are: "
		"target_file_size, expire_days, keep_last, orphan_days, keep\n"
		"sluice.yaml:1:51: unknown key \"yearly\" in \"housekeeping.keep\" of the config; did you mean \"daily\"?\n");
}

/* Who keeps the catalog maintains its tables. */
static void
test_foreign_maintenance(void **state)
{
	static const char *const env[] = { NULL };
	static const char flow[] = "id: a\ntasks:\n  - {id: m, type: maintain, tables: a.b}\n";
	struct buf out = BUF_INIT;
	struct config *c = load("catalog: {type: rest, uri: \"http://lake.example\"}\n", env, &out);
	struct diags d = DIAGS_INIT;

	(void)state;
	assert_string_equal(out.s, "");
	assert_null(flow_load("f.yaml", flow, strlen(flow), c, &d));
	assert_int_equal(d.count, 1);
	assert_string_equal(d.items[0].message,
			    "task \"m\" maintains tables, and the config's catalog is another server's, which is "
			    "the one to maintain them");
	diags_release(&d);
	buf_release(&out);
	config_free(c);
}

static void
test_errors(void **state)
{
	(void)state;
	expect_error("enviroment: dev\ncatalog: {warehose: x, type: nessie}\npaths: {a b: x}\nhousekeeping: {expire_days: many}\n"
		     "s3: {path_style: yes}\nsecrets: {p: {}}\n",
		     "sluice.yaml:1:1: unknown key \"enviroment\" in the config; known keys are: env, catalog, s3, tables, "
		     "paths, housekeeping, "
		     "server, secrets\n"
		     "sluice.yaml:2:11: unknown key \"warehose\" in \"catalog\" of the config; did you mean \"warehouse\"?\n"
		     "sluice.yaml:2:30: unknown type \"nessie\" in \"catalog\" of the config; type is one of: sluice, jdbc, "
		     "rest, hive, glue\n"
		     "sluice.yaml:3:9: \"a b\" in \"paths\" of the config is not a name; names have letters, digits, _ and -, "
		     "and begin with a "
		     "letter\n"
		     "sluice.yaml:4:29: \"housekeeping.expire_days\" of the config must be a whole number, not \"many\"\n"
		     "sluice.yaml:5:18: \"s3.path_style\" of the config must be true or false, not \"yes\"\n"
		     "sluice.yaml:6:14: \"secrets.p\" of the config needs exactly one of these keys: env file\n");
	expect_error("paths: {x: \"${env.NOT_THERE}\"}\n", "sluice.yaml:1:13: ${env.NOT_THERE}: env.NOT_THERE has no value; give "
							   "one with \"| default(…)\" if it may be absent\n");
	expect_error("catalog: {type: rest}\n", "sluice.yaml:0:0: a catalog of type rest needs \"uri\"\n");
	expect_error("catalog: {uri: lake.example, credential: hunter2, token: t}\n",
		     "sluice.yaml:0:0: the uri of a catalog of type rest must begin with http:// or https://, not "
		     "\"lake.example\"\n"
		     "sluice.yaml:0:0: the credential of the catalog must be ID:SECRET\n"
		     "sluice.yaml:0:0: the catalog has both a token and a credential; one of them is enough\n");
	expect_error("- a\n", "sluice.yaml:1:1: the config must be a map, and is a list\n");
}

static void
test_secrets(void **state)
{
	static const char *const env[] = { "DB_PASSWORD=one", "OTHER=two", NULL };
	struct buf out = BUF_INIT;
	struct config *c;
	struct err e = ERR_INIT;
	char *path = in_folder("secrets"), *message;
	json_t *names = json_pack("[s, s, s, s]", "db_password", "api", "key", "plain"), *values = NULL;

	(void)state;
	mkdir(path, 0700);
	write_file("key.txt", "three\n");
	write_file("secrets/plain", "four");
	c = load("secrets: {api: {env: OTHER}, key: {file: key.txt}, gone: {file: gone.txt}, unset: {env: UNSET}}\n", env, &out);
	assert_non_null(c);
	assert_int_equal(secrets_load(c, names, &values, &e), 0);
	assert_string_equal(json_string_value(json_object_get(values, "db_password")), "one");
	assert_string_equal(json_string_value(json_object_get(values, "api")), "two");
	assert_string_equal(json_string_value(json_object_get(values, "key")), "three");
	assert_string_equal(json_string_value(json_object_get(values, "plain")), "four");
	json_decref(values);
	json_decref(names);

	names = json_pack("[s]", "gone");
	assert_int_equal(secrets_load(c, names, &values, &e), ERR_UNPROCESSABLE);
	message = xasprintf("secret \"gone\": cannot read the file %s/gone.txt: No such file or directory", folder);
	assert_string_equal(e.msg, message);
	free(message);
	json_decref(names);
	names = json_pack("[s]", "unset");
	assert_int_equal(secrets_load(c, names, &values, &e), ERR_UNPROCESSABLE);
	assert_string_equal(e.msg, "secret \"unset\": the environment variable UNSET is not set");
	json_decref(names);
	names = json_pack("[s]", "smtp-key");
	assert_int_equal(secrets_load(c, names, &values, &e), ERR_UNPROCESSABLE);
	message = xasprintf("secret \"smtp-key\": the environment variable SMTP_KEY is not set, and the file %s/secrets/smtp-key "
			    "cannot be read; "
			    "set one of them, or say where it is in the config: secrets: {smtp-key: {env: NAME}} or {file: PATH}",
			    folder);
	assert_string_equal(e.msg, message);
	free(message);
	json_decref(names);
	err_release(&e);
	config_free(c);
	buf_release(&out);
	remove_file("secrets/plain");
	remove_file("key.txt");
	rmdir(path);
	free(path);
}

static int
setup(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int
teardown(void **state)
{
	(void)state;
	remove_file("sluice.yaml");
	return rmdir(folder);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_team_config),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_housekeeping),
		cmocka_unit_test(test_foreign_maintenance),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_secrets),
	};

	return cmocka_run_group_tests_name("config", tests, setup, teardown);
}
