/*
 * A tree against the grammar: reports every problem with its place and returns normalised JSON, defaults filled in, durations in
 * microseconds, sizes in bytes.
 */
#ifndef FLOWS_CHECK_H
#define FLOWS_CHECK_H

#include <jansson.h>
#include <stdbool.h>

#include "flows/diag.h"
#include "flows/grammar.h"
#include "flows/yaml.h"

struct check {
	const char *file;
	struct diags *diags;
	const char *owner;    /* "the flow", "task \"stage\"": what messages call the object */
	bool refs;            /* a ref may stand for any single value; it is kept as text */
	bool any_key;         /* unknown keys are let pass: of a task type that is not supported yet */
	bool resolved;        /* refs were resolved already: a number or boolean may have become a text */
	const json_t *before; /* resolved: the object as the loader left it, whose durations are normalised already */
	bool partial;         /* neither required keys nor defaults: for `defaults` */
	json_t *pos; /* object that gets "path/of/text" -> [line, col] for every text, and for the maps and lists around; may be
			NULL */
	struct buf path; /* where we are below the owner, "checks/2" */
};

/*
 * Checks the map `n` against the rows of `objects` taken together. Always returns an object, as complete as the problems leave
 * it; the caller owns it.
 */
json_t *check_object(struct check *c, const char *const *objects, size_t nobjects, const struct ynode *n);
/* Reports a problem at a node. */
void check_error(struct check *c, const struct ynode *at, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Is there a ref in the text? */
bool text_has_ref(const char *text);
/* The id grammar. */
bool id_is_valid(const char *text);

#endif
