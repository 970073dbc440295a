import { useState } from "preact/hooks";
import type { FieldError } from "../api";
import { Refusal, ask, get, link, say, text } from "../api";
import type { SessionEntry, User } from "../types";
import { Alert, Field, Heading, Loaded, Sessions, useAsked } from "../ui";
import { fullName } from "../words";

export function Account(props: { user: User }) {
  const [sessions, again] = useAsked("", () => get<{ sessions: SessionEntry[] }>("/api/auth/sessions"));
  const end = (one: SessionEntry) => {
    ask("DELETE", `/api/auth/sessions/${one.id}`)
      .then(() => {
        if (one.current) link.value = { kind: "out", why: "You are signed out." };
        else say("The session is ended.");
      })
      .catch((error: unknown) => say(text(error), true))
      .finally(again);
  };
  return (
    <>
      <Heading title="Your account" />
      <p class="quiet">
        {fullName(props.user)}, {props.user.email}, {props.user.role}.
      </p>
      <div class="columns">
        <Password username={props.user.username} />
        <section class="card" aria-labelledby="sessions">
          <h2 id="sessions">Where you are signed in</h2>
          <Loaded value={sessions}>{(shown) => <Sessions list={shown.sessions} onEnd={end} />}</Loaded>
        </section>
      </div>
    </>
  );
}

function Password(props: { username: string }) {
  const [errors, setErrors] = useState<FieldError[]>([]);
  const [failure, setFailure] = useState("");
  const error = (name: string) => errors.find((one) => one.pointer === `/${name}`)?.detail;
  const submit = (event: Event) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget as HTMLFormElement);
    setErrors([]);
    setFailure("");
    ask("PUT", "/api/auth/password", { currentPassword: data.get("currentPassword"), newPassword: data.get("newPassword") }).then(
      () => (link.value = { kind: "out", why: "Your password is changed and you are signed out everywhere. Sign in with the new one." }),
      (caught: unknown) => {
        setErrors(caught instanceof Refusal ? caught.errors : []);
        setFailure(text(caught));
      },
    );
  };
  return (
    <form class="card form" onSubmit={submit} noValidate aria-labelledby="password-title">
      <h2 id="password-title">Change your password</h2>
      {failure !== "" && <Alert>{failure}</Alert>}
      <input type="text" name="username" autocomplete="username" value={props.username} hidden readOnly aria-label="User name" />
      <Field label="Present password" name="currentPassword" type="password" autoComplete="current-password" error={error("currentPassword")} />
      <Field label="New password" name="newPassword" type="password" autoComplete="new-password" hint="8 to 128 characters. You are signed out everywhere." error={error("newPassword")} />
      <div class="buttons start">
        <button class="primary" type="submit">
          Change password
        </button>
      </div>
    </form>
  );
}
