// From decoded pixels to what the model sees: experiments/data/images.py and views.py, number by number.
//
// An image is {data, height, width, channels}, its numbers row by row. TensorFlow computes in 32 bits, and so does
// this: each Math.fround is a number that it rounds.

const f = Math.fround;
const KERNELS = {
  bilinear: { radius: 1, weigh: (x) => (x < 1 ? f(1 - x) : 0) },
  bicubic: { radius: 2, weigh: weighCubic },
};
const RED = 19595, GREEN = 38470, BLUE = 7471; // of 65,536: grey as ITU-R 601 has it

function weighCubic(x) {
  if (x >= 2) return 0;
  if (x >= 1) return f(f(f(f(f(f(-0.5 * x) + 2.5) * x) - 4) * x) + 2);
  return f(f(f(f(f(1.5 * x) - 2.5) * x) * x) + 1);
}

/**
 * Colours, or grey, of some pixels.
 *
 * @param {Uint8ClampedArray} rgba The pixels, opaque.
 * @param {number} channels 3 or 1.
 * @param {Uint8Array} made Where to write them.
 * @param {number} to The position of the first.
 */
export function keepChannels(rgba, channels, made, to) {
  for (let from = 0; from < rgba.length; from += 4) {
    if (channels === 3) {
      made[to++] = rgba[from];
      made[to++] = rgba[from + 1];
      made[to++] = rgba[from + 2];
    } else {
      made[to++] = (RED * rgba[from] + GREEN * rgba[from + 1] + BLUE * rgba[from + 2] + 32768) >> 16;
    }
  }
}

/**
 * What a model sees of an image.
 *
 * @param {{data: Uint8Array, height: number, width: number, channels: number}} image As it lies in the file.
 * @param {{kind: string, orientation: number}} header From `readHeader`.
 * @param {{size: number[], interpolation: string, center: ?number, resized: ?number[]}} view Height and width; and the
 *     share that is cut out before, or the height and width at least to which the image is resized before the middle is
 *     cut out; with neither it is the whole image.
 * @returns {Uint8Array} The pixels of that size.
 */
export function see(image, header, { size, interpolation, center, resized }) {
  let orientation = header.orientation;
  if (header.kind !== "JPEG") [image, orientation] = [turn(image, orientation), 1]; // a JPEG is turned when it is small
  const [transposed] = stepsOf(orientation);
  const turned = ([height, width]) => (transposed ? [width, height] : [height, width]);
  const shape = turned([image.height, image.width]);
  let scaled = size, cut = [0, 0, ...size];
  if (resized) {
    scaled = scale(shape, resized);
    cut = [...scaled.map((side, axis) => roundHalfEven((side - size[axis]) / 2)), ...size];
  } else if (center) {
    image = crop(image, beforeTurning(middle(shape, size, center), shape, orientation));
  }
  cut = beforeTurning(cut, scaled, orientation);
  return turn(resample(image, turned(scaled), cut, interpolation), orientation).data;
}

/** Whether an image is transposed, then mirrored, then turned upside down, to be upright. */
function stepsOf(orientation) {
  return [orientation >= 5, [2, 3, 6, 7].includes(orientation), [3, 4, 7, 8].includes(orientation)];
}

function turn(image, orientation) {
  if (orientation === 1) return image;
  const [transposed, mirrored, upended] = stepsOf(orientation);
  const { data, channels } = image;
  const [height, width] = transposed ? [image.width, image.height] : [image.height, image.width];
  const made = new Uint8Array(data.length);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const row = upended ? height - 1 - y : y, column = mirrored ? width - 1 - x : x;
      const from = channels * (transposed ? column * image.width + row : row * image.width + column);
      for (let channel = 0; channel < channels; channel++) made[to++] = data[from + channel];
    }
  }
  return { data: made, height, width, channels };
}

/** Where a part (y, x, height, width) of the upright image, of a shape, lies in the image that is not turned yet. */
function beforeTurning([y, x, height, width], shape, orientation) {
  const [transposed, mirrored, upended] = stepsOf(orientation);
  if (upended) y = shape[0] - y - height;
  if (mirrored) x = shape[1] - x - width;
  return transposed ? [x, y, width, height] : [y, x, height, width];
}

