// States: a glyph, a word and a colour each, so that colour alone never carries the meaning.
import { effect, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import type { State as ApiState } from "./types";

/** And a check that only warns. */
export type State = ApiState | "warning";

const words: Partial<Record<State, string>> = {
  retry_wait: "waits to retry",
  timed_out: "timed out",
  upstream_failed: "upstream failed",
  ready: "ready",
  none: "no runs yet",
};

export function word(state: State): string {
  return words[state] ?? state;
}

const terminal = new Set<State>(["success", "failed", "cancelled", "timed_out", "lost", "skipped", "upstream_failed"]);
const failing = new Set<State>(["failed", "timed_out", "lost"]);

export function ended(state: State): boolean {
  return terminal.has(state);
}

export function failed(state: State): boolean {
  return failing.has(state);
}

function strokes(state: State): ComponentChildren {
  switch (state) {
    case "success":
      return <path d="M4.8 8.3l2.2 2.2 4.2-4.7" />;
    case "failed":
      return <path d="M5.7 5.7l4.6 4.6M10.3 5.7l-4.6 4.6" />;
    case "timed_out":
      return <path d="M8 4.6V8l2.3 1.6" />;
    case "lost":
      return <path d="M6.2 6.4a1.9 1.9 0 1 1 2.6 1.9c-.6.2-.8.5-.8 1M8 11.4v.1" />;
    case "cancelled":
      return <path d="M5.6 8h4.8" />;
    case "upstream_failed":
      return <path d="M8 11V5.2M5.6 7.4L8 5l2.4 2.4" />;
    case "skipped":
      return <path d="M4.8 5.8L7 8l-2.2 2.2M8.6 5.8L10.8 8l-2.2 2.2" />;
    case "retry_wait":
      return <path d="M10.6 6.4A3.1 3.1 0 1 0 11.1 8M10.9 4.6v2h-2" />;
    case "warning":
      return <path d="M8 4.8v3.7M8 11v.01" />;
    case "queued":
    case "ready":
      return <path d="M5.4 8v.01M8 8v.01M10.6 8v.01" />;
    case "paused":
      return <path d="M6.6 5.8v4.4M9.4 5.8v4.4" />;
    default:
      return null;
  }
}

const solid = new Set<State>(["success", "failed", "timed_out", "lost", "upstream_failed", "warning"]);

export function Glyph({ state, size = 16 }: { state: State; size?: number }) {
  const turning = state === "running" || state === "publishing" || state === "stopping";
  return (
    <svg class={`glyph s-${state}`} viewBox="0 0 16 16" width={size} height={size} aria-hidden="true" focusable="false">
      {turning ? (
        <>
          <circle class="track" cx="8" cy="8" r="6" />
          <path class="spin" d="M8 2a6 6 0 0 1 6 6" />
          <circle class="core" cx="8" cy="8" r="2.2" />
        </>
      ) : (
        <>
          <circle class={solid.has(state) ? "disc" : "ring"} cx="8" cy="8" r={solid.has(state) ? 7 : 6.2} />
          <g class={solid.has(state) ? "on-disc" : "on-ring"}>{strokes(state)}</g>
        </>
      )}
    </svg>
  );
}

export function Pill({ state, large }: { state: State; large?: boolean }) {
  return (
    <span class={`pill s-${state}${large ? " large" : ""}`}>
      <Glyph state={state} size={large ? 18 : 14} />
      {word(state)}
    </span>
  );
}

/** Beats once a second, and only while somebody shows a running duration. */
const tick = signal(0);
const watchers = signal(0);
/** "3 min ago" needs no second hand. */
const slow = signal(0);

effect(() => {
  if (watchers.value === 0) return undefined;
  const timer = window.setInterval(() => tick.value++, 1000);
  return () => clearInterval(timer);
});
window.setInterval(() => slow.value++, 20_000);

/** The present time; by the second while `counting`. */
export function useNow(counting: boolean): number {
  useEffect(() => {
    if (!counting) return undefined;
    watchers.value++;
    return () => void watchers.value--;
  }, [counting]);
  // The signals only say when to look again: what arrived a moment ago must not lie in the future.
  void (counting ? tick.value : slow.value);
  return Date.now();
}
