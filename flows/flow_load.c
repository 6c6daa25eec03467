/*
 * Text to flow: YAML, the grammar, then what no grammar knows: the graph, schedules, params, refs. Every stage reports what it
 * finds and hands on what is sound, so that all problems show at once.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/engines.h"
#include "flows/expr.h"
#include "flows/flow_int.h"
#include "flows/suggest.h"

void
load_error(struct loader *l, int line, int col, const char *fmt, ...)
{
	va_list ap;
	char *msg;

	va_start(ap, fmt);
	msg = xvasprintf(fmt, ap);
	va_end(ap);
	diags_add(l->diags, SEVERITY_ERROR, l->file, line, col, "%s", msg);
	free(msg);
}

void
pos_find(const json_t *pos, const char *path, int *line, int *col)
{
	char *p = xstrdup(path), *slash;

	for (;;) {
		json_t *at = json_object_get(pos, p);

		if (at) {
			*line = (int)json_integer_value(json_array_get(at, 0));
			*col = (int)json_integer_value(json_array_get(at, 1));
			break;
		}
		slash = strrchr(p, '/');
		if (slash == NULL)
			break;
		*slash = '\0';
	}
	free(p);
}

/* ---- defaults ---- */

/* Copies through a JSON-free path, since places must survive. */
static struct ynode *
ynode_clone(const struct ynode *n)
{
	struct ynode *c = xcalloc(1, sizeof(*c));

	*c = *n;
	c->text = xstrdup_null(n->text);
	c->cap = n->count;
	c->items = n->count ? xcalloc(n->count, sizeof(struct ynode *)) : NULL;
	c->keys = n->kind == Y_MAP && n->count ? xcalloc(n->count, sizeof(*c->keys)) : NULL;
	for (size_t i = 0; i < n->count; i++) {
		c->items[i] = ynode_clone(n->items[i]);
		if (c->keys) {
			c->keys[i] = n->keys[i];
			c->keys[i].name = xstrdup(n->keys[i].name);
		}
	}
	return c;
}

static void
ynode_append(struct ynode *map, const struct ykey *key, const struct ynode *value)
{
	map->items = xrealloc(map->items, (map->count + 1) * sizeof(struct ynode *));
	map->keys = xrealloc(map->keys, (map->count + 1) * sizeof(*map->keys));
	map->items[map->count] = ynode_clone(value);
	map->keys[map->count] = *key;
	map->keys[map->count].name = xstrdup(key->name);
	map->cap = ++map->count;
}

static bool
task_has_key(const char *const *objects, size_t nobjects, const char *key)
{
	for (size_t i = 0; i < nobjects; i++) {
		if (grammar_find(objects[i], key))
			return true;
	}
	return false;
}

/* Adds to a task what `defaults` has and it lacks; maps are merged one level deep. */
static void
merge_defaults(struct ynode *task, const struct ynode *defaults, const char *const *objects, size_t nobjects)
{
	for (size_t i = 0; defaults && i < defaults->count; i++) {
		const struct ykey *key = &defaults->keys[i];
		const struct ynode *value = defaults->items[i];
		struct ynode *own = (struct ynode *)ynode_get(task, key->name);

		if (!task_has_key(objects, nobjects, key->name))
			continue;
		if (own == NULL) {
			ynode_append(task, key, value);
			continue;
		}
		for (size_t k = 0; own->kind == Y_MAP && value->kind == Y_MAP && k < value->count; k++) {
			if (!ynode_get(own, value->keys[k].name))
				ynode_append(own, &value->keys[k], value->items[k]);
		}
	}
}

/* Checks `defaults` once, against the keys of all types. Returns the map to merge, NULL when there is nothing usable. */
static const struct ynode *
load_defaults(struct loader *l, const struct ynode *root)
{
	static const char *const objects[] = { "task",     "native",   "stage",  "publish", "curate",
					       "validate", "maintain", "export", "command", "python" };
	const struct ynode *n = ynode_get(root, "defaults");
	struct check c = {
		.file = l->file, .diags = l->diags, .owner = "\"defaults\"", .refs = true, .partial = true, .path = BUF_INIT
	};
	size_t before = l->diags->errors;

	if (n == NULL)
		return NULL;
	json_decref(check_object(&c, objects, sizeof(objects) / sizeof(objects[0]), n));
	buf_release(&c.path);
	for (size_t i = 0; n->kind == Y_MAP && i < n->count; i++) {
		if (strcmp(n->keys[i].name, "id") == 0 || strcmp(n->keys[i].name, "depends_on") == 0)
			load_error(l, n->keys[i].line, n->keys[i].col,
				   "\"%s\" cannot have a default: it differs from task to task", n->keys[i].name);
	}
	return l->diags->errors == before ? n : NULL;
}

/* ---- tasks ---- */

static int
enum_index(const char *const *names, size_t count, const char *name)
{
	for (size_t i = 0; i < count && name; i++) {
		if (strcmp(names[i], name) == 0)
			return (int)i;
	}
	return 0;
}

static char *
take_string(json_t *j, const char *key)
{
	return xstrdup_null(json_string_value(json_object_get(j, key)));
}

static dur_us
get_dur(const json_t *j, const char *key)
{
	return (dur_us)json_integer_value(json_object_get(j, key));
}

/* Where a file of the flow's own world is: relative paths begin at the flow's folder; refs and URLs stay as they are. */
static json_t *
absolute(const struct loader *l, const json_t *path)
{
	const char *p = json_string_value(path);
	json_t *out, *item;
	size_t i;

	if (json_is_array(path)) {
		out = json_array();
		json_array_foreach ((json_t *)path, i, item)
			json_array_append_new(out, absolute(l, item));
		return out;
	}
	if (p == NULL || *p == '/' || *p == '\0' || strncmp(p, "${", 2) == 0 || strstr(p, "://"))
		return json_incref((json_t *)path);
	return json_sprintf("%s/%s", l->dir, strncmp(p, "./", 2) == 0 ? p + 2 : p);
}

