// Where every box and arrow stands. Pure and deterministic: the same stack at the same width is the same
// picture, so that people find a box where it was and screenshots can be compared.
//
// Wide:   clients / edge / services, sites / router, caches / database     rail on the right
// Narrow: clients / edge, sites / services / caches / router / database / rail
import { boxKey, type Arrow, type BoxId, type BoxStatus } from "./types";

export interface Rect {
  x: number;
  y: number;
  w: number;
  h: number;
}
export interface Node extends Rect {
  key: string;
  box: BoxStatus;
}
export interface Frame extends Rect {
  key: string;
  /** The service's box when the frame stands for one. */
  box: BoxStatus | null;
  title: string;
}
export interface Edge {
  key: string;
  from: string;
  to: string;
  label: string;
  /** Keys `from>to>label` of the arrows it stands for: a service's instances share one. */
  arrows: string[];
  path: string;
  /** Middle of the figures; `null` where there is no room for them. */
  at: { x: number; y: number } | null;
}
export interface Layout {
  width: number;
  height: number;
  isNarrow: boolean;
  clients: Rect;
  nodes: Node[];
  frames: Frame[];
  edges: Edge[];
}
export interface Options {
  width: number;
  /** Letter of the primary: it stands first. */
  primary: string | null;
  /** Boxes with something to say, which need two more lines. */
  isTalking: (box: BoxStatus) => boolean;
}

export const BOX_HEIGHT = 78;
export const TALKING_HEIGHT = 110;
const BOX_WIDTH = 190;
const BOX_WIDTH_MIN = 136;
const GAP = 20;
const TIER_GAP = 62;
const WAL_GAP = 92;
const FRAME_PAD = 12;
const FRAME_HEAD = 30;
const MARGIN = 2;
const RAIL_GAP = 44;
const CLIENTS = { w: 112, h: 34 };
/** Below this there are two columns and the rail goes under the rest. */
export const NARROW = 760;
/** More instances than this share one arrow. */
const OWN_ARROWS_MOST = 4;

type Group = { frame: Frame; boxes: BoxStatus[] };

interface Sheet {
  options: Options;
  isNarrow: boolean;
  /** Width of the part without the rail. */
  main: number;
  boxWidth: number;
  nodes: Node[];
  frames: Frame[];
  y: number;
}

export function layout(boxes: BoxStatus[], arrows: Arrow[], options: Options): Layout {
  const isNarrow = options.width < NARROW;
  const boxWidth = isNarrow
    ? Math.max(BOX_WIDTH_MIN, Math.floor((options.width - 2 * MARGIN - 2 * FRAME_PAD - GAP) / 2))
    : Math.max(BOX_WIDTH_MIN + 16, Math.min(BOX_WIDTH, Math.floor((options.width - 330) / 4)));
  const rail = boxes.filter((box) => isRail(box.id));
  const hasSideRail = !isNarrow && rail.length > 0;
  const railWidth = boxWidth + 2 * FRAME_PAD;
  const main = options.width - (hasSideRail ? railWidth + RAIL_GAP : 0);
  const sheet: Sheet = { options, isNarrow, main, boxWidth, nodes: [], frames: [], y: MARGIN };

  const clients = { x: 0, y: sheet.y, ...CLIENTS };
  sheet.y += CLIENTS.h + TIER_GAP - 14;
  const top = sheet.y;
  placeEdgeAndApps(sheet, boxes);
  placeData(sheet, boxes);
  if (hasSideRail) {
    const bottom = sheet.y;
    sheet.y = top;
    placeFrame(sheet, railFrame(), rail, options.width - railWidth - MARGIN, 1);
    sheet.y = Math.max(bottom, sheet.y + TIER_GAP);
  } else if (rail.length > 0) {
    placeFrame(sheet, railFrame(), rail, MARGIN, columnsIn(sheet, rail.length));
    sheet.y += TIER_GAP;
  }
  const front = sheet.nodes.find((node) => node.box.id.kind === "edge") ?? sheet.nodes[0];
  clients.x = (front === undefined ? main / 2 : front.x + front.w / 2) - clients.w / 2;
  const height = Math.max(sheet.y - TIER_GAP, clients.y + clients.h) + MARGIN;
  const drawn = { isNarrow, clients, nodes: sheet.nodes, frames: sheet.frames };
  return { width: options.width, height, ...drawn, edges: edges(arrows, drawn) };
}

function isRail(id: BoxId): boolean {
  return id.kind === "control" || id.kind === "prometheus" || id.kind === "alertmanager";
}

function railFrame(): Frame {
  return { key: "frame:rail", box: null, title: "control and telemetry", x: 0, y: 0, w: 0, h: 0 };
}

