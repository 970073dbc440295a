import { useEffect, useState } from "preact/hooks";
import { ask, get, say, text } from "../api";
import type { ListQuery } from "../query";
import { readQuery, writeQuery } from "../query";
import { amend, place } from "../router";
import type { Page, User } from "../types";
import { Confirm, Face, Heading, Loaded, State, Unseen, useAsked } from "../ui";
import { day, fullName, isAtLeast, mayEdit, plural } from "../words";

/** Between the last key and the search. */
const TYPING_MS = 250;
const SIZE = 20;
const COLUMNS: [string, string][] = [
  ["username", "User"],
  ["email", "E-mail"],
  ["role", "Role"],
  ["", "State"],
  ["createdAt", "Created"],
];

export function List(props: { me: User }) {
  const query = readQuery(place.value.search);
  const shown = writeQuery(query);
  const [page, again] = useAsked(shown, () => get<Page>(`/api/users?${parameters(query)}&size=${SIZE}&page=${query.page}`));
  const change = (part: Partial<ListQuery>) => amend(`/users${writeQuery({ ...query, page: 0, ...part })}`);
  const [asking, setAsking] = useState<User | null>(null);
  const toggle = (user: User) => {
    setAsking(null);
    const verb = user.isActive ? "deactivate" : "reactivate";
    ask("PUT", `/api/users/${user.id}/${verb}`)
      .then(() => say(`${fullName(user)} is ${user.isActive ? "inactive and signed out everywhere" : "active again"}.`))
      .catch((error: unknown) => say(text(error), true))
      .finally(again);
  };
  return (
    <>
      <Heading title="Users">
        {isAtLeast(props.me.role, "editor") && (
          <>
            <a class="button" href={`/api/users/export?${parameters(query)}`} download="">
              Export CSV
            </a>
            <a class="button" href="/users/import">
              Import CSV
            </a>
            <a class="button primary" href="/users/new">
              New user
            </a>
          </>
        )}
      </Heading>
      <Filters query={query} change={change} />
      <Loaded value={page}>
        {(found) => (
          <>
            <Table page={found} query={query} change={change} me={props.me} onToggle={(user) => (user.isActive ? setAsking(user) : toggle(user))} />
            <Pager page={found} query={query} />
          </>
        )}
      </Loaded>
      {asking && (
        <Confirm
          title={`Deactivate ${fullName(asking)}?`}
          text="They are signed out everywhere and cannot sign in until somebody reactivates them. Nothing is deleted."
          verb="Deactivate"
          isDanger
          onYes={() => toggle(asking)}
          onNo={() => setAsking(null)}
        />
      )}
    </>
  );
}

function parameters(query: ListQuery): string {
  const out = new URLSearchParams({ sort: query.sort });
  for (const name of ["q", "role", "active"] as const) if (query[name] !== "") out.set(name, query[name]);
  return out.toString();
}

function Filters(props: { query: ListQuery; change: (part: Partial<ListQuery>) => void }) {
  const { query, change } = props;
  const [words, setWords] = useState(query.q);
  useEffect(() => {
    if (words.trim() === query.q) return;
    const timer = setTimeout(() => change({ q: words.trim() }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [words]);
  return (
    <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <input type="search" aria-label="Search names and e-mail addresses" placeholder="Search names and e-mail" maxLength={100} value={words} onInput={(event) => setWords(event.currentTarget.value)} />
      <select aria-label="Role" value={query.role} onChange={(event) => change({ role: event.currentTarget.value as ListQuery["role"] })}>
        <option value="">All roles</option>
        <option value="viewer">Viewers</option>
        <option value="editor">Editors</option>
        <option value="admin">Administrators</option>
      </select>
      <select aria-label="State" value={query.active} onChange={(event) => change({ active: event.currentTarget.value as ListQuery["active"] })}>
        <option value="">Any state</option>
        <option value="true">Active</option>
        <option value="false">Inactive</option>
      </select>
    </form>
  );
}

function Table(props: { page: Page; query: ListQuery; change: (part: Partial<ListQuery>) => void; me: User; onToggle: (user: User) => void }) {
  const { page, query, change, me } = props;
  const [field, direction] = query.sort.split(",");
  if (page.content.length === 0) {
    return (
      <div class="card empty">
        <p>{query.q !== "" || query.role !== "" || query.active !== "" ? "Nobody matches." : "Nobody here."}</p>
        <a href="/users">Show everybody</a>
      </div>
    );
  }
  return (
    <table class="card list people">
      <caption class="unseen">Users, {plural(page.totalElements, "in all", "in all")}</caption>
      <thead>
        <tr>
          {COLUMNS.map(([name, title]) => {
            const isSorted = name === field;
            return (
              <th key={title} scope="col" {...(isSorted ? { "aria-sort": direction === "asc" ? ("ascending" as const) : ("descending" as const) } : {})}>
                {name === "" ? (
                  title
                ) : (
                  <button type="button" class="sort" onClick={() => change({ sort: `${name},${isSorted && direction === "asc" ? "desc" : "asc"}` })}>
                    {title}
                    <span aria-hidden="true">{isSorted ? (direction === "asc" ? " ↑" : " ↓") : ""}</span>
                  </button>
                )}
              </th>
            );
          })}
          <th scope="col">
            <Unseen>What to do</Unseen>
          </th>
        </tr>
      </thead>
      <tbody>
        {page.content.map((user) => (
          <tr key={user.id} class={user.isActive ? "" : "inactive"}>
            <th scope="row">
              <a class="who" href={`/users/${user.id}`}>
                <Face user={user} />
                <span>
                  <span class="name">{fullName(user)}</span>
                  <span class="quiet">{user.username}</span>
                </span>
              </a>
            </th>
            <td data-label="E-mail">{user.email}</td>
            <td data-label="Role">{user.role}</td>
            <td data-label="State">
              <State isActive={user.isActive} />
            </td>
            <td data-label="Created">{day(user.createdAt)}</td>
            <td class="row-actions">
              {mayEdit(me, user) && user.id !== me.id && (
                <button type="button" class="small" onClick={() => props.onToggle(user)}>
                  {user.isActive ? "Deactivate" : "Reactivate"}
                  <Unseen> {fullName(user)}</Unseen>
                </button>
              )}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Pager(props: { page: Page; query: ListQuery }) {
  const { page, query } = props;
  const from = page.number * page.size;
  const to = (number: number) => `/users${writeQuery({ ...query, page: number })}`;
  return (
    <nav class="pager" aria-label="Pages of users">
      <span role="status">{page.content.length === 0 ? plural(page.totalElements, "user") : `${(from + 1).toLocaleString("en")}–${(from + page.content.length).toLocaleString("en")} of ${page.totalElements.toLocaleString("en")}`}</span>
      {!page.first && (
        <a class="button" href={to(page.number - 1)} rel="prev">
          ← Previous
        </a>
      )}
      {!page.last && (
        <a class="button" href={to(page.number + 1)} rel="next">
          Next →
        </a>
      )}
    </nav>
  );
}