static void
make_absolute(const struct loader *l, json_t *object, const char *key)
{
	json_t *path = json_object_get(object, key);

	if (path)
		json_object_set_new(object, key, absolute(l, path));
}

static void
build_retry(struct retry *r, const json_t *j)
{
	const char *backoff = json_string_value(json_object_get(j, "backoff"));

	r->max_attempts = json_is_integer(json_object_get(j, "max_attempts"))
				  ? (int)json_integer_value(json_object_get(j, "max_attempts"))
				  : 1;
	r->interval = get_dur(j, "interval");
	r->backoff = backoff && strcmp(backoff, "exponential") == 0 ? BACKOFF_EXPONENTIAL : BACKOFF_CONSTANT;
	r->factor = json_number_value(json_object_get(j, "factor"));
	r->max_interval = get_dur(j, "max_interval");
	r->jitter = json_number_value(json_object_get(j, "jitter"));
}

/* The file of sql_file becomes the text of sql, read now: a version of a flow is complete. */
static void
load_sql_file(struct loader *l, struct task_def *t)
{
	const char *path = json_string_value(json_object_get(t->spec, "sql_file"));
	struct buf text = BUF_INIT_MAX(YAML_MAX_BYTES);
	int line = t->line, col = t->col, rc;
	json_t *sql;

	if (path == NULL)
		return;
	pos_find(t->pos, "sql_file", &line, &col);
	if (t->type == TASK_STAGE && json_object_get(t->spec, "sql")) { /* a curate task was told so already */
		load_error(l, line, col, "task \"%s\" has \"sql\" and \"sql_file\"; one of them is enough", t->id);
		return;
	}
	if (text_has_ref(path)) {
		load_error(l, line, col, "\"sql_file\" of task \"%s\" cannot use refs: the file is read when the flow is loaded",
			   t->id);
		return;
	}
	rc = buf_add_file(&text, path);
	sql = rc == 0 ? json_stringn(text.s, text.len) : NULL;
	if (rc < 0)
		load_error(l, line, col, "cannot read the file \"%s\" of task \"%s\": %s", path, t->id, strerror(-rc));
	else if (sql == NULL)
		load_error(l, line, col, "the file \"%s\" of task \"%s\" is not text in UTF-8", path, t->id);
	else
		json_object_set_new(t->spec, "sql", sql);
	buf_release(&text);
}

/* `at` of a task goes with its `table`. */
static void
check_state(struct loader *l, const struct task_def *t)
{
	int line = t->line, col = t->col;

	if (json_object_get(t->spec, "at") == NULL || json_object_get(t->spec, "table"))
		return;
	pos_find(t->pos, "at", &line, &col);
	load_error(l, line, col, "\"at\" of task \"%s\" goes with \"table\"; in SQL it is as_of('namespace.table', 'state')",
		   t->id);
}

/* Which keys say where rows come from and go to, by format: those that must be there ("a|b": one of them), and those that may. */
static const struct {
	const char *object, *format, *needs, *takes;
} places[] = {
	{ "source", "csv", "path", "" },
	{ "source", "json", "path", "" },
	{ "source", "parquet", "path", "" },
	{ "source", "delta", "path", "" },
	{ "source", "hudi", "path", "" },
	{ "source", "iceberg", "table", "at" },
	{ "source", "postgres", "uri table|query", "" },
	{ "source", "mysql", "uri table|query", "" },
	{ "source", "sqlite", "path table|query", "" },
	{ "source", "http", "url",
	  "method headers params body records pagination rate_limit retry timeout max_answer resume ca" },
	{ "source", "kafka", "brokers topic",
	  "group starting value_format key_format metadata max_messages max_bytes on_data_loss security options timeout" },
	{ "to", "parquet", "path", "compression partition_by" },
	{ "to", "csv", "path", "compression partition_by header delimiter" },
	{ "to", "json", "path", "compression" },
	{ "to", "postgres", "uri table", "mode key" },
	{ "to", "mysql", "uri table", "mode key" },
	{ "to", "sqlite", "path table", "mode key" },
	{ "to", "mongodb", "uri collection", "database mode key" },
	{ "to", "kafka", "brokers topic", "key timeout security options" },
	{ "to", "delta", "path", "mode key partition_by set where" },
	{ "to", "hudi", "path", "mode key partition_by order_by" },
};
/* The object, and all such keys of it; ends with NULL. */
static const char *const place_keys[][32] = {
	{ "source",     "path",     "uri",          "table",     "query",        "at",         "url",      "method",
	  "headers",    "params",   "body",         "records",   "pagination",   "rate_limit", "retry",    "timeout",
	  "max_answer", "resume",   "ca",           "brokers",   "topic",        "group",      "starting", "value_format",
	  "key_format", "metadata", "max_messages", "max_bytes", "on_data_loss", "security",   "options" },
	{ "to",     "path",      "uri",     "table", "database", "collection", "mode",    "key", "compression", "partition_by",
	  "header", "delimiter", "brokers", "topic", "timeout",  "security",   "options", "set", "where",       "order_by" },
};

static bool
has_word(const char *words, const char *word, size_t n)
{
	for (const char *p = words; (p = strstr(p, word)) != NULL && (size_t)(p - words) < n; p++)
		if ((p == words || strchr(" |", p[-1])) && strchr(" |", p[strlen(word)]))
			return true;
	return false;
}

/* Reports a key of `object` that does not go with its format; `what` is the rest of the sentence. */
static void
place_error(struct loader *l, const struct task_def *t, const char *object, const char *key, const char *what)
{
	char *place = xasprintf("%s/%s", object, key);
	int line = t->line, col = t->col;

	pos_find(t->pos, place, &line, &col);
	load_error(l, line, col, "\"%s\" of task \"%s\": %s", object, t->id, what);
	free(place);
}

