// The end of a log, as it is written: one request that goes on, again after a cut.
import { signal, type Signal } from "@preact/signals";

export interface Line {
  /** Counts up; for keys, and to know how many came while one read further up. */
  number: number;
  child: string;
  text: string;
}

export type Tail =
  | { kind: "loading" }
  | { kind: "following" }
  /** The server has no file of that name. */
  | { kind: "none" }
  | { kind: "cut" };

export interface Log {
  lines: Signal<Line[]>;
  tail: Signal<Tail>;
  stop(): void;
}

/** Lines kept in the page; the whole log is a file. */
export const LINES_MOST = 500;
const LINES_AT_FIRST = 200;
const AGAIN_MS = 2000;
/** Lines are shown in bundles: a burst costs one drawing, not thousands. */
const BUNDLE_MS = 120;

export function follow(query: string, names: string[]): Log {
  const lines = signal<Line[]>([]);
  const tail = signal<Tail>({ kind: "loading" });
  const abort = new AbortController();
  const wanted = new Set(names);
  let number = 0;
  let waiting: Line[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;

  const show = () => {
    timer = undefined;
    lines.value = [...lines.value, ...waiting].slice(-LINES_MOST);
    waiting = [];
  };
  const add = (json: string) => {
    const { child, text } = JSON.parse(json) as { child: string; text: string };
    // A log of "postgres-a" also matches that of its making, "postgres-a-init".
    if (!wanted.has(child)) return;
    waiting.push({ number: (number += 1), child, text });
    timer ??= setTimeout(show, BUNDLE_MS);
  };
  const once = async (): Promise<boolean> => {
    const answer = await fetch(`/api/v1/logs?child=${encodeURIComponent(query)}&lines=${LINES_AT_FIRST}&follow=true`, { signal: abort.signal });
    if (answer.status === 404) {
      tail.value = { kind: "none" };
      return true;
    }
    if (!answer.ok || answer.body === null) throw new Error(`status ${answer.status}`);
    // What was shown before a cut comes again.
    waiting = [];
    lines.value = [];
    tail.value = { kind: "following" };
    await read(answer.body, add);
    return false;
  };
  const run = async () => {
    while (!abort.signal.aborted) {
      try {
        await once();
      } catch {
        // Either it was stopped, or the server is away: the page says so above the picture.
      }
      if (abort.signal.aborted) return;
      if (tail.value.kind !== "none") tail.value = { kind: "cut" };
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  };
  void run();
  return {
    lines,
    tail,
    stop: () => {
      abort.abort();
      clearTimeout(timer);
    },
  };
}

async function read(body: ReadableStream<Uint8Array>, add: (line: string) => void): Promise<void> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) if (part !== "") add(part);
  }
}

/** How much a line matters, as far as its own words say. */
export function loudness(text: string): "error" | "warn" | "plain" {
  if (/\b(ERROR|FATAL|PANIC|CRITICAL)\b|"level":"error"|\blevel=error\b/.test(text)) return "error";
  if (/\b(WARN|WARNING)\b|"level":"warn"|\blevel=warn\b/.test(text)) return "warn";
  return "plain";
}
