// What is known of one task of a run: its attempts, what they cost, made and found, and their logs.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Fact, FactList } from "./facts";
import { between, bytes, clock, count, duration, elapsed, failure, full, ms, plural, signalName, text, until, where } from "./format";
import { Logs } from "./logs";
import { Glyph, Pill, ended, useNow, word } from "./state";
import type { Attempt, Failure, Json, Task } from "./types";

export function TaskPanel({ run, task }: { run: string; task: Task }) {
  const attempts = task.attempts ?? [];
  const newest = attempts[attempts.length - 1];
  const [picked, setPicked] = useState<number | null>(null);
  useEffect(() => setPicked(null), [task.id, attempts.length]);
  const attempt = attempts.find((a) => a.n === picked) ?? newest;
  const t = useNow(task.state === "running" || task.state === "retry_wait");
  const error = failure(attempt?.error) ?? (attempt === newest ? failure(task.error) : null);

  return (
    <section class="panel task" aria-label={`Task ${task.id}`}>
      <header class="task-head">
        <div>
          <h2 class="mono">{task.id}</h2>
          <span class="dim">
            {task.type}
            {task.engine ? ` · ${task.engine}` : ""}
          </span>
        </div>
        <Pill state={task.state} />
      </header>

      {task.state === "retry_wait" && task.next_attempt_at && (
        <p class="banner warn">The next attempt starts {until(task.next_attempt_at, t)}.</p>
      )}
      {attempts.length > 1 && (
        <div class="attempts" role="group" aria-label="Attempts">
          {attempts.map((a) => (
            <button key={a.n} type="button" class="chip" aria-pressed={a === attempt} onClick={() => setPicked(a.n)}>
              <Glyph state={a.state} size={14} />
              Attempt {a.n}
              {a.cause && <small>{a.cause}</small>}
            </button>
          ))}
        </div>
      )}
      {error && <ErrorBlock error={error} />}
      {task.state === "running" && attempt === newest && <ProgressLine task={task} />}
      {!attempt && <p class="dim pad">{idleSentence(task)}</p>}
      {attempt && <AttemptFacts attempt={attempt} t={t} />}
      {attempt && <Checks attempt={attempt} />}
      {attempt && <Tables attempt={attempt} />}
      {task.outputs && Object.keys(task.outputs).length > 0 && attempt === newest && <Outputs outputs={task.outputs} />}
      {attempt && <Logs key={`${run}/${task.id}/${attempt.n}`} run={run} task={task.id} attempt={attempt.n} live={!ended(attempt.state)} />}
    </section>
  );
}

function idleSentence(task: Task): string {
  switch (task.state) {
    case "waiting":
      return task.depends_on.length ? `It waits for ${task.depends_on.join(", ")}.` : "It waits to start.";
    case "ready":
      return "It is ready and waits for a free slot.";
    case "skipped":
      return "It was skipped: its condition or its trigger rule said so.";
    case "upstream_failed":
      return "It did not run, because a task that it depends on did not end well.";
    case "cancelled":
      return "It was cancelled before it started.";
    default:
      return `No attempt was made: ${word(task.state)}.`;
  }
}

export function ErrorBlock({ error }: { error: Failure }) {
  const place = where(error);
  return (
    <div class="error-block" role="alert">
      {place && <code title={place}>{where({ ...error, file: error.file?.split("/").pop() ?? "" })}</code>}
      <pre>{error.message}</pre>
    </div>
  );
}

function ProgressLine({ task }: { task: Task }) {
  const p = task.progress;
  if (!p) return null;
  const part = p.total ? Math.min(1, (p.done ?? 0) / p.total) : null;
  return (
    <div class="progress">
      <div class={`progress-track${part === null ? " unknown" : ""}`}>
        <i style={{ transform: `scaleX(${part ?? 0.3})` }} />
      </div>
      <span class="num">
        {p.message} {p.done != null && (p.total ? `${count(p.done)} of ${count(p.total)}` : count(p.done))}
      </span>
    </div>
  );
}

function title(s: string): string {
  return s.charAt(0).toUpperCase() + s.slice(1);
}

function exitText(a: Attempt): string | null {
  if (a.signal !== null && a.signal !== undefined) return signalName(a.signal);
  return a.exit_code === null || a.exit_code === undefined ? null : `exit ${a.exit_code}`;
}