static void
check_keys_of_place(struct loader *l, const struct task_def *t, const char *const *keys, const char *needs, const char *takes)
{
	const json_t *object = json_object_get(t->spec, keys[0]);
	const char *format = json_string_value(json_object_get(object, "format")), *words;
	char *what;
	size_t n;

	for (size_t k = 1; keys[k]; k++) {
		if (json_object_get(object, keys[k]) == NULL || has_word(needs, keys[k], strlen(needs)) ||
		    has_word(takes, keys[k], strlen(takes)))
			continue;
		what = xasprintf("\"%s\" does not go with format: %s", keys[k], format);
		place_error(l, t, keys[0], keys[k], what);
		free(what);
	}
	for (words = needs; *words; words += n + (words[n] == ' ')) {
		int found = 0;

		n = strcspn(words, " ");
		for (size_t k = 1; keys[k]; k++)
			found += has_word(words, keys[k], n) && json_object_get(object, keys[k]);
		if (found == 1)
			continue;
		what = xasprintf("format: %s needs %s%.*s", format, memchr(words, '|', n) ? "one of " : "", (int)n, words);
		place_error(l, t, keys[0], "format", what);
		free(what);
	}
}

/* Do a source and a target say where their rows are, as the format wants it said, and nothing else? */
static void
check_places(struct loader *l, const struct task_def *t)
{
	for (size_t k = 0; k < sizeof(place_keys) / sizeof(place_keys[0]); k++) {
		const char *object = place_keys[k][0],
			   *format = json_string_value(json_object_get(json_object_get(t->spec, object), "format"));

		for (size_t i = 0; format && i < sizeof(places) / sizeof(places[0]); i++)
			if (strcmp(places[i].object, object) == 0 && strcmp(places[i].format, format) == 0)
				check_keys_of_place(l, t, place_keys[k], places[i].needs, places[i].takes);
	}
}

/* What belongs together in a maintain task, and what is allowed but may hurt. */
static void
check_maintain(struct loader *l, const struct task_def *t)
{
	const json_t *compact = json_object_get(t->spec, "compact"), *orphans = json_object_get(t->spec, "remove_orphan_files"),
		     *age = json_object_get(orphans, "older_than"), *tables = json_object_get(t->spec, "tables"),
		     *size = json_object_get(compact, "target_file_size");
	const char *strategy = json_string_value(json_object_get(compact, "strategy"));
	int line = t->line, col = t->col;

	if (json_object_get(compact, "sort_by") && strategy && strcmp(strategy, "binpack") == 0) {
		pos_find(t->pos, "compact/sort_by", &line, &col);
		load_error(l, line, col, "\"compact.sort_by\" of task \"%s\" goes with strategy: sort", t->id);
	}
	if (json_is_integer(size) && json_integer_value(size) < 1) {
		pos_find(t->pos, "compact/target_file_size", &line, &col);
		load_error(l, line, col, "\"compact.target_file_size\" of task \"%s\" must be at least 1", t->id);
	}
	if (json_is_array(tables) && json_array_size(tables) == 0) {
		pos_find(t->pos, "tables", &line, &col);
		load_error(l, line, col, "\"tables\" of task \"%s\" names none; \"*\" is all tables", t->id);
	}
	if (json_is_integer(age) && json_integer_value(age) < US_PER_DAY && json_is_true(json_object_get(orphans, "enabled")) &&
	    !json_is_true(json_object_get(orphans, "dry_run"))) {
		pos_find(t->pos, "remove_orphan_files/older_than", &line, &col);
		diags_add(l->diags, SEVERITY_WARNING, l->file, line, col,
			  "\"remove_orphan_files.older_than\" of task \"%s\" is under 24h: what another engine is writing "
			  "meanwhile looks like an orphan and may lose files",
			  t->id);
	}
}

/* What only one format of a source knows. */
static void
check_version(struct loader *l, const struct task_def *t, const char *key)
{
	static const char *const names[] = { "version", "timestamp", "cast" };
	const json_t *source = json_object_get(t->spec, key);
	const char *format = json_string_value(json_object_get(source, "format"));
	bool delta = format && strcmp(format, "delta") == 0;

	if (format && text_has_ref(format))
		return;
	if (delta && json_object_get(source, "version") && json_object_get(source, "timestamp")) {
		char *place = xasprintf("%s/timestamp", key);
		int line = t->line, col = t->col;

		pos_find(t->pos, place, &line, &col);
		load_error(l, line, col,
			   "\"%s\" of task \"%s\": \"version\" and \"timestamp\" each name a version; leave one out", key, t->id);
		free(place);
	}
	for (size_t i = 0; i < 3; i++) {
		char *place = xasprintf("%s/%s", key, names[i]);
		int line = t->line, col = t->col;

		pos_find(t->pos, place, &line, &col);
		if (json_object_get(source, names[i]) == NULL || delta || (i == 2 && format))
			;
		else if (i == 2)
			load_error(l, line, col, "\"from.cast\" of task \"%s\" goes with \"from.format\"", t->id);
		else
			load_error(l, line, col, "\"%s.%s\" of task \"%s\" goes with format: delta", key, names[i], t->id);
		free(place);
	}
}

/* The code stands apart from the spec, since it has a meaning of its own for "${". */
static void
build_python(struct loader *l, struct task_def *t)
{
	const char *python = json_string_value(json_object_get(t->spec, "python")), *ref;
	int line = t->line, col = t->col;

	make_absolute(l, t->spec, "script");
	if (python && strchr(python, '/')) /* else a name on the PATH */
		make_absolute(l, t->spec, "python");
	t->code = take_string(t->spec, "code");
	json_object_del(t->spec, "code");
	ref = t->code ? strstr(t->code, "${params.") : NULL;
	if (ref) {
		pos_find(t->pos, "code", &line, &col);
		diags_add(l->diags, SEVERITY_WARNING, l->file, line, col,
			  "\"code\" of task \"%s\" is taken as it is, and \"%.*s\" in it is no ref; give the value by \"args\"",
			  t->id, (int)strcspn(ref, "}\n") + 1, ref);
	}
}

