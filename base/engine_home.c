#include "base/engine_home.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"

const char *
engine_home_name(const char *engine)
{
	return strcmp(engine, "spark_sql") == 0 ? "spark" : engine;
}

const char *
engine_home_of(const char *engine, const char *version)
{
	return version && strcmp(version, "3.5") == 0 && strcmp(engine_home_name(engine), "spark") == 0 ? "spark-3.5" : engine;
}

char *
engine_home_path(const char *home, const char *name)
{
	return xasprintf("%s/engines/%s", home, engine_home_name(name));
}

char *
engine_home_python(const char *home, const char *name)
{
	return xasprintf("%s/engines/%s/bin/python", home, engine_home_name(name));
}

bool
engine_home_ready(const char *home, const char *name)
{
	char *python = engine_home_python(home, name),
	     *mark = xasprintf("%s/engines/%s/" ENGINE_MARK, home, engine_home_name(name));
	bool ready = access(python, X_OK) == 0 && access(mark, R_OK) == 0;

	free(python);
	free(mark);
	return ready;
}
