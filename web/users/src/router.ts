// Addresses: the site is one page, the server answers unknown paths with it.
import { signal } from "@preact/signals";

export const place = signal({ path: location.pathname, search: location.search });

function read(): void {
  place.value = { path: location.pathname, search: location.search };
}

/** Goes to another page. The heading gets the focus, so that a screen reader says where it is. */
export function go(to: string): void {
  history.pushState(null, "", to);
  read();
  window.scrollTo(0, 0);
  requestAnimationFrame(() => document.querySelector<HTMLElement>("h1")?.focus());
}

/** Changes the address of the page one is on. */
export function amend(to: string): void {
  history.replaceState(null, "", to);
  read();
}

export function start(): void {
  addEventListener("popstate", read);
  addEventListener("click", (event) => {
    const link = (event.target as Element | null)?.closest?.("a");
    if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const isOurs = link.origin === location.origin && !link.hasAttribute("download") && link.target === "" && !link.pathname.startsWith("/api") && link.pathname !== "/docs" && link.hash === "";
    if (!isOurs) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}
