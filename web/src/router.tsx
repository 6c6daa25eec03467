// Addresses of the page: /, /runs?flow=&state=, /runs/ID?task=, /flows/ID, /tables?order=, /tables/NAME.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";

export interface Place {
  path: string[];
  query: URLSearchParams;
}

function read(): Place {
  return {
    path: location.pathname.split("/").filter(Boolean).map(decodeURIComponent),
    query: new URLSearchParams(location.search),
  };
}

export const place = signal<Place>(read());

window.addEventListener("popstate", () => (place.value = read()));

export function go(href: string, replace = false): void {
  if (href === location.pathname + location.search) return;
  const samePage = href.split("?")[0] === location.pathname;
  if (replace) history.replaceState(null, "", href);
  else history.pushState(null, "", href);
  place.value = read();
  if (!samePage) {
    window.scrollTo(0, 0);
    // A screen reader hears where it is; a keyboard goes on from the top of what is new.
    requestAnimationFrame(() => document.getElementById("main")?.focus({ preventScroll: true }));
  }
}

interface LinkProps {
  href: string;
  class?: string;
  title?: string;
  tabIndex?: number;
  children?: ComponentChildren;
  "aria-label"?: string;
  "aria-current"?: "page" | undefined;
}

/** An ordinary link that a plain click follows without loading the page again. */
export function A({ href, children, ...rest }: LinkProps) {
  const onClick = (e: MouseEvent): void => {
    if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
    e.preventDefault();
    go(href);
  };
  return (
    <a {...rest} href={href} onClick={onClick}>
      {children}
    </a>
  );
}

export function runHref(id: string, task?: string | null): string {
  return `/runs/${encodeURIComponent(id)}${task ? `?task=${encodeURIComponent(task)}` : ""}`;
}

export function flowHref(id: string): string {
  return `/flows/${encodeURIComponent(id)}`;
}

export function tableHref(name: string): string {
  return `/tables/${encodeURIComponent(name)}`;
}
