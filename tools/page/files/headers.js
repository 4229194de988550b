// What a file says before its pixels: its kind, size and orientation, and whether it is whole.
//
// The same as experiments/data/headers.py, so that a file is read here as it is there. Browsers decode what is damaged
// as far as it goes, and differ in the orientations that they heed: here a damaged file is refused, and what notes the
// orientation is hidden from the browser.

const KINDS = [
  ["JPEG", [0xff, 0xd8, 0xff]],
  ["PNG", [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]],
  ["GIF", [0x47, 0x49, 0x46, 0x38]],
  ["BMP", [0x42, 0x4d]],
  ["TIFF", [0x49, 0x49, 0x2a, 0]],
  ["TIFF", [0x4d, 0x4d, 0, 0x2a]],
  ["TIFF", [0x49, 0x49, 0x2b, 0]],
  ["TIFF", [0x4d, 0x4d, 0, 0x2b]],
  ["NumPy array", [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]],
];
const READ = "JPEG, PNG, GIF, BMP or WebP";
const READERS = { JPEG: readJpeg, PNG: readPng, GIF: readGif, BMP: readBmp, WebP: readWebp };
export const DAMAGED = "it is damaged or truncated";
const ORIENTATION_TAG = 0x0112;
const BYTE = 1, LONG = 4; // types of Exif's numbers
const EXIF = "Exif\0\0", XMP = "http://ns.adobe.com/xap/1.0/\0", PNG_XMP = "XML:com.adobe.xmp\0";
const EXIF_AS_TEXT = "Raw profile type exif\0";
const ADOBE = [0xff, 0xee, 0, 0x0e, 0x41, 0x64, 0x6f, 0x62, 0x65, 0, 0x64, 0, 0, 0, 0, 0];

/**
 * Reads the header of a file.
 *
 * @param {Uint8Array} bytes The file; what notes its orientation is overwritten.
 * @returns {{kind: string, orientation: number, width: number, height: number, bits: ?number, parts: Uint8Array[]}} The
 *     orientation is 1 (upright, or not noted) to 8, as the Exif standard counts; the bits are those of a PNG's value;
 *     the parts make the file that the browser is to decode.
 * @throws {Error} If it is no image that is read, or a damaged one, in words that may follow "cannot be read: ".
 */
export function readHeader(bytes) {
  const kind = kindOf(bytes);
  if (!(kind in READERS)) {
    throw new Error(kind ? `it is a ${kind}, and ${READ} are read: convert it` : `it is no image (${READ} are read)`);
  }
  try {
    return { kind, orientation: 1, parts: [bytes], ...READERS[kind](bytes) };
  } catch (error) {
    throw error instanceof RangeError ? new Error(DAMAGED) : error; // a position behind the end
  }
}

function kindOf(bytes) {
  for (const [kind, beginning] of KINDS) {
    if (beginning.every((byte, i) => bytes[i] === byte)) return kind;
  }
  if (textAt(bytes, 0, 4) === "RIFF" && textAt(bytes, 8, 4) === "WEBP") return "WebP";
  if (textAt(bytes, 4, 4) !== "ftyp") return "";
  return textAt(bytes, 8, 3) === "avi" ? "file of AVIF" : "file of HEIC";
}

function textAt(bytes, at, length) {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

/** The numbers in some bytes; a RangeError behind their end. */
function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function readJpeg(bytes) {
  let exif = null, xmp = "", adobe = false, frame = null;
  let at = 2;
  while (bytes[at + 1] !== 0xda || bytes[at] !== 0xff) {
    if (at >= bytes.length) throw new Error(DAMAGED);
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker === 0 || marker === 0xff) {
      at += 1; // filling, of which there may be any
      continue;
    }
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += 2;
      continue;
    }
    const body = bytes.subarray(at + 4, at + 2 + Math.max(2, viewOf(bytes).getUint16(at + 2)));
    if (marker === 0xe1 && textAt(body, 0, EXIF.length) === EXIF) {
      exif ??= body.slice(EXIF.length);
      body.fill(0, 0, EXIF.length);
    } else if (marker === 0xe1 && textAt(body, 0, XMP.length) === XMP) {
      xmp ||= new TextDecoder().decode(body.subarray(XMP.length));
    } else if (marker === 0xee && textAt(body, 0, 5) === "Adobe") {
      adobe = true;
    } else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const numbers = viewOf(body);
      frame ??= { height: numbers.getUint16(1), width: numbers.getUint16(3), components: body[5] };
    }
    at += 4 + body.length;
  }
  if (!frame || !endsJpeg(bytes, at)) throw new Error(DAMAGED);
  const { components, ...size } = frame;
  // Without Adobe's segment browsers take CMYK for ink, where 0 is white; in nearly all files white is 255.
  const parts = components === 4 && !adobe ? [bytes.subarray(0, 2), new Uint8Array(ADOBE), bytes.subarray(2)] : [bytes];
  return { ...size, orientation: orientationOf(exif, xmp), parts };
}

/** Whether the end of the image is marked behind its pixels, of which there may be several scans. */
function endsJpeg(bytes, at) {
  for (;;) {
    at = bytes.indexOf(0xff, at);
    if (at < 0 || at + 1 >= bytes.length) return false;
    const marker = bytes[at + 1];
    if (marker === 0xd9) return true;
    if (marker === 0xff) at += 1;
    else if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) at += 2;
    else at += 2 + viewOf(bytes).getUint16(at + 2);
  }
}