function middle([height, width], size, share) {
  const aspect = f(size[1] / size[0]);
  const largest = [Math.min(height, f(width / aspect)), Math.min(width, f(height * aspect))];
  const sides = largest.map((side) => Math.max(1, roundHalfEven(f(side * f(share)))));
  return [Math.floor((height - sides[0]) / 2), Math.floor((width - sides[1]) / 2), ...sides];
}

/** The size that covers another and keeps the shape. */
function scale([height, width], [toHeight, toWidth]) {
  return height * toWidth <= width * toHeight
    ? [toHeight, Math.floor((width * toHeight) / height)]
    : [Math.floor((height * toWidth) / width), toWidth];
}

function crop(image, [top, left, height, width]) {
  if (height === image.height && width === image.width) return image;
  const { channels } = image, made = new Uint8Array(height * width * channels);
  for (let y = 0; y < height; y++) {
    const from = channels * ((top + y) * image.width + left);
    made.set(image.data.subarray(from, from + channels * width), channels * y * width);
  }
  return { data: made, height, width, channels };
}

/** The part (y, x, height, width) of an image that is resized with antialiasing. */
function resample(image, scaled, [y, x, height, width], interpolation) {
  if (scaled[0] === image.height && scaled[1] === image.width) return crop(image, [y, x, height, width]);
  const kernel = KERNELS[interpolation];
  const rows = spans(height, image.height, f(scaled[0] / image.height), y, kernel);
  const columns = spans(width, image.width, f(scaled[1] / image.width), x, kernel);
  if (interpolation === "bilinear") return rounded(gatherColumns(gatherRows(image, rows), columns));
  return rounded(gatherRows(rounded(gatherColumns(image, columns)), rows)); // Pillow rounds between
}

/** For each position of the result the first source position and the weights from there on. */
function spans(size, sourceSize, scale, corner, { radius, weigh }) {
  const inverse = f(1 / scale), shift = f(-inverse * f(-corner)), kernelScale = Math.max(inverse, 1);
  const reach = f(radius * kernelScale), narrow = f(1 / kernelScale);
  const within = (at) => Math.min(Math.max(at, 0), sourceSize - 1);
  return Array.from({ length: size }, (_, position) => {
    const center = f(f((position + 0.5) * inverse) + shift);
    const first = within(Math.ceil(f(f(center - reach) - 0.5)));
    const last = within(Math.floor(f(f(center + reach) - 0.5)));
    const weights = new Float32Array(last - first + 1);
    let total = 0;
    for (let i = 0; i < weights.length; i++) {
      weights[i] = weigh(Math.abs(f(f(f(first + i + 0.5) - center) * narrow)));
      total = f(total + weights[i]);
    }
    return { first, weights: weights.map((weight) => weight * f(1 / total)) };
  });
}

function gatherRows({ data, width, channels }, rows) {
  const length = width * channels, made = new Float32Array(rows.length * length);
  rows.forEach(({ first, weights }, y) => {
    const row = made.subarray(y * length, (y + 1) * length);
    weights.forEach((weight, i) => {
      const source = data.subarray((first + i) * length, (first + i + 1) * length);
      for (let at = 0; at < length; at++) row[at] += f(weight * source[at]);
    });
  });
  return { data: made, height: rows.length, width, channels };
}

function gatherColumns({ data, height, width, channels }, columns) {
  const made = new Float32Array(height * columns.length * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (const { first, weights } of columns) {
      let from = (y * width + first) * channels;
      for (let i = 0; i < weights.length; i++) {
        for (let channel = 0; channel < channels; channel++) made[to + channel] += f(weights[i] * data[from++]);
      }
      to += channels;
    }
  }
  return { data: made, height, width: columns.length, channels };
}

/** Bytes, rounded with halves to even numbers as TensorFlow does, and clipped. */
function rounded(image) {
  return { ...image, data: Uint8ClampedArray.from(image.data) };
}

function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
