// Which model this is, trained on what, measured where.

import { byId, make } from "./dom.mjs";
import { percent, text } from "./strings.mjs";

/** Lines that stand beside every answer. */
export function cautionsOf({ synthetic, heatmapsVerified, decision }) {
  const lines = [text("researchUse")];
  if (synthetic) lines.push(text("synthetic"));
  if (decision.fitted_on?.adapted) lines.push(text("adapted"));
  if (!heatmapsVerified) lines.push(text("heatmapUnverified"));
  return lines;
}

function modelLine({ name, architecture, trained }) {
  const { variant, width } = architecture;
  const kind = variant ? `MobileNetV3 ${variant}, width ${width}` : "";
  return text("aboutModel", { name, architecture: kind, trained: String(trained ?? "?").slice(0, 10) });
}

/** Which model, trained on what, measured where. */
export function modelLines(about) {
  return [modelLine(about), ...dataLines(about), measuredLine(about)];
}

export function fillAbout(about, selfTest) {
  const lines = [
    ...modelLines(about),
    text("aboutClasses", { classes: about.labels.join(", ") }),
    text("aboutDigest", { sha256: about.modelSha256 }),
    text("aboutSelfTest", {
      probabilities: selfTest.probabilities.toExponential(1),
      heatmaps: selfTest.heatmaps.toExponential(1),
    }),
  ];
  const licences = make("pre", { tabindex: "0" }, byId("licences").content.textContent.trim());
  byId("about").replaceChildren(
    make("h2", {}, text("about")),
    ...lines.map((line) => make("p", {}, line)),
    make("details", {}, make("summary", {}, text("licences")), licences),
  );
  byId("about").hidden = false;
}

function dataLines({ scans: counts, labels }) {
  if (!counts) return [];
  const scans = labels.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
  const classes = labels.map((name) => `${name} ${counts[name] ?? 0}`).join(", ");
  return [text("aboutData", { scans, classes })];
}

function measuredLine({ measured, synthetic }) {
  if (!measured) return text("aboutNotMeasured");
  const [share, low, high] = measured.accuracy;
  const { patients } = measured;
  return text("aboutMeasured", {
    scans: measured.scans,
    kind: text(synthetic ? "aboutKindPhantoms" : "aboutKindScans"),
    patients: patients ? text("aboutPatients", { patients }) : "",
    data: measured.data ? text("aboutFrom", measured) : "",
    accuracy: `${percent(share)} (${percent(low)} to ${percent(high)})`,
  });
}
