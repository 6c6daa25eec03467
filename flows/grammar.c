/* The rows. Objects: flow and what it holds, a task's common keys (task), those of tasks that run on an engine (native), one
 * object a task type, and config. */
#include "flows/grammar.h"

#include <string.h>

const char *const grammar_task_types[] = { "stage",  "publish", "curate", "validate", "maintain",
					   "export", "command", "python", NULL };

#define PARAM_TYPES   "string int float bool date datetime duration size enum list object !file"
#define ENGINES       "duckdb polars spark spark_sql !pyiceberg"
#define WRITE_MODES   "append replace overwrite overwrite_partitions upsert !merge"
#define PUBLISH_MODES WRITE_MODES " add_files register"
#define RULES                                                                                                                    \
	"all_success all_done all_failed one_failed one_success one_done none_failed none_failed_min_one_success none_skipped "  \
	"all_skipped always"

/* clang-format off */
/* What the config says of all tables, and again of some: the rows of one have defaults. */
#define POLICY_ROWS(owner, size, days, last, orphans) \
	{ owner, "target_file_size", G_ONE, G_SIZE, NULL, 0, size, NULL, "Size of data files to aim at." }, \
	{ owner, "expire_days", G_ONE, G_INT, NULL, 0, days, "0..", "Age in days from which snapshots may be expired." }, \
	{ owner, "keep_last", G_ONE, G_INT, NULL, 0, last, "1..", "Snapshots that are kept whatever their age." }, \
	{ owner, "orphan_days", G_ONE, G_INT, NULL, 0, orphans, "0..", \
	  "Age in days from which a file that nothing leads to is an orphan." }, \
	{ owner, "keep", G_ONE, G_OBJECT, "keep", 0, NULL, NULL, "Snapshots that stay longer, by calendar." }

/* What publish and curate say alike of the table that they write. */
#define LAYOUT_ROWS(owner) \
	{ owner, "key", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL, \
	  "With mode: upsert: the columns by which a row of the table and a new one are the same." }, \
	{ owner, "partition_by", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL, \
	  "How a new or replaced table is partitioned: columns, year(c), month(c), day(c), hour(c), bucket(N, c), " \
	  "truncate(N, c). By default a new table is not, and one that is there stays as it is." }, \
	{ owner, "sort_by", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL, \
	  "Order of the rows inside the files, recorded in the table: \"c\", \"c desc\", \"day(c) asc nulls last\"." }, \
	{ owner, "schema_evolution", G_ONE, G_ENUM, "none add_columns widen", 0, "none", NULL, \
	  "What happens to the table when the rows have columns that it lacks, or wider types: an error; columns are " \
	  "added; columns are added and types widened (int to long, float to double, decimals to more digits)." }, \
	{ owner, "compression", G_ONE, G_ENUM, "zstd snappy gzip lz4 uncompressed", 0, NULL, NULL, \
	  "Compression of the data files; by default as the table's properties say, else zstd." }, \
	{ owner, "format_version", G_ONE, G_INT, NULL, 0, NULL, "2..3", \
	  "Version of the table format that a new table gets; by default 2." }, \
	{ owner, "branch", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL }, \
	{ owner, "commit_retries", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL }

