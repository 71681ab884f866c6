// The list of scans: urgency first, keyboard, filters.

import { URGENCY } from "./decision.mjs";
import { byId, make } from "./dom.mjs";
import { text } from "./strings.mjs";

export class List {
  constructor(queue, onSelect) {
    Object.assign(this, { queue, onSelect, filter: "", selected: null });
    this.element = byId("list");
    this.element.addEventListener("keydown", (event) => this.onKey(event));
    byId("search").setAttribute("placeholder", text("search"));
    byId("search").setAttribute("aria-label", text("search"));
    byId("search").addEventListener("input", () => this.render());
    byId("filters").setAttribute("aria-label", text("filters"));
  }

  get visible() {
    const wanted = byId("search").value.trim().toLowerCase();
    return this.queue
      .sorted()
      .filter(({ result }) => !this.filter || result?.referral === this.filter)
      .filter(({ name }) => name.toLowerCase().includes(wanted));
  }

  select(entry) {
    this.selected = entry;
    this.onSelect(entry);
    this.render();
    this.reveal(byId(`scan-${entry?.key}`));
  }

  /** Scrolls the list, and nothing around it, until an item is seen. */
  reveal(item) {
    if (!item) return;
    const [outer, inner] = [this.element, item].map((element) => element.getBoundingClientRect());
    if (inner.top < outer.top) this.element.scrollTop -= outer.top - inner.top;
    if (inner.bottom > outer.bottom) this.element.scrollTop += inner.bottom - outer.bottom;
  }

  render() {
    const entries = this.visible;
    this.element.replaceChildren(...entries.map((entry) => this.item(entry)));
    const active = entries.includes(this.selected) ? `scan-${this.selected.key}` : "";
    if (active) this.element.setAttribute("aria-activedescendant", active);
    else this.element.removeAttribute("aria-activedescendant");
    byId("no-match").hidden = entries.length > 0;
    this.element.hidden = entries.length === 0;
    this.renderFilters();
  }

  item(entry) {
    const referral = entry.result?.referral ?? "waiting";
    const answered = entry.result?.label && referral !== "defer";
    const label = answered ? ` · ${entry.result.label}` : "";
    const eye = entry.frames.length > 1 ? ` · ${entry.frames.length}` : "";
    return make(
      "li",
      {
        id: `scan-${entry.key}`,
        role: "option",
        class: referral,
        "aria-selected": String(entry === this.selected),
        onclick: () => {
          this.select(entry);
          byId("detail").scrollIntoView({ block: "start" }); // on a phone it lies above the list
        },
      },
      make("span", { class: "tier" }, text(`referral_${referral}`) + label),
      make("span", { class: "name" }, entry.name + eye),
    );
  }

  renderFilters() {
    const counts = this.queue.counts();
    const total = this.queue.entries.length;
    const names = URGENCY.filter((name) => counts[name]);
    const buttons = [this.filterButton("", `${text("filterAll")} ${total}`)];
    for (const name of names) {
      buttons.push(this.filterButton(name, `${text(`short_${name}`)} ${counts[name]}`));
    }
    byId("filters").replaceChildren(...buttons);
  }

  filterButton(name, words) {
    const choose = () => {
      this.filter = name;
      this.render();
      byId("filters").querySelector('[aria-pressed="true"]')?.focus();
    };
    const pressed = String(name === this.filter);
    return make("button", { type: "button", "aria-pressed": pressed, onclick: choose }, words);
  }

  onKey(event) {
    const entries = this.visible;
    const at = entries.indexOf(this.selected);
    const place = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (place === undefined || !entries.length) return;
    event.preventDefault();
    this.select(entries[Math.min(entries.length - 1, Math.max(0, place))]);
  }
}
