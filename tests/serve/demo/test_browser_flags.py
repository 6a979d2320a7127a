"""Photos that visitors flag and correct, in Chromium."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import expect
from support.browser import BLUE, PATIENCE, RED, on_both, painted, set_opacity, upload
from support.color_engine import ColorEngine

from semseg_app.data.dataset import open_folder
from semseg_app.inference.engines.base import Prediction
from semseg_app.labels import LabelSpace
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)


@on_both
def test_flag_and_correct(page, dataset, encoded, tmp_path):
    photo = np.zeros((60, 80, 3), np.uint8)
    photo[..., 0] = 255
    photo[0, 0] = page.viewport_size["width"] % 256  # another photo for each size of the page
    (tmp_path / "mine.png").write_bytes(encoded(photo))
    page.get_by_role("button", name="Another photo").click()
    upload(page, "#photo", tmp_path / "mine.png")
    expect(page.locator("#result figcaption")).to_contain_text("80 × 60")
    before = {sample.image for sample in open_folder(dataset).samples("train")} if any_of(dataset) else set()
    page.get_by_text("Something is wrong here").click()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#kept")).to_contain_text("kept as unlabeled/flagged-")
    kept = re.search(r"unlabeled/\S+?\.png", page.locator("#kept").inner_text())[0]
    assert (dataset / kept).read_bytes() == encoded(photo)

    # Paint blue: a stroke that is undone, one that stays, and one dot by keyboard.
    page.locator("#brush input").click()
    page.get_by_role("option", name="<blue>").click()
    set_opacity(page, 100)
    layers = page.locator("#result .layers")
    layers.scroll_into_view_if_needed()
    box = layers.bounding_box()

    def stroke(y: float) -> None:
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + y * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + y * box["height"], steps=40)
        page.mouse.up()

    stroke(0.2)
    page.get_by_role("button", name="Undo a stroke").click()
    layers.scroll_into_view_if_needed()
    box = layers.bounding_box()
    stroke(0.7)
    np.testing.assert_allclose(painted(page, "#result .layers", [(0.3, 0.7), (0.3, 0.2)]), [BLUE, RED], atol=4)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#kept")).to_contain_text("corrected mask")
    data = open_folder(dataset)
    (sample,) = [sample for sample in data.samples("train") if sample.image not in before]
    label = data.read_label(sample)
    assert (label[42, 18:62] == 2).all()
    assert (label[12] == 0).all()
    assert 150 < (label == 2).sum() < 600  # a band of 48 pixels by 6 to 8


class Renumbered(ColorEngine):
    """The same answers, with other numbers."""

    name = "renumbered"
    labels = LabelSpace(classes=["<blue>", "green", "red"], palette=[(30, 30, 200), (30, 200, 30), (200, 30, 30)])

    def infer(self, images: np.ndarray) -> Prediction:
        classes, confidence = super().infer(images)
        return Prediction(2 - classes, confidence)


def test_corrections_of_a_model_with_other_classes(running, chromium, encoded, tmp_path):
    """The brush paints the class of its name there, and no mask with that model's numbers is kept."""
    dataset = tmp_path / "flags"
    (dataset / "images" / "train").mkdir(parents=True)
    (dataset / "dataset.yaml").write_text(yaml.safe_dump({"name": "flags", "classes": ColorEngine.labels.classes}))
    (tmp_path / "mine.png").write_bytes(encoded(Image.new("RGB", (40, 30), "red")))

    async def build() -> FastAPI:
        config = ServeConfig(examples=[tmp_path / "mine.png"], flag_to=dataset)
        return create_app(Models([ServedModel(ColorEngine()), ServedModel(Renumbered())], config))

    with ThreadPoolExecutor(1) as thread:  # this one has Playwright's event loop
        app = thread.submit(asyncio.run, build()).result()
    with running(app) as url:
        page = chromium.new_page()
        page.goto(url)
        ready = page.locator("#result .stage[data-ready]")
        expect(ready).to_be_visible(timeout=PATIENCE)
        page.get_by_text("Something is wrong here").click()
        page.locator("#brush input").click()
        page.get_by_role("option", name="<blue>").click()
        page.get_by_label("renumbered").check()
        expect(ready).to_have_attribute("data-classes", re.compile('^."<blue>'))
        layers = page.locator("#result .layers")
        layers.focus()
        layers.press("Enter")
        layers.press("Enter")
        expect(page.locator("#result .tip")).to_have_text("<blue> · corrected")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#kept")).to_contain_text("this model has other classes than", ignore_case=True)
        page.close()
    assert not list(dataset.rglob("flagged-*"))


def any_of(dataset: Path) -> bool:
    return any((dataset / "images" / "train").iterdir())
