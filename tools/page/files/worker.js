// Classifies images beside the page, so that it stays responsive: reads, resizes, and asks the model.
//
// The page sends {id, file}, and gets {id, seen, scores, milliseconds} or {id, error}; and {status} while the model is
// loaded. Nothing is asked of any other host, and nothing but the page's own files of its own.

import * as ort from "./ort.wasm.bundle.min.js";
import { load } from "./load.js";

const TOLERANCE = 1e-3; // of the scores of the known image

ort.env.wasm.numThreads = 1; // more need headers that not every web host can send

const started = start();
let last = started.catch(({ message }) => postMessage({ status: `Not ready: ${message}.` })); // one after another
onmessage = ({ data: { id, file } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, ...(await classify(await started, file)) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  });
};

/** Loads the model, and refuses to go on if this browser gives other scores of a known image. */
async function start() {
  const about = await (await get("model.json")).json();
  ort.env.wasm.wasmBinary = await download("ort-wasm-simd-threaded.wasm", "Loading the runtime");
  const file = await download("model.onnx", "Loading the model");
  postMessage({ status: "Starting the model …" });
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  const model = { session, about };
  const { scores } = await classify(model, await (await get("check.png")).blob());
  const difference = Math.max(...scores.map((score, i) => Math.abs(score - about.check[i])));
  if (!(difference <= TOLERANCE)) {
    throw new Error(
      `this browser gives other scores than the model (off by ${difference.toPrecision(2)} on a known image). ` +
        "Protection against fingerprinting changes what pages read of images: allow it for this page",
    );
  }
  postMessage({ status: "", difference });
  return model;
}

async function get(name) {
  const response = await fetch(name, { cache: "no-cache" }); // a page that is written anew has other files
  if (!response.ok) throw new Error(`the page's file ${name} is missing (${response.status})`);
  return response;
}

async function download(name, status) {
  const response = await get(name), reader = response.body.getReader(), parts = [];
  let received = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    received += part.value.length;
    postMessage({ status: `${status}, ${(received / 1e6).toFixed(1)} MB …` });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function classify({ session, about }, file) {
  const begun = performance.now();
  const seen = await load(file, about);
  const images = new ort.Tensor("float32", Float32Array.from(seen), [1, ...about.view.size, about.channels]);
  const answers = await session.run({ [session.inputNames[0]]: images });
  const scores = answers[session.outputNames[0]].data;
  return { seen, scores, milliseconds: performance.now() - begun };
}
