/*
 * Config: the file's tree, refs to the environment resolved in it, SLUICE_SECTION_KEY variables put over it, then checked by
 * the same table as flows.
 */
#include "flows/config.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/table_policy.h"
#include "flows/check.h"
#include "flows/expr.h"

#define CONFIG_MAX ((size_t)10 * 1024 * 1024)

struct reading {
	struct config *config;
	const char *file;
	struct diags *diags;
};

void
config_free(struct config *c)
{
	if (c == NULL)
		return;
	free(c->file);
	json_decref(c->json);
	json_decref(c->env);
	free(c);
}

const char *
config_get(const struct config *c, const char *path)
{
	json_t *at = c->json;
	char *copy = xstrdup(path), *save = NULL;

	for (char *p = strtok_r(copy, ".", &save); p && at; p = strtok_r(NULL, ".", &save))
		at = json_object_get(at, p);
	free(copy);
	return json_string_value(at);
}

bool
config_foreign(const struct config *c)
{
	const char *type = c ? config_get(c, "catalog.type") : NULL;

	return type && (strcmp(type, "rest") == 0 || config_apart(c));
}

bool
config_apart(const struct config *c)
{
	const char *type = c ? config_get(c, "catalog.type") : NULL;

	return type && (strcmp(type, "hive") == 0 || strcmp(type, "glue") == 0);
}

const char *
config_place(const struct config *c)
{
	const char *uri = config_get(c, "catalog.uri");

	return uri ? uri : config_get(c, "catalog.type");
}

/* ---- the environment ---- */

static void
env_from_process(json_t *env, char *const *envp)
{
	for (; envp && *envp; envp++) {
		const char *eq = strchr(*envp, '=');

		/* json_stringn refuses what is not UTF-8; such a variable cannot be spelt in a flow either. */
		if (eq && eq > *envp) {
			char *name = xstrndup(*envp, (size_t)(eq - *envp));

			json_object_set_new(env, name, json_string(eq + 1));
			free(name);
		}
	}
}

/* One line of .env: NAME=value, `export ` before it allowed, quotes around the value taken off; \n and \" in double quotes. */
static void
dotenv_line(struct reading *r, const char *path, char *line, int number)
{
	char *name = line + strspn(line, " \t"), *eq, *value, *end, *out;
	char quote;

	if (*name == '#' || *name == '\0')
		return;
	if (strncmp(name, "export ", 7) == 0)
		name += 7 + strspn(name + 7, " \t");
	eq = strchr(name, '=');
	end = name + strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
	if (eq == NULL || end == name || end[strspn(end, " \t")] != '=') {
		diags_add(r->diags, SEVERITY_ERROR, path, number, 1, "a line must be NAME=value");
		return;
	}
	*end = '\0';
	value = eq + 1 + strspn(eq + 1, " \t");
	quote = *value;
	if (quote == '\'' || quote == '"') {
		char *p;

		for (p = out = ++value; *p && *p != quote; p++) {
			if (quote == '"' && *p == '\\' && p[1]) {
				p++;
				*out++ = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
			} else {
				*out++ = *p;
			}
		}
		if (*p != quote) {
			diags_add(r->diags, SEVERITY_ERROR, path, number, 1, "the value of %s has no closing quote", name);
			return;
		}
		*out = '\0';
	} else {
		char *comment = strstr(value, " #");

		if (comment)
			*comment = '\0';
		for (out = value + strlen(value); out > value && isspace((unsigned char)out[-1]); out--)
			out[-1] = '\0';
	}
	if (json_object_get(r->config->env, name) == NULL && json_object_set_new(r->config->env, name, json_string(value)) < 0)
		diags_add(r->diags, SEVERITY_ERROR, path, number, 1, "the value of %s is not text in UTF-8", name);
}

static void
load_dotenv(struct reading *r)
{
	const char *slash = strrchr(r->file, '/');
	char *path = slash ? xasprintf("%.*s/.env", (int)(slash - r->file), r->file) : xstrdup(".env");
	struct buf text = BUF_INIT_MAX(CONFIG_MAX);
	int rc = buf_add_file(&text, path), number = 0;

	if (rc < 0 && rc != -ENOENT) {
		diags_add(r->diags, SEVERITY_ERROR, path, 0, 0, "cannot read the file: %s", strerror(-rc));
	} else if (rc == 0 && text.len > 0) {
		for (char *line = text.s, *next; line; line = next) {
			next = strchr(line, '\n');
			if (next)
				*next++ = '\0';
			line[strcspn(line, "\r")] = '\0';
			dotenv_line(r, path, line, ++number);
		}
	}
	buf_release(&text);
	free(path);
}

