// The lake: its tables, how large and how healthy each is, and what there is in all.
import { useState } from "preact/hooks";
import { get, message } from "./api";
import { ago, bytes, count, full, plural, short } from "./format";
import { Skeleton, Trouble } from "./home";
import { useResource, useSlowly } from "./live";
import { A, go, place, tableHref } from "./router";
import { useNow } from "./state";
import type { Health, List, SluiceEvent, TableItem } from "./types";

const PAGE = 1000;
/** A survey reads manifests: a table that is written all the time is not looked at all the time. */
const LOOK_MS = 15_000;

type Row = TableItem & { health: Health | undefined };
const orders: Record<string, [string, (a: Row, b: Row) => number]> = {
  name: ["by name", (a, b) => (a.name < b.name ? -1 : 1)],
  health: ["least healthy first", (a, b) => (a.health?.score ?? -1) - (b.health?.score ?? -1)],
  size: ["largest first", (a, b) => (b.bytes ?? 0) - (a.bytes ?? 0)],
};

/** What a run writes is seen with its success, or at once where nobody runs it. */
export function changesTables(ev: SluiceEvent): boolean {
  return ev.kind === "table" || (ev.kind === "run" && ev.state === "success");
}

export function Tables() {
  const order = place.value.query.get("order") ?? "name";
  const tables = useResource<List<TableItem>>(`/api/v1/tables?limit=${PAGE}`, changesTables);
  const health = useResource<HealthList>(`/api/v1/tables/health?limit=${PAGE}`, () => false);
  const more = useMore(tables.data, health.data);
  useSlowly(changesTables, health.refresh, LOOK_MS);

  const known = new Map([...(health.data?.items ?? []), ...more.health].map((h) => [h.table, h]));
  const items = [...(tables.data?.items ?? []), ...more.tables].map((t) => ({ ...t, health: known.get(t.name) }));
  items.sort((orders[order] ?? orders["name"]!)[1]);

  if (tables.error && !tables.data) return <Trouble error={tables.error} />;
  if (!tables.data) return <Skeleton rows={8} />;
  return (
    <section aria-labelledby="tables-title">
      <Lake rows={items} total={health.data?.total ?? items.length} looking={!health.data && !health.error} />
      {health.error && <p class="banner warn">How healthy the tables are is not known: {health.error.message}</p>}
      <div class="title-row">
        <h1 id="tables-title" class="section-title">
          Tables <span class="dim num">{count(health.data?.total ?? items.length)}</span>
        </h1>
        <div class="filters">
          <label>
            <span class="sr">Order</span>
            <select value={order} onChange={(e) => go(e.currentTarget.value === "name" ? "/tables" : `/tables?order=${e.currentTarget.value}`, true)}>
              {Object.entries(orders).map(([key, [words]]) => (
                <option key={key} value={key}>
                  {words}
                </option>
              ))}
            </select>
          </label>
        </div>
      </div>
      {items.length === 0 ? (
        <div class="empty">
          <p>No tables yet. A task of type publish or curate makes one.</p>
        </div>
      ) : (
        <Rows rows={items} />
      )}
      {more.error && (
        <p class="banner bad" role="alert">
          {more.error}
        </p>
      )}
      {more.next !== null && (
        <p class="more">
          <button type="button" class="ghost" disabled={more.busy} onClick={() => void more.load()}>
            {more.busy ? "Loading…" : "Show more tables"}
          </button>
        </p>
      )}
    </section>
  );
}

export type HealthList = List<Health> & { total: number };

/** The pages behind the first. */
function useMore(first: List<TableItem> | null, looked: HealthList | null) {
  const [pages, setPages] = useState<{ tables: TableItem[]; health: Health[]; next: string | null | undefined }>({ tables: [], health: [], next: undefined });
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const next = pages.next === undefined ? (first?.next ?? null) : pages.next;

  const load = async (): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      const cursor = `limit=${PAGE}&cursor=${encodeURIComponent(next ?? "")}`;
      const page = await get<List<TableItem>>(`/api/v1/tables?${cursor}`);
      const seen = looked ? await get<HealthList>(`/api/v1/tables/health?${cursor}`) : null;
      setPages((old) => ({ tables: [...old.tables, ...page.items], health: [...old.health, ...(seen?.items ?? [])], next: page.next }));
    } catch (e) {
      setError(message(e));
    }
    setBusy(false);
  };
  return { ...pages, next, busy, error, load };
}

