/* Globs are matched here and not by fnmatch, to which brackets and leading dots mean something. */
#include "base/table_policy.h"

#include <stdbool.h>
#include <string.h>

const char *
table_glob(const char *glob, const char *catalog)
{
	size_t n = strlen(catalog);
	const char *rest = glob + n + 1;

	if (n == 0 || strncmp(glob, catalog, n) != 0 || glob[n] != '.')
		return glob;
	return strchr(rest, '.') || strcmp(rest, "*") == 0 ? rest : glob;
}

/* A * that matched too little is tried again with one character more; only the last one needs that. */
static bool
glob_matches(const char *glob, const char *name)
{
	const char *star = NULL, *from = NULL;

	while (*name) {
		if (*glob == '*') {
			star = glob++;
			from = name;
		} else if (*glob == '?' || *glob == *name) {
			bool whole = *glob == '?'; /* a character, not a byte */

			glob++;
			name++;
			while (whole && ((unsigned char)*name & 0xc0) == 0x80)
				name++;
		} else if (star) {
			glob = star + 1;
			name = ++from;
		} else {
			return false;
		}
	}
	return glob[strspn(glob, "*")] == '\0';
}

/* Puts what `from` says over the policy; of `keep` key by key. */
static void
policy_add(json_t *policy, const json_t *from)
{
	const char *key;
	json_t *v;

	json_object_foreach ((json_t *)from, key, v) {
		if (strcmp(key, "keep") == 0)
			json_object_update(json_object_get(policy, "keep"), v);
		else if (strcmp(key, "tables") != 0)
			json_object_set(policy, key, v);
	}
}

json_t *
table_policy(const json_t *housekeeping, const char *table)
{
	json_t *policy = json_pack("{s:{s:i,s:i,s:i}}", "keep", "daily", 0, "weekly", 0, "monthly", 0), *v;
	const char *glob;

	policy_add(policy, housekeeping);
	json_object_foreach (json_object_get(housekeeping, "tables"), glob, v) {
		if (glob_matches(glob, table))
			policy_add(policy, v);
	}
	return policy;
}
