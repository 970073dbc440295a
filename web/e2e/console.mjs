// The console of a real stack, as a person and a screen reader meet it: opened by its one-time link, read by roles and
// names, its primary killed, its control plane stopped and back.
//   MAINSTAY=… STATE=… STACK=… node console.mjs [FOLDER]     keeps screenshots in FOLDER
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { accessible, fitsSideways, launch, ok, step, summary, watchErrors } from "./browser.mjs";

const { MAINSTAY, STATE, STACK } = process.env;
const folder = process.argv[2];
const ms = (...args) => execFileSync(MAINSTAY, ["--state", STATE, "--file", STACK, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const link = () => ms("console").trim().split(/\s+/).find((word) => word.startsWith("http"));
const pidOf = (name) => JSON.parse(ms("ps", "--json")).find((one) => one.name === name).pid;

/** Who is primary at first, and who will be. */
const [first, second] = JSON.parse(ms("status", "--json")).database.primary === "a" ? ["postgres-a", "postgres-b"] : ["postgres-b", "postgres-a"];
const now = (name, text) => new RegExp(`^${name}, ${text}`);

const browser = await launch();
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: "light" });
const page = await context.newPage();
const errors = watchErrors(page);
const box = (name) => page.getByRole("list", { name: "parts" }).getByRole("button", { name });
const shot = async (name, options) => folder && (await page.screenshot({ path: `${folder}/${name}.png`, ...options }));
const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
/** What the page says of freshness. */
const view = (wanted) => page.locator(`.page[data-view="${wanted}"]`).waitFor({ timeout: 30_000 });

/** Remembers every name that a box had: a failover is over before a test has looked twice. */
async function remember() {
  await page.evaluate(() => {
    globalThis.said = [];
    const note = (element) => globalThis.said.push(element.getAttribute("aria-label"));
    const parts = document.querySelector('[role="list"][aria-label="parts"]');
    new MutationObserver((records) => records.forEach((record) => note(record.target))).observe(parts, { subtree: true, attributeFilter: ["aria-label"] });
  });
}
const remembered = () => page.evaluate(() => globalThis.said);

