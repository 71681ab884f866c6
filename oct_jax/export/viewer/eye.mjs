// One answer for an eye from its B-scans: oct_jax.decision.eye where no eyes were at hand to calibrate
// one, on the mean of the middle B-scans' probabilities.

import { decide } from "./decision.mjs";

const NEIGHBOURS = 3;
const SURE = 0.9;
const ALARM = 0.5;
const MOST_UNREADABLE = 0.2;
const TIERS = ["urgent", "routine", "observe"];

/**
 * @param {(object | null)[]} scans answers of `decide` in the volume's order; null for a B-scan that
 *   could not be read.
 * @param {{labels: string[], decision: object}} about of the bundle.
 * @returns {object} as `decide`, with `shares`, `first` and `last` (B-scans from 1) for the reason.
 */
export function decideEye(scans, about) {
  const numbers = scans.flatMap((scan, i) => (scan ? [i] : []));
  const central = middleOf(scans.length);
  const read = numbers.map((i) => scans[i]);
  const middle = numbers.flatMap((number, i) => (central[number] ? [i] : []));
  const bscans = read.map(({ probabilities }) => probabilities);
  const eye = meanOf(middle.length ? middle.map((i) => bscans[i]) : bscans);
  const answer = {
    label: about.labels[eye.indexOf(Math.max(...eye))],
    probabilities: eye,
    outlierScore: null,
    set: null,
    bscans: scans.length,
    read: read.length,
    urgentBscans: read.filter(({ referral }) => referral === "urgent").length,
  };
  if (!about.labels.some((name) => about.decision.tiers[name])) {
    return { ...answer, ...decide(eye, null, about), set: null };
  }
  const obstacle = obstacleOf(scans, central);
  if (obstacle) return { ...answer, referral: "defer", ...obstacle };
  return { ...answer, ...referEye(eye, bscans, middle, numbers, about) };
}

/** The middle half of the B-scans; all where they are few. */
function middleOf(count) {
  const few = count < 2 * NEIGHBOURS;
  return Array.from({ length: count }, (_, i) => few || Math.abs((i + 0.5) / count - 0.5) <= 0.25);
}

function obstacleOf(scans, central) {
  const middle = scans.filter((_, i) => central[i]);
  const gone = middle.filter((scan) => !scan).length;
  const strange = middle.filter((scan) => scan?.outlier).length;
  const limit = MOST_UNREADABLE * middle.length;
  if (gone > limit) return { reason: "eyeUnreadable", count: gone, middle: middle.length };
  if (strange > limit) return { reason: "eyeOutliers", count: strange, middle: middle.length };
  return null;
}

/** `refer_uncalibrated` of oct_jax.decision.eye; `middle` holds places in `bscans`. */
export function referEye(eye, bscans, middle, numbers, { labels, decision }) {
  const tiers = labels.map((name) => decision.tiers[name]);
  const urgent = tiers.map((tier) => tier === "urgent");
  const healthy = tiers.map((tier) => tier === "observe");
  const shares = (probabilities, chosen) => ({ shares: sharesOf(probabilities, chosen, labels) });
  const about = (run, chosen) => ({
    ...shares(meanOf(run.map((i) => bscans[i])), chosen),
    first: numbers[run[0]] + 1,
    last: numbers[run.at(-1)] + 1,
  });
  const all = bscans.map((_, i) => i);
  const ofUrgent = bscans.map((row) => sumOf(row, urgent));
  if (sumOf(eye, urgent) >= ALARM) return { referral: "urgent", reason: "eyeTier", ...shares(eye, urgent) };
  const inMiddle = strongest(ofUrgent, middle);
  if (inMiddle.mean >= ALARM) {
    return { referral: "urgent", reason: "eyeUrgentMiddle", ...about(inMiddle.run, urgent) };
  }
  const anywhere = strongest(ofUrgent, all);
  if (anywhere.mean >= ALARM) {
    return { referral: "defer", reason: "eyeUrgentEdge", ...about(anywhere.run, urgent) };
  }
  const disease = strongest(bscans.map((row) => 1 - sumOf(row, healthy)), middle);
  if (sumOf(eye, healthy) >= ALARM && disease.mean >= ALARM) {
    const ill = healthy.map((value) => !value);
    return { referral: "defer", reason: "eyeDisagrees", ...about(disease.run, ill) };
  }
  for (const tier of TIERS) {
    const chosen = tiers.map((other) => other === tier);
    if (sumOf(eye, chosen) >= SURE) return { referral: tier, reason: "eyeTier", ...shares(eye, chosen) };
  }
  return { referral: "defer", reason: "eyeUnsure", ...shares(eye, labels.map(() => true)) };
}

/** Of the runs of neighbours among these places, the one with the largest mean; the first of equals. */
function strongest(values, places) {
  const length = Math.min(NEIGHBOURS, places.length);
  let best = { mean: -Infinity, run: [] };
  for (let start = 0; start + length <= places.length; start++) {
    const run = places.slice(start, start + length);
    const mean = run.reduce((sum, place) => sum + values[place], 0) / length;
    if (mean > best.mean + 1e-12) best = { mean, run };
  }
  return best;
}

function meanOf(rows) {
  return rows[0].map((_, c) => rows.reduce((sum, row) => sum + row[c], 0) / rows.length);
}

function sumOf(row, chosen) {
  return row.reduce((sum, share, c) => sum + (chosen[c] ? share : 0), 0);
}

/** The chosen classes that matter, as [name, probability], the largest first. */
function sharesOf(probabilities, chosen, labels) {
  const named = labels.map((name, c) => [name, probabilities[c]]).filter((_, c) => chosen[c]);
  named.sort((a, b) => b[1] - a[1]);
  return named.filter(([, share]) => share >= 0.1 * named[0][1]);
}
