#include "tasks/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPORT_FD 3

static int failure;

int
report_failure(void)
{
	return failure;
}

void
report(const char *key, json_t *value)
{
	json_t *line = json_pack("{s:o}", key, value);
	char *text = json_dumps(line, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;

	if (text) {
		text[len++] = '\n'; /* in the place of the zero byte */
		for (size_t done = 0; done < len;) {
			ssize_t n = write(REPORT_FD, text + done, len - done);

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0) {
				failure = failure ? failure : errno;
				break;
			}
			done += (size_t)n;
		}
	}
	free(text);
	json_decref(line);
}

void
report_metric(const char *name, json_int_t value)
{
	report("metrics", json_pack("{s:I}", name, value));
}

void
report_output(const char *name, json_t *value)
{
	report("outputs", json_pack("{s:o}", name, value));
}