function placeEdgeAndApps(sheet: Sheet, boxes: BoxStatus[]): void {
  const edge = boxes.filter((box) => box.id.kind === "edge");
  const sites = boxes.filter((box) => box.id.kind === "site");
  const groups = serviceGroups(boxes);
  if (sheet.isNarrow) {
    placeRows(sheet, [...edge, ...sites]);
    for (const group of groups) {
      placeGroup(sheet, group);
      sheet.y += TIER_GAP;
    }
    return;
  }
  placeRows(sheet, edge);
  // As many groups and sites side by side as there is room for.
  let row: (Group | BoxStatus)[] = [];
  const flush = () => {
    if (row.length > 0) placeMixedRow(sheet, row);
    row = [];
  };
  for (const item of [...groups, ...sites]) {
    if (row.length > 0 && widthOf(sheet, [...row, item]) > sheet.main) flush();
    row.push(item);
  }
  flush();
}

function serviceGroups(boxes: BoxStatus[]): Group[] {
  const groups = new Map<string, Group>();
  const group = (name: string): Group => {
    const found = groups.get(name);
    if (found !== undefined) return found;
    const frame = { key: `service:${name}`, box: null, title: name, x: 0, y: 0, w: 0, h: 0 };
    const made: Group = { frame, boxes: [] };
    groups.set(name, made);
    return made;
  };
  for (const box of boxes) {
    if (box.id.kind === "service") group(box.id.name).frame.box = box;
    if (box.id.kind === "instance") group(box.id.id.service).boxes.push(box);
  }
  return [...groups.values()];
}

function columnsIn(sheet: Sheet, count: number, width = sheet.main): number {
  const room = width - 2 * MARGIN - 2 * FRAME_PAD + GAP;
  return Math.max(1, Math.min(count, Math.floor(room / (sheet.boxWidth + GAP))));
}

function frameWidth(sheet: Sheet, columns: number, gap = GAP): number {
  return 2 * FRAME_PAD + columns * sheet.boxWidth + (columns - 1) * gap;
}

function widthOf(sheet: Sheet, row: (Group | BoxStatus)[]): number {
  const widths = row.map((item) =>
    "boxes" in item ? frameWidth(sheet, columnsIn(sheet, Math.max(1, item.boxes.length))) : sheet.boxWidth,
  );
  return widths.reduce((sum, one) => sum + one, 0) + (row.length - 1) * GAP * 1.5;
}

function placeGroup(sheet: Sheet, group: Group): void {
  const columns = columnsIn(sheet, Math.max(1, group.boxes.length));
  placeFrame(sheet, group.frame, group.boxes, (sheet.main - frameWidth(sheet, columns)) / 2, columns);
}

function placeMixedRow(sheet: Sheet, row: (Group | BoxStatus)[]): void {
  let x = (sheet.main - widthOf(sheet, row)) / 2;
  const y = sheet.y;
  let bottom = y;
  for (const item of row) {
    sheet.y = y;
    if ("boxes" in item) {
      const columns = columnsIn(sheet, Math.max(1, item.boxes.length));
      placeFrame(sheet, item.frame, item.boxes, x, columns);
      x += item.frame.w + GAP * 1.5;
      bottom = Math.max(bottom, sheet.y);
    } else {
      // On one line with the boxes inside the frames beside it.
      const offset = row.some((one) => "boxes" in one) ? FRAME_HEAD : 0;
      const h = height(sheet, [item]);
      sheet.nodes.push({ key: boxKey(item.id), box: item, x, y: y + offset, w: sheet.boxWidth, h });
      x += sheet.boxWidth + GAP * 1.5;
      bottom = Math.max(bottom, y + offset + h);
    }
  }
  sheet.y = bottom + TIER_GAP;
}

function height(sheet: Sheet, boxes: BoxStatus[]): number {
  return boxes.some(sheet.options.isTalking) ? TALKING_HEIGHT : BOX_HEIGHT;
}

/** A frame with its boxes in a grid; leaves `sheet.y` at its bottom. */
function placeFrame(sheet: Sheet, frame: Frame, boxes: BoxStatus[], x: number, columns: number, gap = GAP): void {
  frame.x = x;
  frame.y = sheet.y;
  frame.w = frameWidth(sheet, columns, gap);
  sheet.y += FRAME_HEAD;
  for (let start = 0; start < boxes.length; start += columns) {
    const row = boxes.slice(start, start + columns);
    const h = height(sheet, row);
    for (const [column, box] of row.entries()) {
      const left = x + FRAME_PAD + column * (sheet.boxWidth + gap);
      sheet.nodes.push({ key: boxKey(box.id), box, x: left, y: sheet.y, w: sheet.boxWidth, h });
    }
    sheet.y += h + FRAME_PAD;
  }
  if (boxes.length === 0) sheet.y += FRAME_PAD;
  frame.h = sheet.y - frame.y;
  sheet.frames.push(frame);
}

