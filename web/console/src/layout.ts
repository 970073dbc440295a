// Where every box and arrow stands. Pure and deterministic: the same stack at the same width is the same
// picture, so that people find a box where it was and screenshots can be compared.
//
// Wide:   clients / edge / services, sites / router, caches / database     rail on the right
// Narrow: clients / edge, sites / services / caches / router / database / rail below
//
// Every arrow's figures stand in the gap above the box it leads to, where lines that left together have parted.
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
/** Between two database members, when the lag is written between them. */
const WAL_GAP = 88;
/** Below them, when it is not. */
const WAL_DIP = 40;
const FRAME_PAD = 12;
const FRAME_HEAD = 30;
const MARGIN = 2;
const RAIL_GAP = 36;
/** What stands beside the four boxes of the widest usual row: database frame, caches. */
const ROW_EXTRAS = 2 * FRAME_PAD + WAL_GAP + 2 * GAP + GAP + 2 * MARGIN;
/** What stands beside the rail's box. */
const RAIL_EXTRAS = 2 * FRAME_PAD + RAIL_GAP;
/** Narrower boxes cut names: then the rail goes under the rest. */
const BOX_WIDTH_WITH_RAIL = 152;
/** Figures stand this far above the arrow's target, a second line of them above the first. */
const FIGURES_UP = 25;
const FIGURES_STEP = 22;
/** Room that short figures need; longer ones only ever stand in the open gap between tiers. */
const FIGURES = { w: 70, h: 20 };
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
  const rail = boxes.filter((box) => isRail(box.id));
  const withRail = Math.floor((options.width - ROW_EXTRAS - RAIL_EXTRAS) / 5);
  const hasSideRail = rail.length > 0 && withRail >= BOX_WIDTH_WITH_RAIL;
  const fitting = isNarrow
    ? Math.floor((options.width - 2 * MARGIN - 2 * FRAME_PAD - GAP) / 2)
    : hasSideRail
      ? withRail
      : Math.floor((options.width - ROW_EXTRAS) / 4);
  const boxWidth = Math.max(BOX_WIDTH_MIN, isNarrow ? fitting : Math.min(BOX_WIDTH, fitting));
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
    // No arrow leads here, so no figures need the gap.
    sheet.y -= TIER_GAP - GAP;
    const columns = columnsIn(sheet, rail.length);
    placeFrame(sheet, railFrame(), rail, (main - frameWidth(sheet, columns)) / 2, columns);
    sheet.y += TIER_GAP;
  }
  const front = sheet.nodes.find((node) => node.box.id.kind === "edge") ?? sheet.nodes[0];
  clients.x = (front === undefined ? main / 2 : front.x + front.w / 2) - clients.w / 2;
  const height = Math.max(sheet.y - TIER_GAP, clients.y + clients.h) + MARGIN;
  const drawn = { isNarrow, clients, nodes: sheet.nodes, frames: sheet.frames };
  return { width: options.width, height, ...drawn, edges: edges(arrows, drawn) };
}

function isRail(id: BoxId): boolean {
  return id.kind === "control" || id.kind === "prometheus" || id.kind === "alertmanager" || id.kind === "backups";
}

function railFrame(): Frame {
  return { key: "frame:rail", box: null, title: "control, telemetry, backups", x: 0, y: 0, w: 0, h: 0 };
}

function placeEdgeAndApps(sheet: Sheet, boxes: BoxStatus[]): void {
  const edge = boxes.filter((box) => box.id.kind === "edge");
  const sites = boxes.filter((box) => box.id.kind === "site");
  const groups = serviceGroups(boxes);
  if (sheet.isNarrow) {
    placeRows(sheet, [...edge, ...sites]);
    for (const group of groups) {
      placeGroup(sheet, group, columnsIn(sheet, Math.max(1, group.boxes.length)));
      sheet.y += TIER_GAP;
    }
    return;
  }
  const row = [...groups.map((group) => ({ group, columns: Math.max(1, group.boxes.length) }))];
  const isRoomy = row.every((item) => item.columns <= 4) && widthOf(sheet, row, sites.length) <= sheet.main;
  placeEdge(sheet, edge, isRoomy ? [] : sites);
  if (isRoomy) {
    placeAppRow(sheet, row, sites);
    return;
  }
  for (const part of shareColumns(sheet, groups)) placeAppRow(sheet, part, []);
}

