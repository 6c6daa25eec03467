/* The engines that can be installed. */
#ifndef CLI_ENGINE_KINDS_H
#define CLI_ENGINE_KINDS_H

#include <stddef.h>

struct engine_kind {
	const char *name;
	const char *packages;    /* the main ones, by the names of their folders, blank-separated */
	int python_minor;        /* the oldest Python 3 that its requirements are for */
	const char *from_source; /* the one package that the index has as source only; NULL: none */
	int java;                /* the oldest Java that it runs on; 0: none */
};

extern const struct engine_kind engine_kinds[];
extern const size_t engine_kind_count;

/* A file of an engine's pinned requirements, as it lies beside the libraries: NAME.txt with suffix ".txt". The caller frees it.
 */
char *engine_requirements(const char *libdir, const char *name, const char *suffix);
/* The SHA-256 of them all, or NULL when they are not there. The caller frees it. */
char *engine_requirements_hash(const char *libdir, const char *name);

#endif
