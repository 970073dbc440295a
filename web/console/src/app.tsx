// The page: header with one sentence, the diagram, the last events; and what it says when there is nothing.
import { useEffect, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { Diagram } from "./diagram";
import { StateIcon } from "./icon";
import { Command } from "./command";
import { DrillDebt } from "./drillview";
import { Events } from "./events";
import { age, events, link, nowMicros, serverNow, status, tick } from "./live";
import { Panel } from "./panel";
import { opened } from "./route";
import { choose, theme, type Theme } from "./theme";
import type { Status } from "./types";
import { duration, mood, othersWrong, overallSentence, spokenSentence } from "./words";

const begun = nowMicros();
/** A picture comes within milliseconds; after this long a next step is worth saying. */
const PATIENCE = 4_000_000;

export function App() {
  const now = link.value;
  const shown = status.value;
  if (now.kind === "signed-out" && shown === null) {
    return (
      <Notice title="This console opens with a link" view="signed-out">
        <p>Run this where the stack runs, and open the link it prints:</p>
        <p>
          <Command text="mainstay console" />
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
      silent: "mainstay does not answer; trying again",
      unlooked: "Loading the picture of the stack",
    };
    return (
      <Notice title={words[now.kind]} view={now.kind === "lost" ? "unreachable" : "loading"}>
        {(now.kind === "lost" || now.kind === "silent" || tick.value - begun > PATIENCE) && (
          <p>
            Is the stack up? <code>mainstay status</code> tells, <code>mainstay up</code> starts it.
          </p>
        )}
      </Notice>
    );
  }
  return <Page status={shown} />;
}

function Notice(props: { title: string; view: "loading" | "unreachable" | "signed-out"; children?: ComponentChildren }) {
  return (
    <main class="notice" data-view={props.view}>
      <div class="card" role="status">
        <svg class={props.view === "signed-out" ? "mark" : "mark breathing"} viewBox="0 0 32 32" aria-hidden="true">
          <path d="M16 5v22M16 7 6 26M16 7l10 19" />
        </svg>
        <h1>{props.title}</h1>
        {props.children}
      </div>
    </main>
  );
}

/** How fresh the picture is: it moves, it may be old, nothing comes any more. */
type View = "live" | "stale" | "lost";

function viewOf(kind: string): View {
  if (kind === "live") return "live";
  return kind === "silent" || kind === "unlooked" ? "stale" : "lost";
}

function Page(props: { status: Status }) {
  const { status } = props;
  const view = viewOf(link.value.kind);
  const said = overallSentence(status, serverNow());
  const sentence = view === "live" ? said : `Last seen: ${said}`;
  const isWell = mood(status.overall) === "good" && !status.is_stopping;
  useEffect(() => {
    document.title = `${view === "live" ? (isWell ? "" : "! ") : "… "}${status.stack} – mainstay`;
  }, [status.stack, view, isWell]);
  // The picture first; what stands beside and below it a moment later.
  const [isDrawn, setDrawn] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setDrawn(true));
    return () => clearTimeout(timer);
  }, []);
  const name = opened.value;
  return (
    <div class={name === null ? `page ${view}` : `page ${view} with-panel`} data-view={view}>
      <Header status={status} sentence={sentence} view={view} />
      {view !== "live" && <Banner view={view} />}
      <main class="content">
        {status.boxes.length === 0 ? <Empty /> : <Diagram status={status} />}
        {isDrawn && <Events events={events.value} />}
        {isDrawn && <DrillDebt status={status} />}
      </main>
      {name !== null && <Panel name={name} status={status} />}
    </div>
  );
}

const LIVE_WORDS: Record<View, string> = { live: "live", stale: "stale", lost: "not live" };

function Header(props: { status: Status; sentence: string; view: View }) {
  const { status, sentence, view } = props;
  const isLive = view === "live";
  const state = status.is_stopping ? "draining" : status.overall;
  const others = othersWrong(status);
  const old = age();
  return (
    <header class="top">
      <div class="title">
        <h1>{status.stack}</h1>
        <span class="badge">{status.environment}</span>
        <span class={`freshness ${view}`} data-freshness={view}>
          {LIVE_WORDS[view]}
          {!isLive && old !== null && ` · ${duration(old)}`}
        </span>
      </div>
      <div class={`overall ${isLive ? mood(state) : "off"}`} data-overall={status.overall} title={sentence}>
        <StateIcon state={isLive ? state : "unknown"} size={18} />
        <span class="sentence">{sentence}</span>
        {others > 0 && status.is_up && !status.is_stopping && <span class="others">{others} more not ready</span>}
      </div>
      <p class="unseen" role="status">
        {isLive ? spokenSentence(status) : `${LIVE_WORDS[view]}. Last seen: ${spokenSentence(status)}`}
      </p>
      <ThemeSwitch />
      <Links urls={status.urls} since={serverNow() - status.since} />
    </header>
  );
}

const THEMES: { theme: Theme; word: string; shape: string }[] = [
  { theme: "system", word: "colours as the system", shape: "M2.5 3.5h11v7h-11zM6 13h4M8 10.5V13" },
  { theme: "light", word: "light colours", shape: "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6zM8 1.6v1.2M8 13.2v1.2M1.6 8h1.2M13.2 8h1.2M3.5 3.5l.8.8M11.7 11.7l.8.8M12.5 3.5l-.8.8M4.3 11.7l-.8.8" },
  { theme: "dark", word: "dark colours", shape: "M13 9.6A5.6 5.6 0 0 1 6.4 3a5.4 5.4 0 1 0 6.6 6.6z" },
];

function ThemeSwitch() {
  return (
    <fieldset class="choices themes">
      <legend class="unseen">colours</legend>
      {THEMES.map((one) => (
        <label key={one.theme} class={theme.value === one.theme ? "on" : ""} title={one.word}>
          <input type="radio" class="unseen" name="theme" aria-label={one.word} checked={theme.value === one.theme} onChange={() => choose(one.theme)} />
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <path d={one.shape} />
          </svg>
        </label>
      ))}
    </fieldset>
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

function Banner(props: { view: View }) {
  const old = age();
  const ago = old === null ? "" : `${duration(old)} old`;
  const kind = link.value.kind;
  if (kind === "signed-out") {
    return (
      <section class="banner" aria-label="connection">
        <strong>This session is over.</strong> The picture is {ago}. For a new link, run <Command text="mainstay console" />
      </section>
    );
  }
  if (props.view === "stale") {
    return (
      <section class="banner mild" aria-label="connection">
        <strong>The picture is {ago}.</strong>{" "}
        {kind === "silent" ? "The control plane says nothing; it is being asked." : "The control plane answers, and has not looked at the stack since."}
      </section>
    );
  }
  return (
    <section class="banner" aria-label="connection">
      <strong>No connection to the control plane; the picture is {ago}.</strong> Traffic and databases go on without it. Trying again…
    </section>
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