/* Moves what belongs to the type out of the checked task into its spec. */
static void
build_spec(struct loader *l, struct task_def *t, json_t *j)
{
	static const char *const kafka_files[] = { "ca", "certificate", "key" };
	const char *type = task_type_name(t->type);

	t->spec = json_object();
	for (size_t i = 0; i < grammar_row_count; i++) {
		const struct grammar_row *row = &grammar_rows[i];
		json_t *v = strcmp(row->object, type) == 0 ? json_object_get(j, row->key) : NULL;

		if (v && strcmp(row->key, "env") != 0 && strcmp(row->key, "working_dir") != 0)
			json_object_set(t->spec, row->key, v);
	}
	make_absolute(l, json_object_get(t->spec, "source"), "path");
	make_absolute(l, json_object_get(t->spec, "source"), "ca");
	make_absolute(l, json_object_get(t->spec, "target"), "path");
	make_absolute(l, json_object_get(t->spec, "from"), "path");
	make_absolute(l, json_object_get(t->spec, "to"), "path");
	for (size_t i = 0; i < sizeof(kafka_files) / sizeof(kafka_files[0]); i++) {
		make_absolute(l, json_object_get(json_object_get(t->spec, "source"), "security"), kafka_files[i]);
		make_absolute(l, json_object_get(json_object_get(t->spec, "to"), "security"), kafka_files[i]);
	}
	make_absolute(l, t->spec, "sql_file");
	if (t->type == TASK_PYTHON)
		build_python(l, t);
	make_absolute(l, j, "working_dir");
	load_sql_file(l, t);
	check_state(l, t);
	check_places(l, t);
	if (t->type == TASK_EXPORT)
		flow_check_export(l, t);
	if (t->type == TASK_MAINTAIN)
		check_maintain(l, t);
	check_version(l, t, "from");
	check_version(l, t, "source");
	flow_check_http(l, t);
	flow_check_kafka(l, t);
}

/* The engine's own units are not ours (its GB has 1000 MB), so the limit is handed on in bytes. */
static json_t *
build_engine_options(const json_t *j)
{
	json_t *options = j ? json_copy((json_t *)j) : json_object(), *limit = json_object_get(options, "memory_limit");

	if (json_is_integer(limit))
		json_object_set_new(options, "memory_limit",
				    json_sprintf("%" JSON_INTEGER_FORMAT "B", json_integer_value(limit)));
	return options;
}

static void
check_connect(struct loader *l, const struct task_def *t)
{
	const json_t *connect = json_object_get(t->engine_options, "connect");
	const char *text = json_string_value(connect);
	int line = t->line, col = t->col;

	if (connect == NULL || json_is_boolean(connect) ||
	    (text && (text_has_ref(text) || (strncmp(text, "sc://", 5) == 0 && text[5]))))
		return;
	pos_find(t->pos, "engine_options/connect", &line, &col);
	load_error(l, line, col,
		   "\"engine_options.connect\" of task \"%s\" must be true or the address of a server, sc://host:port", t->id);
}

static void
build_task(struct loader *l, struct task_def *t, json_t *j, json_t *pos, const struct ynode *n)
{
	static const char *const types[] = {
#define X(sym, name) name,
		TASK_TYPES(X)
#undef X
	};
	static const char *const rules[] = {
#define X(sym, name) name,
		TRIGGER_RULES(X)
#undef X
	};

	t->line = n->line;
	t->col = n->col;
	t->id = take_string(j, "id");
	t->type = (enum task_type)enum_index(types, sizeof(types) / sizeof(types[0]),
					     json_string_value(json_object_get(j, "type")));
	t->engine = take_string(j, "engine");
	t->rule = (enum trigger_rule)enum_index(rules, sizeof(rules) / sizeof(rules[0]),
						json_string_value(json_object_get(j, "trigger_rule")));
	t->when = take_string(j, "when");
	build_retry(&t->retry, json_object_get(j, "retry"));
	t->timeout = get_dur(j, "timeout");
	t->stop_grace = get_dur(j, "stop_grace");
	t->allow_failure = json_is_true(json_object_get(j, "allow_failure"));
	t->enabled = json_is_true(json_object_get(j, "enabled"));
	t->pos = json_incref(pos);
	t->env = l->flow->env ? json_deep_copy(l->flow->env) : json_object();
	if (json_object_get(j, "env"))
		json_object_update(t->env, json_object_get(j, "env"));
	t->engine_options = build_engine_options(json_object_get(j, "engine_options"));
	check_connect(l, t);
	build_spec(l, t, j);
	t->working_dir = take_string(j, "working_dir");
}

static bool
known_type(const char *type)
{
	for (size_t i = 0; type && grammar_task_types[i]; i++) {
		if (strcmp(type, grammar_task_types[i]) == 0)
			return true;
	}
	return false;
}

static const char *
scalar_of(const struct ynode *map, const char *key)
{
	const struct ynode *n = ynode_get(map, key);

	return n && n->kind == Y_SCALAR ? n->text : NULL;
}

/* Returns the checked task, or NULL when it is too broken to build. */
static json_t *
check_task(struct loader *l, struct ynode *n, size_t index, const struct ynode *defaults, json_t *pos)
{
	static const char *const any[] = { "task",     "native",   "stage",  "publish", "curate",
					   "validate", "maintain", "export", "command", "python" };
	const char *id = scalar_of(n, "id"), *type = scalar_of(n, "type"), *objects[3] = { "task" };
	size_t nobjects = 1;
	struct check c = { .file = l->file, .diags = l->diags, .pos = pos, .path = BUF_INIT };
	char *owner = id ? xasprintf("task \"%.63s\"", id) : xasprintf("task %zu", index + 1);
	size_t before = l->diags->errors;
	json_t *j;

	c.owner = owner;
	if (type == NULL && defaults)
		type = scalar_of(defaults, "type");
	if (n->kind == Y_MAP && known_type(type)) {
		if (strcmp(type, "command") != 0 && strcmp(type, "python") != 0)
			objects[nobjects++] = "native";
		objects[nobjects++] = type;
		merge_defaults(n, defaults, objects, nobjects);
		c.refs = true;
		j = check_object(&c, objects, nobjects, n);
	} else {
		/* Without a type no key is wrong for sure, but those that no type knows. */
		c.partial = true;
		c.refs = true;
		c.any_key = type != NULL;
		j = check_object(&c, any, sizeof(any) / sizeof(any[0]), n);
		if (n->kind == Y_MAP && type == NULL)
			check_error(&c, n, "%s needs the key \"type\"", owner);
	}
	buf_release(&c.path);
	free(owner);
	if (l->diags->errors > before && (!json_object_get(j, "id") || !json_object_get(j, "type"))) {
		json_decref(j);
		return NULL;
	}
	return j;
}

