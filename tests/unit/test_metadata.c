/* Table metadata: creation, every update, every requirement, and what must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/catalog/metadata.h"

#define UUID "11111111-2222-4333-8444-555555555555"
#define NOW  1700000000000

static const struct metadata_input in = { .now_ms = NOW, .uuid = UUID, .location = "file:///w/ns/t" };

static json_t *
parse(const char *text)
{
	json_error_t e;
	json_t *j = json_loads(text, JSON_DECODE_ANY, &e);

	if (j == NULL)
		fail_msg("not JSON: %s in %s", e.text, text);
	return j;
}

/* Single quotes instead of double ones, so that tests can be read. */
static json_t *
q(const char *text)
{
	char copy[8192];

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	return parse(copy);
}

static void
assert_same(json_t *have, const char *want)
{
	json_t *w = q(want);

	if (!json_equal(have, w))
		fail_msg("have %s, want %s", have ? json_dumps(have, JSON_COMPACT | JSON_ENCODE_ANY) : "nothing", want);
	json_decref(w);
}

static json_t *
create(const char *request)
{
	struct err e = ERR_INIT;
	json_t *r = q(request), *md = metadata_create(r, &in, &e);

	if (md == NULL)
		fail_msg("refused: %s", e.msg);
	json_decref(r);
	return md;
}

static json_t *
table(void)
{
	return create(
		"{'name':'t','schema':{'type':'struct','fields':[{'id':1,'name':'id','type':'long','required':true},"
		"{'id':2,'name':'day','type':'date','required':false}]},"
		"'partition-spec':{'fields':[{'source-id':2,'transform':'month','name':'day_month'}]},'properties':{'a':'1'}}");
}

/* Takes `md` over, returns the one after. */
static json_t *
apply(json_t *md, const char *updates)
{
	struct err e = ERR_INIT;
	json_t *u = q(updates), *next = metadata_apply(md, "old.json", u, &in, &e);

	if (next == NULL)
		fail_msg("refused: %s", e.msg);
	json_decref(u);
	json_decref(md);
	return next;
}

static void
refuse(json_t *md, const char *updates, int code, const char *words)
{
	struct err e = ERR_INIT;
	json_t *u = q(updates), *before = json_deep_copy(md), *next = metadata_apply(md, "old.json", u, &in, &e);

	if (next)
		fail_msg("accepted: %s", updates);
	assert_int_equal(e.code, code);
	if (strstr(e.msg, words) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
	assert_true(json_equal(md, before) || md == NULL);
	err_release(&e);
	json_decref(u);
	json_decref(before);
}

static json_t *
at(const json_t *j, const char *path)
{
	char copy[256], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *k = strtok_r(copy, "/", &save); k; k = strtok_r(NULL, "/", &save))
		j = json_is_array(j) ? json_array_get(j, (size_t)atoi(k)) : json_object_get(j, k);
	return (json_t *)(uintptr_t)j;
}

#define SNAPSHOT(id, parent, seq, ms)                                                                                            \
	"{'action':'add-snapshot','snapshot':{'snapshot-id':" id parent ",'sequence-number':" seq ",'timestamp-ms':" ms          \
	",'manifest-list':'m','summary':{'operation':'append'},'schema-id':0}}"
#define MAIN(id) "{'action':'set-snapshot-ref','ref-name':'main','type':'branch','snapshot-id':" id "}"
#define BIG      "9007199254740993" /* 2^53 + 1: no double holds it */

static json_t *
with_snapshot(void)
{
	return apply(table(), "[" SNAPSHOT(BIG, "", "1", "1700000000500") "," MAIN(BIG) "]");
}

/* ---- creation ---- */

static void
test_create(void **state)
{
	json_t *md = table();

	(void)state;
	assert_int_equal(metadata_int(md, "format-version", 0), 2);
	assert_int_equal(metadata_int(md, "last-column-id", 0), 2);
	assert_int_equal(metadata_int(md, "last-partition-id", 0), 1000);
	assert_int_equal(metadata_int(md, "last-updated-ms", 0), NOW);
	assert_int_equal(metadata_int(md, "last-sequence-number", -1), 0);
	assert_string_equal(json_string_value(at(md, "table-uuid")), UUID);
	assert_string_equal(json_string_value(at(md, "location")), "file:///w/ns/t");
	assert_same(at(md, "partition-specs"),
		    "[{'spec-id':0,'fields':[{'source-id':2,'transform':'month','name':'day_month','field-id':1000}]}]");
	assert_same(at(md, "sort-orders"), "[{'order-id':0,'fields':[]}]");
	assert_same(at(md, "properties"), "{'a':'1'}");
	assert_null(at(md, "current-snapshot-id"));
	assert_null(at(md, "schema"));
	json_decref(md);
}

