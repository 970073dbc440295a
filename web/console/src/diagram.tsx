// The live picture: boxes and arrows of the stack, drawn where `layout` says.
//
// For a screen reader and for tests it is two lists: the parts, each a button that opens its panel, and the traffic.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { flowsByArrow, isFlowing, nameOfKey, sum, type Sum } from "./flows";
import { StateIcon } from "./icon";
import { layout, type Edge, type Frame, type Layout, type Node, type Rect } from "./layout";
import { measureAs } from "./measure";
import { currentTraffic, serverNow } from "./live";
import { neighbour, type Direction } from "./neighbour";
import { open, opened } from "./route";
import type { BoxStatus, Status } from "./types";
import { absentParts, because, bytes, cut, duration, millis, mood, rate, share, stateWord, wrap } from "./words";

const NAME = measureAs(620, 13.5);
const SMALL = measureAs(400, 12);
const STRONG = measureAs(600, 12);
const FIGURE = measureAs(400, 11);
const FIGURE_STRONG = measureAs(600, 11);
const NAME_LEFT = 34;
const SIDE = 12;

export function Diagram(props: { status: Status }) {
  const holder = useRef<HTMLElement>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const element = holder.current;
    if (element === null) return;
    const measure = () => {
      const style = getComputedStyle(element);
      const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
      setWidth(Math.floor(element.clientWidth - padding));
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);
  const absent = absentParts(props.status);
  return (
    <section class="diagram" ref={holder} aria-label="diagram of the stack">
      {width > 0 && <Picture status={props.status} width={Math.max(300, width)} />}
      <p class="legend">
        {absent !== "" && <span>{absent} </span>}
        Arrows: requests a second · 95 % within · errors. Thicker is more, red is failing, dashed is idle, thin and grey is not measured.
      </p>
    </section>
  );
}

function Picture(props: { status: Status; width: number }) {
  const { status, width } = props;
  const now = serverNow();
  const drawn = layout(status.boxes, status.arrows, {
    width,
    primary: status.database?.primary ?? null,
    isTalking: (box) => isTalking(box),
  });
  const flows = flowsByArrow(status, currentTraffic());
  const seen = drawn.edges.map((edge) => ({ edge, flow: sum(edge.arrows, flows) }));
  return (
    <svg class="picture" width={drawn.width} height={drawn.height} role="group" aria-label={`parts of ${status.stack}`} onKeyDown={(event) => moveFocus(event, drawn)}>
      <defs>
        {["idle", "unknown", "flow", "sick", "ill"].map((name) => (
          <marker key={name} id={`tip-${name}`} class={`tip ${name}`} viewBox="0 0 8 8" refX="3" refY="4" markerWidth="11" markerHeight="11" markerUnits="userSpaceOnUse" orient="auto">
            <path d="M0.5 0.8 7 4 0.5 7.2z" />
          </marker>
        ))}
      </defs>
      <g aria-hidden="true">
        {drawn.frames.map((frame) => (
          <FramePlate key={frame.key} frame={frame} />
        ))}
        {seen.map(({ edge, flow }) => (
          <Line key={edge.key} edge={edge} flow={flow} status={status} />
        ))}
        <Clients drawn={drawn} />
      </g>
      <g role="list" aria-label="parts">
        {inReadingOrder(drawn, status).map((part) =>
          "title" in part ? <FrameHead key={part.key} frame={part} status={status} now={now} /> : <BoxView key={part.key} node={part} status={status} now={now} />,
        )}
      </g>
      <g role="list" aria-label="traffic">
        {seen.map(({ edge, flow }) => (
          <Figures key={edge.key} edge={edge} flow={flow} status={status} />
        ))}
      </g>
    </svg>
  );
}

