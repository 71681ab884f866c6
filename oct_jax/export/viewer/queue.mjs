// The scans of this page: what was chosen, in order, and the answers. Pixels are never kept.

import { URGENCY, urgency } from "./decision.mjs";
import { decideEye } from "./eye.mjs";

export class Queue {
  constructor(client, about, onChange) {
    Object.assign(this, { client, about, onChange });
    this.entries = [];
    this.nextKey = 1;
    this.stopped = false;
    this.running = null;
  }

  /** Adds entries of `groupFiles`, and works until nothing waits. */
  add(groups) {
    for (const { name, files } of groups) {
      const key = this.nextKey++;
      this.entries.push({ key, name, files, frames: [], state: "waiting", result: null });
    }
    this.stopped = false;
    this.onChange();
    this.running ??= this.work().finally(() => {
      this.running = null;
      this.onChange();
      const left = !this.stopped && this.entries.some(({ state }) => state === "waiting");
      if (left) this.add([]); // they came in just as the work ended
    });
    return this.running;
  }

  async work() {
    for (;;) {
      const entry = this.entries.find(({ state }) => state === "waiting");
      if (!entry || this.stopped) return;
      entry.state = "working";
      await this.analyse(entry);
      this.onChange(entry);
    }
  }

  async analyse(entry) {
    const onPart = (frame) => {
      entry.frames[frame.index] = frame;
    };
    const { key, files } = entry;
    try {
      const { format } = await this.client.request("analyse", { key, files }, { onPart });
      entry.format = format;
      entry.result = this.resultOf(entry);
    } catch (refusal) {
      entry.result = { referral: "unreadable", refusal };
    }
    entry.state = "done";
  }

  resultOf({ frames }) {
    const answers = frames.map(({ answer }) => answer ?? null);
    const refused = frames.find(({ refusal }) => refusal);
    if (!answers.some(Boolean)) return { referral: "unreadable", refusal: refused.refusal };
    return frames.length === 1 ? answers[0] : decideEye(answers, this.about);
  }

  stop() {
    this.stopped = true;
    this.entries = this.entries.filter(({ state }) => state !== "waiting");
    this.onChange();
  }

  clear() {
    this.stopped = true;
    this.entries = this.entries.filter(({ state }) => state === "working");
    this.entries.forEach((entry) => (entry.removed = true));
    this.entries = [];
    this.onChange();
  }

  /** The most urgent first; what waits comes last, in order. */
  sorted() {
    const rank = ({ result }) => (result ? URGENCY.indexOf(result.referral) : URGENCY.length);
    const share = ({ result }) =>
      result?.probabilities ? urgency(result.probabilities, this.about) : 0;
    return [...this.entries].sort(
      (a, b) => rank(a) - rank(b) || share(b) - share(a) || a.key - b.key,
    );
  }

  counts() {
    const counts = Object.fromEntries(URGENCY.map((name) => [name, 0]));
    for (const { result } of this.entries) if (result) counts[result.referral]++;
    return counts;
  }

  get done() {
    return this.entries.filter(({ state }) => state === "done").length;
  }
}