/* Keys that the scheduler itself reads take no refs, since it reads them before anything can be resolved. */
static void
refuse_early_refs(struct loader *l, const struct task_def *t, const json_t *j)
{
	static const char *const early[] = { "id",         "type",   "depends_on",    "trigger_rule", "timeout",
					     "stop_grace", "engine", "allow_failure", "enabled",      "retry" };

	for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		json_t *v = json_object_get(j, early[i]), *item;
		const char *key, *text = json_string_value(v);
		bool found = text && text_has_ref(text);
		int line = t->line, col = t->col;
		size_t k;

		json_array_foreach (v, k, item)
			found = found || (json_is_string(item) && text_has_ref(json_string_value(item)));
		json_object_foreach (v, key, item)
			found = found || (json_is_string(item) && text_has_ref(json_string_value(item)));
		if (!found)
			continue;
		pos_find(t->pos, early[i], &line, &col);
		load_error(l, line, col, "\"%s\" of task \"%s\" cannot use refs: it is read before the run begins", early[i],
			   t->id);
	}
}

/* An engine that cannot do the task would fail in the middle of a run. */
static void
check_engine(struct loader *l, const struct task_def *t)
{
	int line = t->line, col = t->col;
	struct err e = ERR_INIT;
	char *key = NULL;

	if (t->engine == NULL || engine_check_name(t->engine, &e) < 0 || /* its enum was checked with the other keys */
	    engine_check_task(t->engine, t, t->spec, &key, &e) == 0) {
		err_release(&e);
		return;
	}
	pos_find(t->pos, "engine", &line, &col);
	pos_find(t->pos, key, &line, &col);
	load_error(l, line, col, "%s", e.msg);
	err_release(&e);
	free(key);
}

static int
find_task(const struct flow *f, const char *id)
{
	for (size_t i = 0; i < f->ntasks; i++) {
		if (strcmp(f->tasks[i].id, id) == 0)
			return (int)i;
	}
	return -1;
}

static void
link_deps(struct loader *l, struct task_def *t, const json_t *deps)
{
	struct flow *f = l->flow;
	json_t *item;
	size_t i;

	t->deps = xcalloc(json_array_size(deps) + 1, sizeof(*t->deps));
	json_array_foreach (deps, i, item) {
		const char *id = json_string_value(item);
		int d = id ? find_task(f, id) : -1, line = t->line, col = t->col;
		char path[40];
		bool twice = false;

		if (id == NULL || text_has_ref(id))
			continue;
		snprintf(path, sizeof(path), "depends_on/%zu", i);
		pos_find(t->pos, path, &line, &col);
		for (size_t k = 0; k < t->ndeps; k++)
			twice = twice || (int)t->deps[k] == d;
		if (d < 0) {
			const char **names = xcalloc(f->ntasks + 1, sizeof(*names));
			struct buf hint = BUF_INIT;

			for (size_t k = 0; k < f->ntasks; k++)
				names[k] = f->tasks[k].id;
			suggest_hint(&hint, id, names, f->ntasks, "tasks are");
			load_error(l, line, col, "task \"%s\" depends on unknown task \"%s\"%s", t->id, id, hint.s);
			buf_release(&hint);
			free(names);
		} else if (&f->tasks[d] == t) {
			load_error(l, line, col, "task \"%s\" depends on itself", t->id);
		} else if (twice) {
			load_error(l, line, col, "task \"%s\" names \"%s\" twice in depends_on", t->id, id);
		} else {
			t->deps[t->ndeps++] = (size_t)d;
		}
	}
}

/* Reports the cycle that task `at` is in or leads to: follows a dependency that is not placed yet until a task comes again. */
static void
report_cycle(struct loader *l, const bool *placed, size_t at)
{
	struct flow *f = l->flow;
	size_t *seen = xcalloc(f->ntasks, sizeof(*seen)), n = 0, first;
	struct buf names = BUF_INIT;
	int line, col;

	for (;;) {
		const struct task_def *t = &f->tasks[at];

		for (first = 0; first < n && seen[first] != at; first++)
			;
		if (first < n)
			break;
		seen[n++] = at;
		for (size_t d = 0; d < t->ndeps; d++) {
			if (!placed[t->deps[d]]) {
				at = t->deps[d];
				break;
			}
		}
	}
	for (size_t i = first; i < n; i++)
		buf_addf(&names, "%s -> ", f->tasks[seen[i]].id);
	buf_adds(&names, f->tasks[seen[first]].id);
	line = f->tasks[seen[first]].line;
	col = f->tasks[seen[first]].col;
	pos_find(f->tasks[seen[first]].pos, "depends_on", &line, &col);
	pos_find(f->tasks[seen[first]].pos, "depends_on/0", &line, &col);
	load_error(l, line, col, "the tasks depend on each other in a circle (each on the next): %s", names.s);
	buf_release(&names);
	free(seen);
}

/* An order that respects depends_on, file order among equals. */
static void
sort_tasks(struct loader *l)
{
	struct flow *f = l->flow;
	bool *placed = xcalloc(f->ntasks + 1, sizeof(*placed));
	size_t n = 0;

	f->topo = xcalloc(f->ntasks + 1, sizeof(*f->topo));
	while (n < f->ntasks) {
		size_t i;

		for (i = 0; i < f->ntasks; i++) {
			size_t d = 0;

			while (d < f->tasks[i].ndeps && placed[f->tasks[i].deps[d]])
				d++;
			if (!placed[i] && d == f->tasks[i].ndeps)
				break;
		}
		if (i == f->ntasks) {
			for (i = 0; placed[i]; i++)
				;
			report_cycle(l, placed, i);
			break;
		}
		placed[i] = true;
		f->topo[n++] = (int)i;
	}
	free(placed);
}