function readPng(bytes) {
  const numbers = viewOf(bytes);
  let exif = null, xmp = "", hidden = false, isWhole = false;
  for (let at = 8; at < bytes.length && !isWhole; ) {
    const length = numbers.getUint32(at), name = textAt(bytes, at + 4, 4);
    if (at + 12 + length > bytes.length) throw new Error(DAMAGED);
    const named = bytes.subarray(at + 4, at + 8 + length), data = named.subarray(4);
    if (/^[A-Z]/.test(name) && crc32(named) !== numbers.getUint32(at + 8 + length)) throw new Error(DAMAGED);
    if (name === "eXIf") {
      exif ??= data.slice(textAt(data, 0, EXIF.length) === EXIF ? EXIF.length : 0);
      named.set([0x70, 0x72, 0x56, 0x74]); // "prVt", which no browser knows
      numbers.setUint32(at + 8 + length, crc32(named));
    } else if (/^(tEXt|zTXt|iTXt)$/.test(name)) {
      const isXmp = textAt(data, 0, PNG_XMP.length) === PNG_XMP, isPacked = isXmp && data[PNG_XMP.length] === 1;
      hidden ||= isPacked || textAt(data, 0, EXIF_AS_TEXT.length) === EXIF_AS_TEXT;
      if (isXmp && !isPacked) xmp = new TextDecoder().decode(data);
    }
    isWhole = name === "IEND";
    at += 12 + length;
  }
  if (!isWhole) throw new Error(DAMAGED);
  const noted = exifOrientation(exif);
  if (hidden && !noted) {
    throw new Error("it is a PNG with its orientation in a compressed or hexadecimal text: save it without");
  }
  const size = { width: numbers.getUint32(16), height: numbers.getUint32(20) };
  return { ...size, bits: bytes[24], orientation: noted || orientationOf(null, xmp) };
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Walks to the end of the first frame. */
function readGif(bytes) {
  const numbers = viewOf(bytes);
  const tableBytes = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  const skipBlocks = (at) => {
    while (numbers.getUint8(at)) at += 1 + bytes[at];
    return at + 1;
  };
  let at = 13 + tableBytes(numbers.getUint8(10));
  while (numbers.getUint8(at) === 0x21) at = skipBlocks(at + 2);
  if (bytes[at] !== 0x2c) throw new Error(DAMAGED);
  skipBlocks(at + 11 + tableBytes(numbers.getUint8(at + 9)));
  return { width: numbers.getUint16(6, true), height: numbers.getUint16(8, true) };
}

function readBmp(bytes) {
  const numbers = viewOf(bytes);
  const isOld = numbers.getUint32(14, true) === 12;
  const [width, height] = isOld
    ? [numbers.getUint16(18, true), numbers.getUint16(20, true)]
    : [numbers.getInt32(18, true), Math.abs(numbers.getInt32(22, true))];
  const bits = numbers.getUint16(isOld ? 24 : 28, true), isPacked = !isOld && [1, 2, 4, 5].includes(bytes[30]);
  const rowBytes = 4 * Math.ceil((width * bits) / 32);
  if (!isPacked && numbers.getUint32(10, true) + rowBytes * height > bytes.length) throw new Error(DAMAGED);
  return { width, height };
}

function readWebp(bytes) {
  const numbers = viewOf(bytes);
  const end = 8 + numbers.getUint32(4, true);
  if (end > bytes.length) throw new Error(DAMAGED);
  let exif = null, xmp = "", size = null;
  for (let at = 12; at + 8 <= end; ) {
    const name = textAt(bytes, at, 4), length = numbers.getUint32(at + 4, true);
    const data = bytes.subarray(at + 8, at + 8 + length), inside = viewOf(data);
    if (name === "VP8X") {
      const side = (at) => 1 + inside.getUint16(at, true) + (inside.getUint8(at + 2) << 16);
      size = { width: side(4), height: side(7) };
    } else if (name === "VP8 ") {
      size ??= { width: inside.getUint16(6, true) & 0x3fff, height: inside.getUint16(8, true) & 0x3fff };
    } else if (name === "VP8L") {
      const packed = inside.getUint32(1, true);
      size ??= { width: 1 + (packed & 0x3fff), height: 1 + ((packed >>> 14) & 0x3fff) };
    } else if (name === "EXIF") {
      exif ??= data.slice(textAt(data, 0, EXIF.length) === EXIF ? EXIF.length : 0);
      bytes.set([0x65, 0x78, 0x69, 0x66], at); // "exif", which no browser knows
    } else if (name === "XMP ") {
      xmp ||= new TextDecoder().decode(data);
    }
    at += 8 + length + (length % 2);
  }
  if (!size) throw new Error(DAMAGED);
  return { ...size, orientation: orientationOf(exif, xmp) };
}

/** Of Exif data, or of XMP if they have none. */
function orientationOf(exif, xmp) {
  return exifOrientation(exif) || Number(/tiff:Orientation(?:=["']|>)([1-8])/.exec(xmp)?.[1] ?? 1);
}

/** Of Exif data, which are a small TIFF file; 0 if it is not noted. */
function exifOrientation(exif) {
  if (!exif || !/^(II\*\0|MM\0\*)/.test(textAt(exif, 0, 4))) return 0;
  const numbers = viewOf(exif), isLittle = exif[0] === 0x49;
  try {
    const directory = numbers.getUint32(4, isLittle), count = numbers.getUint16(directory, isLittle);
    for (let at = directory + 2; at < directory + 2 + 12 * count; at += 12) {
      if (numbers.getUint16(at, isLittle) !== ORIENTATION_TAG) continue;
      const type = numbers.getUint16(at + 2, isLittle);
      const value =
        type === BYTE
          ? numbers.getUint8(at + 8)
          : type === LONG
            ? numbers.getUint32(at + 8, isLittle)
            : numbers.getUint16(at + 8, isLittle);
      return value >= 1 && value <= 8 ? value : 0;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // they end too soon
  }
  return 0;
}
