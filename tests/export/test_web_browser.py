"""The exported page as a visitor meets it, in Chromium, with the published onnxruntime-web (from npm, or the cache)."""

import base64
import functools
import hashlib
import http.server
import io
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.browser import FLAGS, SIZES

from semseg_app import artifact
from semseg_app.export.int8 import Calibration, export_int8
from semseg_app.export.manifest import record
from semseg_app.export.verification_set import generated_photos, resized
from semseg_app.export.verify import verify
from semseg_app.export.web import export_web
from semseg_app.export.web.runtime import runtime_files
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.open import open_engine

pytestmark = pytest.mark.browser

PATIENCE = 120_000  # milliseconds, for a machine that trains on the side
PRECISIONS = ("fp32", "int8")
RUN = """async ([graph, width, height, text]) => {
  const worker = new Worker("worker.js", { type: "module" });
  const answer = () => new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); });
  worker.postMessage({ load: graph });
  const loaded = await answer();
  if (loaded.error) throw new Error(loaded.error);
  const pixels = Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  worker.postMessage({ id: 1, width, height, pixels });
  const { error, classes, confidence } = await answer();
  worker.terminate();
  if (error) throw new Error(error);
  return [Array.from(classes), Array.from(confidence)];
}"""

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def model(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an fp32 and an int8 graph, both passed."""
    folder = shutil.copytree(exported("deeplabv3plus"), tmp_path_factory.mktemp("web") / "model")
    graph = folder / GRAPHS["fp32"]
    record(folder, graph, verify(folder, graph))
    export_int8(folder, graph, Calibration(generated_photos(2), "generated"), lambda candidate: True)
    # No labels to judge the int8 graph by here; that the page runs it as Python does is what counts.
    passed = artifact.read_manifest(folder)["exports"]["onnx/model.onnx"]
    int8 = folder / GRAPHS["int8"]
    record(folder, int8, {**passed, "sha256": hashlib.sha256(int8.read_bytes()).hexdigest()})
    return folder


@pytest.fixture(scope="module")
def pages(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of static files, with the pages fp32/ and int8/."""
    root = tmp_path_factory.mktemp("pages")
    photos = []
    for index, photo in enumerate(generated_photos(2)):
        photos.append(root / f"photo{index}.png")
        Image.fromarray(resized(photo, (120, 180))).save(photos[-1])
    runtime = runtime_files()
    for precision in PRECISIONS:
        export_web(model, model / GRAPHS[precision], precision, runtime, root / precision, photos)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=[("desktop", "light"), ("phone", "dark")], ids="-".join)
