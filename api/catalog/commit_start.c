/* The ways in: requests of the catalog's routes become jobs. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/catalog/commit_int.h"
#include "base/alloc.h"
#include "base/clock.h"

#define PATIENCE (90 * US_PER_S) /* more than all its steps may take */

struct job *
job_new(struct request *rq, enum kind kind, json_t *body, size_t nparts)
{
	struct job *j = xcalloc(1, sizeof(*j));

	list_init(&j->node);
	list_init(&j->swap);
	j->catalog = catalog_ref(rq->app->catalog);
	j->rq = rq;
	rq->patience = PATIENCE;
	j->kind = kind;
	j->body = body;
	j->nparts = nparts;
	j->parts = xcalloc(nparts, sizeof(*j->parts));
	j->attempt = xstrdup_null(rq->attempt);
	j->who = xstrdup_null(rq->who);
	return j;
}

static int
part_init(struct part *p, char *ns, const char *name, json_t *change, struct err *e)
{
	p->ns = ns;
	if (ns == NULL || table_name_check(name, e) < 0)
		return e->code;
	p->name = xstrdup(name);
	p->requirements = json_object_get(change, "requirements");
	p->updates = json_object_get(change, "updates");
	if ((p->requirements && !json_is_array(p->requirements)) || (p->updates && !json_is_array(p->updates)))
		return err_set(e, ERR_INVALID, "\"requirements\" and \"updates\" must be lists");
	return 0;
}

/* `name` NULL: the body has it. */
static void
job_start_one(struct request *rq, bool view, enum kind kind, const char *name)
{
	struct err e = ERR_INIT;
	struct job *j;
	json_t *body;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	if (kind == KIND_CREATE && json_is_true(json_object_get(body, "stage-create")) && !view)
		kind = KIND_STAGE;
	if (name == NULL)
		name = json_string_value(json_object_get(body, "name"));
	j = job_new(rq, kind, body, 1);
	j->view = view;
	j->overwrite = json_is_true(json_object_get(body, "overwrite")) && !view;
	if (part_init(&j->parts[0], namespace_of_param(rq->param[0], &e), name, body, &e) < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

void
tables_create(struct request *rq)
{
	job_start_one(rq, false, KIND_CREATE, NULL);
}

void
tables_register(struct request *rq)
{
	job_start_one(rq, false, KIND_REGISTER, NULL);
}

void
tables_commit(struct request *rq)
{
	job_start_one(rq, false, KIND_COMMIT, rq->param[1]);
}

void
views_create(struct request *rq)
{
	job_start_one(rq, true, KIND_CREATE, NULL);
}

void
views_register(struct request *rq)
{
	job_start_one(rq, true, KIND_REGISTER, NULL);
}

void
views_replace(struct request *rq)
{
	job_start_one(rq, true, KIND_COMMIT, rq->param[1]);
}

void
tables_change(struct request *rq, const char *ns, const char *name, json_t *change)
{
	struct err e = ERR_INIT;
	struct job *j = job_new(rq, KIND_COMMIT, change, 1);

	if (part_init(&j->parts[0], xstrdup(ns), name, change, &e) < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

void
transactions_commit(struct request *rq)
{
	struct err e = ERR_INIT;
	json_t *body, *changes, *change;
	struct job *j;
	size_t i;
	int rc = 0;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	changes = json_object_get(body, "table-changes");
	if (json_array_size(changes) == 0) {
		json_decref(body);
		catalog_reply_error(rq, 400, "BadRequestException", "\"table-changes\" must be a list with at least one change");
		return;
	}
	j = job_new(rq, KIND_TRANSACTION, body, json_array_size(changes));
	json_array_foreach (changes, i, change) {
		const json_t *id = json_object_get(change, "identifier");

		rc = part_init(&j->parts[i], namespace_of_json(json_object_get(id, "namespace"), &e),
			       json_string_value(json_object_get(id, "name")), change, &e);
		for (size_t k = 0; k < i && rc == 0; k++)
			if (strcmp(j->parts[k].ns, j->parts[i].ns) == 0 && strcmp(j->parts[k].name, j->parts[i].name) == 0)
				rc = err_set(&e, ERR_INVALID, "table %s.%s is changed twice in one transaction", j->parts[i].ns,
					     j->parts[i].name);
		if (rc < 0)
			break;
	}
	if (rc < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

static void
job_start_drop(struct request *rq, bool view)
{
	const char *purge = view ? NULL : request_query(rq, "purgeRequested");
	struct err e = ERR_INIT;
	struct job *j;

	if (!catalog_may_write(rq))
		return;
	j = job_new(rq, KIND_DROP, NULL, 1);
	j->view = view;
	j->purge = purge && strcasecmp(purge, "true") == 0;
	if (part_init(&j->parts[0], namespace_of_param(rq->param[0], &e), rq->param[1], NULL, &e) < 0) {
		err_release(&e); /* there can be no such thing */
		catalog_reply_none(rq, view, rq->param[0], rq->param[1]);
		job_free(j);
	} else
		job_begin(j);
}

void
tables_drop(struct request *rq)
{
	job_start_drop(rq, false);
}

void
views_drop(struct request *rq)
{
	job_start_drop(rq, true);
}

static void
job_start_rename(struct request *rq, bool view)
{
	static const char *const sides[] = { "source", "destination" };
	struct err e = ERR_INIT;
	json_t *body, *id;
	struct job *j;
	int rc = 0;

	if (!catalog_may_write(rq) || (body = catalog_body(rq)) == NULL)
		return;
	j = job_new(rq, KIND_RENAME, body, 2);
	j->view = view;
	for (size_t i = 0; i < 2 && rc == 0; i++) {
		id = json_object_get(body, sides[i]);
		rc = part_init(&j->parts[i], namespace_of_json(json_object_get(id, "namespace"), &e),
			       json_string_value(json_object_get(id, "name")), NULL, &e);
	}
	if (rc < 0)
		job_fail(j, &e);
	else
		job_begin(j);
}

void
tables_rename(struct request *rq)
{
	job_start_rename(rq, false);
}

void
views_rename(struct request *rq)
{
	job_start_rename(rq, true);
}