function AttemptFacts({ attempt: a, t }: { attempt: Attempt; t: number }) {
  const m = a.metrics ?? {};
  const wall = a.wall_us != null ? a.wall_us / 1000 : between(a.started_at, a.ended_at);
  const running = wall === null && a.started_at !== null && !ended(a.state);
  const cpu = a.user_us != null || a.system_us != null;
  const facts: Fact[] = [];
  const add = (name: string, value: ComponentChildren): void => void facts.push([name, value]);

  add("Started", <span title={full(a.started_at)}>{clock(a.started_at)}</span>);
  add("Duration", wall !== null ? duration(wall) : running ? elapsed(t - (ms(a.started_at) ?? t)) : "–");
  const exit = exitText(a);
  if (exit) add("Ended", a.cause && a.cause !== "exit" && a.cause !== "signal" ? `${a.cause}, ${exit}` : exit);
  else if (a.cause) add("Ended", a.cause);
  if (cpu)
    add(
      "CPU",
      <span title={`user ${duration((a.user_us ?? 0) / 1000)}, system ${duration((a.system_us ?? 0) / 1000)}`}>
        {duration(((a.user_us ?? 0) + (a.system_us ?? 0)) / 1000)}
      </span>,
    );
  if (a.max_rss_bytes != null) add("Peak memory", bytes(a.max_rss_bytes));
  if (m["rows_in"] !== undefined) add("Rows in", count(m["rows_in"]));
  if (m["rows_out"] !== undefined) add("Rows out", count(m["rows_out"]));
  if (m["rows_rejected"]) add("Rejected", <span class="bad-text">{count(m["rows_rejected"])}</span>);
  if (m["bytes_read"] !== undefined) add("Read", m["bytes_in"] !== undefined ? `${bytes(m["bytes_read"])} of ${bytes(m["bytes_in"])}` : bytes(m["bytes_read"]));
  if (m["files_out"] !== undefined) add("Files", count(m["files_out"]));
  if (m["bytes_out"] !== undefined) add("Written", bytes(m["bytes_out"]));
  if (m["engine_us"] !== undefined) add("In engine", duration(m["engine_us"] / 1000));
  const known = new Set(["rows_in", "rows_out", "rows_rejected", "files_out", "bytes_in", "bytes_out", "bytes_read", "engine_us"]);
  for (const [k, v] of Object.entries(m)) if (!known.has(k)) add(title(k.replace(/_us$/, "").replaceAll("_", " ")), k.endsWith("_us") ? duration(v / 1000) : count(v));

  return <FactList kind="facts" facts={facts} />;
}

function Checks({ attempt }: { attempt: Attempt }) {
  const checks = attempt.checks ?? [];
  if (checks.length === 0) return null;
  const bad = checks.filter((c) => !c.passed).length;
  const warned = checks.every((c) => c.passed || c.severity === "warn");
  return (
    <div class="block">
      <h3>
        Checks <small class={!bad ? "dim" : warned ? "warn-text" : "bad-text"}>{bad ? `${bad} of ${checks.length} ${warned ? "warned" : "failed"}` : `all ${checks.length} passed`}</small>
      </h3>
      <ul class="checks">
        {checks.map((c, i) => (
          <li key={i}>
            <Glyph state={c.passed ? "success" : c.severity === "warn" ? "warning" : "failed"} size={16} />
            <span class="mono">{c.check}</span>
            {!c.passed && c.severity === "warn" && <span class="badge warn">warning</span>}
            <span class="dim check-message">{c.message}</span>
            <span class="sr">{c.passed ? "passed" : "failed"}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Tables({ attempt }: { attempt: Attempt }) {
  const tables = attempt.tables ?? [];
  if (tables.length === 0) return null;
  return (
    <div class="block">
      <h3>Tables written</h3>
      <ul class="written">
        {tables.map((w, i) => (
          <li key={i}>
            <span class="mono name">{w.table}</span>
            <span class="badge">{w.operation}</span>
            <span class="dim num">
              {[w.rows !== undefined && plural(w.rows, "row"), w.files !== undefined && plural(w.files, "file"), w.bytes !== undefined && bytes(w.bytes)]
                .filter(Boolean)
                .join(" · ")}
            </span>
            <span class="dim mono snapshot">snapshot {w.snapshot_id}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Outputs({ outputs }: { outputs: Record<string, Json> }) {
  return (
    <div class="block">
      <h3>Outputs</h3>
      <dl class="outputs">
        {Object.entries(outputs).map(([k, v]) => (
          <div key={k}>
            <dt class="mono">{k}</dt>
            <dd class="mono">{text(v)}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}
