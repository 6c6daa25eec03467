/*
 * `when`: a boolean expression over refs, read and evaluated in one pass by precedence climbing. A part that cannot change the
 * result any more (the right side of `false and …`) is read but not evaluated, so it may name what has no value.
 *
 *   or  <  and  <  not  <  == != < <= > >= in  <  literals, refs, lists, parentheses
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "flows/expr.h"
#include "flows/ref.h"

#define MAX_NESTING 64

struct parser {
	const char *text;
	size_t at;
	const json_t *scope;
	struct err *e;
	int skip; /* > 0: read only */
	int depth;
};

static int parse_or(struct parser *p, json_t **out);

static int
fail_at(struct parser *p, size_t at, const char *what)
{
	return err_set(p->e, ERR_UNPROCESSABLE, "when: %s at character %zu of \"%s\"", what, at + 1, p->text);
}

static void
blanks(struct parser *p)
{
	while (isspace((unsigned char)p->text[p->at]))
		p->at++;
}

/* Takes a word of letters if it comes next. */
static bool
take_word(struct parser *p, const char *word)
{
	size_t n = strlen(word);
	unsigned char behind;

	blanks(p);
	if (strncmp(p->text + p->at, word, n) != 0)
		return false;
	behind = (unsigned char)p->text[p->at + n];
	if (isalnum(behind) || behind == '_')
		return false;
	p->at += n;
	return true;
}

static bool
take_sign(struct parser *p, const char *sign)
{
	size_t n = strlen(sign);

	blanks(p);
	if (strncmp(p->text + p->at, sign, n) != 0)
		return false;
	p->at += n;
	return true;
}

/* A quoted text may hold refs; the quotes inside of a ref belong to the ref. */
static int
parse_string(struct parser *p, json_t **out)
{
	char quote = p->text[p->at];
	size_t open = p->at, start, end, at = p->at + 1;
	struct buf b = BUF_INIT;
	int rc = 0;

	while (p->text[at] && p->text[at] != quote) {
		if (p->text[at] == '$' && p->text[at + 1] == '{' && (rc = ref_find(p->text, at, &start, &end, p->e)) > 0) {
			json_t *value;

			if (p->skip == 0) {
				rc = ref_value(p->text, start, end, p->scope, false, &value, p->e);
				if (rc < 0)
					break;
				ref_add_text(&b, value);
				json_decref(value);
			}
			at = end;
			continue;
		}
		if (rc < 0)
			break;
		buf_addc(&b, p->text[at++]);
	}
	if (rc >= 0 && p->text[at] != quote)
		rc = fail_at(p, open, "a text that begins here is not closed");
	if (rc >= 0) {
		p->at = at + 1;
		*out = json_stringn(b.s, b.len);
		rc = 0;
	}
	buf_release(&b);
	return rc;
}

static int
parse_list(struct parser *p, json_t **out)
{
	json_t *list = json_array(), *item;

	p->at++;
	if (!take_sign(p, "]")) {
		do {
			if (parse_or(p, &item) < 0) {
				json_decref(list);
				return ERR_UNPROCESSABLE;
			}
			json_array_append_new(list, item);
		} while (take_sign(p, ","));
		if (!take_sign(p, "]")) {
			json_decref(list);
			return fail_at(p, p->at, "\"]\" is missing");
		}
	}
	*out = list;
	return 0;
}

static int
parse_number(struct parser *p, json_t **out)
{
	const char *from = p->text + p->at;
	size_t n = strspn(from, "+-0123456789.eE");
	char *text = xstrndup(from, n), *end;
	json_error_t ignored;

	*out = json_loads(text, JSON_DECODE_ANY, &ignored);
	if (*out == NULL) {
		double d = strtod(text, &end);

		*out = *end == '\0' ? json_real(d) : NULL;
	}
	free(text);
	if (*out == NULL)
		return fail_at(p, p->at, "this is not a number");
	p->at += n;
	return 0;
}

static int
parse_ref(struct parser *p, json_t **out)
{
	size_t start, end;
	bool has_default;
	char *path;
	int rc = ref_find(p->text, p->at, &start, &end, p->e);

	if (rc < 0)
		return rc;
	if (p->skip) {
		rc = ref_parse(p->text, start, end, &path, &has_default, p->e);
		if (rc < 0)
			return rc;
		free(path);
		*out = json_null();
	} else {
		rc = ref_value(p->text, start, end, p->scope, true, out, p->e);
		if (rc < 0)
			return rc;
	}
	p->at = end;
	return 0;
}

