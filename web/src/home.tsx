// The flows, what runs now and what comes next.
import { useRef, useState } from "preact/hooks";
import { message, post } from "./api";
import { between, ago, count, duration, ms, plural, until, when, where } from "./format";
import { type Resource, useResource } from "./live";
import { RunDialog } from "./run-dialog";
import { A, flowHref, runHref } from "./router";
import { Glyph, failed, useNow, word } from "./state";
import type { Flow, LastRun, List, Problem, Status } from "./types";

export function useFlows(): Resource<List<Flow>> {
  return useResource<List<Flow>>("/api/v1/flows", (ev) => ev.kind === "run" || ev.kind === "flow");
}

export function useStatus(): Resource<Status> {
  return useResource<Status>("/api/v1/status", (ev) => ev.kind !== "task" || ev.data?.progress === undefined);
}

export function Home() {
  const flows = useFlows();
  const status = useStatus();
  const items = flows.data?.items;
  const broken = (items ?? []).filter((f) => (f.problems ?? []).length > 0);
  // A file that never loaded has problems and no tasks.
  const good = (items ?? []).filter((f): f is Flow & { id: string } => f.id !== null && (f.tasks ?? []).length > 0);

  return (
    <>
      <Strip status={status.data} flows={items ?? null} />
      {status.data?.troubles.map((t) => (
        <p key={t.what} class="banner warn" role="status" title={`since ${when(t.since)}`}>
          {t.message}
        </p>
      ))}
      {broken.map((f) => (
        <Problems key={f.file} flow={f} />
      ))}
      {flows.error && !items && <Trouble error={flows.error} />}
      {!items && !flows.error && <Skeleton rows={3} />}
      {items && (
        <section aria-labelledby="flows-title">
          <h1 id="flows-title" class="section-title">
            Flows <span class="dim num">{good.length}</span>
          </h1>
          {good.length === 0 && broken.length === 0 && <NoFlows home={status.data?.home} />}
          {good.length > 0 && (
            <ul class="flows">
              {good.map((f) => (
                <FlowRow key={f.id} flow={f} flows={flows} />
              ))}
            </ul>
          )}
        </section>
      )}
    </>
  );
}

export function Trouble({ error }: { error: Error }) {
  return (
    <p class="banner bad" role="alert">
      {error.message}
    </p>
  );
}

export function Skeleton({ rows }: { rows: number }) {
  return (
    <div class="skeleton" aria-hidden="true">
      {Array.from({ length: rows }, (_, i) => (
        <div key={i} />
      ))}
    </div>
  );
}

function NoFlows({ home }: { home: string | undefined }) {
  return (
    <div class="empty">
      <p>
        <strong>No flows yet.</strong>
      </p>
      <p>
        Put a YAML file into the flows folder; it appears here at once. A file elsewhere runs with <code>sluice run FILE</code>.
      </p>
      {home && (
        <p class="dim">
          State folder: <code>{home}</code>
        </p>
      )}
    </div>
  );
}

function Strip({ status, flows }: { status: Status | null; flows: Flow[] | null }) {
  const t = useNow(false);
  const next = (flows ?? [])
    .filter((f) => f.next !== null && !f.paused && f.id !== null)
    .sort((a, b) => (ms(a.next) ?? 0) - (ms(b.next) ?? 0))[0];
  const s = status;
  return (
    <dl class="strip" aria-label="The daemon">
      <div>
        <dt>Running</dt>
        <dd class="num">
          {s ? count(s.runs.running) : "–"}
          {s && s.runs.queued > 0 && <small> + {count(s.runs.queued)} queued</small>}
        </dd>
      </div>
      <div>
        <dt>Slots</dt>
        <dd class="num">
          {s ? `${s.slots.used}` : "–"}
          <small> of {s ? s.slots.total : "–"}</small>
          <Meter used={s?.slots.used ?? 0} total={s?.slots.total ?? 0} />
        </dd>
      </div>
      <div class="wide">
        <dt>Next scheduled</dt>
        <dd>
          {next?.next && next.id ? (
            <A href={flowHref(next.id)} class="plain" title={when(next.next)}>
              {until(next.next, t)} <small>{next.id}</small>
            </A>
          ) : (
            <span class="dim">nothing</span>
          )}
        </dd>
      </div>
      <div>
        <dt>Database</dt>
        <dd>
          {s ? (
            <>
              <span class={s.database.connected ? "" : "bad-text"}>{s.database.connected ? "connected" : "not connected"}</span>
              <small> {s.database.private ? "private" : "external"}</small>
            </>
          ) : (
            "–"
          )}
        </dd>
      </div>
      <div>
        <dt>Daemon</dt>
        <dd>
          {s ? (
            <span title={`started ${when(s.started_at)}\n${s.home}`}>
              {s.version} <small>up {ago(s.started_at, t).replace(" ago", "")}</small>
            </span>
          ) : (
            "–"
          )}
        </dd>
      </div>
    </dl>
  );
}

