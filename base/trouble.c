#include "base/trouble.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"

static const char *const trouble_names[] = {
#define X(sym, name) [TROUBLE_##sym] = name,
	TROUBLES(X)
#undef X
};

static struct {
	char *message; /* NULL: no trouble */
	wall_us since;
	mono_us began;
} troubles[TROUBLE_COUNT];

static unsigned news_count;

unsigned
troubles_news(void)
{
	return news_count;
}

bool
trouble_begin(enum trouble t, const char *fmt, ...)
{
	bool news = troubles[t].message == NULL;
	va_list ap;

	free(troubles[t].message);
	va_start(ap, fmt);
	troubles[t].message = xvasprintf(fmt, ap);
	va_end(ap);
	if (news) {
		news_count++;
		troubles[t].since = clock_wall();
		troubles[t].began = clock_mono();
		log_warn("%s", troubles[t].message);
	}
	return news;
}

void
trouble_end(enum trouble t, const char *fmt, ...)
{
	va_list ap;
	char *text;

	if (troubles[t].message == NULL)
		return;
	free(troubles[t].message);
	troubles[t].message = NULL;
	news_count++;
	va_start(ap, fmt);
	text = xvasprintf(fmt, ap);
	va_end(ap);
	log_info("%s (after %.1f s)", text, (double)(clock_mono() - troubles[t].began) / US_PER_S);
	free(text);
}

bool
trouble_now(enum trouble t, const char **name, wall_us *since, const char **message)
{
	if (troubles[t].message == NULL)
		return false;
	*name = trouble_names[t];
	*since = troubles[t].since;
	*message = troubles[t].message;
	return true;
}

bool
errno_passing(int no)
{
	return no == EAGAIN || no == ENOMEM || no == EMFILE || no == ENFILE || no == ENOSPC || no == EDQUOT;
}
