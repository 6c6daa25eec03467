/* `sluice serve`: the options become the daemon's. */
#include "cli/cli.h"
#include "daemon/daemon.h"

int
cmd_serve(const struct args *a)
{
	struct serve_options o = {
		.home = a->home,
		.config = a->config,
		.flows = a->flows,
		.listen = a->listen,
		.database = a->database,
		.ephemeral = a->ephemeral,
	};

	return serve_main(&o);
}
