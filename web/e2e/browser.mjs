// The distribution's Chromium, quiet and kept to this machine; and what every test of a page looks at.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Nothing but loopback is resolved, and nothing is fetched, reported or updated behind the test's back. */
export const QUIET = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-default-apps",
  "--disable-domain-reliability",
  "--disable-sync",
  "--metrics-recording-only",
  "--no-first-run",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE *.localhost",
];

export async function launch() {
  // Chromium's sandbox refuses root, and some machines allow it no namespaces either.
  const args = process.getuid?.() === 0 ? [...QUIET, "--no-sandbox"] : QUIET;
  return await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
}

let checks = 0;
const began = Date.now();

export function ok(text) {
  checks += 1;
  console.log(`  ok    ${text}`);
}

/** Says what is being done, so that a failure has a name. */
export async function step(text, act) {
  try {
    const more = await act();
    ok(more === undefined ? text : `${text}: ${more}`);
  } catch (error) {
    console.log(`  FAIL  ${text}`);
    throw error;
  }
}

export function summary() {
  return `${checks} checks passed in ${Math.round((Date.now() - began) / 1000)} s`;
}

/** axe-core's verdict on the page as it is now: no violation, whichever its impact. */
export async function accessible(page, what) {
  // What fades in has no contrast yet.
  await page.evaluate(() => {
    const ending = document.getAnimations().filter((one) => one.effect?.getTiming().iterations !== Infinity);
    return Promise.all(ending.map((one) => one.finished.catch(() => undefined)));
  });
  // Evaluated by the debugger: the page's own policy allows no foreign script.
  await page.evaluate(AXE);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const said = violations.map((one) => `${one.impact}: ${one.id}: ${one.help}: ${one.nodes.map((node) => node.target.join(" ")).slice(0, 4).join(" | ")}`);
  assert.deepEqual(said, [], `axe on ${what}`);
  assert.ok(passes.length > 5, `axe looked at nothing on ${what}`);
}

export async function fitsSideways(page, what) {
  const [scroll, client] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(scroll <= client, `${what} scrolls sideways: ${scroll} > ${client}`);
}

/** One thing that must be so on a wide screen in light colours and on a phone in dark ones. */
export async function looksRight(page, what, shot) {
  for (const [width, height, colorScheme] of [[1280, 900, "light"], [360, 740, "dark"]]) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await fitsSideways(page, `${what} at ${width} px`);
    await accessible(page, `${what} at ${width} px, ${colorScheme}`);
    await shot?.(`${what.replaceAll(/[^a-z]+/gi, "-")}-${width}-${colorScheme}`);
  }
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
}

/** First and largest contentful paint of a page that is opened with an empty cache. Milliseconds. */
export async function paints(browser, url) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ignoreHTTPSErrors: true });
  const page = await context.newPage();
  await page.goto(url, { waitUntil: "networkidle" });
  const found = await page.evaluate(async () => {
    const largest = await new Promise((resolve) => {
      new PerformanceObserver((list) => resolve(list.getEntries().at(-1).startTime)).observe({ type: "largest-contentful-paint", buffered: true });
    });
    return { first: performance.getEntriesByName("first-contentful-paint")[0].startTime, largest };
  });
  await context.close();
  return found;
}

/** Errors of a page's own making; failed loads are some tests' subject. */
export function watchErrors(page) {
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) errors.push(message.text());
  });
  return errors;
}
