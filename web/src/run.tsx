// One run: what it is, its tasks as a graph and over time, and the task that is looked at.
import { useEffect, useRef, useState } from "preact/hooks";
import { message, post } from "./api";
import { ago, between, clock, duration, elapsed, failure, full, ms, text, when } from "./format";
import { Graph, graphIsWide } from "./graph";
import { Skeleton, Trouble } from "./home";
import { onEvent, useResource } from "./live";
import { A, flowHref, go, place, runHref } from "./router";
import { RunDialog } from "./run-dialog";
import { triggerName } from "./runs";
import { Pill, ended, failed, useNow } from "./state";
import { ErrorBlock, TaskPanel } from "./task";
import { Timeline } from "./timeline";
import type { Flow, Run, Task } from "./types";
import { WrittenPanel, isUndo, undoneWords } from "./written";

/** The task to show while nobody chose one: what failed, else what runs, else what ended last. */
function interesting(tasks: Task[]): Task | undefined {
  const latest = (list: Task[], key: "started_at" | "ended_at"): Task | undefined =>
    [...list].sort((a, b) => ((a[key] ?? "") < (b[key] ?? "") ? 1 : -1))[0];
  return (
    tasks.find((t) => failed(t.state)) ??
    latest(tasks.filter((t) => t.state === "running" || t.state === "retry_wait"), "started_at") ??
    latest(tasks.filter((t) => (t.attempts ?? []).length > 0), "ended_at") ??
    tasks[0]
  );
}

export function RunPage({ id }: { id: string }) {
  const run = useResource<Run>(`/api/v1/runs/${encodeURIComponent(id)}`, (ev) => (ev.run === id && ev.data?.progress === undefined) || isUndo(ev));

  useEffect(
    () =>
      onEvent((ev) => {
        const progress = ev.data?.progress;
        if (ev.run !== id || !progress) return;
        run.set((old) => ({ ...old, tasks: (old.tasks ?? []).map((t) => (t.id === ev.task ? { ...t, progress } : t)) }));
      }),
    [id],
  );

  useEffect(() => {
    if (run.data) document.title = `${run.data.state} · ${run.data.flow} · Sluice`;
  }, [run.data?.state, run.data?.flow]);

  if (run.error && !run.data) return <Trouble error={run.error} />;
  if (!run.data) return <Skeleton rows={6} />;
  return <RunView run={run.data} refresh={run.refresh} />;
}

function RunView({ run, refresh }: { run: Run; refresh: () => void }) {
  const tasks = run.tasks ?? [];
  const chosen = place.value.query.get("task");
  const task = tasks.find((t) => t.id === chosen) ?? interesting(tasks);
  const select = (id: string): void => {
    go(runHref(run.id, id), true);
    // Where the panel stands below the graph, it comes into view.
    if (window.matchMedia("(max-width: 1000px)").matches) document.getElementById("task-panel")?.scrollIntoView({ block: "start", behavior: "smooth" });
  };
  const error = failure(run.error);
  // The panel of a failed task says it better than the run's "task … failed".
  const told = tasks.some((t) => failed(t.state) && (failure(t.error) ?? failure(t.attempts?.[t.attempts.length - 1]?.error)));
  const graph = (
    <section class="panel wide-graph" aria-label="Graph of tasks">
      {tasks.length ? <Graph tasks={tasks} selected={task?.id ?? null} onSelect={select} /> : <p class="dim pad">This run has no tasks.</p>}
    </section>
  );
  const wide = graphIsWide(tasks);

  return (
    <article class="run">
      <RunHeader run={run} refresh={refresh} />
      {error && !told && <ErrorBlock error={error} />}
      {wide && graph}
      <div class="run-body">
        <div class="run-main">
          {!wide && graph}
          <section class="panel" aria-label="Timeline">
            <Timeline run={run} tasks={tasks} selected={task?.id ?? null} onSelect={select} />
          </section>
          <WrittenPanel run={run.id} />
        </div>
        <div class="run-side" id="task-panel">
          {task && <TaskPanel key={task.id} run={run.id} task={task} />}
        </div>
      </div>
    </article>
  );
}