/* Spark counts from 0: then all ids are made anew, a level at a time, and what refers to them follows. */
static void
test_create_renumbers(void **state)
{
	json_t *md = create("{'schema':{'type':'struct','identifier-field-ids':[0],'fields':["
			    "{'id':0,'name':'a','type':{'type':'list','element-id':1,'element':{'type':'struct','fields':["
			    "{'id':2,'name':'x','type':'int','required':true}]},'element-required':true},'required':true},"
			    "{'id':3,'name':'b','type':'int','required':true}]},"
			    "'partition-spec':{'fields':[{'source-id':3,'transform':'identity','name':'b'}]},"
			    "'write-order':{'order-id':1,'fields':[{'source-id':3,'transform':'identity','direction':'asc','null-"
			    "order':'nulls-first'}]}}");

	(void)state;
	assert_same(at(md, "schemas/0/fields/0/id"), "1");
	assert_same(at(md, "schemas/0/fields/1/id"), "2");
	assert_same(at(md, "schemas/0/fields/0/type/element-id"), "3");
	assert_same(at(md, "schemas/0/fields/0/type/element/fields/0/id"), "4");
	assert_same(at(md, "schemas/0/identifier-field-ids"), "[1]");
	assert_same(at(md, "partition-specs/0/fields/0/source-id"), "2");
	assert_same(at(md, "sort-orders/0/fields/0/source-id"), "2");
	assert_same(at(md, "default-sort-order-id"), "1");
	assert_same(at(md, "last-column-id"), "4");
	json_decref(md);
}

static void
test_create_versions(void **state)
{
	json_t *md = create("{'schema':{'type':'struct','fields':[{'id':1,'name':'a','type':'int','required':true}]},'properties'"
			    ":{'format-version':'1'}}");

	(void)state;
	assert_same(at(md, "format-version"), "1");
	assert_same(at(md, "schema/fields/0/name"), "'a'");
	assert_same(at(md, "partition-spec"), "[]");
	assert_same(at(md, "properties"), "{}");
	md = apply(md, "[{'action':'upgrade-format-version','format-version':2}]");
	assert_null(at(md, "schema"));
	assert_same(at(md, "last-sequence-number"), "0");
	json_decref(md);
	md = create("{'schema':{'type':'struct','fields':[]},'properties':{'format-version':'3'}}");
	assert_same(at(md, "next-row-id"), "0");
	json_decref(md);
}

static void
test_create_refused(void **state)
{
	static const char *const bad[] = {
		"{'name':'t'}",
		"{'schema':{'type':'struct','fields':[{'id':1,'name':'a','type':'int'},{'id':2,'name':'a','type':'int'}]}}",
		"{'schema':{'type':'struct','fields':[{'id':1,'type':'int'}]}}",
		"{'schema':{'type':'struct','fields':[{'id':1,'name':'a'}]}}",
		"{'schema':{'type':'struct','fields':[]},'properties':{'format-version':'9'}}",
		"{'schema':{'type':'struct','fields':[]},'partition-spec':{'fields':[{'source-id':7,'transform':'identity','name'"
		":'p'}]}}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = ERR_INIT;
		json_t *r = q(bad[i]), *md = metadata_create(r, &in, &e);

		if (md)
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(e.code, ERR_INVALID);
		err_release(&e);
		json_decref(r);
	}
}