/* object, key, shape, type, arg, flags, default, range, text */
const struct grammar_row grammar_rows[] = {
	{ "flow", "id", G_ONE, G_ID, NULL, G_REQUIRED, NULL, NULL,
	  "Name of the flow, unique in the flows folder: a-z first, then a-z 0-9 _ -, at most 63." },
	{ "flow", "namespace", G_ONE, G_STRING, NULL, 0, "default", NULL, "Dotted names that group flows." },
	{ "flow", "description", G_ONE, G_STRING, NULL, 0, "", NULL, "What the flow is for; Markdown." },
	{ "flow", "labels", G_MAP, G_STRING, NULL, 0, "{}", NULL, "Free names and values, for search." },
	{ "flow", "enabled", G_ONE, G_BOOL, NULL, 0, "true", NULL,
	  "false: no schedule starts it and triggers are refused." },
	{ "flow", "params", G_MAP, G_OBJECT, "param", G_NAMES, "{}", NULL,
	  "What a trigger may set; read as ${params.NAME}. A bare value is short for {default: value}." },
	{ "flow", "vars", G_MAP, G_ANY, NULL, G_NAMES, "{}", NULL,
	  "Constants, read as ${vars.NAME}; may use ${env.…} and ${config.…}." },
	{ "flow", "env", G_MAP, G_STRING, NULL, G_NAMES, "{}", NULL,
	  "Environment variables of every command task; read as ${env.NAME}." },
	{ "flow", "secrets", G_LIST, G_STRING, NULL, 0, "[]", NULL,
	  "Names of the secrets that the flow may read as ${secrets.NAME}." },
	{ "flow", "schedule", G_AS_LIST, G_OBJECT, "schedule", 0, NULL, NULL,
	  "When to run: one schedule or several. A bare text is short for {cron: text}." },
	{ "flow", "triggers", G_LIST, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "concurrency", G_ONE, G_OBJECT, "concurrency", 0, "{}", NULL,
	  "How many runs and tasks may be active at once." },
	{ "flow", "isolation", G_ONE, G_ENUM, "run task", 0, "run", NULL,
	  "When others see what the tasks write to tables: with the success of the whole run, or of each task. Where "
	  "another server keeps the catalog (catalog.type: rest) every write is visible at once." },
	{ "flow", "priority", G_ONE, G_INT, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "timeout", G_ONE, G_DURATION, NULL, 0, NULL, NULL, "A run that takes longer is stopped and fails." },
	{ "flow", "retry", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "defaults", G_ONE, G_ANY, NULL, 0, "{}", NULL,
	  "Keys of tasks: used by every task whose type has the key and that does not set it. Maps are merged." },
	{ "flow", "sla", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "retention", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "on_failure", G_LIST, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "on_success", G_LIST, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "finally", G_LIST, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "checks", G_LIST, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "flow", "shadow", G_ONE, G_OBJECT, "shadow", 0, NULL, NULL,
	  "Another engine that repeats runs of the flow, as rehearsals that nobody sees, and is compared with them: see "
	  "docs/engines.md and `sluice shadow report`. A bare name is short for {engine: NAME}." },
	{ "flow", "tasks", G_LIST, G_OBJECT, "task", G_REQUIRED, NULL, NULL,
	  "The tasks, at least one; they run as depends_on allows, not in the order of the file." },

	{ "param", "type", G_ONE, G_ENUM, PARAM_TYPES, 0, NULL, NULL,
	  "Type of the value; by default that of the default value, else string." },
	{ "param", "default", G_ONE, G_ANY, NULL, G_SHORT, NULL, NULL, "Value when the trigger gives none." },
	{ "param", "required", G_ONE, G_BOOL, NULL, 0, "false", NULL, "true: a trigger must give a value." },
	{ "param", "enum", G_LIST, G_ANY, NULL, 0, NULL, NULL, "The only values allowed." },
	{ "param", "min", G_ONE, G_ANY, NULL, 0, NULL, NULL, "Smallest value." },
	{ "param", "max", G_ONE, G_ANY, NULL, 0, NULL, NULL, "Largest value." },
	{ "param", "pattern", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "POSIX extended regular expression that the whole text must match." },
	{ "param", "description", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Shown where the flow is started." },
	{ "param", "secret", G_ONE, G_BOOL, NULL, 0, "false", NULL, "true: masked in logs and answers." },

	{ "schedule", "cron", G_ONE, G_STRING, NULL, G_SHORT, NULL, NULL,
	  "Five fields, six with leading seconds, or @hourly @daily @weekly @monthly @yearly." },
	{ "schedule", "every", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "schedule", "at", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "schedule", "rrule", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "schedule", "timezone", G_ONE, G_STRING, NULL, 0, "UTC", NULL,
	  "IANA name of the zone the cron expression is read in." },
	{ "schedule", "dst", G_ONE, G_OBJECT, "dst", 0, "{}", NULL,
	  "What happens on the two days a year when clocks change." },
	{ "schedule", "catchup", G_ONE, G_ENUM, "none last all", 0, "none", NULL,
	  "Times missed while the daemon was down or the flow paused: run none, the last or all of them." },
	{ "schedule", "catchup_window", G_ONE, G_DURATION, NULL, 0, "24h", NULL, "How far back catchup looks." },
	{ "schedule", "jitter", G_ONE, G_DURATION, NULL, G_LATER, NULL, NULL, NULL },
	{ "schedule", "calendar", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "schedule", "start", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "No run before this date or time; in the schedule's zone unless an offset is given." },
	{ "schedule", "end", G_ONE, G_STRING, NULL, 0, NULL, NULL, "No run at or after this date or time." },
	{ "schedule", "params", G_MAP, G_ANY, NULL, 0, NULL, NULL, "Params of the runs that this schedule starts." },
	{ "schedule", "enabled", G_ONE, G_BOOL, NULL, 0, "true", NULL, "false: this schedule starts nothing." },

	{ "dst", "gap", G_ONE, G_ENUM, "shift skip", 0, "shift", NULL,
	  "A local time that does not exist: run at the first time that does, or not at all." },
	{ "dst", "repeat", G_ONE, G_ENUM, "first last both", 0, "first", NULL,
	  "A local time that exists twice: run at the first, the last or both." },

	{ "concurrency", "max_active_runs", G_ONE, G_INT, NULL, 0, "1", "1..10000", "Runs of this flow at once." },
	{ "concurrency", "max_active_tasks", G_ONE, G_INT, NULL, 0, NULL, "1..10000",
	  "Tasks of this flow at once, over all of its runs; by default only the server's limit." },
	{ "concurrency", "overlap", G_ONE, G_ENUM, "queue skip allow !cancel_running !fail", 0, "queue", NULL,
	  "A new run while max_active_runs are active: waits, is dropped, or starts all the same." },

	{ "shadow", "engine", G_ONE, G_ENUM, ENGINES, G_REQUIRED | G_SHORT, NULL, NULL,
	  "The engine that repeats every task of a type that it does." },
	{ "shadow", "share", G_ONE, G_NUMBER, NULL, 0, "1.0", "0..1", "Which share of the runs is repeated: 0.25 is each fourth, by chance." },
	{ "shadow", "keep", G_ONE, G_DURATION, NULL, 0, "90d", NULL, "How long the figures are kept." },

	{ "retry", "max_attempts", G_ONE, G_INT, NULL, G_SHORT, "1", "1..1000",
	  "Tries in all, the first one included." },
	{ "retry", "interval", G_ONE, G_DURATION, NULL, 0, "30s", NULL, "Wait before the second try." },
	{ "retry", "backoff", G_ONE, G_ENUM, "constant exponential", 0, "constant", NULL,
	  "Whether the wait grows from try to try." },
	{ "retry", "factor", G_ONE, G_NUMBER, NULL, 0, "2", "1..100", "Growth of the wait with exponential backoff." },
	{ "retry", "max_interval", G_ONE, G_DURATION, NULL, 0, "10m", NULL, "Longest wait." },
	{ "retry", "jitter", G_ONE, G_PERCENT, NULL, 0, "10%", NULL, "Random share added to or taken from each wait." },
	{ "retry", "causes", G_LIST, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "retry", "exit_codes", G_LIST, G_ANY, NULL, G_LATER, NULL, NULL, NULL },

	{ "task", "id", G_ONE, G_ID, NULL, G_REQUIRED, NULL, NULL, "Name of the task, unique in the flow." },
	{ "task", "type", G_ONE, G_ENUM, "stage publish curate validate maintain export command python !sql !shell !http !subflow !wait !approve !notify", G_REQUIRED, NULL, NULL,
	  "What the task does; decides which further keys it has." },
	{ "task", "depends_on", G_AS_LIST, G_DEP, NULL, 0, "[]", NULL, "Tasks that must end before this one starts." },
	{ "task", "trigger_rule", G_ONE, G_ENUM, RULES, 0, "all_success", NULL,
	  "Which ends of the tasks it depends on let it start." },
	{ "task", "when", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Condition over refs, such as ${params.full} == true; the task is skipped when it is false." },
	{ "task", "for_each", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "retry", G_ONE, G_OBJECT, "retry", 0, "{}", NULL,
	  "What happens after a failure. A bare number is short for {max_attempts: number}." },
	{ "task", "timeout", G_ONE, G_DURATION, NULL, 0, NULL, NULL, "An attempt that takes longer is stopped." },
	{ "task", "stop_grace", G_ONE, G_DURATION, NULL, 0, "10s", NULL,
	  "Time between SIGTERM and SIGKILL when an attempt is stopped." },
	{ "task", "pool", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "slots", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "priority", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "resources", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "cache", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "inlets", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "outlets", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "task", "allow_failure", G_ONE, G_BOOL, NULL, 0, "false", NULL,
	  "true: a failure of this task does not fail the run, and the tasks behind it go on." },
	{ "task", "enabled", G_ONE, G_BOOL, NULL, 0, "true", NULL, "false: the task is skipped." },

	{ "native", "engine", G_ONE, G_ENUM, ENGINES, 0, "duckdb", NULL,
	  "What runs the task; a trigger can override it. What is not duckdb is made once by `sluice engines install NAME`." },
	{ "native", "engine_options", G_ONE, G_OBJECT, "engine_options", 0, "{}", NULL,
	  "Settings of the engine. Those of spark mean nothing to the others, so that a task keeps them whatever runs it." },

	{ "engine_options", "memory_limit", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "Most memory that the engine takes before it spills to disk." },
	{ "engine_options", "threads", G_ONE, G_INT, NULL, 0, NULL, "1..1024", "Threads of the engine." },
	{ "engine_options", "master", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "spark: where it runs: local[4], or a cluster's spark://host:7077. By default local, with `threads` or all processors." },
	{ "engine_options", "connect", G_ONE, G_ANY, NULL, 0, NULL, NULL,
	  "spark: true for one JVM that tasks share, started by the first of them (Spark Connect); or `sc://host:port`, a Spark Connect server "
	  "of one's own. By default each task starts a JVM." },
	{ "engine_options", "version", G_ONE, G_ENUM, "4.1 3.5", 0, NULL, NULL,
	  "spark: which one; by default 4.1. 3.5 is for Hudi tables, and installed by itself: `sluice engines install spark-3.5`." },
	{ "engine_options", "driver_memory", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "spark: heap of the JVM, which in local mode does all the work. By default what the JVM takes, a quarter of the machine's; "
	  "`memory_limit` says the same." },
	{ "engine_options", "executor_memory", G_ONE, G_SIZE, NULL, 0, NULL, NULL, "spark: heap of each executor on a cluster." },
	{ "engine_options", "executor_cores", G_ONE, G_INT, NULL, 0, NULL, "1..1024", "spark: tasks at a time in each executor." },
	{ "engine_options", "max_cores", G_ONE, G_INT, NULL, 0, NULL, "1..100000", "spark: cores of the cluster that the task takes at most." },
	{ "engine_options", "off_heap", G_ONE, G_SIZE, NULL, 0, NULL, NULL, "spark: memory beside the heap; by default none." },
	{ "engine_options", "shuffle_partitions", G_ONE, G_INT, NULL, 0, NULL, "1..1000000",
	  "spark: parts that rows are divided into by groups, joins and sorts; by default 200, made fewer where they are small." },
	{ "engine_options", "parallelism", G_ONE, G_INT, NULL, 0, NULL, "1..1000000", "spark: spark.default.parallelism." },
	{ "engine_options", "adaptive", G_ONE, G_BOOL, NULL, 0, NULL, NULL,
	  "spark: plans change while they run, by what has been seen; by default they do." },
	{ "engine_options", "java_options", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "spark: more options of the JVM, separated by blanks. They stand in its arguments: no secrets." },
	{ "engine_options", "conf", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "spark: any other of its settings, fs.s3a.… too. Those whose names speak of secrets, keys or tokens are told to the session alone and hidden on Spark's pages." },

	{ "stage", "source", G_ONE, G_OBJECT, "source", G_REQUIRED, NULL, NULL, "The files or the table to read." },
	{ "stage", "select", G_LIST, G_SELECT, NULL, 0, NULL, NULL,
	  "Columns to keep, in order: a name, \"expr AS name\", or {name: expr}. By default all." },
	{ "stage", "where", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "SQL condition; rows for which it is not true are left out." },
	{ "stage", "rename", G_MAP, G_STRING, NULL, 0, NULL, NULL, "Old name to new name." },
	{ "stage", "sql", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "A SELECT over \"this\", the rows that the other keys leave; its rows are written. For changed and computed values, "
	  "and for one row a key: SELECT DISTINCT ON (key) * FROM this ORDER BY key, changed_at DESC." },
	{ "stage", "sql_file", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "A file with that SELECT, relative to the flow's file; refs work inside." },
	{ "stage", "limit", G_ONE, G_INT, NULL, 0, NULL, "0..",
	  "At most so many rows are written, and no more of the source is read than that takes." },
	{ "stage", "cast", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "Column to SQL type; a value that does not fit is a reject." },
	{ "stage", "schema", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "Column to \"type\" or \"type not null\": the whole result, checked; a row that does not fit is a "
	  "reject." },
	{ "stage", "on_reject", G_ONE, G_ENUM, "fail skip quarantine", 0, "fail", NULL,
	  "Rows that cannot be read or do not fit: fail the task, leave them out, or write them beside the "
	  "target with their line number." },
	{ "stage", "max_rejects", G_ONE, G_INT, NULL, 0, NULL, "0..",
	  "With skip and quarantine: more rejects than this fail the task." },
	{ "stage", "target", G_ONE, G_OBJECT, "target", G_REQUIRED, NULL, NULL,
	  "The Parquet file or folder to write." },

	{ "source", "format", G_ONE, G_ENUM, "csv json parquet iceberg delta hudi postgres sqlite mysql http kafka !sql !avro !xlsx", G_REQUIRED, NULL, NULL,
	  "Format of the files; iceberg: a table of the catalog; delta, hudi: the folder of such a table; postgres, sqlite and mysql: "
	  "a table or a query of such a database; http: records of a JSON API; kafka: the messages of topics that are new." },
	{ "source", "path", G_ONE_OR_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "A path or glob, or a list of them; relative to the flow's file. sqlite: the database's file." },
	{ "source", "table", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "iceberg: the table, namespace.table, with or without the catalog's name in front. Of a database: its table, schema.table "
	  "or table; conditions and columns are handed on to a server." },
	{ "source", "query", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "postgres, sqlite, mysql: a SELECT in that database's own SQL, in the place of table. Columns of SQLite's are text." },
	{ "source", "uri", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "postgres, mysql: where the server is, postgresql://USER:PASSWORD@HOST:PORT/DATABASE, best as ${secrets.NAME}." },
	{ "source", "at", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "iceberg: the table as it was: a branch, a tag, a snapshot id, previous, a time such as 2026-11-21 06:00 (UTC) or 2h ago." },
	{ "source", "version", G_ONE, G_INT, NULL, 0, NULL, "0..", "delta: this version; by default the latest." },
	{ "source", "timestamp", G_ONE, G_STRING, NULL, 0, NULL, NULL, "delta: the version that was the latest at this time." },
	{ "source", "header", G_ONE, G_BOOL, NULL, 0, NULL, NULL,
	  "CSV: whether the first line names the columns; by default it does. One without a name is column0, column1, ..., by its place." },
	{ "source", "delimiter", G_ONE, G_CHAR, NULL, 0, NULL, NULL,
	  "CSV: what separates columns; by default a comma." },
	{ "source", "quote", G_ONE, G_CHAR, "empty", 0, NULL, NULL,
	  "CSV: the quote character; by default a double quote. Empty: there is none, and each line is a row." },
	{ "source", "compression", G_ONE, G_ENUM, "auto none gzip zstd", 0, "auto", NULL,
	  "Compression of CSV and JSON files; by default from the file's name." },
	{ "source", "columns", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "Column to SQL type; with header: false also their names, in order." },
	{ "source", "union_by_name", G_ONE, G_BOOL, NULL, 0, "false", NULL,
	  "Parquet: true: columns that a file lacks and others have are NULL in its rows; by default that is an error." },
	{ "source", "url", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "http: the address, http:// or https://, with or without a query." },
	{ "source", "method", G_ONE, G_ENUM, "GET POST", 0, NULL, NULL, "http: by default GET, with a body POST." },
	{ "source", "headers", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "http: headers such as Authorization: \"Bearer ${secrets.NAME}\". They go to the host of the url alone, not to where it "
	  "redirects or links to." },
	{ "source", "params", G_MAP, G_STRING, NULL, 0, NULL, NULL, "http: what is added to the url's query, encoded." },
	{ "source", "body", G_ONE, G_ANY, NULL, 0, NULL, NULL, "http: what is sent; a map or a list as JSON, a text as it is." },
	{ "source", "records", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "http: where in the answer the list of records is: data.items, or /data/items. By default the answer itself is the list, or "
	  "the one record." },
	{ "source", "pagination", G_ONE, G_OBJECT, "pagination", 0, NULL, NULL,
	  "http: how the next page is asked for; by default there is one. A bare word is short for {type: word}." },
	{ "source", "rate_limit", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "http: most requests in a time, 40/10s or 5/s, in no such time more; by default as fast as the API answers." },
	{ "source", "retry", G_ONE, G_OBJECT, "http_retry", 0, NULL, NULL,
	  "http: how often a request is tried that meets trouble which passes: status 408, 425, 429 or 5xx, a connection that fails or "
	  "is cut. A bare number is short for {max_attempts: number}." },
	{ "source", "timeout", G_ONE, G_DURATION, NULL, 0, NULL, NULL,
	  "http: how long one request may take, its answer included; kafka: how long the brokers may give nothing. By default 60s." },
	{ "source", "max_answer", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "http: largest answer that is taken, unpacked; by default 64MB. An attempt holds one answer at a time." },
	{ "source", "resume", G_ONE, G_BOOL, NULL, 0, NULL, NULL,
	  "http: whether an attempt goes on behind the last whole page of an earlier one of the same run, which asked for the same; by "
	  "default true." },
	{ "source", "ca", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "http: file of the certificates (PEM) that vouch for the server's; by default the system's." },
	{ "source", "brokers", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "kafka: the bootstrap servers, HOST:PORT, as a list or with commas." },
	{ "source", "topic", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL, "kafka: the topic, or a list of them." },
	{ "source", "group", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "kafka: the stream's name, under which its offsets are kept here, and told to the brokers as those of a consumer group; by "
	  "default FLOW.TASK. Another name begins anew." },
	{ "source", "starting", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "kafka: where a stream begins that has read nothing yet: earliest (the default), latest, a time such as 2026-11-21 06:00 "
	  "(UTC) or 2h ago." },
	{ "source", "value_format", G_ONE, G_ENUM, "json text bytes", 0, NULL, NULL,
	  "kafka: json (the default): objects, whose fields are those of columns; text, bytes: one column, value." },
	{ "source", "key_format", G_ONE, G_ENUM, "text bytes", 0, NULL, NULL, "kafka: what _kafka.key is; by default text." },
	{ "source", "metadata", G_ONE, G_BOOL, NULL, 0, NULL, NULL,
	  "kafka: true adds the column _kafka, a struct of topic, partition, offset, timestamp, key and headers; by default false." },
	{ "source", "max_messages", G_ONE, G_INT, NULL, 0, NULL, "1..",
	  "kafka: most messages a run; the rest is left to the next. By default all that were there when it began." },
	{ "source", "max_bytes", G_ONE, G_SIZE, NULL, 0, NULL, NULL, "kafka: the same by the size of keys and values." },
	{ "source", "on_data_loss", G_ONE, G_ENUM, "fail continue", 0, NULL, NULL,
	  "kafka: when messages that were never read are gone from the topic, or it was made anew: fail (the default), or go on with what "
	  "is there; the log says what is lost." },
	{ "source", "security", G_ONE, G_OBJECT, "kafka_security", 0, NULL, NULL, "kafka: what the brokers want of who connects." },
	{ "source", "options", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "kafka: settings of librdkafka, by its names: {fetch.wait.max.ms: 50}." },

	{ "kafka_security", "protocol", G_ONE, G_ENUM, "plaintext ssl sasl_plaintext sasl_ssl", G_REQUIRED, NULL, NULL,
	  "With or without TLS (ssl), with or without a user (sasl)." },
	{ "kafka_security", "mechanism", G_ONE, G_ENUM, "PLAIN SCRAM-SHA-256 SCRAM-SHA-512 GSSAPI OAUTHBEARER", 0, NULL, NULL,
	  "How the user is proved, with sasl." },
	{ "kafka_security", "username", G_ONE, G_STRING, NULL, 0, NULL, NULL, "The user." },
	{ "kafka_security", "password", G_ONE, G_STRING, NULL, 0, NULL, NULL, "The password, as ${secrets.NAME}." },
	{ "kafka_security", "ca", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "File of the certificates (PEM) that vouch for the brokers'; by default the system's." },
	{ "kafka_security", "certificate", G_ONE, G_STRING, NULL, 0, NULL, NULL, "File of the client's own certificate (PEM)." },
	{ "kafka_security", "key", G_ONE, G_STRING, NULL, 0, NULL, NULL, "File of its key (PEM)." },
	{ "kafka_security", "key_password", G_ONE, G_STRING, NULL, 0, NULL, NULL, "What opens that file, as ${secrets.NAME}." },

	{ "pagination", "type", G_ONE, G_ENUM, "page offset cursor link", G_REQUIRED | G_SHORT, NULL, NULL,
	  "page: a page's number; offset: how many records come before it; cursor: a value that the page before gives; link: an "
	  "address that the page before gives." },
	{ "pagination", "param", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "The parameter of the query that says so; by default page, offset or cursor." },
	{ "pagination", "start", G_ONE, G_INT, NULL, 0, NULL, "0..", "First page or offset; by default 1 and 0." },
	{ "pagination", "size_param", G_ONE, G_STRING, NULL, 0, NULL, NULL, "The parameter that says how many records a page has." },
	{ "pagination", "size", G_ONE, G_INT, NULL, 0, NULL, "1..", "Records a page." },
	{ "pagination", "total_pages", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "page: where in the answer the number of pages is, as in records." },
	{ "pagination", "total", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "page and offset: where in the answer the number of all records is." },
	{ "pagination", "cursor", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "cursor: where in the answer the next page's value is; -1 in a path is the last of a list: data.-1.id. Missing, null or empty: "
	  "it was the last page." },
	{ "pagination", "next", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "link: where in the answer the next page's address is; by default the header Link with rel=\"next\" has it." },
	{ "pagination", "more", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Where in the answer it says whether there are more pages, as true or false." },
	{ "pagination", "until", G_ONE, G_ENUM, "empty short", 0, "empty", NULL,
	  "page and offset, where no total tells the end: at a page without records, or at one with fewer than size." },
	{ "pagination", "max_pages", G_ONE, G_INT, NULL, 0, NULL, "1..", "Pages after which it ends, whatever there is; the log says so." },

	{ "http_retry", "max_attempts", G_ONE, G_INT, NULL, G_SHORT, "5", "1..1000", "Tries of a request, the first one included." },
	{ "http_retry", "interval", G_ONE, G_DURATION, NULL, 0, "1s", NULL,
	  "Wait before the second try; it doubles from try to try. Where the answer has Retry-After, that is the wait." },
	{ "http_retry", "max_interval", G_ONE, G_DURATION, NULL, 0, "1m", NULL,
	  "Longest wait; a server that asks for a longer one ends the attempt." },

	{ "target", "path", G_ONE, G_STRING, NULL, G_REQUIRED, NULL, NULL,
	  "Where to write; a folder with partition_by." },
	{ "target", "format", G_ONE, G_ENUM, "parquet !csv !json", 0, "parquet", NULL, "Format to write." },
	{ "target", "compression", G_ONE, G_ENUM, "zstd snappy gzip uncompressed", 0, "zstd", NULL,
	  "Compression inside of the Parquet file." },
	{ "target", "row_group_size", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "Size of a row group; by default the engine's." },
	{ "target", "partition_by", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "Columns that become folders, column=value." },

	{ "publish", "from", G_ONE, G_OBJECT, "from", G_REQUIRED, NULL, NULL,
	  "Where the rows are. A bare path, or a list of paths, names Parquet files. What a stage task with on_reject: quarantine "
	  "left out of such a file goes to the table INTO__rejected: run_id, task_id, file, line, reason, row." },
	{ "publish", "parity", G_ONE, G_ENUM, "full counts none", 0, NULL, NULL,
	  "Compares what was written with the source before anybody sees it, and fails when they differ. full: columns, rows, and of "
	  "each column NULLs and a sum of hashes of its values, which reads both once more; counts: the same without the hashes. By "
	  "default full where from.format is given, else none." },
	{ "publish", "into", G_ONE, G_STRING, NULL, G_REQUIRED, NULL, NULL,
	  "The table: namespace.table, with or without the catalog's name in front." },
	{ "publish", "mode", G_ONE, G_ENUM, PUBLISH_MODES, 0, "append", NULL,
	  "append adds rows; replace puts new rows and columns in place of the old; overwrite puts new rows in "
	  "place of the old and keeps the columns; overwrite_partitions does so in the partitions that the new rows "
	  "fall into; upsert puts a row in place of the one with the same key, and adds the others; add_files takes the files "
	  "themselves into the table, where they lie (folders such as day=2024-01-01 become partitions); register makes a "
	  "table of a metadata file of another catalog." },
	{ "publish", "create", G_ONE, G_BOOL, NULL, 0, "true", NULL,
	  "Whether to create the table when it does not exist." },
	{ "publish", "properties", G_MAP, G_STRING, NULL, 0, NULL, NULL, "Table properties to set." },
	{ "publish", "target_file_size", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "Size of data files to aim at; by default that of the config." },
	LAYOUT_ROWS("publish"),

	{ "from", "path", G_ONE_OR_LIST, G_STRING, NULL, G_REQUIRED | G_SHORT, NULL, NULL,
	  "A path or glob, or a list of them; relative to the flow's file. With format: the folder of a data set or of a Delta table." },
	{ "from", "format", G_ONE, G_ENUM, "parquet delta", 0, NULL, NULL,
	  "parquet: a data set; folders such as year=2024 become columns, and the partitions of a new table. delta: a Delta table, "
	  "whose columns, required columns and partitions a new table gets." },
	{ "from", "version", G_ONE, G_INT, NULL, 0, NULL, "0..", "delta: this version; by default the latest." },
	{ "from", "timestamp", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "delta: the version that was the latest then: a time such as 2026-11-21 06:00 (UTC) or 2026-11-21T06:00:00+01:00." },
	{ "from", "cast", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "Column to SQL type, also for columns that come from folders; a value that does not fit fails the task." },

	{ "curate", "sql", G_ONE, G_STRING, NULL, 0, NULL, NULL, "The SELECT whose rows are written." },
	{ "curate", "sql_file", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "A file with the SELECT, relative to the flow's file; refs work inside." },
	{ "curate", "into", G_ONE, G_STRING, NULL, G_REQUIRED, NULL, NULL,
	  "The table: namespace.table, with or without the catalog's name in front." },
	{ "curate", "mode", G_ONE, G_ENUM, WRITE_MODES, 0, "append", NULL, "As for publish, but for files." },
	{ "curate", "create", G_ONE, G_BOOL, NULL, 0, "true", NULL,
	  "Whether to create the table when it does not exist." },
	{ "curate", "properties", G_MAP, G_STRING, NULL, 0, NULL, NULL, "Table properties to set." },
	{ "curate", "target_file_size", G_ONE, G_SIZE, NULL, 0, NULL, NULL, "As for publish." },
	LAYOUT_ROWS("curate"),

	{ "validate", "table", G_ONE, G_STRING, NULL, 0, NULL, NULL, "The table to check." },
	{ "validate", "at", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "With table: the table as it was: a branch, a tag, a snapshot id, previous, or a time." },
	{ "validate", "sql", G_ONE, G_STRING, NULL, 0, NULL, NULL, "A SELECT whose rows are checked." },
	{ "validate", "checks", G_LIST, G_OBJECT, "check", G_REQUIRED, NULL, NULL, "The checks; each names one kind." },
	{ "validate", "on_fail", G_ONE, G_ENUM, "fail warn !quarantine !rollback", 0, "fail", NULL,
	  "Whether a failed check of severity error fails the task." },
	{ "validate", "sample", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },

	{ "check", "row_count", G_ONE, G_OBJECT, "row_count", 0, NULL, NULL, "How many rows there must be." },
	{ "check", "not_null", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL, "Columns without NULL." },
	{ "check", "unique", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL, "Columns whose values together occur once." },
	{ "check", "accepted_values", G_ONE, G_OBJECT, "accepted_values", 0, NULL, NULL,
	  "The values a column may have." },
	{ "check", "range", G_ONE, G_OBJECT, "range", 0, NULL, NULL, "The smallest and largest value of a column." },
	{ "check", "schema", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "Column to \"type\" or \"type not null\": columns that must exist." },
	{ "check", "sql", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "A SELECT that gives one boolean; \"this\" is what is checked." },
	{ "check", "same_rows", G_ONE, G_OBJECT, "same_rows", 0, NULL, NULL,
	  "A count that must equal the rows of a file or table." },
	{ "check", "freshness", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "check", "relationship", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "check", "severity", G_ONE, G_ENUM, "error warn", 0, "error", NULL,
	  "warn: a failed check is recorded and fails nothing." },
	{ "check", "name", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Shown in reports." },

	{ "row_count", "min", G_ONE, G_INT, NULL, 0, NULL, "0..", "At least." },
	{ "row_count", "max", G_ONE, G_INT, NULL, 0, NULL, "0..", "At most." },
	{ "row_count", "equals", G_ONE, G_INT, NULL, 0, NULL, "0..", "Exactly." },
	{ "row_count", "max_change", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },

	{ "accepted_values", "column", G_ONE, G_STRING, NULL, G_REQUIRED, NULL, NULL, "The column." },
	{ "accepted_values", "values", G_LIST, G_ANY, NULL, G_REQUIRED, NULL, NULL,
	  "The values; NULL is always accepted." },

	{ "range", "column", G_ONE, G_STRING, NULL, G_REQUIRED, NULL, NULL, "The column." },
	{ "range", "min", G_ONE, G_ANY, NULL, 0, NULL, NULL, "Smallest value." },
	{ "range", "max", G_ONE, G_ANY, NULL, 0, NULL, NULL, "Largest value." },

	{ "same_rows", "count_of", G_ONE, G_STRING, NULL, G_REQUIRED, NULL, NULL,
	  "A path or a table whose rows are counted." },
	{ "same_rows", "as", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "SELECT that gives the number to compare; by default the rows of what is checked." },

	{ "export", "from", G_ONE, G_OBJECT, "export_from", 0, NULL, NULL,
	  "The rows: of a table, of Parquet files or of a query. A bare name is a table. Needed, but where a Delta table is changed by "
	  "expressions or a condition alone." },
	{ "export", "to", G_ONE, G_OBJECT, "export_to", G_REQUIRED, NULL, NULL,
	  "Where they go. What an export has written stays, also when the run fails later." },

	{ "export_from", "table", G_ONE, G_STRING, NULL, G_SHORT, NULL, NULL,
	  "A table of the catalog, namespace.table, with or without the catalog's name in front." },
	{ "export_from", "at", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "The table as it was: a branch, a tag, a snapshot id, previous, or a time." },
	{ "export_from", "path", G_ONE_OR_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "Parquet files: a path or glob, or a list of them; relative to the flow's file." },
	{ "export_from", "sql", G_ONE, G_STRING, NULL, 0, NULL, NULL, "A SELECT over tables of the catalog." },

	{ "export_to", "format", G_ONE, G_ENUM, "parquet csv json postgres sqlite mysql mongodb kafka delta hudi", G_REQUIRED, NULL, NULL,
	  "Files of Parquet, CSV or JSON (one object a line), a table of another database, a collection of MongoDB, a topic of "
	  "Kafka (a message of JSON a row), or a Delta or Hudi table (by engines that can)." },
	{ "export_to", "path", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "The file to write, whole or not at all; a folder with partition_by. Here or s3://. sqlite: the database's file, made when it is "
	  "not there. delta, hudi: the table's folder." },
	{ "export_to", "compression", G_ONE, G_ENUM, "zstd snappy gzip uncompressed", 0, NULL, NULL,
	  "By default zstd inside of Parquet, and of CSV and JSON as the file's name ends: .gz, .zst." },
	{ "export_to", "partition_by", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL, "Parquet, CSV: columns that become folders, column=value. delta, hudi: partitions of a new table." },
	{ "export_to", "header", G_ONE, G_BOOL, NULL, 0, NULL, NULL, "CSV: whether the first line names the columns; by default it does." },
	{ "export_to", "delimiter", G_ONE, G_CHAR, NULL, 0, NULL, NULL, "CSV: what separates columns; by default a comma." },
	{ "export_to", "uri", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "postgres, mysql, mongodb: where the server is, postgresql://USER:PASSWORD@HOST:PORT/DATABASE, best as ${secrets.NAME}." },
	{ "export_to", "database", G_ONE, G_STRING, NULL, 0, NULL, NULL, "mongodb: the database; by default the one that the address names." },
	{ "export_to", "collection", G_ONE, G_STRING, NULL, 0, NULL, NULL, "mongodb: the collection; made when it is not there." },
	{ "export_to", "table", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Of a database: the table, schema.table or table; made when it is not there." },
	{ "export_to", "mode", G_ONE, G_ENUM, "append replace overwrite upsert update delete", 0, NULL, NULL,
	  "Of a database: append (the default) adds rows, once a run and task, which it notes in a table sluice_exports beside; replace makes the "
	  "table anew; overwrite deletes all rows first; upsert puts a row in place of the one with the same key, and adds the others. Each in one "
	  "transaction; of MongoDB, which may have none, see databases.md. delta: the same, in one commit, once a run and task; update sets "
	  "columns of the rows that are there, delete takes rows away." },
	{ "export_to", "key", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "With mode: upsert: the columns by which rows are the same; the table needs a unique index over them, which a new one gets. "
	  "kafka: the column that becomes the messages' key, which says the partition; by default they have none. delta, hudi: also with mode: "
	  "delete; the table needs no index. hudi: the key of a new table." },
	{ "export_to", "order_by", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "hudi: of two rows with one key the one with the greater value here stays (the precombine field)." },
	{ "export_to", "set", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "delta, mode: update: columns and the expressions that they become, in SQL over the row's columns: {salary: salary * 1.1}." },
	{ "export_to", "where", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "delta, modes update and delete: the rows that are changed, a condition in SQL; by default an update changes all." },
	{ "export_to", "brokers", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "kafka: the bootstrap servers, HOST:PORT, as a list or with commas." },
	{ "export_to", "topic", G_ONE, G_STRING, NULL, 0, NULL, NULL, "kafka: the topic, which must be there." },
	{ "export_to", "timeout", G_ONE, G_DURATION, NULL, 0, NULL, NULL, "kafka: how long the brokers may take nothing; by default 60s." },
	{ "export_to", "security", G_ONE, G_OBJECT, "kafka_security", 0, NULL, NULL, "kafka: what the brokers want of who connects." },
	{ "export_to", "options", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "kafka: settings of librdkafka, by its names: {compression.type: zstd, linger.ms: 5}." },

	{ "maintain", "tables", G_AS_LIST, G_STRING, NULL, G_REQUIRED, NULL, NULL,
	  "Names of tables or globs (* any characters, ? one), with or without the catalog's name in front; \"*\" is all. "
	  "Where none of compact, rewrite_manifests, expire_snapshots and remove_orphan_files is switched on by name, all run that "
	  "are not switched off; else those alone." },
	{ "maintain", "when_health_below", G_ONE, G_INT, NULL, 0, NULL, "0..100",
	  "Only tables whose health score is below it; by default all." },
	{ "maintain", "dry_run", G_ONE, G_BOOL, NULL, 0, "false", NULL, "Tells what would be done, and does nothing." },
	{ "maintain", "compact", G_ONE, G_OBJECT, "compact", 0, NULL, NULL,
	  "Few large data files in place of many small ones, with the delete files applied." },
	{ "maintain", "rewrite_manifests", G_ONE, G_ENUM, "auto always never", 0, NULL, NULL,
	  "Few manifests, sorted by partition, in place of many: where it pays, always, or never." },
	{ "maintain", "expire_snapshots", G_ONE, G_OBJECT, "expire_snapshots", 0, NULL, NULL,
	  "Old snapshots go, and the files that only they need." },
	{ "maintain", "remove_orphan_files", G_ONE, G_OBJECT, "remove_orphan_files", 0, NULL, NULL,
	  "Files in the table's folder go that nothing leads to." },
	{ "maintain", "wait_for_writers", G_ONE, G_DURATION, NULL, 0, "5m", NULL,
	  "How long a table that a task is writing is waited for before it is skipped." },
	{ "maintain", "max_concurrent_tables", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },

	{ "compact", "enabled", G_ONE, G_BOOL, NULL, G_SHORT, "true", NULL, "false: it is switched off." },
	{ "compact", "target_file_size", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "Size of data files to aim at; by default that of the table's policy in the config." },
	{ "compact", "min_input_files", G_ONE, G_INT, NULL, 0, "5", "2..",
	  "Fewer small files than this in a partition are left alone." },
	{ "compact", "max_bytes", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "Most bytes that are rewritten, over all tables; the next run goes on. By default there is no limit." },
	{ "compact", "max_files", G_ONE, G_INT, NULL, 0, NULL, "1..", "The same in files." },
	{ "compact", "strategy", G_ONE, G_ENUM, "binpack sort", 0, "binpack", NULL,
	  "binpack puts small files together as they are; sort also orders their rows." },
	{ "compact", "sort_by", G_AS_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "With strategy: sort: the order, as in publish; by default the table's own." },
	{ "compact", "where", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "SQL condition: only files that may hold such rows are looked at." },

	{ "expire_snapshots", "enabled", G_ONE, G_BOOL, NULL, G_SHORT, "true", NULL, "false: it is switched off." },
	{ "expire_snapshots", "older_than", G_ONE, G_DURATION, NULL, 0, NULL, NULL,
	  "Age from which snapshots go; by default expire_days of the table's policy." },
	{ "expire_snapshots", "keep_last", G_ONE, G_INT, NULL, 0, NULL, "1..",
	  "Snapshots that stay whatever their age; by default as the table's policy says." },
	{ "expire_snapshots", "keep", G_ONE, G_OBJECT, "keep", 0, NULL, NULL,
	  "Snapshots that stay longer, by calendar; what is left out is as the table's policy says." },

	{ "remove_orphan_files", "enabled", G_ONE, G_BOOL, NULL, G_SHORT, "true", NULL, "false: it is switched off." },
	{ "remove_orphan_files", "older_than", G_ONE, G_DURATION, NULL, 0, NULL, NULL,
	  "Age from which files go; by default orphan_days of the table's policy. Under 24h another engine's write under way may "
	  "lose files." },
	{ "remove_orphan_files", "dry_run", G_ONE, G_BOOL, NULL, 0, "false", NULL,
	  "Tells which files would go, and removes none." },

	{ "keep", "daily", G_ONE, G_INT, NULL, 0, NULL, "0..",
	  "The newest snapshot of each of so many days stays; days are in UTC. By default none." },
	{ "keep", "weekly", G_ONE, G_INT, NULL, 0, NULL, "0..", "The same of weeks, which begin on Monday." },
	{ "keep", "monthly", G_ONE, G_INT, NULL, 0, NULL, "0..", "The same of months." },

	{ "command", "command", G_ONE_OR_LIST, G_STRING, NULL, G_REQUIRED, NULL, NULL,
	  "A text runs through /bin/sh -c; a list is a program and its arguments." },
	{ "command", "env", G_MAP, G_STRING, NULL, G_NAMES, "{}", NULL,
	  "Environment variables, over those of the flow." },
	{ "command", "working_dir", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Folder to run in, relative to the flow's file; by default the attempt's scratch folder." },
	{ "command", "outputs", G_MAP, G_ENUM, "string int float bool list object", G_NAMES, "{}", NULL,
	  "Values that the command reports as {\"outputs\": {NAME: value}} lines to $SLUICE_REPORT, and their "
	  "types." },

	{ "python", "code", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Python code, taken as it is: refs go into args. A function main is called with args by name, and the dict that it "
	  "returns becomes the task's outputs; without one the code runs as a program does. `import sluice` gives params, args, "
	  "output(NAME=value) and progress(done, total, message)." },
	{ "python", "script", G_ONE, G_STRING, NULL, 0, NULL, NULL, "A file with such code, relative to the flow's file; it is read when the task begins." },
	{ "python", "python", G_ONE, G_STRING, NULL, 0, "python3", NULL,
	  "The interpreter, 3.9 or newer: a name on the PATH, a path, or the folder of a virtual environment, relative to the "
	  "flow's file." },
	{ "python", "args", G_MAP, G_ANY, NULL, 0, "{}", NULL, "Values for the code, of any type; refs work inside." },
	{ "python", "env", G_MAP, G_STRING, NULL, G_NAMES, "{}", NULL, "Environment variables, over those of the flow." },
	{ "python", "working_dir", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Folder to run in, relative to the flow's file; by default the attempt's scratch folder." },
	{ "python", "outputs", G_MAP, G_ENUM, "string int float bool list object", G_NAMES, NULL, NULL,
	  "The outputs, and their types. Refs to others are errors then; the task fails if one is missing at its end." },

	{ "config", "env", G_ONE, G_STRING, NULL, 0, "dev", NULL, "Name of the environment: dev, test, prod." },
	{ "config", "catalog", G_ONE, G_OBJECT, "catalog", 0, "{}", NULL, "The Iceberg catalog." },
	{ "config", "s3", G_ONE, G_OBJECT, "s3", 0, NULL, NULL, "The object store behind s3:// paths." },
	{ "config", "tables", G_MAP, G_STRING, NULL, G_NAMES, "{}", NULL,
	  "Names for tables, read as ${config.tables.NAME}." },
	{ "config", "paths", G_MAP, G_STRING, NULL, G_NAMES, "{}", NULL,
	  "Names for paths, read as ${config.paths.NAME}; relative to this file." },
	{ "config", "housekeeping", G_ONE, G_OBJECT, "housekeeping", 0, "{}", NULL, "Defaults of table maintenance." },
	{ "config", "server", G_ONE, G_OBJECT, "server", 0, "{}", NULL, "The daemon's own settings." },
	{ "config", "secrets", G_MAP, G_OBJECT, "secret", G_NAMES, "{}", NULL,
	  "Where secrets are read from; by default the environment variable of that name in capitals, or the "
	  "file secrets/NAME beside this one." },

	{ "catalog", "name", G_ONE, G_STRING, NULL, 0, "local", NULL,
	  "Name of the catalog in SQL and in table names." },
	{ "catalog", "type", G_ONE, G_ENUM, "sluice jdbc rest hive glue", 0, NULL, NULL,
	  "sluice is the embedded catalog, the default without jdbc_uri and uri." },
	{ "catalog", "jdbc_uri", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Database of a JDBC catalog, as PyIceberg or Spark made it: served as it is, and the daemon's own state lies "
	  "there too, in the schema sluice. PostgreSQL; the jdbc: prefix is optional." },
	{ "catalog", "uri", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Address of a REST catalog of another server, without the /v1 of its paths; or of a Hive metastore, thrift://HOST:PORT." },
	{ "catalog", "region", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Region of Glue; by default that of the S3 store." },
	{ "catalog", "endpoint", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Address of Glue; by default AWS in the region. Its keys are those of the S3 store." },
	{ "catalog", "id", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Account whose Glue catalog it is; by default that of the keys." },
	{ "catalog", "token", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Bearer token for a REST catalog." },
	{ "catalog", "credential", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "ID:SECRET of a client of a REST catalog, which is exchanged for tokens by OAuth2, again when one ends." },
	{ "catalog", "oauth2_server_uri", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Where the credential is exchanged; by default URI/v1/oauth/tokens." },
	{ "catalog", "scope", G_ONE, G_STRING, NULL, 0, "catalog", NULL, "Scope that is asked for with the credential." },
	{ "catalog", "headers", G_MAP, G_STRING, NULL, 0, "{}", NULL, "HTTP headers for every request to a REST catalog." },
	{ "catalog", "timeout", G_ONE, G_DURATION, NULL, 0, "60s", NULL,
	  "How long a request that a REST catalog of another server does not answer is tried again." },
	{ "catalog", "user", G_ONE, G_STRING, NULL, 0, NULL, NULL, "User of a JDBC catalog." },
	{ "catalog", "password", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Password of a JDBC catalog." },
	{ "catalog", "warehouse", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Where tables are kept; by default the folder warehouse of the state folder. Of a REST catalog: the name that its "
	  "server knows the warehouse by. Of hive and glue: where new tables lie." },
	{ "catalog", "cleanup_after", G_ONE, G_DURATION, NULL, 0, "1h", NULL,
	  "How long files stay that attempts left in tables and no table needs: of runs and attempts that did not succeed." },

	{ "s3", "endpoint", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Address of the store, http://HOST:PORT or https://HOST; by default AWS in the region." },
	{ "s3", "access_key", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Access key; without it AWS_ACCESS_KEY_ID, or the role AWS_ROLE_ARN with AWS_WEB_IDENTITY_TOKEN_FILE." },
	{ "s3", "secret_key", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Secret key." },
	{ "s3", "path_style", G_ONE, G_BOOL, NULL, 0, "false", NULL,
	  "Bucket in the path rather than in the host's name; always so where the host is an address." },
	{ "s3", "region", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Region; by default AWS_REGION, else us-east-1." },
	{ "s3", "session_token", G_ONE, G_STRING, NULL, 0, NULL, NULL, "Session token that belongs to the keys." },
	{ "s3", "ca", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "File of the certificates (PEM) that vouch for the store's; by default AWS_CA_BUNDLE or SSL_CERT_FILE, else the "
	  "system's." },
	{ "s3", "timeout", G_ONE, G_DURATION, NULL, 0, "60s", NULL,
	  "How long a request that the store does not answer is tried again." },

	POLICY_ROWS("housekeeping", "128MB", "7", "1", "3"),
	{ "housekeeping", "tables", G_MAP, G_OBJECT, "table_policy", 0, "{}", NULL,
	  "What differs for some tables, by name or glob. All that match a table apply, a later one over an earlier one." },

	POLICY_ROWS("table_policy", NULL, NULL, NULL, NULL),

	{ "server", "listen", G_ONE, G_STRING, NULL, 0, "127.0.0.1:8080", NULL, "Address and port of the HTTP API." },
	{ "server", "archive", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Where logs and artifacts of ended attempts are kept as well, s3://BUCKET/FOLDER or a folder; read from there when "
	  "they are not in the state folder." },
	{ "server", "max_active_tasks", G_ONE, G_INT, NULL, 0, NULL, "1..10000",
	  "Tasks at once; by default one a processor." },
	{ "server", "database", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "PostgreSQL connection string; by default a private cluster in the state folder." },
	{ "server", "flows", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "Folder of the flow files, relative to this file; by default flows in the state folder. --flows wins." },

	{ "secret", "env", G_ONE, G_STRING, NULL, 0, NULL, NULL, "The environment variable that holds the secret." },
	{ "secret", "file", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "The file that holds the secret, relative to this file; one newline at its end is taken away." },
};
/* clang-format on */
const size_t grammar_row_count = sizeof(grammar_rows) / sizeof(grammar_rows[0]);

const struct grammar_group grammar_groups[] = {
	{ "schedule", "cron" },
	{ "curate", "sql sql_file" },
	{ "export_from", "table path sql" },
	{ "python", "code script" },
	{ "validate", "table sql" },
	{ "check", "row_count not_null unique accepted_values range schema sql same_rows" },
	{ "secret", "env file" },
};
const size_t grammar_group_count = sizeof(grammar_groups) / sizeof(grammar_groups[0]);

const struct grammar_row *
grammar_find(const char *object, const char *key)
{
	for (size_t i = 0; i < grammar_row_count; i++) {
		if (strcmp(grammar_rows[i].object, object) == 0 && strcmp(grammar_rows[i].key, key) == 0)
			return &grammar_rows[i];
	}
	return NULL;
}
