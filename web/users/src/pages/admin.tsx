import { useState } from "preact/hooks";
import { ask, get, say, text } from "../api";
import type { Health, Info, Level, Loggers, Metric, Tasks } from "../types";
import { Heading, Loaded, Unseen, useAsked } from "../ui";
import { number, relative } from "../words";
import { asked } from "./dashboard";

const BASE = "/api/admin/actuator";
const EVERY_MS = 10_000;
const TABS = ["health", "metrics", "loggers"] as const;

export function Admin(props: { tab: (typeof TABS)[number] }) {
  return (
    <>
      <Heading title="Operation" />
      <nav class="tabs" aria-label="Operation">
        {TABS.map((tab) => (
          <a key={tab} href={`/admin/${tab}`} {...(tab === props.tab ? { "aria-current": "page" as const } : {})}>
            {tab === "health" ? "Health" : tab === "metrics" ? "Metrics" : "Log levels"}
          </a>
        ))}
      </nav>
      {props.tab === "health" && <HealthTab />}
      {props.tab === "metrics" && <MetricsTab />}
      {props.tab === "loggers" && <LoggersTab />}
    </>
  );
}

const WORDS: Record<string, string> = { UP: "Up", DEGRADED: "Degraded", DOWN: "Down", OUT_OF_SERVICE: "Leaving" };
const TITLES: Record<string, string> = { db: "Database", cache: "Cache", store: "Session store", ping: "Service" };

/** A shape of its own for each state, so that nobody needs to tell red from green. */
function StatusIcon(props: { status: string }) {
  const kind = props.status === "UP" ? "good" : props.status === "DEGRADED" ? "warn" : "bad";
  return (
    <svg class={`status ${kind}`} viewBox="0 0 16 16" width="18" height="18" aria-hidden="true">
      {kind === "good" && <circle cx="8" cy="8" r="7" />}
      {kind === "warn" && <path d="M8 1.500 15.200 14.500H.8z" />}
      {kind === "bad" && <path d="M5.100 1h5.800L15 5.100v5.800L10.900 15H5.100L1 10.900V5.100z" />}
      <path class="inner" d={kind === "good" ? "M5 8.300 7.200 10.400 11 6" : kind === "warn" ? "M8 6v3.500M8 11.800v.2" : "M5.600 5.600l4.800 4.800M10.400 5.600l-4.800 4.800"} />
    </svg>
  );
}