/** Edge in the middle; sites beside it when the row below has no room for them, as far as there is room here. */
function placeEdge(sheet: Sheet, edge: BoxStatus[], sites: BoxStatus[]): void {
  const y = sheet.y;
  const room = sheet.main - sheet.boxWidth - WAL_GAP + GAP;
  const beside = sites.slice(0, Math.max(0, Math.floor(room / (sheet.boxWidth + GAP))));
  const width = sheet.boxWidth + (beside.length > 0 ? WAL_GAP - GAP : 0) + beside.length * (sheet.boxWidth + GAP);
  const left = Math.max(0, Math.min((sheet.main - sheet.boxWidth) / 2, sheet.main - width));
  placeRows(sheet, edge, left + sheet.boxWidth / 2);
  const h = height(sheet, [...edge, ...beside]);
  for (const [index, box] of beside.entries()) {
    const x = left + sheet.boxWidth + WAL_GAP + index * (sheet.boxWidth + GAP);
    sheet.nodes.push({ key: boxKey(box.id), box, x, y, w: sheet.boxWidth, h });
  }
  if (edge.length > 0 || beside.length > 0) sheet.y = y + h + TIER_GAP;
  placeRows(sheet, sites.slice(beside.length));
}

interface Placed {
  group: Group;
  columns: number;
}

