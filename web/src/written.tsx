// What a run did to tables: each commit, from which snapshot to which, and who sees it.
import { ago, count, full } from "./format";
import { useResource } from "./live";
import { A, runHref, tableHref } from "./router";
import { useNow } from "./state";
import type { List, SluiceEvent, Written } from "./types";

const deeds: Record<string, string> = { create: "made", register: "registered", drop: "dropped", rename: "renamed", maintain: "maintained" };

/** "append", "made, append", "dropped" */
function deed(w: Written): string {
  const word = deeds[w.action] ?? (w.action === "commit" ? "" : w.action);
  return [word, w.operation].filter(Boolean).join(", ") || "changed";
}

/** "+7 −2 rows"; nothing where nothing came or went. */
function counts(added: number | null, removed: number | null, one: string): string {
  const parts = [added && `+${count(added)}`, removed && `\u2212${count(removed)}`].filter(Boolean);
  return parts.length ? `${parts.join(" ")} ${one}${(added ?? 0) + (removed ?? 0) === 1 ? "" : "s"}` : "";
}

export function undoneWords(at: string | null, by: string | null, now: number): string {
  return `undone${at ? ` ${ago(at, now)}` : ""}${by ? ` by ${by}` : ""}`;
}

/** Who sees it, where that is not everybody. */
function Seen({ written: w, now }: { written: Written; now: number }) {
  switch (w.state) {
    case "private":
      return <span class="badge">seen by this run alone so far</span>;
    case "abandoned":
      return <span class="badge warn">given up, nobody sees it</span>;
    case "rehearsed":
      return <span class="badge">rehearsed, nobody sees it</span>;
    case "undone":
      return (
        <span class="badge warn" title={full(w.undone_at)}>
          {undoneWords(w.undone_at, w.undone_by, now)}
        </span>
      );
    case "visible":
      return null;
  }
}

/** An undo is an event of the tables: it does not say whose commits went back. */
export function isUndo(ev: SluiceEvent): boolean {
  return ev.kind === "table" && ev.data?.action === "undo";
}

export function WrittenPanel({ run }: { run: string }) {
  const list = useResource<List<Written>>(
    `/api/v1/runs/${encodeURIComponent(run)}/tables`,
    (ev) => isUndo(ev) || (ev.run === run && (ev.kind === "table" || ev.kind === "run")),
  );
  const t = useNow(false);
  const items = list.data?.items ?? [];
  if (list.error && !list.data) return <p class="panel pad bad-text">The tables that it wrote cannot be told: {list.error.message}</p>;
  if (items.length === 0) return null;
  return (
    <section class="panel pad-all" aria-labelledby="run-written">
      <h2 id="run-written" class="panel-title">Tables that it wrote</h2>
      <ul class="written">
        {items.map((w, i) => (
          <li key={i}>
            <A href={tableHref(w.table)} class="plain mono name">
              {w.table}
            </A>
            <span class="badge">{deed(w)}</span>
            <span class="dim num">{[counts(w.rows_added, w.rows_removed, "row"), counts(w.files_added, w.files_removed, "file")].filter(Boolean).join(" · ")}</span>
            <span class="dim">
              by <A href={runHref(run, w.task)}>{w.task}</A>
            </span>
            <Seen written={w} now={t} />
            {w.snapshot_after && w.snapshot_after !== w.snapshot_before && (
              <span class="dim mono snapshot">
                snapshot {w.snapshot_before ?? "none"} → {w.snapshot_after}
              </span>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}