/* ---- refs and overrides ---- */

static void
resolve_refs(struct reading *r, struct ynode *n, const json_t *scope)
{
	json_t *in, *out;
	struct err e = ERR_INIT;

	for (size_t i = 0; i < n->count; i++)
		resolve_refs(r, n->items[i], scope);
	if (n->kind != Y_SCALAR || strstr(n->text, "${") == NULL)
		return;
	in = json_string(n->text);
	if (expr_resolve(in, scope, &out, &e) < 0) {
		diags_add(r->diags, SEVERITY_ERROR, r->file, n->text_line, n->text_col, "%s", e.msg);
		err_release(&e);
	} else {
		free(n->text);
		n->text = xstrdup(json_string_value(out));
		json_decref(out);
	}
	json_decref(in);
}

static void
map_set(struct ynode *map, const char *key, struct ynode *value)
{
	for (size_t i = 0; i < map->count; i++) {
		if (strcmp(map->keys[i].name, key) == 0) {
			value->line = map->items[i]->line;
			value->col = map->items[i]->col;
			ynode_free(map->items[i]);
			map->items[i] = value;
			return;
		}
	}
	map->items = xrealloc(map->items, (map->count + 1) * sizeof(struct ynode *));
	map->keys = xrealloc(map->keys, (map->count + 1) * sizeof(*map->keys));
	map->keys[map->count] = (struct ykey){ xstrdup(key), 0, 0 };
	map->items[map->count] = value;
	map->cap = ++map->count;
}

static struct ynode *
text_node(const char *text)
{
	json_t *j = json_string(text);
	struct ynode *n = yaml_from_json(j);

	n->plain = true;
	json_decref(j);
	return n;
}

static struct ynode *
section_of(struct ynode *root, const char *name)
{
	struct ynode *section = (struct ynode *)ynode_get(root, name);
	json_t *empty;

	if (section)
		return section->kind == Y_MAP ? section : NULL;
	empty = json_object();
	section = yaml_from_json(empty);
	json_decref(empty);
	map_set(root, name, section);
	return section;
}

static char *
variable_name(const char *section, const char *key)
{
	char *name = xasprintf("SLUICE_%s%s%s", section, *key ? "_" : "", key);

	for (char *p = name; *p; p++)
		*p = (char)toupper((unsigned char)*p);
	return name;
}

/* Entries of a map of names: SLUICE_TABLES_ORDERS sets tables.orders. */
static void
override_map(struct ynode *root, const char *section, const json_t *env)
{
	char *prefix = variable_name(section, ""), *key;
	const char *name;
	size_t n = strlen(prefix);
	json_t *v;

	json_object_foreach ((json_t *)env, name, v) {
		struct ynode *map;

		if (strncmp(name, prefix, n) != 0 || name[n] != '_' || name[n + 1] == '\0')
			continue;
		map = section_of(root, section);
		key = xstrdup(name + n + 1);
		for (char *p = key; *p; p++)
			*p = (char)tolower((unsigned char)*p);
		if (map)
			map_set(map, key, text_node(json_string_value(v)));
		free(key);
	}
	free(prefix);
}

static void
apply_overrides(struct ynode *root, const json_t *env)
{
	for (size_t i = 0; i < grammar_row_count; i++) {
		const struct grammar_row *top = &grammar_rows[i];
		char *name;
		json_t *v;

		if (strcmp(top->object, "config") != 0)
			continue;
		if (top->shape == G_MAP && top->type == G_STRING) {
			override_map(root, top->key, env);
		} else if (top->type == G_STRING) {
			name = variable_name(top->key, "");
			v = json_object_get(env, name);
			if (v)
				map_set(root, top->key, text_node(json_string_value(v)));
			free(name);
		}
		for (size_t k = 0; top->type == G_OBJECT && top->shape == G_ONE && k < grammar_row_count; k++) {
			struct ynode *section;

			if (strcmp(grammar_rows[k].object, top->arg) != 0)
				continue;
			name = variable_name(top->key, grammar_rows[k].key);
			v = json_object_get(env, name);
			section = v ? section_of(root, top->key) : NULL;
			if (section)
				map_set(section, grammar_rows[k].key, text_node(json_string_value(v)));
			free(name);
		}
	}
}