function sum(rows: Row[], of: (r: Row) => number | null | undefined): number {
  return rows.reduce((all, r) => all + (of(r) ?? 0), 0);
}

function Lake({ rows, total, looking }: { rows: Row[]; total: number; looking: boolean }) {
  const small = sum(rows, (r) => r.health?.small_files);
  const needy = rows.filter((r) => (r.health?.score ?? 100) < 80).length;
  const known = rows.some((r) => r.health);
  return (
    <dl class="strip lake" aria-label="The lake">
      <div>
        <dt>Tables</dt>
        <dd class="num">
          {count(rows.length)}
          {total > rows.length && <small> of {count(total)}</small>}
        </dd>
      </div>
      <div>
        <dt>Data</dt>
        <dd class="num">{bytes(sum(rows, (r) => r.bytes))}</dd>
      </div>
      <div>
        <dt>Files</dt>
        <dd class="num">
          {short(sum(rows, (r) => r.health?.files ?? r.files))}
          {small > 0 && <small> {short(small)} small</small>}
        </dd>
      </div>
      <div>
        <dt>Metadata</dt>
        <dd class="num">
          {known ? bytes(sum(rows, (r) => r.health && !r.health.error ? r.health.metadata_bytes + r.health.manifest_bytes : 0)) : "–"}
        </dd>
      </div>
      <div>
        <dt>Below a health of 80</dt>
        <dd>{known ? needy ? plural(needy, "table") : <span class="dim">none</span> : <span class="dim">{looking ? "looking…" : "–"}</span>}</dd>
      </div>
    </dl>
  );
}

/** A score as a number and as so much of a bar; the word says what the colour does. */
export function Score({ score, large }: { score: number; large?: boolean }) {
  const grade = score >= 80 ? "good" : score >= 50 ? "fair" : "poor";
  return (
    <span class={`score ${grade}${large ? " large" : ""}`}>
      <span class="num">{score}</span>
      <span class="score-bar" aria-hidden="true">
        <i style={{ width: `${score}%` }} />
      </span>
      <span class={large ? "" : "sr"}>{grade}</span>
    </span>
  );
}

/** "30 (12 small)": so many could be fewer. */
function Some({ all, some, word }: { all: number | null | undefined; some: number | undefined; word: string }) {
  return (
    <>
      {all === null || all === undefined ? "–" : short(all)}
      {some ? (
        <small>
          {" "}
          {short(some)} {word}
        </small>
      ) : null}
    </>
  );
}

function Rows({ rows }: { rows: Row[] }) {
  const t = useNow(false);
  return (
    <div class="table-wrap">
      <table class="runs lake">
        <thead>
          <tr>
            <th scope="col">Table</th>
            <th scope="col">Health</th>
            <th scope="col" class="right">Size</th>
            <th scope="col" class="right">Rows</th>
            <th scope="col" class="right">Files</th>
            <th scope="col" class="right">Delete files</th>
            <th scope="col" class="right">Snapshots</th>
            <th scope="col" class="right">Metadata</th>
            <th scope="col" class="right">Changed</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((r) => (
            <tr key={r.name}>
              <td>
                <A href={tableHref(r.name)} class="mono cover" title={r.name}>
                  {r.name}
                </A>
              </td>
              <td>{r.health?.error || r.error ? <span class="badge warn">cannot be read</span> : r.health ? <Score score={r.health.score} /> : <span class="dim">–</span>}</td>
              <td class="right num">{r.bytes === null || r.bytes === undefined ? "–" : bytes(r.bytes)}</td>
              <td class="right num">{r.rows === null || r.rows === undefined ? "–" : short(r.rows)}</td>
              <td class="right num">
                <Some all={r.health?.files ?? r.files} some={r.health?.small_files} word="small" />
              </td>
              <td class="right num">{r.health && !r.health.error ? short(r.health.delete_files) : "–"}</td>
              <td class="right num">
                <Some all={r.snapshots} some={r.health?.expirable_snapshots} word="old" />
              </td>
              <td class="right num">{r.health && !r.health.error ? bytes(r.health.metadata_bytes + r.health.manifest_bytes) : "–"}</td>
              <td class="right num" title={full(r.changed_at)}>
                {r.changed_at ? ago(r.changed_at, t) : "–"}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