static void
mark_dynamic(struct loader *l)
{
	for (size_t i = 0; i < l->flow->ntasks; i++) {
		struct task_def *t = &l->flow->tasks[i];

		t->dynamic = expr_dynamic(t->spec) || expr_dynamic(t->env) || expr_dynamic(t->engine_options) ||
			     (t->working_dir && strstr(t->working_dir, "${"));
	}
}

/* Everything else names a task by its id. */
static void
check_duplicates(struct loader *l)
{
	struct flow *f = l->flow;

	for (size_t i = 1; i < f->ntasks; i++) {
		int line = f->tasks[i].line, col = f->tasks[i].col;

		for (size_t k = 0; k < i; k++) {
			if (strcmp(f->tasks[i].id, f->tasks[k].id) != 0)
				continue;
			pos_find(f->tasks[i].pos, "id", &line, &col);
			load_error(l, line, col, "duplicate task id \"%s\"; the first one is in line %d", f->tasks[i].id,
				   f->tasks[k].line);
			break;
		}
	}
}

#define MAX_TASKS 5000

static void
load_tasks(struct loader *l, struct ynode *root)
{
	struct ynode *list = (struct ynode *)ynode_get(root, "tasks");
	const struct ynode *defaults = load_defaults(l, root);
	struct flow *f = l->flow;
	json_t **deps;

	if (list == NULL || list->kind != Y_LIST)
		return; /* reported by the check of the flow's own keys */
	if (list->count == 0 || list->count > MAX_TASKS) {
		load_error(l, list->line, list->col,
			   list->count ? "a flow can have at most 5000 tasks" : "a flow needs at least one task");
		return;
	}
	f->tasks = xcalloc(list->count, sizeof(*f->tasks));
	deps = xcalloc(list->count, sizeof(json_t *));
	for (size_t i = 0; i < list->count; i++) {
		json_t *pos = json_object(), *j = check_task(l, list->items[i], i, defaults, pos);

		if (j) {
			struct task_def *t = &f->tasks[f->ntasks];

			build_task(l, t, j, pos, list->items[i]);
			refuse_early_refs(l, t, j);
			check_engine(l, t);
			flow_check_spark(l, t);
			deps[f->ntasks++] = json_incref(json_object_get(j, "depends_on"));
			json_decref(j);
		}
		json_decref(pos);
	}
	check_duplicates(l);
	for (size_t i = 0; i < f->ntasks; i++) {
		/* A task that was too broken to build must not make others wrong. */
		if (f->ntasks == list->count)
			link_deps(l, &f->tasks[i], deps[i]);
		json_decref(deps[i]);
	}
	free(deps);
	sort_tasks(l);
	mark_dynamic(l);
}

int
flow_spec_resolved(const struct task_def *t, json_t **spec, struct err *e)
{
	const char *type = task_type_name(t->type);
	struct diags diags = DIAGS_INIT;
	struct check c = { .diags = &diags, .resolved = true, .before = t->spec, .partial = true, .path = BUF_INIT };
	char *owner = xasprintf("task \"%s\"", t->id);
	struct ynode *n = yaml_from_json(*spec);
	struct buf problems = BUF_INIT;
	json_t *checked;
	int rc = 0;

	c.owner = owner;
	checked = check_object(&c, &type, 1, n);
	for (size_t i = 0; i < diags.count; i++)
		buf_addf(&problems, "%s%s", i ? "; " : "", diags.items[i].message);
	if (diags.errors > 0) {
		rc = err_set(e, ERR_UNPROCESSABLE, "%s", problems.s);
		json_decref(checked);
	} else {
		json_decref(*spec);
		*spec = checked;
	}
	ynode_free(n);
	buf_release(&problems);
	buf_release(&c.path);
	diags_release(&diags);
	free(owner);
	return rc;
}

/* ---- schedules ---- */

/* A lone schedule is "schedule/cron", one of a list "schedule/0/cron". */
static void
place_schedule(const struct loader *l, size_t index, const char *key, int *line, int *col)
{
	char path[64];

	pos_find(l->pos, "schedule", line, col);
	snprintf(path, sizeof(path), "schedule/%s", key);
	pos_find(l->pos, path, line, col);
	snprintf(path, sizeof(path), "schedule/%zu", index);
	if (json_object_get(l->pos, path)) {
		snprintf(path, sizeof(path), "schedule/%zu/%s", index, key);
		pos_find(l->pos, path, line, col);
	}
}

/* A date or time; without an offset it is local time in the schedule's zone. */
static wall_us
local_time(struct loader *l, const struct schedule_def *s, const json_t *j, const char *key, size_t index)
{
	const char *text = json_string_value(json_object_get(j, key)), *tail;
	int line = 0, col = 0;
	wall_us t;

	if (text == NULL)
		return 0;
	if (time_parse(text, &t) < 0) {
		place_schedule(l, index, key, &line, &col);
		load_error(
			l, line, col,
			"\"%s\" of the schedule must be a date or time such as 2026-11-21 or 2026-11-21T06:00:00Z, not \"%.40s\"",
			key, text);
		return 0;
	}
	tail = strlen(text) > 10 ? text + 10 : "";
	if (s->zone && !strpbrk(tail, "Zz+-"))
		t -= zone_offset(s->zone, t - zone_offset(s->zone, t) * US_PER_S) * US_PER_S;
	return t;
}

