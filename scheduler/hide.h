/* What the logs of a run must not show: the values of its flow's secrets, and the store's. */
#ifndef SCHEDULER_HIDE_H
#define SCHEDULER_HIDE_H

#include "base/mask.h"
#include "flows/config.h"
#include "scheduler/registry.h"

/* The flow as it ran, from sluice.flow_versions. */
struct flow_ran {
	const char *id, *hash, *file;
	const char *source; /* as SQL_HIDE_SOURCE; NULL: it has no secrets */
};
/* Only a flow whose text has the word can have secrets: the text of the others need not travel. */
#define SQL_HIDE_SOURCE(source) "CASE WHEN " source " LIKE '%secrets%' THEN " source " END"

/* NULL when there is nothing to hide; the caller frees it. */
MUSTCHECK int hide_secrets(struct registry *registry, const struct config *config, const struct flow_ran *ran, struct mask **out,
			   struct err *e);

#endif
