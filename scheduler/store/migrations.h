/* The numbered steps of the schema; step i is migrations[i - 1]. */
#ifndef SCHEDULER_STORE_MIGRATIONS_H
#define SCHEDULER_STORE_MIGRATIONS_H

extern const char *const migrations[];
extern const int migrations_count;

#endif
