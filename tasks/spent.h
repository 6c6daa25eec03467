/* What an attempt's time went into, as metrics of its report: every moment of it belongs to exactly one part. */
#ifndef TASKS_SPENT_H
#define TASKS_SPENT_H

/* clang-format off */
#define SPENT_PARTS(X)                                                                                                           \
	X(OTHER,   "other_us")   /* our own: JSON, files, reports */                                                             \
	X(OPEN,    "open_us")    /* the engine's start */                                                                        \
	X(LOAD,    "load_us")    /* its extensions */                                                                            \
	X(ATTACH,  "attach_us")  /* it meets the catalog */                                                                      \
	X(SQL,     "sql_us")     /* statements, with what they ask the catalog */                                                \
	X(CATALOG, "catalog_us") /* our own requests to the catalog, with the commit */                                          \
	X(HTTP,    "http_us")    /* requests to APIs, with what is waited between them */
/* clang-format on */

enum spent {
#define X(name, metric) SPENT_##name,
	SPENT_PARTS(X)
#undef X
};

/* From here on time is counted, first as OTHER. */
void spent_start(void);
/* What runs until the matching spent_leave is `part`, unless it is within another part: the outer one counts. */
enum spent spent_enter(enum spent part);
void spent_leave(enum spent before);
/* Reports the metrics, and engine_us as their sum. */
void spent_report(void);

#endif
