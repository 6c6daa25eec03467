/*
 * What the commands of a nursery that died had started. The kernel ends a nursery's children with it, but not theirs; and
 * when the daemon died as well nobody remembers their process groups.
 */
#ifndef SCHEDULER_ORPHANS_H
#define SCHEDULER_ORPHANS_H

/*
 * Ends every process that an attempt of this state folder left behind: it is known by the environment that each command is
 * given. For a nursery that begins: nothing runs here that is its own. Returns when they are gone, or after a second.
 */
void orphans_end(const char *home);

#endif
