// The page: takes photos and webcam frames, shows the classes that worker.js computes.
"use strict";

const byId = (id) => document.getElementById(id);
const view = byId("view"), photo = byId("photo"), mask = byId("mask"), point = byId("point"), video = byId("video");
const stage = document.querySelector(".stage");
let model; // model.json
let worker;
let source; // what is shown: an ImageBitmap, or the video
let result; // {width, height, classes, confidence}
let waiting = new Map(); // id of a call to the worker -> what settles it
let calls = 0;
let stream; // the webcam's stream
let place; // the point whose class is read out, as fractions of width and height

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

const color = (index) => `rgb(${model.palette[index].join(" ")})`;

// ---- The worker.

function startWorker() {
  return new Promise((resolve, reject) => {
    worker = new Worker("worker.js", { type: "module" });
    worker.onerror = () => reject(new Error("the runtime in runtime/ does not load"));
    worker.onmessage = ({ data }) => {
      if (data.ready) return resolve();
      if (data.id === undefined) return reject(new Error(data.error));
      const { settle, fail } = waiting.get(data.id);
      waiting.delete(data.id);
      return data.error ? fail(new Error(data.error)) : settle(data);
    };
    worker.postMessage({ load: model.graph });
  });
}

function infer(image) {
  const id = ++calls;
  return new Promise((settle, fail) => {
    waiting.set(id, { settle, fail });
    worker.postMessage({ id, width: image.width, height: image.height, pixels: image.data }, [image.data.buffer]);
  });
}

// ---- One photo or frame.

const capture = document.createElement("canvas"); // the source at the size that the network sees

function draw() {
  const [width, height] = source === video ? [video.videoWidth, video.videoHeight] : [source.width, source.height];
  const scale = Math.min(1, byId("side").value / Math.max(width, height));
  capture.width = Math.max(1, Math.round(width * scale));
  capture.height = Math.max(1, Math.round(height * scale));
  const context = capture.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // transparent pixels become white, as in training
  context.fillRect(0, 0, capture.width, capture.height);
  context.drawImage(source, 0, 0, capture.width, capture.height);
  return context.getImageData(0, 0, capture.width, capture.height);
}

function showPhoto() {
  photo.width = capture.width;
  photo.height = capture.height;
  photo.getContext("2d").drawImage(capture, 0, 0);
  view.style.setProperty("--ratio", photo.width / photo.height);
  view.hidden = false;
  byId("drop").hidden = true;
}

function paint() {
  mask.width = result.width;
  mask.height = result.height;
  const picture = new ImageData(result.width, result.height);
  for (let pixel = 0, to = 0; pixel < result.classes.length; pixel++, to += 4) {
    picture.data.set(model.palette[result.classes[pixel]], to);
    picture.data[to + 3] = 255;
  }
  mask.getContext("2d").putImageData(picture, 0, 0);
}

let begin;
const ready = new Promise((resolve) => (begin = resolve)); // a photo that comes earlier waits for the network
let current; // the newest call: slow answers to older photos are dropped

async function segment() {
  const mine = (current = {});
  const still = source !== video;
  const image = draw();
  const { width, height } = image;
  byId("status").ariaLive = still ? "polite" : "off"; // screen readers could not keep up with frames
  if (still) {
    mask.width = 0; // the last photo's classes must not lie over this one
    showPhoto();
    result = undefined;
    read();
    stage.classList.add("busy");
    say(`Segmenting ${width} × ${height} pixels …`);
  }
  try {
    const answer = await infer(image);
    if (mine !== current) return;
    result = { width, height, classes: answer.classes, confidence: answer.confidence };
    if (!still) showPhoto(); // a frame and its classes appear together
    paint();
    showShares();
    read();
    const time = answer.milliseconds < 1000 ? `${Math.round(answer.milliseconds)} ms` : `${(answer.milliseconds / 1000).toFixed(1)} s`;
    say(`${width} × ${height} pixels in ${time}`);
  } catch (error) {
    if (mine !== current) return;
    stopWebcam();
    say(`This photo cannot be segmented: ${error.message}. Try a smaller longest side.`, true);
  } finally {
    if (mine === current) stage.classList.remove("busy");
  }
}

async function open(blob) {
  stopWebcam();
  const mine = (current = {});
  await ready;
  try {
    // Turned as its EXIF says, and without color management, as in training.
    const opened = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
    if (mine !== current) return opened.close();
    source = opened;
  } catch {
    return say("This is not an image that the browser can read.", true);
  }
  return segment();
}

async function openExample(file) {
  try {
    await open(await (await fetch(file)).blob());
  } catch {
    say(`${file}: the server does not answer.`, true);
  }
}

// ---- Readout and chart.