def page(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Page]:
    """Fails when the page asks another host for anything, or writes an error to the console."""
    size, scheme = request.param
    context = chromium.new_context(viewport=SIZES[size], color_scheme=scheme, has_touch=size == "phone")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked, complaints = [], []
    context.on("request", lambda asking: asked.append(asking.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    hosts = {re.match(r"\w+:(//[^/]*/)?", address)[0] for address in asked}
    assert hosts <= {"data:", "blob:", page.url[: page.url.index("/", 8) + 1]}
    assert complaints == []
    context.close()


def as_base64(image: np.ndarray) -> str:
    rgba = np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2)
    return base64.b64encode(rgba.tobytes()).decode()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_masks_are_those_of_python(
    model: Path, pages: str, chromium: Browser, precision: str, record_property: Callable[[str, object], None]
) -> None:
    """Raw pixels into the page's own worker, at sizes that no stride divides, against ONNX Runtime.

    In int8 a last bit of difference in float arithmetic is a whole step where it crosses a rounding, and this random
    network's global pooling carries one to every pixel. Python itself differs so when its kernels are not fused: the
    browser may be no further from it than that.
    """
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{pages}/{precision}/")
    engine = open_engine(model / GRAPHS[precision], "onnxruntime", "cpu")
    graph = page.evaluate("fetch('model.json').then((answer) => answer.json())")["graph"]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    plain = onnxruntime.InferenceSession(model / GRAPHS[precision], options, providers=["CPUExecutionProvider"])
    for height, width in ((131, 127), (96, 160), (241, 320)):
        image = resized(generated_photos(3)[2], (height, width))
        expected = engine.infer(image[None])
        itself = float((plain.run(["classes"], {"images": image[None]})[0] == expected.classes).mean())
        answer = page.evaluate(RUN, [graph, width, height, as_base64(image)])
        classes, confidence = (np.array(one, np.uint8).reshape(1, height, width) for one in answer)
        agreement = float((classes == expected.classes).mean())
        off = int(np.abs(confidence.astype(int) - expected.confidence).max())
        said = f"{agreement:.4%} of the pixels agree (Python itself: {itself:.4%}), confidence off by {off}"
        record_property(f"{precision} {width}x{height}", said)
        print(f"{precision} {width}x{height}: {said}")
        assert len(np.unique(expected.classes)) >= 4
        assert agreement >= (0.9999 if precision == "fp32" else min(0.999, itself - 0.002))
    page.close()


def test_a_visit(page: Page, pages: str, model: Path, tmp_path: Path) -> None:
    # The first example is there, segmented, when the page opens.
    page.goto(f"{pages}/fp32/")
    status, legend, reading = (page.locator(f"#{name}") for name in ("status", "legend li", "reading"))
    expect(status).to_have_text(re.compile(r"180 × 120 pixels in [\d.]+ m?s"))
    expect(page.locator("h1")).to_have_text("lively deeplabv3plus")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"

    # A photo of one's own: shares and the class under the pointer are those that Python finds.
    image = resized(generated_photos(3)[2], (150, 210))
    Image.fromarray(image).save(tmp_path / "mine.png")
    page.locator("#file").set_input_files(tmp_path / "mine.png")
    expect(status).to_have_text(re.compile(r"210 × 150 pixels in"))
    engine = open_engine(model / GRAPHS["fp32"], "onnxruntime", "cpu")
    prediction = engine.infer(image[None])
    shares = np.bincount(prediction.classes.ravel(), minlength=5) / prediction.classes.size
    for row in legend.all():
        name, share = row.locator("b").inner_text(), row.locator(".share").inner_text()
        assert abs(float(share.removesuffix(" %")) - 100 * shares[engine.labels.classes.index(name)]) <= 0.1
    view = page.locator("#view")
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    assert box is not None
    column, row = 70, 50
    where = (column + 0.5) / 210 * box["width"], (row + 0.5) / 150 * box["height"]
    view.hover(position={"x": where[0], "y": where[1]})
    found = engine.labels.classes[prediction.classes[0, row, column]]
    expect(reading).to_have_text(re.compile(rf"^{found}, \d+ % sure, at {column}, {row}$"))
    expect(page.locator("#legend li.here b")).to_have_text(found)
    # By keyboard: a fiftieth of the width a step.
    view.focus()
    view.press("ArrowRight")
    expect(reading).to_have_text(re.compile(rf"at {column + 4}, {row}$"))

    # The slider blends, from the photo alone to the class colors alone.
    def painted() -> np.ndarray:
        page.evaluate("document.getElementById('point').hidden = true")
        pixels = np.asarray(Image.open(io.BytesIO(view.screenshot())).convert("RGB"))
        rows, columns = pixels.shape[0] // 2, pixels.shape[1] // 2
        return pixels[rows - 2 : rows + 3, columns - 2 : columns + 3].mean((0, 1))

    middle = prediction.classes[0, 73:78, 103:108]
    opacity = page.get_by_label("Opacity")
    opacity.fill("100")
    expect(page.locator("#percent")).to_have_text("100 %")
    if len(np.unique(middle)) == 1:
        np.testing.assert_allclose(painted(), engine.labels.palette[middle[0, 0]], atol=4)
    opacity.fill("0")
    np.testing.assert_allclose(painted(), image[73:78, 103:108].mean((0, 1)), atol=14)

    # A smaller longest side, a dropped photo, a pasted one.
    page.get_by_label("Longest side").select_option("320")
    expect(status).to_have_text(re.compile(r"210 × 150 pixels in"))
    for happening, carrier in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        width = {"drop": 640, "paste": 480}[happening]
        page.evaluate(
            """async ([happening, carrier, width]) => {
              const canvas = Object.assign(document.createElement("canvas"), { width, height: 320 });
              const blob = await new Promise((resolve) => canvas.toBlob(resolve));
              const data = new DataTransfer();
              data.items.add(new File([blob], "photo.png", { type: "image/png" }));
              const event = happening === "drop" ? DragEvent : ClipboardEvent;
              document.dispatchEvent(new event(happening, { [carrier]: data }));
            }""",
            [happening, carrier, width],
        )
        expect(status).to_have_text(re.compile(rf"320 × {round(320 * 320 / width)} pixels in"))

    # The webcam goes on by itself until it is stopped; an example ends it, too.
    webcam = page.get_by_role("button", name="Use the webcam")
    webcam.click()
    expect(status).to_have_text(re.compile(r"320 × 240 pixels in"))
    stop = page.get_by_role("button", name="Stop the webcam")
    expect(stop).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Example photo1").click()
    expect(status).to_have_text(re.compile(r"180 × 120 pixels in"))
    expect(webcam).to_be_visible()

    # What cannot be used is said in one line.
    (tmp_path / "no.jpg").write_bytes(b"no photo")
    page.locator("#file").set_input_files(tmp_path / "no.jpg")
    expect(status).to_have_text("This is not an image that the browser can read.")
    expect(status).to_have_class("wrong")


def test_every_control_has_a_name(chromium: Browser, pages: str) -> None:
    page = chromium.new_page()
    page.goto(f"{pages}/int8/")
    expect(page.get_by_role("button", name="Example photo0")).to_be_visible()
    expect(page.locator("#file")).to_have_accessible_name(re.compile("Choose a photo"))
    for control in page.locator("button, input, select, [tabindex]").all():
        expect(control).to_have_accessible_name(re.compile(r"\w{3}"))
    page.close()


def test_a_page_that_lacks_a_file_says_so(chromium: Browser, pages: str) -> None:
    page = chromium.new_page()
    for pattern in ("**/model-*.onnx", "**/*.wasm", "**/model.json"):
        page.route(pattern, lambda route: route.fulfill(status=404))
        page.goto(f"{pages}/int8/")
        expect(page.locator("#status")).to_have_text(re.compile("The page cannot start: "))
        page.unroute(pattern)
    page.close()
