/* The schema, as numbered steps: a step that has landed anywhere is never edited, a new one is added below it. */
#include "scheduler/store/migrations.h"

const char *const migrations[] = {
	/* 1: everything that a first release needs. Our tables live in the schema `sluice`; the catalog's keep the names and
	 * the place (the default schema) that PyIceberg's SqlCatalog and Spark's JdbcCatalog expect. */
	"CREATE TABLE sluice.flow_versions ("
	"  hash text PRIMARY KEY, flow text NOT NULL, file text NOT NULL, source text NOT NULL,"
	"  created_at timestamptz NOT NULL DEFAULT now());"
	"CREATE TABLE sluice.flows (id text PRIMARY KEY, paused bool NOT NULL DEFAULT false);"
	"CREATE TABLE sluice.schedules ("
	"  flow text NOT NULL, spec text NOT NULL, handled_at timestamptz NOT NULL, PRIMARY KEY (flow, spec));"
	"CREATE TABLE sluice.runs ("
	"  id text PRIMARY KEY, flow text NOT NULL, version text NOT NULL REFERENCES sluice.flow_versions,"
	"  state text NOT NULL CHECK (state IN ('queued','running','success','failed','cancelled')),"
	"  trigger text NOT NULL, params jsonb NOT NULL DEFAULT '{}', engine jsonb, idempotency_key text UNIQUE,"
	"  created_at timestamptz NOT NULL, scheduled_for timestamptz, interval_start timestamptz, interval_end timestamptz,"
	"  started_at timestamptz, ended_at timestamptz, error text);"
	"CREATE INDEX runs_by_flow ON sluice.runs (flow, created_at DESC, id DESC);"
	"CREATE INDEX runs_by_time ON sluice.runs (created_at DESC, id DESC);"
	"CREATE INDEX runs_active ON sluice.runs (created_at) WHERE state IN ('queued','running');"
	"CREATE TABLE sluice.tasks ("
	"  run_id text NOT NULL REFERENCES sluice.runs ON DELETE CASCADE, id text NOT NULL, idx int NOT NULL,"
	"  type text NOT NULL, engine text, depends_on jsonb NOT NULL DEFAULT '[]',"
	"  state text NOT NULL CHECK (state IN ('waiting','ready','running','retry_wait','success','failed','timed_out',"
	"    'cancelled','lost','skipped','upstream_failed')),"
	"  outputs jsonb, error text, started_at timestamptz, ended_at timestamptz, next_attempt_at timestamptz,"
	"  PRIMARY KEY (run_id, id));"
	"CREATE TABLE sluice.attempts ("
	"  run_id text NOT NULL, task_id text NOT NULL, n int NOT NULL,"
	"  state text NOT NULL CHECK (state IN ('running','stopping','success','failed','timed_out','cancelled','lost')),"
	"  cause text CHECK (cause IN ('exit','signal','oom','timeout','cancelled','lost','conflict')),"
	"  exit_code int, signal int, pid int, nursery text NOT NULL, token_hash text NOT NULL,"
	"  started_at timestamptz NOT NULL, ended_at timestamptz,"
	"  wall_us bigint, user_us bigint, system_us bigint, max_rss_bytes bigint, report jsonb,"
	"  PRIMARY KEY (run_id, task_id, n), FOREIGN KEY (run_id, task_id) REFERENCES sluice.tasks ON DELETE CASCADE);"
	"CREATE INDEX attempts_live ON sluice.attempts (run_id) WHERE state IN ('running','stopping');"
	"CREATE TABLE sluice.events ("
	"  id bigint PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL, flow text, run text, task text, attempt int,"
	"  state text, data jsonb);"
	"CREATE INDEX events_by_run ON sluice.events (run, id);"
	"CREATE TABLE sluice.tokens ("
	"  id text PRIMARY KEY, scope text NOT NULL, hash text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());"
	"CREATE TABLE IF NOT EXISTS iceberg_tables ("
	"  catalog_name varchar(255) NOT NULL, table_namespace varchar(255) NOT NULL, table_name varchar(255) NOT NULL,"
	"  metadata_location varchar(1000), previous_metadata_location varchar(1000), iceberg_type varchar(5),"
	"  PRIMARY KEY (catalog_name, table_namespace, table_name));"
	"CREATE TABLE IF NOT EXISTS iceberg_namespace_properties ("
	"  catalog_name varchar(255) NOT NULL, namespace varchar(255) NOT NULL, property_key varchar(255) NOT NULL,"
	"  property_value varchar(1000) NOT NULL, PRIMARY KEY (catalog_name, namespace, property_key));",
	/* 2: a catalog of the JDBC schema's version 0 does not tell tables from views. */
	"ALTER TABLE iceberg_tables ADD COLUMN IF NOT EXISTS iceberg_type varchar(5);",
	/* 3: only the daemon writes here, from its state tables: what it cannot get wrong is not checked again by each write of
	 * each transition (a seventh of PostgreSQL's time). Who deletes runs deletes their attempts first. */
	"ALTER TABLE sluice.runs DROP CONSTRAINT IF EXISTS runs_state_check;"
	"ALTER TABLE sluice.tasks DROP CONSTRAINT IF EXISTS tasks_state_check;"
	"ALTER TABLE sluice.attempts DROP CONSTRAINT IF EXISTS attempts_state_check,"
	"  DROP CONSTRAINT IF EXISTS attempts_cause_check, DROP CONSTRAINT IF EXISTS attempts_run_id_task_id_fkey;"
	/* Looking for the few that ended badly must not read the many that ended well. */
	"CREATE INDEX runs_bad ON sluice.runs (state, created_at DESC, id DESC) WHERE state IN ('failed','cancelled');",
	/* 4: what clients of the catalog tell of their scans and commits; see api/catalog/reports.c. */
	"CREATE TABLE sluice.metrics_reports ("
	"  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),"
	"  catalog text NOT NULL, namespace text NOT NULL, name text NOT NULL, kind text NOT NULL, sender text, report json NOT "
	"NULL);"
	"CREATE INDEX metrics_reports_by_table ON sluice.metrics_reports (catalog, namespace, name, id DESC);",
};
const int migrations_count = sizeof(migrations) / sizeof(migrations[0]);
