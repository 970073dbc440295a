// The frame: who is signed in, where one can go, and which page the address names.
import { useState } from "preact/hooks";
import { link, notice, openSite, signOut } from "./api";
import { Account } from "./pages/account";
import { Admin } from "./pages/admin";
import { Audit } from "./pages/audit";
import { Dashboard } from "./pages/dashboard";
import { Edit, New } from "./pages/form";
import { Import } from "./pages/import";
import { List } from "./pages/list";
import { SignIn } from "./pages/sign-in";
import { place } from "./router";
import type { User } from "./types";
import { Heading } from "./ui";
import { fullName, isAtLeast } from "./words";

export function App() {
  const state = link.value;
  switch (state.kind) {
    case "loading":
      return (
        <main class="alone">
          <Mark />
          <p role="status">Loading…</p>
        </main>
      );
    case "down":
      return (
        <main class="alone">
          <Mark />
          <h1>The service does not answer</h1>
          <p role="status">Trying again every two seconds. What was saved is saved.</p>
          <button type="button" onClick={() => void openSite()}>
            Try now
          </button>
        </main>
      );
    case "out":
      return <SignIn why={state.why} />;
    case "in":
      return <Frame user={state.user} />;
  }
}

export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" width="40" height="40" aria-hidden="true">
      <circle cx="16" cy="11.5" r="5.5" />
      <path d="M5.5 27c1-6 5-9 10.500-9s9.500 3 10.500 9z" />
    </svg>
  );
}

function Frame(props: { user: User }) {
  const { user } = props;
  const path = place.value.path;
  const items: [string, string, boolean][] = [
    ["/", "Dashboard", true],
    ["/users", "Users", true],
    ["/audit", "Audit", isAtLeast(user.role, "admin")],
    ["/admin/health", "Operation", isAtLeast(user.role, "admin")],
  ];
  const isAt = (to: string) => (to === "/" ? path === "/" : to === "/admin/health" ? path.startsWith("/admin") : path.startsWith(to));
  const [isLeaving, setLeaving] = useState(false);
  return (
    <>
      <a class="skip" href="#content">
        Skip to the content
      </a>
      <header class="bar">
        <a class="brand" href="/">
          <Mark />
          Users
        </a>
        <nav aria-label="Pages">
          {items
            .filter(([, , isShown]) => isShown)
            .map(([to, name]) => (
              <a key={to} href={to} {...(isAt(to) ? { "aria-current": "page" as const } : {})}>
                {name}
              </a>
            ))}
        </nav>
        <div class="me">
          <a href="/account" {...(path === "/account" ? { "aria-current": "page" as const } : {})}>
            {fullName(user)}
          </a>
          <button
            type="button"
            class="small"
            disabled={isLeaving}
            onClick={() => {
              setLeaving(true);
              void signOut().finally(() => setLeaving(false));
            }}
          >
            Sign out
          </button>
        </div>
      </header>
      <main id="content" tabIndex={-1}>
        <Routed path={path} user={user} />
      </main>
      <div class="notices" role="status" aria-live="polite">
        {notice.value && <p class={notice.value.isBad ? "notice bad" : "notice"}>{notice.value.text}</p>}
      </div>
    </>
  );
}

function Routed(props: { path: string; user: User }) {
  const { path, user } = props;
  if (path === "/") return <Dashboard user={user} />;
  if (path === "/users") return <List me={user} />;
  if (path === "/users/new" && isAtLeast(user.role, "editor")) return <New me={user} />;
  if (path === "/users/import" && isAtLeast(user.role, "editor")) return <Import />;
  const id = /^\/users\/([1-9][0-9]{0,17})$/.exec(path)?.[1];
  if (id !== undefined) return <Edit key={id} id={id} me={user} />;
  if (path === "/account") return <Account user={user} />;
  if (path === "/audit" && isAtLeast(user.role, "admin")) return <Audit />;
  const tab = /^\/admin\/(health|metrics|loggers)$/.exec(path)?.[1];
  if (tab !== undefined && isAtLeast(user.role, "admin")) return <Admin tab={tab as "health" | "metrics" | "loggers"} />;
  return (
    <>
      <Heading title="Nothing here" />
      <p>
        This address leads nowhere, or not for you. <a href="/">To the dashboard</a>
      </p>
    </>
  );
}
