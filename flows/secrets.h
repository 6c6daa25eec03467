/* Secrets: read when an attempt starts, never kept, never stored. */
#ifndef FLOWS_SECRETS_H
#define FLOWS_SECRETS_H

#include <jansson.h>

#include "base/err.h"
#include "flows/config.h"

/*
 * Reads each secret that `names` lists, from where the config says, or else from the environment variable of that name in
 * capitals, or else from the file secrets/NAME beside the config file. Gives a new object name -> text through `out`. The error
 * says which secret cannot be read and why, and never holds a secret.
 */
MUSTCHECK int secrets_load(const struct config *c, const json_t *names, json_t **out, struct err *e);

#endif
