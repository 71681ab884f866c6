// Drives one page in Chromium for tests: a request a line on stdin, an answer a line on stdout.
// Modules come from the folder in OCT_NODE_MODULES, the browser from OCT_CHROMIUM.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.OCT_NODE_MODULES}/`);
const { chromium } = require("playwright-core");

const state = { browser: null, page: null, console: [], requests: [] };

const ACTIONS = {
  async open({ url, width, height, dark = false, wait = true, offline = true }) {
    await state.page?.context().close();
    Object.assign(state, { console: [], requests: [] });
    const context = await state.browser.newContext({
      viewport: { width, height },
      offline,
      colorScheme: dark ? "dark" : "light",
      acceptDownloads: true,
    });
    state.page = await context.newPage();
    state.page.on("console", (message) => state.console.push(message.text()));
    state.page.on("pageerror", (error) => state.console.push(String(error)));
    state.page.on("request", (request) => state.requests.push(request.url().slice(0, 80)));
    await state.page.goto(url);
    if (wait) {
      await state.page.waitForFunction(
        () => "readyMs" in document.documentElement.dataset || document.querySelector("#status.failed"),
        null,
        { timeout: 60_000 },
      );
    }
    return state.page.textContent("#status");
  },
  async choose({ files, folder }) {
    await state.page.setInputFiles(folder ? "#folder" : "#files", folder ?? files);
    await state.page.waitForFunction(() => self.viewer.queue.running === null, null, { timeout: 300_000 });
  },
  evaluate: ({ script }) => state.page.evaluate(script),
  async settle() {
    await state.page.waitForFunction(() => !document.querySelector(".drawing"));
  },
  press: ({ key }) => state.page.keyboard.press(key),
  click: ({ selector }) => state.page.click(selector),
  async download({ selector }) {
    const [download] = await Promise.all([state.page.waitForEvent("download"), state.page.click(selector)]);
    return download.path();
  },
  screenshot: ({ path, full = false }) => state.page.screenshot({ path, fullPage: full }).then(() => path),
  async collect() {
    const session = await state.page.context().newCDPSession(state.page);
    await session.send("HeapProfiler.collectGarbage");
  },
  log: () => ({ console: state.console, requests: state.requests }),
  async axe() {
    // The policy forbids scripts of others, so it runs in the driver's own isolated world.
    const session = await state.page.context().newCDPSession(state.page);
    const { frameTree } = await session.send("Page.getFrameTree");
    const { executionContextId } = await session.send("Page.createIsolatedWorld", {
      frameId: frameTree.frame.id,
    });
    const source = require("axe-core").source;
    await session.send("Runtime.evaluate", { expression: source, contextId: executionContextId });
    const { result } = await session.send("Runtime.evaluate", {
      expression: `axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
        violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((n) => n.html) })))`,
      contextId: executionContextId,
      awaitPromise: true,
      returnByValue: true,
    });
    return result.value;
  },
};

state.browser = await chromium.launch({
  executablePath: process.env.OCT_CHROMIUM,
  args: ["--no-sandbox"],
});
for await (const line of createInterface({ input: process.stdin })) {
  const { action, ...request } = JSON.parse(line);
  try {
    const result = await ACTIONS[action](request);
    process.stdout.write(`${JSON.stringify({ result: result ?? null })}\n`);
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ error: String(error) })}\n`);
  }
}
await state.browser.close();
