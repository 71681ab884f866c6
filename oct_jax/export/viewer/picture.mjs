// The scan under its heatmap: opacity, zoom, pan.

import { make } from "./dom.mjs";
import { text } from "./strings.mjs";

const MOST_ZOOM = 16;
const STEP = 1.4;
const MOVE = 40;
const shared = { on: true, opacity: 0.6 }; // stays from scan to scan

/** A grey picture as RGBA for a canvas. */
export function greyImage({ width, height, grey }) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < grey.length; i++) pixels[i] = 0xff000000 | (grey[i] * 0x010101);
  return image;
}

/** A heatmap in [0, 1] as colours whose opacity rises with it. `colours` holds 256 RGB triples. */
export function heatImage(width, height, heatmap, colours) {
  const image = new ImageData(width, height);
  const { data } = image;
  for (let i = 0; i < heatmap.length; i++) {
    const level = Math.max(0, Math.min(255, Math.round(heatmap[i] * 255)));
    for (let c = 0; c < 3; c++) data[4 * i + c] = colours[3 * level + c];
    data[4 * i + 3] = level;
  }
  return image;
}

/**
 * The view and its controls.
 *
 * @param {object} shown width, height, grey, heatmap of the scan.
 * @param {{label: string, name: string, colours: Uint8Array}} about
 */
export function makePicture(shown, { label, name, colours }) {
  const { width, height } = shown;
  const scan = paint(width, height, greyImage(shown));
  const heat = paint(width, height, heatImage(width, height, shown.heatmap, colours));
  const view = make(
    "div",
    {
      class: "view",
      tabindex: "0",
      role: "img",
      "aria-label": text("picture", { name, label }),
      title: text("pictureHelp"),
    },
    scan,
    heat,
  );
  const lens = new Lens(view, [scan, heat], width, height);
  const show = () => {
    heat.hidden = !shared.on;
    heat.style.opacity = shared.opacity;
  };
  show();
  return make("div", {}, view, makeControls(lens, show));
}

function paint(width, height, image) {
  const canvas = make("canvas", { width, height, "aria-hidden": "true" });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function makeControls(lens, show) {
  const box = make("input", { type: "checkbox", onchange: () => set({ on: box.checked }) });
  const slider = make("input", {
    type: "range",
    min: "0",
    max: "1",
    step: "0.05",
    oninput: () => set({ opacity: Number(slider.value) }),
  });
  box.checked = shared.on;
  slider.value = shared.opacity;
  function set(change) {
    Object.assign(shared, change);
    show();
  }
  const button = (symbol, key, action) =>
    make("button", { type: "button", "aria-label": text(key), title: text(key), onclick: action }, symbol);
  return make(
    "div",
    { class: "controls" },
    make("label", {}, box, text("heatmap")),
    make("label", {}, text("opacity"), slider),
    button("−", "zoomOut", () => lens.zoom(1 / STEP)),
    button("+", "zoomIn", () => lens.zoom(STEP)),
    button("↺", "zoomReset", () => lens.reset()),
  );
}

/** Which part of a picture a view shows. */
class Lens {
  constructor(view, layers, width, height) {
    Object.assign(this, { view, layers, width, height, factor: 1, x: 0.5, y: 0.5 });
    this.pointers = new Map();
    new ResizeObserver(() => this.draw()).observe(view);
    view.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    view.addEventListener("keydown", (event) => this.onKey(event));
    view.addEventListener("pointerdown", (event) => this.onDown(event));
    view.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) {
      view.addEventListener(name, ({ pointerId }) => this.pointers.delete(pointerId));
    }
  }

  get scale() {
    const { clientWidth, clientHeight } = this.view;
    return this.factor * Math.min(clientWidth / this.width, clientHeight / this.height);
  }

  reset() {
    Object.assign(this, { factor: 1, x: 0.5, y: 0.5 });
    this.draw();
  }

  zoom(by) {
    this.factor = Math.min(MOST_ZOOM, Math.max(1, this.factor * by));
    this.draw();
  }

  /** Moves by pixels of the screen. */
  move(right, down) {
    this.x -= right / (this.scale * this.width);
    this.y -= down / (this.scale * this.height);
    this.draw();
  }

  draw() {
    const { clientWidth, clientHeight } = this.view;
    const { scale } = this;
    this.x = within(this.x, clientWidth / (scale * this.width));
    this.y = within(this.y, clientHeight / (scale * this.height));
    const left = clientWidth / 2 - this.x * this.width * scale;
    const top = clientHeight / 2 - this.y * this.height * scale;
    for (const layer of this.layers) {
      layer.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    }
    this.view.classList.toggle("zoomed", this.factor > 1);
  }

  onWheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400));
  }

  onKey(event) {
    const moves = {
      ArrowLeft: [MOVE, 0],
      ArrowRight: [-MOVE, 0],
      ArrowUp: [0, MOVE],
      ArrowDown: [0, -MOVE],
    };
    if (event.key === "+" || event.key === "=") this.zoom(STEP);
    else if (event.key === "-") this.zoom(1 / STEP);
    else if (event.key === "0") this.reset();
    else if (moves[event.key] && this.factor > 1) this.move(...moves[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  onDown(event) {
    this.view.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [other] = [...this.pointers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    if (other) this.zoom(distance(event, other) / Math.max(1, distance(before, other)));
    else if (this.factor > 1) this.move(event.clientX - before.clientX, event.clientY - before.clientY);
    this.pointers.set(event.pointerId, event);
  }
}

function distance(a, b) {
  return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
}

/** The centre of a window of this share of a side, kept inside it; the middle where all is seen. */
function within(centre, share) {
  return share >= 1 ? 0.5 : Math.min(1 - share / 2, Math.max(share / 2, centre));
}
