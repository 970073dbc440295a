// Parts that several pages use.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { bars } from "./chart";
import type { User } from "./types";
import { agent, initials, relative } from "./words";
import type { SessionEntry } from "./types";

export function Heading(props: { title: string; children?: ComponentChildren }) {
  useEffect(() => {
    document.title = props.title === "Users" ? "Users" : `${props.title} – Users`;
  }, [props.title]);
  return (
    <div class="heading">
      <h1 tabIndex={-1}>{props.title}</h1>
      <div class="actions">{props.children}</div>
    </div>
  );
}

/** Text that only screen readers get. */
export function Unseen(props: { children: ComponentChildren }) {
  return <span class="unseen">{props.children}</span>;
}

export function Face(props: { user: Pick<User, "id" | "firstName" | "lastName" | "username"> }) {
  return (
    <span class={`face tint-${props.user.id % 6}`} aria-hidden="true">
      {initials(props.user)}
    </span>
  );
}

export function State(props: { isActive: boolean }) {
  return <span class={props.isActive ? "pill good" : "pill off"}>{props.isActive ? "Active" : "Inactive"}</span>;
}

export function Field(props: {
  label: string;
  name: string;
  value?: string;
  type?: "text" | "email" | "password";
  error?: string | undefined;
  hint?: string;
  autoComplete?: string;
  required?: boolean;
  onInput?: (value: string) => void;
}) {
  const notes = [props.hint ? `${props.name}-hint` : "", props.error ? `${props.name}-error` : ""].filter((id) => id !== "").join(" ");
  return (
    <div class="field">
      <label for={props.name}>{props.label}</label>
      <input
        id={props.name}
        name={props.name}
        // Preact's types know each kind of input apart; these three take the same properties.
        type={(props.type ?? "text") as "text"}
        value={props.value}
        autocomplete={props.autoComplete ?? "off"}
        required={props.required}
        aria-invalid={props.error !== undefined}
        {...(notes === "" ? {} : { "aria-describedby": notes })}
        onInput={(event) => props.onInput?.(event.currentTarget.value)}
      />
      {props.hint && (
        <p class="hint" id={`${props.name}-hint`}>
          {props.hint}
        </p>
      )}
      {props.error && (
        <p class="error" id={`${props.name}-error`}>
          {props.error}
        </p>
      )}
    </div>
  );
}

export function Alert(props: { children: ComponentChildren }) {
  return (
    <div class="alert" role="alert">
      {props.children}
    </div>
  );
}

/** What a page shows while it asks, and when the answer was no. */
export function Loaded<T>(props: { value: Asked<T>; children: (value: T) => ComponentChildren }) {
  if (props.value.kind === "failed") {
    return (
      <Alert>
        <p>{props.value.text}</p>
        <button type="button" onClick={props.value.again}>
          Try again
        </button>
      </Alert>
    );
  }
  if (props.value.kind === "asking") {
    return (
      <p class="waiting" role="status">
        Loading…
      </p>
    );
  }
  return <>{props.children(props.value.value)}</>;
}

export type Asked<T> = { kind: "asking" } | { kind: "failed"; text: string; again: () => void } | { kind: "there"; value: T };

/** Asks when `key` changes and every `everyMs`; an older answer never replaces a newer one. */
export function useAsked<T>(key: string, ask: () => Promise<T>, everyMs?: number): [Asked<T>, () => void] {
  const [asked, setAsked] = useState<Asked<T>>({ kind: "asking" });
  const newest = useRef(0);
  const run = () => {
    const mine = ++newest.current;
    ask().then(
      (value) => mine === newest.current && setAsked({ kind: "there", value }),
      (error: unknown) => mine === newest.current && setAsked({ kind: "failed", text: error instanceof Error ? error.message : String(error), again: run }),
    );
  };
  useEffect(() => {
    run();
    if (everyMs === undefined) return;
    const timer = setInterval(() => document.visibilityState === "visible" && run(), everyMs);
    return () => clearInterval(timer);
  }, [key]);
  return [asked, run];
}

export function Confirm(props: { title: string; text: string; verb: string; isDanger?: boolean; onYes: () => void; onNo: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="confirm-title" onCancel={props.onNo}>
      <h2 id="confirm-title">{props.title}</h2>
      <p>{props.text}</p>
      <div class="buttons">
        <button type="button" onClick={props.onNo}>
          Cancel
        </button>
        <button type="button" class={props.isDanger ? "danger" : "primary"} onClick={props.onYes}>
          {props.verb}
        </button>
      </div>
    </dialog>
  );
}

const CHART = { width: 1400, height: 160, gap: 20 };

export function DayChart(props: { days: { day: string; count: number }[] }) {
  const drawn = bars(
    props.days.map((one) => one.count),
    CHART,
  );
  const total = props.days.reduce((sum, one) => sum + one.count, 0);
  const most = Math.max(0, ...props.days.map((one) => one.count));
  const short = (day: string) => new Date(`${day}T00:00:00Z`).toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" });
  return (
    <figure class="chart">
      <svg viewBox={`0 0 ${CHART.width} ${CHART.height}`} preserveAspectRatio="none" role="img" aria-label={`Sign-ups per day in the last ${props.days.length} days: ${total} in all, ${most} on the fullest day`}>
        {drawn.map((bar, index) => (
          <rect key={props.days[index]?.day} class={props.days[index]?.count === 0 ? "column none" : "column"} x={bar.x} y={CHART.height - bar.height} width={bar.width} height={bar.height}>
            <title>{`${short(props.days[index]?.day ?? "")}: ${props.days[index]?.count}`}</title>
          </rect>
        ))}
      </svg>
      <figcaption>
        <span>{short(props.days[0]?.day ?? "")}</span>
        <span>most on one day: {most.toLocaleString("en")}</span>
        <span>{short(props.days.at(-1)?.day ?? "")}</span>
      </figcaption>
    </figure>
  );
}

export function Sessions(props: { list: SessionEntry[]; onEnd: (one: SessionEntry) => void }) {
  if (props.list.length === 0) return <p class="quiet">Signed in nowhere.</p>;
  const now = Date.now();
  return (
    <ul class="sessions">
      {props.list.map((one) => (
        <li key={one.id}>
          <div>
            <strong>{one.kind === "browser" ? agent(one.agent) : "Access tokens"}</strong>
            {one.current && <span class="pill good">This one</span>}
            <p class="quiet">
              {one.address !== "" && `from ${one.address}, `}
              {one.kind === "browser" ? "last used" : "last renewed"} {relative(one.lastSeenAt, now)}, ends {relative(one.expiresAt, now)} unless used
            </p>
          </div>
          <button type="button" class="small" onClick={() => props.onEnd(one)}>
            End<Unseen> this session</Unseen>
          </button>
        </li>
      ))}
    </ul>
  );
}
