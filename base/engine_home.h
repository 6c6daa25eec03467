/*
 * The folder of an engine that lives apart: HOME/engines/NAME, a link to the virtual environment beside it that is in force.
 * `sluice engines install` makes it; what is half made has no mark and is no engine.
 */
#ifndef BASE_ENGINE_HOME_H
#define BASE_ENGINE_HOME_H

#include <stdbool.h>

/* In the environment, written last: {"engine", "requirements" (their SHA-256), "python", "java" (as JAVA_HOME), "installed_at"}.
 */
#define ENGINE_MARK "sluice-engine.json"

/* What the folder of an engine is called: `spark_sql` lives in that of `spark`. */
const char *engine_home_name(const char *engine);
/* The name for these functions of an engine in a version that the task asks for (NULL: in none), as `spark-3.5`. */
const char *engine_home_of(const char *engine, const char *version);
/* HOME/engines/NAME. The caller frees it. */
char *engine_home_path(const char *home, const char *name);
/* Its interpreter. The caller frees it. */
char *engine_home_python(const char *home, const char *name);
/* Is it whole? A look at two names, nothing is read. */
bool engine_home_ready(const char *home, const char *name);

#endif