/** Boxes without a frame, in centred rows; leaves `sheet.y` where the next tier begins. */
function placeRows(sheet: Sheet, boxes: BoxStatus[], center = sheet.main / 2): void {
  const columns = sheet.isNarrow ? 2 : columnsIn(sheet, Math.max(1, boxes.length));
  for (let start = 0; start < boxes.length; start += columns) {
    const row = boxes.slice(start, start + columns);
    const width = row.length * sheet.boxWidth + (row.length - 1) * GAP;
    const h = height(sheet, row);
    for (const [column, box] of row.entries()) {
      const x = center - width / 2 + column * (sheet.boxWidth + GAP);
      sheet.nodes.push({ key: boxKey(box.id), box, x, y: sheet.y, w: sheet.boxWidth, h });
    }
    const isLast = start + columns >= boxes.length;
    sheet.y += h + (isLast ? TIER_GAP : GAP);
  }
}

function placeData(sheet: Sheet, boxes: BoxStatus[]): void {
  const router = boxes.filter((box) => box.id.kind === "router");
  const caches = boxes.filter((box) => box.id.kind === "cache");
  const members = boxes.filter((box) => box.id.kind === "postgres").sort(byRole(sheet.options.primary));
  const frame: Frame = { key: "frame:database", box: null, title: "database", x: 0, y: 0, w: 0, h: 0 };
  if (sheet.isNarrow) {
    placeRows(sheet, caches);
    placeRows(sheet, router);
    if (members.length > 0) {
      const columns = columnsIn(sheet, members.length);
      placeFrame(sheet, frame, members, (sheet.main - frameWidth(sheet, columns)) / 2, columns);
      sheet.y += TIER_GAP;
    }
    return;
  }
  const cacheWidth = caches.length === 0 ? 0 : caches.length * (sheet.boxWidth + GAP) - GAP;
  const room = sheet.main - (cacheWidth === 0 ? 0 : cacheWidth + 2 * GAP) - 2 * FRAME_PAD;
  const gap = members.length * sheet.boxWidth + (members.length - 1) * WAL_GAP <= room ? WAL_GAP : GAP;
  const columns = Math.max(1, Math.min(members.length, Math.floor((room + gap) / (sheet.boxWidth + gap))));
  const left = members.length > 0 ? frameWidth(sheet, columns, gap) : router.length > 0 ? sheet.boxWidth : 0;
  const between = left > 0 && cacheWidth > 0 ? 2 * GAP : 0;
  const start = (sheet.main - left - between - cacheWidth) / 2;
  const y = sheet.y;
  placeRows(sheet, router, start + left / 2);
  const afterRouter = sheet.y;
  sheet.y = y;
  placeRows(sheet, caches, start + left + between + cacheWidth / 2);
  sheet.y = Math.max(sheet.y, afterRouter);
  if (members.length > 0) {
    placeFrame(sheet, frame, members, start, columns, gap);
    sheet.y += TIER_GAP;
  }
}

function byRole(primary: string | null): (a: BoxStatus, b: BoxStatus) => number {
  const rank = (box: BoxStatus) => (box.id.kind === "postgres" && box.id.member === primary ? 0 : 1);
  return (a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name, "en");
}

// --- arrows ---

interface Drawn {
  isNarrow: boolean;
  clients: Rect;
  nodes: Node[];
  frames: Frame[];
}

/** Several arrows that are drawn as one. */
interface Bundle {
  from: string;
  to: string;
  label: string;
  arrows: string[];
}

export function arrowKey(from: BoxId | null, to: BoxId, label: string): string {
  return `${boxKey(from)}>${boxKey(to)}>${label}`;
}

function edges(arrows: Arrow[], drawn: Drawn): Edge[] {
  const places = new Map<string, Rect>([["clients", drawn.clients]]);
  for (const node of drawn.nodes) places.set(node.key, node);
  for (const frame of drawn.frames) places.set(frame.key, frame);
  const bundles = bundle(arrows, drawn);
  const out: Edge[] = [];
  for (const one of bundles) {
    const from = places.get(one.from);
    const to = places.get(one.to);
    if (from === undefined || to === undefined || from === to) continue;
    const key = `${one.from}>${one.to}>${one.label}`;
    out.push({ key, ...one, ...route(one, from, to, bundles, places) });
  }
  return out;
}

function bundle(arrows: Arrow[], drawn: Drawn): Bundle[] {
  const bundles = new Map<string, Bundle>();
  for (const arrow of arrows) {
    const from = arrow.from?.kind === "instance" ? `service:${arrow.from.id.service}` : boxKey(arrow.from);
    const to = ownOrShared(arrow.to, drawn);
    const key = `${from}>${to}>${arrow.label}`;
    const found = bundles.get(key);
    const member = arrowKey(arrow.from, arrow.to, arrow.label);
    if (found === undefined) bundles.set(key, { from, to, label: arrow.label, arrows: [member] });
    else found.arrows.push(member);
  }
  return [...bundles.values()];
}