static void
build_schedule(struct loader *l, struct schedule_def *s, const json_t *j, size_t index)
{
	static const char *const gaps[] = { "shift", "skip" }, *const repeats[] = { "first", "last", "both" },
				 *const catchups[] = { "none", "last", "all" };
	const json_t *dst = json_object_get(j, "dst");
	int line = 0, col = 0;
	struct err e = ERR_INIT;

	place_schedule(l, index, "cron", &line, &col);
	s->cron_text = take_string((json_t *)j, "cron");
	if (s->cron_text && cron_parse(s->cron_text, &s->cron, &e) < 0) {
		load_error(l, line, col, "%s", e.msg);
		err_release(&e);
	}
	s->timezone = take_string((json_t *)j, "timezone");
	if (s->timezone == NULL)
		s->timezone = xstrdup("UTC");
	s->zone = zone_get(s->timezone);
	if (s->zone == NULL) {
		place_schedule(l, index, "timezone", &line, &col);
		load_error(l, line, col, "unknown timezone \"%.60s\"; give an IANA name such as Europe/Madrid", s->timezone);
	}
	s->gap = (enum dst_gap)enum_index(gaps, 2, json_string_value(json_object_get(dst, "gap")));
	s->repeat = (enum dst_repeat)enum_index(repeats, 3, json_string_value(json_object_get(dst, "repeat")));
	s->catchup = (enum catchup)enum_index(catchups, 3, json_string_value(json_object_get(j, "catchup")));
	s->catchup_window = get_dur(j, "catchup_window");
	s->start = local_time(l, s, j, "start", index);
	s->end = local_time(l, s, j, "end", index);
	s->params = json_incref(json_object_get(j, "params"));
	s->enabled = json_is_true(json_object_get(j, "enabled"));
	if (s->start && s->end && s->end <= s->start)
		load_error(l, line, col, "the schedule ends before it starts");
}

/* What the schedule starts must be startable. */
static void
check_schedule_params(struct loader *l, const struct schedule_def *s, size_t index)
{
	json_t *ignored;
	struct err e = ERR_INIT;
	int line = 0, col = 0;

	place_schedule(l, index, "params", &line, &col);
	if (flow_params(l->flow, s->params, &ignored, &e) == 0) {
		json_decref(ignored);
		return;
	}
	load_error(l, line, col, "the params of schedule \"%s\": %s", s->cron_text ? s->cron_text : "", e.msg);
	err_release(&e);
}

static void
load_schedules(struct loader *l, const json_t *list)
{
	struct flow *f = l->flow;
	json_t *item;
	size_t i;

	f->schedules = xcalloc(json_array_size(list) + 1, sizeof(*f->schedules));
	json_array_foreach ((json_t *)list, i, item) {
		if (!json_is_object(item))
			continue;
		build_schedule(l, &f->schedules[f->nschedules], item, i);
		check_schedule_params(l, &f->schedules[f->nschedules++], i);
	}
}

/* ---- the whole ---- */

static void
load_vars(struct loader *l, json_t *vars)
{
	const char *name;
	json_t *v;

	l->flow->vars = json_object();
	json_object_foreach (vars, name, v) {
		json_t *resolved;
		struct err e = ERR_INIT;
		char *path = xasprintf("vars/%s", name);
		int line = 0, col = 0;

		pos_find(l->pos, path, &line, &col);
		free(path);
		if (expr_resolve(v, l->scope, &resolved, &e) == 0) {
			json_object_set_new(l->flow->vars, name, resolved);
		} else {
			load_error(l, line, col, "var \"%s\" can use only ${env.…}, ${config.…} and earlier ${vars.…}: %s", name,
				   e.msg);
			err_release(&e);
			json_object_set_new(l->flow->vars, name, json_string(""));
		}
		json_object_set(l->scope, "vars", l->flow->vars);
	}
}

static void
load_flow_keys(struct loader *l, json_t *j)
{
	static const char *const overlaps[] = { "queue", "skip", "allow" };
	static const char *const isolations[] = { "run", "task" };
	const json_t *concurrency = json_object_get(j, "concurrency");
	struct flow *f = l->flow;

	f->id = take_string(j, "id");
	f->namespace_ = take_string(j, "namespace");
	f->description = take_string(j, "description");
	f->enabled = json_is_true(json_object_get(j, "enabled"));
	f->labels = json_incref(json_object_get(j, "labels"));
	f->env = json_incref(json_object_get(j, "env"));
	f->secrets = json_incref(json_object_get(j, "secrets"));
	f->max_active_runs = (int)json_integer_value(json_object_get(concurrency, "max_active_runs"));
	f->max_active_tasks = (int)json_integer_value(json_object_get(concurrency, "max_active_tasks"));
	f->overlap = (enum overlap)enum_index(overlaps, 3, json_string_value(json_object_get(concurrency, "overlap")));
	f->isolation = (enum isolation)enum_index(isolations, 2, json_string_value(json_object_get(j, "isolation")));
	if (config_foreign(l->config))
		f->isolation = ISOLATION_TASK; /* see refuse_isolation */
	f->timeout = get_dur(j, "timeout");
	load_vars(l, json_object_get(j, "vars"));
	params_build(l, json_object_get(j, "params"));
}

/* The version's name covers the SQL files too. */
static void
hash_flow(struct flow *f, const char *text, size_t len)
{
	struct buf all = BUF_INIT;

	for (size_t i = 0; i < f->ntasks; i++) {
		if (!json_object_get(f->tasks[i].spec, "sql_file"))
			continue;
		if (all.len == 0)
			buf_add(&all, text, len);
		buf_addc(&all, '\0');
		buf_adds(&all, json_string_value(json_object_get(f->tasks[i].spec, "sql")));
	}
	sha256_hex(all.len ? all.s : text, all.len ? all.len : len, f->hash);
	buf_release(&all);
}

static char *
folder_of(const char *file)
{
	char *path = xstrdup(file), *slash = strrchr(path, '/'), *full;

	if (slash)
		slash[slash == path] = '\0';
	full = realpath(slash ? path : ".", NULL);
	if (full == NULL)
		return path;
	free(path);
	return full;
}

/*
 * Another server's catalog keeps no private commits for us: each is visible at once. A flow that asks for more is refused rather
 * than disappointed.
 */
