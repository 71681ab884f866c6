// What the page carries beside its script: base64 of gzip, each with the SHA-256 of its content.

/** Takes an asset out of the document; throws where its bytes are not those it was built with. */
export async function takeAsset(name, { sha256, planes }) {
  const element = document.getElementById(`asset-${name}`);
  const packed = fromBase64(element.textContent.trim());
  element.remove(); // megabytes of text
  let bytes = await gunzip(packed);
  if (planes) bytes = joinPlanes(bytes, planes);
  const digest = await sha256Of(bytes);
  if (digest !== sha256) throw new Error(`${name}: SHA-256 ${digest}`);
  return bytes;
}

export async function sha256Of(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

async function gunzip(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Undoes the order that floats are packed in: all first bytes, then all second bytes, ... */
function joinPlanes(bytes, planes) {
  const joined = new Uint8Array(bytes.length);
  let at = 0;
  for (let plane = 0; plane < planes; plane++) {
    for (let to = plane; to < bytes.length; to += planes) joined[to] = bytes[at++];
  }
  return joined;
}