/** Boxes as the server lists them, the way of a request; the head of a frame before what is in it. */
function inReadingOrder(drawn: Layout, status: Status): (Node | Frame)[] {
  const parts: (Node | Frame)[] = [];
  const heads = new Map(drawn.frames.map((frame) => [frame.key, frame]));
  const head = (key: string) => {
    const frame = heads.get(key);
    if (frame === undefined) return;
    heads.delete(key);
    parts.push(frame);
  };
  const nodes = new Map(drawn.nodes.map((node) => [node.box.name, node]));
  for (const box of status.boxes) {
    if (box.id.kind === "service") head(`service:${box.id.name}`);
    if (box.id.kind === "instance") head(`service:${box.id.id.service}`);
    if (box.id.kind === "postgres") head("frame:database");
    if (["control", "prometheus", "alertmanager", "backups"].includes(box.id.kind)) head("frame:rail");
    const node = nodes.get(box.name);
    if (node !== undefined) parts.push(node);
  }
  return parts;
}

const ARROWS: Record<string, Direction> = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

/** Arrow keys go to the next box in that direction, as the eye does. */
function moveFocus(event: KeyboardEvent, drawn: Layout): void {
  const direction = ARROWS[event.key];
  const from = (event.target as Element).closest<SVGElement>("[data-part]");
  if (direction === undefined || from === null) return;
  const places: (Rect & { key: string })[] = [...drawn.nodes, ...drawn.frames.filter((frame) => frame.box !== null).map((frame) => ({ ...frame, h: 30 }))];
  const next = neighbour(from.dataset["part"] ?? "", direction, places);
  const target = next === null ? null : (event.currentTarget as Element).querySelector<SVGElement>(`[data-part="${CSS.escape(next)}"]`);
  if (target === null) return;
  event.preventDefault();
  target.focus();
}

/** What makes a drawn box a button: it lies over the drawing and has its words as its name. */
function button(box: BoxStatus, key: string, said: string) {
  const isOpen = opened.value === box.name;
  return {
    role: "button" as const,
    // An SVG element knows the attribute by this spelling only.
    tabindex: 0,
    "aria-label": said,
    "aria-expanded": isOpen,
    "aria-controls": isOpen ? "panel" : undefined,
    "data-part": key,
    "data-box": box.name,
    "data-kind": box.id.kind,
    "data-state": box.state,
    onClick: () => open(box.name),
    onKeyDown: (event: KeyboardEvent) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(box.name);
    },
  };
}

/** A box that is not as it should be, and says why. */
function isTalking(box: BoxStatus): boolean {
  return box.state !== "ready" && (box.reason !== null || box.waiting.length > 0);
}

// --- boxes ---

function move(x: number, y: number): { transform: string } {
  return { transform: `translate(${x}px, ${y}px)` };
}

function Clients(props: { drawn: Layout }) {
  const { x, y, w, h } = props.drawn.clients;
  return (
    <g class="clients" style={move(x, y)} data-box="clients">
      <rect width={w} height={h} rx={h / 2} />
      <text x={w / 2} y={h / 2 + 4.5} text-anchor="middle">
        clients
      </text>
    </g>
  );
}

function BoxView(props: { node: Node; status: Status; now: number }) {
  const { node, status, now } = props;
  const { box, w, h } = node;
  const isPrimary = box.id.kind === "postgres" && box.id.member === status.database?.primary;
  const why = because(box, now);
  const since = duration(now - box.since);
  const label = box.label === box.name ? "" : box.label;
  const lines = isTalking(box) ? wrap(why, w - 2 * SIDE, label === "" ? 3 : 2, SMALL) : [];
  const said = spokenBox(box, label);
  const classes = ["part box", mood(box.state), isPrimary ? "primary" : "", opened.value === box.name ? "opened" : ""];
  return (
    <g role="listitem" style={move(node.x, node.y)} class={classes.join(" ")}>
      <g aria-hidden="true">
        <rect class="plate" width={w} height={h} rx="10" />
        <StateIcon state={box.state} size={16} x={11} y={12} />
        <text class="name" x={NAME_LEFT} y="25">
          {cut(title(box), w - NAME_LEFT - SIDE, NAME)}
        </text>
        {label !== "" && (
          <text class="label" x={SIDE} y="45">
            {cut(shorter(label, w - 2 * SIDE), w - 2 * SIDE, isPrimary ? STRONG : SMALL)}
          </text>
        )}
        <text class="state" x={SIDE} y={label === "" ? 45 : 63}>
          <tspan class="word">{stateWord(box.state)}</tspan>
          {STRONG(stateWord(box.state)) + SMALL(` · ${since}`) <= w - 2 * SIDE && <tspan class="since"> · {since}</tspan>}
        </text>
        {lines.map((line, index) => (
          <text key={index} class="why" x={SIDE} y={(label === "" ? 65 : 83) + index * 15}>
            {line}
          </text>
        ))}
      </g>
      <g {...button(box, node.key, why === "" ? said : `${said}: ${why}`)}>
        <rect class="ring" x="-4" y="-4" width={w + 8} height={h + 8} rx="14" />
        <rect class="hit" width={w} height={h} rx="10" />
      </g>
    </g>
  );
}