function Meter({ used, total }: { used: number; total: number }) {
  const shown = Math.min(total, 16);
  const lit = total > 0 ? Math.round((used / total) * shown) : 0;
  return (
    <span class="meter" aria-hidden="true">
      {Array.from({ length: shown }, (_, i) => (
        <i key={i} class={i < Math.max(lit, used > 0 ? 1 : 0) ? "lit" : ""} />
      ))}
    </span>
  );
}

function Problems({ flow }: { flow: Flow }) {
  const problems = flow.problems ?? [];
  const errors = problems.filter((p) => p.severity !== "warning").length;
  const base = flow.file.split("/").pop() ?? flow.file;
  return (
    <section class={`problems ${errors ? "bad" : "warn"}`} aria-label={`Problems of ${base}`}>
      <header>
        <strong>{base}</strong> <span>{errors ? plural(errors, "problem") : plural(problems.length, "warning")}</span>
        {errors > 0 && <small>{(flow.tasks ?? []).length ? "the last good version stays in force" : "it has no good version yet"}</small>}
      </header>
      <ProblemList problems={problems} file={flow.file} />
    </section>
  );
}

export function ProblemList({ problems, file }: { problems: Problem[]; file?: string }) {
  return (
    <ol class="problem-list">
      {problems.map((p, i) => (
        <li key={i}>
          <code title={p.file || file}>{where({ ...p, file: (p.file || file || "").split("/").pop() ?? "" })}</code>
          <span>{p.message}</span>
        </li>
      ))}
    </ol>
  );
}

function FlowRow({ flow, flows }: { flow: Flow & { id: string }; flows: Resource<List<Flow>> }) {
  const [asking, setAsking] = useState(false);
  const runs = flow.last_runs ?? [];
  const last = runs[0];
  const t = useNow(false);

  return (
    <li class="flow">
      <div class="flow-name">
        <Glyph state={last?.state ?? "none"} size={18} />
        <div>
          <h2>
            <A href={flowHref(flow.id)} class="plain">
              {flow.id}
            </A>
            {flow.paused && <span class="badge warn">paused</span>}
            {!flow.enabled && <span class="badge">disabled</span>}
          </h2>
          <p class="clip dim" title={flow.description ?? ""}>
            {flow.description || plural(flow.tasks?.length ?? 0, "task")}
          </p>
        </div>
      </div>
      <Bars runs={runs} flow={flow.id} />
      <dl class="flow-facts">
        <div>
          <dt>Last</dt>
          <dd>
            {last ? (
              <A href={runHref(last.id)} class="plain" title={when(last.created_at)}>
                {ago(last.created_at, t)}
              </A>
            ) : (
              <span class="dim">never</span>
            )}
          </dd>
        </div>
        <div>
          <dt>Next</dt>
          <dd>
            {flow.paused && flow.next ? (
              <span class="dim">paused</span>
            ) : flow.next ? (
              <span title={when(flow.next)}>{until(flow.next, t)}</span>
            ) : (
              <span class="dim">on demand</span>
            )}
          </dd>
        </div>
      </dl>
      <div class="flow-actions">
        <PauseButton flow={flow} flows={flows} />
        <button type="button" class="soft" onClick={() => setAsking(true)} aria-label={`Run ${flow.id}`} disabled={!flow.enabled}>
          Run
        </button>
      </div>
      {asking && <RunDialog flow={flow} onClose={() => setAsking(false)} />}
    </li>
  );
}

