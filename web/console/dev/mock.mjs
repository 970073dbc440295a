// Plays fixtures to the built console, for looking at it without a stack. Development only.
//   node dev/mock.mjs [PORT]     (0: a free one, which it prints) then open http://console.localhost:PORT/?scene=failover#token=x
// Scenes: ready, idle, failover, rejoin, starting, empty, no-database, no-cache, one-service, many, play (a failover in a
// loop), loading (no answer), stale (the control plane no longer looks), silent (the stream falls silent), lost,
// session-over, signed-out.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";

const root = new URL("..", import.meta.url).pathname;
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const read = (name) => JSON.parse(readFileSync(join(root, "fixtures", `${name}.json`), "utf8"));
/** Moves every moment of a fixture so that its `at` is now. */
function fresh(value, by) {
  if (Array.isArray(value)) return value.map((one) => fresh(one, by));
  if (value === null || typeof value !== "object") return value;
  const moments = ["at", "since", "until", "deadline", "last_ended", "ended"];
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, moments.includes(key) && typeof one === "number" ? one + by : fresh(one, by)]));
}
const FIXTURE_AT = read("ready.status").at;
const FILES = {
  ready: ["ready.status", "ready.traffic", "ready.events"],
  lost: ["ready.status", "ready.traffic", "ready.events"],
  "session-over": ["ready.status", "ready.traffic", "ready.events"],
  stale: ["ready.status", "ready.traffic", "ready.events"],
  silent: ["ready.status", "ready.traffic", "ready.events"],
  "no-database": ["no-database.status", "ready.traffic", "ready.events"],
  "no-cache": ["no-cache.status", "ready.traffic", "ready.events"],
  "one-service": ["one-service.status", "ready.traffic", "ready.events"],
  idle: ["ready.status", "idle.traffic", "ready.events"],
  failover: ["failover.status", "failover.traffic", "failover.events"],
  rejoin: ["rejoin.status", "ready.traffic", "failover.events"],
  starting: ["starting.status", "idle.traffic", "ready.events"],
  empty: ["empty.status", "idle.traffic", "ready.events"],
  many: ["many.status", "many.traffic", "ready.events"],
};
const owed = (drill, what, subject, standing, reason, verdict) => ({ drill, what, subject, promise: `target.${drill.replaceAll("-", "_")}`, standing, reason, last_ended: verdict === undefined ? null : FIXTURE_AT - 5_400_000_000, last_verdict: verdict ?? null });
const DRILLS = [
  owed("instance-crash", "kills one instance of a service (SIGKILL)", "instance", "fine", "", "PASS"),
  owed("edge-crash", "kills the edge (SIGKILL); new connections wait", "edge", "never-run", "it never ran to a verdict"),
  owed("router-crash", "kills the database router (SIGKILL); new connections wait", "router", "never-run", "it never ran to a verdict"),
  owed("database-crash", "kills the postmaster of the primary (SIGKILL)", "postgres", "fine", "", "PASS"),
  owed("database-freeze", "stops the primary and all its backends (SIGSTOP), thaws what is left of them", "postgres", "failing", "RTO 4300 ms, promised 4000 ms", "FAIL"),
  owed("cache-crash", "kills the cache (SIGKILL); requests go on without it", "cache", "stale", "the stack file changed since", "PASS"),
  owed("store-crash", "kills the store (SIGKILL); its keys are there afterwards", "store", "not-applicable", 'the stack file says cache.persist = "none"'),
  owed("control-plane-crash", "kills the control plane (SIGKILL)", "control", "fine", "", "PASS"),
  owed("keep-crash", "kills keep, the parent of all processes (SIGKILL)", "control", "never-run", "it never ran to a verdict"),
];
const HISTORY = [{ drill: "x", ended: FIXTURE_AT, verdict: "PASS", sabotage: null, figures: { promised_rto_ms: 60000, rto_max_ms: 931, stall_p95_ms: 1022, stall_max_ms: 1022, acknowledged: 2598, lost: 0, requests: 3911, failed_requests: 0 } }];
const PLAY = ["ready", "failover", "rejoin", "ready"];

function sceneOf(request) {
  const from = request.headers.referer ?? request.url;
  return new URL(from, "http://x").searchParams.get("scene") ?? "ready";
}