/** "postgres-a, primary, ready" */
function spokenBox(box: BoxStatus, label: string): string {
  return [box.name, label, stateWord(box.state)].filter((part) => part !== "").join(", ");
}

/** The usual abbreviation where the whole word does not fit. */
function shorter(label: string, width: number): string {
  return SMALL(label) <= width ? label : label.replace("synchronous", "sync");
}

function title(box: BoxStatus): string {
  return box.id.kind === "site" ? box.id.name : box.name;
}

function FramePlate(props: { frame: Frame }) {
  const { frame } = props;
  return (
    <g class={`frame${frame.box === null ? "" : ` ${mood(frame.box.state)}`}`} style={move(frame.x, frame.y)}>
      <rect width={frame.w} height={frame.h} rx="14" />
    </g>
  );
}

function FrameHead(props: { frame: Frame; status: Status; now: number }) {
  const { frame, status, now } = props;
  const words = frameWords(frame, status);
  const box = frame.box;
  const text = (
    <text x={box === null ? 14 : 32} y="20">
      <tspan class="name">{cut(frame.title, frame.w - (box === null ? 26 : 44), STRONG)}</tspan>
      <tspan class="since">{words === "" ? "" : `  ${cut(words, frame.w - (box === null ? 34 : 52) - STRONG(frame.title), SMALL)}`}</tspan>
    </text>
  );
  if (box === null) {
    return (
      <g role="listitem" style={move(frame.x, frame.y)} class="part frame">
        <g role="img" aria-label={words === "" ? frame.title : `${frame.title}, ${words}`}>
          {text}
        </g>
      </g>
    );
  }
  const why = because(box, now);
  const said = spokenBox(box, words);
  return (
    <g role="listitem" style={move(frame.x, frame.y)} class={`part frame head ${mood(box.state)}${opened.value === box.name ? " opened" : ""}`}>
      <g aria-hidden="true">
        <StateIcon state={box.state} size={13} x={13} y={9} />
        {text}
      </g>
      <g {...button(box, frame.key, why === "" ? said : `${said}: ${why}`)}>
        <rect class="ring" x="4" y="2" width={frame.w - 8} height="25" rx="10" />
        <rect class="hit" width={frame.w} height="29" rx="14" />
      </g>
    </g>
  );
}

function frameWords(frame: Frame, status: Status): string {
  if (frame.key !== "frame:database") return frame.box?.label ?? "";
  const database = status.database;
  if (database === null) return "";
  const parts = [database.is_writable ? "writable" : "not writable"];
  parts.push(database.is_synchronous ? "synchronous" : "asynchronous");
  parts.push(`timeline ${database.timeline}`);
  if (database.failovers > 0) parts.push(database.failovers === 1 ? "1 failover" : `${database.failovers} failovers`);
  return parts.join(" · ");
}

// --- arrows ---

/** Nothing flows, nobody measured, it flows, some of it fails, much of it fails. */
type Health = "idle" | "unknown" | "flow" | "sick" | "ill";

