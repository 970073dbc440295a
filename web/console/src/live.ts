// The connection: signs in with the link's token, reads status and events, follows the stream, and says
// honestly when it is cut off.
import { computed, signal } from "@preact/signals";
import { EVENTS_MOST, merge } from "./merge";
import type { Beat, DrillRecord, Event, Process, Status, Traffic } from "./types";

export type Link =
  | { kind: "loading" }
  | { kind: "live" }
  /** The connection stands, and no word comes over it; it is being asked. */
  | { kind: "silent" }
  /** The control plane answers and does not look at the stack any more. */
  | { kind: "unlooked" }
  /** The server is there and has nothing to show yet. */
  | { kind: "starting" }
  | { kind: "lost" }
  | { kind: "signed-out"; why: string };

export const link = signal<Link>({ kind: "loading" });
export const status = signal<Status | null>(null);
export const traffic = signal<Traffic | null>(null);
export const events = signal<Event[]>([]);
/** Browser clock, in microseconds, moved on every second. */
export const tick = signal(nowMicros());
/** Server clock minus browser clock, from the last status: durations do not depend on this machine's clock. */
const skew = signal(0);
/** When the server was heard last, by the browser's clock. */
export const heard = signal<number | null>(null);
/** When the control plane looked at the stack last, by its own clock. */
const lookedAt = signal<number | null>(null);
/** Of `mainstay ps`, while a panel wants them. */
export const processes = signal<Process[] | null>(null);

/** The control plane comes back within a second; asking twice a second is kind to both. */
const RETRY_MS = 500;
const RETRY_MOST_MS = 5000;
/** The server speaks every two seconds: after three of them the connection is dead and TCP has not noticed. */
const SILENCE_MS = 6_000;
/** The control plane looks twice a second. Far more than that is a loop that hangs, or a machine that does. */
const UNLOOKED_MS = 8_000;
const ASK_TIMEOUT_MS = 5000;
/** Windows are seconds long; figures older than this would be a guess. */
const TRAFFIC_STALE_MS = 15_000;

let source: EventSource | null = null;
let attempt = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

export function nowMicros(): number {
  return Date.now() * 1000;
}

/** The server's time now; while it is out of reach, the moment it was heard last: nothing is known past it. */
export function serverNow(): number {
  if (link.value.kind === "unlooked") return lookedAt.value ?? tick.value + skew.value;
  const isLive = link.value.kind === "live";
  return (isLive ? tick.value : Math.min(tick.value, heard.value ?? tick.value)) + skew.value;
}

/** Midday of the browser's today: changes once a day. */
export const today = computed(() => new Date(serverNow() / 1000).setHours(12, 0, 0, 0) * 1000);

/** Last event of the first list: what is later has happened before one's eyes. */
let firstLast: number | null = null;
export function knownAtFirst(): number {
  return firstLast ?? Infinity;
}

/** Age of the picture while it is not live, in microseconds; `null` when nothing was ever heard. */
export function age(): number | null {
  if (link.value.kind === "unlooked") return lookedAt.value === null ? null : tick.value + skew.value - lookedAt.value;
  return heard.value === null ? null : tick.value - heard.value;
}

/** Traffic, unless it is too old to say anything of now. */
export function currentTraffic(): Traffic | null {
  const last = traffic.value;
  return last !== null && serverNow() - last.at <= TRAFFIC_STALE_MS * 1000 ? last : null;
}

export async function start(): Promise<void> {
  setInterval(everySecond, 1000);
  // A new link that is opened in the place of this page changes the fragment only: the page is not loaded again.
  addEventListener("hashchange", () => {
    if (hasToken()) void enter();
  });
  await enter();
}

function hasToken(): boolean {
  return new URLSearchParams(location.hash.slice(1)).has("token");
}

async function enter(): Promise<void> {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token !== null) {
    // Out of the address bar and the history before anything else; what else the link says stays.
    fragment.delete("token");
    const rest = fragment.toString();
    history.replaceState(null, "", location.pathname + location.search + (rest === "" ? "" : `#${rest}`));
    if (!(await signIn(token))) return;
  }
  clearTimeout(timer);
  await connect();
}

async function signIn(token: string): Promise<boolean> {
  try {
    const answer = await ask("/login", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token }),
    });
    // A used link in a browser that has a session already is no reason to stop: `connect` finds out.
    if (answer.ok || answer.status === 401) return true;
    link.value = { kind: "signed-out", why: `The console refused the link (status ${answer.status})` };
    return false;
  } catch {
    link.value = { kind: "signed-out", why: "mainstay did not answer while the link was being used; open it again" };
    return false;
  }
}