/* ---- the whole ---- */

static bool
is_remote(const char *path)
{
	return strstr(path, "://") != NULL && strncmp(path, "file://", 7) != 0 && strncmp(path, "s3://", 5) != 0 &&
	       strncmp(path, "s3a://", 6) != 0;
}

static char *
absolute(const struct reading *r, const char *path)
{
	const char *slash = r->file ? strrchr(r->file, '/') : NULL;
	char *folder, *full, *out;

	if (*path == '/' || *path == '\0' || strstr(path, "://"))
		return xstrdup(path);
	if (strncmp(path, "./", 2) == 0)
		path += 2;
	folder = slash ? xstrndup(r->file, (size_t)(slash - r->file) + (slash == r->file)) : xstrdup(".");
	full = realpath(folder, NULL);
	out = xasprintf("%s/%s", full ? full : folder, path);
	free(full);
	free(folder);
	return out;
}

static void
set_absolute(const struct reading *r, json_t *object, const char *key)
{
	const char *path = json_string_value(json_object_get(object, key));
	char *full;

	if (path == NULL)
		return;
	full = absolute(r, path);
	json_object_set_new(object, key, json_string(full));
	free(full);
}

/* A catalog of another server. What is wrong with credentials is said without them. */
static void
check_rest(struct reading *r, json_t *catalog)
{
	const char *uri = json_string_value(json_object_get(catalog, "uri")),
		   *credential = json_string_value(json_object_get(catalog, "credential"));
	size_t n = uri ? strlen(uri) : 0;

	if (uri == NULL)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0, "a catalog of type rest needs \"uri\"");
	else if (strncmp(uri, "http://", 7) != 0 && strncmp(uri, "https://", 8) != 0)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0,
			  "the uri of a catalog of type rest must begin with http:// or https://, not \"%s\"", uri);
	if (credential && (*credential == ':' || strchr(credential, ':') == NULL))
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0, "the credential of the catalog must be ID:SECRET");
	if (credential && json_object_get(catalog, "token"))
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0,
			  "the catalog has both a token and a credential; one of them is enough");
	/* As clients take it: with or without what the paths begin with. */
	while (n && uri[n - 1] == '/')
		n--;
	if (n > 3 && strncmp(uri + n - 3, "/v1", 3) == 0)
		n -= 3;
	if (uri)
		json_object_set_new(catalog, "uri", json_stringn(uri, n));
}

static void
check_hive(struct reading *r, const json_t *catalog)
{
	const char *uri = json_string_value(json_object_get(catalog, "uri"));

	if (uri == NULL)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0,
			  "a catalog of type hive needs \"uri\", the metastore's thrift://HOST:PORT");
	else if (strncmp(uri, "thrift://", 9) != 0)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0,
			  "the uri of a catalog of type hive must begin with thrift://, not \"%s\"", uri);
}

static void
check_glue(struct reading *r, const json_t *catalog)
{
	const char *endpoint = json_string_value(json_object_get(catalog, "endpoint"));

	if (json_object_get(catalog, "warehouse") == NULL)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0,
			  "a catalog of type glue needs \"warehouse\", where new tables lie: s3://BUCKET/FOLDER");
	if (endpoint && strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0,
			  "the endpoint of a catalog of type glue must begin with http:// or https://, not \"%s\"", endpoint);
}

/* Nobody can say how long another engine's write takes, but that it is done within the day. */
static void
check_policy(struct reading *r, const json_t *policy, const char *of)
{
	const json_t *days = json_object_get(policy, "orphan_days"), *size = json_object_get(policy, "target_file_size");

	if (size && json_integer_value(size) < 1)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0, "target_file_size of %s must be at least 1", of);
	if (days && json_integer_value(days) < 1)
		diags_add(r->diags, SEVERITY_WARNING, r->file, 0, 0,
			  "orphan_days of %s is under a day: what another engine is writing meanwhile looks like an orphan and "
			  "may lose files",
			  of);
}

