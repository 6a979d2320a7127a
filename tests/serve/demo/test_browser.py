"""The page as a person meets it, in Chromium: every control, light and dark, on a desk and on a phone."""

import ast
import asyncio
import base64
import io
import json
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import expect
from support.browser import BLUE, GREEN, PATIENCE, RED, expect_colors, on_a_desk, on_both, painted, set_opacity, upload
from support.color_engine import ColorEngine

from semseg_app.serve.app import create_app
from semseg_app.serve.demo.colors import distinct_colors

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)


@on_both
def test_a_visit(page, encoded, tmp_path):
    # The first example is there, segmented, when the page opens: 60 % class color over the photo.
    rows = page.locator("#legend li")
    expect(rows).to_have_text(["red75.0 %", "green25.0 %"])
    expect_colors(page, (222, 18, 18), (18, 222, 18), atol=8)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"

    # None of this asks the server. Opacity is blended anew:
    asked = []
    page.on("request", lambda asking: asked.append(asking.url))
    set_opacity(page, 0)
    expect_colors(page, (255, 0, 0), (0, 255, 0), atol=8)
    set_opacity(page, 100)
    expect_colors(page, RED, GREEN)

    # classes are hidden and shown, by pointer and by keyboard,
    rows.first.get_by_role("checkbox").click()
    page.mouse.move(0, 0)
    expect_colors(page, (255, 0, 0), GREEN, atol=8)
    rows.first.get_by_role("checkbox").press("Space")
    page.get_by_role("button", name="hide all").click()
    expect_colors(page, (255, 0, 0), (0, 255, 0), atol=8)
    page.get_by_role("button", name="show all").click()
    expect_colors(page, RED, GREEN)

    # a row of the legend under the pointer makes its class stand out (a phone has no pointer to rest there),
    if page.viewport_size["width"] > 900:
        rows.first.locator(".name").hover()
        expect_colors(page, RED, (5, 246, 5), atol=12)
        page.mouse.move(0, 0)

    # the pointer reads out class and confidence, and so do a finger and the arrow keys.
    layers = page.locator("#result .layers")
    tip = page.locator("#result .tip")
    box = layers.bounding_box()
    layers.hover(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
    expect(tip).to_have_text("green · 100 % sure")
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    layers.focus()
    for _ in range(3):
        layers.press("ArrowLeft")
    expect(tip).to_have_text("green · 100 % sure")
    for _ in range(15):
        layers.press("ArrowLeft")
    expect(tip).to_have_text("red · 100 % sure")
    layers.press("Escape")
    expect(tip).to_be_hidden()

    page.get_by_label("Confidence", exact=True).check()
    expect_colors(page, (0x2A, 0x11, 0x55), (0x2A, 0x11, 0x55))
    expect(page.get_by_text("unsure", exact=True).last).to_be_visible()
    assert asked == []

    # Before and after: the photo alone up to the divider, which the slider moves, and a drag on the photo, too.
    page.get_by_label("Before / after").check()
    expect_colors(page, (255, 0, 0), GREEN, atol=8)
    page.locator("#split").get_by_role("slider").press("Home")
    expect_colors(page, RED, GREEN)
    layers.scroll_into_view_if_needed()
    box = layers.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    expect_colors(page, (255, 0, 0), (0, 255, 0), atol=8)
    assert 95 <= int(page.locator("#split").get_by_role("slider").input_value()) <= 99
    page.get_by_label("Classes", exact=True).check()

    # Another example, then an upload of one's own, then none.
    page.get_by_role("button", name="Example 2").click()
    expect(rows).to_have_text(["<blue>75.0 %", "green25.0 %"])
    expect_colors(page, BLUE, GREEN)
    page.get_by_role("button", name="Another photo").click()
    expect(page.get_by_text("Drop a photo")).to_be_visible()
    (tmp_path / "mine.jpg").write_bytes(encoded(Image.new("RGB", (64, 48), "green"), "JPEG"))
    upload(page, "#photo", tmp_path / "mine.jpg")
    expect(rows).to_have_text(["green100.0 %"])
    expect(page.locator("#result figcaption")).to_contain_text("64 × 48")
    expect(page.locator("#result figcaption")).to_contain_text("fake on cpu, fp32")

    # What cannot be used is said in one line.
    page.get_by_role("button", name="Another photo").click()
    (tmp_path / "no.jpg").write_bytes(b"no photo")
    upload(page, "#photo", tmp_path / "no.jpg")
    expect(page.get_by_text("This file is not a photo that can be read here.")).to_be_visible()
    # Nothing to look at, to download or to correct.
    for panel in ("#look", "#take", "#flag", "#legend"):
        expect(page.locator(panel)).to_be_hidden()


@on_both
def test_the_result_is_near_and_the_photo_is_shown_once(page):
    box = page.locator("#result .layers").bounding_box()
    height = page.viewport_size["height"]
    assert box["y"] + box["height"] <= height, "the whole result is on the first screen"
    expect(page.locator("#photo img")).to_be_hidden()
    legend = page.locator("#legend").bounding_box()
    if page.viewport_size["width"] > 900:
        assert legend["x"] >= box["x"] + box["width"], "beside the result"
        assert legend["y"] < box["y"] + box["height"]
    else:
        assert box["y"] < 320
        assert legend["y"] > box["y"] + box["height"]


@on_both
def test_outlines_and_colors(page):
    page.get_by_label("Outlines of the classes").check()
    set_opacity(page, 0)
    # The border is at 3/4 of the width; each side of it has its own class's color.
    width = page.locator("#result .layers").bounding_box()["width"]
    pixel = 1 / 160 / 2
    for _ in range(50):
        found = painted(page, "#result .layers", [(0.75 - pixel, 0.5), (0.75 + pixel, 0.5), (0.5, 0.5)])
        if np.abs(found - [RED, GREEN, (255, 0, 0)]).max() <= 60:
            break
        page.wait_for_timeout(100)
    assert width > 300
    np.testing.assert_allclose(found, [RED, GREEN, (255, 0, 0)], atol=60)  # blurred by the enlargement
    page.get_by_label("Outlines of the classes").uncheck()

    page.get_by_label("Colors that are easy to tell apart").check()
    set_opacity(page, 100)
    first, second = (tuple(bytes.fromhex(color[1:])) for color in distinct_colors(3)[:2])
    expect_colors(page, first, second)
    swatch = page.locator("#legend li").first.locator(".swatch")
    expect(swatch).to_have_css("background-color", f"rgb{first}")
    # The next photo's legend, too.
    page.get_by_role("button", name="Example 2").click()
    expect(page.locator("#legend li").nth(1)).to_contain_text("green")
    expect(page.locator("#legend li").nth(1).locator(".swatch")).to_have_css("background-color", f"rgb{second}")


@on_both
def test_zoom_and_pan(page):
    set_opacity(page, 100)
    layers, stage, tip = (page.locator(f"#result {part}") for part in (".layers", ".stage", ".tip"))
    layers.focus()
    for _ in range(5):
        layers.press("+")
    expect(stage).to_have_attribute("data-zoom", "7.59")
    expect_colors(page, RED, RED)  # the middle of the photo is red
    # The arrow keys bring what they read out into view.
    for _ in range(19):
        layers.press("ArrowRight")
    expect(tip).to_have_text("green · 100 % sure")
    outer, inner = layers.bounding_box(), tip.bounding_box()
    assert outer["x"] <= inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 20
    layers.press("Escape")
    expect_colors(page, GREEN, GREEN)
    # A drag moves the photo: from its right edge to the middle, where it is red.
    layers.scroll_into_view_if_needed()
    box = layers.bounding_box()
    for _ in range(3):
        page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
        page.mouse.up()
    page.mouse.move(0, 0)
    expect_colors(page, RED, RED)
    page.get_by_role("button", name="Show the whole photo").click()
    expect(stage).to_have_attribute("data-zoom", "1.00")
    expect_colors(page, RED, GREEN)
    # With Ctrl the wheel zooms, around the pointer.
    layers.scroll_into_view_if_needed()
    box = layers.bounding_box()
    page.mouse.move(box["x"] + 0.98 * box["width"], box["y"] + 0.5 * box["height"])
    page.keyboard.down("Control")
    page.mouse.wheel(0, -600)
    page.keyboard.up("Control")
    expect(stage).to_have_attribute("data-zoom", "7.39")
    page.mouse.move(0, 0)
    expect_colors(page, GREEN, GREEN)
    page.get_by_role("button", name="Zoom out").click()
    expect(stage).to_have_attribute("data-zoom", "4.93")
    # A new photo is shown whole.
    page.get_by_role("button", name="Example 2").click()
    expect(page.locator("#legend li").first).to_have_text("<blue>75.0 %")
    expect(stage).to_have_attribute("data-zoom", "1.00")


WHERE = """() => {
  const at = document.activeElement.closest("#photo, #result .layers, #result .zoom, #view, #opacity, #outlines, " +
    "#distinct, #legend, #examples, #url, #take, #flag");
  return at && (at.id || at.className);
}"""


@on_a_desk
def test_keyboard_alone(page):
    """Tab, Space, Enter and arrows reach every control of the first tab, in an order that follows the page."""
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(WHERE)
        if name and name not in reached:
            reached.append(name)
    order = ["photo", "layers", "zoom", "view", "opacity", "outlines", "distinct", "legend", "examples", "url", "take"]
    assert [name for name in reached if name in order] == order
    assert "flag" in reached


def test_nothing_stands_in_the_way_of_anybody(page):
    """axe-core finds nothing serious: names, contrast, roles, order."""
    page.get_by_text("Download, or call it yourself").click()
    page.get_by_text("Something is wrong here").click()
    page.get_by_label("Outlines of the classes").check()
    page.get_by_role("button", name="Zoom in").click()
    for tab in ("One photo", "Side by side", "Many photos"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(1000)  # until things have faded in
        found = Axe().run(page).response["violations"]
        assert [(problem["id"], problem["nodes"][0]["html"]) for problem in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{tab} scrolls sideways"


@on_both
def test_models(page):
    page.get_by_label("unsure", exact=True).check()
    expect(page.locator("#result figcaption")).to_contain_text("int8")
    page.get_by_role("button", name="Example 2").click()
    expect(page.locator("#legend li")).to_have_text(["green100.0 %"])
    page.get_by_role("tab", name="Side by side").click()
    cards = page.locator("#compared .card")
    expect(cards).to_have_count(2)
    expect(cards.nth(1)).to_contain_text("25.0 % of the pixels agree with colors")
    expect(cards.nth(1)).to_contain_text("int8")
    expect(page.locator("#compared .card.fastest")).to_have_count(1)
    assert [re.search(r"\d+ ms", text) is not None for text in cards.all_inner_texts()] == [True, True]
    expect(cards.first).to_contain_text("61.5 %")
    expect(cards.first).to_contain_text("2.5 MB")

    # Where they differ: the quarter that is blue.
    page.get_by_label("Differences from the first model").check()
    page.wait_for_timeout(300)
    second = "#compared .card >> nth=1 >> .layers"
    page.locator(second).scroll_into_view_if_needed()
    found = painted(page, second, [(0.3, 0.5), (0.9, 0.5)])
    # 85 % of the color of differences over the photo in gray: blue has a luminance of 0.07, green of 0.72.
    np.testing.assert_allclose(found, [(194, 27, 101), (182, 182, 182)], atol=8)


@on_both
def test_downloads_and_the_calls_that_give_the_same(page, url, encoded, tmp_path):
    photo = Image.new("RGB", (64, 48), "red")
    (tmp_path / "photo.jpg").write_bytes(encoded(photo, "JPEG"))
    page.get_by_role("button", name="Another photo").click()
    upload(page, "#photo", tmp_path / "photo.jpg")
    expect(page.locator("#legend li")).to_have_text(["red100.0 %"])
    page.get_by_text("Download, or call it yourself").click()
    for choice, file in (("Mask: indexed PNG", "mask.png"), ("Polygons: GeoJSON", "classes.geojson")):
        page.locator("#format input").click()
        page.get_by_role("option", name=choice).click()
        with page.expect_download() as download:
            page.locator("#download").click()
        assert download.value.suggested_filename == file
        given = Path(download.value.path()).read_bytes()

        page.get_by_role("tab", name="curl").click()
        expect(page.locator("#take .cm-content:visible")).to_contain_text(file)
        command = page.locator("#take .cm-content:visible").inner_text()
        assert f"'{url}/v1/segment?" in command
        subprocess.run(["bash", "-c", command.replace("\n", " ")], cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / file).read_bytes() == given
        (tmp_path / file).unlink()

        page.get_by_role("tab", name="Python").click()
        expect(page.locator("#take .cm-content:visible")).to_contain_text(url)
        program = "\n".join(page.locator("#take .cm-line:visible").all_inner_texts())
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
        if file == "mask.png":
            assert (tmp_path / file).read_bytes() == given
        else:
            assert ast.literal_eval(done.stdout.decode()) == json.loads(given)
    page.get_by_role("tab", name="JSON answer").click()
    expect(page.locator("#take")).to_contain_text("latency_ms")


@on_both
def test_many_photos(page, encoded, tmp_path):
    (tmp_path / "trip").mkdir()
    for name, color in (("a.png", "red"), ("trip/b.png", "blue")):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (30, 20), color)))
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("c.png", encoded(Image.new("RGB", (30, 20), (0, 255, 0))))
    page.get_by_role("tab", name="Many photos").click()
    start = page.get_by_role("button", name="Segment all")
    expect(start).to_be_disabled()
    page.get_by_label("Pick photos or a ZIP").set_input_files([tmp_path / "a.png", tmp_path / "more.zip"])
    expect(page.locator("#uploads")).to_contain_text("more")
    expect(start).to_be_enabled()
    page.get_by_label("Pick a folder").set_input_files(tmp_path / "trip")
    expect(page.locator("#uploads")).to_contain_text("trip/b")
    start.click()
    expect(page.locator("#listed tbody tr")).to_have_count(3)
    expect(page.locator("#listed")).to_contain_text("100.0 %")
    expect(page.locator("#listed")).to_contain_text("trip/b.png")  # where in its folder it was
    with page.expect_download() as download:
        page.locator("#archive a").first.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        masks = {
            Path(name).name: np.asarray(Image.open(io.BytesIO(archive.read(name)))).max()
            for name in archive.namelist()
            if name.startswith("masks/")
        }
    assert masks == {"a.png": 0, "b.png": 2, "c.png": 1}
    page.get_by_role("button", name="Clear").first.click()
    expect(start).to_be_disabled()


