/*
 * The grammar as one table of rows. The check, the defaults, "did you mean", the JSON Schema and the reference all come from
 * it, so a key exists exactly when it has a row. A row marked LATER is known, but refused as "not supported yet".
 */
#ifndef FLOWS_GRAMMAR_H
#define FLOWS_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>

enum gtype {
	G_STRING, /* any single value, taken as text */
	G_CHAR,   /* one character of ASCII; with an arg the text may be empty */
	G_ID,     /* [a-z][a-z0-9_-]{0,62} */
	G_BOOL,
	G_INT,
	G_NUMBER,
	G_DURATION, /* normalised to whole microseconds */
	G_SIZE,     /* normalised to whole bytes */
	G_PERCENT,  /* normalised to a share: 10% is 0.1 */
	G_ENUM,     /* arg: the values; "!value" comes later */
	G_OBJECT,   /* arg: the object's name in this table */
	G_ANY,      /* any value, as YAML reads it */
	G_DEP,      /* id of a task; the long form comes later */
	G_SELECT,   /* a column or "expr AS name"; {name: expr} is normalised to that */
};

enum gshape {
	G_ONE,
	G_LIST,
	G_ONE_OR_LIST, /* kept as written */
	G_AS_LIST,     /* one value is normalised to a list of one */
	G_MAP,         /* names to values */
};

enum {
	G_REQUIRED = 1,
	G_LATER = 2,
	G_SHORT = 4, /* a bare value in the object's place is the value of this key */
	G_NAMES = 8, /* map: names are identifiers, since refs spell them */
};

struct grammar_row {
	const char *object, *key;
	enum gshape shape;
	enum gtype type;
	const char *arg; /* values of an enum, name of an object */
	unsigned flags;
	const char *def;   /* default as YAML would write it; NULL: none */
	const char *range; /* "1..100", "0.."; NULL: none */
	const char *doc;
};

/* Exactly one of these keys must be there. */
struct grammar_group {
	const char *object, *keys;
};

extern const struct grammar_row grammar_rows[];
extern const size_t grammar_row_count;
extern const struct grammar_group grammar_groups[];
extern const size_t grammar_group_count;

const struct grammar_row *grammar_find(const char *object, const char *key);
/* The types a task may have, by name; ends with NULL. */
extern const char *const grammar_task_types[];

#endif