async function opens() {
  await step("without a session the page says how to get one", async () => {
    const url = new URL(link());
    await page.goto(url.origin);
    await page.getByRole("heading", { name: "This console opens with a link" }).waitFor();
    await page.getByText("mainstay console").waitFor();
    await accessible(page, "the page without a session");
  });
  await step("the one-time link opens it, and its token leaves the address", async () => {
    await page.goto(link());
    await view("live");
    assert.equal(new URL(page.url()).hash, "");
  });
  await step("pages come as gzip, the first load is below 100 KB", async () => {
    await page.reload();
    await view("live");
    const loaded = await page.evaluate(() =>
      [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .filter((one) => !one.name.includes("/api/"))
        .map((one) => ({ name: one.name, packed: one.encodedBodySize, plain: one.decodedBodySize })),
    );
    const cached = await page.evaluate(async () => (await fetch(document.querySelector("script[src]").src, { cache: "reload" })).headers.get("content-encoding"));
    assert.equal(cached, "gzip");
    const sum = loaded.reduce((total, one) => total + one.packed, 0);
    assert.ok(loaded.length >= 3 && sum > 10_000 && sum < 100_000, JSON.stringify(loaded));
    return `${(sum / 1000).toFixed(1)} KB`;
  });
}

async function reads() {
  await step("the diagram is a list of parts with roles and states, in the way of a request", async () => {
    const wanted = [/^edge, .*ready$/, /^backend, 2 of 2 ready, ready$/, /^backend-1, ready$/, /^router, .*ready$/, now(first, "primary, ready"), now(second, "standby, synchronous, ready"), /^cache, .*ready$/, /^control, .*ready$/];
    for (const name of wanted) await box(name).waitFor({ timeout: 30_000 });
    const names = await page.getByRole("list", { name: "parts" }).getByRole("button").evaluateAll((all) => all.map((one) => one.getAttribute("aria-label")));
    const order = ["edge", "backend", "router", first].map((name) => names.findIndex((one) => one.startsWith(`${name},`)));
    assert.deepEqual(order, [...order].sort((a, b) => a - b));
    assert.equal(await page.getByRole("listitem").filter({ has: page.getByRole("img", { name: /^postgres-|database, writable/ }) }).count() > 0, true);
  });
  await step("the state of the whole is announced", async () => {
    await page.getByRole("status").filter({ hasText: /All \d+ parts ready/ }).waitFor({ timeout: 30_000 });
  });
  await step("axe finds nothing on the live page, light", () => accessible(page, "the live page, light"));
}

async function browses() {
  await step("keys go from box to box, Enter opens, Escape closes and comes back", async () => {
    await box(/^edge,/).focus();
    await page.keyboard.press("ArrowDown");
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("data-box"));
    assert.match((await focused()) ?? "", /^backend/);
    await box(now(first, "")).focus();
    await page.keyboard.press("ArrowRight");
    assert.equal(await focused(), second);
    await page.keyboard.press("Enter");
    await page.getByRole("complementary", { name: second }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement?.id), "panel-title");
    assert.equal(await box(now(second, "")).getAttribute("aria-expanded"), "true");
    await page.keyboard.press("Escape");
    await page.getByRole("complementary").waitFor({ state: "detached" });
    assert.equal(await focused(), second);
  });
  await step("the panel of the primary has its facts, log and events", async () => {
    await box(now(first, "primary")).click();
    const panel = page.getByRole("complementary", { name: first });
    await panel.getByText(`${pidOf(first)}`, { exact: true }).waitFor();
    await panel.getByText(/^[0-9A-F]+\/[0-9A-F]+$/).waitFor();
    await panel.getByText(/\/pg-[ab]$/).waitFor();
    await panel.getByRole("log").getByText("LOG:").first().waitFor();
    await panel.getByText(`${first} is ready`).first().waitFor();
    assert.equal(new URL(page.url()).hash, `#box=${first}`);
    await accessible(page, "the panel, light");
    await shot("panel");
  });
  await step("its log goes on as it is written", async () => {
    const mark = `console_test_${Date.now()}`;
    // The server writes what it cannot do into its log.
    spawnSync(MAINSTAY, ["--state", STATE, "--file", STACK, "db", "psql", "--", "-c", `select ${mark}`], { stdio: "ignore" });
    await page.getByRole("log").getByText(mark).first().waitFor({ timeout: 10_000 });
  });
  await step("a service has its instances, and they lead to theirs", async () => {
    await box(/^backend,/).click();
    await page.getByRole("complementary", { name: "backend" }).getByRole("button", { name: /^backend-2/ }).click();
    await page.getByRole("complementary", { name: "backend-2" }).getByRole("log").getByText("ServiceStarted").waitFor();
    await page.goBack();
    await page.getByRole("complementary").waitFor({ state: "detached" });
  });
  await step("a link to a box opens it", async () => {
    await page.goto(`${new URL(page.url()).origin}/#box=router`);
    await page.getByRole("complementary", { name: "router" }).getByText(first).first().waitFor();
    await page.getByRole("button", { name: "close router" }).click();
  });
  await step("events are filtered by level", async () => {
    const list = page.locator(".events .event");
    const all = await list.count();
    await page.getByText("warnings", { exact: false }).first().click();
    const shown = await list.evaluateAll((items) => items.map((item) => item.dataset.level));
    assert.ok(shown.length < all && shown.every((level) => level !== "info"), `${shown} of ${all}`);
    await page.getByText("all", { exact: true }).click();
    assert.equal(await list.count(), all);
  });
}