/* What DuckDB and Java send after a staged create: a table made of updates alone. */
static void
test_create_by_updates(void **state)
{
	json_t *md = apply(
		NULL,
		"[{'action':'assign-uuid','uuid':'u'},{'action':'upgrade-format-version','format-version':2},"
		"{'action':'add-schema','schema':{'type':'struct','schema-id':0,'fields':[{'id':1,'name':'a','type':'int','"
		"required':true}]}},"
		"{'action':'set-current-schema','schema-id':-1},{'action':'add-spec','spec':{'spec-id':0,'fields':[]}},"
		"{'action':'set-default-spec','spec-id':-1},{'action':'add-sort-order','sort-order':{'order-id':0,'fields':[]}},"
		"{'action':'set-default-sort-order','sort-order-id':-1},{'action':'set-location','location':'file:///x'},"
		"{'action':'set-properties','updates':{}}," SNAPSHOT("5", "", "1", "1700000000500") "," MAIN("5") "]");

	(void)state;
	assert_same(at(md, "table-uuid"), "'u'");
	assert_same(at(md, "location"), "'file:///x'");
	assert_same(at(md, "current-snapshot-id"), "5");
	assert_same(at(md, "partition-specs"), "[{'spec-id':0,'fields':[]}]");
	assert_same(at(md, "metadata-log"), "[]");
	json_decref(md);
	refuse(NULL, "[{'action':'assign-uuid','uuid':'u'}]", ERR_INVALID, "needs a schema");
}

/* ---- updates ---- */

static void
test_table_updates(void **state)
{
	json_t *md = apply(
		table(),
		"[{'action':'set-properties','updates':{'b':'2','a':'3'}},{'action':'remove-properties','removals':['b','zz']},"
		"{'action':'set-location','location':'file:///y'}]");

	(void)state;
	assert_same(at(md, "properties"), "{'a':'3'}");
	assert_same(at(md, "location"), "'file:///y'");
	assert_same(at(md, "metadata-log"), "[{'timestamp-ms':1700000000000,'metadata-file':'old.json'}]");
	refuse(md, "[{'action':'assign-uuid','uuid':'other'}]", ERR_INVALID, "uuid");
	refuse(md, "[{'action':'upgrade-format-version','format-version':1}]", ERR_INVALID, "cannot go back");
	refuse(md, "[{'action':'upgrade-format-version','format-version':4}]", ERR_INVALID, "not supported");
	refuse(md, "[{'action':'set-properties','updates':{'a':1}}]", ERR_INVALID, "must be a string");
	refuse(md, "[{'action':'remove-properties'}]", ERR_INVALID, "removals");
	refuse(md, "[{'action':'set-location'}]", ERR_INVALID, "location");
	refuse(md, "[{'action':'fly'}]", ERR_INVALID, "\"fly\" is not supported");
	refuse(md, "[{}]", ERR_INVALID, "action");
	md = apply(md, "[{'action':'assign-uuid','uuid':'" UUID "'}]");
	json_decref(md);
}

static void
test_nothing_changes(void **state)
{
	json_t *md = table(), *same;
	struct err e = ERR_INIT;
	json_t *updates = q("[{'action':'set-properties','updates':{'a':'1'}}]");

	(void)state;
	same = metadata_apply(md, "old.json", updates, &in, &e);
	assert_true(json_equal(md, same));
	json_decref(same);
	json_decref(updates);
	json_decref(md);
}

static void
test_metadata_log_is_bounded(void **state)
{
	json_t *md = apply(table(), "[{'action':'set-properties','updates':{'write.metadata.previous-versions-max':'2'}}]");

	(void)state;
	md = apply(md, "[{'action':'set-properties','updates':{'n':'1'}}]");
	md = apply(md, "[{'action':'set-properties','updates':{'n':'2'}}]");
	assert_int_equal(json_array_size(at(md, "metadata-log")), 2);
	json_decref(md);
}

