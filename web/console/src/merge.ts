import type { Event } from "./types";

/** Events kept; the rest is in `mainstay events`. */
export const EVENTS_MOST = 200;

/** Each event once, in the order of the log: after a reconnect the stream and the list overlap. */
export function merge(old: Event[], added: Event[]): Event[] {
  const bySeq = new Map(old.map((event) => [event.seq, event]));
  for (const event of added) bySeq.set(event.seq, event);
  return [...bySeq.values()].sort((a, b) => a.seq - b.seq).slice(-EVENTS_MOST);
}
