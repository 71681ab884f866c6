// The page: start, self-test, and the way from chosen files to answers.

import { cautionsOf, fillAbout, modelLines } from "./about.mjs";
import { fromBase64, takeAsset } from "./assets.mjs";
import { Client } from "./client.mjs";
import { Detail } from "./detail.mjs";
import { byId, fillTexts } from "./dom.mjs";
import { chosenFiles, droppedFiles, groupFiles } from "./grouping.mjs";
import { List } from "./list.mjs";
import { askAboutNames, csv, printTable, saveText } from "./output.mjs";
import { Queue } from "./queue.mjs";
import { text } from "./strings.mjs";

/* global CONFIG */

const REFRESH = 250; // ms
const NEEDED = ["Worker", "WebAssembly", "DecompressionStream", "OffscreenCanvas", "createImageBitmap"];

async function main() {
  fillTexts();
  byId("use").textContent = text("researchUse");
  setStatus(text("starting"));
  const missing = NEEDED.filter((name) => !(name in self));
  if (!self.crypto?.subtle) missing.push("crypto.subtle");
  if (missing.length) return fail(text("failedBrowser", { missing: missing.join(", ") }));
  const started = performance.now();
  let assets;
  try {
    assets = await unpack();
  } catch (error) {
    return fail(text("failedAsset", { message: error.message }));
  }
  try {
    const { client, selfTest } = await start(assets);
    if (!selfTest.model.passed) return failSelfTest(selfTest.model);
    openPage(client, selfTest);
    document.documentElement.dataset.readyMs = Math.round(performance.now() - started);
  } catch (error) {
    fail(text("failedOther", { message: error.details?.message ?? error.message ?? error.code }));
  }
}

async function unpack() {
  const names = Object.keys(CONFIG.assets);
  const contents = await Promise.all(names.map((name) => takeAsset(name, CONFIG.assets[name])));
  return Object.fromEntries(names.map((name, i) => [name, contents[i]]));
}

async function start({ worker, glue, wasm, model, golden }) {
  const url = URL.createObjectURL(new Blob([worker], { type: "text/javascript" }));
  const client = new Client(new Worker(url));
  URL.revokeObjectURL(url);
  const content = {
    about: CONFIG.about,
    assets: { glue, wasm, model },
    golden: JSON.parse(new TextDecoder().decode(golden)),
  };
  const transfer = [glue.buffer, wasm.buffer, model.buffer];
  const selfTest = await client.request("start", content, { transfer });
  return { client, selfTest: { ...selfTest, pictures: content.golden.pictures.length } };
}

function openPage(client, selfTest) {
  const { about } = CONFIG;
  const detail = new Detail(byId("detail"), {
    client,
    about,
    colours: fromBase64(CONFIG.colours),
    cautions: cautionsOf(about),
    modelLines: modelLines(about),
  });
  const queue = new Queue(client, about, () => soon(queue, () => refresh(queue, list, detail)));
  const list = new List(queue, (entry) => detail.show(entry));
  detail.show(null);
  fillAbout(about, selfTest.model);
  connect(queue, list);
  byId("main").hidden = false;
  const { scans } = selfTest.model;
  const formats = selfTest.unfit.join(", ");
  setStatus(
    formats ? text("readyWithout", { formats }) : text("ready", { scans, pictures: selfTest.pictures }),
  );
  self.viewer = { queue, list, detail }; // for tests and for the console
}

/** Now where nothing is being worked at, else at most a few times a second. */
function soon(queue, action) {
  clearTimeout(queue.timer);
  const wait = queue.running ? REFRESH - (performance.now() - (queue.refreshed ?? 0)) : 0;
  const act = () => {
    queue.refreshed = performance.now();
    action();
  };
  if (wait > 0) queue.timer = setTimeout(act, wait);
  else act();
}

/** After a change of the queue; the first answer is shown by itself. */
function refresh(queue, list, detail) {
  const total = queue.entries.length;
  const { done } = queue;
  byId("work").hidden = total === 0;
  byId("bar").value = total ? done / total : 0;
  byId("bar").hidden = done === total;
  byId("stop").hidden = done === total;
  const key = done === total ? "allDone" : "progress";
  byId("progress").textContent = text(key, { done, total });
  if (!queue.entries.includes(list.selected)) {
    const first = queue.entries.find(({ result }) => result) ?? null;
    list.selected = first;
    detail.show(first);
  }
  list.render();
}

function connect(queue, list) {
  const add = (found) => queue.add(groupFiles(found));
  for (const [button, input] of [
    ["choose-files", "files"],
    ["choose-folder", "folder"],
  ]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", ({ target }) => {
      add(chosenFiles(target));
      target.value = "";
    });
  }
  connectDrop(add);
  byId("stop").addEventListener("click", () => queue.stop());
  byId("clear").addEventListener("click", () => queue.clear());
  byId("csv").addEventListener("click", () => withNames(queue, (entries, names) =>
    saveText("oct-results.csv", csv(entries, CONFIG.about, names), "text/csv"),
  ));
  byId("print").addEventListener("click", () => withNames(queue, (entries, names) =>
    printTable(entries, CONFIG.about, names),
  ));
  document.addEventListener("keydown", (event) => {
    if (event.target === document.body) list.onKey(event);
  });
}

async function withNames(queue, action) {
  const entries = queue.sorted();
  const answer = await askAboutNames(entries.length);
  if (answer !== null) action(entries, answer);
}

function connectDrop(add) {
  const zone = byId("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", () => zone.classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    add(await droppedFiles(event.dataTransfer));
  });
}

function setStatus(words) {
  byId("status").textContent = words;
}

function fail(words) {
  byId("status").classList.add("failed");
  setStatus(`${text("failedTitle")}. ${words}`);
  byId("main").remove(); // no way to an answer is left
}

function failSelfTest({ probabilities, heatmaps }) {
  fail(
    text("failedSelfTest", {
      probabilities: probabilities.toExponential(1),
      heatmaps: heatmaps.toExponential(1),
    }),
  );
}

main();
