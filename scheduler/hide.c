/* Secrets are read anew each time: they are never kept. */
#include "scheduler/hide.h"

#include <string.h>

#include "flows/secrets.h"

static void
mask_add_secrets(struct mask *m, const struct config *config, const struct flow *flow)
{
	json_t *name;
	size_t i;

	/* One by one: a secret that is gone by now must not keep the others from being hidden. */
	json_array_foreach (flow->secrets, i, name) {
		json_t *one = json_array(), *values = NULL, *v;
		struct err e = ERR_INIT;
		const char *key;

		json_array_append(one, name);
		if (secrets_load(config, one, &values, &e) < 0)
			err_release(&e);
		json_object_foreach (values, key, v)
			if (json_is_string(v))
				mask_add(m, json_string_value(v));
		json_decref(values);
		json_decref(one);
	}
}

int
hide_secrets(struct registry *registry, const struct config *config, const struct flow_ran *ran, struct mask **out, struct err *e)
{
	struct flow *flow = registry_flow(registry, ran->id), *loaded = NULL;
	struct diags diags = DIAGS_INIT;

	*out = NULL;
	if (ran->source == NULL)
		return 0;
	if (flow == NULL || strcmp(flow->hash, ran->hash) != 0) {
		flow = loaded = flow_load(ran->file, ran->source, strlen(ran->source), config, &diags);
		diags_release(&diags);
	}
	if (flow == NULL)
		return err_set(e, ERR_INTERNAL,
			       "the log is not shown: the flow's version that ran does not load any more, so it is not known "
			       "which secrets to hide");
	if (json_array_size(flow->secrets) > 0 || config_get(config, "s3.secret_key")) {
		*out = mask_new();
		mask_add_secrets(*out, config, flow);
		if (config_get(config, "s3.secret_key"))
			mask_add(*out, config_get(config, "s3.secret_key"));
	}
	flow_unref(loaded);
	return 0;
}
