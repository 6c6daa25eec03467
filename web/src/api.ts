// Requests to the daemon. A 401 anywhere shows the login form.
import { signal } from "@preact/signals";
import type { Json, Problem } from "./types";

export const loggedOut = signal(false);

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly errors: Problem[] = [],
  ) {
    super(message);
  }
}

async function failure(res: Response): Promise<ApiError> {
  if (res.status === 401) loggedOut.value = true;
  try {
    const body = (await res.json()) as { title?: string; detail?: string; errors?: Problem[] };
    return new ApiError(res.status, body.detail || body.title || `HTTP ${res.status}`, Array.isArray(body.errors) ? body.errors : []);
  } catch {
    return new ApiError(res.status, `The daemon answered HTTP ${res.status} ${res.statusText}`.trim());
  }
}

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  let res: Response;
  try {
    res = await fetch(path, { credentials: "same-origin", cache: "no-store", ...init });
  } catch (e) {
    if (init.signal?.aborted) throw e;
    throw new ApiError(0, "The daemon does not answer. It may be stopped or restarting.");
  }
  if (!res.ok) throw await failure(res);
  return res;
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await request(path, signal ? { signal } : {})).json() as Promise<T>;
}

export async function post<T>(path: string, body: Json = {}, headers: Record<string, string> = {}): Promise<T> {
  const res = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  return res.json() as Promise<T>;
}

/** Gives the token to the daemon, which answers with a cookie that scripts cannot read. */
export async function login(token: string): Promise<void> {
  const res = await fetch(`/?token=${encodeURIComponent(token)}`, { credentials: "same-origin", cache: "no-store" });
  if (!res.ok) throw new ApiError(res.status, "This token is not known to the daemon.");
  await get("/api/v1/status");
  loggedOut.value = false;
}

export function message(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}

/** randomUUID only exists on https and localhost. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
