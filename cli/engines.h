/* The engines that live in folders of their own, as the command line makes and looks at them. */
#ifndef CLI_ENGINES_H
#define CLI_ENGINES_H

#include <jansson.h>

/*
 * How every engine is: a list of {name, state, path, interpreter, python, bytes, packages: {name: version}, missing: [name],
 * problem, mend}; with Java also `java` (its version) and `jars: {artifact: version}`. States: built-in, installed, outdated,
 * broken, absent; `mend` is what helps. The caller owns it.
 */
json_t *engines_look(const char *home, const char *libdir);

#endif
