/*
 * Errors that explain themselves. Functions return 0 or a negative code from ERR_MAP; those that can say more take a
 * `struct err *` last, which gets the code and one complete sentence (what, where, why, what to do), gains context on
 * its way up (err_prefix) and is untouched on success.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

/* symbol, stable name (RFC 9457 problem type), HTTP status, title */
#define ERR_MAP(X)                                                                                                               \
	X(INVALID, "invalid", 400, "The request is not valid")                                                                   \
	X(UNAUTHORIZED, "unauthorized", 401, "A valid token is needed")                                                          \
	X(FORBIDDEN, "forbidden", 403, "Not allowed")                                                                            \
	X(NOT_FOUND, "not-found", 404, "Not found")                                                                              \
	X(METHOD, "method-not-allowed", 405, "Method not allowed")                                                               \
	X(CONFLICT, "conflict", 409, "Conflicts with the present state")                                                         \
	X(TOO_LARGE, "too-large", 413, "Too large")                                                                              \
	X(UNPROCESSABLE, "unprocessable", 422, "Understood, but refused")                                                        \
	X(IO, "io", 500, "Input or output failed")                                                                               \
	X(DB, "database", 500, "The database refused a statement")                                                               \
	X(INTERNAL, "internal", 500, "Internal error")                                                                           \
	X(UNSUPPORTED, "not-supported", 501, "Not supported yet")                                                                \
	X(UNAVAILABLE, "unavailable", 503, "Not available now")                                                                  \
	X(TIMEOUT, "timeout", 504, "Took too long")

enum err_code {
	ERR_OK = 0,
	ERR_FIRST_ = -100, /* keeps clear of errno values */
#define X(sym, name, status, title) ERR_##sym,
	ERR_MAP(X)
#undef X
};

struct err {
	int code;  /* 0 or an enum err_code */
	char *msg; /* owned; NULL while code is 0 */
};

#define ERR_INIT                                                                                                                 \
	{                                                                                                                        \
		0, NULL                                                                                                          \
	}
#define MUSTCHECK __attribute__((warn_unused_result))

/* Sets code and message, replacing an earlier one; returns the code. `e` may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_vset(struct err *e, int code, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));
/* Puts context before the message: "context: message". */
void err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Moves `from` into `to` (NULL drops it); returns the code. */
int err_move(struct err *to, struct err *from);
void err_release(struct err *e);

const char *err_name(int code);
const char *err_title(int code);
int err_http_status(int code);

#endif
