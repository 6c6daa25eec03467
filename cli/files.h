/* Flow files checked here, without a daemon: for validate, and for run before it starts one. */
#ifndef CLI_FILES_H
#define CLI_FILES_H

#include <stdbool.h>

#include "cli/cli.h"
#include "flows/diag.h"

/* --config, SLUICE_CONFIG, or sluice.yaml beside the file; NULL when there is none. The caller frees it. */
char *config_beside(const struct args *a, const char *file);
/* Is the flow in `file` good? What is not goes to `diags`. */
bool file_check(const char *file, const char *config, struct diags *diags);

#endif
