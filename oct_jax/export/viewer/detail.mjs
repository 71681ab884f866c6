// The answer for one scan or eye.

import { urgency } from "./decision.mjs";
import { make } from "./dom.mjs";
import { makePicture } from "./picture.mjs";
import { hasText, percent, text } from "./strings.mjs";

/** What is behind a referral, as a sentence. */
export function reasonOf(result, about) {
  if (result.refusal) return refusalText(result.refusal);
  const joins = result.reason === "severalTiers" && result.urgent;
  const urgent = joins
    ? text("reason_severalTiersUrgent", { urgency: percent(urgency(result.probabilities, about)) })
    : "";
  return text(`reason_${result.reason}`, {
    ...result,
    set: (result.set ?? []).join(", "),
    urgent,
    shares: (result.shares ?? []).map(([name, share]) => `${name} ${percent(share)}`).join(", "),
    bscansNamed: result.first ? text("bscansNamed", result) : "",
  });
}

export function refusalText({ code, details }) {
  return hasText(`refused_${code}`)
    ? text(`refused_${code}`, details)
    : text("refused_failed", { message: code });
}

export class Detail {
  /** @param {{client, about, colours: Uint8Array, cautions: string[], modelLines: string[]}} page */
  constructor(element, page) {
    Object.assign(this, { element, page, entry: null, index: 0, ticket: 0 });
  }

  /** Shows an entry of the queue; null shows that there is none. */
  show(entry, index = this.mostUrgent(entry)) {
    Object.assign(this, { entry, index });
    const parts = entry ? this.parts(entry) : [make("p", { class: "quiet" }, text("nothingYet"))];
    this.element.replaceChildren(...parts);
    if (entry?.result && this.frame?.answer) this.draw();
  }

  mostUrgent(entry) {
    const frames = entry?.frames ?? [];
    const share = ({ answer }) => (answer ? urgency(answer.probabilities, this.page.about) : -1);
    return frames.reduce((best, frame, i) => (share(frame) > share(frames[best]) ? i : best), 0);
  }

  get frame() {
    return this.entry.frames[this.index];
  }

  parts(entry) {
    const { result, frames } = entry;
    if (!result) return [verdict("waiting", "", entry.name)];
    if (frames.length > 1) return [...this.eyeParts(entry), ...this.scanParts()];
    if (!frames[0]?.answer) {
      const reason = text("refusal", { reason: reasonOf(result, this.page.about) });
      return [verdict("unreadable", `${reason} ${text("advice_unreadable")}`, entry.name)];
    }
    return [verdict(result.referral, reasonOf(result, this.page.about), entry.name), ...this.scanParts()];
  }

  eyeParts(entry) {
    const { result } = entry;
    const reason = reasonOf(result, this.page.about);
    const top = verdict(result.referral, reason, entry.name);
    if (!result.probabilities) return [top, this.strip(entry)];
    top.prepend(make("p", { class: "file" }, text("eyeTitle", result)));
    top.append(make("p", { class: "quiet" }, text("eyeNote", result)));
    if (entry.format === "DICOM") top.append(make("p", { class: "quiet" }, text("dicomNote")));
    return [top, this.strip(entry)];
  }

  strip({ frames }) {
    const items = frames.map((frame, i) => {
      const referral = frame.answer?.referral ?? "unreadable";
      const label = text("stripItem", { number: i + 1, referral: text(`referral_${referral}`) });
      return make("button", {
        type: "button",
        class: referral,
        title: label,
        "aria-label": label,
        "aria-current": i === this.index ? "true" : "false",
        onclick: () => this.select(i),
      });
    });
    const label = text("strip");
    return make("div", { class: "strip", role: "group", "aria-label": label, title: label }, ...items);
  }

  select(index) {
    this.show(this.entry, index);
    this.element.querySelectorAll(".strip button")[index]?.focus();
  }

