// The stage of the web page: what the server sends as two gray pictures (class indices, confidences) is colored,
// read out under the pointer and corrected here, without asking the server again. Run once, when the page loads.
() => {
  const state = { classes: null, confidence: null, width: 0, height: 0, hidden: new Set(), focus: null, at: null,
                  picked: { name: null, size: 0 }, brush: null, painted: null, history: [], distinct: false,
                  zoom: { scale: 1, x: 0, y: 0 } };
  const MOST_ZOOM = 16;
  const stage = () => document.querySelector("#result .stage[data-classes]");
  const answer = () => document.getElementById("answer"); // Gradio's CSS reaches nothing above its own elements
  const names = () => JSON.parse(stage().dataset.classes);
  const palette = () => JSON.parse(stage().dataset[state.distinct ? "distinct" : "palette"]);
  const rgb = (hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));

  async function values(image) {
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const gray = new Uint8Array(canvas.width * canvas.height);
    for (let index = 0; index < gray.length; index++) gray[index] = pixels[4 * index];
    return gray;
  }

  function paint(canvas, color) {
    canvas.width = state.width;
    canvas.height = state.height;
    const picture = new ImageData(state.width, state.height);
    const pixels = new Uint32Array(picture.data.buffer);
    for (let index = 0; index < pixels.length; index++) pixels[index] = color(index);
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function paintClasses() {
    if (!stage() || !state.classes) return;
    const table = new Uint32Array(256);
    const bytes = new Uint8Array(table.buffer);
    palette().forEach((hex, index) => {
      if (state.hidden.has(names()[index])) return;
      const dim = state.focus !== null && state.focus !== index;
      bytes.set([...rgb(hex), dim ? 40 : 255], 4 * index);
    });
    paint(stage().querySelector("canvas.classes"), (index) => table[state.classes[index]]);
    if (answer().classList.contains("outlined")) paintOutlines(table);
  }

  // Each class has its own color along its side of a border; lines get wider as photos get larger.
  function paintOutlines(table) {
    const { classes, width, height } = state;
    const reach = Math.max(1, Math.round(Math.max(width, height) / 500));
    paint(stage().querySelector("canvas.outlines"), (index) => {
      const x = index % width, name = classes[index];
      const inside = (x < reach || classes[index - reach] === name) &&
        (x >= width - reach || classes[index + reach] === name) &&
        (index < reach * width || classes[index - reach * width] === name) &&
        (index >= (height - reach) * width || classes[index + reach * width] === name);
      return inside ? 0 : table[name];
    });
  }

  function colorLegend() {
    if (!stage()) return;
    const colors = palette();
    for (const part of document.querySelectorAll("#legend [data-color]")) part.style.background = colors[part.dataset.color];
  }

  function paintConfidence() {
    const table = new Uint32Array(256);
    const bytes = new Uint8Array(table.buffer);
    JSON.parse(stage().dataset.heat).forEach((hex, index) => bytes.set([...rgb(hex), 255], 4 * index));
    paint(stage().querySelector("canvas.confidence"), (index) => table[state.confidence[index]]);
  }

  async function begin(figure) {
    figure.dataset.begun = "yes";
    const [classes, confidence] = ["classes", "confidence"].map((name) => figure.querySelector(`img.${name}`));
    const read = [await values(classes), await values(confidence)];
    if (figure !== stage()) return; // another photo came meanwhile
    [state.classes, state.confidence] = read;
    [state.width, state.height] = [classes.naturalWidth, classes.naturalHeight];
    Object.assign(state, { focus: null, at: null, painted: null, history: [] });
    pickBrush(); // another model may number the class otherwise, or not have it
    fit();
    paintClasses();
    paintConfidence();
    figure.dataset.ready = "yes";
  }

  // Hover, touch and arrow keys: class and confidence of one pixel.
  function tell(x, y) {
    const figure = stage();
    if (!figure || !figure.dataset.ready) return;
    x = Math.min(Math.max(Math.floor(x), 0), state.width - 1);
    y = Math.min(Math.max(Math.floor(y), 0), state.height - 1);
    state.at = [x, y];
    const index = y * state.width + x;
    const name = names()[state.classes[index]] ?? "unknown";
    const corrected = state.painted && state.painted[index];
    const tip = figure.querySelector(".tip");
    tip.textContent = `${name} · ${corrected ? "corrected" : Math.round(state.confidence[index] / 2.55) + " % sure"}`;
    tip.style.setProperty("--color", palette()[state.classes[index]] ?? "#000");
    const left = ((x + 0.5) / state.width) * state.zoom.scale + state.zoom.x;
    const top = ((y + 0.5) / state.height) * state.zoom.scale + state.zoom.y;
    tip.style.left = `${100 * left}%`;
    tip.style.top = `${100 * top}%`;
    tip.classList.toggle("left", left > 0.6);
    tip.classList.toggle("below", top < 0.2);
    tip.hidden = false;
  }
  function under(event) {
    const box = stage().querySelector(".sheet").getBoundingClientRect(); // as zoomed and moved
    return [((event.clientX - box.left) / box.width) * state.width, ((event.clientY - box.top) / box.height) * state.height];
  }
  const silence = () => { const tip = document.querySelector("#result .tip"); if (tip) tip.hidden = true; };

  // Zoom: `scale`, and where the sheet's corner is, as fractions of the stage.
  function moveSheet(scale, x, y) {
    scale = Math.min(MOST_ZOOM, Math.max(1, scale));
    const within = (corner) => Math.min(0, Math.max(1 - scale, corner));
    state.zoom = { scale, x: within(x), y: within(y) };
    const figure = stage();
    figure.dataset.zoom = scale.toFixed(2);
    figure.classList.toggle("zoomed", scale > 1);
    figure.querySelector(".sheet").style.transform = `translate(${100 * state.zoom.x}%, ${100 * state.zoom.y}%) scale(${scale})`;
    figure.querySelector('[data-zoom="in"]').disabled = scale >= MOST_ZOOM;
    for (const name of ["out", "fit"]) figure.querySelector(`[data-zoom="${name}"]`).disabled = scale <= 1;
  }
  function fit() { moveSheet(1, 0, 0); }
  // Zoom by `factor` around a point of the stage, in fractions of it.
  function zoom(factor, left = 0.5, top = 0.5) {
    const { scale, x, y } = state.zoom;
    const now = Math.min(MOST_ZOOM, Math.max(1, scale * factor)) / scale;
    moveSheet(scale * now, left - (left - x) * now, top - (top - y) * now);
    silence();
  }
  function inStage(event) {
    const box = stage().querySelector(".layers").getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
  function bringIntoView(x, y) {
    const { scale } = state.zoom;
    const moved = (corner, part) => {
      const seen = part * scale + corner;
      return seen < 0.1 ? corner + 0.1 - seen : seen > 0.9 ? corner + 0.9 - seen : corner;
    };
    moveSheet(scale, moved(state.zoom.x, x / state.width), moved(state.zoom.y, y / state.height));
  }

  // Corrections: a brush of one class. What is painted is kept apart, so that the server changes nothing else.
  function brush(x, y) {
    state.painted ??= new Uint8Array(state.classes.length);
    const radius = Math.max(1, (state.brush.size / 200) * Math.max(state.width, state.height));
    const [left, right] = [Math.max(0, Math.floor(x - radius)), Math.min(state.width - 1, Math.ceil(x + radius))];
    const [top, bottom] = [Math.max(0, Math.floor(y - radius)), Math.min(state.height - 1, Math.ceil(y + radius))];
    for (let row = top; row <= bottom; row++)
      for (let column = left; column <= right; column++)
        if ((row - y) ** 2 + (column - x) ** 2 <= radius ** 2) {
          state.classes[row * state.width + column] = state.brush.index;
          state.painted[row * state.width + column] = 1;
        }
    paintClasses();
  }
  function pickBrush() {
    const index = stage() ? names().indexOf(state.picked.name) : -1;
    state.brush = index < 0 ? null : { index, size: state.picked.size };
    answer().classList.toggle("correcting", state.brush !== null);
  }
  function remember() {
    state.history.push([state.classes.slice(), state.painted && state.painted.slice()]);
    if (state.history.length > 8) state.history.shift();
  }

  window.semsegDemo = {
    setOpacity: (percent) => document.documentElement.style.setProperty("--layer-opacity", percent / 100),
    setView: (name) => { answer().dataset.view = name; silence(); },
    setSplit: (percent) => document.documentElement.style.setProperty("--split", `${percent}%`),
    setOutlines: (outlined) => { answer().classList.toggle("outlined", outlined); paintClasses(); },
    setDistinct: (distinct) => { state.distinct = distinct; paintClasses(); colorLegend(); },
    setCards: (name) => { document.getElementById("compared").dataset.shown = name; },
    setBrush: (name, size) => {
      state.picked = { name, size };
      pickBrush();
    },
    undo: () => {
      const last = state.history.pop();
      if (last) [state.classes, state.painted] = last;
      paintClasses();
    },
    /* A PNG as a data URL: red = class, green = 255 where it was painted. Empty when nothing was. */
    corrections: () => {
      if (!stage() || !state.painted || !state.painted.includes(1)) return "";
      const canvas = document.createElement("canvas");
      paint(canvas, (index) => (0xff000000 | (state.painted[index] ? 0xff00 : 0) | state.classes[index]) >>> 0);
      return canvas.toDataURL("image/png");
    },
    call: (model, several, format, files) => {
      const url = location.origin + location.pathname.replace(/\/*$/, "") + "/v1/segment";
      const query = { ...(format === "png" ? {} : { format }), ...(several ? { model } : {}) };
      const tail = Object.keys(query).length ? "?" + new URLSearchParams(query) : "";
      const params = Object.keys(query).length ? `\n        params=${JSON.stringify(query)},` : "";
      const file = files[format];
      const keep = file.endsWith("json") ? "print(answer.json())" : `Path("${file}").write_bytes(answer.content)`;
      return [
        `curl --fail -F image=@photo.jpg '${url}${tail}' -o ${file}`,
        `${keep.startsWith("Path") ? "from pathlib import Path\n\n" : ""}` +
          `import httpx\n\nwith open("photo.jpg", "rb") as photo:\n    answer = httpx.post(\n        "${url}",${params}\n` +
          `        files={"image": photo},\n    )\nanswer.raise_for_status()\n${keep}`,
      ];
    },
    download: () => {
      // Gradio puts the file's address into the link a moment after the event.
      const before = document.querySelector("#file a")?.href;
      let tries = 0;
      const look = () => {
        const link = document.querySelector("#file a");
        if (link && (link.href !== before || tries > 20)) link.click();
        else if (tries++ < 100) setTimeout(look, 50);
      };
      look();
    },
  };

  document.addEventListener("change", (event) => {
    const box = event.target.closest?.("#legend input[data-class]");
    if (!box) return;
    state.hidden[box.checked ? "delete" : "add"](box.dataset.class);
    paintClasses();
  });
  document.addEventListener("click", (event) => {
    const step = event.target.closest?.("#result [data-zoom]")?.dataset.zoom;
    if (step) return step === "fit" ? fit() : zoom(step === "in" ? 1.5 : 1 / 1.5);
    const all = event.target.closest?.("#legend button[data-show]");
    if (!all) return;
    for (const box of document.querySelectorAll("#legend input[data-class]")) {
      box.checked = all.dataset.show === "all";
      state.hidden[box.checked ? "delete" : "add"](box.dataset.class);
    }
    paintClasses();
  });
  for (const [enter, leave] of [["pointerover", "pointerout"], ["focusin", "focusout"]])
    for (const kind of [enter, leave])
      document.addEventListener(kind, (event) => {
        const row = event.target.closest?.("#legend li[data-index]");
        if (!row || row.contains(event.relatedTarget) || (event.pointerType ?? "mouse") !== "mouse") return;
        if (kind === "focusin" && !event.target.matches(":focus-visible")) return;
        state.focus = kind === enter ? Number(row.dataset.index) : null;
        paintClasses();
      });

  const onStage = (event) => event.target.closest?.("#result .layers") && stage()?.dataset.ready;
  let painting = false;
  let dragged = null; // where the pointer was that moves the sheet
  const fingers = new Map(); // two of them pinch
  const apart = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
  document.addEventListener("pointerdown", (event) => {
    if (!onStage(event)) return silence();
    fingers.set(event.pointerId, inStage(event));
    if (fingers.size === 2) { painting = false; dragged = null; return; }
    tell(...under(event));
    if (state.brush) {
      event.preventDefault();
      remember();
      painting = true;
      brush(...under(event));
    } else if (answer().dataset.view === "Before / after" && state.zoom.scale === 1) {
      dragged = "split";
      dragSplit(event);
    } else if (state.zoom.scale > 1) {
      event.preventDefault();
      dragged = inStage(event);
    }
  });
  document.addEventListener("pointermove", (event) => {
    if (!stage()?.dataset.ready) return;
    if (fingers.size === 2 && fingers.has(event.pointerId)) {
      const before = apart();
      fingers.set(event.pointerId, inStage(event));
      const [a, b] = [...fingers.values()];
      return zoom(apart() / before, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    }
    if (dragged === "split") return dragSplit(event);
    if (dragged) {
      const [left, top] = inStage(event);
      moveSheet(state.zoom.scale, state.zoom.x + left - dragged[0], state.zoom.y + top - dragged[1]);
      dragged = [left, top];
      return silence();
    }
    if (!onStage(event)) return;
    if (painting) brush(...under(event));
    tell(...under(event));
  });
  for (const end of ["pointerup", "pointercancel"])
    document.addEventListener(end, (event) => { painting = false; dragged = null; fingers.delete(event.pointerId); });
  // The slider beside the photo is the one that holds the value.
  function dragSplit(event) {
    const slider = document.querySelector("#split input[type=range]");
    slider.value = Math.round(100 * Math.min(1, Math.max(0, inStage(event)[0])));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }
  document.addEventListener("wheel", (event) => {
    // A plain wheel scrolls the page. With Ctrl, and so a trackpad's pinch, it zooms; so it does once zoomed in.
    if (!onStage(event) || !(event.ctrlKey || event.metaKey || state.zoom.scale > 1)) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), ...inStage(event));
  }, { passive: false });
  document.addEventListener("dblclick", (event) => {
    if (onStage(event) && !state.brush) zoom(2, ...inStage(event));
  });
  document.addEventListener("pointerout", (event) => {
    if (event.pointerType === "mouse" && onStage(event) && !event.relatedTarget?.closest?.("#result .layers")) silence();
  });
  document.addEventListener("keydown", (event) => {
    const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 }[event.key];
    if (onStage(event) && !event.ctrlKey && !event.metaKey && (factor || event.key === "0")) {
      event.preventDefault();
      return factor ? zoom(factor) : fit();
    }
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!onStage(event) || (!move && event.key !== "Escape" && event.key !== "Enter")) return;
    if (event.key === "Escape") return silence();
    event.preventDefault();
    const [x, y] = state.at ?? [state.width / 2, state.height / 2];
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(state.width, state.height) / 50));
    if (event.key === "Enter" && state.brush) { remember(); brush(x, y); }
    const [toX, toY] = [x + (move ?? [0, 0])[0] * step, y + (move ?? [0, 0])[1] * step];
    if (state.zoom.scale > 1) bringIntoView(toX, toY);
    tell(toX, toY);
  });

  // Files for one of Gradio's drop zones, from elsewhere on the page.
  async function give(id, files) {
    if (!files.length) return;
    const clear = document.querySelector(`#${id} button[aria-label="Clear"], #${id} button[aria-label="Another photo"]`);
    if (!document.querySelector(`#${id} input[type=file]`)) clear?.click(); // it takes files only while it is empty
    let input;
    for (let tries = 0; tries < 40 && !(input = document.querySelector(`#${id} input[type=file]`)); tries++)
      await new Promise((resolve) => setTimeout(resolve, 50));
    const carried = new DataTransfer();
    for (const file of files) carried.items.add(file);
    input.files = carried.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }
  // A file whose name says where in its folder it was.
  const named = (file, path) => new File([file], path || file.name, { type: file.type });
  async function filesOf(entry) {
    if (entry.isFile) return [named(await new Promise((resolve, reject) => entry.file(resolve, reject)), entry.fullPath.slice(1))];
    const reader = entry.createReader();
    const found = [];
    for (;;) { // a browser lists at most 100 entries per call
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return found;
      for (const inner of some) found.push(...await filesOf(inner));
    }
  }
  document.addEventListener("change", (event) => {
    const picker = event.target.closest?.("input[data-into]");
    if (!picker) return;
    give(picker.dataset.into, [...picker.files].map((file) => named(file, file.webkitRelativePath)));
    picker.value = ""; // the same folder may be picked again
  });
  document.addEventListener("dragover", (event) => {
    if (event.target.closest?.("#answer, #many")) event.preventDefault(); // or the browser would open the file
  });
  document.addEventListener("drop", async (event) => {
    const id = event.target.closest?.("#many") ? "uploads" : event.target.closest?.("#main") ? "photo" : null;
    if (!id || !event.dataTransfer?.files.length) return;
    event.preventDefault();
    event.stopPropagation();
    // Entries are gone once the event is over: all are asked for before the first is awaited.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...event.dataTransfer.files];
    give(id, id === "photo" ? files.slice(0, 1) : files);
  }, true);

  // Gradio says nothing, or the name of a text that it lacks, when the browser refuses the camera or the clipboard.
  const REFUSED = {
    NotAllowedError: "The browser keeps camera and clipboard from this page. Allow them in its settings for this site, or upload a photo.",
    NotFoundError: "The browser finds no camera. Upload a photo instead.",
    NotReadableError: "The camera cannot be opened; another program may be using it. Close that, or upload a photo.",
  };
  window.addEventListener("unhandledrejection", (event) => {
    const line = document.querySelector("#result .stage.empty p");
    if (!line || !(event.reason?.name in REFUSED)) return;
    line.textContent = REFUSED[event.reason.name];
    event.preventDefault(); // it is said
  });

  // Gradio replaces the result's and the legend's HTML as answers come.
  new MutationObserver(() => {
    const figure = stage();
    if (figure && !figure.dataset.begun) begin(figure);
    answer()?.classList.toggle("empty", !figure);
    document.querySelector('#photo button[aria-label="Remove Image"]')?.setAttribute("aria-label", "Another photo");
    if (!isSecureContext) // http from another machine: browsers give such pages neither
      for (const source of ["Capture from camera", "Paste from clipboard"])
        document.querySelector(`#photo button[aria-label="${source}"]`)?.style.setProperty("display", "none");
    document.querySelectorAll("#examples .gallery-item:not([aria-label])").forEach((button, index) =>
      button.setAttribute("aria-label", `Example ${index + 1}`));
    for (const box of document.querySelectorAll("#legend input[data-class]:not([data-seen])")) {
      box.dataset.seen = "yes";
      box.checked = !state.hidden.has(box.dataset.class);
      if (state.distinct) colorLegend();
    }
  }).observe(document.body, { childList: true, subtree: true });
}