static void
test_schemas(void **state)
{
	json_t *md = apply(table(), "[{'action':'add-schema','schema':{'type':'struct','schema-id':1,'fields':[{'id':1,'name':'"
				    "id','type':'long','required':true},"
				    "{'id':7,'name':'n','type':'string','required':false}]},'last-column-id':7},{'action':'set-"
				    "current-schema','schema-id':-1}]");

	(void)state;
	assert_same(at(md, "current-schema-id"), "1");
	assert_same(at(md, "last-column-id"), "7");
	/* The same schema once more is the one that is there. */
	md = apply(md, "[{'action':'add-schema','schema':{'type':'struct','schema-id':9,'fields':[{'id':1,'name':'id','type':'"
		       "long','required':true},"
		       "{'id':2,'name':'day','type':'date','required':false}]}},{'action':'set-current-schema','schema-id':-1}]");
	assert_same(at(md, "current-schema-id"), "0");
	assert_int_equal(json_array_size(at(md, "schemas")), 2);
	/* An id that is taken by another schema gets the next one. */
	md = apply(md, "[{'action':'add-schema','schema':{'type':'struct','schema-id':1,'fields':[]}}]");
	assert_same(at(md, "schemas/2/schema-id"), "2");
	refuse(md, "[{'action':'remove-schemas','schema-ids':[0]}]", ERR_INVALID, "in use");
	md = apply(md, "[{'action':'remove-schemas','schema-ids':[1,2,77]}]");
	assert_int_equal(json_array_size(at(md, "schemas")), 1);
	refuse(md, "[{'action':'set-current-schema','schema-id':-1}]", ERR_INVALID, "none was added");
	refuse(md, "[{'action':'set-current-schema','schema-id':5}]", ERR_INVALID, "no \"schema-id\" 5");
	refuse(md,
	       "[{'action':'add-schema','schema':{'type':'struct','fields':[{'id':1,'name':'a','type':'int'},{'id':1,'name':'b','"
	       "type':'int'}]}}]",
	       ERR_INVALID, "field id 1 twice");
	json_decref(md);
}

static void
test_specs(void **state)
{
	json_t *md = apply(
		table(),
		"[{'action':'add-spec','spec':{'spec-id':1,'fields':[{'source-id':1,'transform':'bucket[4]','name':'id_bucket'},"
		"{'source-id':2,'transform':'month','name':'day_month'}]}},{'action':'set-default-spec','spec-id':-1}]");

	(void)state;
	assert_same(at(md, "default-spec-id"), "1");
	assert_same(at(md, "partition-specs/1/fields/0/field-id"), "1001");
	assert_same(at(md, "partition-specs/1/fields/1/field-id"), "1000"); /* it means the same as before */
	assert_same(at(md, "last-partition-id"), "1001");
	md = apply(md, "[{'action':'add-spec','spec':{'fields':[{'source-id':2,'transform':'month','name':'day_month','field-id':"
		       "1000}]}},"
		       "{'action':'set-default-spec','spec-id':-1}]");
	assert_same(at(md, "default-spec-id"), "0");
	refuse(md, "[{'action':'remove-partition-specs','spec-ids':[0]}]", ERR_INVALID, "in use");
	md = apply(md, "[{'action':'remove-partition-specs','spec-ids':[1]}]");
	assert_int_equal(json_array_size(at(md, "partition-specs")), 1);
	refuse(md, "[{'action':'add-spec','spec':{'fields':[{'source-id':9,'transform':'identity','name':'x'}]}}]", ERR_INVALID,
	       "source-id 9");
	refuse(md, "[{'action':'add-spec','spec':{'fields':[{'source-id':1,'transform':'identity'}]}}]", ERR_INVALID, "name");
	refuse(md, "[{'action':'set-default-spec','spec-id':4}]", ERR_INVALID, "no \"spec-id\" 4");
	json_decref(md);
}

static void
test_sort_orders(void **state)
{
	json_t *md = apply(table(), "[{'action':'add-sort-order','sort-order':{'order-id':0,'fields':[{'source-id':1,'transform':"
				    "'identity','direction':'asc',"
				    "'null-order':'nulls-first'}]}},{'action':'set-default-sort-order','sort-order-id':-1}]");

	(void)state;
	assert_same(at(md, "default-sort-order-id"), "1");
	md = apply(md, "[{'action':'add-sort-order','sort-order':{'order-id':5,'fields':[]}},{'action':'set-default-sort-order','"
		       "sort-order-id':-1}]");
	assert_same(at(md, "default-sort-order-id"), "0");
	assert_int_equal(json_array_size(at(md, "sort-orders")), 2);
	refuse(md, "[{'action':'set-default-sort-order','sort-order-id':3}]", ERR_INVALID, "no \"order-id\" 3");
	json_decref(md);
}

