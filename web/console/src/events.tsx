// What happened: newest first, by day, filtered by how much it matters.
import { useId, useMemo, useState } from "preact/hooks";
import { knownAtFirst, today } from "./live";
import type { Event, Level } from "./types";
import { clock, day } from "./words";

/** Events shown at once; a failover has about fifteen. */
const SHOWN_MOST = 80;

type Filter = "all" | "warn" | "error";
const FILTERS: { filter: Filter; word: string }[] = [
  { filter: "all", word: "all" },
  { filter: "warn", word: "warnings" },
  { filter: "error", word: "errors" },
];
const RANK: Record<Level, number> = { info: 0, warn: 1, error: 2 };
const LEAST: Record<Filter, number> = { all: 0, warn: 1, error: 2 };

export function Events(props: { events: Event[] }) {
  const [filter, setFilter] = useState<Filter>("all");
  const name = useId();
  const passing = (one: Filter) => props.events.filter((event) => RANK[event.level] >= LEAST[one]);
  const shown = passing(filter).slice(-SHOWN_MOST);
  return (
    <section class="events" aria-labelledby="events-title">
      <div class="head">
        <h2 id="events-title">Events</h2>
        <fieldset class="choices">
          <legend class="unseen">events shown</legend>
          {FILTERS.map((one) => (
            <label key={one.filter} class={filter === one.filter ? "on" : ""}>
              <input type="radio" class="unseen" name={name} checked={filter === one.filter} onChange={() => setFilter(one.filter)} />
              {one.word}
              {one.filter !== "all" && <span class="count"> {passing(one.filter).length}</span>}
            </label>
          ))}
        </fieldset>
      </div>
      {shown.length === 0 ? (
        <p class="quiet nothing">{props.events.length === 0 ? "Nothing has happened yet." : `No ${filter === "error" ? "errors" : "warnings or errors"} among the last ${props.events.length} events.`}</p>
      ) : (
        <EventList events={shown} />
      )}
    </section>
  );
}

export function EventList(props: { events: Event[] }) {
  const { events } = props;
  const now = today.value;
  // Drawn again when there is another event or another day, not with every tick of the clock.
  const last = events.at(-1)?.seq ?? 0;
  return useMemo(() => <ol class="event-list">{rows(events, now)}</ol>, [events.length, events[0]?.seq, last, now]);
}

/** Newest first; a day is named where it begins. `now` is midday of today. */
function rows(events: Event[], now: number) {
  let last = "today";
  return [...events].reverse().map((event) => {
    const its = day(event.at, now);
    const isOther = its !== last;
    last = its;
    return (
      <li key={event.seq} class={`event ${event.level}${event.seq > knownAtFirst() ? " new" : ""}`} data-kind={event.kind} data-level={event.level} data-subject={event.subject}>
        {isOther && <span class="day">{its}</span>}
        <time dateTime={new Date(event.at / 1000).toISOString()}>{clock(event.at)}</time>
        <span class="text" title={event.kind}>
          <span class={event.level === "info" ? "level unseen" : "level"}>{event.level} </span>
          {event.text}
        </span>
      </li>
    );
  });
}
