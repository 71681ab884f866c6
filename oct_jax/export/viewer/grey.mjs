// From samples to grey levels, to the level as oct_jax.data.readers has them.
// A picture is { width, height, grey }: grey a Uint8Array, row by row.

import { Refusal } from "./refusal.mjs";

const MAX_PIXELS = 64_000_000;
const MAX_ASPECT = 32;

/** Refuses a shape that no B-scan has. */
export function checkShape(width, height) {
  const size = `${width}x${height}`;
  if (!(width > 0 && height > 0)) throw new Refusal("noPixels", { size });
  if (width * height > MAX_PIXELS) throw new Refusal("tooLarge", { size });
  if (Math.max(width, height) > MAX_ASPECT * Math.min(width, height)) {
    throw new Refusal("notABscan", { size });
  }
}

/** ITU-R BT.601 luma in Pillow's integers. */
export function luma(red, green, blue) {
  return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
}

/** A sample over black, by Pillow's alpha_composite. */
function overBlack(sample, alpha) {
  const sum = sample * alpha * 128 + 16384;
  return (((sum >> 8) + sum) >> 8) >> 7;
}

/** Grey of interleaved 8-bit samples: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. */
export function greyOf(samples, channels, count) {
  if (channels === 1) return samples.subarray(0, count);
  const grey = new Uint8Array(count);
  const hasAlpha = channels % 2 === 0;
  const colours = hasAlpha ? channels - 1 : channels;
  for (let i = 0, at = 0; i < count; i++, at += channels) {
    let red = samples[at];
    let green = colours === 3 ? samples[at + 1] : red;
    let blue = colours === 3 ? samples[at + 2] : red;
    if (hasAlpha) {
      const alpha = samples[at + channels - 1];
      red = overBlack(red, alpha);
      green = overBlack(green, alpha);
      blue = overBlack(blue, alpha);
    }
    grey[i] = luma(red, green, blue);
  }
  return grey;
}

/** The grey of each palette entry, alpha applied: what an index becomes. */
export function paletteGrey(palette, alphas) {
  const grey = new Uint8Array(256);
  for (let i = 0; i * 3 + 2 < palette.length && i < 256; i++) {
    const alpha = alphas && i < alphas.length ? alphas[i] : 255;
    const [red, green, blue] = [0, 1, 2].map((c) => overBlack(palette[i * 3 + c], alpha));
    grey[i] = luma(red, green, blue);
  }
  return grey;
}

/** 16-bit samples to 8 bits: full scale is the smallest of 255, 4095, 65535 that holds them all. */
export function fromIntegers(levels) {
  let high = 0;
  for (const level of levels) if (level > high) high = level;
  const full = [255, 4095, 65535].find((limit) => high <= limit);
  const half = Math.floor(full / 2);
  return Uint8Array.from(levels, (level) => Math.floor((level * 255 + half) / full));
}

/** The same of interleaved colour and alpha: the scale is that of the colours alone. */
export function fromColourIntegers(levels, channels) {
  const hasAlpha = channels % 2 === 0;
  const isAlpha = (i) => hasAlpha && i % channels === channels - 1;
  const scaled = fromIntegers(levels.map((level, i) => (isAlpha(i) ? 0 : level)));
  for (let i = channels - 1; hasAlpha && i < levels.length; i += channels) {
    scaled[i] = Math.floor(levels[i] / 257);
  }
  return scaled;
}

/** Floats of 0 to 1, or of 0 to 255 where one is above 1. */
export function fromFloats(levels) {
  let low = Infinity;
  let high = -Infinity;
  for (const level of levels) {
    if (Number.isNaN(level)) throw new Refusal("floatRange", { low: "NaN", high: "NaN" });
    if (level < low) low = level;
    if (level > high) high = level;
  }
  if (!(low >= 0 && high <= 255)) throw new Refusal("floatRange", { low, high });
  const scale = high <= 1 ? 255 : 1;
  return Uint8Array.from(levels, (level) => roundHalfToEven(Math.fround(level * scale)));
}

function roundHalfToEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Applies an EXIF orientation, 1 to 8; other values mean 1. */
export function orient(picture, orientation) {
  if (!(orientation >= 2 && orientation <= 8)) return picture;
  const { width, height, grey } = picture;
  const turned = orientation >= 5;
  const [newWidth, newHeight] = turned ? [height, width] : [width, height];
  const flipX = [2, 3, 7, 8].includes(orientation);
  const flipY = [3, 4, 6, 7].includes(orientation);
  const result = new Uint8Array(grey.length);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      let [column, row] = turned ? [y, x] : [x, y];
      if (turned ? [7, 8].includes(orientation) : flipX) column = width - 1 - column;
      if (turned ? [6, 7].includes(orientation) : flipY) row = height - 1 - row;
      result[y * newWidth + x] = grey[row * width + column];
    }
  }
  return { width: newWidth, height: newHeight, grey: result };
}

/** The orientation in an EXIF block, which begins with a TIFF header; 0 where it has none. */
export function exifOrientation(block) {
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
  try {
    const little = view.getUint16(0) === 0x4949;
    const start = view.getUint32(4, little);
    const count = view.getUint16(start, little);
    for (let i = 0; i < count; i++) {
      const entry = start + 2 + 12 * i;
      if (view.getUint16(entry, little) === 0x0112) return view.getUint16(entry + 8, little);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return 0;
}

/** The orientation in XMP, which counts where EXIF has none; 0 where there is none. */
export function xmpOrientation(text) {
  const match = /tiff:Orientation(?:="|>)([0-9])/.exec(text);
  return match ? Number(match[1]) : 0;
}

/** Bytes as text, one character a byte; TextDecoder's "latin1" is another alphabet. */
export function latin(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}
