// One box, in full: what it is, what it waits for, what flows, what happened, what it prints, which drill tries it.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { Command } from "./command";
import { drillsOf } from "./drills";
import { DrillOfBox } from "./drillview";
import { EventList } from "./events";
import { eventsOf, facts, instancesOf, logOf, type Fact } from "./facts";
import { flowWords, passing } from "./flows";
import { StateIcon } from "./icon";
import { currentTraffic, events, processes, readProcesses, serverNow } from "./live";
import { follow, loudness, type Line, type Log } from "./log";
import { close, isByHand, open } from "./route";
import { boxKey, type BoxStatus, type Status } from "./types";
import { because, duration, mood, stateWord, waitingText } from "./words";

/** Memory and pids change slowly. */
const PROCESSES_MS = 3000;
/** Room above a box that stands over the sheet, in pixels. */
const SHEET_CLEARANCE = 60;
/** Events of one box that are shown. */
const EVENTS_MOST = 20;

export function Panel(props: { name: string; status: Status }) {
  const { name, status } = props;
  const box = status.boxes.find((one) => one.name === name);
  const title = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    if (isByHand) title.current?.focus({ preventScroll: true });
    showBox(name);
    return () => {
      // Whoever came by keyboard goes on from the box.
      if (document.activeElement === document.body || document.activeElement === null) focusBox(name);
    };
  }, [name]);
  useEffect(() => {
    const ask = () => void readProcesses();
    ask();
    const timer = setInterval(ask, PROCESSES_MS);
    return () => clearInterval(timer);
  }, [box?.state]);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "Escape") return;
      close();
      focusBox(name);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [name]);
  return (
    <aside id="panel" class="panel" aria-labelledby="panel-title" data-panel={name}>
      <div class="panel-head">
        {box !== undefined && <StateIcon state={box.state} size={20} />}
        <h2 id="panel-title" tabIndex={-1} ref={title}>
          {box?.id.kind === "site" ? box.id.name : name}
        </h2>
        <button
          type="button"
          class="close"
          aria-label={`close ${name}`}
          onClick={() => {
            close();
            focusBox(name);
          }}
        >
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <path d="M3.5 3.5l9 9M12.5 3.5l-9 9" />
          </svg>
        </button>
      </div>
      {box === undefined ? <p class="quiet pad">This stack has no part of that name.</p> : <Body box={box} status={status} />}
    </aside>
  );
}

/** On a phone the sheet covers the lower part: the box that it is about goes above it. */
function showBox(name: string): void {
  if (!matchMedia("(max-width: 640px)").matches) return;
  const place = document.querySelector(`.picture [data-box="${CSS.escape(name)}"]`)?.getBoundingClientRect();
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (place !== undefined) scrollBy({ top: place.top - SHEET_CLEARANCE, behavior: isStill ? "instant" : "smooth" });
}

function focusBox(name: string): void {
  document.querySelector<SVGElement>(`.picture [data-box="${CSS.escape(name)}"]`)?.focus();
}

function Body(props: { box: BoxStatus; status: Status }) {
  const { box, status } = props;
  const now = serverNow();
  const log = logOf(box, status);
  return (
    <div class="panel-body">
      <p class={`panel-state ${mood(box.state)}`} data-state={box.state}>
        <span class="word">{stateWord(box.state)}</span> <span class="since">for {duration(now - box.since)}</span>
        {box.label !== "" && box.label !== box.name && <span class="since"> · {box.label}</span>}
      </p>
      <Why box={box} now={now} />
      <Instances box={box} status={status} />
      <Facts list={facts(box, status, processes.value, now)} />
      <Traffic box={box} status={status} />
      {log !== null && <LogView key={log.query} query={log.query} names={log.names} command={log.command} />}
      <Drills box={box} status={status} />
      <BoxEvents box={box} status={status} />
    </div>
  );
}

function Section(props: { title: string; id: string; children: ComponentChildren; note?: ComponentChildren }) {
  return (
    <section class="part-of-panel" aria-labelledby={`panel-${props.id}`}>
      <div class="section-head">
        <h3 id={`panel-${props.id}`}>{props.title}</h3>
        {props.note}
      </div>
      {props.children}
    </section>
  );
}

function Why(props: { box: BoxStatus; now: number }) {
  const { box, now } = props;
  if (box.reason === null && box.waiting.length === 0) return null;
  return (
    <Section id="why" title={box.waiting.length === 0 ? "Why" : box.reason === null ? "What it waits for" : "Why, and what it waits for"}>
      <ul class={`why-list ${mood(box.state)}`}>
        {box.reason !== null && <li>{box.reason}</li>}
        {box.waiting.map((one, index) => (
          <li key={index}>{waitingText(one, now)}</li>
        ))}
      </ul>
    </Section>
  );
}

function Instances(props: { box: BoxStatus; status: Status }) {
  if (props.box.id.kind !== "service") return null;
  const instances = instancesOf(props.box, props.status);
  const now = serverNow();
  return (
    <Section id="instances" title="Instances">
      {instances.length === 0 && <p class="quiet">None.</p>}
      <ul class="instances">
        {instances.map((one) => (
          <li key={one.name}>
            <button type="button" onClick={() => open(one.name)}>
              <StateIcon state={one.state} size={14} />
              <span class="name">{one.name}</span>
              <span class="quiet">
                {stateWord(one.state)} for {duration(now - one.since)}
                {because(one, now) === "" ? "" : ` · ${because(one, now)}`}
              </span>
            </button>
          </li>
        ))}
      </ul>
    </Section>
  );
}

