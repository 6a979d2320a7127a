"""The page as a person meets it, in Chromium."""

import asyncio
import io

import numpy as np
import pytest
from colour_engine import ColourEngine
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from semseg_app.serve.api import create_app

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds, for a machine that trains on the side
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def url(running, encoded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, :120, 0] = 255
    image[:, 120:, 1] = 255
    (folder / "1.png").write_bytes(encoded(image))
    (folder / "2.png").write_bytes(encoded(image[..., ::-1]))

    async def build() -> FastAPI:
        return create_app(ColourEngine(), sorted(folder.iterdir()))

    with running(asyncio.run(build())) as url:
        yield url


expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def page(request, url, chromium):
    """The opened page. Fails when the page asks another host for anything, or writes an error to the console."""
    size, scheme = request.param
    context = chromium.new_context(viewport=SIZES[size], color_scheme=scheme, has_touch=size == "phone")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked, complaints = [], []
    page.on("request", lambda asking: asked.append(asking.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    yield page
    assert [address for address in asked if not address.startswith((url, "data:", "blob:"))] == []
    assert complaints == []
    context.close()


def expect_colours(page, left, right, atol=4) -> None:
    """RGB in the middle of the stage's left and right part, as painted: the browser does that in its own time."""
    for _ in range(50):
        pixels = np.asarray(Image.open(io.BytesIO(page.locator("#result .layers").screenshot())).convert("RGB"))
        height, width = pixels.shape[:2]
        painted = pixels[height // 2, [width // 3, width * 7 // 8]].astype(int)
        if np.abs(painted - [left, right]).max() <= atol:
            return
        page.wait_for_timeout(100)
    np.testing.assert_allclose(painted, [left, right], atol=atol)


def test_a_visit(page, url, encoded, tmp_path):
    # The first example is there, segmented, when the page opens: 60 % class colour over the photo.
    legend = page.locator("#legend li")
    expect(legend).to_have_text(["red75.0 %", "green25.0 %"])
    expect_colours(page, (222, 18, 18), (18, 222, 18), atol=8)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"

    # The slider blends anew, without asking the server.
    asked = []
    page.on("request", lambda asking: asked.append(asking.url))
    opacity = page.get_by_role("spinbutton")
    opacity.fill("100")
    opacity.press("Enter")
    expect_colours(page, (200, 30, 30), (30, 200, 30))
    opacity.fill("0")
    opacity.press("Enter")
    expect_colours(page, (255, 0, 0), (0, 255, 0), atol=8)

    opacity.fill("100")
    opacity.press("Enter")
    page.get_by_label("Confidence").check()
    expect_colours(page, (0x2A, 0x11, 0x55), (0x2A, 0x11, 0x55))
    expect(page.get_by_text("unsure")).to_be_visible()
    page.get_by_label("Classes").check()
    assert asked == []

    # Another example, then an upload of one's own.
    page.locator("#examples button").nth(1).click()
    expect(legend).to_have_text(["<blue>75.0 %", "green25.0 %"])
    expect_colours(page, (30, 30, 200), (30, 200, 30))
    page.get_by_role("button", name="Remove Image").click()
    expect(page.get_by_text("Drop a photo or pick an example")).to_be_visible()
    (tmp_path / "mine.jpg").write_bytes(encoded(Image.new("RGB", (64, 48), "green"), "JPEG"))
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "mine.jpg")
    expect(legend).to_have_text(["green100.0 %"])
    expect(page.locator("#result figcaption")).to_contain_text("64 × 48")
    expect(page.locator("#result figcaption")).to_contain_text("fake on cpu, fp32")

    # What cannot be used is said in one line.
    page.get_by_role("button", name="Remove Image").click()
    (tmp_path / "no.jpg").write_bytes(b"no photo")
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "no.jpg")
    expect(page.get_by_text("this is not an image that can be read")).to_be_visible()

    # The call that does the same, with the address that the visitor sees.
    page.get_by_text("The same from the command line").click()
    expect(page.get_by_text(f"curl -F image=@photo.jpg {url}/v1/segment -o mask.png")).to_be_visible()