  scanParts() {
    const { answer, refusal } = this.frame;
    if (refusal) return [make("p", { class: "card" }, text("refusal", { reason: refusalText(refusal) }))];
    this.place = make("div", {}, makeWaiting());
    const left = make(
      "div",
      { class: "left" },
      this.place,
      make("p", { class: "quiet" }, text("heatmapFor", { label: answer.label })),
    );
    const right = make("div", { class: "right" }, ...this.facts(answer));
    return [...this.bscanTitle(answer), make("div", { class: "columns" }, left, right)];
  }

  bscanTitle(answer) {
    const { frames } = this.entry;
    if (frames.length < 2) return [];
    const number = text("bscan", { number: this.index + 1, count: frames.length });
    const words = `${number}: ${text(`referral_${answer.referral}`)}. `;
    const reason = reasonOf(answer, this.page.about);
    return [make("p", { class: `bscan ${answer.referral}` }, make("b", {}, words), reason)];
  }

  facts(answer) {
    const { about, cautions } = this.page;
    const { decision } = about;
    const cards = [make("div", { class: "card" }, ...shares(answer, about))];
    if (answer.set) {
      const help = text("setHelp", { coverage: percent(decision.coverage) });
      cards.push(
        make(
          "div",
          { class: "card" },
          make("h3", {}, text("set")),
          make("p", { class: "set" }, answer.set.join(", ") || text("setEmpty")),
          make("p", { class: "quiet" }, help),
          make("p", { class: answer.outlier ? "caution" : "quiet" }, outlierText(answer)),
        ),
      );
    }
    const notes = cautions.map((line) => make("p", { class: "caution" }, line));
    const model = this.page.modelLines.map((line) => make("p", { class: "quiet" }, line));
    return [...cards, make("div", { class: "card" }, ...notes, ...model)];
  }

  /** Fetches the pixels of the frame shown and draws them, unless another one is shown by then. */
  async draw() {
    const ticket = ++this.ticket;
    const { entry, index, place, frame, page } = this;
    const { key, files, name } = entry;
    try {
      const shown = await page.client.request("show", { key, files, index });
      if (ticket !== this.ticket) return;
      const about = { name, label: frame.answer.label, colours: page.colours };
      place.replaceChildren(makePicture(shown, about));
    } catch (refusal) {
      if (ticket === this.ticket) place.replaceChildren(make("p", {}, refusalText(refusal)));
    }
  }
}

function verdict(referral, reason, name) {
  return make(
    "div",
    { class: `verdict ${referral}` },
    make("h2", {}, text(`referral_${referral}`)),
    make("p", { class: "reason" }, reason),
    make("p", { class: "file" }, name),
  );
}

function makeWaiting() {
  return make("div", { class: "view" }, make("p", { class: "drawing" }, text("drawing")));
}

function shares({ probabilities }, { labels, decision, meanings }) {
  const fitted = decision.fitted_on?.scans;
  const scans = fitted ? Object.values(fitted).reduce((sum, count) => sum + count, 0) : 0;
  const patients = decision.fitted_on?.patients;
  const calibrated = scans && patients ? text("calibrated", { scans, patients }) : text("calibratedPlain");
  const rows = labels.map((name, c) => {
    const fill = make("span", { class: "fill" });
    fill.style.width = `${100 * probabilities[c]}%`;
    return make(
      "div",
      { class: "share", title: meanings[c] || name },
      make("span", {}, name),
      make("span", { class: "track", "aria-hidden": "true" }, fill),
      make("span", { class: "value" }, percent(probabilities[c])),
    );
  });
  const note = decision.calibrated ? calibrated : text("notCalibrated");
  return [make("h3", {}, text("probabilities")), ...rows, make("p", { class: "quiet" }, note)];
}

function outlierText({ outlierScore, outlier }) {
  if (outlierScore === null) return text("noOutlier");
  return text(outlier ? "outlier" : "inlier", { score: outlierScore.toFixed(2) });
}
