// Plays fixtures to the built console, for looking at it without a stack. Development only.
//   node dev/mock.mjs [PORT]     then open http://console.localhost:PORT/?scene=failover#token=x
// Scenes: ready, idle, failover, rejoin, starting, empty, many, play (a failover in a loop), lost, session-over, signed-out,
// quiet (nothing changes, nothing is sent).
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
  const moments = ["at", "since", "until", "deadline"];
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, moments.includes(key) && typeof one === "number" ? one + by : fresh(one, by)]));
}
const FIXTURE_AT = read("ready.status").at;
const FILES = {
  ready: ["ready.status", "ready.traffic", "ready.events"],
  lost: ["ready.status", "ready.traffic", "ready.events"],
  "session-over": ["ready.status", "ready.traffic", "ready.events"],
  quiet: ["ready.status", "idle.traffic", "ready.events"],
  idle: ["ready.status", "idle.traffic", "ready.events"],
  failover: ["failover.status", "failover.traffic", "failover.events"],
  rejoin: ["rejoin.status", "ready.traffic", "failover.events"],
  starting: ["starting.status", "idle.traffic", "ready.events"],
  empty: ["empty.status", "idle.traffic", "ready.events"],
  many: ["many.status", "many.traffic", "ready.events"],
};
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
    if (scene === "quiet" && step > 0) return;
    send("status", { ...fresh(read(status), by), at: now });
    send("traffic", fresh(read(traffic), now - FIXTURE_AT));
    if (scene === "play" && step % 4 === 0) for (const event of read(events)) send("event", fresh(event, by));
    step += 1;
    if ((scene === "lost" || scene === "session-over") && step === 2) response.destroy();
  };
  beat();
  const timer = setInterval(beat, 1000);
  request.on("close", () => clearInterval(timer));
}

let lostAnswers = 0;
createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://x");
  const scene = sceneOf(request);
  const json = (status, value) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
  if (pathname === "/login") return response.writeHead(204, { "set-cookie": "mainstay_session=x; HttpOnly; SameSite=Strict; Path=/" }).end();
  if (pathname.startsWith("/api/") && scene === "signed-out") return json(401, { status: 401, code: "MS4010", title: "no console session", help: null });
  if (pathname.startsWith("/api/") && scene === "lost" && lostAnswers++ > 2) return request.destroy();
  if (pathname.startsWith("/api/") && scene === "session-over" && lostAnswers++ > 2) return json(401, { status: 401, code: "MS4010", title: "no console session", help: null });
  const [status, , events] = FILES[scene === "play" ? "ready" : scene] ?? FILES.ready;
  const by = Date.now() * 1000 - FIXTURE_AT;
  if (pathname === "/api/v1/status") return json(200, fresh(read(status), by));
  if (pathname === "/api/v1/events") return json(200, fresh(read(events), by));
  if (pathname === "/api/v1/stream") return stream(request, response, scene);
  if (pathname === "/") lostAnswers = 0;
  try {
    const file = join(root, "dist", normalize(pathname === "/" ? "/index.html" : pathname));
    const bytes = readFileSync(file);
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream", "content-security-policy": POLICY }).end(bytes);
  } catch {
    response.writeHead(404).end();
  }
}).listen(Number(process.argv[2] ?? 7799), "127.0.0.1");