function ask(path: string, init: RequestInit = {}): Promise<Response> {
  return fetch(path, { ...init, signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
}

async function connect(): Promise<void> {
  try {
    const answer = await ask("/api/v1/status");
    if (answer.status === 401) {
      link.value = { kind: "signed-out", why: "A link is good once; when a session is over, a new link opens the next" };
      // Another tab may sign in; the cookie is shared.
      retry(RETRY_MOST_MS);
      return;
    }
    if (answer.status === 503) {
      if (status.value === null) link.value = { kind: "starting" };
      retry();
      return;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    take((await answer.json()) as Status);
    await readEvents();
    follow();
  } catch {
    lost();
  }
}

async function readEvents(): Promise<void> {
  const last = events.value.at(-1)?.seq;
  const answer = await ask(`/api/v1/events?limit=${EVENTS_MOST}${last === undefined ? "" : `&after=${last}`}`);
  if (!answer.ok) return;
  const list = (await answer.json()) as Event[];
  firstLast ??= list.at(-1)?.seq ?? 0;
  addEvents(list);
}

function follow(): void {
  source?.close();
  const stream = new EventSource("/api/v1/stream");
  source = stream;
  const on = (name: string, act: (data: string) => void) =>
    stream.addEventListener(name, (message) => {
      hear();
      act((message as MessageEvent<string>).data);
    });
  on("status", (data) => take(JSON.parse(data) as Status));
  on("traffic", (data) => (traffic.value = JSON.parse(data) as Traffic));
  on("event", (data) => addEvents([JSON.parse(data) as Event]));
  on("beat", (data) => beat(JSON.parse(data) as Beat));
  on("missed", () => void readEvents().catch(lost));
  stream.onopen = () => {
    attempt = 0;
    hear();
  };
  // EventSource retries some errors by itself and gives up on others; one path for all is easier to trust.
  stream.onerror = lost;
}

function hear(): void {
  heard.value = nowMicros();
  if (link.value.kind !== "live" && link.value.kind !== "unlooked") link.value = { kind: "live" };
}

function take(next: Status): void {
  hear();
  status.value = next;
  // A status is dated when it was put together, not when it was sent: the clock is set by a fresh one only.
  if (next.at > (lookedAt.value ?? 0)) {
    skew.value = next.at - nowMicros();
    lookedAt.value = next.at;
    link.value = { kind: "live" };
  }
}

function beat(next: Beat): void {
  lookedAt.value = next.looked_at;
  skew.value = next.at - nowMicros();
  link.value = { kind: next.at - next.looked_at > UNLOOKED_MS * 1000 ? "unlooked" : "live" };
}

function lost(): void {
  source?.close();
  source = null;
  link.value = status.value === null && attempt === 0 ? { kind: "loading" } : { kind: "lost" };
  retry();
}

function retry(after = Math.min(RETRY_MOST_MS, RETRY_MS * 2 ** Math.min(attempt, 4))): void {
  attempt += 1;
  clearTimeout(timer);
  timer = setTimeout(() => void connect(), after);
}

function everySecond(): void {
  tick.value = nowMicros();
  const silent = heard.value !== null && nowMicros() - heard.value > SILENCE_MS * 1000;
  if (source === null || !silent || isAsking) return;
  if (link.value.kind === "live" || link.value.kind === "unlooked") link.value = { kind: "silent" };
  void checkSilence();
}

let isAsking = false;

/** Who answers and does not speak has lost the stream; who does not answer is lost. */
async function checkSilence(): Promise<void> {
  isAsking = true;
  try {
    const answer = await ask("/api/v1/status");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    take((await answer.json()) as Status);
    await readEvents();
    follow();
  } catch {
    lost();
  } finally {
    isAsking = false;
  }
}

function addEvents(added: Event[]): void {
  events.value = merge(events.value, added);
}

/** Reads what `mainstay ps` would say; keeps the last answer when there is none. */
export async function readProcesses(): Promise<void> {
  try {
    const answer = await ask("/api/v1/processes");
    if (answer.ok) processes.value = (await answer.json()) as Process[];
  } catch {
    // The stream notices a lost connection, and says so.
  }
}

/** The last run of a drill that says something of its promise; `null` when there is none. */
export async function lastDrill(name: string): Promise<DrillRecord | null> {
  try {
    const answer = await ask(`/api/v1/drills/history?drill=${encodeURIComponent(name)}&limit=20`);
    const records = answer.ok ? ((await answer.json()) as DrillRecord[]) : [];
    // A positive control is meant to fail, and one that runs has measured nothing yet.
    return records.find((record) => record.ended !== null && record.sabotage === null) ?? null;
  } catch {
    return null;
  }
}
