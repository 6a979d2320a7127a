// Runs the deployed graph outside the page's own thread.
//   in:  {load: "model.onnx"}                          out: {ready: true}
//   in:  {id, width, height, pixels: RGBA bytes}       out: {id, classes, confidence, milliseconds}
// and {id, error} when something fails; `classes` and `confidence` have one byte per pixel, row by row.
import * as ort from "./runtime/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
// Threads share memory, which a browser allows only to servers that send the headers of cross-origin isolation.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;

let session;

async function load(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: the server answers ${answer.status}`);
  session = await ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), { executionProviders: ["wasm"] });
  self.postMessage({ ready: true });
}

async function segment({ id, width, height, pixels }) {
  const start = performance.now();
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    rgb[to++] = pixels[from];
    rgb[to++] = pixels[from + 1];
    rgb[to++] = pixels[from + 2];
  }
  const images = new ort.Tensor("uint8", rgb, [1, height, width, 3]);
  const { classes, confidence } = await session.run({ images });
  // Copies: the tensors' memory may belong to the runtime.
  const answer = { id, classes: classes.data.slice(), confidence: confidence.data.slice() };
  answer.milliseconds = performance.now() - start;
  self.postMessage(answer, [answer.classes.buffer, answer.confidence.buffer]);
}

self.onmessage = async ({ data }) => {
  try {
    await (data.load ? load(data.load) : segment(data));
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
};