function health(edge: Edge, flow: Sum | null, status: Status): Health {
  if (edge.label === "WAL") return lag(edge, status) === undefined ? "idle" : "flow";
  if (flow === null) return "unknown";
  if (!isFlowing(flow)) return "idle";
  return flow.errorShare >= 0.05 ? "ill" : flow.errorShare >= 0.001 ? "sick" : "flow";
}

function Line(props: { edge: Edge; flow: Sum | null; status: Status }) {
  const { edge, flow, status } = props;
  const kind = health(edge, flow, status);
  // Ten times the traffic is one point more: 1/s is visible, 10,000/s is not a beam.
  const thickness = isFlowing(flow) ? Math.min(6, 1.4 + Math.log10(1 + flow.perSecond)) : 1.4;
  const period = isFlowing(flow) ? Math.max(0.5, 2.4 - Math.log10(1 + flow.perSecond) * 0.55) : 2.4;
  const shape = { d: `path("${edge.path}")` } as Record<string, string>;
  return (
    <g class={`edge ${kind}${edge.label === "WAL" ? " wal" : ""}`} data-edge={edge.key} data-flow={kind}>
      <path class="line" d={edge.path} style={{ ...shape, strokeWidth: `${thickness}px` }} marker-end={`url(#tip-${kind})`} />
      {kind !== "idle" && kind !== "unknown" && <path class="pulse" d={edge.path} style={{ ...shape, strokeWidth: `${Math.max(1.2, thickness * 0.6)}px`, animationDuration: `${period}s` }} />}
    </g>
  );
}

function Figures(props: { edge: Edge; flow: Sum | null; status: Status }) {
  const { edge, flow, status } = props;
  if (edge.at === null) return null;
  const kind = health(edge, flow, status);
  const errors = isFlowing(flow) && flow.errorShare >= 0.001 ? share(flow.errorShare) : null;
  const plain = edge.label === "WAL" ? lagWords(edge, status) : isFlowing(flow) ? figures(flow) : edge.label;
  const width = 16 + FIGURE(plain) + (errors === null ? 0 : FIGURE_STRONG(` · ${errors}`));
  return (
    <g class={`figures ${kind}`} style={move(edge.at.x, edge.at.y)} role="listitem">
      <g role="img" aria-label={spoken(edge, flow, plain)}>
        <title>{spoken(edge, flow, plain)}</title>
        <rect x={-width / 2} y="-10" width={width} height="20" rx="10" />
        <text y="4" text-anchor="middle">
          {plain}
          {errors !== null && <tspan class="errors"> · {errors}</tspan>}
        </text>
      </g>
    </g>
  );
}

/** The legend under the picture says which figure is which. */
function figures(flow: Sum): string {
  return flow.p95 === null ? rate(flow.perSecond) : `${rate(flow.perSecond)} · ${millis(flow.p95)}`;
}

/** `undefined` while the standby does not stream. */
function lag(edge: Edge, status: Status): number | undefined {
  return status.database?.lag_bytes[edge.to.replace("postgres:", "")];
}

function lagWords(edge: Edge, status: Status): string {
  const behind = lag(edge, status);
  return behind === undefined ? "WAL" : behind === 0 ? "in sync" : bytes(behind);
}

function spoken(edge: Edge, flow: Sum | null, plain: string): string {
  const ends = `${nameOfKey(edge.from)} to ${nameOfKey(edge.to)}, ${edge.label}`;
  if (edge.label === "WAL") return `${ends}: ${plain === "WAL" ? "not streaming" : plain === "in sync" ? plain : `${plain} behind`}`;
  if (flow === null) return `${ends}: not measured`;
  if (!isFlowing(flow)) return `${ends}: idle`;
  const time = flow.p95 === null ? "" : `, 95 % within ${millis(flow.p95)}`;
  return `${ends}: ${rate(flow.perSecond).replace("/s", " per second")}${time}, ${share(flow.errorShare)} errors`;
}