static void
test_snapshots(void **state)
{
	json_t *md = with_snapshot();

	(void)state;
	assert_true(metadata_int(md, "current-snapshot-id", 0) == 9007199254740993);
	assert_same(at(md, "last-sequence-number"), "1");
	assert_same(at(md, "last-updated-ms"), "1700000000500");
	assert_same(at(md, "snapshot-log"), "[{'timestamp-ms':1700000000500,'snapshot-id':" BIG "}]");
	assert_same(at(md, "refs/main"), "{'type':'branch','snapshot-id':" BIG "}");
	refuse(md, "[" SNAPSHOT(BIG, "", "2", "1700000000600") "]", ERR_INVALID, "already");
	refuse(md, "[" SNAPSHOT("6", ",'parent-snapshot-id':" BIG, "1", "1700000000600") "]", ERR_CONFLICT, "older state");
	refuse(md, "[{'action':'add-snapshot','snapshot':{'snapshot-id':7,'timestamp-ms':1,'sequence-number':2}}]", ERR_INVALID,
	       "manifest-list");
	/* Two in one commit: only the last one was ever current for others. */
	md = apply(md, "[" SNAPSHOT("6", ",'parent-snapshot-id':" BIG, "2", "1700000000600") "," MAIN("6") "," SNAPSHOT(
			       "7", ",'parent-snapshot-id':6", "3", "1700000000700") "," MAIN("7") "]");
	assert_same(at(md, "snapshot-log"),
		    "[{'timestamp-ms':1700000000500,'snapshot-id':" BIG "},{'timestamp-ms':1700000000700,'snapshot-id':7}]");
	/* Back to an older one: that happens now. */
	md = apply(md, "[" MAIN("6") "]");
	assert_same(at(md, "current-snapshot-id"), "6");
	assert_same(at(md, "snapshot-log/2"), "{'timestamp-ms':1700000000000,'snapshot-id':6}");
	json_decref(md);
}

static void
test_refs(void **state)
{
	json_t *md = apply(with_snapshot(),
			   "[{'action':'set-snapshot-ref','ref-name':'v1','type':'tag','snapshot-id':" BIG ",'max-ref-age-ms':5,"
			   "'min-snapshots-to-keep':null}]");

	(void)state;
	assert_same(at(md, "refs/v1"), "{'type':'tag','snapshot-id':" BIG ",'max-ref-age-ms':5}");
	refuse(md, "[{'action':'set-snapshot-ref','ref-name':'x','type':'tag','snapshot-id':3}]", ERR_INVALID,
	       "no such snapshot");
	refuse(md, "[{'action':'set-snapshot-ref','ref-name':'main','type':'tag','snapshot-id':" BIG "}]", ERR_INVALID, "branch");
	md = apply(md, "[{'action':'remove-snapshot-ref','ref-name':'v1'},{'action':'remove-snapshot-ref','ref-name':'none'}]");
	assert_null(at(md, "refs/v1"));
	md = apply(md, "[{'action':'remove-snapshot-ref','ref-name':'main'}]");
	assert_null(at(md, "current-snapshot-id"));
	assert_same(at(md, "snapshot-log"), "[]");
	json_decref(md);
}

static void
test_remove_snapshots(void **state)
{
	json_t *md =
		apply(with_snapshot(),
		      "[" SNAPSHOT("6", ",'parent-snapshot-id':" BIG, "2", "1700000000600") "," MAIN(
			      "6") ","
				   "{'action':'set-snapshot-ref','ref-name':'old','type':'tag','snapshot-id':" BIG "},"
				   "{'action':'set-statistics','statistics':{'snapshot-id':" BIG ",'statistics-path':'p'}}]");

	(void)state;
	md = apply(md, "[{'action':'remove-snapshots','snapshot-ids':[" BIG "]}]");
	assert_int_equal(json_array_size(at(md, "snapshots")), 1);
	assert_same(at(md, "snapshot-log"), "[{'timestamp-ms':1700000000600,'snapshot-id':6}]");
	assert_null(at(md, "refs/old"));
	assert_same(at(md, "statistics"), "[]");
	md = apply(md, "[{'action':'remove-snapshots','snapshot-ids':[6]}]");
	assert_null(at(md, "current-snapshot-id"));
	assert_same(at(md, "refs"), "{}");
	json_decref(md);
}

