// The demo chat page in a real browser, served through the balancer: two users, a room, a direct message, and a node that is killed.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { Browser, Page } from "playwright-core";

import { launch } from "./browser.ts";
import { type Cluster, startCluster, until } from "./cluster.ts";

const SOON_MS = 30_000;
let cluster: Cluster;
let browser: Browser;
const errors: string[] = [];
let ann: Page;
let bob: Page;

before(async () => {
  cluster = await startCluster();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await cluster?.stop();
});

/** A window of its own, with nothing shared. */
async function open(): Promise<Page> {
  const page = await browser.newPage({ viewport: { width: 1200, height: 760 } });
  page.setDefaultTimeout(SOON_MS);
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    // What the content security policy stops is told here.
    if (message.text().includes("Content Security Policy")) errors.push(message.text());
  });
  await page.goto(cluster.pageUrl);
  return page;
}

async function register(user: string): Promise<Page> {
  const page = await open();
  await page.getByLabel("User name").fill(user);
  await page.getByLabel("Password").fill("correct horse");
  await page.getByRole("button", { name: "Register" }).click();
  await page.getByText("Connected", { exact: true }).waitFor();
  return page;
}

async function say(page: Page, text: string): Promise<void> {
  await page.getByRole("textbox", { name: "Message" }).fill(text);
  await page.keyboard.press("Enter");
}

/** The message is in the log exactly once. */
async function hears(page: Page, text: string): Promise<void> {
  const message = page.getByRole("log").getByText(text, { exact: true });
  await message.first().waitFor();
  assert.equal(await message.count(), 1, `${text} is there more than once`);
}

async function picture(page: Page, name: string): Promise<void> {
  const folder = process.env["HOLDFAST_SCREENSHOTS"];
  if (folder) await page.screenshot({ path: `${folder}/${name}.png` });
}

/** Connections of each node, as the supervisor sees them. */
async function connections(): Promise<Map<string, number>> {
  const { nodes } = (await cluster.status()).servers;
  return new Map(nodes.map((node) => [node.name, node.connections ?? 0]));
}

let nodeOfAnn = "";

test("two users register, meet in a room and talk", async () => {
  const before = await connections();
  ann = await register("ann");
  nodeOfAnn = await until("the connection in the status", SOON_MS, async () => {
    const now = [...(await connections())];
    return now.find(([name, count]) => count > (before.get(name) ?? 0))?.[0];
  });
  bob = await register("bob");

  await ann.getByRole("button", { name: "Rooms" }).click();
  await ann.getByLabel("Or make one").fill("lobby");
  await ann.getByRole("button", { name: "Create" }).click();
  await ann.getByRole("heading", { name: "# lobby" }).waitFor();
  await bob.getByRole("button", { name: "Rooms" }).click();
  await bob.getByRole("button", { name: /lobby/ }).click();
  await bob.getByRole("heading", { name: "# lobby" }).waitFor();
  await ann.getByText("2 of 2 online").waitFor();

  await say(ann, "Is <b>anybody</b> here?");
  await hears(bob, "Is <b>anybody</b> here?");
  await say(bob, "I am.");
  await hears(ann, "I am.");
  await picture(ann, "room");
});

test("a direct message is announced, read and still there after a reload", async () => {
  await bob.getByRole("button", { name: "New message" }).click();
  await bob.getByLabel("User name").fill("ann");
  await bob.getByRole("button", { name: "Write" }).click();
  await bob.getByRole("heading", { name: "ann" }).waitFor();
  await say(bob, "Between the two of us");
  await hears(bob, "Between the two of us");

  await ann.getByRole("button", { name: "bob, 1 unread" }).click();
  await hears(ann, "Between the two of us");
  await ann.locator(".presence", { hasText: /^online$/ }).waitFor();
  await say(ann, "Nobody else reads this");
  await hears(bob, "Nobody else reads this");

  await ann.reload();
  await ann.getByRole("button", { name: "bob", exact: true }).click();
  await hears(ann, "Between the two of us");
  await hears(ann, "Nobody else reads this");
  await ann.getByRole("button", { name: /lobby/ }).click();
  await hears(ann, "I am.");
});

test("a node is killed: the page comes back by itself and says what it recovered", async () => {
  await bob.getByRole("button", { name: /lobby/ }).click();
  // A reload may have led to another node: strike them in turn until it was the right one.
  const nodes = [nodeOfAnn, "chatnode-1", "chatnode-2", "chatnode-3"];
  const notice = ann.getByText(/^Reconnected, recovered \d+ messages?\.$/);
  const told: string[] = [];
  for (const [index, node] of nodes.entries()) {
    await until("the node to run", SOON_MS, async () => (cluster.pid(node) > 0 ? true : undefined));
    process.kill(cluster.pid(node), "SIGKILL");
    for (const number of [1, 2, 3]) {
      told.push(`message ${index}.${number}`);
      await say(bob, `message ${index}.${number}`);
    }
    for (const text of told) await hears(ann, text);
    if (await notice.isVisible()) break;
  }
  await notice.waitFor();
  await picture(ann, "recovered");
  await ann.getByText("Connected", { exact: true }).waitFor();
  for (const text of told) {
    await hears(ann, text);
    await hears(bob, text);
  }
});

test("it fits a phone, works by keyboard, and broke no rule of its security policy", async () => {
  await ann.setViewportSize({ width: 390, height: 780 });
  const overflow = () => ann.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok((await overflow()) <= 0, "the conversation is wider than the screen");
  await ann.getByRole("button", { name: "Back to the conversations" }).focus();
  await ann.keyboard.press("Enter");
  const conversation = ann.getByRole("button", { name: "bob", exact: true });
  await conversation.waitFor();
  assert.ok((await overflow()) <= 0, "the list is wider than the screen");
  await ann.emulateMedia({ colorScheme: "dark" });
  await picture(ann, "phone");
  await conversation.focus();
  await ann.keyboard.press("Enter");
  await hears(ann, "Nobody else reads this");
  assert.deepEqual(errors, []);
});

test("a wrong password is refused in words, and logging out ends the session", async () => {
  await ann.setViewportSize({ width: 1200, height: 760 });
  await ann.getByRole("button", { name: "Log out" }).click();
  await ann.getByLabel("User name").fill("ann");
  await ann.getByLabel("Password").fill("wrong password");
  await ann.getByRole("button", { name: "Log in" }).click();
  const problem = ann.getByRole("alert");
  await until("the refusal", SOON_MS, async () => ((await problem.textContent()) ? true : undefined));
  await ann.reload();
  await ann.getByLabel("User name").waitFor();
  await ann.getByLabel("User name").fill("ann");
  await ann.getByLabel("Password").fill("correct horse");
  await ann.getByRole("button", { name: "Log in" }).click();
  await ann.getByText("Connected", { exact: true }).waitFor();
});
