#include "cli/term.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"

bool
term_colours(FILE *f)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fileno(f)) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

int
term_width(FILE *f)
{
	struct winsize ws;

	if (isatty(fileno(f)) && ioctl(fileno(f), TIOCGWINSZ, &ws) == 0 && ws.ws_col >= 20)
		return ws.ws_col;
	return 0; /* not a terminal: no limit */
}

const char *
term_state(FILE *f, const char *state)
{
	static const struct {
		const char *state, *code;
	} colours[] = {
		{ "success", "\033[32m" },    { "failed", "\033[31m" },          { "timed_out", "\033[31m" },
		{ "lost", "\033[31m" },       { "cancelled", "\033[33m" },       { "running", "\033[36m" },
		{ "retry_wait", "\033[33m" }, { "upstream_failed", "\033[35m" }, { "publishing", "\033[36m" },
	};

	if (!term_colours(f) || state == NULL)
		return "";
	for (size_t i = 0; i < sizeof(colours) / sizeof(colours[0]); i++)
		if (strcmp(colours[i].state, state) == 0)
			return colours[i].code;
	return "\033[2m";
}

const char *
term_bold(FILE *f)
{
	return term_colours(f) ? "\033[1m" : "";
}

const char *
term_dim(FILE *f)
{
	return term_colours(f) ? "\033[2m" : "";
}

const char *
term_off(FILE *f)
{
	return term_colours(f) ? "\033[0m" : "";
}

const char *
text_of(const json_t *object, const char *key)
{
	const char *s = text_or_null(object, key);

	return s ? s : "";
}

const char *
text_or_null(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

const char *
term_duration(dur_us d, char out[24])
{
	long s = (long)(d / US_PER_S);

	if (d < 0)
		snprintf(out, 24, "-");
	else if (d < US_PER_S)
		snprintf(out, 24, "%ld ms", (long)(d / US_PER_MS));
	else if (s < 60)
		snprintf(out, 24, "%.1f s", (double)d / US_PER_S);
	else if (s < 3600)
		snprintf(out, 24, "%ldm%02lds", s / 60, s % 60);
	else
		snprintf(out, 24, "%ldh%02ldm", s / 3600, s / 60 % 60);
	return out;
}

const char *
term_when(const char *text, char out[40])
{
	wall_us t, now = clock_wall();
	long s;

	if (text == NULL || time_parse(text, &t) < 0) {
		snprintf(out, 40, "-");
		return out;
	}
	s = (long)((now - t) / US_PER_S);
	if (s >= 0 && s < 5)
		snprintf(out, 40, "just now");
	else if (s >= 0 && s < 120)
		snprintf(out, 40, "%ld s ago", s);
	else if (s >= 0 && s < 7200)
		snprintf(out, 40, "%ld min ago", s / 60);
	else if (s >= 0 && s < 172800)
		snprintf(out, 40, "%ld h ago", s / 3600);
	else if (s < 0 && s > -120)
		snprintf(out, 40, "in %ld s", -s);
	else if (s < 0 && s > -7200)
		snprintf(out, 40, "in %ld min", -s / 60);
	else
		snprintf(out, 40, "%.10s %.5s UTC", text, text + 11);
	return out;
}

const char *
term_number(long long n, char out[32])
{
	char digits[24];
	size_t len = (size_t)snprintf(digits, sizeof(digits), "%lld", n), k = 0;

	for (size_t i = 0; i < len; i++) {
		if (i && digits[i - 1] != '-' && (len - i) % 3 == 0)
			out[k++] = ',';
		out[k++] = digits[i];
	}
	out[k] = '\0';
	return out;
}

const char *
term_bytes(long long n, char out[32])
{
	static const char *const units[] = { "B", "KB", "MB", "GB", "TB", "PB" };
	double d = (double)n;
	size_t u = 0;

	while (d >= 1024 && u + 1 < sizeof(units) / sizeof(units[0])) {
		d /= 1024;
		u++;
	}
	snprintf(out, 32, u && d < 100 ? "%.1f %s" : "%.0f %s", d, units[u]);
	return out;
}

/* Characters, not bytes: continuation bytes take no column. */
static int
width_of(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void
print_cell(FILE *f, const char *s, int width, bool right, bool last)
{
	int w = width_of(s);

	if (w > width) { /* cut, with a sign */
		int left = width - 1;

		for (; *s && left > 0; left--) {
			fputc(*s++, f);
			while (((unsigned char)*s & 0xc0) == 0x80)
				fputc(*s++, f);
		}
		fputs("…", f);
		w = width;
		s = "";
	}
	if (right)
		fprintf(f, "%*s", width - w, "");
	fputs(s, f);
	if (!right && !last)
		fprintf(f, "%*s", width - w, "");
}

void
term_table(FILE *f, const char *const *headers, size_t columns, const json_t *rows, const char *right)
{
	int *widths = xcalloc(columns, sizeof(int)), total = 0, limit = term_width(f);
	json_t *row;
	size_t i;

	for (size_t c = 0; c < columns; c++) {
		widths[c] = width_of(headers[c]);
		json_array_foreach (rows, i, row) {
			int w = width_of(json_string_value(json_array_get(row, c)));

			if (w > widths[c])
				widths[c] = w;
		}
		total += widths[c] + 2;
	}
	/* Too wide: the widest column gives way. */
	while (limit && total - 2 > limit) {
		size_t widest = 0;

		for (size_t c = 1; c < columns; c++)
			if (widths[c] > widths[widest])
				widest = c;
		if (widths[widest] <= 8)
			break;
		widths[widest]--;
		total--;
	}
	fputs(term_dim(f), f);
	for (size_t c = 0; c < columns; c++) {
		print_cell(f, headers[c], widths[c], right[c] == 'r', c + 1 == columns);
		fputs(c + 1 == columns ? "" : "  ", f);
	}
	fprintf(f, "%s\n", term_off(f));
	json_array_foreach (rows, i, row) {
		for (size_t c = 0; c < columns; c++) {
			const char *text = json_string_value(json_array_get(row, c)), *colour = "";

			if (strcmp(headers[c], "STATE") == 0)
				colour = term_state(f, text);
			fputs(colour, f);
			print_cell(f, text, widths[c], right[c] == 'r', c + 1 == columns);
			fputs(*colour ? term_off(f) : "", f);
			fputs(c + 1 == columns ? "" : "  ", f);
		}
		fputc('\n', f);
	}
	free(widths);
}
