// Turns facts into words. Pure: `now` and everything else is given.
import type { BoxStatus, State, Status, Timestamp, Waiting } from "./types";

const STATE_WORDS: Record<State, string> = {
  waiting: "waiting",
  starting: "starting",
  ready: "ready",
  degraded: "degraded",
  draining: "draining",
  "backing-off": "backing off",
  "crash-loop": "crash loop",
  failed: "failed",
  stopped: "stopped",
  "not-configured": "not configured",
  unknown: "unknown",
};

/** How much a state matters when one sentence must do: the same order as the server's. */
const RANK: Record<State, number> = {
  ready: 0,
  "not-configured": 0,
  degraded: 1,
  draining: 2,
  stopped: 2,
  waiting: 3,
  starting: 3,
  "backing-off": 4,
  unknown: 4,
  "crash-loop": 5,
  failed: 5,
};

export function stateWord(state: State): string {
  return STATE_WORDS[state];
}

export type Mood = "good" | "busy" | "warn" | "bad" | "off";

/** Five colours for eleven states; shape and word tell the rest. */
export function mood(state: State): Mood {
  switch (state) {
    case "ready":
      return "good";
    case "waiting":
    case "starting":
      return "busy";
    case "degraded":
    case "draining":
    case "backing-off":
      return "warn";
    case "crash-loop":
    case "failed":
      return "bad";
    case "stopped":
    case "not-configured":
    case "unknown":
      return "off";
  }
}

