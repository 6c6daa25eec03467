/* The Java that an engine's JVM would run on. */
#ifndef CLI_JAVA_H
#define CLI_JAVA_H

struct java {
	char *home;       /* as for JAVA_HOME; NULL: there is none */
	char version[32]; /* "17.0.15"; empty when it does not tell */
	int major;        /* 17; 0 when it does not tell */
};

/* The one of JAVA_HOME, else the PATH's. Its files are looked at, no Java is started. */
void java_find(struct java *j);
void java_release(struct java *j);
/* What is wrong with it for who needs `least`, as a sentence; NULL: nothing. The caller frees it. */
char *java_problem(const struct java *j, int least);
/* What to do about that. */
#define JAVA_MEND "install one (Debian: apt-get install openjdk-17-jre-headless), or have JAVA_HOME name its folder"

#endif
