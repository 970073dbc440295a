// What is known of a box, beside its state. Pure.
import type { BoxStatus, Event, ExitReason, Process, Status, Timestamp } from "./types";
import { bytes, duration } from "./words";

export interface Fact {
  name: string;
  value: string;
  /** An address, a position: set in a monospaced face. */
  isCode?: boolean;
  /** A page that can be opened. */
  href?: string;
}

/** The instances of a service, in their order. */
export function instancesOf(box: BoxStatus, status: Status): BoxStatus[] {
  if (box.id.kind !== "service") return [];
  const service = box.id.name;
  return status.boxes.filter((one) => one.id.kind === "instance" && one.id.id.service === service);
}

/** Names of the processes behind a box: the control plane has its parent beside it, a site is files. */
export function processNames(box: BoxStatus, status: Status): string[] {
  switch (box.id.kind) {
    case "service":
      return instancesOf(box, status).map((one) => one.name);
    case "control":
      return ["control", "keep"];
    case "site":
      return [];
    default:
      return [box.name];
  }
}

export function facts(box: BoxStatus, status: Status, processes: Process[] | null, now: Timestamp): Fact[] {
  return [...roleFacts(box, status), ...processFacts(box, status, processes, now)];
}

function roleFacts(box: BoxStatus, status: Status): Fact[] {
  const database = status.database;
  switch (box.id.kind) {
    case "postgres":
      return database === null ? [] : memberFacts(box.id.member, database);
    case "router": {
      if (database === null) return [];
      const primary = database.primary === null ? "nobody yet" : `postgres-${database.primary}`;
      return [{ name: "writes go to", value: database.is_writable ? primary : `nobody just now; ${primary} is recorded` }];
    }
    case "site":
      return address("address", status.urls["site"]);
    case "edge":
      return address("site", status.urls["site"]);
    case "control":
      return [{ name: "configuration", value: `generation ${status.generation}` }, ...address("console", status.urls["console"])];
    default:
      return [];
  }
}

function memberFacts(member: string, database: NonNullable<Status["database"]>): Fact[] {
  const timeline = { name: "timeline", value: String(database.timeline) };
  if (member === database.primary) {
    return [
      { name: "role", value: "primary" },
      timeline,
      { name: "writes at (LSN)", value: database.lsn ?? "not known", isCode: database.lsn !== null },
      { name: "commits", value: database.is_synchronous ? "wait for a standby" : "do not wait for a standby" },
      { name: "failovers", value: String(database.failovers) },
    ];
  }
  const lag = database.lag_bytes[member];
  const behind = lag === undefined ? "not streaming" : lag === 0 ? "nothing" : bytes(lag);
  return [{ name: "role", value: "standby" }, timeline, { name: "behind the primary", value: behind }];
}

function address(name: string, url: string | undefined): Fact[] {
  if (url === undefined) return [];
  return [/^https?:\/\//.test(url) ? { name, value: url, href: url } : { name, value: url, isCode: true }];
}

function processFacts(box: BoxStatus, status: Status, processes: Process[] | null, now: Timestamp): Fact[] {
  const names = processNames(box, status);
  if (names.length === 0 || box.id.kind === "service") return [];
  if (processes === null) return [{ name: "process", value: "asking…" }];
  return names.flatMap((name) => {
    const process = processes.find((one) => one.name === name);
    const of = names.length > 1 ? `${name}: ` : "";
    if (process === undefined) return [{ name: `${of}process`, value: "none" }];
    return oneProcess(process, of, now);
  });
}

function oneProcess(process: Process, of: string, now: Timestamp): Fact[] {
  const found: Fact[] = [];
  if (process.address !== null) found.push({ name: `${of}address`, value: process.address, isCode: true });
  if (process.pid === null) found.push({ name: `${of}process`, value: "does not run" });
  else found.push({ name: `${of}pid`, value: String(process.pid) });
  if (process.memory_bytes !== null) found.push({ name: `${of}memory`, value: bytes(process.memory_bytes) });
  if (process.last_exit !== null) {
    const ago = process.pid === null ? `, ${duration(now - process.since)} ago` : "";
    found.push({ name: `${of}last end`, value: `${exitWords(process.last_exit)}${ago}` });
  }
  return found;
}

const SIGNALS: Record<number, string> = { 1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM" };

export function exitWords(exit: ExitReason): string {
  switch (exit.kind) {
    case "code":
      return `exit status ${exit.code}`;
    case "signal":
      return SIGNALS[exit.signal] ?? `signal ${exit.signal}`;
    case "out-of-memory":
      return "killed for want of memory";
    case "not-started":
      return `never ran: ${exit.reason}`;
    case "unknown":
      return "nobody knows how";
  }
}

/** Events of a box: its own, those of its processes, and those of the database for its members. */
export function eventsOf(box: BoxStatus, status: Status, events: Event[]): Event[] {
  const subjects = new Set([box.name, ...processNames(box, status)]);
  if (box.id.kind === "postgres" || box.id.kind === "router") subjects.add("database");
  return events.filter((event) => event.subject !== null && subjects.has(event.subject));
}

/** What the log of a box is asked for by, and whose lines are shown. A site has none. */
export function logOf(box: BoxStatus, status: Status): { query: string; names: string[]; command: string } | null {
  if (box.id.kind === "site") return null;
  const query = box.id.kind === "service" ? box.id.name : box.name;
  return { query, names: box.id.kind === "service" ? processNames(box, status) : [box.name], command: `mainstay logs ${query} -f` };
}
