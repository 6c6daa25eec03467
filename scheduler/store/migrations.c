/* The schema, as numbered steps: a step that has landed anywhere is never edited, a new one is added below it. */
#include "scheduler/store/migrations.h"

/* Inside of sluice.publish: the tables that it moves, by its variable `moving`. */
#define MOVING "jsonb_to_recordset(moving) AS m(namespace text, name text, type text, base text, after text)"

/* The same of its second form: what the run has read of streams. */
#define READ                                                                                                                     \
	"jsonb_to_recordset(reads) AS r(stream text, topic text, partition int, base bigint, next bigint, cluster text, task "   \
	"text)"

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
	/* To a user named like our schema, that schema is the default one: tables found anywhere on the path are the catalog's.
	 */
	"DO $$ BEGIN IF to_regclass('iceberg_tables') IS NULL THEN"
	" CREATE TABLE iceberg_tables ("
	"  catalog_name varchar(255) NOT NULL, table_namespace varchar(255) NOT NULL, table_name varchar(255) NOT NULL,"
	"  metadata_location varchar(1000), previous_metadata_location varchar(1000), iceberg_type varchar(5),"
	"  PRIMARY KEY (catalog_name, table_namespace, table_name)); END IF;"
	" IF to_regclass('iceberg_namespace_properties') IS NULL THEN"
	" CREATE TABLE iceberg_namespace_properties ("
	"  catalog_name varchar(255) NOT NULL, namespace varchar(255) NOT NULL, property_key varchar(255) NOT NULL,"
	"  property_value varchar(1000) NOT NULL, PRIMARY KEY (catalog_name, namespace, property_key)); END IF; END $$;",
	/* 2: a catalog of the JDBC schema's version 0 does not tell tables from views.
	 * Where the column is there, its owner need not be us. */
	"DO $$ BEGIN"
	" IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'iceberg_tables'::regclass AND attname = 'iceberg_type') "
	"THEN"
	"  ALTER TABLE iceberg_tables ADD COLUMN iceberg_type varchar(5);"
	" END IF; END $$;",
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
	/* 5: run transactions: every commit to a table, by anyone. What is `private` is seen by its run alone; `abandoned` by
	   nobody. */
	"CREATE TABLE sluice.commits ("
	"  id bigint PRIMARY KEY, at timestamptz NOT NULL, state text NOT NULL, visible_at timestamptz, told bool NOT NULL,"
	"  run_id text, task_id text, attempt int, who text, namespace text NOT NULL, name text NOT NULL, type text NOT NULL,"
	"  metadata_before text, metadata_after text, action text NOT NULL, operation text, snapshot_before bigint,"
	"  snapshot_after bigint, rows_added bigint, rows_removed bigint, files_added bigint, files_removed bigint);"
	"CREATE INDEX commits_by_run ON sluice.commits (run_id, id) WHERE run_id IS NOT NULL;"
	"CREATE INDEX commits_by_table ON sluice.commits (namespace, name, id);"
	"CREATE INDEX commits_untold ON sluice.commits (id) WHERE NOT told;"
	"DROP INDEX sluice.runs_active;"
	"CREATE INDEX runs_active ON sluice.runs (created_at) WHERE state IN ('queued','running','publishing');"
	/* Makes what a run (or one task of it) wrote visible, all or nothing, and a run that is publishing a success. Returns the
	 * tables that moved meanwhile, [] when there are none. Asked again after it was done, it does nothing and says []. */
	"CREATE FUNCTION sluice.publish(catalog text, run text, task text, ended timestamptz, news jsonb) RETURNS jsonb"
	" LANGUAGE plpgsql AS $$ DECLARE moving jsonb; moved jsonb; BEGIN"
	"  IF task IS NULL THEN"
	"    PERFORM 1 FROM sluice.runs r WHERE r.id = run AND r.state = 'publishing' FOR UPDATE;"
	"    IF NOT FOUND THEN RETURN '[]'; END IF;"
	"  END IF;"
	"  SELECT coalesce(jsonb_agg(to_jsonb(g)), '[]') INTO moving FROM (SELECT c.namespace, c.name,"
	"    (array_agg(c.type ORDER BY c.id DESC))[1] AS type, (array_agg(c.metadata_before ORDER BY c.id))[1] AS base,"
	"    (array_agg(c.metadata_after ORDER BY c.id DESC))[1] AS after FROM sluice.commits c"
	"    WHERE c.run_id = run AND c.state = 'private' AND (task IS NULL OR c.task_id = task) GROUP BY c.namespace, c.name) g;"
	"  PERFORM 1 FROM " MOVING " JOIN iceberg_tables t ON t.table_namespace = m.namespace AND t.table_name = m.name"
	"    WHERE t.catalog_name = catalog ORDER BY t.table_namespace, t.table_name FOR UPDATE OF t;"
	"  SELECT jsonb_agg(jsonb_build_object('namespace', m.namespace, 'name', m.name, 'have', t.metadata_location))"
	"    INTO moved FROM " MOVING " LEFT JOIN iceberg_tables t"
	"    ON t.catalog_name = catalog AND t.table_namespace = m.namespace AND t.table_name = m.name"
	"    WHERE t.metadata_location IS DISTINCT FROM m.base;"
	"  IF moved IS NOT NULL THEN RETURN moved; END IF;"
	"  BEGIN"
	"    UPDATE iceberg_tables t SET metadata_location = m.after, previous_metadata_location = m.base, iceberg_type = m.type"
	"      FROM " MOVING " WHERE t.catalog_name = catalog AND t.table_namespace = m.namespace AND t.table_name = m.name"
	"      AND m.after IS NOT NULL AND m.after <> m.base;"
	"    DELETE FROM iceberg_tables t USING " MOVING " WHERE t.catalog_name = catalog AND t.table_namespace = m.namespace"
	"      AND t.table_name = m.name AND m.after IS NULL;"
	"    INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)"
	"      SELECT catalog, m.namespace, m.name, m.after, m.type FROM " MOVING " WHERE m.base IS NULL AND m.after IS NOT NULL;"
	"    INSERT INTO iceberg_namespace_properties SELECT DISTINCT catalog, m.namespace, 'exists', 'true' FROM " MOVING
	"      WHERE m.after IS NULL ON CONFLICT DO NOTHING;" /* the namespace stays when its last table goes */
	"  EXCEPTION WHEN unique_violation THEN"              /* made by somebody else this very moment */
	"    SELECT jsonb_agg(jsonb_build_object('namespace', m.namespace, 'name', m.name)) INTO moved FROM " MOVING
	"      WHERE m.base IS NULL;"
	"    RETURN moved;"
	"  END;"
	"  UPDATE sluice.commits c SET state = 'visible', visible_at = ended WHERE c.run_id = run AND c.state = 'private'"
	"    AND (task IS NULL OR c.task_id = task);"
	"  IF task IS NULL THEN UPDATE sluice.runs r SET state = 'success', ended_at = ended WHERE r.id = run; END IF;"
	"  INSERT INTO sluice.events SELECT * FROM jsonb_populate_recordset(NULL::sluice.events, news) ON CONFLICT DO NOTHING;"
	"  RETURN '[]'; END $$;",
	/* 6: where attempts that did not end well may have left files that no table needs; see api/catalog/cleanup.c. */
	"CREATE TABLE sluice.cleanup ("
	"  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, run_id text NOT NULL, task_id text NOT "
	"NULL,"
	"  attempt int NOT NULL, namespace text NOT NULL, name text NOT NULL, location text, metadata text);"
	"CREATE INDEX cleanup_by_age ON sluice.cleanup (at);",
	/* 7: who took back what a run wrote: the undo that came first after each of its commits. A function, since every answer
	 * with a run asks this, and its plans are made once a connection. */
	"CREATE FUNCTION sluice.undone(run text) RETURNS json LANGUAGE plpgsql STABLE AS $$ BEGIN"
	"  IF NOT EXISTS (SELECT 1 FROM sluice.commits c WHERE c.run_id = run AND c.state = 'undone') THEN RETURN NULL; END IF;"
	"  RETURN (SELECT json_build_object('at', to_char(u.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'by', "
	"u.who,"
	"    'whole', NOT EXISTS (SELECT 1 FROM sluice.commits v WHERE v.run_id = run AND v.state = 'visible'))"
	"    FROM sluice.commits c LEFT JOIN LATERAL (SELECT x.at, x.who FROM sluice.commits x WHERE x.namespace = c.namespace"
	"    AND x.name = c.name AND x.id > c.id AND x.action = 'undo' AND x.at >= c.visible_at ORDER BY x.id LIMIT 1) u ON true"
	"    WHERE c.run_id = run AND c.state = 'undone' ORDER BY u.at DESC NULLS LAST LIMIT 1); END $$;",
	/* 8: what a metadata file leads to, and the tables do not any more, goes as well: its snapshots have expired. */
	"ALTER TABLE sluice.cleanup ADD COLUMN expired boolean NOT NULL DEFAULT false;",
	/* 9: a run whose commits nobody ever sees; they end as `rehearsed`. */
	"ALTER TABLE sluice.runs ADD COLUMN rehearsal boolean NOT NULL DEFAULT false;",
	/* 10: shadows: see scheduler/shadow.c. The figures stay when the runs are gone. */
	"ALTER TABLE sluice.runs ADD COLUMN shadow_of text;"
	"CREATE TABLE sluice.shadows ("
	"  run_id text PRIMARY KEY, shadow_id text, flow text NOT NULL, engine text NOT NULL, shadow_engine text NOT NULL,"
	"  at timestamptz NOT NULL, keep_us bigint NOT NULL, state text NOT NULL, reason text, real jsonb, shadow jsonb, result "
	"jsonb);"
	"CREATE INDEX shadows_by_flow ON sluice.shadows (flow, at DESC);"
	"CREATE INDEX shadows_by_age ON sluice.shadows (at);"
	"CREATE INDEX shadows_open ON sluice.shadows (at) WHERE state IN ('due','running');"
	/* What the tasks of a run took that are on another engine in the other run. */
	"CREATE FUNCTION sluice.shadow_figures(run text, other text) RETURNS jsonb LANGUAGE sql STABLE AS $$"
	"  SELECT jsonb_build_object('state', (SELECT r.state FROM sluice.runs r WHERE r.id = run),"
	"    'elapsed_us', coalesce(sum(a.wall_us), 0), 'cpu_us', coalesce(sum(a.user_us + a.system_us), 0),"
	"    'max_rss_bytes', coalesce(max(a.max_rss_bytes), 0), 'rows', coalesce(sum(w.rows), 0), 'files', "
	"coalesce(sum(w.files), 0))"
	"  FROM sluice.tasks t JOIN sluice.tasks o ON o.run_id = other AND o.id = t.id AND o.engine <> t.engine"
	"  JOIN sluice.attempts a ON a.run_id = t.run_id AND a.task_id = t.id"
	"  LEFT JOIN LATERAL (SELECT sum((x->>'rows')::bigint) AS rows, sum((x->>'files')::bigint) AS files"
	"    FROM jsonb_array_elements(a.report->'tables') x WHERE a.state = 'success') w ON true"
	"  WHERE t.run_id = run HAVING run IS NOT NULL AND other IS NOT NULL $$;"
	/* What a shadow takes from its run: when that began, what its programs did, and, of each table that has changed since,
	 * what it was; of those that its programs wrote, as these left it. Commits are numbered by their time: those that were
	 * made before and became visible since are of runs that were under way then. */
	"CREATE FUNCTION sluice.shadow_original(run text) RETURNS jsonb LANGUAGE sql STABLE AS $$"
	"  WITH r AS (SELECT * FROM sluice.runs x WHERE x.id = run),"
	"  later AS (SELECT c.* FROM r JOIN sluice.commits c ON c.id > (extract(epoch FROM r.started_at) * 1000000)::bigint"
	"     AND c.visible_at > r.started_at"
	"   UNION SELECT c.* FROM r JOIN sluice.runs o ON o.created_at BETWEEN r.started_at - interval '7 days' AND r.started_at"
	"     AND (o.ended_at IS NULL OR o.ended_at > r.started_at) JOIN sluice.commits c ON c.run_id = o.id"
	"     AND c.visible_at > r.started_at),"
	"  base AS (SELECT DISTINCT ON (namespace, name) namespace, name, type, metadata_before AS location FROM later"
	"    ORDER BY namespace, name, visible_at, id),"
	"  programs AS (SELECT DISTINCT ON (c.namespace, c.name) c.namespace, c.name, c.type, c.metadata_after AS location"
	"    FROM sluice.commits c JOIN sluice.tasks t ON t.run_id = c.run_id AND t.id = c.task_id AND t.type IN ('command', "
	"'python')"
	"    WHERE c.run_id = run AND c.state IN ('visible', 'undone') ORDER BY c.namespace, c.name, c.id DESC),"
	"  pins AS (SELECT * FROM programs UNION ALL SELECT b.* FROM base b WHERE NOT EXISTS"
	"    (SELECT 1 FROM programs p WHERE p.namespace = b.namespace AND p.name = b.name))"
	"  SELECT jsonb_build_object('trigger', r.trigger, 'created_at', r.created_at, 'started_at', r.started_at,"
	"    'tasks', (SELECT coalesce(jsonb_object_agg(t.id, jsonb_build_object('state', t.state, 'outputs', t.outputs)), '{}')"
	"      FROM sluice.tasks t WHERE t.run_id = run AND t.type IN ('command', 'python')),"
	"    'pins', (SELECT coalesce(jsonb_object_agg(namespace || chr(31) || name,"
	"      jsonb_build_object('type', type, 'location', location)), '{}') FROM pins)) FROM r $$;",
	/* 11: how far streams of messages are read; it moves with what the run wrote, if it is still where the run began (`base`,
	 * null: nothing was read yet). What stands there from this very run is not in its way: the statement may be sent again.
	 */
	"CREATE TABLE sluice.offsets ("
	"  stream text NOT NULL, topic text NOT NULL, partition int NOT NULL, next bigint NOT NULL, cluster text,"
	"  run_id text NOT NULL, at timestamptz NOT NULL, PRIMARY KEY (stream, topic, partition));"
	"CREATE FUNCTION sluice.publish(catalog text, run text, task text, ended timestamptz, news jsonb, reads jsonb) RETURNS "
	"jsonb"
	" LANGUAGE plpgsql AS $$ DECLARE moved jsonb; BEGIN"
	"  IF task IS NULL THEN"
	"    PERFORM 1 FROM sluice.runs r WHERE r.id = run AND r.state = 'publishing' FOR UPDATE;"
	"    IF NOT FOUND THEN RETURN '[]'; END IF;"
	"  END IF;"
	"  SELECT jsonb_agg(jsonb_build_object('stream', r.stream, 'topic', r.topic, 'partition', r.partition, 'task', r.task))"
	"    INTO moved FROM " READ " LEFT JOIN sluice.offsets o USING (stream, topic, partition)"
	"    WHERE o.next IS DISTINCT FROM r.base AND NOT coalesce(o.run_id = run AND o.next = r.next, false);"
	"  IF moved IS NOT NULL THEN RETURN moved; END IF;"
	"  moved := sluice.publish(catalog, run, task, ended, news);"
	"  IF moved <> '[]' THEN RETURN moved; END IF;"
	"  INSERT INTO sluice.offsets SELECT r.stream, r.topic, r.partition, r.next, r.cluster, run, ended FROM " READ
	"    ON CONFLICT (stream, topic, partition) DO UPDATE SET next = excluded.next, cluster = excluded.cluster,"
	"      run_id = excluded.run_id, at = excluded.at;"
	"  RETURN '[]'; END $$;",
};
const int migrations_count = sizeof(migrations) / sizeof(migrations[0]);