function RunHeader({ run, refresh }: { run: Run; refresh: () => void }) {
  const done = ended(run.state);
  const t = useNow(!done);
  const [asking, setAsking] = useState<"cancel" | "again" | null>(null);
  const started = ms(run.started_at);
  const took = between(run.started_at, run.ended_at);
  const waited = between(run.created_at, run.started_at);
  const params = Object.entries(run.params ?? {});

  return (
    <header class="run-head">
      <nav class="crumbs" aria-label="Where this is">
        <A href="/">Flows</A>
        <span aria-hidden="true">/</span>
        <A href={flowHref(run.flow)}>{run.flow}</A>
      </nav>
      <div class="title-row">
        <h1 class="run-title">
          <span class="mono">{run.id}</span>
          <span aria-live="polite">
            <Pill state={run.state} large />
          </span>
          {run.undone && (
            <span class="badge warn" title={full(run.undone.at)}>
              {undoneWords(run.undone.at, run.undone.by, t)}
              {run.undone.whole ? "" : ", in part"}
            </span>
          )}
        </h1>
        <div class="actions">
          {!done && (
            <button type="button" class="danger" onClick={() => setAsking("cancel")}>
              Cancel
            </button>
          )}
          <RunAgain run={run} open={asking === "again"} onOpen={() => setAsking("again")} onClose={() => setAsking(null)} />
        </div>
      </div>
      <dl class="strip run-facts">
        <div>
          <dt>Duration</dt>
          <dd class="num">{took !== null ? duration(took) : started !== null ? elapsed(t - started) : "–"}</dd>
        </div>
        <div>
          <dt>Started</dt>
          <dd title={full(run.started_at ?? run.created_at)}>
            {run.started_at ? clock(run.started_at) : "–"} <small>{ago(run.started_at ?? run.created_at, t)}</small>
          </dd>
        </div>
        <div>
          <dt>Queued for</dt>
          <dd class="num">{waited !== null ? duration(waited) : elapsed(t - (ms(run.created_at) ?? t))}</dd>
        </div>
        <div>
          <dt>Trigger</dt>
          <dd>
            {triggerName(run.trigger) || "–"}
            {run.scheduled_for && <small title={full(run.scheduled_for)}> for {when(run.scheduled_for)}</small>}
          </dd>
        </div>
        {run.interval_start && run.interval_end && (
          <div>
            <dt>Data interval</dt>
            <dd title={`${full(run.interval_start)}\n${full(run.interval_end)}`}>
              {when(run.interval_start)} <small>to {when(run.interval_end)}</small>
            </dd>
          </div>
        )}
        {params.length > 0 && (
          <div class="wide">
            <dt>Params</dt>
            <dd class="param-list">
              {params.map(([k, v]) => (
                <span key={k} class="param mono" title={`${k} = ${text(v)}`}>
                  <i>{k}</i> {text(v)}
                </span>
              ))}
            </dd>
          </div>
        )}
      </dl>
      {asking === "cancel" && <CancelDialog run={run} onClose={() => setAsking(null)} refresh={refresh} />}
    </header>
  );
}

/** Runs of flow files outside the flows folder have no flow to run again. */
function RunAgain({ run, open, onOpen, onClose }: { run: Run; open: boolean; onOpen: () => void; onClose: () => void }) {
  const flow = useResource<Flow>(`/api/v1/flows/${encodeURIComponent(run.flow)}`, () => false);
  const id = flow.data?.id;
  return (
    <>
      <button type="button" class="primary" onClick={onOpen} disabled={!id} title={flow.error ? "This flow is not in the flows folder" : ""}>
        Run again
      </button>
      {open && id && flow.data && <RunDialog flow={{ id, params: flow.data.params }} initial={run.params ?? {}} engine={run.engine} onClose={onClose} />}
    </>
  );
}

function CancelDialog({ run, onClose, refresh }: { run: Run; onClose: () => void; refresh: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const live = (run.tasks ?? []).filter((t) => t.state === "running").map((t) => t.id);

  useEffect(() => {
    if (dialog.current && !dialog.current.open) dialog.current.showModal();
  }, []);
  // It ended by itself meanwhile: nothing to ask any more.
  useEffect(() => {
    if (ended(run.state)) dialog.current?.close();
  }, [run.state]);

  const cancel = async (): Promise<void> => {
    setBusy(true);
    try {
      await post(`/api/v1/runs/${encodeURIComponent(run.id)}/cancel`);
      refresh();
      dialog.current?.close();
    } catch (e) {
      setError(message(e));
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} class="dialog narrow" aria-labelledby="cancel-title" onClose={onClose}>
      <header>
        <h2 id="cancel-title">Cancel this run?</h2>
      </header>
      <div class="fields">
        <p>
          {live.length > 0 ? `${live.join(", ")} will be stopped; ` : ""}
          tasks that have not started will not start. This cannot be undone.
        </p>
        {error && (
          <p class="banner bad" role="alert">
            {error}
          </p>
        )}
      </div>
      <footer>
        <button type="button" class="ghost" autofocus onClick={() => dialog.current?.close()}>
          Keep running
        </button>
        <button type="button" class="danger solid" disabled={busy} onClick={() => void cancel()}>
          {busy ? "Cancelling…" : "Cancel the run"}
        </button>
      </footer>
    </dialog>
  );
}
