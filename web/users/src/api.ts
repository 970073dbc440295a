// Talking to the service. The session is a cookie that scripts cannot read; requests that may change something
// carry the session's CSRF value.
import { signal } from "@preact/signals";
import type { Session, User } from "./types";

export type Link = { kind: "loading" } | { kind: "out"; why: string } | { kind: "down" } | { kind: "in"; user: User; csrf: string };

export const link = signal<Link>({ kind: "loading" });
export const notice = signal<{ text: string; isBad: boolean } | null>(null);

export interface FieldError {
  pointer: string;
  code: string;
  detail: string;
}

export class Refusal extends Error {
  constructor(
    readonly status: number,
    text: string,
    readonly errors: FieldError[],
  ) {
    super(text);
  }
}

/** Longer than the router's hold of a failover. */
const TIMEOUT_MS = 40_000;

export interface Answer<T> {
  body: T;
  etag: string | null;
}

export async function ask<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer<T>> {
  const csrf = link.value.kind === "in" ? link.value.csrf : null;
  const isText = typeof body === "string";
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: {
        ...(body === undefined || isText ? {} : { "content-type": "application/json" }),
        ...(csrf === null || method === "GET" ? {} : { "x-csrf-token": csrf }),
        ...headers,
      },
      signal: AbortSignal.timeout(TIMEOUT_MS),
      ...(body === undefined ? {} : { body: isText ? body : JSON.stringify(body) }),
    });
  } catch {
    throw new Refusal(0, "The service cannot be reached. Is the network there?", []);
  }
  const text = await response.text();
  let content: unknown = null;
  try {
    content = text === "" ? null : JSON.parse(text);
  } catch {
    content = { detail: `An answer that cannot be read (${response.status}).` };
  }
  if (response.ok) return { body: content as T, etag: response.headers.get("etag") };
  const problem = (content ?? {}) as { title?: string; detail?: string; errors?: FieldError[] };
  if (response.status === 401 && link.value.kind === "in") link.value = { kind: "out", why: "Your session has ended. Sign in again." };
  throw new Refusal(response.status, sentence(problem.detail ?? problem.title ?? `Answer ${response.status}`), problem.errors ?? []);
}

function sentence(text: string): string {
  const upper = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}

export const get = async <T>(path: string): Promise<T> => (await ask<T>("GET", path)).body;

function take(session: Session): void {
  link.value = session.user === null || session.csrfToken === null ? { kind: "out", why: "" } : { kind: "in", user: session.user, csrf: session.csrfToken };
}

export async function openSite(): Promise<void> {
  try {
    take(await get<Session>("/api/auth/session"));
  } catch {
    link.value = { kind: "down" };
    setTimeout(() => void openSite(), 2000);
  }
}

export async function signIn(username: string, password: string): Promise<void> {
  take((await ask<Session>("POST", "/api/auth/session", { username, password })).body);
}

export async function signOut(): Promise<void> {
  try {
    await ask("POST", "/api/auth/logout");
  } catch (error) {
    // The cookie is still there, so saying "signed out" would be wrong.
    say(`You are still signed in. ${text(error)}`, true);
    return;
  }
  link.value = { kind: "out", why: "You are signed out." };
}

let timer: ReturnType<typeof setTimeout> | undefined;

export function say(words: string, isBad = false): void {
  notice.value = { text: words, isBad };
  clearTimeout(timer);
  timer = setTimeout(() => (notice.value = null), isBad ? 10_000 : 5_000);
}

export function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