static int
parse_atom(struct parser *p, json_t **out)
{
	char c;

	blanks(p);
	c = p->text[p->at];
	if (c == '\'' || c == '"')
		return parse_string(p, out);
	if (c == '$' && p->text[p->at + 1] == '{')
		return parse_ref(p, out);
	if (c == '[')
		return parse_list(p, out);
	if (isdigit((unsigned char)c) || c == '-' || c == '+')
		return parse_number(p, out);
	if (take_sign(p, "(")) {
		if (parse_or(p, out) < 0)
			return ERR_UNPROCESSABLE;
		if (take_sign(p, ")"))
			return 0;
		json_decref(*out);
		return fail_at(p, p->at, "\")\" is missing");
	}
	if (take_word(p, "true"))
		*out = json_true();
	else if (take_word(p, "false"))
		*out = json_false();
	else if (take_word(p, "null"))
		*out = json_null();
	else if (c == '\0')
		return fail_at(p, p->at, "the expression ends too early");
	else
		return fail_at(p, p->at, "not understood (a text needs quotes, a name is ${scope.name}):");
	return 0;
}

static bool
as_number(const json_t *v, double *out)
{
	char *end;

	if (json_is_number(v)) {
		*out = json_number_value(v);
		return true;
	}
	if (!json_is_string(v) || *json_string_value(v) == '\0' || isspace((unsigned char)*json_string_value(v)))
		return false;
	*out = strtod(json_string_value(v), &end);
	return *end == '\0';
}

/* -1, 0, 1, or 2 when the two cannot be ordered. A number and a text that reads as a number compare as numbers, since commands
 * report texts. */
static int
compare(const json_t *a, const json_t *b)
{
	double x, y;

	if (json_is_string(a) && json_is_string(b)) {
		int c = strcmp(json_string_value(a), json_string_value(b));

		return (c > 0) - (c < 0);
	}
	if (json_is_integer(a) && json_is_integer(b))
		return (json_integer_value(a) > json_integer_value(b)) - (json_integer_value(a) < json_integer_value(b));
	if ((json_is_number(a) || json_is_number(b)) && as_number(a, &x) && as_number(b, &y))
		return (x > y) - (x < y);
	if (json_is_boolean(a) && json_is_string(b))
		return strcmp(json_is_true(a) ? "true" : "false", json_string_value(b)) == 0 ? 0 : 2;
	if (json_is_string(a) && json_is_boolean(b))
		return compare(b, a);
	return json_equal(a, b) ? 0 : 2;
}

/* Is `a` in `b`: an item of a list, a key of a map, a part of a text. */
static int
contains(const json_t *a, const json_t *b)
{
	json_t *item;
	size_t i;

	if (json_is_array(b)) {
		json_array_foreach (b, i, item) {
			if (compare(a, item) == 0)
				return 1;
		}
		return 0;
	}
	if (json_is_object(b) && json_is_string(a))
		return json_object_get(b, json_string_value(a)) != NULL;
	if (json_is_string(b) && json_is_string(a))
		return strstr(json_string_value(b), json_string_value(a)) != NULL;
	return -1;
}

enum op { OP_EQ, OP_NE, OP_LE, OP_GE, OP_LT, OP_GT, OP_IN, OP_NOT_IN, OP_NONE };

static enum op
take_op(struct parser *p)
{
	static const char *const signs[] = { "==", "!=", "<=", ">=", "<", ">" };
	size_t before;

	for (int i = 0; i < 6; i++) {
		if (take_sign(p, signs[i]))
			return (enum op)i;
	}
	if (take_word(p, "in"))
		return OP_IN;
	before = p->at;
	if (take_word(p, "not")) {
		if (take_word(p, "in"))
			return OP_NOT_IN;
		p->at = before;
	}
	return OP_NONE;
}

static int
apply(struct parser *p, size_t at, enum op op, const json_t *a, const json_t *b, bool *out)
{
	int c;

	if (op == OP_IN || op == OP_NOT_IN) {
		c = contains(a, b);
		if (c < 0)
			return fail_at(p, at, "\"in\" needs a list, a map or a text on its right side;");
		*out = (c == 1) == (op == OP_IN);
		return 0;
	}
	c = compare(a, b);
	if (c == 2 && op != OP_EQ && op != OP_NE)
		return fail_at(p, at, "the two sides have types that cannot be ordered;");
	switch (op) {
	case OP_EQ:
		*out = c == 0;
		break;
	case OP_NE:
		*out = c != 0;
		break;
	case OP_LE:
		*out = c <= 0;
		break;
	case OP_GE:
		*out = c >= 0;
		break;
	case OP_LT:
		*out = c < 0;
		break;
	default:
		*out = c > 0;
		break;
	}
	return 0;
}

