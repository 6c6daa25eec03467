/*
 * YAML to a tree in which every node knows its place. A safe subset: one document, no anchors, aliases or tags, no duplicate
 * keys, bounded in size, depth and number of values; only true and false are booleans (YAML 1.2 core).
 */
#ifndef FLOWS_YAML_H
#define FLOWS_YAML_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "flows/diag.h"

#define YAML_MAX_BYTES ((size_t)10 * 1024 * 1024)

enum ynode_kind { Y_SCALAR, Y_LIST, Y_MAP };

struct ynode {
	enum ynode_kind kind;
	int line, col;           /* where the node begins */
	int text_line, text_col; /* a scalar's first content character: behind the quote, or in the line below `|` */
	char *text;              /* scalar: a C string (a NUL byte is a syntax error) */
	bool plain;              /* scalar without quotes: only these can be null, true, 3 … */
	struct ynode **items;    /* list: the items; map: the values */
	struct ykey *keys;       /* map: one an item */
	size_t count, cap;
};

struct ykey {
	char *name;
	int line, col;
};

/* The tree, or NULL with the problems in `diags` (a file that is empty gives an empty map). */
struct ynode *yaml_parse(const char *file, const char *text, size_t len, struct diags *diags);
/* A tree from JSON, without places: what was YAML once can be checked again after its refs were resolved. */
struct ynode *yaml_from_json(const json_t *value);
void ynode_free(struct ynode *n);
/* The value of a key of a map; NULL when absent. */
const struct ynode *ynode_get(const struct ynode *map, const char *key);
/* The JSON value that a node means: null, booleans and numbers where plain text reads so. The caller owns it. */
json_t *ynode_json(const struct ynode *n);
/* null, ~ or nothing. */
bool ynode_is_null(const struct ynode *n);
/* "a text", "a list", …: for messages. */
const char *ynode_kind_name(const struct ynode *n);

#endif