/** "4 s", "12 m", "3 h 20 m", "5 d": two units at most, none smaller than a second. */
export function duration(micros: number): string {
  const seconds = Math.max(0, Math.floor(micros / 1_000_000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} m`;
  return `${Math.floor(hours / 24)} d`;
}

/** Three significant digits at most. */
export function rate(perSecond: number): string {
  if (perSecond >= 10_000) return `${(perSecond / 1000).toFixed(0)}k/s`;
  if (perSecond >= 1000) return `${(perSecond / 1000).toFixed(1)}k/s`;
  if (perSecond >= 10) return `${perSecond.toFixed(0)}/s`;
  return `${perSecond.toFixed(1)}/s`;
}

export function millis(value: number): string {
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 10) return `${value.toFixed(0)} ms`;
  return `${value.toFixed(1)} ms`;
}

export function share(value: number): string {
  const percent = value * 100;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  return percent >= 10 ? `${percent.toFixed(0)} %` : `${percent.toFixed(1)} %`;
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 10 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export function waitingText(waiting: Waiting, now: Timestamp): string {
  switch (waiting.kind) {
    case "dependency":
      return `waits for ${waiting.on}`;
    case "readiness":
      return `waits for ${waiting.probe}`;
    case "back-off":
      return `starts again in ${duration(waiting.until - now + 999_999)} after ${waiting.reason}`;
    case "silence":
      return `does not answer for ${duration(now - waiting.since)}`;
    case "observation":
      return `has not seen ${waiting.of}`;
    case "step":
      return waiting.what;
    case "drain":
      return `finishes its requests, ${duration(waiting.deadline - now + 999_999)} at most`;
    case "operator":
      return `needs you: ${waiting.what}`;
  }
}

/** Why a box is not as it should be: its reason first, else what it waits for. */
export function because(box: BoxStatus, now: Timestamp): string {
  const parts = box.waiting.map((one) => waitingText(one, now));
  if (box.reason !== null) parts.unshift(box.reason);
  return parts.join("; ");
}

/** One sentence about the whole stack. */
export function overallSentence(status: Status, now: Timestamp): string {
  const boxes = status.boxes;
  if (boxes.length === 0) return "This stack has no parts yet";
  const ready = boxes.filter((box) => box.state === "ready").length;
  if (status.is_stopping) {
    const left = boxes.filter((box) => mood(box.state) !== "off").length;
    return left === 0 ? "Everything is stopped; data stays" : `Going down: ${parts(left)} left`;
  }
  // A service says what its instances say already; name it only when nothing else is wrong.
  const wrong = boxes.filter((box) => RANK[box.state] > 0).sort((a, b) => weight(b) - weight(a));
  const worst = wrong[0];
  const absent = boxes.filter((box) => box.state === "not-configured").length;
  if (worst === undefined) {
    return absent === 0 ? `All ${parts(ready)} ready` : `${parts(ready)} ready, ${absent} not configured`;
  }
  if (!status.is_up && RANK[worst.state] <= 3) return `Starting: ${ready} of ${parts(boxes.length - absent)} ready`;
  const why = because(worst, now);
  return `${worst.name} is ${verb(worst.state)}${why === "" ? "" : `: ${why}`}`;
}

/** The sentence when it is read out: without what counts by the second, so that it is said once. */
export function spokenSentence(status: Status): string {
  const still = status.boxes.map((box) => ({ ...box, waiting: [] }));
  return overallSentence({ ...status, boxes: still }, status.at);
}

/** What the architecture knows and this stack leaves out. */
export function absentParts(status: Status): string {
  const has = (kind: BoxStatus["id"]["kind"]) => status.boxes.some((box) => box.id.kind === kind);
  const absent: string[] = [];
  if (!has("postgres")) absent.push("database");
  if (!has("cache")) absent.push("cache");
  if (absent.length === 0) return "";
  return `This stack has no ${absent.join(" and no ")}.`;
}

/** "today", "yesterday" or the date, in the browser's zone. */
export function day(at: Timestamp, now: Timestamp): string {
  const date = new Date(at / 1000);
  const isSame = (other: number) => new Date(other / 1000).toDateString() === date.toDateString();
  if (isSame(now)) return "today";
  if (isSame(now - 86_400_000_000)) return "yesterday";
  return date.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric" });
}

/** How many more parts are not as they should be, beside the one that the sentence names. */
export function othersWrong(status: Status): number {
  const wrong = status.boxes.filter((box) => RANK[box.state] > 0);
  const named = [...wrong].sort((a, b) => weight(b) - weight(a))[0];
  return wrong.filter((box) => box !== named && box.id.kind !== "service").length;
}

function weight(box: BoxStatus): number {
  return RANK[box.state] * 2 + (box.id.kind === "service" ? 0 : 1);
}

function verb(state: State): string {
  return state === "failed" ? "down" : state === "crash-loop" ? "in a crash loop" : STATE_WORDS[state];
}

function parts(count: number): string {
  return count === 1 ? "1 part" : `${count} parts`;
}

/** Width of a text in whatever unit the caller counts. */
export type Measure = (text: string) => number;

/** Breaks into at most `lines` lines no wider than `width`; the last ends in … when something is missing. */
export function wrap(text: string, width: number, lines: number, measure: Measure): string[] {
  const words = text.split(/\s+/).filter((word) => word !== "");
  const out: string[] = [];
  while (words.length > 0 && out.length < lines) {
    if (out.length === lines - 1) {
      out.push(cut(words.join(" "), width, measure));
      break;
    }
    let line = words.shift() ?? "";
    while (words[0] !== undefined && measure(`${line} ${words[0]}`) <= width) line = `${line} ${words.shift()}`;
    out.push(cut(line, width, measure));
  }
  return out;
}

/** The text, or as much of its beginning as fits before an …. */
export function cut(text: string, width: number, measure: Measure): string {
  if (measure(text) <= width) return text;
  let kept = text;
  while (kept.length > 1 && measure(`${kept.trimEnd()}…`) > width) kept = kept.slice(0, -1);
  return `${kept.trimEnd()}…`;
}

/** Clock time of the browser's zone, with milliseconds: a failover is over within one second. */
export function clock(at: Timestamp): string {
  const date = new Date(at / 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  const millisecond = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${millisecond}`;
}
