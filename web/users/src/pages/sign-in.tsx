import { useEffect, useRef, useState } from "preact/hooks";
import { signIn, text } from "../api";
import { Mark } from "../app";
import { Alert, Field } from "../ui";

export function SignIn(props: { why: string }) {
  const [failure, setFailure] = useState(props.why);
  const [isBusy, setBusy] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    document.title = "Users";
    form.current?.querySelector("input")?.focus();
  }, []);
  const submit = (event: Event) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget as HTMLFormElement);
    setBusy(true);
    setFailure("");
    signIn(String(data.get("username")), String(data.get("password")))
      .catch((error: unknown) => {
        setFailure(text(error));
        form.current?.querySelector<HTMLInputElement>("#password")?.select();
      })
      .finally(() => setBusy(false));
  };
  return (
    <main class="alone">
      <form class="card sign-in" ref={form} onSubmit={submit}>
        <Mark />
        <h1>Users</h1>
        {failure !== "" && <Alert>{failure}</Alert>}
        <Field label="User name or e-mail" name="username" autoComplete="username" required />
        <Field label="Password" name="password" type="password" autoComplete="current-password" required />
        <button class="primary wide" type="submit" disabled={isBusy}>
          {isBusy ? "Signing in…" : "Sign in"}
        </button>
        <p class="hint">You stay signed in until 30 minutes after your last click.</p>
      </form>
    </main>
  );
}