DROP = """([selector, name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.querySelector(selector);
  for (const kind of ["dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
}"""


@on_a_desk
def test_a_photo_dropped_on_the_result_replaces_it(page, encoded):
    data = base64.b64encode(encoded(Image.new("RGB", (64, 48), (0, 255, 0)))).decode()
    page.evaluate(DROP, ["#result .layers", "new.png", data])
    expect(page.locator("#legend li")).to_have_text(["green100.0 %"])
    page.get_by_role("tab", name="Many photos").click()
    for name in ("one.png", "two.png"):
        page.evaluate(DROP, ["#uploads", name, data])
        expect(page.locator("#uploads")).to_contain_text(name.removesuffix(".png"))
    page.get_by_role("button", name="Segment all").click()
    expect(page.locator("#listed tbody tr")).to_have_count(2)


@on_a_desk
def test_the_docs_of_the_api_need_no_other_host(page, url):
    page.goto(f"{url}/docs")
    expect(page.get_by_text("/v1/segment", exact=True)).to_be_visible()


@on_a_desk
def test_the_camera(page):
    page.get_by_role("button", name="Another photo").click()
    page.locator("#photo").get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    # As a person would: not before there is a picture.
    page.wait_for_function("document.querySelector('#photo video')?.videoWidth > 0")
    page.locator("#photo").get_by_label("capture photo").click()
    expect(page.locator("#result figcaption")).to_contain_text("×")
    expect(page.locator("#legend")).to_contain_text("green")


