#include "err.h"

#include <stdlib.h>

#include "alloc.h"

static const struct {
	int code;
	const char *name;
	int status;
	const char *title;
} err_rows[] = {
#define X(sym, name, status, title) { ERR_##sym, name, status, title },
	ERR_MAP(X)
#undef X
};

int
err_vset(struct err *e, int code, const char *fmt, va_list ap)
{
	char *msg;

	if (e == NULL)
		return code;
	msg = xvasprintf(fmt, ap); /* before the free: an argument may be the old message */
	free(e->msg);
	e->msg = msg;
	e->code = code;
	return code;
}

int
err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(e, code, fmt, ap);
	va_end(ap);
	return code;
}

void
err_prefix(struct err *e, const char *fmt, ...)
{
	char *head, *msg;
	va_list ap;

	if (e == NULL || e->code == 0)
		return;
	va_start(ap, fmt);
	head = xvasprintf(fmt, ap);
	va_end(ap);
	msg = xasprintf("%s: %s", head, e->msg);
	free(head);
	free(e->msg);
	e->msg = msg;
}

int
err_move(struct err *to, struct err *from)
{
	int code = from->code;

	if (to == NULL) {
		err_release(from);
		return code;
	}
	free(to->msg);
	*to = *from;
	*from = (struct err)ERR_INIT;
	return code;
}

void
err_release(struct err *e)
{
	free(e->msg);
	*e = (struct err)ERR_INIT;
}

const char *
err_name(int code)
{
	for (size_t i = 0; i < sizeof(err_rows) / sizeof(err_rows[0]); i++)
		if (err_rows[i].code == code)
			return err_rows[i].name;
	return "internal";
}

const char *
err_title(int code)
{
	for (size_t i = 0; i < sizeof(err_rows) / sizeof(err_rows[0]); i++)
		if (err_rows[i].code == code)
			return err_rows[i].title;
	return "Internal error";
}

int
err_http_status(int code)
{
	for (size_t i = 0; i < sizeof(err_rows) / sizeof(err_rows[0]); i++)
		if (err_rows[i].code == code)
			return err_rows[i].status;
	return 500;
}
