// PNG of every colour type and depth. Browsers' own decoders cut 16 bits to 8 and premultiply alpha.

import {
  checkShape,
  exifOrientation,
  fromColourIntegers,
  fromIntegers,
  greyOf,
  latin,
  orient,
  paletteGrey,
  xmpOrientation,
} from "./grey.mjs";
import { Refusal } from "./refusal.mjs";

const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
// Of each pass of Adam7: first column and row, steps between columns and rows.
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

export function isPng(bytes) {
  return latin(bytes.subarray(0, 8)) === "\x89PNG\r\n\x1a\n";
}

export async function decodePng(bytes) {
  const chunks = readChunks(bytes);
  const header = readHeader(chunks);
  checkShape(header.width, header.height);
  const packed = chunks.filter(({ type }) => type === "IDAT").map(({ data }) => data);
  const samples = unpack(await inflate(packed), header);
  const count = header.width * header.height;
  const picture = {
    width: header.width,
    height: header.height,
    grey: imageGrey(samples, header, chunks, count),
  };
  return orient(picture, orientationOf(chunks));
}

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks = [];
  let at = 8;
  while (at + 12 <= bytes.length) {
    const length = view.getUint32(at);
    if (at + 12 + length > bytes.length) break;
    const type = latin(bytes.subarray(at + 4, at + 8));
    if (crc32(bytes.subarray(at + 4, at + 8 + length)) !== view.getUint32(at + 8 + length)) {
      throw new Refusal("damaged");
    }
    chunks.push({ type, data: bytes.subarray(at + 8, at + 8 + length) });
    if (type === "IEND") return chunks;
    at += 12 + length;
  }
  throw new Refusal("truncated");
}

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function readHeader(chunks) {
  const { type, data } = chunks[0];
  if (type !== "IHDR" || data.length !== 13) throw new Refusal("damaged");
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const [depth, colour, , , interlace] = data.subarray(8);
  const channels = CHANNELS[colour];
  const depths = { 0: [1, 2, 4, 8, 16], 3: [1, 2, 4, 8] }[colour] ?? [8, 16];
  if (!channels || !depths.includes(depth) || interlace > 1) throw new Refusal("damaged");
  const animation = find(chunks, "acTL");
  if (animation) {
    const frames = new DataView(animation.buffer, animation.byteOffset).getUint32(0);
    if (frames > 1) throw new Refusal("frames", { count: frames });
  }
  return {
    width: view.getUint32(0),
    height: view.getUint32(4),
    depth,
    colour,
    channels,
    interlace,
  };
}

function find(chunks, type) {
  return chunks.find((chunk) => chunk.type === type)?.data;
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Refusal("damaged");
  }
}

/** All samples, interleaved, each in its own range; Uint16Array where the depth is 16. */
function unpack(bytes, { width, height, depth, channels, interlace }) {
  const samples = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
  const bitsPerPixel = depth * channels;
  let at = 0;
  for (const [left, top, across, down] of interlace ? ADAM7 : [[0, 0, 1, 1]]) {
    const columns = Math.ceil((width - left) / across);
    const rows = Math.ceil((height - top) / down);
    if (columns <= 0 || rows <= 0) continue;
    const length = Math.ceil((columns * bitsPerPixel) / 8);
    if (at + rows * (length + 1) > bytes.length) throw new Refusal("truncated");
    let above = new Uint8Array(length);
    for (let row = 0; row < rows; row++, at += length + 1) {
      const line = bytes.subarray(at + 1, at + 1 + length);
      unfilter(bytes[at], line, above, Math.max(1, bitsPerPixel >> 3));
      above = line;
      const start = (top + row * down) * width;
      for (let column = 0; column < columns; column++) {
        const place = (start + left + column * across) * channels;
        for (let channel = 0; channel < channels; channel++) {
          samples[place + channel] = sampleAt(line, column * channels + channel, depth);
        }
      }
    }
  }
  return samples;
}

function sampleAt(line, index, depth) {
  if (depth === 8) return line[index];
  if (depth === 16) return line[2 * index] * 256 + line[2 * index + 1];
  const bit = index * depth;
  return (line[bit >> 3] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
}

function unfilter(filter, line, above, step) {
  if (filter === 0) return;
  if (filter > 4) throw new Refusal("damaged");
  for (let i = 0; i < line.length; i++) {
    const left = i >= step ? line[i - step] : 0;
    const up = above[i];
    if (filter === 1) line[i] += left;
    else if (filter === 2) line[i] += up;
    else if (filter === 3) line[i] += (left + up) >> 1;
    else line[i] += paeth(left, up, i >= step ? above[i - step] : 0);
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [toLeft, toUp, toCorner] = [left, up, corner].map((value) => Math.abs(guess - value));
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

function imageGrey(samples, { depth, colour, channels }, chunks, count) {
  const transparent = find(chunks, "tRNS");
  if (colour === 3) {
    const palette = find(chunks, "PLTE");
    if (!palette) throw new Refusal("damaged");
    const grey = paletteGrey(palette, transparent);
    return samples.map((index) => grey[index]);
  }
  if (depth === 16) {
    if (colour === 0) return fromIntegers(samples);
    if (transparent) throw new Refusal("transparentColour");
    return greyOf(fromColourIntegers(samples, channels), channels, count);
  }
  if (depth < 8) {
    if (transparent) throw new Refusal("transparentColour");
    const factor = 255 / ((1 << depth) - 1);
    return samples.map((level) => level * factor);
  }
  const grey = greyOf(samples, channels, count);
  if (transparent) blacken(grey, samples, channels, transparent);
  return grey;
}

/** Pixels of the one transparent colour lie over black. */
function blacken(grey, samples, channels, transparent) {
  const key = Array.from({ length: channels }, (_, c) => transparent[2 * c] * 256 + transparent[2 * c + 1]);
  for (let i = 0; i < grey.length; i++) {
    if (key.every((level, c) => samples[i * channels + c] === level)) grey[i] = 0;
  }
}

function orientationOf(chunks) {
  const exif = find(chunks, "eXIf");
  const fromExif = exif ? exifOrientation(exif) : 0;
  if (fromExif) return fromExif;
  for (const { type, data } of chunks) {
    if (!["tEXt", "zTXt", "iTXt"].includes(type)) continue;
    const text = latin(data);
    if (text.startsWith("Raw profile type")) throw new Refusal("oldOrientation");
    if (text.startsWith("XML:com.adobe.xmp")) return xmpOrientation(text);
  }
  return 0;
}