@on_a_desk
def test_a_browser_that_refuses_is_said(page, url):
    page.get_by_role("button", name="Another photo").click()
    page.locator("#photo").get_by_label("Paste from clipboard").click()  # a headless browser refuses that
    expect(page.locator("#result")).to_contain_text("The browser keeps camera and clipboard from this page.")


def test_over_plain_http_no_camera_is_offered_that_browsers_refuse(url, chromium):
    page = chromium.new_page(viewport={"width": 320, "height": 600})
    page.goto(url.replace("127.0.0.1", "another.test"))
    expect(page.locator("#result .stage[data-ready]")).to_be_visible(timeout=PATIENCE)
    for panel in ("#look", "#legend"):
        box = page.locator(panel).bounding_box()
        assert box["x"] >= 0, panel
        assert box["x"] + box["width"] <= 320, panel
    page.get_by_role("button", name="Another photo").click()
    expect(page.locator("#photo").get_by_label("Upload file")).to_be_visible()
    for source in ("Capture from camera", "Paste from clipboard"):
        expect(page.locator("#photo").get_by_label(source)).to_be_hidden()
    page.close()


@on_a_desk
def test_addresses_inside_the_network_are_not_fetched(page, url):
    page.get_by_label("Address of a photo").fill(f"{url}/favicon.ico")
    page.get_by_role("button", name="Fetch").click()
    expect(page.get_by_text("not on the public internet")).to_be_visible()


def test_what_was_not_asked_for_is_not_there(running, chromium):
    async def build() -> FastAPI:
        return create_app(ColorEngine())

    with ThreadPoolExecutor(1) as thread:  # this one has Playwright's event loop
        app = thread.submit(asyncio.run, build()).result()
    with running(app) as url:
        page = chromium.new_page()
        page.goto(url)
        expect(page.get_by_text("Drop a photo")).to_be_visible(timeout=PATIENCE)
        for absent in ("Address of a photo", "Something is wrong here", "Side by side", "Examples"):
            expect(page.get_by_text(absent)).to_have_count(0)
        endpoints = json.loads(page.evaluate("fetch('gradio_api/info').then((answer) => answer.text())"))
        assert sorted(endpoints["named_endpoints"]) == ["/download", "/many", "/segment"]
        page.close()