static void
test_statistics(void **state)
{
	json_t *md =
		apply(with_snapshot(),
		      "[{'action':'set-statistics','statistics':{'snapshot-id':1,'statistics-path':'p'}},"
		      "{'action':'set-statistics','snapshot-id':1,'statistics':{'snapshot-id':1,'statistics-path':'q'}},"
		      "{'action':'set-partition-statistics','partition-statistics':{'snapshot-id':1,'statistics-path':'r'}}]");

	(void)state;
	assert_same(at(md, "statistics"), "[{'snapshot-id':1,'statistics-path':'q'}]");
	assert_same(at(md, "partition-statistics"), "[{'snapshot-id':1,'statistics-path':'r'}]");
	md = apply(md,
		   "[{'action':'remove-statistics','snapshot-id':1},{'action':'remove-partition-statistics','snapshot-id':1}]");
	assert_same(at(md, "statistics"), "[]");
	assert_same(at(md, "partition-statistics"), "[]");
	refuse(md, "[{'action':'set-statistics','statistics':{}}]", ERR_INVALID, "snapshot-id");
	json_decref(md);
}

static void
test_version_3_rows(void **state)
{
	json_t *md = apply(
		table(),
		"[{'action':'upgrade-format-version','format-version':3},{'action':'add-snapshot','snapshot':{'snapshot-id':1,"
		"'sequence-number':1,'timestamp-ms':1700000000001,'manifest-list':'m','first-row-id':0,'added-rows':10}}]");

	(void)state;
	assert_same(at(md, "next-row-id"), "10");
	refuse(md,
	       "[{'action':'add-snapshot','snapshot':{'snapshot-id':2,'sequence-number':2,'timestamp-ms':1700000000002,'manifest-"
	       "list':'m',"
	       "'first-row-id':5,'added-rows':1}}]",
	       ERR_CONFLICT, "first-row-id");
	json_decref(md);
}

/* Metadata of the first format: one schema, one spec, no refs. */
static void
test_old_metadata(void **state)
{
	json_t *md = q("{'format-version':1,'location':'file:///"
		       "o','last-updated-ms':1,'last-column-id':1,'schema':{'type':'struct','fields':["
		       "{'id':1,'name':'a','type':'int','required':true}]},'partition-spec':[{'source-id':1,'transform':'"
		       "identity','name':'a','field-id':1000}],"
		       "'current-snapshot-id':3,'snapshots':[{'snapshot-id':3,'timestamp-ms':1,'manifest-list':'m'}]}");
	struct err e = ERR_INIT;
	json_t *r =
		q("[{'type':'assert-ref-snapshot-id','ref':'main','snapshot-id':3},{'type':'assert-last-assigned-partition-id',"
		  "'last-assigned-partition-id':999}]");

	(void)state;
	assert_int_equal(metadata_validate(md, &e), 0);
	assert_int_equal(metadata_check(md, r, &e), 0);
	json_decref(r);
	md = apply(md, "[{'action':'upgrade-format-version','format-version':2}]");
	assert_same(at(md, "schemas/0/schema-id"), "0");
	assert_same(at(md, "partition-specs/0/fields/0/name"), "'a'");
	assert_same(at(md, "last-partition-id"), "1000");
	assert_same(at(md, "refs/main/snapshot-id"), "3");
	assert_same(at(md, "table-uuid"), "'" UUID "'");
	json_decref(md);
}

