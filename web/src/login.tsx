import { useState } from "preact/hooks";
import { login, message } from "./api";

/** Shown when the daemon answers 401. The token becomes a cookie that scripts cannot read; the page keeps no copy. */
export function Login() {
  const [token, setToken] = useState("");
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);

  const submit = async (e: Event): Promise<void> => {
    e.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await login(token.trim());
    } catch (e2) {
      setError(message(e2));
    }
    setBusy(false);
  };

  return (
    <form class="login panel" onSubmit={(e) => void submit(e)}>
      <h1>This daemon asks for a token</h1>
      <p class="dim">
        It is in the file <code>token</code> of the daemon's state folder, by default{" "}
        <code>~/.local/state/sluice/token</code>. <code>sluice token create --scope viewer</code> makes another one.
      </p>
      <label for="token" class="sr">
        Token
      </label>
      <input
        id="token"
        type="password"
        class="mono"
        placeholder="Paste the token"
        autocomplete="current-password"
        autofocus
        required
        value={token}
        onInput={(e) => setToken(e.currentTarget.value)}
      />
      {error && (
        <p class="banner bad" role="alert">
          {error}
        </p>
      )}
      <button type="submit" class="primary" disabled={busy}>
        {busy ? "Asking…" : "Continue"}
      </button>
    </form>
  );
}
