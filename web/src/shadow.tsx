// A flow's shadow: how the engine that repeats its runs did beside its own, and which one to keep.
import { bytes, count, duration } from "./format";
import { useResource } from "./live";
import { A, runHref } from "./router";
import type { List } from "./types";

interface Figures {
  elapsed_median_us: number | null;
  elapsed_p95_us: number | null;
  cpu_median_us: number | null;
  memory_median_bytes: number | null;
  ended: number;
  failed: number;
}

interface Report {
  flow: string;
  engine: string;
  shadow_engine: string;
  runs: number;
  equal: number;
  different: number;
  failed: number;
  real_failed: number;
  uncompared: number;
  skipped: number;
  open: number;
  real: Figures;
  shadow: Figures;
  last_different: { run: string; shadow: string } | null;
  keep: string | null;
  advice: string;
}

const took = (us: number | null) => (us === null ? "" : duration(us / 1000));

/** "41 equal, 1 skipped" */
function counts(r: Report): string {
  const parts: [number, string][] = [
    [r.equal, "equal"],
    [r.different, "different"],
    [r.failed, "failed on it"],
    [r.real_failed, "failed on the flow's own"],
    [r.uncompared, "not compared"],
    [r.skipped, "skipped"],
    [r.open, "under way"],
  ];
  return parts
    .filter(([n]) => n)
    .map(([n, words]) => `${count(n)} ${words}`)
    .join(", ");
}

function Row({ engine, figures: f }: { engine: string; figures: Figures }) {
  return (
    <tr>
      <th scope="row">{engine}</th>
      <td title={f.elapsed_p95_us === null ? undefined : `95 % are done in ${took(f.elapsed_p95_us)}`}>{took(f.elapsed_median_us)}</td>
      <td>{took(f.cpu_median_us)}</td>
      <td>{f.memory_median_bytes === null ? "" : bytes(f.memory_median_bytes)}</td>
      <td>{count(f.failed)}</td>
    </tr>
  );
}

function Engines({ report: r }: { report: Report }) {
  return (
    <>
      <p class={r.different ? "shadow-advice bad" : "shadow-advice"}>{r.advice}</p>
      {r.shadow.ended > 0 && (
        <table class="shadow-figures num">
          <thead>
            <tr>
              <th>Engine</th>
              <th>Median</th>
              <th>CPU</th>
              <th>Memory</th>
              <th>Failed</th>
            </tr>
          </thead>
          <tbody>
            <Row engine={r.engine} figures={r.real} />
            <Row engine={r.shadow_engine} figures={r.shadow} />
          </tbody>
        </table>
      )}
      <p class="dim">
        {counts(r)}
        {r.last_different && (
          <>
            {" · "}
            <A href={runHref(r.last_different.run)}>run</A> and <A href={runHref(r.last_different.shadow)}>shadow</A> that differed last
          </>
        )}
      </p>
    </>
  );
}

export function ShadowPanel({ flow, engine }: { flow: string; engine: string }) {
  const reports = useResource<List<Report>>(`/api/v1/shadows?flow=${encodeURIComponent(flow)}&since=90d`, (ev) => ev.kind === "run" && ev.flow === flow);

  return (
    <section class="panel pad-all" aria-labelledby="flow-shadow">
      <h2 id="flow-shadow" class="panel-title">
        Shadow on {engine}
      </h2>
      {reports.data && reports.data.items.length === 0 && <p class="dim">Its next runs are repeated there, unseen, and compared.</p>}
      {reports.data?.items.map((r) => <Engines key={`${r.engine} ${r.shadow_engine}`} report={r} />)}
    </section>
  );
}
