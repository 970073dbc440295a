// What is said, and how: pure, so that it is tested.
import type { Role, User } from "./types";

export function fullName(user: Pick<User, "firstName" | "lastName" | "username">): string {
  return `${user.firstName} ${user.lastName}`.trim() || user.username;
}

export function initials(user: Pick<User, "firstName" | "lastName" | "username">): string {
  const first = [...user.firstName][0] ?? [...user.username][0] ?? "?";
  return (first + ([...user.lastName][0] ?? "")).toUpperCase();
}

const RANK: Record<Role, number> = { viewer: 0, editor: 1, admin: 2 };

export function isAtLeast(role: Role, needed: Role): boolean {
  return RANK[role] >= RANK[needed];
}

/** The same rule as the server's: editors change viewers only. The server decides; this only hides buttons. */
export function mayEdit(me: User, user: User): boolean {
  return me.role === "admin" || (me.role === "editor" && user.role === "viewer");
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

/** "3 minutes ago", "in 2 hours"; under a minute "just now" or "in a moment". */
export function relative(at: string, now: number): string {
  const seconds = Math.round((Date.parse(at) - now) / 1000);
  for (const [unit, size] of UNITS) {
    if (Math.abs(seconds) >= size) {
      return new Intl.RelativeTimeFormat("en", { numeric: "always" }).format(Math.trunc(seconds / size), unit);
    }
  }
  return seconds > 0 ? "in a moment" : "just now";
}

export function day(at: string): string {
  return new Date(at).toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });
}

export function moment(at: string): string {
  return new Date(at).toLocaleString("en", { dateStyle: "medium", timeStyle: "medium" });
}

/** "user.created" is "User created". */
export function action(name: string): string {
  const text = name.replace(/[.-]/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Details of an entry as short text: "changed: email, role; version: 3". */
export function details(value: unknown): string {
  if (value === null || typeof value !== "object") return value == null ? "" : String(value);
  return Object.entries(value)
    .map(([key, inner]) => `${key}: ${Array.isArray(inner) ? inner.join(", ") : String(inner)}`)
    .join("; ");
}

/** Browser and system from a user agent, good enough to recognise one's own. */
export function agent(text: string): string {
  const browser = /Edg\//.test(text) ? "Edge" : /Firefox\//.test(text) ? "Firefox" : /Chrom(e|ium)\//.test(text) ? "Chrome" : /Safari\//.test(text) ? "Safari" : "";
  const system = /Android/.test(text) ? "Android" : /iPhone|iPad/.test(text) ? "iOS" : /Windows/.test(text) ? "Windows" : /Mac OS X/.test(text) ? "macOS" : /Linux/.test(text) ? "Linux" : "";
  const known = [browser, system].filter((word) => word !== "").join(" on ");
  return known || text.slice(0, 40) || "unknown program";
}

export function number(value: number): string {
  return value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 10 ? 4 : 1 });
}
