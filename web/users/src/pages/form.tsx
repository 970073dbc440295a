import { useRef, useState } from "preact/hooks";
import type { FieldError } from "../api";
import { Refusal, ask, get, say, text } from "../api";
import { go } from "../router";
import type { Access, Role, User } from "../types";
import { Alert, Confirm, Field, Heading, Loaded, Sessions, State, useAsked } from "../ui";
import { fullName, isAtLeast, mayEdit, moment, plural, relative } from "../words";

interface Values {
  username: string;
  email: string;
  firstName: string;
  lastName: string;
  role: Role;
  password: string;
}

const EMPTY: Values = { username: "", email: "", firstName: "", lastName: "", role: "viewer", password: "" };
/** What the form holds of a user: the server takes back what may change and nothing else. */
function valuesOf(user: User): Values {
  const { username, email, firstName, lastName, role } = user;
  return { username, email, firstName, lastName, role, password: "" };
}

const ROLES: [Role, string][] = [
  ["viewer", "Viewer: reads"],
  ["editor", "Editor: also changes viewers"],
  ["admin", "Administrator: does everything"],
];

export function New(props: { me: User }) {
  const isAdmin = isAtLeast(props.me.role, "admin");
  const save = async (values: Values) => {
    const { role, password, ...person } = values;
    const body = { ...person, ...(isAdmin ? { role } : {}), ...(password === "" ? {} : { password }) };
    const user = (await ask<User>("POST", "/api/users", body)).body;
    say(`${fullName(user)} is created.`);
    go(`/users/${user.id}`);
  };
  return (
    <>
      <Heading title="New user" />
      <Form values={EMPTY} isAdmin={isAdmin} passwordHint="8 to 128 characters. Without one they cannot sign in yet." verb="Create user" save={save} />
    </>
  );
}

export function Edit(props: { id: string; me: User }) {
  const [loaded, again] = useAsked(props.id, () => ask<User>("GET", `/api/users/${props.id}`));
  return <Loaded value={loaded}>{(found) => <Loadedit key={found.body.version} user={found.body} etag={found.etag ?? "*"} me={props.me} again={again} />}</Loaded>;
}

function Loadedit(props: { user: User; etag: string; me: User; again: () => void }) {
  const { user, etag, me, again } = props;
  const isAdmin = isAtLeast(me.role, "admin");
  const [asking, setAsking] = useState<"" | "deactivate" | "delete">("");
  const save = async (values: Values) => {
    const { role, password, ...person } = values;
    const body = { ...person, ...(isAdmin ? { role } : {}), ...(password === "" ? {} : { password }) };
    const changed = (await ask<User>("PUT", `/api/users/${user.id}`, body, { "if-match": etag })).body;
    say(changed.version === user.version ? "Nothing was changed." : `${fullName(changed)} is saved.`);
    again();
  };
  const act = (verb: "deactivate" | "reactivate" | "delete") => {
    setAsking("");
    const done = verb === "delete" ? ask("DELETE", `/api/users/${user.id}`, undefined, { "if-match": etag }) : ask("PUT", `/api/users/${user.id}/${verb}`, undefined, { "if-match": etag });
    done
      .then(() => {
        say(verb === "delete" ? `${fullName(user)} is deleted.` : `${fullName(user)} is ${verb === "deactivate" ? "inactive and signed out everywhere" : "active again"}.`);
        if (verb === "delete") go("/users");
        else again();
      })
      .catch((error: unknown) => say(text(error), true));
  };
  return (
    <>
      <Heading title={fullName(user)}>
        <State isActive={user.isActive} />
      </Heading>
      <p class="quiet">
        Created {moment(user.createdAt)} by {user.createdBy}. Version {user.version}, last changed {relative(user.updatedAt, Date.now())} by {user.updatedBy}.
      </p>
      <div class="columns">
        {mayEdit(me, user) ? (
          <Form values={valuesOf(user)} isAdmin={isAdmin} passwordHint="Leave it empty to keep the present one. A new one signs them out everywhere." verb="Save" save={save} reload={again} />
        ) : (
          <Facts user={user} />
        )}
        <div>
          {isAdmin && <AccessCard user={user} />}
          {mayEdit(me, user) && user.id !== me.id && (
            <section class="card" aria-labelledby="state">
              <h2 id="state">{user.isActive ? "Deactivate" : "Reactivate"}{isAdmin && " or delete"}</h2>
              <div class="buttons start">
                <button type="button" onClick={() => (user.isActive ? setAsking("deactivate") : act("reactivate"))}>
                  {user.isActive ? "Deactivate…" : "Reactivate"}
                </button>
                {isAdmin && (
                  <button type="button" class="danger" onClick={() => setAsking("delete")}>
                    Delete…
                  </button>
                )}
              </div>
            </section>
          )}
        </div>
      </div>
      {asking === "deactivate" && <Confirm title={`Deactivate ${fullName(user)}?`} text="They are signed out everywhere and cannot sign in until somebody reactivates them. Nothing is deleted." verb="Deactivate" isDanger onYes={() => act("deactivate")} onNo={() => setAsking("")} />}
      {asking === "delete" && <Confirm title={`Delete ${fullName(user)}?`} text="This cannot be undone. The record of changes keeps who did it. To keep the user for later, deactivate instead." verb="Delete for good" isDanger onYes={() => act("delete")} onNo={() => setAsking("")} />}
    </>
  );
}

