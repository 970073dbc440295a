import { expect, test } from "vitest";
import { merge } from "../src/merge";
import { bytes, cut, duration, millis, overallSentence, othersWrong, rate, share, waitingText, wrap } from "../src/words";
import { events, status } from "./fixtures";

const say = (name: string) => overallSentence(status(name), status(name).at);
const letters = (text: string) => text.length;

test("one sentence says how the stack is", () => {
  expect(say("ready")).toBe("All 13 parts ready");
  expect(say("failover")).toBe("postgres-a is down: ended by SIGKILL; promoting postgres-b");
  expect(say("starting")).toBe("Starting: 3 of 12 parts ready");
  expect(say("rejoin")).toBe("postgres-a is starting: rewinding to timeline 2");
  expect(say("empty")).toBe("This stack has no parts yet");
  expect(say("many")).toMatch(/^mailer-2 is in a crash loop: ended 5 times in 60 s/);
});

test("the worst part is named, the others are counted", () => {
  expect(othersWrong(status("ready"))).toBe(0);
  expect(othersWrong(status("failover"))).toBe(2);
});

test("an instance is named before the service that only repeats it", () => {
  const of = status("ready");
  const isBroken = (name: string) => name === "backend" || name === "backend-2";
  const boxes = of.boxes.map((box) => (isBroken(box.name) ? { ...box, state: "failed" as const } : box));
  expect(overallSentence({ ...of, boxes }, of.at)).toBe("backend-2 is down");
  expect(othersWrong({ ...of, boxes })).toBe(0);
});

test("going down counts what is left", () => {
  const going = { ...status("ready"), is_stopping: true };
  expect(overallSentence(going, going.at)).toBe("Going down: 13 parts left");
  const gone = { ...going, boxes: going.boxes.map((box) => ({ ...box, state: "stopped" as const })) };
  expect(overallSentence(gone, going.at)).toBe("Everything is stopped; data stays");
});

test("a part that is not configured is not a broken one", () => {
  const of = status("ready");
  const boxes = of.boxes.map((box) => (box.name === "prometheus" ? { ...box, state: "not-configured" as const } : box));
  expect(overallSentence({ ...of, boxes }, of.at)).toBe("12 parts ready, 1 not configured");
});

test("durations never run backwards and never show a fraction", () => {
  expect([-5, 0, 999_999, 59e6, 60e6, 3599e6, 3600e6, 4500e6, 90_000e6].map(duration)).toEqual([
    "0 s", "0 s", "0 s", "59 s", "1 m", "59 m", "1 h", "1 h 15 m", "1 d",
  ]);
});

test("figures keep to three digits and their unit", () => {
  expect([0.4, 12.4, 1840, 52_000].map(rate)).toEqual(["0.4/s", "12/s", "1.8k/s", "52k/s"]);
  expect([0.31, 18.2, 1240].map(millis)).toEqual(["0.3 ms", "18 ms", "1.2 s"]);
  expect([0, 0.0004, 0.021, 0.5].map(share)).toEqual(["0.0 %", "< 0.1 %", "2.1 %", "50 %"]);
  expect([0, 1023, 18_432, 3_417_088].map(bytes)).toEqual(["0 B", "1023 B", "18 KiB", "3.3 MiB"]);
});

test("a back-off counts down to its end", () => {
  expect(waitingText({ kind: "back-off", until: 8_500_000, reason: "exit 1" }, 1_000_000)).toBe("starts again in 8 s after exit 1");
});

test("text breaks between words and says when something is missing", () => {
  expect(wrap("ended by SIGKILL; promoting postgres-b", 20, 2, letters)).toEqual(["ended by SIGKILL;", "promoting postgres-b"]);
  expect(wrap("one two three four five six seven", 9, 2, letters)).toEqual(["one two", "three fo…"]);
  expect(wrap("pneumonoultramicroscopic end", 10, 2, letters)).toEqual(["pneumonou…", "end"]);
  expect(wrap("", 10, 2, letters)).toEqual([]);
  expect(cut("backend", 7, letters)).toBe("backend");
});

test("events are kept once and in order, however they arrive", () => {
  const all = events("failover");
  const seen = merge(merge([], all.slice(5)), all.slice(0, 7).reverse());
  expect(seen.map((event) => event.seq)).toEqual(all.map((event) => event.seq));
});
