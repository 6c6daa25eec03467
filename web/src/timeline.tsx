// When each attempt ran: one row a task, one bar an attempt.
import { between, duration, elapsed, ms } from "./format";
import { useNow, word } from "./state";
import type { Attempt, Run, Task } from "./types";

interface Props {
  run: Run;
  tasks: Task[];
  selected: string | null;
  onSelect: (id: string) => void;
}

/** Round steps with at most `most` of them. */
export function ticks(span: number, most: number): number[] {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 108e5, 216e5, 432e5, 864e5];
  const step = steps.find((s) => span / s <= most) ?? Math.ceil(span / most / 864e5) * 864e5;
  const out: number[] = [];
  for (let v = 0; v <= span; v += step) out.push(v);
  return out;
}

function tickName(v: number): string {
  if (v === 0) return "0";
  if (v < 1000) return `${v} ms`;
  if (v < 60_000) return `${v / 1000} s`;
  if (v < 3600_000) return v % 60_000 === 0 ? `${v / 60_000} min` : duration(v);
  return duration(v);
}

export function Timeline({ run, tasks, selected, onSelect }: Props) {
  const t = useNow(run.ended_at === null);
  const firsts = tasks.flatMap((x) => (x.attempts ?? []).map((a) => ms(a.started_at))).filter((v): v is number => v !== null);
  const start = Math.min(ms(run.started_at) ?? Infinity, ...firsts);
  if (!Number.isFinite(start)) return <p class="dim pad">Nothing has started yet.</p>;
  const last = ms(run.ended_at) ?? Math.max(t, start + 1);
  const ends = tasks.flatMap((x) => (x.attempts ?? []).map((a) => ms(a.ended_at) ?? 0));
  const span = Math.max(last - start, ...[...firsts, ...ends].map((e) => e - start), 1);
  // Room at the right for the last bar's words.
  const scale = span * 1.02;
  const marks = ticks(scale, 6);
  const step = marks[1] ?? 1;

  return (
    <div class="timeline">
      <div class="tl-axis" aria-hidden="true">
        <span />
        <div>
          {marks.map((v) => (
            <span key={v} class={(v / step) % 2 ? "odd" : ""} style={{ left: `${(v / scale) * 100}%` }}>
              {tickName(v)}
            </span>
          ))}
        </div>
      </div>
      <ul>
        {tasks.map((task) => (
          <li key={task.id} class={selected === task.id ? "selected" : ""}>
            <button type="button" onClick={() => onSelect(task.id)} aria-pressed={selected === task.id}>
              <span class="tl-name clip">{task.id}</span>
              <span class="tl-track">
                {marks.map((v) => (
                  <i key={v} class="tl-grid" style={{ left: `${(v / scale) * 100}%` }} />
                ))}
                {(task.attempts ?? []).map((a, i, all) => (
                  <Bar key={a.n} attempt={a} before={all[i - 1]} last={i === all.length - 1} start={start} scale={scale} t={t} />
                ))}
                {(task.attempts ?? []).length === 0 && <em class="tl-none">{word(task.state)}</em>}
              </span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

interface BarProps {
  attempt: Attempt;
  before: Attempt | undefined;
  last: boolean;
  start: number;
  scale: number;
  t: number;
}

/** The last attempt's bar carries the words, where no other bar is in their way. */
function Bar({ attempt, before, last, start, scale, t }: BarProps) {
  const from = ms(attempt.started_at);
  if (from === null) return null;
  const to = ms(attempt.ended_at) ?? Math.max(t, from);
  const left = ((from - start) / scale) * 100;
  const width = ((to - from) / scale) * 100;
  const done = between(attempt.started_at, attempt.ended_at);
  const time = done === null ? elapsed(to - from) : duration(done);
  const label = `${attempt.n > 1 ? `#${attempt.n} ` : ""}${attempt.state === "success" || attempt.state === "running" ? "" : `${word(attempt.state)} `}${time}`;
  const end = left + width;
  const free = left - (((ms(before?.ended_at) ?? start) - start) / scale) * 100;
  const side = end < 72 ? { left: `calc(${end}% + 6px)` } : free > 30 ? { right: `calc(${100 - left}% + 6px)` } : { left: `calc(${left}% + 8px)` };
  const inside = end >= 72 && free <= 30;
  return (
    <>
      <span class={`tl-bar s-${attempt.state}`} style={{ left: `${left}%`, width: `${width}%` }} title={label} />
      {last && (!inside || width > 25) && (
        <span class={`tl-label num${inside ? " inside" : ""}`} style={side}>
          {label}
        </span>
      )}
    </>
  );
}
