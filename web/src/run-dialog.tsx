// The form that starts a run: one field a param, by its type. What the daemon refuses is shown as it says it.
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { ApiError, message, post, randomKey } from "./api";
import { text } from "./format";
import { go, runHref } from "./router";
import type { Flow, Json, Param, Problem, Run } from "./types";

interface Props {
  flow: Pick<Flow, "params"> & { id: string };
  /** The params of an earlier run, to run again with. */
  initial?: Record<string, Json> | null;
  engine?: Json;
  onClose: () => void;
}

type Values = Record<string, string>;

/** A secret param comes back from the API as a mask; it must be typed again. */
const MASK = /^\*+$/;

function startValue(p: Param, given: Json | undefined): string {
  if (given !== undefined && !(p.secret && MASK.test(text(given)))) return text(given);
  return p.default === undefined || p.default === null ? "" : text(p.default);
}

/** Only what differs from nothing is sent: the daemon fills in defaults and converts texts to the param's type. */
function body(params: [string, Param][], values: Values): Record<string, Json> {
  const out: Record<string, Json> = {};
  for (const [name, p] of params) {
    const v = values[name] ?? "";
    if (v === "" && p.type !== "string") continue;
    if (v === "" && (p.default === undefined || p.default === null)) continue;
    if (p.type === "enum" || p.enum) out[name] = (p.enum ?? []).find((e) => text(e) === v) ?? v;
    else if (p.type === "bool") out[name] = v === "true";
    else out[name] = v;
  }
  return out;
}

export function RunDialog({ flow, initial, engine, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const params = Object.entries(flow.params ?? {});
  const [values, setValues] = useState<Values>(() => Object.fromEntries(params.map(([n, p]) => [n, startValue(p, initial?.[n])])));
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<{ message: string; errors: Problem[] } | null>(null);
  const key = useRef(randomKey());
  const title = useId();

  useEffect(() => {
    const el = dialog.current;
    if (el && !el.open) el.showModal();
  }, []);

  const submit = async (e: Event): Promise<void> => {
    e.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const sent: { [k: string]: Json } = { params: body(params, values) };
      if (engine !== undefined && engine !== null) sent["engine"] = engine;
      const run = await post<Run>(`/api/v1/flows/${encodeURIComponent(flow.id)}/runs`, sent, { "Idempotency-Key": key.current });
      onClose();
      go(runHref(run.id));
    } catch (e2) {
      // With no answer the run may exist: the same key finds it. A refusal made none.
      if (e2 instanceof ApiError && e2.status > 0) key.current = randomKey();
      setError({ message: message(e2), errors: e2 instanceof ApiError ? e2.errors : [] });
      setBusy(false);
    }
  };

  return (
    <dialog
      ref={dialog}
      class="dialog"
      aria-labelledby={title}
      onClose={onClose}
      onClick={(e) => {
        if (e.target === dialog.current) dialog.current?.close();
      }}
    >
      <form onSubmit={(e) => void submit(e)}>
        <header>
          <h2 id={title}>
            {initial ? "Run again" : "Run"} <span class="mono">{flow.id}</span>
          </h2>
        </header>
        <div class="fields">
          {params.length === 0 && <p class="dim">This flow takes no params.</p>}
          {params.map(([name, p], i) => (
            <Field
              key={name}
              name={name}
              param={p}
              value={values[name] ?? ""}
              first={i === 0}
              onChange={(v) => setValues((old) => ({ ...old, [name]: v }))}
            />
          ))}
          {error && (
            <div class="banner bad" role="alert">
              {error.message}
              {error.errors.length > 0 && (
                <ul>
                  {error.errors.map((p, i) => (
                    <li key={i}>{p.message}</li>
                  ))}
                </ul>
              )}
            </div>
          )}
        </div>
        <footer>
          <button type="button" class="ghost" onClick={() => dialog.current?.close()}>
            Close
          </button>
          <button type="submit" class="primary" disabled={busy} autofocus={params.length === 0}>
            {busy ? "Starting…" : "Start run"}
          </button>
        </footer>
      </form>
    </dialog>
  );
}

interface FieldProps {
  name: string;
  param: Param;
  value: string;
  first: boolean;
  onChange: (value: string) => void;
}

const EXAMPLES: Record<string, string> = { duration: "30s, 1h30m", size: "128MB", datetime: "2026-11-21T06:00:00Z", date: "2026-11-21" };

function limits(p: Param): string {
  const min = p.min === undefined || p.min === null ? "" : text(p.min);
  const max = p.max === undefined || p.max === null ? "" : text(p.max);
  if (min && max) return `${min} to ${max}`;
  return min ? `at least ${min}` : max ? `at most ${max}` : "";
}

function Field({ name, param, value, first, onChange }: FieldProps) {
  const id = useId();
  const missing = param.required === true && (param.default === undefined || param.default === null);
  const hint = [param.description, limits(param), param.pattern && `pattern ${param.pattern}`].filter(Boolean).join(" · ");
  const common = {
    id,
    name,
    required: missing,
    autofocus: first,
    "aria-describedby": hint ? `${id}-hint` : undefined,
  };
  const onInput = (e: { currentTarget: { value: string } }): void => onChange(e.currentTarget.value);

  const control = () => {
    if (param.enum && param.enum.length > 0)
      return (
        <select {...common} value={value} onChange={onInput}>
          {(value === "" || !param.enum.some((v) => text(v) === value)) && <option value="">choose…</option>}
          {param.enum.map((v) => (
            <option key={text(v)} value={text(v)}>
              {text(v)}
            </option>
          ))}
        </select>
      );
    switch (param.type) {
      case "bool":
        return (
          <select {...common} value={value} onChange={onInput}>
            {value === "" && <option value="">choose…</option>}
            <option value="true">true</option>
            <option value="false">false</option>
          </select>
        );
      case "int":
        return <input {...common} type="text" inputMode="numeric" pattern="(\+|-)?[0-9]+" title="a whole number" value={value} onInput={onInput} />;
      case "float":
        return <input {...common} type="text" inputMode="decimal" value={value} onInput={onInput} />;
      case "date":
        return <input {...common} type="date" value={value} onInput={onInput} />;
      case "list":
      case "object":
        return (
          <textarea {...common} rows={3} class="mono" placeholder={param.type === "list" ? '["a", "b"]' : '{"key": "value"}'} value={value} onInput={onInput} />
        );
      default:
        if (param.secret) return <input {...common} type="password" autocomplete="off" value={value} onInput={onInput} />;
        return (
          <input
            {...common}
            type="text"
            autocomplete="off"
            spellcheck={false}
            placeholder={EXAMPLES[param.type] ?? ""}
            value={value}
            onInput={onInput}
          />
        );
    }
  };

  return (
    <div class="field">
      <label for={id}>
        <span class="mono">{name}</span>
        <small>
          {param.type}
          {missing && <b class="required"> required</b>}
        </small>
      </label>
      {control()}
      {hint && (
        <p id={`${id}-hint`} class="hint">
          {hint}
        </p>
      )}
    </div>
  );
}
