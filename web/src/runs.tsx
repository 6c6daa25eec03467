// The list of runs, filtered and paged; the newest page stays live.
import { useState } from "preact/hooks";
import { get, message } from "./api";
import { Skeleton, Trouble, useFlows } from "./home";
import { ago, between, duration, elapsed, full, ms, text } from "./format";
import { useResource } from "./live";
import { A, flowHref, go, place, runHref } from "./router";
import { Pill, ended, useNow } from "./state";
import type { Json, List, Run } from "./types";

const STATES = ["queued", "running", "publishing", "success", "failed", "cancelled"];
const PAGE = 50;

export function Runs() {
  const query = place.value.query;
  const flow = query.get("flow") ?? "";
  const state = query.get("state") ?? "";
  const flows = useFlows();
  const path = listPath(flow, state);

  const filter = (key: string, value: string): void => {
    const q = new URLSearchParams(query);
    if (value) q.set(key, value);
    else q.delete(key);
    go(`/runs${q.size ? `?${q}` : ""}`, true);
  };

  return (
    <section aria-labelledby="runs-title">
      <div class="title-row">
        <h1 id="runs-title" class="section-title">
          Runs
        </h1>
        <div class="filters">
          <label>
            <span class="sr">Flow</span>
            <select value={flow} onChange={(e) => filter("flow", e.currentTarget.value)}>
              <option value="">all flows</option>
              {flow && !(flows.data?.items ?? []).some((f) => f.id === flow) && <option value={flow}>{flow}</option>}
              {(flows.data?.items ?? []).map((f) => f.id && <option key={f.id} value={f.id}>{f.id}</option>)}
            </select>
          </label>
          <label>
            <span class="sr">State</span>
            <select value={state} onChange={(e) => filter("state", e.currentTarget.value)}>
              <option value="">all states</option>
              {STATES.map((s) => (
                <option key={s} value={s}>
                  {s}
                </option>
              ))}
            </select>
          </label>
        </div>
      </div>
      <RunTable key={path} path={path} flow={flow} showFlow />
    </section>
  );
}

export function listPath(flow: string, state: string, limit = PAGE): string {
  const q = new URLSearchParams({ limit: String(limit) });
  if (flow) q.set("flow", flow);
  if (state) q.set("state", state);
  return `/api/v1/runs?${q}`;
}

export function RunTable({ path, flow, showFlow }: { path: string; flow: string; showFlow: boolean }) {
  const newest = useResource<List<Run>>(path, (ev) => ev.kind === "run" && (!flow || ev.flow === flow));
  const [older, setOlder] = useState<Run[]>([]);
  const [cursor, setCursor] = useState<string | null | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const first = newest.data?.items ?? [];
  const seen = new Set(first.map((r) => r.id));
  const runs = [...first, ...older.filter((r) => !seen.has(r.id))];
  const t = useNow(runs.some((r) => !ended(r.state)));
  const next = cursor === undefined ? (newest.data?.next ?? null) : cursor;

  const more = async (): Promise<void> => {
    if (next === null) return;
    setBusy(true);
    setError(null);
    try {
      const page = await get<List<Run>>(`${path}&cursor=${encodeURIComponent(next)}`);
      // What slid off the newest page since then would be missing between the two.
      setOlder((old) => [...old, ...first.filter((r) => !old.some((o) => o.id === r.id)), ...page.items].sort((a, b) => (a.created_at < b.created_at ? 1 : -1)));
      setCursor(page.next);
    } catch (e) {
      setError(message(e));
    }
    setBusy(false);
  };

  if (newest.error && !newest.data) return <Trouble error={newest.error} />;
  if (!newest.data) return <Skeleton rows={8} />;
  if (runs.length === 0)
    return (
      <div class="empty">
        <p>No runs{path.includes("state=") || (flow && showFlow) ? " match" : " yet"}.</p>
      </div>
    );
  return (
    <>
      <div class="table-wrap">
        <table class={`runs${showFlow ? "" : " no-flow"}`}>
          <thead>
            <tr>
              <th scope="col">State</th>
              <th scope="col">Run</th>
              {showFlow && <th scope="col">Flow</th>}
              <th scope="col">Trigger</th>
              <th scope="col">Params</th>
              <th scope="col" class="right">
                Created
              </th>
              <th scope="col" class="right">
                Duration
              </th>
            </tr>
          </thead>
          <tbody>
            {runs.map((r) => (
              <tr key={r.id}>
                <td>
                  <Pill state={r.state} />
                </td>
                <td>
                  <A href={runHref(r.id)} class="mono cover">
                    {r.id}
                  </A>
                </td>
                {showFlow && (
                  <td>
                    <A href={flowHref(r.flow)} class="plain above">
                      {r.flow}
                    </A>
                  </td>
                )}
                <td class="dim">{triggerName(r.trigger)}</td>
                <td class="dim params-cell">
                  <ParamText params={r.params} />
                </td>
                <td class="right num" title={full(r.created_at)}>
                  {ago(r.created_at, t)}
                </td>
                <td class="right num">{runDuration(r, t)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {error && (
        <p class="banner bad" role="alert">
          {error}
        </p>
      )}
      {next !== null && (
        <p class="more">
          <button type="button" class="ghost" disabled={busy} onClick={() => void more()}>
            {busy ? "Loading…" : "Show older runs"}
          </button>
        </p>
      )}
    </>
  );
}

export function triggerName(t: Json): string {
  if (typeof t === "string") return t;
  if (t !== null && typeof t === "object" && !Array.isArray(t)) return text(t["kind"] ?? t["type"] ?? "");
  return "";
}

function ParamText({ params }: { params: Run["params"] }) {
  const line = Object.entries(params ?? {})
    .map(([k, v]) => `${k}=${text(v)}`)
    .join("  ");
  return (
    <span class="mono clip" title={line}>
      {line || "–"}
    </span>
  );
}

export function runDuration(r: Run, t: number): string {
  if (!r.started_at) return "–";
  const done = between(r.started_at, r.ended_at);
  return done === null ? elapsed(t - (ms(r.started_at) ?? t)) : duration(done);
}
