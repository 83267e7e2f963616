// The status page in a real browser.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { Browser, Page } from "playwright-core";

import { launch } from "./browser.ts";
import { type Cluster, startCluster } from "./cluster.ts";

const SOON_MS = 30_000;
let cluster: Cluster;
let browser: Browser;
let page: Page;
const errors: string[] = [];

before(async () => {
  cluster = await startCluster();
  browser = await launch();
  page = await browser.newPage({ viewport: { width: 1280, height: 1400 } });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("response", (response) => {
    if (response.status() >= 400) errors.push(`${response.status()} ${response.url()}`);
  });
});

after(async () => {
  await browser?.close();
  await cluster?.stop();
});

test("it shows the cluster, an incident with its reasons, and the runbook", async () => {
  await page.goto(cluster.supervisorUrl);
  for (const name of ["chatnode-1", "chatnode-2", "chatnode-3"]) {
    await page.getByText(name).first().waitFor({ timeout: SOON_MS });
  }
  await page.getByText(/primary/i).first().waitFor({ timeout: SOON_MS });

  process.kill(cluster.pid("chatnode-2"), "SIGKILL");
  // The page refreshes by itself.
  const incident = page.getByRole("link", { name: /NodeDown|chatnode-2 does not answer/ }).first();
  await incident.waitFor({ timeout: SOON_MS });
  const picture = process.env["HOLDFAST_SCREENSHOT"];
  if (picture) await page.screenshot({ path: picture, fullPage: true });
  await incident.click();
  await page.getByText("NodeDown").first().waitFor({ timeout: SOON_MS });

  await page.goto(`${cluster.supervisorUrl}/runbooks/NodeDown`);
  assert.match((await page.textContent("body")) ?? "", /holdfast (status|events)/);
  assert.deepEqual(errors, []);
});

test("nothing sticks out at the width of a phone", async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto(cluster.supervisorUrl);
  await page.getByText("chatnode-1").first().waitFor({ timeout: SOON_MS });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} px wider than the screen`);
});
