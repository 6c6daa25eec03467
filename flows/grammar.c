/* The rows. Objects: flow and what it holds, a task's common keys (task), those of tasks that run on an engine (native), one
 * object a task type, and config. */
#include "flows/grammar.h"

#include <string.h>

const char *const grammar_task_types[] = { "stage", "publish", "curate", "validate", "maintain", "command", NULL };

#define PARAM_TYPES   "string int float bool date datetime duration size enum list object !file"
#define ENGINES       "duckdb !polars !pyiceberg !spark !spark_sql"
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
	{ "flow", "shadow", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
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
	{ "task", "type", G_ONE, G_ENUM, "stage publish curate validate maintain command !export !sql !python !shell !http !subflow !wait !approve !notify", G_REQUIRED, NULL, NULL,
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
	  "What runs the task; a trigger can override it." },
	{ "native", "engine_options", G_ONE, G_OBJECT, "engine_options", 0, "{}", NULL, "Settings of the engine." },

	{ "engine_options", "memory_limit", G_ONE, G_SIZE, NULL, 0, NULL, NULL,
	  "Most memory that the engine takes before it spills to disk." },
	{ "engine_options", "threads", G_ONE, G_INT, NULL, 0, NULL, "1..1024", "Threads of the engine." },

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

	{ "source", "format", G_ONE, G_ENUM, "csv json parquet iceberg delta !sql !avro !xlsx", G_REQUIRED, NULL, NULL,
	  "Format of the files; iceberg: a table of the catalog; delta: the folder of a Delta table." },
	{ "source", "path", G_ONE_OR_LIST, G_STRING, NULL, 0, NULL, NULL,
	  "A path or glob, or a list of them; relative to the flow's file." },
	{ "source", "table", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "iceberg: the table, namespace.table, with or without the catalog's name in front." },
	{ "source", "at", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "iceberg: the table as it was: a branch, a tag, a snapshot id, previous, a time such as 2026-11-21 06:00 (UTC) or 2h ago." },
	{ "source", "version", G_ONE, G_INT, NULL, 0, NULL, "0..", "delta: this version; by default the latest." },
	{ "source", "timestamp", G_ONE, G_STRING, NULL, 0, NULL, NULL, "delta: the version that was the latest at this time." },
	{ "source", "header", G_ONE, G_BOOL, NULL, 0, NULL, NULL,
	  "CSV: whether the first line names the columns; by default it does." },
	{ "source", "delimiter", G_ONE, G_STRING, NULL, 0, NULL, NULL,
	  "CSV: what separates columns; by default a comma." },
	{ "source", "quote", G_ONE, G_STRING, NULL, 0, NULL, NULL, "CSV: the quote character; by default a double quote." },
	{ "source", "compression", G_ONE, G_ENUM, "auto none gzip zstd", 0, "auto", NULL,
	  "Compression of CSV and JSON files; by default from the file's name." },
	{ "source", "columns", G_MAP, G_STRING, NULL, 0, NULL, NULL,
	  "Column to SQL type; with header: false also their names, in order." },
	{ "source", "union_by_name", G_ONE, G_BOOL, NULL, 0, "false", NULL,
	  "Parquet: true: columns that a file lacks and others have are NULL in its rows; by default that is an error." },
	{ "source", "uri", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "source", "query", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },
	{ "source", "options", G_ONE, G_ANY, NULL, G_LATER, NULL, NULL, NULL },

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
	  "Address of a REST catalog of another server, without the /v1 of its paths; or of a Hive catalog." },
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
	  "server knows the warehouse by." },
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
	{ "source", "path table" },
	{ "curate", "sql sql_file" },
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
