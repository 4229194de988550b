// PNG files of 16 bits a value, of which browsers cut off the lower eight: here they are rounded, as in training.

const SAMPLES = { 0: 1, 2: 3, 4: 2, 6: 4 }; // of a pixel, by the type of colour
// First column, first row, and their steps, of each pass of an interlaced file.
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const ALL = [[0, 0, 1, 1]];
const f = Math.fround;

/**
 * Decodes such a file.
 *
 * @param {Uint8Array} bytes The file, whose chunks are whole.
 * @returns {Promise<Uint8ClampedArray>} RGBA on white.
 * @throws {RangeError} If it is damaged.
 */
export async function decode16(bytes) {
  const { numbers, key, packed } = readChunks(bytes);
  const [width, height, type] = [numbers.getUint32(16), numbers.getUint32(20), bytes[25]];
  const samples = SAMPLES[type], pixelBytes = 2 * samples, colours = samples < 3 ? 1 : 3;
  const data = await inflate(packed), values = new DataView(data.buffer);
  const made = new Uint8ClampedArray(4 * width * height).fill(255);
  let at = 0;
  for (const [left, top, dx, dy] of bytes[28] ? ADAM7 : ALL) {
    const rowBytes = pixelBytes * Math.ceil((width - left) / dx);
    if (rowBytes <= 0) continue;
    let above = new Uint8Array(rowBytes);
    for (let y = top; y < height; y += dy, at += 1 + rowBytes) {
      const row = data.subarray(at + 1, at + 1 + rowBytes);
      if (row.length < rowBytes) throw new RangeError("too few rows");
      undoFilter(data[at], row, above, pixelBytes);
      above = row;
      for (let x = left, from = at + 1; x < width; x += dx, from += pixelBytes) {
        const sample = (i) => values.getUint16(from + 2 * i);
        let alpha = 255;
        if (samples > colours) alpha = to8Bits(sample(colours));
        else if (key && key.every((value, i) => value === sample(i))) alpha = 0;
        const to = 4 * (y * width + x);
        for (let i = 0; i < 3; i++) made[to + i] = onWhite(to8Bits(sample(i % colours)), f(alpha / 255));
      }
    }
  }
  return made;
}

function to8Bits(value) {
  return Math.floor((value + 128) / 257);
}

function onWhite(value, alpha) {
  return f(f(value * alpha) + f(255 * f(1 - alpha)));
}

/** The numbers in the file, the colour that is transparent if there is one, and the compressed pixels. */
function readChunks(bytes) {
  const numbers = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), packed = [];
  let key = null;
  for (let at = 8; at < bytes.length; at += 12 + numbers.getUint32(at)) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8)), length = numbers.getUint32(at);
    if (name === "IDAT") packed.push(bytes.subarray(at + 8, at + 8 + length));
    if (name === "tRNS") key = Array.from({ length: length / 2 }, (_, i) => numbers.getUint16(at + 8 + 2 * i));
    if (name === "IEND") break;
  }
  return { numbers, key, packed };
}

async function inflate(packed) {
  const inflated = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
  try {
    return new Uint8Array(await new Response(inflated).arrayBuffer());
  } catch {
    throw new RangeError("not to be inflated");
  }
}

function undoFilter(filter, row, above, pixelBytes) {
  for (let i = 0; i < row.length; i++) {
    const left = i < pixelBytes ? 0 : row[i - pixelBytes], corner = i < pixelBytes ? 0 : above[i - pixelBytes];
    if (filter === 1) row[i] += left;
    else if (filter === 2) row[i] += above[i];
    else if (filter === 3) row[i] += (left + above[i]) >> 1;
    else if (filter === 4) row[i] += nearest(left, above[i], corner);
    else if (filter !== 0) throw new RangeError("no such filter");
  }
}

/** Paeth's predictor. */
function nearest(left, above, corner) {
  const toLeft = Math.abs(above - corner), toAbove = Math.abs(left - corner);
  const toCorner = Math.abs(left + above - 2 * corner);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}
