// The API's JSON, as docs/architecture.md has it.

export type RunState = "queued" | "running" | "publishing" | "paused" | "success" | "failed" | "cancelled";
export type TaskState =
  | "waiting" | "ready" | "running" | "retry_wait" | "success" | "failed" | "timed_out" | "cancelled" | "lost" | "skipped"
  | "upstream_failed";
export type State = RunState | TaskState | "stopping" | "none";

export interface Status {
  version: string;
  started_at: string;
  home: string;
  url: string;
  database: { private: boolean; connected: boolean };
  runs: { queued: number; running: number };
  slots: { used: number; total: number };
  flows: { good: number; broken: number };
  troubles: { what: string; since: string; message: string }[];
}

export interface Problem {
  file: string;
  line: number;
  col: number;
  severity: "error" | "warning";
  message: string;
}

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Param {
  type: string;
  default?: Json;
  required?: boolean;
  enum?: Json[];
  min?: Json;
  max?: Json;
  pattern?: string;
  description?: string;
  secret?: boolean;
}

export interface LastRun {
  id: string;
  state: RunState;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
}

export interface Flow {
  id: string | null;
  namespace: string;
  description: string | null;
  labels: Record<string, string> | null;
  file: string;
  enabled: boolean;
  paused: boolean;
  params: Record<string, Param> | null;
  schedules: { cron?: string | null; every?: string | null; timezone?: string; next: string | null }[] | null;
  next: string | null;
  problems: Problem[] | null;
  tasks: { id: string; type: string; engine: string | null; depends_on: string[] }[] | null;
  last_runs: LastRun[] | null;
  shadow?: { engine: string; share: number };
  source?: string;
}

export interface Failure {
  message: string;
  file?: string;
  line?: number;
  col?: number;
}

export interface Attempt {
  n: number;
  state: State;
  cause: string | null;
  exit_code: number | null;
  signal: number | null;
  started_at: string | null;
  ended_at: string | null;
  wall_us: number | null;
  user_us: number | null;
  system_us: number | null;
  max_rss_bytes: number | null;
  metrics: Record<string, number> | null;
  tables: { table: string; operation: string; snapshot_id: string; rows?: number; files?: number; bytes?: number }[] | null;
  checks: { check: string; passed: boolean; severity?: string; message?: string; value?: Json }[] | null;
  error: Failure | string | null;
}

export interface Progress {
  done?: number | null;
  total?: number | null;
  message?: string | null;
}

export interface Task {
  id: string;
  type: string;
  engine: string | null;
  state: TaskState;
  depends_on: string[];
  attempts: Attempt[] | null;
  outputs: Record<string, Json> | null;
  started_at: string | null;
  ended_at: string | null;
  next_attempt_at: string | null;
  error: Failure | string | null;
  progress: Progress | null;
}

export interface Run {
  id: string;
  flow: string;
  state: RunState;
  trigger: Json;
  params: Record<string, Json> | null;
  engine: Json;
  created_at: string;
  scheduled_for: string | null;
  interval_start: string | null;
  interval_end: string | null;
  started_at: string | null;
  ended_at: string | null;
  error: Failure | string | null;
  /** What it wrote was taken back; `whole`: all of it. */
  undone?: { at: string | null; by: string | null; whole: boolean } | null;
  tasks?: Task[];
}

/** One commit of a run to a table. */
export interface Written {
  table: string;
  task: string;
  attempt: number;
  state: "private" | "visible" | "abandoned" | "rehearsed" | "undone";
  action: string;
  operation: string | null;
  snapshot_before: string | null;
  snapshot_after: string | null;
  rows_added: number | null;
  rows_removed: number | null;
  files_added: number | null;
  files_removed: number | null;
  undone_at: string | null;
  undone_by: string | null;
}

export interface TableItem {
  name: string;
  namespace: string;
  table: string;
  snapshots: number;
  rows: number | null;
  files: number | null;
  bytes: number | null;
  changed_at: string | null;
  /** Why its metadata cannot be read; the numbers are missing then. */
  error?: string;
}

/** With `error` there is nothing else. */
export interface Health {
  table: string;
  error?: string;
  score: number;
  parts: { files: number; deletes: number; snapshots: number; manifests: number };
  records: number;
  files: number;
  bytes: number;
  average_file_bytes: number;
  small_files: number;
  files_needed: number;
  delete_files: number;
  snapshots: number;
  expirable_snapshots: number;
  manifests: number;
  manifest_bytes: number;
  metadata_bytes: number;
  partitions: number;
  largest_partition_bytes: number;
}

export interface Snapshot {
  snapshot_id: string;
  at: string;
  operation: string | null;
  refs: string[];
  rows_added: number | null;
  rows_deleted: number | null;
  run?: string;
  task?: string;
}

export interface List<T> {
  items: T[];
  next: string | null;
}

export interface SluiceEvent {
  id?: number;
  at: string;
  kind: string;
  flow: string | null;
  run: string | null;
  task: string | null;
  attempt: number | null;
  state: string | null;
  data: { progress?: Progress; action?: string } | null;
}