export function Components(props: { health: Health }) {
  const parts = Object.entries(props.health.components ?? {}).filter(([name]) => name !== "ping");
  return (
    <>
      <p class="overall">
        <StatusIcon status={props.health.status} />
        <strong>{WORDS[props.health.status] ?? props.health.status}</strong>
      </p>
      {parts.length > 0 && (
        <ul class="components" aria-label="What the service depends on">
          {parts.map(([name, part]) => (
            <li key={name} data-component={name} data-status={part.status}>
              <StatusIcon status={part.status === "UP" ? "UP" : part.details?.required === true ? "DOWN" : "DEGRADED"} />
              <span>
                <span class="name">{TITLES[name] ?? name}</span>
                <span class="quiet">
                  {WORDS[part.status] ?? part.status}
                  {part.details?.responseTimeMs !== undefined && `, answered in ${part.details.responseTimeMs.toFixed(1)} ms`}
                  {part.details?.error !== undefined && `: ${part.details.error}`}
                  {part.status !== "UP" && part.details?.required === false && "; the service goes on without it"}
                </span>
              </span>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function HealthTab() {
  const [health] = useAsked("health", () => asked(`${BASE}/health`), EVERY_MS);
  const [info] = useAsked("info", () => get<Info>(`${BASE}/info`), EVERY_MS);
  const [tasks] = useAsked("tasks", () => get<Tasks>(`${BASE}/scheduledtasks`), EVERY_MS);
  return (
    <div class="columns">
      <section class="card tall" aria-labelledby="health">
        <h2 id="health">Health</h2>
        <Loaded value={health}>{(shown) => <Components health={shown} />}</Loaded>
        <p class="hint">Asked every 10 s. Each question is answered by one instance; the picture of all of them is mainstay's console.</p>
      </section>
      <div>
        <section class="card tall" aria-labelledby="process">
          <h2 id="process">Instance that answered</h2>
          <Loaded value={info}>
            {(shown) => (
              <dl class="facts">
                <dt>Instance</dt>
                <dd>{shown.mainstay.instance ?? "runs alone"}</dd>
                <dt>Version</dt>
                <dd>{shown.app.version}</dd>
                <dt>Process</dt>
                <dd>
                  {shown.process?.pid}, started {relative(shown.process?.startedAt ?? "", Date.now())}
                </dd>
                <dt>System</dt>
                <dd>
                  {shown.os?.name}, {shown.os?.arch}
                </dd>
              </dl>
            )}
          </Loaded>
        </section>
        <section class="card" aria-labelledby="tasks">
          <h2 id="tasks">Done again and again</h2>
          <Loaded value={tasks}>
            {(shown) => (
              <dl class="facts wide">
                {shown.fixedDelay.map((task) => (
                  <>
                    <dt>{task.runnable.target}</dt>
                    <dd>
                      every {number(task.interval / 1000)} s;{" "}
                      {task.lastExecution === undefined ? "not run yet" : `${task.lastExecution.status === "SUCCESS" ? "fine" : "failed"} ${relative(task.lastExecution.time, Date.now())}`}
                    </dd>
                  </>
                ))}
              </dl>
            )}
          </Loaded>
        </section>
      </div>
    </div>
  );
}

function MetricsTab() {
  const [names] = useAsked("names", () => get<{ names: string[] }>(`${BASE}/metrics`));
  const [filter, setFilter] = useState("");
  const [chosen, setChosen] = useState("http.server.requests");
  return (
    <div class="columns">
      <section class="card" aria-labelledby="names">
        <h2 id="names">Metrics</h2>
        <div class="field">
          <label for="filter">Filter</label>
          <input id="filter" type="search" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        </div>
        <div class="choices">
        <Loaded value={names}>
          {(shown) => {
            const left = shown.names.filter((name) => name.includes(filter.trim().toLowerCase()));
            return left.length === 0 ? (
              <p class="quiet">No metric has this in its name.</p>
            ) : (
              <ul>
                {left.map((name) => (
                  <li key={name}>
                    <button type="button" class="choice" aria-pressed={name === chosen} onClick={() => setChosen(name)}>
                      {name}
                    </button>
                  </li>
                ))}
              </ul>
            );
          }}
        </Loaded>
        </div>
      </section>
      <MetricCard key={chosen} name={chosen} />
    </div>
  );
}

function MetricCard(props: { name: string }) {
  const [metric] = useAsked(props.name, () => get<Metric>(`${BASE}/metrics/${encodeURIComponent(props.name)}`), EVERY_MS);
  return (
    <section class="card" aria-labelledby="metric">
      <h2 id="metric">{props.name}</h2>
      <Loaded value={metric}>
        {(shown) => (
          <>
            <p>{shown.description}</p>
            <dl class="facts">
              {shown.measurements.map((one) => (
                <>
                  <dt>{one.statistic.toLowerCase().replace("_", " ")}</dt>
                  <dd>
                    {number(one.value)}
                    {shown.baseUnit !== null && one.statistic !== "COUNT" && ` ${shown.baseUnit}`}
                  </dd>
                </>
              ))}
              {shown.availableTags.map((one) => (
                <>
                  <dt>by {one.tag}</dt>
                  <dd class="details">{one.values.join(", ")}</dd>
                </>
              ))}
            </dl>
            <p class="hint">Of the instance that answered, since its start. Prometheus has all of them over time.</p>
          </>
        )}
      </Loaded>
    </section>
  );
}

function LoggersTab() {
  const [loggers, again] = useAsked("loggers", () => get<Loggers>(`${BASE}/loggers`));
  const [filter, setFilter] = useState("");
  const set = (name: string, level: Level | null) => {
    ask("POST", `${BASE}/loggers/${encodeURIComponent(name)}`, { configuredLevel: level })
      .then(() => say(`${name} is ${level === null ? "as what is above it" : `at ${level}`}; all instances follow within 2 s.`))
      .catch((error: unknown) => say(text(error), true))
      .finally(again);
  };
  return (
    <section class="card" aria-labelledby="loggers">
      <h2 id="loggers">Log levels</h2>
      <p class="hint">A logger is a place in the source; it follows what is above it unless it has a level of its own. Levels set here hold for all instances, and for a day in those that start later.</p>
      <div class="field">
        <label for="filter">Filter</label>
        <input id="filter" type="search" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
      </div>
      <Loaded value={loggers}>
        {(shown) => (
          <table class="list loggers">
            <caption class="unseen">Loggers and their levels</caption>
            <thead>
              <tr>
                <th scope="col">Logger</th>
                <th scope="col">Counts</th>
                <th scope="col">Own level</th>
              </tr>
            </thead>
            <tbody>
              {Object.entries(shown.loggers)
                .filter(([name]) => name.toLowerCase().includes(filter.trim().toLowerCase()))
                .map(([name, level]) => (
                  <tr key={name}>
                    <th scope="row">
                      <code>{name}</code>
                    </th>
                    <td data-label="Counts">{level.effectiveLevel}</td>
                    <td data-label="Own level">
                      <label>
                        <Unseen>Level of {name}</Unseen>
                        <select value={level.configuredLevel ?? ""} onChange={(event) => set(name, event.currentTarget.value === "" ? null : (event.currentTarget.value as Level))}>
                          {name !== "ROOT" && <option value="">as above it</option>}
                          {shown.levels.map((one) => (
                            <option key={one} value={one}>
                              {one}
                            </option>
                          ))}
                        </select>
                      </label>
                    </td>
                  </tr>
                ))}
            </tbody>
          </table>
        )}
      </Loaded>
    </section>
  );
}
