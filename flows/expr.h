/*
 * References and conditions. A scope is a JSON object {params, run, flow, tasks, env, secrets, vars, config, item}.
 *
 *   ref     ${scope.path | filter | filter(arg)}     $${ is a literal ${
 *           filters: upper lower trim date(format) default(x) json quote int float length first last join(s) replace(a, b)
 *   when    a boolean expression over refs: == != < <= > >= in, and or not, parentheses, literals
 */
#ifndef FLOWS_EXPR_H
#define FLOWS_EXPR_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

/*
 * Returns through `out` a new value like `in` with every ref in every string replaced. A string that is one single ref
 * keeps the value's own JSON type; otherwise the value is written as text (objects and lists as JSON).
 * ERR_UNPROCESSABLE names the ref that has no value.
 */
MUSTCHECK int expr_resolve(const json_t *in, const json_t *scope, json_t **out, struct err *e);
/* Whether any string in it may hold a ref: without one, expr_resolve needs no scope. NULL has none. */
bool expr_dynamic(const json_t *in);
/* Evaluates a `when` text. */
MUSTCHECK int expr_when(const char *text, const json_t *scope, bool *out, struct err *e);
/* Checks the form of a `when` text, whatever its refs are worth. */
MUSTCHECK int expr_when_check(const char *text, struct err *e);
/* Calls `cb` for every ref in a text with its path ("tasks.stage.outputs.path") and byte offset; non-zero from cb stops. */
int expr_refs(const char *text, int (*cb)(const char *path, size_t offset, void *arg), void *arg, struct err *e);

#endif