async function looks() {
  const light = await background();
  await step("dark where the system is dark; the switch is remembered", async () => {
    await page.emulateMedia({ colorScheme: "dark" });
    const dark = await background();
    assert.notEqual(dark, light);
    await accessible(page, "the live page, dark");
    await shot("dark");
    await page.getByRole("radio", { name: "light colours" }).check({ force: true });
    assert.equal(await background(), light);
    await page.reload();
    await view("live");
    assert.equal(await background(), light);
    await page.getByRole("radio", { name: "colours as the system" }).check({ force: true });
    assert.equal(await background(), dark);
  });
  await step("360 px wide: nothing scrolls sideways, the panel is a sheet at the bottom", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    await page.waitForTimeout(700);
    await fitsSideways(page, "the page");
    await accessible(page, "the page at 360 px, dark");
    await shot("phone", { fullPage: true });
    await box(now(second, "")).click();
    const sheet = page.getByRole("complementary", { name: second });
    await sheet.getByRole("log").getByText("LOG:").first().waitFor();
    await page.waitForTimeout(400);
    const place = await sheet.boundingBox();
    assert.ok(place.width === 360 && Math.abs(place.y + place.height - 740) <= 1 && place.y > 100, JSON.stringify(place));
    await fitsSideways(page, "the page with a sheet");
    await shot("phone-sheet");
    await page.keyboard.press("Escape");
    await page.setViewportSize({ width: 1440, height: 900 });
    await page.emulateMedia({ colorScheme: "light" });
  });
}

async function failsOver() {
  await remember();
  const pid = pidOf(first);
  const began = Date.now();
  process.kill(pid, "SIGKILL");
  await step("the primary is killed: its node fails, the standby is promoted", async () => {
    await box(now(second, "primary, ready")).waitFor({ timeout: 20_000 });
    const promoted = Date.now() - began;
    const said = await remembered();
    assert.ok(said.some((name) => now(first, "primary, failed").test(name)), `${first} was never drawn as failed: ${said.join(" | ")}`);
    return `promoted in the picture ${promoted} ms after the kill`;
  });
  await step("and it is whole again, with the old primary as standby", async () => {
    await box(now(first, "standby, synchronous, ready")).waitFor({ timeout: 40_000 });
    await page.locator('[data-overall="ready"]').waitFor({ timeout: 40_000 });
    await page.locator(`.event[data-subject="${first}"]`).filter({ hasText: "SIGKILL" }).first().waitFor();
    await page.getByText(/[1-9]\d* failovers?/).first().waitFor();
    await shot("after");
    return `${Date.now() - began} ms after the kill`;
  });
}

async function loses() {
  const pid = pidOf("control");
  process.kill(pid, "SIGSTOP");
  try {
    await step("the control plane is stopped: the picture is stale, then not live, and keeps what was known", async () => {
      await view("stale");
      await view("lost");
      await page.getByText("No connection to the control plane").waitFor();
      await box(now(second, "primary, ready")).waitFor();
      await accessible(page, "the page without a connection");
      await shot("lost");
    });
  } finally {
    process.kill(pid, "SIGCONT");
  }
  await step("it goes on: live again by itself", () => view("live"));
  await step("the control plane is killed: keep starts another, the picture is live with it", async () => {
    process.kill(pid, "SIGKILL");
    await page.locator(".events .event").filter({ hasText: "control plane runs as pid" }).filter({ hasNotText: `pid ${pid}` }).first().waitFor({ timeout: 30_000 });
    await view("live");
  });
  await step("a session that ends says so, with the command for the next", async () => {
    await context.clearCookies();
    await page.reload();
    await page.getByRole("heading", { name: "This console opens with a link" }).waitFor();
    await page.goto(link());
    await view("live");
  });
}

try {
  await opens();
  await reads();
  await browses();
  await looks();
  await failsOver();
  await loses();
  assert.deepEqual(errors, []);
  ok("the page made no error of its own");
  console.log(summary());
} catch (error) {
  console.log(error);
  if (folder !== undefined) await page.screenshot({ path: `${folder}/failure.png` }).catch(() => undefined);
  console.log((await page.locator("body").ariaSnapshot().catch(() => "")).slice(0, 6000));
  process.exitCode = 1;
} finally {
  await browser.close();
}
