/* `sluice serve`: the daemon, from its options to its orderly end. */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include <stdbool.h>

struct serve_options {
	const char *home;     /* the state folder; NULL: the default */
	const char *config;   /* NULL: sluice.yaml in the current folder or the flows folder, if there */
	const char *flows;    /* NULL: HOME/flows */
	const char *listen;   /* "host:port"; NULL: the config's, else 127.0.0.1:8080 */
	const char *database; /* libpq connection string; NULL: SLUICE_DATABASE, else a private cluster */
	bool ephemeral;       /* ends with the process that started it */
	const char *exe;      /* not used: our own binary is /proc/self/exe */
};

/* The daemon's whole life; returns the exit status. */
int serve_main(const struct serve_options *o);

/* "$SLUICE_HOME", else /var/lib/sluice for a service, else ~/.local/state/sluice; the caller frees it. */
char *default_home(void);
/* Where libduckdb and the extensions lie: SLUICE_LIB, lib/ beside the binary, or ../lib/sluice; the caller frees it. */
char *default_libdir(void);

#endif