static void
refuse_isolation(struct loader *l, const struct ynode *root)
{
	const struct ynode *asked = ynode_get(root, "isolation");

	if (asked == NULL || asked->kind != Y_SCALAR || strcmp(asked->text, "run") != 0 || !config_foreign(l->config))
		return;
	for (size_t i = 0; i < l->flow->ntasks; i++) {
		const struct task_def *t = &l->flow->tasks[i];

		if (!json_object_get(t->spec, "into"))
			continue;
		load_error(l, asked->line, asked->col,
			   "isolation: run is not possible with the catalog \"%s\", which another server keeps (%s): what task "
			   "\"%s\" writes is visible at once; leave it out or say isolation: task",
			   config_get(l->config, "catalog.name"), config_place(l->config), t->id);
		return;
	}
}

/* What another engine does beside the run must touch nothing of it: its files are its own. */
static void
check_shadow_target(struct loader *l, const struct task_def *t)
{
	const char *path = json_string_value(json_object_get(json_object_get(t->spec, "target"), "path"));
	const json_t *at = json_object_get(t->pos, "target/path");

	if (t->type != TASK_STAGE || path == NULL || strstr(path, "run.id"))
		return;
	load_error(l, json_is_array(at) ? (int)json_integer_value(json_array_get(at, 0)) : t->line,
		   json_is_array(at) ? (int)json_integer_value(json_array_get(at, 1)) : t->col,
		   "the flow has a shadow, which would write over what task \"%s\" stages: have target.path hold ${run.id}",
		   t->id);
}

static void
load_shadow(struct loader *l, const struct ynode *root, json_t *shadow)
{
	const struct ynode *n = ynode_get(root, "shadow"), *engine = n && n->kind == Y_MAP ? ynode_get(n, "engine") : n;
	struct err e = ERR_INIT;
	struct flow *f = l->flow;

	if (!json_is_object(shadow) || engine == NULL)
		return;
	f->shadow = take_string(shadow, "engine");
	f->shadow_share = json_number_value(json_object_get(shadow, "share"));
	f->shadow_keep = get_dur(shadow, "keep");
	f->shadow_engine = json_object();
	for (size_t i = 0; f->shadow && i < f->ntasks; i++) {
		struct task_def *t = &f->tasks[i];
		int rc;

		check_shadow_target(l, t);
		if (t->engine == NULL || strcmp(t->engine, f->shadow) == 0 || !engine_does(f->shadow, t->type))
			continue;
		rc = engine_check_task(f->shadow, t, t->spec, NULL, &e);
		if (rc < 0 && t->type == TASK_EXPORT) { /* it writes nothing in a rehearsal */
			err_release(&e);
			continue;
		}
		json_object_set_new(f->shadow_engine, t->id, json_string(f->shadow));
		if (rc < 0) {
			load_error(l, engine->line, engine->col, "the flow's shadow: %s", e.msg);
			err_release(&e);
		}
	}
	if (config_foreign(l->config))
		load_error(
			l, n->line, n->col,
			"a shadow is not possible with the catalog \"%s\", which another server keeps: what it writes would be "
			"visible at once",
			config_get(l->config, "catalog.name"));
	else if (f->shadow && json_object_size(f->shadow_engine) == 0)
		load_error(l, engine->line, engine->col, "engine \"%s\" of the shadow does no task that is not on it already",
			   f->shadow);
}

static void
load_root(struct loader *l, struct ynode *root)
{
	static const char *const objects[] = { "flow" };
	struct check c = { .file = l->file, .diags = l->diags, .owner = "the flow", .pos = l->pos, .path = BUF_INIT };
	json_t *j = check_object(&c, objects, 1, root);

	buf_release(&c.path);
	if (root->kind == Y_MAP) {
		load_flow_keys(l, j);
		load_tasks(l, root);
		refuse_isolation(l, root);
		load_shadow(l, root, json_object_get(j, "shadow"));
		load_schedules(l, json_object_get(j, "schedule"));
		flow_check_refs(l);
		flow_check_streams(l);
	}
	json_decref(j);
}

static int
diag_order(const void *a, const void *b)
{
	const struct diag *x = a, *y = b;

	if (x->line != y->line)
		return (x->line > y->line) - (x->line < y->line);
	return (x->col > y->col) - (x->col < y->col);
}

struct flow *
flow_load(const char *file, const char *text, size_t len, const struct config *config, struct diags *diags)
{
	struct loader l = { .config = config, .diags = diags, .file = file };
	struct flow *f;
	size_t errors = diags->errors, first = diags->count;
	struct ynode *root = yaml_parse(file, text, len, diags);

	if (root == NULL)
		return NULL;
	f = xcalloc(1, sizeof(*f));
	f->refs = 1;
	f->file = xstrdup(file);
	f->source = xstrndup(text, len);
	l.flow = f;
	l.dir = folder_of(file);
	l.pos = json_object();
	l.scope = json_object();
	if (config) {
		json_object_set(l.scope, "config", config->json);
		json_object_set(l.scope, "env", config->env);
	}
	load_root(&l, root);
	if (diags->errors == errors)
		hash_flow(f, text, len);
	if (diags->count > first + 1)
		qsort(diags->items + first, diags->count - first, sizeof(*diags->items), diag_order);
	ynode_free(root);
	json_decref(l.pos);
	json_decref(l.scope);
	free(l.dir);
	if (diags->errors > errors) {
		flow_unref(f);
		return NULL;
	}
	return f;
}

struct flow *
flow_load_file(const char *file, const struct config *config, struct diags *diags)
{
	struct buf text = BUF_INIT_MAX(YAML_MAX_BYTES);
	struct flow *f = NULL;
	int rc = buf_add_file(&text, file);

	if (rc == -EFBIG)
		diags_add(diags, SEVERITY_ERROR, file, 0, 0, "the file is larger than 10 MB, the most that is read");
	else if (rc < 0)
		diags_add(diags, SEVERITY_ERROR, file, 0, 0, "cannot read the file: %s", strerror(-rc));
	else
		f = flow_load(file, text.s, text.len, config, diags);
	buf_release(&text);
	return f;
}