/* From here on the globs of tables are without the catalog's name. */
static void
complete_housekeeping(struct reading *r, json_t *j)
{
	json_t *housekeeping = json_object_get(j, "housekeeping"), *tables = json_object(), *policy;
	const char *name = json_string_value(json_object_get(json_object_get(j, "catalog"), "name")), *glob, *key;

	check_policy(r, housekeeping, "housekeeping");
	json_object_foreach (json_object_get(housekeeping, "tables"), glob, policy) {
		key = table_glob(glob, name);
		if (!strpbrk(key, ".*?"))
			diags_add(
				r->diags, SEVERITY_ERROR, r->file, 0, 0,
				"\"%.80s\" in housekeeping.tables is not a table: write namespace.table, or a glob such as stg.*",
				glob);
		check_policy(r, policy, glob);
		if (json_object_get(tables, key))
			json_object_update(json_object_get(tables, key), policy);
		else
			json_object_set(tables, key, policy);
	}
	json_object_set_new(housekeeping, "tables", tables);
}

/* What the grammar does not know: paths, the catalog's type, and what is accepted but not used yet. */
static void
complete_config(struct reading *r, json_t *j)
{
	json_t *catalog = json_object_get(j, "catalog"), *paths = json_object_get(j, "paths"), *v;
	const char *key, *warehouse, *type;
	void *tmp;

	json_object_foreach_safe(paths, tmp, key, v) set_absolute(r, paths, key);
	complete_housekeeping(r, j);
	set_absolute(r, json_object_get(j, "server"), "flows");
	set_absolute(r, json_object_get(j, "server"), "archive");
	set_absolute(r, json_object_get(j, "s3"), "ca");
	if (!json_object_get(catalog, "type"))
		json_object_set_new(catalog, "type",
				    json_string(json_object_get(catalog, "jdbc_uri") ? "jdbc"
						: json_object_get(catalog, "uri")    ? "rest"
										     : "sluice"));
	type = json_string_value(json_object_get(catalog, "type"));
	if (strcmp(type, "rest") == 0)
		check_rest(r, catalog);
	else
		set_absolute(r, catalog, "warehouse");
	warehouse = json_string_value(json_object_get(catalog, "warehouse"));
	if (strcmp(type, "jdbc") == 0 && !json_object_get(catalog, "jdbc_uri"))
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0, "a catalog of type jdbc needs \"jdbc_uri\"");
	if (strcmp(type, "hive") == 0)
		check_hive(r, catalog);
	if (strcmp(type, "glue") == 0)
		check_glue(r, catalog);
	if (warehouse && strcmp(type, "rest") != 0 && is_remote(warehouse))
		diags_add(r->diags, SEVERITY_WARNING, r->file, 0, 0,
			  "object stores other than S3 are not supported yet: flows that use tables in %s are refused",
			  warehouse);
}

static struct ynode *
read_tree(struct reading *r)
{
	struct buf text = BUF_INIT_MAX(CONFIG_MAX);
	struct ynode *root = NULL;
	int rc = r->file ? buf_add_file(&text, r->file) : 0;

	if (rc == -EFBIG)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0, "the file is larger than 10 MB, the most that is read");
	else if (rc < 0)
		diags_add(r->diags, SEVERITY_ERROR, r->file, 0, 0, "cannot read the config file: %s", strerror(-rc));
	else
		root = yaml_parse(r->file, text.s, text.len, r->diags);
	buf_release(&text);
	return root;
}

struct config *
config_load(const char *file, char *const *envp, struct diags *diags)
{
	static const char *const objects[] = { "config" };
	struct config *c = xcalloc(1, sizeof(*c));
	struct reading r = { .config = c, .file = file, .diags = diags };
	struct check check = { .file = file, .diags = diags, .owner = "the config", .path = BUF_INIT };
	size_t errors = diags->errors;
	struct ynode *root;

	c->file = xstrdup_null(file);
	c->env = json_object();
	env_from_process(c->env, envp);
	if (file)
		load_dotenv(&r);
	root = read_tree(&r);
	if (root && root->kind == Y_MAP) {
		json_t *scope = json_pack("{s:O}", "env", c->env);

		resolve_refs(&r, root, scope);
		json_decref(scope);
		apply_overrides(root, c->env);
	}
	if (root) {
		c->json = check_object(&check, objects, 1, root);
		if (diags->errors == errors)
			complete_config(&r, c->json);
	}
	buf_release(&check.path);
	ynode_free(root);
	if (diags->errors > errors) {
		config_free(c);
		return NULL;
	}
	return c;
}