/** Gives each service as many columns as there is room for; a new row when even one each is too many. */
function shareColumns(sheet: Sheet, groups: Group[]): Placed[][] {
  const rows: Placed[][] = [];
  for (const group of groups) {
    const last = rows.at(-1);
    if (last !== undefined && widthOf(sheet, [...last, { group, columns: 1 }], 0) <= sheet.main) last.push({ group, columns: 1 });
    else rows.push([{ group, columns: 1 }]);
  }
  for (const row of rows) {
    for (;;) {
      const lines = (item: Placed) => Math.ceil(item.group.boxes.length / item.columns);
      const tallest = row.reduce((a, b) => (lines(b) > lines(a) ? b : a));
      if (lines(tallest) <= 1) break;
      tallest.columns += 1;
      if (widthOf(sheet, row, 0) > sheet.main) {
        tallest.columns -= 1;
        break;
      }
    }
  }
  return rows;
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

function widthOf(sheet: Sheet, row: Placed[], sites: number): number {
  const groups = row.reduce((sum, item) => sum + frameWidth(sheet, item.columns), 0);
  return groups + sites * sheet.boxWidth + (row.length + sites - 1) * GAP * 1.5;
}

function placeGroup(sheet: Sheet, group: Group, columns: number): void {
  placeFrame(sheet, group.frame, group.boxes, (sheet.main - frameWidth(sheet, columns)) / 2, columns);
}

function placeAppRow(sheet: Sheet, row: Placed[], sites: BoxStatus[]): void {
  let x = (sheet.main - widthOf(sheet, row, sites.length)) / 2;
  const y = sheet.y;
  let bottom = y;
  for (const { group, columns } of row) {
    sheet.y = y;
    placeFrame(sheet, group.frame, group.boxes, x, columns);
    x += group.frame.w + GAP * 1.5;
    bottom = Math.max(bottom, sheet.y);
  }
  // On one line with the boxes inside the frames beside it.
  const offset = row.length > 0 ? FRAME_HEAD : 0;
  const h = height(sheet, sites);
  for (const box of sites) {
    sheet.nodes.push({ key: boxKey(box.id), box, x, y: y + offset, w: sheet.boxWidth, h });
    x += sheet.boxWidth + GAP * 1.5;
    bottom = Math.max(bottom, y + offset + h);
  }
  if (row.length > 0 || sites.length > 0) sheet.y = bottom + TIER_GAP;
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
  if (sheet.isNarrow) {
    placeRows(sheet, caches);
    placeRows(sheet, router);
    placeMembers(sheet, members, memberGrid(sheet, members.length, sheet.main), null);
    return;
  }
  const cacheWidth = caches.length === 0 ? 0 : caches.length * (sheet.boxWidth + GAP) - GAP;
  const between = caches.length > 0 ? 2 * GAP : 0;
  // Left of the caches if they fit there in one row, else across the whole width below them.
  const beside = memberGrid(sheet, members.length, sheet.main - cacheWidth - between);
  const grid = beside.columns >= members.length ? beside : memberGrid(sheet, members.length, sheet.main);
  const isBeside = grid === beside;
  const left = members.length > 0 && isBeside ? beside.width : router.length > 0 ? sheet.boxWidth : 0;
  const start = (sheet.main - left - (left > 0 ? between : 0) - cacheWidth) / 2;
  const y = sheet.y;
  placeRows(sheet, router, start + left / 2);
  const afterRouter = sheet.y;
  sheet.y = y;
  placeRows(sheet, caches, sheet.main - start - cacheWidth / 2);
  sheet.y = Math.max(sheet.y, afterRouter);
  placeMembers(sheet, members, grid, isBeside ? start : null);
}

interface Grid {
  columns: number;
  gap: number;
  width: number;
}

/** Members in one row with room for the lag between two of them, else closer, else in several rows. */
function memberGrid(sheet: Sheet, count: number, width: number): Grid {
  const room = width - 2 * FRAME_PAD - 2 * MARGIN;
  const isPair = count === 2 && 2 * sheet.boxWidth + WAL_GAP <= room;
  const gap = isPair ? WAL_GAP : GAP;
  const columns = Math.max(1, Math.min(count, Math.floor((room + gap) / (sheet.boxWidth + gap))));
  return { columns, gap, width: frameWidth(sheet, columns, gap) };
}

function placeMembers(sheet: Sheet, members: BoxStatus[], grid: Grid, x: number | null): void {
  if (members.length === 0) return;
  const frame: Frame = { key: "frame:database", box: null, title: "database", x: 0, y: 0, w: 0, h: 0 };
  placeFrame(sheet, frame, members, x ?? (sheet.main - grid.width) / 2, grid.columns, grid.gap);
  if (members.length > 1 && grid.gap < WAL_GAP) {
    frame.h += WAL_DIP;
    sheet.y += WAL_DIP;
  }
  sheet.y += TIER_GAP;
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
  const tops = new Map(drawn.nodes.map((node) => [node.key, topOf(node, drawn.frames)]));
  const bundles = bundle(arrows, drawn);
  const out: Edge[] = [];
  for (const one of bundles) {
    const from = places.get(one.from);
    const to = places.get(one.to);
    if (from === undefined || to === undefined || from === to) continue;
    const key = `${one.from}>${one.to}>${one.label}`;
    const drawnRoute = route(one, from, to, { bundles, places, top: tops.get(one.to) ?? to.y });
    const isCovering = drawnRoute.at !== null && drawn.nodes.some((node) => isUnder(node, drawnRoute.at));
    out.push({ key, ...one, path: drawnRoute.path, at: isCovering ? null : drawnRoute.at });
  }
  return out;
}

/** Whether figures at a place would be written over a box. */
function isUnder(node: Rect, at: { x: number; y: number } | null): boolean {
  const { w, h } = FIGURES;
  return at !== null && at.x + w / 2 > node.x && at.x - w / 2 < node.x + node.w && at.y + h / 2 > node.y && at.y - h / 2 < node.y + node.h;
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

/** An arrow to the first row of a frame ends at the frame's top: its title stays readable. */
function topOf(node: Node, frames: Frame[]): number {
  const around = frames.find((frame) => frame.x <= node.x && node.x + node.w <= frame.x + frame.w && frame.y + FRAME_HEAD === node.y);
  return around?.y ?? node.y;
}

type Route = Pick<Edge, "path" | "at">;

interface Scene {
  bundles: Bundle[];
  places: Map<string, Rect>;
  /** Where an arrow from above ends. */
  top: number;
}

function route(one: Bundle, from: Rect, to: Rect, scene: Scene): Route {
  if (from.y < to.y + to.h && to.y < from.y + from.h) return besideRoute(one, from, to);
  const { places, bundles } = scene;
  const down = (other: Bundle) => {
    const a = places.get(other.from);
    const b = places.get(other.to);
    return a !== undefined && b !== undefined && a.y + a.h <= b.y;
  };
  const leaving = bundles.filter((other) => other.from === one.from && down(other));
  const coming = bundles.filter((other) => other.to === one.to && down(other));
  const x1 = port(from, one, leaving, (other) => middle(places.get(other.to)));
  const x2 = port(to, one, coming, (other) => middle(places.get(other.from)));
  const y1 = from.y + from.h;
  const y2 = scene.top - 4;
  const c1 = y1 + (y2 - y1) * EARLY_BEND;
  const c2 = y1 + (y2 - y1) * LATE_BEND;
  const path = `M ${n(x1)} ${n(y1)} C ${n(x1)} ${n(c1)} ${n(x2)} ${n(c2)} ${n(x2)} ${n(y2)}`;
  const nth = coming.indexOf(one);
  const y = y2 - FIGURES_UP - FIGURES_STEP * Math.max(0, nth);
  // More than two would leave the gap: their figures are in the tooltip.
  return { path, at: nth > 1 ? null : { x: xAt(y, x1, x2, y1, y2), y } };
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

/** Control points of an arrow as shares of its height: it turns early and comes down straight to its figures. */
const EARLY_BEND = 0.5;
const LATE_BEND = 0.12;

/** Where the curve of `route` is at a height: it only ever goes down, so halving finds it. */
function xAt(y: number, x1: number, x2: number, y1: number, y2: number): number {
  let low = 0;
  let high = 1;
  for (let step = 0; step < 20; step += 1) {
    const t = (low + high) / 2;
    const late = 3 * t * t - 2 * t * t * t;
    const down = 3 * (1 - t) ** 2 * t * EARLY_BEND + 3 * (1 - t) * t * t * LATE_BEND + t ** 3;
    const at = y1 + (y2 - y1) * down;
    if (at < y) low = t;
    else high = t;
    if (step === 19) return x1 + (x2 - x1) * late;
  }
  return x2;
}

function besideRoute(one: Bundle, from: Rect, to: Rect): Route {
  const isRightward = from.x < to.x;
  const x1 = isRightward ? from.x + from.w : from.x;
  const x2 = isRightward ? to.x - 4 : to.x + to.w + 4;
  const room = Math.abs(x2 - x1);
  const hasRoom = room >= WAL_GAP - 5;
  // Replication always says its lag, so without room between it goes below.
  if (room < BOX_WIDTH_MIN && (hasRoom || !one.from.startsWith("postgres:"))) {
    const y = Math.max(from.y, to.y) + BOX_HEIGHT / 2;
    const half = (x1 + x2) / 2;
    const path = `M ${n(x1)} ${n(y)} C ${n(half)} ${n(y)} ${n(half)} ${n(y)} ${n(x2)} ${n(y)}`;
    return { path, at: hasRoom ? { x: half, y } : null };
  }
  // Too close for figures, or another box stands between: pass under it.
  const start = from.x + from.w / 2;
  const end = to.x + to.w / 2;
  const y1 = from.y + from.h;
  const y2 = to.y + to.h + 4;
  const dip = Math.max(y1, y2) + WAL_DIP;
  const path = `M ${n(start)} ${n(y1)} C ${n(start)} ${n(dip)} ${n(end)} ${n(dip)} ${n(end)} ${n(y2)}`;
  return { path, at: { x: start + (end - start) * 0.72, y: Math.max(y1, y2) + WAL_DIP * 0.62 } };
}

function n(value: number): string {
  return String(Math.round(value * 10) / 10);
}
