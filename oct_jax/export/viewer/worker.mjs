// Decodes and computes off the page's thread, one request at a time, in the order they come.

import { decide, softmax } from "./decision.mjs";
import { openFile } from "./decode.mjs";
import { Refusal } from "./refusal.mjs";
import { testModel, unfitFormats } from "./selftest.mjs";
import { runModel, startSession } from "./session.mjs";

const state = { session: null, about: null, unfit: [], opened: { key: null, frames: null } };

const ACTIONS = { start, analyse, show };
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data));
};

async function answer({ id, action, ...request }) {
  try {
    const { transfer = [], ...result } = await ACTIONS[action](request, (part) =>
      self.postMessage({ id, part }),
    );
    self.postMessage({ id, result }, transfer);
  } catch (error) {
    const { code, details } = error instanceof Refusal ? error : refusalOf(error);
    self.postMessage({ id, refusal: { code, details } });
  }
}

function refusalOf(error) {
  const name = error?.name ?? "";
  if (name === "NotFoundError" || name === "NotReadableError") return new Refusal("gone");
  if (error instanceof RangeError) return new Refusal("memory");
  return new Refusal("failed", { message: String(error?.message ?? error).slice(0, 200) });
}

async function start({ assets, about, golden }) {
  state.about = about;
  state.session = await startSession(assets);
  const model = await testModel(state.session, golden.scans, about.decision.temperature);
  state.unfit = await unfitFormats(golden.pictures);
  return { model, unfit: state.unfit };
}

/** Answers of all frames of a file; each is sent as it is made. */
async function analyse({ key, files }, send) {
  const opened = await openFrames(key, files);
  for (let index = 0; index < opened.count; index++) {
    send({ index, count: opened.count, ...(await analyseFrame(opened, index)) });
  }
  return { count: opened.count, format: opened.format };
}

async function analyseFrame(opened, index) {
  try {
    const scan = await opened.read(index);
    const { width, height } = scan;
    const { logits, outlierScore } = await runModel(state.session, scan);
    const probabilities = softmax(logits, state.about.decision.temperature);
    return { width, height, logits, answer: decide(probabilities, outlierScore, state.about) };
  } catch (error) {
    const { code, details } = error instanceof Refusal ? error : refusalOf(error);
    return { refusal: { code, details } };
  }
}

/** Grey levels and heatmap of one frame, to be drawn. */
async function show({ key, files, index }) {
  const opened = await openFrames(key, files);
  const { width, height, grey } = await opened.read(index);
  const levels = grey.slice();
  const scan = { width, height, grey: levels };
  const { heatmap, cells } = await runModel(state.session, scan, { withHeatmap: true });
  return { ...scan, heatmap, cells, transfer: [levels.buffer, heatmap.buffer] };
}

/** The frames of one file, or of files that are one volume; kept for the next request about it. */
async function openFrames(key, files) {
  if (state.opened.key !== key) {
    state.opened = { key: null, frames: null };
    state.opened = { key, frames: await framesOf(files) };
  }
  return state.opened.frames;
}

async function framesOf(files) {
  if (files.length === 1) return openFile(await bytesOf(files[0]), state.unfit);
  return {
    format: "",
    count: files.length,
    async read(index) {
      const file = openFile(await bytesOf(files[index]), state.unfit);
      if (file.count > 1) throw new Refusal("frames", { count: file.count });
      return file.read(0);
    },
  };
}

async function bytesOf(file) {
  return new Uint8Array(await file.arrayBuffer());
}
