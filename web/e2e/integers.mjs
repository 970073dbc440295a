// The integers application's page as a person meets it: registers, asks for integers, sets the counter, changes the key,
// signs out and in again. On a wide screen and on a phone, light and dark.
//   URL=https://integers.localhost:… node integers.mjs [FOLDER]     keeps screenshots in FOLDER
import assert from "node:assert/strict";
import { launch, looksRight, ok, step, summary, watchErrors } from "./browser.mjs";

const { URL: site } = process.env;
const folder = process.argv[2];
const PASSWORD = "correct horse battery";

const browser = await launch();
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", ignoreHTTPSErrors: true, reducedMotion: "reduce", permissions: ["clipboard-read", "clipboard-write"] });
const page = await context.newPage();
const errors = watchErrors(page);
const shot = async (name) => folder && (await page.screenshot({ path: `${folder}/integers-${name}.png`, fullPage: true }));
const press = (name) => page.getByRole("button", { name, exact: true }).click();
/** Digits come in groups. */
const stands = (value) => page.waitForFunction((wanted) => document.querySelector("#value").textContent.replaceAll(/\D/g, "") === wanted, value);

async function enters() {
  await step("a stranger meets the sign-in; a short password is refused in words", async () => {
    await page.goto(site);
    await page.getByRole("heading", { name: "A counter of your own" }).waitFor();
    await looksRight(page, "outside", shot);
    await page.getByLabel("User name").fill("emmy");
    await page.getByLabel("Password").fill("short");
    await press("Register");
    await page.getByRole("alert").filter({ hasText: "12" }).waitFor();
    await looksRight(page, "refused");
  });
  await step("registering leads inside, and shows the key this once", async () => {
    await page.getByLabel("Password").fill(PASSWORD);
    await press("Register");
    await page.getByText("Your new key").waitFor();
    const key = await page.locator("#key").innerText();
    assert.ok(key.length > 20 && (await page.locator("#curl").innerText()).includes(key));
    await press("Copy");
    await page.getByText("Copied.").waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), key);
    await looksRight(page, "inside", shot);
  });
}

async function counts() {
  await step("the next integer, by the keyboard; then ten at once", async () => {
    await page.getByLabel("How many").focus();
    await page.keyboard.press("Enter");
    await page.getByText("You were given 1.").waitFor();
    await stands("1");
    await page.getByLabel("How many").fill("10");
    await press("Next");
    await page.getByText("You were given 2 to 11.").waitFor();
    await stands("11");
  });
  await step("an integer beyond what JavaScript's numbers tell apart is not rounded", async () => {
    await page.getByLabel("Value", { exact: true }).fill("9007199254740993");
    await press("Set");
    await page.getByText("The counter stands at 9007199254740993.").waitFor();
    await stands("9007199254740993");
    await looksRight(page, "a long value", shot);
  });
  await step("going back asks for a mark", async () => {
    await page.getByLabel("Value", { exact: true }).fill("5");
    await press("Set");
    await page.locator("#set-note").filter({ hasText: "confirm" }).waitFor();
    await page.getByLabel(/Go back/).check();
    await press("Set");
    await stands("5");
  });
  await step("a lost answer is asked for again with the same key: counted once", async () => {
    await page.evaluate(() => {
      const real = globalThis.fetch;
      globalThis.keys = [];
      globalThis.fetch = async (path, options) => {
        const answer = await real(path, options);
        if (!path.includes("/next")) return answer;
        globalThis.keys.push(options.headers["idempotency-key"]);
        // The first one was answered, and the answer does not arrive.
        if (globalThis.keys.length === 1) throw new TypeError("lost");
        globalThis.replayed = answer.headers.get("idempotency-replayed");
        return answer;
      };
    });
    await page.getByLabel("How many").fill("1");
    await press("Next");
    await page.getByText("You were given 6.").waitFor();
    const { keys, replayed } = await page.evaluate(() => ({ keys: globalThis.keys, replayed: globalThis.replayed }));
    assert.deepEqual([keys.length, new Set(keys).size, replayed], [2, 1, "true"]);
    await stands("6");
  });
}

async function keeps() {
  await step("another key after a question; without it the key stays", async () => {
    const old = await page.locator("#key-begins").innerText();
    page.once("dialog", (dialog) => dialog.dismiss());
    await press("Make another key");
    page.once("dialog", (dialog) => dialog.accept());
    assert.equal(await page.locator("#key-begins").innerText(), old);
    await press("Make another key");
    await page.getByText("The old key is refused from now on.").waitFor();
    assert.notEqual(await page.locator("#key-begins").innerText(), old);
  });
  await step("the usage is there as a picture and as a table", async () => {
    await page.getByText("As a table").click();
    await page.getByRole("row").nth(1).waitFor();
    assert.equal(await page.getByRole("row").count(), 31);
    await page.getByRole("img", { name: /integers in \d+ requests/ }).waitFor();
    await looksRight(page, "usage", shot);
  });
  await step("a reload keeps one signed in, and shows the key no more", async () => {
    await page.reload();
    await stands("6");
    assert.equal(await page.locator("#key").isVisible(), false);
  });
  await step("signing out leads outside, also after a reload; signing in leads back to the same counter", async () => {
    await press("Sign out");
    await page.getByLabel("User name").waitFor();
    await page.reload();
    await page.getByLabel("User name").fill("EMMY");
    await page.getByLabel("Password").fill(PASSWORD);
    await page.keyboard.press("Enter");
    await stands("6");
  });
}

try {
  await enters();
  await counts();
  await keeps();
  assert.deepEqual(errors, []);
  ok("the page made no error of its own");
  console.log(summary());
} catch (error) {
  console.log(error);
  if (folder !== undefined) await page.screenshot({ path: `${folder}/integers-failure.png` }).catch(() => undefined);
  console.log((await page.locator("body").ariaSnapshot().catch(() => "")).slice(0, 6000));
  process.exitCode = 1;
} finally {
  await browser.close();
}