static void
test_validate(void **state)
{
	static const struct {
		const char *text;
		int code;
	} rows[] = {
		{ "{}", ERR_INVALID },
		{ "{'format-version':2}", ERR_INVALID },
		{ "{'format-version':2,'location':'x'}", ERR_INVALID },
		{ "{'format-version':4,'location':'x','schemas':[]}", ERR_UNSUPPORTED },
		{ "{'format-version':2,'location':'x','schemas':[]}", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct err e = ERR_INIT;
		json_t *md = q(rows[i].text);

		assert_int_equal(metadata_validate(md, &e), rows[i].code);
		err_release(&e);
		json_decref(md);
	}
}

/* ---- requirements ---- */

static void
test_requirements(void **state)
{
	static const struct {
		const char *requirement;
		int code;
		const char *words;
	} rows[] = {
		{ "{'type':'assert-create'}", ERR_CONFLICT, "exists already" },
		{ "{'type':'assert-table-uuid','uuid':'" UUID "'}", 0, NULL },
		{ "{'type':'assert-table-uuid','uuid':'x'}", ERR_CONFLICT, "uuid" },
		{ "{'type':'assert-table-uuid'}", ERR_INVALID, "uuid" },
		{ "{'type':'assert-ref-snapshot-id','ref':'main','snapshot-id':" BIG "}", 0, NULL },
		{ "{'type':'assert-ref-snapshot-id','ref':'main','snapshot-id':9007199254740992}", ERR_CONFLICT, "has moved" },
		{ "{'type':'assert-ref-snapshot-id','ref':'main','snapshot-id':null}", ERR_CONFLICT, "made meanwhile" },
		{ "{'type':'assert-ref-snapshot-id','ref':'b','snapshot-id':null}", 0, NULL },
		{ "{'type':'assert-ref-snapshot-id','ref':'b'}", 0, NULL },
		{ "{'type':'assert-ref-snapshot-id','ref':'b','snapshot-id':1}", ERR_CONFLICT, "does not exist" },
		{ "{'type':'assert-ref-snapshot-id'}", ERR_INVALID, "ref" },
		{ "{'type':'assert-last-assigned-field-id','last-assigned-field-id':2}", 0, NULL },
		{ "{'type':'assert-last-assigned-field-id','last-assigned-field-id':3}", ERR_CONFLICT, "last-column-id" },
		{ "{'type':'assert-current-schema-id','current-schema-id':0}", 0, NULL },
		{ "{'type':'assert-current-schema-id','current-schema-id':1}", ERR_CONFLICT, "current-schema-id" },
		{ "{'type':'assert-last-assigned-partition-id','last-assigned-partition-id':1000}", 0, NULL },
		{ "{'type':'assert-last-assigned-partition-id','last-assigned-partition-id':999}", ERR_CONFLICT,
		  "last-partition-id" },
		{ "{'type':'assert-default-spec-id','default-spec-id':0}", 0, NULL },
		{ "{'type':'assert-default-spec-id','default-spec-id':2}", ERR_CONFLICT, "default-spec-id" },
		{ "{'type':'assert-default-sort-order-id','default-sort-order-id':0}", 0, NULL },
		{ "{'type':'assert-default-sort-order-id','default-sort-order-id':2}", ERR_CONFLICT, "default-sort-order-id" },
		{ "{'type':'assert-default-sort-order-id'}", ERR_INVALID, "default-sort-order-id" },
		{ "{'type':'assert-luck'}", ERR_INVALID, "not supported" },
		{ "{}", ERR_INVALID, "type" },
	};
	json_t *md = with_snapshot();

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct err e = ERR_INIT;
		json_t *list = json_array(), *r = q(rows[i].requirement);

		json_array_append_new(list, r);
		if (metadata_check(md, list, &e) != rows[i].code)
			fail_msg("%s: %s", rows[i].requirement, e.msg ? e.msg : "holds");
		if (rows[i].words && strstr(e.msg, rows[i].words) == NULL)
			fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].requirement, e.msg, rows[i].words);
		err_release(&e);
		json_decref(list);
	}
	json_decref(md);
}

static void
test_requirements_without_table(void **state)
{
	struct err e = ERR_INIT;
	json_t *create_it = q("[{'type':'assert-create'}]"), *uuid = q("[{'type':'assert-table-uuid','uuid':'x'}]");

	(void)state;
	assert_int_equal(metadata_check(NULL, create_it, &e), 0);
	assert_int_equal(metadata_check(NULL, uuid, &e), ERR_CONFLICT);
	assert_non_null(strstr(e.msg, "does not exist"));
	err_release(&e);
	json_decref(create_it);
	json_decref(uuid);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create),
		cmocka_unit_test(test_create_renumbers),
		cmocka_unit_test(test_create_versions),
		cmocka_unit_test(test_create_refused),
		cmocka_unit_test(test_create_by_updates),
		cmocka_unit_test(test_table_updates),
		cmocka_unit_test(test_nothing_changes),
		cmocka_unit_test(test_metadata_log_is_bounded),
		cmocka_unit_test(test_schemas),
		cmocka_unit_test(test_specs),
		cmocka_unit_test(test_sort_orders),
		cmocka_unit_test(test_snapshots),
		cmocka_unit_test(test_refs),
		cmocka_unit_test(test_remove_snapshots),
		cmocka_unit_test(test_statistics),
		cmocka_unit_test(test_version_3_rows),
		cmocka_unit_test(test_old_metadata),
		cmocka_unit_test(test_validate),
		cmocka_unit_test(test_requirements),
		cmocka_unit_test(test_requirements_without_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