function Facts(props: { user: User }) {
  const { user } = props;
  return (
    <section class="card" aria-label="User">
      <dl class="facts">
        <dt>User name</dt>
        <dd>{user.username}</dd>
        <dt>E-mail</dt>
        <dd>{user.email}</dd>
        <dt>Role</dt>
        <dd>{user.role}</dd>
      </dl>
    </section>
  );
}

function Form(props: { values: Values; isAdmin: boolean; passwordHint: string; verb: string; save: (values: Values) => Promise<void>; reload?: () => void }) {
  const [values, setValues] = useState<Values>(props.values);
  const [errors, setErrors] = useState<FieldError[]>([]);
  const [failure, setFailure] = useState<{ text: string; isStale: boolean } | null>(null);
  const [isBusy, setBusy] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const error = (name: string) => errors.find((one) => one.pointer === `/${name}`)?.detail;
  const elsewhere = errors.filter((one) => !(one.pointer.slice(1) in props.values));
  const set = (name: keyof Values) => (value: string) => setValues({ ...values, [name]: value });
  const submit = (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setFailure(null);
    setErrors([]);
    props
      .save({ ...values, username: values.username.trim(), email: values.email.trim() })
      .catch((caught: unknown) => {
        const fields = caught instanceof Refusal ? caught.errors : [];
        setErrors(fields);
        setFailure({ text: text(caught), isStale: caught instanceof Refusal && caught.status === 412 });
        requestAnimationFrame(() => form.current?.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus());
      })
      .finally(() => setBusy(false));
  };
  return (
    <form class="card form" ref={form} onSubmit={submit} noValidate aria-label="User">
      {failure && (
        <Alert>
          <p>{failure.text}</p>
          {elsewhere.map((one) => (
            <p key={one.pointer}>
              {one.pointer}: {one.detail}
            </p>
          ))}
          {failure.isStale && props.reload && (
            <button type="button" onClick={props.reload}>
              Load the newest version
            </button>
          )}
        </Alert>
      )}
      <Field label="User name" name="username" value={values.username} error={error("username")} hint="3 to 50 letters, digits, dots, dashes." required onInput={set("username")} />
      <Field label="E-mail" name="email" type="email" value={values.email} error={error("email")} required onInput={set("email")} />
      <div class="pair">
        <Field label="First name" name="firstName" value={values.firstName} error={error("firstName")} onInput={set("firstName")} />
        <Field label="Last name" name="lastName" value={values.lastName} error={error("lastName")} onInput={set("lastName")} />
      </div>
      {props.isAdmin && (
        <>
          <div class="field">
            <label for="role">Role</label>
            <select id="role" value={values.role} onChange={(event) => set("role")(event.currentTarget.value)}>
              {ROLES.map(([role, name]) => (
                <option key={role} value={role}>
                  {name}
                </option>
              ))}
            </select>
          </div>
          <Field label="Password" name="password" type="password" autoComplete="new-password" value={values.password} error={error("password")} hint={props.passwordHint} onInput={set("password")} />
        </>
      )}
      <div class="buttons start">
        <button class="primary" type="submit" disabled={isBusy}>
          {isBusy ? "Saving…" : props.verb}
        </button>
        <a class="button" href="/users">
          Back to the list
        </a>
      </div>
    </form>
  );
}

function AccessCard(props: { user: User }) {
  const path = `/api/users/${props.user.id}`;
  const [access, again] = useAsked(path, () => get<Access>(`${path}/access`));
  const act = (method: string, to: string, done: string) => {
    ask(method, `${path}${to}`)
      .then(() => say(done))
      .catch((error: unknown) => say(text(error), true))
      .finally(again);
  };
  return (
    <section class="card" aria-labelledby="access">
      <h2 id="access">Sign-in</h2>
      <Loaded value={access}>
        {(shown) => (
          <>
            {shown.lockedUntil !== null && (
              <Alert>
                <p>Locked after {plural(shown.failedSignIns, "wrong password")}; free again {relative(shown.lockedUntil, Date.now())}.</p>
              </Alert>
            )}
            {shown.failedSignIns > 0 && (
              <p>
                {shown.lockedUntil === null && `${plural(shown.failedSignIns, "wrong password")} in a row. `}
                <button type="button" class="small" onClick={() => act("PUT", "/unlock", "Wrong passwords are forgotten.")}>
                  {shown.lockedUntil === null ? "Forget them" : "Unlock"}
                </button>
              </p>
            )}
            <Sessions list={shown.sessions} onEnd={(one) => act("DELETE", `/sessions/${one.id}`, "The session is ended.")} />
            {shown.sessions.length > 1 && (
              <button type="button" onClick={() => act("DELETE", "/sessions", `${fullName(props.user)} is signed out everywhere.`)}>
                Sign out everywhere
              </button>
            )}
          </>
        )}
      </Loaded>
    </section>
  );
}
