// What leaves the page at a person's wish: a table, and print. Names of files only after a warning.

import { reasonOf, refusalText } from "./detail.mjs";
import { byId, make } from "./dom.mjs";
import { text } from "./strings.mjs";

const [REASON, ERROR] = [3, 9]; // places in a row of the table

/** Asks about file names; resolves to true (with), false (without) or null (not at all). */
export function askAboutNames(count) {
  byId("names-text").textContent = text("dialogText", { count });
  const dialog = byId("names");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const answers = { with: true, without: false, "": null };
    dialog.addEventListener("close", () => resolve(answers[dialog.returnValue]), { once: true });
  });
}

/** One row for each scan and, of a volume, each B-scan. */
export function tableRows(entries, about, withNames) {
  return entries.flatMap((entry, i) => {
    if (!entry.result) return [];
    const name = withNames ? entry.name : text("scanNumber", { number: i + 1 });
    const whole = row(name, "", entry.result, entry.frames.length > 1 ? {} : entry.frames[0], about);
    const parts = entry.frames.map(({ answer, refusal, ...frame }, k) =>
      row(name, k + 1, answer ?? { referral: "unreadable", refusal }, frame, about),
    );
    return parts.length > 1 ? [whole, ...parts] : [whole];
  });
}

function row(name, bscan, result, frame, about) {
  const score = result.outlierScore;
  const shares = result.probabilities ?? about.labels.map(() => "");
  return [
    name,
    bscan,
    text(`referral_${result.referral}`),
    result.refusal ? "" : reasonOf(result, about),
    result.label ?? "",
    (result.set ?? []).join(" "),
    Number.isFinite(score) ? score.toFixed(4) : "",
    frame?.width ?? "",
    frame?.height ?? "",
    result.refusal ? refusalText(result.refusal) : "",
    about.modelSha256,
    ...shares.map((share) => (share === "" ? "" : share.toFixed(6))),
  ];
}

export function csv(entries, about, withNames) {
  const header = [...text("columns").split(","), ...about.labels];
  const lines = [header, ...tableRows(entries, about, withNames)];
  return lines.map((cells) => `${cells.map(cell).join(",")}\r\n`).join("");
}

/** Quoted where needed; what a spreadsheet would run as a formula is made plain text. */
function cell(value) {
  const plain = String(value);
  const safe = /^[=+\-@\t\r]/.test(plain) ? `'${plain}` : plain;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function saveText(name, content, type) {
  const url = URL.createObjectURL(new Blob(["\ufeff", content], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Fills the table that only print shows, and prints. */
export function printTable(entries, about, withNames) {
  const columns = [0, 1, 2, 3, 4];
  const header = text("columns").split(",");
  const shown = (values, c) => String(values[c] || (c === REASON ? values[ERROR] : ""));
  const cells = (values, tag) => columns.map((c) => make(tag, {}, shown(values, c)));
  const rows = tableRows(entries, about, withNames).map((values) => make("tr", {}, ...cells(values, "td")));
  const note = text("printed", { date: new Date().toLocaleString(), sha256: about.modelSha256 });
  byId("printed").replaceChildren(
    make("p", {}, text("researchUse"), " ", note),
    make("table", {}, make("tr", {}, ...cells(header, "th")), ...rows),
  );
  byId("detail").classList.toggle("names-hidden", !withNames);
  window.print();
}
