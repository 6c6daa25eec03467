// The graph of a flow's or a run's tasks: edges in SVG, nodes as real buttons above it.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { type Layout, layout } from "./dag";
import { between, duration, elapsed, ms, short } from "./format";
import { Glyph, ended, failed, useNow, word } from "./state";
import type { Task } from "./types";

export type GraphTask = Pick<Task, "id" | "type" | "engine" | "depends_on"> & Partial<Task>;

interface Props {
  tasks: GraphTask[];
  selected?: string | null;
  onSelect?: (id: string) => void;
}

const NODE_W = 206;
const NODE_H = 56;
/** Room for the outline of the selected node: .graph in style.css. */
const PAD = 4;
const MIN_SCALE = 0.62;
const MAX_HEIGHT = 560;

const LAYOUTS = {
  across: { nodeWidth: NODE_W, nodeHeight: NODE_H, across: true, layerGap: 40, nodeGap: 18 },
  down: { nodeWidth: NODE_W, nodeHeight: NODE_H, across: false, layerGap: 34, nodeGap: 20 },
};
/** Beyond this a graph deserves the whole width of the page. */
const WIDE = 1000;

let cached: { key: string; across: Layout; down: Layout } | null = null;

function layouts(tasks: GraphTask[]): { across: Layout; down: Layout } {
  const key = tasks.map((t) => `${t.id}<${t.depends_on.join(",")}`).join(";");
  if (cached?.key !== key) cached = { key, across: layout(tasks, LAYOUTS.across), down: layout(tasks, LAYOUTS.down) };
  return cached;
}

export function graphIsWide(tasks: GraphTask[]): boolean {
  const { across, down } = layouts(tasks);
  return Math.min(across.width, down.width) > WIDE;
}

function fit(l: Layout, width: number): number {
  return Math.min(1, width / l.width, MAX_HEIGHT / l.height);
}

export function Graph({ tasks, selected, onSelect }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);

  useLayoutEffect(() => {
    const el = box.current;
    if (!el) return undefined;
    const measure = (): void => setWidth(el.clientWidth - 2 * PAD);
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(el);
    return () => observer.disconnect();
  }, []);

  const both = layouts(tasks);
  const room = Math.max(width, 1);
  const across = fit(both.across, room) >= Math.min(0.78, fit(both.down, room));
  const l = across ? both.across : both.down;
  const scale = width === 0 ? 1 : Math.max(MIN_SCALE, fit(l, room));
  const t = useNow(tasks.some((x) => x.state === "running"));
  const byId = new Map(tasks.map((x) => [x.id, x]));

  // In a graph wider than its box, the selected node comes into view.
  const target = l.boxes.find((b) => b.id === selected);
  useLayoutEffect(() => {
    const el = box.current;
    if (!el || !target || el.scrollWidth <= el.clientWidth) return;
    const x = target.x * scale - el.clientWidth / 2;
    if (Math.abs(x - el.scrollLeft) > el.clientWidth / 2 - (NODE_W * scale) / 2) el.scrollLeft = x;
  }, [selected, scale, width]);

  return (
    <div class="graph" ref={box}>
      <div class="graph-size" style={{ width: `${l.width * scale}px`, height: `${l.height * scale}px`, visibility: width === 0 ? "hidden" : "visible" }}>
        <div class="graph-scale" style={{ width: `${l.width}px`, height: `${l.height}px`, transform: `scale(${scale})` }}>
          <svg width={l.width} height={l.height} aria-hidden="true" focusable="false">
            {l.edges.map((e) => (
              <path key={`${e.from}>${e.to}`} class={`edge ${edgeClass(byId.get(e.from), byId.get(e.to))}`} d={e.path} />
            ))}
          </svg>
          {l.boxes.map((b) => {
            const task = byId.get(b.id);
            if (!task) return null;
            const style = { left: `${b.x - NODE_W / 2}px`, top: `${b.y - NODE_H / 2}px`, width: `${NODE_W}px`, height: `${NODE_H}px` };
            return <Node key={b.id} task={task} style={style} selected={selected === b.id} onSelect={onSelect} t={t} />;
          })}
        </div>
      </div>
    </div>
  );
}

function edgeClass(from: GraphTask | undefined, to: GraphTask | undefined): string {
  if (!from?.state || !to?.state) return "";
  if (failed(from.state) || from.state === "upstream_failed") return "edge-bad";
  if (!ended(from.state)) return "edge-idle";
  if (to.state === "running") return "edge-flow";
  return ended(to.state) && to.state !== "skipped" ? "edge-done" : "edge-idle";
}

export function taskSpan(task: Partial<Task>, t: number): string | null {
  if (!task.started_at) return null;
  const done = between(task.started_at, task.ended_at ?? null);
  if (done !== null) return duration(done);
  return task.state === "running" ? elapsed(t - (ms(task.started_at) ?? t)) : null;
}

export function taskRows(task: Partial<Task>): number | null {
  const attempts = task.attempts ?? [];
  const metrics = attempts[attempts.length - 1]?.metrics;
  return metrics?.["rows_out"] ?? metrics?.["rows_in"] ?? null;
}

interface NodeProps {
  task: GraphTask;
  style: Record<string, string>;
  selected: boolean;
  onSelect: ((id: string) => void) | undefined;
  t: number;
}

function Node({ task, style, selected, onSelect, t }: NodeProps) {
  const state = task.state;
  const span = taskSpan(task, t);
  const rows = taskRows(task);
  const tries = task.attempts?.length ?? 0;
  const progress = state === "running" ? task.progress : null;
  const part = progress?.total ? Math.min(1, (progress.done ?? 0) / progress.total) : null;
  const facts = [span, rows !== null && `${short(rows)} ${rows === 1 ? "row" : "rows"}`, tries > 1 && `try ${tries}`].filter(Boolean).join(" · ");
  const said = facts || (state && state !== "success" ? word(state) : "");
  const inner = (
    <>
      {state ? <Glyph state={state} size={18} /> : <span class="node-dot" />}
      <span class="node-text">
        <span class="node-id">{task.id}</span>
        <span class="node-sub">
          {(!said || (task.type !== task.id && task.type.length + said.length <= 23)) && <span class="node-type">{task.type}</span>}
          {state && <span class="num">{said}</span>}
          {!state && task.engine && <span>{task.engine}</span>}
        </span>
      </span>
      {part !== null && <span class="node-progress" style={{ transform: `scaleX(${part})` }} />}
    </>
  );
  const cls = `node${state ? ` s-${state}` : ""}${selected ? " selected" : ""}`;
  const label = `${task.id}, ${task.type}${state ? `, ${word(state)}` : ""}${facts ? `, ${facts}` : ""}`;
  if (!onSelect)
    return (
      <div class={`${cls} still`} style={style} title={label}>
        {inner}
      </div>
    );
  return (
    <button type="button" class={cls} style={style} aria-pressed={selected} aria-label={label} title={label} onClick={() => onSelect(task.id)}>
      {inner}
    </button>
  );
}