export function PauseButton({ flow, flows }: { flow: Flow & { id: string }; flows: { refresh: () => void } }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const press = async (): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      await post(`/api/v1/flows/${encodeURIComponent(flow.id)}/${flow.paused ? "resume" : "pause"}`);
      flows.refresh();
    } catch (e) {
      setError(message(e));
    }
    setBusy(false);
  };
  const scheduled = (flow.schedules ?? []).length > 0;
  return (
    <button
      type="button"
      class={`ghost${error ? " bad-text" : ""}`}
      onClick={() => void press()}
      disabled={busy || (!scheduled && !flow.paused)}
      title={error ?? (scheduled || flow.paused ? "" : "It has no schedule to pause")}
      aria-label={`${flow.paused ? "Resume" : "Pause"} ${flow.id}`}
    >
      {flow.paused ? "Resume" : "Pause"}
    </button>
  );
}

const SLOTS = 20;
const BAR_W = 7;
const BAR_H = 32;

/** The last runs, oldest left: height is duration, colour and shape are state. Arrow keys go from bar to bar. */
export function Bars({ runs, flow }: { runs: LastRun[]; flow: string }) {
  const box = useRef<HTMLDivElement>(null);
  const counting = runs.some((r) => r.ended_at === null && r.started_at !== null);
  const t = useNow(counting);
  const list = runs.slice(0, SLOTS).reverse();
  const spans = list.map((r) => (r.started_at === null ? 0 : Math.max(0, between(r.started_at, r.ended_at) ?? t - (ms(r.started_at) ?? t))));
  const longest = Math.max(...spans, 1);
  const good = list.filter((r) => r.state === "success").length;
  const bad = list.filter((r) => failed(r.state)).length;

  const onKey = (e: KeyboardEvent): void => {
    const step = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    const links = Array.from(box.current?.querySelectorAll("a") ?? []);
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    links[Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
    e.preventDefault();
  };

  return (
    <div
      class="bars"
      ref={box}
      role="group"
      onKeyDown={onKey}
      aria-label={list.length ? `Last ${plural(list.length, "run")} of ${flow}: ${good} good, ${bad} failed` : `${flow} has not run yet`}
    >
      {Array.from({ length: SLOTS - list.length }, (_, i) => (
        <span key={`none-${i}`} class="bar-slot" />
      ))}
      {list.map((r, i) => {
        const span = spans[i] ?? 0;
        const height = r.started_at === null ? 4 : Math.max(6, Math.sqrt(span / longest) * BAR_H);
        const label = `${word(r.state)}${r.started_at ? `, ${duration(span)}` : ""}, ${when(r.created_at)}`;
        return (
          <A key={r.id} href={runHref(r.id)} class={`bar s-${r.state}`} title={label} aria-label={label} tabIndex={i === list.length - 1 ? 0 : -1}>
            <svg width={BAR_W} height={BAR_H} aria-hidden="true" focusable="false">
              <BarShape state={r.state} height={height} />
            </svg>
          </A>
        );
      })}
    </div>
  );
}

function BarShape({ state, height }: { state: string; height: number }) {
  const y = BAR_H - height;
  if (state === "failed" || state === "timed_out")
    // Like an exclamation mark: a bar that stands on a dot.
    return (
      <>
        <rect x="0" y={Math.max(0, BAR_H - Math.max(height, 14))} width={BAR_W} height={Math.max(height, 14) - 8} rx="1.5" />
        <rect x="0" y={BAR_H - 6} width={BAR_W} height="6" rx="3" />
      </>
    );
  if (state === "cancelled") return <rect class="hollow" x="0.75" y={y + 0.75} width={BAR_W - 1.5} height={height - 1.5} rx="1.5" />;
  return <rect x="0" y={y} width={BAR_W} height={height} rx={state === "queued" ? 2 : 1.5} />;
}

