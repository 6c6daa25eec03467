/* What stage_http.c and its stage_http_*.c share: the pages of an API's answer, which is asked for next, and where they are kept.
 */
#ifndef TASKS_STAGE_HTTP_H
#define TASKS_STAGE_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "tasks/json_text.h"

/* ---- which page is next ---- */

#define PAGE_DIGEST 17
enum paging_type { PAGING_NONE, PAGING_PAGE, PAGING_OFFSET, PAGING_CURSOR, PAGING_LINK };

struct paging {
	const json_t *spec; /* `pagination`; NULL: there is one page */
	enum paging_type type;
	int64_t pages, records;   /* taken in */
	int64_t at;               /* page or offset to ask for next */
	char *next;               /* cursor or address to ask for next; NULL: it is the first page */
	json_t *seen;             /* the cursors or addresses asked for */
	int64_t total;            /* as the API last said, in pages or records; -1: it said nothing */
	char digest[PAGE_DIGEST]; /* of the last page's records */
	bool ended, short_told;
};

void paging_init(struct paging *p, const json_t *spec);
void paging_release(struct paging *p);
/* The address of the next page; the caller frees it. */
char *paging_url(const struct paging *p, const json_t *source);
/* What messages call the next page: "page 3", "offset 40"; the caller frees it. */
char *paging_name(const struct paging *p);
/*
 * Takes a page in and finds out whether and where it goes on. `list` is the page's records, `link` the header's address (NULL:
 * none), `base` where the page came from. 0, or -1 with `e` set.
 */
MUSTCHECK int paging_step(struct paging *p, struct json_text answer, struct json_text list, int64_t records, const char *link,
			  const char *base, struct err *e);
/* All that paging_step decided, as a line of the kept pages, and back. */
json_t *paging_state(const struct paging *p);
void paging_restore(struct paging *p, const json_t *state);
/* How many pages there will be, as far as it is known; -1: it is not. */
int64_t paging_total_pages(const struct paging *p);
/* "there is no "resluts"; did you mean …": what an answer has in the place of what a path leads to. The caller frees it. */
char *paging_missing(struct json_text answer, const char *path);

/* ---- where pages are kept ---- */

/*
 * A folder with the records of whole pages as JSON lines, and a line a page that says what came of it. It is beyond the attempt's
 * own scratch, so that the next attempt finds it; the daemon removes it with the task's end. A page counts when its line is
 * there.
 */
struct kept {
	char *folder, *records; /* the records' file */
	int data, log;
	int64_t end;     /* of the last whole page */
	int64_t longest; /* bytes of the longest line */
};

/*
 * Opens the folder, in which what was asked for by another request than `digest` is thrown away, and restores `p` from its pages.
 * 0, -1 with `e` set, or 1: another attempt has it.
 */
MUSTCHECK int kept_open(struct kept *k, const char *folder, const char *digest, struct paging *p, struct err *e);
/* Adds records of the page under way; nobody counts them yet. */
MUSTCHECK int kept_write(struct kept *k, const struct buf *lines, struct err *e);
/* The page is whole. Takes the state over. */
MUSTCHECK int kept_page(struct kept *k, json_t *state, struct err *e);
/* The page under way is not to be kept. */
MUSTCHECK int kept_drop(struct kept *k, struct err *e);
void kept_release(struct kept *k);
/* A query over the pages: page, and before: how many records the pages before it have. */
void kept_add_pages(const struct kept *k, struct buf *sql);

#endif