function stream(request, response, scene) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  const send = (name, value) => response.write(`event: ${name}\ndata: ${JSON.stringify(value)}\n\n`);
  let step = 0;
  const begun = Date.now() * 1000;
  const beat = () => {
    const now = Date.now() * 1000;
    const shown = scene === "play" ? PLAY[Math.floor(step / 4) % PLAY.length] : scene;
    const [status, traffic, events] = FILES[shown];
    // In a still scene durations grow as in life; in `play` each picture begins anew.
    const by = (scene === "play" ? now : begun) - FIXTURE_AT;
    if (scene === "silent" && step > 1) return;
    if (scene === "stale" && step > 1) {
      send("beat", { at: now, looked_at: begun });
      step += 1;
      return;
    }
    send("beat", { at: now, looked_at: now });
    send("status", { ...fresh({ ...read(status), drills: DRILLS }, by), at: now });
    send("traffic", fresh(read(traffic), now - FIXTURE_AT));
    if (scene === "play" && step % 4 === 0) for (const event of read(events)) send("event", fresh(event, by));
    step += 1;
    if ((scene === "lost" || scene === "session-over") && step === 2) response.destroy();
  };
  beat();
  const timer = setInterval(beat, 1000);
  request.on("close", () => clearInterval(timer));
}

const WORDS = ['LOG:  checkpoint complete: wrote 26 buffers (0.3%); 0 WAL file(s) added, 0 removed, 0 recycled; write=0.013 s, sync=0.008 s', 'LOG:  standby "mainstay_b" is now a candidate for quorum synchronous standby', 'WARNING:  there is no transaction in progress', 'ERROR:  duplicate key value violates unique constraint "users_username_key"'];

/** A log that goes on, a line a second. */
function log(request, response, child) {
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  const send = (at, index) => response.write(`${JSON.stringify({ child, text: `${new Date(at).toISOString().replace("T", " ").slice(0, 23)} UTC [4306] ${WORDS[index % WORDS.length]}` })}\n`);
  let count = 0;
  for (; count < 40; count += 1) send(Date.now() - (40 - count) * 1000, count % 7 === 6 ? 3 : count % 9 === 8 ? 2 : count % 2);
  const timer = setInterval(() => send(Date.now(), (count += 1) % 2), 1000);
  request.on("close", () => clearInterval(timer));
}

/** Requests by scene: some answer only at first. */
const asked = new Map();
const count = (scene) => (asked.set(scene, (asked.get(scene) ?? 0) + 1), asked.get(scene));
createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://x");
  const scene = sceneOf(request);
  const json = (status, value) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
  if (pathname === "/login") return response.writeHead(204, { "set-cookie": "mainstay_session=x; HttpOnly; SameSite=Strict; Path=/" }).end();
  if (pathname.startsWith("/api/") && scene === "loading") return;
  if (pathname === "/api/v1/status" && scene === "silent" && count(scene) > 1) return;
  if (pathname.startsWith("/api/") && scene === "signed-out") return json(401, { status: 401, code: "MS4010", title: "no console session", help: null });
  if (pathname.startsWith("/api/") && scene === "lost" && count(scene) > 3) return request.destroy();
  if (pathname.startsWith("/api/") && scene === "session-over" && count(scene) > 3) return json(401, { status: 401, code: "MS4010", title: "no console session", help: null });
  const [status, , events] = FILES[scene === "play" ? "ready" : scene] ?? FILES.ready;
  const by = Date.now() * 1000 - FIXTURE_AT;
  if (pathname === "/api/v1/status") return json(200, fresh({ ...read(status), drills: DRILLS }, by));
  if (pathname === "/api/v1/drills/history") return json(200, fresh(HISTORY, by));
  if (pathname === "/api/v1/events") return json(200, fresh(read(events), by));
  if (pathname === "/api/v1/processes") return json(200, fresh(read("ready.processes"), by));
  if (pathname === "/api/v1/logs") return log(request, response, searchParams.get("child") === "backend" ? "backend-1" : searchParams.get("child"));
  if (pathname === "/api/v1/stream") return stream(request, response, scene);
  if (pathname === "/") asked.delete(scene);
  try {
    const file = join(root, "dist", normalize(pathname === "/" ? "/index.html" : pathname));
    const bytes = readFileSync(file);
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream", "content-security-policy": POLICY }).end(bytes);
  } catch {
    response.writeHead(404).end();
  }
}).listen(Number(process.argv[2] ?? 7799), "127.0.0.1", function () {
  console.log(`http://console.localhost:${this.address().port}/?scene=play#token=x`);
});
// A test that started it has its other end: no test, no mock.
if (process.argv[2] === "0") process.stdin.on("end", () => process.exit()).resume();
