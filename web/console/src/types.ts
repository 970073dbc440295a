// The admin API's types as the console reads them. The Rust crate mainstay-api is their source; its test
// reads fixtures/*.json, and so do the tests here, so neither side can drift alone.

/** Microseconds since 1970, UTC. */
export type Timestamp = number;

export type State =
  | "waiting"
  | "starting"
  | "ready"
  | "degraded"
  | "draining"
  | "backing-off"
  | "crash-loop"
  | "failed"
  | "stopped"
  | "not-configured"
  | "unknown";

export type BoxId =
  | { kind: "edge" }
  | { kind: "site"; name: string }
  | { kind: "instance"; id: { service: string; slot: number } }
  | { kind: "service"; name: string }
  | { kind: "router" }
  | { kind: "postgres"; member: string }
  | { kind: "cache"; name: string }
  | { kind: "prometheus" }
  | { kind: "alertmanager" }
  | { kind: "backups" }
  | { kind: "control" };

export type Waiting =
  | { kind: "dependency"; on: string }
  | { kind: "readiness"; probe: string }
  | { kind: "back-off"; until: Timestamp; reason: string }
  | { kind: "silence"; since: Timestamp }
  | { kind: "observation"; of: string }
  | { kind: "step"; what: string; since: Timestamp }
  | { kind: "drain"; deadline: Timestamp }
  | { kind: "operator"; what: string };

export interface BoxStatus {
  id: BoxId;
  name: string;
  label: string;
  state: State;
  since: Timestamp;
  waiting: Waiting[];
  reason: string | null;
}

export interface Arrow {
  from: BoxId | null;
  to: BoxId;
  label: string;
}

export interface DatabaseStatus {
  primary: string | null;
  timeline: number;
  lsn: string | null;
  is_synchronous: boolean;
  is_writable: boolean;
  lag_bytes: Record<string, number>;
  failovers: number;
}

export interface Status {
  api: number;
  stack: string;
  environment: string;
  at: Timestamp;
  since: Timestamp;
  generation: number;
  is_up: boolean;
  is_stopping: boolean;
  overall: State;
  boxes: BoxStatus[];
  arrows: Arrow[];
  progress: { what: string; text: string; took_ms: number | null; state: State }[];
  database: DatabaseStatus | null;
  urls: Record<string, string>;
  /** Not sent when there are none. */
  drills?: DrillStanding[];
}

export type Verdict = "PASS" | "ABORTED" | "VOID" | "FAIL";
export type Standing = "fine" | "not-applicable" | "stale" | "never-run" | "failing";

export interface DrillStanding {
  drill: string;
  what: string;
  /** instance, edge, router, postgres, cache, store or control */
  subject: string;
  promise: string;
  standing: Standing;
  reason: string;
  last_ended: Timestamp | null;
  last_verdict: Verdict | null;
}

/** What of a remembered drill is shown. */
export interface DrillRecord {
  drill: string;
  ended: Timestamp | null;
  verdict: Verdict | null;
  sabotage: string | null;
  figures: {
    promised_rto_ms: number;
    rto_max_ms: number | null;
    stall_p95_ms: number | null;
    stall_max_ms: number | null;
    acknowledged: number;
    lost: number;
    requests: number;
    failed_requests: number;
  } | null;
}

export interface Flow {
  from: BoxId | null;
  to: BoxId;
  per_second: number;
  p95_ms: number | null;
  error_share: number;
}

export interface Traffic {
  at: Timestamp;
  window_ms: number;
  flows: Flow[];
}

export type ExitReason =
  | { kind: "code"; code: number }
  | { kind: "signal"; signal: number }
  | { kind: "out-of-memory" }
  | { kind: "not-started"; reason: string }
  | { kind: "unknown" };

export interface Process {
  name: string;
  role: string;
  detail: string;
  pid: number | null;
  nonce: string | null;
  state: State;
  since: Timestamp;
  last_exit: ExitReason | null;
  address: string | null;
  memory_bytes: number | null;
}

/** Every two seconds on the stream. */
export interface Beat {
  at: Timestamp;
  /** When the control plane put its picture together last. */
  looked_at: Timestamp;
}

export type Level = "info" | "warn" | "error";

export interface Event {
  seq: number;
  at: Timestamp;
  kind: string;
  level: Level;
  subject: string | null;
  text: string;
  fields: Record<string, unknown>;
}

/** One text per box, for keys and lookups. */
export function boxKey(id: BoxId | null): string {
  if (id === null) return "clients";
  switch (id.kind) {
    case "site":
    case "service":
    case "cache":
      return `${id.kind}:${id.name}`;
    case "instance":
      return `instance:${id.id.service}-${id.id.slot}`;
    case "postgres":
      return `postgres:${id.member}`;
    default:
      return id.kind;
  }
}
