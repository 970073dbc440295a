import { expect, test } from "vitest";
import { debtSentence, drillsOf, lastWords, measured, worstFirst } from "../src/drills";
import { eventsOf, exitWords, facts, instancesOf, logOf } from "../src/facts";
import { flowWords, passing } from "../src/flows";
import { layout } from "../src/layout";
import { loudness } from "../src/log";
import { neighbour, type Direction } from "../src/neighbour";
import { absentParts, day, spokenSentence } from "../src/words";
import { boxKey, type BoxStatus, type DrillStanding, type Standing } from "../src/types";
import { events, processes, status, traffic } from "./fixtures";

const ready = status("ready");
const box = (name: string, of = ready): BoxStatus => {
  const found = of.boxes.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no box ${name}`);
  return found;
};
const fact = (name: string, wanted: string, of = ready) => facts(box(name, of), of, processes("ready"), of.at).find((one) => one.name === wanted)?.value;

test("the primary says where it writes, the standby how far it is behind", () => {
  expect(fact("postgres-a", "writes at (LSN)")).toBe("0/5A3C1F8");
  expect(fact("postgres-a", "timeline")).toBe("1");
  expect(fact("postgres-b", "behind the primary")).toBe("nothing");
  expect(fact("postgres-a", "behind the primary")).toBeUndefined();
});

test("a standby that does not stream says so instead of a figure", () => {
  const failover = status("failover");
  const standby = failover.boxes.find((one) => one.id.kind === "postgres" && one.id.member !== failover.database?.primary);
  expect(standby).toBeDefined();
  expect(fact(standby?.name ?? "", "behind the primary", failover)).toBe("not streaming");
});

test("a process says its address, pid, memory and how it ended last", () => {
  expect(fact("backend-2", "address")).toContain("127.0.0.1:20102");
  expect(Number(fact("backend-2", "pid"))).toBeGreaterThan(1);
  expect(fact("backend-2", "memory")).toBe("23 MiB");
  expect(fact("backend-2", "last end")).toBe("SIGKILL");
  expect(fact("backend-1", "last end")).toBeUndefined();
});

test("the control plane's parent is told beside it", () => {
  expect(fact("control", "keep: pid")).toBeDefined();
  expect(fact("control", "control: pid")).toBeDefined();
});

test("before the list of processes is there, nothing is made up", () => {
  expect(facts(box("edge"), ready, null, ready.at).find((one) => one.name === "process")?.value).toBe("asking…");
  expect(facts(box("edge"), ready, [], ready.at).find((one) => one.name === "process")?.value).toBe("none");
});

test("a service has its instances, and their log", () => {
  expect(instancesOf(box("backend"), ready).map((one) => one.name)).toEqual(["backend-1", "backend-2"]);
  expect(logOf(box("backend"), ready)).toEqual({ query: "backend", names: ["backend-1", "backend-2"], command: "mainstay logs backend -f" });
  expect(logOf(box("site web"), ready)).toBeNull();
});

test("events of a box are its own, of a service those of its instances", () => {
  const all = events("ready");
  expect(eventsOf(box("backend"), ready, all).map((event) => event.subject)).toEqual(["backend-1", "backend-2", "backend-2", "backend-2"]);
  expect(eventsOf(box("postgres-b"), ready, all).map((event) => event.kind)).toEqual(["StandbySynchronous"]);
});

test("traffic of a service is that of its instances, each other end once", () => {
  const keys = new Set(instancesOf(box("backend"), ready).map((one) => boxKey(one.id)));
  const lines = passing(keys, ready, traffic("ready"));
  expect(lines.map((line) => line.key)).toEqual(["in edge http", "out router sql", "out cache redis", "out store redis"]);
  expect(lines[0]?.flow?.perSecond).toBeCloseTo(202.2);
  expect(flowWords(lines[0]?.flow ?? null)).toBe("202/s, 95 % within 19 ms, 0.0 % errors");
});

test("what nobody measures is not called idle", () => {
  const lines = passing(new Set(["router"]), ready, null);
  expect(lines.every((line) => flowWords(line.flow) === "not measured")).toBe(true);
});

test("replication is no traffic between members", () => {
  const lines = passing(new Set(["postgres:b"]), ready, traffic("ready"));
  expect(lines.map((line) => line.key)).toEqual(["in router sql read"]);
});

test.each([
  [{ kind: "code", code: 3 }, "exit status 3"],
  [{ kind: "signal", signal: 9 }, "SIGKILL"],
  [{ kind: "signal", signal: 30 }, "signal 30"],
  [{ kind: "not-started", reason: "no such file" }, "never ran: no such file"],
] as const)("an end is said as %o", (exit, words) => {
  expect(exitWords(exit)).toBe(words);
});

test.each([
  ["2026-11-26 05:11:00.708 UTC [4306] ERROR:  duplicate key", "error"],
  ['{"event":"X","level":"ERROR"}', "error"],
  ["level=warn msg=slow", "warn"],
  ["GET /terror 200", "plain"],
] as const)("a line is as loud as it says: %s", (line, wanted) => {
  expect(loudness(line)).toBe(wanted);
});

test.each([360, 1000, 1500])("arrow keys lead from every box to every other, at %i", (width) => {
  const drawn = layout(ready.boxes, ready.arrows, { width, primary: "a", isTalking: () => false });
  const reached = new Set(["edge"]);
  const toDo = ["edge"];
  for (let next = toDo.pop(); next !== undefined; next = toDo.pop()) {
    for (const direction of ["left", "right", "up", "down"] as Direction[]) {
      const found = neighbour(next, direction, drawn.nodes);
      if (found !== null && !reached.has(found)) {
        reached.add(found);
        toDo.push(found);
      }
    }
  }
  expect(reached.size).toBe(drawn.nodes.length);
});

test("down from the edge is the service, and up from there the edge", () => {
  const drawn = layout(ready.boxes, ready.arrows, { width: 1000, primary: "a", isTalking: () => false });
  expect(neighbour("edge", "down", drawn.nodes)).toMatch(/^instance:backend-/);
  expect(neighbour("postgres:a", "right", drawn.nodes)).toBe("postgres:b");
  expect(neighbour("edge", "up", drawn.nodes)).toBeNull();
});

test("what the stack leaves out is said", () => {
  expect(absentParts(ready)).toBe("");
  expect(absentParts(status("no-database"))).toBe("This stack has no database.");
  expect(absentParts(status("one-service"))).toBe("This stack has no database and no cache.");
});

test("what is read out does not change by the second", () => {
  const failover = status("failover");
  const later = { ...failover, at: failover.at + 5_000_000 };
  expect(spokenSentence(later)).toBe(spokenSentence(failover));
});

test("days are named from today on", () => {
  const noon = Date.UTC(2026, 10, 26, 12) * 1000;
  expect(day(noon - 60_000_000, noon)).toBe("today");
  expect(day(noon - 86_400_000_000, noon)).toBe("yesterday");
  expect(day(noon - 3 * 86_400_000_000, noon)).toBe("Mon 23 Nov 2026".replace("Mon 23", "Mon, 23"));
});

const drill = (name: string, subject: string, standing: Standing): DrillStanding => ({
  drill: name,
  what: "",
  subject,
  promise: "",
  standing,
  reason: "",
  last_ended: standing === "never-run" ? null : ready.at - 240_000_000,
  last_verdict: standing === "never-run" ? null : standing === "failing" ? "FAIL" : "PASS",
});
const DRILLS = [drill("a", "instance", "fine"), drill("b", "postgres", "failing"), drill("c", "store", "never-run"), drill("d", "cache", "not-applicable")];

test("the debt is what is failing, never run or stale", () => {
  expect(debtSentence(DRILLS)).toBe("2 of 3 owed: 1 failing, 1 never run");
  expect(debtSentence([drill("a", "edge", "fine"), drill("b", "edge", "fine")])).toBe("All 2 passed lately");
  expect(worstFirst(DRILLS).map((one) => one.drill)).toEqual(["b", "c", "a", "d"]);
});

test("a drill belongs to the boxes that it tries", () => {
  expect(drillsOf(box("backend"), DRILLS).map((one) => one.drill)).toEqual(["a"]);
  expect(drillsOf(box("backend-1"), DRILLS).map((one) => one.drill)).toEqual(["a"]);
  expect(drillsOf(box("postgres-b"), DRILLS).map((one) => one.drill)).toEqual(["b"]);
  expect(drillsOf(box("store"), DRILLS).map((one) => one.drill)).toEqual(["c"]);
});

test("a drill without a result says so", () => {
  expect(lastWords(drill("c", "store", "never-run"), ready.at)).toBe("no result yet");
  expect(lastWords(drill("b", "postgres", "failing"), ready.at)).toBe("FAIL 4 m ago");
  expect(measured({ drill: "a", ended: null, verdict: null, sabotage: null, figures: null })).toBeNull();
  const figures = { promised_rto_ms: 1000, rto_max_ms: 77, stall_p95_ms: null, stall_max_ms: null, acknowledged: 0, lost: 0, requests: 0, failed_requests: 0 };
  const lines = measured({ drill: "missing-wal", ended: null, verdict: "PASS", sabotage: null, figures });
  expect(lines).toHaveLength(1);
  expect(lines?.[0]).toContain("77 ms");
});
