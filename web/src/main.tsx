import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { loggedOut } from "./api";
import { FlowPage } from "./flow";
import { Home } from "./home";
import { link, startLive } from "./live";
import { Login } from "./login";
import { A, place } from "./router";
import { RunPage } from "./run";
import { Runs } from "./runs";
import { TablePage } from "./table";
import { Tables } from "./tables";
import "./style.css";

type Theme = "system" | "light" | "dark";
const THEME_KEY = "sluice.theme";
const theme = signal<Theme>((document.documentElement.dataset["theme"] as Theme | undefined) ?? "system");

function nextTheme(): void {
  const order: Theme[] = ["system", "light", "dark"];
  const t = order[(order.indexOf(theme.value) + 1) % order.length] ?? "system";
  theme.value = t;
  if (t === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = t;
  try {
    if (t === "system") localStorage.removeItem(THEME_KEY);
    else localStorage.setItem(THEME_KEY, t);
  } catch {
    // storage may be forbidden: it holds for this tab then
  }
}

function ThemeButton() {
  const t = theme.value;
  return (
    <button type="button" class="icon-button" onClick={nextTheme} title={`Theme: ${t}`} aria-label={`Theme: ${t}. Change`}>
      <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" focusable="false">
        {t === "dark" ? (
          <path d="M13 9.6A5.5 5.5 0 0 1 6.4 3a5.5 5.5 0 1 0 6.6 6.6z" />
        ) : t === "light" ? (
          <>
            <circle cx="8" cy="8" r="2.8" />
            <path d="M8 1.6v1.6M8 12.8v1.6M1.6 8h1.6M12.8 8h1.6M3.5 3.5l1.1 1.1M11.4 11.4l1.1 1.1M12.5 3.5l-1.1 1.1M4.6 11.4l-1.1 1.1" />
          </>
        ) : (
          <>
            <circle cx="8" cy="8" r="5.6" />
            <path class="half" d="M8 2.4a5.6 5.6 0 0 1 0 11.2z" />
          </>
        )}
      </svg>
    </button>
  );
}

const linkWords = { connecting: "connecting", live: "live", down: "reconnecting" } as const;

function Bar() {
  const [first] = place.value.path;
  const at = (name: string): "page" | undefined => ((first ?? "flows") === name ? "page" : undefined);
  return (
    <header class="bar-top">
      <A href="/" class="brand" aria-label="Sluice, home">
        <svg viewBox="0 0 32 32" width="24" height="24" aria-hidden="true" focusable="false">
          <rect width="32" height="32" rx="8" class="brand-ground" />
          <path d="M9 7v9M16 7v5M23 7v9" class="brand-gate" />
          <path d="M6 21c3.3-2.6 6.7-2.6 10 0s6.7 2.6 10 0" class="brand-water" />
        </svg>
        <span>Sluice</span>
      </A>
      <nav aria-label="Main">
        <A href="/" aria-current={at("flows")}>
          Flows
        </A>
        <A href="/runs" aria-current={at("runs")}>
          Runs
        </A>
        <A href="/tables" aria-current={at("tables")}>
          Tables
        </A>
      </nav>
      <span class={`link ${link.value}`} role="status" title="The connection to the daemon">
        <i aria-hidden="true" />
        <span>{loggedOut.value ? "signed out" : linkWords[link.value]}</span>
      </span>
      <ThemeButton />
    </header>
  );
}

function Page() {
  const [first, second] = place.value.path;
  useEffect(() => {
    if (!second) document.title = first === "runs" ? "Runs · Sluice" : first === "tables" ? "Tables · Sluice" : "Sluice";
  }, [first, second]);
  if (loggedOut.value) return <Login />;
  if (first === undefined) return <Home />;
  if (first === "runs") return second ? <RunPage key={second} id={second} /> : <Runs />;
  if (first === "flows") return second ? <FlowPage key={second} id={second} /> : <Home />;
  if (first === "tables") return second ? <TablePage key={second} name={second} /> : <Tables />;
  return (
    <div class="empty">
      <p>There is no such page.</p>
      <A href="/">To the flows</A>
    </div>
  );
}

function App() {
  return (
    <>
      <a class="skip" href="#main">
        To the content
      </a>
      <Bar />
      <main id="main" tabIndex={-1}>
        <Page />
      </main>
    </>
  );
}

startLive();
const root = document.getElementById("app");
if (root) render(<App />, root);
