// The stage of the web page: what the server sends as two gray pictures (class indices, confidences) is colored,
// read out under the pointer and corrected here, without asking the server again. Run once, when the page loads.
() => {
  const state = { classes: null, confidence: null, width: 0, height: 0, hidden: new Set(), focus: null, at: null,
                  brush: null, painted: null, history: [] };
  const stage = () => document.querySelector("#result .stage[data-classes]");
  const answer = () => document.getElementById("answer"); // Gradio's CSS reaches nothing above its own elements
  const names = () => JSON.parse(stage().dataset.classes);
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
    JSON.parse(stage().dataset.palette).forEach((hex, index) => {
      if (state.hidden.has(names()[index])) return;
      const dim = state.focus !== null && state.focus !== index;
      bytes.set([...rgb(hex), dim ? 40 : 255], 4 * index);
    });
    paint(stage().querySelector("canvas.classes"), (index) => table[state.classes[index]]);
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
    tip.style.setProperty("--color", JSON.parse(figure.dataset.palette)[state.classes[index]] ?? "#000");
    tip.style.left = `${(100 * (x + 0.5)) / state.width}%`;
    tip.style.top = `${(100 * (y + 0.5)) / state.height}%`;
    tip.classList.toggle("left", x > 0.6 * state.width);
    tip.classList.toggle("below", y < 0.2 * state.height);
    tip.hidden = false;
  }
  function under(event) {
    const box = stage().querySelector(".layers").getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * state.width, ((event.clientY - box.top) / box.height) * state.height];
  }
  const silence = () => { const tip = document.querySelector("#result .tip"); if (tip) tip.hidden = true; };

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
  function remember() {
    state.history.push([state.classes.slice(), state.painted && state.painted.slice()]);
    if (state.history.length > 8) state.history.shift();
  }

  window.semsegDemo = {
    setOpacity: (percent) => document.documentElement.style.setProperty("--layer-opacity", percent / 100),
    setView: (name) => { answer().dataset.view = name; silence(); },
    setBrush: (name, size) => {
      const index = stage() ? names().indexOf(name) : -1;
      state.brush = index < 0 ? null : { index, size };
      answer().classList.toggle("correcting", state.brush !== null);
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
  document.addEventListener("pointerdown", (event) => {
    if (!onStage(event)) return silence();
    tell(...under(event));
    if (!state.brush) return;
    event.preventDefault();
    remember();
    painting = true;
    brush(...under(event));
  });
  document.addEventListener("pointermove", (event) => {
    if (!onStage(event)) return;
    if (painting) brush(...under(event));
    tell(...under(event));
  });
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { painting = false; });
  document.addEventListener("pointerout", (event) => {
    if (event.pointerType === "mouse" && onStage(event) && !event.relatedTarget?.closest?.("#result .layers")) silence();
  });
  document.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!onStage(event) || (!move && event.key !== "Escape" && event.key !== "Enter")) return;
    if (event.key === "Escape") return silence();
    event.preventDefault();
    const [x, y] = state.at ?? [state.width / 2, state.height / 2];
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(state.width, state.height) / 50));
    if (event.key === "Enter" && state.brush) { remember(); brush(x, y); }
    tell(x + (move ?? [0, 0])[0] * step, y + (move ?? [0, 0])[1] * step);
  });

  // Gradio replaces the result's and the legend's HTML as answers come.
  new MutationObserver(() => {
    const figure = stage();
    if (figure && !figure.dataset.begun) begin(figure);
    document.querySelectorAll("#examples .gallery-item:not([aria-label])").forEach((button, index) =>
      button.setAttribute("aria-label", `Example ${index + 1}`));
    for (const box of document.querySelectorAll("#legend input[data-class]:not([data-seen])")) {
      box.dataset.seen = "yes";
      box.checked = !state.hidden.has(box.dataset.class);
    }
  }).observe(document.body, { childList: true, subtree: true });
}
