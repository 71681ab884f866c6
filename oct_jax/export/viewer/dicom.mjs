// DICOM Ophthalmic Tomography by dicom-parser, uncompressed: oct_jax.data.volumes.dicom.

import { checkShape, latin } from "./grey.mjs";
import { Refusal } from "./refusal.mjs";

/* global dicomParser */

const SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]; // little endian, not compressed
const OPHTHALMIC_TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4";
const MOST_FRAMES = 4096;

export function isDicom(bytes) {
  return latin(bytes.subarray(128, 132)) === "DICM";
}

/** The frames of a file: { count, read(index), spacing }. */
export function openDicom(bytes) {
  const header = parseFile(bytes);
  const syntax = header.string("x00020010") ?? "";
  if (!SYNTAXES.includes(syntax)) throw new Refusal("dicomSyntax", { syntax });
  if ((header.string("x00080016") ?? "") !== OPHTHALMIC_TOMOGRAPHY) throw new Refusal("dicomClass");
  const kind = readKind(header);
  checkShape(kind.width, kind.height);
  const pixels = header.elements.x7fe00010;
  const size = (kind.width * kind.height * kind.allocated) / 8;
  if (!pixels || pixels.length < size * kind.count) throw new Refusal("truncated");
  if (pixels.dataOffset + size * kind.count > bytes.length) throw new Refusal("truncated");
  return {
    count: kind.count,
    read(index) {
      const start = pixels.dataOffset + index * size;
      const grey = frameGrey(bytes.slice(start, start + size), kind);
      return { width: kind.width, height: kind.height, grey };
    },
  };
}

function parseFile(bytes) {
  try {
    return dicomParser.parseDicom(bytes);
  } catch {
    throw new Refusal("damaged");
  }
}

function readKind(header) {
  const kind = {
    width: header.uint16("x00280011"),
    height: header.uint16("x00280010"),
    allocated: header.uint16("x00280100"),
    stored: header.uint16("x00280101"),
    high: header.uint16("x00280102"),
    signed: header.uint16("x00280103") ?? 0,
    samples: header.uint16("x00280002") ?? 1,
    colour: (header.string("x00280004") ?? "").trim(),
    count: Number(header.string("x00280008") ?? 1),
  };
  const { allocated, stored, colour } = kind;
  const key = `${colour} ${kind.samples}x${stored}/${allocated}`;
  const isGrey = kind.samples === 1 && ["MONOCHROME1", "MONOCHROME2"].includes(colour);
  const isPlain = [8, 16].includes(allocated) && stored <= allocated && kind.high === stored - 1;
  if (!isGrey || !isPlain || kind.signed) throw new Refusal("dicomKind", { kind: key });
  if (!(kind.count >= 1)) throw new Refusal("damaged");
  if (kind.count > MOST_FRAMES) throw new Refusal("tooManyFrames", { count: kind.count });
  return kind;
}

/** The stored bits to 0..255. */
function frameGrey(bytes, { allocated, stored, colour }) {
  const full = 2 ** stored - 1;
  const half = Math.floor(full / 2);
  const levels = allocated === 16 ? new Uint16Array(bytes.buffer) : bytes;
  const grey = Uint8Array.from(levels, (level) => Math.floor((Math.min(level, full) * 255 + half) / full));
  return colour === "MONOCHROME1" ? grey.map((level) => 255 - level) : grey;
}
