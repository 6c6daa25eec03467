// One attempt's log: followed while the attempt lives, else its last megabyte. Found text is marked, lines can be copied.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError, message, request } from "./api";
import { PLAIN, type Piece, type Style, pieces } from "./ansi";
import { count } from "./format";

const TAIL_BYTES = 1_000_000;
const MAX_LINES = 5000;

interface Buffer {
  lines: Piece[][];
  rest: string;
  style: Style;
  dropped: boolean;
}

function empty(): Buffer {
  return { lines: [], rest: "", style: PLAIN, dropped: false };
}

function append(b: Buffer, text: string): void {
  const parts = (b.rest + text).split("\n");
  b.rest = parts.pop() ?? "";
  for (const line of parts) {
    const p = pieces(line, b.style);
    b.style = p.style;
    b.lines.push(p.pieces);
  }
  if (b.lines.length > MAX_LINES * 1.2) {
    b.lines = b.lines.slice(-MAX_LINES);
    b.dropped = true;
  }
}

type Phase = "loading" | "live" | "ended" | "none";

interface Props {
  run: string;
  task: string;
  attempt: number;
  live: boolean;
}

export function Logs({ run, task, attempt, live }: Props) {
  const url = `/api/v1/runs/${encodeURIComponent(run)}/tasks/${encodeURIComponent(task)}/logs?attempt=${attempt}`;
  const buffer = useRef<Buffer>(empty());
  const [, draw] = useState(0);
  const [phase, setPhase] = useState<Phase>("loading");
  const [error, setError] = useState<string | null>(null);
  const [follow, setFollow] = useState(true);
  const [find, setFind] = useState("");
  const [copied, setCopied] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  // An attempt that ends while it is followed is not read again: its stream brings the end.
  const startedLive = useRef(live);

  useEffect(() => {
    let frame = 0;
    let timer = 0;
    const redraw = (): void => {
      if (!frame)
        frame = requestAnimationFrame(() => {
          frame = 0;
          draw((n) => n + 1);
        });
    };
    const abort = new AbortController();
    let source: EventSource | null = null;

    const whole = async (): Promise<void> => {
      try {
        const res = await request(url, { headers: { Range: `bytes=-${TAIL_BYTES}`, Accept: "text/plain" }, signal: abort.signal });
        const text = await res.text();
        buffer.current = empty();
        const cut = res.status === 206 && !/^bytes 0-/.test(res.headers.get("Content-Range") ?? "bytes 0-");
        append(buffer.current, cut ? text.slice(text.indexOf("\n") + 1) : text);
        if (cut) buffer.current.dropped = true;
        if (buffer.current.rest) append(buffer.current, "\n");
        setPhase(buffer.current.lines.length ? "ended" : "none");
      } catch (e) {
        if (abort.signal.aborted) return;
        setPhase("none");
        if (!(e instanceof ApiError && (e.status === 404 || e.status === 416))) setError(message(e));
      }
      redraw();
    };

    const stream = (): void => {
      let again = 500;
      const open = (): void => {
        const es = new EventSource(`${url}&follow=true`);
        source = es;
        es.onopen = () => {
          buffer.current = empty(); // a stream begins at the log's beginning
          setPhase("live");
          again = 500;
        };
        es.addEventListener("log", (m: MessageEvent<string>) => {
          append(buffer.current, (JSON.parse(m.data) as { text: string }).text);
          redraw();
        });
        es.addEventListener("end", () => {
          es.close();
          if (buffer.current.rest) append(buffer.current, "\n");
          setPhase(buffer.current.lines.length ? "ended" : "none");
          redraw();
        });
        es.onerror = () => {
          if (es.readyState !== EventSource.CLOSED) return;
          timer = window.setTimeout(open, again);
          again = Math.min(again * 2, 10_000);
        };
      };
      open();
    };

    if (startedLive.current) stream();
    else void whole();
    return () => {
      abort.abort();
      source?.close();
      cancelAnimationFrame(frame);
      clearTimeout(timer);
    };
  }, [url]);

  useLayoutEffect(() => {
    const el = box.current;
    if (el && follow) el.scrollTop = el.scrollHeight;
  });

  const onScroll = (): void => {
    const el = box.current;
    if (el) setFollow(el.scrollHeight - el.scrollTop - el.clientHeight < 24);
  };

  const { lines, dropped, rest, style } = buffer.current;
  const shown = rest ? [...lines, pieces(rest, style).pieces] : lines;
  const needle = find.toLowerCase();
  const hits = needle ? shown.filter((l) => plain(l).toLowerCase().includes(needle)) : shown;

  const copy = async (): Promise<void> => {
    await copyText(hits.map(plain).join("\n") + "\n");
    setCopied(true);
    window.setTimeout(() => setCopied(false), 1500);
  };

  return (
    <section class="logs" aria-label={`Log of ${task}, attempt ${attempt}`}>
      <header>
        <h3>
          Log
          {phase === "live" && <span class="live-mark">live</span>}
        </h3>
        <input
          type="search"
          placeholder="Find"
          aria-label="Find in the log"
          value={find}
          onInput={(e) => setFind(e.currentTarget.value)}
          onKeyDown={(e) => e.key === "Escape" && setFind("")}
        />
        <span class="dim num log-count" aria-live="polite">
          {needle ? `${count(hits.length)} of ${count(shown.length)}` : phase === "loading" ? "" : `${count(shown.length)} ${shown.length === 1 ? "line" : "lines"}`}
        </span>
        <button type="button" class="ghost small" aria-pressed={follow} onClick={() => setFollow(!follow)}>
          Follow
        </button>
        <button type="button" class="ghost small" onClick={() => void copy()} disabled={hits.length === 0}>
          {copied ? "Copied" : "Copy"}
        </button>
        <a class="button ghost small" href={url} target="_blank" rel="noreferrer">
          Raw
        </a>
      </header>
      <div class="log-box" ref={box} onScroll={onScroll} tabIndex={0} role="log" aria-live="off">
        {dropped && (
          <p class="log-note">
            Only the end is shown.{" "}
            <a href={url} target="_blank" rel="noreferrer">
              Open the whole log
            </a>
          </p>
        )}
        {error && <p class="log-note bad-text">{error}</p>}
        {phase === "none" && !error && <p class="log-note">This attempt wrote nothing to its log.</p>}
        {phase === "live" && shown.length === 0 && <p class="log-note">Nothing yet.</p>}
        {needle && hits.length === 0 && shown.length > 0 && <p class="log-note">No line contains “{find}”.</p>}
        {hits.map((l, i) => (
          <div class="log-line" key={i}>
            {l.map((p, k) => (
              <span key={k} class={styleClass(p.style)}>
                {needle ? <Marked text={p.text} needle={needle} /> : p.text}
              </span>
            ))}
          </div>
        ))}
      </div>
    </section>
  );
}

function plain(line: Piece[]): string {
  return line.map((p) => p.text).join("");
}

function styleClass(s: Style): string {
  return `${s.fg === null ? "" : `c${s.fg}`}${s.bold ? " b" : ""}${s.dim ? " d" : ""}`.trim();
}

function Marked({ text, needle }: { text: string; needle: string }) {
  const out = [];
  const low = text.toLowerCase();
  let at = 0;
  for (let hit = low.indexOf(needle); hit >= 0; hit = low.indexOf(needle, at)) {
    out.push(text.slice(at, hit), <mark key={hit}>{text.slice(hit, hit + needle.length)}</mark>);
    at = hit + needle.length;
  }
  out.push(text.slice(at));
  return <>{out}</>;
}

/** The clipboard API exists on https and localhost only. */
async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
