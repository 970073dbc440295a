// Every state that the console draws, played to it from fixtures: axe-core finds nothing, nothing scrolls sideways.
//   node scenes.mjs [FOLDER]     keeps a screenshot of each in FOLDER
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { accessible, fitsSideways, launch, step, summary, watchErrors } from "./browser.mjs";

const folder = process.argv[2];
/** Scene, what must be there, and in which view the page must be. */
const SCENES = [
  ["ready", "live", "All 13 parts ready"],
  ["failover", "live", "postgres-a is down"],
  ["starting", "live", "Starting"],
  ["no-database", "live", "This stack has no database."],
  ["no-cache", "live", "This stack has no cache."],
  ["one-service", "live", "This stack has no database and no cache."],
  ["empty", "live", "This stack has no parts yet"],
  ["many", "live", "not ready"],
  ["loading", "loading", "Loading the picture"],
  ["signed-out", "signed-out", "mainstay console"],
  ["stale", "stale", "has not looked at the stack since"],
  ["silent", "stale", "it is being asked"],
  ["lost", "lost", "No connection to the control plane"],
  ["session-over", "lost", "This session is over"],
];
const WAYS = [
  { width: 1440, colorScheme: "light" },
  { width: 360, colorScheme: "dark" },
];

const mock = spawn(process.execPath, [new URL("../console/dev/mock.mjs", import.meta.url).pathname, "0"], { stdio: ["pipe", "pipe", "inherit"] });
const port = await new Promise((resolve, reject) => {
  mock.stdout.on("data", (data) => resolve(Number(String(data).match(/:(\d+)/)?.[1])));
  mock.on("exit", () => reject(new Error("the mock ended")));
});
const browser = await launch();

async function look(scene, view, words, { width, colorScheme }) {
  const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme, reducedMotion: "reduce" });
  const page = await context.newPage();
  const errors = watchErrors(page);
  await page.goto(`http://console.localhost:${port}/?scene=${scene}#token=x`);
  await page.locator(`[data-view="${view}"]`).first().waitFor({ timeout: 20_000 });
  await page.getByText(words).first().waitFor({ timeout: 5_000 });
  await fitsSideways(page, scene);
  await accessible(page, `${scene} at ${width} px, ${colorScheme}`);
  if (folder !== undefined) await page.screenshot({ path: `${folder}/${scene}-${width}-${colorScheme}.png`, fullPage: true });
  if (scene === "ready") await lookAtPanel(page, width, colorScheme);
  assert.deepEqual(errors, []);
  await context.close();
}

async function lookAtPanel(page, width, colorScheme) {
  await page.getByRole("button", { name: /^postgres-a, primary, ready/ }).click();
  await page.locator(".log-line").first().waitFor();
  await fitsSideways(page, "the panel");
  await accessible(page, `the panel at ${width} px, ${colorScheme}`);
  if (folder !== undefined) await page.screenshot({ path: `${folder}/panel-${width}-${colorScheme}.png` });
}

try {
  // Some scenes take seconds to come about: they do so side by side.
  for (const way of WAYS) {
    await step(`${SCENES.length} states and the panel at ${way.width} px, ${way.colorScheme}: axe finds nothing, nothing scrolls sideways`, async () => {
      const isSlow = ([, view]) => view === "stale" || view === "lost";
      const inTurn = async () => {
        for (const scene of SCENES.filter((one) => !isSlow(one))) await look(...scene, way);
      };
      const done = await Promise.allSettled([inTurn(), ...SCENES.filter(isSlow).map((scene) => look(...scene, way))]);
      for (const one of done) if (one.status === "rejected") throw one.reason;
    });
  }
  console.log(summary());
} finally {
  await browser.close();
  mock.kill();
}
