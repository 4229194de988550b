// The page: files, pictures of the camera and examples come in, and a card for each goes out.

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let count = 0;
const find = (id) => document.getElementById(id);

/**
 * Classifies a file.
 *
 * @param {Blob} file An image.
 * @returns {Promise<{seen: Uint8Array, scores: Float32Array, milliseconds: number}>} What the model saw of it, the
 *     score of each class, and the time from the file to the scores.
 * @throws {Error} If it cannot be read, with the reason.
 */
export function classify(file) {
  return new Promise((resolve, reject) => {
    const id = count++;
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, file });
  });
}

worker.onmessage = ({ data: { id, error, status, difference, ...answer } }) => {
  if (status !== undefined) {
    find("status").textContent = status;
    if (!status) find("checked").textContent = `Its scores of a known image are the model's to ${digits(difference)}.`;
    return;
  }
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(answer);
};
worker.onerror = () => {
  const reason = "This browser is too old for the page, or a file of the page is missing.";
  find("status").textContent = reason;
  for (const { reject } of waiting.values()) reject(new Error(reason));
  waiting.clear();
};

const about = await (await fetch("model.json", { cache: "no-cache" })).json();

function digits(difference) {
  return difference < 1e-6 ? "0.000001" : difference.toFixed(6);
}

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function text(tag, className, value) {
  const made = make(tag, className, value);
  made.dir = "auto"; // names are of any script
  return made;
}

/** Shows a card for each file; a later call's come above. */
async function show(files) {
  const cards = files.map(({ name }) => make("div", "card", text("div", "name", name), make("div", "wait", "…")));
  find("cards").prepend(...cards);
  await Promise.all(files.map(async (file, i) => fill(cards[i], file)));
}

async function fill(card, file) {
  const name = text("div", "name", file.name);
  try {
    const { seen, scores, milliseconds } = await classify(file);
    const best = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, about.top);
    const time = make("div", "time", `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`);
    card.replaceChildren(make("div", "pictures", draw(seen)), name, ...best.flatMap((i) => row(i, scores[i])), time);
  } catch (error) {
    const reason = error.message.charAt(0).toUpperCase() + error.message.slice(1);
    card.replaceChildren(name, make("div", "error", `${reason}.`));
  }
}

function row(index, score) {
  const bar = make("div", "");
  bar.style.width = `${100 * score}%`;
  const shown = text("span", "", about.classes[index]);
  return [make("div", "class", shown, make("b", "", `${(100 * score).toFixed(1)}%`)), make("div", "bar", bar)];
}

/** A picture of what the model saw. */
function draw(seen) {
  const [height, width] = about.view.size, { channels } = about;
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let i = 0; i < 3; i++) image.data[4 * at + i] = seen[at * channels + (i % channels)];
    image.data[4 * at + 3] = 255;
  }
  const canvas = make("canvas", Math.min(width, height) < 64 ? "small" : "");
  [canvas.width, canvas.height] = [width, height];
  canvas.setAttribute("aria-label", "the image, as the model sees it");
  canvas.setAttribute("role", "img");
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function showExamples() {
  for (const { file, name } of about.examples) {
    const image = make("img", "");
    [image.src, image.alt, image.title] = [file, name, name];
    const button = make("button", "example", image);
    button.onclick = async () => show([new File([await (await fetch(file)).blob()], name)]);
    find("examples").append(button);
  }
  find("of_run").hidden = !about.examples.length;
}

async function openCamera() {
  const video = find("video");
  try {
    if (!navigator.mediaDevices) throw new Error("browsers give the camera to pages over HTTPS alone");
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    find("camera_error").textContent = "";
    find("camera").hidden = false;
  } catch (error) {
    find("camera_error").textContent = `There is no camera: ${error.message}.`;
  }
}

function closeCamera() {
  find("video").srcObject?.getTracks().forEach((track) => track.stop());
  find("video").srcObject = null;
  find("camera").hidden = true;
}

async function take() {
  const video = find("video"), canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  show([new File([await canvas.convertToBlob({ type: "image/png" })], "camera")]);
}

document.title = find("title").textContent;
document.documentElement.style.setProperty("--bar", about.colour);
find("about").textContent = about.text;
showExamples();
find("files").onchange = ({ target }) => {
  show([...target.files]);
  target.value = ""; // the same file may come again
};
find("open_camera").onclick = openCamera;
find("close_camera").onclick = closeCamera;
find("take").onclick = take;
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  show([...event.dataTransfer.files]);
};
