// One flow: when it runs, what it takes, its tasks, its runs and its text.
import { useEffect, useState } from "preact/hooks";
import { full, text, until, when } from "./format";
import { Graph, graphIsWide } from "./graph";
import { PauseButton, ProblemList, Skeleton, Trouble } from "./home";
import { useResource } from "./live";
import { A } from "./router";
import { RunDialog } from "./run-dialog";
import { RunTable, listPath } from "./runs";
import { ShadowPanel } from "./shadow";
import { useNow } from "./state";
import type { Flow } from "./types";

interface Next {
  scheduled_at: string;
  interval_start: string;
  interval_end: string;
}

export function FlowPage({ id }: { id: string }) {
  const path = `/api/v1/flows/${encodeURIComponent(id)}`;
  const flow = useResource<Flow>(path, (ev) => ev.kind === "flow" && (ev.flow === null || ev.flow === id));
  const next = useResource<Next[] | { items: Next[] }>(`${path}/next?count=5`, (ev) => ev.kind === "flow" || (ev.kind === "run" && ev.flow === id && ev.state === "queued"));
  const [asking, setAsking] = useState(false);
  const t = useNow(false);

  useEffect(() => {
    document.title = `${id} · Sluice`;
  }, [id]);

  if (flow.error && !flow.data) return <Trouble error={flow.error} />;
  if (!flow.data) return <Skeleton rows={6} />;
  const f = { ...flow.data, id };
  const times = Array.isArray(next.data) ? next.data : (next.data?.items ?? []);
  const params = Object.entries(f.params ?? {});
  const problems = f.problems ?? [];

  const graph = f.tasks && f.tasks.length > 0 && (
    <section class="panel wide-graph" aria-label="Graph of tasks">
      <Graph tasks={f.tasks} />
    </section>
  );
  const wide = graphIsWide(f.tasks ?? []);

  return (
    <article class="run">
      <header class="run-head">
        <nav class="crumbs" aria-label="Where this is">
          <A href="/">Flows</A>
        </nav>
        <div class="title-row">
          <h1 class="run-title">
            <span class="mono">{f.id}</span>
            {f.paused && <span class="badge warn">paused</span>}
            {!f.enabled && <span class="badge">disabled</span>}
          </h1>
          <div class="actions">
            <PauseButton flow={f} flows={flow} />
            <button type="button" class="primary" disabled={!f.enabled || !f.tasks} onClick={() => setAsking(true)}>
              Run
            </button>
          </div>
        </div>
        {f.description && <p class="lead">{f.description}</p>}
        <p class="dim labels">
          <span class="mono">{f.file}</span>
          {Object.entries(f.labels ?? {}).map(([k, v]) => (
            <span key={k} class="param mono">
              <i>{k}</i> {v}
            </span>
          ))}
        </p>
      </header>
      {problems.length > 0 && (
        <section class="problems bad" aria-label="Problems">
          <header>
            <strong>The file has problems</strong>
            <small>what is shown here is its last good version</small>
          </header>
          <ProblemList problems={problems} file={f.file} />
        </section>
      )}
      {wide && graph}
      <div class="run-body">
        <div class="run-main">
          {!wide && graph}
          <section aria-labelledby="flow-runs">
            <div class="title-row">
              <h2 id="flow-runs" class="section-title">
                Runs
              </h2>
              <A href={`/runs?flow=${encodeURIComponent(id)}`}>all runs</A>
            </div>
            <RunTable path={listPath(id, "", 20)} flow={id} showFlow={false} />
          </section>
        </div>
        <div class="run-side">
          <section class="panel pad-all" aria-labelledby="flow-when">
            <h2 id="flow-when" class="panel-title">
              Schedule
            </h2>
            {(f.schedules ?? []).length === 0 && <p class="dim">None: it runs on demand.</p>}
            {(f.schedules ?? []).map((s, i) => (
              <p key={i}>
                <code>{s.cron ?? s.every ?? "schedule"}</code> <span class="dim">{s.timezone}</span>
              </p>
            ))}
            {times.length > 0 && (
              <ol class="next-times">
                {times.map((n) => (
                  <li key={n.scheduled_at} title={full(n.scheduled_at)}>
                    <span class="num">{when(n.scheduled_at)}</span>
                    <span class="dim">{until(n.scheduled_at, t)}</span>
                  </li>
                ))}
              </ol>
            )}
          </section>
          {f.shadow && <ShadowPanel flow={f.id} engine={f.shadow.engine} />}
          {params.length > 0 && (
            <section class="panel pad-all" aria-labelledby="flow-params">
              <h2 id="flow-params" class="panel-title">
                Params
              </h2>
              <dl class="param-defs">
                {params.map(([name, p]) => (
                  <div key={name}>
                    <dt>
                      <span class="mono">{name}</span> <small class="dim">{p.type}</small>
                      {p.required && <small class="required"> required</small>}
                    </dt>
                    <dd>
                      {p.default !== undefined && p.default !== null && <code>{text(p.default)}</code>}
                      {p.enum && <span class="dim"> one of {p.enum.map(text).join(", ")}</span>}
                      {p.description && <span class="dim"> {p.description}</span>}
                    </dd>
                  </div>
                ))}
              </dl>
            </section>
          )}
          {f.source && (
            <details class="panel source" open>
              <summary>Source</summary>
              <Source text={f.source} marks={new Set(problems.map((p) => p.line))} />
            </details>
          )}
        </div>
      </div>
      {asking && <RunDialog flow={f} onClose={() => setAsking(false)} />}
    </article>
  );
}

/** Comments and keys a little apart from the rest; no more of YAML is understood here. */
function Source({ text: source, marks }: { text: string; marks: Set<number> }) {
  return (
    <pre class="source-text" tabIndex={0}>
      {source
        .replace(/\n$/, "")
        .split("\n")
        .map((line, i) => {
          const m = /^(\s*(?:- )?)([A-Za-z_][\w-]*)(:)(?=\s|$)(.*)$/.exec(line);
          return (
            <div key={i} class={marks.has(i + 1) ? "marked" : ""}>
              <i aria-hidden="true">{i + 1}</i>
              {m ? (
                <>
                  {m[1]}
                  <b>{m[2]}</b>
                  {m[3]}
                  {m[4]}
                </>
              ) : /^\s*#/.test(line) ? (
                <em>{line}</em>
              ) : (
                line || "\n"
              )}
            </div>
          );
        })}
    </pre>
  );
}
