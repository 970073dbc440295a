// What the service sends. openapi.json in apps/users says the same, and its test holds the service to it.
export type Role = "viewer" | "editor" | "admin";

export interface User {
  id: number;
  username: string;
  email: string;
  firstName: string;
  lastName: string;
  role: Role;
  isActive: boolean;
  createdAt: string;
  updatedAt: string;
  createdBy: string;
  updatedBy: string;
  version: number;
}

export interface Page {
  content: User[];
  number: number;
  size: number;
  totalElements: number;
  totalPages: number;
  first: boolean;
  last: boolean;
}

export interface Statistics {
  total: number;
  active: number;
  inactive: number;
  byRole: Record<Role, number>;
  createdPerDay: { day: string; count: number }[];
}

export interface Session {
  user: User | null;
  csrfToken: string | null;
  idleSeconds: number;
}

export interface SessionEntry {
  id: string;
  kind: "browser" | "tokens";
  createdAt: string;
  lastSeenAt: string;
  expiresAt: string;
  address: string;
  agent: string;
  current: boolean;
}

export interface Access {
  failedSignIns: number;
  lastFailedAt: string | null;
  lockedUntil: string | null;
  sessions: SessionEntry[];
}

export interface AuditEntry {
  id: number;
  at: string;
  actor: string;
  action: string;
  subject: string;
  requestId: string;
  details: unknown;
}

export interface Info {
  app: { name: string; version: string };
  os?: { name: string; arch: string };
  process?: { pid: number; startedAt: string };
  mainstay: Record<"stack" | "environment" | "service" | "instance" | "release", string | null>;
}

export interface Health {
  status: string;
  components?: Record<string, { status: string; details?: { required?: boolean; error?: string; responseTimeMs?: number } }>;
}

export interface Metric {
  name: string;
  description: string;
  baseUnit: string | null;
  measurements: { statistic: string; value: number }[];
  availableTags: { tag: string; values: string[] }[];
}

export type Level = "OFF" | "ERROR" | "WARN" | "INFO" | "DEBUG" | "TRACE";

export interface Loggers {
  levels: Level[];
  loggers: Record<string, { configuredLevel?: Level; effectiveLevel: Level }>;
}

export interface Tasks {
  fixedDelay: {
    runnable: { target: string };
    interval: number;
    nextExecution?: { time: string };
    lastExecution?: { time: string; status: string };
  }[];
}

export interface Report {
  dryRun: boolean;
  lines: number;
  created: number;
  good: number;
  faultsTotal: number;
  faults: { line: number; column: string; code: string; detail: string }[];
}
