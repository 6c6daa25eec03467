// One table: how healthy it is and what to do about it, its columns and what was written last.
import { useEffect, useState } from "preact/hooks";
import { message, post } from "./api";
import { type Fact, FactList } from "./facts";
import { ago, bytes, count, full, plural } from "./format";
import { Skeleton, Trouble } from "./home";
import { useResource, useSlowly } from "./live";
import { A, go, runHref } from "./router";
import { useNow } from "./state";
import { type HealthList, Score, changesTables } from "./tables";
import type { Health, List, Run, Snapshot, TableItem } from "./types";

const LOOK_MS = 5_000;

type Table = TableItem & {
  location: string;
  schema: { fields: { id: number; name: string; type: unknown; required: boolean; doc?: string }[] };
};

export function TablePage({ name }: { name: string }) {
  const path = `/api/v1/tables/${encodeURIComponent(name)}`;
  const table = useResource<Table>(path, changesTables);
  const snapshots = useResource<List<Snapshot>>(`${path}/snapshots?limit=10`, changesTables);
  const health = useResource<HealthList>(`/api/v1/tables/health?match=${encodeURIComponent(name)}`, () => false);
  useSlowly(changesTables, health.refresh, LOOK_MS);
  const h = health.data?.items.find((item) => item.table === name);

  useEffect(() => {
    document.title = `${name} · Sluice`;
  }, [name]);

  if (table.error && !table.data) return <Trouble error={table.error} />;
  if (!table.data) return <Skeleton rows={6} />;
  return (
    <article class="run">
      <header class="run-head">
        <nav class="crumbs" aria-label="Where this is">
          <A href="/tables">Tables</A>
        </nav>
        <h1 class="run-title">
          <span class="mono">{name}</span>
          {h && !h.error && <Score score={h.score} large />}
        </h1>
        <p class="dim labels">
          <span class="mono">{table.data.location}</span>
        </p>
        <Facts table={table.data} health={h} />
      </header>
      <div class="run-body">
        <div class="run-main">
          {health.error && <p class="banner warn">How healthy the table is is not known: {health.error.message}</p>}
          {h?.error && <p class="banner bad">{h.error}</p>}
          {h && !h.error && <HealthPanel health={h} />}
          <Snapshots list={snapshots.data?.items ?? []} />
        </div>
        <div class="run-side">
          <Columns fields={table.data.schema.fields} />
        </div>
      </div>
    </article>
  );
}

function Facts({ table, health }: { table: Table; health: Health | undefined }) {
  const t = useNow(false);
  const h = health?.error ? undefined : health;
  const facts: Fact[] = [
    ["Size", table.bytes === null ? "–" : bytes(table.bytes)],
    ["Rows", table.rows === null ? "–" : count(table.rows)],
    ["Files", table.files === null ? "–" : count(table.files)],
    ["Average file", h ? bytes(h.average_file_bytes) : "–"],
    ["Partitions", h ? count(h.partitions) : "–"],
    ["Metadata", h ? bytes(h.metadata_bytes + h.manifest_bytes) : "–"],
    ["Changed", table.changed_at ? <span title={full(table.changed_at)}>{ago(table.changed_at, t)}</span> : "–"],
  ];
  return <FactList kind="strip run-facts" facts={facts} />;
}

/** Each part of the score, its weight, and what keeps it from 100. */
function parts(h: Health): [string, number, number, string][] {
  return [
    ["Files", h.parts.files, 40, h.small_files ? `${count(h.small_files)} of ${plural(h.files, "file")} small; ${count(h.files_needed)} would do` : plural(h.files, "file")],
    ["Deletes", h.parts.deletes, 30, h.delete_files ? `${plural(h.delete_files, "delete file")} to apply at every read` : "no delete files"],
    [
      "Snapshots",
      h.parts.snapshots,
      20,
      h.expirable_snapshots ? `${count(h.expirable_snapshots)} of ${count(h.snapshots)} could go` : plural(h.snapshots, "snapshot"),
    ],
    ["Manifests", h.parts.manifests, 10, `${plural(h.manifests, "manifest")}, ${bytes(h.manifest_bytes)}`],
  ];
}

function HealthPanel({ health: h }: { health: Health }) {
  return (
    <section class="panel pad-all" aria-labelledby="table-health">
      <h2 id="table-health" class="panel-title">Health</h2>
      <ul class="health-parts">
        {parts(h).map(([name, score, weight, why]) => (
          <li key={name}>
            <span>
              {name} <small>{weight} %</small>
            </span>
            <Score score={score} />
            <span class="dim">{why}</span>
          </li>
        ))}
      </ul>
      {h.partitions > 1 && (
        <p class="dim">
          The largest of {count(h.partitions)} partitions has {bytes(h.largest_partition_bytes)} of {bytes(h.bytes)}.
        </p>
      )}
      <Next table={h.table} score={h.score} />
    </section>
  );
}

function Next({ table, score }: { table: string; score: number }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const maintain = async (): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      go(runHref((await post<Run>("/api/v1/maintenance", { tables: [table] })).id));
    } catch (e) {
      setError(message(e));
      setBusy(false);
    }
  };
  return (
    <div class="next-step">
      <span>{score === 100 ? "Nothing to do." : "What helps:"}</span>
      {score < 100 && <code>{`sluice maintain ${/^[\w.-]+$/.test(table) ? table : `'${table}'`}`}</code>}
      <button type="button" class="soft small" disabled={busy} onClick={() => void maintain()}>
        Maintain
      </button>
      {error && (
        <span class="bad-text" role="alert">
          {error}
        </span>
      )}
    </div>
  );
}

function Snapshots({ list }: { list: Snapshot[] }) {
  const t = useNow(false);
  if (list.length === 0) return null;
  return (
    <section class="panel pad-all" aria-labelledby="table-snapshots">
      <h2 id="table-snapshots" class="panel-title">Last written</h2>
      <ul class="written">
        {list.map((s) => (
          <li key={s.snapshot_id}>
            <span title={full(s.at)}>{ago(s.at, t)}</span>
            <span class="badge">{s.operation ?? "write"}</span>
            <span class="dim num">{[s.rows_added && `+${count(s.rows_added)} rows`, s.rows_deleted && `−${count(s.rows_deleted)} rows`].filter(Boolean).join(" ")}</span>
            {s.run && (
              <span class="dim">
                by <A href={runHref(s.run, s.task)}>{s.run}</A>
              </span>
            )}
            {s.refs.map((r) => (
              <span key={r} class="badge">
                {r}
              </span>
            ))}
            <span class="dim mono snapshot">snapshot {s.snapshot_id}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function typeName(type: unknown): string {
  if (typeof type === "string") return type;
  const kind = (type as { type?: string } | null)?.type;
  return kind ?? JSON.stringify(type);
}

function Columns({ fields }: { fields: Table["schema"]["fields"] }) {
  return (
    <section class="panel pad-all" aria-labelledby="table-columns">
      <h2 id="table-columns" class="panel-title">Columns</h2>
      <dl class="columns">
        {fields.map((f) => (
          <div key={f.id} title={f.doc ?? ""}>
            <dt class="mono">{f.name}</dt>
            <dd class="dim">
              {typeName(f.type)}
              {f.required && <small> not null</small>}
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
