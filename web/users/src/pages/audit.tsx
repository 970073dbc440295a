import { useState } from "preact/hooks";
import { get, say, text } from "../api";
import type { AuditEntry } from "../types";
import { Heading, Loaded, useAsked } from "../ui";
import { action, details, moment, plural } from "../words";

const LIMIT = 50;

interface Shown {
  entries: AuditEntry[];
  hasMore: boolean;
}

async function page(before?: number): Promise<Shown> {
  const { content } = await get<{ content: AuditEntry[] }>(`/api/audit?limit=${LIMIT}${before === undefined ? "" : `&before=${before}`}`);
  return { entries: content, hasMore: content.length === LIMIT };
}

export function Audit() {
  const [first, again] = useAsked("", () => page());
  const [older, setOlder] = useState<Shown | null>(null);
  const [verdict, setVerdict] = useState<string>("");
  const verify = () => {
    setVerdict("Recomputing…");
    get<{ intact: boolean; rows?: number; brokenAt?: number }>("/api/audit/verify").then(
      (found) => setVerdict(found.intact ? `Unbroken: the hashes of ${plural(found.rows ?? 0, "entry", "entries")} fit together.` : `Broken at entry ${found.brokenAt}: it or the one before it was changed or removed.`),
      (error: unknown) => setVerdict(text(error)),
    );
  };
  const more = (before: number) => {
    page(before).then(
      (next) => setOlder({ entries: [...(older?.entries ?? []), ...next.entries], hasMore: next.hasMore }),
      (error: unknown) => say(text(error), true),
    );
  };
  return (
    <>
      <Heading title="Audit">
        <button type="button" onClick={() => (setOlder(null), again())}>
          Refresh
        </button>
        <button type="button" onClick={verify}>
          Verify the chain
        </button>
      </Heading>
      <p class="quiet">Every change and every refused sign-in, newest first. Each entry carries the hash of the one before it.</p>
      <p role="status" class={verdict === "" ? "" : verdict.startsWith("Unbroken") ? "fine" : "alert"}>
        {verdict}
      </p>
      <Loaded value={first}>
        {(shown) => {
          const entries = [...shown.entries, ...(older?.entries ?? [])];
          const hasMore = (older ?? shown).hasMore;
          return (
            <>
              <table class="card list audit">
                <caption class="unseen">Entries of the record</caption>
                <thead>
                  <tr>
                    <th scope="col">When</th>
                    <th scope="col">What</th>
                    <th scope="col">Who</th>
                    <th scope="col">To what</th>
                    <th scope="col">Details</th>
                  </tr>
                </thead>
                <tbody>
                  {entries.map((entry) => (
                    <tr key={entry.id}>
                      <td data-label="When">
                        <time dateTime={entry.at}>{moment(entry.at)}</time>
                      </td>
                      <th scope="row">{action(entry.action)}</th>
                      <td data-label="Who">{entry.actor}</td>
                      <td data-label="To what">{subject(entry.subject)}</td>
                      <td data-label="Details" class="details">
                        {details(entry.details)}
                      </td>
                    </tr>
                  ))}
                </tbody>
              </table>
              {hasMore && (
                <button type="button" onClick={() => more(entries.at(-1)?.id ?? 1)}>
                  Older entries
                </button>
              )}
            </>
          );
        }}
      </Loaded>
    </>
  );
}

function subject(name: string) {
  const id = /^user:(\d+)$/.exec(name)?.[1];
  return id === undefined ? name : <a href={`/users/${id}`}>user {id}</a>;
}
