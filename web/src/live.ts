// One event stream a tab. What is shown is fetched again when an event concerns it; nothing polls.
import { effect, signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { get, loggedOut } from "./api";
import type { SluiceEvent } from "./types";

export type Link = "connecting" | "live" | "down";
export const link = signal<Link>("connecting");

type Listener = (ev: SluiceEvent) => void;
const listeners = new Set<Listener>();
/** Called when events may have been missed: fetch everything. */
const refreshers = new Set<() => void>();

const HIDDEN_CLOSE_MS = 30_000;
let source: EventSource | null = null;
let lastId: string | null = null;
let retryMs = 500;
let retryTimer = 0;
let hiddenTimer = 0;

function on(set: Set<Listener>, fn: Listener): () => void {
  set.add(fn);
  return () => set.delete(fn);
}

export function onEvent(fn: Listener): () => void {
  return on(listeners, fn);
}

function connect(): void {
  clearTimeout(retryTimer);
  source?.close();
  const es = new EventSource(`/api/v1/events${lastId === null ? "" : `?after=${encodeURIComponent(lastId)}`}`);
  let opened = false;
  source = es;
  es.onopen = () => {
    link.value = "live";
    retryMs = 500;
    // The first fetches run beside the first connection: what fell between them would be missed.
    opened = true;
    for (const refresh of refreshers) refresh();
  };
  es.addEventListener("event", (m: MessageEvent<string>) => {
    if (m.lastEventId) lastId = m.lastEventId;
    const ev = JSON.parse(m.data) as SluiceEvent;
    for (const fn of listeners) fn(ev);
  });
  es.onerror = () => {
    if (source !== es) return;
    link.value = opened ? "down" : link.value === "connecting" ? "connecting" : "down";
    // The browser reconnects by itself after a lost connection, but gives up after an answer such as 503.
    if (es.readyState === EventSource.CLOSED) {
      link.value = "down";
      retryTimer = window.setTimeout(connect, retryMs);
      retryMs = Math.min(retryMs * 2, 10_000);
    }
  };
}

function disconnect(): void {
  clearTimeout(retryTimer);
  source?.close();
  source = null;
}

/** A tab that nobody looks at gives its connection back: browsers allow six to one address. */
export function startLive(): void {
  effect(() => {
    if (loggedOut.value) disconnect();
    else connect();
  });
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) hiddenTimer = window.setTimeout(disconnect, HIDDEN_CLOSE_MS);
    else if (source === null && !loggedOut.value) connect();
    else for (const refresh of refreshers) refresh();
  });
  // A page that the browser brings back from its memory has a dead connection.
  window.addEventListener("pageshow", (e) => {
    if (e.persisted && !loggedOut.value) connect();
  });
}

export interface Resource<T> {
  data: T | null;
  error: Error | null;
  refresh: () => void;
  set: (change: (old: T) => T) => void;
}

const GAP_MS = 120;

/**
 * GETs `path` (null: nothing), and again when `concerns` says so of an event. A burst of events costs one request at a time,
 * and old data stays until new data is there, so that nothing flickers.
 */
export function useResource<T>(path: string | null, concerns: (ev: SluiceEvent) => boolean): Resource<T> {
  const [state, setState] = useState<{ path: string | null; data: T | null; error: Error | null }>({ path, data: null, error: null });
  const concernsRef = useRef(concerns);
  concernsRef.current = concerns;
  const refreshRef = useRef<() => void>(() => undefined);

  useEffect(() => {
    if (path === null) return;
    const abort = new AbortController();
    let busy = false;
    let again = false;
    let timer = 0;

    const load = async (): Promise<void> => {
      if (busy) {
        again = true;
        return;
      }
      busy = true;
      again = false;
      try {
        const data = await get<T>(path, abort.signal);
        setState({ path, data, error: null });
      } catch (e) {
        if (abort.signal.aborted) return;
        setState((old) => ({ path, data: old.path === path ? old.data : null, error: e as Error }));
      }
      busy = false;
      if (again && !abort.signal.aborted) timer = window.setTimeout(() => void load(), GAP_MS);
    };
    const refresh = (): void => void load();

    refreshRef.current = refresh;
    refreshers.add(refresh);
    const off = onEvent((ev) => {
      if (concernsRef.current(ev)) refresh();
    });
    const offLogin = loggedOut.subscribe((out) => {
      if (!out) refresh();
    });
    return () => {
      abort.abort();
      clearTimeout(timer);
      refreshers.delete(refresh);
      off();
      offLogin();
    };
  }, [path]);

  const fresh = state.path === path;
  return {
    data: fresh ? state.data : null,
    error: fresh ? state.error : null,
    refresh: () => refreshRef.current(),
    set: (change) => setState((old) => (old.data === null ? old : { ...old, data: change(old.data) })),
  };
}

/** Calls `refresh` after events that concern it, at most once in `gap` milliseconds: for what costs the daemon more. */
export function useSlowly(concerns: (ev: SluiceEvent) => boolean, refresh: () => void, gap: number): void {
  const latest = useRef({ concerns, refresh });
  latest.current = { concerns, refresh };
  useEffect(() => {
    let last = 0;
    let timer = 0;
    const off = onEvent((ev) => {
      if (timer || !latest.current.concerns(ev)) return;
      timer = window.setTimeout(
        () => {
          timer = 0;
          last = Date.now();
          latest.current.refresh();
        },
        Math.max(0, last + gap - Date.now()),
      );
    });
    return () => {
      off();
      clearTimeout(timer);
    };
  }, [gap]);
}
