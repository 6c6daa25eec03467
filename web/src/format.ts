// Values for people. Pure.
import type { Failure, Json } from "./types";

export function ms(time: string | null | undefined): number | null {
  if (!time) return null;
  const t = Date.parse(time);
  return Number.isNaN(t) ? null : t;
}

/** 850 ms, 1.24 s, 12.4 s, 3m 07s, 2h 05m, 3d 4h */
export function duration(millis: number): string {
  const v = Math.max(0, millis);
  if (v < 1) return v === 0 ? "0 ms" : "<1 ms";
  if (v < 999.5) return `${Math.round(v)} ms`;
  const s = v / 1000;
  if (s < 9.995) return `${s.toFixed(2)} s`;
  if (s < 59.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${pad(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d ${Math.floor((whole % 86400) / 3600)}h`;
}

function pad(n: number): string {
  return String(n).padStart(2, "0");
}

/** Whole seconds only: for what still counts. */
export function elapsed(millis: number): string {
  const s = Math.floor(Math.max(0, millis) / 1000);
  return s < 60 ? `${s} s` : duration(s * 1000);
}

export function between(from: string | null, to: string | null): number | null {
  const a = ms(from);
  const b = ms(to);
  return a === null || b === null ? null : b - a;
}

export function ago(time: string, now: number): string {
  const t = ms(time) ?? now;
  const s = Math.round((now - t) / 1000);
  if (s < 5) return "just now";
  return `${coarse(s)} ago`;
}

export function until(time: string, now: number): string {
  const s = Math.round(((ms(time) ?? now) - now) / 1000);
  return s <= 0 ? "now" : `in ${coarse(s)}`;
}

function coarse(s: number): string {
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  if (s < 86400) {
    const h = Math.floor(s / 3600);
    const m = Math.round((s % 3600) / 60);
    return m > 0 && h < 6 ? `${h} h ${m} min` : `${Math.round(s / 3600)} h`;
  }
  const d = Math.round(s / 86400);
  return d === 1 ? "1 day" : `${d} days`;
}

const dayTime = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const fullTime = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export function when(time: string | null | undefined): string {
  const t = ms(time);
  return t === null ? "–" : dayTime.format(t);
}

export function clock(time: string | null | undefined): string {
  const t = ms(time);
  return t === null ? "–" : clockTime.format(t);
}

export function full(time: string | null | undefined): string {
  const t = ms(time);
  return t === null ? "" : `${fullTime.format(t)}\n${time}`;
}

const whole = new Intl.NumberFormat("en");

export function count(n: number): string {
  return whole.format(n);
}

/** 1.2 M: where there is little room. */
export function short(n: number): string {
  if (n < 10_000) return count(n);
  const units = ["", " k", " M", " G", " T"];
  let u = 0;
  let v = n;
  while (v >= 999.5 && u < units.length - 1) {
    v /= 1000;
    u++;
  }
  return `${v < 9.95 ? v.toFixed(1) : Math.round(v)}${units[u]}`;
}

export function bytes(n: number): string {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let u = 0;
  let v = n;
  while (v >= 1023.5 && u < units.length - 1) {
    v /= 1024;
    u++;
  }
  return `${u === 0 || v >= 99.5 ? Math.round(v) : v < 9.95 ? v.toFixed(2) : v.toFixed(1)} ${units[u]}`;
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export function text(v: Json | undefined): string {
  return typeof v === "string" ? v : v === undefined ? "" : JSON.stringify(v);
}

export function failure(e: Failure | string | null | undefined): Failure | null {
  if (!e) return null;
  return typeof e === "string" ? { message: e } : e;
}

/** employees.yaml:31:7 */
export function where(f: { file?: string; line?: number; col?: number }): string {
  if (!f.file) return "";
  return f.file + (f.line ? `:${f.line}${f.col ? `:${f.col}` : ""}` : "");
}

const signals: Record<number, string> = {
  1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE",
  14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ",
};

export function signalName(n: number): string {
  return signals[n] ?? `signal ${n}`;
}
