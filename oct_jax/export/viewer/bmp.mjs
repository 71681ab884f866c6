// BMP: uncompressed, 1, 4, 8, 24 or 32 bits a pixel.

import { checkShape, greyOf, latin, paletteGrey } from "./grey.mjs";
import { Refusal } from "./refusal.mjs";

const PLAIN_MASKS = "ff0000 ff00 ff";

export function isBmp(bytes) {
  return latin(bytes.subarray(0, 2)) === "BM" && bytes.length > 54;
}

export function decodeBmp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const header = view.getUint32(14, true);
  if (![40, 52, 56, 64, 108, 124].includes(header)) throw new Refusal("bmpKind");
  const width = view.getInt32(18, true);
  const signedHeight = view.getInt32(22, true);
  const height = Math.abs(signedHeight);
  checkShape(width, height);
  const depth = view.getUint16(28, true);
  const hasAlpha = checkKind(view, depth, header);
  const stride = Math.ceil((width * depth) / 32) * 4;
  const start = view.getUint32(10, true);
  if (start + stride * (height - 1) + Math.ceil((width * depth) / 8) > bytes.length) {
    throw new Refusal("truncated");
  }
  const rowAt = (row) => start + stride * (signedHeight > 0 ? height - 1 - row : row);
  const grey =
    depth <= 8
      ? indexed(bytes, view, { width, height, depth, header, rowAt })
      : direct(bytes, { width, height, depth, hasAlpha, rowAt });
  return { width, height, grey };
}

/** Refuses what is packed otherwise; says whether the fourth byte is alpha. */
function checkKind(view, depth, header) {
  const compression = view.getUint32(30, true);
  if (![1, 4, 8, 24, 32].includes(depth)) throw new Refusal("bmpKind");
  if (compression === 0) return false;
  if (compression !== 3 || depth !== 32) throw new Refusal("bmpKind");
  const masks = [54, 58, 62].map((at) => view.getUint32(at, true).toString(16)).join(" ");
  if (masks !== PLAIN_MASKS) throw new Refusal("bmpKind");
  return header >= 56 && view.getUint32(66, true) === 0xff000000;
}

function indexed(bytes, view, { width, height, depth, header, rowAt }) {
  const count = view.getUint32(46, true) || 1 << depth;
  const palette = new Uint8Array(3 * 256);
  for (let i = 0; i < Math.min(count, 256); i++) {
    const at = 14 + header + 4 * i;
    palette.set([bytes[at + 2], bytes[at + 1], bytes[at]], 3 * i);
  }
  const levels = paletteGrey(palette);
  const grey = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const bit = column * depth;
      const byte = bytes[rowAt(row) + (bit >> 3)];
      const index = (byte >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
      grey[row * width + column] = levels[index];
    }
  }
  return grey;
}

function direct(bytes, { width, height, depth, hasAlpha, rowAt }) {
  const step = depth / 8;
  const channels = hasAlpha ? 4 : 3;
  const samples = new Uint8Array(width * height * channels);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const from = rowAt(row) + column * step;
      const to = (row * width + column) * channels;
      samples[to] = bytes[from + 2];
      samples[to + 1] = bytes[from + 1];
      samples[to + 2] = bytes[from];
      if (hasAlpha) samples[to + 3] = bytes[from + 3];
    }
  }
  return greyOf(samples, channels, width * height);
}
