// What was tried of what is promised, in words. Pure.
import type { BoxStatus, DrillRecord, DrillStanding, Standing, Timestamp } from "./types";
import { duration, millis, type Mood } from "./words";

export const STANDING_WORDS: Record<Standing, string> = {
  fine: "passed",
  "not-applicable": "does not apply",
  stale: "stale",
  "never-run": "never run",
  failing: "failing",
};

export const STANDING_MOODS: Record<Standing, Mood> = {
  fine: "good",
  "not-applicable": "off",
  stale: "warn",
  "never-run": "warn",
  failing: "bad",
};

/** Worst first: what one would run next. */
const ORDER: Standing[] = ["failing", "never-run", "stale", "fine", "not-applicable"];

export function worstFirst(drills: DrillStanding[]): DrillStanding[] {
  return [...drills].sort((a, b) => ORDER.indexOf(a.standing) - ORDER.indexOf(b.standing));
}

/** The drills that try a box. */
export function drillsOf(box: BoxStatus, drills: DrillStanding[]): DrillStanding[] {
  const subject = box.id.kind === "service" ? "instance" : box.id.kind === "cache" ? box.id.name : box.id.kind;
  return drills.filter((drill) => drill.subject === subject);
}

/** "3 of 9 owed: 1 failing, 2 never run" */
export function debtSentence(drills: DrillStanding[]): string {
  const applying = drills.filter((drill) => drill.standing !== "not-applicable");
  const counts = (["failing", "never-run", "stale"] as const).map((standing) => ({
    word: STANDING_WORDS[standing],
    count: applying.filter((drill) => drill.standing === standing).length,
  }));
  const owed = counts.reduce((total, one) => total + one.count, 0);
  if (applying.length === 0) return "No drill applies to this stack";
  if (owed === 0) return applying.length === 1 ? "The drill passed lately" : `All ${applying.length} passed lately`;
  const parts = counts.filter((one) => one.count > 0).map((one) => `${one.count} ${one.word}`);
  return `${owed} of ${applying.length} owed: ${parts.join(", ")}`;
}

/** "PASS 4 m ago" */
export function lastWords(drill: DrillStanding, now: Timestamp): string {
  if (drill.last_ended === null || drill.last_verdict === null) return "no result yet";
  return `${drill.last_verdict} ${duration(now - drill.last_ended)} ago`;
}

/** What the last run measured, against its promise; `null` when it measured nothing. */
export function measured(record: DrillRecord): string[] | null {
  const figures = record.figures;
  if (figures === null) return null;
  const lines: string[] = [];
  if (figures.rto_max_ms !== null) {
    lines.push(`RTO worst ${millis(figures.rto_max_ms)}, promised ${millis(figures.promised_rto_ms)}`);
  }
  if (figures.stall_p95_ms !== null && figures.stall_max_ms !== null) {
    lines.push(`stall p95 ${millis(figures.stall_p95_ms)}, worst ${millis(figures.stall_max_ms)}`);
  }
  if (figures.acknowledged > 0) lines.push(`${figures.lost} of ${figures.acknowledged} acknowledged writes lost`);
  if (figures.requests > 0) lines.push(`${figures.failed_requests} of ${figures.requests} requests failed`);
  return lines;
}
