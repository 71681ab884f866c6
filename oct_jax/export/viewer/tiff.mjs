// TIFF by UTIF: the kinds whose levels it gives exactly; others are refused.

import {
  checkShape,
  fromColourIntegers,
  fromFloats,
  fromIntegers,
  greyOf,
  latin,
  orient,
  paletteGrey,
} from "./grey.mjs";
import { Refusal } from "./refusal.mjs";

/* global UTIF */

const COMPRESSIONS = { 1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate" };
const COMPRESSED_OTHERWISE = { 2: "CCITT", 3: "CCITT G3", 4: "CCITT G4", 6: "JPEG", 7: "JPEG" };

export function isTiff(bytes) {
  return ["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(latin(bytes.subarray(0, 4)));
}

/** The pages of a file: { count, read(index) }. */
export function openTiff(bytes) {
  if (bytes[2] === 43 || bytes[3] === 43) throw new Refusal("bigTiff");
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const pages = UTIF.decode(buffer);
  if (!pages.length) throw new Refusal("damaged");
  return {
    count: pages.length,
    read: (index) => readPage(buffer, pages[index], bytes[0] === 0x49, pages.length > 1),
  };
}

function readPage(buffer, page, little, oneOfMany) {
  const kind = readTags(page);
  checkShape(kind.width, kind.height);
  checkStrips(buffer, page, kind);
  UTIF.decodeImage(buffer, page);
  const { data } = page;
  const count = kind.width * kind.height;
  if (data.length < Math.ceil((kind.width * kind.bits * kind.samples) / 8) * kind.height) {
    throw new Refusal("truncated");
  }
  const grey = pageGrey(data, kind, count, { little, oneOfMany });
  delete page.data; // the page is read again when it is shown again
  return orient({ width: kind.width, height: kind.height, grey }, kind.orientation);
}

function readTags(page) {
  const tag = (number, otherwise) => page[`t${number}`]?.[0] ?? otherwise;
  const kind = {
    width: tag(256, 0),
    height: tag(257, 0),
    bits: tag(258, 1),
    compression: tag(259, 1),
    photometric: tag(262, -1),
    orientation: tag(274, 1),
    samples: tag(277, 1),
    planar: tag(284, 1),
    predictor: tag(317, 1),
    extra: tag(338, -1),
    format: tag(339, 1),
    palette: page.t320,
  };
  if (!COMPRESSIONS[kind.compression]) {
    const name = COMPRESSED_OTHERWISE[kind.compression] ?? `no. ${kind.compression}`;
    throw new Refusal("tiffCompression", { name });
  }
  const alike = (page.t258 ?? [1]).every((bits) => bits === kind.bits);
  const plain = kind.planar === 1 && tag(266, 1) === 1 && alike;
  if (!plain || ![1, 2].includes(kind.predictor) || !isKnown(kind)) throw new Refusal("tiffKind");
  return kind;
}

function isKnown({ bits, samples, photometric, format, extra, predictor }) {
  const key = `${photometric}/${samples}x${bits}`;
  if (format === 3) return key === "1/1x32" && predictor === 1;
  if (format !== 1) return false;
  if (samples === 4) return ["2/4x8", "2/4x16"].includes(key) && extra === 2;
  return ["0/1x1", "1/1x1", "0/1x8", "1/1x8", "1/1x16", "2/3x8", "2/3x16", "3/1x8"].includes(key);
}

/** UTIF fills what is missing with black: what lies beyond the file's end is refused before. */
function checkStrips(buffer, page, { width, height, bits, samples, compression }) {
  const offsets = page.t273 ?? page.t324;
  const counts = page.t279 ?? page.t325;
  if (!offsets || !counts || offsets.length !== counts.length) throw new Refusal("damaged");
  let total = 0;
  offsets.forEach((offset, i) => {
    if (offset + counts[i] > buffer.byteLength) throw new Refusal("truncated");
    total += counts[i];
  });
  const needed = Math.ceil((width * bits * samples) / 8) * height;
  if (compression === 1 && total < needed) throw new Refusal("truncated");
}

function pageGrey(data, kind, count, { little, oneOfMany }) {
  const { bits, samples, photometric } = kind;
  if (bits === 1) return bilevel(data, kind);
  if (kind.format === 3) return fromFloats(numbers(data, count, 4, little, "getFloat32"));
  if (bits === 16) {
    const levels = numbers(data, count * samples, 2, true, "getUint16"); // UTIF swaps them
    if (samples === 1) return fromIntegers(levels);
    if (oneOfMany) throw new Refusal("tiffKind");
    return greyOf(fromColourIntegers(levels, samples), samples, count);
  }
  if (photometric === 3) {
    const colours = kind.palette;
    const entries = colours.length / 3;
    const palette = Uint8Array.from({ length: 3 * entries }, (_, i) =>
      colours[(i % 3) * entries + Math.floor(i / 3)] >> 8,
    );
    const grey = paletteGrey(palette);
    return data.subarray(0, count).map((index) => grey[index]);
  }
  if (photometric === 0) return data.subarray(0, count).map((level) => 255 - level);
  return greyOf(data, samples, count).slice();
}

function bilevel(data, { width, height, photometric }) {
  const stride = Math.ceil(width / 8);
  const grey = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const bit = (data[row * stride + (column >> 3)] >> (7 - (column & 7))) & 1;
      grey[row * width + column] = bit === photometric ? 255 : 0;
    }
  }
  return grey;
}

function numbers(data, count, size, little, getter) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const values = new (size === 2 ? Uint16Array : Float32Array)(count);
  for (let i = 0; i < count; i++) values[i] = view[getter](i * size, little);
  return values;
}