function showShares() {
  const counts = new Array(model.classes.length).fill(0);
  if (result) for (const index of result.classes) counts[index]++;
  const order = [...counts.keys()].sort((a, b) => counts[b] - counts[a] || a - b);
  const total = result ? result.classes.length : 1;
  byId("legend").replaceChildren(...order.map((index) => {
    const share = `${(100 * counts[index] / total).toFixed(1)} %`;
    const swatch = element("span", { className: "swatch" });
    const fill = element("i");
    swatch.style.background = fill.style.background = color(index);
    fill.style.width = `${100 * counts[index] / total}%`;
    const row = element("li", { className: result && !counts[index] ? "none" : "" },
      swatch, element("b", { title: model.classes[index] }, model.classes[index]), element("span", { className: "bar" }, fill),
      element("span", { className: "share" }, result ? share : ""));
    row.dataset.index = index;
    return row;
  }));
}

function read() {
  const reading = byId("reading");
  point.hidden = !(place && result);
  let index;
  if (place && result) {
    const column = Math.min(result.width - 1, Math.floor(place.x * result.width));
    const row = Math.min(result.height - 1, Math.floor(place.y * result.height));
    const at = row * result.width + column;
    index = result.classes[at];
    const swatch = element("i");
    swatch.style.background = color(index);
    const sure = Math.round(100 * result.confidence[at] / 255);
    reading.replaceChildren(swatch, `${model.classes[index]}, ${sure} % sure, at ${column}, ${row}`);
    point.style.left = `${100 * place.x}%`;
    point.style.top = `${100 * place.y}%`;
  } else {
    reading.textContent = result ? "Point at the photo to read its class." : "";
  }
  for (const row of byId("legend").children) row.classList.toggle("here", row.dataset.index === String(index));
}

function pointAt(event) {
  const box = view.getBoundingClientRect();
  place = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  if (!(place.x >= 0 && place.x < 1 && place.y >= 0 && place.y < 1)) place = undefined;
  read();
}

view.addEventListener("pointermove", pointAt);
view.addEventListener("pointerdown", pointAt);
view.addEventListener("pointerleave", (event) => {
  if (event.pointerType === "touch") return; // the finger has left, its readout stays
  place = undefined;
  read();
});
view.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const distance = event.shiftKey ? 0.1 : 0.02;
  const moved = (value, direction) => Math.min(0.999, Math.max(0, value + direction * distance));
  place = place ? { x: moved(place.x, step[0]), y: moved(place.y, step[1]) } : { x: 0.5, y: 0.5 };
  read();
});

// ---- Where photos come from.

byId("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) open(target.files[0]);
  target.value = ""; // choosing the same file again counts as a change, too
});
document.addEventListener("paste", ({ clipboardData }) => {
  const image = [...clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (image) open(image);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    stage.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}

function stopWebcam() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
  byId("webcam").setAttribute("aria-pressed", "false");
  byId("webcam").textContent = "Use the webcam";
}

byId("webcam").addEventListener("click", async () => {
  if (stream) return stopWebcam();
  if (!navigator.mediaDevices) return say("The webcam works only if the page was loaded over HTTPS or from this machine.", true);
  try {
    await ready;
    const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    stream = video.srcObject = opened;
    await video.play();
  } catch (error) {
    stopWebcam();
    return say(`The webcam cannot be used: ${error.message}`, true);
  }
  byId("webcam").setAttribute("aria-pressed", "true");
  byId("webcam").textContent = "Stop the webcam";
  source = video;
  while (stream) { // a frame when the last one is done: no queue
    await segment();
    await new Promise(requestAnimationFrame);
  }
});

byId("opacity").addEventListener("input", ({ target }) => {
  byId("percent").textContent = `${target.value} %`;
  view.style.setProperty("--opacity", target.value / 100);
});
byId("side").addEventListener("change", () => source && source !== video && segment());

// ---- The beginning.

async function start() {
  if (location.protocol === "file:") return; // workers do not run here; the page says so already
  try {
    const answer = await fetch("model.json", { cache: "no-cache" });
    if (!answer.ok) throw new Error(`model.json: the server answers ${answer.status}`);
    model = await answer.json();
    byId("name").textContent = model.name;
    document.title = `${model.name} · segmentation in the browser`;
    const megabytes = `${(model.graph_bytes / 1e6).toFixed(1)} MB`;
    byId("facts").replaceChildren(...[`${model.classes.length} classes`, `${model.precision}, ${megabytes}`, model.runtime]
      .map((fact) => element("li", {}, fact)));
    showShares();
    say(`Loading the network, ${megabytes}, and the runtime …`);
    await startWorker();
    worker.onerror = null;
  } catch (error) {
    return say(`The page cannot start: ${error.message}`, true);
  }
  say("Ready.");
  begin();
  byId("examples").hidden = !model.examples.length;
  byId("examples").querySelector("ul").replaceChildren(...model.examples.map(({ file, name }) => {
    const button = element("button", { type: "button" }, element("img", { src: file, alt: `Example ${name}`, loading: "lazy" }));
    button.addEventListener("click", () => openExample(file));
    return element("li", {}, button);
  }));
  if (model.examples.length && !current) openExample(model.examples[0].file);
}

start();
