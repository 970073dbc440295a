import { get } from "../api";
import type { Health, Info, Statistics, User } from "../types";
import { DayChart, Heading, Loaded, useAsked } from "../ui";
import { fullName, isAtLeast } from "../words";
import { Components } from "./admin";

const EVERY_MS = 15_000;

export function Dashboard(props: { user: User }) {
  const [statistics] = useAsked("", () => get<Statistics>("/api/users/stats"), EVERY_MS);
  return (
    <>
      <Heading title="Dashboard">
        {isAtLeast(props.user.role, "editor") && (
          <a class="button primary" href="/users/new">
            New user
          </a>
        )}
      </Heading>
      <p class="quiet">Signed in as {fullName(props.user)}, {props.user.role}.</p>
      {/* Before the answer the same boxes stand empty, so that nothing jumps. */}
      {statistics.kind === "asking" ? <Numbers numbers={null} /> : <Loaded value={statistics}>{(numbers) => <Numbers numbers={numbers} />}</Loaded>}
      <div class="columns">
        <HealthCard isAdmin={isAtLeast(props.user.role, "admin")} />
        <AboutCard />
      </div>
    </>
  );
}

function Numbers(props: { numbers: Statistics | null }) {
  const { numbers } = props;
  const tiles: [string, number | undefined, string][] = [
    ["Users", numbers?.total, "/users"],
    ["Active", numbers?.active, "/users?active=true"],
    ["Inactive", numbers?.inactive, "/users?active=false"],
    ["Editors", numbers?.byRole.editor, "/users?role=editor"],
    ["Administrators", numbers?.byRole.admin, "/users?role=admin"],
  ];
  return (
    <>
      <ul class="tiles" aria-label="Numbers">
        {tiles.map(([name, value, to]) => (
          <li key={name}>
            <a class="tile" href={to}>
              <span class="figure">{value === undefined ? "–" : value.toLocaleString("en")}</span>
              <span>{name}</span>
            </a>
          </li>
        ))}
      </ul>
      <section class="card" aria-labelledby="signups">
        <h2 id="signups">Sign-ups per day</h2>
        {numbers === null ? <p class="chart waiting" role="status">Loading…</p> : <DayChart days={numbers.createdPerDay} />}
      </section>
    </>
  );
}

function HealthCard(props: { isAdmin: boolean }) {
  const path = props.isAdmin ? "/api/admin/actuator/health" : "/api/v1/health";
  const [health] = useAsked(path, () => asked(path), EVERY_MS);
  return (
    <section class="card tall" aria-labelledby="health">
      <h2 id="health">Health</h2>
      <Loaded value={health}>{(shown) => <Components health={shown} />}</Loaded>
    </section>
  );
}

/** Being unwell is an answer (503), not a failure to answer. */
export async function asked(path: string): Promise<Health> {
  const response = await fetch(path, { signal: AbortSignal.timeout(10_000) });
  const body = (await response.json()) as Health & { detail?: string };
  if (typeof body.status !== "string") throw new Error(body.detail ?? `answer ${response.status}`);
  return body;
}

function AboutCard() {
  const [info] = useAsked("", () => get<Info>("/api/v1/info"));
  return (
    <section class="card tall" aria-labelledby="about">
      <h2 id="about">Application</h2>
      <Loaded value={info}>
        {(shown) => (
          <dl class="facts">
            <dt>Version</dt>
            <dd>
              {shown.app.name} {shown.app.version}
            </dd>
            <dt>Stack</dt>
            <dd>{shown.mainstay.stack ? `${shown.mainstay.stack}, ${shown.mainstay.environment}` : "runs alone"}</dd>
            <dt>Answered by</dt>
            <dd>{shown.mainstay.instance ?? "this instance"}</dd>
            <dt>Interface</dt>
            <dd>
              <a href="/docs">Description of every operation</a>
            </dd>
          </dl>
        )}
      </Loaded>
    </section>
  );
}
