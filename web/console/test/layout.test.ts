import { expect, test } from "vitest";
import { layout, NARROW, type Edge, type Layout, type Rect } from "../src/layout";
import type { Status } from "../src/types";
import { status, STATUSES } from "./fixtures";

const WIDTHS = [300, 340, 420, 600, NARROW - 1, NARROW, 900, 1100, 1300, 1700];

function draw(of: Status, width: number): Layout {
  return layout(of.boxes, of.arrows, { width, primary: of.database?.primary ?? null, isTalking: (box) => box.waiting.length > 0 });
}

function overlap(a: Rect, b: Rect): boolean {
  return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
}

function node(drawn: Layout, key: string) {
  const found = drawn.nodes.find((one) => one.key === key);
  if (found === undefined) throw new Error(`${key} is not drawn`);
  return found;
}

for (const name of STATUSES) {
  test.each(WIDTHS)(`${name}: every box is drawn once, inside the picture and over no other, at %i`, (width) => {
    const of = status(name);
    const drawn = draw(of, width);
    const wanted = of.boxes.filter((box) => box.id.kind !== "service").length;
    expect(drawn.nodes.length).toBe(wanted);
    for (const [index, one] of drawn.nodes.entries()) {
      expect(one.x, one.key).toBeGreaterThanOrEqual(0);
      expect(one.x + one.w, one.key).toBeLessThanOrEqual(Math.max(width, 2 * 136 + 48));
      expect(one.y + one.h, one.key).toBeLessThanOrEqual(drawn.height);
      for (const other of drawn.nodes.slice(index + 1)) expect(overlap(one, other), `${one.key} and ${other.key}`).toBe(false);
    }
    for (const [index, frame] of drawn.frames.entries()) {
      for (const other of drawn.frames.slice(index + 1)) expect(overlap(frame, other), `${frame.key} and ${other.key}`).toBe(false);
    }
  });

  test(`${name}: the same stack is the same picture`, () => {
    expect(draw(status(name), 1000)).toEqual(draw(status(name), 1000));
  });

  test.each(WIDTHS)(`${name}: every arrow of the status is part of exactly one line, at %i`, (width) => {
    const of = status(name);
    const lines = draw(of, width).edges.flatMap((edge) => edge.arrows);
    expect(lines.length).toBe(of.arrows.length);
    expect(new Set(lines).size).toBe(lines.length);
  });
}

test("tiers follow the way of a request", () => {
  const drawn = draw(status("ready"), 1000);
  const tops = ["edge", "instance:backend-1", "router", "postgres:a"].map((key) => node(drawn, key).y);
  expect(tops).toEqual([...tops].sort((a, b) => a - b));
  expect(new Set(tops).size).toBe(4);
  expect(node(drawn, "cache:cache").y).toBe(node(drawn, "router").y);
});

test("the primary stands first, whoever it is", () => {
  const before = draw(status("ready"), 1000);
  const after = draw(status("rejoin"), 1000);
  expect(node(before, "postgres:a").x).toBeLessThan(node(before, "postgres:b").x);
  expect(node(after, "postgres:b").x).toBe(node(before, "postgres:a").x);
});

test("few instances have an arrow each, many share one", () => {
  const few = draw(status("ready"), 1000).edges.filter((edge) => edge.label === "http");
  expect(few.map((edge) => edge.to)).toEqual(["instance:backend-1", "instance:backend-2"]);
  const many = draw(status("many"), 1300).edges.filter((edge) => edge.label === "http");
  expect(many.map((edge) => [edge.to, edge.arrows.length])).toEqual([["service:api", 8]]);
});

test("what a service asks of a part is one line from its frame", () => {
  const sql = draw(status("ready"), 1000).edges.filter((edge) => edge.label === "sql");
  expect(sql.map((edge) => [edge.from, edge.to, edge.arrows.length])).toEqual([["service:backend", "router", 2]]);
});

test("figures of different lines never cover each other", () => {
  const wide = 132; // "81/s · 402 ms · 0.6 %" at 11 px
  const rect = (edge: Edge): Rect => ({ x: (edge.at?.x ?? 0) - wide / 2, y: (edge.at?.y ?? 0) - 10, w: wide, h: 20 });
  for (const name of ["ready", "failover", "rejoin"]) {
    for (const width of [1000, 1300]) {
      const shown = draw(status(name), width).edges.filter((edge) => edge.at !== null && edge.label !== "WAL");
      for (const [index, one] of shown.entries()) {
        for (const other of shown.slice(index + 1)) expect(overlap(rect(one), rect(other)), `${one.key} and ${other.key}, ${name}`).toBe(false);
      }
    }
  }
});

test("figures are never written over a box", () => {
  for (const name of STATUSES) {
    for (const width of WIDTHS) {
      const drawn = draw(status(name), width);
      for (const edge of drawn.edges) {
        if (edge.at === null) continue;
        const figures = { x: edge.at.x - 30, y: edge.at.y - 10, w: 60, h: 20 };
        for (const one of drawn.nodes) expect(overlap(figures, one), `${edge.key} over ${one.key}, ${name} at ${width}`).toBe(false);
      }
    }
  }
});

test("a stack without parts is an empty picture, not an error", () => {
  const drawn = draw(status("empty"), 800);
  expect(drawn.nodes).toEqual([]);
  expect(drawn.edges).toEqual([]);
});

test("an arrow to a box that is not there is left out", () => {
  const of = status("ready");
  const boxes = of.boxes.filter((box) => box.id.kind !== "router");
  const drawn = layout(boxes, of.arrows, { width: 1000, primary: "a", isTalking: () => false });
  expect(drawn.edges.some((edge) => edge.from === "router" || edge.to === "router")).toBe(false);
});
