// Light, dark or as the system says; remembered in this browser.
import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const KEY = "mainstay-theme";

export const theme = signal<Theme>(remembered());

function remembered(): Theme {
  try {
    const known = localStorage.getItem(KEY);
    return known === "light" || known === "dark" ? known : "system";
  } catch {
    // Storage may be forbidden: then the switch lasts as long as the page.
    return "system";
  }
}

export function choose(next: Theme): void {
  theme.value = next;
  apply();
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // As above.
  }
}

export function apply(): void {
  document.documentElement.dataset["theme"] = theme.value;
}
