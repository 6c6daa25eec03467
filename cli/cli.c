/* The table of commands, their options, and --help. */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "flows/suggest.h"
#include "scheduler/nursery.h"

static const struct command commands[] = {
	{ "serve", cmd_serve, "home config flows listen database ephemeral", 0, 0,
	  "serve [--home DIR] [--config sluice.yaml] [--flows DIR] [--listen 127.0.0.1:8080] [--database DSN]", "run the daemon",
	  "Without --database it keeps a private PostgreSQL in the state folder. Flows are watched and live at once.\n"
	  "SIGTERM lets what runs end and starts nothing new; a second one cancels what runs.\n\n"
	  "  sluice serve --flows ./flows\n" },
	{ "run", cmd_run, "home config param engine rehearse json database quiet", 1, 1,
	  "run FILE [-p name=value]... [--engine [task=]NAME]... [--rehearse] [--json]",
	  "run one flow file, with no daemon needed",
	  "Uses the daemon of the state folder if one answers; otherwise starts one for the time of the run.\n"
	  "The config is --config, or sluice.yaml beside the file.\n\n"
	  "  sluice run employees.yaml -p status=active\n" },
	{ "trigger", cmd_trigger, "home url param engine rehearse wait json key quiet", 1, 1,
	  "trigger FLOW [-p name=value]... [--engine [task=]NAME]... [--rehearse] [--wait] [--json]",
	  "start a run of a flow; prints its id",
	  "With --wait it follows the run and its exit status is the run's. --key K makes it safe to repeat.\n"
	  "With --rehearse everything runs, but what is written to tables never becomes visible.\n\n"
	  "  sluice trigger employees_pipeline --wait\n" },
	{ "flows", cmd_flows, "home url json", 0, 0, "flows [--json]", "list the flows, their schedules and problems", NULL },
	{ "runs", cmd_runs, "home url state limit json", 0, 1, "runs [FLOW] [--state S] [--limit N] [--json]",
	  "list runs, newest first", NULL },
	{ "show", cmd_show, "home url json", 1, 1, "show RUN [--json]", "show a run: its tasks, attempts and errors",
	  "RUN is an id, the beginning of one, or `last`.\n" },
	{ "logs", cmd_logs, "home url follow attempt", 1, 2, "logs RUN [TASK] [-f] [--attempt N]",
	  "print the logs of a run's tasks", "With -f it goes on until the task ends.\n" },
	{ "artifacts", cmd_artifacts, "home url attempt json", 2, 3, "artifacts RUN TASK [FILE] [--attempt N] [--json]",
	  "list the files that a task kept, or print one",
	  "A command keeps what it puts into the folder $SLUICE_ARTIFACTS.\n\n"
	  "  sluice artifacts last report chart.png > chart.png\n" },
	{ "compare", cmd_compare, "home url param engines json quiet", 1, 1,
	  "compare FLOW --engines NAME,NAME... [-p name=value]... [--json]",
	  "run a flow on several engines: do they write the same?",
	  "Each runs the flow as a rehearsal, one after the other: nothing becomes visible. Then schema and rows of\n"
	  "all tables are compared with what the first engine wrote. Exit status 0: all are equal, 1: not, or a run failed.\n\n"
	  "  sluice compare employees_pipeline --engines duckdb,polars\n" },
	{ "shadow", cmd_shadow, "home url since json", 1, 2, "shadow report [FLOW] [--since 14d] [--json]",
	  "how a flow's shadow did, and which engine to keep",
	  "A flow with `shadow: {engine: NAME}` has its runs repeated on that engine, as rehearsals that nobody\n"
	  "sees. Of both: runs that wrote the same or not, median and 95th percentile of the time in tasks, CPU,\n"
	  "memory, and how many failed.\n\n"
	  "  sluice shadow report employees_pipeline --since 30d\n" },
	{ "cancel", cmd_cancel, "home url json", 1, 1, "cancel RUN [--json]", "stop a run: TERM, and after the grace time KILL",
	  NULL },
	{ "undo", cmd_undo, "home url json with-later", 1, 1, "undo RUN [--with-later] [--json]",
	  "take back everything that a run wrote to tables",
	  "All its tables go back to what they were before the run, at once or not at all; tables that it made\nare dropped. "
	  "Refused "
	  "when a table has been written since, unless those commits are to go as well.\n\n"
	  "  sluice undo last\n" },
	{ "next", cmd_next, "home url count json", 1, 1, "next FLOW [--count N] [--json]", "when a flow's schedules are due next",
	  NULL },
	{ "pause", cmd_pause, "home url json", 1, 1, "pause FLOW [--json]", "keep a flow's schedules from starting runs", NULL },
	{ "resume", cmd_resume, "home url json", 1, 1, "resume FLOW [--json]", "let a paused flow's schedules start runs again",
	  NULL },
	{ "validate", cmd_validate, "config format json", 1, 64, "validate [--config sluice.yaml] [--format text|json] FILE...",
	  "check flow files; needs no daemon", "Exit status 0: good, 1: problems, 2: a file cannot be read.\n" },
	{ "schema", cmd_schema, "json", 0, 0, "schema", "print the JSON Schema of the flow language",
	  "  sluice schema > flow.schema.json      for an editor's YAML support\n" },
	{ "tables", cmd_tables, "home url json csv at limit", 0, 2,
	  "tables [list | WHAT TABLE] [--at STATE] [--limit N] [--json | --csv]",
	  "list tables, or show one: schema, history, files, rows",
	  "WHAT is one of\n"
	  "  show        columns, partitions, properties, branches, tags\n"
	  "  history     what was current when\n"
	  "  snapshots   what each write did, and which run it was\n"
	  "  refs        branches and tags\n"
	  "  files, partitions, manifests      what a state consists of\n"
	  "  schema      columns and types\n"
	  "  preview     some rows\n"
	  "  health      of all tables, or those that a pattern takes: small files, deletes, old snapshots, a score\n\n"
	  "STATE says how the table was: a branch, a tag, a snapshot id, `previous`, or a\n"
	  "time (\"2026-11-21 06:00\", in UTC without a zone; \"2h ago\"). In SQL it is\n"
	  "as_of('stg.orders', 'STATE').\n\n"
	  "  sluice tables preview stg.orders --at \"2h ago\"\n" },
	{ "diff", cmd_diff, "home url key limit json", 1, 3, "diff TABLE [FROM [TO]] [--key COLUMN,...] [--limit N] [--json]",
	  "what changed between two states of a table",
	  "FROM and TO are states: a snapshot id, a tag, a branch, `previous`, or a time; by\n"
	  "default what changed last. Prints changes of columns, counts, and the rows: + added,\n"
	  "- removed, and with --key ~ changed. Exit status 0, whether there are changes or not.\n\n"
	  "  sluice diff stg.orders\n"
	  "  sluice diff stg.orders \"2026-11-20 06:00\" main --key id\n" },
	{ "rollback", cmd_rollback, "home url to json", 1, 1, "rollback TABLE --to STATE [--json]",
	  "set a table back to an earlier state",
	  "STATE is a snapshot id, a tag, `previous`, or a time (\"2026-11-21 06:00\", in UTC\n"
	  "without a zone; \"2h ago\"). Nothing is lost: the later snapshots stay, and a\n"
	  "rollback to them takes it back. Columns stay as they are now.\n\n"
	  "  sluice tables history stg.orders           which states there were\n"
	  "  sluice rollback stg.orders --to previous\n" },
	{ "tag", cmd_tag, "home url at retain replace delete json", 1, 2,
	  "tag TABLE [NAME [--at STATE] [--retain 30d] [--replace] | NAME --delete]", "name a state of a table, for good",
	  "Without NAME it lists the tags. A tag keeps its snapshot from expiring, for ever\n"
	  "or as long as --retain says.\n\n"
	  "  sluice tag stg.orders end-of-year\n"
	  "  sluice tables preview stg.orders --at end-of-year\n" },
	{ "branch", cmd_branch, "home url at retain keep-snapshots snapshot-age replace delete json", 1, 2,
	  "branch TABLE [NAME [--at STATE] [--retain 30d] [--replace] | NAME --delete]",
	  "make a line of writes beside a table's own",
	  "Without NAME it lists the branches. Engines that know branches, such as Spark and\n"
	  "PyIceberg, write to one; everybody reads it by name.\n\n"
	  "  sluice branch stg.orders trial --retain 7d\n" },
	{ "maintain", cmd_maintain,
	  "home url dry-run compact expire orphans manifests older-than keep-last where max-bytes when-health-below json quiet",
	  0, 64, "maintain [TABLE|GLOB]... [--dry-run] [--compact] [--expire] [--orphans] [--manifests] [OPTIONS] [--json]",
	  "keep tables healthy: compact, expire, remove orphans",
	  "Without a table: all. Without --compact, --expire, --orphans and --manifests: everything\n"
	  "that a table needs, as its policy in the config says; else only what is named. Makes a\n"
	  "run, follows it, and prints what it did to each table; Ctrl-C cancels it, and what was\n"
	  "done until then stays done. Exit status: that of the run.\n\n"
	  "  sluice maintain --dry-run                            what would be done\n"
	  "  sluice maintain stg.orders 'bronze.*'\n"
	  "  sluice maintain 'gold.*' --expire --older-than 30d --keep-last 5\n"
	  "  sluice maintain stg.events --compact --where \"day >= '2026-11-01'\" --max-bytes 50GB\n"
	  "  sluice maintain --when-health-below 80\n" },
	{ "sql", cmd_sql, "home url json csv limit", 1, 1, "sql \"SELECT ...\" [--limit N] [--json | --csv]", "query the tables",
	  "  sluice sql \"SELECT * FROM cur.employee_counts ORDER BY cnt DESC\"\n" },
	{ "token", cmd_token, "home url scope json", 1, 2,
	  "token create --scope viewer|runner|admin | token list | token delete ID", "manage API tokens",
	  "A new token is shown once. The admin's own is in the state folder, in the file `token`.\n" },
	{ "engines", cmd_engines, "home python replace quiet json", 0, 2,
	  "engines [list] [--json] | engines install NAME [--python PROGRAM] [--replace] [-q]",
	  "list what tasks can run on, or install such an engine",
	  "duckdb is built in. Any other engine is a virtual environment in the state folder, made by pip\n"
	  "from versions and hashes that are part of this program; a daemon sees it at once. Needs no root.\n"
	  "spark (also for spark_sql) needs Java 17 or newer, and gets jars by mvn or from a Maven repository.\n\n"
	  "  sluice engines install polars\n"
	  "  sluice trigger employees_pipeline --engine polars\n" },
	{ "doctor", cmd_doctor, "home url config", 0, 0, "doctor", "check what the daemon needs, and say what to do", NULL },
	{ "version", cmd_version, "json", 0, 0, "version", "print the version", NULL },
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

/* Where an option's value goes; a NULL value slot is a switch. */
struct option {
	const char *name, *letter;
	size_t value, flag; /* offsets in struct args; 0 is none */
	const char *meaning;
};
#define VALUE(field) offsetof(struct args, field), 0
#define FLAG(field)  0, offsetof(struct args, field)
static const struct option options[] = {
	{ "home", NULL, VALUE(home), "DIR    the state folder (SLUICE_HOME)" },
	{ "url", NULL, VALUE(url), "URL    the daemon to speak to (SLUICE_URL, with SLUICE_TOKEN); default: the state folder's" },
	{ "config", NULL, VALUE(config), "FILE   the main config, sluice.yaml (SLUICE_CONFIG)" },
	{ "flows", NULL, VALUE(flows), "DIR    the folder of flow files; default: flows in the state folder" },
	{ "listen", NULL, VALUE(listen), "H:P    address and port; port 0 picks one" },
	{ "database", NULL, VALUE(database), "DSN    a PostgreSQL of yours (SLUICE_DATABASE)" },
	{ "with-later", NULL, FLAG(with_later), "       commits that came after the run go back as well" },
	{ "format", NULL, VALUE(format), "F      text or json" },
	{ "scope", NULL, VALUE(scope), "S      viewer, runner or admin" },
	{ "state", NULL, VALUE(state), "S      only runs in this state" },
	{ "limit", NULL, VALUE(limit_text), "N      at most so many rows" },
	{ "count", NULL, VALUE(count_text), "N      how many" },
	{ "attempt", NULL, VALUE(attempt_text), "N      of this attempt; default: the newest" },
	{ "key", NULL, VALUE(key), "K      of trigger: a second one with it gives the first one's run; of diff: columns" },
	{ "at", NULL, VALUE(at), "STATE  as the table was: a snapshot, time, branch or tag" },
	{ "to", NULL, VALUE(to), "STATE  the state to go back to" },
	{ "retain", NULL, VALUE(retain), "AGE    remove the name when it is so old, such as 30d; default: never" },
	{ "keep-snapshots", NULL, VALUE(keep_text), "N      keep at least so many of the branch's snapshots" },
	{ "snapshot-age", NULL, VALUE(snapshot_age), "AGE    keep the branch's snapshots so long" },
	{ "replace", NULL, FLAG(replace), "       in place of what is there already" },
	{ "delete", NULL, FLAG(remove), "       remove the name" },
	{ "dry-run", NULL, FLAG(dry_run), "       tell what would be done, and do nothing" },
	{ "compact", NULL, FLAG(compact), "       few large data files in place of many small ones" },
	{ "expire", NULL, FLAG(expire), "       old snapshots go" },
	{ "orphans", NULL, FLAG(orphans), "       files go that nothing leads to" },
	{ "manifests", NULL, FLAG(manifests), "       few manifests in place of many" },
	{ "older-than", NULL, VALUE(older_than),
	  "AGE    of --expire and --orphans: from which age, such as 7d; default: the policy's" },
	{ "keep-last", NULL, VALUE(keep_last), "N      snapshots that stay whatever their age; default: the policy's" },
	{ "where", NULL, VALUE(where), "SQL    compact only files that may hold such rows" },
	{ "max-bytes", NULL, VALUE(max_bytes), "SIZE   compact at most so much in this run, such as 10GB" },
	{ "when-health-below", NULL, VALUE(health_text), "N      only tables whose health score is below it" },
	{ "param", "p", 1, 0, "n=v    a param; may be repeated" },
	{ "engine", NULL, 2, 0, "[t=]E  the engine of all tasks, or of task t; may be repeated" },
	{ "since", NULL, VALUE(since), "14d       how far back" },
	{ "engines", NULL, VALUE(engine_list), "A,B    the engines to compare; the first is the reference" },
	{ "rehearse", NULL, FLAG(rehearse), "       what is written to tables never becomes visible" },
	{ "python", NULL, VALUE(python), "P      the Python to make the engine of; default: python3" },
	{ "json", NULL, FLAG(json), "       the API's own JSON on stdout" },
	{ "csv", NULL, FLAG(csv), "       comma-separated values" },
	{ "wait", NULL, FLAG(wait), "       follow the run to its end" },
	{ "follow", "f", FLAG(follow), "       go on until the end" },
	{ "quiet", "q", FLAG(quiet), "       no progress" },
	{ "ephemeral", NULL, FLAG(ephemeral), NULL },
};

int
refuse(const char *next, const char *fmt, ...)
{
	va_list ap;

	fputs("sluice: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (next)
		fprintf(stderr, "%s\n", next);
	return EXIT_REFUSED;
}

static int
usage(FILE *out)
{
	fputs("Sluice runs YAML flows over a lakehouse: orchestrator, engine and\nIceberg catalog in one daemon.\n\n"
	      "usage: sluice COMMAND [OPTIONS]\n\n",
	      out);
	for (size_t i = 0; i < NCOMMANDS; i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
	fputs("\n`sluice COMMAND --help` says more. Exit status: 0 success, 1 the run or the\n"
	      "check failed, 2 refused (wrong use, unknown flow, no daemon).\n\n"
	      "To begin:  sluice run FLOW.yaml     or     sluice serve --flows DIR\n",
	      out);
	return out == stdout ? EXIT_OK : EXIT_REFUSED;
}

static bool
takes(const struct command *c, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = c->options; (p = strstr(p, name)) != NULL; p += n)
		if ((p == c->options || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
			return true;
	return false;
}

static int
command_help(const struct command *c)
{
	printf("%s\n\nusage: sluice %s\n", c->summary, c->usage);
	if (c->help)
		printf("\n%s", c->help);
	fputs("\n", stdout);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (takes(c, options[i].name) && options[i].meaning)
			printf("  %s%s%s--%-9s %s\n", options[i].letter ? "-" : "",
			       options[i].letter ? options[i].letter : "    ", options[i].letter ? ", " : "", options[i].name,
			       options[i].meaning);
	return EXIT_OK;
}

static const char *
nearest_command(const char *name)
{
	const char *names[NCOMMANDS];

	for (size_t i = 0; i < NCOMMANDS; i++)
		names[i] = commands[i].name;
	return suggest(name, names, NCOMMANDS);
}

/* One option; returns how many words it took, 0 when there is no such option, -1 after a message. */
static int
take_option(struct args *a, int argc, char **argv, int i)
{
	bool is_long = strncmp(argv[i], "--", 2) == 0;
	const char *word = argv[i] + (is_long ? 2 : 1), *eq = is_long ? strchr(word, '=') : NULL;
	size_t n = eq ? (size_t)(eq - word) : strlen(word);

	for (size_t k = 0; k < sizeof(options) / sizeof(options[0]); k++) {
		const struct option *o = &options[k];
		const char *name = is_long ? o->name : o->letter, *value;

		if (name == NULL || strlen(name) != n || strncmp(name, word, n) != 0 || !takes(a->command, o->name))
			continue;
		if (o->flag) {
			*(bool *)(void *)((char *)a + o->flag) = true;
			return 1;
		}
		value = eq ? eq + 1 : i + 1 < argc ? argv[i + 1] : NULL;
		if (value == NULL) {
			refuse(NULL, "option %s needs a value: %s", argv[i], o->meaning);
			return -1;
		}
		if (o->value == 1 && a->nparams < sizeof(a->params) / sizeof(a->params[0]))
			a->params[a->nparams++] = value;
		else if (o->value == 2 && a->nengines < sizeof(a->engines) / sizeof(a->engines[0]))
			a->engines[a->nengines++] = value;
		else if (o->value > 2)
			*(const char **)(void *)((char *)a + o->value) = value;
		else {
			refuse(NULL, "too many %s options", argv[i]);
			return -1;
		}
		return eq ? 1 : 2;
	}
	return 0;
}

static int
parse(struct args *a, int argc, char **argv)
{
	bool operands_only = false;

	for (int i = 2; i < argc; i++) {
		int took;

		if (!operands_only && strcmp(argv[i], "--") == 0) {
			operands_only = true;
			continue;
		}
		if (!operands_only && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
			a->help = true;
			return EXIT_OK;
		}
		if (!operands_only && argv[i][0] == '-' && argv[i][1] != '\0') {
			took = take_option(a, argc, argv, i);
			if (took < 0)
				return EXIT_REFUSED;
			if (took == 0)
				return refuse("`sluice COMMAND --help` lists its options", "%s does not take the option %s",
					      a->command->name, argv[i]);
			i += took - 1;
			continue;
		}
		if (a->count == a->command->max)
			return refuse(NULL, "too many arguments at \"%s\"; usage: sluice %s", argv[i], a->command->usage);
		a->operands[a->count++] = argv[i];
	}
	if (a->count < a->command->min)
		return refuse(NULL, "usage: sluice %s", a->command->usage);
	return EXIT_OK;
}

int
cli_main(int argc, char **argv)
{
	struct args a = { 0 };
	const char *name = argc > 1 ? argv[1] : NULL, *near;
	int rc;

	if (name == NULL)
		return usage(stderr);
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
		if (argc == 2)
			return usage(stdout);
		name = argv[2];
		a.help = true;
	}
	if (strcmp(name, "--version") == 0)
		name = "version";
	if (strcmp(name, "nursery") == 0 && argc == 4) /* the daemon's own helper process */
		return nursery_main(argv[2], argv[3]);
	for (size_t i = 0; i < NCOMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			a.command = &commands[i];
	if (a.command == NULL) {
		near = nearest_command(name);
		return refuse("`sluice --help` lists the commands", "there is no command \"%s\"%s%s%s", name,
			      near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	}
	if (a.help)
		return command_help(a.command);
	rc = parse(&a, argc, argv);
	if (rc != EXIT_OK)
		return rc;
	return a.help ? command_help(a.command) : a.command->run(&a);
}
