// JPEG by the browser's own decoder, with everything removed that would change the levels.

import { checkShape, exifOrientation, greyOf, latin, orient, xmpOrientation } from "./grey.mjs";
import { Refusal } from "./refusal.mjs";

const COLOUR = "colour JPEG"; // whose decoding differs more between browsers
const FRAMES = [0xc0, 0xc1, 0xc2]; // baseline, extended, progressive, all of Huffman codes
const OTHER_FRAMES = [0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf];
// Colour profiles, EXIF and XMP would change levels or turn the picture; comments are not needed.
const DROPPED = [...Array.from({ length: 13 }, (_, i) => 0xe1 + i), 0xef, 0xfe];

export function isJpeg(bytes) {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
}

export async function decodeJpeg(bytes, unfit) {
  const { parts, width, height, components, orientation } = readSegments(bytes);
  checkShape(width, height);
  if (components === 3 && unfit.includes(COLOUR)) throw new Refusal("unfitBrowser", { format: COLOUR });
  const bitmap = await openBitmap(new Blob(parts, { type: "image/jpeg" }));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  canvas.width = canvas.height = 1; // gives its memory back at once
  return orient({ width, height, grey: levels(data, components) }, orientation);
}

async function openBitmap(blob) {
  try {
    return await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Refusal("damaged");
  }
}

function levels(rgba, components) {
  const count = rgba.length / 4;
  if (components === 3) return greyOf(rgba, 4, count); // alpha is 255 throughout
  const grey = new Uint8Array(count);
  for (let i = 0; i < count; i++) grey[i] = rgba[4 * i];
  return grey;
}

function readSegments(bytes) {
  const parts = [bytes.subarray(0, 2)];
  const about = { parts, width: 0, height: 0, components: 0, orientation: 0, fromXmp: 0 };
  let at = 2;
  for (;;) {
    while (bytes[at] === 0xff && bytes[at + 1] === 0xff) at++; // fill bytes
    const marker = bytes[at + 1];
    const length = bytes[at + 2] * 256 + bytes[at + 3];
    if (bytes[at] !== 0xff || !(length >= 2) || at + 2 + length > bytes.length) {
      throw new Refusal("truncated");
    }
    const data = bytes.subarray(at + 4, at + 2 + length);
    if (marker === 0xda) break;
    if (OTHER_FRAMES.includes(marker)) throw new Refusal("jpegKind");
    if (FRAMES.includes(marker)) readFrame(about, data);
    readApplication(about, marker, data);
    if (!DROPPED.includes(marker)) parts.push(bytes.subarray(at, at + 2 + length));
    at += 2 + length;
  }
  if (!about.components) throw new Refusal("damaged");
  about.orientation ||= about.fromXmp;
  parts.push(bytes.subarray(at, endOf(bytes, at)));
  return about;
}

/** Orientation by EXIF and XMP; refuses what holds several pictures. */
function readApplication(about, marker, data) {
  const begins = (word) => latin(data.subarray(0, word.length)) === word;
  if (marker === 0xe1 && begins("Exif\0\0")) {
    about.orientation ||= exifOrientation(data.subarray(6));
  }
  if (marker === 0xe1 && begins("http://ns.adobe.com/xap/1.0/")) {
    about.fromXmp ||= xmpOrientation(latin(data));
  }
  if (marker === 0xe2 && begins("MPF\0")) throw new Refusal("severalPictures");
}

function readFrame(about, data) {
  if (about.components) throw new Refusal("jpegKind");
  about.height = data[1] * 256 + data[2];
  about.width = data[3] * 256 + data[4];
  about.components = data[5];
  if (data[0] !== 8) throw new Refusal("jpegKind");
  if (data[5] === 4) throw new Refusal("cmyk");
  if (data[5] !== 1 && data[5] !== 3) throw new Refusal("jpegKind");
}

/** The end of the picture whose scans begin here: without its end marker it is truncated. */
function endOf(bytes, start) {
  for (let at = start + 2; at + 1 < bytes.length; at++) {
    if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return at + 2;
  }
  throw new Refusal("truncated");
}