function Facts(props: { list: Fact[] }) {
  if (props.list.length === 0) return null;
  return (
    <Section id="facts" title="Facts">
      <dl class="facts">
        {props.list.map((fact) => (
          <div key={fact.name}>
            <dt>{fact.name}</dt>
            <dd>{fact.href !== undefined ? <a href={fact.href}>{fact.value}</a> : fact.isCode === true ? <code>{fact.value}</code> : fact.value}</dd>
          </div>
        ))}
      </dl>
    </Section>
  );
}

function Traffic(props: { box: BoxStatus; status: Status }) {
  const { box, status } = props;
  const keys = box.id.kind === "service" ? instancesOf(box, status).map((one) => boxKey(one.id)) : [boxKey(box.id)];
  const lines = passing(new Set(keys), status, currentTraffic());
  if (lines.length === 0) return null;
  return (
    <Section id="traffic" title="Traffic">
      <ul class="passing">
        {lines.map((line) => (
          <li key={line.key}>
            <span>
              <span class="quiet">{line.isInward ? "from" : "to"}</span> {line.other} <span class="quiet">{line.label}</span>
            </span>
            <span class={line.flow !== null && line.flow.errorShare >= 0.001 ? "figure bad" : "figure"}>{flowWords(line.flow)}</span>
          </li>
        ))}
      </ul>
    </Section>
  );
}

function Drills(props: { box: BoxStatus; status: Status }) {
  const drills = drillsOf(props.box, props.status.drills ?? []);
  if (drills.length === 0) return null;
  return (
    <Section id="drill" title={drills.length === 1 ? "The drill that tries it" : "The drills that try it"}>
      <ul class="box-drills">
        {drills.map((drill) => (
          <DrillOfBox key={drill.drill} drill={drill} />
        ))}
      </ul>
    </Section>
  );
}

function BoxEvents(props: { box: BoxStatus; status: Status }) {
  const its = eventsOf(props.box, props.status, events.value).slice(-EVENTS_MOST);
  return (
    <Section id="events" title="Its events">
      {its.length === 0 ? <p class="quiet">None among the last {events.value.length} events of the stack.</p> : <EventList events={its} />}
    </Section>
  );
}

// --- log ---

function LogView(props: { query: string; names: string[]; command: string }) {
  const { query, names } = props;
  const log = useMemo(() => follow(query, names), [query, names.join(" ")]);
  useEffect(() => () => log.stop(), [log]);
  return (
    <Section id="log" title="Log">
      <LogLines log={log} label={`log of ${query}`} isOfSeveral={names.length > 1} />
      <Command text={props.command} />
    </Section>
  );
}

function LogLines(props: { log: Log; label: string; isOfSeveral: boolean }) {
  const holder = useRef<HTMLDivElement>(null);
  const [filter, setFilter] = useState("");
  /** Number of the last line that was there when one began to read further up. */
  const [since, setSince] = useState<number | null>(null);
  const lines = props.log.lines.value;
  const kind = props.log.tail.value.kind;
  const wanted = filter.trim().toLowerCase();
  const shown = wanted === "" ? lines : lines.filter((line) => line.text.toLowerCase().includes(wanted));
  const last = lines.at(-1)?.number ?? 0;
  useLayoutEffect(() => {
    const element = holder.current;
    if (element !== null && since === null) element.scrollTop = element.scrollHeight;
  }, [last, since, wanted]);
  const onScroll = () => {
    const element = holder.current;
    if (element === null) return;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
    if (isAtEnd && since !== null) setSince(null);
    if (!isAtEnd && since === null) setSince(last);
  };
  return (
    <div class="log-view">
      <div class="log-bar">
        <input type="search" placeholder="only lines with…" aria-label="only lines with" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        <span class="quiet" data-tail={kind}>
          {tailWords(kind)}
        </span>
      </div>
      <div class="log" role="log" aria-live="off" aria-label={props.label} tabIndex={0} ref={holder} onScroll={onScroll}>
        {shown.length === 0 && <p class="quiet">{nothingWords(kind, lines.length, wanted)}</p>}
        {shown.map((line) => (
          <LogLine key={line.number} line={line} isOfSeveral={props.isOfSeveral} />
        ))}
      </div>
      {since !== null && (
        <button type="button" class="to-end" onClick={() => setSince(null)}>
          {last > since ? `${last - since} new, ` : ""}to the end ↓
        </button>
      )}
    </div>
  );
}

function LogLine(props: { line: Line; isOfSeveral: boolean }) {
  const { line } = props;
  return (
    <p class={`log-line ${loudness(line.text)}`}>
      {props.isOfSeveral && <span class="child">{line.child} </span>}
      {line.text}
    </p>
  );
}

function tailWords(kind: string): string {
  return { loading: "reading…", following: "as it is written", none: "no log yet", cut: "cut off; trying again" }[kind] ?? "";
}

function nothingWords(kind: string, lines: number, wanted: string): string {
  if (kind === "loading") return "Reading…";
  if (kind === "none") return "It has no log yet.";
  return lines > 0 ? `None of ${lines} lines has “${wanted}”.` : "It has printed nothing.";
}
