// What flows over arrows: figures of several arrows as one, and their words. Pure.
import { arrowKey } from "./layout";
import { boxKey, type Arrow, type Flow, type Status, type Traffic } from "./types";
import { millis, rate, share } from "./words";

export interface Sum {
  perSecond: number;
  p95: number | null;
  errorShare: number;
}

export function flowsByArrow(status: Status, traffic: Traffic | null): Map<string, Flow> {
  const byEnds = new Map<string, Flow>();
  for (const flow of traffic?.flows ?? []) byEnds.set(`${boxKey(flow.from)}>${boxKey(flow.to)}`, flow);
  const flows = new Map<string, Flow>();
  for (const arrow of status.arrows) {
    // WAL is replication, not requests: its figure is the lag.
    const flow = arrow.label === "WAL" ? undefined : byEnds.get(`${boxKey(arrow.from)}>${boxKey(arrow.to)}`);
    if (flow !== undefined) flows.set(arrowKey(arrow.from, arrow.to, arrow.label), flow);
  }
  return flows;
}

/** One figure for several arrows: rates add up, the slowest p95 counts, errors weigh by their rate. */
export function sum(keys: string[], flows: Map<string, Flow>): Sum | null {
  const found = keys.map((key) => flows.get(key)).filter((flow) => flow !== undefined);
  if (found.length === 0) return null;
  const perSecond = found.reduce((total, flow) => total + flow.per_second, 0);
  const errors = found.reduce((total, flow) => total + flow.per_second * flow.error_share, 0);
  const times = found.map((flow) => flow.p95_ms).filter((time) => time !== null);
  return { perSecond, p95: times.length === 0 ? null : Math.max(...times), errorShare: perSecond > 0 ? errors / perSecond : 0 };
}

export function isFlowing(flow: Sum | null): flow is Sum {
  return flow !== null && flow.perSecond >= 0.05;
}

export interface Passing {
  key: string;
  isInward: boolean;
  /** The other end, as a box is named. */
  other: string;
  label: string;
  flow: Sum | null;
}

/** What flows into and out of some boxes (a service: its instances), one line for each other end. */
export function passing(keys: Set<string>, status: Status, traffic: Traffic | null): Passing[] {
  const flows = flowsByArrow(status, traffic);
  const groups = new Map<string, { line: Omit<Passing, "flow">; arrows: string[] }>();
  for (const arrow of status.arrows) {
    const isInward = keys.has(boxKey(arrow.to));
    if (arrow.label === "WAL" || isInward === keys.has(boxKey(arrow.from))) continue;
    const other = nameOf(isInward ? arrow.from : arrow.to);
    const key = `${isInward ? "in" : "out"} ${other} ${arrow.label}`;
    const group = groups.get(key) ?? { line: { key, isInward, other, label: arrow.label }, arrows: [] };
    group.arrows.push(arrowKey(arrow.from, arrow.to, arrow.label));
    groups.set(key, group);
  }
  return [...groups.values()]
    .map(({ line, arrows }) => ({ ...line, flow: sum(arrows, flows) }))
    .sort((a, b) => Number(b.isInward) - Number(a.isInward));
}

function nameOf(id: Arrow["from"]): string {
  return nameOfKey(boxKey(id));
}

/** A box's key as people name the box. */
export function nameOfKey(key: string): string {
  return key.startsWith("postgres:") ? key.replace(":", "-") : key.replace(/^\w+:/, "");
}

/** "89/s, 95 % within 10 ms, 0.0 % errors" */
export function flowWords(flow: Sum | null): string {
  if (flow === null) return "not measured";
  if (!isFlowing(flow)) return "idle";
  const time = flow.p95 === null ? "" : `, 95 % within ${millis(flow.p95)}`;
  return `${rate(flow.perSecond)}${time}, ${share(flow.errorShare)} errors`;
}