/** Few instances in one row have an arrow each; many share the one to their service. */
function ownOrShared(to: BoxId, drawn: Drawn): string {
  if (to.kind !== "instance") return boxKey(to);
  const siblings = drawn.nodes.filter((node) => node.box.id.kind === "instance" && node.box.id.id.service === to.id.service);
  const isOneRow = new Set(siblings.map((node) => node.y)).size <= 1;
  return isOneRow && siblings.length <= OWN_ARROWS_MOST ? boxKey(to) : `service:${to.id.service}`;
}

type Route = Pick<Edge, "path" | "at">;

function route(one: Bundle, from: Rect, to: Rect, all: Bundle[], places: Map<string, Rect>): Route {
  const isBeside = from.y < to.y + to.h && to.y < from.y + from.h;
  if (isBeside) return besideRoute(from, to);
  const down = (other: Bundle) => {
    const a = places.get(other.from);
    const b = places.get(other.to);
    return a !== undefined && b !== undefined && a.y + a.h <= b.y;
  };
  const leaving = all.filter((other) => other.from === one.from && down(other));
  const coming = all.filter((other) => other.to === one.to && down(other));
  const x1 = port(from, one, leaving, (other) => middle(places.get(other.to)));
  const x2 = port(to, one, coming, (other) => middle(places.get(other.from)));
  const y1 = from.y + from.h;
  const y2 = to.y;
  const bend = (y2 - y1) / 2;
  const path = `M ${n(x1)} ${n(y1)} C ${n(x1)} ${n(y1 + bend)} ${n(x2)} ${n(y2 - bend)} ${n(x2)} ${n(y2 - 5)}`;
  // Lines that come from far apart are read at their ends, where they have parted.
  const nth = coming.indexOf(one);
  const t = coming.length > 1 ? 0.7 - 0.26 * (nth % 3) : leaving.length > 1 ? 0.6 : 0.5;
  return { path, at: bezier(t, x1, x2, y1, y2, Math.min(bend, TIER_GAP)) };
}

/** Where a line leaves or enters: lines spread over the middle of the side, in the order of their other ends. */
function port(side: Rect, one: Bundle, all: Bundle[], other: (bundle: Bundle) => number): number {
  const sorted = [...all].sort((a, b) => other(a) - other(b));
  const nth = sorted.indexOf(one);
  if (nth < 0 || sorted.length < 2) return side.x + side.w / 2;
  const spread = Math.min(side.w * 0.6, 44 * (sorted.length - 1));
  return side.x + side.w / 2 - spread / 2 + (spread * nth) / (sorted.length - 1);
}

function middle(rect: Rect | undefined): number {
  return rect === undefined ? 0 : rect.x + rect.w / 2;
}

function bezier(t: number, x1: number, x2: number, y1: number, y2: number, _bend: number): { x: number; y: number } {
  const u = 1 - t;
  const early = u * u * u + 3 * u * u * t;
  const late = 3 * u * t * t + t * t * t;
  const mid = (y1 + y2) / 2;
  return { x: early * x1 + late * x2, y: u * u * u * y1 + 3 * u * t * mid + t * t * t * y2 };
}

function besideRoute(from: Rect, to: Rect): Route {
  const isRightward = from.x < to.x;
  const x1 = isRightward ? from.x + from.w : from.x;
  const x2 = isRightward ? to.x - 5 : to.x + to.w + 5;
  const room = Math.abs(x2 - x1);
  const y = Math.min(from.y + from.h, to.y + to.h) - 39;
  if (room < 2 * BOX_WIDTH_MIN) {
    const path = `M ${n(x1)} ${n(y)} C ${n((x1 + x2) / 2)} ${n(y)} ${n((x1 + x2) / 2)} ${n(y)} ${n(x2)} ${n(y)}`;
    return { path, at: room >= WAL_GAP - 10 ? { x: (x1 + x2) / 2, y } : null };
  }
  // Another box stands between: pass under it.
  const below = Math.max(from.y + from.h, to.y + to.h);
  const start = from.x + from.w / 2;
  const end = to.x + to.w / 2;
  const dip = below + 22;
  const path = `M ${n(start)} ${n(from.y + from.h)} C ${n(start)} ${n(dip)} ${n(end)} ${n(dip)} ${n(end)} ${n(to.y + to.h + 5)}`;
  return { path, at: null };
}

function n(value: number): string {
  return String(Math.round(value * 10) / 10);
}
