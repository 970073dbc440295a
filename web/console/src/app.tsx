// The page: header with one sentence, the diagram, the last events; and what it says when there is nothing.
import { useEffect } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { Diagram } from "./diagram";
import { StateIcon } from "./icon";
import { events, heard, link, serverNow, status, tick } from "./live";
import type { Event, Status } from "./types";
import { clock, duration, mood, othersWrong, overallSentence } from "./words";

/** Events shown; a failover has about ten. */
const EVENTS_SHOWN = 60;

export function App() {
  const now = link.value;
  const shown = status.value;
  if (now.kind === "signed-out" && shown === null) {
    return (
      <Notice title="This console opens with a link">
        <p>
          Run <code>mainstay console</code> where the stack runs and open the link it prints.
        </p>
        <p class="quiet">{now.why}.</p>
      </Notice>
    );
  }
  if (shown === null) {
    const words = {
      loading: "Loading the picture of the stack",
      starting: "The control plane is starting",
      lost: "mainstay does not answer; trying again",
      "signed-out": "This console opens with a link",
      live: "Loading the picture of the stack",
    };
    return (
      <Notice title={words[now.kind]} isBusy>
        {now.kind === "lost" && (
          <p>
            Is the stack up? <code>mainstay status</code> tells, <code>mainstay up</code> starts it.
          </p>
        )}
      </Notice>
    );
  }
  return <Page status={shown} />;
}

function Notice(props: { title: string; isBusy?: boolean; children?: ComponentChildren }) {
  return (
    <main class="notice" data-view={props.isBusy === true ? "loading" : "signed-out"}>
      <div class="card" role="status">
        <svg class={props.isBusy === true ? "mark breathing" : "mark"} viewBox="0 0 32 32" aria-hidden="true">
          <path d="M16 5v22M16 7 6 26M16 7l10 19" />
        </svg>
        <h1>{props.title}</h1>
        {props.children}
      </div>
    </main>
  );
}

function Page(props: { status: Status }) {
  const { status } = props;
  const isLost = link.value.kind !== "live";
  const said = overallSentence(status, serverNow());
  const sentence = isLost ? `Last seen: ${said}` : said;
  const isWell = mood(status.overall) === "good" && !status.is_stopping;
  useEffect(() => {
    document.title = `${isLost ? "… " : isWell ? "" : "! "}${status.stack} – mainstay`;
  }, [status.stack, isLost, isWell]);
  return (
    <div class={isLost ? "page lost" : "page"} data-view={isLost ? "lost" : "live"}>
      <Header status={status} sentence={sentence} isLost={isLost} />
      {isLost && <Lost />}
      <main class="content">
        {status.boxes.length === 0 ? <Empty /> : <Diagram status={status} />}
        <Events events={events.value} />
      </main>
    </div>
  );
}

function Header(props: { status: Status; sentence: string; isLost: boolean }) {
  const { status, sentence, isLost } = props;
  const state = status.is_stopping ? "draining" : status.overall;
  const others = othersWrong(status);
  return (
    <header class="top">
      <div class="title">
        <h1>{status.stack}</h1>
        <span class="badge">{status.environment}</span>
        <span class={`live ${isLost ? "off" : "on"}`}>{isLost ? "not live" : "live"}</span>
      </div>
      <p class={`overall ${isLost ? "off" : mood(state)}`} role="status" aria-live="polite" data-overall={status.overall} title={sentence}>
        <StateIcon state={isLost ? "unknown" : state} size={18} />
        <span class="sentence">{sentence}</span>
        {others > 0 && status.is_up && !status.is_stopping && <span class="others">{others} more not ready</span>}
      </p>
      <Links urls={status.urls} since={serverNow() - status.since} />
    </header>
  );
}

function Links(props: { urls: Record<string, string>; since: number }) {
  return (
    <ul class="links" aria-label="addresses">
      {Object.entries(props.urls)
        .filter(([name]) => name !== "console")
        .map(([name, url]) => (
          <li key={name}>
            <span class="quiet">{name}</span> {/^https?:\/\//.test(url) ? <a href={url}>{short(url)}</a> : <code>{plain(name, url)}</code>}
          </li>
        ))}
      <li>
        <span class="quiet">up for</span> {duration(props.since)}
      </li>
    </ul>
  );
}

/** "router 127.0.0.1:6432" under the name "router" says it twice. */
function plain(name: string, text: string): string {
  return text.startsWith(`${name} `) ? text.slice(name.length + 1) : text;
}

function short(url: string): string {
  return url.replace(/^https?:\/\//, "").replace(/\/$/, "");
}

function Lost() {
  const ago = heard.value === null ? "" : `, last seen ${duration(tick.value - heard.value)} ago`;
  if (link.value.kind === "signed-out") {
    return (
      <p class="banner" role="alert">
        <strong>This session is over{ago}.</strong> Run <code>mainstay console</code> and open the link it prints.
      </p>
    );
  }
  return (
    <p class="banner" role="alert">
      <strong>No connection to the control plane{ago}.</strong> Traffic and databases go on without it. Trying again…
    </p>
  );
}

function Empty() {
  return (
    <section class="diagram empty" data-view="empty">
      <h2>This stack has no parts yet</h2>
      <p>
        Add a <code>[service.NAME]</code>, a <code>[database]</code> or a <code>[site.NAME]</code> to{" "}
        <code>mainstay.toml</code>, then run <code>mainstay up</code>.
      </p>
    </section>
  );
}

function Events(props: { events: Event[] }) {
  const last = props.events.slice(-EVENTS_SHOWN).reverse();
  return (
    <section class="events" aria-labelledby="events-title">
      <h2 id="events-title">Events</h2>
      {last.length === 0 ? (
        <p class="quiet">Nothing has happened yet.</p>
      ) : (
        <ol>
          {last.map((event) => (
            <li key={event.seq} class={`event ${event.level}`} data-kind={event.kind} data-level={event.level}>
              <time dateTime={new Date(event.at / 1000).toISOString()}>{clock(event.at)}</time>
              <span class="text" title={event.kind}>
                <span class={event.level === "info" ? "level unseen" : "level"}>{event.level} </span>
                {event.text}
              </span>
            </li>
          ))}
        </ol>
      )}
    </section>
  );
}
