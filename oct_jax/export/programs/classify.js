// Classifies one scan with the bundle in this folder, and prints the answer as JSON.
const fs = require("node:fs");
const ort = require("onnxruntime-node");

function readJson(path) {
  return JSON.parse(fs.readFileSync(path, "utf8"));
}

function readPgm(path) {
  const file = fs.readFileSync(path);
  const [width, height] = file.toString("latin1", 0, 64).split("\n")[1].split(" ").map(Number);
  return { width, height, pixels: new Uint8Array(file.subarray(file.length - width * height)) };
}

function refer(rule, labels, probabilities, outlierScore) {
  const members = labels.filter((_, c) => probabilities[c] >= rule.set_thresholds[c]);
  const tiers = new Set(members.map((name) => rule.tiers[name]));
  const urgent = labels
    .map((name, c) => (rule.tiers[name] === "urgent" ? probabilities[c] : 0))
    .reduce((a, b) => a + b);
  if (urgent >= rule.urgent_threshold) tiers.add("urgent");
  const outlier = outlierScore !== undefined && outlierScore.data[0] > 1;
  const sure = members.length > 0 && tiers.size === 1 && !outlier;
  if (labels.every((name) => rule.tiers[name] === null)) return null; // classified, not referred
  return (sure && [...tiers][0]) || "defer"; // a class without a tier is deferred
}

async function main() {
  const about = readJson("bundle.json");
  const first = readJson("golden/golden.json").scans[0].scan;
  const session = await ort.InferenceSession.create("classifier.onnx");
  const { width, height, pixels } = readPgm("golden/" + first); // grey levels, row by row
  const scans = new ort.Tensor("uint8", pixels, [1, height, width]);
  const outputs = await session.run({ scans });
  const probabilities = Array.from(outputs.probabilities.data);
  const heatmap = outputs.heatmap.data; // Float32Array, height * width, over the scan
  const answer = {
    label: about.labels[probabilities.indexOf(Math.max(...probabilities))],
    probabilities,
  };
  const rule = about.decision;
  if (rule.calibrated) {
    answer.referral = refer(rule, about.labels, probabilities, outputs.outlier_score);
  }
  console.log(JSON.stringify(answer));
}

main();
