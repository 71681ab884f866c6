// Which format a file has, its content tells; then its frames, read one at a time.

import { decodeBmp, isBmp } from "./bmp.mjs";
import { isDicom, openDicom } from "./dicom.mjs";
import { decodeJpeg, isJpeg } from "./jpeg.mjs";
import { decodePng, isPng } from "./png.mjs";
import { Refusal } from "./refusal.mjs";
import { isTiff, openTiff } from "./tiff.mjs";

/** The format of a file by its first bytes; "" where it is none that is read here. */
export function formatOf(bytes) {
  if (isJpeg(bytes)) return "JPEG";
  if (isPng(bytes)) return "PNG";
  if (isTiff(bytes)) return "TIFF";
  if (isBmp(bytes)) return "BMP";
  return isDicom(bytes) ? "DICOM" : "";
}

/**
 * Opens a file.
 *
 * @param {Uint8Array} bytes the whole file.
 * @param {string[]} unfit formats that this browser did not decode as it should in the self-test.
 * @returns {{format: string, count: number, read: (index: number) => Promise<object>}}
 */
export function openFile(bytes, unfit = []) {
  if (!bytes.length) throw new Refusal("empty");
  const format = formatOf(bytes);
  if (!format) throw new Refusal("unknownFormat");
  if (unfit.includes(format)) throw new Refusal("unfitBrowser", { format });
  if (format === "TIFF") return { format, ...guarded(() => openTiff(bytes)) };
  if (format === "DICOM") return { format, ...guarded(() => openDicom(bytes)) };
  const decode = { JPEG: decodeJpeg, PNG: decodePng, BMP: decodeBmp }[format];
  return { format, count: 1, read: guard(() => decode(bytes, unfit)) };
}

function guarded(open) {
  const file = asRefusal(open);
  return { ...file, read: guard(file.read) };
}

function guard(read) {
  return async (index) => {
    try {
      return await read(index);
    } catch (error) {
      throw toRefusal(error);
    }
  };
}

function asRefusal(action) {
  try {
    return action();
  } catch (error) {
    throw toRefusal(error);
  }
}

/** On damaged files decoders fail in a dozen ways; to a person all are one. */
function toRefusal(error) {
  return error instanceof Refusal ? error : new Refusal("damaged");
}
