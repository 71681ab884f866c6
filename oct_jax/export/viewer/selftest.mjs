// Before any answer: does this browser decode and compute what Python did when the page was built?

import { fromBase64 } from "./assets.mjs";
import { softmax } from "./decision.mjs";
import { openFile } from "./decode.mjs";
import { runModel } from "./session.mjs";

// As verify.py: a wrong computation is off by ten times as much.
const PROBABILITY = 1e-3;
const HEATMAP = 0.05;
const OUTLIER = 0.01;

/** Formats of which a test picture does not come out as it should. */
export async function unfitFormats(pictures) {
  const unfit = new Set();
  for (const { format, file, width, height, grey } of pictures) {
    const wanted = fromBase64(grey);
    try {
      const picture = await openFile(fromBase64(file)).read(0);
      const same = picture.width === width && picture.height === height;
      if (!same || picture.grey.some((level, i) => level !== wanted[i])) unfit.add(format);
    } catch {
      unfit.add(format);
    }
  }
  return [...unfit];
}

/** Largest differences from the golden answers, and whether all are small enough. */
export async function testModel(session, cases, temperature) {
  const worst = { probabilities: 0, heatmaps: 0, outlierScore: 0 };
  for (const { width, height, grey, logits, heatmaps, outlier_score: score } of cases) {
    const scan = { width, height, grey: fromBase64(grey) };
    const answer = await runModel(session, scan, {});
    const probabilities = softmax(answer.logits, temperature);
    raise(worst, "probabilities", distance(probabilities, softmax(logits, temperature)));
    raise(worst, "heatmaps", distance(answer.cells, heatmaps.flat(2)));
    if (score !== null) raise(worst, "outlierScore", Math.abs(answer.outlierScore / score - 1));
  }
  const { probabilities, heatmaps, outlierScore } = worst;
  const passed = probabilities <= PROBABILITY && heatmaps <= HEATMAP && outlierScore <= OUTLIER;
  return { ...worst, scans: cases.length, passed: passed && cases.length > 0 };
}

/** NaN counts as infinitely far. */
function raise(worst, name, value) {
  worst[name] = Math.max(worst[name], Number.isFinite(value) ? value : Infinity);
}

function distance(values, wanted) {
  if (values.length !== wanted.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < values.length; i++) {
    const difference = Math.abs(values[i] - wanted[i]);
    if (!(difference <= largest)) largest = Number.isFinite(difference) ? difference : Infinity;
  }
  return largest;
}
