#include "tasks/casts.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "tasks/engines/duckdb.h"

static int
check_one(struct context *cx, const char *place, const char *name, const char *type, const json_t *names)
{
	char *sql = xasprintf("SELECT CAST(NULL AS %s)", type), *said = NULL;
	const char *near = task_nearest(names, name);
	int line, col, rc = 0;

	if (!task_has_name(names, name)) {
		rc = task_fail_at(cx, place, "cast: the source has no column \"%s\"%s%s%s", name, near ? "; did you mean \"" : "",
				  near ? near : "", near ? "\"?" : "");
	} else if (duck_check(cx->db, sql, &line, &col, &cx->err) < 0) {
		said = xstrdup(cx->err.msg);
		rc = task_fail_at(cx, place, "cast: column \"%s\" cannot be of type \"%s\": %s", name, type, said);
	}
	free(sql);
	free(said);
	return rc;
}

int
casts_check(struct context *cx, const char *key, const json_t *cast, const json_t *names)
{
	const char *name;
	json_t *type;
	int rc = 0;

	json_object_foreach ((json_t *)(uintptr_t)cast, name, type) {
		char *place = xasprintf("%s/%s", key, name);

		rc = check_one(cx, place, name, json_string_value(type), names);
		free(place);
		if (rc < 0)
			break;
	}
	return rc;
}

const char *
casts_type(const json_t *cast, const char *name)
{
	const char *key;
	json_t *type;

	json_object_foreach ((json_t *)(uintptr_t)cast, key, type)
		if (strcasecmp(key, name) == 0)
			return json_string_value(type);
	return NULL;
}

void
casts_add(struct buf *b, const char *name, const char *type)
{
	struct buf q = BUF_INIT;

	buf_add_sql_name(&q, name);
	if (type)
		buf_addf(b, "CAST(%s AS %s) AS %s", q.s, type, q.s);
	else
		buf_adds(b, q.s);
	buf_release(&q);
}
