/* Other programs that the command line runs and waits for. */
#ifndef CLI_PROGRAM_H
#define CLI_PROGRAM_H

/* Runs a program; what it prints goes to our stderr. Its exit status, 127 when it cannot be run. */
int program_run(const char *const *argv);
/* The same; each line that it prints, without its end, is handed to `on_line`, which may change it, as soon as it is there. */
int program_run_lines(const char *const *argv, void (*on_line)(void *arg, char *line), void *arg);

#endif
