// From a file to what the model sees of it: the browser decodes, and headers.js and pixels.js do the rest.

import { DAMAGED, readHeader } from "./headers.js";
import { keepChannels, see } from "./pixels.js";
import { decode16 } from "./png16.js";

const STRIP = 1 << 22; // pixels that are drawn at once: phones refuse large canvases

/**
 * Decodes an image and brings it to the model's size.
 *
 * @param {Blob} file The image.
 * @param {{channels: number, view: object, max_pixels: number}} about The model's channels, what it sees as `see` has
 *     it, and the number of pixels above which nothing is decoded.
 * @returns {Promise<Uint8Array>} The pixels.
 * @throws {Error} If it cannot be read, with the reason.
 */
export async function load(file, { channels, view, max_pixels }) {
  const header = readHeader(new Uint8Array(await file.arrayBuffer()));
  if (header.width * header.height > max_pixels) {
    const [declared, most] = [header.width * header.height, max_pixels].map((count) => count.toLocaleString("en"));
    throw new Error(`it declares ${declared} pixels, more than ${most}`);
  }
  return see(await decode(header, channels), header, view);
}

/** The pixels as they lie in the file, on white where it is transparent. */
async function decode(header, channels) {
  const { width, height } = header, data = new Uint8Array(height * width * channels);
  if (header.bits === 16) {
    try {
      keepChannels(await decode16(header.parts[0]), channels, data, 0);
    } catch (error) {
      throw error instanceof RangeError ? new Error(DAMAGED) : error;
    }
  } else {
    await drawAndKeep(header, channels, data);
  }
  return { data, height, width, channels };
}

async function drawAndKeep({ kind, width, height, parts }, channels, data) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob(parts, { type: `image/${kind.toLowerCase()}` }), options);
  } catch {
    throw new Error("it is damaged, or of a kind that this browser does not decode");
  }
  if (bitmap.width !== width || bitmap.height !== height) {
    throw new Error("this browser decodes it at another size: make it smaller");
  }
  const rows = Math.min(height, Math.max(1, Math.floor(STRIP / width)));
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  for (let y = 0; y < height; y += rows) {
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -y);
    const strip = context.getImageData(0, 0, width, Math.min(rows, height - y));
    keepChannels(strip.data, channels, data, y * width * channels);
  }
  bitmap.close();
}
