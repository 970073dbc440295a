// Which box is open, kept in the address: a link to `#box=postgres-a` opens it, Back closes it again.
import { signal } from "@preact/signals";

export const opened = signal<string | null>(inAddress());
/** A link that was followed does not take the keyboard's place; a box that a person opened does. */
export let isByHand = false;

export function inAddress(): string | null {
  return new URLSearchParams(location.hash.slice(1)).get("box");
}

export function open(name: string): void {
  isByHand = true;
  const address = `#box=${encodeURIComponent(name)}`;
  if (opened.value === null) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  opened.value = name;
}

export function close(): void {
  history.replaceState(null, "", location.pathname + location.search);
  opened.value = null;
}

addEventListener("popstate", () => (opened.value = inAddress()));
