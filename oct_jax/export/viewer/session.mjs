// The model in onnxruntime-web.

/* global ort */

/** Starts a session; `glue` is the runtime's own module, which it imports from a blob. */
export async function startSession({ glue, wasm, model }) {
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const url = URL.createObjectURL(new Blob([glue], { type: "text/javascript" }));
  ort.env.wasm.wasmPaths = { mjs: url };
  // Without an arena the memory of a large scan is given back after it.
  const options = { executionProviders: ["wasm"], enableCpuMemArena: false, logSeverityLevel: 3 };
  const session = await ort.InferenceSession.create(model, options);
  URL.revokeObjectURL(url);
  return session;
}

/**
 * Runs the model on one scan.
 *
 * @returns {Promise<object>} logits, outlierScore (null without one), heatmap (Float32Array over the
 *   scan, of the most probable class), cells (of all classes, at the network's resolution).
 */
export async function runModel(session, { width, height, grey }, { withHeatmap = false } = {}) {
  const scans = new ort.Tensor("uint8", grey, [1, height, width]);
  const wanted = ["logits", "heatmaps", ...(withHeatmap ? ["heatmap"] : [])];
  if (session.outputNames.includes("outlier_score")) wanted.push("outlier_score");
  const outputs = await session.run({ scans }, wanted);
  const answer = {
    logits: Array.from(outputs.logits.data),
    outlierScore: outputs.outlier_score ? outputs.outlier_score.data[0] : null,
    cells: outputs.heatmaps.data.slice(),
    heatmap: withHeatmap ? outputs.heatmap.data.slice() : null,
  };
  for (const tensor of [scans, ...Object.values(outputs)]) tensor.dispose();
  return answer;
}
