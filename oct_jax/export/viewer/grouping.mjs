// Which files belong together: oct_jax.data.volumes.stacks, for folders of numbered pictures.

const FEWEST = 5;
const PICTURE = /\.(jpe?g|png|tiff?|bmp)$/i;
const NUMBERED = /^((?:b-?)?(?:scan|slice|image|img|frame|oct|page)?[-_ ]*)(\d+)$/;
const SKIPPED = /(^|\/)(\.|Thumbs\.db$|DICOMDIR$|desktop\.ini$)|\.(xml|csv|txt|json|html?|pdf)$/i;

/**
 * @param {{file: File, path: string}[]} found files with their way below what was chosen.
 * @returns {{name: string, files: File[]}[]} one entry for each scan or volume, in order of paths.
 */
export function groupFiles(found) {
  const byFolder = new Map();
  for (const item of found.filter(({ path }) => !SKIPPED.test(path))) {
    const folder = item.path.includes("/") ? item.path.slice(0, item.path.lastIndexOf("/")) : "";
    byFolder.set(folder, [...(byFolder.get(folder) ?? []), item]);
  }
  return [...byFolder].flatMap(([folder, items]) => {
    const volume = folder ? numbered(items) : null;
    if (volume) return [{ name: folder, files: volume }];
    items.sort((a, b) => a.path.localeCompare(b.path, undefined, { numeric: true }));
    return items.map(({ file, path }) => ({ name: path, files: [file] }));
  });
}

/** The files of a folder in the order of their numbers; null where it is no volume. */
function numbered(items) {
  const matches = items.map(({ file }) => {
    const stem = file.name.replace(/\.[^.]*$/, "").toLowerCase();
    return PICTURE.test(file.name) ? NUMBERED.exec(stem) : null;
  });
  if (items.length < FEWEST || !matches.every(Boolean)) return null;
  const words = new Set(matches.map((match) => match[1]));
  const numbers = matches.map((match) => Number(match[2]));
  if (words.size !== 1 || new Set(numbers).size !== numbers.length) return null;
  const order = numbers.map((_, i) => i).sort((a, b) => numbers[a] - numbers[b]);
  return order.map((i) => items[i].file);
}

/** Files of a drop, folders walked through. */
export async function droppedFiles(transfer) {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return Array.from(transfer.files, (file) => ({ file, path: file.name }));
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return;
    for (const child of batch) await walk(child, found);
  }
}

/** Files of an <input>, with the way below the chosen folder. */
export function chosenFiles(input) {
  return Array.from(input.files, (file) => ({ file, path: file.webkitRelativePath || file.name }));
}