static int
parse_compare(struct parser *p, json_t **out)
{
	json_t *right;
	size_t at;
	enum op op;
	bool result = false;
	int rc = parse_atom(p, out);

	if (rc < 0)
		return rc;
	blanks(p);
	at = p->at;
	op = take_op(p);
	if (op == OP_NONE) {
		if (p->text[p->at] == '=') {
			json_decref(*out);
			return fail_at(p, at, "\"=\" is not an operator (write \"==\")");
		}
		return 0;
	}
	rc = parse_atom(p, &right);
	if (rc == 0) {
		if (p->skip == 0)
			rc = apply(p, at, op, *out, right, &result);
		json_decref(right);
	}
	json_decref(*out);
	*out = rc == 0 ? json_boolean(result) : NULL;
	return rc;
}

/* Takes over `v`. */
static int
truth(struct parser *p, size_t at, json_t *v, bool *out)
{
	int rc = 0;

	if (json_is_boolean(v))
		*out = json_is_true(v);
	else if (json_is_string(v) && (strcmp(json_string_value(v), "true") == 0 || strcmp(json_string_value(v), "false") == 0))
		*out = json_string_value(v)[0] == 't';
	else if (p->skip)
		*out = false;
	else
		rc = fail_at(p, at, "a value that is neither true nor false stands where a condition is needed,");
	json_decref(v);
	return rc;
}

static int
parse_not(struct parser *p, json_t **out)
{
	size_t at;
	bool value;
	int rc;

	if (++p->depth > MAX_NESTING)
		return fail_at(p, p->at, "nested too deeply");
	if (take_word(p, "not") || (p->text[p->at] == '!' && p->text[p->at + 1] != '=' && take_sign(p, "!"))) {
		at = p->at;
		rc = parse_not(p, out);
		if (rc == 0)
			rc = truth(p, at, *out, &value);
		*out = rc == 0 ? json_boolean(!value) : NULL;
	} else {
		rc = parse_compare(p, out);
	}
	p->depth--;
	return rc;
}

/* `and` (is_or false) and `or` have the same form: the right side counts only while the left one leaves it open. */
static int
parse_chain(struct parser *p, bool is_or, json_t **out)
{
	int (*operand)(struct parser *, json_t **);
	const char *word = is_or ? "or" : "and", *sign = is_or ? "||" : "&&";
	bool left, right;
	size_t at;
	int rc;

	blanks(p);
	at = p->at;
	operand = is_or ? NULL : parse_not;
	rc = operand ? operand(p, out) : parse_chain(p, false, out);
	while (rc == 0 && (take_word(p, word) || take_sign(p, sign))) {
		rc = truth(p, at, *out, &left);
		if (rc < 0)
			break;
		p->skip += left == is_or;
		blanks(p);
		at = p->at;
		rc = operand ? operand(p, out) : parse_chain(p, false, out);
		if (rc == 0)
			rc = truth(p, at, *out, &right);
		p->skip -= left == is_or;
		if (rc == 0)
			*out = json_boolean(left == is_or ? left : right);
	}
	return rc;
}

static int
parse_or(struct parser *p, json_t **out)
{
	int rc;

	if (++p->depth > MAX_NESTING)
		return fail_at(p, p->at, "nested too deeply");
	rc = parse_chain(p, true, out);
	p->depth--;
	return rc;
}

static int
evaluate(struct parser *p, bool *out)
{
	json_t *value = NULL;
	int rc = parse_or(p, &value);

	if (rc < 0)
		return rc;
	blanks(p);
	if (p->text[p->at] != '\0') {
		json_decref(value);
		return fail_at(p, p->at, "something is left over");
	}
	return truth(p, 0, value, out);
}

int
expr_when(const char *text, const json_t *scope, bool *out, struct err *e)
{
	struct parser p = { .text = text, .scope = scope, .e = e };

	return evaluate(&p, out);
}

int
expr_when_check(const char *text, struct err *e)
{
	struct parser p = { .text = text, .e = e, .skip = 1 };
	bool ignored;

	return evaluate(&p, &ignored);
}
